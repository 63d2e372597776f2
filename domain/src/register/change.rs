//! The change that one REGISTER makes to its AoR's bindings (RFC 3261 section 10.3 steps 6 and 7).

use std::cell::OnceCell;

use super::extensions::Flows;
use super::{Contact, Decision, Node, PathMode, Register, Rejection, Saved, current};
use crate::lookup::{first_path_uri, is_current};
use crate::uri::{SipUri, unescape};
use crate::{Binding, BindingKey, BindingState, Timestamp};

/// A contact of the REGISTER.
struct Wanted<'c> {
    key: BindingKey,
    contact: &'c Contact,
    /// Its URI, unless its instance names it.
    uri: Option<SipUri>,
}

/// The change as it grows.
pub(super) struct Change<'a> {
    existing: &'a [Binding],
    /// The URIs of those that no instance names, read once, when they are wanted.
    existing_uris: OnceCell<Vec<(SipUri, &'a BindingKey)>>,
    register: &'a Register,
    node: &'a Node,
    flows: Flows,
    now: Timestamp,
    writes: Vec<Binding>,
    inserted: usize,
    updated: usize,
    removed: usize,
}

impl<'a> Change<'a> {
    pub(super) fn new(
        existing: &'a [Binding],
        register: &'a Register,
        node: &'a Node,
        flows: Flows,
        now: Timestamp,
    ) -> Self {
        Self {
            existing,
            existing_uris: OnceCell::new(),
            register,
            node,
            flows,
            now,
            writes: Vec::new(),
            inserted: 0,
            updated: 0,
            removed: 0,
        }
    }

    pub(super) fn decision(self) -> Decision {
        Decision { saved: self.saved(), outbound: self.flows == Flows::Outbound, writes: self.writes }
    }

    fn saved(&self) -> Saved {
        match (self.inserted, self.updated, self.removed) {
            (1.., _, _) => Saved::Inserted,
            (0, 1.., _) => Saved::Updated,
            (0, 0, 1..) => Saved::Deleted,
            (0, 0, 0) => Saved::Queried,
        }
    }

