//! A test suite whose servers start once and stop at the end: what the `main` of a test without Rust's own harness calls.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

/// A test over the servers of its suite.
pub type Test<S> = fn(&S) -> Result<()>;

/// Starts the servers, runs the tests one after the other, stops the servers. Takes the arguments of Rust's own harness; to
/// list the tests nothing is started.
pub fn run<S: Send + Sync + 'static>(start: impl FnOnce() -> Result<S>, tests: &[(&'static str, Test<S>)]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share the servers and two cores.
    arguments.test_threads = Some(1);
    if arguments.list {
        let names = tests.iter().map(|(name, _)| Trial::test(*name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, names).exit_code();
    }
    let site = match start() {
        Ok(site) => Arc::new(site),
        Err(error) => {
            eprintln!("the servers do not start: {error:?}");
            return ExitCode::FAILURE;
        }
    };
    let trials = tests
        .iter()
        .map(|(name, test)| {
            let (site, test) = (site.clone(), *test);
            Trial::test(*name, move || test(&site).map_err(|error| format!("{error:#}").into()))
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
