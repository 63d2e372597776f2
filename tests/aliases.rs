//! Aliases: numbers and names that mean a subscriber, by the functions and in the configurations.

mod common;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::calls::{listed, until_stored};
use common::digest::send_authenticated;
use common::sip::{Agent, ack, headers, response, status, with_lines};
use common::{ALL_IN_ONE, DOMAIN, Site, enrol, statistic};
use lab::RunDir;
use lab::kamailio::Kamailio;
use lab::net;
use lab::topology::{Role, Topology};
use lab::wait::until;
use serde_json::json;

const SCRIPT: &str = "tests/cfg/aliases.cfg";
/// The forms of lookup, and those of find.
const LOOKUPS: [&str; 2] = ["plain", "async"];
const FINDS: [&str; 2] = ["find", "find_async"];
const SOON: Duration = Duration::from_secs(20);
/// How long one of two sockets is looked at.
const TICK: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob", "carol"],
        &[
            ("lookup_puts_whom_an_alias_means_into_the_request_uri", looks_up),
            ("what_is_no_alias_is_told_from_what_cannot_be_one", no_alias),
            ("flags_that_no_lookup_can_follow_are_an_error", flags),
            ("find_answers_and_changes_nothing", finds),
            ("an_alias_of_an_alias_is_resolved_once", chain),
            ("letter_case_counts_as_the_registrar_says", letter_case),
            ("what_is_stored_and_means_nobody_is_no_alias", broken),
            ("a_request_uri_changed_after_a_suspend_is_lost_in_the_next", second_suspend),
            ("without_cassandra_nothing_is_known", unavailable),
            ("an_operator_asks_a_node", rpc),
            ("a_call_to_a_number_reaches_whom_it_means_and_is_in_their_history", called_by_number),
            ("one_node_does_it_too", all_in_one),
            ("a_number_reaches_the_next_node_when_one_is_overloaded", next_node),
            ("without_the_setting_a_number_is_nobody", switched_off),
            ("without_cassandra_a_number_is_answered_503", number_unavailable),
        ],
    )
}

/// As `user@domain`.
fn aor(user: &str) -> String {
    format!("{user}@{DOMAIN}")
}

fn add(site: &Site, alias: &str, target: &str) -> Result<()> {
    site.sipctl(&["alias", "add", alias, target], "").map(drop)
}

/// What a function did to a request for `uri`.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    rc: i32,
    aor: String,
    uri: String,
}

impl Done {
    fn new(rc: i32, aor: &str, uri: &str) -> Self {
        Self { rc, aor: if aor.is_empty() { "<null>" } else { aor }.to_owned(), uri: uri.to_owned() }
    }
}

/// Sends a request that has the function of this form called.
fn call(kamailio: &Kamailio, form: &str, uri: &str, lines: &[&str]) -> Result<Done> {
    let answer = ask(kamailio, form, uri, lines)?;
    let of = |name| headers(&answer, name).first().copied().with_context(|| format!("no {name} in {answer}"));
    Ok(Done { rc: of("X-Rc")?.parse()?, aor: of("X-Aor")?.to_owned(), uri: of("X-Ru")?.to_owned() })
}

fn ask(kamailio: &Kamailio, form: &str, uri: &str, lines: &[&str]) -> Result<String> {
    let mut agent = Agent::udp(kamailio)?;
    let form = format!("X-Form: {form}");
    let lines: Vec<&str> = std::iter::once(form.as_str()).chain(lines.iter().copied()).collect();
    agent.ask(&agent.request("MESSAGE", uri, "alice", "bob", &lines)).with_context(|| kamailio.log())
}

/// A node that waits for a busy machine.
fn start(site: &Site) -> Result<Kamailio> {
    start_with(site, "")
}

/// The same with these settings.
fn start_with(site: &Site, settings: &str) -> Result<Kamailio> {
    let patient =
        "modparam(\"cassandra\", \"call_timeout\", 10000)\nmodparam(\"cassandra\", \"request_timeout\", 5000)";
    site.connected(site.with_settings(SCRIPT, &format!("{patient}\n{settings}"))?)
}

