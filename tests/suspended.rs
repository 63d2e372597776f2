//! What happens to a transaction while it is suspended, and what its resumed route can do.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::sip::{self, Agent, headers};
use common::{ALL_IN_ONE, DOMAIN, Site, no_transaction_left, phone, run, statistic, status};
use lab::kamailio::Kamailio;
use lab::sipp::Transport;
use lab::wait::until;

/// Long enough to do something in between, shorter than the driver's patience with a silent connection.
const DELAY: Duration = Duration::from_millis(1200);
/// For what comes in any case.
const PATIENCE: Duration = Duration::from_secs(20);
/// Patience with that delay, and nothing from memory: every function has to wait.
const SLOW: &str = "modparam(\"cassandra\", \"call_timeout\", 8000)
modparam(\"cassandra\", \"request_timeout\", 4000)
modparam(\"cassandra\", \"credential_cache_ttl\", 0)";
const SCRIPT: &str = "tests/cfg/suspended.cfg";

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob"],
        &[
            ("a_register_sent_again_while_suspended_over_udp_is_done_once", |site| sent_again(site, Agent::udp)),
            ("a_register_sent_again_while_suspended_over_tcp_is_done_once", |site| sent_again(site, Agent::tcp)),
            ("an_invite_sent_again_while_suspended_over_udp_is_relayed_once", |site| invited_again(site, Agent::udp)),
            ("an_invite_sent_again_while_suspended_over_tcp_is_relayed_once", |site| invited_again(site, Agent::tcp)),
            ("a_call_cancelled_while_suspended_over_udp_ends_with_487", |site| cancelled(site, Transport::Udp)),
            ("a_call_cancelled_while_suspended_over_tcp_ends_with_487", |site| cancelled(site, Transport::Tcp)),
            ("calls_cancelled_at_any_moment_leave_no_transaction", cancelled_at_any_moment),
            ("an_answer_after_the_deadline_is_503_and_runs_the_route_once", too_late),
            ("a_resumed_route_relays_to_all_contacts_with_its_header_changes", relays_with_changes),
            ("a_call_follows_the_stored_path", follows_path),
            ("a_result_of_more_than_100_kb_arrives_plain_and_async", long_result),
        ],
    )
}

/// Kamailio with one of the scripts, patient with a slow Cassandra.
fn patient(site: &Site, script: &str) -> Result<Kamailio> {
    site.connected(site.with_settings(script, SLOW)?)
}

/// Runs `work` while every answer of Cassandra comes late.
fn slowly<T>(site: &Site, work: impl FnOnce() -> Result<T>) -> Result<T> {
    site.relay.set_delay(DELAY);
    let result = work();
    site.relay.set_delay(Duration::ZERO);
    result
}

/// So often was a route resumed, as the script's log tells; which it may do after the phone has its answer.
fn resumed(kamailio: &Kamailio, times: usize) -> Result<()> {
    let found = || kamailio.log().matches("resumed ").count();
    until("resumed routes", PATIENCE, || found() >= times).with_context(|| kamailio.log())?;
    ensure!(found() == times, "{} routes resumed instead of {times}\n{}", found(), kamailio.log());
    Ok(())
}

fn register(agent: &mut Agent, user: &str, parameters: &str, lines: &[&str]) -> Result<()> {
    let contact = agent.contact(user, parameters);
    let mut all = vec![contact.as_str(), "Expires: 600"];
    all.extend(lines);
    let answer = agent.ask(&agent.register(user, &all))?;
    ensure!(sip::status(&answer) == Some(200), "{answer}");
    Ok(())
}

/// As soon as Cassandra's late answers are through.
fn unregister_all(agent: &mut Agent, user: &str) -> Result<()> {
    until("an answer of 200 to Contact: *", Duration::from_secs(20), || -> Result<Option<()>> {
        let answer = agent.ask(&agent.register(user, &["Contact: *", "Expires: 0"]))?;
        Ok((sip::status(&answer) == Some(200) && headers(&answer, "Contact").is_empty()).then_some(()))
    })
}

fn sent_again(site: &Site, connect: fn(&Kamailio) -> Result<Agent>) -> Result<()> {
    let kamailio = patient(site, SCRIPT)?;
    let mut agent = connect(&kamailio)?;
    let request = agent.register("alice", &[&agent.contact("alice", ""), "Expires: 600"]);
    slowly(site, || {
        for _ in 0..4 {
            agent.send(&request)?;
        }
        let answer = agent.final_response().with_context(|| kamailio.log())?;
        ensure!(sip::status(&answer) == Some(200) && headers(&answer, "Contact").len() == 1, "{answer}");
        Ok(())
    })?;
    ensure!(statistic(&kamailio, "suspended")? == 1, "each retransmission was suspended\n{}", kamailio.log());
    resumed(&kamailio, 1)?;
    // After its end the transaction answers again by itself.
    let again = agent.ask(&request)?;
    ensure!(sip::status(&again) == Some(200), "{again}");
    ensure!(statistic(&kamailio, "suspended")? == 1, "{}", kamailio.log());
    resumed(&kamailio, 1)?;
    unregister_all(&mut agent, "alice")
}

