//! The image of a node, made by its Dockerfile: nodes of all roles in containers do what nodes do that are processes.

mod common;

use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::flows::{self, Nodes};
use common::{Site, settings};
use lab::containers::{Container, Engine};
use lab::net;
use lab::sipp::Transport;
use lab::topology::{ROLES, Role, SECRET};
use lab::wait::until;
use lab::zookeeper::ZooKeeper;

const USERS: [&str; 8] = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "ivan"];
const SOON: Duration = Duration::from_secs(60);
const OF_EACH: usize = 2;

fn main() -> ExitCode {
    lab::suite::run(
        Fleet::start,
        &[
            ("a_phone_is_called_by_udp", called_by_udp as lab::suite::Test<Fleet>),
            ("a_phone_is_called_by_tcp", called_by_tcp),
            ("a_caller_who_gives_up_ends_the_ringing_by_udp_and_by_tcp", given_up),
            ("phones_of_the_same_q_ring_together_until_one_answers_or_the_caller_gives_up", forked),
            ("a_caller_has_no_more_calls_than_allowed_over_all_dispatchers", limited),
            ("a_container_has_no_rights_and_is_healthy", without_rights),
            ("a_container_that_is_stopped_drains_and_calls_go_on", stopped),
        ],
    )
}

/// Nodes in containers, and what they need.
struct Fleet {
    // In this order: the containers go before their engine.
    nodes: Vec<(Role, Container)>,
    _engine: Arc<Engine>,
    _zookeeper: ZooKeeper,
    site: Site,
}

impl Fleet {
    fn start() -> Result<Self> {
        let engine = Arc::new(Engine::start()?);
        engine.build_node()?;
        let site = Site::start(1, &USERS)?;
        let zookeeper = ZooKeeper::start(1)?;
        let mut settings = settings(site.contact_point(), "dc1");
        let more = [
            ("CARNA_ZOOKEEPER__SERVERS", zookeeper.servers().as_str()),
            ("CARNA_DRAIN__NOTICE", "5s"),
            ("CARNA_DRAIN__LIMIT", "30s"),
            ("NONCE_SECRET", SECRET),
            ("FLOW_TOKEN_SECRET", SECRET),
            ("REQUESTS_PER_SOURCE", "10000"),
            ("CHECK_MAX_CALLS", "1"),
            ("SHM_MEMORY", "64"),
            ("PKG_MEMORY", "8"),
            ("WORKERS", "2"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        settings.extend(more);
        let of_each = ROLES.into_iter().flat_map(|role| (1..=OF_EACH).map(move |number| (role, number)));
        let start = |(role, number): (Role, usize)| {
            let address = SocketAddrV4::new(net::loopback(), 5060);
            anyhow::Ok((role, Container::start(&engine, role, &format!("{role}-{number}"), address, &settings)?))
        };
        let nodes = of_each.map(start).collect::<Result<Vec<_>>>()?;
        nodes.iter().try_for_each(|(_, node)| node.until_it_uses(nodes.len()))?;
        Ok(Self { nodes, _engine: engine, _zookeeper: zookeeper, site })
    }

    fn of(&self, role: Role) -> Vec<&Container> {
        self.nodes.iter().filter(|(of, _)| *of == role).map(|(_, node)| node).collect()
    }
}

impl Nodes for Fleet {
    fn balancers(&self) -> Result<[SocketAddrV4; 2]> {
        let balancers: Vec<_> = self.of(Role::LoadBalancer).iter().map(|node| node.address()).collect();
        balancers.try_into().ok().context("there are not two load balancers")
    }

    fn logs(&self) -> String {
        self.nodes.iter().map(|(_, node)| node.log()).collect()
    }
}

fn called_by_udp(fleet: &Fleet) -> Result<()> {
    flows::called(&fleet.site, fleet, Transport::Udp, "bob")
}

fn called_by_tcp(fleet: &Fleet) -> Result<()> {
    flows::called(&fleet.site, fleet, Transport::Tcp, "carol")
}

fn given_up(fleet: &Fleet) -> Result<()> {
    flows::given_up(fleet)
}

fn forked(fleet: &Fleet) -> Result<()> {
    flows::forked(fleet)
}

fn limited(fleet: &Fleet) -> Result<()> {
    flows::limited(&fleet.site, fleet)
}

fn without_rights(fleet: &Fleet) -> Result<()> {
    for (_, node) in &fleet.nodes {
        let status = node.run(&["cat", "/proc/1/status"])?;
        for line in ["Name:\tcarna", "Uid:\t10001\t10001\t10001\t10001", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"]
        {
            ensure!(status.lines().any(|shown| shown == line), "{line} is not in {status}");
        }
        ensure!(node.run(&["touch", "/etc/kamailio/registrar.cfg"]).is_err(), "the root file system can be written");
        until("the container to be healthy", SOON, || node.health().is_ok_and(|health| health == "healthy"))
            .with_context(|| node.log())?;
    }
    Ok(())
}

fn stopped(fleet: &Fleet) -> Result<()> {
    for role in [Role::Dispatcher, Role::Registrar, Role::Outbound] {
        let [first, ..] = fleet.of(role)[..] else { anyhow::bail!("there is no {role}") };
        let code = first.stop()?;
        let log = first.log();
        ensure!(code == "0" && log.contains("drained: nothing goes on any more"), "{code}: {log}");
        flows::called(&fleet.site, fleet, Transport::Udp, "bob")?;
    }
    Ok(())
}
