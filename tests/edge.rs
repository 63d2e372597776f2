//! The load balancer towards phones: transports, flows, what it believes and what it refuses.

mod common;
#[path = "common/secure.rs"]
mod secure;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use common::digest::credentials;
use common::phone::{media_of, with_sdp};
use common::sip::{Agent, ack, headers, register, response, status, with_lines};
use common::{DOMAIN, PASSWORD, Site, phone};
use lab::baresip::{Account, Baresip};
use lab::kamailio::{Config, Kamailio};
use lab::process::Spawn;
use lab::rtpengine::Rtpengine;
use lab::tls::{Authority, TlsFiles};
use lab::topology::{Role, Topology};
use lab::{RunDir, net, process, wait, workspace};

fn main() -> ExitCode {
    lab::suite::run(
        || Ok(Platform::new()),
        &[
            ("a_phone_is_reached_along_its_flow_by_every_transport", every_transport),
            ("a_token_that_is_forged_or_missing_leads_nowhere", forged),
            ("a_flow_that_is_gone_is_answered_430", gone),
            ("a_tcp_phone_without_flows_is_called_at_its_address", called_at_its_address),
            ("a_phone_that_comes_over_another_connection_stays_in_its_call", moved),
            ("another_load_balancer_at_the_same_address_understands_the_tokens", taken_over),
            ("a_refusal_is_acknowledged_along_a_preset_route", acknowledged),
            ("a_page_of_another_origin_is_no_phone", origins),
            ("a_missing_certificate_stops_the_start_and_is_named", missing),
            ("who_sends_too_much_gets_no_answer_and_others_do", too_much),
            ("scanners_and_broken_messages_get_nowhere", scanners),
            ("media_of_a_phone_behind_nat_is_relayed", nated_media),
            ("media_of_a_browser_is_plain_inside", browsers_media),
            ("without_a_media_relay_a_browser_is_refused_and_a_phone_is_not", no_relay),
            ("baresip_registers_and_calls_by_udp_tcp_and_tls", baresip),
            ("a_phone_in_a_browser_registers_and_is_called_through_the_whole_topology", browser_called),
            ("sipsak_is_answered", sipsak),
        ],
    )
}

const BALANCER: &str = "kamailio-cfg/load-balancer.cfg";
const INTERNAL: [&str; 4] = ["X-Call: forged", "X-Source: 192.0.2.66", "X-Backend: unavailable", "X-Gateways: 10"];
const SOON: Duration = Duration::from_secs(10);
const ORIGIN: &str = "https://phone.example.com";

/// Cassandra with subscribers, for the tests that need it.
type Platform = OnceLock<Site>;

/// Two nodes of each role; the load balancers take phones by all transports.
fn whole_topology(platform: &Platform, dir: &RunDir) -> Result<(Topology, TlsFiles)> {
    if platform.get().is_none() {
        let _ = platform.set(Site::start(1, &["alice", "bob"])?);
    }
    let mut plan = platform.get().context("no site")?.roles(2);
    let addresses: Vec<_> = plan.of(Role::LoadBalancer).map(|node| node.address).collect();
    let tls = Authority::new(dir.path(), "edge")?.issue("edge", &addresses)?;
    for node in plan.of(Role::LoadBalancer) {
        node.env.extend(transports(node.address, &tls));
    }
    Ok((Topology::start(plan)?, tls))
}

/// A load balancer by all transports; the test is its only dispatcher.
struct Edge {
    balancer: Kamailio,
    dispatcher: Agent,
    tls: TlsFiles,
    dir: RunDir,
}

