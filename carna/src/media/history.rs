//! Events of channels on their way to Cassandra.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use domain::CallEvent;
use store::call::{Parties, Recording};
use store::outbox::{Counters, Item, Outbox, OutboxConfig, Sink};
use store::{Store, StoreConfig};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Events in memory; more are lost.
const QUEUE: usize = 10_000;
/// Events that are written together at most.
const GROUP: usize = 128;
/// Within this time an event is in Cassandra or on the disk.
const WITHIN: Duration = Duration::from_millis(50);
/// Spooled events that are written in a second.
const REPLAY_RATE: u32 = 2000;
/// The first pause between two attempts to connect, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long what has come has to get somewhere at the end.
const LAST_LIMIT: Duration = Duration::from_secs(5);

static ACCEPTED: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);
static SPOOLED: AtomicU64 = AtomicU64::new(0);
static BROKEN: AtomicU64 = AtomicU64::new(0);

/// What is counted of the only history of a process.
const COUNTERS: Counters = Counters { accepted: &ACCEPTED, dropped: &DROPPED, spooled: &SPOOLED, broken: &BROKEN };

/// Where events are kept.
#[derive(Debug)]
pub struct HistoryConfig {
    /// Where Cassandra is.
    pub store: StoreConfig,
    /// The spool.
    pub spool_file: PathBuf,
    /// Bytes of events that it may hold.
    pub spool_bytes: u64,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct History {
    taker: Taker,
    outbox: Arc<Outbox>,
    recording: Mutex<Option<JoinHandle<()>>>,
    /// What goes on for ever.
    others: [JoinHandle<()>; 2],
}

/// The way in.
#[derive(Debug, Clone)]
pub(crate) struct Taker {
    /// `None` once it is closed.
    queue: Arc<Mutex<Option<mpsc::Sender<CallEvent>>>>,
    /// Events that are neither in Cassandra nor on the disk.
    under_way: Arc<AtomicU64>,
}

impl Taker {
    /// Takes an event over; it is written soon. When there are too many it is lost.
    pub(crate) fn take(&self, event: CallEvent) {
        self.under_way.fetch_add(1, Relaxed);
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.as_ref().is_none_or(|queue| queue.try_send(event).is_err()) {
            self.under_way.fetch_sub(1, Relaxed);
            if DROPPED.fetch_add(1, Relaxed) == 0 {
                tracing::error!("events of channels are lost: too many are on their way");
            }
        }
    }
}

impl History {
    /// Connects with Cassandra, as soon as that can be done, and writes what is taken, and what was spooled.
    pub(crate) fn start(config: HistoryConfig) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let taker = Taker { queue: Arc::new(Mutex::new(Some(queue))), under_way: Arc::default() };
        let outbox = Arc::new(Outbox::new(
            OutboxConfig {
                spool_file: Some(config.spool_file),
                spool_bytes: config.spool_bytes,
                within: WITHIN,
                replay_rate: REPLAY_RATE,
            },
            COUNTERS,
        ));
        let table = Arc::new(Table::default());
        let recording = tokio::spawn(record(waiting, outbox.clone(), table.clone(), taker.under_way.clone()));
        let replaying = tokio::spawn({
            let (outbox, table) = (outbox.clone(), table.clone());
            async move { outbox.replay(&*table).await }
        });
        let connecting = tokio::spawn(async move { table.connect(&config.store).await });
        Self { taker, outbox, recording: Mutex::new(Some(recording)), others: [replaying, connecting] }
    }

    /// The way in.
    pub(crate) fn taker(&self) -> Taker {
        self.taker.clone()
    }

    /// Events that are not in Cassandra.
    pub(crate) fn waiting(&self) -> u64 {
        self.taker.under_way.load(Relaxed) + self.spooled()
    }

    /// Those of them that are on the disk.
    pub(crate) fn spooled(&self) -> u64 {
        SPOOLED.load(Relaxed)
    }

    /// Sees what has come into Cassandra or onto the disk, and takes no more.
    pub(crate) async fn close(&self) {
        self.taker.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(recording) = recording
            && timeout(LAST_LIMIT, recording).await.is_err()
        {
            tracing::error!("{} events of channels are lost: nothing takes them", self.taker.under_way.load(Relaxed));
        }
        self.others.iter().for_each(JoinHandle::abort);
        self.outbox.close().await;
    }
}

/// Sees every event into Cassandra or onto the disk.
async fn record(
    mut waiting: mpsc::Receiver<CallEvent>,
    outbox: Arc<Outbox>,
    table: Arc<Table>,
    under_way: Arc<AtomicU64>,
) {
    let mut events = Vec::with_capacity(GROUP);
    while waiting.recv_many(&mut events, GROUP).await > 0 {
        let group: Vec<Item> = events.drain(..).map(Item::of).collect();
        outbox.see_off(&group, &*table).await;
        under_way.fetch_sub(group.len() as u64, Relaxed);
    }
}

/// Cassandra, once there is a session.
#[derive(Debug, Default)]
struct Table {
    store: OnceLock<Store>,
    /// A channel changes no list of anybody's calls.
    nobody: Parties,
}

impl Table {
    /// Connects, with growing pauses.
    async fn connect(&self, config: &StoreConfig) {
        let mut pause = FIRST_PAUSE;
        loop {
            match Store::connect(config).await {
                Ok(store) => {
                    tracing::info!("connected with Cassandra, keyspace {}", config.keyspace);
                    let _ = self.store.set(store);
                    return;
                }
                Err(error) => tracing::error!("no Cassandra session: {error}; next attempt in {pause:?}"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Sink for Table {
    fn takes_writes(&self) -> bool {
        self.store.get().is_some()
    }

    async fn write(&self, items: &[Item]) -> bool {
        let Some(store) = self.store.get() else { return false };
        let recordings =
            items.iter().map(|item| Recording { event: &item.event, entry: None, active: None, parties: &self.nobody });
        let written = store.record_calls(recordings).await;
        written.inspect_err(|error| tracing::debug!("events of channels are not written: {error}")).is_ok()
    }
}
