//! Reading aliases: names that stand for an AoR, one for each.

use domain::Aor;
use scylla::response::query_result::QueryResult;

use crate::error::malformed;
use crate::{Store, StoreError};

/// An alias and the AoR that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// What is called.
    pub alias: Aor,
    /// Whom it means; `None` when what is stored is no AoR.
    pub target: Option<Aor>,
}

/// Domain and user name of a target, as they are stored.
pub(crate) type Target = (Option<String>, Option<String>);

pub(crate) fn read_cql(keyspace: &str) -> String {
    format!("SELECT target_domain, target_username FROM {keyspace}.alias WHERE domain = ? AND alias = ?")
}

fn rows(result: QueryResult) -> Result<Vec<Target>, StoreError> {
    let result = result.into_rows_result().map_err(malformed)?;
    result.rows::<Target>().map_err(malformed)?.map(|row| row.map_err(malformed)).collect()
}

/// What is stored may be anybody's: what is no AoR is nobody.
pub(crate) fn target_of((domain, username): Target) -> Option<Aor> {
    Aor::new(&username.unwrap_or_default(), &domain.unwrap_or_default()).ok()
}

impl Store {
    /// What is stored of this alias, or `None` when there is no such alias.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub async fn alias(&self, alias: &Aor) -> Result<Option<Alias>, StoreError> {
        let found = self.read(&self.0.read_alias, (alias.domain(), alias.username()), rows).await?;
        Ok(found.into_iter().next().map(|target| Alias { alias: alias.clone(), target: target_of(target) }))
    }
}
