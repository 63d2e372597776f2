//! Real Cassandra nodes, from the jars that Maven Central publishes.

mod config;
mod cql;
mod install;

use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::RunDir;
use crate::net::{self, Protocol};
use crate::process::{self, Managed, OnOurDeath, Spawn};
use crate::tls::TlsFiles;
use crate::wait;

/// Who may log in when [`Options::auth`] is set.
pub const SUPERUSER: (&str, &str) = ("cassandra", "cassandra");

const START_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);
const NODETOOL_LIMIT: Duration = Duration::from_secs(120);
const LISTENING: &str = "Starting listening for CQL clients";
const SUPERUSER_CREATED: &str = "Created default superuser role";

/// Which Cassandra.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 4.1
    V4_1,
    /// 5.0
    V5_0,
}

impl Version {
    /// The one that `CASSANDRA_VERSION` in the environment names, else 5.0.
    pub fn wanted() -> Result<Self> {
        match std::env::var("CASSANDRA_VERSION").as_deref() {
            Ok("4.1") => Ok(Version::V4_1),
            Ok("5.0") | Err(_) => Ok(Version::V5_0),
            Ok(other) => bail!("CASSANDRA_VERSION={other} is not among the versions that can be started: 4.1 and 5.0"),
        }
    }

    /// Its release.
    pub fn number(self) -> &'static str {
        match self {
            Version::V4_1 => "4.1.10",
            Version::V5_0 => "5.0.5",
        }
    }
}

/// How a node is to be started, of the version that is [wanted](Version::wanted). `Options::default()` is a single node without authentication on an address of its own.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub address: Ipv4Addr,
    /// CQL port.
    pub port: u16,
    /// Data centre.
    pub dc: String,
    /// Rack.
    pub rack: String,
    /// Nodes to join; empty: itself, so a new cluster.
    pub seeds: Vec<Ipv4Addr>,
    /// Password login (see [`SUPERUSER`]) and permissions.
    pub auth: bool,
    /// Encryption of client connections; plain ones are then refused.
    pub tls: Option<TlsFiles>,
    /// Clients must show a certificate of the same CA.
    pub tls_client_auth: bool,
    /// The address that clients are told, when a relay on the same port stands in front of the node.
    pub broadcast_rpc_address: Option<Ipv4Addr>,
    /// Java heap in MB.
    pub heap_mb: u32,
    /// Settings of `cassandra.yaml` that replace or add to ours.
    pub yaml: Vec<(String, Value)>,
    /// It is to be as fast as it can be: its JVM compiles what runs often once more. In a node of a few minutes that costs more than it
    /// saves, half of its CPU time.
    pub optimised: bool,
    /// More JVM arguments, for example `-Dcassandra.x=y`.
    pub jvm: Vec<String>,
    /// Its directory; `None`: a fresh one, removed at the end.
    pub dir: Option<PathBuf>,
    /// It goes on without us once [`Cassandra::detach`] was called.
    pub outlive_us: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: net::loopback(),
            port: 9042,
            dc: "dc1".to_owned(),
            rack: "rack1".to_owned(),
            seeds: Vec::new(),
            auth: false,
            tls: None,
            tls_client_auth: false,
            broadcast_rpc_address: None,
            heap_mb: 512,
            yaml: Vec::new(),
            optimised: false,
            jvm: Vec::new(),
            dir: None,
            outlive_us: false,
        }
    }
}

impl Options {
    fn seeds(&self) -> Vec<Ipv4Addr> {
        if self.seeds.is_empty() {
            return vec![self.address];
        }
        self.seeds.clone()
    }
}

/// One node. Dropping it kills it and removes its data; [`Cassandra::stop`] shuts it down in order.
#[derive(Debug)]
pub struct Cassandra {
    // Before `dir`: the process must be gone when the directory is removed.
    process: Managed,
    dir: RunDir,
    home: PathBuf,
    jmx_port: u16,
    options: Options,
}

impl Cassandra {
    /// Fetches the version that is wanted from Maven Central unless it is there; returns the directory of its jars.
    pub fn install() -> Result<PathBuf> {
        install::install(Version::wanted()?)
    }

    /// Starts a node and returns when it answers CQL (and, with `auth`, lets the superuser in). With TLS and `auth` it must be
    /// the first of a new cluster.
    pub fn start(options: Options) -> Result<Self> {
        let home = Self::install()?;
        check_free(&options)?;
        let dir = RunDir::at_or_new(options.dir.as_deref(), "cassandra")?;
        config::write_files(&dir, &options)?;
        let jmx_port = net::free_port(Ipv4Addr::LOCALHOST, Protocol::Tcp)?;
        let process = spawn(&home, &dir, jmx_port, &options)?;
        let node = Self { process, dir, home, jmx_port, options };
        node.wait_until_it_answers()?;
        if node.options.auth && node.options.tls.is_some() {
            node.wait_for_superuser()?;
        }
        Ok(node)
    }

    /// `address:port` for clients: that of the relay in front of it, if it was started behind one.
    pub fn contact_point(&self) -> String {
        let address = self.options.broadcast_rpc_address.unwrap_or(self.options.address);
        format!("{address}:{}", self.options.port)
    }

    /// Where the node itself listens.
    pub fn address(&self) -> Ipv4Addr {
        self.options.address
    }

    /// CQL port.
    pub fn port(&self) -> u16 {
        self.options.port
    }

    /// Data centre.
    pub fn dc(&self) -> &str {
        &self.options.dc
    }

    /// The JVM.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process, for what is not wrapped here.
    pub fn process(&self) -> &Managed {
        &self.process
    }

