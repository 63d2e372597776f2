//! Credentials read lately, so that a subscriber who registers again costs no read, and a crowd that asks for one costs one.
//!
//! * Whom the remembered subscriber accepts is accepted, as long as it is not older than [`CacheConfig::lifetime`].
//! * Whoever is refused was compared with a fresh read, one that began after the request came: a new password works at once.
//! * There is one read of an AoR at a time, and after one that has refused somebody none for a second; the others wait for it.
//!   Who cannot wait is compared with the last one, which is less than a second old.
//!
//! All this is the same for an AoR that has no subscriber: neither answer nor time tells them apart.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::Aor;
use quick_cache::sync::Cache;
use store::{Store, StoreError, Subscriber};
use tokio::time::{Instant, sleep_until};

use crate::metrics::{Metrics, count};

/// From the beginning of a read that has refused somebody to that of the next one of the same AoR.
const PAUSE: Duration = Duration::from_secs(1);

/// Bounds of the cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheConfig {
    /// AoRs kept at most.
    pub entries: usize,
    /// How long a subscriber is accepted from memory; zero: every request reads.
    pub lifetime: Duration,
    /// How long it is remembered that an AoR has no subscriber, by those who only ask whether it has.
    pub negative_lifetime: Duration,
}

/// Where subscribers are read.
pub(crate) trait Reader: Sync {
    /// The subscriber of this AoR.
    fn read(&self, aor: &Aor) -> impl Future<Output = Result<Option<Subscriber>, StoreError>> + Send;
}

impl Reader for Store {
    async fn read(&self, aor: &Aor) -> Result<Option<Subscriber>, StoreError> {
        self.credentials(aor).await
    }
}

/// A request that is to be compared with a subscriber.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    /// Whose.
    pub(crate) aor: &'a Aor,
    /// When the request came.
    pub(crate) asked: Instant,
    /// Until when it can wait for a read to begin; `None` when it cannot.
    pub(crate) patience: Option<Instant>,
}

/// How many AoRs are remembered, of how many that can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CacheStats {
    /// Remembered now.
    pub entries: u64,
    /// At most.
    pub capacity: u64,
}

/// Subscribers by their AoR.
#[derive(Debug)]
pub(crate) struct Credentials {
    slots: Cache<Aor, Arc<Slot>>,
    lifetime: Duration,
    negative_lifetime: Duration,
    /// As [`PAUSE`]; zero when every request reads.
    pause: Duration,
    metrics: &'static Metrics,
}

/// What is known of one AoR.
#[derive(Debug, Default)]
struct Slot {
    /// Held by the one who reads or is about to.
    turn: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    reading: Option<Reading>,
    /// The last read that failed, and when that was known.
    failure: Option<(Instant, StoreError)>,
}

/// The result of a read.
#[derive(Debug, Clone)]
struct Reading {
    subscriber: Option<Arc<Subscriber>>,
    began: Instant,
    /// Whether it refused the one who read. Only such reads are far between: one that lets somebody in is remembered, and
    /// must not hold up the next new password.
    refused: bool,
}

impl Reading {
    fn get(&self) -> Option<&Subscriber> {
        self.subscriber.as_deref()
    }

    fn is_younger_than(&self, age: Duration) -> bool {
        self.began.elapsed() < age
    }
}

impl Slot {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reading(&self) -> Option<Reading> {
        self.known().reading.clone()
    }

    fn note_whether_refused(&self, refused: bool) {
        if let Some(reading) = &mut self.known().reading {
            reading.refused = refused;
        }
    }

    /// What a read that ended after this moment failed with: who waited for it need not try again.
    fn failure_since(&self, moment: Instant) -> Option<StoreError> {
        self.known().failure.as_ref().filter(|(ended, _)| *ended >= moment).map(|(_, error)| error.clone())
    }
}

impl Credentials {
    pub(crate) fn new(config: CacheConfig, metrics: &'static Metrics) -> Self {
        Self {
            slots: Cache::new(config.entries),
            lifetime: config.lifetime,
            pause: if config.lifetime.is_zero() { Duration::ZERO } else { PAUSE },
            negative_lifetime: config.negative_lifetime,
            metrics,
        }
    }

    /// What `judge` accepts by what is remembered of this AoR. It says nothing of the backend.
    pub(crate) fn accepted<A, R>(
        &self,
        aor: &Aor,
        judge: impl FnOnce(Option<&Subscriber>) -> Result<A, R>,
    ) -> Option<A> {
        self.accepted_in(&*self.slots.get(aor)?, judge)
    }

