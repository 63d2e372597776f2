//! What happened to a binding, as people and programs are shown it.

use serde::Serialize;

use crate::text::cut;
use crate::{Aor, Binding, Timestamp};

/// Names of what can happen to a binding.
pub mod event {
    /// It is new.
    pub const NEW: &str = "reg-new";
    /// It was refreshed.
    pub const REFRESH: &str = "reg-refresh";
    /// It was removed.
    pub const DELETED: &str = "reg-del";
    /// Nobody refreshed it in time.
    pub const EXPIRED: &str = "reg-expired";
}

/// Something that happened to a binding.
#[derive(Debug, Clone, Copy)]
pub struct RegistrationEvent<'e> {
    /// What happened: one of [`event`].
    pub name: &'e str,
    /// Whose binding it is.
    pub aor: &'e Aor,
    /// The binding, as it is or was.
    pub binding: &'e Binding,
    /// When it happened.
    pub at: Timestamp,
}

impl RegistrationEvent<'_> {
    /// As a line of JSON: what is absent is left out, texts are cut to 512 bytes, so that the line fits into a log whatever is in them.
    pub fn json(&self) -> String {
        serde_json::to_string(&Shown::from(self)).unwrap_or_default()
    }
}

/// Bytes of a text that are shown.
const LONGEST_TEXT: usize = 512;

#[derive(Debug, Serialize)]
struct Shown<'e> {
    time: String,
    event: &'e str,
    aor: String,
    contact: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    received: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'e str,
    call_id: &'e str,
    cseq: u32,
    expires: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    instance: &'e str,
    #[serde(skip_serializing_if = "is_zero")]
    reg_id: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    socket: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    node: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    dc: &'e str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl<'e> From<&'e RegistrationEvent<'_>> for Shown<'e> {
    fn from(event: &'e RegistrationEvent<'_>) -> Self {
        let binding = event.binding;
        let cut = |text: &'e str| cut(text, LONGEST_TEXT);
        Self {
            time: event.at.rfc3339(),
            event: event.name,
            aor: event.aor.to_string(),
            contact: cut(&binding.contact),
            received: cut(&binding.received),
            path: cut(&binding.path),
            call_id: cut(&binding.call_id),
            cseq: binding.cseq,
            expires: binding.expires_at.rfc3339(),
            instance: cut(&binding.instance),
            reg_id: binding.reg_id,
            user_agent: cut(&binding.user_agent),
            socket: &binding.socket,
            node: &binding.registrar,
            dc: &binding.dc,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_phone_sent_stays_inside_its_value() {
        let mut binding = Binding::of_uri("sip:alice@192.0.2.1".to_owned());
        (binding.call_id, binding.user_agent) =
            ("c1\",\"event\":\"x".to_owned(), format!("a\r\n\0{}", "b".repeat(5000)));
        binding.expires_at = Timestamp(3_600_000);
        let aor = Aor::new("alice", "example.com").expect("an AoR");
        let event = RegistrationEvent { name: event::NEW, aor: &aor, binding: &binding, at: Timestamp(0) };
        let read: serde_json::Value = serde_json::from_str(&event.json()).expect("JSON");
        assert_eq!((&read["event"], &read["aor"]), (&"reg-new".into(), &"alice@example.com".into()));
        assert_eq!(read["call_id"], "c1\",\"event\":\"x");
        assert_eq!(read["user_agent"].as_str().map(str::len), Some(512));
        assert!(read.get("path").is_none() && !event.json().contains('\n'), "{read}");
    }
}