    /// Stops it in its tracks: connections stay open and nothing answers.
    pub fn freeze(&self) -> Result<()> {
        self.process.freeze()
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        self.process.thaw()
    }

    /// SIGKILL; [`Cassandra::restart`] brings it back with its data.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Shuts it down in order, data kept.
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate(STOP_LIMIT).map(drop)
    }

    /// Stops it in order if it runs, and starts it on the same data.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.is_running() {
            self.stop()?;
        }
        self.process = spawn(&self.home, &self.dir, self.jmx_port, &self.options)?;
        self.wait_until_it_answers()
    }

    /// Whether it answers a CQL client now. With TLS: whether its port is open.
    pub fn answers(&self) -> bool {
        self.check(ANSWER_LIMIT).is_ok()
    }

    /// Runs a CQL statement and ignores its rows. Not with TLS.
    pub fn execute(&self, statement: &str) -> Result<()> {
        self.session(STATEMENT_LIMIT)?.execute(statement)
    }

    /// The number that a CQL statement answers, such as `SELECT COUNT(*) ...`. Not with TLS.
    pub fn count(&self, statement: &str) -> Result<u64> {
        self.session(STATEMENT_LIMIT)?.count(statement)
    }

    /// Runs `nodetool ARGS` against it and returns its output.
    pub fn nodetool(&self, args: &[&str]) -> Result<String> {
        let log = self.dir.join("nodetool.log");
        let _ = std::fs::remove_file(&log); // that of the last call
        let command = Spawn::new("nodetool", java(), log)
            .args(config::nodetool_args(&self.home, self.dir.path(), self.jmx_port))
            .args(args);
        process::run(command, NODETOOL_LIMIT)
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Leaves it running without us; [`Options::outlive_us`] must have been set.
    pub fn detach(mut self) {
        self.dir.keep();
        self.process.detach();
    }

    fn wait_until_it_answers(&self) -> Result<()> {
        self.process.until("it to answer CQL", START_LIMIT, || self.answers())
    }

    /// A new cluster listens before it has one; we cannot log in over TLS to see.
    fn wait_for_superuser(&self) -> Result<()> {
        self.process.until("its superuser", START_LIMIT, || self.log().contains(SUPERUSER_CREATED))
    }

    fn check(&self, limit: Duration) -> Result<()> {
        if self.options.tls.is_none() {
            return self.session(limit).map(drop);
        }
        if !self.log().contains(LISTENING) {
            bail!("not listening yet");
        }
        let address = (self.options.address, self.options.port);
        TcpStream::connect_timeout(&address.into(), limit)?;
        Ok(())
    }

    fn session(&self, limit: Duration) -> Result<cql::Connection> {
        let mut connection = cql::Connection::open(self.options.address, self.options.port, limit)?;
        connection.log_in(SUPERUSER.0, SUPERUSER.1)?;
        Ok(connection)
    }
}

/// `count` nodes of one data centre, started one after the other. `options.address` is the first node's; the others get
/// addresses of their own.
pub fn cluster(count: usize, options: &Options) -> Result<Vec<Cassandra>> {
    datacenters(&[(options.dc.as_str(), count)], options)
}

/// One cluster of several data centres, for example `[("dc1", 2), ("dc2", 1)]`, its nodes started one after the other, each
/// in a rack of its own.
pub fn datacenters(dcs: &[(&str, usize)], options: &Options) -> Result<Vec<Cassandra>> {
    let mut nodes: Vec<Cassandra> = Vec::new();
    for &(dc, count) in dcs {
        for number in 1..=count {
            let first = nodes.first().map(Cassandra::address);
            let node = Options {
                dc: dc.to_owned(),
                rack: format!("rack{number}"),
                address: first.map_or(options.address, |_| net::loopback()),
                seeds: first.into_iter().collect(),
                ..options.clone()
            };
            nodes.push(Cassandra::start(node).with_context(|| format!("node {number} of {dc}"))?);
            wait_until_all_see_all(&nodes)?;
        }
    }
    Ok(nodes)
}

/// Waits until every node counts every node as up. Another one can join only then: Cassandra lets nobody in while somebody is
/// still on the way.
pub fn wait_until_all_see_all(nodes: &[Cassandra]) -> Result<()> {
    if nodes.len() < 2 {
        return Ok(());
    }
    for node in nodes {
        wait::until("all nodes to see each other", START_LIMIT, || -> Result<Option<()>> {
            let status = node.nodetool(&["status"])?;
            let up = status.lines().filter(|line| line.starts_with("UN ")).count();
            Ok((up == nodes.len()).then_some(()))
        })?;
    }
    Ok(())
}

fn spawn(home: &std::path::Path, dir: &RunDir, jmx_port: u16, options: &Options) -> Result<Managed> {
    let on_our_death = if options.outlive_us { OnOurDeath::Outlive } else { OnOurDeath::Kill };
    Spawn::new(format!("Cassandra on {}", options.address), java(), dir.join("cassandra.log"))
        .args(config::jvm_args(home, dir.path(), jmx_port, options))
        .dir(dir.path())
        .on_our_death(on_our_death)
        .start()
        .context("Cassandra needs a Java runtime: run `make deps`")
}

fn check_free(options: &Options) -> Result<()> {
    for port in [options.port, 7000] {
        if !net::is_free(options.address, port, Protocol::Tcp) {
            bail!("{}:{port} is taken by another program, so Cassandra cannot start there", options.address);
        }
    }
    Ok(())
}

/// `java` of `JAVA_HOME`, else the one in the path.
fn java() -> PathBuf {
    match std::env::var_os("JAVA_HOME") {
        Some(home) => PathBuf::from(home).join("bin/java"),
        None => PathBuf::from("java"),
    }
}
