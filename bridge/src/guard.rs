//! Guessing is slowed: who fails too often, a source address or those who ask for one AoR, is refused unread for a while.
//!
//! Each source and each AoR has a bucket of failures: full at first, one taken by each credentials that are refused, refilled
//! evenly. With an empty one, credentials are refused as a wrong password is, so a guess that is right is not told either. A
//! source that has been let in as an AoR before is not held up by that AoR's bucket: nobody locks the owner out.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::Aor;
use quick_cache::Equivalent;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Buckets of each kind, and sources that were let in, that are kept at most.
const ENTRIES: usize = 65_536;

/// How long a source that was let in as an AoR is not held up by the AoR's bucket.
const TRUSTED_FOR: Duration = Duration::from_secs(3600);

/// Entries of each kind that a list shows.
const LISTED: usize = 100;

/// How many failures are borne.
#[derive(Debug, Clone, Copy)]
pub struct GuardConfig {
    /// From one source in an interval; 0: any number.
    pub per_source: u32,
    /// For one AoR in an interval; 0: any number.
    pub per_aor: u32,
    /// The interval in which an empty bucket fills.
    pub interval: Duration,
}

/// Who failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Suspect {
    /// A source address.
    Source(String),
    /// Somebody who asked for this AoR.
    Aor(Aor),
}

/// Somebody who failed lately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    /// Who.
    pub suspect: Suspect,
    /// Failures left before it is refused unread.
    pub left: u32,
}

/// The buckets.
#[derive(Debug)]
pub(crate) struct Guard {
    sources: Buckets<String>,
    aors: Buckets<Aor>,
    /// When a source was last let in as an AoR, by a hash of both.
    trusted: Cache<u64, Instant>,
    hasher: RandomState,
}

impl Guard {
    pub(crate) fn new(config: GuardConfig) -> Self {
        Self::of_size(config, ENTRIES)
    }

    fn of_size(config: GuardConfig, entries: usize) -> Self {
        Self {
            sources: Buckets::new(config.per_source, config.interval, entries),
            aors: Buckets::new(config.per_aor, config.interval, entries),
            trusted: Cache::new(entries),
            hasher: RandomState::new(),
        }
    }

    /// Whether credentials for this AoR from this source are refused unread.
    pub(crate) fn refuses(&self, source: &str, aor: &Aor) -> bool {
        self.sources.is_empty(source) || (self.aors.is_empty(aor) && !self.trusts(source, aor))
    }

    /// Credentials were refused.
    pub(crate) fn failed(&self, source: &str, aor: &Aor) {
        self.sources.take(source, str::to_owned);
        if !self.trusts(source, aor) {
            self.aors.take(aor, Clone::clone);
        }
    }

    /// Credentials were accepted.
    pub(crate) fn accepted(&self, source: &str, aor: &Aor) {
        let key = self.hasher.hash_one((source, aor));
        let known = self.trusted.get(&key).is_some_and(|since| since.elapsed() < TRUSTED_FOR / 2);
        if !known {
            self.trusted.insert(key, Instant::now());
        }
    }

    fn trusts(&self, source: &str, aor: &Aor) -> bool {
        let key = self.hasher.hash_one((source, aor));
        self.trusted.get(&key).is_some_and(|since| since.elapsed() < TRUSTED_FOR)
    }

    /// Those who failed lately, the worst first.
    pub(crate) fn list(&self) -> Vec<Suspicion> {
        let sources = self.sources.list(|name| Suspect::Source(name.clone()));
        let aors = self.aors.list(|aor| Suspect::Aor(aor.clone()));
        sources.into_iter().chain(aors).collect()
    }

    /// Forgets the failures of one or of all; returns how many buckets were not full.
    pub(crate) fn clear(&self, suspect: Option<&Suspect>) -> u64 {
        match suspect {
            Some(Suspect::Source(source)) => self.sources.clear(source),
            Some(Suspect::Aor(aor)) => self.aors.clear(aor),
            None => self.sources.clear_all() + self.aors.clear_all(),
        }
    }
}

/// The buckets of one kind.
#[derive(Debug)]
struct Buckets<K> {
    size: f64,
    per_second: f64,
    buckets: Cache<K, Arc<Mutex<Bucket>>>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    fn new(size: u32, interval: Duration, entries: usize) -> Self {
        let size = f64::from(size);
        Self { size, per_second: size / interval.as_secs_f64(), buckets: Cache::new(entries) }
    }

    fn is_on(&self) -> bool {
        self.size > 0.0
    }

    fn is_empty<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> bool {
        self.is_on() && self.buckets.get(key).is_some_and(|bucket| self.left(&bucket) < 1.0)
    }