fn invited_again(site: &Site, connect: fn(&Kamailio) -> Result<Agent>) -> Result<()> {
    let kamailio = patient(site, SCRIPT)?;
    let mut callee = Agent::udp(&kamailio)?;
    register(&mut callee, "bob", "", &[])?;
    let mut caller = connect(&kamailio)?;
    let invite =
        caller.request("INVITE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &[&caller.contact("alice", "")]);
    slowly(site, || {
        for _ in 0..4 {
            caller.send(&invite)?;
        }
        let received = callee.receive_request("INVITE").with_context(|| kamailio.log())?;
        callee.send(&sip::response(&received, "486 Busy Here"))
    })?;
    let answer = caller.final_response().with_context(|| kamailio.log())?;
    ensure!(sip::status(&answer) == Some(486), "{answer}");
    callee.receive_request("ACK")?;
    ensure!(callee.receive_within(Duration::from_millis(300))?.is_none(), "a second INVITE was relayed");
    resumed(&kamailio, 2).context("one for the REGISTER, one for the INVITE")?;
    unregister_all(&mut callee, "bob")
}

/// With credentials and lookup an INVITE is suspended twice: it is cancelled in the first and in the second.
fn cancelled(site: &Site, transport: Transport) -> Result<()> {
    let kamailio = patient(site, ALL_IN_ONE)?;
    let mut callee = Agent::udp(&kamailio)?;
    let contact = callee.here();
    run(&kamailio, phone(&kamailio, "register.xml", "bob").key("contact", contact))?;
    for suspended in 1..=2 {
        let before = statistic(&kamailio, "resume_failed")?;
        let into_it = DELAY * (suspended - 1) + DELAY / 2;
        slowly(site, || {
            let caller = phone(&kamailio, "uac_cancel_early.xml", "alice").key("callee", format!("bob@{DOMAIN}"));
            run(&kamailio, caller.transport(transport).pause(into_it))?;
            until("the late answer", Duration::from_secs(10), || {
                statistic(&kamailio, "resume_failed").is_ok_and(|now| now == before + 1)
            })
            .with_context(|| kamailio.log())
        })?;
    }
    ensure!(callee.receive_within(Duration::from_millis(200))?.is_none(), "the callee was rung");
    ensure!(!kamailio.log().contains("CRITICAL"), "{}", kamailio.log());
    run(&kamailio, phone(&kamailio, "unregister_all.xml", "bob"))?;
    no_transaction_left(&kamailio)
}

/// The moments lie around those at which the transaction is suspended, suspended again, and relayed.
fn cancelled_at_any_moment(site: &Site) -> Result<()> {
    let kamailio = patient(site, SCRIPT)?;
    let callee = lab::sipp::Sipp::new("uas_ring.xml").endless().spawn()?;
    let mut caller = Agent::udp(&kamailio)?;
    let contact = format!("Contact: <sip:bob@{}>", callee.local());
    caller.ask(&caller.register("bob", &[&contact, "Expires: 600"]))?;
    site.relay.set_delay(Duration::from_millis(40));
    let at_any_moment = (0..120).step_by(2);
    // About when the route of the first answer suspends once more.
    let between = (38..48).cycle().take(100);
    let mut moments = at_any_moment.chain(between).map(Duration::from_millis);
    let calls = moments.try_for_each(|moment| call_and_cancel(&mut caller, moment));
    site.relay.set_delay(Duration::ZERO);
    calls.with_context(|| kamailio.log())?;
    ensure!(!kamailio.log().contains("CRITICAL"), "{}", kamailio.log());
    no_transaction_left(&kamailio)?;
    unregister_all(&mut caller, "bob")
}

/// Calls bob and gives up after `moment`: the CANCEL gets 200, the INVITE 487, whatever was under way.
fn call_and_cancel(caller: &mut Agent, moment: Duration) -> Result<()> {
    let lines = [caller.contact("alice", ""), "X-Form: twice".to_owned()];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let invite = caller.request("INVITE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &lines);
    caller.send(&invite)?;
    // RFC 3261 section 9.1: no CANCEL before a provisional response.
    let trying = caller.receive()?;
    ensure!(sip::status(&trying) == Some(100), "{trying}");
    std::thread::sleep(moment); // what is tested, not a wait for something
    caller.send(&sip::cancel(&invite))?;
    let mut answers = [caller.final_response()?, caller.final_response()?];
    answers.sort_by_key(|answer| sip::status(answer));
    let [to_cancel, to_invite] = &answers;
    ensure!(sip::status(to_cancel) == Some(200) && to_cancel.contains(" CANCEL\r\n"), "after {moment:?}: {answers:?}");
    ensure!(sip::status(to_invite) == Some(487) && to_invite.contains(" INVITE\r\n"), "after {moment:?}: {answers:?}");
    caller.send(&sip::ack(&invite, to_invite))
}

fn too_late(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.script(SCRIPT))?;
    let mut agent = Agent::udp(&kamailio)?;
    slowly(site, || {
        let answer = agent.ask(&agent.register("alice", &[&agent.contact("alice", "")]))?;
        ensure!(sip::status(&answer) == Some(503), "{answer}\n{}", kamailio.log());
        // Its own answer comes when the next one waits already; it must not be taken for that.
        let next = agent.ask(&agent.register("bob", &[&agent.contact("bob", "")]))?;
        ensure!(sip::status(&next) == Some(503), "{next}\n{}", kamailio.log());
        Ok(())
    })?;
    resumed(&kamailio, 2)?;
    ensure!(site.contacts("alice")?.len() <= 1, "{:?}", site.contacts("alice")?);
    unregister_all(&mut agent, "alice")?;
    unregister_all(&mut agent, "bob")
}

fn relays_with_changes(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.all_in_one())?;
    let (mut first, mut second) = (Agent::udp(&kamailio)?, Agent::udp(&kamailio)?);
    for callee in [&first, &second] {
        run(&kamailio, phone(&kamailio, "register.xml", "bob").key("contact", callee.here()))?;
    }
    let caller = phone(&kamailio, "invite_expect_480.xml", "alice").key("callee", format!("bob@{DOMAIN}")).spawn()?;
    for callee in [&mut first, &mut second] {
        let invite = callee.receive_request("INVITE").with_context(|| kamailio.log())?;
        ensure!(invite.starts_with(&format!("INVITE sip:bob@{}", callee.here())), "{invite}");
        ensure!(headers(&invite, "Record-Route").len() == 1, "no Record-Route:\n{invite}");
        ensure!(headers(&invite, "Proxy-Authorization").is_empty(), "the credentials were relayed:\n{invite}");
        callee.send(&sip::response(&invite, "480 Temporarily Unavailable"))?;
    }
    caller.wait()?.check().with_context(|| kamailio.log())?;
    run(&kamailio, phone(&kamailio, "unregister_all.xml", "bob"))?;
    Ok(())
}

