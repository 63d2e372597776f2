//! The nodes of the roles, each by its own configuration, with test phones in the places of the nodes around them.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::digest::credentials;
use common::sip::{Agent, headers, response, status};
use common::{DOMAIN, Site, phone, run};
use lab::kamailio::{Config, Kamailio};
use lab::{RunDir, net, wait};
use serde_json::json;

const LOAD_BALANCER: &str = "kamailio-cfg/load-balancer.cfg";
const DISPATCHER: &str = "kamailio-cfg/dispatcher.cfg";
const REGISTRAR: &str = "kamailio-cfg/registrar.cfg";
const OUTBOUND: &str = "kamailio-cfg/outbound.cfg";

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob", "carol", "dave", "erin"],
        &[
            ("each_node_answers_options_to_anybody", options),
            ("a_missing_setting_stops_the_start_and_is_named", missing),
            ("a_registrar_stores_what_a_dispatcher_sends", registrar_registers),
            ("a_registrar_refuses_what_is_not_for_it", registrar_refuses),
            ("registrars_accept_each_others_nonces", shared_nonces),
            ("an_outbound_node_sends_a_request_along_the_stored_path", outbound_along_the_path),
            ("an_outbound_node_tries_contacts_by_q_and_stops_at_a_600", outbound_by_q),
            ("an_outbound_node_tells_who_is_unknown_from_who_is_not_registered", outbound_codes),
            ("an_outbound_node_refuses_strangers", outbound_refuses),
            ("without_cassandra_both_answer_503_and_say_when_to_retry", unavailable),
            ("each_role_sheds_what_is_new_and_nothing_else", sheds),
            ("each_role_tells_its_statistics_at_an_address_of_their_own", statistics),
            ("each_role_copies_its_messages_to_homer_when_it_is_told_where", captured),
            ("a_dispatcher_that_leaves_takes_the_further_legs_of_its_calls_and_nothing_new", legs_of_one_that_leaves),
        ],
    )
}

/// A node, and the address from which the test is its dispatcher.
struct Node {
    kamailio: Kamailio,
    dispatcher: Ipv4Addr,
    _list: RunDir,
}

impl Node {
    fn start(site: &Site, script: &str) -> Result<Self> {
        Self::with_secret(site, script, "the same for all")
    }

    fn with_secret(site: &Site, script: &str, secret: &str) -> Result<Self> {
        let dispatcher = net::loopback();
        let list = list(dispatcher)?;
        let kamailio = site.connected(config(site, script, &list, secret))?;
        Ok(Self { kamailio, dispatcher, _list: list })
    }

    fn dispatcher(&self) -> Result<Agent> {
        Agent::udp_from(&self.kamailio, self.dispatcher)
    }
}

const LIST: &str = "dispatcher.list";

/// A role's configuration with the list in that directory.
fn config(site: &Site, script: &str, list: &RunDir, secret: &str) -> Config {
    let config = site.script(script).env("NONCE_SECRET", secret).env("FLOW_TOKEN_SECRET", secret);
    config.env("DISPATCHER_LIST", list.join(LIST).display())
}

/// A directory with a list of this one dispatcher.
fn list(dispatcher: Ipv4Addr) -> Result<RunDir> {
    let directory = RunDir::new("roles")?;
    directory.write(LIST, &format!("2 sip:{dispatcher}:5060\n"))?;
    Ok(directory)
}

fn options(site: &Site) -> Result<()> {
    for script in [LOAD_BALANCER, DISPATCHER, REGISTRAR, OUTBOUND] {
        let list = list(net::loopback())?;
        let kamailio = Kamailio::start(config(site, script, &list, "any"))?;
        for mut anybody in [Agent::udp(&kamailio)?, Agent::tcp(&kamailio)?] {
            let request = anybody.request("OPTIONS", &format!("sip:{}", kamailio.address()), "a", "b", &[]);
            let answer = anybody.ask(&request)?;
            ensure!(status(&answer) == Some(200), "{script}: {answer}");
        }
    }
    Ok(())
}

