//! What operators see and do at run time: RPC commands and statistics.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::sip::{self, Agent, headers};
use common::{DOMAIN, Site, statistic};
use lab::kamailio::Kamailio;
use serde_json::{Value, json};

const SCRIPT: &str = "tests/cfg/rpc.cfg";
const CTL_PORT: u16 = 2049;
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than a call waits, shorter than the driver's patience with a silent connection.
const TOO_SLOW: Duration = Duration::from_millis(1200);

fn main() -> ExitCode {
    common::suite(
        &[],
        &[
            ("lookup_shows_every_current_binding_best_first", lookup),
            ("an_aor_without_bindings_is_404_and_what_is_no_aor_is_400", refused_lookups),
            ("rm_contact_removes_one_binding_and_the_phone_may_register_again", rm_contact),
            ("rm_removes_all_bindings_of_the_aor_and_of_no_other", rm),
            ("an_added_contact_is_called_along_its_path", add),
            ("add_refuses_what_no_register_could_say", refused_additions),
            ("add_keeps_to_the_registrar_s_number_of_contacts", too_many),
            ("a_breaker_held_open_refuses_everything_until_it_is_closed", breaker),
            ("a_slow_backend_is_503_with_the_reason", slow),
            ("every_way_to_a_command_reaches_the_backend", ways),
            ("stats_count_requests_and_their_latency", stats),
            ("prometheus_gets_every_statistic", prometheus),
        ],
    )
}

fn start(site: &Site) -> Result<Kamailio> {
    let config = site.with_settings(SCRIPT, "modparam(\"cassandra\", \"regid_mode\", 1)")?;
    let socket = format!("tcp:{}:{CTL_PORT}", config.address);
    site.connected(config.env("CTL_SOCKET", socket))
}

fn aor(user: &str) -> String {
    format!("{user}@{DOMAIN}")
}

/// Registers this contact with these header parameters, by a new Call-ID.
fn register(agent: &mut Agent, user: &str, uri: &str, parameters: &str) -> Result<()> {
    let contact = format!("Contact: <{uri}>{parameters}");
    let answer = agent.ask(&agent.register(user, &[&contact, "Expires: 600", "User-Agent: phone 1"]))?;
    ensure!(sip::status(&answer) == Some(200), "{answer}");
    Ok(())
}

fn unregister_all(agent: &mut Agent, user: &str) -> Result<()> {
    let answer = agent.ask(&agent.register(user, &["Contact: *", "Expires: 0"]))?;
    ensure!(sip::status(&answer) == Some(200), "{answer}");
    Ok(())
}

/// The contacts that a lookup shows, best first.
fn contacts(kamailio: &Kamailio, user: &str) -> Result<Vec<Value>> {
    let shown = kamailio.rpc("cassandra.lookup", json!([aor(user)]))?;
    ensure!(shown["aor"] == aor(user), "{shown}");
    Ok(shown["contacts"].as_array().with_context(|| format!("no list of contacts in {shown}"))?.clone())
}

fn uris(contacts: &[Value]) -> Vec<&str> {
    contacts.iter().filter_map(|contact| contact["contact"].as_str()).collect()
}

/// That a command is refused with this code and a sentence that holds `text`.
fn ensure_refused(kamailio: &Kamailio, method: &str, params: Value, code: u16, text: &str) -> Result<()> {
    let Err(error) = kamailio.rpc(method, params.clone()) else { anyhow::bail!("{method} {params} is not refused") };
    let error = format!("{error:#}");
    ensure!(error.contains(&format!("\"code\":{code}")) && error.contains(text), "{method} {params}: {error}");
    Ok(())
}

fn lookup(site: &Site) -> Result<()> {
    let kamailio = start(site)?;
    let mut agent = Agent::udp(&kamailio)?;
    let instance = ";q=0.7;+sip.instance=\"<urn:uuid:0c67446e-f1a1-11d9-94d3-000a95a0e128>\";reg-id=1";
    register(&mut agent, "alice", "sip:alice@127.9.9.9:5071", ";q=0.25")?;
    register(&mut agent, "alice", "sip:alice@127.9.9.9:5072", instance)?;
    let shown = contacts(&kamailio, "alice")?;
    ensure!(uris(&shown) == ["sip:alice@127.9.9.9:5072", "sip:alice@127.9.9.9:5071"], "{shown:?}");
    ensure!(shown[0]["q"] == "0.700" && shown[1]["q"] == "0.250", "{shown:?}");
    ensure!(
        shown[0]["reg_id"] == 1 && shown[0]["instance"].as_str().is_some_and(|id| id.contains("0c67446e")),
        "{shown:?}"
    );
    ensure!(shown[0]["user_agent"] == "phone 1" && shown[0]["dc"] == "dc1", "{shown:?}");
    ensure!(shown[0]["expires"].as_u64().is_some_and(|left| (500..=600).contains(&left)), "{shown:?}");
    unregister_all(&mut agent, "alice")
}

