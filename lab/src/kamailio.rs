//! Stock Kamailio, from Debian's package, with our module or without.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::process::{Managed, OnOurDeath, Spawn};
use crate::{RunDir, cpu, net, workspace};

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const FAILURE_LIMIT: Duration = Duration::from_secs(30);
const RPC_LIMIT: Duration = Duration::from_secs(10);
const OPTIONS_LIMIT: Duration = Duration::from_millis(200);
/// What a Unix socket takes by default.
const LARGEST_ANSWER: usize = 212_992;
/// jsonrpcs makes it there unless told otherwise.
pub(crate) const RPC_SOCKET: &str = "kamailio_rpc.sock";
/// The kernel's limit for the path of a Unix socket.
const LONGEST_SOCKET_PATH: usize = 107;

/// A routing script.
#[derive(Clone, Debug)]
pub enum Cfg {
    /// The script itself; it is written to the run directory.
    Text(String),
    /// A file, used where it is, so that its relative includes work.
    Path(PathBuf),
}

impl From<&str> for Cfg {
    fn from(text: &str) -> Self {
        Cfg::Text(text.to_owned())
    }
}

impl From<String> for Cfg {
    fn from(text: String) -> Self {
        Cfg::Text(text)
    }
}

impl From<&Path> for Cfg {
    fn from(path: &Path) -> Self {
        Cfg::Path(path.to_path_buf())
    }
}

impl From<PathBuf> for Cfg {
    fn from(path: PathBuf) -> Self {
        Cfg::Path(path)
    }
}

/// Kamailio's memory managers (its options `-X` and `-x`; `docs/module.md`, "Memory").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryManager {
    /// What Kamailio takes when it is not told: it searches long for each block.
    #[default]
    Qm,
    /// Fast, joins free blocks only when it must.
    Fm,
    /// Fast, joins free blocks at once.
    Tlsf,
}

impl MemoryManager {
    /// Kamailio's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qm => "qm",
            Self::Fm => "fm",
            Self::Tlsf => "tlsf",
        }
    }
}

/// How a Kamailio is to be started; see [`Config::new`].
///
/// The script must load `jsonrpcs.so` for [`Kamailio::rpc`], with its Unix datagram socket where it is by default, and `kex.so`
/// for [`Kamailio::memory`]. It needs no `listen` and no `children`; one that takes them from its environment finds them in
/// `SIP_ADDR` and `WORKERS`, and the socket's path in `RPC_SOCKET`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The script.
    pub cfg: Cfg,
    /// Pre-processor defines, `-A NAME=VALUE`; an empty value gives `-A NAME`. A string value carries its own quotes.
    pub defines: Vec<(String, String)>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Where it listens.
    pub address: Ipv4Addr,
    /// On UDP and, unless switched off, TCP.
    pub port: u16,
    /// Listen on TCP as well.
    pub tcp: bool,
    /// SIP workers for UDP, and as many for TCP.
    pub workers: u32,
    /// Shared memory in MB.
    pub shm_mb: u32,
    /// Private memory of each process in MB.
    pub pkg_mb: u32,
    /// For shared and private memory.
    pub memory_manager: MemoryManager,
    /// Where `cassandra.so` is; searched after the stock modules.
    pub module_dir: Option<PathBuf>,
    /// Its directory; `None`: a fresh one, removed at the end.
    pub dir: Option<PathBuf>,
    /// It goes on without us once [`Kamailio::detach`] was called.
    pub outlive_us: bool,
}

impl Config {
    /// A script on a fresh address at port 5060, with 4 workers, 64 MB of shared and 8 MB of private memory, and our release
    /// build of the module if there is one.
    pub fn new(cfg: impl Into<Cfg>) -> Self {
        Self {
            cfg: cfg.into(),
            defines: Vec::new(),
            env: Vec::new(),
            address: net::loopback(),
            port: 5060,
            tcp: true,
            workers: 4,
            shm_mb: 64,
            pkg_mb: 8,
            memory_manager: MemoryManager::default(),
            module_dir: our_module_dir(),
            dir: None,
            outlive_us: false,
        }
    }

