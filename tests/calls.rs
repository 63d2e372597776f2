//! Calls are recorded: every event once, whatever happens to Cassandra, to the I/O process, to the disk.

mod common;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::calls::{listed, names, until_stored};
use common::sip::{self, Agent, Talk, headers};
use common::{DOMAIN, PASSWORD, Site, phone, run, statistic};
use lab::RunDir;
use lab::kamailio::{Config, Kamailio};
use lab::process::Signal;
use lab::sipp::{Running, Sipp};
use lab::wait::until;
use serde_json::{Value, json};

const SCRIPT: &str = "tests/cfg/calls.cfg";
const SOON: Duration = Duration::from_secs(20);
/// As long as it takes to write what has gathered.
const REPLAYED: Duration = Duration::from_secs(120);
/// Events of a call to somebody who is busy.
const BUSY_EVENTS: u64 = 2;

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob", "carol"],
        &[
            ("a_call_is_recorded_from_its_attempt_to_its_end", answered),
            ("a_call_to_somebody_busy_is_recorded_as_failed", busy),
            ("a_value_cannot_be_taken_for_more_than_one", injection),
            ("events_without_a_name_or_with_unknown_variables_are_refused", refused),
            ("the_log_has_each_event_as_json", logged),
            ("a_call_that_nobody_ends_expires", expired),
            ("cassandra_stopped_for_60_s_under_100_calls_a_second_loses_and_doubles_nothing", outage),
            ("the_io_process_killed_loses_no_accepted_event", io_killed),
            ("a_stop_with_events_pending_loses_none", stopped_with_pending),
            ("a_full_disk_loses_nothing_that_was_accepted", full_disk),
            ("two_kamailios_on_one_host_record_side_by_side", side_by_side),
        ],
    )
}

fn with_state(site: &Site, dir: &Path, settings: &str) -> Result<Config> {
    let state = format!("modparam(\"cassandra\", \"state_dir\", \"{}\")\n{settings}", dir.display());
    site.with_settings(SCRIPT, &state)
}

fn answered(site: &Site) -> Result<()> {
    site.sipctl(&["subscriber", "set", &format!("alice@{DOMAIN}"), "--account", "acme"], "")?;
    let kamailio = site.connected(site.script(SCRIPT))?;
    for (callee_hangs_up, who) in [(false, "caller"), (true, "callee")] {
        let talk = Talk::begin(&kamailio, "alice", "bob", &["X-Trunk: blue; k=v"])?;
        let call_id = talk.call_id().to_owned();
        talk.hang_up(callee_hangs_up)?;
        let found = until_stored(site, &call_id, 4).with_context(|| kamailio.log())?;
        ensure!(names(&found) == ["call-attempt", "call-early", "call-start", "call-end"], "{found:?}");
        ensure!(
            found[0]["caller"] == format!("alice@{DOMAIN}") && found[0]["callee"] == format!("bob@{DOMAIN}"),
            "{found:?}"
        );
        ensure!(found[0]["extra"] == json!({"trunk": "blue; k=v"}), "{:?}", found[0]);
        ensure!(found[1]["code"] == 180 && found[2]["code"] == 200 && found[2]["reason"] == "OK", "{found:?}");
        ensure!(found[0]["dc"] == "dc1" && found[0]["leg"] == call_id.as_str(), "{:?}", found[0]);
        for (user, direction, peer, account) in [("alice", "outbound", "bob", "acme"), ("bob", "inbound", "alice", "")]
        {
            let call = until("the end in the list", SOON, || -> Result<Option<Value>> {
                Ok(listed(site, user, &call_id)?.filter(|call| call["disposition"] == "answered"))
            })?;
            ensure!(call["direction"] == direction && call["peer"] == format!("{peer}@{DOMAIN}"), "{call}");
            ensure!(call["ended_by"] == who && call["account"] == account, "{call}");
            ensure!(call["duration_ms"].as_i64().is_some_and(|length| (0..20_000).contains(&length)), "{call}");
            ensure!(call["answered"].is_string() && call["ended"].is_string(), "{call}");
        }
        let by_account = site.count("call_by_account")?;
        ensure!(by_account == 1 + u64::from(callee_hangs_up), "{by_account} calls of the account");
        let told = kamailio.rpc("cassandra.call", json!([call_id]))?;
        ensure!(told["events"].as_array().is_some_and(|events| events.len() == 4), "{told}");
    }
    let unknown = kamailio.rpc("cassandra.call", json!(["no-such-call"])).expect_err("unknown").to_string();
    ensure!(unknown.contains("404") && unknown.contains("no-such-call"), "{unknown}");
    Ok(())
}

