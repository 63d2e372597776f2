//! Aliases: read each time, as the stock `alias_db` does.

use domain::Aor;
use store::{Store, StoreError};

use super::Service;
use crate::metrics::count;

impl Service {
    /// Whom the alias means. One step: what it stands for is not looked up again, so aliases can make no circle.
    pub(super) async fn alias(&self, store: &Store, alias: &Aor) -> Result<Option<Aor>, StoreError> {
        let target = store.alias(alias).await?.and_then(|found| found.target);
        count(if target.is_some() { &self.metrics.aliases_found } else { &self.metrics.aliases_missed });
        Ok(target)
    }
}
