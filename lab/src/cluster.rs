//! The whole system on this machine: what `make demo`, `make up` and `make down` run.

mod demo;
mod state;
mod up;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Error, Result, bail};

pub use demo::demo;
pub use up::{down, up};

use crate::cassandra::{self, Cassandra};
use crate::kamailio::MemoryManager;
use crate::media::{self, Media};
use crate::progress::step;
use crate::topology::{self, ROLES, Role, Topology};
use crate::{net, sipctl, workspace};

const KEYSPACE: &str = "sip";

/// What to start and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The domain served.
    pub domain: String,
    /// Nodes of each role, media nodes too.
    pub nodes: usize,
    /// Nodes of Cassandra.
    pub cassandra_nodes: usize,
    /// Nodes have consecutive addresses from here on, Cassandra's the last ones; `None`: fresh ones. SIP is at port 5060.
    pub first_address: Option<Ipv4Addr>,
    /// Run directories go in there; `None`: fresh ones, removed at the end.
    pub dir: Option<PathBuf>,
    /// The servers go on without us once [`Cluster::detach`] was called.
    pub outlive_us: bool,
}

impl Default for Plan {
    /// Two nodes of each role, one Cassandra node, example.com, on fresh addresses.
    fn default() -> Self {
        Self {
            domain: "example.com".to_owned(),
            nodes: 2,
            cassandra_nodes: 1,
            first_address: None,
            dir: None,
            outlive_us: false,
        }
    }
}

impl Plan {
    /// How many addresses it takes.
    fn size(&self) -> usize {
        self.nodes * (ROLES.len() + 1) + self.cassandra_nodes
    }

    /// One for each node, those of Cassandra last.
    fn addresses(&self) -> Vec<Ipv4Addr> {
        match self.first_address {
            Some(first) => (u32::from(first)..).take(self.size()).map(Ipv4Addr::from).collect(),
            None => std::iter::repeat_with(net::loopback).take(self.size()).collect(),
        }
    }
}

/// Cassandra with our schema, and nodes of all roles with our module. Dropping it stops everything.
#[derive(Debug)]
pub struct Cluster {
    // In this order: the nodes are stopped before their database.
    topology: Topology,
    media: Vec<Media>,
    cassandra: Vec<Cassandra>,
    domain: String,
}

impl Cluster {
    /// Starts it all, a line of progress for each step, and returns when it answers.
    pub fn start(plan: &Plan) -> Result<Self> {
        check_built()?;
        Cassandra::install()?;
        let mut addresses = plan.addresses();
        let cassandra = start_cassandra(plan, &addresses.split_off(plan.size() - plan.cassandra_nodes))?;
        let settings = settings(&cassandra);
        step("sipctl schema apply", || {
            sipctl::run(&settings, &["schema", "apply"], "").map_err(|error| quoting(&cassandra[0], error))
        })?;
        let media_addresses = addresses.split_off(plan.nodes * ROLES.len());
        let mut nodes = node_configs(plan, &addresses, &settings);
        let media = start_media(plan, &media_addresses, &mut nodes)?;
        let what = format!("{} nodes of each of {} roles answer OPTIONS", plan.nodes, ROLES.len());
        let topology = step(what, || Topology::start(nodes))?;
        Ok(Self { topology, media, cassandra, domain: plan.domain.clone() })
    }

    /// The nodes that take SIP.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The media nodes.
    pub fn media(&self) -> &[Media] {
        &self.media
    }

    /// The database nodes.
    pub fn cassandra(&self) -> &[Cassandra] {
        &self.cassandra
    }

    /// The domain served.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The environment variables by which `sipctl` and Kamailio find the database.
    pub fn settings(&self) -> Vec<(String, String)> {
        settings(&self.cassandra)
    }

    /// Runs `sipctl ARGS` with `input` on its standard input and returns what it prints.
    pub fn sipctl(&self, args: &[&str], input: &str) -> Result<String> {
        sipctl::run(&self.settings(), args, input)
    }

    /// Adds what the nodes have logged to an error.
    pub fn quoting_nodes(&self, error: Error) -> Error {
        let nodes = self.topology.nodes().map(|(_, node)| node.process());
        let all = nodes.chain(self.media.iter().flat_map(Media::processes));
        let logs = all.map(|process| process.failure("").to_string());
        error.context(logs.collect::<Vec<_>>().join("\n"))
    }

    /// Stops everything in order.
    pub fn stop(mut self) -> Result<()> {
        self.topology.stop()?;
        self.media.into_iter().try_for_each(Media::stop)?;
        self.cassandra.iter_mut().try_for_each(Cassandra::stop)
    }

