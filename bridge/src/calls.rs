//! Call events on their way to Cassandra: in a bounded queue until each is with its call, and then in the outbox. What the queue has no
//! room for is refused, and counted.

mod live;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::call::LONGEST_TEXT;
use domain::{CallEvent, CallRecord, Timestamp};
use store::outbox::{Counters, Item, Outbox, OutboxConfig, Sink};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use crate::event_log;
use crate::metrics::{Metrics, count};
pub(crate) use live::{Live, Snapshot};

/// Events that are being written, or wait for the disk.
const UNDER_WAY: usize = 512;

/// Events that are written together at most.
const GROUP: usize = 128;

/// How far an event can be behind one that happened later: they come from different processes.
const OVERTAKEN: Duration = Duration::from_millis(20);

/// Longest turn: what comes in one has to fit the link.
const LONGEST_TURN: Duration = Duration::from_millis(25);

/// How call events are kept.
#[derive(Debug, Clone)]
pub struct CallsConfig {
    /// The spool; `None`: what Cassandra does not take stays in memory.
    pub spool_file: Option<PathBuf>,
    /// Bytes of events that the spool may hold; the oldest give way.
    pub spool_bytes: u64,
    /// Within this time an event is in Cassandra or synced to the spool.
    pub sync_within: Duration,
    /// Events in memory; more are refused.
    pub queue: usize,
    /// Spooled events that are written in a second.
    pub replay_rate: u32,
    /// Whether each event goes to the log, too, as a line of JSON.
    pub log: bool,
    /// Within this time the others know that a call is there, or is not there any more. Whole seconds.
    pub interval: Duration,
    /// A call that nobody ended for so long has expired.
    pub lifetime: Duration,
}

impl Default for CallsConfig {
    /// Without a spool.
    fn default() -> Self {
        Self {
            spool_file: None,
            spool_bytes: 1 << 30,
            sync_within: Duration::from_millis(20),
            queue: 10_000,
            replay_rate: 2000,
            log: false,
            interval: Duration::from_secs(60),
            lifetime: Duration::from_secs(43_200),
        }
    }
}

impl CallsConfig {
    /// While events come they are taken in turns of this length, so that they come here in groups: a quarter of the time there is.
    pub fn turn(&self) -> Duration {
        (self.sync_within / 4).min(LONGEST_TURN)
    }

    fn outbox(&self) -> OutboxConfig {
        OutboxConfig {
            spool_file: self.spool_file.clone(),
            spool_bytes: self.spool_bytes,
            within: self.sync_within,
            replay_rate: self.replay_rate,
        }
    }
}

fn counters(metrics: &'static Metrics) -> Counters {
    Counters {
        accepted: &metrics.call_events_accepted,
        dropped: &metrics.call_events_dropped,
        spooled: &metrics.call_events_spooled,
        broken: &metrics.call_spool_broken,
    }
}

/// An event with its call as it stands then, where that is known.
fn item(known: Option<Snapshot>, event: CallEvent) -> Item {
    let (record, active) = known.map(|known| (known.record, known.written)).unzip();
    Item { event, record, active }
}

/// Whether it ends a call of which too little is known, or perhaps only not yet.
fn is_unsettled(item: &Item) -> bool {
    item.record.is_none() && item.event.is_end()
}

/// Events on their way.
#[derive(Debug)]
pub(crate) struct Calls {
    config: CallsConfig,
    metrics: &'static Metrics,
    /// `None` once it is closed.
    queue: Mutex<Option<mpsc::Sender<CallEvent>>>,
    waiting: Mutex<Option<mpsc::Receiver<CallEvent>>>,
    live: Live,
    outbox: Outbox,
    slots: Arc<Semaphore>,
}

impl Calls {
    /// Starts the spool, if there is to be one.
    pub(crate) fn new(config: CallsConfig, metrics: &'static Metrics) -> Self {
        let (queue, waiting) = mpsc::channel(config.queue.max(1));
        Self {
            live: Live::new(config.interval),
            outbox: Outbox::new(config.outbox(), counters(metrics)),
            config,
            metrics,
            queue: Some(queue).into(),
            waiting: Some(waiting).into(),
            slots: Arc::new(Semaphore::new(UNDER_WAY)),
        }
    }

