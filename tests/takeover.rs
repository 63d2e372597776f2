//! A second load balancer takes over the address of the first: keepalived as in `deploy/keepalived/`, in network namespaces of our own.

mod common;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use common::sip::{Agent, headers, response, status, with_lines};
use common::{DOMAIN, PASSWORD, Site, enrol, load};
use lab::cassandra::Cassandra;
use lab::kamailio;
use lab::machines::{self, Machine, Segment};
use lab::process::{self, Managed, Spawn};
use lab::sipp::{Running, Sipp};
use lab::topology::{Role, Topology};
use lab::{RunDir, wait, workspace};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
/// Hosts of the network: the shared address, the load balancers' own ones, phones, the nodes inside.
const SHARED: u8 = 10;
const NODES: [u8; 2] = [11, 12];
const PHONES: [u8; 3] = [1, 2, 3];
const INSIDE: u8 = 20;
/// Phones on TCP.
const TCP_PHONES: usize = 10;
/// Calls come in for so long before the death.
const BEFORE: Duration = Duration::from_secs(4);

fn main() -> ExitCode {
    // The test is the world around the load balancers, so it needs a network of its own.
    let suite = || {
        common::suite(
            &["alice", "bob", "carol", "dave"],
            &[
                ("a_call_outlives_its_load_balancer_and_a_tcp_phone_registers_again", outlives),
                ("calls_that_come_in_outlive_their_load_balancer", outlive),
                ("a_load_balancer_that_drains_gives_its_address_up_and_no_call_is_lost", drained),
            ],
        )
    };
    machines::alone(|| Cassandra::install().map(drop), suite)
}

/// A segment that load balancers are in, and we.
struct World {
    segment: Segment,
    dir: RunDir,
}

impl World {
    fn new(number: u8) -> Result<Self> {
        let world = Self { segment: Segment::new(number)?, dir: RunDir::new("takeover")? };
        for host in PHONES {
            world.segment.claim(host)?;
        }
        Ok(world)
    }

    /// What phones know.
    fn shared(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.segment.host(SHARED), 5060)
    }
}

/// Two load balancers.
struct Pair([Balancer; 2]);

impl Pair {
    /// Starts both, for these nodes, and returns when one has the address.
    fn start(world: &World, list: &str) -> Result<Self> {
        let list = world.dir.write("dispatcher.list", list)?;
        let settings = [
            ("DISPATCHER_LIST", list.display().to_string()),
            ("FLOW_TOKEN_SECRET", "the same on both".to_owned()),
            ("REQUESTS_PER_SOURCE", "10000".to_owned()),
            ("LATENCY_TARGET_MS", "2000".to_owned()),
        ];
        let pair = Self([Balancer::start(world, 0, &settings)?, Balancer::start(world, 1, &settings)?]);
        wait::until("somebody to take the address", SOON, || pair.holder()).with_context(|| pair.logs())?;
        Ok(pair)
    }

    fn holder(&self) -> Option<usize> {
        self.0.iter().position(Balancer::has_the_address)
    }

    /// Kills all processes of the one that has the address, at once.
    fn kill_holder(&mut self) -> Result<Takeover> {
        let first = self.holder().context("nobody has the address")?;
        drop(self.0[first].kamailio.take());
        Ok(Takeover { from: first, death: SystemTime::now() })
    }

    fn wait_for(&self, takeover: &Takeover) -> Result<()> {
        let is_over = || self.0[1 - takeover.from].has_the_address() && !self.0[takeover.from].has_the_address();
        wait::until("the other one to take the address", SOON, is_over).with_context(|| self.logs())
    }

    fn logs(&self) -> String {
        self.0.each_ref().map(Balancer::logs).join("\n----\n")
    }
}

/// What the death of a load balancer brings about.
struct Takeover {
    from: usize,
    death: SystemTime,
}

