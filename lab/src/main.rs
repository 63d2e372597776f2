//! The command line of the lab.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lab::cassandra::{Cassandra, Options};
use lab::wait;

/// Starts the real servers of the demo, the tests and the benchmarks.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch everything that is not in Debian
    Install,
    /// Run one Cassandra in the foreground; Ctrl-C stops it
    Cassandra,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match wait::catch_ctrl_c().and_then(|()| run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Install => Cassandra::install().map(drop),
        Command::Cassandra => cassandra(),
    }
}

fn cassandra() -> Result<()> {
    Cassandra::install()?;
    let node = lab::progress::step("Cassandra answers CQL", || {
        Cassandra::start(Options::default())
    })?;
    println!("{}", node.contact_point());
    wait_for_ctrl_c(&node)
}

fn wait_for_ctrl_c(node: &Cassandra) -> Result<()> {
    while !wait::interrupted() && node.process().is_running() {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