fn busy(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.script(SCRIPT))?;
    let mut caller = Agent::udp(&kamailio)?;
    let call_id = call_busy(&mut caller, "carol", &[])?;
    let found = until_stored(site, &call_id, 2)?;
    ensure!(names(&found) == ["call-attempt", "call-failed"], "{found:?}");
    let call = until("the end in the list", SOON, || -> Result<Option<Value>> {
        Ok(listed(site, "carol", &call_id)?.filter(|call| call["disposition"] == "busy"))
    })?;
    ensure!(call["code"] == 486 && call["duration_ms"] == 0 && call["answered"].is_null(), "{call}");
    Ok(())
}

/// A call that Kamailio answers with 486. Returns its Call-ID.
fn call_busy(caller: &mut Agent, user: &str, lines: &[&str]) -> Result<String> {
    let contact = caller.contact(user, "");
    let mut all = vec![contact.as_str()];
    all.extend(lines);
    let invite = caller.request("INVITE", &format!("sip:busy@{DOMAIN}"), user, "busy", &all);
    let answer = caller.ask(&invite)?;
    ensure!(sip::status(&answer) == Some(486), "{answer}");
    caller.send(&sip::ack(&invite, &answer))?;
    Ok(headers(&invite, "Call-ID")[0].to_owned())
}

fn injection(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.script(SCRIPT))?;
    let mut caller = Agent::udp(&kamailio)?;
    let evil = "X-Queue: one;caller=mallory@example.com;code=200";
    let call_id = call_busy(&mut caller, "alice", &[evil])?;
    let found = until_stored(site, &call_id, 2)?;
    ensure!(found[0]["caller"] == format!("alice@{DOMAIN}") && found[0].get("code").is_none(), "{:?}", found[0]);
    ensure!(found[0]["extra"]["queue"] == "one;caller=mallory@example.com;code=200", "{:?}", found[0]);
    // What is too long for a table is cut, and nothing of it stays behind.
    let call_id = call_busy(&mut caller, "alice", &[&format!("X-Queue: {}", "long ".repeat(2000))])?;
    let found = until_stored(site, &call_id, 2)?;
    ensure!(found[0]["extra"]["queue"].as_str().is_some_and(|queue| queue.len() == 1024), "{:?}", found[0]);
    until_all_written(&kamailio)
}

fn refused(site: &Site) -> Result<()> {
    for (place, text, sentence) in [
        ("\"queue=$hdr(X-Queue)\"", "\"queue=$nonsense(x)\"", "there is no variable '$nonsense(x)' (for queue)"),
        ("\"queue=$hdr(X-Queue)\"", "\"$hdr(X-Queue)\"", "must be name=$variable or name=text"),
        ("\"trunk=$hdr(X-Trunk)\"", "\"trunk\"", "parameter call_extra is 'trunk'"),
    ] {
        let log = Kamailio::start_expecting_failure(site.changed(SCRIPT, place, text)?)?;
        ensure!(log.contains(sentence), "no '{sentence}' in:\n{log}");
    }
    let kamailio = site.connected(site.changed(SCRIPT, "\"call-attempt\",", "\"$avp(none)\",")?)?;
    call_busy(&mut Agent::udp(&kamailio)?, "alice", &[])?;
    until("the sentence", SOON, || kamailio.log().contains("is no name of an event"))
        .with_context(|| kamailio.log())?;
    ensure!(statistic(&kamailio, "call_events")? == 1, "only the second event has a name");
    Ok(())
}

