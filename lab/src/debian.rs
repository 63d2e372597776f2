//! The Debian of this machine, as small as it can be, and machines with it that run systemd beside this one.
//!
//! Such a machine is what `systemd-nspawn` makes of a directory: it has this machine's kernel and network, and processes and services of
//! its own. What it has is Debian's packages, by `debootstrap` and `apt-get`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{self, Managed, OnOurDeath, Spawn};
use crate::{FileLock, RunDir, tools, workspace};

/// What is needed.
pub const NEEDED: &str = "machines are needed: Debian's debootstrap and systemd-container (`make deps-all`), root, and a kernel that \
                          lets them run; where it does not, CONTAINER_TESTS=off leaves these tests out";

const INSTALL_LIMIT: Duration = Duration::from_secs(900);
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The tree of the smallest Debian of this machine's release, which is made once: to be copied, not changed.
pub fn smallest() -> Result<PathBuf> {
    let codename = release("VERSION_CODENAME")?;
    let servers = workspace().servers();
    let _lock = FileLock::take(&servers.join("debian.lock"), "install Debian", INSTALL_LIMIT)?;
    let tree = servers.join(format!("debian-{codename}"));
    if !tree.exists() {
        let fresh = RunDir::new("debian")?;
        let make = Spawn::new("debootstrap", "debootstrap", fresh.join("log")).args(["--variant=minbase", &codename]);
        process::run(make.arg(fresh.join("tree")), INSTALL_LIMIT).context(NEEDED)?;
        fs::rename(fresh.join("tree"), &tree)?;
    }
    Ok(tree)
}

/// What this machine's `/etc/os-release` says of its Debian by this name.
pub(crate) fn release(name: &str) -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("cannot see which Debian this is")?;
    let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    Ok(value.with_context(|| format!("/etc/os-release has no {name} of Debian"))?.trim_matches('"').to_owned())
}

/// A machine beside this one. Dropping it switches it off, and removes it.
#[derive(Debug)]
pub struct Machine {
    // Before its files.
    running: Option<Managed>,
    dir: RunDir,
}

impl Machine {
    /// A new one, which is off, with the packages that this machine's release has by these names.
    pub fn with(packages: &[&str]) -> Result<Self> {
        let machine = Self { running: None, dir: RunDir::new("machine")? };
        let copy = Spawn::new("cp", "cp", machine.dir.join("cp.log")).arg("--archive").arg(smallest()?);
        process::run(copy.arg(machine.tree()), INSTALL_LIMIT)?;
        fs::write(machine.tree().join("etc/apt/sources.list"), sources()?)?;
        machine.off(&["apt-get", "-qq", "update"])?;
        machine.off(&[&["apt-get", "-qq", "--yes", "--no-install-recommends", "install"], packages].concat())?;
        Ok(machine)
    }

    /// Its root directory.
    pub fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// A file of it.
    pub fn file(&self, path: &str) -> PathBuf {
        self.tree().join(path.trim_start_matches('/'))
    }

    /// Runs a command in it while it is off, and returns what that prints.
    pub fn off(&self, command: &[&str]) -> Result<String> {
        process::run(self.nspawn("off.log").args(command), INSTALL_LIMIT).context(NEEDED)
    }

    /// Switches it on, and waits until it has started all that it starts.
    pub fn boot(&mut self) -> Result<()> {
        let machine = self.nspawn("boot.log").arg("--boot").on_our_death(OnOurDeath::Terminate).start()?;
        let machine = self.running.insert(machine);
        let init = machine.pid();
        machine.until("systemd to have started", START_LIMIT, || {
            enter(init, &["systemctl", "is-system-running"]).is_ok_and(|state| state.trim() == "running")
        })
    }

    /// Runs a command in it while it is on, and returns what that prints; fails with that when it fails.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        enter(self.running.as_ref().context("the machine is off")?.pid(), command)
    }

    fn nspawn(&self, log: &str) -> Spawn {
        Spawn::new("systemd-nspawn", "systemd-nspawn", self.dir.join(log))
            .args(["--quiet", "--register=no", "--keep-unit", "--settings=no", "--resolv-conf=bind-host"])
            .args(["--console=pipe", "--setenv=DEBIAN_FRONTEND=noninteractive", "--directory"])
            .arg(self.tree())
    }
}

impl Drop for Machine {
    /// In order, so that it stops its services.
    fn drop(&mut self) {
        if let Some(Err(error)) = self.running.as_mut().map(|running| running.terminate(STOP_LIMIT)) {
            eprintln!("the machine does not stop: {error:#}");
        }
    }
}

/// Runs a command in the machine of this `systemd-nspawn`, whose one child is the machine's first process.
fn enter(nspawn: u32, command: &[&str]) -> Result<String> {
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children"))?;
    let init = children.split_whitespace().next().context("the machine has no process")?;
    ensure!(Path::new(&format!("/proc/{init}/root/run/systemd/system")).exists(), "systemd has not started");
    let inside = ["/usr/bin/env", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
    tools::run(Command::new("nsenter").args(["--target", init, "--all", "--root", "--wd"]).args(inside).args(command))
}

/// Where this machine has its Kamailio from, as lines of a sources.list: a module fits one version.
fn sources() -> Result<String> {
    let known = tools::run(Command::new("apt-cache").args(["madison", "kamailio"]))?;
    let mut lines: Vec<_> = known.lines().filter_map(source).collect();
    lines.sort();
    lines.dedup();
    ensure!(!lines.is_empty(), "apt does not know where kamailio comes from: run 'apt-get update'");
    Ok(lines.concat())
}

/// That of a line `kamailio | VERSION | URL SUITE/COMPONENT ARCHITECTURE Packages`.
fn source(line: &str) -> Option<String> {
    let mut words = line.rsplit('|').next()?.split_whitespace();
    let (url, place) = (words.next()?, words.next()?);
    let (suite, component) = place.split_once('/')?;
    Some(format!("deb {url} {suite} {component}\n"))
}
