//! What a version after this one may do to the schema, a column and a table more: for the test that upgrades nodes one by one. No
//! release has it.

use domain::{Aor, Binding};

use crate::{Store, StoreError};

/// The step to it.
pub(crate) const STEP: &[&str] = &[
    "ALTER TABLE {ks}.location ADD IF NOT EXISTS (next_version int)",
    "CREATE TABLE IF NOT EXISTS {ks}.next_location (domain text, username text, binding text, next_version int, \
     PRIMARY KEY ((domain, username), binding))",
];

impl Store {
    /// Writes what only this version knows of these bindings.
    pub(crate) async fn write_next(&self, aor: &Aor, writes: &[Binding]) -> Result<(), StoreError> {
        let keyspace = &self.0.keyspace;
        let key = "WHERE domain = ? AND username = ? AND binding = ?";
        for table in ["location", "next_location"] {
            let update = format!("UPDATE {keyspace}.{table} USING TTL 3600 SET next_version = 1 {key}");
            for write in writes {
                let values = (aor.domain(), aor.username(), &write.key.0);
                self.0.session.query_unpaged(update.as_str(), values).await?;
            }
        }
        Ok(())
    }
}
