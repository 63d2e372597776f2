//! The whole system on this machine: what `make demo`, `make up` and `make down` run.

mod demo;
mod state;
mod up;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Error, Result, bail};

pub use demo::demo;
pub use up::{down, up};

use crate::carna::{self, Node};
use crate::cassandra::{self, Cassandra};
use crate::kamailio::MemoryManager;
use crate::progress::step;
use crate::topology::{self, ROLES, Role};
use crate::zookeeper::ZooKeeper;
use crate::{kamailio, media, net, sipctl, workspace};

const KEYSPACE: &str = "sip";
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Nobody calls when all of it stops.
const DRAIN: carna::Drain = carna::Drain { notice: Duration::ZERO, limit: Duration::from_secs(2) };

/// What to start and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The domain served.
    pub domain: String,
    /// Nodes of each role, media nodes too.
    pub nodes: usize,
    /// Nodes of Cassandra.
    pub cassandra_nodes: usize,
    /// Nodes have consecutive addresses from here on, Cassandra's and ZooKeeper's the last ones; `None`: fresh ones. SIP is at port 5060.
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
        self.nodes * (ROLES.len() + 1) + self.cassandra_nodes + 1
    }

    /// One for each node, those of Cassandra and that of ZooKeeper last.
    fn addresses(&self) -> Vec<Ipv4Addr> {
        match self.first_address {
            Some(first) => (u32::from(first)..).take(self.size()).map(Ipv4Addr::from).collect(),
            None => std::iter::repeat_with(net::loopback).take(self.size()).collect(),
        }
    }
}

/// Cassandra with our schema, ZooKeeper, and nodes of all roles under Carna. Dropping it stops everything.
#[derive(Debug)]
pub struct Cluster {
    // In this order: the nodes are stopped before what they need.
    nodes: Vec<(Role, Node)>,
    zookeeper: ZooKeeper,
    cassandra: Vec<Cassandra>,
    domain: String,
}

impl Cluster {
    /// Starts it all, a line of progress for each step, and returns when it answers.
    pub fn start(plan: &Plan) -> Result<Self> {
        check_built()?;
        Cassandra::install()?;
        let mut addresses = plan.addresses();
        let zookeeper = addresses.split_off(plan.size() - 1);
        let cassandra = start_cassandra(plan, &addresses.split_off(plan.size() - 1 - plan.cassandra_nodes))?;
        let settings = settings(&cassandra);
        step("sipctl schema apply", || {
            sipctl::run(&settings, &["schema", "apply"], "").map_err(|error| quoting(&cassandra[0], error))
        })?;
        let zookeeper = step(format!("ZooKeeper on {} serves", zookeeper[0]), || {
            ZooKeeper::start_in(plan.dir.as_deref(), &zookeeper, plan.outlive_us)
        })?;
        let media_addresses = addresses.split_off(plan.nodes * ROLES.len());
        let configs = node_configs(plan, &addresses, &settings);
        let mut plans = media_plans(plan, &media_addresses, &configs, &zookeeper, &cassandra)?;
        plans.extend(node_plans(configs, &zookeeper)?);
        let what = format!("{} nodes of each of {} roles have found each other", plan.nodes, ROLES.len() + 1);
        let nodes = step(what, || start_nodes(plans))?;
        Ok(Self { nodes, zookeeper, cassandra, domain: plan.domain.clone() })
    }

    /// The nodes of a role.
    pub fn of(&self, role: Role) -> Vec<&Node> {
        self.nodes.iter().filter(|(of, _)| *of == role).map(|(_, node)| node).collect()
    }

    /// The nodes that take SIP.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().map(|(_, node)| node)
    }

    /// What tells the nodes of each other.
    pub fn zookeeper(&self) -> &ZooKeeper {
        &self.zookeeper
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
        let logs = self.nodes().map(|node| node.process().failure("").to_string());
        error.context(logs.collect::<Vec<_>>().join("\n"))
    }

    /// Stops everything in order.
    pub fn stop(mut self) -> Result<()> {
        self.nodes().try_for_each(Node::tell_to_end)?;
        self.nodes.iter_mut().try_for_each(|(_, node)| node.wait_for_end(STOP_LIMIT))?;
        self.zookeeper.stop()?;
        self.cassandra.iter_mut().try_for_each(Cassandra::stop)
    }

    /// Leaves everything running without us; [`Plan::outlive_us`] must have been set.
    pub fn detach(self) {
        self.nodes.into_iter().for_each(|(_, node)| node.detach());
        self.zookeeper.detach();
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
            optimised: plan.outlive_us,
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

/// Media nodes of these dispatchers.
fn media_plans(
    plan: &Plan,
    addresses: &[Ipv4Addr],
    nodes: &topology::Plan,
    zookeeper: &ZooKeeper,
    cassandra: &[Cassandra],
) -> Result<Vec<(Role, carna::Plan)>> {
    let dispatchers = nodes.addresses(Role::Dispatcher);
    let node = |(&address, number): (&Ipv4Addr, u32)| -> Result<_> {
        let config = media::Config {
            address,
            dir: plan.dir.as_ref().map(|dir| dir.join(format!("media-{address}"))),
            ..media::Config::new(&dispatchers, &plan.domain)
        };
        let node = carna::Plan::of_media(zookeeper, &format!("media-{number}"), &config, &contact_points(cassandra))?;
        Ok((Role::Media, node.drain(DRAIN).outlive_us(plan.outlive_us)))
    };
    addresses.iter().zip(1..).map(node).collect()
}

fn node_plans(plan: topology::Plan, zookeeper: &ZooKeeper) -> Result<Vec<(Role, carna::Plan)>> {
    let of_each = plan.nodes.len() / ROLES.len();
    let node = |((role, config), number): ((Role, kamailio::Config), usize)| -> Result<_> {
        Ok((role, carna::Plan::of(role, zookeeper, config, &format!("{role}-{number}"))?.drain(DRAIN)))
    };
    plan.nodes.into_iter().zip((1..=of_each).cycle()).map(node).collect()
}

/// Starts all at once, and waits until each knows all the others.
fn start_nodes(plans: Vec<(Role, carna::Plan)>) -> Result<Vec<(Role, Node)>> {
    let start = |(role, plan): (Role, carna::Plan)| Ok((role, plan.launch()?));
    let nodes = plans.into_iter().map(start).collect::<Result<Vec<_>>>()?;
    for (_, node) in &nodes {
        node.process().until("it to take part", START_LIMIT, || node.is_ready())?;
    }
    let routers = nodes.iter().filter(|(role, _)| *role != Role::Media);
    routers.map(|(_, node)| node).try_for_each(|node| node.until_loaded(nodes.len()))?;
    Ok(nodes)
}

fn settings(nodes: &[Cassandra]) -> Vec<(String, String)> {
    let dc = nodes.first().map_or("dc1", Cassandra::dc);
    [
        ("CASSANDRA_CONTACT_POINTS", contact_points(nodes)),
        ("CASSANDRA_LOCAL_DC", dc.to_owned()),
        ("CASSANDRA_KEYSPACE", KEYSPACE.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn contact_points(nodes: &[Cassandra]) -> String {
    nodes.iter().map(Cassandra::contact_point).collect::<Vec<_>>().join(",")
}

fn quoting(node: &Cassandra, error: Error) -> Error {
    node.process().failure(format!("{error:#}"))
}

fn check_built() -> Result<()> {
    for file in ["libcassandra.so", "sipctl", "carna"] {
        let path = workspace().target().join("release").join(file);
        if !path.exists() {
            bail!("{} is missing: run `make build`", path.display());
        }
    }
    Ok(())
}