    /// Takes an event over; it is written soon. When there are too many it is refused, and counted.
    pub(crate) fn take(&self, event: CallEvent) {
        let taken = lock(&self.queue).as_ref().is_some_and(|queue| queue.try_send(event).is_ok());
        if !taken {
            count(&self.metrics.call_events_dropped);
        }
    }

    /// Sees every event into `sink` or the spool, until [`Self::close`] and all of them are. Of the time there is, a quarter goes
    /// by before a group comes here; the rest is the outbox's.
    pub(crate) async fn record<S: Sink>(self: Arc<Self>, sink: Arc<S>) {
        let Some(mut waiting) = lock(&self.waiting).take() else { return };
        let mut events = Vec::with_capacity(GROUP);
        while waiting.recv_many(&mut events, GROUP).await > 0 {
            for group in self.groups(events.drain(..)) {
                let Ok(slots) = self.slots.clone().acquire_many_owned(group.len() as u32).await else { return };
                let (calls, sink) = (self.clone(), sink.clone());
                tokio::spawn(async move {
                    let group = calls.settled(group).await;
                    group.iter().for_each(|item| calls.log(item));
                    calls.outbox.see_off(&group, &*sink).await;
                    drop(slots);
                });
            }
        }
        let _ = self.slots.acquire_many(UNDER_WAY as u32).await;
    }

    /// The calls that are under way on this node.
    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// Within this time the others know whether a call is there.
    pub(crate) fn interval(&self) -> Duration {
        self.config.interval
    }

    /// Whether a call that began then has been under way for too long.
    pub(crate) fn has_expired(&self, started_at: Timestamp, now: Timestamp) -> bool {
        i128::from(now.0) - i128::from(started_at.0) > self.config.lifetime.as_millis().cast_signed()
    }

    /// Takes no more events.
    pub(crate) fn close(&self) {
        lock(&self.queue).take();
    }

    /// Writes what the spool was given, and closes it.
    pub(crate) async fn close_spool(&self) {
        self.outbox.close().await;
    }

    /// Writes what the spool holds whenever the sink takes it, for ever.
    pub(crate) async fn replay<S: Sink>(&self, sink: &S) {
        self.outbox.replay(sink).await;
    }

    /// What is written together; ends that may have overtaken what happened before are apart.
    fn groups(&self, events: impl Iterator<Item = CallEvent>) -> impl Iterator<Item = Vec<Item>> {
        let items = events.map(|event| item(self.live.take(&event), event));
        let (unsettled, settled): (Vec<_>, Vec<_>) = items.partition(is_unsettled);
        [settled, unsettled].into_iter().filter(|group| !group.is_empty())
    }

    /// Of ends that may have overtaken what happened before, what is known a moment later.
    async fn settled(&self, group: Vec<Item>) -> Vec<Item> {
        if !group.iter().any(is_unsettled) {
            return group;
        }
        sleep(OVERTAKEN).await;
        let settle = |item: Item| self::item(self.live.settle(item.event.record_id()), item.event);
        group.into_iter().map(settle).collect()
    }

    fn log(&self, item: &Item) {
        if !self.config.log {
            return;
        }
        let record = item.record.as_ref().filter(|_| item.event.is_end());
        tracing::info!(target: event_log::CALLS, "call {}", line(&item.event, record));
    }
}

