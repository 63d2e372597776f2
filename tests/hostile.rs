//! Messages that no honest phone sends: each is refused or does no harm, and the server goes on.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::sip::{Agent, headers, status};
use common::{ALL_IN_ONE, DOMAIN, PLAIN, Site, options, statistic};
use lab::kamailio::Kamailio;

const SCRIPT: &str = "tests/cfg/location.cfg";
const SETTINGS: &str = "modparam(\"cassandra\", \"use_path\", 1)\nmodparam(\"cassandra\", \"outbound_mode\", 1)";
const FORMS: [&str; 2] = ["X-Form: plain", "X-Form: async"];
/// A message that Kamailio itself cannot read gets no answer; this long nothing comes.
const SILENCE: Duration = Duration::from_secs(1);
/// Error lines that one message may cost.
const LINES_EACH: usize = 8;

fn main() -> ExitCode {
    common::suite(
        &["mallory"],
        &[
            ("contacts_that_are_malformed_are_400_and_stored_by_nobody", malformed_contacts),
            ("contacts_that_are_odd_are_kept_as_they_are", odd_contacts),
            ("hundreds_of_contacts_are_stored_all_or_none", hundreds_of_contacts),
            ("escaped_line_breaks_add_no_header", escaped_line_breaks),
            ("headers_that_are_malformed_empty_or_twice_do_no_harm", malformed_headers),
            ("bytes_that_are_no_text_do_no_harm", no_text),
            ("an_address_that_names_nobody_is_refused", nobody),
            ("requests_to_anything_are_answered", hostile_targets),
            ("credentials_that_are_malformed_are_challenged", malformed_credentials),
        ],
    )
}

/// A node, what it was when it started, and how much it has been told.
struct Target {
    kamailio: Kamailio,
    processes: Vec<u32>,
    messages: usize,
}

impl Target {
    fn start(site: &Site, script: &str, settings: &str) -> Result<Self> {
        let kamailio = site.connected(site.with_settings(script, settings)?)?;
        let processes = sorted(kamailio.pids());
        Ok(Self { kamailio, processes, messages: 0 })
    }

    fn agent(&self) -> Result<Agent> {
        Agent::udp(&self.kamailio)
    }

    /// Sends a message from a phone of its own; its final response, or `""` when there is none.
    fn ask(&mut self, make: impl FnOnce(&Agent) -> Vec<u8>) -> Result<String> {
        let mut agent = self.agent()?;
        self.messages += 1;
        agent.send_bytes(&make(&agent))?;
        loop {
            match agent.receive_within(SILENCE)? {
                None => return Ok(String::new()),
                Some(answer) if matches!(status(&answer), Some(200..)) => return Ok(answer),
                Some(_) => {}
            }
        }
    }

    /// A REGISTER of mallory's with these header lines.
    fn register(&mut self, lines: &[&str]) -> Result<String> {
        self.ask(|agent| agent.register("mallory", lines).into_bytes())
    }

    fn unregister_all(&mut self) -> Result<()> {
        let answer = self.register(&["Contact: *", "Expires: 0"])?;
        ensure!(status(&answer) == Some(200), "{answer}");
        Ok(())
    }

    /// All processes live, none has panicked, it answers, and its log has not been flooded.
    fn ensure_unharmed(self) -> Result<()> {
        let Self { kamailio, processes, messages } = self;
        let log = || format!("Kamailio's log:\n{}", kamailio.log());
        ensure!(sorted(kamailio.pids()) == processes, "processes have died or are new; {}", log());
        ensure!(statistic(&kamailio, "panics")? == 0, "there were panics; {}", log());
        ensure!(options(&kamailio, "")?.contains(" 200 ") || kamailio.answers(), "it does not answer; {}", log());
        let errors = kamailio.log().lines().filter(|line| line.contains("ERROR") || line.contains("CRITICAL")).count();
        ensure!(errors <= messages * LINES_EACH, "{errors} errors for {messages} messages; {}", log());
        Ok(())
    }
}

fn sorted(mut pids: Vec<u32>) -> Vec<u32> {
    pids.sort_unstable();
    pids
}

/// The contacts that are stored.
fn stored(site: &Site) -> Result<Vec<String>> {
    let rows = site.contacts("mallory")?;
    Ok(rows.iter().map(|row| row["contact"].as_str().unwrap_or_default().to_owned()).collect())
}