fn logged(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.with_settings(SCRIPT, "modparam(\"cassandra\", \"call_log\", 1)")?)?;
    let call_id = call_busy(&mut Agent::udp(&kamailio)?, "alice", &["X-Queue: \"q\""])?;
    let lines = || -> Vec<Value> {
        let log = kamailio.log();
        let parts = log.lines().filter_map(|line| line.split_once("): call ").map(|(_, json)| json));
        parts
            .filter_map(|json| serde_json::from_str(json).ok())
            .filter(|line: &Value| line["call_id"] == call_id.as_str())
            .collect()
    };
    until("two lines", SOON, || lines().len() == 2).with_context(|| kamailio.log())?;
    let found = lines();
    ensure!(names(&found) == ["call-attempt", "call-failed"] && found[0]["extra"]["queue"] == "\"q\"", "{found:?}");
    let mut stored = until_stored(site, &call_id, 2)?;
    // The event that ends a call is logged with what became of it.
    let mut end = found[1].clone();
    let call = end.as_object_mut().and_then(|end| end.remove("call")).context("no call")?;
    ensure!(call["disposition"] == "busy" && call["duration_ms"] == 0 && call["answer"].is_null(), "{call}");
    ensure!(call["start"] == found[0]["time"] && call["end"] == end["time"], "{call}");
    stored.sort_by_key(|event| event["time"].to_string());
    ensure!(stored == [found[0].clone(), end.clone()], "{stored:#?}\nbut logged {found:#?}");
    Ok(())
}

fn expired(site: &Site) -> Result<()> {
    let settings = "modparam(\"cassandra\", \"call_interval\", 2)\nmodparam(\"cassandra\", \"call_lifetime\", 2)";
    let kamailio = site.connected(site.with_settings(SCRIPT, settings)?)?;
    let talk = Talk::begin(&kamailio, "alice", "bob", &[])?;
    let found = until_stored(site, talk.call_id(), 4).with_context(|| kamailio.log())?;
    ensure!(names(&found)[3] == "call-expired" && found[3]["reason"] == "nobody ended it", "{found:?}");
    let call = until("the end in the list", SOON, || -> Result<Option<Value>> {
        Ok(listed(site, "bob", talk.call_id())?.filter(|call| call["disposition"] == "expired"))
    })?;
    ensure!(call["duration_ms"].as_i64().is_some_and(|length| (1000..20_000).contains(&length)), "{call}");
    Ok(())
}

/// Busy calls at a rate, until [`Running::finish`].
fn traffic(kamailio: &Kamailio, rate: f64) -> Result<Running> {
    Sipp::new("invite_busy.xml")
        .target(kamailio.address())
        .users([("alice", DOMAIN, PASSWORD), ("bob", DOMAIN, PASSWORD), ("carol", DOMAIN, PASSWORD)])
        .key("callee", format!("busy@{DOMAIN}"))
        .rate(rate)
        .ignore_unexpected()
        .endless()
        .timeout(Duration::from_secs(300))
        .spawn()
}

fn captured(kamailio: &Kamailio) -> Result<u64> {
    statistic(kamailio, "call_events")
}

fn until_captured(kamailio: &Kamailio, more: u64) -> Result<()> {
    let wanted = captured(kamailio)? + more;
    until(&format!("{more} more events"), REPLAYED, || captured(kamailio).is_ok_and(|now| now >= wanted))
        .with_context(|| kamailio.log())
}

/// Waits until nothing is in memory or in the spool.
fn until_all_written(kamailio: &Kamailio) -> Result<()> {
    until("all events in Cassandra", REPLAYED, || -> Result<Option<()>> {
        let settled = statistic(kamailio, "call_events_accepted")? + statistic(kamailio, "call_events_dropped")?;
        let is_all = settled == captured(kamailio)? && statistic(kamailio, "call_events_spooled")? == 0;
        Ok(is_all.then_some(()))
    })
    .with_context(|| format!("{:?}\n{}", counters(kamailio), kamailio.log()))
}