    /// The script's file, in this directory unless it has its own.
    pub(crate) fn script(&self, dir: &RunDir) -> Result<PathBuf> {
        match &self.cfg {
            Cfg::Text(text) => dir.write("kamailio.cfg", text),
            Cfg::Path(path) => Ok(path.clone()),
        }
    }

    /// Adds a pre-processor define.
    pub fn define(mut self, name: &str, value: impl ToString) -> Self {
        self.defines.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds a pre-processor define whose value is a string, with the quotes that the script language wants.
    pub fn define_str(self, name: &str, value: &str) -> Self {
        self.define(name, format!("\"{value}\""))
    }
}

/// A running Kamailio. Dropping it kills all its processes; [`Kamailio::stop`] stops it in order.
#[derive(Debug)]
pub struct Kamailio {
    // Before `dir`: the processes must be gone when the directory is removed.
    process: Managed,
    dir: RunDir,
    address: SocketAddrV4,
    tcp: bool,
}

/// A process of Kamailio, as `core.psx` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number inside Kamailio.
    pub index: u64,
    /// Its pid.
    pub pid: u32,
    /// What it does, for example `udp receiver child=0 sock=127.0.0.1:5060`.
    pub description: String,
}

/// What Kamailio holds, in bytes.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Shared memory in use, with its overhead.
    pub shm_used: u64,
    /// Private memory in use by pid.
    pub pkg_used: Vec<(u32, u64)>,
    /// Resident memory by pid; pages that processes share count for each.
    pub rss: Vec<(u32, u64)>,
}

impl Memory {
    /// Private memory of all processes.
    pub fn pkg_total(&self) -> u64 {
        self.pkg_used.iter().map(|&(_, bytes)| bytes).sum()
    }
}

impl Kamailio {
    /// Starts it and returns when it answers OPTIONS, over UDP and TCP, with anything.
    pub fn start(config: Config) -> Result<Self> {
        let kamailio = Self::launch(&config)?;
        kamailio.wait_until_it_answers()?;
        kamailio.process.until("all its processes to wait for work", START_LIMIT, || kamailio.is_at_rest())?;
        Ok(kamailio)
    }

    /// Whether all its processes sleep. One that has not run yet does not hear a SIGTERM, and the main process waits for it.
    fn is_at_rest(&self) -> bool {
        self.pids().into_iter().filter_map(cpu::stat).all(|process| process.state != 'R')
    }

