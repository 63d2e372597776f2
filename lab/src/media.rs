//! A media node: FreeSWITCH with `deploy/freeswitch/` when the environment names one, and otherwise what of Debian can take its
//! place: two user agents (baresip) with real RTP, one that gives echo and one that calls on and joins both legs, behind a
//! Kamailio that does the work of FreeSWITCH's dialplan.
//!
//! `*43` is the echo, `*9` and a number calls that number; any other number is called as it is.
//!
//! Under Carna the stand-in is a program of its own (`lab media`, [`serve`]), which has an event socket as FreeSWITCH has.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::kamailio::{self, Kamailio};
use serde_json::json;

use crate::event_socket::{self, EVENT_SOCKET_PORT};
use crate::net::{self, Protocol};
use crate::process::{self, Managed, OnOurDeath, Signal, Spawn};
use crate::{RunDir, baresip, wait, workspace};

/// The set of media nodes in the list of nodes.
pub const SET: u32 = 5;

/// Names FreeSWITCH's binary; not set: the stand-in.
pub const FREESWITCH: &str = "FREESWITCH";

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const GONE: Duration = Duration::from_secs(10);
/// Where the stand-in's two user agents listen, and their first RTP ports.
const BRIDGE: (u16, u16) = (5070, 20_000);
const ECHO: (u16, u16) = (5080, 22_000);
/// Calls that a user agent takes; each is a session here and, when it is bridged, a second one.
const MOST_CALLS: u64 = 500;

/// How a media node is to be started; see [`Config::new`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it takes calls, at port 5060, and sends and receives audio.
    pub address: Ipv4Addr,
    /// Who may send it calls.
    pub dispatchers: Vec<Ipv4Addr>,
    /// The domain served.
    pub domain: String,
    /// Its directory; `None`: a fresh one, removed at the end.
    pub dir: Option<PathBuf>,
}

impl Config {
    /// On a fresh address, of these dispatchers.
    pub fn new(dispatchers: &[SocketAddrV4], domain: &str) -> Self {
        Self {
            address: net::loopback(),
            dispatchers: dispatchers.iter().map(|dispatcher| *dispatcher.ip()).collect(),
            domain: domain.to_owned(),
            dir: None,
        }
    }

    /// Its line in the list of nodes.
    pub fn line(&self) -> String {
        format!("{SET} sip:{}\n", self.sip())
    }

    /// Where it takes calls.
    pub(crate) fn sip(&self) -> SocketAddrV4 {
        sip(self.address)
    }
}

/// Where a media node takes calls.
fn sip(address: Ipv4Addr) -> SocketAddrV4 {
    SocketAddrV4::new(address, 5060)
}

/// What an agent runs as a media node.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(&'static str, String)>,
    pub(crate) event_socket: SocketAddrV4,
}

impl Program {
    /// That of this media node: FreeSWITCH, or what takes its place.
    pub(crate) fn of(config: &Config, dir: &RunDir) -> Result<Self> {
        match binary() {
            Some(binary) => Self::freeswitch(&binary, config, dir),
            None => Ok(Self::stand_in(config, dir)),
        }
    }

    /// FreeSWITCH by `deploy/freeswitch/`, all that it writes in this directory.
    fn freeswitch(binary: &Path, config: &Config, dir: &RunDir) -> Result<Self> {
        let of = |name: &str| -> Result<String> {
            let path = dir.join(name);
            std::fs::create_dir_all(&path)?;
            Ok(path.display().to_string())
        };
        let ours = workspace().root().join("deploy/freeswitch").display().to_string();
        let mut command = vec![binary.display().to_string()];
        command.extend(["-nf", "-nonat", "-nc", "-conf", &ours].map(str::to_owned));
        for name in ["log", "run", "db", "storage", "temp"] {
            command.extend([format!("-{name}"), of(name)?]);
        }
        let allowed: Vec<String> = config.dispatchers.iter().map(|dispatcher| format!("{dispatcher}/32")).collect();
        let here = Ipv4Addr::LOCALHOST;
        let event_socket = SocketAddrV4::new(here, net::free_port(here, Protocol::Tcp)?);
        let env = vec![
            ("MEDIA_IP", config.address.to_string()),
            ("SIP_DOMAIN", config.domain.clone()),
            ("DISPATCHERS", allowed.join(",")),
            ("EVENT_SOCKET_PORT", event_socket.port().to_string()),
            ("EVENT_SOCKET_PASSWORD", event_socket::PASSWORD.to_owned()),
            ("STATE_DIR", of("state")?),
        ];
        Ok(Self { command, env, event_socket })
    }

