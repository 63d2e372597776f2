//! Load on one peer, and what it cost.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::progress::say;
use lab::sipp::Report;
use lab::wait;
use serde::Serialize;

use crate::peers::Peer;
use crate::phones::Phones;

/// A run is sustained when every call succeeds, with no more than this share of messages sent again.
const MOST_RETRANSMISSIONS: f64 = 0.002;
/// And when it takes no longer than planned: by this factor, and SIPp's own start and end.
const MOST_OVERTIME: f64 = 1.03;
const SIPP_OVERHEAD: f64 = 1.0;

/// Steps of the search for the highest rate.
const GROWTH: f64 = 1.35;
const REFINEMENTS: usize = 3;
const CONFIRM_STEP: f64 = 0.93;

/// One run of calls, of SIPp's scenario each: a challenged REGISTER, a refresh, a request that is looked up, a call in the common
/// sense.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Calls a second asked for.
    pub(crate) offered: f64,
    /// Calls a second that were answered 200.
    pub(crate) rate: f64,
    /// How many were.
    pub(crate) successful: u64,
    /// Calls that were not.
    pub(crate) failed: u64,
    /// Messages that SIPp sent again.
    pub(crate) retransmissions: u64,
    /// Whether the peer kept up.
    pub(crate) sustained: bool,
    /// CPU milliseconds of a call, in all processes of Kamailio.
    pub(crate) kamailio_cpu_ms: f64,
    /// The part of it in the I/O process.
    pub(crate) io_process_cpu_ms: f64,
    /// The part of that in the kernel, which moves what goes to the database and comes from the workers.
    pub(crate) io_process_kernel_cpu_ms: f64,
    /// CPU milliseconds of a call in the database.
    pub(crate) database_cpu_ms: f64,
    /// From the first request to the 200, of a call to the 180, in milliseconds.
    pub(crate) p50_ms: f64,
    /// The same.
    pub(crate) p99_ms: f64,
}

/// `seconds` of what the phones do, at `rate`.
pub(crate) fn run(peer: &Peer, phones: &Phones, rate: f64, seconds: u64) -> Result<Sample> {
    run_calls(peer, phones, rate, (rate * seconds as f64).round() as u64)
}

/// `calls` at `rate`, the phones in turn.
pub(crate) fn run_calls(peer: &Peer, phones: &Phones, rate: f64, calls: u64) -> Result<Sample> {
    settle(peer)?;
    let planned = calls as f64 / rate + phones.pauses.as_secs_f64();
    let sipp = phones.sipp.clone().target(peer.address()).calls(calls).rate(rate);
    let before = peer.cpu();
    let report = sipp.timeout(Duration::from_secs_f64(planned * 2.0 + 30.0)).run()?;
    let after = peer.cpu();
    if report.successful == 0 {
        bail!("{}: no call succeeded: {:?}\n{}", peer.name(), report.check(), peer.log());
    }
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / report.successful as f64;
    Ok(Sample {
        offered: rate,
        rate: report.rate(),
        successful: report.successful,
        failed: report.failed,
        retransmissions: report.retransmissions,
        sustained: sustained(&report, planned),
        kamailio_cpu_ms: each(before.kamailio, after.kamailio),
        io_process_cpu_ms: each(before.io_process, after.io_process),
        io_process_kernel_cpu_ms: each(before.io_process_kernel, after.io_process_kernel),
        database_cpu_ms: each(before.database, after.database),
        p50_ms: report.response_times.percentile_ms(0.5),
        p99_ms: report.response_times.percentile_ms(0.99),
    })
}

fn sustained(report: &Report, planned: f64) -> bool {
    let in_time = report.elapsed.as_secs_f64() <= planned * MOST_OVERTIME + SIPP_OVERHEAD;
    let few_again = report.retransmissions as f64 <= report.successful as f64 * MOST_RETRANSMISSIONS;
    report.check().is_ok() && in_time && few_again
}

/// The highest rate that a peer sustains for `confirm_seconds`: grows until it does not for `seconds`, halves the gap a few
/// times, then steps down to what also holds in the longer run.
pub(crate) fn highest_rate(
    peer: &Peer,
    phones: &Phones,
    first: f64,
    seconds: u64,
    confirm_seconds: u64,
) -> Result<f64> {
    let rate = search(peer, phones, first, seconds)?;
    lowest_good(peer, phones, rate, confirm_seconds, CONFIRM_STEP)
}

fn search(peer: &Peer, phones: &Phones, first: f64, seconds: u64) -> Result<f64> {
    let mut good = lowest_good(peer, phones, first, seconds, 0.5)?;
    let mut bad = good * GROWTH;
    while holds(peer, phones, bad, seconds)? {
        good = bad;
        bad *= GROWTH;
    }
    for _ in 0..REFINEMENTS {
        let middle = (good + bad) / 2.0;
        *(if holds(peer, phones, middle, seconds)? { &mut good } else { &mut bad }) = middle;
    }
    Ok(good.floor())
}

/// The highest rate that all peers sustain for `seconds`, each with its own phones; searched for with the first peer.
pub(crate) fn highest_rate_of_all(
    peers: &[(&Peer, Phones)],
    first: f64,
    seconds: u64,
    confirm_seconds: u64,
) -> Result<f64> {
    let [(slowest, phones), others @ ..] = peers else { return Ok(first) };
    let mut rate = highest_rate(slowest, phones, first, seconds, confirm_seconds)?;
    for (peer, phones) in others {
        rate = lowest_good(peer, phones, rate, confirm_seconds, CONFIRM_STEP)?;
    }
    Ok(rate)
}

/// `first`, or that many steps below it, each of which multiplies by `step`, as it needs to be sustained.
fn lowest_good(peer: &Peer, phones: &Phones, first: f64, seconds: u64, step: f64) -> Result<f64> {
    let mut rate = first;
    while !holds(peer, phones, rate, seconds)? {
        rate = (rate * step).floor();
        ensure!(rate >= 1.0, "{} does not sustain one call a second\n{}", peer.name(), peer.log());
    }
    Ok(rate)
}

/// One failed try may be the machine's fault, so it is repeated.
fn holds(peer: &Peer, phones: &Phones, rate: f64, seconds: u64) -> Result<bool> {
    for _ in 0..2 {
        let sample = run(peer, phones, rate, seconds)?;
        say(format!(
            "{rate:6.0}/s offered: {:6.0}/s, {} failed, {} sent again, {:.3} + {:.3} ms",
            sample.rate, sample.failed, sample.retransmissions, sample.kamailio_cpu_ms, sample.database_cpu_ms
        ));
        if sample.sustained {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until the last run's work is over: retransmissions, compactions, timers.
fn settle(peer: &Peer) -> Result<()> {
    let mut last = peer.cpu();
    wait::until("an idle peer", Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_millis(300));
        let now = peer.cpu();
        let used = now.kamailio + now.database - last.kamailio - last.database;
        last = now;
        used <= 30
    })
    .with_context(|| format!("{} is still busy", peer.name()))
}
