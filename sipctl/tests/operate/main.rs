//! The real `sipctl` against a real Cassandra: every command as people and as programs use it.
#![forbid(unsafe_code)]

mod errors;
mod import;
mod password;
mod registrations;
mod schema;
mod site;
mod subscriber;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use site::{Site, Test};

/// One after the other: they share two cores and one Cassandra.
fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let tests: Vec<(&str, Test)> =
        [schema::TESTS, subscriber::TESTS, password::TESTS, import::TESTS, registrations::TESTS, errors::TESTS]
            .concat();
    if arguments.list {
        let names = tests.into_iter().map(|(name, _)| Trial::test(name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, names).exit_code();
    }
    let site = match Site::start() {
        Ok(site) => Arc::new(site),
        Err(error) => {
            eprintln!("Cassandra does not start: {error:?}");
            return ExitCode::FAILURE;
        }
    };
    let trial = |(name, test): (&str, Test)| {
        let site = site.clone();
        Trial::test(name, move || test(&site).map_err(|error| format!("{error:#}").into()))
    };
    let trials = tests.into_iter().map(trial).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
