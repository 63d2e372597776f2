//! Which bindings a request goes to (RFC 3261 section 16.5, the stock `lookup()`).

use std::borrow::Borrow;

use serde::{Deserialize, Serialize};

use crate::aor::AorError;
use crate::gruu::{Temporary, same_instance};
use crate::uri::{SipUri, escape, unescape};
use crate::{Aor, Binding, BindingState, Timestamp};

/// Whom a request is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// All bindings of an AoR.
    Aor(Aor),
    /// One instance of an AoR: a public GRUU (RFC 5627 section 3.1.1).
    Instance(Aor, String),
    /// A temporary GRUU: its user part and its domain.
    Temporary(String, String),
}

impl Target {
    /// Whom a URI names.
    ///
    /// # Errors
    /// When it is no SIP URI or has no user part.
    pub fn of_uri(uri: &str) -> Result<Self, AorError> {
        let parsed = SipUri::parse(uri).ok();
        match parsed.as_ref().and_then(|parsed| Some((parsed, parsed.params.get("gr")?))) {
            None => Aor::from_uri(uri).map(Self::Aor),
            Some((parsed, gr)) if gr.is_empty() => {
                let user = parsed.user.as_deref().map(unescape).unwrap_or_default();
                Ok(Self::Temporary(user, parsed.host.clone()))
            }
            Some((_, gr)) => Ok(Self::Instance(Aor::from_uri(uri)?, unescape(gr))),
        }
    }
}

/// Which of an AoR's bindings are wanted.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// All of them.
    All,
    /// Those of this instance.
    Instance(&'a str),
    /// The one that a temporary GRUU stands for.
    Temporary(&'a Temporary),
}

/// Which bindings can be used, as the stock registrar's parameters say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// The method that a binding must take, as one of Kamailio's bits (`method_filtering`).
    pub method: Option<u32>,
    /// Branch flags of which a binding must have one; 0 for none (`lookup_filter_mode=1`).
    pub flags: u32,
    /// Whether bindings count that have expired and are not gone yet (`use_expired_contacts`).
    pub expired: bool,
    /// Newest first instead of highest q first (`desc_time_order`).
    pub by_time: bool,
}

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

/// The bindings that a request can go to, highest q first, then newest.
pub fn select(bindings: Vec<Binding>, wanted: Wanted<'_>, filter: &Filter, now: Timestamp) -> Selection {
    let mut usable: Vec<Binding> =
        bindings.into_iter().filter(|binding| is_wanted(binding, wanted, filter, now)).collect();
    if usable.is_empty() {
        return Selection::NotRegistered;
    }
    if let Some(method) = filter.method {
        usable.retain(|binding| binding.methods == 0 || binding.methods & method != 0);
    }
    if usable.is_empty() {
        return Selection::MethodNotAllowed;
    }
    if filter.by_time {
        usable.sort_by(|a, b| b.registered_at.cmp(&a.registered_at).then(a.key.cmp(&b.key)));
    } else {
        sort_by_preference(&mut usable);
    }
    Selection::Found(usable)
}

fn is_wanted(binding: &Binding, wanted: Wanted<'_>, filter: &Filter, now: Timestamp) -> bool {
    let current = is_current(binding, now) || (filter.expired && binding.state == BindingState::Live);
    let named = match wanted {
        Wanted::All => filter.flags == 0 || binding.cflags & filter.flags != 0,
        Wanted::Instance(instance) => same_instance(instance, &binding.instance),
        Wanted::Temporary(gruu) => gruu.is(binding),
    };
    current && named
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

/// The route to a binding from the node at `own_uri`: its Path; for a contact on another node's connection that node, as if
/// it had put itself into the Path.
pub fn route_to(binding: &Binding, own_uri: &str) -> String {
    if !binding.path.is_empty() || binding.edge.is_empty() || binding.edge == own_uri {
        return binding.path.clone();
    }
    match binding.received.as_str() {
        "" => format!("<{};lr>", binding.edge),
        received => format!("<{};lr;received={}>", binding.edge, escape(received)),
    }
}

/// The URI of the first hop of a stored Path: what is inside the first angle brackets outside of quotes.
pub fn first_path_uri(path: &str) -> Option<&str> {
    path_uris(path).next()
}

/// The URIs of a stored Path, the first hop first.
pub fn path_uris(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        let start = opening_bracket(rest)? + 1;
        let (uri, after) = rest[start..].split_once('>')?;
        rest = after;
        (!uri.is_empty()).then_some(uri)
    })
}

