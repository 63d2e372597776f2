//! `sipctl`: what an operator sees and does: schema, subscribers, registrations, calls.
//!
//! Passwords come from standard input or a prompt, never from the command line; only HA1s are stored, and none is shown.
#![forbid(unsafe_code)]

mod commands;
mod connection;
mod output;

use std::env;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use connection::Connection;
use output::{Format, Output};

/// A command line that is not understood.
const USAGE: u8 = 2;

/// Operate the Cassandra side of the SIP platform.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    /// Print JSON instead of tables, and an error as {"error": "..."}.
    #[arg(long, global = true, conflicts_with = "csv")]
    json: bool,
    /// Print lists as comma-separated values.
    #[arg(long, global = true)]
    csv: bool,
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    fn format(&self) -> Format {
        match (self.json, self.csv) {
            (true, _) => Format::Json,
            (_, true) => Format::Csv,
            _ => Format::Table,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create and check the tables.
    #[command(subcommand)]
    Schema(commands::schema::Schema),
    /// Provision subscribers.
    #[command(subcommand)]
    Subscriber(commands::subscriber::Subscriber),
    /// Provision aliases: numbers and names that mean a subscriber.
    #[command(subcommand)]
    Alias(commands::alias::Alias),
    /// Show where a subscriber is registered.
    Registrations(commands::registrations::Registrations),
    /// Show the calls that are under way on all nodes.
    Calls(commands::calls::Calls),
    /// Show what happened to a call, on all nodes.
    Call(commands::history::Call),
    /// Show the calls of a subscriber, the latest first.
    History(commands::history::History),
    /// Show the nodes of all roles.
    Nodes(commands::nodes::Nodes),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    let output = Output::new(cli.format());
    match run(cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&format!("{error:#}{}", connection::advice(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, output: &Output) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Schema(command) => command.run(&cli.connection, output).await,
            Command::Subscriber(command) => command.run(&cli.connection, output).await,
            Command::Alias(command) => command.run(&cli.connection, output).await,
            Command::Registrations(command) => command.run(&cli.connection, output).await,
            Command::Calls(command) => command.run(&cli.connection, output).await,
            Command::Call(command) => command.run(&cli.connection, output).await,
            Command::History(command) => command.run(&cli.connection, output).await,
            Command::Nodes(command) => command.run(&cli.connection, output).await,
        }
    })
}

/// Help and version are no errors; an error is JSON when that was asked for, which is not known from parsing then.
fn not_understood(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || env::args_os().all(|argument| argument != "--json") {
        error.exit();
    }
    Output::new(Format::Json).error(&usage_error(error));
    ExitCode::from(USAGE)
}

/// The sentence in what clap prints, which goes on with usage and tips.
fn usage_error(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing: see 'sipctl --help'".to_owned();
    }
    let printed = error.to_string();
    let sentence = printed.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = sentence.trim_start_matches("error: ").split_whitespace().collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_usage_error_is_one_sentence() {
        for (arguments, expected) in [
            (vec!["sipctl"], "a command is missing: see 'sipctl --help'"),
            (vec!["sipctl", "registrations"], "the following required arguments were not provided: <AOR>"),
            (vec!["sipctl", "bogus"], "unrecognized subcommand 'bogus'"),
        ] {
            let error = Cli::try_parse_from(arguments).expect_err(expected);
            assert_eq!(usage_error(&error), expected);
        }
    }
}