fn malformed_contacts(site: &Site) -> Result<()> {
    let mut target = Target::start(site, SCRIPT, SETTINGS)?;
    let flow = "<sip:m@127.9.9.1>;+sip.instance=\"<urn:uuid:1>\"";
    let reg_ids = ["99999999999999999999", "0", "-1", "1x"].map(|reg_id| format!("{flow};reg-id={reg_id}"));
    let others = [
        "<sip:m@127.9.9.1>;q=99999999999",
        "<sip:m@127.9.9.1>;q=-1",
        "<sip:m@127.9.9.1>;q=1e-1",
        "<sip:m@127.9.9.1>;q=0.00000000000000000001",
        "<sip:m@[2001:db8::1>",
        "<sip:@127.9.9.1>",
        "<sip:m@>",
        "<sip:m@127.9.9.1:99999>",
        "<>",
        "<sip:m@127.9.9.1",
        "\"open <sip:m@127.9.9.1>",
        "<sip:m@127.9.9.1>, *",
        ",,,",
        "<sip:m@127.9.9.1>;;;",
    ];
    for contact in others.into_iter().chain(reg_ids.iter().map(String::as_str)) {
        for form in FORMS {
            let answer = target.register(&[&format!("Contact: {contact}"), "Supported: outbound, path", form])?;
            ensure!(status(&answer) == Some(400), "{contact} ({form}):\n{answer}");
        }
    }
    ensure!(stored(site)?.is_empty(), "something was stored");
    target.ensure_unharmed()
}

fn odd_contacts(site: &Site) -> Result<()> {
    let mut target = Target::start(site, SCRIPT, SETTINGS)?;
    let many = (0..200).map(|number| format!(";p{number}={number}")).collect::<String>();
    for (contact, uri) in [
        ("<sip:m@[2001:DB8::1]:5070;transport=tcp>".to_owned(), "sip:m@[2001:DB8::1]:5070;transport=tcp"),
        ("<tel:+15551234>".to_owned(), "tel:+15551234"),
        ("<mailto:m@example.com>".to_owned(), "mailto:m@example.com"),
        ("<urn:service:sos>".to_owned(), "urn:service:sos"),
        ("<sip:%25%2e;x@127.9.9.1>".to_owned(), "sip:%25%2e;x@127.9.9.1"),
        ("\"a, \\\"b\\\" <sip:no@h>\" <sip:m@127.9.9.1>;x=\"<>,;\"".to_owned(), "sip:m@127.9.9.1"),
        (format!("<sip:m@127.9.9.1>{many}"), "sip:m@127.9.9.1"),
        ("<sip:m@127.9.9.1>;expires=99999999999999999999".to_owned(), "sip:m@127.9.9.1"),
        ("<sip:m@127.9.9.1>;expires=-5".to_owned(), "sip:m@127.9.9.1"),
    ] {
        for form in FORMS {
            let answer = target.register(&[&format!("Contact: {contact}"), "Expires: 99999999999", form])?;
            ensure!(status(&answer) == Some(200), "{contact} ({form}):\n{answer}");
            let expected = format!("<{uri}>;expires=3600");
            ensure!(headers(&answer, "Contact") == [expected.as_str()], "{contact} ({form}):\n{answer}");
            ensure!(stored(site)? == [uri], "{contact} ({form}) is stored as {:?}", stored(site)?);
            for function in ["lookup", "lookup_to_dset", "lookup_branches", "registered", "fetch", "lookup_xavp"] {
                let called = format!("X-Do: {function}");
                let found = target.ask(|agent| {
                    agent
                        .request("INVITE", &format!("sip:mallory@{DOMAIN}"), "t", "mallory", &[&called, form])
                        .into_bytes()
                })?;
                ensure!(status(&found).is_some(), "{contact}: {function} ({form}) does not answer");
            }
            target.unregister_all()?;
        }
    }
    target.ensure_unharmed()
}

