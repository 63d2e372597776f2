//! What a node writes, on its way: real Kamailio under real Carna, a receiver that holds each line to the contract, real rsyslog.

#[path = "../common/mod.rs"]
mod common;
mod contract;
#[path = "../../../tests/common/digest.rs"]
#[allow(dead_code, unreachable_pub, reason = "made for other suites, too")]
mod digest;
mod receiver;
#[path = "../../../tests/common/sip.rs"]
#[allow(dead_code, unreachable_pub, reason = "made for other suites, too")]
mod sip;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{metric, settings};
use contract::Contract;
use fleet::Role;
use lab::carna::{Node, Plan};
use lab::cassandra::{Cassandra, Options};
use lab::process::{OnOurDeath, Signal, Spawn};
use lab::wait::until;
use lab::zookeeper::ZooKeeper;
use lab::{RunDir, kamailio, net, sipctl, workspace};
use receiver::{Age, Receiver, deaf, nobody};
use serde_json::{Value, json};
use sip::{Agent, headers, status};

const DOMAIN: &str = "example.com";
const PASSWORD: &str = "correct-horse-battery";
const SOON: Duration = Duration::from_secs(40);
/// What Kamailio has under Carna.
const ENGINE: &str = "--log-engine=json:M";

fn main() -> ExitCode {
    lab::suite::run(
        Site::start,
        &[
            ("the_documentation_names_every_field_and_no_other", documented as lab::suite::Test<Site>),
            ("calls_and_registrations_are_events_with_their_fields", events),
            ("a_line_of_a_resumed_route_has_its_call_id", resumed),
            ("a_caller_forges_neither_a_field_nor_a_line", hostile),
            ("no_secret_is_in_any_line_at_any_level", secrets),
            ("while_logstash_is_gone_lines_wait_in_order_also_over_a_restart", gone_and_back),
            ("who_reads_nothing_stops_nobody_and_costs_bounded_memory", reads_nothing),
            ("lines_that_are_lost_are_counted", counted),
            ("rsyslog_takes_lines_by_our_configuration", rsyslog),
        ],
    )
}

/// The servers of the suite.
struct Site {
    zookeeper: ZooKeeper,
    cassandra: Cassandra,
}

impl Site {
    fn start() -> Result<Self> {
        let zookeeper = ZooKeeper::start(1)?;
        Cassandra::install()?;
        let cassandra = Cassandra::start(Options::default())?;
        let site = Self { zookeeper, cassandra };
        sipctl::run(&settings(&site.cassandra), &["schema", "apply"], "")?;
        for user in ["alice", "bob"] {
            let user = format!("{user}@{DOMAIN}");
            sipctl::run(
                &settings(&site.cassandra),
                &["subscriber", "add", &user, "--password-stdin"],
                &format!("{PASSWORD}\n"),
            )?;
        }
        Ok(site)
    }

    /// A node with this script, from the top of the sources, whose Kamailio logs as JSON, and whose lines go there.
    fn node(&self, name: &str, script: &str, logstash: SocketAddr) -> Result<Plan> {
        let mut config = kamailio::Config::new(workspace().root().join(script));
        // Of two, one may write in the middle of the other's line of more than 8 KiB.
        config.workers = 1;
        config.env = settings(&self.cassandra);
        let plan = Plan::of(Role::LoadBalancer, &self.zookeeper, config, name)?.program(env!("CARGO_BIN_EXE_carna"));
        Ok(plan.argument(ENGINE).log(&format!("format = 'json'\nlogstash = '{logstash}'")))
    }

    /// One that writes what it is sent.
    fn echo(&self, name: &str, logstash: SocketAddr) -> Result<Plan> {
        self.node(name, "carna/tests/logs/echo.cfg", logstash)
    }
}

/// A MESSAGE with these header lines, which are bytes of any kind, and this Call-ID.
fn message(agent: &Agent, call_id: &[u8], headers: &[u8]) -> Vec<u8> {
    let here = agent.here();
    let mut message = format!(
        "MESSAGE sip:bob@{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK-{here};rport\r\nMax-Forwards: 70\r\nCSeq: 1 MESSAGE\r\nCall-ID: "
    )
    .into_bytes();
    message.extend_from_slice(call_id);
    message.extend_from_slice(b"\r\n");
    if !headers.windows(5).any(|name| name == b"From:") {
        message.extend_from_slice(b"From: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\n");
    }
    message.extend_from_slice(headers);
    message.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    message
}

