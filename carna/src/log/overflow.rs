//! Lines that Logstash does not take yet, in one file that survives the end of Carna.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

/// Lines by their numbers.
const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("lines");
/// Bytes of the file that are kept in memory.
const CACHE: usize = 4 << 20;

/// A line, and its place in the order.
pub(super) type Numbered = (u64, Arc<str>);

/// The file.
#[derive(Debug)]
pub(super) struct Overflow {
    database: Database,
    most: u64,
    bytes: u64,
    next: u64,
}

impl Overflow {
    /// Opens the file, or makes it; it holds so many bytes of lines at most.
    ///
    /// # Errors
    /// It cannot be made, is none, or another process has it.
    pub(super) fn open(file: &Path, most: u64) -> Result<Self> {
        let database = Database::builder().set_cache_size(CACHE).create(file);
        let database = database
            .map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => {
                    anyhow::anyhow!("another process uses it: give each its own state_dir")
                }
                other => other.into(),
            })
            .with_context(|| format!("cannot use {} for lines that wait for Logstash", file.display()))?;
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?;
        transaction.commit()?;
        let table = database.begin_read()?.open_table(TABLE)?;
        let next = table.last()?.map_or(0, |(number, _)| number.value() + 1);
        let mut bytes = 0;
        for line in table.iter()? {
            bytes += line?.1.value().len() as u64;
        }
        drop(table);
        Ok(Self { database, most, bytes, next })
    }

    /// The number after the last one that was in it at the start.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Bytes of lines in it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds lines and syncs them. Gives how many of the oldest had to give way, beside those that are being sent, whose numbers are below
    /// `unsent`.
    ///
    /// # Errors
    /// The disk does not take them: none is in it.
    pub(super) fn insert(&mut self, lines: &[Numbered], unsent: u64) -> Result<u64, redb::Error> {
        let (mut bytes, mut dropped) = (self.bytes, 0);
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (number, line) in lines {
                let former = table.insert(number, line.as_bytes())?.map_or(0, |former| former.value().len());
                bytes = bytes + line.len() as u64 - former as u64;
            }
            while bytes > self.most
                && let Some((number, oldest)) = table.pop_first()?
            {
                bytes -= oldest.value().len() as u64;
                dropped += u64::from(number.value() >= unsent);
            }
        }
        transaction.commit()?;
        self.bytes = bytes;
        Ok(dropped)
    }

    /// The oldest lines, so many bytes at most, but one at least.
    ///
    /// # Errors
    /// The disk does not give them.
    pub(super) fn oldest(&self, most: usize) -> Result<Vec<Numbered>, redb::Error> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let (mut oldest, mut bytes) = (Vec::new(), 0);
        for entry in table.iter()? {
            let (number, line) = entry?;
            bytes += line.value().len();
            oldest.push((number.value(), String::from_utf8_lossy(line.value()).into()));
            if bytes >= most {
                break;
            }
        }
        Ok(oldest)
    }

    /// Forgets the lines below this number.
    ///
    /// # Errors
    /// The disk does not let it: they are still in it.
    pub(super) fn remove_below(&mut self, number: u64) -> Result<(), redb::Error> {
        let mut bytes = self.bytes;
        let transaction = self.database.begin_write()?;
        for removed in transaction.open_table(TABLE)?.extract_from_if(..number, |_, _| true)? {
            bytes -= removed?.1.value().len() as u64;
        }
        transaction.commit()?;
        self.bytes = bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(numbers: std::ops::Range<u64>) -> Vec<Numbered> {
        numbers.map(|number| (number, format!("line {number}").into())).collect()
    }

    #[test]
    fn lines_survive_in_order_and_the_oldest_give_way() -> Result<()> {
        let dir = lab::RunDir::new("overflow")?;
        let file = dir.join("logs.redb");
        let mut overflow = Overflow::open(&file, 30)?;
        assert_eq!(overflow.insert(&numbered(2..5), 0)?, 0);
        assert_eq!(overflow.insert(&numbered(0..2), 0)?, 0, "what was sent in vain goes before them");
        assert_eq!((overflow.insert(&numbered(5..7), 1)?, overflow.bytes()), (1, 30), "one of two was being sent");
        assert!(Overflow::open(&file, 30).is_err(), "two processes");
        drop(overflow);
        let mut overflow = Overflow::open(&file, 30)?;
        assert_eq!((overflow.next(), overflow.bytes()), (7, 30));
        assert_eq!(overflow.oldest(1)?, numbered(2..3));
        overflow.remove_below(3)?;
        assert_eq!((overflow.oldest(1000)?, overflow.bytes()), (numbered(3..7), 24));
        overflow.remove_below(7)?;
        assert_eq!((overflow.oldest(1000)?, overflow.bytes()), (Vec::new(), 0));
        Ok(())
    }
}
