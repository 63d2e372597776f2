//! A rolling restart: each node that works drains, ends and comes back while calls and registrations come in, and none is lost.

#[path = "../common/mod.rs"]
mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carna::node::{Role, State};
use common::{Node, Plan, Registry};
use lab::cassandra::{Cassandra, Options};
use lab::process::Signal;
use lab::sipp::{Running, Sipp};
use lab::wait::until;
use lab::zookeeper::ZooKeeper;
use lab::{net, sipctl};

fn main() -> ExitCode {
    lab::suite::run(
        Site::start,
        &[("a_rolling_restart_loses_no_call_and_no_registration", rolling as lab::suite::Test<Site>)],
    )
}

const DOMAIN: &str = "example.com";
const PASSWORD: &str = "correct-horse";
const WORKERS: [Role; 3] = [Role::Dispatcher, Role::Registrar, Role::Outbound];
/// New calls a second.
const RATE: f64 = 50.0;
const TALK: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(60);
/// The load goes on for longer than all restarts.
const LIMIT: Duration = Duration::from_secs(180);

/// What all nodes need.
struct Site {
    cassandra: Cassandra,
    zookeeper: ZooKeeper,
}

impl Site {
    fn start() -> Result<Self> {
        Cassandra::install()?;
        let site = Self { cassandra: Cassandra::start(Options::default())?, zookeeper: ZooKeeper::start(1)? };
        sipctl::run(&site.settings(), &["schema", "apply"], "")?;
        for user in ["alice", "bob", "carol"] {
            let aor = format!("{user}@{DOMAIN}");
            sipctl::run(&site.settings(), &["subscriber", "add", &aor, "--password-stdin"], PASSWORD)?;
        }
        Ok(site)
    }

    fn settings(&self) -> Vec<(String, String)> {
        let contact_point = self.cassandra.contact_point();
        [
            ("CASSANDRA_CONTACT_POINTS", contact_point.as_str()),
            ("CASSANDRA_LOCAL_DC", "dc1"),
            ("SIP_DOMAIN", DOMAIN),
            ("AUTH_FAILURES_PER_SOURCE", "1000000"),
            ("AUTH_FAILURES_PER_AOR", "1000000"),
            ("MIN_EXPIRES", "5"),
            ("MAX_CONTACTS", "0"),
            ("REQUESTS_PER_SOURCE", "10000"),
            // The machine is full of nodes; that is not what is tested.
            ("LATENCY_TARGET_MS", "0"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    fn plan(&self, role: Role, number: usize) -> Result<Plan> {
        let plan = Node::of(role, &self.zookeeper, &format!("{role}-{number}"))?;
        Ok(self.settings().iter().fold(plan, |plan, (name, value)| plan.env(name, value)))
    }
}

fn rolling(site: &Site) -> Result<()> {
    let balancer = site.plan(Role::LoadBalancer, 1)?.start()?;
    let mut nodes = Vec::new();
    for number in [1, 2] {
        for role in WORKERS {
            nodes.push(site.plan(role, number)?.start()?);
        }
    }
    let registry = Registry::of(&site.zookeeper)?;
    for role in WORKERS {
        registry.until(role, &[&format!("{role}-1"), &format!("{role}-2")]).with_context(|| logs(&balancer, &nodes))?;
    }
    for node in [&balancer].into_iter().chain(&nodes) {
        node.until_loaded(7)?;
    }
    let phone = |scenario: &str, user: &str| {
        Sipp::new(scenario).target(balancer.address()).auth_uri(DOMAIN).users([(user, DOMAIN, PASSWORD)])
    };
    let address = net::loopback();
    let at = |sipp: Sipp| sipp.local(address).local_port(5062);
    at(phone("register.xml", "bob")).run_successfully().with_context(|| logs(&balancer, &nodes))?;
    let _answering = at(Sipp::new("uas_answer.xml")).endless().ignore_unexpected().timeout(LIMIT).spawn()?;
    let caller = phone("uac_invite_auth.xml", "alice").key("callee", format!("bob@{DOMAIN}")).pause(TALK);
    let calling = caller.endless().rate(RATE).timeout(LIMIT).spawn()?;
    let registering = phone("register.xml", "carol").key("expires", 60).endless().rate(10.0).timeout(LIMIT).spawn()?;
    for number in [1, 2] {
        restart(&mut nodes, number, &registry).with_context(|| logs(&balancer, &[]))?;
    }
    for (load, what) in [(calling, "calls"), (registering, "registrations")] {
        all_went_well(load, what).with_context(|| logs(&balancer, &nodes))?;
    }
    Ok(())
}

/// Restarts the node of this number of each role, and waits until it is as before.
fn restart(nodes: &mut Vec<Node>, number: usize, registry: &Registry) -> Result<()> {
    let names = WORKERS.map(|role| format!("{role}-{number}"));
    let (chosen, others): (Vec<_>, Vec<_>) = nodes.drain(..).partition(|node| names.contains(&node.name().to_owned()));
    *nodes = others;
    for mut node in chosen {
        node.process().signal(Signal::TERM)?;
        let code = node.process().wait_for_exit(SOON).with_context(|| node.log())?;
        let log = node.log();
        ensure!(code == 0 && log.contains("drained: nothing goes on any more"), "{code}: {log}");
        nodes.push(node.again()?);
    }
    for role in WORKERS {
        let name = format!("{role}-{number}");
        let is_up = || registry.get(role, &name).is_ok_and(|node| node.state == State::Up);
        until(&format!("{name} to be published again"), SOON, is_up).with_context(|| logs(&nodes[0], nodes))?;
    }
    // The others take it back.
    for node in nodes.iter() {
        node.until_loaded(7)?;
    }
    Ok(())
}

/// Ends a load, and makes sure that nothing of it has failed.
fn all_went_well(load: Running, what: &str) -> Result<()> {
    let report = load.finish()?;
    println!("{} {what}, {} failed", report.successful + report.failed, report.failed);
    ensure!(report.successful > 100 && report.failed == 0, "{report:?}");
    Ok(())
}

fn logs(balancer: &Node, nodes: &[Node]) -> String {
    [balancer].into_iter().chain(nodes).map(Node::log).collect()
}