/// Has a node write some lines about a Call-ID, and waits until they have been written.
fn say(node: &Node, call_id: &str) -> Result<()> {
    let mut agent = Agent::udp_towards(node.address(), net::loopback())?;
    agent.send_bytes(&message(&agent, call_id.as_bytes(), b""))?;
    let answer = agent.final_response()?;
    ensure!(status(&answer) == Some(200), "{answer}");
    Ok(())
}

/// Waits until its module has a session.
fn connected(node: &Node) -> Result<()> {
    let is_connected = || node.rpc("cassandra.status", json!([])).is_ok_and(|status| status["connected"] == 1);
    until("a session with Cassandra", SOON, is_connected)
}

fn call_id_of(line: &Value) -> &str {
    line["sip"]["call_id"].as_str().unwrap_or_default()
}

fn documented(_: &Site) -> Result<()> {
    let contract = Contract::read()?;
    let fields: Vec<&str> =
        contract.names().filter(|name| !name.starts_with("data_stream.") && *name != "tags").collect();
    let text = std::fs::read_to_string(workspace().root().join("docs/logging.md"))?;
    let (_, tables) = text.split_once("\n## Fields\n").context("no fields")?;
    let (tables, _) = tables.split_once("`log.flags` says").context("no end of the fields")?;
    let cells = tables.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let named: Vec<&str> = cells.flat_map(|cell| cell.trim_end_matches('`').split("`, `")).collect();
    for name in &fields {
        ensure!(named.contains(name), "{name} is not documented");
    }
    for name in named {
        ensure!(fields.contains(&name), "{name} is no field");
    }
    let dashboard = std::fs::read_to_string(workspace().root().join("deploy/logstash/dashboard.ndjson"))?;
    let mut used = Vec::new();
    for line in dashboard.lines() {
        shown(&serde_json::from_str(line)?, &mut used)?;
    }
    ensure!(used.len() > 10, "{used:?}");
    for name in used {
        ensure!(fields.contains(&&*name), "{name}, which the dashboard shows, is no field");
    }
    Ok(())
}

/// The fields that something of a dashboard is made of, some of which is JSON in a text.
fn shown(object: &Value, fields: &mut Vec<String>) -> Result<()> {
    let attributes = &object["attributes"];
    for name in attributes["columns"].as_array().into_iter().flatten() {
        fields.push(name.as_str().context("no name")?.to_owned());
    }
    if let Some(state) = attributes["visState"].as_str() {
        let state: Value = serde_json::from_str(state)?;
        let aggregations = state["aggs"].as_array().context("no aggregations")?;
        fields.extend(aggregations.iter().filter_map(|one| one["params"]["field"].as_str()).map(str::to_owned));
    }
    if let Some(source) = attributes["kibanaSavedObjectMeta"]["searchSourceJSON"].as_str() {
        let source: Value = serde_json::from_str(source)?;
        let query = source["query"]["query"].as_str().unwrap_or_default();
        fields.extend(query.split_once(':').map(|(name, _)| name.to_owned()));
    }
    Ok(())
}