/// A machine with a load balancer.
struct Balancer {
    // Before the machine that it is on.
    kamailio: Option<Managed>,
    machine: Machine,
    shared: Ipv4Addr,
    dir: RunDir,
}

impl Balancer {
    fn start(world: &World, number: usize, settings: &[(&str, String)]) -> Result<Self> {
        let dir = RunDir::new("takeover")?;
        let mut machine = Machine::new(&world.segment, NODES[number])?;
        let kamailio = machine.inside(|| load_balancer(&dir, world.shared(), machine.own(), settings))?;
        let shared = *world.shared().ip();
        machine.share(shared, world.segment.host(NODES[1 - number]), world.shared().port())?;
        Ok(Self { kamailio: Some(kamailio), machine, shared, dir })
    }

    fn has_the_address(&self) -> bool {
        self.machine.has(self.shared)
    }

    fn logs(&self) -> String {
        std::fs::read_to_string(self.dir.join("kamailio.log")).unwrap_or_default() + "\n" + &self.machine.log()
    }
}

fn load_balancer(dir: &RunDir, shared: SocketAddrV4, own: Ipv4Addr, settings: &[(&str, String)]) -> Result<Managed> {
    let path = dir.path().display().to_string();
    let mut command = Spawn::new("Kamailio", "kamailio", dir.join("kamailio.log"))
        .dir(dir.path())
        .args(["-DD", "-E", "-n", "2", "-m", "64", "-M", "8", "-Y", &path, "-w", &path, "-f"])
        .arg(workspace().root().join("kamailio-cfg/load-balancer.cfg"))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("SIP_ADDR", shared.to_string())
        .env("NODE_ADDR", format!("{own}:5060"))
        .on_our_death(process::OnOurDeath::Terminate);
    for (name, value) in settings {
        command = command.env(name, value);
    }
    command.start().context("Debian's kamailio is needed: run `make deps`")
}

/// The one dispatcher, which answers whoever asks whether it lives.
struct Dispatcher {
    socket: UdpSocket,
    load_balancer: SocketAddrV4,
}

impl Dispatcher {
    /// The next message that is not that question.
    fn receive(&self) -> Result<String> {
        self.socket.set_read_timeout(Some(SOON))?;
        let mut buffer = vec![0; 65_535];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer).context("nothing comes inside")?;
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.starts_with("OPTIONS ") {
                self.socket.send_to(response(&message, "200 OK").as_bytes(), from)?;
                continue;
            }
            ensure!(from == self.load_balancer.into(), "{from} has sent:\n{message}");
            return Ok(message);
        }
    }

    /// The next request of this method; what else comes is a retransmission.
    fn request(&self, method: &str) -> Result<String> {
        loop {
            let message = self.receive()?;
            if message.starts_with(&format!("{method} ")) {
                return Ok(message);
            }
        }
    }

    /// The next final response to a method.
    fn answer(&self, method: &str) -> Result<String> {
        loop {
            let message = self.receive()?;
            if matches!(status(&message), Some(200..)) && headers(&message, "CSeq")[0].ends_with(method) {
                return Ok(message);
            }
        }
    }

    fn send(&self, message: &str) -> Result<()> {
        Ok(self.socket.send_to(message.as_bytes(), self.load_balancer).map(drop)?)
    }

    /// A request from inside along these routes.
    fn along(&self, number: u32, method: &str, to: &str, tag: &str, routes: &str) -> Result<()> {
        let here = self.socket.local_addr()?;
        self.send(
            &[
                format!("{method} {to} SIP/2.0"),
                format!("Via: SIP/2.0/UDP {here};branch=z9hG4bK-inside-{number}"),
                format!("Route: {routes}"),
                "Max-Forwards: 70".to_owned(),
                "From: <sip:bob@example.com>;tag=inside".to_owned(),
                format!("To: <sip:alice@example.com>{tag}"),
                "Call-ID: inside".to_owned(),
                format!("CSeq: {number} {method}"),
                format!("Contact: <sip:bob@{here}>"),
                "Content-Length: 0\r\n\r\n".to_owned(),
            ]
            .join("\r\n"),
        )
    }
}

