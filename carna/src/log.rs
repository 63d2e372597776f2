//! What is written on a node: every line of its server and of Carna becomes one record with the fields of
//! `deploy/logstash/index-template.json`, goes to standard output, and to Logstash where that is configured.
//!
//! * [`record`]: a line and its fields, and what may be in them;
//! * [`kamailio`], [`freeswitch`]: what their lines say;
//! * [`event`]: what became of a call or a binding, in the names of Packetbeat and ECS;
//! * [`redact`]: what is in no log;
//! * [`own`]: Carna's own lines;
//! * [`queue`]: lines that wait, so that nobody else does;
//! * [`shipper`], [`overflow`]: the way to Logstash, and the file for when there is none.

pub mod event;
mod freeswitch;
mod kamailio;
mod overflow;
mod own;
mod queue;
pub mod record;
pub mod redact;
mod shipper;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::Output;
use overflow::Overflow;
#[cfg(feature = "media")]
pub(crate) use own::CALLS;
pub use own::Layer;
use queue::Queue;
use record::{Place, Record, Service};

/// Bytes of lines that wait for standard output, and for Logstash; beyond that the oldest give way.
const WAITING: usize = 8 << 20;
/// Bytes that are taken together.
const BATCH: usize = 256 << 10;
/// How long what was written last has at the end.
const END_LIMIT: Duration = Duration::from_secs(2);
/// Pause between two looks whether it is over.
const LOOK: Duration = Duration::from_millis(10);
/// A wait that a line ends.
const LONG: Duration = Duration::from_secs(3600);

/// How lines look on standard output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people: what servers write is left as it is.
    #[default]
    Text,
    /// For machines: each is a JSON object.
    Json,
}

/// How lines are written and sent.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Of which node they are.
    pub place: Place,
    /// How they look on standard output.
    pub format: Format,
    /// Where Logstash takes them, if it does.
    pub logstash: Option<Logstash>,
}

/// Where Logstash takes lines.
#[derive(Debug, Clone)]
pub struct Logstash {
    /// `host:port` of its TCP input.
    pub address: String,
    /// Where lines are that it does not take yet.
    pub overflow_file: PathBuf,
    /// Bytes of lines there at most; the oldest give way.
    pub overflow_bytes: u64,
}

/// What is counted, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Lines of the node's server and of Carna.
    pub lines: AtomicU64,
    /// Lines that standard output did not take in time.
    pub dropped_stdout: AtomicU64,
    /// Lines that are lost to Logstash.
    pub dropped_logstash: AtomicU64,
    /// Lines sent to Logstash.
    pub sent: AtomicU64,
    /// Bytes in the overflow file.
    pub overflow_bytes: AtomicU64,
    /// Whether there is a connection to Logstash.
    pub connected: AtomicU64,
}

/// Where all lines go. Nobody waits here.
#[derive(Debug, Clone)]
pub struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Place,
    format: Format,
    counters: Arc<Counters>,
    stdout: Arc<Queue>,
    logstash: Option<Arc<Queue>>,
    /// The number of the last line. Held while a line is queued, so that the order is the same everywhere.
    last: Mutex<u64>,
    writers: Mutex<Vec<JoinHandle<()>>>,
}

impl Log {
    /// Begins to write and to send.
    ///
    /// # Errors
    /// The overflow file cannot be used; no thread can be started.
    pub fn start(config: LogConfig) -> Result<Self> {
        let counters = Arc::new(Counters::default());
        let stdout = Arc::new(Queue::new(WAITING));
        let mut writers = vec![spawn("stdout", {
            let (stdout, counters) = (stdout.clone(), counters.clone());
            move || write_out(&stdout, &counters)
        })?];
        let mut logstash = None;
        if let Some(Logstash { address, overflow_file, overflow_bytes }) = config.logstash {
            let overflow = Overflow::open(&overflow_file, overflow_bytes)?;
            let queue = Arc::new(Queue::new(WAITING));
            let shipper = shipper::Shipper::new(address, queue.clone(), overflow, counters.clone());
            writers.push(spawn("logstash", move || shipper.run())?);
            logstash = Some(queue);
        }
        let (place, format) = (config.place, config.format);
        let (last, writers) = (Mutex::new(0), Mutex::new(writers));
        Ok(Self(Arc::new(Inner { place, format, counters, stdout, logstash, last, writers })))
    }

    /// Writes a line.
    pub fn write(&self, record: &Record) {
        let Inner { place, format, counters, stdout, logstash, last, .. } = &*self.0;
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        let json = (logstash.is_some() || *format == Format::Json).then(|| Arc::<str>::from(record.json(place, *last)));
        let shown = match (*format, &json) {
            (Format::Json, Some(json)) => json.clone(),
            _ => record.text().into(),
        };
        counters.lines.fetch_add(1, Relaxed);
        counters.dropped_stdout.fetch_add(stdout.push(shown), Relaxed);
        if let (Some(queue), Some(json)) = (logstash, json) {
            counters.dropped_logstash.fetch_add(queue.push(json), Relaxed);
        }
    }

    /// Takes what this server writes. Gives each line as it may be shown.
    pub fn output(&self, service: Service) -> Output {
        let log = self.clone();
        Arc::new(move |line| {
            let mut record = match service {
                Service::FreeSwitch => freeswitch::read(&line),
                Service::Kamailio | Service::Carna => kamailio::read(&line),
            };
            redact::redact(&mut record);
            log.write(&record);
            record.summary()
        })
    }

    /// What was counted.
    pub fn counters(&self) -> Arc<Counters> {
        self.0.counters.clone()
    }

    /// Takes nothing more, and waits for two seconds at most until everything is written, and sent or in the overflow file.
    pub fn close(&self) {
        self.0.stdout.close();
        if let Some(queue) = &self.0.logstash {
            queue.close();
        }
        let until = Instant::now() + END_LIMIT;
        let writers = std::mem::take(&mut *self.0.writers.lock().unwrap_or_else(PoisonError::into_inner));
        while writers.iter().any(|writer| !writer.is_finished()) && Instant::now() < until {
            thread::sleep(LOOK);
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work).context("cannot start a thread")
}

/// Writes to standard output until there is nothing more to come. Only this waits for whoever reads that.
fn write_out(queue: &Queue, counters: &Counters) {
    while let Some(lines) = queue.take(BATCH, LONG) {
        let text: String = lines.iter().flat_map(|line| [&**line, "\n"]).collect();
        // A log that nobody takes any more must not stop the phone calls.
        if io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()).is_err() {
            counters.dropped_stdout.fetch_add(lines.len() as u64, Relaxed);
        }
    }
}
