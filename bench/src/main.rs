//! `make bench`: this system and the stock peer side by side, in one run, on the same machine.
//!
//! Five benchmarks: a challenged REGISTER; the two operations that a registrar does most: re-REGISTER and lookup; the recording
//! of calls; a look at those under way; and registrars that come and go.
#![forbid(unsafe_code)]

mod calls;
mod cores;
mod driver;
mod load;
mod location;
mod peers;
mod phones;
mod register;
mod report;
mod scale;
mod view;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lab::kamailio::MemoryManager;
use lab::progress::step;
use lab::wait;

use load::Sample;
use peers::{Peer, Peers};
use phones::Phones;
use report::{Comparison, Measured};

/// Measure this system and the stock peer in one run
#[derive(Debug, Parser)]
struct Cli {
    /// Without it: all
    #[command(subcommand)]
    benchmark: Option<Benchmark>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// A challenged REGISTER, and how many a second
    Register,
    /// A re-REGISTER with known credentials, and a lookup
    Location,
    /// What recording calls adds
    Calls,
    /// A look at ten thousand calls under way
    View,
    /// Registrars that come and go
    Scale,
    /// The load of a part of the benchmark `location`
    #[command(hide = true)]
    Driver(driver::Load),
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Measured runs of each peer; the medians are shown
    #[arg(long, global = true, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load of each measured run
    #[arg(long, global = true, default_value_t = 15)]
    seconds: u64,
    /// Compare the costs at this rate, without a search for the highest rates and without a delay
    #[arg(long, global = true)]
    rate: Option<f64>,
    /// Kamailio's memory manager, the same for all peers
    #[arg(long, global = true, value_enum, default_value_t = MemoryManager::Tlsf)]
    memory_manager: MemoryManager,
    /// Subscribers that register in turn
    #[arg(long, global = true, default_value_t = 10_000)]
    users: usize,
    /// Milliseconds added to every answer of the database in the second half of the benchmark `register`
    #[arg(long, global = true, default_value_t = 10)]
    delay_ms: u64,
}

/// Seconds of load of each run of a search for the highest rate.
const SEARCH_SECONDS: u64 = 6;
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
    match &cli.benchmark {
        None => {
            register::run(&cli.options)?;
            location::run(&cli.options)?;
            calls::run(&cli.options)?;
            view::run(&cli.options)?;
            scale::run(&cli.options)
        }
        Some(Benchmark::Register) => register::run(&cli.options),
        Some(Benchmark::Location) => location::run(&cli.options),
        Some(Benchmark::Calls) => calls::run(&cli.options),
        Some(Benchmark::View) => view::run(&cli.options),
        Some(Benchmark::Scale) => scale::run(&cli.options),
        Some(Benchmark::Driver(load)) => driver::run(load, &cli.options),
    }
}

/// Every subscriber is registered, so that all measured REGISTERs refresh a binding; and some more, so that Cassandra's compiler
/// has seen the work.
fn warm_up(peer: &Peer, peers: &Peers) -> Result<()> {
    let calls = WARM_UP.max(peers.users().len() as u64);
    let phones = phones::registering(peers.users());
    let what = format!("{}: all subscribers register", peer.name());
    step(what, || load::run_calls(peer, &phones, WARM_UP_RATE, calls)).map(drop)
}

fn measure(options: &Options, peer: &Peer, phones: &Phones, round: usize, rate: f64) -> Result<Sample> {
    let what = format!("round {round} of {}: {} at {rate:.0} a second", options.rounds, peer.name());
    step(what, || load::run(peer, phones, rate, options.seconds))
}

/// Measures all peers in turn, at a rate that none has trouble with.
fn compare(
    options: &Options,
    operation: &'static str,
    peers: &[(&Peer, Phones)],
    (common_rate, common_rate_is): (f64, String),
) -> Result<Comparison> {
    let mut measured: Vec<_> = peers.iter().map(|(peer, _)| Measured::new(peer, None)).collect();
    for round in 1..=options.rounds {
        for ((peer, phones), measured) in peers.iter().zip(&mut measured) {
            measured.at_common_rate.push(measure(options, peer, phones, round, common_rate)?);
        }
    }
    Ok(Comparison {
        operation,
        delay_ms: 0,
        common_rate,
        common_rate_is,
        memory_manager: options.memory_manager,
        seconds: options.seconds,
        peers: measured,
    })
}
