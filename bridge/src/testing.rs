//! What the unit tests share.

use domain::call::EventId;
use domain::lookup::{Filter, Target};
use domain::{Aor, Binding, BindingKey, CallEvent};

use crate::protocol::Operation;

/// A lookup of this user.
pub(crate) fn lookup(user: &str) -> Operation {
    let aor = Aor::new(user, "example.com").expect("an AoR");
    Operation::Lookup(vec![Target::Aor(aor)], Filter::default())
}

/// A live binding that has long to go.
pub(crate) fn binding(contact: &str) -> Binding {
    let key = BindingKey::for_contact("", 0, contact);
    Binding { key, call_id: "call".to_owned(), cseq: 1, ..Binding::of_uri(contact.to_owned()) }
}

/// An event of a call, `micros` after the epoch.
pub(crate) fn call_event(name: &str, micros: i64) -> CallEvent {
    let aor = |user: &str| format!("{user}@example.com");
    CallEvent {
        event: name.to_owned(),
        call_id: "call".to_owned(),
        caller: aor("alice"),
        callee: aor("bob"),
        ..CallEvent::new(EventId::new(micros, 1, 1))
    }
}

/// A file of a test's own, removed at its end.
pub(crate) struct TemporaryFile(std::path::PathBuf);

impl TemporaryFile {
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.0.clone()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Not there yet.
pub(crate) fn temporary_file(name: &str) -> TemporaryFile {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    TemporaryFile(std::env::temp_dir().join(format!("{name}-{}-{number}", std::process::id())))
}