fn hundreds_of_contacts(site: &Site) -> Result<()> {
    let mut target = Target::start(site, SCRIPT, SETTINGS)?;
    let contacts: Vec<String> = (0..400).map(|number| format!("<sip:m@127.9.9.1:{}>", 10_000 + number)).collect();
    let in_one = vec![format!("Contact: {}", contacts.join(","))];
    let in_many: Vec<String> = contacts.iter().map(|contact| format!("Contact: {contact}")).collect();
    for lines in [in_one, in_many] {
        for form in FORMS {
            let all: Vec<&str> = lines.iter().map(String::as_str).chain([form]).collect();
            let answer = target.register(&all)?;
            let stored = stored(site)?.len();
            let fits = match status(&answer) {
                Some(200) => stored == contacts.len(),
                Some(400 | 500 | 513) => stored == 0,
                // The answer came too late.
                Some(503) => stored == 0 || stored == contacts.len(),
                _ => false,
            };
            ensure!(fits, "{stored} are stored:\n{answer}");
            target.unregister_all()?;
        }
    }
    target.ensure_unharmed()
}

fn escaped_line_breaks(site: &Site) -> Result<()> {
    let mut target = Target::start(site, SCRIPT, SETTINGS)?;
    let injected = "%0d%0aX-Injected:%20y";
    for lines in [
        vec![format!("Contact: <sip:m{injected}@127.9.9.1>")],
        vec![format!("Contact: <sip:m@127.9.9.1;x={injected}?h={injected}>")],
        vec![format!("Contact: <sip:m@127.9.9.1>;received=\"sip:1.2.3.4{injected}\"")],
        vec!["Contact: <sip:m@127.9.9.1>;received=\"sip:1.2.3.4\r\n X-Injected: y\"".to_owned()],
        vec!["Contact: <sip:m@127.9.9.1>;+sip.instance=\"<urn:1\r\n X-Injected: y>\"".to_owned()],
        vec!["Contact: <sip:m@127.9.9.1>;+sip.instance=\"<urn:\\\"1>\"".to_owned(), "Supported: gruu".to_owned()],
        vec![
            "Contact: <sip:m@127.9.9.1>".to_owned(),
            format!("Path: <sip:lb;lr;x={injected}>"),
            "Supported: path".to_owned(),
        ],
        vec![
            "Contact: <sip:m@127.9.9.1>".to_owned(),
            "Path: <sip:lb;lr>,\r\n\t<sip:lb2;lr>".to_owned(),
            "Supported: path".to_owned(),
        ],
    ] {
        for form in FORMS {
            let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            lines.push(form);
            let answer = target.register(&lines)?;
            ensure!(matches!(status(&answer), Some(200 | 400)), "{lines:?}:\n{answer}");
            let first_of_line = |line: &str| line.trim_start().to_ascii_lowercase().starts_with("x-injected");
            ensure!(!answer.split(['\r', '\n']).any(first_of_line), "{lines:?}:\n{answer}");
            target.unregister_all()?;
        }
    }
    target.ensure_unharmed()
}

/// A REGISTER in which one line is replaced by others.
fn with_lines(agent: &Agent, name: &str, lines: &[&str]) -> Vec<u8> {
    let request = agent.register("mallory", &["Contact: <sip:m@127.9.9.1>"]);
    let changed = request
        .split("\r\n")
        .flat_map(|line| if line.starts_with(&format!("{name}:")) { lines.to_vec() } else { vec![line] });
    changed.collect::<Vec<_>>().join("\r\n").into_bytes()
}

