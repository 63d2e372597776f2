//! The file of the index: an embedded database, written by a thread of its own, a few times a second.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use domain::{Aor, Binding};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::Key;

/// By domain, user and binding; the value is a version and the record.
const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("owned");

/// Version of the record's format: records of others are left out.
const FORMAT: u8 = 1;

/// Changes that wait to be written; more are dropped, since nothing may wait for the disk.
const MOST_WAITING: usize = 100_000;

/// Changes are gathered this long, so that many cost one commit.
const GATHER: Duration = Duration::from_millis(250);

/// Why the index's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It is locked.
    #[error("{0} is in use by another Kamailio: give each its own state_dir")]
    InUse(String),
    /// It cannot be read or written.
    #[error("{file} cannot be used: {reason}")]
    Unusable {
        /// The file.
        file: String,
        /// What its database says.
        reason: String,
    },
}

enum Change {
    Put(String, Vec<u8>),
    Remove(String),
    Stop(Sender<()>),
}

/// The writer of the file.
#[derive(Debug)]
pub(super) struct Journal {
    changes: SyncSender<Change>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Opens or makes the file, and returns what is in it.
    pub(super) fn open(file: &Path) -> Result<(Self, Vec<(Aor, Binding)>), JournalError> {
        let unusable = |reason: String| JournalError::Unusable { file: file.display().to_string(), reason };
        let database = Database::create(file).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => JournalError::InUse(file.display().to_string()),
            other => unusable(other.to_string()),
        })?;
        let kept = read(&database).map_err(|error| unusable(error.to_string()))?;
        let (changes, waiting) = sync_channel(MOST_WAITING);
        let name = file.display().to_string();
        let writer = thread::Builder::new()
            .name("cassandra-owned".to_owned())
            .spawn(move || write_changes(&database, &waiting, &name))
            .map_err(|error: io::Error| unusable(error.to_string()))?;
        Ok((Self { changes, writer: Mutex::new(Some(writer)) }, kept))
    }

    pub(super) fn put(&self, key: &Key, binding: &Binding) {
        let mut record = vec![FORMAT];
        if let Ok(encoded) = postcard::to_stdvec(&(&key.0, binding)) {
            record.extend_from_slice(&encoded);
            self.send(Change::Put(name(key), record));
        }
    }

    pub(super) fn remove(&self, key: &Key) {
        self.send(Change::Remove(name(key)));
    }

    fn send(&self, change: Change) {
        if let Err(TrySendError::Full(_)) = self.changes.try_send(change) {
            tracing::warn!("the disk does not keep up: a contact of this node is forgotten at the next restart");
        }
    }

    /// Writes all changes and ends.
    pub(super) fn close(&self) {
        let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let (done, written) = channel();
        if self.changes.send(Change::Stop(done)).is_ok() {
            let _ = written.recv();
        }
        let _ = writer.join();
    }
}

fn name((aor, key): &Key) -> String {
    format!("{}\0{}\0{}", aor.domain(), aor.username(), key.0)
}

fn read(database: &Database) -> Result<Vec<(Aor, Binding)>, redb::Error> {
    // Makes the table of a new file.
    let transaction = database.begin_write()?;
    transaction.open_table(TABLE)?;
    transaction.commit()?;
    let table = database.begin_read()?.open_table(TABLE)?;
    let mut kept = Vec::new();
    for entry in table.iter()? {
        let (_, record) = entry?;
        if let Some((&FORMAT, encoded)) = record.value().split_first()
            && let Ok(decoded) = postcard::from_bytes(encoded)
        {
            kept.push(decoded);
        }
    }
    Ok(kept)
}

fn write_changes(database: &Database, waiting: &Receiver<Change>, file: &str) {
    while let Ok(first) = waiting.recv() {
        if !matches!(first, Change::Stop(_)) {
            thread::sleep(GATHER);
        }
        let (changes, stop) = gather(first, waiting);
        if let Err(error) = write(database, &changes) {
            tracing::error!(
                "{file} cannot be written: {error}; contacts of this node are forgotten at the next restart"
            );
        }
        if let Some(done) = stop {
            let _ = done.send(());
            return;
        }
    }
}

/// All changes that wait, and who waits for the end.
fn gather(first: Change, waiting: &Receiver<Change>) -> (Vec<Change>, Option<Sender<()>>) {
    let mut changes = Vec::new();
    for change in std::iter::once(first).chain(waiting.try_iter()) {
        match change {
            Change::Stop(done) => return (changes, Some(done)),
            change => changes.push(change),
        }
    }
    (changes, None)
}

fn write(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(TABLE)?;
        for change in changes {
            match change {
                Change::Put(name, record) => drop(table.insert(name.as_str(), record.as_slice())?),
                Change::Remove(name) => drop(table.remove(name.as_str())?),
                Change::Stop(_) => {}
            }
        }
    }
    transaction.commit()?;
    Ok(())
}
