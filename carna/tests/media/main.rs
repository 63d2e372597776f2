//! A media node under real Carna, over a real ZooKeeper and a real Cassandra. Its FreeSWITCH is a double that speaks the protocol of the
//! event socket.

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use common::{Registry, media_node, settings};
use domain::CallEvent;
use domain::call::{EventId, channel, event};
use fleet::{Load, Role, State};
use lab::carna::{Drain, Node, Plan};
use lab::cassandra::{Cassandra, Options};
use lab::event_socket::FreeSwitch;
use lab::sipctl;
use lab::wait::until;
use lab::zookeeper::ZooKeeper;
use serde_json::Value;
use store::call::{Parties, Recording};
use store::{Store, StoreConfig};
use tokio::runtime::{Builder, Runtime};

const SOON: Duration = Duration::from_secs(40);
/// Sessions that the double may have.
const MOST: u64 = 100;

fn main() -> ExitCode {
    lab::suite::run(
        Site::start,
        &[
            ("it_is_published_with_its_load_while_it_is_ready", published as lab::suite::Test<Site>),
            ("sip_and_media_of_a_call_are_one_story", one_story),
            ("a_connection_that_is_lost_is_made_again_and_garbage_is_survived", lost_connection),
            ("while_cassandra_hangs_events_are_kept_and_then_there_once", frozen_cassandra),
            ("a_carna_that_is_killed_loses_no_event_that_was_kept", killed),
            ("a_node_that_is_told_to_end_waits_for_its_sessions", drained),
            ("a_drain_that_takes_too_long_ends_with_the_calls_that_are_left", drained_too_long),
            ("a_wrong_password_is_told_and_not_shown", wrong_password),
        ],
    )
}

/// The servers of the suite.
struct Site {
    zookeeper: ZooKeeper,
    cassandra: Cassandra,
    runtime: Runtime,
    store: Store,
}

impl Site {
    fn start() -> Result<Self> {
        let zookeeper = ZooKeeper::start(1)?;
        Cassandra::install()?;
        let cassandra = Cassandra::start(Options::default())?;
        sipctl::run(&settings(&cassandra), &["schema", "apply"], "")?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let store = runtime.block_on(Store::connect(&StoreConfig {
            contact_points: vec![cassandra.contact_point()],
            keyspace: "sip".to_owned(),
            local_dc: "dc1".to_owned(),
            login: None,
            tls: None,
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            compression: false,
            speculative_after: None,
        }))?;
        Ok(Self { zookeeper, cassandra, runtime, store })
    }

    /// A media node that is published, and its FreeSWITCH.
    fn node(&self, name: &str) -> Result<(Node, FreeSwitch)> {
        self.node_of(name, |plan| plan)
    }

    /// The same with a plan that is changed.
    fn node_of(&self, name: &str, change: impl FnOnce(Plan) -> Plan) -> Result<(Node, FreeSwitch)> {
        let double = FreeSwitch::start(MOST)?;
        let plan = media_node(&self.zookeeper, name, &double, &self.cassandra.contact_point())?;
        let node = change(plan).launch()?;
        until("the event socket to be heard", SOON, || double.is_heard("CHANNEL_CREATE"))
            .with_context(|| node.log())?;
        until("the node to be ready", SOON, || ready(&node)).with_context(|| node.log())?;
        until("a session with Cassandra", SOON, || node.log().contains("connected with Cassandra"))
            .with_context(|| node.log())?;
        Ok((node, double))
    }

    /// What is known of a call.
    fn events(&self, call_id: &str) -> Result<Vec<CallEvent>> {
        Ok(self.runtime.block_on(self.store.call_events(call_id))?)
    }

    /// Waits until so many events of a call are in Cassandra, and then a moment more whether there are others.
    fn until_events(&self, call_id: &str, count: usize, node: &Node) -> Result<Vec<CallEvent>> {
        let stored = || self.events(call_id).map(|events| events.len()).unwrap_or_default();
        until(&format!("{count} events of {call_id}"), SOON, || stored() >= count)
            .with_context(|| format!("there are {}\n{}", stored(), node.log()))?;
        let events = self.events(call_id)?;
        ensure!(events.len() == count, "there are {}: {events:?}", events.len());
        Ok(events)
    }

