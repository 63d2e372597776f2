//! Load balancers, dispatchers, registrars and outbound nodes together, as phones see them.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::digest::{Challenge, answered, credentials, send_authenticated};
use common::sip::{Agent, headers, response, status};
use common::{DOMAIN, PASSWORD, Site, enrol, phone, run};
use common::{calls, flows};
use lab::kamailio::Kamailio;
use lab::sipp::{Sipp, Transport};
use lab::topology::{Role, Topology};
use lab::{net, wait};

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan"],
        &[
            ("a_phone_registers_at_one_load_balancer_and_is_called_through_another_by_udp", called_by_udp),
            ("a_phone_registers_at_one_load_balancer_and_is_called_through_another_by_tcp", called_by_tcp),
            ("a_caller_who_gives_up_ends_the_ringing_by_udp_and_by_tcp", given_up),
            ("phones_of_the_same_q_ring_together_until_one_answers_or_the_caller_gives_up", forked),
            ("the_next_flow_of_a_phone_is_tried_when_one_is_gone", next_flow),
            ("the_death_of_a_node_of_each_role_is_not_noticed", deaths),
            ("a_call_whose_dispatcher_dies_ends_by_its_bye", bye_after_death),
            ("other_methods_pass_and_a_phone_passes_for_no_node", other_methods),
            ("what_begins_is_spread_over_the_dispatchers_by_weight", spread),
            ("without_cassandra_the_phone_is_told_to_come_back_and_no_other_node_is_asked", unavailable),
            ("a_route_to_strangers_is_refused", strangers),
            ("who_guesses_passwords_is_slowed_by_the_address_that_the_load_balancer_sees", guesser),
            ("a_caller_has_no_more_calls_than_allowed_over_all_dispatchers", limited),
        ],
    )
}

const SOON: Duration = Duration::from_secs(10);

/// Two nodes of each role.
fn two_of_each(site: &Site) -> Result<Topology> {
    Topology::start(site.roles(2))
}

fn called_by_udp(site: &Site) -> Result<()> {
    flows::called(site, &two_of_each(site)?, Transport::Udp, "bob")
}

fn called_by_tcp(site: &Site) -> Result<()> {
    flows::called(site, &two_of_each(site)?, Transport::Tcp, "carol")
}

fn given_up(site: &Site) -> Result<()> {
    flows::given_up(&two_of_each(site)?)
}

fn forked(site: &Site) -> Result<()> {
    flows::forked(&two_of_each(site)?)
}

fn next_flow(site: &Site) -> Result<()> {
    let topology = two_of_each(site)?;
    let [first, second] = topology.pair(Role::LoadBalancer)?;
    let mut caller = Agent::udp(second)?;
    // Whichever is asked first.
    for (user, gone) in [("grace", 0), ("heidi", 1)] {
        let mut flows = vec![Agent::tcp(first)?, Agent::tcp(second)?];
        for (number, flow) in (1..).zip(&mut flows) {
            let instance = "+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>\"";
            let contact = flow.contact(user, &format!(";reg-id={number};{instance}"));
            let lines = [contact.as_str(), "Supported: path, outbound"];
            send_authenticated(flow, "REGISTER", &format!("sip:{DOMAIN}"), user, user, &lines)?;
            let answer = flow.final_response()?;
            ensure!(status(&answer) == Some(200) && headers(&answer, "Require") == ["outbound"], "{answer}");
        }
        drop(flows.remove(gone));
        let uri = format!("sip:{user}@{DOMAIN}");
        send_authenticated(&mut caller, "MESSAGE", &uri, "carol", user, &[])?;
        let arrived = flows[0].receive_request("MESSAGE").with_context(|| topology.logs())?;
        flows[0].send(&response(&arrived, "200 OK"))?;
        let answer = caller.final_response()?;
        ensure!(status(&answer) == Some(200), "{answer}");
    }
    Ok(())
}

