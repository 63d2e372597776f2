//! Calls that the module dialog manages are recorded by themselves, and seen on all nodes while they are under way.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::calls::{events, listed, names, until_stored};
use common::sip::{self, Agent, Talk, headers, status, with_lines};
use common::{DOMAIN, Site, phone, run, statistic};
use lab::kamailio::{Config, Kamailio};
use lab::process::{Signal, signal};
use lab::wait::until;
use serde_json::{Value, json};

const SCRIPT: &str = "tests/cfg/dialogs.cfg";
const SOON: Duration = Duration::from_secs(20);
/// Within these many seconds a call of a node that is gone is not counted any more.
const INTERVAL: u64 = 4;

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob", "carol"],
        &[
            ("a_dialog_is_recorded_from_its_attempt_to_its_end", answered),
            ("a_dialog_that_is_not_answered_is_recorded_with_who_ended_it", not_answered),
            ("a_dialog_that_nobody_ends_expires", expired),
            ("legs_with_one_call_id_are_one_call", legs),
            ("a_dialog_module_without_callbacks_is_refused", without_callbacks),
            ("a_subscriber_has_no_more_calls_than_max_calls", limited),
            ("the_all_in_one_configuration_limits_calls_when_it_is_told_to", limited_in_all_in_one),
            ("calls_under_way_are_seen_on_all_nodes", seen),
            ("calls_of_a_killed_node_are_not_counted_after_an_interval_and_lost_once", killed),
            ("a_restarted_node_takes_its_calls_up_again", restarted),
            ("a_call_that_ended_on_another_node_is_gone", ended_elsewhere),
        ],
    )
}

fn parameter(name: &str, value: impl ToString) -> String {
    format!("modparam(\"cassandra\", \"{name}\", {})\n", value.to_string())
}

/// A node of this name that tells of its calls often.
fn node(site: &Site, name: &str) -> Result<Kamailio> {
    site.connected(node_config(site, name)?)
}

fn node_config(site: &Site, name: &str) -> Result<Config> {
    let settings = parameter("call_interval", INTERVAL) + &parameter("node_name", format!("\"{name}\""));
    site.with_settings(SCRIPT, &settings)
}

fn aor(user: &str) -> String {
    format!("{user}@{DOMAIN}")
}

/// The calls under way, as sipctl shows them.
fn under_way(site: &Site, options: &[&str]) -> Result<Vec<Value>> {
    let arguments: Vec<&str> = ["--json", "calls"].iter().chain(options).copied().collect();
    Ok(serde_json::from_str(&site.sipctl(&arguments, "")?)?)
}

fn until_none_is_under_way(site: &Site) -> Result<()> {
    until("the end of all calls", SOON, || under_way(site, &[]).is_ok_and(|calls| calls.is_empty()))
}

fn answered(site: &Site) -> Result<()> {
    site.sipctl(&["subscriber", "set", &aor("bob"), "--account", "acme"], "")?;
    let kamailio = site.connected(site.script(SCRIPT))?;
    for (callee_hangs_up, who) in [(false, "caller"), (true, "callee")] {
        let lines = ["X-Trunk: blue", "X-Queue: sales", "X-Account: duck", "User-Agent: phone 1"];
        let mut talk = Talk::begin(&kamailio, "alice", "bob", &lines)?;
        let call_id = talk.call_id().to_owned();
        talk.request("INVITE", true)?;
        talk.request("OPTIONS", false)?;
        talk.hang_up(callee_hangs_up)?;
        let found = until_stored(site, &call_id, 5).with_context(|| kamailio.log())?;
        let expected = ["call-attempt", "call-early", "call-start", "call-reinvite", "call-end"];
        ensure!(names(&found) == expected, "{found:#?}");
        let attempt = &found[0];
        ensure!(attempt["caller"] == aor("alice") && attempt["callee"] == aor("bob"), "{attempt}");
        ensure!(
            attempt["account"] == "duck" && attempt["extra"] == json!({"queue": "sales", "trunk": "blue"}),
            "{attempt}"
        );
        ensure!(attempt["user_agent"] == "phone 1" && found[2]["user_agent"] == "answering machine", "{found:#?}");
        ensure!(found[1]["code"] == 180 && found[2]["code"] == 200 && found[2]["reason"] == "OK", "{found:#?}");
        ensure!(found[3]["method"] == "INVITE" && found[4]["ended_by"] == who && found[4]["code"] == 200, "{found:#?}");
        ensure!(attempt["source"].as_str().is_some_and(|source| source.starts_with("sip:127.")), "{attempt}");
        for (user, account) in [("alice", ""), ("bob", "acme")] {
            let call = until("the end in the list", SOON, || -> Result<Option<Value>> {
                Ok(listed(site, user, &call_id)?.filter(|call| call["disposition"] == "answered"))
            })?;
            ensure!(call["ended_by"] == who && call["account"] == account, "{call}");
            ensure!(call["ringing"].is_string() && call["answered"].is_string() && call["ended"].is_string(), "{call}");
        }
    }
    ensure!(site.count("call_by_account")? == 4, "two calls, each of two accounts");
    until_none_is_under_way(site)
}