    /// Records what a dispatcher sees of a call.
    fn sip(&self, call_id: &str, name: &str) -> Result<()> {
        let event = CallEvent {
            call_id: call_id.to_owned(),
            leg: call_id.to_owned(),
            event: name.to_owned(),
            method: if name == event::END { "BYE" } else { "INVITE" }.to_owned(),
            caller: "alice@example.com".to_owned(),
            callee: "*9bob@example.com".to_owned(),
            node: "d1".to_owned(),
            dc: "dc1".to_owned(),
            ..CallEvent::new(EventId::new(now(), 0, 7))
        };
        let recording = Recording { event: &event, entry: None, active: None, parties: &Parties::default() };
        Ok(self.runtime.block_on(self.store.record_calls(std::iter::once(recording)))?)
    }
}

/// A number of the node's metrics, if it tells that.
fn metric(node: &Node, name: &str) -> Option<u64> {
    common::metric(node, &format!("carna_{name}")).ok()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or_default()
}

fn ready(node: &Node) -> bool {
    node.get("/ready").is_ok_and(|(code, _)| code == 200)
}

/// Both legs of a call through a media node, from the first one to the end.
fn call(double: &FreeSwitch, call_id: &str) {
    let (a, b) = (format!("a-{call_id}"), format!("b-{call_id}"));
    let (a, b) = (a.as_str(), b.as_str());
    let name = ("variable_sip_h_X-Call", call_id);
    let inbound = [name, ("Call-Direction", "inbound"), ("variable_sip_call_id", call_id)];
    let own = format!("leg-of-{call_id}");
    let outbound = [name, ("Call-Direction", "outbound"), ("Other-Leg-Unique-ID", a), ("variable_sip_call_id", &own)];
    double.tell("CHANNEL_CREATE", a, &inbound);
    double.tell("CHANNEL_CREATE", b, &outbound);
    double.tell("CHANNEL_ANSWER", b, &outbound);
    double.tell("CHANNEL_ANSWER", a, &inbound);
    double.tell(
        "CHANNEL_BRIDGE",
        a,
        &[&inbound[..], &[("Bridge-A-Unique-ID", a), ("Bridge-B-Unique-ID", b)][..]].concat(),
    );
    let end = [
        ("Hangup-Cause", "NORMAL_CLEARING"),
        ("variable_hangup_cause_q850", "16"),
        ("Channel-Read-Codec-Name", "PCMU"),
        ("Channel-Read-Codec-Rate", "8000"),
        ("variable_rtp_audio_in_packet_count", "617"),
        ("variable_rtp_audio_in_mos", "4.42"),
    ];
    double.tell("CHANNEL_HANGUP_COMPLETE", b, &[&outbound[..], &end[..]].concat());
    double.tell("CHANNEL_HANGUP_COMPLETE", a, &[&inbound[..], &end[..]].concat());
}

/// Events of [`call`].
const EVENTS_OF_CALL: usize = 7;

fn published(site: &Site) -> Result<()> {
    let (node, double) = site.node("m-load")?;
    let registry = Registry::of(&site.zookeeper)?;
    let load = || registry.load(Role::Media, "m-load").ok();
    let sessions = |sessions| Some(Load { sessions: Some(sessions), max_sessions: Some(MOST), ..Load::default() });
    until("no load", SOON, || load() == sessions(0)).with_context(|| node.log())?;
    double.set_sessions(57);
    until("the sessions in what it tells", SOON, || metric(&node, "sessions") == Some(57))
        .with_context(|| node.log())?;
    ensure!(metric(&node, "max_sessions") == Some(MOST));
    until("the load", SOON, || load() == sessions(57)).with_context(|| node.log())?;
    // One that is full is still there; one that is paused is not.
    double.set_sessions(MOST);
    until("full load", SOON, || load() == sessions(MOST)).with_context(|| node.log())?;
    ensure!(ready(&node), "{}", node.log());
    double.pause(true);
    registry.until(Role::Media, &[]).with_context(|| node.log())?;
    ensure!(!ready(&node) && node.log().contains("it says that it is not ready"), "{}", node.log());
    double.pause(false);
    registry.until(Role::Media, &["m-load"]).with_context(|| node.log())
}

