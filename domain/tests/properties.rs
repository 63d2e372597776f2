//! What the parsers and rules promise, for many inputs.

mod promises;

use domain::digest::{Algorithm, Credentials, Ha1, Qop, verify};
use domain::gruu::{self, GruuKey};
use domain::lookup::{Target, path_after_first, path_uris};
use domain::register::{Contact, Contacts, Node, OptionTags, OutboundMode, PathMode, Policy, Register, parse_q};
use domain::uri::{SipUri, unescape};
use domain::{Aor, Binding, BindingKey, BindingState, Timestamp, number};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A text made of what parsers look for, with anything in between.
fn tricky() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        select(vec![
            "sip:",
            "sips:",
            "tel:",
            "alice",
            "h",
            "@",
            ":",
            ";",
            "?",
            "&",
            "=",
            "<",
            ">",
            "\"",
            ",",
            " ",
            "%",
            "%41",
            "%00",
            "%C2%85",
            "%ff",
            "[::1]",
            "[",
            "]",
            "5060",
            "99999",
            "lr",
            "ob",
            "gr",
            "transport=tcp",
            "q=0.5",
            "\r\n",
            "\0",
            "\\\"",
            "*",
            "\u{85}",
            "\u{fffd}",
            "é",
            "0x",
            ".",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,3}",
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn aor() -> impl Strategy<Value = Aor> {
    let parts = ("\\PC{1,12}", "[a-z]{1,8}(\\.[a-z]{1,3})?");
    parts.prop_filter_map("an AoR", |(username, domain)| Aor::new(&username, &domain).ok())
}

/// Few enough that REGISTER and bindings often mean the same.
fn contact_uri() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "sip:[ab]@(h|H|i)(:5060)?(;x=[12])?(;transport=tcp)?",
        1 => tricky(),
    ]
}

fn instance() -> impl Strategy<Value = String> {
    select(vec!["", "", "<urn:1>", "<urn:2>", "\u{fffd}"]).prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(String::new()),
        2 => "<sip:lb[12];lr(;ob)?(;received=sip%3Ax)?>(, ?<sip:lb3;lr>)?",
        1 => tricky(),
        1 => tricky().prop_map(|after| format!("<sip:lb;lr>{after}")),
    ]
}

prop_compose! {
    fn contact()(
        uri in contact_uri(),
        q in option::of(0i16..=1000),
        expires in option::of(prop_oneof![Just(0), 0u32..10_000, any::<u32>()]),
        methods in any::<u32>(),
        instance in instance(),
        reg_id in option::of(0u32..3),
        received in prop_oneof![4 => select(vec!["", "sip:192.0.2.1:1024"]).prop_map(str::to_owned), 1 => tricky()],
    ) -> Contact {
        Contact { uri, q, expires, methods, instance, reg_id, received }
    }
}

prop_compose! {
    fn policy()(
        (min_expires, max_expires, default_expires) in (select(vec![0, 60]), select(vec![0, 3600]), select(vec![1, 3600, u32::MAX])),
        (expires_cut, max_contacts, cseq_delay) in (0u8..=100, 0u32..4, select(vec![0, 20])),
        min_expires_reject in any::<bool>(),
        path in select(vec![PathMode::Ignore, PathMode::Off, PathMode::Lazy, PathMode::Strict]),
        outbound in select(vec![OutboundMode::Off, OutboundMode::Supported, OutboundMode::Required]),
        (path_use_received, regid_always, gruu) in any::<(bool, bool, bool)>(),
        default_q in -1i16..=1000,
    ) -> Policy {
        Policy {
            default_expires, expires_cut, min_expires, min_expires_reject, max_expires, max_contacts, default_q, path,
            path_use_received, cseq_delay, outbound, regid_always, gruu,
            retry_after: 30,
            contact_max_size: 64,
            nat_flags: 64,
            flow_timer: 25,
            received_param: "received".to_owned(),
        }
    }
}

fn tags() -> impl Strategy<Value = OptionTags> {
    let tag =
        prop_oneof![3 => select(vec!["path", "outbound", "gruu", "timer"]).prop_map(str::to_owned), 1 => tricky()];
    vec(tag, 0..4).prop_map(|tags| OptionTags::parse(tags.iter().map(String::as_str), true))
}

fn contacts() -> impl Strategy<Value = Contacts> {
    prop_oneof![
        1 => Just(Contacts::Query),
        1 => Just(Contacts::Star),
        6 => vec(contact(), 0..5).prop_map(Contacts::List),
    ]
}

