//! What a node does for the bindings that it owns: events, keepalives, across restarts and beside other nodes.

mod common;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::sip::{Agent, headers, register, response, status};
use common::{DOMAIN, Site, statistic};
use lab::RunDir;
use lab::kamailio::{Config, Kamailio};
use lab::wait::until;

const SCRIPT: &str = "tests/cfg/upkeep.cfg";
const SOON: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    common::suite(
        &[],
        &[
            ("each_event_of_a_binding_runs_its_route_once", events),
            ("a_binding_that_another_node_refreshed_does_not_expire_here", refreshed_elsewhere),
            ("a_binding_that_another_node_removed_does_not_expire_here", removed_elsewhere),
            ("a_binding_expires_although_its_node_was_restarted", expires_after_restart),
            ("contacts_without_a_path_are_kept_alive_by_crlf", crlf),
            ("contacts_with_a_path_are_kept_alive_by_options_along_it_also_after_a_restart", options),
            ("a_flow_that_failed_is_removed_and_only_that", failed_flow),
            ("only_contacts_behind_a_nat_are_kept_alive_when_so_asked", natted_only),
            ("two_servers_with_one_state_dir_are_told_so", one_state_dir),
            ("a_kemi_less_script_without_event_routes_keeps_no_index", no_index),
        ],
    )
}

fn start(site: &Site, settings: &str) -> Result<(Kamailio, Agent)> {
    site.with_agent(SCRIPT, settings)
}

/// How often the script was told this.
fn told(kamailio: &Kamailio, what: &str) -> usize {
    kamailio.log().lines().filter(|line| line.contains(&format!("told: {what}"))).count()
}

fn until_told(kamailio: &Kamailio, what: &str) -> Result<()> {
    until(&format!("the event '{what}'"), SOON, || told(kamailio, what) > 0)
}

fn events(site: &Site) -> Result<()> {
    let (kamailio, mut agent) = start(site, "")?;
    let contact = "Contact: <sip:alice@127.9.9.1>";
    register(&mut agent, "alice", &[contact, "Expires: 600"])?;
    register(&mut agent, "alice", &[contact, "Expires: 600"])?;
    register(&mut agent, "alice", &[contact, "Expires: 0"])?;
    register(&mut agent, "alice", &["Contact: <sip:alice@127.9.9.2>", "Expires: 2"])?;
    until_told(&kamailio, &format!("expired alice@{DOMAIN} sip:alice@127.9.9.2"))?;
    for (event, contact, times) in [
        ("insert", "127.9.9.1", 1),
        ("update", "127.9.9.1", 1),
        ("delete", "127.9.9.1", 1),
        ("insert", "127.9.9.2", 1),
        ("expired", "127.9.9.1", 0),
        ("expired", "127.9.9.2", 1),
    ] {
        let told = told(&kamailio, &format!("{event} alice@{DOMAIN} sip:alice@{contact}"));
        ensure!(told == times, "{event} {contact} {told} times:\n{}", kamailio.log());
    }
    ensure!(statistic(&kamailio, "contacts_expired")? == 1 && statistic(&kamailio, "owned_contacts")? == 0);
    Ok(())
}

/// The node `here` registers a contact for a short time; then `elsewhere` does something with it.
fn two_nodes(site: &Site, user: &str, lines: &[&str]) -> Result<(Kamailio, Kamailio)> {
    let (here, mut agent) = start(site, "modparam(\"cassandra\", \"node_name\", \"here\")")?;
    let (elsewhere, mut other) = start(site, "modparam(\"cassandra\", \"node_name\", \"elsewhere\")")?;
    register(&mut agent, user, &[&format!("Contact: <sip:{user}@127.9.9.1>"), "Expires: 3"])?;
    until("an owned contact", SOON, || statistic(&here, "owned_contacts").is_ok_and(|owned| owned == 1))?;
    let refresh = other.register(user, lines);
    ensure!(status(&other.ask(&refresh)?) == Some(200));
    until("that the contact is no more owned", SOON, || {
        statistic(&here, "owned_contacts").is_ok_and(|owned| owned == 0)
    })?;
    ensure!(told(&here, "expired") == 0, "{}", here.log());
    Ok((here, elsewhere))
}

fn refreshed_elsewhere(site: &Site) -> Result<()> {
    let (_here, elsewhere) = two_nodes(site, "bob", &["Contact: <sip:bob@127.9.9.1>", "Expires: 6"])?;
    until_told(&elsewhere, &format!("expired bob@{DOMAIN}"))
}

fn removed_elsewhere(site: &Site) -> Result<()> {
    let (_here, elsewhere) = two_nodes(site, "carol", &["Contact: <sip:carol@127.9.9.1>", "Expires: 0"])?;
    let removal = format!("delete carol@{DOMAIN}");
    until_told(&elsewhere, &removal)?;
    ensure!(told(&elsewhere, &removal) == 1, "{}", elsewhere.log());
    Ok(())
}

/// A node with a state_dir, on an address of its own.
fn with_state(site: &Site, dir: &RunDir, settings: &str) -> Result<Config> {
    let state = format!("modparam(\"cassandra\", \"state_dir\", \"{}\")\n{settings}", dir.path().display());
    site.with_settings(SCRIPT, &state)
}

fn expires_after_restart(site: &Site) -> Result<()> {
    let dir = RunDir::new("state")?;
    let config = with_state(site, &dir, "")?;
    let mut kamailio = site.connected(config.clone())?;
    let mut agent = Agent::udp(&kamailio)?;
    register(&mut agent, "dave", &["Contact: <sip:dave@127.9.9.1>", "Expires: 6"])?;
    kamailio.stop()?;
    ensure!(told(&kamailio, "expired") == 0, "expired before the restart");
    let kamailio = site.connected(config)?;
    until_told(&kamailio, &format!("expired dave@{DOMAIN} sip:dave@127.9.9.1"))?;
    ensure!(told(&kamailio, "expired") == 1, "{}", kamailio.log());
    Ok(())
}

