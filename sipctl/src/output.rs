//! Tables for people, JSON and CSV for programs.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process;
use std::time::{Duration, UNIX_EPOCH};

use comfy_table::{ContentArrangement, Table, presets};
use console::Term;
use domain::Timestamp;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// What results are printed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Tables and sentences.
    Table,
    /// One JSON value.
    Json,
    /// Lists as comma-separated values (RFC 4180) under a line of names; what is no list as a sentence.
    Csv,
}

/// Where and how results are shown.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
}

/// A thing that is shown: in JSON as it is serialised, in a table by these cells.
pub(crate) trait Shown: Serialize {
    /// What the cells are.
    const COLUMNS: &'static [&'static str];
    /// How many of them, from the first on, a list has room for.
    const LISTED: usize = Self::COLUMNS.len();

    /// As many as there are columns; a cell may have several lines.
    fn cells(&self) -> Vec<String>;
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether people read it.
    pub(crate) fn is_for_people(&self) -> bool {
        self.format == Format::Table
    }

    /// Shows things one below the other, or says that there is none.
    pub(crate) fn list<T: Shown>(&self, things: &[T], none: &str) {
        match self.format {
            Format::Json => print(&json!(things)),
            Format::Csv => print_csv(things.iter().map(|thing| json!(thing)).collect()),
            Format::Table if things.is_empty() => print(&none),
            Format::Table => print(&table_of(things)),
        }
    }

    /// Says something before a table; to programs nothing.
    pub(crate) fn note(&self, sentence: &str) {
        if self.is_for_people() {
            print(&sentence);
        }
    }

    /// Shows everything about one thing.
    pub(crate) fn one(&self, thing: &impl Shown) {
        match self.format {
            Format::Json => print(&json!(thing)),
            Format::Csv => print_csv(vec![json!(thing)]),
            Format::Table => print(&fields(thing)),
        }
    }

    /// Shows rows under these column names; in JSON as a list of objects.
    pub(crate) fn rows(&self, columns: &[&str], rows: &[Vec<Value>]) {
        let objects = || rows.iter().map(|row| object(columns, row)).collect();
        match self.format {
            Format::Json => return print(&Value::Array(objects())),
            Format::Csv => return print_csv(objects()),
            Format::Table => {}
        }
        let mut table = table(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(columns);
        for row in rows {
            table.add_row(row.iter().map(plain));
        }
        print(&table);
    }

    /// Says what was done; in JSON as an object.
    pub(crate) fn done(&self, sentence: &str, result: &Value) {
        if self.format == Format::Json { print(result) } else { print(&sentence) }
    }

    /// Says on standard error what went wrong.
    pub(crate) fn error(&self, sentence: &str) {
        if self.format == Format::Json {
            eprintln!("{}", json!({ "error": sentence }));
        } else {
            eprintln!("sipctl: {sentence}");
        }
    }

    /// Tells about a step on standard error.
    pub(crate) fn progress(&self, step: &str) {
        if self.is_for_people() {
            eprintln!("  {step}");
        }
    }

    /// A bar on standard error, if that is a terminal.
    pub(crate) fn bar(&self, length: usize) -> ProgressBar {
        let target = if self.is_for_people() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len}, {per_sec}, {eta} to go");
        ProgressBar::with_draw_target(Some(length as u64), target)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

/// A time as RFC 3339, in UTC.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let since_epoch = Duration::from_millis(u64::try_from(at.0).unwrap_or_default());
    match UNIX_EPOCH.checked_add(since_epoch) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => String::new(),
    }
}

/// As wide as the terminal; as wide as it takes anywhere else, so that a line stays a line.
fn table(lines: &str) -> Table {
    let mut table = Table::new();
    table.load_preset(lines);
    let terminal = Term::stdout();
    if terminal.is_term()
        && let Some((_, columns)) = terminal.size_checked()
    {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
    }
    table
}

/// Things one below the other.
pub(crate) fn table_of<T: Shown>(things: &[T]) -> Table {
    let mut table = table(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(&T::COLUMNS[..T::LISTED]);
    for thing in things {
        table.add_row(thing.cells().into_iter().take(T::LISTED));
    }
    table
}

/// The fields of all objects are the columns, in the order in which they come; an object in a field is written as JSON. Without
/// objects nobody knows the columns, and nothing is printed.
fn print_csv(objects: Vec<Value>) {
    if objects.is_empty() {
        return;
    }
    let mut columns: Vec<&String> = Vec::new();
    for name in objects.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let rows = objects.iter().map(|object| columns.iter().map(|name| cell(object.get(name))).collect::<Vec<_>>());
    let written = std::iter::once(columns.iter().map(|name| (*name).clone()).collect())
        .chain(rows)
        .try_for_each(|row| writer.write_record(row))
        .and_then(|()| writer.into_inner().map_err(|error| error.into_error().into()));
    match written {
        Ok(text) => print(&String::from_utf8_lossy(&text).trim_end()),
        Err(error) => {
            eprintln!("sipctl: the result cannot be written: {error}");
            process::exit(1);
        }
    }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(value) => plain(value),
    }
}

fn fields<T: Shown>(thing: &T) -> Table {
    let mut table = table(presets::NOTHING);
    for (column, cell) in T::COLUMNS.iter().zip(thing.cells()) {
        table.add_row([(*column).to_owned(), cell]);
    }
    table
}

/// Shows texts in the same place of the terminal, each instead of the one before; anywhere else one after the other.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: Term,
    lines: usize,
}

impl Screen {
    /// The standard output.
    pub(crate) fn new() -> Self {
        Self { terminal: Term::stdout(), lines: 0 }
    }

    /// Shows a text, of which a terminal gets what it has room for.
    pub(crate) fn show(&mut self, text: &str) -> io::Result<()> {
        if !self.terminal.is_term() {
            print(&text);
            return Ok(());
        }
        let room = usize::from(self.terminal.size().0).saturating_sub(2).max(1);
        let lines: Vec<&str> = text.lines().take(room).collect();
        self.terminal.clear_last_lines(self.lines)?;
        self.lines = lines.len();
        lines.iter().try_for_each(|line| self.terminal.write_line(line))
    }
}

/// A reader that went away, as `head` does, has seen enough. Any other failure loses the result.
fn print(text: &impl Display) {
    let mut stdout = io::stdout().lock();
    let Err(error) = writeln!(stdout, "{text}").and_then(|()| stdout.flush()) else { return };
    if error.kind() != ErrorKind::BrokenPipe {
        eprintln!("sipctl: the result cannot be written: {error}");
    }
    process::exit(1);
}

fn object(columns: &[&str], row: &[Value]) -> Value {
    let fields: Map<String, Value> =
        columns.iter().map(|name| name.replace(' ', "_")).zip(row.iter().cloned()).collect();
    Value::Object(fields)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A truth for people.
pub(crate) fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc_to_the_second() {
        assert_eq!(rfc3339(Timestamp(1_700_000_000_123)), "2023-11-14T22:13:20Z");
    }
}
