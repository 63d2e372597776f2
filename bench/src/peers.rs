//! The systems that are measured: the stock peers on MariaDB, and this module, plain and async, on Cassandra.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::cassandra::{self, Cassandra};
use lab::kamailio::{Config, Kamailio, MemoryManager};
use lab::mariadb::{self, MariaDb};
use lab::progress::step;
use lab::relay::DelayRelay;
use lab::{cpu, net, workspace};

use crate::cores::Cores;

pub(crate) const DOMAIN: &str = "example.com";
/// SIP workers of every Kamailio.
pub(crate) const WORKERS: u32 = 4;

/// One Kamailio with the database that it uses.
#[derive(Debug)]
pub(crate) struct Peer {
    kind: Kind,
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
    /// The part of that in the kernel.
    pub(crate) io_process_kernel: u64,
    /// The database.
    pub(crate) database: u64,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The stock modules; bindings are in the database alone (`db_mode` 3), so that any node can answer, as with us.
    StockInDatabase,
    /// The stock modules; bindings are in this node's memory alone (`db_mode` 0), credentials in the database.
    StockInMemory,
    /// This module's plain functions.
    Plain,
    /// This module's async functions.
    Async,
    /// Calls that the stock module dialog follows in memory (`db_mode` 0), and that nobody records.
    Unrecorded,
    /// Calls that the stock modules record: dialog in the database as well (`db_mode` 1), and acc.
    RecordedByStock,
    /// Calls that this module records.
    Recorded,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::StockInDatabase => "stock auth_db + usrloc",
            Self::StockInMemory => "stock, usrloc in memory",
            Self::Plain => "cassandra, plain",
            Self::Async => "cassandra, async",
            Self::Unrecorded => "dialog alone",
            Self::RecordedByStock => "dialog db_mode 1 + acc",
            Self::Recorded => "cassandra",
        }
    }

    /// Whether it is one that this module is compared with.
    pub(crate) fn is_stock(self) -> bool {
        matches!(self, Self::StockInDatabase | Self::StockInMemory | Self::Unrecorded | Self::RecordedByStock)
    }

    /// Whether this module is loaded.
    fn has_module(self) -> bool {
        matches!(self, Self::Plain | Self::Async | Self::Unrecorded | Self::Recorded)
    }
}

impl Peer {
    fn start(kind: Kind, setup: &Setup<'_>, databases: &Databases) -> Result<Self> {
        let stock = |cfg: &str| config(cfg, setup).define_str("DB_URL", &databases.mariadb_url);
        let ours = |cfg: &str| {
            config(cfg, setup)
                .define_str("CONTACT_POINTS", &databases.cassandra.contact_point())
                .define("CREDENTIAL_CACHE_TTL", setup.credential_cache_ttl)
        };
        let config = match kind {
            Kind::StockInDatabase => stock("stock.cfg").define("DB_MODE", 3),
            Kind::StockInMemory => stock("stock.cfg").define("DB_MODE", 0),
            Kind::Plain => ours("plain.cfg"),
            Kind::Async => ours("async.cfg"),
            Kind::Unrecorded => ours("calls.cfg").define("CALL_DIALOGS", 0),
            Kind::RecordedByStock => stock("calls.cfg"),
            Kind::Recorded => ours("calls.cfg").define("CALL_DIALOGS", 1),
        };
        let kamailio = step(format!("Kamailio, {}", kind.name()), || match setup.cores {
            Some(cores) => cores.on_the_first(|| Kamailio::start(config)),
            None => Kamailio::start(config),
        })?;
        let database = if kind.has_module() { databases.cassandra.pid() } else { databases.mariadb.pid() };
        let mut peer = Self { kind, kamailio, io_process: None, database };
        if kind.has_module() {
            peer.wait_for_the_session()?;
        }
        Ok(peer)
    }

    fn wait_for_the_session(&mut self) -> Result<()> {
        self.io_process = Some(self.kamailio.find_process("Cassandra I/O")?.pid);
        self.kamailio.wait_for_cassandra()
    }

    /// Holds this module's circuit breaker open, so that it answers from memory what it can. A stock peer has none.
    pub(crate) fn keep_off_cassandra(&self) -> Result<()> {
        if self.kind.has_module() {
            self.kamailio.rpc("cassandra.breaker", serde_json::json!(["open"]))?;
        }
        Ok(())
    }

    /// What a statistic of this module counts.
    pub(crate) fn statistic(&self, name: &str) -> Result<u64> {
        let statistics = self.kamailio.rpc("cassandra.stats", serde_json::json!([]))?;
        statistics[name].as_u64().with_context(|| format!("there is no statistic {name} in {statistics}"))
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name()
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.kamailio.address()
    }

