//! Credentials read lately, so that a subscriber who registers again costs no read.
//!
//! Only what accepts somebody is answered from here: whoever is refused was compared with a fresh read, so a new password works
//! at once, and a wrong one takes a known user as long as an unknown one. An old password works until its entry is
//! [`CacheConfig::lifetime`] old.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::Aor;
use quick_cache::sync::Cache;
use store::{Store, StoreError, Subscriber};

use crate::metrics::{Metrics, count};

/// Bounds of the cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheConfig {
    /// Subscribers kept at most.
    pub entries: usize,
    /// How long one is answered from memory; zero: never.
    pub lifetime: Duration,
}

/// Subscribers by their AoR.
#[derive(Debug)]
pub(crate) struct Credentials {
    known: Cache<Aor, Arc<Entry>>,
    lifetime: Duration,
    metrics: &'static Metrics,
}

#[derive(Debug)]
struct Entry {
    subscriber: Subscriber,
    read_at: Instant,
}

impl Credentials {
    pub(crate) fn new(config: CacheConfig, metrics: &'static Metrics) -> Self {
        Self { known: Cache::new(config.entries), lifetime: config.lifetime, metrics }
    }

    /// Whether this subscriber is remembered and accepted. It says nothing of the backend.
    pub(crate) fn accepted(&self, aor: &Aor, accepts: impl FnOnce(&Subscriber) -> bool) -> bool {
        let remembered = self.known.get(aor).filter(|entry| entry.read_at.elapsed() < self.lifetime);
        let accepted = remembered.is_some_and(|entry| accepts(&entry.subscriber));
        if accepted {
            count(&self.metrics.credential_cache_hits);
        }
        accepted
    }

    /// Reads a subscriber, and remembers what was found.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub(crate) async fn read(&self, store: &Store, aor: &Aor) -> Result<Option<Subscriber>, StoreError> {
        count(&self.metrics.credential_cache_misses);
        let subscriber = store.credentials(aor).await?;
        self.remember(aor, subscriber.clone());
        Ok(subscriber)
    }

    fn remember(&self, aor: &Aor, subscriber: Option<Subscriber>) {
        match subscriber {
            Some(subscriber) if !self.lifetime.is_zero() => {
                self.known.insert(aor.clone(), Arc::new(Entry { subscriber, read_at: Instant::now() }));
            }
            _ => {
                self.known.remove(aor);
            }
        }
    }
}
