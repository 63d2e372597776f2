//! The configuration: one TOML file, of which every key can be set in the environment instead.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use serde::Deserialize;

use crate::kamailio::Rpc;
use crate::log::record::Place as LogPlace;
use crate::log::{Format, LogConfig, Logstash};
#[cfg(feature = "media")]
use crate::media::HistoryConfig;
use crate::registry::RegistryConfig;
use crate::routes::Place;
use fleet::{Announcement, Directory, Role, State, Transport};
#[cfg(feature = "media")]
use store::{Login, StoreConfig, TlsConfig};

/// Before the name of a key in the environment; two underscores are between its parts: `CARNA_NODE__ROLE`.
const PREFIX: &str = "CARNA_";
/// `CARNA_CONFIG` is the option of the command line.
const OPTION: &str = "config";

/// Everything that is configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What this node is.
    pub node: Node,
    /// What it runs.
    pub process: Process,
    /// Where the others are found.
    pub zookeeper: ZooKeeper,
    /// What its Kamailio routes by.
    #[serde(default)]
    pub dispatcher: Dispatcher,
    /// Where its FreeSWITCH is told what to do, when it runs one.
    pub media: Option<Media>,
    /// Where is recorded what happens to the channels of a FreeSWITCH.
    pub cassandra: Option<Cassandra>,
    /// When it is healthy.
    #[serde(default)]
    pub health: Health,
    /// How it leaves.
    #[serde(default)]
    pub drain: Drain,
    /// Where it tells how it is.
    #[serde(default)]
    pub http: Http,
    /// How the log is written, and where it is sent.
    #[serde(default)]
    pub log: Log,
    /// Directory for what must survive a restart, and for sockets.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
}

/// `[node]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// What it is for.
    pub role: Role,
    /// Its name among the nodes of its role; the host's name unless set.
    pub name: Option<String>,
    /// Its data centre.
    pub dc: String,
    /// Its rack.
    #[serde(default)]
    pub rack: String,
    /// Its share of the work, from 1 to 1000, in comparison to other nodes of the role.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Addresses with ports at which others reach it, by transport: `udp`, `tcp`, `tls`, `ws`, `wss`.
    pub sip: BTreeMap<Transport, SocketAddr>,
}

/// `[process]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The program and its arguments, `${NAME}` being a variable of the environment. It stays in the foreground.
    pub command: Vec<String>,
    /// Within this time it is healthy after its start, or is started again.
    #[serde(default = "default_start_limit", with = "humantime_serde")]
    pub start_limit: Duration,
    /// Within this time it ends when it is told to, or is killed.
    #[serde(default = "default_stop_limit", with = "humantime_serde")]
    pub stop_limit: Duration,
    /// The first pause before it is started again; each further one is twice as long, up to thirty seconds.
    #[serde(default = "default_pause", with = "humantime_serde")]
    pub restart_pause: Duration,
    /// So many starts in a row that fail are the end.
    #[serde(default = "default_attempts")]
    pub attempts: u32,
}

/// `[zookeeper]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZooKeeper {
    /// Servers, `host:port,...`.
    pub servers: String,
    /// Where all nodes are.
    #[serde(default = "default_root")]
    pub root: String,
    /// So long after the last sign of life a node is not there any more.
    #[serde(default = "default_session_timeout", with = "humantime_serde")]
    pub session_timeout: Duration,
    /// So long one that is not there any more is still routed to, unless it drained: a glitch costs no node.
    #[serde(default = "default_hold", with = "humantime_serde")]
    pub hold: Duration,
}

/// `[dispatcher]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dispatcher {
    /// The list file of Kamailio's module `dispatcher`.
    pub list: Option<PathBuf>,
    /// Or the SQLite database with its table.
    pub database: Option<PathBuf>,
    /// A file of further lines: sets of gateways, whose ids are 10 to 99, and media nodes that have no agent, set 5.
    pub further: Option<PathBuf>,
    /// The Unix socket of Kamailio's module `jsonrpcs`.
    pub rpc: Option<PathBuf>,
    /// The module's `reload_delta`: it is not told to read its list more often.
    #[serde(default, with = "humantime_serde")]
    pub reload_delta: Option<Duration>,
}

