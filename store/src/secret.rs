//! Secrets that all nodes share: made when the schema is applied, then only read.

use scylla::response::query_result::QueryResult;

use crate::error::malformed;
use crate::{Store, StoreError};

impl Store {
    /// The cluster's secret of this name, for example `gruu`; `None` when there is none, as on a data centre that a schema
    /// applied just now has not reached yet.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub async fn cluster_secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let query = format!("SELECT value FROM {}.cluster_secret WHERE name = ?", self.0.keyspace);
        let row = value(self.0.session.query_unpaged(query, (name,)).await?)?;
        Ok(row.map(|(value,)| value))
    }
}

fn value(result: QueryResult) -> Result<Option<(Vec<u8>,)>, StoreError> {
    result.into_rows_result().map_err(malformed)?.maybe_first_row().map_err(malformed)
}
