//! The registrar's decision: what a REGISTER changes and what the answer says (RFC 3261 section 10.3).

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use crate::lookup::{is_current, sort_by_preference};
use crate::{Aor, Binding, BindingKey, BindingState, Timestamp};

/// One element of a Contact header as received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// The URI, without angle brackets.
    pub uri: String,
    /// q in thousandths when given and well formed.
    pub q: Option<i16>,
    /// The `expires` parameter in seconds when given; malformed counts as 3600 (RFC 3261 section 10.2.1.1).
    pub expires: Option<u32>,
    /// `methods` parameter as Kamailio's method bits; 0 when not given.
    pub methods: u32,
    /// `+sip.instance` without quotes; `""` when not given.
    pub instance: String,
    /// `reg-id`; 0 when not given.
    pub reg_id: u32,
    /// `received` parameter of the contact; `""` when not given.
    pub received: String,
}

/// What the Contact headers of a REGISTER ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contacts {
    /// No Contact header: only list the bindings.
    Query,
    /// `Contact: *`: remove all bindings.
    Star,
    /// Add, refresh or (with expires 0) remove each of these.
    List(Vec<Contact>),
}

/// A REGISTER, copied out of the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Whose bindings.
    pub aor: Aor,
    /// Call-ID header.
    pub call_id: String,
    /// CSeq number.
    pub cseq: u32,
    /// Expires header in seconds when given.
    pub expires: Option<u32>,
    /// What the Contact headers say.
    pub contacts: Contacts,
    /// Path header bodies in order, comma-joined; `""` without.
    pub path: String,
    /// Whether the user agent said `Supported: path`.
    pub supports_path: bool,
    /// Source as a SIP URI for NATed contacts; `""` to store none.
    pub received: String,
    /// User-Agent header.
    pub user_agent: String,
    /// Local socket it arrived on.
    pub socket: String,
    /// Branch flags to keep with the bindings.
    pub cflags: u32,
    /// Keep only the contacts of this REGISTER (save flag 0x04).
    pub replace: bool,
}

/// What the operator allows; filled from the module's parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Seconds for a contact that names no expiry.
    pub default_expires: u32,
    /// Lower bound in seconds (0: none).
    pub min_expires: u32,
    /// True: answer 423 below `min_expires`; false: raise to it.
    pub min_expires_reject: bool,
    /// Upper bound in seconds (0: none).
    pub max_expires: u32,
    /// Bindings an AoR may have (0: no limit).
    pub max_contacts: u32,
    /// Seconds in Retry-After when there are too many (0: none).
    pub retry_after: u32,
    /// q in thousandths for contacts that say none (0 to 1000; -1: unspecified).
    pub default_q: i16,
    /// Longest contact URI in bytes.
    pub contact_max_size: usize,
    /// How Path is treated.
    pub path: PathMode,
    /// Same Call-ID and CSeq within this many seconds is a retransmission.
    pub cseq_delay: u32,
    /// Data centre of this node, stored with each binding.
    pub dc: String,
    /// Name of this node, stored with each binding.
    pub registrar: String,
}

/// What to do with Path headers (RFC 3327), as the stock registrar's `use_path` and `path_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMode {
    /// Ignore Path (`use_path=0`).
    Ignore,
    /// Store it, do not echo it (`path_mode=0`).
    Off,
    /// Store it; echo it only when the user agent supports it (`path_mode=1`).
    Lazy,
    /// Store it; 420 when the user agent does not support it (`path_mode=2`).
    Strict,
}

/// What an accepted REGISTER did, with the stock return codes of `save()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Saved {
    /// 1: at least one binding is new.
    Inserted,
    /// 2: bindings were refreshed.
    Updated,
    /// 3: bindings were removed, none added.
    Deleted,
    /// 4: nothing changed, the bindings are only listed.
    Queried,
}

/// A REGISTER that is accepted: what to write and what to answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Which kind of change.
    pub saved: Saved,
    /// Rows to write, live ones and soft deletes; written as one batch.
    pub writes: Vec<Binding>,
    /// Whether the 200 echoes Path.
    pub echo_path: bool,
}

