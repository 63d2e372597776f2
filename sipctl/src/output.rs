//! Tables for people, JSON for programs.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process;

use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::{Map, Value, json};

/// Where and how results are shown.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Shows rows under these column names; in JSON as a list of objects.
    pub(crate) fn rows(&self, columns: &[&str], rows: &[Vec<Value>]) {
        if self.json {
            let objects = rows.iter().map(|row| object(columns, row)).collect();
            print(&Value::Array(objects));
            return;
        }
        let mut table = Table::new();
        table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(columns);
        for row in rows {
            table.add_row(row.iter().map(plain));
        }
        print(&table);
    }

    /// Says what was done; in JSON as an object.
    pub(crate) fn done(&self, sentence: &str, result: &Value) {
        if self.json { print(result) } else { print(&sentence) }
    }

    /// Says on standard error what went wrong.
    pub(crate) fn error(&self, sentence: &str) {
        if self.json {
            eprintln!("{}", json!({ "error": sentence }));
        } else {
            eprintln!("sipctl: {sentence}");
        }
    }

    /// Tells about a step on standard error.
    pub(crate) fn progress(&self, step: &str) {
        if !self.json {
            eprintln!("  {step}");
        }
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
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}