prop_compose! {
    fn register()(
        contacts in contacts(),
        (call_id, cseq) in (select(vec!["one", "two"]), 0u32..4),
        expires in option::of(prop_oneof![Just(0), any::<u32>()]),
        path in path(),
        (supported, required) in (tags(), prop_oneof![4 => Just(OptionTags::default()), 1 => tags()]),
        socket in select(vec!["udp:127.0.0.1:5060", "tcp:127.0.0.1:5060", "wss:127.0.0.1:443", ""]),
        (first_hop, replace) in any::<(bool, bool)>(),
        policy in policy(),
    ) -> Register {
        Register {
            contacts, cseq, expires, path, supported, required, first_hop, replace, policy,
            aor: Aor::new("a", "example.com").expect("an AoR"),
            request_uri: "sip:example.com".to_owned(),
            call_id: call_id.to_owned(),
            source: "sip:192.0.2.1:40000".to_owned(),
            received: String::new(),
            user_agent: String::new(),
            socket: socket.to_owned(),
            cflags: 0,
            attributes: Vec::new(),
        }
    }
}

prop_compose! {
    fn binding()(
        contact in contact_uri().prop_map(|uri| uri.replace(char::is_control, "")),
        (instance, reg_id) in (instance(), 0u32..3),
        (call_id, cseq) in (select(vec!["one", "two"]), 0u32..4),
        expires_at in prop_oneof![any::<i64>(), NOW.0 - 5_000..NOW.0 + 5_000_000],
        registered_at in prop_oneof![any::<i64>(), NOW.0 - 100_000..NOW.0 + 1000],
        live in any::<bool>(),
    ) -> Binding {
        Binding {
            key: BindingKey::for_contact(&instance, reg_id, &contact),
            expires_at: Timestamp(expires_at),
            registered_at: Timestamp(registered_at),
            state: if live { BindingState::Live } else { BindingState::Removed },
            call_id: call_id.to_owned(),
            instance, reg_id, cseq,
            ..Binding::of_uri(contact)
        }
    }
}

/// Bindings as they are stored: one of each key, and no two that are equal by their URIs.
fn bindings() -> impl Strategy<Value = Vec<Binding>> {
    vec(binding(), 0..6).prop_map(|mut all| {
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all.dedup_by(|a, b| a.key == b.key);
        all
    })
}

