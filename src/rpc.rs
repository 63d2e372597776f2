//! What operators ask and do at run time: the RPC commands.
#![forbid(unsafe_code)]

pub(crate) mod authentication;
pub(crate) mod calls;
pub(crate) mod location;

use bridge::Metrics;
use bridge::metrics::get;
use bridge::protocol::{Force, Operation, Outcome};

use crate::bridge_client;
use crate::host::rpc::{Call, Fault, Structure, Value};
use crate::host::shared;
use crate::lifecycle::{self, Module};
use crate::statistics;

/// `cassandra.status`: the session, the breaker, the queues.
pub(crate) fn status(_: &Call<'_>) -> Result<Structure, Fault> {
    let (metrics, module) = (metrics()?, module()?);
    let store = &module.config.service.store;
    Ok(vec![
        (c"contact_points", store.contact_points.join(",").into()),
        (c"keyspace", store.keyspace.as_str().into()),
        (c"local_dc", store.local_dc.as_str().into()),
        (c"connected", get(&metrics.connected).into()),
        (c"breaker", breaker_state(metrics)),
        (c"breaker_opened", get(&metrics.breaker_opened).into()),
        (c"in_flight", get(&metrics.in_flight).into()),
        (c"max_in_flight", (module.config.limits.in_flight as u64).into()),
        (c"queue_depth", get(&metrics.queue_depth).into()),
        (c"requests", get(&metrics.requests).into()),
        (c"unavailable", get(&metrics.unavailable).into()),
        (c"timeouts", get(&metrics.timeouts).into()),
        (c"panics", get(&metrics.panics).into()),
    ])
}

/// `cassandra.stats`: all statistics of the module.
pub(crate) fn stats(_: &Call<'_>) -> Result<Structure, Fault> {
    let metrics = metrics()?;
    Ok(statistics::ALL.iter().map(|(name, read)| (*name, read(metrics).into())).collect())
}

/// `cassandra.breaker [open|close]`: shows the circuit breaker; `open` keeps everybody off the backend until `close`.
pub(crate) fn breaker(call: &Call<'_>) -> Result<Structure, Fault> {
    match call.optional_text().as_deref() {
        None => {}
        Some("open") => force(Force::Open)?,
        Some("close") => force(Force::Closed)?,
        Some(other) => {
            return Err(Fault::new(
                400,
                format!("'{other}' is neither open nor close; without it the breaker is shown"),
            ));
        }
    }
    let metrics = metrics()?;
    Ok(vec![
        (c"state", breaker_state(metrics)),
        (c"held_open", get(&metrics.breaker_held).into()),
        (c"opened", get(&metrics.breaker_opened).into()),
        (c"rejected", get(&metrics.breaker_rejected).into()),
    ])
}

fn force(force: Force) -> Result<(), Fault> {
    match ask(Operation::ForceBreaker(force))? {
        Outcome::Forced => Ok(()),
        _ => Err(unexpected()),
    }
}

fn breaker_state(metrics: &Metrics) -> Value {
    match get(&metrics.breaker_state) {
        0 => "closed",
        1 => "open",
        _ => "half-open",
    }
    .into()
}

/// Asks the I/O process.
fn ask(operation: Operation) -> Result<Outcome, Fault> {
    match bridge_client::call(operation) {
        Outcome::Unavailable(reason) => Err(Fault::new(
            503,
            format!("the backend is unavailable, nothing is known: {reason}; see cassandra.status"),
        )),
        outcome => Ok(outcome),
    }
}

fn unexpected() -> Fault {
    Fault::new(500, "the I/O process gave the answer to another question: see the server's log")
}

fn metrics() -> Result<&'static Metrics, Fault> {
    shared::metrics().ok_or_else(not_started)
}

fn module() -> Result<&'static Module, Fault> {
    lifecycle::module().ok_or_else(not_started)
}

fn not_started() -> Fault {
    Fault::new(503, "the module has not started yet: try again")
}
