//! What Cassandra has not taken yet, in an embedded database in one file: it survives the process and the machine's power.
//!
//! One thread owns the file. What has come while it synced goes into the next commit, which is synced before its senders are
//! told; items leave in the order in which they came. When the file cannot be written the group waits, and with it all who come after: nothing is
//! told to be kept that is not.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, mem};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use super::{Counters, Item};

/// By number, ascending in the order of arrival; the value is a version and the item.
const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("calls");

/// Version of an item's format: items of others are dropped.
const FORMAT: u8 = 2;

/// What waits for the thread. With all who may send at once it bounds what is in memory.
const QUEUE: usize = 1024;

/// Pause between two attempts to write or to open the file.
const RETRY: Duration = Duration::from_millis(500);

/// How the spool is kept.
#[derive(Debug, Clone)]
pub(super) struct SpoolConfig {
    /// The file.
    pub(super) file: PathBuf,
    /// Bytes of items that it may hold; the oldest give way.
    pub(super) most_bytes: u64,
}

/// An item in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spooled {
    pub(super) number: u64,
    /// `None`: another version wrote it.
    pub(super) item: Option<Item>,
}

enum Command {
    Put(Vec<u8>, oneshot::Sender<u64>),
    Remove(Vec<u64>),
    Oldest(usize, oneshot::Sender<Vec<Spooled>>),
    Stop(oneshot::Sender<()>),
}

