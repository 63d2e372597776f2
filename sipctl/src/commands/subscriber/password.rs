//! Where a password comes from: never the command line, which every user of the machine can read.

use std::io::{BufRead, stdin};

use anyhow::{Context, bail};
use clap::Args;
use domain::Aor;

/// A prompt, or standard input.
#[derive(Debug, Args)]
pub(crate) struct PasswordSource {
    /// Read the password from the first line of standard input instead of asking for it.
    #[arg(long)]
    password_stdin: bool,
}

impl PasswordSource {
    /// The password of `aor`.
    ///
    /// # Errors
    /// When it is empty, or there is nobody to ask.
    pub(super) fn read(&self, aor: &Aor) -> anyhow::Result<String> {
        let password = if self.password_stdin { first_line(stdin().lock())? } else { ask(aor)? };
        if password.is_empty() {
            bail!("the password of {aor} is empty: give one");
        }
        Ok(password)
    }
}

fn first_line(mut input: impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line).context("the password cannot be read from standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks twice: what was typed is not seen.
fn ask(aor: &Aor) -> anyhow::Result<String> {
    let password = prompt(&format!("Password of {aor}: "))?;
    if prompt("The same again: ")? != password {
        bail!("the two passwords differ: nothing is changed");
    }
    Ok(password)
}

fn prompt(question: &str) -> anyhow::Result<String> {
    rpassword::prompt_password(question).context("there is no terminal to ask for the password: use --password-stdin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_whatever_ends_it() {
        for input in ["two words ", "two words \n", "two words \r\n", "two words \nmore\n"] {
            assert_eq!(first_line(input.as_bytes()).expect(input), "two words ");
        }
    }
}
