//! A node from its start to its end.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::changes;
use crate::config::Config;
use crate::health::{Health, Look, Work};
use crate::http::{self, Status, Told};
use crate::loads::{Loads, Meter};
use crate::log::Log;
use crate::process::{self, Child, Event, Output, Process, kill_group};
use crate::registry::{self, Seen};
use crate::router::Router;
use crate::server::Server;
use crate::state::Kept;
use fleet::{Announcement, Load, State};

/// The longest pause between two starts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Why a node takes no part whose process does not run yet, or not any more.
const STARTING: &str = "its process does not answer yet";
/// A wait that something else ends.
const NEVER: Duration = Duration::from_secs(3600);
/// Pause between two looks whether a process has ended.
const LOOK: Duration = Duration::from_millis(100);
/// How long the registry has to take the node away at the end.
const WITHDRAWAL: Duration = Duration::from_secs(5);

/// Runs the node of this configuration, with what was kept of an earlier run, until it is told to end, and has drained, or cannot go on.
/// What its server writes goes to `log`.
///
/// # Errors
/// Why it could not go on: the process does not start, or nothing can be written.
pub async fn run(config: Config, kept: Kept, log: &Log) -> Result<()> {
    let mut events = process::events()?;
    let own = config.announcement()?;
    let (publish, published) = watch::channel(None);
    let (tell_seen, seen) = watch::channel(Seen::default());
    let (tell_start, starts) = watch::channel(0);
    let server = Arc::new(Server::new(&config, &own.name)?);
    let (tell_loaded, loaded) = watch::channel(false);
    let status =
        Status { node: own.clone(), is_alive: true, trouble: Some(STARTING.to_owned()), starts: 0, at_work: None };
    let (tell_status, status) = watch::channel(status);
    let listener = http::listen(config.http.listen).await?;
    let mut router = Router::new(&config, own.clone(), kept.clone(), server.router().cloned())?;
    router.write().context("Kamailio's nodes cannot be written")?;
    let (tell_known, known) = watch::channel(router.members());
    let (tell_changes, last_changes) = watch::channel(Vec::new());
    let (tell_load, load) = watch::channel(Load::default());
    let (tell_loads, loads) = watch::channel(BTreeMap::new());
    let (looked, looked_at) = watch::channel(None);
    let exchange = Loads { id: own.id(), own: load.clone(), looked: looked_at, known: tell_loads };
    let registry = tokio::spawn(registry::keep(config.registry(), published, tell_seen, exchange));
    let routing = tokio::spawn(router.keep(seen.clone(), starts, tell_loaded, tell_known));
    let noting = tokio::spawn(changes::keep(seen.clone(), known.clone(), tell_changes));
    let settle = config.settle();
    let told =
        Told { status, seen, settle, loaded, known, changes: last_changes, load, loads, looked, log: log.counters() };
    let http = http::serve(listener, told);
    let (tell_look, mut looks) = mpsc::channel(1);
    let mut agent = Agent {
        health: Health::new(config.health.rises, config.health.falls),
        life: Life::Pausing(Instant::now()),
        leave: Leave::No,
        failed: 0,
        starts: 0,
        look: Look::default(),
        meter: Meter::default(),
        tell_start,
        tell_status,
        tell_load,
        publish,
        own,
        output: log.output(server.service()),
        server: server.clone(),
        kept,
        config,
    };
    agent.end_former().await;
    let mut http = pin!(http);
    let looking = tokio::spawn(look(agent.config.health.interval, server.clone(), tell_look));
    let ended = loop {
        if let Err(error) = agent.go_on().await {
            break Err(error);
        }
        if agent.is_over() {
            break Ok(());
        }
        agent.tell();
        tokio::select! {
            ended = &mut http => break ended,
            Some(event) = events.recv() => agent.take(&event).await,
            Some(look) = looks.recv() => agent.look(look),
            () = sleep_until(agent.next()) => {}
        }
    };
    looking.abort();
    routing.abort();
    noting.abort();
    drop(agent);
    let _ = tokio::time::timeout(WITHDRAWAL, registry).await;
    server.close().await;
    ended
}

/// Looks at the server for ever.
async fn look(interval: Duration, server: Arc<Server>, looks: mpsc::Sender<Look>) {
    loop {
        sleep(interval).await;
        if looks.send(server.look().await).await.is_err() {
            return;
        }
    }
}

/// The process.
#[derive(Debug)]
enum Life {
    /// It is started then.
    Pausing(Instant),
    /// It was started, and does not answer yet; it has until then.
    Starting(Child, Instant),
    /// It has answered.
    Running(Child),
    /// It was told to end; it has until then.
    Ending(Child, Instant),
    /// It has ended as it was told to.
    Over,
}

/// How far the node is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// It stays.
    No,
    /// The others are told that it takes nothing new; until then it still does.
    Announced(Instant),
    /// It takes nothing new, and waits for what goes on to end, until then at most.
    Draining(Instant),
    /// It goes.
    Now,
}