fn deaths(site: &Site) -> Result<()> {
    let mut topology = two_of_each(site)?;
    for role in [Role::Dispatcher, Role::Registrar, Role::Outbound] {
        topology.kill(role, 0)?;
    }
    for _ in 0..3 {
        flows::called(site, &topology, Transport::Udp, "bob")?;
    }
    Ok(())
}

fn bye_after_death(site: &Site) -> Result<()> {
    let mut topology = two_of_each(site)?;
    let at = |sipp: Sipp, address| sipp.local(address).local_port(5062);
    let [first, second] = topology.pair(Role::LoadBalancer)?;
    let address = net::loopback();
    run(first, at(phone(first, "register.xml", "bob"), address))?;
    let before = calls::answered(site, "bob")?;
    let answering = at(Sipp::new("uas_answer.xml"), address).spawn()?;
    let caller = phone(second, "uac_invite_auth.xml", "alice").pause(Duration::from_secs(3));
    let talking = caller.key("callee", format!("bob@{DOMAIN}")).spawn()?;
    let has_the_call = |node: &Kamailio| {
        let stats = node.rpc("dlg.stats_active", serde_json::json!([]));
        stats.is_ok_and(|stats| stats["ongoing"].as_u64().is_some_and(|calls| calls > 0))
    };
    let index = wait::until("the call", SOON, || topology.of(Role::Dispatcher).into_iter().position(has_the_call))?;
    topology.kill(Role::Dispatcher, index)?;
    talking.wait()?.check().with_context(|| topology.logs())?;
    answering.wait()?.check()?;
    // The other one does not know the dialog, and ends the call in the records all the same.
    wait::until("the call in the history", SOON, || {
        calls::answered(site, "bob").is_ok_and(|calls| calls == before + 1)
    })?;
    Ok(())
}

fn other_methods(site: &Site) -> Result<()> {
    let topology = two_of_each(site)?;
    let [first, second] = topology.pair(Role::LoadBalancer)?;
    let (mut callee, mut caller) = (Agent::udp(first)?, Agent::udp(second)?);
    enrol(&mut callee, "bob")?;
    let forged = ["P-Asserted-Identity: <sip:boss@example.com>", "X-Backend: unavailable", "Path: <sip:192.0.2.99;lr>"];
    let uri = format!("sip:bob@{DOMAIN}");
    for method in ["MESSAGE", "SUBSCRIBE"] {
        let here = caller.contact("carol", "");
        let lines: Vec<&str> = std::iter::once(here.as_str()).chain(forged).collect();
        send_authenticated(&mut caller, method, &uri, "carol", "bob", &lines)?;
        let arrived = callee.receive_request(method).with_context(|| topology.logs())?;
        for name in ["P-Asserted-Identity", "X-Backend", "Path", "Proxy-Authorization"] {
            ensure!(headers(&arrived, name).is_empty(), "{name} has passed: {arrived}");
        }
        callee.send(&response(&arrived, "200 OK"))?;
        let answer = caller.final_response()?;
        ensure!(status(&answer) == Some(200), "{answer}");
    }
    Ok(())
}

fn spread(site: &Site) -> Result<()> {
    let topology = two_of_each(site)?;
    let mut phone = Agent::udp(topology.of(Role::LoadBalancer)[0])?;
    for _ in 0..40 {
        let answer = phone.ask(&phone.request("MESSAGE", &format!("sip:bob@{DOMAIN}"), "carol", "bob", &[]))?;
        ensure!(status(&answer) == Some(407), "{answer}");
    }
    let name = "core.rcv_requests_message";
    let each: Vec<u64> = topology
        .of(Role::Dispatcher)
        .into_iter()
        .map(|node| node.rpc("stats.fetchn", serde_json::json!([name]))?[name].as_u64().context("no such statistic"))
        .collect::<Result<_>>()?;
    ensure!(each.iter().sum::<u64>() == 40 && each.iter().all(|messages| *messages >= 5), "{each:?}");
    Ok(())
}

