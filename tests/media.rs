//! Calls through media nodes, with audio. With `FREESWITCH` in the environment the media nodes are that FreeSWITCH with our
//! configuration.

mod common;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use common::calls::{events, history, listed, names};
use common::load::{Call, calls_of};
use common::phone::{Phone, hear_each_other};
use common::sip::{Agent, headers, status};
use common::{DOMAIN, Site, phone};
use lab::RunDir;
use lab::kamailio::Kamailio;
use lab::media::{self, Media};
use lab::topology::{Plan, Role, Topology};
use lab::wait::until;

fn main() -> ExitCode {
    common::suite(
        // A callee for each call: the phones of earlier ones stay registered.
        &["alice", "bob", "carol", "1001", "1002", "1003", "1004", "1005"],
        &[
            ("audio_passes_both_ways_through_a_media_node_by_udp_and_tcp_and_the_legs_are_one_call", both_ways),
            ("a_media_node_gives_echo_by_number_and_by_domain", echo),
            ("a_callee_who_is_busy_is_busy_for_the_caller", busy),
            ("a_call_is_named_by_nobody_outside", forged),
            ("the_leg_of_a_dispatcher_that_dies_ends_in_the_callees_list", dispatcher_killed),
            ("the_calls_of_a_media_node_that_dies_end_as_lost_and_another_takes_new_ones", killed),
            ("without_a_media_node_calls_that_need_one_are_refused_and_others_are_not", none),
            ("a_rule_that_is_no_regular_expression_stops_the_start", wrong_rules),
        ],
    )
}

const SOON: Duration = Duration::from_secs(20);
/// Calls of the load, at 50 a second.
const LOAD: u64 = 200;
/// Each is talked for a minute, unless it is ended: longer than the end of those of a dead node may need.
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// How long the end of calls may need whose media node is gone (kamailio-cfg/README.md), on a busy machine.
const ENDED: Duration = Duration::from_secs(75);

/// A node of each role, another load balancer, and media nodes.
struct Nodes {
    topology: Topology,
    media: Vec<Media>,
}

impl Nodes {
    fn start(site: &Site, media_nodes: usize) -> Result<Self> {
        let mut plan = site.roles(2);
        let mut kept = Vec::new();
        plan.nodes.retain(|(role, _)| {
            let is_kept = *role == Role::LoadBalancer || !kept.contains(role);
            kept.push(*role);
            is_kept
        });
        Self::of(plan, media_nodes)
    }

    fn of(plan: Plan, media_nodes: usize) -> Result<Self> {
        let mut plan = plan.env("MEDIA_DOMAINS", r"^rooms\.example\.com$");
        let dispatchers = plan.addresses(Role::Dispatcher);
        let media: Vec<media::Config> = (0..media_nodes).map(|_| media::Config::new(&dispatchers, DOMAIN)).collect();
        plan.lines = media.iter().map(media::Config::line).collect();
        let media = media.iter().map(Media::start).collect::<Result<_>>()?;
        Ok(Self { topology: Topology::start(plan)?, media })
    }

    fn load_balancers(&self) -> Result<[&Kamailio; 2]> {
        self.topology.pair(Role::LoadBalancer)
    }

    /// What all nodes say.
    fn logs(&self) -> String {
        self.media.iter().map(Media::log).collect::<String>() + &self.topology.logs()
    }
}

/// Waits until the call is over in the history of somebody in it.
fn until_over(site: &Site, user: &str, call_id: &str, disposition: &str) -> Result<serde_json::Value> {
    until("the end in the list", SOON, || -> Result<Option<serde_json::Value>> {
        Ok(listed(site, user, call_id)?.filter(|call| call["disposition"] == disposition))
    })
    .with_context(|| format!("{:?} {:#?}", listed(site, user, call_id), events(site, call_id)))
}

