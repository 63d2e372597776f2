use proptest::prelude::*;

use super::*;
use crate::BindingState;

pub(crate) const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn policy() -> Policy {
    Policy { path: PathMode::Strict, ..Policy::default() }
}

fn node() -> Node {
    Node { dc: "dc1".into(), name: "reg1".into(), uri: "sip:10.0.0.1:5060".into(), longest_expiry: 86_400 }
}

fn contact(uri: &str) -> Contact {
    Contact {
        uri: uri.into(),
        q: None,
        expires: None,
        methods: 0,
        instance: String::new(),
        reg_id: None,
        received: String::new(),
    }
}

fn flow(reg_id: u32, uri: &str) -> Contact {
    Contact { instance: "<urn:uuid:1>".into(), reg_id: Some(reg_id), ..contact(uri) }
}

fn register(cseq: u32, contacts: Contacts) -> Register {
    Register {
        aor: Aor::new("alice", "example.com").expect("an AoR"),
        request_uri: "sip:example.com".into(),
        call_id: "call-1".into(),
        cseq,
        expires: None,
        contacts,
        path: String::new(),
        supported: OptionTags::default(),
        required: OptionTags::default(),
        first_hop: true,
        source: "sip:192.0.2.1:40000;transport=tcp".into(),
        received: String::new(),
        user_agent: "test".into(),
        socket: "udp:127.0.0.1:5060".into(),
        cflags: 0,
        replace: false,
        attributes: Vec::new(),
        policy: policy(),
    }
}

pub(crate) fn adding(cseq: u32, uris: &[&str]) -> Register {
    register(cseq, Contacts::List(uris.iter().map(|uri| contact(uri)).collect()))
}

pub(crate) fn decided(existing: &[Binding], register: &Register) -> Decision {
    decide(existing, register, &node(), NOW).expect("accepted")
}

fn refused(existing: &[Binding], register: &Register) -> Rejection {
    decide(existing, register, &node(), NOW).expect_err("refused")
}

fn header<'r>(rejection: &'r Rejection, name: &str) -> Option<&'r str> {
    rejection.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The rows as they are after the write.
fn stored(existing: &[Binding], decision: &Decision) -> Vec<Binding> {
    let kept = existing.iter().filter(|row| decision.writes.iter().all(|write| write.key != row.key));
    kept.chain(&decision.writes).cloned().collect()
}

fn registered(uris: &[&str]) -> Vec<Binding> {
    decided(&[], &adding(1, uris)).writes
}

fn contacts<'d>(existing: &'d [Binding], decision: &'d Decision) -> Vec<&'d str> {
    decision.current(existing, NOW).into_iter().map(|binding| binding.contact.as_str()).collect()
}

#[test]
fn a_new_contact_is_inserted_and_listed() {
    let decision = decided(&[], &adding(1, &["sip:a@h"]));
    assert_eq!((decision.saved, contacts(&[], &decision)), (Saved::Inserted, vec!["sip:a@h"]));
    assert_eq!(decision.writes[0].expires_at, NOW.plus_seconds(3600));
    assert_eq!((decision.writes[0].dc.as_str(), decision.writes[0].registrar.as_str()), ("dc1", "reg1"));
}

#[test]
fn a_refresh_updates_and_keeps_the_other_bindings() {
    let rows = registered(&["sip:a@h", "sip:b@h"]);
    let decision = decided(&rows, &adding(2, &["sip:a@h"]));
    assert_eq!((decision.saved, decision.writes.len(), decision.current(&rows, NOW).len()), (Saved::Updated, 1, 2));
}

#[test]
fn a_query_changes_nothing_and_lists_all() {
    let rows = registered(&["sip:a@h", "sip:b@h"]);
    let decision = decided(&rows, &register(2, Contacts::Query));
    assert_eq!((decision.saved, decision.writes.len(), decision.current(&rows, NOW).len()), (Saved::Queried, 0, 2));
}