    /// Leaves everything running without us; [`Plan::outlive_us`] must have been set.
    pub fn detach(self) {
        self.topology.detach();
        self.media.into_iter().for_each(Media::detach);
        self.cassandra.into_iter().for_each(Cassandra::detach);
    }
}

fn start_cassandra(plan: &Plan, addresses: &[Ipv4Addr]) -> Result<Vec<Cassandra>> {
    let mut nodes: Vec<Cassandra> = Vec::new();
    for (number, &address) in (1..).zip(addresses) {
        let options = cassandra::Options {
            address,
            rack: format!("rack{number}"),
            seeds: nodes.first().map(Cassandra::address).into_iter().collect(),
            dir: plan.dir.as_ref().map(|dir| dir.join(format!("cassandra-{number}"))),
            outlive_us: plan.outlive_us,
            ..Default::default()
        };
        let what = format!("Cassandra on {address} answers CQL");
        nodes.push(step(what, || Cassandra::start(options))?);
        cassandra::wait_until_all_see_all(&nodes)?;
    }
    if nodes.is_empty() {
        bail!("a cluster needs at least one Cassandra node: set CASSANDRA_NODES to 1 or more");
    }
    Ok(nodes)
}

/// Nodes that are friendly to tests: what a production start limits by default is far away here, and what it must be told to do
/// is done.
fn node_configs(plan: &Plan, addresses: &[Ipv4Addr], settings: &[(String, String)]) -> topology::Plan {
    let mut nodes = topology::Plan::new(plan.nodes, settings).env("SIP_DOMAIN", &plan.domain);
    for (name, value) in [
        ("AUTH_FAILURES_PER_SOURCE", 1_000_000),
        ("AUTH_FAILURES_PER_AOR", 1_000_000),
        ("REQUESTS_PER_SOURCE", 1_000_000),
        ("MAX_CONTACTS", 100),
        ("MIN_EXPIRES", 5),
        ("NONCE_EXPIRE", 30),
        ("CHECK_ALIASES", 1),
        // Cassandra, all nodes and who tests share the machine: that a node is slow for a moment is not overload.
        ("LATENCY_TARGET_MS", 2000),
    ] {
        nodes = nodes.env(name, value);
    }
    nodes.dir = plan.dir.as_ref().map(|dir| dir.join("topology"));
    for ((role, config), &address) in nodes.nodes.iter_mut().zip(addresses) {
        config.address = address;
        // A REGISTER keeps 27 kB for the five seconds in which it may be sent again: enough for 3,000 a second.
        config.shm_mb = 512;
        // Kamailio's default searches long for each block of memory (docs/module.md).
        config.memory_manager = MemoryManager::Tlsf;
        config.dir = plan.dir.as_ref().map(|dir| dir.join(format!("{}-{address}", role.name())));
        config.outlive_us = plan.outlive_us;
    }
    nodes
}

/// Media nodes of these dispatchers, which are added to their list.
fn start_media(plan: &Plan, addresses: &[Ipv4Addr], nodes: &mut topology::Plan) -> Result<Vec<Media>> {
    let dispatchers = nodes.addresses(Role::Dispatcher);
    let config = |&address: &Ipv4Addr| -> Result<media::Config> {
        Ok(media::Config {
            address,
            dir: plan.dir.as_ref().map(|dir| dir.join(format!("media-{address}"))),
            outlive_us: plan.outlive_us,
            ..media::Config::new(&dispatchers, &plan.domain)?
        })
    };
    let configs = addresses.iter().map(config).collect::<Result<Vec<_>>>()?;
    nodes.lines += &configs.iter().map(media::Config::line).collect::<String>();
    step(format!("{} media nodes take calls", configs.len()), || configs.iter().map(Media::start).collect())
}

fn settings(nodes: &[Cassandra]) -> Vec<(String, String)> {
    let contact_points: Vec<String> = nodes.iter().map(Cassandra::contact_point).collect();
    let dc = nodes.first().map_or("dc1", Cassandra::dc);
    [
        ("CASSANDRA_CONTACT_POINTS", contact_points.join(",")),
        ("CASSANDRA_LOCAL_DC", dc.to_owned()),
        ("CASSANDRA_KEYSPACE", KEYSPACE.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn quoting(node: &Cassandra, error: Error) -> Error {
    node.process().failure(format!("{error:#}"))
}

fn check_built() -> Result<()> {
    for file in ["libcassandra.so", "sipctl"] {
        let path = workspace().target().join("release").join(file);
        if !path.exists() {
            bail!("{} is missing: run `make build`", path.display());
        }
    }
    Ok(())
}
