//! Peers that are trusted by their addresses, and gateways to numbers outside.

mod common;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::digest::send_authenticated;
use common::sip::{Agent, headers, response, status, with_lines};
use common::{DOMAIN, Site, enrol, phone, run};
use lab::RunDir;
use lab::kamailio::Kamailio;
use lab::net;
use lab::topology::{Role, Topology};

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob", "carol"],
        &[
            ("a_peer_needs_no_password_and_is_believed_and_a_stranger_is_not", peers),
            ("a_peer_calls_subscribers_only", no_transit),
            ("a_number_goes_to_the_gateways_of_its_longest_prefix_and_back", numbers),
            ("a_gateway_that_fails_is_followed_by_the_next_and_one_that_is_busy_is_not", failover),
            ("a_wrong_file_of_peers_or_numbers_stops_the_start", wrong_files),
        ],
    )
}

const SOON: Duration = Duration::from_secs(10);

/// A gateway: answers OPTIONS, and every INVITE with one status.
struct Gateway {
    address: SocketAddr,
    /// The requests but OPTIONS that have come.
    requests: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    fn start(answer: &'static str) -> Result<Self> {
        let socket = UdpSocket::bind((net::loopback(), 5060))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (requests, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let address = socket.local_addr()?;
        let (seen, end) = (Arc::clone(&requests), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                serve(&socket, answer, &seen);
            }
        });
        Ok(Self { address, requests, over, thread: Some(thread) })
    }

    fn line(&self, set: u32, priority: u32) -> String {
        format!("{set} sip:{} 0 {priority}\n", self.address)
    }

    /// The requests of this method so far.
    fn received(&self, method: &str) -> Vec<String> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().filter(|request| request.starts_with(method)).cloned().collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join); // a panic there has failed the test already
    }
}

/// Answers one request, if one is there.
fn serve(socket: &UdpSocket, answer: &str, seen: &Mutex<Vec<String>>) {
    let mut buffer = [0; 65_535];
    let Ok((length, from)) = socket.recv_from(&mut buffer) else { return };
    let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let status = match request.split(' ').next() {
        Some("INVITE") => answer,
        Some("ACK") => "",
        _ => "200 OK",
    };
    if !request.starts_with("OPTIONS") {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    }
    if !status.is_empty() {
        let contact = socket.local_addr().map(|here| format!("Contact: <sip:gateway@{here}>")).unwrap_or_default();
        let _ = socket.send_to(with_lines(&response(&request, status), &contact).as_bytes(), from); // like any datagram
    }
}

/// Two nodes of each role, these gateways, rules for numbers, and one peer.
struct Trunks {
    topology: Topology,
    peer: Ipv4Addr,
    _files: RunDir,
}

impl Trunks {
    fn start(site: &Site, gateways: &str) -> Result<Self> {
        let (files, peer) = (RunDir::new("trunks")?, net::loopback());
        files.write("numbers", "tprefix(string) tvalue(string)\n+49:10\n+4930:11\n")?;
        let peers = files.write("peers", &format!("1 {peer} 32 0 carrier\n"))?;
        let mut plan = site
            .roles(2)
            .env("NUMBER_RULES", format!("text://{}", files.path().display()))
            .env("PEERS_FILE", peers.display());
        plan.lines = gateways.to_owned();
        Ok(Self { topology: Topology::start(plan)?, peer, _files: files })
    }

    fn load_balancer(&self, index: usize) -> &Kamailio {
        self.topology.of(Role::LoadBalancer)[index]
    }
}

fn peers(site: &Site) -> Result<()> {
    let trunks = Trunks::start(site, "")?;
    let mut bob = Agent::udp(trunks.load_balancer(0))?;
    enrol(&mut bob, "bob")?;
    let mut peer = Agent::udp_from(trunks.load_balancer(1), trunks.peer)?;
    let asserted = "P-Asserted-Identity: <tel:+4930123>";
    // It knows the address of the load balancer, not the domain.
    for host in [DOMAIN.to_owned(), trunks.load_balancer(1).address().to_string()] {
        peer.send(&peer.request("MESSAGE", &format!("sip:bob@{host}"), "someone", "bob", &[asserted]))?;
        let arrived = bob.receive_request("MESSAGE").with_context(|| trunks.topology.logs())?;
        ensure!(headers(&arrived, "P-Asserted-Identity").len() == 1 && !arrived.contains("X-Peer"), "{arrived}");
        bob.send(&response(&arrived, "200 OK"))?;
        let answer = peer.final_response()?;
        ensure!(status(&answer) == Some(200), "{answer}");
    }
    let mut stranger = Agent::udp(trunks.load_balancer(1))?;
    let uri = format!("sip:bob@{DOMAIN}");
    let forged = [asserted, "X-Peer: carrier", "X-Gateways: 10"];
    send_authenticated(&mut stranger, "MESSAGE", &uri, "alice", "bob", &forged)?;
    let arrived = bob.receive_request("MESSAGE")?;
    for name in ["P-Asserted-Identity", "X-Peer", "X-Gateways"] {
        ensure!(headers(&arrived, name).is_empty(), "{name} has passed: {arrived}");
    }
    Ok(())
}