#[test]
fn expires_zero_removes_that_binding_only_and_softly() {
    let rows = registered(&["sip:a@h", "sip:b@h"]);
    let removing = Register { expires: Some(0), ..adding(2, &["sip:a@h"]) };
    let decision = decided(&rows, &removing);
    assert_eq!((decision.saved, contacts(&rows, &decision)), (Saved::Deleted, vec!["sip:b@h"]));
    assert_eq!((decision.writes[0].state, decision.writes[0].cseq), (BindingState::Removed, 2));
    assert_eq!(decision.writes[0].expires_at, NOW.plus_seconds(REMOVED_FOR));
}

#[test]
fn removing_an_absent_binding_is_no_error() {
    let removing = Register { expires: Some(0), ..adding(2, &["sip:a@h"]) };
    assert_eq!(decided(&[], &removing).saved, Saved::Queried);
}

#[test]
fn a_late_register_does_not_revive_a_removed_binding() {
    let rows = registered(&["sip:a@h"]);
    let removed = stored(&rows, &decided(&rows, &Register { expires: Some(0), ..adding(3, &["sip:a@h"]) }));
    let late = refused(&removed, &adding(2, &["sip:a@h"]));
    assert_eq!(late.status, 400);
}

#[test]
fn star_removes_all_and_only_with_expires_zero() {
    let rows = registered(&["sip:a@h", "sip:b@h"]);
    let star = register(2, Contacts::Star);
    assert_eq!(refused(&rows, &star).status, 400);
    let decision = decided(&rows, &Register { expires: Some(0), ..star });
    assert_eq!((decision.saved, decision.writes.len(), decision.current(&rows, NOW).len()), (Saved::Deleted, 2, 0));
}

#[test]
fn star_with_an_old_cseq_fails_as_a_whole() {
    let rows = stored(&registered(&["sip:b@h"]), &decided(&[], &adding(5, &["sip:a@h"])));
    let star = Register { expires: Some(0), ..register(2, Contacts::Star) };
    assert_eq!(refused(&rows, &star).status, 400);
}

#[test]
fn a_lower_cseq_of_the_same_call_id_is_refused() {
    let rows = decided(&[], &adding(5, &["sip:a@h"])).writes;
    assert_eq!(refused(&rows, &adding(4, &["sip:a@h"])).script_code, -1);
    let other = Register { call_id: "call-2".into(), ..adding(4, &["sip:a@h"]) };
    assert_eq!(decided(&rows, &other).saved, Saved::Updated);
}

#[test]
fn a_retransmission_is_answered_again_and_writes_nothing() {
    let rows = registered(&["sip:a@h"]);
    let decision = decided(&rows, &adding(1, &["sip:a@h"]));
    assert_eq!((decision.saved, decision.writes.len(), decision.current(&rows, NOW).len()), (Saved::Queried, 0, 1));
    let later = Timestamp(NOW.0 + 21_000);
    assert_eq!(decide(&rows, &adding(1, &["sip:a@h"]), &node(), later).expect_err("too late").status, 400);
}

#[test]
fn one_bad_contact_refuses_the_whole_register() {
    let long = format!("sip:{}@h", "x".repeat(600));
    assert_eq!(refused(&[], &adding(1, &["sip:a@h", &long])).status, 400);
}

#[test]
fn the_contact_parameter_beats_the_header_beats_the_default() {
    let own = Contact { expires: Some(100), ..contact("sip:a@h") };
    let list = Contacts::List(vec![own, contact("sip:b@h")]);
    let decision = decided(&[], &Register { expires: Some(200), ..register(1, list) });
    let expiry: Vec<_> = decision.writes.iter().map(|write| write.expires_at.seconds_after(NOW)).collect();
    assert_eq!(expiry, [100, 200]);
}

fn with_policy(change: impl FnOnce(&mut Policy), mut register: Register) -> Register {
    change(&mut register.policy);
    register
}

#[test]
fn bounds_of_expiry() {
    let asking = |seconds| Register { expires: Some(seconds), ..adding(1, &["sip:a@h"]) };
    let granted = |register: &Register| decided(&[], register).writes[0].expires_at.seconds_after(NOW);
    assert_eq!([5, 60, 3600, 9999].map(|seconds| granted(&asking(seconds))), [60, 60, 3600, 3600]);
    let strict = refused(&[], &with_policy(|policy| policy.min_expires_reject = true, asking(5)));
    assert_eq!((strict.status, header(&strict, "Min-Expires")), (423, Some("60")));
    let unbounded = with_policy(|policy| (policy.min_expires, policy.max_expires) = (0, 0), asking(9999));
    assert_eq!(granted(&unbounded), 9999);
    assert_eq!(granted(&Register { expires: Some(4_000_000_000), ..unbounded }), 86_400);
}