fn both_ways(site: &Site) -> Result<()> {
    let nodes = Nodes::start(site, 1)?;
    let [first, second] = nodes.load_balancers()?;
    for (tcp, number) in [(false, "1001"), (true, "1002")] {
        let agent = |node| if tcp { Agent::tcp(node) } else { Agent::udp(node) };
        let mut caller = Phone::new(agent(first)?, "alice")?;
        let mut callee = Phone::registered(agent(second)?, number)?;
        caller.invite(&format!("*9{number}"), &[])?;
        let (invite, called) = callee.answer().with_context(|| nodes.logs())?;
        let calling = caller.answered().with_context(|| nodes.logs())?;
        callee.acknowledged()?;
        let node = nodes.media[0].address();
        ensure!(
            calling.media.ip() == *node.ip() && called.media.ip() == *node.ip(),
            "the audio passes the media node by"
        );
        ensure!(invite.starts_with(&format!("INVITE sip:{number}@")), "{invite}");
        ensure!(headers(&invite, "X-Call").is_empty(), "the name of the call reached a phone: {invite}");
        hear_each_other((&caller.audio, &calling), (&callee.audio, &called)).with_context(|| nodes.logs())?;
        check_view(site, number, &calling.call_id)?;
        if tcp {
            caller.hang_up(&calling)?;
            callee.hung_up().with_context(|| nodes.logs())?;
        } else {
            callee.hang_up(&called)?;
            caller.hung_up().with_context(|| nodes.logs())?;
        }
        let call = until_over(site, "alice", &calling.call_id, "answered")?;
        ensure!(call["ended_by"] == if tcp { "caller" } else { "callee" }, "{call}");
        let both = until("the events of both legs", SOON, || -> Result<Option<Vec<serde_json::Value>>> {
            let found = events(site, &calling.call_id)?;
            let ends = names(&found).iter().filter(|name| **name == "call-end").count();
            Ok((ends == 2).then_some(found))
        })?;
        let at_callee = until_over(site, number, &calling.call_id, "answered")?;
        ensure!(at_callee["direction"] == "inbound" && at_callee["ended_by"] == call["ended_by"], "{at_callee}");
        ensure!(history(site, "alice")?.iter().filter(|entry| entry["call_id"] == call["call_id"]).count() == 1);
        let legs: std::collections::BTreeSet<String> = both.iter().map(|event| event["leg"].to_string()).collect();
        ensure!(legs.len() == 2 && legs.contains(&format!("\"{}\"", calling.call_id)), "{both:#?}");
        let shown = site.sipctl(&["call", &calling.call_id], "")?;
        ensure!(shown.contains(&format!("*9{number}@example.com: answered")) && shown.contains("leg "), "{shown}");
    }
    Ok(())
}

/// While they talk: who was called through a media node is in a call, which is one call.
fn check_view(site: &Site, callee: &str, call_id: &str) -> Result<()> {
    let calls = |user: &str| -> Result<Vec<serde_json::Value>> {
        let shown = site.sipctl(&["--json", "calls", "--subscriber", &format!("{user}@{DOMAIN}")], "")?;
        let calls: Vec<serde_json::Value> = serde_json::from_str(&shown)?;
        Ok(calls.into_iter().filter(|call| call["state"] == "answered").collect())
    };
    let of_callee = until("the leg in the view", SOON, || Ok::<_, anyhow::Error>(calls(callee)?.pop()))
        .with_context(|| format!("{:?} {:#?}", site.sipctl(&["--json", "calls"], ""), events(site, call_id)))?;
    ensure!(of_callee["leg_of"] == call_id && of_callee["call_id"] != call_id, "{of_callee}");
    let of_caller = calls("alice")?;
    let is_call = |call: &&serde_json::Value| call["leg_of"] == "" && call["call_id"] == call_id;
    ensure!(of_caller.iter().filter(is_call).count() == 1, "{of_caller:?}");
    let counts = site.sipctl(&["--json", "calls", "--count"], "")?;
    let counts: Vec<serde_json::Value> = serde_json::from_str(&counts)?;
    ensure!(counts.iter().filter_map(|node| node["calls"].as_u64()).sum::<u64>() == 1, "{counts:?}");
    Ok(())
}

fn echo(site: &Site) -> Result<()> {
    let nodes = Nodes::start(site, 1)?;
    let [balancer, _] = nodes.load_balancers()?;
    for number in ["*43", "*43@rooms.example.com"] {
        let mut caller = Phone::new(Agent::udp(balancer)?, "alice")?;
        caller.invite(number, &[])?;
        let calling = caller.answered().with_context(|| nodes.logs())?;
        caller.audio.hears(&calling, caller.audio.level).with_context(|| nodes.logs())?;
        caller.hang_up(&calling)?;
        until_over(site, "alice", &calling.call_id, "answered")?;
    }
    let mut caller = Phone::new(Agent::udp(balancer)?, "alice")?;
    let invite = caller.invite("*43@roomsXexample.com", &[])?;
    let refusal = caller.refused(&invite)?;
    ensure!(status(&refusal) == Some(404), "{refusal}");
    Ok(())
}