    fn take<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q, to_key: impl FnOnce(&Q) -> K) {
        if !self.is_on() {
            return;
        }
        let bucket = self.buckets.get(key).unwrap_or_else(|| {
            let full = Arc::new(Mutex::new(Bucket { left: self.size, at: Instant::now() }));
            self.buckets.insert(to_key(key), full.clone());
            full
        });
        let left = (self.left(&bucket) - 1.0).max(0.0);
        *bucket.lock().unwrap_or_else(PoisonError::into_inner) = Bucket { left, at: Instant::now() };
    }

    fn left(&self, bucket: &Mutex<Bucket>) -> f64 {
        let bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        (bucket.left + bucket.at.elapsed().as_secs_f64() * self.per_second).min(self.size)
    }

    fn list(&self, suspect: impl Fn(&K) -> Suspect) -> Vec<Suspicion> {
        let suspicion = |(key, bucket): (K, Arc<Mutex<Bucket>>)| {
            let left = self.left(&bucket);
            (left < self.size).then(|| Suspicion { suspect: suspect(&key), left: left as u32 })
        };
        let mut list: Vec<_> = self.buckets.iter().filter_map(suspicion).collect();
        list.sort_by_key(|suspicion| suspicion.left);
        list.truncate(LISTED);
        list
    }

    fn clear<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> u64 {
        self.buckets.remove(key).is_some_and(|(_, bucket)| self.left(&bucket) < self.size).into()
    }

    fn clear_all(&self) -> u64 {
        let cleared = self.buckets.drain().filter(|(_, bucket)| self.left(bucket) < self.size).count();
        cleared as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "192.0.2.1";
    const OTHER: &str = "192.0.2.2";

    fn aor(user: &str) -> Aor {
        Aor::new(user, "example.com").expect("an AoR")
    }

    const CONFIG: GuardConfig = GuardConfig { per_source: 6, per_aor: 3, interval: Duration::from_secs(60) };

    fn guard() -> Guard {
        Guard::new(CONFIG)
    }

    fn fail(guard: &Guard, times: usize, source: &str, user: &str) {
        for _ in 0..times {
            assert!(!guard.refuses(source, &aor(user)));
            guard.failed(source, &aor(user));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_aor_bears_so_many_failures_from_all_sources_together() {
        let guard = guard();
        fail(&guard, 2, SOURCE, "alice");
        fail(&guard, 1, OTHER, "alice");
        assert!(guard.refuses(SOURCE, &aor("alice")) && guard.refuses(OTHER, &aor("alice")));
        assert!(!guard.refuses(SOURCE, &aor("bob")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_bears_so_many_failures_for_all_aors_together() {
        let guard = guard();
        for user in ["a", "b", "c"] {
            fail(&guard, 2, SOURCE, user);
        }
        assert!(guard.refuses(SOURCE, &aor("alice")));
        assert!(!guard.refuses(OTHER, &aor("alice")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_fills_evenly_and_no_further() {
        let guard = guard();
        fail(&guard, 3, SOURCE, "alice");
        tokio::time::advance(Duration::from_secs(19)).await;
        assert!(guard.refuses(SOURCE, &aor("alice")));
        tokio::time::advance(Duration::from_secs(2)).await;
        fail(&guard, 1, SOURCE, "alice");
        assert!(guard.refuses(SOURCE, &aor("alice")));
        tokio::time::advance(Duration::from_secs(6000)).await;
        fail(&guard, 3, SOURCE, "alice");
        assert!(guard.refuses(SOURCE, &aor("alice")));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_locks_the_owner_out() {
        let guard = guard();
        guard.accepted(SOURCE, &aor("alice"));
        fail(&guard, 3, OTHER, "alice");
        assert!(guard.refuses(OTHER, &aor("alice")));
        assert!(!guard.refuses(SOURCE, &aor("alice")));
        tokio::time::advance(TRUSTED_FOR - Duration::from_secs(1)).await;
        fail(&guard, 3, OTHER, "alice");
        assert!(!guard.refuses(SOURCE, &aor("alice")));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(guard.refuses(SOURCE, &aor("alice")));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_bears_any_number() {
        let guard = Guard::new(GuardConfig { per_source: 0, per_aor: 0, interval: Duration::from_secs(60) });
        fail(&guard, 1000, SOURCE, "alice");
        assert!(guard.list().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_failed_are_listed_and_cleared() {
        let guard = guard();
        fail(&guard, 3, SOURCE, "alice");
        let alice = Suspect::Aor(aor("alice"));
        let listed = guard.list();
        assert_eq!(listed.len(), 2);
        assert!(listed.contains(&Suspicion { suspect: Suspect::Source(SOURCE.to_owned()), left: 3 }));
        assert!(listed.contains(&Suspicion { suspect: alice.clone(), left: 0 }));
        assert_eq!(guard.clear(Some(&alice)), 1);
        assert_eq!(guard.clear(Some(&alice)), 0);
        assert!(!guard.refuses(SOURCE, &aor("alice")));
        assert_eq!(guard.clear(None), 1);
        assert!(guard.list().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let guard = Guard::of_size(CONFIG, 1000);
        for number in 0..5000 {
            guard.failed(&number.to_string(), &aor(&number.to_string()));
            guard.accepted(&number.to_string(), &aor("alice"));
        }
        assert!(guard.sources.buckets.len() <= 1000 && guard.aors.buckets.len() <= 1000);
        assert!(guard.trusted.len() <= 1000);
        assert!(guard.list().len() <= 2 * LISTED);
    }
}