#[test]
fn a_cut_shortens_expiries_but_not_below_the_minimum() {
    let cut = |seconds, per_cent| {
        let register = Register { expires: Some(seconds), ..adding(1, &["sip:a@h"]) };
        let register = with_policy(|policy| policy.expires_cut = per_cent, register);
        decided(&[], &register).writes[0].expires_at.seconds_after(NOW)
    };
    assert_eq!([cut(1000, 10), cut(1000, 0), cut(61, 50), cut(1000, 100)], [900, 1000, 60, 60]);
}

#[test]
fn too_many_contacts_are_refused_with_retry_after() {
    let limited = |register| with_policy(|policy| (policy.max_contacts, policy.retry_after) = (1, 30), register);
    let rows = registered(&["sip:a@h"]);
    let refused = refused(&rows, &limited(adding(2, &["sip:b@h"])));
    assert_eq!((refused.status, refused.script_code, header(&refused, "Retry-After")), (503, -2, Some("30")));
    assert_eq!(decided(&rows, &limited(adding(2, &["sip:a@h"]))).saved, Saved::Updated);
    let replacing = Register { replace: true, ..limited(adding(2, &["sip:b@h"])) };
    assert_eq!(decided(&rows, &replacing).current(&rows, NOW).len(), 1);
}

#[test]
fn path_is_refused_before_anything_is_stored_when_not_supported() {
    let with_path = Register { path: "<sip:lb;lr>".into(), ..adding(1, &["sip:a@h"]) };
    let mode = |mode| with_policy(|policy| policy.path = mode, with_path.clone());
    let strict = refused(&[], &with_path);
    assert_eq!((strict.status, header(&strict, "Unsupported")), (420, Some("path")));
    let supporting = Register { supported: OptionTags { path: true, ..OptionTags::default() }, ..with_path.clone() };
    assert_eq!(decided(&[], &supporting).writes[0].path, "<sip:lb;lr>");
    assert_eq!(decided(&[], &mode(PathMode::Ignore)).writes[0].path, "");
    assert_eq!(decided(&[], &mode(PathMode::Lazy)).writes[0].path, "<sip:lb;lr>");
}

#[test]
fn the_path_is_echoed_in_order_to_those_who_support_it() {
    let path = "<sip:lb1;lr>,<sip:lb2;lr>";
    let supporting = OptionTags { path: true, ..OptionTags::default() };
    let echoed = |mode, supported: &OptionTags| {
        let register = Register { path: path.into(), supported: supported.clone(), ..adding(1, &["sip:a@h"]) };
        let register = with_policy(|policy| policy.path = mode, register);
        answer(&[], &register).into_iter().find(|(name, _)| name == "Path").map(|(_, value)| value)
    };
    assert_eq!(echoed(PathMode::Strict, &supporting).as_deref(), Some(path));
    assert_eq!(echoed(PathMode::Lazy, &supporting).as_deref(), Some(path));
    assert_eq!(echoed(PathMode::Lazy, &OptionTags::default()), None);
    assert_eq!(echoed(PathMode::Off, &supporting), None);
}

#[test]
fn a_path_that_is_not_loose_is_refused() {
    for path in ["<sip:lb>", "<sip:lb;lr>,<sip:lb2>", "sip:lb;lr", "<", "<tel:1;lr>"] {
        let register = Register {
            path: path.into(),
            supported: OptionTags { path: true, ..OptionTags::default() },
            ..adding(1, &["sip:a@h"])
        };
        assert_eq!(refused(&[], &register).status, 400, "{path}");
    }
}

#[test]
fn the_received_of_the_path_says_where_a_contact_is() {
    let register = Register {
        path: "<sip:lb;lr;received=sip%3A192.0.2.7%3A1024>".into(),
        supported: OptionTags { path: true, ..OptionTags::default() },
        received: "sip:10.0.0.9:5060".into(),
        ..adding(1, &["sip:a@h"])
    };
    assert_eq!(decided(&[], &register).writes[0].received, "sip:10.0.0.9:5060");
    let used = with_policy(|policy| (policy.path_use_received, policy.nat_flags) = (true, 64), register);
    let binding = &decided(&[], &used).writes[0];
    assert_eq!((binding.received.as_str(), binding.cflags), ("sip:192.0.2.7:1024", 64));
}