fn busy(site: &Site) -> Result<()> {
    let nodes = Nodes::start(site, 1)?;
    let [first, second] = nodes.load_balancers()?;
    let mut caller = Phone::new(Agent::udp(first)?, "alice")?;
    let mut callee = Phone::registered(Agent::udp(second)?, "1003")?;
    let invite = caller.invite("*91003", &[])?;
    let received = callee.sip.receive_request("INVITE").with_context(|| nodes.logs())?;
    callee.sip.send(&common::sip::response(&received, "486 Busy Here"))?;
    callee.sip.receive_request("ACK")?;
    let refusal = caller.refused(&invite)?;
    ensure!(status(&refusal) == Some(486), "{refusal}");
    for user in ["alice", "1003"] {
        let call = until_over(site, user, headers(&invite, "Call-ID")[0], "busy")?;
        ensure!(call["code"] == 486, "{user}: {call}");
    }
    Ok(())
}

fn forged(site: &Site) -> Result<()> {
    let nodes = Nodes::start(site, 1)?;
    let [first, second] = nodes.load_balancers()?;
    let mut callee = Phone::registered(Agent::udp(second)?, "bob")?;
    let forged = "X-Call: somebody-elses";
    for number in ["bob", "*43"] {
        let mut caller = Phone::new(Agent::udp(first)?, "alice")?;
        caller.invite(number, &[forged])?;
        if number == "bob" {
            let (invite, _) = callee.answer().with_context(|| nodes.logs())?;
            ensure!(headers(&invite, "X-Call").is_empty(), "{invite}");
        }
        let calling = caller.answered().with_context(|| nodes.logs())?;
        if number == "bob" {
            callee.acknowledged()?;
            caller.say_bye(&calling)?;
            callee.hung_up()?;
            caller.bye_answered()?;
        } else {
            caller.hang_up(&calling)?;
        }
        until_over(site, "alice", &calling.call_id, "answered")?;
    }
    ensure!(events(site, "somebody-elses").is_err(), "{:?}", events(site, "somebody-elses"));
    Ok(())
}

fn dispatcher_killed(site: &Site) -> Result<()> {
    let mut nodes = Nodes::of(site.roles(2), 1)?;
    let [first, second] = nodes.load_balancers()?;
    let mut caller = Phone::new(Agent::udp(first)?, "alice")?;
    let mut callee = Phone::registered(Agent::udp(second)?, "1005")?;
    caller.invite("*91005", &[])?;
    let (_, called) = callee.answer().with_context(|| nodes.logs())?;
    let calling = caller.answered()?;
    callee.acknowledged()?;
    let leg = until("the answer of the leg", SOON, || -> Result<Option<serde_json::Value>> {
        let is_answer = |event: &serde_json::Value| event["event"] == "call-start" && event["leg"] == called.call_id;
        Ok(events(site, &calling.call_id)?.into_iter().find(is_answer))
    })?;
    let dispatchers = nodes.topology.of(Role::Dispatcher).len();
    let dead = (0..dispatchers).find(|index| leg["node"] == format!("dispatcher-{}", index + 1)).context("no node")?;
    nodes.topology.kill(Role::Dispatcher, dead)?;
    callee.hang_up(&called).with_context(|| nodes.logs())?;
    let call = until_over(site, "1005", &calling.call_id, "answered")?;
    ensure!(call["ended_by"] == "callee" && call["node"] != leg["node"], "{call}");
    Ok(())
}

fn killed(site: &Site) -> Result<()> {
    let mut nodes = Nodes::start(site, 2)?;
    let [first, second] = nodes.load_balancers()?;
    let mut caller = Phone::new(Agent::udp(first)?, "alice")?;
    let mut callee = Phone::registered(Agent::udp(second)?, "1004")?;
    let mut others = [Phone::new(Agent::udp(first)?, "alice")?, Phone::new(Agent::udp(first)?, "alice")?];
    caller.invite("*91004", &[])?;
    callee.answer().with_context(|| nodes.logs())?;
    let calling = caller.answered()?;
    callee.acknowledged()?;
    let load = phone(first, "uac_until_bye.xml", "bob").key("callee", format!("*43@{DOMAIN}"));
    let load = load.calls(LOAD).rate(50.0).timeout(LOAD_LIMIT).arg("-recv_timeout").arg("15000").spawn()?;
    until("half of the load", SOON, || active(site, "bob").is_ok_and(|calls| calls >= LOAD as usize / 2))?;
    let dead = nodes.media.iter().position(|node| calling.media.ip() == *node.address().ip()).context("no node")?;
    nodes.media[dead].kill()?;
    let death = SystemTime::now();
    let alive = *nodes.media[1 - dead].address().ip();
    for other in &mut others {
        other.invite("*43", &[])?;
        let talking = other.answered().with_context(|| nodes.logs())?;
        ensure!(talking.media.ip() == alive, "{}", talking.media);
        other.audio.hears(&talking, other.audio.level)?;
        other.hang_up(&talking)?;
    }
    for (phone, who) in [(&mut caller, "the caller"), (&mut callee, "the callee")] {
        let bye =
            phone.sip.receive_within(ENDED)?.with_context(|| format!("{who} was told nothing\n{}", nodes.logs()))?;
        ensure!(bye.starts_with("BYE "), "{bye}");
        phone.sip.send(&common::sip::response(&bye, "200 OK"))?;
    }
    for user in ["alice", "1004"] {
        let call = until_over(site, user, &calling.call_id, "lost")?;
        ensure!(call["reason"] == "its media node is gone", "{user}: {call}");
    }
    check_load(site, &calls_of(&load.wait()?)?, death).with_context(|| nodes.logs())
}

