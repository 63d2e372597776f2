//! A media node: FreeSWITCH with `deploy/freeswitch/` when the environment names one, and otherwise what of Debian can take its
//! place: two user agents (baresip) with real RTP, one that gives echo and one that calls on and joins both legs, behind a
//! Kamailio that does the work of FreeSWITCH's dialplan.
//!
//! `*43` is the echo, `*9` and a number calls that number; any other number is called as it is.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::kamailio::{self, Kamailio};
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

/// How a media node is to be started; see [`Config::new`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it takes calls, at port 5060, and sends and receives audio.
    pub address: Ipv4Addr,
    /// Who may send it calls.
    pub dispatchers: Vec<Ipv4Addr>,
    /// Where the legs go that it begins.
    pub outbound: SocketAddrV4,
    /// The domain served.
    pub domain: String,
    /// Its directory; `None`: a fresh one, removed at the end.
    pub dir: Option<PathBuf>,
    /// It goes on without us once [`Media::detach`] was called.
    pub outlive_us: bool,
}

impl Config {
    /// On a fresh address, of these dispatchers; the legs that it begins go to the first.
    ///
    /// # Errors
    /// When there is no dispatcher.
    pub fn new(dispatchers: &[SocketAddrV4], domain: &str) -> Result<Self> {
        Ok(Self {
            address: net::loopback(),
            dispatchers: dispatchers.iter().map(|dispatcher| *dispatcher.ip()).collect(),
            outbound: *dispatchers.first().context("a media node needs a dispatcher")?,
            domain: domain.to_owned(),
            dir: None,
            outlive_us: false,
        })
    }

    /// Its line in the list of nodes.
    pub fn line(&self) -> String {
        line(self.address)
    }
}

/// The line of a media node in the list of nodes.
pub fn line(address: Ipv4Addr) -> String {
    format!("{SET} sip:{address}:5060\n")
}

/// A running media node. Dropping it kills it.
#[derive(Debug)]
pub struct Media {
    // Before `dir`: the processes must be gone when the directory is removed.
    node: Node,
    dir: RunDir,
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
        let node = match std::env::var_os(FREESWITCH) {
            Some(binary) if !binary.is_empty() => Node::FreeSwitch(freeswitch(binary.into(), config, &dir)?),
            _ => stand_in(config, &dir)?,
        };
        Ok(Self { node, dir, address: SocketAddrV4::new(config.address, 5060) })
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

    /// Leaves it running without us; [`Config::outlive_us`] must have been set.
    pub fn detach(mut self) {
        self.dir.keep();
        match self.node {
            Node::FreeSwitch(process) => process.detach(),
            Node::StandIn { front, agents } => {
                front.detach();
                agents.into_iter().for_each(Managed::detach);
            }
        }
    }
}

/// Before the Kamailio of [`Node::StandIn`] answers OPTIONS both agents are there.
fn stand_in(config: &Config, dir: &RunDir) -> Result<Node> {
    let front_address = SocketAddrV4::new(config.address, 5060);
    let called =
        [("in", ";b2bua=inbound".to_owned()), ("out", format!(";b2bua=outbound;outbound=\"sip:{front_address}\""))];
    let bridge = agent(config, dir, "bridge", BRIDGE, "b2bua.so", &called)?;
    let echo = agent(config, dir, "echo", ECHO, "echo.so", &[("echo", String::new())])?;
    let mut front = kamailio::Config::new(include_str!("media.cfg"))
        .define_str("HERE", &config.address.to_string())
        .define_str("OUTBOUND", &format!("sip:{}", config.outbound))
        .define_str("BRIDGE", &format!("sip:{}:{}", config.address, BRIDGE.0))
        .define_str("ECHO", &format!("sip:{}:{}", config.address, ECHO.0));
    front.address = config.address;
    front.workers = 2;
    front.tcp = false;
    front.dir = Some(dir.join("front"));
    front.outlive_us = config.outlive_us;
    Ok(Node::StandIn { front: Box::new(Kamailio::start(front)?), agents: [bridge, echo] })
}

/// A baresip whose module `application` takes the calls of these accounts: each a user and its parameters.
fn agent(
    config: &Config,
    dir: &RunDir,
    name: &str,
    (port, rtp): (u16, u16),
    application: &str,
    accounts: &[(&str, String)],
) -> Result<Managed> {
    let at = SocketAddrV4::new(config.address, port);
    let home = dir.join(name);
    std::fs::create_dir_all(&home)?;
    let settings = format!(
        "call_max_calls 500\naudio_player aubridge,nil\naudio_source aubridge,nil\naudio_alert aubridge,nil\n\
         module_app account.so\nmodule_app {application}\n"
    );
    let mut lines = String::new();
    for (user, parameters) in accounts {
        writeln!(lines, "<sip:{user}@{}>;regint=0{parameters}", at.ip())?;
    }
    let agent = baresip::configured(&format!("({name}) on {at}"), &home, at, rtp..=rtp + 1999, &settings, &lines)?
        .on_our_death(on_our_death(config, OnOurDeath::Kill))
        .start()
        .context(baresip::NEEDED)?;
    let listens = || net::is_bound(at, Protocol::Udp);
    agent.until("it to listen", START_LIMIT, listens)?;
    Ok(agent)
}

/// FreeSWITCH by `deploy/freeswitch/`, all that it writes in this directory.
fn freeswitch(binary: PathBuf, config: &Config, dir: &RunDir) -> Result<Managed> {
    let of = |name: &str| -> Result<PathBuf> {
        let path = dir.join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    };
    let allowed: Vec<String> = config.dispatchers.iter().map(|dispatcher| format!("{dispatcher}/32")).collect();
    let mut command = Spawn::new(format!("FreeSWITCH on {}", config.address), binary, dir.join("freeswitch.log"))
        .args(["-nf", "-nonat", "-nc"])
        .arg("-conf")
        .arg(workspace().root().join("deploy/freeswitch"));
    for (option, name) in [("-log", "log"), ("-run", "run"), ("-db", "db"), ("-storage", "storage"), ("-temp", "temp")]
    {
        command = command.arg(option).arg(of(name)?);
    }
    let event_socket = net::free_port(Ipv4Addr::LOCALHOST, Protocol::Tcp)?;
    let process = command
        .env("MEDIA_IP", config.address.to_string())
        .env("SIP_DOMAIN", &config.domain)
        .env("DISPATCHERS", allowed.join(","))
        .env("OUTBOUND_PROXY", config.outbound.to_string())
        .env("EVENT_SOCKET_PORT", event_socket.to_string())
        .env("EVENT_SOCKET_PASSWORD", "of-this-run")
        .env("STATE_DIR", of("state")?)
        .on_our_death(on_our_death(config, OnOurDeath::Terminate))
        .start()?;
    let sip = SocketAddrV4::new(config.address, 5060);
    // It listens before it takes calls, and says 503 until then.
    let is_ready = || kamailio::ask_over_udp(sip).is_ok_and(|answer| answer.starts_with("SIP/2.0 200 "));
    process.until("it to take calls", START_LIMIT, is_ready)?;
    Ok(process)
}

fn on_our_death(config: &Config, otherwise: OnOurDeath) -> OnOurDeath {
    if config.outlive_us { OnOurDeath::Outlive } else { otherwise }
}
