//! Two nodes in `dc1` and one in `dc2`, each reached only through its proxy.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::cassandra::{Cassandra, Options};
use lab::{RunDir, net};
use scylla::statement::Consistency;
use scylla_proxy::{
    Condition, Node, Proxy, Reaction, RequestFrame, RequestReaction, RequestRule, RunningProxy, ShardAwareness,
};
use store::{ConnectError, Store, StoreConfig, schema};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::common;

pub(crate) const KEYSPACE: &str = "sip";

/// The node in `dc2`; the others are in `dc1`.
pub(crate) const REMOTE: usize = 2;

/// Of the stores of which a node keeps an answer back.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// The cluster.
pub(crate) struct Site {
    pub(crate) runtime: Runtime,
    pub(crate) nodes: Vec<Cassandra>,
    proxy: Mutex<RunningProxy>,
    /// How it went to apply the schema through two nodes at once.
    pub(crate) applied: [Result<(), ConnectError>; 2],
    dir: RunDir, // last: the nodes live in it
}

/// What a proxy does with the requests that concern a test: the first rule that holds.
pub(crate) type Rules = Vec<(Condition, RequestReaction)>;

impl Site {
    pub(crate) fn start() -> Result<Self> {
        Cassandra::install()?;
        let dir = RunDir::new("store-cluster")?;
        let mut nodes: Vec<Cassandra> = Vec::new();
        for (number, (dc, rack)) in [("dc1", "rack1"), ("dc1", "rack2"), ("dc2", "rack1")].into_iter().enumerate() {
            let seeds = nodes.first().map(Cassandra::address).into_iter().collect();
            let options = behind_a_proxy(dc, rack, seeds);
            nodes.push(Cassandra::start(Options { dir: Some(node_dir(&dir, number)), ..options })?);
            lab::cassandra::wait_until_all_see_all(&nodes)?;
        }
        let runtime = common::runtime()?;
        let proxy = runtime.block_on(Proxy::new(nodes.iter().map(proxied).collect::<Result<Vec<_>>>()?).run())?;
        let applied = runtime.block_on(apply_at_once(&config(&nodes[0]), &config(&nodes[REMOTE])));
        Ok(Self { runtime, nodes, proxy: Mutex::new(proxy), applied, dir })
    }

    /// To be reached first through this node.
    pub(crate) fn config(&self, node: usize) -> StoreConfig {
        config(&self.nodes[node])
    }

    /// A store that does not wait long.
    pub(crate) async fn store(&self) -> Result<Store> {
        let config = StoreConfig { request_timeout: REQUEST_TIMEOUT, ..self.config(0) };
        Ok(Store::connect(&config).await?)
    }

    /// The rules of each node's proxy.
    pub(crate) fn proxy(&self) -> MutexGuard<'_, RunningProxy> {
        self.proxy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, what the nodes do with statements that name `user`; all are reported, the rest passes.
    pub(crate) fn script(&self, user: &str, rules: impl Fn(usize) -> Rules) -> Sightings {
        let (senders, receivers): (Vec<_>, Vec<_>) = self.nodes.iter().map(|_| unbounded_channel()).unzip();
        let mut proxy = self.proxy();
        for (number, (node, sender)) in proxy.running_nodes.iter_mut().zip(senders).enumerate() {
            let names_user = Condition::BodyContainsCaseSensitive(user.as_bytes().into());
            let rules = rules(number).into_iter().chain([(Condition::True, RequestReaction::noop())]).map(
                |(condition, reaction)| RequestRule(names_user.clone().and(condition), reported(reaction, &sender)),
            );
            node.change_request_rules(Some(rules.collect()));
        }
        Sightings(receivers)
    }

    /// Lets everything pass.
    pub(crate) fn pass(&self) {
        self.proxy().turn_off_rules();
    }

    /// Names of the directories in which a node keeps the tables: `NAME-IDENTITY`.
    pub(crate) fn table_dirs(&self, node: usize) -> Result<Vec<String>> {
        let dirs = node_dir(&self.dir, node).join("data").join(KEYSPACE).read_dir()?;
        let mut names: Vec<_> =
            dirs.map(|dir| Ok(dir?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    }

    pub(crate) fn logs(&self) -> String {
        self.nodes.iter().map(|node| format!("{}:\n{}\n", node.contact_point(), node.log())).collect()
    }
}

fn config(node: &Cassandra) -> StoreConfig {
    common::config(node.contact_point(), KEYSPACE)
}

pub(crate) async fn apply_at_once(one: &StoreConfig, other: &StoreConfig) -> [Result<(), ConnectError>; 2] {
    tokio::join!(schema::apply(one, None, |_| {}), schema::apply(other, None, |_| {})).into()
}

type Report = (RequestFrame, Option<scylla_proxy::TargetShard>);

fn reported(reaction: RequestReaction, sender: &UnboundedSender<Report>) -> RequestReaction {
    reaction.with_feedback_when_performed(sender.clone())
}

/// The statements that each node got.
pub(crate) struct Sightings(Vec<UnboundedReceiver<Report>>);

impl Sightings {
    /// Their consistencies since the last call, node by node, in order of arrival at the node.
    pub(crate) fn take(&mut self) -> Result<Vec<Vec<Consistency>>> {
        self.0
            .iter_mut()
            .map(|reports| std::iter::from_fn(|| reports.try_recv().ok()).map(consistency).collect())
            .collect()
    }

    /// The same of all nodes together, lowest number of replicas first.
    pub(crate) fn take_all(&mut self) -> Result<Vec<Consistency>> {
        let mut all = self.take()?.concat();
        all.sort_by_key(|consistency| *consistency != Consistency::LocalOne);
        Ok(all)
    }
}

fn consistency((frame, _): Report) -> Result<Consistency> {
    frame.deserialize(&Default::default())?.get_consistency().context("a frame without consistency")
}

/// Statements at this consistency.
pub(crate) fn at(consistency: Consistency) -> Condition {
    Condition::RequestConsistency(consistency, Default::default())
}

fn node_dir(dir: &RunDir, node: usize) -> PathBuf {
    dir.join(&format!("node-{node}"))
}

/// The proxy has the node's port at another address, and the node tells clients that one.
fn behind_a_proxy(dc: &str, rack: &str, seeds: Vec<Ipv4Addr>) -> Options {
    Options {
        dc: dc.to_owned(),
        rack: rack.to_owned(),
        seeds,
        broadcast_rpc_address: Some(net::loopback()),
        // There is nothing to stream, and the next node may start before all know that this one has joined.
        yaml: vec![("auto_bootstrap".to_owned(), false.into())],
        ..common::fast_schema()
    }
}

fn proxied(node: &Cassandra) -> Result<Node> {
    Ok(Node::builder()
        .real_address(SocketAddr::from((node.address(), node.port())))
        .proxy_address(node.contact_point().parse()?)
        .shard_awareness(ShardAwareness::Unaware)
        .build())
}
