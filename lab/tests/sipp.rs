//! The scenarios of `tests/sipp/` against stock Kamailio with everything in memory.

use std::time::Duration;

use lab::kamailio::{Config, Kamailio};
use lab::sipp::{Report, Sipp, Transport};

/// Stock registrar and auth: every password is "secret"; `nodb` answers as if there were no database, `late` as
/// if its 200 had overtaken its 180.
const SCRIPT: &str = r#"#!KAMAILIO
auto_aliases=no
loadmodule "kex.so"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "rr.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"
loadmodule "siputils.so"
loadmodule "textops.so"
loadmodule "jsonrpcs.so"
loadmodule "cfgutils.so"
modparam("usrloc", "use_domain", 1)
request_route {
    if (is_method("OPTIONS")) { sl_send_reply("200", "OK"); exit; }
    if (is_method("CANCEL|ACK") && !has_totag()) { if (t_check_trans()) t_relay(); exit; }
    if (is_method("BYE") && $rU == "late") { sl_send_reply("200", "OK"); exit; }
    if (has_totag()) { if (loose_route()) t_relay(); else if (is_method("ACK") && t_check_trans()) t_relay(); exit; }
    if (!pv_auth_check("$fd", "secret", "0", "0")) { auth_challenge("$fd", "1"); exit; }
    if ($fU == "nodb") { append_to_reply("Retry-After: 7\r\n"); sl_send_reply("503", "Service Unavailable"); exit; }
    if (is_method("REGISTER")) { save("location"); exit; }
    if ($rU == "nobody") { sl_send_reply("404", "Not Found"); exit; }
    if ($rU == "late") {
        append_to_reply("Contact: <sip:late@$Ri:$Rp>\r\n");
        sl_send_reply("200", "OK");
        usleep("100000");
        sl_send_reply("180", "Ringing");
        exit;
    }
    record_route();
    if (!lookup("location")) { sl_send_reply("480", "Temporarily Unavailable"); exit; }
    t_relay();
}
"#;

const ALICE: [(&str, &str, &str); 1] = [("alice", "example.com", "secret")];
const BOB: [(&str, &str, &str); 1] = [("bob", "example.com", "secret")];
const NODB: [(&str, &str, &str); 1] = [("nodb", "example.com", "secret")];

fn kamailio() -> Kamailio {
    Kamailio::start(Config::new(SCRIPT)).expect("a start of Kamailio")
}

fn run(kamailio: &Kamailio, sipp: Sipp) -> Report {
    sipp.target(kamailio.address()).run_successfully().unwrap_or_else(|error| panic!("{error:#}\n{}", kamailio.log()))
}

#[test]
fn registrations() {
    let kamailio = kamailio();
    let phone = |scenario: &str| Sipp::new(scenario).users(ALICE).key("contact", "127.0.0.1:9");
    run(&kamailio, phone("register.xml").key("contact_params", ";q=0.5"));
    run(&kamailio, phone("register_query.xml"));
    run(&kamailio, phone("unregister.xml"));
    run(&kamailio, phone("register.xml").transport(Transport::Tcp));
    run(&kamailio, phone("unregister_all.xml"));
    phone("register_query.xml").target(kamailio.address()).run_successfully().expect_err("nothing is stored any more");
    run(&kamailio, Sipp::new("register_wrong_password.xml").users([("alice", "example.com", "wrong")]));
    run(&kamailio, Sipp::new("register_expect_503.xml").users(NODB));
    run(&kamailio, Sipp::new("options.xml"));
}

#[test]
fn calls() {
    let kamailio = kamailio();
    let bob = Sipp::new("uas_answer.xml").calls(3).spawn().expect("a phone that listens");
    run(&kamailio, Sipp::new("register.xml").users(BOB).key("contact", bob.local()));
    run(&kamailio, Sipp::new("uac_invite_auth.xml").users(ALICE).key("callee", "bob@example.com").calls(3));
    bob.wait().expect("an end").check().expect("three calls");

    let bob = Sipp::new("uas_ring.xml").spawn().expect("a phone that listens");
    run(
        &kamailio,
        Sipp::new("register.xml").users(BOB).key("contact", bob.local()).key("contact_params", ";expires=100"),
    );
    run(&kamailio, Sipp::new("unregister_all.xml").users(BOB));
    run(&kamailio, Sipp::new("register.xml").users(BOB).key("contact", bob.local()));
    run(&kamailio, Sipp::new("uac_cancel.xml").users(ALICE).key("callee", "bob@example.com"));
    bob.wait().expect("an end").check().expect("a cancelled call");
}

#[test]
fn a_call_whose_200_overtakes_its_180_is_a_call() {
    let caller = Sipp::new("uac_invite_auth.xml").users(ALICE).key("callee", "late@example.com");
    let report = run(&kamailio(), caller.pause(Duration::from_millis(300)));
    let position = |line: &str| report.messages.find(line).expect(line);
    assert!(position("SIP/2.0 200 OK") < position("SIP/2.0 180 Ringing"), "{}", report.messages);
}

#[test]
fn refused_calls() {
    let kamailio = kamailio();
    let call = |scenario: &str, callee: &str| Sipp::new(scenario).users(ALICE).key("callee", callee);
    run(&kamailio, call("invite_expect_404.xml", "nobody@example.com"));
    run(&kamailio, call("invite_expect_480.xml", "carol@example.com"));
    run(&kamailio, call("invite_expect_503.xml", "carol@example.com").users(NODB));
}

#[test]
fn many_calls_are_counted_and_timed() {
    let kamailio = kamailio();
    let users = (0..100).map(|n| (format!("u{n}"), "example.com".to_owned(), "secret".to_owned()));
    let report = run(&kamailio, Sipp::new("register.xml").users(users).calls(500).rate(500.0));
    assert_eq!((report.successful, report.failed), (500, 0));
    assert_eq!(report.response_times.count(), 500);
    assert!(report.response_times.max_ms() < 5_000.0, "{:?}", report.response_times);
    assert!(report.messages.is_empty(), "not traced");
}

#[test]
fn a_failure_shows_the_messages() {
    let kamailio = kamailio();
    let error = Sipp::new("invite_expect_404.xml")
        .users(ALICE)
        .key("callee", "carol@example.com")
        .target(kamailio.address())
        .run_successfully()
        .expect_err("480 is not 404");
    let text = format!("{error:#}");
    assert!(text.contains("480 Temporarily Unavailable"), "{text}");
}
