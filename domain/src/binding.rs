//! Bindings: where an address-of-record can be reached, one row of the `location` table each.

use serde::{Deserialize, Serialize};

use sha2::{Digest, Sha256};

use crate::register::REMOVED_FOR;
use crate::uri::SipUri;
use crate::{Aor, Timestamp};

/// What identifies a binding among those of its AoR: `+sip.instance` with reg-id when the contact has them (RFC 5626
/// section 6), else the normalised contact URI (RFC 3261 section 19.1.4). Never the Call-ID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BindingKey(pub String);

/// Whether a stored binding counts. Removal is a soft delete, so that the CSeq of the removing REGISTER is still there
/// when a late retransmission of an older one arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindingState {
    /// Removed by the user agent; kept for a short time for its CSeq.
    Removed,
    /// Registered (until it expires).
    Live,
}

/// One binding of one AoR. Absent text is `""` and absent numbers are 0, as they are stored: a null would be a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Identity within the AoR.
    pub key: BindingKey,
    /// The Contact URI as registered, with its URI parameters, without angle brackets.
    pub contact: String,
    /// Source of the REGISTER as a SIP URI, when it differs from the contact (NAT); `""` otherwise.
    pub received: String,
    /// The Path header bodies in order, comma-joined (RFC 3327); `""` without Path.
    pub path: String,
    /// The q value in thousandths (0 to 1000).
    pub q: i16,
    /// When the binding lapses.
    pub expires_at: Timestamp,
    /// Live or removed.
    pub state: BindingState,
    /// Call-ID of the REGISTER that wrote this binding.
    pub call_id: String,
    /// CSeq number of that REGISTER.
    pub cseq: u32,
    /// User-Agent header of that REGISTER.
    pub user_agent: String,
    /// Bit set of the methods the contact accepts, in Kamailio's method bits; 0 = not said (all).
    pub methods: u32,
    /// Branch flags to set when the binding is used.
    pub cflags: u32,
    /// `+sip.instance` value without quotes; `""` when absent.
    pub instance: String,
    /// RFC 5626 reg-id; 0 when absent.
    pub reg_id: u32,
    /// Record-unique id: stable for one (AoR, key), on every node.
    pub ruid: String,
    /// The local socket that received the REGISTER (`udp:127.0.0.1:5060`).
    pub socket: String,
    /// Data centre of the registrar that wrote it.
    pub dc: String,
    /// Name of the registrar node that wrote it.
    pub registrar: String,
    /// SIP URI of the node that holds the contact's connection, when only that one can reach it; `""` otherwise.
    pub edge: String,
    /// What the script keeps with the binding, name and value.
    pub attributes: Vec<(String, String)>,
    /// When the REGISTER was accepted.
    pub registered_at: Timestamp,
    /// Since when the binding has been there without a pause, by REGISTERs of one Call-ID.
    pub bound_at: Timestamp,
    /// Write time of the stored row in microseconds since the epoch; 0 for a binding not read from the store.
    pub written_at: i64,
}

/// Which bindings of an AoR are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    /// All of them.
    All,
    /// The one with this record-unique id.
    Ruid(String),
    /// The one with this record-unique id, if it has not been refreshed since this time.
    AsOf(String, Timestamp),
    /// Those with an equal Contact URI (RFC 3261 section 19.1.4).
    Contact(String),
}

impl Which {
    /// Whether this binding is meant.
    pub fn fits(&self, binding: &Binding) -> bool {
        match self {
            Self::All => true,
            Self::Ruid(ruid) => binding.ruid == *ruid,
            Self::AsOf(ruid, at) => binding.ruid == *ruid && binding.registered_at <= *at,
            Self::Contact(uri) => same_contact(&binding.contact, uri),
        }
    }
}

/// Whether two Contact URIs are equal: as SIP URIs, or else as texts.
fn same_contact(a: &str, b: &str) -> bool {
    match (SipUri::parse(a), SipUri::parse(b)) {
        (Ok(a), Ok(b)) => a.equivalent(&b),
        _ => a == b,
    }
}

impl Binding {
    /// A destination that is known by its URI alone.
    pub fn of_uri(uri: String) -> Self {
        Self {
            key: BindingKey(uri.clone()),
            contact: uri,
            received: String::new(),
            path: String::new(),
            q: -1,
            expires_at: Timestamp(i64::MAX),
            state: BindingState::Live,
            call_id: String::new(),
            cseq: 0,
            user_agent: String::new(),
            methods: 0,
            cflags: 0,
            instance: String::new(),
            reg_id: 0,
            ruid: String::new(),
            socket: String::new(),
            dc: String::new(),
            registrar: String::new(),
            edge: String::new(),
            attributes: Vec::new(),
            registered_at: Timestamp(0),
            bound_at: Timestamp(0),
            written_at: 0,
        }
    }

