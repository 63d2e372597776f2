//! Every node of every role is restarted, one after the other, while calls and registrations come in.

mod common;

use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::load::{self, Traffic};
use common::{DOMAIN, Site};
use lab::carna::{Node, Plan};
use lab::cassandra::Cassandra;
use lab::machines::{self, Machine, Segment};
use lab::media;
use lab::sipp::Running;
use lab::topology::Role;
use lab::wait::until;
use lab::zookeeper::ZooKeeper;
use serde_json::Value;

/// Two nodes of each; the load balancers last, who share an address.
const WORKERS: [Role; 4] = [Role::Dispatcher, Role::Registrar, Role::Outbound, Role::Media];
/// Destinations that take something new when all nodes are up: two of each worker's role, and the address of the load balancers.
const DESTINATIONS: usize = 9;
const PORT: u16 = 5060;
/// Hosts of the network: ZooKeeper, the shared address, the load balancers' own ones, the workers, phones (callers, those who call
/// through media nodes, who is called, those who only register).
const ZOOKEEPER: u8 = 2;
const SHARED: u8 = 10;
const BALANCERS: [u8; 2] = [11, 12];
const WORKER: u8 = 20;
const PHONES: [u8; 4] = [101, 102, 103, 104];

const SOON: Duration = Duration::from_secs(40);
/// What others hear of, calls of three seconds, what is sent again.
const DRAINED: Duration = Duration::from_secs(90);

/// Half of them, on a busy machine.
const LEAST_REGISTRATIONS_PER_MINUTE: u64 = 300;
/// Who is called through media nodes, by whom; a call of each of them comes every two seconds.
const THROUGH_MEDIA: &str = "1001";
const CALLERS_THROUGH_MEDIA: [&str; 10] = ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9"];
const THROUGH_MEDIA_PER_SECOND: f64 = 5.0;

fn main() -> ExitCode {
    let users = [&["alice", "bob", THROUGH_MEDIA][..], &load::REGISTERED, &CALLERS_THROUGH_MEDIA].concat();
    let tests = [("every_node_is_restarted_under_load_and_nothing_is_lost", restarted as common::Test)];
    machines::alone(|| Cassandra::install().map(drop), || common::suite(&users, &tests))
}

/// A node, and its machine when that is not this one.
struct Member {
    // Before the machine that it is on.
    node: Option<Node>,
    machine: Option<Machine>,
}

impl Member {
    fn worker(plan: Plan) -> Result<Self> {
        Ok(Self { node: Some(plan.launch()?), machine: None })
    }

    fn balancer(plan: Plan, segment: &Segment, number: usize) -> Result<Self> {
        let mut machine = Machine::new(segment, BALANCERS[number])?;
        let plan = plan.own(SocketAddrV4::new(machine.own(), PORT));
        let node = machine.inside(|| plan.launch())?;
        machine.share(segment.host(SHARED), segment.host(BALANCERS[1 - number]), PORT)?;
        Ok(Self { node: Some(node), machine: Some(machine) })
    }

    fn node(&self) -> Result<&Node> {
        self.node.as_ref().context("a node that is being restarted")
    }

    /// Tells its Carna to end, as whoever runs it does, and starts it again when it has.
    fn restart(&mut self) -> Result<()> {
        let mut node = self.node.take().context("a node that is being restarted")?;
        node.tell_to_end()?;
        node.wait_for_end(DRAINED)?;
        let log = node.log();
        ensure!(log.contains("drained: nothing goes on any more"), "{log}");
        self.node = Some(match &self.machine {
            Some(machine) => machine.inside(|| node.again())?,
            None => node.again()?,
        });
        Ok(())
    }

    /// Whether it takes part, knows all the others, and may take an address.
    fn is_up(&self) -> bool {
        let routes = |node: &Node| node.role() == Role::Media || node.has_loaded(DESTINATIONS);
        let is_ready = self.node().is_ok_and(|node| node.is_ready() && routes(node));
        let may_take = |machine: &Machine| {
            let log = machine.log();
            log.rfind("Entering FAULT STATE").is_none_or(|fault| log[fault..].contains("Entering BACKUP STATE"))
        };
        is_ready && self.machine.as_ref().is_none_or(may_take)
    }

    fn log(&self) -> String {
        let of_node = self.node.as_ref().map(Node::log).unwrap_or_default();
        of_node + &self.machine.as_ref().map(Machine::log).unwrap_or_default()
    }
}

/// All nodes, and phones.
struct Scene {
    members: Vec<Member>,
    segment: Segment,
    _zookeeper: ZooKeeper,
}