fn no_transit(site: &Site) -> Result<()> {
    let gateway = Gateway::start("200 OK")?;
    let trunks = Trunks::start(site, &gateway.line(10, 0))?;
    let mut peer = Agent::udp_from(trunks.load_balancer(0), trunks.peer)?;
    for (uri, expected) in [(format!("sip:+4989123@{DOMAIN}"), 404), ("sip:bob@elsewhere.example.org".to_owned(), 404)]
    {
        let answer = peer.ask(&peer.request("INVITE", &uri, "someone", "bob", &[&peer.contact("peer", "")]))?;
        ensure!(status(&answer) == Some(expected), "{uri}: {answer}\n{}", trunks.topology.logs());
    }
    ensure!(gateway.received("INVITE").is_empty());
    Ok(())
}

/// A call of alice to this number.
fn dial(trunks: &Trunks, number: &str) -> lab::sipp::Sipp {
    phone(trunks.load_balancer(0), "uac_invite_auth.xml", "alice").key("callee", format!("{number}@{DOMAIN}"))
}

fn numbers(site: &Site) -> Result<()> {
    let (country, city) = (Gateway::start("200 OK")?, Gateway::start("200 OK")?);
    let trunks = Trunks::start(site, &(country.line(10, 0) + &city.line(11, 0)))?;
    for (gateway, number) in [(&country, "+4989123"), (&city, "+4930123")] {
        run(trunks.load_balancer(0), dial(&trunks, number)).with_context(|| trunks.topology.logs())?;
        lab::wait::until("the end of the call at the gateway", SOON, || gateway.received("BYE").len() == 1)?;
        let [invite] = gateway.received("INVITE").try_into().ok().context("one INVITE")?;
        ensure!(invite.starts_with(&format!("INVITE sip:{number}@{} SIP/2.0", gateway.address)), "{invite}");
        for name in ["X-Gateways", "X-Call", "Proxy-Authorization"] {
            ensure!(headers(&invite, name).is_empty(), "{name} has passed: {invite}");
        }
        ensure!(gateway.received("ACK").len() == 1);
    }
    let history = site.sipctl(&["--json", "history", &format!("alice@{DOMAIN}")], "")?;
    ensure!(history.contains("+4989123") && history.contains("+4930123"), "{history}");
    Ok(())
}

fn failover(site: &Site) -> Result<()> {
    let silent = UdpSocket::bind((net::loopback(), 5060))?;
    let (broken, good) = (Gateway::start("503 Service Unavailable")?, Gateway::start("200 OK")?);
    let busy = Gateway::start("486 Busy Here")?;
    let lines = [
        format!("10 sip:{} 0 9\n", silent.local_addr()?),
        broken.line(10, 5),
        good.line(10, 1),
        busy.line(11, 9),
        good.line(11, 1),
    ];
    let trunks = Trunks::start(site, &lines.concat())?;
    run(trunks.load_balancer(0), dial(&trunks, "+4989123")).with_context(|| trunks.topology.logs())?;
    ensure!(broken.received("INVITE").len() == 1 && good.received("INVITE").len() == 1);
    let call = |number: &str| -> Result<String> {
        let mut caller = Agent::udp(trunks.load_balancer(1))?;
        let (uri, here) = (format!("sip:{number}@{DOMAIN}"), caller.contact("alice", ""));
        send_authenticated(&mut caller, "INVITE", &uri, "alice", "other", &[&here])?;
        caller.final_response()
    };
    let answer = call("+4930123")?;
    ensure!(status(&answer) == Some(486) && good.received("INVITE").len() == 1, "{answer}");
    drop(good);
    let answer = call("+4989123")?;
    ensure!(status(&answer) == Some(500), "{answer}");
    ensure!(broken.received("INVITE").len() == 2, "gateways were tried again through another load balancer");
    Ok(())
}

fn wrong_files(site: &Site) -> Result<()> {
    for (role, setting, value) in
        [("load-balancer", "PEERS_FILE", "/nowhere/at/all"), ("dispatcher", "NUMBER_RULES", "/nowhere/at/all")]
    {
        let files = RunDir::new("trunks")?;
        let list = files.write("dispatcher.list", &format!("2 sip:{}:5060\n", net::loopback()))?;
        let config = site
            .script(&format!("kamailio-cfg/{role}.cfg"))
            .env("NONCE_SECRET", "any")
            .env("FLOW_TOKEN_SECRET", "any")
            .env("DISPATCHER_LIST", list.display())
            .env(setting, value);
        let log = Kamailio::start_expecting_failure(config)?;
        ensure!(log.contains("/nowhere"), "{role} with a wrong {setting}:\n{log}");
    }
    Ok(())
}