    /// `Contact: *` (step 6).
    pub(super) fn remove_all(&mut self) -> Result<(), Rejection> {
        if self.register.expires != Some(0) {
            return Err(Rejection::new(400, "* used in contact and expires is not zero"));
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

    /// Adds, refreshes or removes each contact (step 7). Of two that are the same the last counts.
    pub(super) fn apply(&mut self, contacts: &[Contact]) -> Result<(), Rejection> {
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        for contact in contacts {
            self.check_contact(contact)?;
            let next = self.wanted(contact, &wanted);
            wanted.retain(|other| other.key != next.key);
            wanted.push(next);
        }
        for Wanted { key, contact, .. } in &wanted {
            self.apply_one(key, contact)?;
        }
        if self.register.replace {
            let (existing, now) = (self.existing, self.now);
            for binding in existing.iter().filter(|binding| is_current(binding, now)) {
                if wanted.iter().all(|wanted| wanted.key != binding.key) {
                    self.remove(binding);
                }
            }
        }
        Ok(())
    }

    fn check_contact(&self, contact: &Contact) -> Result<(), Rejection> {
        if contact.uri.len() > usize::from(self.register.policy.contact_max_size) {
            return Err(Rejection::new(400, "Contact/received too long"));
        }
        let unfit = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
        let texts = [&contact.uri, &contact.instance, &contact.received];
        if contact.uri.is_empty() || texts.into_iter().any(|text| text.contains(unfit)) {
            return Err(Rejection::new(400, "Contact parse error"));
        }
        if is_broken_sip_uri(&contact.uri) {
            return Err(Rejection::new(400, "Contact parse error"));
        }
        if self.register.policy.gruu && self.is_own_gruu(&contact.uri) {
            return Err(Rejection::new(403, "A GRUU cannot be registered as its own contact"));
        }
        Ok(())
    }

    /// RFC 5627 section 5.1: calls to it would come back to it.
    fn is_own_gruu(&self, uri: &str) -> bool {
        let Ok(uri) = SipUri::parse(uri) else { return false };
        let aor = &self.register.aor;
        let own =
            uri.user.as_deref().is_some_and(|user| unescape(user) == aor.username() || crate::gruu::is_temporary(user));
        own && uri.host == aor.domain() && uri.params.contains_key("gr")
    }

    /// A contact with its key: that of the binding, or of the contact before it, that it equals (section 19.1.4), else its own.
    fn wanted<'c>(&self, contact: &'c Contact, before: &[Wanted<'_>]) -> Wanted<'c> {
        let key = BindingKey::for_contact(&contact.instance, self.flows.reg_id(contact), &contact.uri);
        let uri = if contact.instance.is_empty() { SipUri::parse(&contact.uri).ok() } else { None };
        let key = match &uri {
            Some(uri) if self.existing.iter().all(|binding| binding.key != key) => {
                self.stored_equal(uri).or_else(|| equal_before(uri, before)).cloned().unwrap_or(key)
            }
            _ => key,
        };
        Wanted { key, contact, uri }
    }

    fn stored_equal(&self, uri: &SipUri) -> Option<&BindingKey> {
        let unnamed = || self.existing.iter().filter(|binding| binding.instance.is_empty());
        let read =
            || unnamed().filter_map(|binding| Some((SipUri::parse(&binding.contact).ok()?, &binding.key))).collect();
        self.existing_uris.get_or_init(read).iter().find(|(stored, _)| stored.equivalent(uri)).map(|(_, key)| *key)
    }

    fn apply_one(&mut self, key: &BindingKey, contact: &Contact) -> Result<(), Rejection> {
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

    /// How long the contact is bound, in seconds (steps 7 and 8, and the operator's bounds).
    fn lifetime(&self, contact: &Contact) -> Result<u32, Rejection> {
        let policy = &self.register.policy;
        let asked = contact.expires.or(self.register.expires).unwrap_or(policy.default_expires);
        if asked == 0 {
            return Ok(0);
        }
        if asked < policy.min_expires && policy.min_expires_reject {
            return Err(Rejection::new(423, "Interval too brief").with_header("Min-Expires", policy.min_expires));
        }
        let cut = u64::from(asked) * u64::from(100 - policy.expires_cut.min(100)) / 100;
        let granted = u32::try_from(cut).unwrap_or(asked).max(policy.min_expires).max(1);
        let bounds = [policy.max_expires, self.node.longest_expiry];
        Ok(bounds.into_iter().filter(|bound| *bound > 0).fold(granted, u32::min))
    }

    /// The same REGISTER once more: it is answered again and changes nothing.
    fn is_retransmission(&self, stored: &Binding) -> bool {
        let age = self.now.0.saturating_sub(stored.registered_at.0);
        stored.call_id == self.register.call_id
            && stored.cseq == self.register.cseq
            && age <= i64::from(self.register.policy.cseq_delay) * 1000
    }

    /// Within one Call-ID, CSeq must grow (step 7). A flow of RFC 5626 is replaced whatever came before.
    fn check_order(&self, stored: &Binding) -> Result<(), Rejection> {
        let late = stored.call_id == self.register.call_id && self.register.cseq <= stored.cseq;
        let known = stored.state == BindingState::Removed || is_current(stored, self.now);
        if late && known && !stored.key.is_flow() { Err(Rejection::new(400, "Invalid CSeq number")) } else { Ok(()) }
    }

    fn remove(&mut self, binding: &Binding) {
        self.removed += 1;
        let removed = binding.removed(self.now);
        self.writes.push(Binding { call_id: self.register.call_id.clone(), cseq: self.register.cseq, ..removed });
    }

    fn binding(&self, key: &BindingKey, contact: &Contact, seconds: u32, stored: Option<&Binding>) -> Binding {
        let register = self.register;
        let path = if register.policy.path == PathMode::Ignore { "" } else { &register.path };
        let (received, nat_flags) = self.received(contact, path);
        Binding {
            key: key.clone(),
            contact: contact.uri.clone(),
            received,
            path: path.to_owned(),
            q: contact.q.unwrap_or(register.policy.default_q),
            expires_at: self.now.plus_seconds(seconds),
            state: BindingState::Live,
            call_id: register.call_id.clone(),
            cseq: register.cseq,
            user_agent: register.user_agent.clone(),
            methods: contact.methods,
            cflags: register.cflags | nat_flags,
            instance: contact.instance.clone(),
            reg_id: self.flows.reg_id(contact),
            ruid: match stored {
                Some(stored) if !stored.ruid.is_empty() => stored.ruid.clone(),
                _ => key.ruid(&register.aor),
            },
            socket: register.socket.clone(),
            dc: self.node.dc.clone(),
            registrar: self.node.name.clone(),
            edge: self.edge(path),
            attributes: register.attributes.clone(),
            registered_at: self.now,
            bound_at: self.bound_at(stored),
            written_at: stored.map_or(0, |stored| stored.written_at),
        }
    }

    /// Where the contact was seen, and the flags for a NAT when an edge proxy says so: by the Path, by the Contact, by the
    /// script; a contact on a connection that nobody can open from outside is where its connection comes from.
    fn received(&self, contact: &Contact, path: &str) -> (String, u32) {
        let register = self.register;
        let by_path = register.policy.path_use_received.then(|| received_of_path(path)).flatten();
        match by_path {
            Some(received) => (received, register.policy.nat_flags),
            None if !contact.received.is_empty() => (contact.received.clone(), 0),
            None if !register.received.is_empty() => (register.received.clone(), 0),
            None if path.is_empty() && only_by_its_connection(&register.socket) => (register.source.clone(), 0),
            None => (String::new(), 0),
        }
    }

    /// The node that holds the contact's connection, unless a Path leads to it.
    fn edge(&self, path: &str) -> String {
        let on_connection = !self.register.socket.starts_with("udp:") && !self.register.socket.is_empty();
        if on_connection && path.is_empty() { self.node.uri.clone() } else { String::new() }
    }

    /// Since when the binding has been there without a pause, by REGISTERs of one Call-ID: as long temporary GRUUs live (RFC
    /// 5627 section 3.1.2).
    fn bound_at(&self, stored: Option<&Binding>) -> Timestamp {
        stored
            .filter(|stored| is_current(stored, self.now) && stored.call_id == self.register.call_id)
            .map_or(self.now, |stored| stored.bound_at)
    }

    /// More bindings than allowed are refused, unless the REGISTER adds none (stock: 503, script code -2).
    pub(super) fn check_count(&self) -> Result<(), Rejection> {
        let policy = &self.register.policy;
        let limit = policy.max_contacts as usize;
        if limit == 0 || self.inserted == 0 || current(self.existing, &self.writes, self.now).count() <= limit {
            return Ok(());
        }
        let refused = Rejection { script_code: -2, ..Rejection::new(503, "Too many registered contacts") };
        Err(if policy.retry_after > 0 { refused.with_header("Retry-After", policy.retry_after) } else { refused })
    }
}

/// The `received` parameter of the first Path URI (the path module's `path_use_received`), unescaped.
fn received_of_path(path: &str) -> Option<String> {
    let uri = SipUri::parse(first_path_uri(path)?).ok()?;
    let received = unescape(uri.params.get("received")?);
    (!received.is_empty()).then_some(received)
}

fn equal_before<'w>(uri: &SipUri, before: &'w [Wanted<'_>]) -> Option<&'w BindingKey> {
    let equals = |other: &&Wanted<'_>| other.uri.as_ref().is_some_and(|other| other.equivalent(uri));
    before.iter().find(equals).map(|other| &other.key)
}

/// A URI that says it is SIP and is not: no request could be sent to it. URIs of other schemes are kept as they are.
fn is_broken_sip_uri(uri: &str) -> bool {
    let scheme = uri.split(':').next().unwrap_or_default();
    (scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips")) && SipUri::parse(uri).is_err()
}

/// TLS and WebSocket clients cannot be connected to.
fn only_by_its_connection(socket: &str) -> bool {
    ["tls:", "ws:", "wss:"].iter().any(|protocol| socket.starts_with(protocol))
}