impl Scene {
    fn start(site: &Site) -> Result<Self> {
        let segment = Segment::new(80)?;
        PHONES.iter().try_for_each(|host| segment.claim(*host).map(drop))?;
        let zookeeper = ZooKeeper::start_at(&[segment.claim(ZOOKEEPER)?])?;
        let plan = |role: Role, number: usize| {
            anyhow::Ok(Plan::new(role, &zookeeper, &format!("{role}-{number}"))?.settings(&load::settings(site)))
        };
        let workers = WORKERS.into_iter().flat_map(|role| [(role, 1), (role, 2)]);
        let mut members = Vec::new();
        for ((role, number), host) in workers.zip(WORKER..) {
            let address = segment.claim(host)?;
            let worker = match role {
                Role::Media => {
                    let dispatchers = [0, 1].map(|number| SocketAddrV4::new(segment.host(WORKER + number), PORT));
                    let config = media::Config { address, ..media::Config::new(&dispatchers, DOMAIN) };
                    Plan::of_media(&zookeeper, &format!("media-{number}"), &config, site.contact_point())?
                }
                _ => plan(role, number)?.at(SocketAddrV4::new(address, PORT)),
            };
            members.push(Member::worker(worker)?);
        }
        for number in [0, 1] {
            let balancer = plan(Role::LoadBalancer, number + 1)?.at(SocketAddrV4::new(segment.host(SHARED), PORT));
            members.push(Member::balancer(balancer, &segment, number)?);
        }
        let scene = Self { members, segment, _zookeeper: zookeeper };
        let has_the_address =
            |member: &Member| member.machine.as_ref().is_some_and(|machine| machine.has(scene.segment.host(SHARED)));
        until("somebody to have the address", SOON, || scene.members.iter().any(has_the_address))
            .with_context(|| scene.logs())?;
        scene.until_all_are_up()?;
        Ok(scene)
    }

    fn until_all_are_up(&self) -> Result<()> {
        until("all nodes to be up", SOON, || self.members.iter().all(Member::is_up)).with_context(|| self.logs())
    }

    /// Calls straight and through media nodes, and registrations.
    fn load(&self) -> Result<(Traffic, Running)> {
        let balancer = SocketAddrV4::new(self.segment.host(SHARED), PORT);
        let [callers, through_media, callees, registering] = PHONES.map(|host| self.segment.host(host));
        load::phone("register.xml", balancer, &[THROUGH_MEDIA], callees).run_successfully()?;
        let traffic = Traffic::start(balancer, [callers, callees, registering], load::RATE)?;
        let through_media = load::phone("uac_invite_auth.xml", balancer, &CALLERS_THROUGH_MEDIA, through_media);
        let through_media = load::endless(through_media.key("callee", format!("*9{THROUGH_MEDIA}@{DOMAIN}")));
        Ok((traffic, through_media.rate(THROUGH_MEDIA_PER_SECOND).spawn()?))
    }

    /// Waits until a load balancer shows what dispatchers, media nodes and registrars have to do.
    fn until_load_is_shown(&self) -> Result<()> {
        let balancer = self.members.last().context("no node")?.node()?;
        let shown = || -> Result<[u64; 3]> {
            let status: Value = serde_json::from_str(&balancer.get("/status")?.1)?;
            let nodes = status["nodes"].as_array().context("no nodes")?;
            let sum = |what| nodes.iter().filter_map(|node| node[what].as_u64()).sum();
            Ok(["calls", "sessions", "registrations"].map(sum))
        };
        let is_right = |[calls, sessions, registrations]: [u64; 3]| {
            calls > 0 && sessions > 0 && registrations > LEAST_REGISTRATIONS_PER_MINUTE
        };
        until("calls, sessions and registrations on the page", SOON, || shown().is_ok_and(is_right))
            .with_context(|| format!("shown are {:?}\n{}", shown(), self.logs()))
    }

    fn logs(&self) -> String {
        self.members.iter().map(Member::log).collect::<Vec<_>>().join("\n----\n")
    }
}

fn restarted(site: &Site) -> Result<()> {
    let mut scene = Scene::start(site)?;
    let (traffic, through_media) = scene.load().with_context(|| scene.logs())?;
    scene.until_load_is_shown()?;
    for index in 0..scene.members.len() {
        scene.members[index].restart()?;
        scene.until_all_are_up()?;
    }
    load::check(site, THROUGH_MEDIA, &through_media.finish()?, &[]).with_context(|| scene.logs())?;
    traffic.finish(site).with_context(|| scene.logs())
}
