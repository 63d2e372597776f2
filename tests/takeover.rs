//! A second load balancer takes over the address of the first: keepalived as in `deploy/keepalived/`, in network namespaces of our own.

mod common;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::sip::{Agent, headers, response, status, with_lines};
use lab::networks::Network;
use lab::process::{self, Managed, Spawn};
use lab::{RunDir, wait, workspace};

const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 10), 5060);
const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 12)];
const PHONE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const DISPATCHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const SOON: Duration = Duration::from_secs(20);
const OURS: &str = "IN_A_NAMESPACE_OF_ITS_OWN";

fn main() -> ExitCode {
    // The test is the world around the load balancers, so it needs a network of its own; that goes when it ends.
    if std::env::var_os(OURS).is_none() && !std::env::args().any(|argument| argument == "--list") {
        return in_a_namespace();
    }
    lab::suite::run(
        || Ok(()),
        &[("a_call_outlives_its_load_balancer_and_a_tcp_phone_registers_again", outlives as lab::suite::Test<()>)],
    )
}

fn in_a_namespace() -> ExitCode {
    if !Command::new("unshare").args(["--net", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("no network namespace can be made here: this suite needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN)");
        return ExitCode::FAILURE;
    }
    let ours = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let error = Command::new("unshare").arg("--net").arg(ours).args(std::env::args_os().skip(1)).env(OURS, "1").exec();
    eprintln!("unshare does not start: {error}");
    ExitCode::FAILURE
}

/// `ip` with these words.
fn ip(dir: &RunDir, words: &str) -> Result<String> {
    process::run(program("ip", dir).args(words.split(' ')), SOON)
}

/// A machine: a network of its own, and what runs there.
struct Machine {
    // Before the network that they are in.
    kamailio: Option<Managed>,
    _keepalived: Managed,
    network: Network,
    dir: RunDir,
}

impl Machine {
    fn start(number: usize, settings: &[(&str, String)]) -> Result<Self> {
        let dir = RunDir::new("takeover")?;
        let network = Network::new(number as u8)?;
        let keeper = network.keeper();
        ip(&dir, &format!("link add lb{number} type veth peer name eth0 netns {keeper}"))?;
        ip(&dir, &format!("link set lb{number} master wan up"))?;
        network.ip(&format!("link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\n", NODES[number]))?;
        let kamailio = network.inside(|| kamailio(&dir, number, settings))?;
        let keepalived = network.inside(|| keepalived(&dir, number))?;
        Ok(Self { kamailio: Some(kamailio), _keepalived: keepalived, network, dir })
    }

    fn has_the_address(&self) -> bool {
        let shown = self.network.inside(|| ip(&self.dir, "-4 addr show eth0"));
        shown.is_ok_and(|shown| shown.contains(&format!("inet {}/", ADDRESS.ip())))
    }

    fn logs(&self) -> String {
        ["kamailio.log", "keepalived.log"]
            .map(|name| std::fs::read_to_string(self.dir.join(name)).unwrap_or_default())
            .join("\n")
    }
}

/// A program, whose log has its name.
fn program(name: &str, dir: &RunDir) -> Spawn {
    Spawn::new(name, name, dir.join(&format!("{name}.log"))).dir(dir.path())
}

fn kamailio(dir: &RunDir, number: usize, settings: &[(&str, String)]) -> Result<Managed> {
    let path = dir.path().display().to_string();
    let mut command = program("kamailio", dir)
        .args(["-DD", "-E", "-n", "2", "-m", "64", "-M", "8", "-Y", &path, "-w", &path, "-f"])
        .arg(workspace().root().join("kamailio-cfg/load-balancer.cfg"))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("SIP_ADDR", ADDRESS.to_string())
        .env("NODE_ADDR", format!("{}:5060", NODES[number]))
        .on_our_death(process::OnOurDeath::Terminate);
    for (name, value) in settings {
        command = command.env(name, value);
    }
    command.start().context("Debian's kamailio is needed: run `make deps`")
}

/// keepalived by the configuration that we ship, with this machine's settings.
fn keepalived(dir: &RunDir, number: usize) -> Result<Managed> {
    let shipped = workspace().root().join("deploy/keepalived");
    std::fs::copy(shipped.join("keepalived.conf"), dir.join("keepalived.conf"))?;
    let (own, other) = (NODES[number], NODES[1 - number]);
    let settings = std::fs::read_to_string(shipped.join("settings.conf"))?
        .replace("192.0.2.11", &own.to_string())
        .replace("192.0.2.12", &other.to_string())
        .replace("192.0.2.10", &ADDRESS.ip().to_string());
    dir.write("settings.conf", &settings)?;
    let file = |name: &str| dir.join(name).display().to_string();
    program("keepalived", dir)
        .args(["-n", "-l", "-D", "-P", "-f", &file("keepalived.conf")])
        .args(["-p", &file("keepalived.pid"), "-r", &file("vrrp.pid")])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .on_our_death(process::OnOurDeath::Terminate)
        .start()
        .context("Debian's keepalived is needed: run `make deps-all`")
}

/// The one dispatcher, which answers whoever asks whether it lives.
struct Dispatcher(UdpSocket);

impl Dispatcher {
    /// The next message that is not that question.
    fn receive(&self) -> Result<String> {
        self.0.set_read_timeout(Some(SOON))?;
        let mut buffer = vec![0; 65_535];
        loop {
            let (length, from) = self.0.recv_from(&mut buffer).context("nothing comes inside")?;
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.starts_with("OPTIONS ") {
                self.0.send_to(response(&message, "200 OK").as_bytes(), from)?;
                continue;
            }
            ensure!(from == ADDRESS.into(), "{from} has sent:\n{message}");
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
        Ok(self.0.send_to(message.as_bytes(), ADDRESS).map(drop)?)
    }

    /// A request from inside along these routes.
    fn along(&self, number: u32, method: &str, to: &str, tag: &str, routes: &str) -> Result<()> {
        let here = self.0.local_addr()?;
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

fn outlives(_: &()) -> Result<()> {
    let dir = RunDir::new("takeover")?;
    for words in ["link set lo up", "link add wan type bridge", "link set wan up"] {
        ip(&dir, words)?;
    }
    for address in [PHONE, DISPATCHER] {
        ip(&dir, &format!("addr add {address}/24 dev wan"))?;
    }
    let dispatcher = Dispatcher(UdpSocket::bind((DISPATCHER, 5060))?);
    let list = dir.write("dispatcher.list", &format!("2 sip:{DISPATCHER}:5060 0 0 weight=100\n"))?;
    let settings =
        [("DISPATCHER_LIST", list.display().to_string()), ("FLOW_TOKEN_SECRET", "the same on both".to_owned())];
    let mut machines = vec![Machine::start(0, &settings)?, Machine::start(1, &settings)?];
    let logs = |machines: &[Machine]| machines.iter().map(Machine::logs).collect::<Vec<_>>().join("\n----\n");
    let who = |machines: &[Machine]| machines.iter().position(Machine::has_the_address);
    let first =
        wait::until("somebody to take the address", SOON, || who(&machines)).with_context(|| logs(&machines))?;
    // The call.
    let mut phone = Agent::udp_towards(ADDRESS, PHONE)?;
    let path = register(&mut phone, &dispatcher).with_context(|| logs(&machines))?;
    dispatcher.along(1, "INVITE", &phone.uri_of("alice"), "", &path)?;
    let invite = phone.receive_request("INVITE")?;
    phone.send(&with_lines(&response(&invite, "200 OK"), &phone.contact("alice", "")))?;
    let routes = headers(&dispatcher.answer("INVITE")?, "Record-Route").join(", ");
    let mut by_tcp = Agent::tcp_towards(ADDRESS)?;
    let old_path = register(&mut by_tcp, &dispatcher)?;
    let old_uri = by_tcp.uri_of("alice") + ";transport=tcp;ob";
    // All of its processes, at once.
    drop(machines[first].kamailio.take());
    wait::until("the other one to take the address", SOON, || {
        machines[1 - first].has_the_address() && !machines[first].has_the_address()
    })
    .with_context(|| logs(&machines))?;
    // The phone speaks, and is spoken to, inside the call.
    let hold = phone.request(
        "INVITE",
        "sip:bob@192.0.2.1",
        "alice",
        "bob",
        &[&format!("Route: {routes}, <sip:dispatcher.invalid;node={DISPATCHER}:5060;lr>")],
    );
    phone.send(&hold.replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=inside"))?;
    let arrived = dispatcher.request("INVITE").with_context(|| logs(&machines))?;
    dispatcher.send(&response(&arrived, "200 OK"))?;
    ensure!(status(&phone.final_response()?) == Some(200));
    dispatcher.along(2, "BYE", &phone.uri_of("alice"), ";tag=agent", &routes)?;
    let bye = phone.receive_request("BYE").with_context(|| logs(&machines))?;
    phone.send(&response(&bye, "200 OK"))?;
    ensure!(status(&dispatcher.answer("BYE")?) == Some(200));
    // The phone on TCP has lost its connection: nobody is told that it does not exist, and it registers again.
    dispatcher.along(3, "MESSAGE", &old_uri, "", &old_path)?;
    let answer = dispatcher.answer("MESSAGE")?;
    ensure!(status(&answer) == Some(430), "{answer}");
    let request = by_tcp.register("alice", &[]);
    ensure!(by_tcp.ask(&request).is_err(), "the connection outlived its load balancer");
    let mut again = Agent::tcp_towards(ADDRESS)?;
    let path = register(&mut again, &dispatcher)?;
    dispatcher.along(4, "MESSAGE", &again.uri_of("alice"), "", &path)?;
    let message = again.receive_request("MESSAGE")?;
    again.send(&response(&message, "200 OK"))?;
    ensure!(status(&dispatcher.answer("MESSAGE")?) == Some(200));
    Ok(())
}
