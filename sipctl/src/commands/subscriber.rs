//! `sipctl subscriber`.

mod password;
mod profile;
mod view;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use domain::Aor;
use serde_json::json;
use store::StoreError;
use store::admin::{Admin, Profile};

use self::password::PasswordSource;
use self::profile::{ProfileChanges, ProfileOptions};
use self::view::View;
use super::import::{Import, New};
use crate::connection::Connection;
use crate::output::Output;

/// Provision subscribers.
#[derive(Debug, Subcommand)]
pub(crate) enum Subscriber {
    /// Create a subscriber.
    Add {
        /// Address-of-record.
        aor: Aor,
        #[command(flatten)]
        password: PasswordSource,
        #[command(flatten)]
        profile: ProfileOptions,
    },
    /// Give a subscriber another password.
    Passwd {
        /// Address-of-record.
        aor: Aor,
        #[command(flatten)]
        password: PasswordSource,
    },
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
    /// Change account, limits and attributes.
    Set {
        /// Address-of-record.
        aor: Aor,
        #[command(flatten)]
        changes: ProfileChanges,
    },
    /// Show everything about a subscriber but its secrets.
    Show {
        /// Address-of-record.
        aor: Aor,
    },
    /// List subscribers: all of them, which reads the whole table, or those of an account.
    List(Filter),
    /// Remove a subscriber.
    Remove {
        /// Address-of-record.
        aor: Aor,
    },
    /// Create subscribers from a CSV file: username,domain,password.
    Import(Import),
}

/// Which subscribers to list.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only those of this domain.
    #[arg(long)]
    domain: Option<String>,
    /// Only those of this account.
    #[arg(long, value_name = "ID")]
    account: Option<String>,
}

impl Subscriber {
    pub(crate) async fn run(&self, connection: &Connection, output: &Output) -> anyhow::Result<()> {
        match self {
            Self::Add { aor, password, profile } => {
                let password = password.read(aor)?;
                let admin = connection.admin().await?;
                if !admin.add_subscriber(aor, &password, &profile.profile()).await? {
                    bail!("{aor} exists already: use 'sipctl subscriber passwd' or 'set' to change it");
                }
                said(output, aor, "added");
            }
            Self::Passwd { aor, password } => {
                let password = password.read(aor)?;
                existing(aor, connection.admin().await?.set_password(aor, &password).await?)?;
                said(output, aor, "given a new password");
            }
            Self::Enable { aor } => {
                existing(aor, connection.admin().await?.set_enabled(aor, true).await?)?;
                said(output, aor, "enabled");
            }
            Self::Disable { aor } => {
                existing(aor, connection.admin().await?.set_enabled(aor, false).await?)?;
                said(output, aor, "disabled");
            }
            Self::Set { aor, changes } => {
                let admin = connection.admin().await?;
                existing(aor, admin.change_profile(aor, |profile| changes.apply(profile)).await?)?;
                said(output, aor, "changed");
            }
            Self::Show { aor } => {
                let found = connection.admin().await?.store().credentials(aor).await?;
                output.one(&View::from(found.with_context(|| unknown(aor))?));
            }
            Self::List(filter) => output.list(&filter.find(connection).await?, "There is no such subscriber."),
            Self::Remove { aor } => {
                existing(aor, connection.admin().await?.remove_subscriber(aor).await?)?;
                said(output, aor, "removed");
            }
            Self::Import(import) => import.run::<_, NewSubscriber>(connection, output).await?,
        }
        Ok(())
    }
}

impl Filter {
    /// In the order of domains and user names.
    async fn find(&self, connection: &Connection) -> anyhow::Result<Vec<View>> {
        let admin = connection.admin().await?;
        let mut found = match &self.account {
            Some(account) => admin.list_account(account).await?,
            None => admin.list_subscribers().await?,
        };
        if let Some(domain) = &self.domain {
            found.retain(|subscriber| subscriber.aor.domain().eq_ignore_ascii_case(domain));
        }
        found.sort_by(|a, b| (a.aor.domain(), a.aor.username()).cmp(&(b.aor.domain(), b.aor.username())));
        Ok(found.into_iter().map(View::from).collect())
    }
}

/// A line of a file to import.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NewSubscriber {
    aor: Aor,
    pub(super) password: String,
}

impl New<3> for NewSubscriber {
    const HEADER: [&'static str; 3] = ["username", "domain", "password"];
    const MANY: &'static str = "subscribers";

    /// A password is taken as it stands: white space is part of it (RFC 4180 section 2).
    fn read([username, domain, password]: [&str; 3]) -> anyhow::Result<Self> {
        let aor = Aor::new(username.trim(), domain.trim())?;
        if password.is_empty() {
            bail!("the password is empty");
        }
        Ok(Self { aor, password: password.to_owned() })
    }

    fn name(&self) -> &Aor {
        &self.aor
    }

    async fn add(&self, admin: &Admin) -> Result<bool, StoreError> {
        admin.add_subscriber(&self.aor, &self.password, &Profile::default()).await
    }
}

fn existing(aor: &Aor, found: bool) -> anyhow::Result<()> {
    if found { Ok(()) } else { bail!(unknown(aor)) }
}

fn unknown(aor: &Aor) -> String {
    format!("there is no subscriber {aor}: see 'sipctl subscriber list'")
}

fn said(output: &Output, aor: &Aor, what: &str) {
    output.done(&format!("{aor} is {what}."), &json!({"subscriber": aor.to_string(), "done": what}));
}