fn looks_up(site: &Site) -> Result<()> {
    add(site, &aor("+15551000"), &aor("alice"))?;
    add(site, "sales@other.example.org", &aor("bob"))?;
    add(site, &aor("odd"), &aor("a b;c"))?;
    let kamailio = start(site)?;
    for (uri, rc, meant, to) in [
        ("sip:+15551000@example.com", 1, "alice@example.com", "sip:alice@example.com"),
        ("sip:%2b15551000@EXAMPLE.com:5060;user=phone", 1, "alice@example.com", "sip:alice@example.com"),
        ("sips:+15551000@example.com", 1, "alice@example.com", "sips:alice@example.com"),
        ("sip:sales@other.example.org", 1, "bob@example.com", "sip:bob@example.com"),
        ("sip:odd@example.com", 1, "a b;c@example.com", "sip:a%20b%3Bc@example.com"),
        // Of another domain.
        ("sip:sales@example.com", -1, "", "sip:sales@example.com"),
        ("sip:alice@example.com", -1, "", "sip:alice@example.com"),
    ] {
        for form in LOOKUPS {
            let done = call(&kamailio, form, uri, &[])?;
            ensure!(done == Done::new(rc, meant, to), "{form} {uri}: {done:?}");
        }
    }
    ensure!(statistic(&kamailio, "aliases_found")? == 10 && statistic(&kamailio, "aliases_missed")? == 4);
    ensure!(statistic(&kamailio, "suspended")? == 7, "each async form suspends, no plain one does");
    Ok(())
}

fn no_alias(site: &Site) -> Result<()> {
    add(site, &aor("desk"), &aor("alice"))?;
    let kamailio = start(site)?;
    for (uri, rc) in [
        ("sip:+15559999@example.com", -1),
        ("sip:example.com", -2),
        ("tel:+15551000", -2),
        // A GRUU means one phone of an AoR, whatever else has its name.
        ("sip:desk@example.com;gr=urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", -2),
    ] {
        for form in LOOKUPS {
            let done = call(&kamailio, form, uri, &[])?;
            ensure!(done == Done::new(rc, "", uri), "{form} {uri}: {done:?}");
        }
    }
    ensure!(statistic(&kamailio, "requests")? == 2, "what can be no alias is not asked");
    Ok(())
}

fn flags(site: &Site) -> Result<()> {
    add(site, &aor("flagged"), &aor("alice"))?;
    let kamailio = start(site)?;
    let (alias, meant) = (format!("sip:{}", aor("flagged")), format!("sip:{}", aor("alice")));
    let uri = format!("X-Uri: {alias}");
    for (flags, rc) in [("u", 1), ("d", -3), ("r", -3), ("ur", -3), ("x", -3)] {
        let line = format!("X-Flags: {flags}");
        for form in LOOKUPS {
            let done = call(&kamailio, form, &alias, &[&line])?;
            ensure!((done.rc, done.uri == meant) == (rc, rc == 1), "{form} {flags}: {done:?}");
        }
        for form in FINDS {
            let done = call(&kamailio, form, &alias, &[&uri, &line])?;
            ensure!((done.rc, done.uri == alias) == (rc, true), "{form} {flags}: {done:?}");
        }
    }
    for sentence in ["aliases are found by name and domain", "aliases are not found by whom they mean", "no such flag"]
    {
        ensure!(kamailio.log().contains(sentence), "{sentence}: {}", kamailio.log());
    }
    Ok(())
}

fn finds(site: &Site) -> Result<()> {
    add(site, &aor("found"), &aor("carol"))?;
    let kamailio = start(site)?;
    let to = format!("sip:{}", aor("found"));
    for (uri, rc, meant) in
        [(to.as_str(), 1, "carol@example.com"), ("sip:nobody@example.com", -1, ""), ("nonsense", -2, "")]
    {
        for form in FINDS {
            let done = call(&kamailio, form, &to, &[&format!("X-Uri: {uri}")])?;
            ensure!(done == Done::new(rc, meant, &to), "{form} {uri}: {done:?}");
        }
    }
    Ok(())
}

