//! What the unit tests share.

use domain::{Binding, BindingKey, BindingState, Timestamp};

/// A live binding that has long to go.
pub(crate) fn binding(contact: &str) -> Binding {
    Binding {
        key: BindingKey::for_contact("", 0, contact),
        contact: contact.to_owned(),
        received: String::new(),
        path: String::new(),
        q: -1,
        expires_at: Timestamp(i64::MAX),
        state: BindingState::Live,
        call_id: "call".to_owned(),
        cseq: 1,
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