fn refused_lookups(site: &Site) -> Result<()> {
    let kamailio = start(site)?;
    ensure_refused(&kamailio, "cassandra.lookup", json!([aor("nobody")]), 404, "no bindings")?;
    ensure_refused(&kamailio, "cassandra.lookup", json!([]), 400, "AOR is missing")?;
    ensure_refused(&kamailio, "cassandra.lookup", json!(["alice"]), 400, "write it as user@domain")?;
    ensure_refused(&kamailio, "cassandra.rm", json!([aor("nobody")]), 404, "no bindings")?;
    ensure_refused(&kamailio, "cassandra.rm_contact", json!([aor("nobody")]), 400, "CONTACT is missing")
}

fn rm_contact(site: &Site) -> Result<()> {
    let kamailio = start(site)?;
    let mut agent = Agent::udp(&kamailio)?;
    register(&mut agent, "alice", "sip:alice@127.9.9.9:5071", "")?;
    register(&mut agent, "alice", "sip:alice@127.9.9.9:5072", "")?;
    let other = json!([aor("alice"), "sip:alice@127.9.9.9:5073"]);
    ensure_refused(&kamailio, "cassandra.rm_contact", other, 404, "5073")?;
    let removed = kamailio.rpc("cassandra.rm_contact", json!([aor("alice"), "sip:alice@127.9.9.9:5071"]))?;
    ensure!(removed["removed"] == 1, "{removed}");
    ensure!(uris(&contacts(&kamailio, "alice")?) == ["sip:alice@127.9.9.9:5072"], "the other contact stays");
    register(&mut agent, "alice", "sip:alice@127.9.9.9:5071", "")?;
    ensure!(contacts(&kamailio, "alice")?.len() == 2, "a removed phone cannot come back");
    unregister_all(&mut agent, "alice")
}

fn rm(site: &Site) -> Result<()> {
    let kamailio = start(site)?;
    let mut agent = Agent::udp(&kamailio)?;
    for user in ["alice", "bob"] {
        register(&mut agent, user, &format!("sip:{user}@127.9.9.9:5071"), "")?;
        register(&mut agent, user, &format!("sip:{user}@127.9.9.9:5072"), "")?;
    }
    let removed = kamailio.rpc("cassandra.rm", json!([aor("alice")]))?;
    ensure!(removed["removed"] == 2, "{removed}");
    ensure_refused(&kamailio, "cassandra.lookup", json!([aor("alice")]), 404, "no bindings")?;
    ensure!(contacts(&kamailio, "bob")?.len() == 2, "another AoR lost bindings");
    unregister_all(&mut agent, "bob")
}

fn add(site: &Site) -> Result<()> {
    let kamailio = start(site)?;
    let (mut edge, mut caller) = (Agent::udp(&kamailio)?, Agent::udp(&kamailio)?);
    let path = format!("<sip:{};lr>", edge.here());
    let contact = "sip:carol@127.9.9.9:5071";
    let added = kamailio.rpc("cassandra.add", json!([aor("carol"), contact, 300, "0.5", path]))?;
    ensure!(added["binding"] == "inserted", "{added}");
    let again =
        kamailio.rpc("cassandra.add", json!([aor("carol"), contact, 400, 0.625, path, 0, 6, 4294967295_u32]))?;
    ensure!(again["binding"] == "updated", "{again}");
    let shown = contacts(&kamailio, "carol")?;
    ensure!(shown.len() == 1 && shown[0]["q"] == "0.625" && shown[0]["path"] == path.as_str(), "{shown:?}");
    ensure!(shown[0]["cflags"] == 6 && shown[0]["methods"] == 4294967295_u32, "{shown:?}");
    ensure!(shown[0]["expires"].as_u64().is_some_and(|left| (301..=400).contains(&left)), "{shown:?}");
    caller.send(&caller.request("INVITE", &format!("sip:{}", aor("carol")), "alice", "carol", &[]))?;
    let relayed = edge.receive_request("INVITE").with_context(|| kamailio.log())?;
    ensure!(
        relayed.starts_with("INVITE sip:carol@127.9.9.9:5071 ") && headers(&relayed, "Route") == [path],
        "{relayed}"
    );
    edge.send(&sip::response(&relayed, "486 Busy Here"))?;
    ensure!(sip::status(&caller.final_response()?) == Some(486), "{}", kamailio.log());
    kamailio.rpc("cassandra.rm", json!([aor("carol")])).map(drop)
}