fn events(site: &Site) -> Result<()> {
    let receiver = Receiver::start()?;
    let node = site.node("events", "kamailio-cfg/all-in-one.cfg", receiver.address())?.env("EVENT_LOG", "1");
    let node = node.env("MIN_EXPIRES", "1").start()?;
    let mut phone = Agent::udp_towards(node.address(), net::loopback())?;
    let contact = phone.contact("bob", "");
    connected(&node)?;
    let sent = digest::send_authenticated(&mut phone, "REGISTER", &format!("sip:{DOMAIN}"), "bob", "bob", &[&contact])?;
    let answer = phone.final_response()?;
    ensure!(status(&answer) == Some(200), "{answer}");
    let line = receiver.until("the registration", |line| line["event"]["action"] == "reg-new")?;
    ensure!(call_id_of(&line) == headers(&sent, "Call-ID")[0], "{line}");
    ensure!(
        line["sip"]["registration"]["aor"] == format!("bob@{DOMAIN}") && line["event"]["kind"] == "event",
        "{line}"
    );
    ensure!(line["source"]["port"] == phone.here().port() && line["log"]["logger"] == "cassandra", "{line}");
    ensure!(line["service"]["node"] == json!({"name": "events", "role": "load-balancer"}), "{line}");
    ensure!(line["labels"]["dc"] == "dc1" && line["process"]["pid"].is_i64(), "{line}");

    let mut caller = Agent::udp_towards(node.address(), net::loopback())?;
    let contact = caller.contact("alice", "");
    let uri = format!("sip:bob@{DOMAIN}");
    let invite = digest::send_authenticated(
        &mut caller,
        "INVITE",
        &uri,
        "alice",
        "bob",
        &[&contact, "User-Agent: phone \"7\""],
    )?;
    let received = phone.receive_request("INVITE")?;
    phone.send(&sip::response(&received, "486 Busy Here"))?;
    let answer = caller.final_response()?;
    ensure!(status(&answer) == Some(486), "{answer}");
    phone.receive_request("ACK")?;
    let line = receiver.until("the failure", |line| line["event"]["action"] == "call-failed")?;
    ensure!(call_id_of(&line) == headers(&invite, "Call-ID")[0], "{line}");
    ensure!(line["sip"]["code"] == "486" && line["event"]["outcome"] == "failure", "{line}");
    ensure!(line["event"]["duration"] == 0 && line["sip"]["call"]["disposition"] == "busy", "{line}");
    ensure!(line["sip"]["from"]["uri"]["username"] == "alice" && line["sip"]["to"]["uri"]["host"] == DOMAIN, "{line}");
    let line = receiver.until("the attempt", |line| line["event"]["action"] == "call-attempt")?;
    ensure!(line["user_agent"]["original"] == "phone \"7\"" && line["sip"]["method"] == "INVITE", "{line}");
    ensure!(line["source"]["ip"] == caller.here().ip().to_string(), "{line}");

    // The same contact for a moment, and what follows when it is over; then it is there once more, and taken back.
    for (parameters, actions) in
        [(";expires=2", &["reg-refresh", "reg-expired"][..]), ("", &[]), (";expires=0", &["reg-del"])]
    {
        let contact = phone.contact("bob", parameters);
        digest::send_authenticated(&mut phone, "REGISTER", &format!("sip:{DOMAIN}"), "bob", "bob", &[&contact])?;
        let answer = phone.final_response()?;
        ensure!(status(&answer) == Some(200), "{answer}");
        for action in actions {
            let line = receiver.until(action, |line| line["event"]["action"] == *action)?;
            ensure!(line["sip"]["registration"]["aor"] == format!("bob@{DOMAIN}"), "{line}");
        }
    }
    receiver.end().map(drop)
}

fn resumed(site: &Site) -> Result<()> {
    let receiver = Receiver::start()?;
    let node = site.node("resumed", "carna/tests/logs/resumed.cfg", receiver.address())?.start()?;
    connected(&node)?;
    let mut phone = Agent::udp_towards(node.address(), net::loopback())?;
    let request = phone.request("MESSAGE", &format!("sip:bob@{DOMAIN}"), "alice", "bob", &[]);
    let answer = phone.ask(&request)?;
    ensure!(status(&answer) == Some(404), "{answer}");
    let line = receiver.until("its line", |line| line["message"] == "in the resumed route")?;
    ensure!(call_id_of(&line) == headers(&request, "Call-ID")[0], "{line}");
    receiver.end().map(drop)
}

/// What a caller may put into any header.
fn poison() -> Vec<Vec<u8>> {
    let json = br#"x","message":"forged","log":{"level":"alert"},"x":""#;
    let line = b"x\" }\n{ \"idx\": 1, \"pid\": 1, \"level\": \"ALERT\", \"module\": \"core\", \"file\": \"f\", \"line\": 1, \"function\": \"f\", \"logprefix\": \"\", \"message\": \"forged\" }";
    [
        json.to_vec(),
        br#"back\slash\\ \" \u0041 \n {"a":1}"#.to_vec(),
        // Whether Kamailio takes them or not.
        line.to_vec(),
        b"folded\r\n \" }\r\n {\"message\":\"forged\"}".to_vec(),
        b"nul\0after".to_vec(),
        b"bytes \x01\x08\x0c\x1b[31m\x7f\xff\xfe\xc3\x28 end".to_vec(),
        "text äöü € 😀 \u{85}\u{2028}".as_bytes().to_vec(),
        b"%s%n%41%00%".to_vec(),
        vec![b'"'; 3000],
        vec![1; 3000],
        vec![b'a'; 60_000],
        [vec![b'a'; 319], "ä".as_bytes().to_vec()].concat(),
    ]
    .to_vec()
}