impl Edge {
    fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let dir = RunDir::new("edge")?;
        let (mut config, tls) = config(&dir)?;
        let dispatcher = Agent::udp_towards(SocketAddrV4::new(config.address, config.port), net::loopback())?;
        let list = dir.write("dispatcher.list", &format!("2 sip:{} 0 0 weight=100\n", dispatcher.here()))?;
        config = config.env("DISPATCHER_LIST", list.display());
        for (name, value) in settings {
            config = config.env(name, value);
        }
        Ok(Self { balancer: Kamailio::start(config)?, dispatcher, tls, dir })
    }

    /// A port of the load balancer beside its first.
    fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(*self.balancer.address().ip(), port)
    }

    /// What comes to the dispatcher and is not the question whether it lives.
    fn inside(&mut self, method: &str) -> Result<String> {
        loop {
            let message = self.dispatcher.receive().with_context(|| self.balancer.log())?;
            if message.starts_with("OPTIONS ") {
                self.dispatcher.send(&response(&message, "200 OK"))?;
            } else if message.starts_with(&format!("{method} ")) {
                return Ok(message);
            } else {
                bail!("not {method}: {message}\n{}", self.balancer.log());
            }
        }
    }

    /// What the dispatcher is answered at last.
    fn answer_inside(&mut self) -> Result<String> {
        loop {
            let message = self.dispatcher.receive().with_context(|| self.balancer.log())?;
            match status(&message) {
                Some(200..) => return Ok(message),
                Some(_) => {}
                None => self.dispatcher.send(&response(&message, "200 OK"))?,
            }
        }
    }

    /// The Path that a phone's REGISTER has inside.
    fn register(&mut self, phone: &mut Agent, contact: &str) -> Result<String> {
        phone.send(&phone.register("alice", &[&[contact], &INTERNAL[..]].concat()))?;
        let arrived = self.inside("REGISTER")?;
        ensure!(headers(&arrived, "X-Source") == [phone.here().ip().to_string()], "{arrived}");
        ensure!(
            ["X-Call", "X-Backend", "X-Gateways"].iter().all(|name| headers(&arrived, name).is_empty()),
            "{arrived}"
        );
        self.dispatcher.send(&with_lines(&response(&arrived, "200 OK"), &INTERNAL.join("\r\n")))?;
        let answer = phone.final_response()?;
        ensure!(status(&answer) == Some(200) && !answer.contains("\r\nX-"), "{answer}");
        let path = headers(&arrived, "Path");
        Ok((*path.first().with_context(|| format!("no Path: {arrived}"))?).to_owned())
    }

    /// A request from inside with this Route, to a contact.
    fn send_inside(&mut self, method: &str, uri: &str, route: &str) -> Result<String> {
        let lines = [format!("Route: {route}"), format!("Contact: <{}>", self.dispatcher.uri_of("inside"))];
        let lines: Vec<&str> = lines.iter().map(String::as_str).chain(INTERNAL).collect();
        let request = self.dispatcher.request(method, uri, "bob", "alice", &lines);
        self.dispatcher.send(&request)?;
        Ok(request)
    }

    /// What the dispatcher is answered to a request with this Route.
    fn ask_inside(&mut self, method: &str, uri: &str, route: &str) -> Result<String> {
        self.send_inside(method, uri, route)?;
        self.answer_inside()
    }
}

/// A load balancer's settings and certificate.
fn config(dir: &RunDir) -> Result<(Config, TlsFiles)> {
    let config = Config::new(workspace().root().join(BALANCER));
    let address = config.address;
    let tls = Authority::new(dir.path(), "edge")?.issue("edge", &[address])?;
    let mut config = config.env("SIP_DOMAIN", DOMAIN).env("FLOW_TOKEN_SECRET", "the same for all");
    config.env.extend(transports(address, &tls));
    Ok((config, tls))
}