fn counters(kamailio: &Kamailio) -> Vec<(&'static str, Option<u64>)> {
    ["call_events", "call_events_accepted", "call_events_dropped", "call_events_spooled", "call_spool_broken"]
        .map(|name| (name, statistic(kamailio, name).ok()))
        .to_vec()
}

/// What the tables of calls hold more than before.
struct Stored<'s> {
    site: &'s Site,
    before: [u64; 2],
}

impl<'s> Stored<'s> {
    fn now(site: &'s Site) -> Result<Self> {
        Ok(Self { site, before: Self::count(site)? })
    }

    fn count(site: &Site) -> Result<[u64; 2]> {
        Ok([site.count("call_event")?, site.count("call_by_subscriber")?])
    }

    /// Events, and calls in the lists of subscribers.
    fn since(&self) -> Result<[u64; 2]> {
        let now = Self::count(self.site)?;
        Ok([now[0] - self.before[0], now[1] - self.before[1]])
    }
}

fn outage(site: &Site) -> Result<()> {
    let dir = RunDir::new("state")?;
    let kamailio = site.connected(with_state(site, dir.path(), "")?)?;
    let stored = Stored::now(site)?;
    let phones = traffic(&kamailio, 100.0)?;
    until_captured(&kamailio, 400)?;
    {
        let mut cassandra = site.cassandra.lock().map_err(|_| anyhow::anyhow!("a test panicked"))?;
        cassandra.stop()?;
        std::thread::sleep(Duration::from_secs(60)); // what is tested, not a wait for something
        ensure!(statistic(&kamailio, "call_events_spooled")? > 60 * 100, "{:?}", counters(&kamailio));
        cassandra.restart()?;
    }
    until_captured(&kamailio, 400)?;
    phones.finish()?.check().with_context(|| kamailio.log())?;
    until_all_written(&kamailio)?;
    let (captured, [events, listed]) = (captured(&kamailio)?, stored.since()?);
    eprintln!("{captured} events of {} calls captured, {events} stored; {listed} calls listed", captured / BUSY_EVENTS);
    ensure!(statistic(&kamailio, "call_events_dropped")? == 0, "{:?}", counters(&kamailio));
    ensure!(events == captured && listed == captured / BUSY_EVENTS, "not each exactly once");
    Ok(())
}

fn io_killed(site: &Site) -> Result<()> {
    let dir = RunDir::new("state")?;
    let stored = Stored::now(site)?;
    let kamailio = site.connected(with_state(site, dir.path(), "")?)?;
    let phones = traffic(&kamailio, 200.0)?;
    until_captured(&kamailio, 200)?;
    {
        let _frozen = site.frozen()?;
        until_captured(&kamailio, 400)?;
        lab::process::signal(kamailio.find_process("Cassandra I/O")?.pid, Signal::KILL)?;
        until("the end of all processes", SOON, || kamailio.pids().is_empty())?;
    }
    let _ = phones.finish();
    let log = kamailio.log();
    let told = log
        .lines()
        .find_map(|line| line.split_once("call events: ").map(|(_, told)| told))
        .with_context(|| log.clone())?;
    let numbers: Vec<u64> = told.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    let (captured, accepted) = (numbers[0], numbers[1]);
    let kamailio = site.connected(with_state(site, dir.path(), "")?)?;
    until("an empty spool", REPLAYED, || statistic(&kamailio, "call_events_spooled").is_ok_and(|left| left == 0))?;
    let [events, _] = stored.since()?;
    eprintln!(
        "{captured} events captured, {accepted} accepted, {events} stored: {} were not accepted",
        captured - accepted
    );
    ensure!((accepted..=captured).contains(&events), "{told}: {events} are stored");
    Ok(())
}