impl Decision {
    /// All bindings current after the write, best first, for the 200's Contact header. `existing` and `now` are those that
    /// were decided over.
    pub fn current<'d>(&'d self, existing: &'d [Binding], now: Timestamp) -> Vec<&'d Binding> {
        let mut current: Vec<&Binding> = current(existing, &self.writes, now).collect();
        sort_by_preference(&mut current);
        current
    }
}

fn current<'d>(existing: &'d [Binding], writes: &'d [Binding], now: Timestamp) -> impl Iterator<Item = &'d Binding> {
    let untouched = existing.iter().filter(|binding| writes.iter().all(|write| write.key != binding.key));
    untouched.chain(writes).filter(move |binding| is_current(binding, now))
}

/// A REGISTER that is refused: nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{status} {reason}")]
pub struct Rejection {
    /// SIP status code.
    pub status: u16,
    /// Reason phrase.
    pub reason: String,
    /// What the script gets: -1, or -2 for too many contacts.
    pub script_code: i32,
    /// Extra reply headers, name and value.
    pub headers: Vec<(String, String)>,
}

/// Seconds that a soft delete is kept, for its CSeq: longer than any retransmission of an older REGISTER (RFC 3261: 32 s).
pub const REMOVED_FOR: u32 = 120;

/// Decides a REGISTER over the stored bindings of its AoR, live ones, lapsed ones and soft deletes alike.
///
/// All contacts are accepted or none (RFC 3261 section 10.3): a refused REGISTER writes nothing.
///
/// # Errors
/// [`Rejection`] with the status, the headers and the script's return code.
pub fn decide(
    existing: &[Binding],
    register: &Register,
    policy: &Policy,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    let echo_path = check_path(register, policy)?;
    let mut change =
        Change { existing, register, policy, now, writes: Vec::new(), inserted: 0, updated: 0, removed: 0 };
    match &register.contacts {
        Contacts::Query => {}
        Contacts::Star => change.remove_all()?,
        Contacts::List(contacts) => change.apply(contacts)?,
    }
    change.check_count()?;
    Ok(Decision { saved: change.saved(), writes: change.writes, echo_path })
}

/// RFC 3327 section 5.3: before anything is stored. Returns whether the 200 echoes Path.
fn check_path(register: &Register, policy: &Policy) -> Result<bool, Rejection> {
    let present = !register.path.is_empty();
    match policy.path {
        PathMode::Ignore | PathMode::Off => Ok(false),
        PathMode::Lazy => Ok(present && register.supports_path),
        PathMode::Strict if present && !register.supports_path => Err(Rejection {
            headers: vec![("Unsupported".to_owned(), "path".to_owned())],
            ..refusal(420, "Bad Extension")
        }),
        PathMode::Strict => Ok(present),
    }
}

fn refusal(status: u16, reason: &str) -> Rejection {
    Rejection { status, reason: reason.to_owned(), script_code: -1, headers: Vec::new() }
}

/// The change that one REGISTER makes, as it grows.
struct Change<'a> {
    existing: &'a [Binding],
    register: &'a Register,
    policy: &'a Policy,
    now: Timestamp,
    writes: Vec<Binding>,
    inserted: usize,
    updated: usize,
    removed: usize,
}