fn missing(site: &Site) -> Result<()> {
    for (script, setting, sentence) in [
        (REGISTRAR, "NONCE_SECRET", "env variable not defined [NONCE_SECRET]"),
        (DISPATCHER, "NONCE_SECRET", "env variable not defined [NONCE_SECRET]"),
        (LOAD_BALANCER, "FLOW_TOKEN_SECRET", "env variable not defined [FLOW_TOKEN_SECRET]"),
        (LOAD_BALANCER, "DISPATCHER_LIST", "/etc/kamailio/dispatcher.list"),
        (DISPATCHER, "DISPATCHER_LIST", "/etc/kamailio/dispatcher.list"),
        (REGISTRAR, "DISPATCHER_LIST", "/etc/kamailio/dispatcher.list"),
        (OUTBOUND, "DISPATCHER_LIST", "/etc/kamailio/dispatcher.list"),
    ] {
        let list = list(net::loopback())?;
        let mut config = config(site, script, &list, "any");
        config.env.retain(|(name, _)| name != setting);
        let log = Kamailio::start_expecting_failure(config)?;
        ensure!(log.contains(sentence), "{script} without {setting}:\n{log}");
    }
    Ok(())
}

fn registrar_registers(site: &Site) -> Result<()> {
    let node = Node::start(site, REGISTRAR)?;
    run(&node.kamailio, phone(&node.kamailio, "register.xml", "alice").local(node.dispatcher))?;
    ensure!(site.contacts("alice")?.len() == 1, "{:?}", site.contacts("alice")?);
    Ok(())
}