    fn stand_in(config: &Config, dir: &RunDir) -> Self {
        let lab = workspace().target().join("debug/lab").display().to_string();
        let address = config.address.to_string();
        let dir = dir.join("stand-in").display().to_string();
        let mut command = vec![lab];
        command.extend(["media", "--address", &address, "--dir", &dir].map(str::to_owned));
        Self { command, env: Vec::new(), event_socket: SocketAddrV4::new(config.address, EVENT_SOCKET_PORT) }
    }
}

/// Runs the stand-in for FreeSWITCH in the foreground until SIGTERM, with its event socket: its sessions are what passes it, and what it
/// is told there it does.
pub fn serve(address: Ipv4Addr, dir: PathBuf) -> Result<()> {
    let dir = RunDir::at(dir)?;
    let media = Media { node: Node::stand_in(address, &dir)?, _dir: dir, address: sip(address) };
    let socket = event_socket::FreeSwitch::beside(address, 2 * MOST_CALLS)?;
    socket.stand_for(std::process::id());
    let mut is_paused = false;
    let ended = wait::until("the end", Duration::MAX, || media.tell(&socket, &mut is_paused).map(|()| None::<()>));
    let stopped = media.stop();
    // SIGTERM ends the wait with an error, as it should; that is how this succeeds.
    if wait::interrupted() { stopped } else { ended.and(stopped) }
}

/// A running media node. Dropping it kills it.
#[derive(Debug)]
pub struct Media {
    // Before `dir`: the processes must be gone when the directory is removed.
    node: Node,
    _dir: RunDir,
    address: SocketAddrV4,
}

#[derive(Debug)]
enum Node {
    FreeSwitch(Managed),
    StandIn { front: Box<Kamailio>, agents: [Managed; 2] },
}

impl Media {
    /// Starts it and returns when it takes calls.
    pub fn start(config: &Config) -> Result<Self> {
        let dir = RunDir::at_or_new(config.dir.as_deref(), "media")?;
        let node = match binary() {
            Some(binary) => Node::freeswitch(&binary, config, &dir)?,
            None => Node::stand_in(config.address, &dir)?,
        };
        Ok(Self { node, _dir: dir, address: config.sip() })
    }

    /// Tells the event socket how many sessions there are, and the stand-in whether it takes new ones.
    fn tell(&self, socket: &event_socket::FreeSwitch, is_paused: &mut bool) -> Result<()> {
        let Node::StandIn { front, .. } = &self.node else { return Ok(()) };
        let dialogs = front.rpc("dlg.stats_active", json!([]))?;
        socket.set_sessions(dialogs["all"].as_u64().with_context(|| format!("no number of dialogs: {dialogs}"))?);
        if socket.is_paused() != *is_paused {
            *is_paused = socket.is_paused();
            front.rpc("pv.shvSet", json!(["paused", "int", i32::from(*is_paused)]))?;
        }
        Ok(())
    }

    /// Where it takes calls.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Its main process.
    pub fn pid(&self) -> u32 {
        self.processes()[0].pid()
    }

    /// All its processes, the main one first.
    pub fn processes(&self) -> Vec<&Managed> {
        match &self.node {
            Node::FreeSwitch(process) => vec![process],
            Node::StandIn { front, agents } => std::iter::once(front.process()).chain(agents).collect(),
        }
    }

    /// SIGKILL to all its processes.
    pub fn kill(&mut self) -> Result<()> {
        match &mut self.node {
            Node::FreeSwitch(process) => process.kill9(),
            Node::StandIn { front, agents } => {
                agents.iter_mut().try_for_each(Managed::kill9)?;
                front.pids().into_iter().try_for_each(|pid| process::signal(pid, Signal::KILL))?;
                wait::until("the end of all its processes", GONE, || front.pids().is_empty())
            }
        }
    }

