//! Reading subscribers.

use std::collections::BTreeMap;

use domain::digest::{Algorithm, Form, Ha1, Ha1s};
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
    /// What its password is checked with; a subscriber that was written by an earlier version lacks some.
    pub ha1s: Ha1s,
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
pub(crate) const COLUMNS: &str = "domain, username, account_id, enabled, ha1, ha1_sha256, ha1_sha512_256, ha1b, ha1b_sha256, ha1b_sha512_256, \
     max_contacts, max_calls, attrs, updated_at";

/// The kinds of HA1 in the order of [`Row::hex`].
fn kinds() -> impl Iterator<Item = (Form, Algorithm)> {
    Form::ALL.into_iter().flat_map(|form| Algorithm::ALL.map(|algorithm| (form, algorithm)))
}

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
    pub(crate) ha1_sha512_256: Option<String>,
    pub(crate) ha1b: Option<String>,
    pub(crate) ha1b_sha256: Option<String>,
    pub(crate) ha1b_sha512_256: Option<String>,
    pub(crate) max_contacts: Option<i32>,
    pub(crate) max_calls: Option<i32>,
    pub(crate) attrs: Option<BTreeMap<String, String>>,
    pub(crate) updated_at: Option<CqlTimestamp>,
}

impl Row {
    fn hex(&self) -> [Option<&str>; 6] {
        [&self.ha1, &self.ha1_sha256, &self.ha1_sha512_256, &self.ha1b, &self.ha1b_sha256, &self.ha1b_sha512_256]
            .map(Option::as_deref)
    }

    /// What is no HA1 of its column's algorithm is none at all.
    fn ha1s(&self) -> Ha1s {
        let mut ha1s = Ha1s::default();
        for ((form, algorithm), hex) in kinds().zip(self.hex()) {
            if let Some(Ok(ha1)) = hex.map(|hex| Ha1::from_hex(algorithm, hex)) {
                ha1s.set(form, ha1);
            }
        }
        ha1s
    }

    pub(crate) fn subscriber(self) -> Result<Subscriber, StoreError> {
        Ok(Subscriber {
            aor: Aor::new(&self.username, &self.domain).map_err(malformed)?,
            enabled: self.enabled.unwrap_or(true),
            ha1s: self.ha1s(),
            account_id: self.account_id.unwrap_or_default(),
            max_contacts: self.max_contacts.unwrap_or_default(),
            max_calls: self.max_calls.unwrap_or_default(),
            attrs: self.attrs.unwrap_or_default(),
            updated_at: self.updated_at.map(|at| Timestamp(at.0)),
        })
    }
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
