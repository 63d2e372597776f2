//! The systems that are measured: the stock peer on MariaDB, and this module, plain and async, on Cassandra.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::cassandra::{self, Cassandra};
use lab::kamailio::{Config, Kamailio, MemoryManager};
use lab::mariadb::{self, MariaDb};
use lab::progress::step;
use lab::relay::DelayRelay;
use lab::{cpu, net, wait, workspace};

pub(crate) const DOMAIN: &str = "example.com";
/// SIP workers of every Kamailio.
pub(crate) const WORKERS: u32 = 4;

const START_LIMIT: Duration = Duration::from_secs(30);

/// One Kamailio with the database that it uses.
#[derive(Debug)]
pub(crate) struct Peer {
    name: &'static str,
    kamailio: Kamailio,
    /// The process that talks to Cassandra; the stock peer's workers do that themselves.
    io_process: Option<u32>,
    database: u32,
}

/// CPU milliseconds used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuUsed {
    /// All processes of Kamailio, the I/O process among them.
    pub(crate) kamailio: u64,
    /// The I/O process alone.
    pub(crate) io_process: u64,
    /// The database.
    pub(crate) database: u64,
}

impl Peer {
    fn start(
        name: &'static str,
        cfg: &str,
        database: u32,
        define: (&str, &str),
        memory: MemoryManager,
    ) -> Result<Self> {
        let path = workspace().root().join("bench/cfg").join(cfg);
        let mut config = Config::new(path).define_str(define.0, define.1);
        config.workers = WORKERS;
        config.shm_mb = 256;
        config.memory_manager = memory;
        let kamailio = step(format!("Kamailio, {name}"), || Kamailio::start(config))?;
        Ok(Self { name, kamailio, io_process: None, database })
    }

    fn ours(name: &'static str, cfg: &str, cassandra: &Cassandra, memory: MemoryManager) -> Result<Self> {
        let mut peer = Self::start(name, cfg, cassandra.pid(), ("CONTACT_POINTS", &cassandra.contact_point()), memory)?;
        peer.io_process = Some(peer.kamailio.find_process("Cassandra I/O")?.pid);
        wait::until("a Cassandra session", START_LIMIT, || {
            let status = peer.kamailio.rpc("cassandra.status", serde_json::json!([]));
            status.is_ok_and(|status| status["connected"] == 1)
        })
        .with_context(|| peer.kamailio.log())?;
        Ok(peer)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.kamailio.address()
    }

    pub(crate) fn log(&self) -> String {
        self.kamailio.log()
    }

    pub(crate) fn cpu(&self) -> CpuUsed {
        CpuUsed {
            kamailio: self.kamailio.cpu_ms(),
            io_process: self.io_process.map_or(0, |pid| cpu::total_ms(&[pid])),
            database: cpu::total_ms(&[self.database]),
        }
    }
}

/// All peers, running, with the same subscribers. Dropping it stops everything.
#[derive(Debug)]
pub(crate) struct Peers {
    // In this order: Kamailio is stopped before its database.
    stock: Peer,
    plain: Peer,
    asynchronous: Peer,
    _mariadb: MariaDb,
    _cassandra: Cassandra,
    relays: Vec<DelayRelay>,
    users: Vec<Subscriber>,
}

/// User, domain, password.
pub(crate) type Subscriber = (String, String, String);

