//! What the node's Kamailio routes by: its dispatcher's list or table, and that it has read it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::files::replace;
use crate::kamailio::Rpc;
use crate::sets::{DISABLED, Line};

/// Flags that `dispatcher.list` shows for a destination that takes nothing new.
const SHOWN_DISABLED: char = 'D';
/// Version of the module's table.
const TABLE_VERSION: u32 = 4;
/// How long another process may have the database.
const BUSY: Duration = Duration::from_secs(5);

/// Where the module `dispatcher` reads its sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Its list file.
    List(PathBuf),
    /// An SQLite database with Kamailio's tables.
    Database(PathBuf),
}

impl Place {
    /// Puts these lines there, in the place of all others: whoever reads meanwhile sees all of the old ones or all of the new ones, also
    /// after a crash. Gives whether others were there.
    ///
    /// # Errors
    /// It cannot be written; what was there is still there. That there are no lines is an error.
    pub fn write(&self, lines: &[Line]) -> Result<bool> {
        ensure!(!lines.is_empty(), "an empty list of nodes is not written");
        match self {
            Self::List(path) => write_list(path, lines),
            Self::Database(path) => {
                write_table(path, lines).with_context(|| format!("cannot write {}", path.display()))
            }
        }
    }
}

fn write_list(path: &Path, lines: &[Line]) -> Result<bool> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(false);
    }
    replace(path, text.as_bytes())?;
    Ok(true)
}

fn write_table(path: &Path, lines: &[Line]) -> Result<bool> {
    let mut database = Connection::open(path)?;
    database.busy_timeout(BUSY)?;
    database.execute_batch(
        "CREATE TABLE IF NOT EXISTS version (table_name VARCHAR(32) NOT NULL, table_version INTEGER DEFAULT 0 NOT NULL, \
         CONSTRAINT version_table_name_idx UNIQUE (table_name));
         CREATE TABLE IF NOT EXISTS dispatcher (id INTEGER PRIMARY KEY NOT NULL, setid INTEGER DEFAULT 0 NOT NULL, \
         destination VARCHAR(192) DEFAULT '' NOT NULL, flags INTEGER DEFAULT 0 NOT NULL, priority INTEGER DEFAULT 0 NOT NULL, \
         attrs VARCHAR(128) DEFAULT '' NOT NULL, description VARCHAR(64) DEFAULT '' NOT NULL);",
    )?;
    let change = database.transaction()?;
    change.execute("INSERT OR REPLACE INTO version VALUES ('dispatcher', ?)", [TABLE_VERSION])?;
    let present = {
        let mut select =
            change.prepare("SELECT setid, destination, flags, priority, attrs FROM dispatcher ORDER BY id")?;
        let line = |row: &rusqlite::Row<'_>| {
            Ok(Line {
                set: row.get(0)?,
                destination: row.get(1)?,
                flags: row.get(2)?,
                priority: row.get(3)?,
                attrs: row.get(4)?,
            })
        };
        select.query_map([], line)?.collect::<Result<Vec<_>, _>>()?
    };
    if present == lines {
        change.commit()?;
        return Ok(false);
    }
    change.execute("DELETE FROM dispatcher", [])?;
    for (id, Line { set, destination, flags, priority, attrs }) in (1_i64..).zip(lines) {
        change.execute(
            "INSERT INTO dispatcher (id, setid, destination, flags, priority, attrs) VALUES (?, ?, ?, ?, ?, ?)",
            params![id, set, destination, flags, priority, attrs],
        )?;
    }
    change.commit()?;
    Ok(true)
}

/// A destination as far as it can be compared: set, URI, and whether it takes nothing new.
type Destination = (u64, String, bool);

/// Has Kamailio read its list again, and makes sure that it has.
///
/// # Errors
/// It is not there, refuses, or has other destinations than these afterwards.
pub async fn reload(rpc: &Rpc, lines: &[Line]) -> Result<()> {
    rpc.call("dispatcher.reload", json!([])).await?;
    ensure!(is_loaded(rpc, lines).await?, "Kamailio has other destinations than its list after a reload");
    Ok(())
}

