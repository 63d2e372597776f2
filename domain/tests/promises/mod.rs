//! What every parser and rule promises for any input at all: for the property tests, and for the fuzzers.
#![allow(unreachable_pub, dead_code, reason = "each user takes a part")]

use domain::digest::{Authorization, Credentials, Qop};
use domain::lookup::{Target, first_path_uri, is_current, path_after_first, path_uris};
use domain::register::{Contacts, Decision, Node, Register, answer_headers, decide};
use domain::uri::SipUri;
use domain::{Aor, Binding, BindingState, Timestamp};

/// A text that may be a SIP URI: reading it never fails otherwise than by refusing it.
pub fn sip_uri(text: &str) {
    let _ = Target::of_uri(text);
    let _ = text.parse::<Aor>();
    if let Ok(aor) = Aor::from_uri(text) {
        assert_eq!(Aor::new(aor.username(), aor.domain()), Ok(aor.clone()));
    }
    let Ok(uri) = SipUri::parse(text) else { return };
    assert!(uri.equivalent(&uri), "{text} is not itself");
    let normalised = uri.normalised();
    let again = SipUri::parse(&normalised).expect("the normalised text is a URI");
    assert_eq!(again.normalised(), normalised, "normalised from {text}");
}

/// A text that may be a Path: its hops are parts of it, and taking the first one off comes to an end.
pub fn path(text: &str) {
    for uri in path_uris(text) {
        assert!(!uri.is_empty() && text.contains(&format!("<{uri}>")));
    }
    assert_eq!(first_path_uri(text), path_uris(text).next());
    let mut rest = text;
    while !rest.is_empty() {
        let shorter = path_after_first(rest);
        assert!(shorter.len() < rest.len());
        rest = shorter;
    }
}

/// Bytes that may be digest credentials: what is read holds nothing that could end a log line, and written down again it is
/// read the same.
pub fn authorization(body: &[u8]) {
    let Ok(Authorization::Digest(credentials)) = Authorization::parse(body) else { return };
    let Credentials { username, realm, nonce, uri, response, nc, cnonce, .. } = &*credentials;
    for value in [username, realm, nonce, uri, response] {
        assert!(!value.is_empty());
    }
    for value in [username, realm, nonce, uri, response, nc, cnonce] {
        assert!(!value.contains(|c: char| c.is_control() && c != '\t'), "{value:?}");
    }
    let written = written(&credentials);
    // Escapes may make it longer than a header may be.
    if written.len() <= body.len() {
        assert_eq!(Authorization::parse(written.as_bytes()), Ok(Authorization::Digest(credentials)), "{written}");
    }
}

fn written(credentials: &Credentials) -> String {
    let quoted = |value: &str| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
    let Credentials { username, realm, nonce, uri, response, algorithm, qop, nc, cnonce } = credentials;
    let mut fields = vec![
        format!("username={}", quoted(username)),
        format!("realm={}", quoted(realm)),
        format!("nonce={}", quoted(nonce)),
        format!("uri={}", quoted(uri)),
        format!("response={}", quoted(response)),
        format!("algorithm={}", algorithm.name()),
        format!("nc={}", quoted(nc)),
        format!("cnonce={}", quoted(cnonce)),
    ];
    match qop {
        Some(Qop::Auth) => fields.push("qop=auth".to_owned()),
        Some(Qop::AuthInt) => fields.push("qop=auth-int".to_owned()),
        None => {}
    }
    format!("Digest {}", fields.join(","))
}

/// A REGISTER over the bindings of its AoR.
pub fn register_decision(existing: &[Binding], register: &Register, node: &Node, now: Timestamp) {
    match decide(existing, register, node, now) {
        Err(refused) => {
            assert!((400..600).contains(&refused.status), "{refused:?}");
            assert_header_values(&refused.headers);
        }
        Ok(decision) => {
            assert_current(&decision, existing, now);
            assert_writes(&decision, register, node, now);
            assert_nothing_lost(&decision, existing, register, now);
            assert_header_values(&answer_headers(&decision, existing, register, None, now));
        }
    }
}

/// Nothing in a header value ends the header.
fn assert_header_values(headers: &[(String, String)]) {
    for (name, value) in headers {
        assert!(!value.contains(['\r', '\n', '\0']), "{name}: {value:?}");
    }
}

/// Nothing that has expired or was removed is returned, and nothing twice.
fn assert_current(decision: &Decision, existing: &[Binding], now: Timestamp) {
    let current = decision.current(existing, now);
    assert!(current.iter().all(|binding| is_current(binding, now)));
    for binding in &decision.writes {
        let same = decision.writes.iter().filter(|other| other.key == binding.key);
        assert_eq!(same.count(), 1, "written twice: {:?}", binding.key);
    }
}

/// A binding lives as long as the operator allows, and has a name.
fn assert_writes(decision: &Decision, register: &Register, node: &Node, now: Timestamp) {
    let bounds = [register.policy.max_expires, node.longest_expiry];
    for binding in decision.writes.iter().filter(|binding| binding.state == BindingState::Live) {
        assert!(binding.expires_at > now && !binding.ruid.is_empty() && !binding.contact.is_empty(), "{binding:?}");
        for bound in bounds.into_iter().filter(|bound| *bound > 0) {
            assert!(binding.expires_at <= now.plus_seconds(bound), "{binding:?}");
        }
    }
    assert!(decision.writes.iter().all(|binding| binding.cseq == register.cseq));
}

/// What the REGISTER does not name stays as it was.
fn assert_nothing_lost(decision: &Decision, existing: &[Binding], register: &Register, now: Timestamp) {
    let current = decision.current(existing, now);
    for binding in existing.iter().filter(|binding| is_current(binding, now) && is_unrelated(binding, register)) {
        assert!(current.contains(&binding), "lost: {binding:?}");
    }
    match &register.contacts {
        Contacts::Query => assert!(decision.writes.is_empty()),
        Contacts::Star => assert!(current.iter().all(|binding| is_from(binding, register))),
        Contacts::List(_) => {}
    }
}

fn is_from(binding: &Binding, register: &Register) -> bool {
    binding.call_id == register.call_id && binding.cseq == register.cseq
}

/// Whether a REGISTER cannot mean this binding.
fn is_unrelated(binding: &Binding, register: &Register) -> bool {
    let parsed = SipUri::parse(&binding.contact);
    let Contacts::List(contacts) = &register.contacts else { return register.contacts == Contacts::Query };
    !register.replace
        && contacts.iter().all(|contact| {
            let equal = match (&parsed, SipUri::parse(&contact.uri)) {
                (Ok(a), Ok(b)) => a.equivalent(&b) || a.normalised() == b.normalised(),
                _ => binding.contact == contact.uri,
            };
            !equal && (contact.instance.is_empty() || contact.instance != binding.instance)
        })
}
