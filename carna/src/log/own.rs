//! Carna's own lines.

use std::fmt::{self, Write};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::Context;

use super::record::{Level, Record, Service};
use super::{Log, event, redact};

/// The target of lines that tell of an event of a call: `call ` and the event as JSON.
pub(crate) const CALLS: &str = "carna::call_log";

/// Has what is told by `tracing` written to a log.
#[derive(Debug)]
pub struct Layer(Log);

impl Layer {
    /// To this one.
    pub fn new(log: Log) -> Self {
        Self(log)
    }
}

impl<S: Subscriber> tracing_subscriber::Layer<S> for Layer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let mut record = Record::raw(SystemTime::now(), Service::Carna, message.0);
        record.flags.clear();
        record.level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warning,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        event.metadata().target().clone_into(&mut record.module);
        record.pid = Some(rustix::process::getpid().as_raw_nonzero().get());
        if record.module == CALLS {
            event::call(&mut record);
        }
        redact::redact(&mut record);
        record.cut();
        self.0.write(&record);
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A String takes everything.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