/// Registers a phone, and returns its Path.
fn register(phone: &mut Agent, dispatcher: &Dispatcher) -> Result<String> {
    let contact = phone.contact("alice", "");
    phone.send(&phone.register("alice", &[&contact]))?;
    let arrived = dispatcher.request("REGISTER")?;
    dispatcher.send(&response(&arrived, "200 OK"))?;
    let answer = phone.final_response()?;
    ensure!(status(&answer) == Some(200), "{answer}");
    Ok(headers(&arrived, "Path").first().context("no Path")?.to_string())
}

fn outlives(_: &Site) -> Result<()> {
    let world = World::new(77)?;
    let [phone_address, inside, _] = PHONES.map(|host| world.segment.host(host));
    let dispatcher = Dispatcher { socket: UdpSocket::bind((inside, 5060))?, load_balancer: world.shared() };
    let mut pair = Pair::start(&world, &format!("2 sip:{inside}:5060 0 0 weight=100\n"))?;
    // The call.
    let mut phone = Agent::udp_towards(world.shared(), phone_address)?;
    let path = register(&mut phone, &dispatcher).with_context(|| pair.logs())?;
    dispatcher.along(1, "INVITE", &phone.uri_of("alice"), "", &path)?;
    let invite = phone.receive_request("INVITE")?;
    phone.send(&with_lines(&response(&invite, "200 OK"), &phone.contact("alice", "")))?;
    let routes = headers(&dispatcher.answer("INVITE")?, "Record-Route").join(", ");
    let mut by_tcp = Agent::tcp_towards(world.shared())?;
    let old_path = register(&mut by_tcp, &dispatcher)?;
    let old_uri = by_tcp.uri_of("alice") + ";transport=tcp;ob";
    let takeover = pair.kill_holder()?;
    pair.wait_for(&takeover)?;
    // The phone speaks, and is spoken to, inside the call.
    let hold = phone.request(
        "INVITE",
        "sip:bob@192.0.2.1",
        "alice",
        "bob",
        &[&format!("Route: {routes}, <sip:dispatcher.invalid;node={inside}:5060;lr>")],
    );
    phone.send(&hold.replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=inside"))?;
    let arrived = dispatcher.request("INVITE").with_context(|| pair.logs())?;
    dispatcher.send(&response(&arrived, "200 OK"))?;
    ensure!(status(&phone.final_response()?) == Some(200));
    dispatcher.along(2, "BYE", &phone.uri_of("alice"), ";tag=agent", &routes)?;
    let bye = phone.receive_request("BYE").with_context(|| pair.logs())?;
    phone.send(&response(&bye, "200 OK"))?;
    ensure!(status(&dispatcher.answer("BYE")?) == Some(200));
    // The phone on TCP has lost its connection: nobody is told that it does not exist, and it registers again.
    dispatcher.along(3, "MESSAGE", &old_uri, "", &old_path)?;
    let answer = dispatcher.answer("MESSAGE")?;
    ensure!(status(&answer) == Some(430), "{answer}");
    let request = by_tcp.register("alice", &[]);
    ensure!(by_tcp.ask(&request).is_err(), "the connection outlived its load balancer");
    let mut again = Agent::tcp_towards(world.shared())?;
    let path = register(&mut again, &dispatcher)?;
    dispatcher.along(4, "MESSAGE", &again.uri_of("alice"), "", &path)?;
    let message = again.receive_request("MESSAGE")?;
    again.send(&response(&message, "200 OK"))?;
    ensure!(status(&dispatcher.answer("MESSAGE")?) == Some(200));
    Ok(())
}

/// Load balancers, what is behind them, and phones.
struct Scene {
    world: World,
    pair: Pair,
    topology: Topology,
}

impl Scene {
    fn start(site: &Site, number: u8) -> Result<Self> {
        let world = World::new(number)?;
        let mut plan = site.roles(2);
        plan.nodes.retain(|(role, _)| *role != Role::LoadBalancer);
        for ((_, config), host) in plan.nodes.iter_mut().zip(INSIDE..) {
            config.address = world.segment.claim(host)?;
        }
        plan.lines = format!("{} sip:{} 0 0 weight=100\n", Role::LoadBalancer.set(), world.shared());
        Ok(Self { pair: Pair::start(&world, &plan.list())?, topology: Topology::start(plan)?, world })
    }

    /// A phone of `user` with this scenario.
    fn phone(&self, scenario: &str, user: &str, host: u8) -> Sipp {
        let phone = Sipp::new(scenario).target(self.world.shared()).auth_uri(DOMAIN).users([(user, DOMAIN, PASSWORD)]);
        phone.local(self.world.segment.host(host)).local_port(5062)
    }

    /// Registers a callee, who answers, and begins to call it, as a load. The second one is the callee.
    fn load(&self, callee: &str) -> Result<[Running; 2]> {
        let [callers, callees, _] = PHONES;
        self.phone("register.xml", callee, callees).run_successfully()?;
        let answering = Sipp::new("uas_answer_again.xml").local(self.world.segment.host(callees)).local_port(5062);
        let answering = answering.endless().spawn()?;
        let caller = self.phone("uac_invite_auth.xml", "alice", callers).key("callee", format!("{callee}@{DOMAIN}"));
        Ok([load::of(caller).spawn()?, answering])
    }

    fn logs(&self) -> String {
        format!("{}\n====\n{}", self.pair.logs(), self.topology.logs())
    }
}

fn outlive(site: &Site) -> Result<()> {
    let mut scene = Scene::start(site, 78)?;
    let tcp_phones = || (0..TCP_PHONES).map(|_| Agent::tcp_towards(scene.world.shared())).collect::<Result<Vec<_>>>();
    let mut before = tcp_phones()?;
    before.iter_mut().try_for_each(|phone| enrol(phone, "carol")).with_context(|| scene.logs())?;
    let [calling, _answering] = scene.load("bob").with_context(|| scene.logs())?;
    std::thread::sleep(BEFORE); // the load is what goes on meanwhile
    let takeover = scene.pair.kill_holder()?;
    scene.pair.wait_for(&takeover)?;
    for phone in &mut before {
        let request = phone.register("carol", &[]);
        ensure!(phone.ask(&request).is_err(), "a connection outlived its load balancer");
    }
    for _ in 0..TCP_PHONES {
        // Calls that waited come all at once: a phone may be told to come back.
        let mut again = Agent::tcp_towards(scene.world.shared())?;
        wait::until("the phone to register again", SOON, || enrol(&mut again, "carol").is_ok())
            .with_context(|| scene.logs())?;
    }
    load::check(site, "bob", &calling.wait()?, &[takeover.death]).with_context(|| scene.logs())
}

fn drained(site: &Site) -> Result<()> {
    let mut scene = Scene::start(site, 79)?;
    let [calling, _answering] = scene.load("dave").with_context(|| scene.logs())?;
    std::thread::sleep(BEFORE); // the load is what goes on meanwhile
    let first = scene.pair.holder().context("nobody has the address")?;
    let tell = |pair: &Pair, draining: u8| {
        kamailio::rpc(&pair.0[first].dir, "pv.shvSet", json!(["draining", "int", draining]))
    };
    tell(&scene.pair, 1)?;
    scene.pair.wait_for(&Takeover { from: first, death: SystemTime::now() })?;
    tell(&scene.pair, 2)?;
    drop(scene.pair.0[first].kamailio.take());
    load::check(site, "dave", &calling.wait()?, &[]).with_context(|| scene.logs())
}