/// Digest credentials, of which any byte may be another.
fn credentials() -> impl Strategy<Value = Vec<u8>> {
    let value = || prop_oneof![tricky(), Just("\\\"\\\\".to_owned()), "[a-z0-9]{1,8}"];
    let names = ["username", "realm", "nonce", "uri", "response", "cnonce", "algorithm", "unknown"];
    let quoted = move |values: Vec<String>| {
        let field = |(name, value): (&str, &String)| format!("{name}=\"{value}\"");
        let fields: Vec<String> = names.into_iter().zip(&values).map(field).collect();
        format!("Digest {}, qop=auth, nc=00000001", fields.join(", ")).into_bytes()
    };
    let read = vec("[a-z0-9]{1,8}", 6).prop_map(quoted);
    let others = vec(value(), 8).prop_map(quoted);
    let damage = |(mut body, at, byte): (Vec<u8>, prop::sample::Index, Option<u8>)| {
        if let Some(byte) = byte {
            let at = at.index(body.len());
            body[at] = byte;
        }
        body
    };
    (prop_oneof![read, others], any::<prop::sample::Index>(), option::of(any::<u8>())).prop_map(damage)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_text_is_a_uri_or_refused(text in prop_oneof![tricky(), ".*"]) {
        promises::sip_uri(&text);
        promises::sip_uri(&format!("sip:{text}"));
    }

    #[test]
    fn any_text_is_a_path_or_refused(text in prop_oneof![tricky(), path()]) {
        promises::path(&text);
    }

    #[test]
    fn the_hops_of_a_path_come_in_order(hops in vec("sip:[a-z]{1,5};lr(;received=%3A)?", 1..6), gap in " ?") {
        let path = hops.iter().map(|hop| format!("<{hop}>")).collect::<Vec<_>>().join(&format!(",{gap}"));
        prop_assert_eq!(path_uris(&path).collect::<Vec<_>>(), hops.iter().map(String::as_str).collect::<Vec<_>>());
        let rest: Vec<&str> = path_uris(path_after_first(&path)).collect();
        prop_assert_eq!(rest, hops[1..].iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn any_register_over_any_bindings_keeps_the_promises(
        existing in bindings(), register in register(), longest_expiry in select(vec![0, 86_400]),
    ) {
        let node = Node { uri: "sip:10.0.0.1:5060".to_owned(), longest_expiry, ..Node::default() };
        promises::register_decision(&existing, &register, &node, NOW);
    }

    #[test]
    fn every_q_of_three_decimals_is_read(q in 0i16..=1000) {
        prop_assert_eq!(parse_q(&format!("{}.{:03}", q / 1000, q % 1000)), Some(q));
    }

    #[test]
    fn any_text_is_a_q_between_0_and_1_or_none(text in prop_oneof![tricky(), "[-+0-9.]{0,6}"]) {
        prop_assert!(parse_q(&text).is_none_or(|q| (0..=1000).contains(&q)));
    }

    #[test]
    fn any_text_is_a_number_or_refused(text in prop_oneof![tricky(), "(0x)?[0-9a-f]{0,12}"], value in any::<u32>()) {
        prop_assert!(number::parse(&text).is_ok() || !text.is_empty());
        prop_assert_eq!(number::parse(&value.to_string()), Ok(value));
        prop_assert_eq!(number::parse(&format!("{value:#x}")), Ok(value));
    }

    #[test]
    fn option_tags_that_are_kept_are_read_the_same_again(bodies in vec(prop_oneof![tricky(), "[a-z, ]{0,20}"], 0..4)) {
        let tags = OptionTags::parse(bodies.iter().map(String::as_str), true);
        let again = OptionTags::parse([tags.others.as_str()], true);
        prop_assert_eq!(&again, &OptionTags { others: tags.others.clone(), ..OptionTags::default() });
    }

    #[test]
    fn a_public_gruu_names_its_aor_and_instance_and_fits_into_quotes(aor in aor(), instance in "\\PC{1,30}") {
        prop_assume!(instance.trim_matches(['<', '>']) == instance);
        let gruu = gruu::public(&aor, &format!("<{instance}>"));
        prop_assert!(!gruu.contains(['"', '<', '>', '\\', '\r', '\n']), "{}", gruu);
        prop_assert_eq!(Target::of_uri(&gruu), Ok(Target::Instance(aor, instance)));
    }

    #[test]
    fn a_temporary_gruu_opens_to_its_aor_and_nothing_else_opens(aor in aor(), binding in binding(), now in any::<u32>(), text in tricky()) {
        let key = GruuKey::new(b"shared");
        let gruu = key.temporary(&aor, &binding, Timestamp(now.into()));
        let Ok(Target::Temporary(user, domain)) = Target::of_uri(&gruu) else { panic!("{gruu}") };
        let opened = key.open(&user, &domain).expect("ours");
        prop_assert!(opened.is(&binding));
        prop_assert_eq!(opened.aor, aor);
        prop_assert_eq!(key.open(&text, &domain), None);
        prop_assert_eq!(key.open(&format!("tgruu.{text}"), &domain), None);
    }

    #[test]
    fn escapes_are_undone_and_any_text_can_be_unescaped(text in tricky()) {
        let escaped: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        prop_assert_eq!(unescape(&escaped), text.clone());
        let _ = unescape(&text);
        if let Ok(uri) = SipUri::parse(&format!("sip:{escaped}@h")) {
            prop_assert_eq!(unescape(&uri.user.unwrap_or_default()), text);
        }
    }

    #[test]
    fn any_bytes_are_credentials_that_are_read_the_same_again_or_refused(body in prop_oneof![credentials(), tricky().prop_map(String::into_bytes)]) {
        promises::authorization(&body);
    }

    #[test]
    fn no_credentials_are_right_by_chance(texts in vec(tricky(), 8), algorithm in tricky(), qop in tricky(), hex in tricky()) {
        let read = Algorithm::parse(&algorithm).unwrap_or(Algorithm::Sha256);
        let [username, realm, nonce, uri, response, nc, cnonce, method] = texts.try_into().expect("eight");
        let ha1 = Ha1::compute(read, &username, &realm, "secret");
        let credentials = Credentials { username, realm, nonce, uri, response, nc, cnonce, algorithm: read, qop: Qop::parse(&qop) };
        prop_assert!(!verify(&credentials, &method, &ha1));
        prop_assert!(!verify(&credentials, &method, &Ha1::dummy(read)));
        prop_assert!(Ha1::from_hex(read, &hex).is_err());
    }
}