fn one_story(site: &Site) -> Result<()> {
    let (node, double) = site.node("m-story")?;
    site.sip("the-call", event::ATTEMPT)?;
    call(&double, "the-call");
    site.until_events("the-call", 1 + EVENTS_OF_CALL, &node)?;
    site.sip("the-call", event::END)?;
    let shown = sipctl::run(&settings(&site.cassandra), &["--json", "call", "the-call"], "")?;
    let steps: Vec<Value> = serde_json::from_str(&shown)?;
    let names: Vec<&str> = steps.iter().filter_map(|step| step["event"].as_str()).collect();
    ensure!(
        names
            == [
                "call-attempt",
                "channel-create",
                "channel-create",
                "channel-answer",
                "channel-answer",
                "channel-bridge",
                "channel-hangup",
                "channel-hangup",
                "call-end"
            ],
        "{names:?}"
    );
    let (bridge, end) = (&steps[5], &steps[7]);
    ensure!(bridge["extra"]["other"] == "b-the-call" && bridge["node"] == "m-story", "{bridge}");
    ensure!(end["reason"] == "NORMAL_CLEARING" && end["extra"]["mos"] == "4.42", "{end}");
    ensure!(steps[2]["leg"] == "leg-of-the-call", "{}", steps[2]);
    let shown = sipctl::run(&settings(&site.cassandra), &["call", "the-call"], "")?;
    for line in ["media: 2 legs on m-story, MOS 4.42 and 4.42", "channel-bridge", "RTP in 617"] {
        ensure!(shown.contains(line), "'{line}' is not in\n{shown}");
    }
    Ok(())
}

fn lost_connection(site: &Site) -> Result<()> {
    let (node, double) = site.node("m-lost")?;
    call(&double, "before");
    site.until_events("before", EVENTS_OF_CALL, &node)?;
    double.tell_garbage("CHANNEL_CREATE");
    call(&double, "after-garbage");
    site.until_events("after-garbage", EVENTS_OF_CALL, &node)?;
    // One of two channels ends while nobody hears of it.
    let name = ("variable_sip_h_X-Call", "unseen");
    ["ends", "stays"].iter().for_each(|channel| double.tell("CHANNEL_CREATE", channel, &[name]));
    site.until_events("unseen", 2, &node)?;
    double.disconnect();
    double.tell("CHANNEL_HANGUP_COMPLETE", "ends", &[name]);
    until("the loss to be noticed", SOON, || node.log().contains("no event socket at")).with_context(|| node.log())?;
    until("the next connection", SOON, || double.is_heard("CHANNEL_CREATE")).with_context(|| node.log())?;
    call(&double, "after");
    site.until_events("after", EVENTS_OF_CALL, &node)?;
    let events = site.until_events("unseen", 3, &node)?;
    let end = &events[2];
    ensure!(end.event == event::CHANNEL_HANGUP && end.extra(channel::ID) == Some("ends"), "{end:?}");
    ensure!(end.reason == "its end was not seen", "{end:?}");
    Ok(())
}

fn frozen_cassandra(site: &Site) -> Result<()> {
    const CALLS: usize = 50;
    let (node, double) = site.node("m-frozen")?;
    let names: Vec<String> = (0..CALLS).map(|number| format!("frozen-{number}")).collect();
    site.cassandra.freeze()?;
    names.iter().for_each(|name| call(&double, name));
    let kept =
        until("all events to be kept", SOON, || metric(&node, "call_events") == Some((CALLS * EVENTS_OF_CALL) as u64));
    std::thread::sleep(Duration::from_secs(5));
    site.cassandra.thaw()?;
    kept.with_context(|| format!("{:?}\n{}", metric(&node, "call_events"), node.log()))?;
    until("all events in Cassandra", SOON, || metric(&node, "call_events") == Some(0)).with_context(|| node.log())?;
    for name in &names {
        let events = site.until_events(name, EVENTS_OF_CALL, &node)?;
        let ids: BTreeSet<_> = events.iter().map(|event| event.id.bytes()).collect();
        ensure!(ids.len() == EVENTS_OF_CALL, "{events:?}");
    }
    Ok(())
}

