//! Provisioning aliases: by lightweight transactions, as subscribers.

use domain::Aor;
use scylla::statement::prepared::PreparedStatement;

use super::{Admin, applied, failed};
use crate::StoreError;
use crate::alias::{Alias, target_of};
use crate::error::malformed;

/// A row as it is listed.
type Row = (String, String, Option<String>, Option<String>);

impl Admin {
    /// Has `alias` stand for `target`. Returns whether it is new; otherwise it is as it was.
    ///
    /// # Errors
    /// [`StoreError`]: whether it was created is not known then.
    pub async fn add_alias(&self, alias: &Aor, target: &Aor) -> Result<bool, StoreError> {
        let insert = self.insert_alias.get_or_try_init(|| self.prepare_insert_alias()).await?;
        applied(self.session().execute_unpaged(insert, values(alias, target)).await?)
    }

    /// The statement that an import runs thousands of times.
    async fn prepare_insert_alias(&self) -> Result<PreparedStatement, StoreError> {
        let query = format!(
            "INSERT INTO {}.alias (target_domain, target_username, domain, alias) VALUES (?, ?, ?, ?) IF NOT EXISTS",
            self.keyspace
        );
        self.session().prepare(query).await.map_err(failed)
    }

    /// Has an alias stand for another `target`. Returns whether it exists.
    ///
    /// # Errors
    /// [`StoreError`]; it can be tried again.
    pub async fn set_alias(&self, alias: &Aor, target: &Aor) -> Result<bool, StoreError> {
        let query = format!(
            "UPDATE {}.alias SET target_domain = ?, target_username = ? WHERE domain = ? AND alias = ? IF EXISTS",
            self.keyspace
        );
        applied(self.session().query_unpaged(query, values(alias, target)).await?)
    }

    /// Removes an alias. Returns whether it existed.
    ///
    /// # Errors
    /// [`StoreError`]; it can be tried again.
    pub async fn remove_alias(&self, alias: &Aor) -> Result<bool, StoreError> {
        let query = format!("DELETE FROM {}.alias WHERE domain = ? AND alias = ? IF EXISTS", self.keyspace);
        applied(self.session().query_unpaged(query, (alias.domain(), alias.username())).await?)
    }

    /// All aliases, in no order. Reads the whole table, page by page.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_aliases(&self) -> Result<Vec<Alias>, StoreError> {
        let query = format!("SELECT domain, alias, target_domain, target_username FROM {}.alias", self.keyspace);
        let rows: Vec<Row> = self.pages(query, ()).await?;
        rows.into_iter()
            .map(|(domain, username, target_domain, target_username)| {
                let alias = Aor::new(&username, &domain).map_err(malformed)?;
                Ok(Alias { alias, target: target_of((target_domain, target_username)) })
            })
            .collect()
    }
}

/// The values of a row, its key last.
fn values<'a>(alias: &'a Aor, target: &'a Aor) -> (&'a str, &'a str, &'a str, &'a str) {
    (target.domain(), target.username(), alias.domain(), alias.username())
}