/// `[media]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Media {
    /// Where FreeSWITCH's event socket listens.
    #[serde(default = "default_event_socket")]
    pub event_socket: SocketAddr,
    /// Its password.
    pub password: Option<Secret>,
    /// Or the file whose first line that is.
    pub password_file: Option<PathBuf>,
}

impl Media {
    /// The password of the event socket.
    ///
    /// # Errors
    /// None or two are given, or the file cannot be read.
    pub fn password(&self) -> Result<Secret> {
        one_secret("media", self.password.as_ref(), self.password_file.as_deref())?
            .context("media.password or media.password_file is missing: the password of the event socket")
    }
}

/// `[cassandra]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cassandra {
    /// Some of its nodes, `host:port,...`.
    pub contact_points: String,
    /// Its data centre; that of the node unless set.
    pub local_dc: Option<String>,
    /// The keyspace of all tables.
    #[serde(default = "default_keyspace")]
    pub keyspace: String,
    /// The role to log in as.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Or the file whose first line that is.
    pub password_file: Option<PathBuf>,
    /// Certificates of the CAs that may sign Cassandra's; unless set there is no TLS.
    pub ca_file: Option<PathBuf>,
    /// Bytes of events that the spool may hold while Cassandra takes none; the oldest give way.
    #[serde(default = "default_call_spool_size")]
    pub call_spool_size: u64,
}

/// What nobody is shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// What it is.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

/// The secret that is in the configuration of this part, or in a file.
fn one_secret(part: &str, password: Option<&Secret>, file: Option<&Path>) -> Result<Option<Secret>> {
    match (password, file) {
        (Some(_), Some(_)) => anyhow::bail!("{part}.password and {part}.password_file are both given"),
        (Some(password), None) => Ok(Some(password.clone())),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {} ({part}.password_file)", file.display()))?;
            Ok(Some(Secret(text.lines().next().unwrap_or_default().trim().to_owned())))
        }
        (None, None) => Ok(None),
    }
}

/// `[health]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Pause between two looks.
    #[serde(default = "default_interval", with = "humantime_serde")]
    pub interval: Duration,
    /// So many good ones in a row make a node healthy.
    #[serde(default = "default_rises")]
    pub rises: u32,
    /// So many bad ones in a row end that.
    #[serde(default = "default_falls")]
    pub falls: u32,
    /// Where the node is asked by OPTIONS over UDP, when not at its address of `node.sip`: that may be another's at times.
    pub address: Option<SocketAddr>,
}

impl Default for Health {
    fn default() -> Self {
        Self { address: None, interval: default_interval(), rises: default_rises(), falls: default_falls() }
    }
}

/// `[drain]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Dialogs and transactions have this time to end.
    #[serde(default = "default_drain_limit", with = "humantime_serde")]
    pub limit: Duration,
    /// So long the others have to hear of it before anything new is refused.
    #[serde(default = "default_notice", with = "humantime_serde")]
    pub notice: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { limit: default_drain_limit(), notice: default_notice() }
    }
}

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Where it listens.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: default_listen() }
    }
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// How lines look on standard output.
    #[serde(default)]
    pub format: Format,
    /// `host:port` of Logstash's TCP input; unless set nothing is sent.
    pub logstash: Option<String>,
    /// Bytes of lines that are kept while Logstash takes none; the oldest give way.
    #[serde(default = "default_overflow_size")]
    pub overflow_size: u64,
    /// What the container is called; the host's name unless set.
    pub container: Option<String>,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: Format::default(), logstash: None, overflow_size: default_overflow_size(), container: None }
    }
}

/// As in `kamailio-cfg/include/inside.cfg`.
const RELOAD_DELTA: Duration = Duration::from_secs(2);
/// How long a change takes to all nodes, besides the pause between two reloads.
const NEWS: Duration = Duration::from_secs(1);

