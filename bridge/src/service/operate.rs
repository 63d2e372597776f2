//! What operators and scripts ask for beside SIP: to see and to remove the bindings of an AoR, to force the breaker.

use domain::lookup::{Filter, Selection, Wanted, is_current, select};
use domain::{Aor, Binding, Which};
use store::{Store, StoreError};

use super::Service;
use crate::clock;
use crate::metrics::set;
use crate::protocol::Force;

impl Service {
    /// The bindings, best first.
    pub(super) async fn contacts(&self, store: &Store, aor: &Aor, filter: &Filter) -> Result<Vec<Binding>, StoreError> {
        Ok(match select(store.bindings(aor).await?, Wanted::All, filter, clock::wall()) {
            Selection::Found(bindings) => bindings,
            Selection::NotRegistered | Selection::MethodNotAllowed => Vec::new(),
        })
    }

    /// Removes current bindings, in the order of the AoR's REGISTERs. Returns how many.
    pub(super) async fn remove(&self, store: &Store, aor: &Aor, which: &Which) -> Result<u32, StoreError> {
        let _order = self.lock(aor).await;
        let existing = store.bindings(aor).await?;
        let now = clock::wall();
        let meant = existing.iter().filter(|binding| is_current(binding, now) && which.fits(binding));
        let removed: Vec<Binding> = meant.map(|binding| binding.removed(now)).collect();
        if !removed.is_empty() {
            store.write_bindings(aor, &removed, now).await?;
            self.wrote(aor, &existing, &removed);
        }
        Ok(u32::try_from(removed.len()).unwrap_or(u32::MAX))
    }

    /// Opens or closes the breaker, whatever the backend does.
    pub(super) fn force_breaker(&self, force: Force) {
        let mut breaker = self.breaker();
        match force {
            Force::Open => {
                breaker.force_open();
                tracing::warn!("the circuit breaker is held open: requests are refused until an operator closes it");
            }
            Force::Closed => {
                breaker.force_closed();
                tracing::warn!("the circuit breaker has been closed by an operator");
            }
        }
        set(&self.metrics.breaker_state, breaker.state().as_metric());
        set(&self.metrics.breaker_held, u64::from(force == Force::Open));
    }
}