fn unavailable(site: &Site) -> Result<()> {
    let topology = two_of_each(site)?;
    let balancer = topology.of(Role::LoadBalancer)[0];
    let mut phone = Agent::udp(balancer)?;
    let uri = format!("sip:bob@{DOMAIN}");
    let challenge = phone.ask(&phone.request("MESSAGE", &uri, "carol", "bob", &[]))?;
    ensure!(status(&challenge) == Some(407), "{challenge}\n{}", topology.logs());
    let met = credentials(&challenge, "MESSAGE", &uri, "carol")?;
    let frozen = site.frozen()?;
    let answer = phone.ask(&phone.request("MESSAGE", &uri, "carol", "bob", &[&met]))?;
    drop(frozen);
    ensure!(status(&answer) == Some(503) && headers(&answer, "Retry-After").len() == 1, "{answer}");
    ensure!(headers(&answer, "X-Backend").is_empty(), "{answer}");
    let asked = topology.of(Role::Dispatcher).into_iter().map(|node| common::statistic(node, "unavailable"));
    let asked: Vec<u64> = asked.collect::<Result<_>>()?;
    ensure!(asked.iter().sum::<u64>() == 1, "the dispatchers answered {asked:?} times: one of them should have, once");
    Ok(())
}

fn strangers(site: &Site) -> Result<()> {
    let topology = two_of_each(site)?;
    let balancer = topology.of(Role::LoadBalancer)[0];
    let mut phone = Agent::udp(balancer)?;
    let own = format!("Route: <sip:{};lr>, <sip:192.0.2.99;lr>", balancer.address());
    let answer = phone.ask(&phone.request("MESSAGE", &format!("sip:bob@{DOMAIN}"), "carol", "bob", &[&own]))?;
    ensure!(status(&answer) == Some(403), "outside a dialog: {answer}");
    let through_dispatcher = format!(
        "Route: <sip:{};lr>, <sip:dispatcher.invalid;node=192.0.2.97:5060;lr>, <sip:192.0.2.99;lr>",
        balancer.address()
    );
    for route in [own, through_dispatcher] {
        let inside = phone.request("BYE", "sip:bob@192.0.2.98", "carol", "bob", &[&route]);
        let inside = inside.replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=scan");
        let answer = phone.ask(&inside)?;
        ensure!(status(&answer) == Some(403), "inside one, {route}: {answer}");
    }
    let mut direct = Agent::udp(topology.of(Role::Dispatcher)[0])?;
    let answer = direct.ask(&direct.request("MESSAGE", &format!("sip:bob@{DOMAIN}"), "carol", "bob", &[]))?;
    ensure!(status(&answer) == Some(403), "{answer}");
    Ok(())
}

fn guesser(site: &Site) -> Result<()> {
    let topology = Topology::start(site.roles(2).env("AUTH_FAILURES_PER_SOURCE", 3))?;
    let balancer = topology.of(Role::LoadBalancer)[0];
    let (mut guesser, mut other) = (Agent::udp(balancer)?, Agent::udp(balancer)?);
    let try_with = |phone: &mut Agent, password: &str| -> Result<Option<u16>> {
        let contact = phone.contact("ivan", "");
        let challenge = phone.ask(&phone.register("ivan", &[&contact]))?;
        let challenges = headers(&challenge, "WWW-Authenticate");
        let challenge = Challenge::parse(challenges.first().context("no challenge")?)?;
        let met = format!("Authorization: {}", answered(challenge.credentials("ivan"), "REGISTER", password)?);
        Ok(status(&phone.ask(&phone.register("ivan", &[&contact, &met]))?))
    };
    // Each of the two registrars counts for itself.
    for _ in 0..8 {
        ensure!(try_with(&mut guesser, "wrong")? == Some(401));
    }
    let (guessed, owner) = (try_with(&mut guesser, PASSWORD)?, try_with(&mut other, PASSWORD)?);
    ensure!((guessed, owner) == (Some(401), Some(200)), "{guessed:?} {owner:?}");
    Ok(())
}

fn limited(site: &Site) -> Result<()> {
    flows::limited(site, &Topology::start(site.roles(2).env("CHECK_MAX_CALLS", 1))?)
}