fn killed(site: &Site) -> Result<()> {
    let (node, double) = site.node("m-killed")?;
    let first = node.kamailio()?;
    site.cassandra.freeze()?;
    call(&double, "killed");
    let kept =
        until("the events to be kept", SOON, || metric(&node, "call_events_spooled") == Some(EVENTS_OF_CALL as u64));
    let again = kept.and_then(|_| node.again());
    site.cassandra.thaw()?;
    let node = again?;
    site.until_events("killed", EVENTS_OF_CALL, &node)?;
    until("nothing to be kept any more", SOON, || metric(&node, "call_events") == Some(0))
        .with_context(|| node.log())?;
    site.until_events("killed", EVENTS_OF_CALL, &node)?;
    ensure!(node.kamailio()? != first, "the process of the one that was killed");
    // And it goes on.
    until("the next connection", SOON, || double.is_heard("CHANNEL_CREATE") && ready(&node))
        .with_context(|| node.log())?;
    call(&double, "after-the-kill");
    site.until_events("after-the-kill", EVENTS_OF_CALL, &node)?;
    Ok(())
}

fn drained(site: &Site) -> Result<()> {
    let (mut node, double) = site.node("m-drained")?;
    double.stand_for(node.kamailio()?);
    double.set_sessions(2);
    until("the sessions", SOON, || metric(&node, "sessions") == Some(2)).with_context(|| node.log())?;
    let registry = Registry::of(&site.zookeeper)?;
    node.tell_to_end()?;
    until("it to be draining", SOON, || {
        registry.get(Role::Media, "m-drained").is_ok_and(|node| node.state == State::Draining)
    })
    .with_context(|| node.log())?;
    ensure!(double.commands().is_empty(), "before the others have heard: {:?}", double.commands());
    until("new calls to be refused", SOON, || double.commands() == ["fsctl pause inbound"])
        .with_context(|| node.log())?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(double.commands().len() == 1, "with sessions: {:?}", double.commands());
    call(&double, "last");
    double.set_sessions(0);
    let code = node.wait_for_exit(SOON)?;
    let log = node.log();
    ensure!(code == 0 && log.contains("drained: nothing goes on any more"), "{code}: {log}");
    ensure!(double.commands() == ["fsctl pause inbound", "fsctl shutdown elegant"], "{:?}", double.commands());
    registry.until(Role::Media, &[]).with_context(|| node.log())?;
    site.until_events("last", EVENTS_OF_CALL, &node)?;
    Ok(())
}

fn drained_too_long(site: &Site) -> Result<()> {
    let drain = Drain { notice: Duration::from_secs(1), limit: Duration::from_secs(3) };
    let (mut node, double) = site.node_of("m-too-long", |plan| plan.drain(drain))?;
    double.set_sessions(2);
    until("the sessions", SOON, || metric(&node, "sessions") == Some(2)).with_context(|| node.log())?;
    node.tell_to_end()?;
    node.wait_for_end(SOON)?;
    ensure!(double.commands() == ["fsctl pause inbound"], "{:?}", double.commands());
    let log = node.log();
    ensure!(
        log.contains("left behind are 0 transactions, 0 dialogs, 2 sessions") && log.contains("by signal 15"),
        "{log}"
    );
    Ok(())
}

fn wrong_password(site: &Site) -> Result<()> {
    let double = FreeSwitch::start(MOST)?;
    let plan = media_node(&site.zookeeper, "m-wrong", &double, &site.cassandra.contact_point())?;
    let node = plan.env("CARNA_MEDIA__PASSWORD", "a-wrong-one").launch()?;
    until("that to be told", SOON, || node.log().contains("Authentication failed")).with_context(|| node.log())?;
    // Some attempts later it is told no second time.
    std::thread::sleep(Duration::from_secs(3));
    let log = node.log();
    ensure!(log.matches("Authentication failed").count() == 1 && !log.contains("a-wrong-one"), "{log}");
    ensure!(!ready(&node));
    Ok(())
}