fn not_answered(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.script(SCRIPT))?;
    for (what, code, ended_by, disposition) in [
        ("busy", 486, "callee", "busy"),
        ("cancelled", 487, "caller", "cancelled"),
        ("silent", 408, "server", "noanswer"),
        ("refused", 403, "server", "failed"),
    ] {
        let call_id = fail(&kamailio, what)?;
        let found = until("the end", SOON, || -> Result<Option<Vec<Value>>> {
            let found = events(site, &call_id).unwrap_or_default();
            Ok(names(&found).contains(&"call-failed").then_some(found))
        })
        .with_context(|| kamailio.log())?;
        let end = found.last().context("no end")?;
        ensure!(found.len() <= 3 && end["event"] == "call-failed", "{what}: {found:#?}");
        ensure!(end["code"] == code && end["ended_by"] == ended_by, "{what}: {end}");
        let call = until("the end in the list", SOON, || -> Result<Option<Value>> {
            Ok(listed(site, "alice", &call_id)?.filter(|call| call["disposition"] == disposition))
        })?;
        ensure!(call["duration_ms"] == 0 && call["answered"].is_null(), "{what}: {call}");
    }
    until_none_is_under_way(site)
}

/// A call of alice to bob that does not come about. Returns its Call-ID.
fn fail(kamailio: &Kamailio, what: &str) -> Result<String> {
    let (mut caller, mut callee) = (Agent::udp(kamailio)?, Agent::udp(kamailio)?);
    let user = if what == "refused" { "refused" } else { "bob" };
    let contact = caller.contact("alice", "");
    let invite = caller.request("INVITE", &callee.uri_of(user), "alice", "bob", &[&contact, "X-Queue: sales"]);
    caller.send(&invite)?;
    if what != "refused" {
        let received = callee.receive_request("INVITE")?;
        match what {
            "busy" => callee.send(&sip::response(&received, "486 Busy Here"))?,
            "cancelled" => {
                callee.send(&sip::response(&received, "180 Ringing"))?;
                while status(&caller.receive()?) != Some(180) {}
                caller.send(&sip::cancel(&invite))?;
                let cancel = callee.receive_request("CANCEL")?;
                callee.send(&sip::response(&cancel, "200 OK"))?;
                callee.send(&sip::response(&received, "487 Request Terminated"))?;
                ensure!(caller.final_response()?.contains("CANCEL"), "the CANCEL has no answer");
            }
            _ => {} // silent
        }
    }
    let refusal = caller.final_response()?;
    caller.send(&sip::ack(&invite, &refusal))?;
    if what == "refused" {
        let call_id = headers(&invite, "Call-ID")[0];
        ensure!(headers(&refusal, "X-Call")[0] == format!("{call_id} sales <null>"), "{refusal}");
    }
    Ok(headers(&invite, "Call-ID")[0].to_owned())
}