const EVERY_SECOND: &str = "modparam(\"cassandra\", \"ka_mode\", 1)\nmodparam(\"cassandra\", \"ka_interval\", 1)";

fn crlf(site: &Site) -> Result<()> {
    let (kamailio, mut agent) = start(site, EVERY_SECOND)?;
    let contact = agent.contact("erin", "");
    register(&mut agent, "erin", &[&contact, "Expires: 4"])?;
    for _ in 0..2 {
        let message = agent.receive()?;
        ensure!(message == "\r\n\r\n", "{message}");
    }
    let mut phone = Agent::tcp(&kamailio)?;
    let contact = phone.contact("erin", "");
    register(&mut phone, "erin", &[&contact, "Expires: 600"])?;
    let message = phone.receive()?;
    ensure!(message == "\r\n\r\n", "{message}");
    until("silence for a contact that has lapsed", SOON, || {
        agent.receive_within(Duration::from_secs(3)).is_ok_and(|message| message.is_none())
    })
}

/// A contact behind a proxy, which is `agent`.
fn register_through(agent: &mut Agent, user: &str, flow: u32) -> Result<()> {
    let path = format!("Path: <sip:{};lr;ob>", agent.here());
    let contact = format!("Contact: <sip:{user}@127.9.9.{flow}>;reg-id={flow};+sip.instance=\"<urn:uuid:1>\"");
    register(agent, user, &[&contact, "Expires: 600", &path, "Supported: path, outbound"]).map(drop)
}

fn options(site: &Site) -> Result<()> {
    let dir = RunDir::new("state")?;
    let config = with_state(site, &dir, EVERY_SECOND)?;
    let mut kamailio = site.connected(config.clone())?;
    let mut agent = Agent::udp(&kamailio)?;
    register_through(&mut agent, "frank", 1)?;
    let check = |agent: &mut Agent| -> Result<()> {
        let message = agent.receive_request("OPTIONS")?;
        ensure!(message.starts_with("OPTIONS sip:frank@127.9.9.1 "), "{message}");
        ensure!(headers(&message, "Route") == [format!("<sip:{};lr;ob>", agent.here())], "{message}");
        ensure!(headers(&message, "To")[0].contains(&format!("sip:frank@{DOMAIN}")), "{message}");
        agent.send(&response(&message, "200 OK"))
    };
    check(&mut agent)?;
    check(&mut agent)?;
    kamailio.stop()?;
    while agent.receive_within(Duration::from_millis(300))?.is_some() {}
    let kamailio = Kamailio::start(config)?;
    kamailio.wait_for_cassandra()?;
    check(&mut agent)?;
    ensure!(site.contacts("frank")?.len() == 1, "the contact is gone");
    Ok(())
}

fn failed_flow(site: &Site) -> Result<()> {
    let (kamailio, mut agent) = start(site, EVERY_SECOND)?;
    register_through(&mut agent, "grace", 1)?;
    register_through(&mut agent, "grace", 2)?;
    ensure!(site.contacts("grace")?.len() == 2, "two flows");
    until("one flow less", SOON, || -> Result<Option<()>> {
        let message = agent.receive_request("OPTIONS")?;
        let answer = if message.starts_with("OPTIONS sip:grace@127.9.9.1 ") { "430 Flow Failed" } else { "200 OK" };
        agent.send(&response(&message, answer))?;
        Ok((site.contacts("grace")?.len() == 1).then_some(()))
    })?;
    ensure!(site.contacts("grace")?[0]["contact"] == "sip:grace@127.9.9.2", "the wrong one");
    until_told(&kamailio, &format!("delete grace@{DOMAIN} sip:grace@127.9.9.1"))
}

fn natted_only(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) =
        start(site, "modparam(\"cassandra\", \"ka_mode\", 2)\nmodparam(\"cassandra\", \"ka_interval\", 1)")?;
    let contact = agent.contact("heidi", "");
    register(&mut agent, "heidi", &[&contact, "Expires: 600"])?;
    let quiet = Instant::now();
    ensure!(agent.receive_within(Duration::from_secs(3))?.is_none(), "kept alive without a NAT");
    ensure!(quiet.elapsed() >= Duration::from_secs(3));
    let seen = format!("{contact};received=\"sip:{}\"", agent.here());
    register(&mut agent, "heidi", &[&seen, "Expires: 600"])?;
    ensure!(agent.receive()? == "\r\n\r\n");
    Ok(())
}

fn one_state_dir(site: &Site) -> Result<()> {
    let dir = RunDir::new("state")?;
    let _first = site.connected(with_state(site, &dir, "")?)?;
    let second = site.connected(with_state(site, &dir, "")?)?;
    let advice = "in use by another Kamailio: give each its own state_dir";
    until(advice, SOON, || second.log().contains(advice)).with_context(|| second.log())?;
    let mut agent = Agent::udp(&second)?;
    register(&mut agent, "ivan", &["Contact: <sip:ivan@127.9.9.1>", "Expires: 2"])?;
    until_told(&second, &format!("expired ivan@{DOMAIN}"))
}

fn no_index(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.script("tests/cfg/location.cfg"))?;
    let mut agent = Agent::udp(&kamailio)?;
    register(&mut agent, "judy", &["Contact: <sip:judy@127.9.9.1>", "Expires: 600"])?;
    ensure!(statistic(&kamailio, "owned_contacts")? == 0);
    Ok(())
}