struct Agent {
    config: Config,
    own: Announcement,
    health: Health,
    life: Life,
    leave: Leave,
    /// Starts in a row that failed.
    failed: u32,
    /// Starts at all.
    starts: u32,
    /// What was seen last.
    look: Look,
    meter: Meter,
    server: Arc<Server>,
    output: Output,
    kept: Kept,
    publish: watch::Sender<Option<Announcement>>,
    tell_start: watch::Sender<u32>,
    tell_status: watch::Sender<Status>,
    tell_load: watch::Sender<Load>,
}

impl Agent {
    /// Does what is due.
    async fn go_on(&mut self) -> Result<()> {
        let now = Instant::now();
        match self.leave {
            Leave::Announced(until) if until <= now => {
                tracing::info!("draining: nothing new is taken any more");
                told("to refuse what is new", self.server.refuse().await);
                self.leave = Leave::Draining(now + self.config.drain.limit);
            }
            Leave::Draining(until) if until <= now => {
                let left = self.look.at_work.unwrap_or_default();
                tracing::warn!("the drain has taken {:?}; left behind are {left}", self.config.drain.limit);
                self.leave = Leave::Now;
            }
            _ => {}
        }
        match &self.life {
            Life::Pausing(until) if self.leave == Leave::No && *until <= now => self.start()?,
            Life::Pausing(_) if self.leave != Leave::No => self.life = Life::Over,
            Life::Starting(..) | Life::Running(_) if self.leave == Leave::Now => self.end().await,
            Life::Starting(child, until) if *until <= now => {
                tracing::error!(
                    "it does not answer {:?} after its start: it is killed",
                    self.config.process.start_limit
                );
                child.kill_group();
                self.put_off();
            }
            Life::Ending(child, until) if *until <= now => {
                tracing::error!(
                    "it does not end {:?} after it was told to: it is killed",
                    self.config.process.stop_limit
                );
                child.kill_group();
                self.put_off();
            }
            _ => {}
        }
        if self.failed >= self.config.process.attempts {
            bail!("{} starts in a row have failed: see above why", self.failed);
        }
        Ok(())
    }

    /// Tells how the node is.
    fn tell(&self) {
        self.tell_status.send_modify(|status| {
            status.node.clone_from(&self.own);
            status.is_alive = match self.life {
                Life::Running(_) => self.look.is_alive,
                Life::Pausing(_) | Life::Starting(..) | Life::Ending(..) => true,
                Life::Over => false,
            };
            status.trouble = match self.life {
                Life::Running(_) => self.look.trouble.clone(),
                _ => Some(STARTING.to_owned()),
            };
            status.starts = self.starts;
            status.at_work = self.look.at_work;
        });
    }

    /// When something is due.
    fn next(&self) -> Instant {
        let never = Instant::now() + NEVER;
        let life = match &self.life {
            Life::Pausing(until) | Life::Starting(_, until) | Life::Ending(_, until) => *until,
            Life::Running(_) | Life::Over => never,
        };
        let leave = match self.leave {
            Leave::Announced(until) | Leave::Draining(until) => until,
            Leave::No | Leave::Now => never,
        };
        life.min(leave)
    }

    fn is_over(&self) -> bool {
        matches!(self.life, Life::Over)
    }

    fn child(&self) -> Option<&Child> {
        match &self.life {
            Life::Starting(child, _) | Life::Running(child) | Life::Ending(child, _) => Some(child),
            Life::Pausing(_) | Life::Over => None,
        }
    }

    /// Ends what an agent has left behind that was killed: it has the addresses.
    async fn end_former(&self) {
        let Some(former) = self.kept.process() else { return };
        let Some(pid) = former.running() else { return };
        tracing::warn!("process {} of an agent that was killed still runs: it is ended", pid.as_raw_nonzero());
        // It may end this instant.
        let _ = kill_process(pid, Signal::TERM);
        let until = Instant::now() + self.config.process.stop_limit;
        while former.running().is_some() && Instant::now() < until {
            sleep(LOOK).await;
        }
        kill_group(pid);
    }

    fn start(&mut self) -> Result<()> {
        let child = Child::start(&self.config.process.command, &self.output)?;
        if let Some(process) = Process::of(child.pid()) {
            let kept = self.kept.keep_process(&process);
            let _ = kept.inspect_err(|error| {
                tracing::warn!("were this agent killed, the next one would not know the process: {error:#}")
            });
        }
        tracing::info!("started {} as process {}", self.config.process.command[0], child.pid().as_raw_nonzero());
        self.starts += 1;
        self.own.started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        self.life = Life::Starting(child, Instant::now() + self.config.process.start_limit);
        Ok(())
    }

    async fn end(&mut self) {
        self.publish.send_replace(None);
        if !self.ends_by_command().await
            && let Some(child) = self.child()
        {
            child.signal(Signal::TERM);
        }
        let until = Instant::now() + self.config.process.stop_limit;
        self.life = match std::mem::replace(&mut self.life, Life::Over) {
            Life::Starting(child, _) | Life::Running(child) => Life::Ending(child, until),
            other => other,
        };
    }