    /// A soft delete of this binding at `now`. It keeps Call-ID and CSeq, so that a late copy of the REGISTER that made the
    /// binding does not bring it back.
    pub fn removed(&self, now: Timestamp) -> Self {
        Self {
            state: BindingState::Removed,
            expires_at: now.plus_seconds(REMOVED_FOR),
            registered_at: now,
            ..self.clone()
        }
    }
}

impl BindingKey {
    /// The key of a contact: instance and reg-id, instance alone, or the normalised URI. A URI that is not SIP stands for
    /// itself.
    pub fn for_contact(instance: &str, reg_id: u32, uri: &str) -> Self {
        Self(match (instance, reg_id) {
            ("", _) => SipUri::parse(uri).map_or_else(|_| uri.to_owned(), |uri| uri.normalised()),
            (instance, 0) => format!("instance:{instance}"),
            (instance, reg_id) => format!("flow:{reg_id}:{instance}"),
        })
    }

    /// Whether this names one flow of RFC 5626, which a new REGISTER of it replaces whatever its Call-ID.
    pub fn is_flow(&self) -> bool {
        self.0.starts_with("flow:")
    }

    /// The record-unique id of this binding of `aor`: the same on every node and after every restart.
    pub fn ruid(&self, aor: &Aor) -> String {
        let mut hasher = Sha256::new();
        for part in [aor.username(), "@", aor.domain(), "\0", &self.0] {
            hasher.update(part.as_bytes());
        }
        base16ct::lower::encode_string(&hasher.finalize()[..8])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A live binding that has long to go.
    pub(crate) fn binding(contact: &str) -> Binding {
        let key = BindingKey::for_contact("", 0, contact);
        Binding { key, call_id: "call".to_owned(), cseq: 1, ..Binding::of_uri(contact.to_owned()) }
    }

    #[test]
    fn a_flow_is_known_by_instance_and_reg_id_whatever_its_uri() {
        let a = BindingKey::for_contact("<urn:uuid:1>", 1, "sip:a@192.0.2.1:5060");
        assert_eq!(a, BindingKey::for_contact("<urn:uuid:1>", 1, "sip:a@192.0.2.2:6060"));
        assert_ne!(a, BindingKey::for_contact("<urn:uuid:1>", 2, "sip:a@192.0.2.1:5060"));
        assert_ne!(a, BindingKey::for_contact("<urn:uuid:1>", 0, "sip:a@192.0.2.1:5060"));
        assert!(a.is_flow());
    }

    #[test]
    fn a_removed_binding_keeps_the_order_of_its_registers() {
        let now = Timestamp(1_000_000);
        let before = Binding { cseq: 7, ..binding("sip:a@h") };
        let after = before.removed(now);
        assert_eq!((after.state, after.expires_at), (BindingState::Removed, now.plus_seconds(REMOVED_FOR)));
        assert_eq!((&after.call_id, after.cseq, &after.key), (&before.call_id, before.cseq, &before.key));
    }

    #[test]
    fn a_binding_is_meant_by_its_record_id_or_an_equal_contact() {
        let flow = BindingKey::for_contact("<urn:uuid:1>", 1, "sip:a@host:5060");
        let binding = Binding { key: flow, ruid: "r1".to_owned(), ..binding("sip:a@Host:5060;transport=UDP") };
        assert!(Which::All.fits(&binding));
        assert!(Which::Ruid("r1".to_owned()).fits(&binding));
        assert!(!Which::Ruid("r2".to_owned()).fits(&binding));
        let refreshed = Binding { registered_at: Timestamp(5), ..binding.clone() };
        assert!(Which::AsOf("r1".to_owned(), Timestamp(5)).fits(&refreshed));
        assert!(!Which::AsOf("r1".to_owned(), Timestamp(4)).fits(&refreshed));
        assert!(Which::Contact("sip:%61@host:5060;transport=udp".to_owned()).fits(&binding));
        assert!(!Which::Contact("sip:a@host:5061;transport=udp".to_owned()).fits(&binding));
    }

    #[test]
    fn equal_uris_are_one_binding() {
        let key = |uri| BindingKey::for_contact("", 0, uri);
        assert_eq!(key("sip:%61@Host;transport=TCP;Ob"), key("sip:a@host;ob;Transport=tcp"));
        assert_ne!(key("sip:a@host"), key("sip:a@host:5060"));
        assert_ne!(key("sip:a@host;line=1"), key("sip:a@host;line=2"));
    }

    #[test]
    fn the_record_id_depends_on_aor_and_key_alone() {
        let aor = |name| Aor::new(name, "example.com").expect("an AoR");
        let key = BindingKey("sip:a@h".to_owned());
        assert_eq!(key.ruid(&aor("alice")), key.ruid(&aor("alice")));
        assert_ne!(key.ruid(&aor("alice")), key.ruid(&aor("bob")));
    }
}