fn malformed_headers(site: &Site) -> Result<()> {
    let mut target = Target::start(site, SCRIPT, SETTINGS)?;
    let contact = "Contact: <sip:m@127.9.9.1>";
    let long = format!("Supported: {}", "x,".repeat(5000));
    for (name, lines) in [
        ("CSeq", vec!["CSeq: 4294967296 REGISTER"]),
        ("CSeq", vec!["CSeq: 99999999999999999999999999 REGISTER"]),
        ("CSeq", vec!["CSeq: -1 REGISTER"]),
        ("CSeq", vec!["CSeq: "]),
        ("CSeq", vec!["CSeq: 7 REGISTER", "CSeq: 8 REGISTER"]),
        ("CSeq", vec![]),
        ("Call-ID", vec!["Call-ID: "]),
        ("Call-ID", vec!["Call-ID: one", "Call-ID: two"]),
        ("Call-ID", vec![]),
        ("To", vec!["To: "]),
        ("To", vec!["To: <sip:mallory@example.com>", "To: <sip:other@example.com>"]),
        ("To", vec!["To: <sip:mallory@example.com>;tag=1;tag=2;;;"]),
        ("To", vec![]),
        ("From", vec!["From: "]),
        ("From", vec![]),
        ("Via", vec!["Via: "]),
        ("Contact", vec![contact, "Expires: 0", "Expires: 600"]),
        ("Contact", vec![contact, "Expires: "]),
        ("Contact", vec![contact, "Expires: 99999999999999999999999"]),
        ("Contact", vec!["Contact: "]),
        ("Contact", vec![contact, "Path: "]),
        ("Contact", vec![contact, "Path: ,,,", "Supported: path"]),
        ("Contact", vec![contact, "Path: <sip:lb;lr>,", "Path: ", "Supported: path"]),
        ("Contact", vec![contact, "Require: ", "Supported: ", "Allow: ", "User-Agent: "]),
        ("Contact", vec![contact, "Require: x\"y, <z>"]),
        ("Contact", vec![contact, "Allow: INVITE,,,", "Allow: \u{1}"]),
        ("Contact", vec![contact, &long]),
        ("Content-Length", vec!["Content-Length: 99999999999", "", ""]),
        ("Content-Length", vec!["Content-Length: -1", "", ""]),
        ("Max-Forwards", vec!["Max-Forwards: -99999999999"]),
    ] {
        for form in FORMS {
            let mut changed = lines.clone();
            changed.insert(0, form);
            let answer = target.ask(|agent| with_lines(agent, name, &changed))?;
            let stored = stored(site)?;
            let fits = match status(&answer) {
                Some(200) => stored.iter().all(|uri| uri == "sip:m@127.9.9.1") && stored.len() <= 1,
                None | Some(400..=499 | 513) => stored.is_empty(),
                _ => false,
            };
            ensure!(fits, "{changed:?}: {stored:?} are stored:\n{answer}");
            target.unregister_all()?;
        }
    }
    target.ensure_unharmed()
}

fn no_text(site: &Site) -> Result<()> {
    let mut target = Target::start(site, SCRIPT, SETTINGS)?;
    for bytes in [b"\0".as_slice(), b"\xff\xfe", b"\xc3", b"\x01\x7f", b"\xed\xa0\x80"] {
        for place in [
            "<sip:MARK@127.9.9.1>",
            "<sip:m@127.9.9.1;x=MARK>",
            "<sip:m@127.9.9.1>;+sip.instance=\"MARK\"",
            "\"MARK\" <sip:m@127.9.9.1>",
        ] {
            let answer =
                target.ask(|agent| marked(&agent.register("mallory", &[&format!("Contact: {place}")]), bytes))?;
            let rows = stored(site)?;
            let is_text = |uri: &String| !uri.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER);
            ensure!(rows.iter().all(is_text), "{bytes:?} in {place}: {rows:?}");
            ensure!(
                status(&answer) == Some(200) || rows.is_empty(),
                "{bytes:?} in {place}: {rows:?} are stored:\n{answer}"
            );
            target.unregister_all()?;
        }
        for header in ["Call-ID: MARK", "From: <sip:MARK@example.com>;tag=1", "User-Agent: MARK", "X-Other: MARK"] {
            let name = header.split(':').next().unwrap_or_default();
            target.ask(|agent| marked(&String::from_utf8_lossy(&with_lines(agent, name, &[header])), bytes))?;
            target.unregister_all()?;
        }
    }
    target.ensure_unharmed()
}

/// The message with these bytes in the place of the mark.
fn marked(message: &str, bytes: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = message.split("MARK").map(str::as_bytes).collect();
    parts.join(bytes)
}

fn nobody(site: &Site) -> Result<()> {
    let mut target = Target::start(site, SCRIPT, SETTINGS)?;
    let (long_user, long_domain) = ("u".repeat(300), "d".repeat(300));
    for to in [
        format!("<sip:{long_user}@example.com>"),
        format!("<sip:mallory@{long_domain}>"),
        "<sip:mal%0d%0alory@example.com>".to_owned(),
        "<sip:%00@example.com>".to_owned(),
        "<sip:%ff@example.com>".to_owned(),
        "<sip:example.com>".to_owned(),
        "<tel:+1555>".to_owned(),
        "<http://example.com>".to_owned(),
        "<sip:mallory@[2001:db8::1]>".to_owned(),
        "<sip:mallory@elsewhere.example>".to_owned(),
    ] {
        for form in FORMS {
            let answer = target.ask(|agent| with_lines(agent, "To", &[&format!("To: {to}"), form]))?;
            ensure!(matches!(status(&answer), None | Some(400 | 404)), "{to} ({form}):\n{answer}");
        }
    }
    target.ensure_unharmed()
}