fn refused_additions(site: &Site) -> Result<()> {
    let kamailio = start(site)?;
    let contact = "sip:dave@127.9.9.9:5071";
    let dave = aor("dave");
    for (params, text) in [
        (json!(["dave", contact, 60]), "write it as user@domain"),
        (json!([dave, "not a uri", 60]), "no SIP URI"),
        (json!([dave, contact]), "EXPIRES is missing"),
        (json!([dave, contact, 0]), "EXPIRES is 0"),
        (json!([dave, contact, "soon"]), "EXPIRES is 'soon'"),
        (json!([dave, contact, 60, "1.5"]), "Q is '1.5'"),
        (json!([dave, contact, 60, ".", "edge.example.com"]), "PATH is 'edge.example.com'"),
        (json!([dave, contact, 60, ".", ".", 0, "many"]), "CFLAGS is 'many'"),
    ] {
        ensure_refused(&kamailio, "cassandra.add", params, 400, text)?;
    }
    ensure_refused(&kamailio, "cassandra.lookup", json!([dave]), 404, "no bindings")
}

fn too_many(site: &Site) -> Result<()> {
    let kamailio = start(site)?;
    let addition = |port| json!([aor("erin"), format!("sip:erin@127.9.9.9:{port}"), 60]);
    for port in 5071..5074 {
        kamailio.rpc("cassandra.add", addition(port))?;
    }
    ensure_refused(&kamailio, "cassandra.add", addition(5074), 503, "Too many registered contacts")?;
    ensure!(contacts(&kamailio, "erin")?.len() == 3, "stored although it was refused");
    kamailio.rpc("cassandra.rm", json!([aor("erin")])).map(drop)
}

fn breaker(site: &Site) -> Result<()> {
    let kamailio = start(site)?;
    let mut agent = Agent::udp(&kamailio)?;
    register(&mut agent, "alice", "sip:alice@127.9.9.9:5071", "")?;
    let state = |params| kamailio.rpc("cassandra.breaker", params).map(|shown| shown["state"].clone());
    ensure!(state(json!([]))? == "closed", "before anything happened");
    ensure_refused(&kamailio, "cassandra.breaker", json!(["ajar"]), 400, "neither open nor close")?;
    ensure!(state(json!(["open"]))? == "open", "after open");
    let refused = agent.ask(&agent.register("alice", &["Contact: <sip:alice@127.9.9.9:5072>"]))?;
    ensure!(sip::status(&refused) == Some(503), "{refused}");
    ensure_refused(&kamailio, "cassandra.lookup", json!([aor("alice")]), 503, "breaker is open")?;
    ensure!(statistic(&kamailio, "breaker_held")? == 1, "not shown as held open");
    ensure!(state(json!(["close"]))? == "closed", "after close");
    ensure!(contacts(&kamailio, "alice")?.len() == 1, "the refused contact was stored");
    unregister_all(&mut agent, "alice")
}

fn slow(site: &Site) -> Result<()> {
    let kamailio = start(site)?;
    site.relay.set_delay(TOO_SLOW);
    let refused = ensure_refused(&kamailio, "cassandra.lookup", json!([aor("alice")]), 503, "did not answer in time");
    site.relay.set_delay(Duration::ZERO);
    refused
}

