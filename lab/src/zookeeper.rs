//! Real ZooKeeper, from Debian's package: one server, or an ensemble.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Managed, OnOurDeath, Spawn};
use crate::{RunDir, net, wait};

const JAR: &str = "/usr/share/java/zookeeper.jar";
const STOP_LIMIT: Duration = Duration::from_secs(20);
const START_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const CLIENT_PORT: u16 = 2181;
const QUORUM_PORT: u16 = 2888;
const ELECTION_PORT: u16 = 3888;
/// Two of these are the shortest timeout of a session, in milliseconds.
const TICK_MS: u32 = 500;

/// Servers that are one service. Dropping it kills them and removes their data.
#[derive(Debug)]
pub struct ZooKeeper {
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    number: usize,
    address: Ipv4Addr,
    outlive_us: bool,
    // Before `dir`: the process must be gone when the directory is removed.
    process: Option<Managed>,
    dir: RunDir,
}

impl ZooKeeper {
    /// Starts so many servers, and returns when they serve.
    pub fn start(count: usize) -> Result<Self> {
        Self::start_at(&(0..count).map(|_| net::loopback()).collect::<Vec<_>>())
    }

    /// The same, a server at each of these addresses.
    pub fn start_at(addresses: &[Ipv4Addr]) -> Result<Self> {
        Self::start_in(None, addresses, false)
    }

    /// The same with their directories in this one (`None`: fresh ones), and going on without us once [`ZooKeeper::detach`] was called,
    /// if they are to outlive us.
    pub fn start_in(dir: Option<&Path>, addresses: &[Ipv4Addr], outlive_us: bool) -> Result<Self> {
        ensure!(Path::new(JAR).exists(), "Debian's zookeeper is needed: run `make deps-all`");
        let count = addresses.len();
        let servers = addresses.iter().enumerate().map(|(index, address)| {
            let number = index + 1;
            let dir = match dir {
                Some(path) => RunDir::at(path.join(format!("zookeeper-{number}")))?,
                None => RunDir::new("zookeeper")?,
            };
            let server = Server { number, address: *address, outlive_us, process: None, dir };
            server.configure(addresses)?;
            Ok(server)
        });
        let mut ensemble = Self { servers: servers.collect::<Result<_>>()? };
        for index in 0..count {
            ensemble.servers[index].launch()?;
        }
        (0..count).try_for_each(|index| ensemble.wait_for(index))?;
        Ok(ensemble)
    }

    /// Where clients find it.
    pub fn servers(&self) -> String {
        let servers: Vec<String> =
            self.servers.iter().map(|server| format!("{}:{CLIENT_PORT}", server.address)).collect();
        servers.join(",")
    }

    /// Its processes.
    pub fn processes(&self) -> impl Iterator<Item = &Managed> {
        self.servers.iter().filter_map(|server| server.process.as_ref())
    }

    /// Stops all servers in order.
    pub fn stop(mut self) -> Result<()> {
        let mut processes = self.servers.iter_mut().filter_map(|server| server.process.as_mut());
        // Java's exit code tells the signal.
        processes.try_for_each(|process| process.terminate(STOP_LIMIT).map(drop))
    }

    /// Leaves them running without us.
    pub fn detach(self) {
        for mut server in self.servers {
            server.dir.keep();
            if let Some(process) = server.process {
                process.detach();
            }
        }
    }

    /// The one that leads the others; the only one of one.
    pub fn leader(&self) -> Result<usize> {
        let leads =
            |server: &Server| ["leader", "standalone"].iter().any(|mode| server.mode().is_some_and(|is| is == *mode));
        self.servers.iter().position(leads).context("no server of ZooKeeper leads")
    }

    /// Kills a server.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        self.servers[index].process = None;
        Ok(())
    }

    /// Starts one again that was killed, with its data.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        self.servers[index].launch()
    }

    /// Waits until a server serves: it needs a majority of the others.
    pub fn wait_for(&self, index: usize) -> Result<()> {
        let server = &self.servers[index];
        wait::until("ZooKeeper to serve", START_LIMIT, || server.mode().is_some())
            .with_context(|| server.process.as_ref().map(Managed::log).unwrap_or_default())
            .map(drop)
    }
}

impl Server {
    fn configure(&self, all: &[Ipv4Addr]) -> Result<()> {
        let mut settings = format!(
            "tickTime={TICK_MS}\ninitLimit=20\nsyncLimit=10\ndataDir={}\nclientPort={CLIENT_PORT}\nclientPortAddress={}\n\
             admin.enableServer=false\n4lw.commands.whitelist=srvr\nmaxClientCnxns=0\n",
            self.dir.path().display(),
            self.address
        );
        if all.len() > 1 {
            for (index, address) in all.iter().enumerate() {
                settings += &format!("server.{}={address}:{QUORUM_PORT}:{ELECTION_PORT}\n", index + 1);
            }
        }
        self.dir.write("zoo.cfg", &settings)?;
        self.dir.write("myid", &self.number.to_string()).map(drop)
    }

    fn launch(&mut self) -> Result<()> {
        let process = Spawn::new(format!("ZooKeeper {}", self.number), "java", self.dir.join("zookeeper.log"))
            .args(["-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", JAR])
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(self.dir.join("zoo.cfg"))
            .dir(self.dir.path())
            .on_our_death(if self.outlive_us { OnOurDeath::Outlive } else { OnOurDeath::Kill })
            .start()?;
        self.process = Some(process);
        Ok(())
    }

    /// What it says it is, when it serves.
    fn mode(&self) -> Option<String> {
        let address = SocketAddrV4::new(self.address, CLIENT_PORT);
        let mut stream = TcpStream::connect_timeout(&address.into(), ANSWER_LIMIT).ok()?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
        stream.write_all(b"srvr").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
    }
}
