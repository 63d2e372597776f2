//! Nodes, as they stand in a real ZooKeeper.

use anyhow::{Result, ensure};
use fleet::{Announcement, Directory, Role, State};
use lab::zookeeper::ZooKeeper;
use serde_json::json;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::site::{FAILED, Site, Test, USAGE};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("nodes_are_shown_as_they_have_published_themselves", published),
    ("a_zookeeper_that_is_not_there_is_named", nowhere),
];

fn published(site: &Site) -> Result<()> {
    let zookeeper = ZooKeeper::start(1)?;
    let servers = zookeeper.servers();
    let nodes = |options: &str| format!("nodes --zookeeper {servers} {options}");
    ensure!(site.ok(&nodes(""), "")?.contains("There are no nodes."));
    site.block_on(async {
        let client = Client::connect(&servers).await?;
        let directory = Directory::new("/carna");
        directory.make(&client).await?;
        let draining =
            Announcement { state: State::Draining, ..fleet::node::testing::node(Role::Registrar, "r1", "dc2") };
        for node in [fleet::node::testing::node(Role::Dispatcher, "d1", "dc1"), draining] {
            let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
            client.create(&directory.path(&node.id()), &node.json(), &options).await?;
        }
        Ok(())
    })?;
    let shown = site.json(&nodes(""), "")?;
    let [dispatcher, registrar] = shown.as_array().map(Vec::as_slice).unwrap_or_default() else {
        anyhow::bail!("{shown}");
    };
    ensure!(dispatcher["name"] == "d1" && dispatcher["calls"] == 0 && dispatcher["state"] == "up", "{dispatcher}");
    ensure!(dispatcher["sip"] == json!({"udp": "192.0.2.49:5060"}), "{dispatcher}");
    ensure!(
        registrar["state"] == "draining" && registrar["calls"].is_null() && registrar["dc"] == "dc2",
        "{registrar}"
    );
    let table = site.ok(&nodes(""), "")?;
    ensure!(table.contains("d1") && table.contains("192.0.2.49:5060") && table.contains("draining"), "{table}");
    let chosen = site.json(&nodes("--role registrar --dc dc2 --no-calls"), "")?;
    ensure!(chosen.as_array().is_some_and(|nodes| nodes.len() == 1), "{chosen}");
    ensure!(site.json(&nodes("--dc dc3"), "")? == json!([]));
    site.refused(&nodes("--role proxy"), "", USAGE, &["proxy", "load-balancer"])
}

fn nowhere(site: &Site) -> Result<()> {
    site.refused("nodes --zookeeper 127.0.0.1:1", "", FAILED, &["no ZooKeeper at 127.0.0.1:1", "ZOOKEEPER_SERVERS"])
}
