//! `sipctl subscriber`.

use std::io::{BufRead, stdin};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use domain::Aor;
use serde_json::{Value, json};
use store::admin::Profile;

use crate::connection::Connection;
use crate::output::Output;

/// Provision subscribers.
#[derive(Debug, Subcommand)]
pub(crate) enum Subscriber {
    /// Create a subscriber.
    Add(WithPassword),
    /// Give a subscriber another password.
    Passwd(WithPassword),
    /// Allow a subscriber to authenticate.
    Enable {
        /// Address-of-record.
        aor: Aor,
    },
    /// Forbid a subscriber to authenticate.
    Disable {
        /// Address-of-record.
        aor: Aor,
    },
    /// Remove a subscriber.
    Remove {
        /// Address-of-record.
        aor: Aor,
    },
    /// Show a subscriber.
    Show {
        /// Address-of-record.
        aor: Aor,
    },
    /// List all subscribers (reads the whole table).
    List,
    /// Create subscribers from a CSV file: username,domain,password.
    Import {
        /// The file.
        file: PathBuf,
    },
}

/// A subscriber and where the password comes from.
#[derive(Debug, Args)]
pub(crate) struct WithPassword {
    /// Address-of-record.
    aor: Aor,
    /// Read the password from standard input instead of asking for it.
    #[arg(long)]
    password_stdin: bool,
}

const COLUMNS: [&str; 6] = ["subscriber", "enabled", "account", "max contacts", "max calls", "algorithms"];

impl Subscriber {
    pub(crate) async fn run(&self, connection: &Connection, output: &Output) -> anyhow::Result<()> {
        match self {
            Self::Add(who) => {
                let password = who.password()?;
                if !connection.admin().await?.add_subscriber(&who.aor, &password, &Profile::default()).await? {
                    bail!("{} exists already: use 'sipctl subscriber passwd' to change the password", who.aor);
                }
                said(output, &who.aor, "added");
            }
            Self::Passwd(who) => {
                let password = who.password()?;
                existing(&who.aor, connection.admin().await?.set_password(&who.aor, &password).await?)?;
                said(output, &who.aor, "given a new password");
            }
            Self::Enable { aor } => {
                existing(aor, connection.admin().await?.set_enabled(aor, true).await?)?;
                said(output, aor, "enabled");
            }
            Self::Disable { aor } => {
                existing(aor, connection.admin().await?.set_enabled(aor, false).await?)?;
                said(output, aor, "disabled");
            }
            Self::Remove { aor } => {
                existing(aor, connection.admin().await?.remove_subscriber(aor).await?)?;
                said(output, aor, "removed");
            }
            Self::Show { aor } => {
                let found = connection.admin().await?.store().credentials(aor).await?;
                let found = found.with_context(|| format!("there is no subscriber {aor}"))?;
                output.rows(&COLUMNS, &[row(&found)]);
            }
            Self::List => {
                let found = connection.admin().await?.list_subscribers().await?;
                output.rows(&COLUMNS, &found.iter().map(row).collect::<Vec<_>>());
            }
            Self::Import { file } => import(connection, output, file).await?,
        }
        Ok(())
    }
}

impl WithPassword {
    fn password(&self) -> anyhow::Result<String> {
        let password = if self.password_stdin {
            let mut line = String::new();
            stdin().lock().read_line(&mut line).context("the password cannot be read from standard input")?;
            line.trim_end_matches(['\r', '\n']).to_owned()
        } else {
            rpassword::prompt_password(format!("Password of {}: ", self.aor))
                .context("there is no terminal to ask for the password: use --password-stdin")?
        };
        if password.is_empty() {
            bail!("the password is empty");
        }
        Ok(password)
    }
}

fn existing(aor: &Aor, found: bool) -> anyhow::Result<()> {
    if found { Ok(()) } else { bail!("there is no subscriber {aor}") }
}

fn said(output: &Output, aor: &Aor, what: &str) {
    output.done(&format!("{aor} is {what}."), &json!({"subscriber": aor.to_string(), "done": what}));
}

fn row(subscriber: &store::Subscriber) -> Vec<Value> {
    let algorithms = [("MD5", &subscriber.ha1), ("SHA-256", &subscriber.ha1_sha256)];
    let known: Vec<&str> = algorithms.iter().filter(|(_, ha1)| ha1.is_some()).map(|(name, _)| *name).collect();
    vec![
        subscriber.aor.to_string().into(),
        subscriber.enabled.into(),
        subscriber.account_id.clone().into(),
        subscriber.max_contacts.into(),
        subscriber.max_calls.into(),
        known.join(", ").into(),
    ]
}

/// All lines are checked before any is written.
async fn import(connection: &Connection, output: &Output, file: &PathBuf) -> anyhow::Result<()> {
    let reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_path(file)
        .with_context(|| format!("{} cannot be read", file.display()))?;
    let lines = parse_lines(reader).with_context(|| format!("nothing is imported from {}", file.display()))?;
    let admin = connection.admin().await?;
    let (mut added, mut present) = (0, 0);
    for (number, (aor, password)) in lines.iter().enumerate() {
        let new = admin.add_subscriber(aor, password, &Profile::default()).await.with_context(|| {
            format!("stopped at {aor}, after {number} of {} subscribers: run it again to go on", lines.len())
        })?;
        *(if new { &mut added } else { &mut present }) += 1;
        if (number + 1) % 1000 == 0 {
            output.progress(&format!("{} of {}", number + 1, lines.len()));
        }
    }
    output.done(
        &format!("{added} subscribers are added, {present} existed already and are unchanged."),
        &json!({"added": added, "existing": present}),
    );
    Ok(())
}

fn parse_lines<R: std::io::Read>(mut reader: csv::Reader<R>) -> anyhow::Result<Vec<(Aor, String)>> {
    let mut lines = Vec::new();
    for (index, record) in reader.records().enumerate() {
        let record = record?;
        let fields: Vec<&str> = record.iter().map(str::trim).collect();
        if index == 0 && fields == ["username", "domain", "password"] {
            continue;
        }
        let &[username, domain, password] = fields.as_slice() else {
            bail!("line {} does not have the three fields username,domain,password", index + 1)
        };
        let aor = Aor::new(username, domain).with_context(|| format!("line {}", index + 1))?;
        if password.is_empty() {
            bail!("line {} has an empty password", index + 1);
        }
        lines.push((aor, password.to_owned()));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Vec<(Aor, String)>> {
        parse_lines(csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes()))
    }

    #[test]
    fn a_header_line_is_optional() {
        let plain = parse("alice,example.com,secret\n").expect("parsed");
        assert_eq!(plain, parse("username,domain,password\nalice,example.com,secret\n").expect("parsed"));
        assert_eq!(plain.len(), 1);
    }

    #[test]
    fn a_bad_line_is_named_and_nothing_is_imported() {
        for (text, line) in [("a,b,c\nalice,example.com\n", ""), ("a,b,c\n,b,c\n", "line 2"), ("a,b,\n", "line 1")] {
            let error = format!("{:#}", parse(text).expect_err(text));
            assert!(error.contains(line), "{error}");
        }
    }
}