/// How long Cassandra has for a connection, and for an answer.
#[cfg(feature = "media")]
const CASSANDRA_LIMIT: Duration = Duration::from_secs(2);
/// In the state directory, call events that are not in Cassandra.
#[cfg(feature = "media")]
const SPOOL: &str = "calls.redb";

/// In the state directory, lines that Logstash has not taken.
const OVERFLOW: &str = "logs.redb";

fn default_state_dir() -> PathBuf {
    "/var/lib/carna".into()
}

fn default_weight() -> u32 {
    100
}

fn default_start_limit() -> Duration {
    Duration::from_secs(60)
}

fn default_stop_limit() -> Duration {
    Duration::from_secs(20)
}

fn default_pause() -> Duration {
    Duration::from_secs(1)
}

fn default_attempts() -> u32 {
    5
}

fn default_root() -> String {
    "/carna".to_owned()
}

fn default_session_timeout() -> Duration {
    Duration::from_secs(12)
}

fn default_hold() -> Duration {
    Duration::from_secs(20)
}

fn default_interval() -> Duration {
    Duration::from_secs(1)
}

fn default_rises() -> u32 {
    2
}

fn default_falls() -> u32 {
    3
}

fn default_drain_limit() -> Duration {
    Duration::from_secs(900)
}

fn default_notice() -> Duration {
    Duration::from_secs(12)
}

fn default_event_socket() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8021))
}

fn default_keyspace() -> String {
    "sip".to_owned()
}

fn default_call_spool_size() -> u64 {
    1 << 30
}

fn default_overflow_size() -> u64 {
    256 << 20
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9180))
}

