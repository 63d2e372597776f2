//! Reading subscribers.

use std::collections::BTreeMap;

use domain::digest::{Algorithm, Ha1};
use domain::{Aor, Timestamp};
use scylla::DeserializeRow;
use scylla::response::query_result::QueryResult;
use scylla::value::CqlTimestamp;

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
    /// When it was last provisioned, if that is known.
    pub updated_at: Option<Timestamp>,
}

/// The columns of a [`Row`].
pub(crate) const COLUMNS: &str =
    "domain, username, account_id, enabled, ha1, ha1_sha256, max_contacts, max_calls, attrs, updated_at";

pub(crate) fn read_cql(keyspace: &str) -> String {
    format!("SELECT {COLUMNS} FROM {keyspace}.subscriber WHERE domain = ? AND username = ?")
}

/// A subscriber as it is stored.
#[derive(DeserializeRow)]
pub(crate) struct Row {
    pub(crate) domain: String,
    pub(crate) username: String,
    pub(crate) account_id: Option<String>,
    pub(crate) enabled: Option<bool>,
    pub(crate) ha1: Option<String>,
    pub(crate) ha1_sha256: Option<String>,
    pub(crate) max_contacts: Option<i32>,
    pub(crate) max_calls: Option<i32>,
    pub(crate) attrs: Option<BTreeMap<String, String>>,
    pub(crate) updated_at: Option<CqlTimestamp>,
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
            updated_at: self.updated_at.map(|at| Timestamp(at.0)),
        })
    }
}

fn stored_ha1(algorithm: Algorithm, hex: Option<String>) -> Option<Ha1> {
    Ha1::from_hex(algorithm, &hex?).ok()
}

fn rows(result: QueryResult) -> Result<Vec<Row>, StoreError> {
    let result = result.into_rows_result().map_err(malformed)?;
    result.rows::<Row>().map_err(malformed)?.map(|row| row.map_err(malformed)).collect()
}

impl Store {
    /// The subscriber of this AoR, or `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub async fn credentials(&self, aor: &Aor) -> Result<Option<Subscriber>, StoreError> {
        self.subscriber_row(aor).await?.map(Row::subscriber).transpose()
    }

    pub(crate) async fn subscriber_row(&self, aor: &Aor) -> Result<Option<Row>, StoreError> {
        let found = self.read(&self.0.read_subscriber, (aor.domain(), aor.username()), rows).await?;
        Ok(found.into_iter().next())
    }
}