fn follows_path(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.script(SCRIPT))?;
    let (mut edge, mut callee, mut caller) = (Agent::udp(&kamailio)?, Agent::udp(&kamailio)?, Agent::udp(&kamailio)?);
    let path = format!("<sip:{};lr>", edge.here());
    let refused = callee.ask(&callee.register("bob", &[&callee.contact("bob", ""), &format!("Path: {path}")]))?;
    ensure!(sip::status(&refused) == Some(420), "Path without Supported: path\n{refused}");
    ensure!(site.contacts("bob")?.is_empty(), "stored before it was refused");
    register(&mut callee, "bob", "", &[&format!("Path: {path}"), "Supported: path"])?;
    for form in ["async", "plain"] {
        let lines = [caller.contact("alice", ""), format!("X-Form: {form}")];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let invite = caller.request("INVITE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &lines);
        caller.send(&invite)?;
        let relayed = edge.receive_request("INVITE").with_context(|| kamailio.log())?;
        ensure!(relayed.starts_with(&format!("INVITE sip:bob@{}", callee.here())), "{relayed}");
        ensure!(headers(&relayed, "Route") == [path.as_str()], "{relayed}");
        ensure!(headers(&relayed, "X-Resumed") == ["yes"], "{relayed}");
        edge.send(&sip::response(&relayed, "486 Busy Here"))?;
        ensure!(sip::status(&caller.final_response()?) == Some(486), "{}", kamailio.log());
        edge.receive_request("ACK")?;
    }
    unregister_all(&mut callee, "bob")
}

/// 300 bindings make an answer of more than one message between the processes.
fn long_result(site: &Site) -> Result<()> {
    const BINDINGS: usize = 300;
    let kamailio = site.connected(site.with_settings(SCRIPT, SLOW)?)?;
    let mut agent = Agent::tcp(&kamailio)?;
    let long = "x".repeat(350);
    for part in 0..BINDINGS / 50 {
        let contacts: Vec<String> = (0..50).map(|n| format!("<sip:{long}{}@127.9.9.9:5060>", part * 50 + n)).collect();
        let contact = format!("Contact: {}", contacts.join(", "));
        let answer = agent.ask(&agent.register("alice", &[&contact, "Expires: 600"]))?;
        ensure!(sip::status(&answer) == Some(200), "{}\n{}", &answer[..200], kamailio.log());
    }
    for form in ["async", "plain"] {
        let answer = agent.ask(&agent.register("alice", &[&format!("X-Form: {form}")]))?;
        let listed = answer.matches("@127.9.9.9:5060>").count();
        ensure!(listed == BINDINGS && answer.len() > 100 * 1024, "{form}: {listed} bindings in {} bytes", answer.len());
        let invite =
            agent.request("INVITE", &format!("sip:alice@{DOMAIN}"), "bob", "alice", &[&format!("X-Form: {form}")]);
        agent.send(&invite)?;
        // Relayed to as many as a request may have; nobody answers there.
        ensure!(sip::status(&agent.receive()?) == Some(100), "{}", kamailio.log());
    }
    ensure!(status(&kamailio, "panics")? == 0 && !kamailio.log().contains("CRITICAL"), "{}", kamailio.log());
    unregister_all(&mut agent, "alice")
}