impl Config {
    /// Reads a file, if there is one to read, and the environment.
    ///
    /// # Errors
    /// A sentence that names the key and where its value came from.
    pub fn read(file: Option<&Path>) -> Result<Self> {
        let mut figment = Figment::new();
        if let Some(file) = file {
            ensure!(file.is_file(), "there is no file {}", file.display());
            figment = figment.merge(Toml::file_exact(file));
        }
        let mut config: Self = figment.merge(Env::prefixed(PREFIX).ignore(&[OPTION]).split("__")).extract()?;
        for word in &mut config.process.command {
            *word = expand(word).with_context(|| format!("process.command has '{word}'"))?;
        }
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.process.command.is_empty(), "process.command is empty: it is the program and its arguments");
        ensure!(self.process.attempts > 0, "process.attempts is 0: it is at least 1");
        ensure!(self.health.rises > 0 && self.health.falls > 0, "health.rises and health.falls are at least 1");
        ensure!(!self.health.interval.is_zero(), "health.interval is 0");
        let root = &self.zookeeper.root;
        let is_path = root.starts_with('/') && !root.ends_with('/') && !root.contains("//");
        ensure!(is_path, "zookeeper.root is '{root}': it is a path such as /carna");
        ensure!(
            self.zookeeper.session_timeout >= Duration::from_secs(2),
            "zookeeper.session_timeout is less than two seconds: a pause of the machine would look like a death"
        );
        if self.node.role == Role::Media {
            self.check_media()?;
        } else {
            self.place()?;
            self.rpc()?;
        }
        let logstash = self.log.logstash.as_deref();
        ensure!(logstash.is_none_or(is_address), "log.logstash is '{}': it is host:port", logstash.unwrap_or_default());
        self.log()?;
        self.announcement()?.check().map_err(anyhow::Error::msg).context("[node] cannot be published")
    }

    #[cfg(feature = "media")]
    fn check_media(&self) -> Result<()> {
        let media = self.media.as_ref();
        media.context("[media] is missing: it says where the event socket is")?.password()?;
        self.history().map(drop)
    }

    #[cfg(not(feature = "media"))]
    fn check_media(&self) -> Result<()> {
        anyhow::bail!("node.role is media: this Carna was built without the feature media")
    }

    /// Where is recorded what happens to channels, if it is.
    ///
    /// # Errors
    /// The password cannot be read.
    #[cfg(feature = "media")]
    pub fn history(&self) -> Result<Option<HistoryConfig>> {
        let Some(cassandra) = &self.cassandra else { return Ok(None) };
        let password = one_secret("cassandra", cassandra.password.as_ref(), cassandra.password_file.as_deref())?;
        let login = cassandra
            .username
            .clone()
            .map(|username| Login { username, password: password.map(|password| password.0).unwrap_or_default() });
        let tls = cassandra.ca_file.clone().map(|ca_file| TlsConfig { ca_file, cert_file: None, key_file: None });
        let store = StoreConfig {
            contact_points: cassandra.contact_points.split(',').map(|point| point.trim().to_owned()).collect(),
            keyspace: cassandra.keyspace.clone(),
            local_dc: cassandra.local_dc.clone().unwrap_or_else(|| self.node.dc.clone()),
            login,
            tls,
            request_timeout: CASSANDRA_LIMIT,
            connect_timeout: CASSANDRA_LIMIT,
            compression: false,
            speculative_after: None,
        };
        let spool_file = self.state_dir.join(SPOOL);
        Ok(Some(HistoryConfig { store, spool_file, spool_bytes: cassandra.call_spool_size }))
    }

    /// Where Kamailio's sets are.
    ///
    /// # Errors
    /// None or both are given.
    pub fn place(&self) -> Result<Place> {
        match (&self.dispatcher.list, &self.dispatcher.database) {
            (Some(list), None) => Ok(Place::List(list.clone())),
            (None, Some(database)) => Ok(Place::Database(database.clone())),
            _ => anyhow::bail!("one of dispatcher.list and dispatcher.database must be given"),
        }
    }

    /// Where the node is asked by OPTIONS over UDP, if it is.
    pub fn asked_at(&self) -> Option<SocketAddr> {
        self.health.address.or_else(|| self.node.sip.get(&Transport::Udp).copied())
    }

    /// So often Kamailio reads its sets again at most.
    pub fn reload_delta(&self) -> Duration {
        self.dispatcher.reload_delta.unwrap_or(RELOAD_DELTA)
    }

    /// So long after its announcement all Kamailios know a node.
    pub fn settle(&self) -> Duration {
        self.reload_delta() + NEWS
    }

    /// The way to Kamailio's RPC commands.
    ///
    /// # Errors
    /// Its socket is not given.
    pub fn rpc(&self) -> Result<Rpc> {
        let socket = self.dispatcher.rpc.as_deref();
        let socket = socket.context("dispatcher.rpc is missing: the socket of Kamailio's jsonrpcs")?;
        Ok(Rpc::new(socket, &self.state_dir))
    }

    /// How to find ZooKeeper.
    pub fn registry(&self) -> RegistryConfig {
        let ZooKeeper { servers, root, session_timeout, .. } = self.zookeeper.clone();
        RegistryConfig { servers, directory: Directory::new(&root), session_timeout }
    }

    /// How the log is written, and where it is sent.
    ///
    /// # Errors
    /// The host has no name, and none is given.
    pub fn log(&self) -> Result<LogConfig> {
        let node = self.announcement()?;
        let container = match &self.log.container {
            Some(container) => container.clone(),
            None => host_name().context("set log.container")?,
        };
        let logstash = self.log.logstash.clone().map(|address| Logstash {
            address,
            overflow_file: self.state_dir.join(OVERFLOW),
            overflow_bytes: self.log.overflow_size,
        });
        let place = LogPlace { role: node.role.to_string(), node: node.name, dc: node.dc, container };
        Ok(LogConfig { place, format: self.log.format, logstash })
    }

    /// What this node says of itself.
    ///
    /// # Errors
    /// The host has no name, and none is given.
    pub fn announcement(&self) -> Result<Announcement> {
        let name = match &self.node.name {
            Some(name) => name.clone(),
            None => host_name().context("set node.name")?,
        };
        Ok(Announcement {
            role: self.node.role,
            name,
            dc: self.node.dc.clone(),
            rack: self.node.rack.clone(),
            state: State::Up,
            weight: self.node.weight,
            sip: self.node.sip.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: String::new(),
        })
    }
}

fn host_name() -> Result<String> {
    rustix::system::uname().nodename().to_str().map(str::to_owned).context("the host's name is no name")
}