fn expired(site: &Site) -> Result<()> {
    for send_bye in [0, 1] {
        let settings =
            format!("modparam(\"dialog\", \"default_timeout\", 2)\nmodparam(\"dialog\", \"send_bye\", {send_bye})");
        let kamailio = site.connected(site.with_settings(SCRIPT, &settings)?)?;
        let talk = Talk::begin(&kamailio, "alice", "bob", &[])?;
        let found = until_stored(site, talk.call_id(), 4).with_context(|| kamailio.log())?;
        ensure!(names(&found)[3] == "call-expired" && found[3]["ended_by"] == "server", "{found:#?}");
        let call = until("the end in the list", SOON, || -> Result<Option<Value>> {
            Ok(listed(site, "bob", talk.call_id())?.filter(|call| call["disposition"] == "expired"))
        })?;
        ensure!(call["duration_ms"].as_i64().is_some_and(|length| (1000..10_000).contains(&length)), "{call}");
    }
    until_none_is_under_way(site)
}

fn legs(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.script(SCRIPT))?;
    for (caller, callee) in [("alice", "carol"), ("carol", "bob")] {
        Talk::begin(&kamailio, caller, callee, &["X-Call: the-call"])?.hang_up(false)?;
    }
    let found = until_stored(site, "the-call", 8).with_context(|| kamailio.log())?;
    let legs: std::collections::BTreeSet<_> = found.iter().map(|event| event["leg"].to_string()).collect();
    ensure!(legs.len() == 2, "{found:#?}");
    let ladder = site.sipctl(&["call", "the-call"], "")?;
    ensure!(ladder.contains("alice@example.com -> carol@example.com: answered") && ladder.contains("leg "), "{ladder}");
    let csv = site.sipctl(&["--csv", "call", "the-call"], "")?;
    ensure!(csv.lines().count() == 9 && csv.starts_with("time,event,call_id,leg,"), "{csv}");
    Ok(())
}

fn without_callbacks(site: &Site) -> Result<()> {
    let settings = "modparam(\"dialog\", \"initial_cbs_inscript\", 0)\n";
    let log = Kamailio::start_expecting_failure(site.with_settings(SCRIPT, settings)?)?;
    ensure!(log.contains("dialog's parameter initial_cbs_inscript is 0"), "{log}");
    let kamailio =
        site.connected(site.with_settings(SCRIPT, &(settings.to_owned() + &parameter("call_dialogs", 0)))?)?;
    Talk::begin(&kamailio, "alice", "bob", &[])?.hang_up(false)?;
    ensure!(statistic(&kamailio, "call_events")? == 0, "recorded");
    Ok(())
}

fn limited(site: &Site) -> Result<()> {
    site.sipctl(&["subscriber", "set", &aor("carol"), "--max-calls", "1"], "")?;
    let kamailio = site.connected(site.script(SCRIPT))?;
    let first = Talk::begin(&kamailio, "carol", "bob", &[])?;
    until("the call", SOON, || under_way(site, &["--subscriber", &aor("carol")]).is_ok_and(|calls| calls.len() == 1))?;
    let mut caller = Agent::udp(&kamailio)?;
    let invite = |caller: &Agent| {
        let contact = caller.contact("carol", "");
        caller.request("INVITE", &caller.uri_of("bob"), "carol", "bob", &[&contact])
    };
    let second = invite(&caller);
    let refusal = caller.ask(&second)?;
    ensure!(status(&refusal) == Some(403) && headers(&refusal, "X-Calls") == ["1 of 1"], "{refusal}");
    caller.send(&sip::ack(&second, &refusal))?;
    first.hang_up(true)?;
    until_none_is_under_way(site)?;
    Talk::begin(&kamailio, "carol", "bob", &[])?.hang_up(false)?;
    site.sipctl(&["subscriber", "set", &aor("carol"), "--max-calls", "0"], "")?;
    until_none_is_under_way(site)
}

fn limited_in_all_in_one(site: &Site) -> Result<()> {
    site.sipctl(&["subscriber", "set", &aor("carol"), "--max-calls", "1"], "")?;
    let elsewhere = site.connected(site.script(SCRIPT))?;
    let kamailio = site.connected(site.all_in_one().env("CHECK_MAX_CALLS", 1))?;
    let callee = || phone(&kamailio, "invite_expect_404.xml", "carol").key("callee", aor("nobody"));
    run(&kamailio, callee())?;
    let talk = Talk::begin(&elsewhere, "carol", "bob", &[])?;
    until("the call", SOON, || under_way(site, &["--subscriber", &aor("carol")]).is_ok_and(|calls| calls.len() == 1))?;
    run(&kamailio, phone(&kamailio, "invite_expect_403.xml", "carol").key("callee", aor("nobody")))?;
    talk.hang_up(false)?;
    until_none_is_under_way(site)?;
    run(&kamailio, callee())?;
    site.sipctl(&["subscriber", "set", &aor("carol"), "--max-calls", "0"], "").map(drop)
}

