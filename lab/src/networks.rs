//! Networks of their own on this machine, joined by a link that can be cut: what data centres are to each other.
//!
//! Each is a network namespace that lives as long as a process or a socket is inside: nothing stays behind, however we end.
//! Making one takes root, Debian's `iproute2` and `util-linux`.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::RunDir;
use crate::process::{self, Managed, Spawn};

const LIMIT: Duration = Duration::from_secs(20);
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// One network. What is started and what is connected [inside](Network::inside) it stays there; its loopback is its own.
#[derive(Debug)]
pub struct Network {
    number: u8,
    namespace: File,
    keeper: Managed,
    hosts: AtomicU8,
    dir: RunDir,
}

impl Network {
    /// Makes one, which has nothing yet but its loopback, and that is down. The second part of its [addresses](Network::address) is
    /// `number`.
    pub fn new(number: u8) -> Result<Self> {
        let dir = RunDir::new("network")?;
        let keeper = Spawn::new("unshare", "unshare", dir.join("unshare.log"));
        let keeper = keeper.args(["--net", "sleep", "infinity"]).start()?;
        let path = format!("/proc/{}/ns/net", keeper.pid());
        let ours = fs::metadata("/proc/thread-self/ns/net")?.ino();
        let is_another = || fs::metadata(&path).is_ok_and(|namespace| namespace.ino() != ours);
        keeper
            .until("a network of its own", LIMIT, is_another)
            .context("only root may make networks (in a container: with the capability SYS_ADMIN)")?;
        let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self { number, namespace, keeper, hosts: AtomicU8::new(0), dir })
    }

    /// Does something from inside: processes, sockets and questions for free ports are this network's.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        // In a thread of its own, which need not find the way back.
        let work = || {
            move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("cannot enter a network")?;
            work()
        };
        thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// An address of this network that nobody has yet; it is reached from inside, and over the link.
    ///
    /// # Panics
    ///
    /// When more than two hundred were taken.
    pub fn address(&self) -> Ipv4Addr {
        let host = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(host < 200, "too many addresses of one network");
        Ipv4Addr::new(10, self.number, 0, host)
    }

    /// The process that keeps it: `ip` knows the network by its pid.
    pub fn keeper(&self) -> u32 {
        self.keeper.pid()
    }

    /// Runs commands of `ip` inside, a line each.
    pub fn ip(&self, commands: &str) -> Result<()> {
        let batch = self.dir.write("ip.batch", commands)?;
        let ip = Spawn::new("ip", "ip", self.dir.join("ip.log")).arg("-batch").arg(batch);
        self.inside(|| process::run(ip, LIMIT).context("Debian's iproute2 is needed: run `make deps-all`")).map(drop)
    }
}

/// Two networks, and a router between them.
#[derive(Debug)]
pub struct Link {
    /// What it joins.
    pub ends: [Network; 2],
    router: Network,
}

impl Link {
    /// Makes the networks and joins them.
    pub fn new() -> Result<Self> {
        let link = Self { ends: [Network::new(1)?, Network::new(2)?], router: Network::new(0)? };
        for end in &link.ends {
            let (number, keeper) = (end.number, end.keeper());
            link.router.ip(&format!(
                "link add dc{number} type veth peer name wan netns {keeper}\n\
                 addr add 10.0.{number}.1/30 dev dc{number}\n\
                 link set dc{number} up\n"
            ))?;
            let other = 3 - number;
            // Every address of the network is one of its own, without being given to an interface first.
            end.ip(&format!(
                "link set lo up\n\
                 link set wan up\n\
                 addr add 10.0.{number}.2/30 dev wan\n\
                 addr add 10.{number}.0.254/32 dev lo\n\
                 route add local 10.{number}.0.0/16 dev lo\n\
                 route add 10.{other}.0.0/16 via 10.0.{number}.1 src 10.{number}.0.254\n"
            ))?;
        }
        link.router.inside(|| fs::write(FORWARDING, "1").with_context(|| format!("cannot write {FORWARDING}")))?;
        link.heal()?;
        Ok(link)
    }

    /// From now on no packet passes, and nobody is told so: connections stay open and hear nothing.
    pub fn cut(&self) -> Result<()> {
        self.each(|number| format!("route replace blackhole 10.{number}.0.0/16\n"))
    }

    /// Lets all pass again.
    pub fn heal(&self) -> Result<()> {
        self.each(|number| format!("route replace 10.{number}.0.0/16 via 10.0.{number}.2\n"))
    }

    fn each(&self, command: impl Fn(u8) -> String) -> Result<()> {
        let commands: String = self.ends.iter().map(|end| command(end.number)).collect();
        self.router.ip(&commands)
    }
}

/// The network of the calling thread, where it is not that of the process.
pub(crate) fn of_this_thread() -> Result<Option<File>> {
    let here = File::open("/proc/thread-self/ns/net").context("cannot see the network of this thread")?;
    let home = fs::metadata("/proc/self/ns/net").context("cannot see the network of this process")?;
    Ok((here.metadata()?.ino() != home.ino()).then_some(here))
}
