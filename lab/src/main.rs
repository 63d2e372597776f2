//! The lab's command line; `make` calls it.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lab::cassandra::{Cassandra, Options};
use lab::cluster::{self, Plan};
use lab::progress::step;
use lab::{media, support, wait};

/// Start the real servers of the demo, the tests and the benchmarks.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch what does not come from Debian
    Install,
    /// Run one Cassandra in the foreground; prints its address:port, and Ctrl-C stops it
    Cassandra {
        /// Passwords and permissions; the superuser is cassandra/cassandra
        #[arg(long)]
        auth: bool,
    },
    /// Run the stand-in for a FreeSWITCH in the foreground, with its event socket; SIGTERM stops it
    Media {
        /// Where it takes calls
        #[arg(long)]
        address: Ipv4Addr,
        /// What it writes goes in there
        #[arg(long)]
        dir: PathBuf,
    },
    /// Start the cluster and leave it running; target/cluster.env tells where
    Up {
        /// How many nodes of each role
        #[arg(long, env = "NODES", default_value_t = 2)]
        nodes: usize,
        /// How many Cassandra nodes
        #[arg(long, env = "CASSANDRA_NODES", default_value_t = 1)]
        cassandra_nodes: usize,
    },
    /// Stop what `up` has left running
    Down,
    /// Start everything, register two phones, make a call, show what was stored, stop everything
    Demo,
    /// Versions of Kamailio and Cassandra that the tests pass with
    #[command(subcommand)]
    Support(Support),
}

#[derive(Debug, Subcommand)]
enum Support {
    /// Run the tests of each promise with KAMAILIO, CASSANDRA_MODULE_DIR and CASSANDRA_VERSION from the environment
    Run {
        /// Where that Kamailio is from, if not from this Debian
        #[arg(long)]
        from: Option<String>,
        /// CI does not run them
        #[arg(long)]
        by_hand: bool,
    },
    /// Leave behind that all tests have passed
    AllPassed,
    /// Compare what has passed with docs/support.json
    Check,
    /// Put the table of docs/support.json into the README
    Table,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match wait::catch_ctrl_c().and_then(|()| run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if wait::interrupted() => {
            eprintln!("interrupted; everything that was started is stopped");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Install => Cassandra::install().map(drop),
        Command::Cassandra { auth } => run_cassandra(auth),
        Command::Media { address, dir } => media::serve(address, dir),
        Command::Up { nodes, cassandra_nodes } => cluster::up(nodes, cassandra_nodes),
        Command::Down => cluster::down(),
        Command::Demo => cluster::demo(&Plan::default()),
        Command::Support(command) => run_support(command),
    }
}

fn run_support(command: Support) -> Result<()> {
    match command {
        Support::Run { from, by_hand } => support::run(from, by_hand),
        Support::AllPassed => support::all_passed(),
        Support::Check => support::check(),
        Support::Table => support::write_table(),
    }
}

fn run_cassandra(auth: bool) -> Result<()> {
    Cassandra::install()?;
    let options = Options { auth, optimised: true, ..Options::default() };
    let node = step("Cassandra answers CQL", || Cassandra::start(options))?;
    println!("{}", node.contact_point());
    // Ctrl-C ends the wait with an error, as it should; that is how this command succeeds.
    match node.process().until("Ctrl-C", Duration::MAX, || false) {
        Err(_) if wait::interrupted() => Ok(()),
        other => other,
    }
}
