//! `import` of the nouns that have it: all lines of a CSV file are checked before anything is written.

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
use store::admin::Admin;
use tokio::time::sleep;

use crate::connection::Connection;
use crate::output::Output;

/// Writes that Cassandra works on at once: enough to keep it busy, far from flooding it.
const IN_FLIGHT: usize = 64;

/// Seconds to wait before a failed write is tried again: a busy cluster or a node that restarts does not end an import.
const PAUSES: [u64; 4] = [1, 2, 4, 8];

/// Wrong lines that are named; the others are counted.
const NAMED: usize = 10;

/// What a line of a file creates, from this many fields.
pub(crate) trait New<const FIELDS: usize>: Sized {
    /// The names of the fields; a first line that says them is skipped.
    const HEADER: [&'static str; FIELDS];
    /// What lines create.
    const MANY: &'static str;

    /// Reads a line.
    fn read(fields: [&str; FIELDS]) -> anyhow::Result<Self>;

    /// What it is known as.
    fn name(&self) -> &Aor;

    /// Creates it. Returns whether it is new.
    fn add(&self, admin: &Admin) -> impl Future<Output = Result<bool, StoreError>>;
}

/// A file to import.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file; '-' reads standard input.
    file: PathBuf,
}

impl Import {
    /// Creates what the file's lines say.
    pub(crate) async fn run<const FIELDS: usize, N: New<FIELDS>>(
        &self,
        connection: &Connection,
        output: &Output,
    ) -> anyhow::Result<()> {
        let name = if self.is_stdin() { "standard input".to_owned() } else { self.file.display().to_string() };
        let text = self.read().with_context(|| format!("{name} cannot be read"))?;
        let things: Vec<N> = parse(&text).with_context(|| format!("nothing is imported from {name}"))?;
        let admin = connection.admin().await?;
        let bar = output.bar(things.len());
        let written = write(&admin, &things, &bar).await;
        bar.finish_and_clear();
        let added = written?;
        let existing = things.len() - added;
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
async fn write<const FIELDS: usize, N: New<FIELDS>>(
    admin: &Admin,
    things: &[N],
    bar: &ProgressBar,
) -> anyhow::Result<usize> {
    let mut writes = stream::iter(things).map(async |new| (new, add(admin, new).await)).buffer_unordered(IN_FLIGHT);
    let mut added = 0;
    while let Some((new, written)) = writes.next().await {
        let is_new = written.with_context(|| {
            let (name, done, all) = (new.name(), bar.position(), things.len());
            format!("stopped at {name}, after {done} of {all} {}: run it again to go on", N::MANY)
        })?;
        added += usize::from(is_new);
        bar.inc(1);
    }
    Ok(added)
}

/// Returns whether it is new. One that was written although its first answer was lost counts as existing.
async fn add<const FIELDS: usize>(admin: &Admin, new: &impl New<FIELDS>) -> Result<bool, StoreError> {
    for pause in PAUSES {
        match new.add(admin).await {
            Err(_) => sleep(Duration::from_secs(pause)).await,
            known => return known,
        }
    }
    new.add(admin).await
}

/// What all lines create, or an error that names the wrong ones.
fn parse<const FIELDS: usize, N: New<FIELDS>>(text: &[u8]) -> anyhow::Result<Vec<N>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text); // a byte order mark
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
    let mut lines_of = HashMap::new();
    let (mut things, mut wrong) = (Vec::new(), Vec::new());
    for (index, record) in reader.byte_records().enumerate() {
        let record = record?;
        let line = record.position().map_or(0, |start| line_of(start, text));
        if index == 0 && record == N::HEADER[..] {
            continue;
        }
        match thing::<FIELDS, N>(&record) {
            Ok(new) => match lines_of.insert(new.name().clone(), line) {
                Some(first) => wrong.push(format!("line {line} repeats {} of line {first}", new.name())),
                None => things.push(new),
            },
            Err(error) => wrong.push(format!("line {line}: {error}")),
        }
    }
    if wrong.is_empty() { Ok(things) } else { bail!(named(&wrong)) }
}

/// The reader skips empty lines (and the LF of a CRLF) after it has noted where a record starts.
fn line_of(start: &csv::Position, text: &[u8]) -> u64 {
    let rest = usize::try_from(start.byte()).ok().and_then(|byte| text.get(byte..)).unwrap_or_default();
    let skipped = rest.iter().take_while(|byte| b"\r\n".contains(byte)).filter(|byte| **byte == b'\n');
    start.line() + skipped.count() as u64
}

fn thing<const FIELDS: usize, N: New<FIELDS>>(record: &csv::ByteRecord) -> anyhow::Result<N> {
    let fields: Vec<&str> = record.iter().map(str::from_utf8).collect::<Result<_, _>>().context("it is not UTF-8")?;
    let Ok(fields) = fields.try_into() else {
        bail!("it does not have the {FIELDS} fields {}", N::HEADER.join(","));
    };
    N::read(fields)
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
    use crate::commands::subscriber::NewSubscriber;

    fn parsed(text: &str) -> Vec<NewSubscriber> {
        parse(text.as_bytes()).expect(text)
    }

    fn refused(text: &[u8]) -> String {
        format!("{:#}", parse::<_, NewSubscriber>(text).expect_err("wrong lines"))
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
            (&b"a,b,c\n\nalice,example.com\n"[..], "line 3: it does not have the 3 fields"),
            (b"a,b,c\n,b,c\n", "line 2: '@b' is no address-of-record: the user part is empty"),
            (b"a,b,\n", "line 1: the password is empty"),
            (b"a,b,\"two\nlines\"\na,b,c,d\n", "line 3: it does not have the 3 fields"),
            (b"a,b,c\r\n\r\n\r\nx\r\n", "line 4: it does not have the 3 fields"),
            (b"\xef\xbb\xbfa,b,c\n\nx\n", "line 3: it does not have the 3 fields"),
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