fn chain(site: &Site) -> Result<()> {
    add(site, &aor("first"), &aor("second"))?;
    add(site, &aor("second"), &aor("first"))?;
    let kamailio = start(site)?;
    for form in LOOKUPS {
        let done = call(&kamailio, form, "sip:first@example.com", &[])?;
        ensure!(done == Done::new(1, "second@example.com", "sip:second@example.com"), "{form}: {done:?}");
    }
    Ok(())
}

fn letter_case(site: &Site) -> Result<()> {
    add(site, &aor("reception"), &aor("alice"))?;
    for (settings, rc) in [("", -1), ("modparam(\"cassandra\", \"case_sensitive\", 0)", 1)] {
        let kamailio = start_with(site, settings)?;
        for form in LOOKUPS {
            let done = call(&kamailio, form, "sip:Reception@Example.com", &[])?;
            ensure!(done.rc == rc, "{form} {settings}: {done:?}");
        }
    }
    let settings = "modparam(\"cassandra\", \"realm_prefix\", \"sip.\")";
    let kamailio = start_with(site, settings)?;
    let done = call(&kamailio, "plain", "sip:reception@sip.example.com", &[])?;
    ensure!(done == Done::new(1, "alice@example.com", "sip:alice@example.com"), "{done:?}");
    Ok(())
}

/// More often than the breaker bears failures: it is none.
fn broken(site: &Site) -> Result<()> {
    {
        let cassandra = site.cassandra.lock().map_err(|_| anyhow::anyhow!("a test panicked"))?;
        cassandra.execute("INSERT INTO sip.alias (domain, alias) VALUES ('example.com', 'broken')")?;
    }
    let kamailio = start_with(site, "modparam(\"cassandra\", \"breaker_threshold\", 1)")?;
    for form in LOOKUPS {
        let done = call(&kamailio, form, "sip:broken@example.com", &[])?;
        ensure!(done == Done::new(-1, "", "sip:broken@example.com"), "{form}: {done:?}");
    }
    site.sipctl(&["alias", "remove", &aor("broken")], "").map(drop)
}

/// What kamailio-cfg/include/aliases.cfg and docs/module.md rest on.
fn second_suspend(site: &Site) -> Result<()> {
    add(site, &aor("twice"), &aor("alice"))?;
    let kamailio = start(site)?;
    let answer = ask(&kamailio, "twice", "sip:twice@example.com", &[])?;
    ensure!(headers(&answer, "X-Once") == ["sip:alice@example.com"], "{answer}");
    // What the second function was asked is what the script saw, and it is asked of nothing else.
    ensure!(headers(&answer, "X-Rc") == ["-1"] && headers(&answer, "X-Aor") == ["<null>"], "{answer}");
    ensure!(headers(&answer, "X-Ru") == ["sip:twice@example.com"], "{answer}");
    Ok(())
}

fn unavailable(site: &Site) -> Result<()> {
    add(site, &aor("frozen"), &aor("alice"))?;
    let kamailio = site.connected(site.script(SCRIPT))?;
    let frozen = site.frozen()?;
    for user in ["frozen", "nobody"] {
        let uri = format!("sip:{}", aor(user));
        for form in LOOKUPS.iter().chain(&FINDS) {
            let done = call(&kamailio, form, &uri, &[&format!("X-Uri: {uri}")])?;
            ensure!(done == Done::new(-10, "", &uri), "{form} {uri}: {done:?}");
        }
    }
    drop(frozen);
    Ok(())
}

fn rpc(site: &Site) -> Result<()> {
    add(site, &aor("+15552000"), &aor("bob"))?;
    let kamailio = start(site)?;
    let answer = kamailio.rpc("cassandra.alias", json!([aor("+15552000")]))?;
    ensure!(answer == json!({"alias": aor("+15552000"), "target": aor("bob")}), "{answer}");
    for (parameters, sentence) in [
        (json!([aor("nobody")]), "there is no alias nobody@example.com"),
        (json!(["nobody"]), "'nobody' is no address-of-record"),
        (json!([]), "the parameter ALIAS is missing"),
    ] {
        let fault = kamailio.rpc("cassandra.alias", parameters).err().context("no fault")?;
        ensure!(format!("{fault:#}").contains(sentence), "{fault:#}");
    }
    Ok(())
}

