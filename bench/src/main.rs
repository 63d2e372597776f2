//! `make bench`: this system and the stock peer side by side, in one run, on the same machine.
//!
//! The figure: CPU per challenged REGISTER and REGISTERs a second, for the stock peer and for the plain and the async form of
//! this module, with the database beside Kamailio and with 10 ms added to every answer of the database.
#![forbid(unsafe_code)]

mod load;
mod peers;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use lab::kamailio::MemoryManager;
use lab::progress::{say, step};
use lab::wait;

use load::Sample;
use peers::{Peer, Peers};
use report::{Comparison, Measured};

/// Measure this system and the stock peer in one run
#[derive(Debug, Parser)]
struct Cli {
    /// Measured runs of each peer; the medians are shown
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load of each measured run
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Compare the costs at this rate, without a search for the highest rates and without a delay
    #[arg(long)]
    rate: Option<f64>,
    /// Kamailio's memory manager, the same for all peers
    #[arg(long, value_enum, default_value_t = MemoryManager::Tlsf)]
    memory_manager: MemoryManager,
    /// Subscribers that register in turn
    #[arg(long, default_value_t = 10_000)]
    users: usize,
    /// Milliseconds added to every answer of the database in the second half
    #[arg(long, default_value_t = 10)]
    delay_ms: u64,
}

/// Seconds of load of each run of a search for the highest rate.
const SEARCH_SECONDS: u64 = 6;
/// Where the searches begin, in REGISTERs a second.
const FIRST_RATE: f64 = 1200.0;
const FIRST_RATE_WITH_DELAY: f64 = 80.0;
/// REGISTERs before anything is measured.
const WARM_UP: u64 = 80_000;
const WARM_UP_RATE: f64 = 2000.0;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match wait::catch_ctrl_c().and_then(|()| run(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let mut comparisons = vec![compare(cli, Duration::ZERO, FIRST_RATE)?];
    if cli.rate.is_none() {
        comparisons.push(compare(cli, Duration::from_millis(cli.delay_ms), FIRST_RATE_WITH_DELAY)?);
    }
    comparisons.iter().for_each(report::show);
    let file = report::write(&comparisons)?;
    say(format!("all figures are in {}", file.display()));
    Ok(())
}

/// Finds what each peer sustains, then measures all of them at the stock peer's rate, and each at its own, in turn.
fn compare(cli: &Cli, delay: Duration, first_rate: f64) -> Result<Comparison> {
    let peers = Peers::start(cli.users, !delay.is_zero(), cli.memory_manager)?;
    let mut measured = Vec::new();
    for peer in peers.all() {
        peers.set_delay(Duration::ZERO);
        step(format!("{}: all subscribers register", peer.name()), || warm_up(peer, &peers))?;
        peers.set_delay(delay);
        measured.push(Measured::new(peer, highest_rate(cli, &peers, peer, first_rate)?));
    }
    let common = measured[0].highest_rate;
    for round in 1..=cli.rounds {
        for (peer, measured) in peers.all().into_iter().zip(&mut measured) {
            measured.at_common_rate.push(measure(cli, &peers, peer, round, common)?);
            if cli.rate.is_none() {
                measured.at_highest_rate.push(measure(cli, &peers, peer, round, measured.highest_rate)?);
            }
        }
    }
    Ok(Comparison {
        delay_ms: delay.as_millis() as u64,
        common_rate: common,
        memory_manager: cli.memory_manager,
        seconds: cli.seconds,
        peers: measured,
    })
}

fn highest_rate(cli: &Cli, peers: &Peers, peer: &Peer, first: f64) -> Result<f64> {
    if let Some(rate) = cli.rate {
        return Ok(rate);
    }
    let what = format!("{}: the highest rate it sustains", peer.name());
    let rate = step(what, || load::highest_rate(peer, peers.users(), first, SEARCH_SECONDS, cli.seconds))?;
    say(format!("{} sustains {rate:.0} REGISTERs a second", peer.name()));
    Ok(rate)
}

/// Every subscriber is registered, so that all measured REGISTERs refresh a binding; and some more, so that Cassandra's compiler
/// has seen the work.
fn warm_up(peer: &Peer, peers: &Peers) -> Result<()> {
    let calls = WARM_UP.max(peers.users().len() as u64);
    load::run_calls(peer, peers.users(), WARM_UP_RATE, calls).map(drop)
}

fn measure(cli: &Cli, peers: &Peers, peer: &Peer, round: usize, rate: f64) -> Result<Sample> {
    let what = format!("round {round} of {}: {} at {rate:.0} a second", cli.rounds, peer.name());
    step(what, || load::run(peer, peers.users(), rate, cli.seconds))
}