fn hostile(site: &Site) -> Result<()> {
    let receiver = Receiver::start()?;
    let node = site.echo("hostile", receiver.address())?.start()?;
    let mut agent = Agent::udp_towards(node.address(), net::loopback())?;
    let mut sent = Vec::new();
    for (number, poison) in poison().into_iter().enumerate() {
        let in_header = |name: &str| [name.as_bytes(), b": ", &*poison, b"\r\n"].concat();
        let in_uri = |name: &str| {
            [name.as_bytes(), b": \"", &*poison, b"\" <sip:", &*poison, b"@example.com>;tag=1\r\n"].concat()
        };
        let plain = b"To: <sip:bob@example.com>\r\n".to_vec();
        let mut all: Vec<Vec<u8>> = ["User-Agent", "Subject", "Contact"].map(in_header).to_vec();
        all.push([in_uri("From"), plain].concat());
        all.push([b"From: <sip:a@example.com>;tag=1\r\n".to_vec(), in_uri("To")].concat());
        all.push(
            [b"From: <sip:a@example.com>;tag=".to_vec(), poison.clone(), b"\r\nTo: <sip:b@example.com>\r\n".to_vec()]
                .concat(),
        );
        let call_id = [format!("id{number}-").as_bytes(), &poison].concat();
        let mut messages: Vec<Vec<u8>> = all
            .into_iter()
            .enumerate()
            .map(|(header, lines)| message(&agent, format!("{number}-{header}").as_bytes(), &lines))
            .collect();
        messages.push(message(&agent, &call_id, b""));
        sent.push(call_id);
        for message in messages {
            let _ = agent.send_bytes(&message);
            // One at a time: what is too much for the socket would be lost.
            say(&node, "between")?;
        }
        say(&node, &format!("after-{number}"))?;
    }
    let _ = receiver.until("the last line", |line| line["message"] == "end" && call_id_of(line) == "after-11")?;
    let kamailio = node.kamailio()?;
    let lines = receiver.end()?;
    for line in &lines {
        let level = &line["log"]["level"];
        ensure!(level != "alert" && line["message"] != "forged" && line["event"]["action"] != "forged", "{line}");
        ensure!(
            line["service"]["name"] != "kamailio" || line["process"].is_null() || line["process"]["pid"] != 1,
            "{line}"
        );
        ensure!(line["service"]["node"]["name"] == "hostile", "{line}");
    }
    ensure!(node.kamailio()? == kamailio, "it has died");
    for call_id in sent {
        let lines: Vec<&Value> = lines.iter().filter(|line| line["message"] == "start MESSAGE").collect();
        let ours =
            |line: &&&Value| call_id_of(line).starts_with(&*String::from_utf8_lossy(&call_id[..5.min(call_id.len())]));
        let Ok(text) = std::str::from_utf8(&call_id) else {
            let repaired = lines.iter().find(ours).context("a line for a Call-ID that is no text")?;
            ensure!(repaired["log"]["flags"] == json!(["repaired"]), "{repaired}");
            continue;
        };
        // What Kamailio takes for the end of the header is the end.
        if text.contains(['\n', '\0']) {
            continue;
        }
        let line = lines.iter().find(ours).with_context(|| format!("no line for {text}"))?;
        let cut = &text[..(0..=320.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0)];
        ensure!(call_id_of(line) == cut.trim_end_matches(' '), "{text}: {line}");
        ensure!((text.len() > 320) == (line["log"]["flags"] == json!(["truncated"])), "{line}");
    }
    Ok(())
}