/// Whether Kamailio has these destinations and no others.
///
/// # Errors
/// It does not tell.
pub async fn is_loaded(rpc: &Rpc, lines: &[Line]) -> Result<bool> {
    let wanted: BTreeSet<Destination> =
        lines.iter().map(|line| (line.set.into(), line.destination.clone(), line.flags & DISABLED != 0)).collect();
    Ok(loaded(&rpc.call("dispatcher.list", json!([])).await?) == wanted)
}

/// What `dispatcher.list` shows.
fn loaded(answer: &Value) -> BTreeSet<Destination> {
    let sets = answer["RECORDS"].as_array().into_iter().flatten().map(|record| &record["SET"]);
    sets.flat_map(|set| {
        let id = set["ID"].as_u64().unwrap_or_default();
        set["TARGETS"].as_array().into_iter().flatten().map(move |target| {
            let shown = &target["DEST"];
            let flags = shown["FLAGS"].as_str().unwrap_or_default();
            (id, shown["URI"].as_str().unwrap_or_default().to_owned(), flags.contains(SHOWN_DISABLED))
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(set: u32, host: u8) -> Line {
        Line {
            set,
            destination: format!("sip:192.0.2.{host}:5060"),
            flags: 0,
            priority: 0,
            attrs: "weight=50".to_owned(),
        }
    }

    fn in_a_directory(test: impl FnOnce(&Path)) {
        let dir =
            std::env::temp_dir().join(format!("carna-routes-{}-{:?}", std::process::id(), std::thread::current().id()));
        fs::create_dir_all(&dir).expect("a directory");
        test(&dir);
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn a_list_is_there_as_a_whole_or_not_at_all() {
        in_a_directory(|dir| {
            let path = dir.join("dispatcher.list");
            let place = Place::List(path.clone());
            assert!(place.write(&[line(1, 1), line(2, 2)]).expect("written"));
            assert!(!place.write(&[line(1, 1), line(2, 2)]).expect("the same"));
            assert!(place.write(&[]).is_err());
            let text = fs::read_to_string(&path).expect("still there");
            assert_eq!(text, "1 sip:192.0.2.1:5060 0 0 weight=50\n2 sip:192.0.2.2:5060 0 0 weight=50\n");
            assert_eq!(fs::read_dir(dir).expect("a directory").count(), 1, "something is left");
            let nowhere = Place::List(dir.join("none/dispatcher.list"));
            assert!(nowhere.write(&[line(1, 1)]).is_err());
        });
    }

    #[test]
    fn a_table_is_changed_in_one_transaction() {
        in_a_directory(|dir| {
            let path = dir.join("dispatcher.sqlite");
            let place = Place::Database(path.clone());
            assert!(place.write(&[line(1, 1), line(2, 2)]).expect("written"));
            assert!(!place.write(&[line(1, 1), line(2, 2)]).expect("the same"));
            let reader = Connection::open(&path).expect("a database");
            let count =
                || reader.query_row("SELECT COUNT(*) FROM dispatcher", [], |row| row.get::<_, u32>(0)).expect("rows");
            reader.execute_batch("BEGIN").expect("a transaction");
            assert_eq!(count(), 2);
            reader.execute_batch("COMMIT").expect("its end");
            assert!(place.write(&[line(2, 3)]).expect("written") && place.write(&[]).is_err());
            assert_eq!(count(), 1);
            let version =
                reader.query_row("SELECT table_version FROM version WHERE table_name = 'dispatcher'", [], |row| {
                    row.get(0)
                });
            assert_eq!(version, Ok(TABLE_VERSION));
        });
    }

    #[test]
    fn what_kamailio_shows_is_compared_with_what_it_should_have() {
        let shown = json!({"NRSETS": 1, "RECORDS": [{"SET": {"ID": 2, "TARGETS": [
            {"DEST": {"URI": "sip:192.0.2.1:5060", "FLAGS": "IP", "PRIORITY": 0}},
            {"DEST": {"URI": "sip:192.0.2.2:5060", "FLAGS": "DX", "PRIORITY": 0}}]}}]});
        let expected = [(2, "sip:192.0.2.1:5060".to_owned(), false), (2, "sip:192.0.2.2:5060".to_owned(), true)];
        assert_eq!(loaded(&shown), BTreeSet::from(expected));
    }
}
