//! The nodes of the roles, each by its own configuration, with test phones in the places of the nodes around them.

mod common;

use std::net::Ipv4Addr;
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