fn secrets(site: &Site) -> Result<()> {
    const WRONG: &str = "wrong-horse-battery";
    let receiver = Receiver::start()?;
    let plan = site.node("secrets", "kamailio-cfg/all-in-one.cfg", receiver.address())?;
    let node = plan.env("LOG_LEVEL", "4").env("EVENT_LOG", "1").start()?;
    connected(&node)?;
    let mut phone = Agent::udp_towards(node.address(), net::loopback())?;
    let mut secrets = vec![PASSWORD.to_owned(), WRONG.to_owned()];
    let (uri, contact) = (format!("sip:{DOMAIN}"), phone.contact("alice", ""));
    let mut last = String::new();
    for password in [WRONG, PASSWORD] {
        let refusal = phone.ask(&phone.register("alice", &[&contact]))?;
        let challenge =
            digest::Challenge::parse(headers(&refusal, "WWW-Authenticate").first().context("no challenge")?)?;
        let mut credentials = challenge.credentials("alice");
        (credentials.uri, credentials.cnonce) = (uri.clone(), "0a4f113b0a4f113b".to_owned());
        let body = digest::answered(credentials, "REGISTER", password)?;
        for name in ["nonce", "response", "cnonce"] {
            secrets.push(digest::parameter(&body, name).context("it is there")?);
        }
        let ha1 = digest::ha1(domain::digest::Algorithm::Md5, "alice", password)?;
        secrets.push(ha1.as_hex().to_owned());
        let request = phone.register("alice", &[&contact, &format!("Authorization: {body}")]);
        let answer = phone.ask(&request)?;
        ensure!(status(&answer) == Some(if password == PASSWORD { 200 } else { 401 }), "{answer}");
        if let Some(challenge) = headers(&answer, "WWW-Authenticate").first() {
            secrets.push(digest::Challenge::parse(challenge)?.nonce);
        }
        headers(&request, "Call-ID")[0].clone_into(&mut last);
    }
    receiver.until("the registration", |line| line["event"]["action"] == "reg-new" && call_id_of(line) == last)?;
    let lines = receiver.end()?;
    ensure!(lines.iter().filter(|line| line["log"]["level"] == "debug").count() > 100, "it does not log at that level");
    let written = node.log();
    for secret in secrets {
        let line = lines.iter().find(|line| line.to_string().contains(&secret));
        ensure!(line.is_none(), "{secret} was sent: {line:?}");
        let line = written.lines().find(|line| line.contains(&secret));
        ensure!(line.is_none(), "{secret} was written: {line:?}");
    }
    Ok(())
}

