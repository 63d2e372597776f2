//! `sipctl nodes`.

use std::collections::BTreeMap;

use anyhow::Context;
use clap::Args;
use domain::call::by_node;
use fleet::{Announcement, Directory, Role, Transport};
use serde::Serialize;
use zookeeper_client::Client;

use crate::connection::Connection;
use crate::output::{Output, Shown};

/// Show the nodes of all roles, as Carna has published them, and how many calls each has.
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// Some ZooKeeper servers, host:port, comma-separated.
    #[arg(long, env = "ZOOKEEPER_SERVERS", default_value = "127.0.0.1:2181")]
    zookeeper: String,
    /// Where in ZooKeeper they are.
    #[arg(long, default_value = "/carna")]
    root: String,
    /// Only those of this role.
    #[arg(long, value_parser = role)]
    role: Option<Role>,
    /// Only those of this data centre.
    #[arg(long)]
    dc: Option<String>,
    /// Do not ask Cassandra for calls.
    #[arg(long)]
    no_calls: bool,
}

fn role(name: &str) -> Result<Role, String> {
    let names = Role::ALL.map(Role::name).join(", ");
    Role::ALL.into_iter().find(|role| role.name() == name).ok_or_else(|| format!("it is one of {names}"))
}

impl Nodes {
    pub(crate) async fn run(&self, connection: &Connection, output: &Output) -> anyhow::Result<()> {
        let mut nodes = self.published(output).await?;
        nodes.retain(|node| self.role.is_none_or(|role| node.role == role));
        nodes.retain(|node| self.dc.as_ref().is_none_or(|dc| node.dc == *dc));
        nodes.sort_by(|one, other| (one.role, &one.dc, &one.name).cmp(&(other.role, &other.dc, &other.name)));
        let calls = if self.no_calls { None } else { Some(calls(connection).await?) };
        let lines: Vec<_> = nodes.iter().map(|node| Line::of(node, calls.as_ref())).collect();
        output.list(&lines, "There are no nodes.");
        Ok(())
    }

    /// What is published; of what is no announcement a note is made.
    async fn published(&self, output: &Output) -> anyhow::Result<Vec<Announcement>> {
        let connector = Client::connector().with_fail_eagerly();
        let client = connector
            .connect(&self.zookeeper)
            .await
            .with_context(|| format!("no ZooKeeper at {} (see --zookeeper, or ZOOKEEPER_SERVERS)", self.zookeeper))?;
        let directory = Directory::new(&self.root);
        let mut nodes = Vec::new();
        let ids = directory.list(&client).await?;
        for (id, published) in directory.read(&client, ids).await? {
            match published {
                Some(Ok(announcement)) => nodes.push(announcement),
                Some(Err(sentence)) => {
                    output.note(&format!("What is at {} is not believed: {sentence}.", directory.path(&id)))
                }
                None => {}
            }
        }
        Ok(nodes)
    }
}

/// How many calls each node has, by data centre and name.
async fn calls(connection: &Connection) -> anyhow::Result<BTreeMap<(String, String), u32>> {
    let admin = connection.admin().await?;
    let calls = admin.store().active_calls().await?;
    let counts = by_node(&calls);
    Ok(counts.into_iter().map(|((dc, node), calls)| ((dc.to_owned(), node.to_owned()), calls)).collect())
}

/// A node in the list.
#[derive(Debug, Serialize)]
struct Line<'n> {
    role: &'static str,
    name: &'n str,
    dc: &'n str,
    rack: &'n str,
    state: &'static str,
    sip: &'n BTreeMap<Transport, std::net::SocketAddr>,
    weight: u32,
    /// `null` when they were not asked for, and of roles that record none.
    calls: Option<u32>,
    version: &'n str,
    since: &'n str,
}

impl<'n> Line<'n> {
    fn of(node: &'n Announcement, calls: Option<&BTreeMap<(String, String), u32>>) -> Self {
        let records = node.role == Role::Dispatcher;
        let of = |calls: &BTreeMap<(String, String), u32>| {
            calls.get(&(node.dc.clone(), node.name.clone())).copied().unwrap_or_default()
        };
        Self {
            role: node.role.name(),
            name: &node.name,
            dc: &node.dc,
            rack: &node.rack,
            state: node.state.name(),
            sip: &node.sip,
            weight: node.weight,
            calls: calls.filter(|_| records).map(of),
            version: &node.version,
            since: &node.started,
        }
    }
}

impl Shown for Line<'_> {
    const COLUMNS: &'static [&'static str] = &["role", "name", "dc", "state", "address", "calls", "version", "since"];

    fn cells(&self) -> Vec<String> {
        let mut addresses: Vec<String> = self.sip.values().map(ToString::to_string).collect();
        addresses.dedup();
        vec![
            self.role.to_owned(),
            self.name.to_owned(),
            self.dc.to_owned(),
            self.state.to_owned(),
            addresses.join("\n"),
            self.calls.map(|calls| calls.to_string()).unwrap_or_default(),
            self.version.to_owned(),
            self.since.to_owned(),
        ]
    }
}