/// The way to the thread that owns the file.
#[derive(Debug)]
pub(super) struct Spool {
    commands: mpsc::Sender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Spool {
    /// Starts the thread, which opens the file as soon as it can be.
    pub(super) fn open(config: SpoolConfig, counters: Counters) -> io::Result<Self> {
        let (commands, waiting) = mpsc::channel(QUEUE);
        let keeper = Keeper { config, counters, open: None, complained: false };
        let thread = thread::Builder::new().name("cassandra-spool".to_owned()).spawn(move || keeper.keep(waiting))?;
        Ok(Self { commands, thread: Some(thread).into() })
    }

    /// Keeps an item, and returns its number once it is synced. Waits for as long as that takes; `None` when the spool is closed.
    pub(super) async fn put(&self, item: &Item) -> Option<u64> {
        let mut record = vec![FORMAT];
        record.extend(postcard::to_stdvec(item).ok()?);
        let (kept, number) = oneshot::channel();
        self.commands.send(Command::Put(record, kept)).await.ok()?;
        number.await.ok()
    }

    /// Forgets items that are in Cassandra. One that is not forgotten is written there once more, which changes nothing.
    pub(super) async fn remove(&self, numbers: Vec<u64>) {
        let _ = self.commands.send(Command::Remove(numbers)).await;
    }

    /// The oldest items, in order.
    pub(super) async fn oldest(&self, most: usize) -> Vec<Spooled> {
        let (found, items) = oneshot::channel();
        if self.commands.send(Command::Oldest(most, found)).await.is_err() {
            return Vec::new();
        }
        items.await.unwrap_or_default()
    }

    /// Writes what has come so far, and closes the file.
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Stop(done)).await.is_ok() {
            let _ = closed.await;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// The thread.
struct Keeper {
    config: SpoolConfig,
    counters: Counters,
    /// `None` while it cannot be used.
    open: Option<Open>,
    complained: bool,
}

/// The open file, with what is in it.
struct Open {
    database: Database,
    next: u64,
    bytes: u64,
    items: u64,
}

/// What is done in one commit.
#[derive(Default)]
struct Group {
    puts: Vec<(Vec<u8>, oneshot::Sender<u64>)>,
    removed: Vec<u64>,
    stop: Option<oneshot::Sender<()>>,
}

impl Keeper {
    fn keep(mut self, mut waiting: mpsc::Receiver<Command>) {
        let mut group = Group::default();
        self.ready();
        while let Some(first) = waiting.blocking_recv() {
            self.take(first, &mut group);
            self.take_waiting(&mut waiting, &mut group);
            // At the stop what cannot be kept is not: its senders know.
            while !self.commit(&mut group) && group.stop.is_none() {
                thread::sleep(RETRY);
                self.take_waiting(&mut waiting, &mut group);
            }
            if let Some(done) = group.stop.take() {
                drop(self);
                let _ = done.send(());
                return;
            }
        }
    }

    /// Whether the file is open, or can be opened now.
    fn ready(&mut self) -> bool {
        if self.open.is_none() {
            match Open::at(&self.config.file) {
                Ok(open) => {
                    self.counters.spooled.store(open.items, Relaxed);
                    self.open = Some(open);
                }
                Err(reason) => self.complain(&reason),
            }
        }
        self.open.is_some()
    }

    /// Says once what is wrong.
    fn complain(&mut self, reason: &str) {
        if !mem::replace(&mut self.complained, true) {
            self.counters.broken.store(1, Relaxed);
            tracing::error!(
                "the spool of call events, {}, cannot be used: {reason}; events that Cassandra does not take wait in memory, \
                 and are lost when there are too many",
                self.config.file.display()
            );
        }
    }

    fn is_usable_again(&mut self) {
        if mem::take(&mut self.complained) {
            self.counters.broken.store(0, Relaxed);
            tracing::info!("the spool of call events can be used again");
        }
    }

    fn take_waiting(&mut self, waiting: &mut mpsc::Receiver<Command>, group: &mut Group) {
        while let Ok(next) = waiting.try_recv() {
            self.take(next, group);
        }
    }

    fn take(&mut self, command: Command, group: &mut Group) {
        match command {
            Command::Put(record, kept) => group.puts.push((record, kept)),
            Command::Remove(numbers) => group.removed.extend(numbers),
            Command::Oldest(most, found) => {
                self.ready();
                let items = self.open.as_ref().and_then(|open| open.oldest(most).ok());
                let _ = found.send(items.unwrap_or_default());
            }
            Command::Stop(done) => group.stop = Some(done),
        }
    }

    /// Whether the group, if there is anything to write in it, is on the disk.
    fn commit(&mut self, group: &mut Group) -> bool {
        // Who waits no more has seen it in Cassandra.
        group.puts.retain(|(_, kept)| !kept.is_closed());
        if group.puts.is_empty() && group.removed.is_empty() {
            return true;
        }
        self.ready();
        let Some(open) = &mut self.open else { return false };
        let first = open.next;
        match open.write(group, self.config.most_bytes) {
            Ok(dropped) => {
                self.counters.spooled.store(open.items, Relaxed);
                self.is_usable_again();
                self.tell_dropped(dropped);
                group.removed.clear();
                for (number, (_, kept)) in (first..).zip(group.puts.drain(..)) {
                    let _ = kept.send(number);
                }
                true
            }
            Err(error) => {
                self.complain(&error.to_string());
                // After a failure of the disk the database must be opened anew.
                self.open = None;
                false
            }
        }
    }

    fn tell_dropped(&self, dropped: u64) {
        if dropped > 0 {
            self.counters.dropped.fetch_add(dropped, Relaxed);
            tracing::error!("the spool of call events is full: its {dropped} oldest are lost; see call_spool_size");
        }
    }
}

impl Open {
    fn at(file: &Path) -> Result<Self, String> {
        let database = Database::create(file).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => "another process uses it: give each its own state_dir".to_owned(),
            other => other.to_string(),
        })?;
        Self::read(database).map_err(|error| error.to_string())
    }

    fn read(database: Database) -> Result<Self, redb::Error> {
        // Makes the table of a new file.
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?;
        transaction.commit()?;
        let table = database.begin_read()?.open_table(TABLE)?;
        let next = table.last()?.map_or(0, |(number, _)| number.value() + 1);
        let mut bytes = 0;
        for entry in table.iter()? {
            bytes += entry?.1.value().len() as u64;
        }
        let items = table.len()?;
        drop(table);
        Ok(Self { database, next, bytes, items })
    }