fn registrar_refuses(site: &Site) -> Result<()> {
    let node = Node::start(site, REGISTRAR)?;
    let mut stranger = Agent::udp(&node.kamailio)?;
    let register = stranger.register("bob", &[&stranger.contact("bob", "")]);
    let answer = stranger.ask(&register)?;
    ensure!(status(&answer) == Some(403), "{answer}");
    let mut dispatcher = node.dispatcher()?;
    let answer = dispatcher.ask(&dispatcher.request("MESSAGE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &[]))?;
    ensure!(status(&answer) == Some(405) && headers(&answer, "Allow") == ["REGISTER, OPTIONS"], "{answer}");
    ensure!(site.contacts("bob")?.is_empty());
    Ok(())
}

/// A registrar's challenge to bob's REGISTER.
fn challenge(node: &Node) -> Result<String> {
    let mut dispatcher = node.dispatcher()?;
    let challenge = dispatcher.ask(&dispatcher.register("bob", &[&dispatcher.contact("bob", "")]))?;
    ensure!(status(&challenge) == Some(401), "{challenge}");
    Ok(challenge)
}

/// What a registrar answers when bob meets that challenge.
fn meet(node: &Node, challenge: &str) -> Result<String> {
    let credentials = credentials(challenge, "REGISTER", &format!("sip:{DOMAIN}"), "bob")?;
    let mut dispatcher = node.dispatcher()?;
    dispatcher.ask(&dispatcher.register("bob", &[&dispatcher.contact("bob", ""), "Expires: 5", &credentials]))
}

fn shared_nonces(site: &Site) -> Result<()> {
    let (one, two) = (Node::start(site, REGISTRAR)?, Node::start(site, REGISTRAR)?);
    let foreign = Node::with_secret(site, REGISTRAR, "another")?;
    let challenge = challenge(&one)?;
    for (node, expected) in [(&foreign, 401), (&two, 200)] {
        let answer = meet(node, &challenge)?;
        ensure!(status(&answer) == Some(expected), "{answer}");
    }
    Ok(())
}

fn outbound_along_the_path(site: &Site) -> Result<()> {
    let node = Node::start(site, OUTBOUND)?;
    let mut balancer = Agent::udp(&node.kamailio)?;
    let path = format!("<sip:flow-token@{};lr>", balancer.here());
    node.kamailio
        .rpc("cassandra.add", json!([format!("carol@{DOMAIN}"), "sip:carol@192.0.2.7:5070", 600, "1.0", path]))?;
    let mut dispatcher = node.dispatcher()?;
    dispatcher.send(&dispatcher.request("MESSAGE", &format!("sip:carol@{DOMAIN}"), "alice", "carol", &[]))?;
    let arrived = balancer.receive_request("MESSAGE").with_context(|| node.kamailio.log())?;
    ensure!(arrived.starts_with("MESSAGE sip:carol@192.0.2.7:5070 SIP/2.0"), "{arrived}");
    ensure!(headers(&arrived, "Route") == [path.as_str()], "{arrived}");
    balancer.send(&response(&arrived, "200 OK"))?;
    let answer = dispatcher.final_response()?;
    ensure!(status(&answer) == Some(200), "{answer}");
    Ok(())
}

fn outbound_by_q(site: &Site) -> Result<()> {
    let node = Node::start(site, OUTBOUND)?;
    let mut phones = [Agent::udp(&node.kamailio)?, Agent::udp(&node.kamailio)?];
    for (phone, q) in phones.iter().zip(["1.0", "0.5"]) {
        let (contact, path) =
            (format!("sip:erin@192.0.2.7:{}", phone.here().port()), format!("<sip:{};lr>", phone.here()));
        node.kamailio.rpc("cassandra.add", json!([format!("erin@{DOMAIN}"), contact, 600, q, path]))?;
    }
    for (answers, expected) in [(["486 Busy Here", "200 OK"], 200), (["603 Decline", ""], 603)] {
        let mut dispatcher = node.dispatcher()?;
        dispatcher.send(&dispatcher.request("MESSAGE", &format!("sip:erin@{DOMAIN}"), "alice", "erin", &[]))?;
        for (phone, answer) in phones.iter_mut().zip(answers) {
            if !answer.is_empty() {
                let arrived = phone.receive_request("MESSAGE").with_context(|| node.kamailio.log())?;
                phone.send(&response(&arrived, answer))?;
            }
        }
        let answer = dispatcher.final_response()?;
        ensure!(status(&answer) == Some(expected), "{answers:?}: {answer}");
    }
    let nothing = phones[1].receive_within(Duration::from_millis(500))?;
    ensure!(nothing.is_none(), "the second phone was asked after a 603: {nothing:?}");
    Ok(())
}

fn outbound_codes(site: &Site) -> Result<()> {
    let node = Node::start(site, OUTBOUND)?;
    let mut dispatcher = node.dispatcher()?;
    for (uri, expected) in [
        (format!("sip:dave@{DOMAIN}"), 480),
        (format!("sip:nobody@{DOMAIN}"), 404),
        ("sip:bob@elsewhere.example.org".to_owned(), 404),
    ] {
        let answer = dispatcher.ask(&dispatcher.request("MESSAGE", &uri, "alice", "bob", &[]))?;
        ensure!(status(&answer) == Some(expected), "{uri}: {answer}");
    }
    Ok(())
}

fn outbound_refuses(site: &Site) -> Result<()> {
    let node = Node::start(site, OUTBOUND)?;
    let mut stranger = Agent::udp(&node.kamailio)?;
    let answer = stranger.ask(&stranger.request("MESSAGE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &[]))?;
    ensure!(status(&answer) == Some(403), "{answer}");
    Ok(())
}

fn unavailable(site: &Site) -> Result<()> {
    let (registrar, outbound) = (Node::start(site, REGISTRAR)?, Node::start(site, OUTBOUND)?);
    let challenge = challenge(&registrar)?;
    let frozen = site.frozen()?;
    let registered = meet(&registrar, &challenge)?;
    let mut dispatcher = outbound.dispatcher()?;
    let sent = dispatcher.ask(&dispatcher.request("MESSAGE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &[]))?;
    for answer in [registered, sent] {
        ensure!(status(&answer) == Some(503) && headers(&answer, "Retry-After").len() == 1, "{answer}");
    }
    drop(frozen);
    Ok(())
}

/// What is measured under load in tests/overload.rs each role does by itself: here it is told that it is overloaded.
fn sheds(site: &Site) -> Result<()> {
    const SOON: Duration = Duration::from_secs(20);
    for (script, method, set) in [
        (LOAD_BALANCER, "MESSAGE", 2),
        (DISPATCHER, "MESSAGE", 1),
        (REGISTRAR, "REGISTER", 2),
        (OUTBOUND, "MESSAGE", 2),
    ] {
        let inside = net::loopback();
        let directory = RunDir::new("roles")?;
        directory.write(LIST, &format!("{set} sip:{inside}:5060\n"))?;
        let kamailio = Kamailio::start(config(site, script, &directory, "any"))?;
        // A load balancer sheds what comes from phones.
        let mut sender =
            if script == LOAD_BALANCER { Agent::udp(&kamailio)? } else { Agent::udp_from(&kamailio, inside)? };
        let mut ask = |inside_a_dialog: bool| -> Result<String> {
            kamailio.rpc("pv.shvSet", json!(["overload_needed", "int", 950]))?;
            let request = sender.request(method, &format!("sip:{DOMAIN}"), "alice", "bob", &[]);
            let to = format!("To: <sip:bob@{DOMAIN}>");
            ensure!(request.contains(&to), "{request}");
            sender.ask(&if inside_a_dialog { request.replace(&to, &format!("{to};tag=known")) } else { request })
        };
        let is_shed =
            |answer: &str| answer.starts_with("SIP/2.0 503 Overloaded") && headers(answer, "Retry-After").len() == 1;
        wait::until("something new to be refused", SOON, || ask(false).is_ok_and(|answer| is_shed(&answer)))
            .with_context(|| format!("{script}\n{}", kamailio.log()))?;
        for _ in 0..20 {
            let answer = ask(true).with_context(|| format!("{script}\n{}", kamailio.log()))?;
            ensure!(!is_shed(&answer), "{script}: {answer}");
        }
        ensure!(
            is_shed(&ask(false)?) || is_shed(&ask(false)?) || is_shed(&ask(false)?),
            "{script} is not overloaded any more"
        );
    }
    Ok(())
}

fn legs_of_one_that_leaves(site: &Site) -> Result<()> {
    let list = RunDir::new("roles")?;
    let config = config(site, DISPATCHER, &list, "any");
    let here = SocketAddrV4::new(config.address, config.port);
    let agent = || Agent::udp_towards(here, net::loopback());
    let [mut balancer, mut outbound, mut media] = [agent()?, agent()?, agent()?];
    let lines =
        [(1, &balancer), (4, &outbound), (5, &media)].map(|(set, agent)| format!("{set} sip:{}\n", agent.here()));
    list.write(LIST, &lines.concat())?;
    let dispatcher = Kamailio::start(config)?;
    dispatcher.rpc("pv.shvSet", json!(["draining", "int", 2]))?;
    let (uri, of_a_call) = (format!("sip:bob@{DOMAIN}"), "X-Call: the-first-leg");
    for (agent, lines) in [(&mut balancer, &[of_a_call][..]), (&mut media, &[])] {
        let contact = agent.contact("alice", "");
        let lines = [&[contact.as_str()], lines].concat();
        let answer = agent.ask(&agent.request("INVITE", &uri, "alice", "bob", &lines))?;
        ensure!(answer.starts_with("SIP/2.0 503 Draining"), "{answer}");
    }
    // It does not answer probes.
    dispatcher.rpc("dispatcher.set_state", json!(["a", 4, format!("sip:{}", outbound.here())]))?;
    media.send(&media.request("INVITE", &uri, "alice", "bob", &[of_a_call, &media.contact("alice", "")]))?;
    let leg = wait::until("the leg", Duration::from_secs(20), || -> Result<Option<String>> {
        // Probes come, too.
        Ok(outbound.receive_within(Duration::from_secs(1))?.filter(|request| request.starts_with("INVITE ")))
    })
    .with_context(|| dispatcher.log())?;
    ensure!(headers(&leg, "X-Call") == ["the-first-leg"], "{leg}");
    outbound.send(&response(&leg, "486 Busy Here"))?;
    let answer = media.final_response()?;
    ensure!(status(&answer) == Some(486), "{answer}");
    Ok(())
}

/// What is answered to this by TCP.
fn over_tcp(address: SocketAddrV4, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // Silence is an answer, too.
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn statistics(site: &Site) -> Result<()> {
    const METRICS: &str = "GET /metrics HTTP/1.1\r\nHost: metrics\r\n\r\n";
    for script in [LOAD_BALANCER, DISPATCHER, REGISTRAR, OUTBOUND] {
        let list = list(net::loopback())?;
        let config = config(site, script, &list, "any");
        let metrics = SocketAddrV4::new(config.address, 9182);
        let node = Kamailio::start(config.env("METRICS_ADDR", metrics))?;
        let answer = over_tcp(metrics, METRICS)?;
        let is_told = |name: &str| answer.contains(&format!("\n{name} "));
        ensure!(answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.0 200 "), "{script}: {answer}");
        ensure!(
            is_told("kamailio_core_rcv_requests") && is_told("kamailio_script_overload_refused"),
            "{script}: {answer}"
        );
        ensure!(is_told("kamailio_cassandra_requests") == (script != LOAD_BALANCER), "{script}: {answer}");
        let other = over_tcp(metrics, &METRICS.replace("/metrics", "/"))?;
        ensure!(other.contains(" 404 "), "{script}: {other}");
        // Nothing else is there, and it is nowhere else.
        let options = Agent::udp(&node)?.request("OPTIONS", &format!("sip:{metrics}"), "a", "b", &[]);
        let answer = over_tcp(metrics, &options.replace("/UDP", "/TCP"))?;
        ensure!(answer.is_empty(), "{script} takes SIP there: {answer}");
        let elsewhere = over_tcp(node.address(), METRICS)?;
        ensure!(!elsewhere.contains("kamailio_core"), "{script}: {elsewhere}");
    }
    Ok(())
}

fn captured(site: &Site) -> Result<()> {
    for (script, set) in [(LOAD_BALANCER, 2), (DISPATCHER, 1), (REGISTRAR, 2), (OUTBOUND, 2)] {
        let (inside, homer) = (net::loopback(), net::loopback());
        let directory = RunDir::new("roles")?;
        directory.write(LIST, &format!("{set} sip:{inside}:5060\n"))?;
        let config = config(site, script, &directory, "any");
        let listener = UdpSocket::bind((homer, 9060))?;
        listener.set_read_timeout(Some(Duration::from_secs(1)))?;
        let node = Kamailio::start(config.env("HEP_URI", format!("sip:{homer}:9060")).env("HEP_CAPTURE_ID", 4711))?;
        let mut agent = Agent::udp_from(&node, inside)?;
        let probe = agent.request("OPTIONS", &format!("sip:{}", node.address()), "a", "b", &[]);
        agent.ask(&probe)?;
        let request = agent.request("MESSAGE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &[]);
        let call_id = headers(&request, "Call-ID")[0].to_owned();
        let answer = agent.ask(&request)?;
        let mut copies = Vec::new();
        let mut packet = vec![0; 65_536];
        while let Ok(length) = listener.recv(&mut packet) {
            ensure!(packet.starts_with(b"HEP3"), "{script} sends something else");
            copies.push(String::from_utf8_lossy(&packet[..length]).into_owned());
        }
        let first_line = |message: &str| message.lines().next().unwrap_or_default().to_owned();
        for wanted in [first_line(&request), first_line(&answer)] {
            let is_copy = |copy: &&String| copy.contains(&wanted) && copy.contains(&call_id);
            ensure!(copies.iter().filter(is_copy).count() == 1, "{script}: {wanted} is not in {copies:#?}");
        }
        ensure!(!copies.iter().any(|copy| copy.contains(headers(&probe, "Call-ID")[0])), "{script}: {copies:#?}");
    }
    Ok(())
}