    fn accepted_in<A, R>(&self, slot: &Slot, judge: impl FnOnce(Option<&Subscriber>) -> Result<A, R>) -> Option<A> {
        let reading = slot.reading().filter(|reading| reading.is_younger_than(self.lifetime))?;
        let accepted = judge(reading.get()).ok()?;
        count(&self.metrics.credential_cache_hits);
        Some(accepted)
    }

    /// What `judge` says of a subscriber by the rules above: `Ok` accepts, `Err` refuses.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub(crate) async fn check<A, R>(
        &self,
        reader: &impl Reader,
        question: Question<'_>,
        judge: impl Fn(Option<&Subscriber>) -> Result<A, R>,
    ) -> Result<Result<A, R>, StoreError> {
        let slot = self.slot(question.aor);
        loop {
            let turn = slot.turn.lock().await;
            if let Some(accepted) = self.accepted_in(&slot, &judge) {
                return Ok(Ok(accepted));
            }
            if let Some(error) = slot.failure_since(question.asked) {
                return Err(error);
            }
            match self.next_step(slot.reading(), &question) {
                Step::Compare(reading) => return Ok(judge(reading.get())),
                Step::Read => {
                    let judged = judge(self.read(reader, question.aor, &slot).await?.get());
                    slot.note_whether_refused(judged.is_err());
                    return Ok(judged);
                }
                Step::WaitUntil(moment) => {
                    drop(turn);
                    sleep_until(moment).await;
                }
            }
        }
    }

    /// The subscriber of this AoR, remembered or read.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub(crate) async fn find(&self, reader: &impl Reader, aor: &Aor) -> Result<Option<Arc<Subscriber>>, StoreError> {
        let asked = Instant::now();
        let slot = self.slot(aor);
        if let Some(reading) = self.current(&slot) {
            return Ok(reading.subscriber);
        }
        let _turn = slot.turn.lock().await;
        match (self.current(&slot), slot.failure_since(asked)) {
            (Some(reading), _) => Ok(reading.subscriber),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(self.read(reader, aor, &slot).await?.subscriber),
        }
    }

    /// What is remembered and not too old.
    fn current(&self, slot: &Slot) -> Option<Reading> {
        slot.reading().filter(|reading| {
            let lifetime = if reading.subscriber.is_some() { self.lifetime } else { self.negative_lifetime };
            reading.is_younger_than(lifetime)
        })
    }

    /// Whether a read has just refused somebody, so that this AoR is not read again yet.
    pub(crate) fn refused_just_now(&self, aor: &Aor) -> bool {
        let reading = self.slots.peek(aor).and_then(|slot| slot.reading());
        reading.is_some_and(|reading| reading.refused && reading.is_younger_than(self.pause))
    }

    /// Forgets one AoR or all; returns how many were remembered.
    pub(crate) fn flush(&self, aor: Option<&Aor>) -> u64 {
        match aor {
            Some(aor) => u64::from(self.slots.remove(aor).is_some()),
            None => {
                let remembered = self.slots.len() as u64;
                self.slots.clear();
                remembered
            }
        }
    }

    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats { entries: self.slots.len() as u64, capacity: self.slots.capacity() }
    }

    fn slot(&self, aor: &Aor) -> Arc<Slot> {
        let Ok(slot) = self.slots.get_or_insert_with(aor, || Ok::<_, Infallible>(Arc::default()));
        slot
    }

    fn next_step(&self, reading: Option<Reading>, question: &Question<'_>) -> Step {
        let Some(reading) = reading else { return Step::Read };
        let next_read = reading.began + self.pause;
        if reading.began >= question.asked {
            Step::Compare(reading)
        } else if !reading.refused || next_read <= Instant::now() {
            Step::Read
        } else if question.patience.is_some_and(|patience| next_read <= patience) {
            Step::WaitUntil(next_read)
        } else {
            Step::Compare(reading)
        }
    }

    /// Reads, in the turn of the caller, and remembers what was found.
    async fn read(&self, reader: &impl Reader, aor: &Aor, slot: &Slot) -> Result<Reading, StoreError> {
        count(&self.metrics.credential_cache_misses);
        let began = Instant::now();
        match reader.read(aor).await {
            Ok(subscriber) => {
                let reading = Reading { subscriber: subscriber.map(Arc::new), began, refused: false };
                *slot.known() = Known { reading: Some(reading.clone()), failure: None };
                Ok(reading)
            }
            Err(error) => {
                slot.known().failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

/// What one whose turn it is, and whom nothing remembered accepts, does next.
enum Step {
    /// This is fresh enough.
    Compare(Reading),
    Read,
    WaitUntil(Instant),
}

#[cfg(test)]
mod tests;
