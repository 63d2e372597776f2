//! Reading subscribers.

use std::collections::BTreeMap;

use domain::Aor;
use domain::digest::{Algorithm, Ha1};
use scylla::DeserializeRow;
use scylla::response::query_result::QueryResult;

use crate::error::malformed;
use crate::{Store, StoreError};

/// A subscriber: who may authenticate, and with what.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// Address-of-record; the realm of the HA1s is its domain.
    pub aor: Aor,
    /// Whether authentication is allowed.
    pub enabled: bool,
    /// MD5 HA1.
    pub ha1: Option<Ha1>,
    /// SHA-256 HA1.
    pub ha1_sha256: Option<Ha1>,
    /// Account it belongs to; `""` for none.
    pub account_id: String,
    /// Bindings it may have; 0 for the module's limit.
    pub max_contacts: i32,
    /// Calls it may have at once; 0 for no limit.
    pub max_calls: i32,
    /// Attributes for the routing script.
    pub attrs: BTreeMap<String, String>,
}

pub(crate) fn read_cql(keyspace: &str) -> String {
    format!(
        "SELECT domain, username, account_id, enabled, ha1, ha1_sha256, max_contacts, max_calls, attrs \
         FROM {keyspace}.subscriber WHERE domain = ? AND username = ?"
    )
}

#[derive(DeserializeRow)]
pub(crate) struct Row {
    domain: String,
    username: String,
    account_id: Option<String>,
    enabled: Option<bool>,
    ha1: Option<String>,
    ha1_sha256: Option<String>,
    max_contacts: Option<i32>,
    max_calls: Option<i32>,
    attrs: Option<BTreeMap<String, String>>,
}

impl Row {
    pub(crate) fn subscriber(self) -> Result<Subscriber, StoreError> {
        Ok(Subscriber {
            aor: Aor::new(&self.username, &self.domain).map_err(malformed)?,
            enabled: self.enabled.unwrap_or(true),
            ha1: stored_ha1(Algorithm::Md5, self.ha1),
            ha1_sha256: stored_ha1(Algorithm::Sha256, self.ha1_sha256),
            account_id: self.account_id.unwrap_or_default(),
            max_contacts: self.max_contacts.unwrap_or_default(),
            max_calls: self.max_calls.unwrap_or_default(),
            attrs: self.attrs.unwrap_or_default(),
        })
    }
}

fn stored_ha1(algorithm: Algorithm, hex: Option<String>) -> Option<Ha1> {
    Ha1::from_hex(algorithm, &hex?).ok()
}

pub(crate) fn rows(result: QueryResult) -> Result<Vec<Subscriber>, StoreError> {
    let result = result.into_rows_result().map_err(malformed)?;
    result.rows::<Row>().map_err(malformed)?.map(|row| row.map_err(malformed)?.subscriber()).collect()
}

impl Store {
    /// The subscriber of this AoR, or `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub async fn credentials(&self, aor: &Aor) -> Result<Option<Subscriber>, StoreError> {
        let found = self.read(&self.0.read_subscriber, (aor.domain(), aor.username()), rows).await?;
        Ok(found.into_iter().next())
    }
}
