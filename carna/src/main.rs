//! `carna`: the agent of a node.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use carna::agent;
use carna::config::Config;
use clap::{Parser, Subcommand};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Run a node: its Kamailio, its place among the others, its way out.
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
}

/// Pause between two looks whether a node has ended.
const LOOK: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("carna: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let config = Config::read(cli.config.as_deref())?;
    match cli.command {
        Command::Run => run_node(config),
        Command::Check => {
            let node = config.announcement()?;
            println!("The configuration is right: {} in {}.", node.id(), node.dc);
            Ok(())
        }
        Command::Drain => drain(&config),
    }
}

fn run_node(config: Config) -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    fs::create_dir_all(&config.state_dir).with_context(|| format!("cannot make {}", config.state_dir.display()))?;
    let file = agent::pid_file(&config);
    fs::write(&file, std::process::id().to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(agent::run(config));
    let _ = fs::remove_file(&file);
    ended
}

fn drain(config: &Config) -> Result<()> {
    let file = agent::pid_file(config);
    let Ok(text) = fs::read_to_string(&file) else {
        bail!("no node runs by this configuration: there is no {}", file.display())
    };
    let pid =
        text.trim().parse().ok().and_then(Pid::from_raw).with_context(|| format!("{} holds no pid", file.display()))?;
    kill_process(pid, Signal::TERM)
        .with_context(|| format!("no node runs by this configuration: process {text} is gone"))?;
    while test_kill_process(pid).is_ok() {
        sleep(LOOK);
    }
    Ok(())
}