/// Sends a request of alice's with what its challenge asks for.
fn send_of_alice(caller: &mut Agent, method: &str, callee: &str) -> Result<String> {
    let contact = caller.contact("alice", "");
    send_authenticated(caller, method, &format!("sip:{}", aor(callee)), "alice", callee, &[&contact])
}

/// A call to `number` that rings at the phone of `user`, who is busy, and is in the list of `user`.
fn call_number(site: &Site, at: &Kamailio, phone: &mut Agent, number: &str, user: &str) -> Result<()> {
    let mut caller = Agent::udp(at)?;
    let invite = send_of_alice(&mut caller, "INVITE", number)?;
    let arrived = phone.receive_request("INVITE")?;
    ensure!(arrived.starts_with(&format!("INVITE sip:{user}@{}", phone.here())), "{arrived}");
    ensure!(headers(&arrived, "To") == [format!("<sip:{}>", aor(number))], "{arrived}");
    phone.send(&with_lines(&response(&arrived, "486 Busy Here"), "Server: busy"))?;
    let answer = caller.final_response()?;
    ensure!(status(&answer) == Some(486), "{answer}");
    phone.receive_request("ACK")?;
    caller.send(&ack(&invite, &answer))?;
    let call_id = headers(&invite, "Call-ID")[0];
    until_stored(site, call_id, 2)?;
    let call = listed(site, user, call_id)?.with_context(|| format!("not in the list of {user}"))?;
    ensure!(call["direction"] == "inbound" && call["disposition"] == "busy", "{call}");
    let call = listed(site, "alice", call_id)?.context("not in the list of the caller")?;
    ensure!(call["peer"] == aor(user), "not by whom was meant: {call}");
    Ok(())
}

fn called_by_number(site: &Site) -> Result<()> {
    add(site, &aor("+15553000"), &aor("bob"))?;
    let (files, trunk) = (RunDir::new("aliases")?, net::loopback());
    let peers = files.write("peers", &format!("1 {trunk} 32 0 carrier\n"))?;
    // The number of calls is a third reason to suspend.
    let plan = site.roles(1).env("CHECK_ALIASES", "1").env("CHECK_MAX_CALLS", "1").env("PEERS_FILE", peers.display());
    let topology = Topology::start(plan)?;
    let balancer = topology.of(Role::LoadBalancer)[0];
    let mut phone = Agent::udp(balancer)?;
    enrol(&mut phone, "bob")?;
    for called in ["+15553000", "bob"] {
        call_number(site, balancer, &mut phone, called, "bob").with_context(|| topology.logs())?;
    }
    // A trunk calls the number at the address that it knows.
    let mut trunk = Agent::udp_from(balancer, trunk)?;
    let uri = format!("sip:+15553000@{}", balancer.address());
    trunk.send(&trunk.request("MESSAGE", &uri, "someone", "+15553000", &[]))?;
    let arrived = phone.receive_request("MESSAGE").with_context(|| topology.logs())?;
    phone.send(&response(&arrived, "200 OK"))?;
    let answer = trunk.final_response()?;
    ensure!(status(&answer) == Some(200), "{answer}");
    Ok(())
}

fn all_in_one(site: &Site) -> Result<()> {
    add(site, &aor("+15554000"), &aor("carol"))?;
    let kamailio = site.connected(site.script(ALL_IN_ONE).env("CHECK_ALIASES", "1"))?;
    let mut phone = Agent::udp(&kamailio)?;
    enrol(&mut phone, "carol")?;
    for called in ["+15554000", "carol"] {
        call_number(site, &kamailio, &mut phone, called, "carol").with_context(|| kamailio.log())?;
    }
    let mut caller = Agent::udp(&kamailio)?;
    send_of_alice(&mut caller, "MESSAGE", "+15554999")?;
    let answer = caller.final_response()?;
    ensure!(status(&answer) == Some(404), "{answer}");
    Ok(())
}