/// Settings for all transports.
fn transports(address: Ipv4Addr, tls: &TlsFiles) -> [(String, String); 5] {
    [
        ("TLS_ADDR", format!("{address}:5061")),
        ("WS_ADDR", format!("{address}:8080")),
        ("WSS_ADDR", format!("{address}:8443")),
        ("TLS_CERTIFICATE", tls.cert_pem.display().to_string()),
        ("TLS_KEY", tls.key_pem.display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

/// A Contact that nobody outside of the phone's own network can reach, as those of most phones.
fn behind_nat(user: &str, transport: &str) -> (String, String) {
    let uri = format!("sip:{user}@192.168.77.7:5060;transport={}", transport.to_lowercase().replace("wss", "ws"));
    (format!("Contact: <{uri}>"), uri)
}

/// A request of a phone inside the dialog of `invite`, which it has answered; the other side is `to`.
fn from_called(phone: &Agent, invite: &str, method: &str) -> String {
    let routes = headers(invite, "Record-Route").join(", ");
    let request = phone.request(method, "sip:inside@192.0.2.1", "alice", "bob", &[&format!("Route: {routes}")]);
    request.replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=inside")
}

/// A request of the dispatcher inside a dialog, to `uri` along these routes.
fn within(edge: &Edge, method: &str, uri: &str, routes: &[&str]) -> String {
    let route = format!("Route: {}", routes.join(", "));
    let request = edge.dispatcher.request(method, uri, "bob", "alice", &[&route]);
    request.replace("To: <sip:alice@example.com>", "To: <sip:alice@example.com>;tag=agent")
}

fn every_transport(_: &Platform) -> Result<()> {
    let mut edge = Edge::start(&[])?;
    let ca = edge.tls.ca_pem.clone();
    let phones = [
        Agent::udp(&edge.balancer)?,
        Agent::tcp(&edge.balancer)?,
        secure::tls(edge.at(5061), &ca)?,
        secure::websocket(edge.at(8080), ORIGIN)?,
        secure::secure_websocket(edge.at(8443), &ca, ORIGIN)?,
    ];
    for mut phone in phones {
        let transport = phone.transport();
        reached(&mut edge, &mut phone).with_context(|| format!("{transport}\n{}", edge.balancer.log()))?;
    }
    Ok(())
}

/// Registers a phone behind NAT, calls it from inside, and speaks both ways inside the dialog.
fn reached(edge: &mut Edge, phone: &mut Agent) -> Result<()> {
    let (contact, uri) = behind_nat("alice", phone.transport());
    let path = edge.register(phone, &contact)?;
    edge.send_inside("INVITE", &uri, &path)?;
    let invite = phone.receive_request("INVITE")?;
    ensure!(invite.starts_with(&format!("INVITE {uri} ")), "{invite}");
    ensure!(headers(&invite, "Route").is_empty() && !invite.contains("\r\nX-"), "{invite}");
    let answer = with_lines(&response(&invite, "200 OK"), &[&[contact.as_str()], &INTERNAL[..]].concat().join("\r\n"));
    phone.send(&answer)?;
    let answer = edge.answer_inside()?;
    ensure!(status(&answer) == Some(200) && !answer.contains("\r\nX-"), "{answer}");
    // The other side sees the routes in the other order.
    let mut routes = headers(&answer, "Record-Route");
    routes.reverse();
    let contact = headers(&answer, "Contact")[0].trim_matches(['<', '>']).to_owned();
    let bye = within(edge, "INFO", &contact, &routes);
    edge.dispatcher.send(&bye)?;
    let arrived = phone.receive_request("INFO")?;
    ensure!(arrived.starts_with(&format!("INFO {uri} ")), "the alias is not the phone's: {arrived}");
    phone.send(&response(&arrived, "200 OK"))?;
    ensure!(status(&edge.answer_inside()?) == Some(200));
    // A dispatcher stays in the dialog, too.
    let node = edge.dispatcher.here();
    let invite = with_lines(&invite, &format!("Record-Route: <sip:dispatcher.invalid;node={node};lr>"));
    phone.send(&from_called(phone, &invite, "BYE"))?;
    let arrived = edge.inside("BYE")?;
    ensure!(headers(&arrived, "X-Source") == [phone.here().ip().to_string()], "{arrived}");
    edge.dispatcher.send(&response(&arrived, "200 OK"))?;
    ensure!(status(&phone.final_response()?) == Some(200));
    Ok(())
}

fn forged(_: &Platform) -> Result<()> {
    let mut edge = Edge::start(&[])?;
    let mut phone = Agent::udp(&edge.balancer)?;
    let contact = phone.contact("alice", "");
    let path = edge.register(&mut phone, &contact)?;
    let own = edge.balancer.address();
    let elsewhere = path.replace(&format!("~{}~", phone.here().port()), "~9~");
    let forged = path.replacen("mac=", "mac=0", 1);
    ensure!(elsewhere != path && forged != path, "{path}");
    for route in [elsewhere, forged, format!("<sip:{own};lr>"), format!("<sip:{own};lr;received=sip:{}>", phone.here())]
    {
        let answer = edge.ask_inside("MESSAGE", &phone.uri_of("alice"), &route)?;
        ensure!(status(&answer) == Some(403), "{route}: {answer}");
        let request = within(&edge, "BYE", &phone.uri_of("alice"), &[&route]);
        edge.dispatcher.send(&request)?;
        let answer = edge.answer_inside()?;
        ensure!(status(&answer) == Some(403), "inside a dialog, {route}: {answer}");
    }
    let nothing = phone.receive_within(Duration::from_millis(300))?;
    ensure!(nothing.is_none(), "{nothing:?}");
    Ok(())
}

/// Waits until the load balancer has no connection to there any more.
fn until_closed(edge: &Edge, phone: SocketAddr) -> Result<()> {
    let listed = || edge.balancer.rpc("core.tcp_list", serde_json::json!([])).map(|list| list.to_string());
    let port = format!("\"src_port\":{}", phone.port());
    wait::until("the end of the connection", SOON, || listed().is_ok_and(|list| !list.contains(&port)))
        .with_context(|| format!("{:?}", listed()))
        .map(drop)
}

fn gone(_: &Platform) -> Result<()> {
    let mut edge = Edge::start(&[])?;
    let outbound = ";reg-id=1;+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>\"";
    let ca = edge.tls.ca_pem.clone();
    for (mut phone, parameters, nat) in [
        // It has further flows.
        (Agent::tcp(&edge.balancer)?, outbound, false),
        // Nobody gets through to it.
        (Agent::tcp(&edge.balancer)?, "", true),
        (secure::tls(edge.at(5061), &ca)?, "", true),
        (secure::websocket(edge.at(8080), ORIGIN)?, "", false),
    ] {
        let (contact, uri) = if nat {
            behind_nat("alice", phone.transport())
        } else {
            (phone.contact("alice", ""), phone.uri_of("alice") + ";transport=tcp")
        };
        let path = edge.register(&mut phone, &(contact + parameters))?;
        let here = phone.here();
        drop(phone);
        until_closed(&edge, here)?;
        let answer = edge.ask_inside("MESSAGE", &uri, &path)?;
        ensure!(status(&answer) == Some(430) && answer.contains("430 Flow Failed"), "{uri}: {answer}");
    }
    Ok(())
}

fn called_at_its_address(_: &Platform) -> Result<()> {
    let mut edge = Edge::start(&[])?;
    let mut phone = Agent::tcp(&edge.balancer)?;
    let listener = TcpListener::bind((phone.here().ip(), 0))?;
    let uri = format!("sip:alice@{};transport=tcp", listener.local_addr()?);
    let path = edge.register(&mut phone, &format!("Contact: <{uri}>"))?;
    let here = phone.here();
    drop(phone);
    until_closed(&edge, here)?;
    edge.send_inside("MESSAGE", &uri, &path)?;
    let (stream, from) = listener.accept()?;
    let mut phone = Agent::over_stream(from, stream, "TCP");
    let message = phone.receive_request("MESSAGE")?;
    phone.send(&response(&message, "200 OK"))?;
    let answer = edge.answer_inside()?;
    ensure!(status(&answer) == Some(200), "{answer}");
    Ok(())
}

/// A dialog that the dispatcher has begun: the phone's INVITE, the routes as the dispatcher sees them, the phone's contact.
fn dialog(edge: &mut Edge, phone: &mut Agent) -> Result<(String, Vec<String>)> {
    let (contact, uri) = behind_nat("alice", phone.transport());
    let path = edge.register(phone, &contact)?;
    edge.send_inside("INVITE", &uri, &path)?;
    let invite = phone.receive_request("INVITE")?;
    phone.send(&with_lines(&response(&invite, "200 OK"), &contact))?;
    let answer = edge.answer_inside()?;
    let routes = headers(&answer, "Record-Route").into_iter().rev().map(str::to_owned).collect();
    let node = edge.dispatcher.here();
    Ok((with_lines(&invite, &format!("Record-Route: <sip:dispatcher.invalid;node={node};lr>")), routes))
}

fn moved(_: &Platform) -> Result<()> {
    let mut edge = Edge::start(&[])?;
    let address = net::loopback();
    let mut phone = Agent::udp_from(&edge.balancer, address)?;
    let (invite, routes) = dialog(&mut edge, &mut phone)?;
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    // Its NAT forgot it. Its next request comes from another port, and goes inside all the same.
    let mut again = Agent::udp_from(&edge.balancer, address)?;
    let (contact, uri) = behind_nat("alice", again.transport());
    let request = with_lines(&from_called(&again, &invite, "UPDATE"), &contact);
    again.send(&request)?;
    let arrived = edge.inside("UPDATE")?;
    edge.dispatcher.send(&response(&arrived, "200 OK"))?;
    ensure!(status(&again.final_response()?) == Some(200));
    // The other side has learnt the new contact, and reaches the phone there.
    let learnt = headers(&arrived, "Contact")[0].trim_matches(['<', '>']).to_owned();
    ensure!(learnt.contains(";alias="), "{arrived}");
    let request = within(&edge, "INFO", &learnt, &routes);
    edge.dispatcher.send(&request)?;
    let message = again.receive_request("INFO").with_context(|| edge.balancer.log())?;
    ensure!(message.starts_with(&format!("INFO {uri} ")), "{message}");
    again.send(&response(&message, "200 OK"))?;
    ensure!(status(&edge.answer_inside()?) == Some(200));
    // Who is in a dialog can send nothing to somebody else.
    let mut victim = Agent::udp(&edge.balancer)?;
    let stranger = format!("sip:alice@192.168.77.7;alias={}~{}~1", victim.here().ip(), victim.here().port());
    let request = within(&edge, "BYE", &stranger, &routes);
    edge.dispatcher.send(&request)?;
    let message = phone.receive_request("BYE")?;
    ensure!(message.starts_with("BYE sip:alice@192.168.77.7 "), "{message}");
    ensure!(victim.receive_within(Duration::from_millis(100))?.is_none());
    Ok(())
}

fn taken_over(_: &Platform) -> Result<()> {
    let mut edge = Edge::start(&[])?;
    let mut phone = Agent::udp(&edge.balancer)?;
    let (_, routes) = dialog(&mut edge, &mut phone)?;
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    let address = *edge.balancer.address().ip();
    for (secret, expected) in [("the same for all", 200), ("another", 403)] {
        edge.balancer.stop()?;
        let mut config = config(&edge.dir)?.0.env("DISPATCHER_LIST", edge.dir.join("dispatcher.list").display());
        config.address = address;
        for (name, value) in &mut config.env {
            if name == "FLOW_TOKEN_SECRET" {
                *value = secret.to_owned();
            } else if ["TLS_ADDR", "WS_ADDR", "WSS_ADDR"].contains(&name.as_str()) {
                let port = value.rsplit(':').next().unwrap_or_default();
                *value = format!("{address}:{port}");
            }
        }
        edge.balancer = Kamailio::start(config)?;
        let request = within(&edge, "INFO", "sip:alice@192.168.77.7", &routes);
        edge.dispatcher.send(&request)?;
        if expected == 200 {
            let message = phone.receive_request("INFO")?;
            phone.send(&response(&message, "200 OK"))?;
        }
        let answer = edge.answer_inside()?;
        ensure!(status(&answer) == Some(expected), "{answer}");
    }
    Ok(())
}

fn acknowledged(_: &Platform) -> Result<()> {
    let mut edge = Edge::start(&[])?;
    let mut phone = Agent::udp(&edge.balancer)?;
    // As phones with an outbound proxy send.
    let route = format!("Route: <sip:{};lr>", edge.balancer.address());
    let invite = phone.request("INVITE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &[&route]);
    phone.send(&invite)?;
    let arrived = edge.inside("INVITE")?;
    edge.dispatcher.send(&response(&arrived, "486 Busy Here"))?;
    let refusal = phone.final_response()?;
    phone.send(&with_lines(&ack(&invite, &refusal), &route))?;
    edge.inside("ACK")?;
    // Of several that are sent one after the other within a second.
    let again = phone.receive_within(Duration::from_millis(1500))?;
    ensure!(again.is_none(), "the refusal comes again: {again:?}");
    Ok(())
}

fn origins(_: &Platform) -> Result<()> {
    let edge = Edge::start(&[("WS_ORIGINS", "https://other.example.com,https://phone.example.com")])?;
    secure::websocket(edge.at(8080), ORIGIN)?;
    for (port, origin) in [(8080, "https://evil.example.com"), (8080, ""), (5060, ORIGIN)] {
        let refused = secure::websocket(edge.at(port), origin);
        ensure!(refused.is_err(), "{origin} at {port} is a phone");
    }
    Ok(())
}

fn missing(_: &Platform) -> Result<()> {
    for (setting, sentence) in [
        ("TLS_CERTIFICATE", "env variable not defined [TLS_CERTIFICATE]"),
        ("TLS_KEY", "env variable not defined [TLS_KEY]"),
        ("FLOW_TOKEN_SECRET", "env variable not defined [FLOW_TOKEN_SECRET]"),
    ] {
        let dir = RunDir::new("edge")?;
        let (mut config, _) = config(&dir)?;
        config.env.retain(|(name, _)| name != setting);
        let log = Kamailio::start_expecting_failure(config)?;
        ensure!(log.contains(sentence), "without {setting}:\n{log}");
    }
    Ok(())
}

/// Whether anything is answered to an OPTIONS with this line.
fn is_answered(edge: &Edge, agent: &mut Agent, line: &str) -> Result<bool> {
    agent.send(&agent.request("OPTIONS", &format!("sip:{}", edge.balancer.address()), "a", "b", &[line]))?;
    let answer = agent.receive_within(Duration::from_secs(1))?;
    Ok(answer.is_some_and(|answer| status(&answer) == Some(200)))
}

fn too_much(_: &Platform) -> Result<()> {
    let edge = Edge::start(&[("REQUESTS_PER_SOURCE", "20")])?;
    let (mut flooder, mut other) = (Agent::udp(&edge.balancer)?, Agent::udp(&edge.balancer)?);
    let options = |agent: &Agent| agent.request("OPTIONS", &format!("sip:{}", edge.balancer.address()), "a", "b", &[]);
    for _ in 0..300 {
        flooder.send(&options(&flooder))?;
    }
    let mut answers = 0;
    while flooder.receive_within(Duration::from_secs(1))?.is_some() {
        answers += 1;
    }
    ensure!((1..150).contains(&answers), "{answers} of 300 requests were answered");
    ensure!(!is_answered(&edge, &mut flooder, "Subject: again")?, "the flooder is answered");
    ensure!(is_answered(&edge, &mut other, "Subject: a phone")?, "a phone is not answered\n{}", edge.balancer.log());
    Ok(())
}

fn scanners(_: &Platform) -> Result<()> {
    let mut edge = Edge::start(&[])?;
    let mut phone = Agent::udp(&edge.balancer)?;
    for line in ["User-Agent: friendly-scanner", "User-Agent: sipvicious/0.3"] {
        ensure!(!is_answered(&edge, &mut phone, line)?, "{line} is answered");
    }
    ensure!(is_answered(&edge, &mut phone, "User-Agent: a phone")?);
    let sound = phone.request("MESSAGE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &[]);
    for broken in [
        sound.replace("Content-Length: 0", "Content-Length: 77"),
        sound.replace("CSeq: ", "CSeq: 9 PUBLISH\r\nX: "),
        sound.replace("sip:bob@example.com SIP", "sip:bob@example.com:999999 SIP"),
    ] {
        phone.send(&broken)?;
        if let Some(answer) = phone.receive_within(Duration::from_millis(300))? {
            ensure!(matches!(status(&answer), Some(400..500)), "{broken}\n{answer}");
        }
    }
    // Nothing of that went on, and what is sound does.
    phone.send(&phone.request("MESSAGE", &format!("sip:bob@{DOMAIN}"), "alice", "carol", &[]))?;
    let arrived = edge.inside("MESSAGE")?;
    ensure!(arrived.contains("<sip:carol@"), "{arrived}");
    Ok(())
}

/// An SDP with media at this address.
fn sdp(media: SocketAddr, protocol: &str, lines: &[&str]) -> String {
    let (ip, port) = (media.ip(), media.port());
    let mut all = vec![
        "v=0".to_owned(),
        format!("o=- 1 1 IN IP4 {ip}"),
        "s=-".to_owned(),
        format!("c=IN IP4 {ip}"),
        "t=0 0".to_owned(),
        format!("m=audio {port} {protocol} 8"),
        "a=rtpmap:8 PCMA/8000".to_owned(),
    ];
    all.extend(lines.iter().map(|line| (*line).to_owned()));
    all.join("\r\n") + "\r\n"
}

/// A packet of RTP, and whether it comes out elsewhere. rtpengine learns addresses from what it gets, so more than one is sent.
fn passes(from: &UdpSocket, to: SocketAddr, at: &UdpSocket) -> Result<()> {
    at.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut number = 0_u8;
    wait::until(&format!("RTP through {to}"), SOON, || {
        number = number.wrapping_add(1);
        let mut packet = vec![0x80, 8, 0, number, 0, 0, 0, number, 0, 0, 0, 7];
        packet.extend([0x55; 160]);
        let sent = from.send_to(&packet, to);
        let mut buffer = [0; 2048];
        sent.is_ok() && at.recv(&mut buffer).is_ok_and(|length| length == packet.len() && buffer[12] == 0x55)
    })
    .map(drop)
}

/// Two media sockets, that of a phone and that of whom it talks to.
fn media_sockets() -> Result<[UdpSocket; 2]> {
    Ok([UdpSocket::bind((net::loopback(), 0))?, UdpSocket::bind((net::loopback(), 0))?])
}

fn nated_media(_: &Platform) -> Result<()> {
    let engine = Rtpengine::start()?;
    let mut edge = Edge::start(&[("RTPENGINE", &engine.control())])?;
    let mut phone = Agent::udp(&edge.balancer)?;
    let [at_phone, inside] = media_sockets()?;
    let hidden = SocketAddr::new("192.168.77.7".parse()?, at_phone.local_addr()?.port());
    let (contact, uri) = behind_nat("alice", phone.transport());
    // It calls.
    let invite = with_sdp(
        &phone.request("INVITE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &[&contact]),
        &sdp(hidden, "RTP/AVP", &[]),
    );
    let call_id = headers(&invite, "Call-ID")[0].to_owned();
    phone.send(&invite)?;
    let arrived = edge.inside("INVITE")?;
    let towards_phone = media_of(&arrived)?;
    ensure!(towards_phone.ip() == engine.media(), "{arrived}\n{}", engine.log());
    ensure!(engine.has_call(&call_id)?);
    let contact_inside = format!("Contact: <{}>", edge.dispatcher.uri_of("inside"));
    let answer = with_lines(&response(&arrived, "200 OK"), &contact_inside);
    edge.dispatcher.send(&with_sdp(&answer, &sdp(inside.local_addr()?, "RTP/AVP", &[])))?;
    let answer = phone.final_response()?;
    let towards_inside = media_of(&answer)?;
    ensure!(towards_inside.ip() == engine.media(), "{answer}");
    passes(&at_phone, towards_inside, &inside)?;
    passes(&inside, towards_phone, &at_phone)?;
    // Inside, the dialog is known by the routes.
    let node = edge.dispatcher.here();
    let routes = headers(&answer, "Record-Route").join(", ");
    let routes = format!("Route: {routes}, <sip:dispatcher.invalid;node={node};lr>");
    let within = |phone: &Agent, method: &str| {
        let request = phone.request(method, "sip:inside@192.0.2.1", "alice", "bob", &[&routes, &contact]);
        let request = request.replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=agent");
        let from = headers(&invite, "From")[0].to_owned();
        let (old_from, old_id) = (headers(&request, "From")[0].to_owned(), headers(&request, "Call-ID")[0].to_owned());
        request.replace(&old_from, &from).replace(&old_id, &call_id)
    };
    phone.send(&with_sdp(&within(&phone, "INVITE"), &sdp(hidden, "RTP/AVP", &["a=sendonly"])))?;
    let arrived = edge.inside("INVITE")?;
    ensure!(media_of(&arrived)?.ip() == engine.media(), "{arrived}");
    edge.dispatcher.send(&with_sdp(&response(&arrived, "200 OK"), &sdp(inside.local_addr()?, "RTP/AVP", &[])))?;
    ensure!(media_of(&phone.final_response()?)?.ip() == engine.media());
    phone.send(&within(&phone, "BYE"))?;
    let arrived = edge.inside("BYE")?;
    edge.dispatcher.send(&response(&arrived, "200 OK"))?;
    ensure!(status(&phone.final_response()?) == Some(200));
    wait::until("the end of the relaying", SOON, || engine.has_call(&call_id).is_ok_and(|has| !has))?;
    // It is called.
    let path = edge.register(&mut phone, &contact)?;
    let route = format!("Route: {path}");
    let invite = edge.dispatcher.request("INVITE", &uri, "bob", "alice", &[&route, &contact_inside]);
    edge.dispatcher.send(&with_sdp(&invite, &sdp(inside.local_addr()?, "RTP/AVP", &[])))?;
    let arrived = phone.receive_request("INVITE")?;
    let towards_inside = media_of(&arrived)?;
    ensure!(towards_inside.ip() == engine.media(), "{arrived}");
    phone.send(&with_sdp(&with_lines(&response(&arrived, "200 OK"), &contact), &sdp(hidden, "RTP/AVP", &[])))?;
    let towards_phone = media_of(&edge.answer_inside()?)?;
    passes(&at_phone, towards_inside, &inside)?;
    passes(&inside, towards_phone, &at_phone)?;
    // Who can be reached needs no relay.
    let mut open = Agent::udp(&edge.balancer)?;
    let contact = open.contact("carol", "");
    let invite = open.request("INVITE", &format!("sip:bob@{DOMAIN}"), "carol", "bob", &[&contact]);
    open.send(&with_sdp(&invite, &sdp(at_phone.local_addr()?, "RTP/AVP", &[])))?;
    let arrived = edge.inside("INVITE")?;
    ensure!(media_of(&arrived)? == at_phone.local_addr()?, "{arrived}");
    Ok(())
}

/// What a browser offers.
fn browsers_offer(media: SocketAddr) -> String {
    let fingerprint = format!("a=fingerprint:sha-256 {}", vec!["AB"; 32].join(":"));
    let candidate = format!("a=candidate:1 1 udp 2130706431 {} {} typ host", media.ip(), media.port());
    let lines = [
        "a=ice-ufrag:abcd",
        "a=ice-pwd:0123456789abcdef01234567",
        &fingerprint,
        "a=setup:actpass",
        "a=mid:0",
        "a=rtcp-mux",
        &candidate,
    ];
    sdp(media, "UDP/TLS/RTP/SAVPF", &lines)
}

fn browsers_media(_: &Platform) -> Result<()> {
    let engine = Rtpengine::start()?;
    let mut edge = Edge::start(&[("RTPENGINE", &engine.control())])?;
    let mut phone = secure::websocket(edge.at(8080), ORIGIN)?;
    let [at_phone, inside] = media_sockets()?;
    let (contact, uri) = behind_nat("alice", phone.transport());
    let offer = browsers_offer(at_phone.local_addr()?);
    let invite = phone.request("INVITE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &[&contact]);
    phone.send(&with_sdp(&invite, &offer))?;
    let arrived = edge.inside("INVITE")?;
    ensure!(
        media_of(&arrived)?.ip() == engine.media() && arrived.contains(" RTP/AVP 8"),
        "{arrived}\n{}",
        engine.log()
    );
    ensure!(["a=ice-", "a=fingerprint", "a=candidate"].iter().all(|line| !arrived.contains(line)), "{arrived}");
    let contact_inside = format!("Contact: <{}>", edge.dispatcher.uri_of("inside"));
    let plain = sdp(inside.local_addr()?, "RTP/AVP", &[]);
    edge.dispatcher.send(&with_sdp(&with_lines(&response(&arrived, "200 OK"), &contact_inside), &plain))?;
    let is_a_browsers = |message: &str| {
        ["RTP/SAVPF 8", "a=ice-ufrag", "a=fingerprint:", "a=rtcp-mux", "a=candidate"]
            .iter()
            .all(|part| message.contains(part))
    };
    let answer = phone.final_response()?;
    ensure!(is_a_browsers(&answer), "{answer}");
    // And the other way.
    let path = edge.register(&mut phone, &contact)?;
    let route = format!("Route: {path}");
    let invite = edge.dispatcher.request("INVITE", &uri, "bob", "alice", &[&route, &contact_inside]);
    edge.dispatcher.send(&with_sdp(&invite, &plain))?;
    let arrived = phone.receive_request("INVITE")?;
    ensure!(is_a_browsers(&arrived), "{arrived}");
    let answer = offer.replace("a=setup:actpass", "a=setup:active");
    phone.send(&with_sdp(&with_lines(&response(&arrived, "200 OK"), &contact), &answer))?;
    let answer = edge.answer_inside()?;
    ensure!(answer.contains(" RTP/AVP 8") && !answer.contains("a=fingerprint"), "{answer}");
    Ok(())
}

fn no_relay(_: &Platform) -> Result<()> {
    // Nobody is there.
    let control = format!("udp:{}:2223", net::loopback());
    let mut edge = Edge::start(&[("RTPENGINE", &control)])?;
    let [media, _] = media_sockets()?;
    let mut browser = secure::websocket(edge.at(8080), ORIGIN)?;
    let (contact, _) = behind_nat("alice", "WS");
    let invite = browser.request("INVITE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &[&contact]);
    browser.send(&with_sdp(&invite, &browsers_offer(media.local_addr()?)))?;
    let answer = browser.final_response()?;
    ensure!(status(&answer) == Some(503) && headers(&answer, "Retry-After").len() == 1, "{answer}");
    let mut phone = Agent::udp(&edge.balancer)?;
    let invite = phone.request("INVITE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &[&contact]);
    phone.send(&with_sdp(&invite, &sdp(media.local_addr()?, "RTP/AVP", &[])))?;
    let arrived = edge.inside("INVITE")?;
    ensure!(media_of(&arrived)? == media.local_addr()?, "{arrived}");
    Ok(())
}

fn baresip(platform: &Platform) -> Result<()> {
    let dir = RunDir::new("edge")?;
    let (topology, _) = whole_topology(platform, &dir)?;
    for (transport, port) in [("udp", 5060), ("tcp", 5060), ("tls", 5061)] {
        let account = |user: &str, node: usize| Account {
            aor: format!("{user}@{DOMAIN}"),
            password: PASSWORD.to_owned(),
            proxy: SocketAddrV4::new(*topology.of(Role::LoadBalancer)[node].address().ip(), port),
            transport,
        };
        let callee = Baresip::start(&account("bob", 0), None)?;
        callee.until("200 OK (", SOON).with_context(|| topology.logs())?;
        let caller = Baresip::start(&account("alice", 1), Some(&format!("sip:bob@{DOMAIN}")))?;
        for phone in [&caller, &callee] {
            let talks = phone.until("Call established", SOON);
            talks.with_context(|| format!("{transport}\n{}\n{}", callee.log(), topology.logs()))?;
        }
        // Its BYE arrives.
        caller.stop()?;
        let hung_up = callee.until("BYE sip:", SOON);
        hung_up.with_context(|| format!("{transport}\n{}", topology.logs()))?;
        callee.stop()?;
    }
    Ok(())
}

fn browser_called(platform: &Platform) -> Result<()> {
    let dir = RunDir::new("edge")?;
    let (topology, tls) = whole_topology(platform, &dir)?;
    let [first, second] = topology.pair(Role::LoadBalancer)?;
    let at = |port| SocketAddrV4::new(*first.address().ip(), port);
    for mut browser in [secure::websocket(at(8080), ORIGIN)?, secure::secure_websocket(at(8443), &tls.ca_pem, ORIGIN)?]
    {
        // Nobody finds that host: only the connection leads back.
        let contact = "Contact: <sip:bob@browser.invalid;transport=ws>";
        let challenge = browser.ask(&browser.register("bob", &[contact, "Expires: 60"]))?;
        let met = credentials(&challenge, "REGISTER", &format!("sip:{DOMAIN}"), "bob")?;
        register(&mut browser, "bob", &[contact, "Expires: 60", &met]).with_context(|| topology.logs())?;
        let caller = phone(second, "uac_invite_auth.xml", "alice");
        let calling = caller.key("callee", format!("bob@{DOMAIN}")).spawn()?;
        let invite = browser.receive_request("INVITE").with_context(|| topology.logs())?;
        browser.send(&with_lines(&response(&invite, "200 OK"), contact))?;
        // One may overtake the other on the way through so many processes.
        let mut both = [browser.receive()?, browser.receive().with_context(|| topology.logs())?];
        both.sort();
        ensure!(both[0].starts_with("ACK ") && both[1].starts_with("BYE "), "{both:?}");
        browser.send(&response(&both[1], "200 OK"))?;
        calling.wait()?.check().with_context(|| topology.logs())?;
        let challenge = browser.ask(&browser.register("bob", &[contact, "Expires: 0"]))?;
        let met = credentials(&challenge, "REGISTER", &format!("sip:{DOMAIN}"), "bob")?;
        register(&mut browser, "bob", &[contact, "Expires: 0", &met])?;
    }
    Ok(())
}

fn sipsak(_: &Platform) -> Result<()> {
    let edge = Edge::start(&[])?;
    let command = Spawn::new("sipsak", "sipsak", edge.dir.join("sipsak.log"));
    process::run(command.args(["-s", &format!("sip:{}", edge.balancer.address())]), SOON).map(drop)
}
