//! `tracing` events as lines for the main thread to write.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::{self, Write};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bridge::event_log;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::host::log::Level;

/// What the main thread of the I/O process is told.
#[derive(Debug)]
pub(super) enum Line {
    /// Write this.
    Write {
        /// At this level.
        level: Level,
        /// Shown as the function that writes it.
        function: &'static str,
        /// The text.
        text: String,
    },
    /// There will be no more.
    End,
}

impl Line {
    pub(super) fn new(level: Level, text: impl Into<String>) -> Self {
        Self::Write { level, function: IO, text: text.into() }
    }

    pub(super) fn end() -> Self {
        Self::End
    }
}

/// What writes most lines.
const IO: &str = "io";

/// What writes a line of this target. Events have a name of their own there, which no other line has.
fn function_of(target: &str) -> &'static str {
    match target {
        event_log::CALLS => "call_log",
        event_log::REGISTRATIONS => "registration_log",
        _ => IO,
    }
}

/// During an outage the driver says the same several times a second; each of its lines is written once in this time.
const DRIVER_REPEATS_AFTER: Duration = Duration::from_secs(10);

/// Turns events into lines: our own crates' from debug level on, the driver's warnings and errors.
#[derive(Debug)]
pub(super) struct Lines {
    lines: SyncSender<Line>,
    /// When each place in the driver was last heard.
    heard: Mutex<HashMap<Identifier, Instant>>,
}

impl Lines {
    pub(super) fn new(lines: SyncSender<Line>) -> Self {
        Self { lines, heard: Mutex::default() }
    }

    /// Whether the driver said this just now.
    fn is_repeat(&self, metadata: &Metadata<'_>) -> bool {
        if is_ours(metadata) {
            return false;
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match heard.entry(metadata.callsite()) {
            Entry::Occupied(last) if now.duration_since(*last.get()) < DRIVER_REPEATS_AFTER => true,
            entry => {
                entry.insert_entry(now);
                false
            }
        }
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    ["bridge", "store", "cassandra", "domain"].iter().any(|name| metadata.target().starts_with(name))
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let worst = if is_ours(metadata) { tracing::Level::DEBUG } else { tracing::Level::WARN };
        metadata.is_event() && *metadata.level() <= worst
    }

    fn event(&self, event: &Event<'_>) {
        if self.is_repeat(event.metadata()) {
            return;
        }
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warning,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        let mut text = Text(String::new());
        event.record(&mut text);
        let function = function_of(event.metadata().target());
        let _ = self.lines.try_send(Line::Write { level, function, text: text.0 });
    }

    // Spans are not enabled.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
