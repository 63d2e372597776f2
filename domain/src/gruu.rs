//! Globally routable user agent URIs (RFC 5627).
//!
//! A public GRUU is the AoR with the instance in its `gr` parameter. A temporary one names nobody: its user part is the AoR's
//! user and the binding, sealed with a key that all nodes share (AES-256-GCM-SIV), so that it can be neither read nor forged,
//! and any node can open it.

use std::fmt;

use aes_gcm_siv::aead::{Aead, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::uri::{escape, escape_except};
use crate::{Aor, Binding, Timestamp};

/// How the user part of a temporary GRUU begins.
const PREFIX: &str = "tgruu.";

const NONCE_LENGTH: usize = 12;
const ID_LENGTH: usize = 8;

/// What the temporary GRUUs of a cluster are sealed with.
pub struct GruuKey(Aes256GcmSiv);

impl fmt::Debug for GruuKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GruuKey(hidden)")
    }
}

/// Which binding a temporary GRUU stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Temporary {
    /// Whose.
    pub aor: Aor,
    binding: [u8; ID_LENGTH],
    epoch: [u8; ID_LENGTH],
}

impl Temporary {
    /// Whether this binding is the one, and has not been made anew since (RFC 5627 section 3.1.2).
    pub fn is(&self, binding: &Binding) -> bool {
        self.binding == id_of(binding) && self.epoch == epoch_of(binding)
    }
}

impl GruuKey {
    /// The key that a shared secret of any length stands for.
    pub fn new(secret: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"temporary GRUU\0");
        hasher.update(secret);
        Self(Aes256GcmSiv::new(&hasher.finalize()))
    }

    /// A temporary GRUU of this binding: another one at each point in time.
    pub fn temporary(&self, aor: &Aor, binding: &Binding, now: Timestamp) -> String {
        let mut nonce = [0; NONCE_LENGTH];
        nonce[..8].copy_from_slice(&now.0.to_be_bytes());
        let plain = [&epoch_of(binding)[..], &id_of(binding), aor.username().as_bytes()].concat();
        // Sealing fails only for gigabytes.
        let sealed = self.0.encrypt(Nonce::from_slice(&nonce), plain.as_slice()).unwrap_or_default();
        let token = URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat());
        format!("sip:{PREFIX}{token}@{};gr", aor.domain())
    }

    /// What a temporary GRUU of `domain` with this user part stands for; `None` when it is not one of ours.
    pub fn open(&self, user: &str, domain: &str) -> Option<Temporary> {
        let token = URL_SAFE_NO_PAD.decode(user.strip_prefix(PREFIX)?).ok()?;
        let (nonce, sealed) = token.split_first_chunk::<NONCE_LENGTH>()?;
        let plain = self.0.decrypt(Nonce::from_slice(nonce), sealed).ok()?;
        let (epoch, rest) = plain.split_first_chunk::<ID_LENGTH>()?;
        let (binding, username) = rest.split_first_chunk::<ID_LENGTH>()?;
        let aor = Aor::new(std::str::from_utf8(username).ok()?, domain).ok()?;
        Some(Temporary { aor, binding: *binding, epoch: *epoch })
    }
}

/// Whether a user part looks like a temporary GRUU's.
pub fn is_temporary(user: &str) -> bool {
    user.starts_with(PREFIX)
}

/// The public GRUU of an instance of this AoR: the same on every node, for ever.
pub fn public(aor: &Aor, instance: &str) -> String {
    format!("sip:{}@{};gr={}", escape(aor.username()), aor.domain(), escape_parameter(bare(instance)))
}

/// Whether two instances are the same, with or without angle brackets.
pub fn same_instance(a: &str, b: &str) -> bool {
    !a.is_empty() && bare(a) == bare(b)
}

fn bare(instance: &str) -> &str {
    instance.strip_prefix('<').and_then(|inner| inner.strip_suffix('>')).unwrap_or(instance)
}

