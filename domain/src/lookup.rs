//! Which bindings a request goes to (RFC 3261 section 16.5, the stock `lookup()`).

use std::borrow::Borrow;

use crate::{Binding, BindingState, Timestamp};

/// Result of [`select`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Usable bindings, best first.
    Found(Vec<Binding>),
    /// There is no current binding.
    NotRegistered,
    /// There are, but none takes this method.
    MethodNotAllowed,
}

/// The current bindings that take `method` (one of Kamailio's method bits), highest q first, then newest.
pub fn select(bindings: Vec<Binding>, now: Timestamp, method: u32) -> Selection {
    let mut usable: Vec<Binding> = bindings.into_iter().filter(|binding| is_current(binding, now)).collect();
    if usable.is_empty() {
        return Selection::NotRegistered;
    }
    usable.retain(|binding| binding.methods == 0 || binding.methods & method != 0);
    if usable.is_empty() {
        return Selection::MethodNotAllowed;
    }
    sort_by_preference(&mut usable);
    Selection::Found(usable)
}

/// Whether a stored binding counts: live and not expired, however long the row is kept.
pub fn is_current(binding: &Binding, now: Timestamp) -> bool {
    binding.state == BindingState::Live && binding.expires_at > now
}

/// Highest q first (none counts as 1.0), then newest.
pub(crate) fn sort_by_preference(bindings: &mut [impl Borrow<Binding>]) {
    let q = |binding: &Binding| if binding.q < 0 { 1000 } else { binding.q };
    bindings.sort_by(|a, b| {
        let (a, b) = (a.borrow(), b.borrow());
        q(b).cmp(&q(a)).then(b.registered_at.cmp(&a.registered_at)).then(a.key.cmp(&b.key))
    });
}

/// The URI of the first hop of a stored Path: what is inside the first angle brackets outside of quotes.
pub fn first_path_uri(path: &str) -> Option<&str> {
    let mut quoted = false;
    let start = path.char_indices().find_map(|(index, c)| match c {
        '"' => {
            quoted = !quoted;
            None
        }
        '<' if !quoted => Some(index + 1),
        _ => None,
    })?;
    let uri = path[start..].split_once('>')?.0;
    (!uri.is_empty()).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::tests::binding;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn found(selection: Selection) -> Vec<String> {
        match selection {
            Selection::Found(bindings) => bindings.into_iter().map(|binding| binding.contact).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_expired_or_removed_row_is_never_returned() {
        let expired = Binding { expires_at: NOW, ..binding("sip:a@h") };
        let removed = Binding { state: BindingState::Removed, ..binding("sip:b@h") };
        assert_eq!(select(vec![expired, removed], NOW, 1), Selection::NotRegistered);
    }

    #[test]
    fn higher_q_comes_first_then_newer() {
        let low = Binding { q: 100, ..binding("sip:low@h") };
        let none = Binding { q: -1, ..binding("sip:none@h") };
        let old = Binding { q: 500, registered_at: Timestamp(1), ..binding("sip:old@h") };
        let new = Binding { q: 500, registered_at: Timestamp(2), ..binding("sip:new@h") };
        let order = found(select(vec![low, old, new, none], NOW, 1));
        assert_eq!(order, ["sip:none@h", "sip:new@h", "sip:old@h", "sip:low@h"]);
    }

    #[test]
    fn a_binding_takes_only_the_methods_it_named() {
        let messages = Binding { methods: 8, ..binding("sip:m@h") };
        assert_eq!(select(vec![messages.clone()], NOW, 1), Selection::MethodNotAllowed);
        assert_eq!(found(select(vec![messages, binding("sip:all@h")], NOW, 8)).len(), 2);
    }

    #[test]
    fn the_next_hop_is_the_first_path_uri() {
        assert_eq!(first_path_uri("<sip:lb1;lr>,<sip:lb2;lr>"), Some("sip:lb1;lr"));
        assert_eq!(first_path_uri("\"a <b>\" <sip:lb;lr;received=\"x\">"), Some("sip:lb;lr;received=\"x\""));
        for none in ["", "sip:lb;lr", "<>", "<sip:lb"] {
            assert_eq!(first_path_uri(none), None, "{none}");
        }
    }
}
