//! What the suites share: nodes with this build of Carna, and what is in ZooKeeper.
#![allow(dead_code, reason = "each suite uses a part")]

use std::time::Duration;

use anyhow::{Context, Result};
use fleet::{Announcement, Directory, Load, NodeId, Role};
use lab::carna::{Node, Plan};
use lab::cassandra::Cassandra;
use lab::event_socket::FreeSwitch;
use lab::wait::until;
use lab::zookeeper::ZooKeeper;
use tokio::runtime::{Builder, Runtime};
use zookeeper_client::{Acls, Client, CreateMode};

const SOON: Duration = Duration::from_secs(40);

/// A load balancer by this name.
pub(crate) fn load_balancer(zookeeper: &ZooKeeper, name: &str) -> Result<Plan> {
    Ok(Plan::new(Role::LoadBalancer, zookeeper, name)?.program(env!("CARGO_BIN_EXE_carna")))
}

/// A media node by this name, whose FreeSWITCH is this double, and whose Cassandra answers there.
pub(crate) fn media_node(zookeeper: &ZooKeeper, name: &str, double: &FreeSwitch, contact_point: &str) -> Result<Plan> {
    Ok(Plan::of_double(zookeeper, name, double, contact_point)?.program(env!("CARGO_BIN_EXE_carna")))
}

/// What sipctl, and a node's module, find in their environment of this Cassandra.
pub(crate) fn settings(cassandra: &Cassandra) -> Vec<(String, String)> {
    [("CASSANDRA_CONTACT_POINTS", cassandra.contact_point()), ("CASSANDRA_LOCAL_DC", "dc1".to_owned())]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
}

/// A number of the node's metrics.
pub(crate) fn metric(node: &Node, name: &str) -> Result<u64> {
    let (_, metrics) = node.get("/metrics")?;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.with_context(|| format!("no {name} in {metrics}"))?.parse().with_context(|| format!("{name} is no number"))
}

/// What is in ZooKeeper.
pub(crate) struct Registry {
    client: Client,
    runtime: Runtime,
}

impl Registry {
    pub(crate) fn of(zookeeper: &ZooKeeper) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(Client::connect(&zookeeper.servers()))?;
        Ok(Self { client, runtime })
    }

    /// Waits until these are the published nodes of the role.
    pub(crate) fn until(&self, role: Role, wanted: &[&str]) -> Result<()> {
        let published = || {
            let mut names =
                self.runtime.block_on(self.client.list_children(&format!("/carna/{role}"))).unwrap_or_default();
            names.sort();
            names
        };
        until(&format!("{wanted:?} to be published"), SOON, || published() == wanted)
            .with_context(|| format!("published are {:?}", published()))
            .map(drop)
    }

    pub(crate) fn get(&self, role: Role, name: &str) -> Result<Announcement> {
        let (published, _) = self.runtime.block_on(self.client.get_data(&format!("/carna/{role}/{name}")))?;
        Announcement::parse(role, name, &published).map_err(anyhow::Error::msg)
    }

    /// What a node says that it has to do.
    pub(crate) fn load(&self, role: Role, name: &str) -> Result<Load> {
        let path = Directory::new("/carna").load_path(&NodeId { role, name: name.to_owned() });
        let (published, _) = self.runtime.block_on(self.client.get_data(&path))?;
        Load::parse(&published).context("it is none")
    }

    pub(crate) fn put(&self, path: &str, content: &[u8]) -> Result<()> {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.runtime.block_on(async { self.client.create(path, content, &options).await })?;
        Ok(())
    }

    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        Ok(self.runtime.block_on(self.client.delete(path, None))?)
    }
}
