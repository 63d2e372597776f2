//! The Debian packages on a machine of their own, with systemd: installed, configured, started, upgraded, drained, removed.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddrV4;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{Site, settings};
use lab::debian::Machine;
use lab::packages::Packages;
use lab::topology::SECRET;
use lab::wait::until;
use lab::zookeeper::ZooKeeper;
use lab::{RunDir, carna, kamailio, net, tools};

const SOON: Duration = Duration::from_secs(60);
/// Those that ours need, so that nothing else comes with ours, and goes with them.
const NEEDED: [&str; 6] =
    ["systemd-sysv", "dbus", "kamailio", "kamailio-tls-modules", "kamailio-websocket-modules", "netbase"];
const OURS: [&str; 4] = ["carna", "kamailio-cassandra-modules", "sip-node", "sipctl"];
/// Where the machine has the packages.
const SHELF: &str = "/srv/packages";
const SETTINGS: &str = "/etc/carna/node.env";

fn main() -> ExitCode {
    lab::suite::run(
        Installed::start,
        // In this order.
        &[
            ("nothing_is_started_before_it_is_configured", stopped as lab::suite::Test<Installed>),
            ("systemd_understands_the_unit", verified),
            ("a_node_without_settings_says_what_is_missing", unconfigured),
            ("a_configured_node_answers_and_takes_part_with_no_rights", started),
            ("an_upgrade_keeps_settings_and_leaves_the_node_running", upgraded),
            ("a_node_that_is_stopped_drains", drained),
            ("a_removal_leaves_settings_and_state_and_a_purge_nothing", removed),
        ],
    )
}

/// A machine with the packages, and what a node of it needs.
struct Installed {
    machine: Machine,
    packages: Packages,
    /// All files that it had before.
    before: BTreeSet<String>,
    address: SocketAddrV4,
    zookeeper: ZooKeeper,
    site: Site,
    // The packages are in it.
    _dir: RunDir,
}

impl Installed {
    fn start() -> Result<Self> {
        let dir = RunDir::new("packages")?;
        let packages = Packages::make(dir.path())?;
        let mut machine = Machine::with(&NEEDED)?;
        // As docs/packages.md says; and the port is another's here.
        machine.off(&["systemctl", "disable", "kamailio.service"])?;
        machine.boot()?;
        let before = files(&machine)?;
        let installed = Self {
            before,
            packages,
            address: SocketAddrV4::new(net::loopback(), 5060),
            zookeeper: ZooKeeper::start(1)?,
            site: Site::start(1, &["alice"])?,
            machine,
            _dir: dir,
        };
        installed.shelve(installed.packages.all()?.as_slice())?;
        installed.install()?;
        Ok(installed)
    }

    /// Lays these packages, and no others, where the machine finds them.
    fn shelve(&self, packages: &[std::path::PathBuf]) -> Result<()> {
        let shelf = self.machine.file(SHELF);
        let _ = fs::remove_dir_all(&shelf); // it is not there at first
        fs::create_dir_all(&shelf)?;
        for package in packages {
            fs::copy(package, shelf.join(package.file_name().context("no name")?))?;
        }
        Ok(())
    }

    /// Nobody is there to be asked: what was edited stays, as an operator answers who only presses return.
    fn install(&self) -> Result<String> {
        let options = "--quiet --quiet --yes --no-install-recommends --option Dpkg::Options::=--force-confold";
        self.machine.run(&["sh", "-c", &format!("apt-get {options} install {SHELF}/*.deb")])
    }

    fn systemctl(&self, arguments: &[&str]) -> Result<String> {
        self.machine.run(&[&["systemctl"], arguments].concat())
    }

    fn property(&self, name: &str) -> Result<String> {
        let shown = self.systemctl(&["show", "--value", "--property", name, "carna.service"])?;
        Ok(shown.trim().to_owned())
    }

    fn journal(&self) -> Result<String> {
        self.machine.run(&["journalctl", "--no-pager", "--unit", "carna.service"])
    }

    fn is_ready(&self) -> bool {
        carna::get(self.address, "/ready").is_ok_and(|(code, _)| code == 200)
    }