    /// Tells a server that has nothing to do any more to end by itself. Gives whether it will.
    async fn ends_by_command(&self) -> bool {
        self.look.at_work.is_some_and(Work::is_over)
            && self.server.end().await.unwrap_or_else(|error| {
                tracing::warn!("it does not end by its own command: {error:#}");
                false
            })
    }

    /// Waits for a process that was killed to be reaped.
    fn put_off(&mut self) {
        match &mut self.life {
            Life::Starting(_, until) | Life::Ending(_, until) => *until = Instant::now() + NEVER,
            _ => {}
        }
    }

    async fn take(&mut self, event: &Event) {
        match event {
            Event::Exited(pid, status) if self.child().is_some_and(|child| child.pid() == *pid) => {
                self.ended(*pid, *status)
            }
            Event::Exited(pid, _) => tracing::debug!("reaped process {}", pid.as_raw_nonzero()),
            Event::Signal(SIGTERM | SIGINT) => self.leave().await,
            Event::Signal(signal) => {
                if let (Some(child), Some(signal)) = (self.child(), Signal::from_named_raw(*signal)) {
                    child.signal(signal);
                }
            }
        }
    }

    /// The process is no more.
    fn ended(&mut self, pid: Pid, status: ExitStatus) {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("with exit code {code}"),
            (None, signal) => format!("by signal {}", signal.unwrap_or_default()),
        };
        self.publish.send_replace(None);
        self.health.fall();
        let before = std::mem::replace(&mut self.life, Life::Over);
        match before {
            Life::Ending(child, _) => {
                child.kill_group();
                tracing::info!("process {} has ended {how}", pid.as_raw_nonzero());
            }
            Life::Starting(child, _) | Life::Running(child) => {
                child.kill_group();
                self.failed += 1;
                tracing::error!("{} has ended {how}; {}", self.config.process.command[0], reasons(&child.last_lines()));
                let pause = self.config.process.restart_pause * 2_u32.saturating_pow(self.failed.saturating_sub(1));
                self.life = Life::Pausing(Instant::now() + pause.min(LONGEST_PAUSE));
            }
            Life::Pausing(_) | Life::Over => {}
        }
    }

    /// Begins to leave, or, when it does so already, goes at once.
    async fn leave(&mut self) {
        self.leave = match self.leave {
            Leave::No if self.publish.borrow().is_some() => {
                self.own.state = State::Draining;
                self.publish.send_replace(Some(self.own.clone()));
                tracing::info!("draining: the others have {:?} to hear of it", self.config.drain.notice);
                told("that the node leaves", self.server.leave().await);
                Leave::Announced(Instant::now() + self.config.drain.notice)
            }
            // Nobody sends anything here.
            Leave::No => Leave::Now,
            _ => {
                tracing::warn!("told to end a second time: what goes on is left behind");
                Leave::Now
            }
        };
    }

    /// Takes what a look at the node has shown.
    fn look(&mut self, look: Look) {
        self.look = look.clone();
        self.tell_load.send_replace(self.meter.take(look.counts, Instant::now()));
        if let Life::Starting(..) = self.life
            && look.is_alive
        {
            self.life = match std::mem::replace(&mut self.life, Life::Over) {
                Life::Starting(child, _) => Life::Running(child),
                other => other,
            };
            self.failed = 0;
            tracing::info!("it answers");
            self.tell_start.send_modify(|starts| *starts += 1);
        }
        if !matches!(self.life, Life::Running(_)) {
            return;
        }
        match self.leave {
            Leave::Draining(_) if look.at_work.is_some_and(Work::is_over) => {
                tracing::info!("drained: nothing goes on any more");
                self.leave = Leave::Now;
            }
            Leave::No => self.judge(&look),
            _ => {}
        }
    }

    /// Publishes a node that is healthy, and withdraws one that is not.
    fn judge(&mut self, look: &Look) {
        let is_healthy = self.health.take(look.trouble.is_none());
        let is_published = self.publish.borrow().is_some();
        match (is_healthy, is_published) {
            (true, false) => {
                tracing::info!("healthy");
                self.publish.send_replace(Some(self.own.clone()));
            }
            (false, true) => {
                let why = look.trouble.as_deref().unwrap_or_default();
                tracing::warn!("not healthy: {why}; the others are told not to send anything here");
                self.publish.send_replace(None);
            }
            _ => {}
        }
    }
}

/// Complains when the server was not told something.
fn told(what: &str, told: Result<()>) {
    if let Err(error) = told {
        tracing::warn!("it was not told {what}: {error:#}");
    }
}

/// What in its last lines may tell why a process has ended: errors, or else all.
fn reasons(lines: &[String]) -> String {
    let mut told: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|line| ["ERROR", "CRITICAL", "ALERT"].iter().any(|level| line.contains(level)))
        .collect();
    if told.is_empty() {
        told = lines.iter().map(String::as_str).rev().take(5).collect();
        told.reverse();
    }
    if told.is_empty() { "it has written nothing".to_owned() } else { format!("it has written:\n{}", told.join("\n")) }
}
