//! `sipctl schema`.

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;
use store::schema::{self, Replication, VERSION};

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