/// Answered calls that are under way.
fn active(site: &Site, user: &str) -> Result<usize> {
    let shown = site.sipctl(&["--json", "calls", "--subscriber", &format!("{user}@{DOMAIN}")], "")?;
    Ok(shown.matches("\"answered\"").count())
}

/// Every call of bob's load has ended: by himself, or by us when its media node was gone, and is recorded so. Lost are, besides, at
/// most those that were being set up at the death.
fn check_load(site: &Site, calls: &BTreeMap<String, Call>, death: SystemTime) -> Result<()> {
    ensure!(calls.len() as u64 == LOAD, "{} calls were begun", calls.len());
    let unexplained: Vec<&Call> =
        calls.values().filter(|call| !call.answered && !call.was_being_set_up(death)).collect();
    ensure!(unexplained.is_empty(), "{unexplained:?} were not being set up at {death:?}");
    let hanging: Vec<_> = calls.iter().filter(|(_, call)| call.answered && !call.ended && !call.was_ended).collect();
    ensure!(hanging.is_empty(), "{hanging:?} did not end");
    let (lost, others): (Vec<_>, Vec<_>) =
        calls.iter().filter(|(_, call)| call.answered).partition(|(_, call)| call.was_ended);
    println!("{} calls went on, {} were lost with their media node", others.len(), lost.len());
    ensure!(!lost.is_empty() && !others.is_empty(), "all calls were at one media node");
    let is_recorded = || -> Result<bool> {
        let listed = history(site, "bob")?;
        let recorded: BTreeMap<&str, &str> =
            listed.iter().filter_map(|call| Some((call["call_id"].as_str()?, call["disposition"].as_str()?))).collect();
        let as_recorded = |(call_id, call): &(&String, &Call)| {
            recorded.get(call_id.as_str()) == Some(if call.was_ended { &"lost" } else { &"answered" })
        };
        Ok(lost.iter().chain(&others).all(as_recorded))
    };
    until("all of them in the list as they ended", SOON, || is_recorded().is_ok_and(|is| is))?;
    Ok(())
}

fn none(site: &Site) -> Result<()> {
    let nodes = Nodes::start(site, 0)?;
    let [first, second] = nodes.load_balancers()?;
    let mut caller = Phone::new(Agent::udp(first)?, "alice")?;
    let invite = caller.invite("*43", &[])?;
    let refusal = caller.refused(&invite)?;
    ensure!(status(&refusal) == Some(503), "{refusal}");
    let mut callee = Phone::registered(Agent::udp(second)?, "carol")?;
    caller.invite("carol", &[])?;
    callee.answer().with_context(|| nodes.logs())?;
    caller.answered()?;
    callee.acknowledged()
}

fn wrong_rules(site: &Site) -> Result<()> {
    let list = RunDir::new("media-list")?;
    let file = list.write("dispatcher.list", "5 sip:127.0.0.1:5060\n")?;
    for setting in ["MEDIA_NUMBERS", "MEDIA_DOMAINS", "MEDIA_ROOMS"] {
        let config = site.script("kamailio-cfg/dispatcher.cfg").env("NONCE_SECRET", "any");
        let config = config.env("DISPATCHER_LIST", file.display()).env(setting, "[wrong");
        let log = Kamailio::start_expecting_failure(config)?;
        ensure!(log.contains("Bad regular expression \"[wrong\""), "{setting}: {log}");
    }
    Ok(())
}
