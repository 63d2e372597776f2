//! The schema and the nodes go from one version to the next under load, one node after the other. The next version is this one with a
//! column and a table more, which it writes.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::load::{self, Traffic};
use common::{Site, settings};
use lab::builds::Build;
use lab::carna::{Node, Plan};
use lab::topology::Role;
use lab::wait::until;
use lab::zookeeper::ZooKeeper;
use lab::{net, sipctl};

/// Two nodes of each role that uses Cassandra, behind a load balancer.
const WORKERS: [Role; 3] = [Role::Registrar, Role::Dispatcher, Role::Outbound];
const SOON: Duration = Duration::from_secs(60);
/// What others hear of, calls of three seconds, what is sent again.
const DRAINED: Duration = Duration::from_secs(90);
const CALLS_PER_SECOND: f64 = 20.0;
const NEXT: &str = "next-schema";
const GOES_ON: &str = "schema version 5 is newer than this module's 4";

fn main() -> ExitCode {
    let users = [&["alice", "bob"][..], &load::REGISTERED].concat();
    common::suite(&users, &[("schema_and_nodes_are_upgraded_one_after_the_other_and_nothing_is_lost", upgraded)])
}

/// All nodes.
struct Scene {
    balancer: Node,
    workers: Vec<Node>,
    zookeeper: ZooKeeper,
}

impl Scene {
    fn start(site: &Site) -> Result<Self> {
        let zookeeper = ZooKeeper::start(1)?;
        let balancer = plan(site, &zookeeper, Role::LoadBalancer, 1)?.launch()?;
        let numbered = WORKERS.into_iter().flat_map(|role| [(role, 1), (role, 2)]);
        let workers = numbered.map(|(role, number)| plan(site, &zookeeper, role, number)?.launch());
        let scene = Self { balancer, workers: workers.collect::<Result<_>>()?, zookeeper };
        scene.until_all_are_up(0)?;
        Ok(scene)
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.workers.iter().chain([&self.balancer])
    }

    /// Waits until all take part and know each other, besides so many others.
    fn until_all_are_up(&self, others: usize) -> Result<()> {
        let count = self.nodes().count() + others;
        let are_up = || self.nodes().all(|node| node.is_ready() && node.has_loaded(count));
        until("all nodes to be up", SOON, are_up).with_context(|| self.logs())
    }

    /// Has a node drain and end, and starts it again with another build of the module, or the release.
    fn replace(&mut self, index: usize, build: Option<&Build>, others: usize) -> Result<()> {
        let mut node = self.workers.remove(index);
        node.tell_to_end()?;
        node.wait_for_end(DRAINED)?;
        self.workers.insert(index, node.again_with(build.map(Build::modules))?);
        self.until_all_are_up(others)
    }

    fn logs(&self) -> String {
        self.nodes().map(Node::log).collect::<Vec<_>>().join("\n----\n")
    }
}

fn plan(site: &Site, zookeeper: &ZooKeeper, role: Role, number: usize) -> Result<Plan> {
    Ok(Plan::new(role, zookeeper, &format!("{role}-{number}"))?.settings(&load::settings(site)))
}

fn upgraded(site: &Site) -> Result<()> {
    let next = Build::with(NEXT, &["cassandra", "sipctl"])?;
    let mut scene = Scene::start(site)?;
    let phones = std::array::from_fn(|_| net::loopback());
    let traffic = Traffic::start(scene.balancer.address(), phones, CALLS_PER_SECOND).with_context(|| scene.logs())?;

    // A node of the next version takes no part as long as the schema is not its own, and hurts nobody.
    let early = plan(site, &scene.zookeeper, Role::Registrar, 3)?.modules(next.modules()).launch()?;
    until("what is missing in its log", SOON, || early.log().contains("has schema version 4 but 5 is needed"))
        .with_context(|| early.log())?;
    ensure!(!early.is_ready() && scene.nodes().all(Node::is_ready), "{}", early.log());
    sipctl::run_build(&next.sipctl(), &settings(site.contact_point(), "dc1"), &["schema", "apply"], "")?;
    until("it to take part", SOON, || early.is_ready()).with_context(|| early.log())?;
    scene.until_all_are_up(1)?;

    for index in 0..scene.workers.len() {
        scene.replace(index, Some(&next), 1)?;
    }
    // And one back, as long as anybody wants to.
    scene.replace(0, None, 1)?;
    let old = &scene.workers[0];
    ensure!(old.log().contains(GOES_ON), "{}", old.log());

    traffic.finish(site).with_context(|| scene.logs())?;
    let written = site.count("next_location")?;
    ensure!(written >= load::REGISTERED.len() as u64, "nodes of the next version have written {written} rows");
    // This version's own tool is content as well.
    site.sipctl(&["schema", "check"], "").map(drop)
}