/// The Request-URI is changed for each attempt.
fn next_node(site: &Site) -> Result<()> {
    add(site, &aor("+15555000"), &aor("bob"))?;
    let busy = UdpSocket::bind((net::loopback(), 0))?;
    busy.set_read_timeout(Some(TICK))?;
    let mut plan = site.roles(1).env("CHECK_ALIASES", "1");
    plan.lines = format!("{} sip:{} 0 0 weight=1\n", Role::Outbound.set(), busy.local_addr()?);
    let topology = Topology::start(plan)?;
    let balancer = topology.of(Role::LoadBalancer)[0];
    let mut phone = Agent::udp(balancer)?;
    enrol(&mut phone, "bob")?;
    let mut refused = Vec::new();
    // The nodes take turns.
    for _ in 0..2 {
        let mut caller = Agent::udp(balancer)?;
        send_of_alice(&mut caller, "MESSAGE", "+15555000")?;
        let arrived = until("the request at the phone", SOON, || {
            refused.extend(refuse(&busy)?);
            phone.receive_within(TICK)
        })
        .with_context(|| topology.logs())?;
        phone.send(&response(&arrived, "200 OK"))?;
        let answer = caller.final_response()?;
        ensure!(status(&answer) == Some(200), "{answer}");
    }
    ensure!(refused == [format!("sip:{}", aor("bob"))], "{refused:?}");
    Ok(())
}

/// Has the dispatcher try another node: the Request-URI of what it asked, when it asked.
fn refuse(busy: &UdpSocket) -> Result<Option<String>> {
    let mut buffer = [0; 65_535];
    let (length, dispatcher) = match busy.recv_from(&mut buffer) {
        Ok(received) => received,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
    // It also asks whether this node is there.
    let Some(rest) = request.strip_prefix("MESSAGE ") else { return Ok(None) };
    busy.send_to(response(&request, "503 Service Unavailable").as_bytes(), dispatcher)?;
    Ok(rest.split(' ').next().map(str::to_owned))
}

fn switched_off(site: &Site) -> Result<()> {
    add(site, &aor("+15556000"), &aor("alice"))?;
    let kamailio = site.connected(site.script(ALL_IN_ONE))?;
    let mut caller = Agent::udp(&kamailio)?;
    send_of_alice(&mut caller, "MESSAGE", "+15556000")?;
    let answer = caller.final_response()?;
    ensure!(status(&answer) == Some(404), "{answer}");
    ensure!(statistic(&kamailio, "aliases_found")? + statistic(&kamailio, "aliases_missed")? == 0, "it was looked up");
    Ok(())
}

fn number_unavailable(site: &Site) -> Result<()> {
    add(site, &aor("+15557000"), &aor("alice"))?;
    let topology = Topology::start(site.roles(1).env("CHECK_ALIASES", "1"))?;
    let (balancer, dispatcher) = (topology.of(Role::LoadBalancer)[0], topology.of(Role::Dispatcher)[0]);
    let ask = |caller: &mut Agent| -> Result<String> {
        send_of_alice(caller, "MESSAGE", "+15557000")?;
        caller.final_response()
    };
    let mut caller = Agent::udp(balancer)?;
    // From now on the dispatcher knows the caller's credentials by heart.
    let answer = ask(&mut caller)?;
    ensure!(status(&answer) == Some(480), "nobody is registered: {answer}");
    let accepted = statistic(dispatcher, "auth_accepted")?;
    let frozen = site.frozen()?;
    let answer = ask(&mut caller)?;
    drop(frozen);
    ensure!(status(&answer) == Some(503) && headers(&answer, "Retry-After").len() == 1, "{answer}");
    ensure!(statistic(dispatcher, "auth_accepted")? == accepted + 1, "it was not the alias that could not be read");
    Ok(())
}