fn stopped_with_pending(site: &Site) -> Result<()> {
    let dir = RunDir::new("state")?;
    let stored = Stored::now(site)?;
    let captured = {
        let mut kamailio = site.connected(with_state(site, dir.path(), "")?)?;
        let frozen = site.frozen()?;
        let phones = traffic(&kamailio, 100.0)?;
        until_captured(&kamailio, 300)?;
        phones.finish()?.check().with_context(|| kamailio.log())?;
        let captured = captured(&kamailio)?;
        kamailio.stop()?;
        let told = format!("call events: {captured} captured, {captured} of them are kept, 0 were dropped");
        ensure!(kamailio.log().contains(&told), "no '{told}' in:\n{}", kamailio.log());
        drop(frozen);
        captured
    };
    let kamailio = site.connected(with_state(site, dir.path(), "")?)?;
    until("an empty spool", REPLAYED, || statistic(&kamailio, "call_events_spooled").is_ok_and(|left| left == 0))?;
    let [events, listed] = stored.since()?;
    ensure!(
        events == captured && listed == captured / BUSY_EVENTS,
        "{captured} captured, {events} stored, {listed} listed"
    );
    Ok(())
}

/// A small file system in memory, unmounted at its end.
struct SmallDisk(RunDir);

impl SmallDisk {
    fn mount(options: &str) -> Result<Self> {
        let dir = RunDir::new("disk")?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path()).status()?;
        ensure!(mounted.success(), "no file system can be mounted: the tests of calls run as root");
        Ok(Self(dir))
    }

    fn grow(&self, options: &str) -> Result<()> {
        let options = format!("remount,{options}");
        let mounted = Command::new("mount").args(["-o", &options]).arg(self.0.path()).status()?;
        ensure!(mounted.success(), "the file system does not grow");
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn full_disk(site: &Site) -> Result<()> {
    let disk = SmallDisk::mount("size=2m")?;
    let stored = Stored::now(site)?;
    let kamailio = site.connected(with_state(site, disk.0.path(), "modparam(\"cassandra\", \"call_queue\", 100)")?)?;
    {
        let _frozen = site.frozen()?;
        let phones = traffic(&kamailio, 300.0)?;
        until("a full disk", REPLAYED, || statistic(&kamailio, "call_spool_broken").is_ok_and(|broken| broken == 1))
            .with_context(|| kamailio.log())?;
        ensure!(kamailio.log().contains("the spool of call events"), "not told:\n{}", kamailio.log());
        until("a full queue", REPLAYED, || {
            statistic(&kamailio, "call_events_dropped").is_ok_and(|dropped| dropped > 0)
        })
        .with_context(|| kamailio.log())?;
        phones.finish()?.check().with_context(|| kamailio.log())?;
    }
    disk.grow("size=64m")?;
    until_all_written(&kamailio)?;
    let ([events, _], counters) = (stored.since()?, counters(&kamailio));
    eprintln!("{counters:?}, {events} stored");
    ensure!(statistic(&kamailio, "call_spool_broken")? == 0, "still broken");
    ensure!(events == statistic(&kamailio, "call_events_accepted")?, "{counters:?}, {events} stored");
    Ok(())
}

fn side_by_side(site: &Site) -> Result<()> {
    let (dir, other_dir) = (RunDir::new("state")?, RunDir::new("state")?);
    let stored = Stored::now(site)?;
    let nodes = [
        site.connected(with_state(site, dir.path(), "")?)?,
        site.connected(with_state(site, other_dir.path(), "")?)?,
        // By mistake: what Cassandra takes is recorded all the same.
        site.connected(with_state(site, dir.path(), "")?)?,
    ];
    until("the sentence", SOON, || nodes[2].log().contains("another process uses it: give each its own state_dir"))
        .with_context(|| nodes[2].log())?;
    for node in &nodes {
        run(
            node,
            phone(node, "invite_busy.xml", "alice").key("callee", format!("busy@{DOMAIN}")).calls(50).rate(50.0),
        )?;
    }
    for node in &nodes {
        until_all_written(node)?;
    }
    let [events, _] = stored.since()?;
    ensure!(events == nodes.len() as u64 * 50 * BUSY_EVENTS, "{events} events stored");
    Ok(())
}
