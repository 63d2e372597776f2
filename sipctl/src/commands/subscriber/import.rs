//! `sipctl subscriber import`: all lines are checked before any subscriber is written.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use domain::Aor;
use futures::{StreamExt, stream};
use indicatif::ProgressBar;
use serde_json::json;
use store::StoreError;
use store::admin::{Admin, Profile};
use tokio::time::sleep;

use crate::connection::Connection;
use crate::output::Output;

/// A first line that says so is skipped.
const HEADER: [&str; 3] = ["username", "domain", "password"];

/// Writes that Cassandra works on at once: enough to keep it busy, far from flooding it.
const IN_FLIGHT: usize = 64;

/// Seconds to wait before a failed write is tried again: a busy cluster or a node that restarts does not end an import.
const PAUSES: [u64; 4] = [1, 2, 4, 8];

/// Wrong lines that are named; the others are counted.
const NAMED: usize = 10;

/// Create subscribers from a CSV file.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file: username,domain,password in each line; '-' reads standard input.
    file: PathBuf,
}

#[derive(Debug, PartialEq, Eq)]
struct NewSubscriber {
    aor: Aor,
    password: String,
}

impl Import {
    pub(crate) async fn run(&self, connection: &Connection, output: &Output) -> anyhow::Result<()> {
        let name = if self.is_stdin() { "standard input".to_owned() } else { self.file.display().to_string() };
        let text = self.read().with_context(|| format!("{name} cannot be read"))?;
        let subscribers = parse(&text).with_context(|| format!("nothing is imported from {name}"))?;
        let admin = connection.admin().await?;
        let bar = output.bar(subscribers.len());
        let written = write(&admin, &subscribers, &bar).await;
        bar.finish_and_clear();
        let added = written?;
        let existing = subscribers.len() - added;
        output.done(
            &format!("{added} added, {existing} existed already and are unchanged."),
            &json!({"added": added, "existing": existing}),
        );
        Ok(())
    }

    fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        if self.is_stdin() {
            io::stdin().lock().read_to_end(&mut text)?;
        } else {
            File::open(&self.file)?.read_to_end(&mut text)?;
        }
        Ok(text)
    }
}

/// Returns how many are new.
async fn write(admin: &Admin, subscribers: &[NewSubscriber], bar: &ProgressBar) -> anyhow::Result<usize> {
    let mut writes =
        stream::iter(subscribers).map(async |new| (&new.aor, add(admin, new).await)).buffer_unordered(IN_FLIGHT);
    let mut added = 0;
    while let Some((aor, written)) = writes.next().await {
        let new = written.with_context(|| stopped(aor, bar.position(), subscribers.len()))?;
        added += usize::from(new);
        bar.inc(1);
    }
    Ok(added)
}

/// Returns whether it is new. One that was written although its first answer was lost counts as existing.
async fn add(admin: &Admin, new: &NewSubscriber) -> Result<bool, StoreError> {
    let profile = Profile::default();
    for pause in PAUSES {
        match admin.add_subscriber(&new.aor, &new.password, &profile).await {
            Err(_) => sleep(Duration::from_secs(pause)).await,
            known => return known,
        }
    }
    admin.add_subscriber(&new.aor, &new.password, &profile).await
}

fn stopped(aor: &Aor, done: u64, all: usize) -> String {
    format!("stopped at {aor}, after {done} of {all} subscribers: run it again to go on")
}

/// The subscribers of all lines, or an error that names the wrong ones.
fn parse(text: &[u8]) -> anyhow::Result<Vec<NewSubscriber>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text); // a byte order mark
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
    let mut lines_of = HashMap::new();
    let (mut subscribers, mut wrong) = (Vec::new(), Vec::new());
    for (index, record) in reader.byte_records().enumerate() {
        let record = record?;
        let line = record.position().map_or(0, |start| line_of(start, text));
        if index == 0 && record == HEADER[..] {
            continue;
        }
        match subscriber(&record) {
            Ok(new) => match lines_of.insert(new.aor.clone(), line) {
                Some(first) => wrong.push(format!("line {line} repeats {} of line {first}", new.aor)),
                None => subscribers.push(new),
            },
            Err(error) => wrong.push(format!("line {line}: {error}")),
        }
    }
    if wrong.is_empty() { Ok(subscribers) } else { bail!(named(&wrong)) }
}

/// The reader skips empty lines (and the LF of a CRLF) after it has noted where a record starts.
fn line_of(start: &csv::Position, text: &[u8]) -> u64 {
    let rest = usize::try_from(start.byte()).ok().and_then(|byte| text.get(byte..)).unwrap_or_default();
    let skipped = rest.iter().take_while(|byte| b"\r\n".contains(byte)).filter(|byte| **byte == b'\n');
    start.line() + skipped.count() as u64
}

/// A password is taken as it stands: white space is part of it (RFC 4180 section 2).
fn subscriber(record: &csv::ByteRecord) -> anyhow::Result<NewSubscriber> {
    let fields: Vec<&str> = record.iter().map(str::from_utf8).collect::<Result<_, _>>().context("it is not UTF-8")?;
    let &[username, domain, password] = fields.as_slice() else {
        bail!("it does not have the three fields username,domain,password")
    };
    let aor = Aor::new(username.trim(), domain.trim())?;
    if password.is_empty() {
        bail!("the password is empty");
    }
    Ok(NewSubscriber { aor, password: password.to_owned() })
}

fn named(wrong: &[String]) -> String {
    let named = wrong.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    match wrong.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<NewSubscriber> {
        parse(text.as_bytes()).expect(text)
    }

    fn refused(text: &[u8]) -> String {
        format!("{:#}", parse(text).expect_err("wrong lines"))
    }

    #[test]
    fn a_header_line_and_a_byte_order_mark_are_optional() {
        let plain = parsed("alice,example.com,secret\n");
        assert_eq!(plain, parsed("\u{feff}username,domain,password\r\nalice,example.com,secret\r\n"));
        assert_eq!(plain.len(), 1);
    }

    #[test]
    fn a_password_is_taken_as_it_stands() {
        let passwords = [("a,b, two words ", " two words "), ("a,b,\"x,\"\"y\"", "x,\"y"), ("a,b,é", "é")];
        for (line, password) in passwords {
            assert_eq!(parsed(line)[0].password, password);
        }
    }

    #[test]
    fn wrong_lines_are_named_by_their_number_in_the_file() {
        for (text, expected) in [
            (&b"a,b,c\n\nalice,example.com\n"[..], "line 3: it does not have the three fields"),
            (b"a,b,c\n,b,c\n", "line 2: '@b' is no address-of-record: the user part is empty"),
            (b"a,b,\n", "line 1: the password is empty"),
            (b"a,b,\"two\nlines\"\na,b,c,d\n", "line 3: it does not have the three fields"),
            (b"a,b,c\r\n\r\n\r\nx\r\n", "line 4: it does not have the three fields"),
            (b"\xef\xbb\xbfa,b,c\n\nx\n", "line 3: it does not have the three fields"),
            (b"a,b,\xff\n", "line 1: it is not UTF-8"),
        ] {
            let error = refused(text);
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_subscriber_is_in_a_file_once() {
        assert_eq!(refused(b"a,b,c\nx,y,z\na,B,d\n"), "line 3 repeats a@b of line 1");
    }

    #[test]
    fn all_wrong_lines_are_counted_and_the_first_are_named() {
        let error = refused("x\n".repeat(12).as_bytes());
        assert!(
            error.contains("line 10:") && !error.contains("line 11:") && error.ends_with("; and 2 more"),
            "{error}"
        );
    }
}
