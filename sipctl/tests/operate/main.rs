//! The real `sipctl` against a real Cassandra: every command as people and as programs use it.
#![forbid(unsafe_code)]

mod alias;
mod calls;
mod errors;
mod import;
mod nodes;
mod password;
mod registrations;
mod schema;
mod site;
mod subscriber;

use std::process::ExitCode;

use site::{Site, Test};

fn main() -> ExitCode {
    let tests: Vec<(&str, Test)> = [
        schema::TESTS,
        subscriber::TESTS,
        password::TESTS,
        import::TESTS,
        alias::TESTS,
        registrations::TESTS,
        calls::TESTS,
        nodes::TESTS,
        errors::TESTS,
    ]
    .concat();
    lab::suite::run(Site::start, &tests)
}
