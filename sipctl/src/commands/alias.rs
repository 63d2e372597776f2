//! `sipctl alias`.

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use domain::Aor;
use serde::Serialize;
use serde_json::json;
use store::StoreError;
use store::admin::Admin;

use super::import::{Import, New};
use crate::connection::Connection;
use crate::output::{Output, Shown};

/// Provision aliases: numbers and names that mean a subscriber.
#[derive(Debug, Subcommand)]
pub(crate) enum Alias {
    /// Create an alias.
    Add(NewAlias),
    /// Have an alias mean another subscriber.
    Set(NewAlias),
    /// Show whom an alias means.
    Show {
        /// The alias, as user@domain.
        alias: Aor,
    },
    /// List aliases; reads the whole table.
    List(Filter),
    /// Remove an alias.
    Remove {
        /// The alias, as user@domain.
        alias: Aor,
    },
    /// Create aliases from a CSV file: alias,target.
    Import(Import),
}

/// An alias and whom it means.
#[derive(Debug, Args)]
pub(crate) struct NewAlias {
    /// The alias, as user@domain: a number or another name.
    alias: Aor,
    /// Whom it means: an address-of-record.
    target: Aor,
}

/// Which aliases to list.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only those of this domain.
    #[arg(long)]
    domain: Option<String>,
    /// Only those that mean this address-of-record.
    #[arg(long, value_name = "AOR")]
    target: Option<Aor>,
}

impl Alias {
    pub(crate) async fn run(&self, connection: &Connection, output: &Output) -> anyhow::Result<()> {
        match self {
            Self::Add(new) => {
                new.check()?;
                let admin = connection.admin().await?;
                if !new.add(&admin).await? {
                    bail!("{} exists already: use 'sipctl alias set' to change it", new.alias);
                }
                new.said(&admin, output, "added").await?;
            }
            Self::Set(new) => {
                new.check()?;
                let admin = connection.admin().await?;
                existing(&new.alias, admin.set_alias(&new.alias, &new.target).await?)?;
                new.said(&admin, output, "changed").await?;
            }
            Self::Show { alias } => {
                let found = connection.admin().await?.store().alias(alias).await?;
                output.one(&View::from(found.with_context(|| unknown(alias))?));
            }
            Self::List(filter) => output.list(&filter.find(connection).await?, "There is no such alias."),
            Self::Remove { alias } => {
                existing(alias, connection.admin().await?.remove_alias(alias).await?)?;
                output.done(&format!("{alias} is removed."), &json!({"alias": alias.to_string(), "done": "removed"}));
            }
            Self::Import(import) => import.run::<_, NewAlias>(connection, output).await?,
        }
        Ok(())
    }
}

impl NewAlias {
    fn check(&self) -> anyhow::Result<()> {
        if self.alias == self.target { bail!("{} cannot mean itself", self.alias) } else { Ok(()) }
    }

    /// Says what was done, and what a call to the alias will not find.
    async fn said(&self, admin: &Admin, output: &Output, what: &str) -> anyhow::Result<()> {
        let Self { alias, target } = self;
        output.done(
            &format!("{alias} is {what}: it means {target}."),
            &json!({"alias": alias.to_string(), "target": target.to_string(), "done": what}),
        );
        if !output.is_for_people() {
            return Ok(());
        }
        if admin.store().alias(target).await?.is_some() {
            output.note(&format!("{target} is an alias itself; what it means is not looked up."));
        } else if admin.store().credentials(target).await?.is_none() {
            output.note(&format!("There is no subscriber {target}."));
        }
        Ok(())
    }
}

impl New<2> for NewAlias {
    const HEADER: [&'static str; 2] = ["alias", "target"];
    const MANY: &'static str = "aliases";

    fn read([alias, target]: [&str; 2]) -> anyhow::Result<Self> {
        let new = Self { alias: alias.parse()?, target: target.parse()? };
        new.check()?;
        Ok(new)
    }

    fn name(&self) -> &Aor {
        &self.alias
    }

    async fn add(&self, admin: &Admin) -> Result<bool, StoreError> {
        admin.add_alias(&self.alias, &self.target).await
    }
}

impl Filter {
    /// In the order of domains and names.
    async fn find(&self, connection: &Connection) -> anyhow::Result<Vec<View>> {
        let mut found = connection.admin().await?.list_aliases().await?;
        if let Some(domain) = &self.domain {
            found.retain(|one| one.alias.domain().eq_ignore_ascii_case(domain));
        }
        if let Some(target) = &self.target {
            found.retain(|one| one.target.as_ref() == Some(target));
        }
        found.sort_by(|a, b| (a.alias.domain(), a.alias.username()).cmp(&(b.alias.domain(), b.alias.username())));
        Ok(found.into_iter().map(View::from).collect())
    }
}

/// An alias as an operator sees it. What is stored and means nobody is shown without a target.
#[derive(Debug, Serialize)]
struct View {
    alias: String,
    target: String,
}

impl From<store::Alias> for View {
    fn from(found: store::Alias) -> Self {
        let target = found.target.map(|target| target.to_string()).unwrap_or_default();
        Self { alias: found.alias.to_string(), target }
    }
}

impl Shown for View {
    const COLUMNS: &'static [&'static str] = &["alias", "target"];

    fn cells(&self) -> Vec<String> {
        vec![self.alias.clone(), self.target.clone()]
    }
}

fn existing(alias: &Aor, found: bool) -> anyhow::Result<()> {
    if found { Ok(()) } else { bail!(unknown(alias)) }
}

fn unknown(alias: &Aor) -> String {
    format!("there is no alias {alias}: see 'sipctl alias list'")
}