impl Change<'_> {
    /// `Contact: *` (section 10.3 step 6).
    fn remove_all(&mut self) -> Result<(), Rejection> {
        if self.register.expires != Some(0) {
            return Err(refusal(400, "Contact * needs Expires 0"));
        }
        let (existing, now) = (self.existing, self.now);
        for binding in existing.iter().filter(|binding| is_current(binding, now)) {
            if self.is_retransmission(binding) {
                continue;
            }
            self.check_order(binding)?;
            self.remove(binding);
        }
        Ok(())
    }

    /// Adds, refreshes or removes each contact (step 7). Of two with one key the last counts.
    fn apply(&mut self, contacts: &[Contact]) -> Result<(), Rejection> {
        let mut wanted: Vec<(BindingKey, &Contact)> = Vec::new();
        for contact in contacts {
            let key = BindingKey::for_contact(&contact.instance, contact.reg_id, &contact.uri);
            wanted.retain(|(other, _)| *other != key);
            wanted.push((key, contact));
        }
        for (key, contact) in &wanted {
            self.apply_one(key, contact)?;
        }
        if self.register.replace {
            let (existing, now) = (self.existing, self.now);
            for binding in existing.iter().filter(|binding| is_current(binding, now)) {
                if wanted.iter().all(|(key, _)| *key != binding.key) {
                    self.remove(binding);
                }
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, key: &BindingKey, contact: &Contact) -> Result<(), Rejection> {
        if contact.uri.len() > self.policy.contact_max_size {
            return Err(refusal(400, "Contact too long"));
        }
        let seconds = self.lifetime(contact)?;
        let existing = self.existing;
        let stored = existing.iter().find(|binding| binding.key == *key);
        if let Some(stored) = stored {
            if self.is_retransmission(stored) {
                return Ok(());
            }
            self.check_order(stored)?;
        }
        let current = stored.filter(|binding| is_current(binding, self.now));
        match (seconds, current) {
            (0, Some(binding)) => self.remove(binding),
            (0, None) => {}
            (seconds, current) => {
                *(if current.is_some() { &mut self.updated } else { &mut self.inserted }) += 1;
                let binding = self.binding(key, contact, seconds, stored);
                self.writes.push(binding);
            }
        }
        Ok(())
    }

    /// How long the contact is bound, in seconds (section 10.3 steps 7 and 8, and the operator's bounds).
    fn lifetime(&self, contact: &Contact) -> Result<u32, Rejection> {
        let asked = contact.expires.or(self.register.expires).unwrap_or(self.policy.default_expires);
        let below = asked != 0 && asked < self.policy.min_expires;
        if below && self.policy.min_expires_reject {
            let headers = vec![("Min-Expires".to_owned(), self.policy.min_expires.to_string())];
            return Err(Rejection { headers, ..refusal(423, "Interval Too Brief") });
        }
        let raised = if below { self.policy.min_expires } else { asked };
        Ok(if self.policy.max_expires > 0 { raised.min(self.policy.max_expires) } else { raised })
    }

    /// The same REGISTER once more: it is answered again and changes nothing.
    fn is_retransmission(&self, stored: &Binding) -> bool {
        let age = self.now.0.saturating_sub(stored.registered_at.0);
        stored.call_id == self.register.call_id
            && stored.cseq == self.register.cseq
            && age <= i64::from(self.policy.cseq_delay) * 1000
    }

    /// Within one Call-ID, CSeq must grow (step 7). A flow of RFC 5626 is replaced whatever came before.
    fn check_order(&self, stored: &Binding) -> Result<(), Rejection> {
        let late = stored.call_id == self.register.call_id && self.register.cseq <= stored.cseq;
        let known = stored.state == BindingState::Removed || is_current(stored, self.now);
        if late && known && !stored.key.is_flow() { Err(refusal(400, "Invalid CSeq number")) } else { Ok(()) }
    }

    fn remove(&mut self, binding: &Binding) {
        self.removed += 1;
        self.writes.push(Binding {
            state: BindingState::Removed,
            expires_at: self.now.plus_seconds(REMOVED_FOR),
            call_id: self.register.call_id.clone(),
            cseq: self.register.cseq,
            registered_at: self.now,
            ..binding.clone()
        });
    }

    fn binding(&self, key: &BindingKey, contact: &Contact, seconds: u32, stored: Option<&Binding>) -> Binding {
        let register = self.register;
        let path = if self.policy.path == PathMode::Ignore { String::new() } else { register.path.clone() };
        let received = if contact.received.is_empty() { &register.received } else { &contact.received };
        Binding {
            key: key.clone(),
            contact: contact.uri.clone(),
            received: received.clone(),
            path,
            q: contact.q.unwrap_or(self.policy.default_q),
            expires_at: self.now.plus_seconds(seconds),
            state: BindingState::Live,
            call_id: register.call_id.clone(),
            cseq: register.cseq,
            user_agent: register.user_agent.clone(),
            methods: contact.methods,
            cflags: register.cflags,
            instance: contact.instance.clone(),
            reg_id: if contact.instance.is_empty() { 0 } else { contact.reg_id },
            ruid: match stored {
                Some(stored) if !stored.ruid.is_empty() => stored.ruid.clone(),
                _ => key.ruid(&register.aor),
            },
            socket: register.socket.clone(),
            dc: self.policy.dc.clone(),
            registrar: self.policy.registrar.clone(),
            registered_at: self.now,
            written_at: stored.map_or(0, |stored| stored.written_at),
        }
    }

    /// More bindings than allowed are refused, unless the REGISTER adds none (stock: 503, script code -2).
    fn check_count(&self) -> Result<(), Rejection> {
        let limit = self.policy.max_contacts as usize;
        if limit == 0 || self.inserted == 0 || current(self.existing, &self.writes, self.now).count() <= limit {
            return Ok(());
        }
        let retry_after =
            (self.policy.retry_after > 0).then(|| ("Retry-After".to_owned(), self.policy.retry_after.to_string()));
        let headers = retry_after.into_iter().collect();
        Err(Rejection { script_code: -2, headers, ..refusal(503, "Too many registered contacts") })
    }

    fn saved(&self) -> Saved {
        match (self.inserted, self.updated, self.removed) {
            (1.., _, _) => Saved::Inserted,
            (0, 1.., _) => Saved::Updated,
            (0, 0, 1..) => Saved::Deleted,
            (0, 0, 0) => Saved::Queried,
        }
    }
}

/// A q value in thousandths: 0 to 1 with at most three decimals (RFC 3261 section 25.1).
pub fn parse_q(written: &str) -> Option<i16> {
    let (whole, decimals) = written.trim().split_once('.').unwrap_or((written.trim(), ""));
    if whole.len() != 1 || decimals.len() > 3 || !decimals.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let whole: i16 = whole.parse().ok()?;
    let thousandths: i16 = format!("{decimals:0<3}").parse().ok()?;
    let q = whole * 1000 + thousandths;
    (0..=1000).contains(&q).then_some(q)
}

/// The body of the 200's Contact header: every current binding with its remaining seconds, as the stock registrar writes it.
/// `""` when there are none.
pub fn contact_header_value(current: &[&Binding], now: Timestamp) -> String {
    let mut value = String::new();
    for binding in current {
        if !value.is_empty() {
            value.push_str(", ");
        }
        // Writing to a string cannot fail.
        let _ = write_contact(&mut value, binding, now);
    }
    value
}

fn write_contact(value: &mut String, binding: &Binding, now: Timestamp) -> fmt::Result {
    write!(value, "<{}>", binding.contact)?;
    if binding.q >= 0 {
        write!(value, ";q={}", q_text(binding.q))?;
    }
    write!(value, ";expires={}", binding.expires_at.seconds_after(now))?;
    if !binding.received.is_empty() {
        write!(value, ";received=\"{}\"", binding.received)?;
    }
    if !binding.instance.is_empty() {
        write!(value, ";+sip.instance=\"{}\"", binding.instance)?;
    }
    if binding.reg_id != 0 {
        write!(value, ";reg-id={}", binding.reg_id)?;
    }
    Ok(())
}

fn q_text(thousandths: i16) -> String {
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn policy() -> Policy {
        Policy {
            default_expires: 3600,
            min_expires: 60,
            min_expires_reject: false,
            max_expires: 3600,
            max_contacts: 0,
            retry_after: 0,
            default_q: -1,
            contact_max_size: 512,
            path: PathMode::Strict,
            cseq_delay: 20,
            dc: "dc1".into(),
            registrar: "reg1".into(),
        }
    }

    fn contact(uri: &str) -> Contact {
        Contact {
            uri: uri.into(),
            q: None,
            expires: None,
            methods: 0,
            instance: String::new(),
            reg_id: 0,
            received: String::new(),
        }
    }

    fn register(cseq: u32, contacts: Contacts) -> Register {
        Register {
            aor: Aor::new("alice", "example.com").expect("an AoR"),
            call_id: "call-1".into(),
            cseq,
            expires: None,
            contacts,
            path: String::new(),
            supports_path: false,
            received: String::new(),
            user_agent: "test".into(),
            socket: "udp:127.0.0.1:5060".into(),
            cflags: 0,
            replace: false,
        }
    }

    fn adding(cseq: u32, uris: &[&str]) -> Register {
        register(cseq, Contacts::List(uris.iter().map(|uri| contact(uri)).collect()))
    }

    fn accept(existing: &[Binding], register: &Register) -> Decision {
        decide(existing, register, &policy(), NOW).expect("accepted")
    }

    /// The rows as they are after the write.
    fn stored(existing: &[Binding], decision: &Decision) -> Vec<Binding> {
        let kept = existing.iter().filter(|row| decision.writes.iter().all(|write| write.key != row.key));
        kept.chain(&decision.writes).cloned().collect()
    }

    fn registered(uris: &[&str]) -> Vec<Binding> {
        accept(&[], &adding(1, uris)).writes
    }

    fn contacts<'d>(existing: &'d [Binding], decision: &'d Decision) -> Vec<&'d str> {
        decision.current(existing, NOW).into_iter().map(|binding| binding.contact.as_str()).collect()
    }

    #[test]
    fn a_new_contact_is_inserted_and_listed() {
        let decision = accept(&[], &adding(1, &["sip:a@h"]));
        assert_eq!((decision.saved, contacts(&[], &decision)), (Saved::Inserted, vec!["sip:a@h"]));
        assert_eq!(decision.writes[0].expires_at, NOW.plus_seconds(3600));
        assert_eq!((decision.writes[0].dc.as_str(), decision.writes[0].registrar.as_str()), ("dc1", "reg1"));
    }

    #[test]
    fn a_refresh_updates_and_keeps_the_other_bindings() {
        let rows = registered(&["sip:a@h", "sip:b@h"]);
        let decision = accept(&rows, &adding(2, &["sip:a@h"]));
        assert_eq!((decision.saved, decision.writes.len(), decision.current(&rows, NOW).len()), (Saved::Updated, 1, 2));
    }

    #[test]
    fn a_query_changes_nothing_and_lists_all() {
        let rows = registered(&["sip:a@h", "sip:b@h"]);
        let decision = accept(&rows, &register(2, Contacts::Query));
        assert_eq!((decision.saved, decision.writes.len(), decision.current(&rows, NOW).len()), (Saved::Queried, 0, 2));
    }

    #[test]
    fn expires_zero_removes_that_binding_only_and_softly() {
        let rows = registered(&["sip:a@h", "sip:b@h"]);
        let removing = Register { expires: Some(0), ..adding(2, &["sip:a@h"]) };
        let decision = accept(&rows, &removing);
        assert_eq!((decision.saved, contacts(&rows, &decision)), (Saved::Deleted, vec!["sip:b@h"]));
        assert_eq!((decision.writes[0].state, decision.writes[0].cseq), (BindingState::Removed, 2));
        assert_eq!(decision.writes[0].expires_at, NOW.plus_seconds(REMOVED_FOR));
    }

    #[test]
    fn removing_an_absent_binding_is_no_error() {
        let removing = Register { expires: Some(0), ..adding(2, &["sip:a@h"]) };
        assert_eq!(accept(&[], &removing).saved, Saved::Queried);
    }

    #[test]
    fn a_late_register_does_not_revive_a_removed_binding() {
        let rows = registered(&["sip:a@h"]);
        let removed = stored(&rows, &accept(&rows, &Register { expires: Some(0), ..adding(3, &["sip:a@h"]) }));
        let late = decide(&removed, &adding(2, &["sip:a@h"]), &policy(), NOW).expect_err("refused");
        assert_eq!(late.status, 400);
    }

    #[test]
    fn star_removes_all_and_only_with_expires_zero() {
        let rows = registered(&["sip:a@h", "sip:b@h"]);
        let star = register(2, Contacts::Star);
        assert_eq!(decide(&rows, &star, &policy(), NOW).expect_err("refused").status, 400);
        let decision = accept(&rows, &Register { expires: Some(0), ..star });
        assert_eq!((decision.saved, decision.writes.len(), decision.current(&rows, NOW).len()), (Saved::Deleted, 2, 0));
    }

    #[test]
    fn star_with_an_old_cseq_fails_as_a_whole() {
        let rows = stored(&registered(&["sip:b@h"]), &accept(&[], &adding(5, &["sip:a@h"])));
        let star = Register { expires: Some(0), ..register(2, Contacts::Star) };
        assert_eq!(decide(&rows, &star, &policy(), NOW).expect_err("refused").status, 400);
    }

    #[test]
    fn a_lower_cseq_of_the_same_call_id_is_refused() {
        let rows = accept(&[], &adding(5, &["sip:a@h"])).writes;
        assert_eq!(decide(&rows, &adding(4, &["sip:a@h"]), &policy(), NOW).expect_err("refused").script_code, -1);
        let other = Register { call_id: "call-2".into(), ..adding(4, &["sip:a@h"]) };
        assert_eq!(accept(&rows, &other).saved, Saved::Updated);
    }

    #[test]
    fn a_retransmission_is_answered_again_and_writes_nothing() {
        let rows = registered(&["sip:a@h"]);
        let decision = accept(&rows, &adding(1, &["sip:a@h"]));
        assert_eq!((decision.saved, decision.writes.len(), decision.current(&rows, NOW).len()), (Saved::Queried, 0, 1));
        let later = Timestamp(NOW.0 + 21_000);
        assert_eq!(decide(&rows, &adding(1, &["sip:a@h"]), &policy(), later).expect_err("too late").status, 400);
    }

    #[test]
    fn one_bad_contact_refuses_the_whole_register() {
        let long = format!("sip:{}@h", "x".repeat(600));
        let refused = decide(&[], &adding(1, &["sip:a@h", &long]), &policy(), NOW).expect_err("refused");
        assert_eq!(refused.status, 400);
    }

    #[test]
    fn a_flow_is_replaced_whatever_its_cseq() {
        let flow = |uri: &str| Contact { instance: "<urn:uuid:1>".into(), reg_id: 1, ..contact(uri) };
        let rows = accept(&[], &register(5, Contacts::List(vec![flow("sip:a@h1")]))).writes;
        let decision = accept(&rows, &register(1, Contacts::List(vec![flow("sip:a@h2")])));
        assert_eq!((decision.saved, contacts(&rows, &decision)), (Saved::Updated, vec!["sip:a@h2"]));
    }

    #[test]
    fn the_contact_parameter_beats_the_header_beats_the_default() {
        let own = Contact { expires: Some(100), ..contact("sip:a@h") };
        let list = Contacts::List(vec![own, contact("sip:b@h")]);
        let decision = accept(&[], &Register { expires: Some(200), ..register(1, list) });
        let expiry: Vec<_> = decision.writes.iter().map(|write| write.expires_at.seconds_after(NOW)).collect();
        assert_eq!(expiry, [100, 200]);
    }

    #[test]
    fn bounds_of_expiry() {
        let asking = |seconds| Register { expires: Some(seconds), ..adding(1, &["sip:a@h"]) };
        let granted = |seconds| accept(&[], &asking(seconds)).writes[0].expires_at.seconds_after(NOW);
        assert_eq!([granted(5), granted(60), granted(3600), granted(9999)], [60, 60, 3600, 3600]);
        let strict = Policy { min_expires_reject: true, ..policy() };
        let refused = decide(&[], &asking(5), &strict, NOW).expect_err("too brief");
        assert_eq!((refused.status, refused.headers), (423, vec![("Min-Expires".to_owned(), "60".to_owned())]));
    }

    #[test]
    fn too_many_contacts_are_refused_with_retry_after() {
        let limited = Policy { max_contacts: 1, retry_after: 30, ..policy() };
        let rows = registered(&["sip:a@h"]);
        let refused = decide(&rows, &adding(2, &["sip:b@h"]), &limited, NOW).expect_err("too many");
        assert_eq!((refused.status, refused.script_code), (503, -2));
        assert_eq!(refused.headers, [("Retry-After".to_owned(), "30".to_owned())]);
        assert!(decide(&rows, &adding(2, &["sip:a@h"]), &limited, NOW).is_ok());
        let replacing = Register { replace: true, ..adding(2, &["sip:b@h"]) };
        assert_eq!(decide(&rows, &replacing, &limited, NOW).expect("replaced").current(&rows, NOW).len(), 1);
    }

    #[test]
    fn path_is_refused_before_anything_is_stored_when_not_supported() {
        let with_path = Register { path: "<sip:lb;lr>".into(), ..adding(1, &["sip:a@h"]) };
        let refused = decide(&[], &with_path, &policy(), NOW).expect_err("420");
        assert_eq!((refused.status, refused.headers), (420, vec![("Unsupported".to_owned(), "path".to_owned())]));
        let supported = accept(&[], &Register { supports_path: true, ..with_path.clone() });
        assert_eq!((supported.echo_path, supported.writes[0].path.as_str()), (true, "<sip:lb;lr>"));
        let ignoring = Policy { path: PathMode::Ignore, ..policy() };
        assert_eq!(decide(&[], &with_path, &ignoring, NOW).expect("ignored").writes[0].path, "");
        let lazy = Policy { path: PathMode::Lazy, ..policy() };
        assert!(!decide(&[], &with_path, &lazy, NOW).expect("stored").echo_path);
    }

    #[test]
    fn a_lapsed_binding_is_new_again() {
        let rows = registered(&["sip:a@h"]);
        let later = NOW.plus_seconds(4000);
        let decision = decide(&rows, &adding(2, &["sip:a@h"]), &policy(), later).expect("accepted");
        assert_eq!(decision.saved, Saved::Inserted);
    }

    #[test]
    fn a_write_knows_the_row_it_supersedes() {
        let rows = vec![Binding { written_at: 77, ..registered(&["sip:a@h"]).remove(0) }];
        assert_eq!(accept(&rows, &adding(2, &["sip:a@h"])).writes[0].written_at, 77);
    }

    #[test]
    fn the_200_lists_remaining_seconds_and_parameters() {
        let binding = Binding {
            q: 125,
            received: "sip:192.0.2.1:1024".into(),
            instance: "<urn:uuid:1>".into(),
            reg_id: 2,
            ..registered(&["sip:a@h;ob"]).remove(0)
        };
        assert_eq!(
            contact_header_value(&[&binding], NOW.plus_seconds(600)),
            "<sip:a@h;ob>;q=0.125;expires=3000;received=\"sip:192.0.2.1:1024\";+sip.instance=\"<urn:uuid:1>\";reg-id=2"
        );
    }

    #[test]
    fn q_values() {
        let read: Vec<_> = ["0", "1", "0.7", "0.125", "1.000", "0."].iter().map(|q| parse_q(q)).collect();
        assert_eq!(read, [Some(0), Some(1000), Some(700), Some(125), Some(1000), Some(0)]);
        for wrong in ["", "1.1", "2", "-1", "0.1234", "x", "0.x"] {
            assert_eq!(parse_q(wrong), None, "{wrong}");
        }
        assert_eq!([q_text(0), q_text(1000), q_text(700)], ["0", "1", "0.7"]);
    }

    proptest! {
        #[test]
        fn an_unrelated_binding_is_never_lost(
            present in proptest::collection::btree_set(0u8..12, 0..8),
            touched in proptest::collection::vec((0u8..12, any::<bool>()), 0..8),
            cseq in 2u32..5,
        ) {
            let uri = |number: &u8| format!("sip:u{number}@h");
            let uris: Vec<String> = present.iter().map(uri).collect();
            let rows = registered(&uris.iter().map(String::as_str).collect::<Vec<_>>());
            let list = touched.iter().map(|(number, remove)| Contact { expires: remove.then_some(0), ..contact(&uri(number)) }).collect();
            let decision = accept(&rows, &register(cseq, Contacts::List(list)));
            for number in present.iter().filter(|number| touched.iter().all(|(other, _)| other != *number)) {
                let expected = uri(number);
                prop_assert!(decision.current(&rows, NOW).iter().any(|binding| binding.contact == expected));
            }
            prop_assert!(decision.current(&rows, NOW).iter().all(|binding| is_current(binding, NOW)));
        }
    }
}
