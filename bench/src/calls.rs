//! The figure: what recording calls adds to the CPU of Kamailio, with this module and with the stock modules: the same calls are
//! also made while nobody records them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::progress::step;
use lab::wait;

use crate::cores::Cores;
use crate::peers::{Kind, Peer, Peers, Setup};
use crate::phones::Phones;
use crate::report::{self, Comparison, Target};
use crate::{Options, compare, load, phones};

/// What the others are compared with first.
const PEERS: [Kind; 3] = [Kind::Unrecorded, Kind::RecordedByStock, Kind::Recorded];

/// Calls a second: all sustain it on two cores, with SIPp as caller and callee beside them.
const RATE: f64 = 300.0;

/// Calls before anything is measured, so that Cassandra's compiler has seen the work.
const WARM_UP: u64 = 10_000;

/// The module's default.
const CREDENTIAL_CACHE_TTL: u32 = 60;

/// Of a call that is answered: attempt, early, start, end.
const EVENTS: u64 = 4;
/// What acc writes of it: the answers to INVITE and BYE.
const ACC_ROWS: u64 = 2;

/// Until all is written that was recorded.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// What our CPU may be of that of the calls that nobody records, and what we add of what the stock modules add.
const MOST_OF_UNRECORDED: f64 = 1.15;
const MOST_OF_WHAT_STOCK_ADDS: f64 = 1.0;

pub(crate) fn run(options: &Options) -> Result<()> {
    // What recording adds is little beside what the caches of a core that is shared with a database cost.
    let cores = Cores::divide()?;
    let operation = if cores.is_some() { "answered call, Kamailio on a core of its own" } else { "answered call" };
    let setup = Setup {
        users: options.users,
        distant: false,
        memory: options.memory_manager,
        credential_cache_ttl: CREDENTIAL_CACHE_TTL,
        cores: cores.as_ref(),
    };
    let peers = Peers::start(&PEERS, &setup)?;
    let callees = phones::answering().spawn()?;
    let callers = phones::talking(peers.users(), callees.local());
    let rate = options.rate.unwrap_or(RATE);
    peers.all().iter().try_for_each(|peer| warm_up(peer, &callers, rate))?;
    let comparison = compare(options, operation, &with(&peers, &callers), common_rate(options))?;
    check_recorded(&peers, &comparison)?;
    let targets = targets(&comparison);
    report::show_added(&comparison, Kind::Unrecorded);
    report::show_targets(&targets);
    report::write("calls", "recording of calls", &[comparison], None, &targets)
}

fn with<'p>(peers: &'p Peers, callers: &Phones) -> Vec<(&'p Peer, Phones)> {
    peers.all().iter().map(|peer| (peer, callers.clone())).collect()
}

fn warm_up(peer: &Peer, callers: &Phones, rate: f64) -> Result<()> {
    let what = format!("{}: {WARM_UP} calls to warm up", peer.name());
    let sample = step(what, || load::run_calls(peer, callers, rate, WARM_UP))?;
    ensure!(sample.failed == 0, "{}: {} calls to warm up failed", peer.name(), sample.failed);
    Ok(())
}

/// The rate, and how it was chosen.
fn common_rate(options: &Options) -> (f64, String) {
    match options.rate {
        Some(rate) => (rate, "as asked for".to_owned()),
        None => (RATE, "which all sustain".to_owned()),
    }
}

/// A peer that does not record every call saves what it is measured for.
fn check_recorded(peers: &Peers, comparison: &Comparison) -> Result<()> {
    for (peer, measured) in peers.all().iter().zip(&comparison.peers) {
        let runs = &measured.at_common_rate;
        let failed: u64 = runs.iter().map(|run| run.failed).sum();
        ensure!(failed == 0, "{}: {failed} calls failed, so nobody knows what should be recorded", peer.name());
        let calls = WARM_UP + runs.iter().map(|run| run.successful).sum::<u64>();
        match peer.kind() {
            Kind::Recorded => check_events(peers, peer, calls * EVENTS)?,
            Kind::RecordedByStock => check_acc(peers, calls * ACC_ROWS)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_events(peers: &Peers, peer: &Peer, expected: u64) -> Result<()> {
    let counted = |name| peer.statistic(name);
    wait::until("all events to be written", WRITE_LIMIT, || -> Result<Option<()>> {
        let settled = counted("call_events_accepted")? + counted("call_events_dropped")?;
        let is_all = settled >= counted("call_events")? && counted("call_events_spooled")? == 0;
        Ok(is_all.then_some(()))
    })
    .with_context(|| peer.log())?;
    let (events, accepted) = (counted("call_events")?, counted("call_events_accepted")?);
    let rows = peers.rows_in_cassandra("call_event")?;
    // A provisional response that came twice is an event more.
    ensure!(
        rows >= expected && [accepted, rows] == [events; 2],
        "of {expected} events of calls {events} were recorded, {accepted} accepted, {rows} are stored"
    );
    Ok(())
}

fn check_acc(peers: &Peers, expected: u64) -> Result<()> {
    let rows = peers.rows_in_mariadb("acc")?;
    ensure!(rows == expected, "acc has stored {rows} rows, and should have {expected}");
    Ok(())
}

fn targets(comparison: &Comparison) -> Vec<Target> {
    let mut targets = comparison.targets(Kind::Unrecorded, MOST_OF_UNRECORDED);
    targets.extend(comparison.targets_of_added(Kind::RecordedByStock, Kind::Unrecorded, MOST_OF_WHAT_STOCK_ADDS));
    targets
}
