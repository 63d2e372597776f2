//! Machines beside this one, of which two may share an address: network namespaces on a bridge, with keepalived as in
//! `deploy/keepalived/`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::networks::Network;
use crate::process::{self, Managed, OnOurDeath, Spawn};
use crate::{RunDir, workspace};

const SOON: Duration = Duration::from_secs(20);
const OURS: &str = "IN_A_NETWORK_OF_ITS_OWN";

/// Runs a program in a network of its own, which goes when it ends, and in which nothing can be fetched. A program that only lists its
/// tests runs where it is.
pub fn alone(prepare: impl FnOnce() -> Result<()>, program: impl FnOnce() -> ExitCode) -> ExitCode {
    if std::env::var_os(OURS).is_some() || std::env::args().any(|argument| argument == "--list") {
        return program();
    }
    let error = prepare().and_then(|()| again()).expect_err("this program goes on as another");
    eprintln!("{error:?}");
    ExitCode::FAILURE
}

/// This program again, in another network.
fn again() -> Result<()> {
    let is_possible = Command::new("unshare").args(["--net", "true"]).status().is_ok_and(|status| status.success());
    ensure!(
        is_possible,
        "no network namespace can be made here: this suite needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN)"
    );
    let up = "ip link set lo up && exec \"$0\" \"$@\"";
    let ours = std::env::current_exe()?;
    let error = Command::new("unshare")
        .args(["--net", "sh", "-c", up])
        .arg(ours)
        .args(std::env::args_os().skip(1))
        .env(OURS, "1")
        .exec();
    Err(error).context("unshare does not start")
}

/// A program, whose log has its name.
fn program(name: &str, dir: &RunDir) -> Spawn {
    Spawn::new(name, name, dir.join(&format!("{name}.log"))).dir(dir.path())
}

/// `ip` with these words.
fn ip(dir: &RunDir, words: &str) -> Result<String> {
    process::run(program("ip", dir).args(words.split(' ')), SOON)
}

/// A network that machines are in, and we.
#[derive(Debug)]
pub struct Segment {
    number: u8,
    dir: RunDir,
}

impl Segment {
    /// Makes one; the second part of its addresses is `number`, which no other has.
    pub fn new(number: u8) -> Result<Self> {
        let segment = Self { number, dir: RunDir::new("segment")? };
        for words in [format!("link add wan{number} type bridge"), format!("link set wan{number} up")] {
            ip(&segment.dir, &words)?;
        }
        Ok(segment)
    }

    /// The address of a host.
    pub fn host(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 0, host)
    }

    /// Has it be one of ours.
    pub fn claim(&self, host: u8) -> Result<Ipv4Addr> {
        let address = self.host(host);
        ip(&self.dir, &format!("addr add {address}/24 dev wan{}", self.number))?;
        Ok(address)
    }
}

/// A machine: a network of its own, and a keepalived, which gives it an address at times.
#[derive(Debug)]
pub struct Machine {
    // Before the network that it is in.
    keepalived: Option<Managed>,
    network: Network,
    own: Ipv4Addr,
    dir: RunDir,
}

impl Machine {
    /// Joins a segment as this host.
    pub fn new(segment: &Segment, host: u8) -> Result<Self> {
        let dir = RunDir::new("machine")?;
        let network = Network::new(host)?;
        let (keeper, number, own) = (network.keeper(), segment.number, segment.host(host));
        ip(&dir, &format!("link add m{number}-{host} type veth peer name eth0 netns {keeper}"))?;
        ip(&dir, &format!("link set m{number}-{host} master wan{number} up"))?;
        network.ip(&format!("link set lo up\naddr add {own}/24 dev eth0\nlink set eth0 up\n"))?;
        Ok(Self { keepalived: None, network, own, dir })
    }

    /// Its own address.
    pub fn own(&self) -> Ipv4Addr {
        self.own
    }

    /// Does something there: what is started stays there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.network.inside(work)
    }

    /// Has it take an address while another machine, which does the same, has not. Its Kamailio is asked at its own address with this
    /// port.
    pub fn share(&mut self, shared: Ipv4Addr, other: Ipv4Addr, port: u16) -> Result<()> {
        let shipped = workspace().root().join("deploy/keepalived");
        fs::copy(shipped.join("keepalived.conf"), self.dir.join("keepalived.conf"))?;
        let node = SocketAddrV4::new(self.own, port).to_string();
        let settings = fs::read_to_string(shipped.join("settings.conf"))?
            .replace("192.0.2.11:5060", &node)
            .replace("192.0.2.11", &self.own.to_string())
            .replace("192.0.2.12", &other.to_string())
            .replace("192.0.2.10", &shared.to_string());
        self.dir.write("settings.conf", &settings)?;
        let file = |name: &str| self.dir.join(name).display().to_string();
        let keepalived = program("keepalived", &self.dir)
            .args(["-n", "-l", "-D", "-P", "-f", &file("keepalived.conf")])
            .args(["-p", &file("keepalived.pid"), "-r", &file("vrrp.pid")])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .on_our_death(OnOurDeath::Terminate);
        let keepalived =
            self.inside(|| keepalived.start().context("Debian's keepalived is needed: run `make deps-all`"))?;
        self.keepalived = Some(keepalived);
        Ok(())
    }

    /// Whether it has this address now.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        let shown = self.inside(|| ip(&self.dir, "-4 addr show eth0"));
        shown.is_ok_and(|shown| shown.contains(&format!("inet {address}/")))
    }

    /// What its keepalived has written.
    pub fn log(&self) -> String {
        self.keepalived.as_ref().map(Managed::log).unwrap_or_default()
    }
}