fn answer(existing: &[Binding], register: &Register) -> Vec<(String, String)> {
    let decision = decided(existing, register);
    answer_headers(&decision, existing, register, Some(&crate::gruu::GruuKey::new(b"k")), NOW)
}

fn contact_of(headers: &[(String, String)]) -> &str {
    headers.iter().find(|(name, _)| name == "Contact").map_or("", |(_, value)| value)
}

#[test]
fn the_domain_of_to_must_be_the_one_of_the_request_uri() {
    let to = |request_uri: &str| Register { request_uri: request_uri.into(), ..adding(1, &["sip:a@h"]) };
    assert_eq!(refused(&[], &to("sip:other.com")).status, 404);
    for fine in ["sip:EXAMPLE.com", "sip:example.com:5060;transport=tcp", "sip:192.0.2.1", "sip:[2001:db8::1]", ""] {
        assert_eq!(decided(&[], &to(fine)).saved, Saved::Inserted, "{fine}");
    }
}

#[test]
fn an_extension_that_is_required_and_not_supported_is_refused() {
    let requiring = |tags: &str| Register { required: OptionTags::parse([tags], true), ..adding(1, &["sip:a@h"]) };
    let unknown = refused(&[], &requiring("path, pref, sec-agree"));
    assert_eq!((unknown.status, header(&unknown, "Unsupported")), (420, Some("pref, sec-agree")));
    assert_eq!(header(&refused(&[], &requiring("outbound")), "Unsupported"), Some("outbound"));
    assert_eq!(decided(&[], &requiring("path, gruu")).saved, Saved::Inserted);
}

fn outbound(list: Vec<Contact>) -> Register {
    let register = Register {
        supported: OptionTags { outbound: true, path: true, ..OptionTags::default() },
        ..register(1, Contacts::List(list))
    };
    with_policy(|policy| (policy.outbound, policy.flow_timer) = (OutboundMode::Supported, 25), register)
}

#[test]
fn a_flow_is_known_by_instance_and_reg_id_whatever_its_uri_call_id_or_cseq() {
    let rows = decided(&[], &Register { cseq: 5, ..outbound(vec![flow(1, "sip:a@h1")]) }).writes;
    let moved = Register { call_id: "call-2".into(), ..outbound(vec![flow(1, "sip:a@h2:6060")]) };
    let decision = decided(&rows, &moved);
    assert_eq!((decision.saved, contacts(&rows, &decision)), (Saved::Updated, vec!["sip:a@h2:6060"]));
    let late = decided(&rows, &outbound(vec![flow(1, "sip:a@h3")]));
    assert_eq!(late.saved, Saved::Updated);
}

#[test]
fn two_flows_of_one_instance_are_two_bindings_besides_others() {
    let rows = decided(&[], &outbound(vec![flow(1, "sip:a@h")])).writes;
    let rows = stored(&rows, &decided(&rows, &outbound(vec![flow(2, "sip:a@h")])));
    let rows = stored(&rows, &decided(&rows, &adding(1, &["sip:a@h"])));
    assert_eq!(rows.len(), 3);
    assert_eq!(rows.iter().map(|row| row.reg_id).collect::<Vec<_>>(), [1, 2, 0]);
}

#[test]
fn the_answer_to_a_flow_requires_outbound_and_names_the_flow_timer() {
    let headers = answer(&[], &outbound(vec![flow(1, "sip:a@h")]));
    for (name, value) in [("Require", "outbound"), ("Supported", "outbound"), ("Flow-Timer", "25")] {
        assert!(headers.contains(&(name.to_owned(), value.to_owned())), "{headers:?}");
    }
    assert!(contact_of(&headers).contains(";+sip.instance=\"<urn:uuid:1>\";reg-id=1"), "{headers:?}");
    let plain = answer(&[], &outbound(vec![contact("sip:a@h")]));
    assert!(plain.iter().all(|(name, _)| name != "Require"), "{plain:?}");
}