    pub(crate) fn log(&self) -> String {
        self.kamailio.log()
    }

    pub(crate) fn cpu(&self) -> CpuUsed {
        let io_process = self.io_process.and_then(cpu::stat).map(|stat| stat.cpu).unwrap_or_default();
        CpuUsed {
            kamailio: self.kamailio.cpu_ms(),
            io_process: io_process.ms(),
            io_process_kernel: io_process.system.as_millis() as u64,
            database: cpu::total_ms(&[self.database]),
        }
    }
}

/// How the peers are set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup<'c> {
    /// Subscribers.
    pub(crate) users: usize,
    /// Whether a relay stands before the databases, which makes their answers late.
    pub(crate) distant: bool,
    /// The same for all Kamailios.
    pub(crate) memory: MemoryManager,
    /// Seconds for which this module remembers credentials.
    pub(crate) credential_cache_ttl: u32,
    /// A core for the Kamailios alone, if there is to be one.
    pub(crate) cores: Option<&'c Cores>,
}

/// All peers, running, with the same subscribers. Dropping it stops everything.
#[derive(Debug)]
pub(crate) struct Peers {
    // In this order: Kamailio is stopped before its database.
    peers: Vec<Peer>,
    databases: Databases,
    users: Vec<Subscriber>,
}

#[derive(Debug)]
struct Databases {
    mariadb: MariaDb,
    mariadb_url: String,
    cassandra: Cassandra,
    relays: Vec<DelayRelay>,
}

/// User, domain, password.
pub(crate) type Subscriber = (String, String, String);

impl Peers {
    /// Starts the databases, provisions the subscribers in both, starts the Kamailios.
    pub(crate) fn start(kinds: &[Kind], setup: &Setup<'_>) -> Result<Self> {
        let users: Vec<Subscriber> =
            (0..setup.users).map(|n| (format!("user{n}"), DOMAIN.to_owned(), format!("password{n}"))).collect();
        let databases = Databases::start(setup.distant)?;
        step(format!("{} subscribers in both", users.len()), || {
            provision_mariadb(&databases.mariadb, &users)?;
            provision_cassandra(&databases.cassandra, &users)
        })?;
        let peers = kinds.iter().map(|kind| Peer::start(*kind, setup, &databases)).collect::<Result<_>>()?;
        Ok(Self { peers, databases, users })
    }

    /// How late every answer of the distant databases comes.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.databases.relays.iter().for_each(|relay| relay.set_delay(delay));
    }

    /// In the order of their kinds.
    pub(crate) fn all(&self) -> &[Peer] {
        &self.peers
    }

    /// Rows of a table of Cassandra's.
    pub(crate) fn rows_in_cassandra(&self, table: &str) -> Result<u64> {
        self.databases.cassandra.count(&format!("SELECT COUNT(*) FROM sip.{table}"))
    }

    /// Rows of a table of MariaDB's.
    pub(crate) fn rows_in_mariadb(&self, table: &str) -> Result<u64> {
        let count = self.databases.mariadb.execute(&format!("SELECT COUNT(*) FROM {table}"))?;
        count.trim().parse().with_context(|| format!("'{count}' is no number of rows"))
    }

    /// Where Cassandra is.
    pub(crate) fn contact_point(&self) -> String {
        self.databases.cassandra.contact_point()
    }

    pub(crate) fn users(&self) -> &[Subscriber] {
        &self.users
    }
}

impl Databases {
    fn start(distant: bool) -> Result<Self> {
        Cassandra::install()?;
        let mariadb = step("MariaDB with stock Kamailio's tables", || MariaDb::start(mariadb::Options::default()))?;
        let (cassandra, cassandra_relay) = step("Cassandra", || start_cassandra(distant))?;
        let (mariadb_url, mariadb_relay) = mariadb_url(&mariadb, distant)?;
        let relays = cassandra_relay.into_iter().chain(mariadb_relay).collect();
        Ok(Self { mariadb, mariadb_url, cassandra, relays })
    }
}

fn config(cfg: &str, setup: &Setup<'_>) -> Config {
    let mut config = Config::new(workspace().root().join("bench/cfg").join(cfg));
    config.workers = WORKERS;
    config.shm_mb = 256;
    config.memory_manager = setup.memory;
    config
}

/// A database that is not distant has no relay either: nothing but the database is measured.
fn start_cassandra(distant: bool) -> Result<(Cassandra, Option<DelayRelay>)> {
    let relay_address = distant.then(net::loopback);
    let options = cassandra::Options { broadcast_rpc_address: relay_address, optimised: true, ..Default::default() };
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
    let settings = [("CASSANDRA_CONTACT_POINTS".to_owned(), cassandra.contact_point())];
    lab::sipctl::run(&settings, args, "").map(drop)
}
