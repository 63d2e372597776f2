//! Call events on their way to Cassandra, which may not take them for hours.
//!
//! An event is *accepted* when it is in Cassandra or synced to the spool, a file; from then on it is not lost. What is spooled is written
//! in order when Cassandra takes it again, also by the next process. Written again, an event is the same row.

mod spool;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use domain::{CallEvent, CallRecord};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use spool::{Spool, SpoolConfig, Spooled};

/// Spooled events that are written in one go.
const GO: usize = 128;

/// Pause between two looks at an empty spool.
const IDLE: Duration = Duration::from_millis(250);

/// How events are kept.
#[derive(Debug, Clone)]
pub struct OutboxConfig {
    /// The spool; `None`: what Cassandra does not take stays in memory.
    pub spool_file: Option<PathBuf>,
    /// Bytes of events that the spool may hold; the oldest give way.
    pub spool_bytes: u64,
    /// Within this time an event is in Cassandra or synced to the spool; five eighths of it are for Cassandra.
    pub within: Duration,
    /// Spooled events that are written in a second.
    pub replay_rate: u32,
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    /// Events that were accepted.
    pub accepted: &'static AtomicU64,
    /// Events that are lost.
    pub dropped: &'static AtomicU64,
    /// Events in the spool.
    pub spooled: &'static AtomicU64,
    /// 1 while the spool cannot be used.
    pub broken: &'static AtomicU64,
}

/// An event, and the call's record as it stood then, where that was known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// The event.
    pub event: CallEvent,
    /// The call with it.
    pub record: Option<CallRecord>,
    /// Write timestamp of what it tells of the calls that are under way. That is never spooled: later it is not true any more.
    #[serde(skip)]
    pub active: Option<i64>,
}

impl Item {
    /// An event by itself.
    pub fn of(event: CallEvent) -> Self {
        Self { event, record: None, active: None }
    }
}

/// Where accepted events go.
pub trait Sink: Send + Sync + 'static {
    /// Whether it is worth trying.
    fn takes_writes(&self) -> bool;

    /// Writes items; says whether all of them are written.
    fn write(&self, items: &[Item]) -> impl Future<Output = bool> + Send;
}

/// See the module's description.
#[derive(Debug)]
pub struct Outbox {
    config: OutboxConfig,
    counters: Counters,
    spool: Option<Spool>,
}

impl Outbox {
    /// Starts the spool, if there is to be one.
    pub fn new(config: OutboxConfig, counters: Counters) -> Self {
        let spool = config.spool_file.clone().and_then(|file| {
            let spool = SpoolConfig { file, most_bytes: config.spool_bytes };
            Spool::open(spool, counters)
                .inspect_err(|error| tracing::error!("there is no spool of call events: no thread for it: {error}"))
                .ok()
        });
        Self { config, counters, spool }
    }

    /// Writes what the spool was given, and closes it.
    pub async fn close(&self) {
        if let Some(spool) = &self.spool {
            spool.close().await;
        }
    }

    /// Writes spooled items in order, no faster than is allowed, for ever.
    pub async fn replay<S: Sink>(&self, sink: &S) {
        let Some(spool) = &self.spool else { return };
        loop {
            let started = Instant::now();
            let items = if sink.takes_writes() { spool.oldest(GO).await } else { Vec::new() };
            let written = self.write_in_order(sink, &items).await;
            let pause = match written.len() {
                0 => IDLE,
                some => Duration::from_secs(1) * some as u32 / self.config.replay_rate.max(1),
            };
            if !written.is_empty() {
                spool.remove(written).await;
            }
            sleep(pause.saturating_sub(started.elapsed())).await;
        }
    }

    /// Sees a group into the sink or the spool.
    pub async fn see_off<S: Sink>(&self, group: &[Item], sink: &S) {
        let mut writing = pin!(async { sink.takes_writes() && sink.write(group).await });
        let all = || vec![true; group.len()];
        let accepted = match timeout(self.config.within * 5 / 8, &mut writing).await {
            Ok(true) => all(),
            Ok(false) => self.keep_all(group, sink).await,
            Err(_) => {
                tokio::select! {
                    // It may be in the sink soon, and then is written there once more: that changes nothing.
                    kept = self.keep_all(group, sink) => kept,
                    true = &mut writing => all(),
                }
            }
        };
        for (item, is_accepted) in group.iter().zip(accepted) {
            if is_accepted {
                self.counters.accepted.fetch_add(1, Relaxed);
            } else {
                self.counters.dropped.fetch_add(1, Relaxed);
                let call_id = &item.event.call_id;
                tracing::error!("an event of the call {call_id} is lost: neither Cassandra nor the spool takes it");
            }
        }
    }

    async fn keep_all<S: Sink>(&self, group: &[Item], sink: &S) -> Vec<bool> {
        join_all(group.iter().map(|item| self.keep(item, sink))).await
    }

    /// Keeps an item in the spool; as long as that does not take it, and where there is none, tries the sink again. `false` when
    /// the spool is closed.
    async fn keep<S: Sink>(&self, item: &Item, sink: &S) -> bool {
        let retry = async {
            loop {
                sleep(IDLE).await;
                if sink.takes_writes() && sink.write(std::slice::from_ref(item)).await {
                    return;
                }
            }
        };
        match &self.spool {
            None => {
                retry.await;
                true
            }
            Some(spool) => tokio::select! {
                number = spool.put(item) => number.is_some(),
                () = retry => true,
            },
        }
    }

    /// The numbers of those that are written, and of those that nobody can read.
    async fn write_in_order<S: Sink>(&self, sink: &S, spooled: &[Spooled]) -> Vec<u64> {
        let mut written = Vec::with_capacity(spooled.len());
        for group in spooled.chunks(GO) {
            let readable: Vec<Item> = group.iter().filter_map(|spooled| spooled.item.clone()).collect();
            if !readable.is_empty() && !sink.write(&readable).await {
                break;
            }
            for _ in readable.len()..group.len() {
                self.counters.dropped.fetch_add(1, Relaxed);
                tracing::error!("a spooled call event of another version cannot be read: it is lost");
            }
            written.extend(group.iter().map(|spooled| spooled.number));
        }
        written
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use domain::call::EventId;

    use super::*;

    /// Counters of a test's own.
    pub(crate) fn counters() -> Counters {
        let counter = || &*Box::leak(Box::<AtomicU64>::default());
        Counters { accepted: counter(), dropped: counter(), spooled: counter(), broken: counter() }
    }

    /// An event of a call, `micros` after the epoch.
    pub(crate) fn event(micros: i64) -> CallEvent {
        CallEvent { call_id: "call".to_owned(), ..CallEvent::new(EventId::new(micros, 1, 1)) }
    }

    /// A file of a test's own, not there yet, removed at its end.
    pub(crate) struct TemporaryFile(PathBuf);

    impl TemporaryFile {
        pub(crate) fn new(name: &str) -> Self {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let number = NEXT.fetch_add(1, Relaxed);
            Self(std::env::temp_dir().join(format!("store-{name}-{}-{number}", std::process::id())))
        }

        pub(crate) fn path(&self) -> PathBuf {
            self.0.clone()
        }
    }

    impl Drop for TemporaryFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}