#[test]
fn an_edge_that_does_not_keep_flows_is_refused_with_439() {
    let through = |path: &str| Register { first_hop: false, path: path.into(), ..outbound(vec![flow(1, "sip:a@h")]) };
    assert_eq!(refused(&[], &through("<sip:edge;lr>")).status, 439);
    assert_eq!(refused(&[], &through("")).status, 439);
    assert_eq!(decided(&[], &through("<sip:edge;lr;ob>")).saved, Saved::Inserted);
}

#[test]
fn a_reg_id_counts_only_with_an_instance_and_outbound() {
    let key = |register: &Register| decided(&[], register).writes[0].key.0.clone();
    let no_instance = Contact { reg_id: Some(1), ..contact("sip:a@h") };
    assert_eq!(key(&outbound(vec![no_instance])), "sip:a@h");
    assert_eq!(key(&register(1, Contacts::List(vec![flow(1, "sip:a@h")]))), "instance:<urn:uuid:1>");
    let always =
        with_policy(|policy| policy.regid_always = true, register(1, Contacts::List(vec![flow(1, "sip:a@h")])));
    assert_eq!(key(&always), "flow:1:<urn:uuid:1>");
    assert_eq!(refused(&[], &outbound(vec![flow(0, "sip:a@h")])).status, 400);
    assert_eq!(refused(&[], &outbound(vec![flow(1, "sip:a@h"), flow(2, "sip:b@h")])).status, 400);
}

#[test]
fn outbound_that_is_required_is_answered_421_to_those_who_lack_it() {
    let lacking = with_policy(|policy| policy.outbound = OutboundMode::Required, adding(1, &["sip:a@h"]));
    let refused = refused(&[], &lacking);
    assert_eq!((refused.status, header(&refused, "Require")), (421, Some("outbound")));
}

#[test]
fn gruus_are_given_to_instances_of_those_who_support_them() {
    let supporting = Register {
        supported: OptionTags { gruu: true, ..OptionTags::default() },
        ..register(1, Contacts::List(vec![flow(1, "sip:a@h"), contact("sip:b@h")]))
    };
    let headers = answer(&[], &supporting);
    let given = contact_of(&headers);
    assert_eq!(given.matches("pub-gruu=\"sip:alice@example.com;gr=urn:uuid:1\"").count(), 1, "{given}");
    assert_eq!(given.matches("temp-gruu=\"sip:tgruu.").count(), 1, "{given}");
    let off = with_policy(|policy| policy.gruu = false, supporting.clone());
    assert!(!contact_of(&answer(&[], &off)).contains("gruu"));
    assert!(!contact_of(&answer(&[], &Register { supported: OptionTags::default(), ..supporting })).contains("gruu"));
}

#[test]
fn a_refresh_keeps_temporary_gruus_and_a_new_call_id_ends_them() {
    let instance = |cseq, call_id: &str| Register {
        call_id: call_id.into(),
        ..register(cseq, Contacts::List(vec![Contact { instance: "<urn:1>".into(), ..contact("sip:a@h") }]))
    };
    let rows = decided(&[], &instance(1, "one")).writes;
    let later = Timestamp(NOW.0 + 60_000);
    let refreshed = decide(&rows, &instance(2, "one"), &node(), later).expect("accepted").writes;
    assert_eq!((refreshed[0].bound_at, refreshed[0].registered_at), (NOW, later));
    let anew = decide(&refreshed, &instance(3, "two"), &node(), later).expect("accepted").writes;
    assert_eq!(anew[0].bound_at, later);
    let lapsed = NOW.plus_seconds(9000);
    assert_eq!(decide(&rows, &instance(9, "one"), &node(), lapsed).expect("accepted").writes[0].bound_at, lapsed);
}

#[test]
fn a_gruu_is_not_registered_as_its_own_contact() {
    for own in ["sip:alice@example.com;gr=urn:uuid:1", "sip:tgruu.abc@EXAMPLE.com;gr"] {
        assert_eq!(refused(&[], &adding(1, &[own])).status, 403, "{own}");
    }
    assert_eq!(decided(&[], &adding(1, &["sip:bob@example.com;gr=urn:uuid:1"])).saved, Saved::Inserted);
}