    /// Writes the node's settings, below those that the package brings.
    fn configure(&self) -> Result<()> {
        let file = self.machine.file(SETTINGS);
        let mut text = fs::read_to_string(&file)?;
        let address = self.address.to_string();
        let own = [
            ("CARNA_NODE__ROLE", "registrar"),
            ("CARNA_NODE__DC", "dc1"),
            ("CARNA_NODE__NAME", "packed"),
            ("CARNA_NODE__SIP__UDP", &address),
            ("CARNA_HTTP__LISTEN", &carna::http_address(self.address).to_string()),
            ("CARNA_ZOOKEEPER__SERVERS", &self.zookeeper.servers()),
            ("CARNA_DRAIN__NOTICE", "1s"),
            ("SIP_ADDR", &address),
            ("NONCE_SECRET", SECRET),
            ("SHM_MEMORY", "64"),
            ("WORKERS", "2"),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        for (name, value) in own.into_iter().chain(settings(self.site.contact_point(), "dc1")) {
            text += &format!("{name}={value}\n");
        }
        Ok(fs::write(file, text)?)
    }
}

/// All files that stay, but for what packages are known by, and what was logged.
fn files(machine: &Machine) -> Result<BTreeSet<String>> {
    let places = "find /etc /usr /var /srv -path /var/lib/dpkg -prune -o -path /var/lib/systemd -prune -o -path /var/log -prune -o \
                  -path /var/cache -prune -o -path /var/tmp -prune -o -path /srv/packages -prune -o -path /var/lib/apt -prune -o -print";
    let found = machine.run(&["sh", "-c", places])?;
    Ok(found.lines().map(str::to_owned).collect())
}

fn stopped(installed: &Installed) -> Result<()> {
    ensure!(installed.property("ActiveState")? == "inactive", "it has been started");
    ensure!(installed.property("UnitFileState")? == "disabled", "it will be started");
    installed.machine.run(&["id", "carna"]).map(drop)
}

fn verified(installed: &Installed) -> Result<()> {
    let told = installed.machine.run(&["systemd-analyze", "verify", "--man=no", "carna.service"])?;
    ensure!(!told.contains("carna"), "{told}");
    Ok(())
}

fn unconfigured(installed: &Installed) -> Result<()> {
    installed.systemctl(&["start", "carna.service"])?;
    let told = || installed.journal().is_ok_and(|journal| journal.contains("carna: missing field `node`"));
    until("Carna to say what is missing", SOON, told).with_context(|| installed.journal().unwrap_or_default())?;
    installed.systemctl(&["stop", "carna.service"]).map(drop)
}

fn started(installed: &Installed) -> Result<()> {
    installed.configure()?;
    installed.systemctl(&["enable", "--now", "carna.service"])?;
    until("the node to be ready", SOON, || installed.is_ready())
        .with_context(|| installed.journal().unwrap_or_default())?;
    let answer = kamailio::ask_over_udp(installed.address)?;
    ensure!(answer.starts_with("SIP/2.0 200 "), "{answer}");
    let pids = installed.machine.run(&["cat", "/sys/fs/cgroup/systemd/system.slice/carna.service/cgroup.procs"]);
    let pids =
        pids.or_else(|_| installed.machine.run(&["cat", "/sys/fs/cgroup/system.slice/carna.service/cgroup.procs"]))?;
    ensure!(pids.lines().count() > 2, "Kamailio is not a part of the service");
    let user = installed.machine.run(&["id", "--user", "carna"])?;
    for pid in pids.lines() {
        let status = installed.machine.run(&["cat", &format!("/proc/{pid}/status")])?;
        let uid = format!("Uid:\t{0}\t{0}\t{0}\t{0}", user.trim());
        for line in
            [uid.as_str(), "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
        {
            ensure!(status.lines().any(|shown| shown == line), "{line} is not in {status}");
        }
    }
    Ok(())
}

/// A later version whose settings are others: what the operator wrote stays.
fn upgraded(installed: &Installed) -> Result<()> {
    let (pid, settings) = (installed.property("MainPID")?, fs::read_to_string(installed.machine.file(SETTINGS))?);
    let later = RunDir::new("later")?;
    let packages =
        installed.packages.all()?.iter().map(|package| make_later(package, &later)).collect::<Result<Vec<_>>>()?;
    installed.shelve(&packages)?;
    installed.install()?;
    let version = installed.machine.run(&["dpkg-query", "--show", "--showformat=${Version}", "sip-node"])?;
    ensure!(version.ends_with("+later"), "{version}");
    ensure!(fs::read_to_string(installed.machine.file(SETTINGS))? == settings, "the settings are not the operator's");
    ensure!(fs::read_to_string(installed.machine.file("/etc/carna/carna.toml"))?.contains("# later"), "nothing is new");
    ensure!(installed.property("MainPID")? == pid && installed.is_ready(), "the node does not go on");
    Ok(())
}

/// The same package with a later version and, where it has any, other configuration files.
fn make_later(package: &std::path::Path, dir: &RunDir) -> Result<std::path::PathBuf> {
    let name = package.file_name().context("no name")?;
    let (tree, made) = (dir.join("tree").join(name), dir.join(&name.to_string_lossy()));
    fs::create_dir_all(dir.join("tree"))?;
    tools::run(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(&tree))?;
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let version =
        |line: &str| if line.starts_with("Version: ") { format!("{line}+later\n") } else { format!("{line}\n") };
    fs::write(&control, text.lines().map(version).collect::<String>())?;
    for file in ["etc/carna/node.env", "etc/carna/carna.toml"].map(|file| tree.join(file)) {
        if file.exists() {
            fs::write(&file, fs::read_to_string(&file)? + "# later\n")?;
        }
    }
    tools::run(Command::new("dpkg-deb").args(["--build", "-Znone"]).arg(&tree).arg(&made))?;
    Ok(made)
}

fn drained(installed: &Installed) -> Result<()> {
    installed.systemctl(&["stop", "carna.service"])?;
    let journal = installed.journal()?;
    ensure!(journal.contains("drained: nothing goes on any more"), "{journal}");
    ensure!(installed.property("Result")? == "success", "{journal}");
    ensure!(kamailio::ask_over_udp(installed.address).is_err(), "Kamailio goes on");
    Ok(())
}

fn removed(installed: &Installed) -> Result<()> {
    let apt = |what: &str| installed.machine.run(&[&["apt-get", "-qq", "--yes", what], &OURS[..]].concat());
    // It has gone on, and is stopped by the removal.
    installed.systemctl(&["start", "carna.service"])?;
    until("the node to be ready", SOON, || installed.is_ready())?;
    apt("remove")?;
    ensure!(!installed.is_ready(), "a node goes on that has been removed");
    for kept in [SETTINGS, "/var/lib/carna", "/etc/kamailio/registrar.cfg"] {
        ensure!(installed.machine.file(kept).exists(), "{kept} is gone");
    }
    apt("purge")?;
    let (before, after) = (&installed.before, files(&installed.machine)?);
    let (left, gone): (Vec<_>, Vec<_>) = (after.difference(before).collect(), before.difference(&after).collect());
    ensure!(left.is_empty() && gone.is_empty(), "left: {left:?}; gone: {gone:?}");
    Ok(())
}
