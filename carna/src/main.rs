//! `carna`: the agent of a node.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use carna::agent;
use carna::config::Config;
use carna::http;
use carna::log::{Layer, Log};
use carna::process::Process;
use carna::state::Kept;
use clap::{Parser, Subcommand};
use rustix::process::{Signal, kill_process};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Run a node: its Kamailio or FreeSWITCH, its place among the others, its way out.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// The configuration; every key can be set in the environment instead, as CARNA_NODE__ROLE for role in [node].
    #[arg(long, global = true, env = "CARNA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node until SIGTERM, and then drain it.
    Run,
    /// Check the configuration.
    Check,
    /// Have the node that runs by this configuration drain and end, and wait for that.
    Drain,
    /// Fail unless the node that runs by this configuration lives: for a container's health check.
    Health {
        /// Unless it takes part, too.
        #[arg(long)]
        ready: bool,
    },
}

/// Pause between two looks whether a node has ended.
const LOOK: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("carna: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let config = Config::read(cli.config.as_deref())?;
    match cli.command {
        Command::Run => return run_node(config),
        Command::Check => {
            let node = config.announcement()?;
            println!("The configuration is right: {} in {}.", node.id(), node.dc);
        }
        Command::Drain => drain(&config)?,
        Command::Health { ready } => http::ask(config.http.listen, if ready { "/ready" } else { "/live" })?,
    }
    Ok(ExitCode::SUCCESS)
}

/// From here on what is to be told is told to the log.
fn run_node(config: Config) -> Result<ExitCode> {
    let kept = Kept::open(&config.state_dir)?;
    let log = Log::start(config.log()?)?;
    tell(&log);
    let ended = run_logged(config, kept, &log).inspect_err(|error| tracing::error!("{error:#}"));
    log.close();
    Ok(if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_logged(config: Config, kept: Kept, log: &Log) -> Result<()> {
    if let Some(agent) = Process::of(rustix::process::getpid()) {
        kept.keep_agent(&agent)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(agent::run(config, kept, log))
}

/// Has everything that is told written to the log. What the clients of the event socket and of Cassandra tell, the agent tells in its own
/// words.
fn tell(log: &Log) {
    let told = Targets::new().with_default(LevelFilter::INFO);
    let told = told.with_target("freeswitch_esl_tokio", LevelFilter::ERROR).with_target("scylla", LevelFilter::WARN);
    tracing_subscriber::registry().with(Layer::new(log.clone())).with(told).init();
}

fn drain(config: &Config) -> Result<()> {
    let agent = Kept::at(&config.state_dir).agent();
    let running = || agent.as_ref().and_then(Process::running);
    let Some(pid) = running() else {
        bail!("no node runs by this configuration, whose state is in {}", config.state_dir.display())
    };
    kill_process(pid, Signal::TERM).context("the node cannot be told")?;
    while running().is_some() {
        sleep(LOOK);
    }
    Ok(())
}
