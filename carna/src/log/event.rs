//! What became of a call or a binding, from the line that tells of it, in the names of Packetbeat (`sip.*`) and ECS.
//!
//! Only the module of Kamailio and Carna write such lines, each by a function of its own; the rest of such a line is JSON, in which what a
//! caller has sent is a value.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record::{Flag, LONGEST_TEXT, Level, Record, cut};
use super::redact;

/// What the module's lines name as their function.
const CALLS: &str = "call_log";
const REGISTRATIONS: &str = "registration_log";
/// Before the JSON.
const CALL: &str = "call ";
const REGISTRATION: &str = "registration ";
/// Nanoseconds in a millisecond.
const NANOS: u64 = 1_000_000;
/// Attributes of an event at most.
const MOST_ATTRIBUTES: usize = 16;

/// What has happened.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Details {
    #[serde(skip)]
    pub(super) event: Happened,
    #[serde(skip)]
    pub(super) sip: Sip,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<Original>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network>,
}

/// `event.*`
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Happened {
    kind: &'static str,
    category: &'static str,
    action: String,
    outcome: &'static str,
    created: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
}

/// `sip.*`, beside the Call-ID.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Sip {
    #[serde(skip_serializing_if = "String::is_empty")]
    method: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cseq: Option<CSeq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<Uri>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Party>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Party>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contact: Option<Party>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<Call>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registration: Option<Registration>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct CSeq {
    code: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Party {
    uri: Uri,
    #[serde(skip_serializing_if = "String::is_empty")]
    tag: String,
}

/// A URI and its parts.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Uri {
    original: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    scheme: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    host: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    port: String,
}

/// The call as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Call {
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    caller: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    callee: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    account: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    ended_by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    disposition: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Registration {
    aor: String,
    expires: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    instance: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reg_id: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    socket: String,
}

/// Where a message came from, or goes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Endpoint {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Original {
    original: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Network {
    protocol: &'static str,
}

/// What the module says of a call (`docs/module.md`, section 14.1).
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct CallLine {
    time: String,
    event: String,
    call_id: String,
    leg: String,
    method: String,
    code: u16,
    reason: String,
    ended_by: String,
    caller: String,
    callee: String,
    account: String,
    from_uri: String,
    from_tag: String,
    to_uri: String,
    to_tag: String,
    r_uri: String,
    source: String,
    destination: String,
    user_agent: String,
    extra: BTreeMap<String, String>,
    event_id: String,
    call: Option<Conclusion>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Conclusion {
    start: Option<String>,
    end: Option<String>,
    duration_ms: u64,
    disposition: String,
    ended_by: String,
}

/// What the module says of a binding.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct RegistrationLine {
    time: String,
    event: String,
    aor: String,
    contact: String,
    received: String,
    path: String,
    call_id: String,
    cseq: u32,
    expires: String,
    instance: String,
    reg_id: u32,
    user_agent: String,
    socket: String,
}

/// Takes what a line of our module tells, if it tells of an event. Other lines stay as they are.
pub(super) fn recognise(record: &mut Record) {
    match (&*record.function, record.level) {
        (CALLS, Level::Info) => call(record),
        (REGISTRATIONS, Level::Info) => registration(record),
        _ => {}
    }
}

/// Takes what a line tells of a call.
pub(super) fn call(record: &mut Record) {
    let Some(line) = parse::<CallLine>(record, CALL) else { return };
    let mut values = Values::default();
    let outcome = match &*line.event {
        "call-start" | "call-end" => "success",
        "call-failed" | "call-expired" | "call-lost" => "failure",
        _ => "unknown",
    };
    let mut event = values.event("session", outcome, line.event, line.time);
    event.reason = values.text(line.reason);
    event.id = values.text(line.event_id);
    let mut call = Call {
        id: values.text(line.call_id),
        caller: values.text(line.caller),
        callee: values.text(line.callee),
        account: values.text(line.account),
        ended_by: values.text(line.ended_by),
        disposition: String::new(),
    };
    if let Some(whole) = line.call {
        (event.start, event.end) = (whole.start.and_then(date), whole.end.and_then(date));
        event.duration = Some(whole.duration_ms.saturating_mul(NANOS));
        call.disposition = values.text(whole.disposition);
        call.ended_by = values.text(whole.ended_by);
    }
    let summary = values.text(format!("{} {} -> {}", event.action, line.from_uri, line.to_uri));
    let sip = Sip {
        method: values.text(line.method),
        code: if line.code == 0 { String::new() } else { line.code.to_string() },
        uri: values.uri(&line.r_uri),
        from: values.party(&line.from_uri, line.from_tag),
        to: values.party(&line.to_uri, line.to_tag),
        call: Some(call),
        attributes: values.attributes(line.extra),
        ..Sip::default()
    };
    let details = Details {
        event,
        sip,
        source: values.endpoint(&line.source),
        destination: values.endpoint(&line.destination),
        user_agent: values.original(line.user_agent),
        network: Some(Network { protocol: "sip" }),
    };
    values.put(record, line.leg, summary, details);
}