/// Whether it is `host:port`.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Puts variables of the environment into the places of `${NAME}`.
fn expand(word: &str) -> Result<String> {
    let mut parts = word.split("${");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').context("a '${' has no '}'")?;
        text += &std::env::var(name).with_context(|| format!("the environment has no {name}"))?;
        text += rest;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use figment::Jail;

    use super::*;

    const FILE: &str = r#"
        [node]
        role = "registrar"
        name = "r1"
        dc = "dc1"
        sip = { udp = "192.0.2.1:5060" }
        [process]
        command = ["kamailio", "-DD", "-E"]
        [zookeeper]
        servers = "127.0.0.1:2181"
        [dispatcher]
        list = "/tmp/dispatcher.list"
        rpc = "/tmp/rpc.sock"
    "#;

    #[expect(clippy::result_large_err, reason = "the error of a Jail is figment's")]
    /// What becomes of the file with these variables in the environment.
    fn read(file: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let mut read = Err(String::new());
        Jail::expect_with(|jail| {
            jail.create_file("carna.toml", file)?;
            variables.iter().for_each(|(name, value)| jail.set_env(name, value));
            read = Config::read(Some(Path::new("carna.toml"))).map_err(|error| format!("{error:#}"));
            Ok(())
        });
        read
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = read(FILE, &[]).expect("right");
        assert_eq!((config.node.role, config.node.weight), (Role::Registrar, 100));
        assert_eq!((config.zookeeper.root.as_str(), config.drain.limit.as_secs()), ("/carna", 900));
        assert_eq!((config.reload_delta().as_secs(), config.settle().as_secs()), (2, 3));
    }

    #[test]
    fn the_environment_goes_before_the_file() {
        let variables = [
            ("CARNA_CONFIG", "carna.toml"),
            ("CARNA_NODE__NAME", "r7"),
            ("CARNA_NODE__WEIGHT", "50"),
            ("CARNA_NODE__SIP__UDP", "192.0.2.7:5070"),
            ("CARNA_ZOOKEEPER__SESSION_TIMEOUT", "15s"),
            ("CARNA_PROCESS__COMMAND", r#"["kamailio", "-f", "/etc/kamailio/registrar.cfg"]"#),
        ];
        let config = read(FILE, &variables).expect("right");
        assert_eq!((config.node.name.as_deref(), config.node.weight), (Some("r7"), 50));
        assert_eq!(config.node.sip[&Transport::Udp].to_string(), "192.0.2.7:5070");
        assert_eq!(config.zookeeper.session_timeout, Duration::from_secs(15));
        assert_eq!(config.process.command[2], "/etc/kamailio/registrar.cfg");
    }

    #[test]
    fn a_log_is_for_people_and_sent_nowhere_unless_it_is_set() {
        let log = read(FILE, &[]).and_then(|config| config.log().map_err(|error| error.to_string())).expect("right");
        assert_eq!((log.format, log.logstash.is_none(), &*log.place.node), (Format::Text, true, "r1"));
        let variables = [
            ("CARNA_LOG__FORMAT", "json"),
            ("CARNA_LOG__LOGSTASH", "logs.example.com:5044"),
            ("CARNA_LOG__CONTAINER", "c1"),
        ];
        let log =
            read(FILE, &variables).and_then(|config| config.log().map_err(|error| error.to_string())).expect("right");
        let logstash = log.logstash.expect("set");
        assert_eq!(
            (log.format, &*log.place.container, &*logstash.address),
            (Format::Json, "c1", "logs.example.com:5044")
        );
        assert!(logstash.overflow_file.ends_with("logs.redb") && logstash.overflow_bytes == 256 << 20);
    }

    #[cfg(feature = "media")]
    const MEDIA: &str = r#"
        [node]
        role = "media"
        name = "m1"
        dc = "dc1"
        sip = { udp = "192.0.2.21:5060" }
        [process]
        command = ["freeswitch", "-nf"]
        [zookeeper]
        servers = "127.0.0.1:2181"
        [media]
        password = "secret"
        [cassandra]
        contact_points = "192.0.2.31:9042, 192.0.2.32:9042"
    "#;

    #[cfg(feature = "media")]
    #[test]
    fn a_media_node_routes_by_nothing_and_records_in_its_own_data_centre() {
        let config = read(MEDIA, &[]).expect("right");
        let history = config.history().expect("right").expect("recorded");
        assert_eq!(history.store.contact_points, ["192.0.2.31:9042", "192.0.2.32:9042"]);
        assert_eq!((history.store.local_dc.as_str(), history.store.keyspace.as_str()), ("dc1", "sip"));
        assert!(history.spool_file.ends_with("calls.redb"));
        let media = config.media.expect("given");
        assert_eq!((media.event_socket.port(), media.password().expect("given").text()), (8021, "secret"));
        assert!(!format!("{media:?}").contains("secret"), "{media:?}");
        let error = read(&MEDIA.replace("password = \"secret\"", ""), &[]).expect_err("no password");
        assert!(error.contains("media.password"), "{error}");
        assert!(read(&MEDIA.replace("password = \"secret\"", ""), &[("CARNA_MEDIA__PASSWORD", "other")]).is_ok());
        assert!(read(MEDIA, &[("CARNA_MEDIA__PASSWORD_FILE", "/nowhere")]).is_err(), "two passwords");
    }

    #[test]
    fn the_command_takes_variables_from_the_environment() {
        let file = FILE.replace("\"-DD\", \"-E\"", r#""-m", "${MB}", "/etc/${CARNA_NODE__ROLE}.cfg""#);
        let variables = [("CARNA_NODE__ROLE", "outbound"), ("MB", "64")];
        let config = read(&file, &variables).expect("right");
        assert_eq!(config.process.command, ["kamailio", "-m", "64", "/etc/outbound.cfg"]);
        let error = read(&file, &variables[..1]).expect_err("wrong");
        assert!(error.contains("process.command has '${MB}'") && error.contains("has no MB"), "{error}");
        let error = read(&file.replace("{MB}", "{MB"), &variables).expect_err("wrong");
        assert!(error.contains("has no '}'"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let of = |from: &str, to: &str| {
            assert!(FILE.contains(from), "{from}");
            read(&FILE.replace(from, to), &[]).expect_err("wrong")
        };
        for (from, to, expected) in [
            ("\"registrar\"", "\"register\"", "node.role"),
            ("\"registrar\"", "\"media\"", "[media] is missing"),
            ("dc = \"dc1\"", "", "dc"),
            ("name = \"r1\"", "name = \"r 1\"", "'r 1' is no name"),
            ("name = \"r1\"", "nmae = \"r1\"", "nmae"),
            ("sip = { udp = \"192.0.2.1:5060\" }", "sip = { udp = \"registrar:5060\" }", "node.sip.udp"),
            ("sip = { udp = \"192.0.2.1:5060\" }", "sip = { tls = \"192.0.2.1:5061\" }", "no address by UDP or TCP"),
            ("list = \"/tmp/dispatcher.list\"", "", "dispatcher.list and dispatcher.database"),
            ("rpc = \"/tmp/rpc.sock\"", "", "dispatcher.rpc is missing"),
            ("servers = \"127.0.0.1:2181\"", "servers = \"127.0.0.1:2181\"\nroot = \"carna/\"", "zookeeper.root"),
            ("[\"kamailio\", \"-DD\", \"-E\"]", "[]", "process.command is empty"),
            ("[zookeeper]", "[log]\nformat = \"xml\"\n[zookeeper]", "log.format"),
            ("[zookeeper]", "[log]\nlogstash = \"logstash\"\n[zookeeper]", "log.logstash is 'logstash'"),
        ] {
            let error = of(from, to);
            assert!(error.contains(expected), "{to}: {error}");
        }
        let error = read(FILE, &[("CARNA_NODE__WEIGHT", "much")]).expect_err("wrong");
        assert!(
            error.to_lowercase().contains("node.weight") && error.to_lowercase().contains("environment"),
            "{error}"
        );
    }
}
