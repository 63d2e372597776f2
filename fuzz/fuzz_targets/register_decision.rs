//! Any REGISTER, over any bindings that REGISTERs before it have made.
#![no_main]

#[path = "../../domain/tests/promises/mod.rs"]
mod promises;

use arbitrary::Arbitrary;
use domain::register::{Contact, Contacts, Node, OptionTags, OutboundMode, PathMode, Policy, Register, decide};
use domain::{Aor, Binding, Timestamp};

const START: Timestamp = Timestamp(1_700_000_000_000);

/// A REGISTER, and how long after the one before it comes.
#[derive(Debug, Arbitrary)]
struct Step<'a> {
    seconds_later: u16,
    second_phone: bool,
    cseq: u8,
    expires: Option<u32>,
    contacts: Asked<'a>,
    path: &'a str,
    supported: &'a str,
    required: &'a str,
    replace: bool,
    first_hop: bool,
}

#[derive(Debug, Arbitrary)]
enum Asked<'a> {
    Query,
    Star,
    List(Vec<Element<'a>>),
}

#[derive(Debug, Arbitrary)]
struct Element<'a> {
    uri: &'a str,
    q: Option<u16>,
    expires: Option<u32>,
    instance: &'a str,
    reg_id: Option<u32>,
    received: &'a str,
}

#[derive(Debug, Arbitrary)]
struct Rules {
    default_expires: u16,
    expires_cut: u8,
    min_expires: u8,
    min_expires_reject: bool,
    max_expires: u16,
    max_contacts: u8,
    cseq_delay: u8,
    path: u8,
    outbound: u8,
    regid_always: bool,
    path_use_received: bool,
    gruu: bool,
}

impl Rules {
    fn policy(&self) -> Policy {
        Policy {
            default_expires: u32::from(self.default_expires).max(1),
            expires_cut: self.expires_cut % 101,
            min_expires: self.min_expires.into(),
            min_expires_reject: self.min_expires_reject,
            max_expires: u32::from(self.max_expires).max(self.min_expires.into()),
            max_contacts: self.max_contacts.into(),
            retry_after: 30,
            default_q: -1,
            contact_max_size: 256,
            path: [PathMode::Ignore, PathMode::Off, PathMode::Lazy, PathMode::Strict][usize::from(self.path % 4)],
            path_use_received: self.path_use_received,
            nat_flags: 64,
            cseq_delay: self.cseq_delay.into(),
            outbound: [OutboundMode::Off, OutboundMode::Supported, OutboundMode::Required]
                [usize::from(self.outbound % 3)],
            regid_always: self.regid_always,
            flow_timer: 25,
            gruu: self.gruu,
            received_param: "received".to_owned(),
        }
    }
}

impl Element<'_> {
    fn contact(&self) -> Contact {
        Contact {
            uri: self.uri.to_owned(),
            q: self.q.map(|q| (q % 1001) as i16),
            expires: self.expires,
            methods: 0,
            instance: self.instance.to_owned(),
            reg_id: self.reg_id,
            received: self.received.to_owned(),
        }
    }
}

impl Step<'_> {
    fn register(&self, policy: &Policy) -> Register {
        Register {
            aor: Aor::new("alice", "example.com").expect("an AoR"),
            request_uri: "sip:example.com".to_owned(),
            call_id: if self.second_phone { "two" } else { "one" }.to_owned(),
            cseq: self.cseq.into(),
            expires: self.expires,
            contacts: match &self.contacts {
                Asked::Query => Contacts::Query,
                Asked::Star => Contacts::Star,
                Asked::List(elements) => Contacts::List(elements.iter().map(Element::contact).collect()),
            },
            // A header body is one line when it comes here.
            path: self.path.replace(['\r', '\n'], " "),
            supported: OptionTags::parse([self.supported], false),
            required: OptionTags::parse([self.required], true),
            first_hop: self.first_hop,
            source: "sip:192.0.2.1:40000".to_owned(),
            received: String::new(),
            user_agent: String::new(),
            socket: "tcp:127.0.0.1:5060".to_owned(),
            cflags: 0,
            replace: self.replace,
            attributes: Vec::new(),
            policy: policy.clone(),
        }
    }
}

/// The rows after a write.
fn written(rows: Vec<Binding>, writes: Vec<Binding>) -> Vec<Binding> {
    let kept = rows.into_iter().filter(|row| writes.iter().all(|write| write.key != row.key));
    kept.chain(writes.iter().cloned()).collect()
}

libfuzzer_sys::fuzz_target!(|input: (Rules, Vec<Step<'_>>)| {
    let (rules, steps) = input;
    let policy = rules.policy();
    let node = Node { uri: "sip:10.0.0.1:5060".to_owned(), longest_expiry: 86_400, ..Node::default() };
    let (mut rows, mut now) = (Vec::new(), START);
    for step in steps {
        now = now.plus_seconds(step.seconds_later.into());
        let register = step.register(&policy);
        promises::register_decision(&rows, &register, &node, now);
        if let Ok(decision) = decide(&rows, &register, &node, now) {
            rows = written(rows, decision.writes);
        }
    }
});