fn seen(site: &Site) -> Result<()> {
    site.sipctl(&["subscriber", "set", &aor("alice"), "--account", "acme"], "")?;
    let nodes = [node(site, "one")?, node(site, "two")?];
    let mut talks = vec![Talk::begin(&nodes[0], "alice", "bob", &[])?];
    for _ in 0..2 {
        talks.push(Talk::begin(&nodes[1], "carol", "carol", &[])?);
    }
    let all = |count: usize| under_way(site, &[]).is_ok_and(|calls| calls.len() == count);
    until("the calls", SOON, || all(3))?;
    for (options, count) in [
        (vec!["--node", "one"], 1),
        (vec!["--node", "two"], 2),
        (vec!["--dc", "dc1"], 3),
        (vec!["--dc", "dc2"], 0),
        (vec!["--account", "acme"], 1),
        (vec!["--subscriber", "bob@example.com"], 1),
        (vec!["--subscriber", "carol@example.com", "--node", "one"], 0),
    ] {
        let found = under_way(site, &options)?;
        ensure!(found.len() == count, "{options:?}: {found:#?}");
    }
    let first = &under_way(site, &["--node", "one"])?[0];
    ensure!(
        first["state"] == "answered" && first["caller"] == aor("alice") && first["callee"] == aor("bob"),
        "{first}"
    );
    ensure!(first["account"] == "acme" && first["dc"] == "dc1" && first["call_id"] == talks[0].call_id(), "{first}");
    ensure!(
        site.sipctl(&["calls"], "")?.starts_with("3 calls: dc1 one 1, dc1 two 2"),
        "{}",
        site.sipctl(&["calls"], "")?
    );
    ensure!(site.sipctl(&["--csv", "calls", "--count"], "")? == "dc,node,calls\ndc1,one,1\ndc1,two,2\n", "CSV");
    let told = nodes[0].rpc("cassandra.calls", json!(["node=two", "limit=1"]))?;
    ensure!(told["total"] == 2 && told["calls"].as_array().is_some_and(|calls| calls.len() == 1), "{told}");
    let counts = nodes[1].rpc("cassandra.calls_count", json!([]))?;
    ensure!(counts["total"] == 3 && counts["nodes"][1] == json!({"dc": "dc1", "node": "two", "calls": 2}), "{counts}");
    let wrong = nodes[0].rpc("cassandra.calls", json!(["bogus"])).expect_err("not understood").to_string();
    ensure!(wrong.contains("400") && wrong.contains("bogus"), "{wrong}");
    // Longer than a row would be counted if its owner did not tell of it again.
    std::thread::sleep(Duration::from_secs(INTERVAL * 2));
    ensure!(all(3), "they are not refreshed");
    talks.into_iter().try_for_each(|talk| talk.hang_up(false))?;
    until_none_is_under_way(site)
}

/// SIGKILL to all processes of a node.
fn kill(node: &Kamailio) -> Result<()> {
    node.pids().into_iter().try_for_each(|pid| signal(pid, Signal::KILL))?;
    until("the end of all processes", SOON, || node.pids().is_empty())
}