/// Takes what a line tells of a binding.
fn registration(record: &mut Record) {
    let Some(line) = parse::<RegistrationLine>(record, REGISTRATION) else { return };
    let mut values = Values::default();
    let outcome = if line.event == "reg-expired" { "failure" } else { "success" };
    let summary = values.text(format!("{} {} at {}", line.event, line.aor, line.contact));
    let event = values.event("session", outcome, line.event, line.time);
    let seen_at = if line.received.is_empty() { &line.contact } else { &line.received };
    let source = values.endpoint(seen_at);
    let registration = Registration {
        aor: values.text(line.aor),
        expires: date(line.expires).unwrap_or_else(|| event.created.clone()),
        path: values.text(line.path),
        instance: values.text(line.instance),
        reg_id: (line.reg_id > 0).then_some(line.reg_id),
        socket: values.text(line.socket),
    };
    let sip = Sip {
        method: "REGISTER".to_owned(),
        cseq: Some(CSeq { code: line.cseq.to_string() }),
        contact: values.party(&line.contact, String::new()),
        registration: Some(registration),
        ..Sip::default()
    };
    let details = Details {
        event,
        sip,
        source,
        destination: None,
        user_agent: values.original(line.user_agent),
        network: Some(Network { protocol: "sip" }),
    };
    values.put(record, line.call_id, summary, details);
}

fn parse<L: DeserializeOwned>(record: &Record, prefix: &str) -> Option<L> {
    serde_json::from_str(record.message.strip_prefix(prefix)?).ok()
}

/// A time of ours, as it is written.
fn date(text: String) -> Option<String> {
    humantime::parse_rfc3339(&text).is_ok().then_some(text)
}

/// Brings values to what is allowed.
#[derive(Default)]
struct Values {
    is_cut: bool,
    is_redacted: bool,
}

impl Values {
    fn text(&mut self, mut text: String) -> String {
        if let Some(redacted) = redact::redacted(&text) {
            self.is_redacted = true;
            text = redacted;
        }
        self.is_cut |= cut(&mut text, LONGEST_TEXT);
        text
    }

    fn event(&mut self, category: &'static str, outcome: &'static str, action: String, created: String) -> Happened {
        let created = date(created).unwrap_or_else(|| humantime::format_rfc3339(std::time::UNIX_EPOCH).to_string());
        Happened { kind: "event", category, action: self.text(action), outcome, created, ..Happened::default() }
    }

    fn party(&mut self, uri: &str, tag: String) -> Option<Party> {
        Some(Party { uri: self.uri(uri)?, tag: self.text(tag) })
    }

    /// A URI, whose password, if it has one, is nobody's business.
    fn uri(&mut self, text: &str) -> Option<Uri> {
        if text.is_empty() {
            return None;
        }
        let original = self.text(text.to_owned());
        let Some((scheme, rest)) = original.split_once(':') else { return Some(Uri { original, ..Uri::default() }) };
        let rest = rest.split([';', '?', '>']).next().unwrap_or_default();
        let (user, host) = match rest.rsplit_once('@') {
            Some(parts) => parts,
            None if scheme == "tel" => (rest, ""),
            None => ("", rest),
        };
        let (host, port) = host_and_port(host);
        let username = user.split(':').next().unwrap_or_default();
        Some(Uri {
            scheme: scheme.to_owned(),
            username: username.to_owned(),
            host: host.to_owned(),
            port: port.map(|port| port.to_string()).unwrap_or_default(),
            original,
        })
    }

    fn endpoint(&mut self, uri: &str) -> Option<Endpoint> {
        let uri = self.uri(uri)?;
        let ip = uri.host.trim_matches(['[', ']']).parse().ok();
        let address = if uri.host.is_empty() { uri.original } else { uri.host };
        Some(Endpoint { address, ip, port: uri.port.parse().ok() })
    }

    fn original(&mut self, text: String) -> Option<Original> {
        (!text.is_empty()).then(|| Original { original: self.text(text) })
    }

    fn attributes(&mut self, extra: BTreeMap<String, String>) -> BTreeMap<String, String> {
        self.is_cut |= extra.len() > MOST_ATTRIBUTES;
        extra.into_iter().take(MOST_ATTRIBUTES).map(|(name, value)| (self.text(name), self.text(value))).collect()
    }

    fn put(mut self, record: &mut Record, call_id: String, summary: String, details: Details) {
        record.call_id = self.text(call_id);
        (record.message, record.details) = (summary, Some(Box::new(details)));
        if self.is_cut {
            record.mark(Flag::Truncated);
        }
        if self.is_redacted {
            record.mark(Flag::Redacted);
        }
    }
}