    /// Stops it in order.
    pub fn stop(mut self) -> Result<()> {
        match &mut self.node {
            Node::FreeSwitch(process) => process.terminate(STOP_LIMIT).map(drop),
            Node::StandIn { front, agents } => {
                front.stop()?;
                agents.iter_mut().try_for_each(|agent| agent.terminate(STOP_LIMIT).map(drop))
            }
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.processes().into_iter().map(|process| format!("{}:\n{}\n", process.name(), process.log())).collect()
    }
}

impl Node {
    /// Before its Kamailio answers OPTIONS both agents are there.
    fn stand_in(address: Ipv4Addr, dir: &RunDir) -> Result<Self> {
        let called = [
            ("in", ";b2bua=inbound".to_owned()),
            ("out", format!(";b2bua=outbound;outbound=\"sip:{}\"", sip(address))),
        ];
        let bridge = agent(address, dir, "bridge", BRIDGE, "b2bua.so", &called)?;
        let echo = agent(address, dir, "echo", ECHO, "echo.so", &[("echo", String::new())])?;
        let mut front = kamailio::Config::new(include_str!("media.cfg"))
            .define_str("HERE", &address.to_string())
            .define_str("BRIDGE", &format!("sip:{}:{}", address, BRIDGE.0))
            .define_str("ECHO", &format!("sip:{}:{}", address, ECHO.0));
        front.address = address;
        front.workers = 2;
        front.tcp = false;
        front.dir = Some(dir.join("front"));
        Ok(Self::StandIn { front: Box::new(Kamailio::start(front)?), agents: [bridge, echo] })
    }

    /// FreeSWITCH by `deploy/freeswitch/`.
    fn freeswitch(binary: &Path, config: &Config, dir: &RunDir) -> Result<Self> {
        let program = Program::freeswitch(binary, config, dir)?;
        let name = format!("FreeSWITCH on {}", config.address);
        let mut command = Spawn::new(name, binary, dir.join("freeswitch.log")).args(&program.command[1..]);
        for (name, value) in program.env {
            command = command.env(name, value);
        }
        let process = command.on_our_death(OnOurDeath::Terminate).start()?;
        // It listens before it takes calls, and says 503 until then.
        let is_ready = || kamailio::ask_over_udp(config.sip()).is_ok_and(|answer| answer.starts_with("SIP/2.0 200 "));
        process.until("it to take calls", START_LIMIT, is_ready)?;
        Ok(Self::FreeSwitch(process))
    }
}

/// That of FreeSWITCH, where there is one.
fn binary() -> Option<PathBuf> {
    std::env::var_os(FREESWITCH).filter(|binary| !binary.is_empty()).map(PathBuf::from)
}

/// A baresip whose module `application` takes the calls of these accounts: each a user and its parameters.
fn agent(
    address: Ipv4Addr,
    dir: &RunDir,
    name: &str,
    (port, rtp): (u16, u16),
    application: &str,
    accounts: &[(&str, String)],
) -> Result<Managed> {
    let at = SocketAddrV4::new(address, port);
    let home = dir.join(name);
    std::fs::create_dir_all(&home)?;
    let settings = format!(
        "call_max_calls {MOST_CALLS}\naudio_player aubridge,nil\naudio_source aubridge,nil\naudio_alert aubridge,nil\n\
         module_app account.so\nmodule_app {application}\n"
    );
    let mut lines = String::new();
    for (user, parameters) in accounts {
        writeln!(lines, "<sip:{user}@{}>;regint=0{parameters}", at.ip())?;
    }
    let agent = baresip::configured(&format!("({name}) on {at}"), &home, at, rtp..=rtp + 1999, &settings, &lines)?
        .start()
        .context(baresip::NEEDED)?;
    let listens = || net::is_bound(at, Protocol::Udp);
    agent.until("it to listen", START_LIMIT, listens)?;
    Ok(agent)
}
