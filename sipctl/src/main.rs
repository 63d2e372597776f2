//! `sipctl`: what an operator sees and does: schema, subscribers, registrations.
//!
//! Passwords come from standard input or a prompt, never from the command line; only HA1s are stored, and none is shown.
#![forbid(unsafe_code)]

mod commands;
mod connection;
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use connection::Connection;
use output::Output;

/// Operate the Cassandra side of the SIP platform.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create and check the tables.
    #[command(subcommand)]
    Schema(commands::schema::Schema),
    /// Provision subscribers.
    #[command(subcommand)]
    Subscriber(commands::subscriber::Subscriber),
    /// Show where a subscriber is registered.
    Registrations(commands::registrations::Registrations),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sipctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let output = Output::new(cli.json);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Schema(command) => command.run(&cli.connection, &output).await,
            Command::Subscriber(command) => command.run(&cli.connection, &output).await,
            Command::Registrations(command) => command.run(&cli.connection, &output).await,
        }
    })
}