/// The sequence numbers of the lines that say so, in the order in which they came; those that came twice are there once.
fn numbers(lines: &[Value], message: &str) -> Vec<String> {
    let mut numbers = Vec::new();
    for line in lines.iter().filter(|line| line["message"] == message) {
        let number = call_id_of(line).to_owned();
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers
}

fn gone_and_back(site: &Site) -> Result<()> {
    let address = nobody().into();
    let receiver = Receiver::at(address, Age::Any)?;
    let node = site.echo("gone", address)?.start()?;
    say(&node, "1")?;
    receiver.until("a line", |line| line["message"] == "end")?;
    let mut lines = receiver.end()?;
    for number in 2..=20 {
        say(&node, &number.to_string())?;
    }
    until("lines to wait", SOON, || metric(&node, "carna_log_overflow_bytes").is_ok_and(|bytes| bytes > 0))?;
    ensure!(metric(&node, "carna_log_connected")? == 0);
    // What has waited for less than this is not synced yet.
    std::thread::sleep(Duration::from_millis(500));
    let node = node.again()?;
    until("the next Kamailio", SOON, || node.log().contains("it answers")).with_context(|| node.log())?;
    for number in 21..=40 {
        say(&node, &number.to_string())?;
    }
    let receiver = Receiver::at(address, Age::Any)?;
    receiver.until("the last line", |line| line["message"] == "end" && call_id_of(line) == "40")?;
    let log = node.log();
    lines.extend(receiver.end()?);
    let wanted: Vec<String> = (1..=40).map(|number| number.to_string()).collect();
    for message in ["start MESSAGE", "end"] {
        let came = numbers(&lines, message);
        ensure!(came == wanted, "{message}: {came:?}\n{log}");
    }
    until("the file to be empty", SOON, || metric(&node, "carna_log_overflow_bytes").is_ok_and(|bytes| bytes == 0))?;
    ensure!(metric(&node, "carna_log_dropped_total{to=\"logstash\"}")? == 0);
    Ok(())
}

/// Has a node write about as many MB.
fn flood(node: &Node, mb: usize) -> Result<()> {
    let mut agent = Agent::udp_towards(node.address(), net::loopback())?;
    let subject = [b"Subject: ".to_vec(), vec![b'x'; 10_000], b"\r\n".to_vec()].concat();
    for number in 0..mb * 100 {
        agent.send_bytes(&message(&agent, format!("flood-{number}").as_bytes(), &subject))?;
        agent.receive()?;
    }
    Ok(())
}

fn reads_nothing(site: &Site) -> Result<()> {
    const MB: usize = 40;
    let (_listener, address) = deaf()?;
    let node = site.echo("deaf", address)?.start()?;
    say(&node, "first")?;
    let before = lab::cpu::rss_kb(node.pid()?);
    flood(&node, MB)?;
    let after = lab::cpu::rss_kb(node.pid()?);
    ensure!(after < before + 30_000, "{before} KB have become {after}");
    until("lines to wait in the file", SOON, || {
        metric(&node, "carna_log_overflow_bytes").is_ok_and(|bytes| bytes > (MB as u64) << 18)
    })
    .with_context(|| node.get("/metrics").map_or_else(|error| error.to_string(), |(_, metrics)| metrics))?;
    ensure!(metric(&node, "carna_log_dropped_total{to=\"logstash\"}")? == 0, "lines were dropped");
    say(&node, "last")
}

fn counted(site: &Site) -> Result<()> {
    let address = nobody().into();
    let plan = site.echo("counted", address)?;
    let node = plan.log(&format!("format = 'json'\nlogstash = '{address}'\noverflow_size = 20000")).start()?;
    for number in 0..50 {
        say(&node, &number.to_string())?;
    }
    let dropped = || metric(&node, "carna_log_dropped_total{to=\"logstash\"}");
    until("lines to be dropped", SOON, || dropped().is_ok_and(|dropped| dropped > 100))?;
    ensure!(metric(&node, "carna_log_overflow_bytes")? <= 20_000);
    let receiver = Receiver::at(address, Age::Any)?;
    receiver.until("the latest lines", |line| call_id_of(line) == "49" && line["message"] == "end")?;
    until("all that is left", SOON, || {
        let came = receiver.lines()?.len() as u64;
        let (lines, dropped) = (metric(&node, "carna_log_lines_total")?, dropped()?);
        Ok((came + dropped == lines).then_some(()))
    })
    .with_context(|| format!("{} came\n{:?}", receiver.last(1000).len(), node.get("/metrics")))?;
    ensure!(numbers(&receiver.end()?, "end").first().is_some_and(|first| first != "0"), "the oldest are there");
    Ok(())
}

fn rsyslog(site: &Site) -> Result<()> {
    let dir = RunDir::new("rsyslog")?;
    let (host, port) = nobody();
    let conf = workspace().root().join("deploy/rsyslog/sip.conf");
    let daemon = Spawn::new("rsyslog", "rsyslogd", dir.join("rsyslogd.log"))
        .args(["-n", "-f", &conf.display().to_string(), "-i", &dir.join("pid").display().to_string()])
        .env("LISTEN", host.to_string())
        .env("PORT", port.to_string())
        .env("LOGS", dir.path())
        .on_our_death(OnOurDeath::Kill);
    let daemon = daemon.start().context("rsyslogd is needed: run `scripts/deps --all`")?;
    let node = site.echo("rsyslog-1", (host, port).into())?.start()?;
    say(&node, "a\"b\\c@d")?;
    // As long as a line may be.
    let mut agent = Agent::udp_towards(node.address(), net::loopback())?;
    agent.send_bytes(&message(&agent, b"long", &[b"Subject: ".to_vec(), vec![1; 3000], b"\r\n".to_vec()].concat()))?;
    agent.receive()?;
    let file = dir.join("load-balancer-rsyslog-1.json");
    let contract = Contract::read()?;
    let written = || std::fs::read(&file).unwrap_or_default();
    let last = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("\"call_id\":\"long\"");
    until("all lines in its file", SOON, || last(&written()))
        .with_context(|| format!("{}\n{}", daemon.log(), node.log()))?;
    let written = written();
    let lines = written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines = lines.map(|line| contract.check_now(line)).collect::<Result<Vec<Value>>>()?;
    ensure!(lines.iter().any(|line| call_id_of(line) == "a\"b\\c@d" && line["message"] == "end"), "{lines:#?}");
    ensure!(!dir.join("not-from-carna.log").exists(), "a line was not understood");
    daemon.signal(Signal::TERM)
}
