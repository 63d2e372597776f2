//! Provisioning, for operators' tools: never used while a SIP request waits.

use domain::Aor;
use domain::digest::{Algorithm, Ha1};
use futures::TryStreamExt;
use scylla::client::session::Session;

use crate::session::open;
use crate::subscriber::Row;
use crate::{ConnectError, Store, StoreConfig, StoreError, Subscriber};

/// A session for provisioning.
#[derive(Debug)]
pub struct Admin {
    session: Session,
    store: Store,
    keyspace: String,
}

impl Admin {
    /// Connects; the schema must be there.
    ///
    /// # Errors
    /// [`ConnectError`], one sentence for the operator.
    pub async fn connect(config: &StoreConfig) -> Result<Self, ConnectError> {
        Ok(Self {
            session: open(config).await?,
            store: Store::connect(config).await?,
            keyspace: config.keyspace.clone(),
        })
    }

    /// Reads as the module does.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Creates a subscriber; only HA1s of the password are stored, with the domain as realm. Returns whether it is new.
    ///
    /// # Errors
    /// [`StoreError`]; it can be tried again.
    pub async fn add_subscriber(&self, aor: &Aor, password: &str) -> Result<bool, StoreError> {
        let (md5, sha256) = ha1s(aor, password);
        let query = format!(
            "INSERT INTO {}.subscriber (domain, username, enabled, ha1, ha1_sha256, updated_at) \
             VALUES (?, ?, true, ?, ?, toTimestamp(now())) IF NOT EXISTS",
            self.keyspace
        );
        let values = (aor.domain(), aor.username(), md5.as_hex(), sha256.as_hex());
        let result = self.session.query_unpaged(query, values).await?;
        // `[applied]` is the first column, whatever follows it.
        let rows = result.into_rows_result().map_err(crate::error::malformed)?;
        Ok(rows.column_specs().len() == 1)
    }

    /// Gives a subscriber another password. Returns whether it exists.
    ///
    /// # Errors
    /// [`StoreError`]; it can be tried again.
    pub async fn set_password(&self, aor: &Aor, password: &str) -> Result<bool, StoreError> {
        let (md5, sha256) = ha1s(aor, password);
        self.update(aor, "ha1 = ?, ha1_sha256 = ?", (md5.as_hex(), sha256.as_hex(), aor.domain(), aor.username())).await
    }

    /// Allows or forbids authentication. Returns whether the subscriber exists.
    ///
    /// # Errors
    /// [`StoreError`]; it can be tried again.
    pub async fn set_enabled(&self, aor: &Aor, enabled: bool) -> Result<bool, StoreError> {
        self.update(aor, "enabled = ?", (enabled, aor.domain(), aor.username())).await
    }

    async fn update(
        &self,
        aor: &Aor,
        columns: &str,
        values: impl scylla::serialize::row::SerializeRow,
    ) -> Result<bool, StoreError> {
        if self.store.credentials(aor).await?.is_none() {
            return Ok(false);
        }
        let query = format!("UPDATE {}.subscriber SET {columns} WHERE domain = ? AND username = ?", self.keyspace);
        self.session.query_unpaged(query, values).await?;
        Ok(true)
    }

    /// Removes a subscriber. Returns whether it existed.
    ///
    /// # Errors
    /// [`StoreError`]; it can be tried again.
    pub async fn remove_subscriber(&self, aor: &Aor) -> Result<bool, StoreError> {
        let existed = self.store.credentials(aor).await?.is_some();
        let query = format!("DELETE FROM {}.subscriber WHERE domain = ? AND username = ?", self.keyspace);
        self.session.query_unpaged(query, (aor.domain(), aor.username())).await?;
        Ok(existed)
    }

    /// All subscribers, page by page, in no order. Reads the whole table.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_subscribers(&self) -> Result<Vec<Subscriber>, StoreError> {
        let query = format!(
            "SELECT domain, username, account_id, enabled, ha1, ha1_sha256, max_contacts, max_calls, attrs FROM {}.subscriber",
            self.keyspace
        );
        let failed = |error: &dyn std::fmt::Display| StoreError::Failed(error.to_string());
        let pager = self.session.query_iter(query, ()).await.map_err(|error| failed(&error))?;
        let rows: Vec<Row> = pager
            .rows_stream::<Row>()
            .map_err(|error| failed(&error))?
            .try_collect()
            .await
            .map_err(|error| failed(&error))?;
        rows.into_iter().map(Row::subscriber).collect()
    }
}

fn ha1s(aor: &Aor, password: &str) -> (Ha1, Ha1) {
    let ha1 = |algorithm| Ha1::compute(algorithm, aor.username(), aor.domain(), password);
    (ha1(Algorithm::Md5), ha1(Algorithm::Sha256))
}