    /// Starts it, waits until it gives up, and returns its log. That it does not give up is the error.
    pub fn start_expecting_failure(config: Config) -> Result<String> {
        let mut kamailio = Self::launch(&config)?;
        let code = kamailio.process.wait_for_exit(FAILURE_LIMIT).context("this start should have failed")?;
        if code == 0 {
            return Err(kamailio.process.failure("ended, but with exit code 0"));
        }
        Ok(kamailio.log())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Its main process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process, for what is not wrapped here.
    pub fn process(&self) -> &Managed {
        &self.process
    }

    /// All its living processes, also those whose main process is gone.
    pub fn pids(&self) -> Vec<u32> {
        self.process.pids()
    }

    /// Its processes with what they do.
    pub fn core_ps(&self) -> Result<Vec<Process>> {
        let answer = self.rpc("core.psx", json!([]))?;
        Ok(entries(&answer).iter().filter_map(parse_process).collect())
    }

    /// The process whose description contains `text`.
    pub fn find_process(&self, text: &str) -> Result<Process> {
        let all = self.core_ps()?;
        let found = all.iter().find(|process| process.description.contains(text));
        found.cloned().with_context(|| format!("no process of Kamailio is called {text:?}; there are {all:?}"))
    }

    /// What it holds in memory now.
    pub fn memory(&self) -> Result<Memory> {
        let shm = self.rpc("core.shmmem", json!([]))?;
        let pkg = self.rpc("pkg.stats", json!([]))?;
        Ok(Memory {
            shm_used: number(&shm, "real_used").context("core.shmmem without real_used")?,
            pkg_used: entries(&pkg)
                .iter()
                .filter_map(|entry| Some((number(entry, "pid")? as u32, number(entry, "real_used")?)))
                .collect(),
            rss: self.pids().into_iter().map(|pid| (pid, cpu::rss_kb(pid) * 1024)).collect(),
        })
    }

    /// CPU milliseconds that all its processes have used so far.
    pub fn cpu_ms(&self) -> u64 {
        cpu::total_ms(&self.pids())
    }

    /// Calls an RPC command and returns its result.
    pub fn rpc(&self, method: &str, params: Value) -> Result<Value> {
        rpc(&self.dir, method, params).map_err(|error| self.process.failure(format!("{error:#}")))
    }

    /// Whether it answers OPTIONS now, over UDP and, if it listens there, over TCP.
    pub fn answers(&self) -> bool {
        // TCP last: its main process is the last one that Kamailio forks, so its answer means that all are there.
        ask_over_udp(self.address).is_ok() && (!self.tcp || ask_over_tcp(self.address).is_ok())
    }

    /// Waits until it answers OPTIONS.
    pub fn wait_until_it_answers(&self) -> Result<()> {
        let what = format!("it to answer OPTIONS on {}", self.address);
        self.process.until(&what, START_LIMIT, || self.answers())
    }

    /// Waits until our module has a session with Cassandra.
    pub fn wait_for_cassandra(&self) -> Result<()> {
        let connected = || self.rpc("cassandra.status", json!([])).is_ok_and(|status| status["connected"] == 1);
        self.process.until("a session with Cassandra", START_LIMIT, connected)
    }

    /// SIGTERM to the main process, as systemd does it, and waits until all is over. An exit code other than 0 is an error.
    pub fn stop(&mut self) -> Result<()> {
        let code = self.process.terminate(STOP_LIMIT)?;
        if code != 0 {
            return Err(self.process.failure(format!("ended with exit code {code} when told to stop")));
        }
        Ok(())
    }

    /// SIGKILL to the main process alone; the others are left as they are.
    pub fn kill9_main(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Leaves it running without us; [`Config::outlive_us`] must have been set.
    pub fn detach(mut self) {
        self.dir.keep();
        self.process.detach();
    }

    fn launch(config: &Config) -> Result<Self> {
        check_free(config)?;
        let dir = RunDir::at_or_new(config.dir.as_deref(), "kamailio")?;
        let script = config.script(&dir)?;
        let process = spawn(config, &script, &dir)?;
        Ok(Self { process, dir, address: SocketAddrV4::new(config.address, config.port), tcp: config.tcp })
    }
}

/// A script of this repository, by its path, with `text` in the place of `place`, which it must hold. It can be anywhere: what it includes
/// is found from where it was.
pub fn changed_script(path: &str, place: &str, text: &str) -> Result<String> {
    let file = workspace().root().join(path);
    let script = fs::read_to_string(&file)?;
    ensure!(script.contains(place), "{path} does not hold '{place}'");
    let directory = file.parent().context("no directory")?.display().to_string();
    let script = script.replace("include_file \"", &format!("include_file \"{directory}/"));
    Ok(script.replace(place, text))
}

/// Calls an RPC command of the Kamailio that has this run directory (its option `-Y`), and returns its result.
pub fn rpc(dir: &RunDir, method: &str, params: Value) -> Result<Value> {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let answer = exchange(dir, &request.to_string()).with_context(|| format!("RPC {method}"))?;
    let mut answer: Value = serde_json::from_str(&answer)
        .with_context(|| format!("RPC {method} was answered with something else than JSON: {answer}"))?;
    if let Some(error) = answer.get("error") {
        bail!("RPC {method} failed: {error}");
    }
    Ok(answer["result"].take())
}

/// One datagram there, one back, over the Unix socket of jsonrpcs.
fn exchange(dir: &RunDir, request: &str) -> Result<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let server = dir.join(RPC_SOCKET);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let ours = Unlinked(dir.join(&format!("ask-{}-{number}.sock", std::process::id())));
    check_socket_path(&ours.0)?;
    let socket = UnixDatagram::bind(&ours.0).with_context(|| format!("cannot create {}", ours.0.display()))?;
    socket.connect(&server).with_context(|| format!("no {}; does the script load jsonrpcs.so?", server.display()))?;
    socket.set_read_timeout(Some(RPC_LIMIT))?;
    socket.send(request.as_bytes()).context("cannot send")?;
    let mut answer = vec![0; LARGEST_ANSWER];
    let length = socket.recv(&mut answer).context("no answer")?;
    answer.truncate(length);
    String::from_utf8(answer).context("the answer is not UTF-8")
}

/// A file that goes when this is dropped.
struct Unlinked(PathBuf);

impl Drop for Unlinked {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The directory with our module as `cassandra.so`: `CASSANDRA_MODULE_DIR` in the environment, else one with our release build, if
/// that is there.
pub fn our_module_dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("CASSANDRA_MODULE_DIR") {
        return Some(dir.into());
    }
    let library = workspace().target().join("release/libcassandra.so");
    if !library.exists() {
        return None;
    }
    let dir = workspace().lab().join("modules");
    link(&library, &dir.join("cassandra.so")).ok()?;
    Some(dir)
}

/// Makes a symbolic link, also when other processes make the same one now.
fn link(to: &Path, at: &Path) -> Result<()> {
    if fs::read_link(at).is_ok_and(|target| target == to) {
        return Ok(());
    }
    let dir = at.parent().context("a link needs a directory")?;
    fs::create_dir_all(dir)?;
    let fresh = dir.join(format!("link-{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    std::os::unix::fs::symlink(to, &fresh)?;
    fs::rename(&fresh, at)?;
    Ok(())
}

fn spawn(config: &Config, script: &Path, dir: &RunDir) -> Result<Managed> {
    let listen = format!("{}:{}", config.address, config.port);
    let mut command = Spawn::new(format!("Kamailio on {listen}"), binary(), dir.join("kamailio.log"))
        .args(arguments(config, script, dir)?)
        .dir(dir.path())
        .on_our_death(if config.outlive_us {
            OnOurDeath::Outlive
        } else {
            OnOurDeath::Terminate // its main process then stops the others; killed, it would leave them behind
        });
    for (name, value) in environment(config, dir) {
        command = command.env(name, value);
    }
    command.start().context("Debian's kamailio is needed: run `make deps`")
}

/// The command line after the program.
pub(crate) fn arguments(config: &Config, script: &Path, dir: &RunDir) -> Result<Vec<String>> {
    let listen = format!("{}:{}", config.address, config.port);
    let here = dir.path().display().to_string();
    let manager = config.memory_manager.name();
    let script = script.display().to_string();
    let mut arguments = ["-DD", "-E", "-f", &script, "-Y", &here, "-w", &here].map(str::to_owned).to_vec();
    let mut set = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    set("-m", config.shm_mb.to_string());
    set("-M", config.pkg_mb.to_string());
    set("-n", config.workers.to_string());
    set("-l", format!("udp:{listen}"));
    set("-L", module_path(config.module_dir.as_deref())?);
    set("-X", manager.to_owned());
    set("-x", manager.to_owned());
    for (name, value) in &config.defines {
        set("-A", if value.is_empty() { name.clone() } else { format!("{name}={value}") });
    }
    if config.tcp {
        set("-l", format!("tcp:{listen}"));
    } else {
        arguments.push("-T".to_owned());
    }
    Ok(arguments)
}

/// What a script finds in its environment; the last one of a name counts.
pub(crate) fn environment(config: &Config, dir: &RunDir) -> Vec<(String, String)> {
    let listen = format!("{}:{}", config.address, config.port);
    let ours = [
        ("SIP_ADDR", listen),
        ("WORKERS", config.workers.to_string()),
        ("RPC_SOCKET", dir.join(RPC_SOCKET).display().to_string()),
    ];
    ours.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(config.env.clone()).collect()
}

/// Where Kamailio is to look for modules (its option `-L`): where Debian's are, and in this directory.
pub fn module_path(ours: Option<&Path>) -> Result<String> {
    let stock = stock_module_dir()?;
    Ok(match ours {
        Some(ours) => format!("{stock}:{}", ours.display()),
        None => stock,
    })
}

/// What `kamailio -h` says it searches.
fn stock_module_dir() -> Result<String> {
    let help = Command::new(binary()).arg("-h").output().context("Debian's kamailio is needed: run `make deps`")?;
    let help = String::from_utf8_lossy(&help.stdout);
    let (_, rest) = help
        .split_once("Modules search path (default: ")
        .context("`kamailio -h` does not say where its modules are")?;
    let (path, _) = rest.split_once(')').context("`kamailio -h` was cut off")?;
    Ok(path.trim().to_owned())
}

/// What the server says of itself: `5.6.3`.
pub fn version() -> Result<String> {
    let shown = Command::new(binary()).arg("-v").output().context("Debian's kamailio is needed: run `make deps`")?;
    let shown = String::from_utf8_lossy(&shown.stdout);
    let version = shown.strip_prefix("version: kamailio ").and_then(|rest| rest.split(' ').next());
    version.map(str::to_owned).with_context(|| format!("{} -v shows no version: {shown}", binary().display()))
}

/// `KAMAILIO` in the environment, else Debian's.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("KAMAILIO").map_or_else(|| PathBuf::from("/usr/sbin/kamailio"), PathBuf::from)
}

fn check_free(config: &Config) -> Result<()> {
    if !net::is_free(config.address, config.port, net::Protocol::Udp) {
        bail!("udp {}:{} is taken by another program, so Kamailio cannot start there", config.address, config.port);
    }
    Ok(())
}

fn check_socket_path(path: &Path) -> Result<()> {
    if path.as_os_str().len() > LONGEST_SOCKET_PATH {
        bail!(
            "{} is too long for a Unix socket ({LONGEST_SOCKET_PATH} bytes at most): move the checkout up, or set CARGO_TARGET_DIR",
            path.display()
        );
    }
    Ok(())
}

/// Asks OPTIONS over UDP and waits a moment for any answer.
pub fn ask_over_udp(to: SocketAddrV4) -> Result<String> {
    // From its own address, unless it is in another network.
    let socket = UdpSocket::bind((*to.ip(), 0)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    socket.set_read_timeout(Some(OPTIONS_LIMIT))?;
    socket.connect(to)?;
    socket.send(options(to, socket.local_addr()?, "UDP").as_bytes())?;
    let mut answer = [0; 2048];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Asks OPTIONS over TCP and waits a moment for any answer.
fn ask_over_tcp(to: SocketAddrV4) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to.into(), OPTIONS_LIMIT)?;
    stream.set_read_timeout(Some(OPTIONS_LIMIT))?;
    let request = options(to, stream.local_addr()?, "TCP");
    stream.write_all(request.as_bytes())?;
    // To its end: closed too early, Kamailio would log a reset.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut some = [0; 2048];
        let length = stream.read(&mut some)?;
        anyhow::ensure!(length > 0, "the connection was closed");
        answer.extend(&some[..length]);
    }
    Ok(())
}

fn options(to: SocketAddrV4, from: SocketAddr, transport: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let id = format!("{}-{number}", std::process::id());
    format!(
        "OPTIONS sip:{to} SIP/2.0\r\n\
         Via: SIP/2.0/{transport} {from};branch=z9hG4bK-{id}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:lab@{from}>;tag={id}\r\n\
         To: <sip:{to}>\r\n\
         Call-ID: lab-{id}\r\n\
         CSeq: 1 OPTIONS\r\n\
         Contact: <sip:lab@{from}>\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// A list of structures; jsonrpcs gives a bare one when there is only one.
fn entries(result: &Value) -> Vec<Value> {
    match result {
        Value::Array(all) => all.clone(),
        one => vec![one.clone()],
    }
}

fn parse_process(entry: &Value) -> Option<Process> {
    Some(Process {
        index: number(entry, "IDX")?,
        pid: number(entry, "PID")? as u32,
        description: entry.get("DSC")?.as_str()?.to_owned(),
    })
}

/// A number; some commands give it as text.
fn number(entry: &Value, name: &str) -> Option<u64> {
    let value = entry.get(name)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}