fn opening_bracket(text: &str) -> Option<usize> {
    let mut quoted = false;
    text.char_indices().find_map(|(index, c)| match c {
        '"' => {
            quoted = !quoted;
            None
        }
        '<' if !quoted => Some(index),
        _ => None,
    })
}

/// A stored Path without its first hop; `""` when that was the only one.
pub fn path_after_first(path: &str) -> &str {
    let Some(first) = first_path_uri(path) else { return "" };
    let end = first.as_ptr() as usize - path.as_ptr() as usize + first.len() + 1;
    path.get(end..).and_then(|rest| rest.split_once(',')).map_or("", |(_, rest)| rest.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::tests::binding;
    use crate::gruu::GruuKey;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn all(bindings: Vec<Binding>) -> Selection {
        select(bindings, Wanted::All, &Filter::default(), NOW)
    }

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
        assert_eq!(all(vec![expired.clone(), removed.clone()]), Selection::NotRegistered);
        let lenient = Filter { expired: true, ..Filter::default() };
        assert_eq!(found(select(vec![expired, removed], Wanted::All, &lenient, NOW)), ["sip:a@h"]);
    }

    #[test]
    fn higher_q_comes_first_then_newer() {
        let low = Binding { q: 100, registered_at: Timestamp(9), ..binding("sip:low@h") };
        let none = Binding { q: -1, registered_at: Timestamp(3), ..binding("sip:none@h") };
        let old = Binding { q: 500, registered_at: Timestamp(1), ..binding("sip:old@h") };
        let new = Binding { q: 500, registered_at: Timestamp(2), ..binding("sip:new@h") };
        let rows = vec![low, old, new, none];
        assert_eq!(found(all(rows.clone())), ["sip:none@h", "sip:new@h", "sip:old@h", "sip:low@h"]);
        let by_time = Filter { by_time: true, ..Filter::default() };
        let newest_first = found(select(rows, Wanted::All, &by_time, NOW));
        assert_eq!(newest_first, ["sip:low@h", "sip:none@h", "sip:new@h", "sip:old@h"]);
    }

    #[test]
    fn a_binding_takes_only_the_methods_it_named() {
        let messages = Binding { methods: 8, ..binding("sip:m@h") };
        let filter = |method| Filter { method: Some(method), ..Filter::default() };
        assert_eq!(select(vec![messages.clone()], Wanted::All, &filter(1), NOW), Selection::MethodNotAllowed);
        assert_eq!(found(select(vec![messages.clone(), binding("sip:all@h")], Wanted::All, &filter(8), NOW)).len(), 2);
        assert_eq!(found(all(vec![messages])), ["sip:m@h"]);
    }

    #[test]
    fn branch_flags_filter_bindings() {
        let natted = Binding { cflags: 6, ..binding("sip:nat@h") };
        let filter = Filter { flags: 2, ..Filter::default() };
        assert_eq!(found(select(vec![natted, binding("sip:a@h")], Wanted::All, &filter, NOW)), ["sip:nat@h"]);
    }

    #[test]
    fn a_gruu_reaches_its_instance_only() {
        let phone = |id: &str| Binding { instance: format!("<urn:{id}>"), ..binding(&format!("sip:{id}@h")) };
        let rows = vec![phone("1"), phone("2"), binding("sip:none@h")];
        let wanted = Wanted::Instance("urn:2");
        assert_eq!(found(select(rows.clone(), wanted, &Filter::default(), NOW)), ["sip:2@h"]);
        assert_eq!(select(rows, Wanted::Instance("urn:3"), &Filter::default(), NOW), Selection::NotRegistered);
    }

    #[test]
    fn a_temporary_gruu_reaches_its_binding_until_that_is_made_anew() {
        let alice = Aor::new("alice", "example.com").expect("an AoR");
        let phone = Binding { ruid: "1".into(), ..binding("sip:a@h") };
        let key = GruuKey::new(b"k");
        let uri = key.temporary(&alice, &phone, NOW);
        let Target::Temporary(user, domain) = Target::of_uri(&uri).expect("a target") else { panic!("{uri}") };
        let opened = key.open(&user, &domain).expect("ours");
        let wanted = Wanted::Temporary(&opened);
        let other = Binding { ruid: "2".into(), ..binding("sip:b@h") };
        assert_eq!(found(select(vec![other, phone.clone()], wanted, &Filter::default(), NOW)), ["sip:a@h"]);
        let again = Binding { call_id: "another".into(), ..phone };
        assert_eq!(select(vec![again], wanted, &Filter::default(), NOW), Selection::NotRegistered);
    }

    #[test]
    fn a_uri_names_an_aor_an_instance_or_a_temporary_gruu() {
        let alice = || Aor::new("alice", "example.com").expect("an AoR");
        assert_eq!(Target::of_uri("sip:alice@Example.com:5070;x=y"), Ok(Target::Aor(alice())));
        let instance = Target::Instance(alice(), "urn:uuid:1".to_owned());
        assert_eq!(Target::of_uri("sip:alice@example.com;gr=urn:uuid:1"), Ok(instance));
        let temporary = Target::Temporary("tgruu.x".to_owned(), "example.com".to_owned());
        assert_eq!(Target::of_uri("sip:tgruu.x@example.com;gr"), Ok(temporary));
        assert!(Target::of_uri("tel:+1").is_err());
    }

    #[test]
    fn the_hops_of_a_path() {
        let hops = |path| path_uris(path).collect::<Vec<_>>();
        assert_eq!(hops("<sip:lb1;lr>,<sip:lb2;lr>"), ["sip:lb1;lr", "sip:lb2;lr"]);
        assert_eq!(hops("\"a <b>\" <sip:lb;lr;received=\"x\">"), ["sip:lb;lr;received=\"x\""]);
        for none in ["", "sip:lb;lr", "<>", "<sip:lb"] {
            assert_eq!(first_path_uri(none), None, "{none}");
        }
        assert_eq!(path_after_first("<sip:a;lr>;x, <sip:b;lr>,<sip:c;lr>"), "<sip:b;lr>,<sip:c;lr>");
        assert_eq!(path_after_first("<sip:a;lr>"), "");
    }

    #[test]
    fn a_contact_on_another_nodes_connection_is_reached_through_that_node() {
        let phone = Binding { edge: "sip:10.0.0.1:5060".into(), ..binding("sip:a@192.0.2.1;transport=tcp") };
        assert_eq!(route_to(&phone, "sip:10.0.0.1:5060"), "");
        assert_eq!(route_to(&phone, "sip:10.0.0.2:5060"), "<sip:10.0.0.1:5060;lr>");
        let seen = Binding { received: "sip:192.0.2.1:40000;transport=tcp".into(), ..phone.clone() };
        assert_eq!(
            route_to(&seen, "sip:10.0.0.2:5060"),
            "<sip:10.0.0.1:5060;lr;received=sip%3A192.0.2.1%3A40000%3Btransport%3Dtcp>"
        );
        let behind_edge = Binding { path: "<sip:lb;lr>".into(), ..seen };
        assert_eq!(route_to(&behind_edge, "sip:10.0.0.2:5060"), "<sip:lb;lr>");
    }
}