/// An event as JSON, with what it makes of its call. Control characters are six bytes each there: when that is too long for the log, its
/// texts are cut further.
fn line(event: &CallEvent, record: Option<&CallRecord>) -> String {
    let mut event = Cow::Borrowed(event);
    let mut longest = LONGEST_TEXT;
    loop {
        let line = record.map_or_else(|| event.json(), |record| event.json_with(record));
        if line.len() <= event_log::LONGEST_LINE {
            return line;
        }
        longest /= 4;
        event.to_mut().cut_to(longest);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use domain::call::event;
    use tokio::time::timeout;

    use super::*;
    use crate::metrics::get;
    use crate::testing::{TemporaryFile, call_event, temporary_file};

    /// Takes what it is given while it is up, and is slow when it is told to be.
    #[derive(Debug, Default)]
    struct Table {
        down: AtomicBool,
        slow: AtomicBool,
        written: Mutex<Vec<i64>>,
    }

    impl Sink for Table {
        fn takes_writes(&self) -> bool {
            true
        }

        async fn write(&self, items: &[Item]) -> bool {
            if self.slow.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(200)).await;
            }
            let up = !self.down.load(Ordering::Relaxed);
            if up {
                lock(&self.written).extend(items.iter().map(|item| item.event.id.micros()));
            }
            up
        }
    }

    impl Table {
        fn set(&self, down: bool) {
            self.down.store(down, Ordering::Relaxed);
        }

        /// Sorted, each once.
        fn written(&self) -> Vec<i64> {
            let mut written = lock(&self.written).clone();
            written.sort_unstable();
            written.dedup();
            written
        }
    }

    /// One run of an I/O process.
    struct Run {
        calls: Arc<Calls>,
        metrics: &'static Metrics,
        recording: tokio::task::JoinHandle<()>,
        replay: tokio::task::JoinHandle<()>,
    }

    impl Run {
        fn start(table: &Arc<Table>, file: Option<&TemporaryFile>) -> Self {
            let metrics = Box::leak(Box::default());
            let config = CallsConfig { spool_file: file.map(TemporaryFile::path), ..CallsConfig::default() };
            let calls = Arc::new(Calls::new(config, metrics));
            let recording = tokio::spawn(calls.clone().record(table.clone()));
            let replay = tokio::spawn({
                let (calls, table) = (calls.clone(), table.clone());
                async move { calls.replay(&*table).await }
            });
            Self { calls, metrics, recording, replay }
        }

        fn take(&self, numbers: std::ops::Range<i64>) {
            numbers.for_each(|number| self.calls.take(call_event(event::ATTEMPT, number)));
        }

        async fn stop(self) -> u64 {
            self.calls.close();
            timeout(Duration::from_secs(5), self.recording).await.expect("in time").expect("no panic");
            self.replay.abort();
            self.calls.close_spool().await;
            get(&self.metrics.call_events_accepted)
        }
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        for _ in 0..1000 {
            if condition() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain");
    }

    #[tokio::test]
    async fn events_are_written_at_once_while_they_can_be() {
        let (table, file) = (Arc::new(Table::default()), temporary_file("calls"));
        let run = Run::start(&table, Some(&file));
        run.take(0..100);
        until(|| table.written().len() == 100).await;
        assert_eq!(get(&run.metrics.call_events_spooled), 0);
        assert_eq!(run.stop().await, 100);
    }

    #[tokio::test]
    async fn what_is_not_taken_is_spooled_and_written_later_also_by_the_next_process() {
        let (table, file) = (Arc::new(Table::default()), temporary_file("calls"));
        table.set(true);
        let run = Run::start(&table, Some(&file));
        run.take(0..300);
        until(|| get(&run.metrics.call_events_accepted) == 300).await;
        assert_eq!(get(&run.metrics.call_events_spooled), 300);
        assert_eq!(run.stop().await, 300);
        assert!(table.written().is_empty());
        let run = Run::start(&table, Some(&file));
        run.take(300..310);
        until(|| get(&run.metrics.call_events_accepted) == 10).await;
        table.set(false);
        until(|| get(&run.metrics.call_events_spooled) == 0).await;
        assert_eq!(table.written(), (0..310).collect::<Vec<_>>());
        run.stop().await;
    }

    #[tokio::test]
    async fn a_slow_write_is_synced_meanwhile() {
        let (table, file) = (Arc::new(Table::default()), temporary_file("calls"));
        table.slow.store(true, Ordering::Relaxed);
        let run = Run::start(&table, Some(&file));
        run.take(0..10);
        until(|| get(&run.metrics.call_events_accepted) == 10).await;
        assert!(table.written().is_empty(), "the spool was not faster");
        run.stop().await;
    }

    #[tokio::test]
    async fn without_a_spool_they_wait_in_memory_and_too_many_are_refused() {
        let table = Arc::new(Table::default());
        table.set(true);
        let run = Run::start(&table, None);
        // A group waits between the queue and what is under way.
        let (room, over) = (UNDER_WAY as i64 + CallsConfig::default().queue as i64, 2 * GROUP as i64);
        for number in 0..room + over {
            run.take(number..number + 1);
            if number % 100 == 0 {
                sleep(Duration::from_millis(5)).await; // so that the queue empties into what is under way
            }
        }
        let dropped = get(&run.metrics.call_events_dropped);
        assert!((1..=over as u64).contains(&dropped), "{dropped} were refused");
        table.set(false);
        until(|| table.written().len() as u64 == (room + over) as u64 - dropped).await;
        run.stop().await;
    }
}
