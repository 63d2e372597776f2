//! sipctl, our release build of it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Runs `sipctl ARGS` with these settings in its environment and `input` on its standard input, in the network of the calling
/// thread, and returns what it prints. That it fails is an error, which says what it says.
pub fn run(settings: &[(String, String)], args: &[&str], input: &str) -> Result<String> {
    run_build(&workspace().sipctl(), settings, args, input)
}

/// The same with another build of it.
pub fn run_build(program: &Path, settings: &[(String, String)], args: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run sipctl: run `make build`")?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes()); // one that does not read says why in its output
    }
    let output = child.wait_with_output().context("cannot run sipctl")?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("`sipctl {}` failed: {}", args.join(" "), error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