fn ways(site: &Site) -> Result<()> {
    let kamailio = start(site)?;
    let mut agent = Agent::udp(&kamailio)?;
    register(&mut agent, "alice", "sip:alice@127.9.9.9:5071", "")?;
    ensure!(contacts(&kamailio, "alice")?.len() == 1, "over the datagram socket");
    let by_ctl = kamcmd(&kamailio, &["cassandra.lookup", &aor("alice")])?;
    ensure!(by_ctl.contains("contact: sip:alice@127.9.9.9:5071"), "{by_ctl}");
    let added = kamcmd(&kamailio, &["cassandra.add", &aor("alice"), "sip:alice@127.9.9.9:5072", "60", "0.5"])?;
    ensure!(added.contains("inserted"), "{added}");
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "cassandra.lookup", "params": [aor("alice")]});
    let by_http = http(&kamailio, "POST", "/RPC", &request.to_string())?;
    ensure!(by_http.contains("sip:alice@127.9.9.9:5071") && by_http.contains("0.500"), "{by_http}");
    unregister_all(&mut agent, "alice")
}

fn stats(site: &Site) -> Result<()> {
    let kamailio = start(site)?;
    let mut agent = Agent::udp(&kamailio)?;
    register(&mut agent, "alice", "sip:alice@127.9.9.9:5071", "")?;
    unregister_all(&mut agent, "alice")?;
    // Late, but in time: between 150 ms and the 500 that a call waits.
    site.relay.set_delay(Duration::from_millis(150));
    let late = kamailio.rpc("cassandra.lookup", json!([aor("alice")]));
    site.relay.set_delay(Duration::ZERO);
    ensure!(late.is_err_and(|error| format!("{error:#}").contains("404")), "the late lookup had no answer");
    let stats = kamailio.rpc("cassandra.stats", json!([]))?;
    let count = |name: &str| stats[name].as_u64().with_context(|| format!("no number {name} in {stats}"));
    ensure!(count("requests")? == 3 && count("accepted_regs")? == 2 && count("breaker_state")? == 0, "{stats}");
    ensure!(count("latency_count")? == 3 && count("latency_inf")? == 3, "{stats}");
    ensure!(count("latency_le_100ms")? <= 2 && count("latency_le_1000ms")? == 3, "{stats}");
    ensure!(count("latency_sum_us")? >= 150_000, "{stats}");
    ensure!(count("in_flight")? == 0 && count("queue_depth")? == 0, "{stats}");
    Ok(())
}

fn prometheus(site: &Site) -> Result<()> {
    let kamailio = start(site)?;
    let mut agent = Agent::udp(&kamailio)?;
    register(&mut agent, "alice", "sip:alice@127.9.9.9:5071", "")?;
    unregister_all(&mut agent, "alice")?;
    let exported = http(&kamailio, "GET", "/metrics", "")?;
    let value = |name: &str| {
        let line = exported.lines().find_map(|line| line.strip_prefix(&format!("kamailio_cassandra_{name} ")));
        line.and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok())
    };
    let stats = kamailio.rpc("cassandra.stats", json!([]))?;
    for name in stats.as_object().context("no structure")?.keys() {
        ensure!(value(name).is_some(), "{name} is not exported:\n{exported}");
    }
    ensure!(value("accepted_regs") == Some(2) && value("latency_count") == Some(2), "{exported}");
    ensure!(value("latency_le_1ms") <= value("latency_le_1000ms"), "{exported}");
    Ok(())
}

/// Runs kamcmd, which comes with Kamailio.
fn kamcmd(kamailio: &Kamailio, args: &[&str]) -> Result<String> {
    let socket = format!("tcp:{}:{CTL_PORT}", kamailio.address().ip());
    let output = Command::new("/usr/sbin/kamcmd").args(["-s", &socket]).args(args).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "kamcmd {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// One HTTP exchange; returns the answer's body.
fn http(kamailio: &Kamailio, method: &str, path: &str, body: &str) -> Result<String> {
    let address: SocketAddrV4 = kamailio.address();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut received = Vec::new();
    loop {
        if let Some(body) = http_body(&received)? {
            return Ok(body);
        }
        let mut some = [0; 4096];
        let length = stream.read(&mut some).with_context(|| kamailio.log())?;
        ensure!(length > 0, "closed after {}\n{}", String::from_utf8_lossy(&received), kamailio.log());
        received.extend(&some[..length]);
    }
}

/// The body, once it is there.
fn http_body(received: &[u8]) -> Result<Option<String>> {
    let text = String::from_utf8_lossy(received);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    ensure!(head.starts_with("HTTP/1.1 200 "), "{text}");
    let length: usize = headers(head, "Content-Length").first().context("no Content-Length")?.parse()?;
    Ok((body.len() >= length).then(|| body.to_owned()))
}