fn hostile_targets(site: &Site) -> Result<()> {
    let mut target = Target::start(site, SCRIPT, SETTINGS)?;
    let long = "u".repeat(10_000);
    for uri in [
        format!("sip:{long}@example.com"),
        "sip:%00@example.com".to_owned(),
        "sip:%ff%0d%0a@example.com".to_owned(),
        "sip:mallory@example.com;gr".to_owned(),
        "sip:tgruu.@example.com;gr".to_owned(),
        "sip:tgruu.%%%@example.com;gr".to_owned(),
        format!("sip:tgruu.{}@example.com;gr", "A".repeat(3000)),
        "sip:mallory@example.com;gr=%00%ff".to_owned(),
        "sip:mallory@[2001:db8::1]:5060".to_owned(),
        "sips:mallory:secret@example.com;x?y=z".to_owned(),
        "sip:example.com".to_owned(),
        "tel:+15551234;phone-context=x".to_owned(),
        "urn:service:sos".to_owned(),
    ] {
        for function in ["lookup", "lookup_to_dset", "registered", "unregister", "fetch", "lookup_xavp"] {
            for form in FORMS {
                let called = format!("X-Do: {function}");
                for method in ["INVITE", "MESSAGE"] {
                    let answer = target.ask(|agent| {
                        agent.request(method, &uri, "mallory", "mallory", &[&called, form]).into_bytes()
                    })?;
                    let shown = uri.get(..60).unwrap_or(&uri);
                    ensure!(
                        matches!(status(&answer), Some(200 | 400..=599)),
                        "{method} {shown}, {function}, {form}:\n{answer}"
                    );
                }
            }
        }
    }
    target.ensure_unharmed()
}

fn malformed_credentials(site: &Site) -> Result<()> {
    let long = "x".repeat(5000);
    let digest = |rest: &str| format!("Digest username=\"mallory\", realm=\"{DOMAIN}\", uri=\"sip:{DOMAIN}\", {rest}");
    let all = [
        String::new(),
        "Digest".to_owned(),
        "Digest ,,,".to_owned(),
        "Basic bWFsbG9yeTpjb3JyZWN0LWhvcnNl".to_owned(),
        "Digest username=\"".to_owned(),
        digest("nonce=\"\", response=\"\""),
        digest("nonce=\"x\", response=\"0\""),
        digest(&format!("nonce=\"{long}\", response=\"{long}\"")),
        digest("nonce=\"x\", response=\"0123456789abcdef0123456789abcdef\", qop=auth, nc=zzzzzzzz, cnonce=\"\""),
        digest("nonce=\"x\", response=\"0123456789abcdef0123456789abcdef\", algorithm=\"NONE\""),
        digest("nonce=\"x\", response=\"0123456789abcdef0123456789abcdef\", algorithm=MD5-sess"),
        digest("nonce=\"x\", response=\"0123456789abcdef0123456789abcdef\"").replace("mallory", "mal\\\"lory"),
        digest("nonce=\"x\", response=\"0123456789abcdef0123456789abcdef\"").replace("mallory", "\u{1}\u{fffd}"),
        digest("nonce=\"x\", response=\"0123456789abcdef0123456789abcdef\"").replace("mallory", &"u".repeat(300)),
    ];
    for script in [ALL_IN_ONE, PLAIN] {
        let mut target = Target::start(site, script, "")?;
        for credentials in &all {
            let authorization = format!("Authorization: {credentials}");
            for lines in [vec![authorization.as_str()], vec![authorization.as_str(); 2]] {
                let mut lines = lines;
                lines.push("Contact: <sip:m@127.9.9.1>");
                let answer = target.register(&lines)?;
                let shown = credentials.get(..100).unwrap_or(credentials);
                ensure!(matches!(status(&answer), Some(400 | 401 | 403)), "{script}, {shown}:\n{answer}");
            }
        }
        target.ensure_unharmed().with_context(|| script)?;
    }
    ensure!(stored(site)?.is_empty(), "something was stored");
    Ok(())
}