impl Peers {
    /// Starts the databases, `distant` ones behind a relay, provisions `users` subscribers in both, starts the Kamailios.
    pub(crate) fn start(users: usize, distant: bool, memory: MemoryManager) -> Result<Self> {
        let users: Vec<Subscriber> =
            (0..users).map(|n| (format!("user{n}"), DOMAIN.to_owned(), format!("password{n}"))).collect();
        Cassandra::install()?;
        let mariadb = step("MariaDB with stock Kamailio's tables", || MariaDb::start(mariadb::Options::default()))?;
        let (cassandra, cassandra_relay) = step("Cassandra", || start_cassandra(distant))?;
        step(format!("{} subscribers in both", users.len()), || {
            provision_mariadb(&mariadb, &users)?;
            provision_cassandra(&cassandra, &users)
        })?;
        let (url, mariadb_relay) = mariadb_url(&mariadb, distant)?;
        Ok(Self {
            stock: Peer::start("stock auth_db + usrloc", "stock.cfg", mariadb.pid(), ("DB_URL", &url), memory)?,
            plain: Peer::ours("cassandra, plain", "plain.cfg", &cassandra, memory)?,
            asynchronous: Peer::ours("cassandra, async", "async.cfg", &cassandra, memory)?,
            _mariadb: mariadb,
            _cassandra: cassandra,
            relays: cassandra_relay.into_iter().chain(mariadb_relay).collect(),
            users,
        })
    }

    /// How late every answer of the distant databases comes.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.relays.iter().for_each(|relay| relay.set_delay(delay));
    }

    /// The stock peer first.
    pub(crate) fn all(&self) -> [&Peer; 3] {
        [&self.stock, &self.plain, &self.asynchronous]
    }

    pub(crate) fn users(&self) -> &[Subscriber] {
        &self.users
    }
}

/// A database that is not distant has no relay either: nothing but the database is measured.
fn start_cassandra(distant: bool) -> Result<(Cassandra, Option<DelayRelay>)> {
    let relay_address = distant.then(net::loopback);
    let options = cassandra::Options { broadcast_rpc_address: relay_address, ..Default::default() };
    let cassandra = Cassandra::start(options)?;
    let relay = relay_address.map(|address| relay(address, cassandra.address(), cassandra.port())).transpose()?;
    Ok((cassandra, relay))
}

fn mariadb_url(mariadb: &MariaDb, distant: bool) -> Result<(String, Option<DelayRelay>)> {
    if !distant {
        return Ok((mariadb.url(), None));
    }
    let direct = mariadb.address();
    let relay = relay(net::loopback(), *direct.ip(), direct.port())?;
    let url = mariadb.url().replace(&direct.to_string(), &relay.address().to_string());
    Ok((url, Some(relay)))
}

fn relay(address: Ipv4Addr, server: Ipv4Addr, port: u16) -> Result<DelayRelay> {
    DelayRelay::start(address, port, SocketAddrV4::new(server, port), Duration::ZERO)
}

/// The hashes are made here, so that the stock peer need not compute them for each request; ours never does.
fn provision_mariadb(mariadb: &MariaDb, users: &[Subscriber]) -> Result<()> {
    mariadb.add_subscribers(users.iter().map(|(user, domain, password)| (&**user, &**domain, &**password)))?;
    mariadb.execute("UPDATE subscriber SET ha1 = MD5(CONCAT_WS(':', username, domain, password))")?;
    Ok(())
}

fn provision_cassandra(cassandra: &Cassandra, users: &[Subscriber]) -> Result<()> {
    let rows: String = users.iter().map(|(user, domain, password)| format!("{user},{domain},{password}\n")).collect();
    let dir = lab::RunDir::new("subscribers")?;
    let file = dir.write("subscribers.csv", &rows)?;
    sipctl(cassandra, &["schema", "apply"])?;
    sipctl(cassandra, &["subscriber", "import", &file.to_string_lossy()])
}

fn sipctl(cassandra: &Cassandra, args: &[&str]) -> Result<()> {
    let output = Command::new(workspace().sipctl())
        .args(args)
        .env("CASSANDRA_CONTACT_POINTS", cassandra.contact_point())
        .stdin(Stdio::null())
        .output()
        .context("sipctl does not start: run `make build`")?;
    if !output.status.success() {
        std::io::stderr().write_all(&output.stderr)?;
        bail!("sipctl {} failed", args.join(" "));
    }
    Ok(())
}