#[test]
fn uris_that_are_equal_by_rfc_3261_are_one_binding_and_others_are_not() {
    let rows = registered(&["sip:alice@192.0.2.1;line=1"]);
    let same = decided(&rows, &adding(2, &["sip:%61lice@192.0.2.1"]));
    assert_eq!((same.saved, same.writes[0].key.clone()), (Saved::Updated, rows[0].key.clone()));
    let other = decided(&rows, &adding(2, &["sip:alice@192.0.2.1;line=2"]));
    assert_eq!(other.saved, Saved::Inserted);
    let twice = decided(&[], &adding(1, &["sip:a@h;x=1", "sip:a@H"]));
    assert_eq!(contacts(&[], &twice), ["sip:a@H"]);
}

#[test]
fn a_contact_that_is_no_text_is_refused() {
    for uri in ["", "sip:a\u{0}@h", "sip:\u{fffd}@h", "sip:a@h\r\nX: y"] {
        assert_eq!(refused(&[], &adding(1, &[uri])).status, 400, "{uri:?}");
    }
}

#[test]
fn a_contact_that_says_it_is_sip_must_be() {
    for broken in ["sip:", "sip:@h", "SIPS:a@", "sip:a@[::1", "sip:a@h:99999"] {
        assert_eq!(refused(&[], &adding(1, &[broken])).status, 400, "{broken}");
    }
    for other in ["tel:+1555", "mailto:a@h", "sip:a@[2001:db8::1]:5060"] {
        assert_eq!(decided(&[], &adding(1, &[other])).saved, Saved::Inserted, "{other}");
    }
}

#[test]
fn what_would_end_a_header_of_the_answer_is_refused() {
    let received = Contact { received: "sip:h\r\nX: y".into(), ..contact("sip:a@h") };
    assert_eq!(refused(&[], &register(1, Contacts::List(vec![received]))).status, 400);
    let supported = OptionTags { path: true, ..OptionTags::default() };
    let path = Register { path: "<sip:lb;lr>\r\nX: y".into(), supported, ..adding(1, &["sip:a@h"]) };
    assert_eq!(refused(&[], &path).status, 400);
}

#[test]
fn a_contact_on_a_connection_names_the_node_that_holds_it() {
    let over = |socket: &str, path: &str| {
        let register = Register {
            socket: socket.into(),
            path: path.into(),
            supported: OptionTags { path: true, ..OptionTags::default() },
            ..adding(1, &["sip:a@h"])
        };
        let binding = decided(&[], &register).writes.remove(0);
        (binding.edge, binding.received)
    };
    let (node, source) = ("sip:10.0.0.1:5060", "sip:192.0.2.1:40000;transport=tcp");
    assert_eq!(over("udp:127.0.0.1:5060", ""), (String::new(), String::new()));
    assert_eq!(over("tcp:127.0.0.1:5060", ""), (node.into(), String::new()));
    assert_eq!(over("wss:127.0.0.1:443", ""), (node.into(), source.into()));
    assert_eq!(over("tls:127.0.0.1:5061", "<sip:lb;lr>"), (String::new(), String::new()));
}

#[test]
fn a_lapsed_binding_is_new_again() {
    let rows = registered(&["sip:a@h"]);
    let later = NOW.plus_seconds(4000);
    let decision = decide(&rows, &adding(2, &["sip:a@h"]), &node(), later).expect("accepted");
    assert_eq!(decision.saved, Saved::Inserted);
}

#[test]
fn a_write_knows_the_row_it_supersedes() {
    let rows = vec![Binding { written_at: 77, ..registered(&["sip:a@h"]).remove(0) }];
    assert_eq!(decided(&rows, &adding(2, &["sip:a@h"])).writes[0].written_at, 77);
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
        let decision = decided(&rows, &register(cseq, Contacts::List(list)));
        for number in present.iter().filter(|number| touched.iter().all(|(other, _)| other != *number)) {
            let expected = uri(number);
            prop_assert!(decision.current(&rows, NOW).iter().any(|binding| binding.contact == expected));
        }
        prop_assert!(decision.current(&rows, NOW).iter().all(|binding| is_current(binding, NOW)));
    }
}
