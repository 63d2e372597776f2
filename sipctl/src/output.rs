//! Tables for people, JSON for programs.

use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::{Map, Value};

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
            println!("{}", Value::Array(objects));
            return;
        }
        let mut table = Table::new();
        table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(columns);
        for row in rows {
            table.add_row(row.iter().map(plain));
        }
        println!("{table}");
    }

    /// Says what was done; in JSON as an object.
    pub(crate) fn done(&self, sentence: &str, result: &Value) {
        if self.json {
            println!("{result}");
        } else {
            println!("{sentence}");
        }
    }

    /// Tells about a step on standard error.
    pub(crate) fn progress(&self, step: &str) {
        if !self.json {
            eprintln!("  {step}");
        }
    }
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
