//! Keeps what the node's Kamailio routes by the same as what is known of the other nodes.

use std::fs;
use std::sync::Arc;
use std::time::Instant as Moment;

use anyhow::{Context, Result, anyhow};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until};

use crate::config::Config;
use crate::kamailio::Rpc;
use crate::members::{Member, Members};
use crate::registry::Seen;
use crate::routes::{self, Place};
use crate::sets::{self, Line};
use crate::state::Kept;
use fleet::Announcement;

/// What Kamailio has is compared with what it should have so often, whatever happened.
const COMPARE: Duration = Duration::from_secs(30);
/// Pause before the next attempt when Kamailio does not do what it should.
const RETRY: Duration = Duration::from_secs(1);

/// See [`Router::keep`].
#[derive(Debug)]
pub struct Router {
    /// `None`: nothing here routes, and only who is there is kept.
    target: Option<Target>,
    further: Vec<Line>,
    reload_delta: Duration,
    kept: Kept,
    own: Announcement,
    members: Members,
    /// Kamailio is not told to read again before that.
    reload_at: Instant,
}

/// What routes by the nodes that are known.
#[derive(Debug)]
struct Target {
    place: Place,
    rpc: Arc<Rpc>,
}

impl Router {
    /// For a node of which this is the configuration, and whose Kamailio, if it has one, is reached so; it begins with the nodes that were
    /// kept.
    ///
    /// # Errors
    /// The file of further lines is not usable.
    pub fn new(config: &Config, own: Announcement, kept: Kept, rpc: Option<Arc<Rpc>>) -> Result<Self> {
        let target = rpc.map(|rpc| Ok::<_, anyhow::Error>(Target { place: config.place()?, rpc })).transpose()?;
        Ok(Self {
            target,
            further: further(config)?,
            reload_delta: config.reload_delta(),
            members: Members::new(&own.dc, config.zookeeper.hold, config.settle(), kept.nodes()),
            kept,
            own,
            reload_at: Instant::now(),
        })
    }

    /// Writes what is known now, for a Kamailio that is about to start.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&mut self) -> Result<()> {
        let lines = self.lines();
        self.target.as_ref().map_or(Ok(()), |target| target.place.write(&lines).map(drop))
    }

    /// Goes on for ever: writes whatever is new and has Kamailio read it; `starts` changes whenever that one was started. Tells whether
    /// Kamailio has it, and in `known` who is routed to.
    pub async fn keep(
        mut self,
        seen: watch::Receiver<Seen>,
        starts: watch::Receiver<u32>,
        loaded: watch::Sender<bool>,
        known: watch::Sender<Vec<Member>>,
    ) {
        let (mut seen, mut starts) = (seen, starts);
        let mut compare_at = Instant::now();
        let mut applied_from = Moment::now();
        loop {
            // Somebody may have become more than new while what was before was applied.
            let changes = self.members.next_change(applied_from).map(Instant::from_std);
            let next = changes.map_or(compare_at, |at| at.min(compare_at));
            tokio::select! {
                changed = seen.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.observe(&seen.borrow_and_update().clone());
                }
                changed = starts.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    starts.borrow_and_update();
                }
                () = sleep_until(next) => {}
            }
            tell(&known, self.members());
            applied_from = Moment::now();
            compare_at = match self.apply().await {
                Ok(Applied::Loaded) => {
                    loaded.send_replace(true);
                    Instant::now() + COMPARE
                }
                Ok(Applied::Written) => self.reload_at,
                Err(error) => {
                    tracing::warn!("Kamailio's nodes are not up to date: {error:#}");
                    loaded.send_replace(false);
                    self.reload_at.max(Instant::now() + RETRY)
                }
            };
        }
    }

    fn observe(&mut self, seen: &Seen) {
        let Some(nodes) = seen.nodes.as_ref().filter(|_| seen.is_connected) else { return };
        self.members.observe(nodes.clone(), Moment::now());
        let nodes: Vec<_> = self.members().into_iter().map(|member| member.node).collect();
        if let Err(error) = self.kept.keep_nodes(&nodes) {
            tracing::warn!("a restart without ZooKeeper will not know the nodes of now: {error:#}");
        }
    }

    /// Who is known.
    pub fn members(&mut self) -> Vec<Member> {
        self.members.at(Moment::now())
    }

    /// Who is routed to; this node itself when it knows no other, so that there is somebody.
    fn lines(&mut self) -> Vec<Line> {
        let mut members = self.members();
        if members.is_empty() {
            members.push(Member { node: self.own.clone(), takes_new: true, is_missing: false });
        }
        let mut lines = sets::lines(&members, &self.own.dc);
        lines.extend_from_slice(&self.further);
        lines
    }

    /// Makes what Kamailio routes by what it should be, if it may be told now: until then more may become known, which it then reads at
    /// once.
    async fn apply(&mut self) -> Result<Applied> {
        let lines = self.lines();
        let Some(target) = &self.target else { return Ok(Applied::Loaded) };
        if target.place.write(&lines)? {
            tracing::info!("{} lines of nodes are written", lines.len());
        } else if routes::is_loaded(&target.rpc, &lines).await? {
            return Ok(Applied::Loaded);
        }
        if Instant::now() < self.reload_at {
            return Ok(Applied::Written);
        }
        self.reload_at = Instant::now() + self.reload_delta;
        routes::reload(&target.rpc, &lines).await?;
        tracing::info!("Kamailio routes by {} lines of nodes", lines.len());
        Ok(Applied::Loaded)
    }
}

/// How far what is known has come.
enum Applied {
    /// Kamailio routes by it.
    Loaded,
    /// Kamailio will read it when it may be told to.
    Written,
}

/// Tells who is known, when that is not what was told.
fn tell(known: &watch::Sender<Vec<Member>>, members: Vec<Member>) {
    known.send_if_modified(|told| {
        let is_new = *told != members;
        *told = members;
        is_new
    });
}

/// Lines of sets of gateways, and of media nodes without an agent.
fn further(config: &Config) -> Result<Vec<Line>> {
    let Some(path) = &config.dispatcher.further else { return Ok(Vec::new()) };
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parse = |line: &str| Line::of_further(line).map_err(|error| anyhow!("{}, '{line}': {error}", path.display()));
    lines.map(parse).collect()
}
