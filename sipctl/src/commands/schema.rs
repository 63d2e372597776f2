//! `sipctl schema`.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use serde_json::json;
use store::StoreConfig;
use store::schema::{self, HISTORY, LONGEST_RETENTION, Replication, Retention, VERSION};

use crate::connection::Connection;
use crate::output::Output;

/// Create and check the tables.
#[derive(Debug, Subcommand)]
pub(crate) enum Schema {
    /// Create what is missing; changes nothing that is there.
    Apply {
        /// Replicas per data centre, as dc1=3,dc2=3 (default: up to three in each).
        #[arg(long)]
        replication: Option<String>,
    },
    /// Fail unless the schema is what this version needs.
    Check {
        /// The longest expiry that the registrars grant, in seconds: their parameter max_expires.
        #[arg(long, default_value_t = 3600)]
        max_expires: u32,
    },
    /// Show the schema version.
    Show,
    /// Show how long what happened to calls is kept, or set it; rows that are there keep their lifetime.
    Retention {
        /// Keep it for so long, for example 12h, 90d, 1y.
        #[arg(value_parser = humantime::parse_duration)]
        keep: Option<Duration>,
        /// Only in this table.
        #[arg(long, requires = "keep", value_parser = PossibleValuesParser::new(HISTORY))]
        table: Option<String>,
    },
}

impl Schema {
    pub(crate) async fn run(&self, connection: &Connection, output: &Output) -> anyhow::Result<()> {
        let config = connection.config()?;
        match self {
            Self::Apply { replication } => {
                let replication = replication.as_deref().map(parse_replication).transpose()?;
                schema::apply(&config, replication, |step| output.progress(step)).await?;
                output.done("The schema is applied.", &json!({"version": VERSION}));
            }
            Self::Check { max_expires } => {
                let found = schema::version(&config).await?;
                if found < VERSION {
                    bail!("the schema has version {found} but {VERSION} is needed: run 'sipctl schema apply'");
                }
                schema::check_expiry(&config, *max_expires).await?;
                output.done("The schema is what this version needs.", &json!({"version": found}));
            }
            Self::Retention { keep: None, .. } => show_retention(&config, output).await?,
            Self::Retention { keep: Some(keep), table } => {
                let seconds = retention_seconds(*keep)?;
                for name in HISTORY.iter().filter(|name| table.as_deref().is_none_or(|table| table == **name)) {
                    schema::set_retention(&config, &Retention::new(name, seconds)).await?;
                }
                show_retention(&config, output).await?;
            }
            Self::Show => {
                let found = schema::version(&config).await?;
                output.rows(
                    &["keyspace", "version", "needed"],
                    &[vec![config.keyspace.clone().into(), found.into(), VERSION.into()]],
                );
            }
        }
        Ok(())
    }
}

/// Shorter than that nothing is worth keeping, and Cassandra's windows are hours.
const SHORTEST_RETENTION: u32 = 3600;

fn retention_seconds(keep: Duration) -> anyhow::Result<u32> {
    u32::try_from(keep.as_secs())
        .ok()
        .filter(|seconds| (SHORTEST_RETENTION..=LONGEST_RETENTION).contains(seconds))
        .with_context(|| format!("{} is not between 1h and 20y", humantime::format_duration(keep)))
}

async fn show_retention(config: &StoreConfig, output: &Output) -> anyhow::Result<()> {
    let found = schema::retention(config).await?;
    let rows: Vec<_> = found
        .into_iter()
        .map(|retention| {
            let kept = humantime::format_duration(Duration::from_secs(retention.seconds.into())).to_string();
            vec![retention.table.into(), kept.into(), retention.seconds.into(), retention.window_hours.into()]
        })
        .collect();
    output.rows(&["table", "keeps", "seconds", "window hours"], &rows);
    Ok(())
}

fn parse_replication(written: &str) -> anyhow::Result<Replication> {
    written
        .split(',')
        .map(|part| {
            let (dc, count) = part.split_once('=').unwrap_or((part, ""));
            let count: usize = count
                .parse()
                .ok()
                .filter(|count| *count > 0)
                .with_context(|| format!("--replication {written} is not understood: write it as dc1=3,dc2=3"))?;
            Ok((dc.to_owned(), count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_is_read_by_data_centre() {
        assert_eq!(parse_replication("dc1=3,dc2=1").expect("read"), [("dc1".to_owned(), 3), ("dc2".to_owned(), 1)]);
        for wrong in ["", "dc1", "dc1=", "dc1=0", "dc1=x"] {
            assert!(parse_replication(wrong).is_err(), "{wrong}");
        }
    }
}