/// The host, an IPv6 address with its brackets, and the port.
fn host_and_port(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::{Value, json};

    use super::*;
    use crate::log::record::{Place, Service};

    fn line(module: &str, function: &str, level: Level, message: String) -> Value {
        let mut record = Record::raw(SystemTime::UNIX_EPOCH, Service::Kamailio, message);
        record.flags.clear();
        (record.level, record.module, record.function) = (level, module.to_owned(), function.to_owned());
        recognise(&mut record);
        let [role, node, dc, container] = ["registrar", "r1", "dc1", "c"].map(str::to_owned);
        serde_json::from_str(&record.json(&Place { role, node, dc, container }, 7)).expect("JSON")
    }

    #[test]
    fn the_end_of_a_call_has_its_fields() {
        let call = json!({
            "time": "2026-01-31T12:00:05.250Z", "event": "call-end", "call_id": "x1", "leg": "a\",\"b\r\n@c", "method": "BYE",
            "code": 200, "from_uri": "sip:bob:secret@example.com", "from_tag": "1", "to_uri": "tel:+1", "source": "sip:192.0.2.1:5060",
            "destination": "sip:[2001:db8::1]:5070;transport=tcp", "user_agent": "ua", "extra": {"a.b": "c"}, "event_id": "e1",
            "call": {"start": "2026-01-31T12:00:00.000Z", "ringing": null, "answer": null, "end": "2026-01-31T12:00:05.250Z",
                "duration_ms": 3250, "disposition": "answered", "ended_by": "callee"}
        });
        let document = line("cassandra", "call_log", Level::Info, format!("call {call}"));
        assert_eq!(
            document["event"],
            json!({"sequence": 7, "kind": "event", "category": "session", "action": "call-end", "outcome": "success",
                "created": "2026-01-31T12:00:05.250Z", "id": "e1", "start": "2026-01-31T12:00:00.000Z",
                "end": "2026-01-31T12:00:05.250Z", "duration": 3_250_000_000_u64})
        );
        assert_eq!(document["sip"]["call_id"], "a\",\"b\r\n@c");
        assert_eq!(
            (&document["sip"]["code"], &document["sip"]["call"]["disposition"]),
            (&json!("200"), &json!("answered"))
        );
        assert_eq!(
            (&document["sip"]["from"]["uri"]["username"], &document["sip"]["from"]["tag"]),
            (&json!("bob"), &json!("1"))
        );
        assert!(!document.to_string().contains("secret"), "{document}");
        assert_eq!(document["source"], json!({"address": "192.0.2.1", "ip": "192.0.2.1", "port": 5060}));
        assert_eq!(document["destination"], json!({"address": "[2001:db8::1]", "ip": "2001:db8::1", "port": 5070}));
        assert_eq!(document["user_agent"]["original"], "ua");
        assert_eq!(document["sip"]["attributes"], json!({"a.b": "c"}));
    }

    #[test]
    fn what_is_no_line_of_ours_stays_as_it_is() {
        let call = "call {\"event\":\"call-end\"}".to_owned();
        for (function, level, message) in [
            ("io", Level::Info, call.clone()),
            ("", Level::Info, call.clone()),
            ("call_log", Level::Error, call.clone()),
            ("call_log", Level::Info, "call {\"event\":7}".to_owned()),
            ("call_log", Level::Info, "call {\"event\":\"x\"".to_owned()),
            ("registration_log", Level::Info, call),
        ] {
            let document = line("cassandra", function, level, message.clone());
            assert_eq!((&document["message"], &document["event"]), (&json!(message), &json!({"sequence": 7})));
        }
    }

    #[test]
    fn a_binding_has_its_fields() {
        let binding = json!({
            "time": "2026-01-31T12:00:05.250Z", "event": "reg-new", "aor": "alice@example.com", "contact": "sip:alice@10.0.0.1:5070",
            "received": "sip:192.0.2.1:5071", "call_id": "c1", "cseq": 3, "expires": "2026-01-31T13:00:05.250Z", "reg_id": 1
        });
        let document = line("cassandra", "registration_log", Level::Info, format!("registration {binding}"));
        assert_eq!((&document["event"]["action"], &document["sip"]["method"]), (&json!("reg-new"), &json!("REGISTER")));
        assert_eq!(
            document["sip"]["registration"],
            json!({"aor": "alice@example.com", "expires": "2026-01-31T13:00:05.250Z", "reg_id": 1})
        );
        assert_eq!(
            (&document["source"]["port"], &document["sip"]["contact"]["uri"]["port"]),
            (&json!(5071), &json!("5070"))
        );
        assert_eq!((&document["sip"]["call_id"], &document["sip"]["cseq"]["code"]), (&json!("c1"), &json!("3")));
    }
}