fn killed(site: &Site) -> Result<()> {
    let nodes = [node(site, "red")?, node(site, "green")?, node(site, "blue")?];
    let mut talks = Vec::new();
    for (node, calls) in nodes.iter().zip([2, 1, 0]) {
        for _ in 0..calls {
            talks.push(Talk::begin(node, "alice", "bob", &[])?);
        }
    }
    until("the calls", SOON, || under_way(site, &[]).is_ok_and(|calls| calls.len() == 3))?;
    kill(&nodes[0])?;
    std::thread::sleep(Duration::from_secs(INTERVAL));
    let counts = site.sipctl(&["--csv", "calls", "--count"], "")?;
    ensure!(counts == "dc,node,calls\ndc1,green,1\n", "an interval later: {counts}");
    for talk in &talks[..2] {
        let found = until_stored(site, talk.call_id(), 4).with_context(|| nodes[1].log())?;
        ensure!(names(&found)[3] == "call-lost" && found[3]["node"] == "red", "{found:#?}");
        let call = until("the end in the list", SOON, || -> Result<Option<Value>> {
            Ok(listed(site, "alice", talk.call_id())?.filter(|call| call["disposition"] == "lost"))
        })?;
        ensure!(call["node"] == "red", "{call}");
    }
    // Whoever else noticed has written the same event.
    std::thread::sleep(Duration::from_secs(INTERVAL * 2));
    for talk in &talks[..2] {
        until_stored(site, talk.call_id(), 4)?;
    }
    let lost: u64 = nodes[1..].iter().map(|node| statistic(node, "call_events").unwrap_or_default()).sum();
    eprintln!("two calls were lost, {} events say so", lost - 3);
    let last = talks.pop().context("no call")?;
    last.hang_up(false)?;
    until_none_is_under_way(site)
}

fn restarted(site: &Site) -> Result<()> {
    let mut before = node(site, "again")?;
    let talk = Talk::begin(&before, "alice", "bob", &[])?;
    let call_id = talk.call_id().to_owned();
    let address = before.address();
    until("the call", SOON, || under_way(site, &[]).is_ok_and(|calls| calls.len() == 1))?;
    let stored = until_stored(site, &call_id, 3)?;
    before.stop()?;
    let mut config = node_config(site, "again")?;
    (config.address, config.port) = (*address.ip(), address.port());
    config.env.retain(|(name, _)| name != "SIP_ADDR");
    let after = site.connected(config)?;
    until("the sentence", SOON, || after.log().contains("1 calls that were under way before are this node's again"))
        .with_context(|| after.log())?;
    std::thread::sleep(Duration::from_secs(INTERVAL * 2));
    ensure!(under_way(site, &["--node", "again"])?.len() == 1, "the call is not this node's again");
    talk.hang_up(true)?;
    let found = until_stored(site, &call_id, 4)?;
    ensure!(names(&found)[3] == "call-end" && found[2] == stored[2], "{found:#?}");
    let call = until("the end in the list", SOON, || -> Result<Option<Value>> {
        Ok(listed(site, "alice", &call_id)?.filter(|call| call["disposition"] == "answered"))
    })?;
    let least = i64::try_from(INTERVAL * 2000)?;
    ensure!(call["duration_ms"].as_i64().is_some_and(|length| length >= least), "{call}");
    ensure!(call["ended_by"] == "callee" && call["answered"] == found[2]["time"], "{call}");
    until_none_is_under_way(site)
}

fn ended_elsewhere(site: &Site) -> Result<()> {
    let nodes = [node(site, "left")?, node(site, "right")?];
    let talk = Talk::begin(&nodes[0], "alice", "bob", &[])?;
    until("the call", SOON, || under_way(site, &[]).is_ok_and(|calls| calls.len() == 1))?;
    // The BYE takes another way, as when the node of the Record-Route does not answer.
    let mut phone = Agent::udp(&nodes[1])?;
    let bye = with_lines(
        &phone.request("BYE", &phone.uri_of("phone"), "alice", "bob", &[]),
        &format!("Route: <sip:{};lr>", nodes[1].address()),
    );
    let own_id = headers(&bye, "Call-ID")[0].to_owned();
    let to = headers(&bye, "To")[0].to_owned();
    let bye = bye.replace(&own_id, talk.call_id()).replace(&to, &format!("{to};tag=agent"));
    phone.send(&bye)?;
    phone.receive_request("BYE")?;
    until_none_is_under_way(site)?;
    std::thread::sleep(Duration::from_secs(INTERVAL * 2));
    ensure!(under_way(site, &[])?.is_empty(), "its owner brought it back");
    let found = until_stored(site, talk.call_id(), 4)?;
    ensure!(names(&found)[3] == "call-end" && found[3]["node"] == "right", "{found:#?}");
    Ok(())
}