    fn oldest(&self, most: usize) -> Result<Vec<Spooled>, redb::Error> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut found = Vec::new();
        for entry in table.iter()?.take(most) {
            let (number, record) = entry?;
            found.push(Spooled { number: number.value(), item: decode(record.value()) });
        }
        Ok(found)
    }

    /// Writes a group and syncs it. Returns how many of the oldest had to give way.
    fn write(&mut self, group: &Group, most_bytes: u64) -> Result<u64, redb::Error> {
        let (mut next, mut bytes, mut items, mut dropped) = (self.next, self.bytes, self.items, 0);
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for number in &group.removed {
                if let Some(record) = table.remove(number)? {
                    bytes -= record.value().len() as u64;
                    items -= 1;
                }
            }
            for (record, _) in &group.puts {
                table.insert(next, record.as_slice())?;
                bytes += record.len() as u64;
                items += 1;
                next += 1;
            }
            while bytes > most_bytes
                && let Some((_, record)) = table.pop_first()?
            {
                bytes -= record.value().len() as u64;
                items -= 1;
                dropped += 1;
            }
        }
        transaction.commit()?;
        (self.next, self.bytes, self.items) = (next, bytes, items);
        Ok(dropped)
    }
}

fn decode(record: &[u8]) -> Option<Item> {
    let (&version, encoded) = record.split_first()?;
    if version != FORMAT {
        return None;
    }
    postcard::from_bytes(encoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::testing::{TemporaryFile, counters, event};

    const ROOM: u64 = 1 << 20;

    fn item(number: i64) -> Item {
        Item::of(event(number))
    }

    fn open(file: &Path, most_bytes: u64) -> (Spool, Counters) {
        let counters = counters();
        let config = SpoolConfig { file: file.to_owned(), most_bytes };
        (Spool::open(config, counters).expect("a thread"), counters)
    }

    async fn put(spool: &Spool, numbers: impl Iterator<Item = i64>) {
        for number in numbers {
            spool.put(&item(number)).await.expect("kept");
        }
    }

    async fn events(spool: &Spool) -> Vec<i64> {
        let spooled = spool.oldest(1000).await;
        spooled.into_iter().map(|one| one.item.expect("ours").event.id.micros()).collect()
    }

    #[tokio::test]
    async fn what_is_kept_is_there_in_order_after_a_restart() {
        let file = TemporaryFile::new("spool");
        let (spool, _) = open(&file.path(), ROOM);
        put(&spool, 0..20).await;
        let first: Vec<u64> = spool.oldest(5).await.iter().map(|spooled| spooled.number).collect();
        spool.remove(first).await;
        spool.close().await;
        let (spool, counters) = open(&file.path(), ROOM);
        assert_eq!(events(&spool).await, (5..20).collect::<Vec<_>>());
        assert_eq!(counters.spooled.load(Relaxed), 15);
        put(&spool, 20..21).await;
        assert_eq!(events(&spool).await.last(), Some(&20));
        spool.close().await;
    }

    #[tokio::test]
    async fn the_oldest_give_way_and_are_counted() {
        let file = TemporaryFile::new("spool");
        let one = postcard::to_stdvec(&item(1)).expect("encodes").len() as u64 + 1;
        let (spool, counters) = open(&file.path(), one * 10 + one / 2);
        put(&spool, 0..30).await;
        assert_eq!(events(&spool).await, (20..30).collect::<Vec<_>>());
        assert_eq!((counters.dropped.load(Relaxed), counters.spooled.load(Relaxed)), (20, 10));
        spool.close().await;
    }

    #[tokio::test]
    async fn a_file_in_use_is_waited_for() {
        let file = TemporaryFile::new("spool");
        let (first, _) = open(&file.path(), ROOM);
        put(&first, 0..1).await;
        let (second, counters) = open(&file.path(), ROOM);
        let item = item(1);
        let waiting = second.put(&item);
        let mut waiting = std::pin::pin!(waiting);
        assert!(tokio::time::timeout(RETRY * 2, &mut waiting).await.is_err(), "kept in a file of another");
        assert_eq!(counters.broken.load(Relaxed), 1);
        first.close().await;
        assert_eq!(waiting.await, Some(1));
        assert_eq!(counters.broken.load(Relaxed), 0);
        second.close().await;
    }

    #[tokio::test]
    async fn what_cannot_be_kept_does_not_hold_up_the_stop() {
        let (spool, _) = open(Path::new("/nowhere/spool"), ROOM);
        let item = item(1);
        let waiting = std::pin::pin!(spool.put(&item));
        let (kept, ()) = tokio::join!(waiting, async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            spool.close().await;
        });
        assert_eq!(kept, None);
    }
}