/// Escapes what a URI parameter cannot hold (RFC 3261 section 25.1, `paramchar`).
fn escape_parameter(value: &str) -> String {
    escape_except(value, b"[]/:&+$")
}

fn id_of(binding: &Binding) -> [u8; ID_LENGTH] {
    first_bytes(&[binding.ruid.as_bytes()])
}

fn epoch_of(binding: &Binding) -> [u8; ID_LENGTH] {
    first_bytes(&[&binding.bound_at.0.to_be_bytes(), binding.call_id.as_bytes()])
}

fn first_bytes(parts: &[&[u8]]) -> [u8; ID_LENGTH] {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    let mut bytes = [0; ID_LENGTH];
    bytes.copy_from_slice(&hasher.finalize()[..ID_LENGTH]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::tests::binding;
    use crate::uri::SipUri;

    fn alice() -> Aor {
        Aor::new("alice", "example.com").expect("an AoR")
    }

    fn phone() -> Binding {
        Binding { ruid: "0011223344556677".into(), instance: "<urn:uuid:1>".into(), ..binding("sip:a@h") }
    }

    fn user_of(gruu: &str) -> String {
        SipUri::parse(gruu).expect("a URI").user.expect("a user")
    }

    #[test]
    fn a_public_gruu_is_the_aor_with_the_instance() {
        assert_eq!(public(&alice(), "<urn:uuid:f8-1>"), "sip:alice@example.com;gr=urn:uuid:f8-1");
        let odd = Aor::new("a;b", "example.com").expect("an AoR");
        assert_eq!(public(&odd, "x\"y;z"), "sip:a%3Bb@example.com;gr=x%22y%3Bz");
    }

    #[test]
    fn a_temporary_gruu_opens_on_every_node_and_is_another_each_time() {
        let key = || GruuKey::new(b"shared");
        let first = key().temporary(&alice(), &phone(), Timestamp(1));
        let second = key().temporary(&alice(), &phone(), Timestamp(2));
        assert_ne!(first, second);
        assert!(!first.contains("alice"), "{first}");
        for gruu in [first, second] {
            let opened = key().open(&user_of(&gruu), "example.com").expect("ours");
            assert_eq!(opened.aor, alice());
            assert!(opened.is(&phone()));
        }
    }

    #[test]
    fn a_temporary_gruu_cannot_be_forged() {
        let gruu = GruuKey::new(b"shared").temporary(&alice(), &phone(), Timestamp(1));
        let user = user_of(&gruu);
        assert_eq!(GruuKey::new(b"other").open(&user, "example.com"), None);
        for index in PREFIX.len()..user.len() {
            let mut changed = user.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("text");
            assert_eq!(GruuKey::new(b"shared").open(&changed, "example.com"), None, "{changed}");
        }
        for short in ["tgruu.", "tgruu.AAAA", "alice", "tgruu.%%"] {
            assert_eq!(GruuKey::new(b"shared").open(short, "example.com"), None, "{short}");
        }
    }

    #[test]
    fn another_call_id_or_a_new_binding_ends_it() {
        let key = GruuKey::new(b"shared");
        let opened = key.open(&user_of(&key.temporary(&alice(), &phone(), Timestamp(1))), "example.com").expect("ours");
        assert!(opened.is(&Binding { cseq: 9, registered_at: Timestamp(5), ..phone() }));
        assert!(!opened.is(&Binding { call_id: "other".into(), ..phone() }));
        assert!(!opened.is(&Binding { bound_at: Timestamp(5), ..phone() }));
        assert!(!opened.is(&Binding { ruid: "0".into(), ..phone() }));
    }

    #[test]
    fn instances_are_compared_without_brackets() {
        assert!(same_instance("<urn:uuid:1>", "urn:uuid:1"));
        assert!(!same_instance("", ""));
        assert!(!same_instance("<urn:uuid:1>", "<urn:uuid:2>"));
    }
}
