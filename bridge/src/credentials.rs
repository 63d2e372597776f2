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

    /// Whether `accepts` holds for the subscriber as remembered, or as read now. `accepts` is asked at least once about a
    /// fresh read, with `None` for an unknown user, unless what is remembered is accepted.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub(crate) async fn check<T>(
        &self,
        store: &Store,
        aor: &Aor,
        accepts: impl Fn(Option<&Subscriber>) -> Checked<T>,
    ) -> Result<T, StoreError> {
        if let Some(entry) = self.remembered(aor)
            && let Checked::Accepted(result) = accepts(Some(&entry.subscriber))
        {
            count(&self.metrics.credential_cache_hits);
            return Ok(result);
        }
        count(&self.metrics.credential_cache_misses);
        let subscriber = store.credentials(aor).await?;
        let checked = accepts(subscriber.as_ref());
        self.remember(aor, subscriber);
        match checked {
            Checked::Accepted(result) | Checked::Refused(result) => Ok(result),
        }
    }

    fn remembered(&self, aor: &Aor) -> Option<Arc<Entry>> {
        self.known.get(aor).filter(|entry| entry.read_at.elapsed() < self.lifetime)
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

/// What a comparison with a subscriber gave.
#[derive(Debug)]
pub(crate) enum Checked<T> {
    /// It may be answered from memory.
    Accepted(T),
    /// It must be answered from a fresh read.
    Refused(T),
}
