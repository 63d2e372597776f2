//! The functions for location and the registrar's parameters, in both forms, through stock Kamailio and a real Cassandra.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::sip::{Agent, headers, register, response, status};
use common::{DOMAIN, Site, statistic};
use lab::kamailio::Kamailio;
use lab::wait::until;
use serde_json::json;

const SCRIPT: &str = "tests/cfg/location.cfg";
const BOTH: [&str; 2] = ["plain", "async"];

fn main() -> ExitCode {
    common::suite(
        &[],
        &[
            ("lookup_sets_what_the_stock_lookup_sets", sets_what_stock_sets),
            ("lookup_to_dset_leaves_the_request_uri", to_dset),
            ("lookup_branches_looks_up_every_clean_branch", branches),
            ("append_branches_0_uses_the_first_binding_only", first_binding_only),
            ("a_method_that_no_binding_takes_is_405", methods),
            ("registered_matches_what_it_is_told_to", registered),
            ("unregister_removes_all_bindings_or_the_one_named", unregister),
            ("fetched_contacts_are_in_their_variable_until_freed", fetched),
            ("lookup_xavp_shows_all_bindings", shown_in_xavps),
            ("attributes_and_the_place_seen_come_back_with_the_binding", attributes),
            ("an_answer_kept_is_sent_by_reg_send_reply", kept_answer),
            ("an_answer_prepared_is_the_scripts", prepared_answer),
            ("the_script_sets_rules_for_one_register", rules_for_one_request),
            ("a_parameter_changes_at_run_time", run_time),
            ("the_socket_is_named_in_a_header_and_used_again", socket),
            ("the_case_of_user_names_counts_unless_told_otherwise", letter_case),
            ("lookups_go_on_from_memory_while_cassandra_is_frozen", stale),
            ("bad_input_is_answered_400_and_stores_nothing", bad_input),
        ],
    )
}

/// A node with these settings on top of the script's, and a phone.
fn start(site: &Site, settings: &str) -> Result<(Kamailio, Agent)> {
    site.with_agent(SCRIPT, settings)
}

/// Registers these contacts anew, one REGISTER each.
fn contacts(agent: &mut Agent, user: &str, contacts: &[&str]) -> Result<()> {
    register(agent, user, &["Contact: *", "Expires: 0"])?;
    for contact in contacts {
        register(agent, user, &[&format!("Contact: {contact}"), "Expires: 600"])?;
    }
    Ok(())
}

/// Has a function called for a request to `user`, and returns what the script shows.
fn call(agent: &mut Agent, function: &str, form: &str, user: &str, lines: &[&str]) -> Result<String> {
    let (function, form) = (format!("X-Do: {function}"), format!("X-Form: {form}"));
    let mut all = vec![function.as_str(), form.as_str()];
    all.extend(lines);
    agent.ask(&agent.request("MESSAGE", &format!("sip:{user}@{DOMAIN}"), "tester", user, &all))
}

/// The one header of this name.
fn shown<'a>(answer: &'a str, name: &str) -> &'a str {
    headers(answer, name).first().copied().unwrap_or_default()
}

#[track_caller]
fn expect(answer: &str, pairs: &[(&str, &str)]) -> Result<()> {
    for (name, value) in pairs {
        ensure!(shown(answer, name) == *value, "{name} is not '{value}':\n{answer}");
    }
    Ok(())
}

fn sets_what_stock_sets(site: &Site) -> Result<()> {
    let (kamailio, mut agent) =
        start(site, "modparam(\"cassandra\", \"use_path\", 1)\nmodparam(\"cassandra\", \"path_mode\", 0)")?;
    register(&mut agent, "alice", &["Contact: *", "Expires: 0"])?;
    for contact in ["Contact: <sip:alice@127.9.9.1:5071>;q=0.2", "Contact: <sip:alice@127.9.9.2:5072;ob>;q=0.9"] {
        register(&mut agent, "alice", &[contact, "Expires: 600", "Path: <sip:127.9.9.9:5099;lr>, <sip:127.9.9.8;lr>"])?;
    }
    for form in BOTH {
        let answer = call(&mut agent, "lookup", form, "alice", &[])?;
        let socket = format!("udp:{}", kamailio.address());
        expect(
            &answer,
            &[
                ("X-Rc", "1"),
                ("X-Ru", "sip:alice@127.9.9.2:5072;ob"),
                ("X-Du", "sip:127.9.9.9:5099;lr"),
                ("X-Socket", &socket),
                ("X-Branch", "sip:alice@127.9.9.1:5071 200 sip:127.9.9.9:5099;lr"),
            ],
        )?;
        let record = shown(&answer, "X-Rcd");
        ensure!(
            record.contains(" sip:alice@127.9.9.2:5072;ob ")
                && record.ends_with("<sip:127.9.9.9:5099;lr>, <sip:127.9.9.8;lr>"),
            "{answer}"
        );
        expect(&call(&mut agent, "lookup", form, "nobody", &[])?, &[("X-Rc", "-1"), ("X-Status", "404")])?;
        let wrong = call(&mut agent, "lookup", form, "alice", &["X-Uri: tel:+1555"])?;
        match form {
            "plain" => expect(&wrong, &[("X-Rc", "-3")])?,
            _ => ensure!(wrong.starts_with("SIP/2.0 500 Not suspended: -3"), "{wrong}"),
        }
    }
    Ok(())
}

fn to_dset(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    contacts(&mut agent, "bob", &["<sip:bob@127.9.9.1>;q=0.3", "<sip:bob@127.9.9.2>;q=0.7"])?;
    for form in BOTH {
        let answer = call(&mut agent, "lookup_to_dset", form, "bob", &[])?;
        expect(&answer, &[("X-Rc", "1"), ("X-Ru", &format!("sip:bob@{DOMAIN}"))])?;
        let branches: Vec<&str> = headers(&answer, "X-Branch");
        ensure!(branches.len() == 2 && branches[0].starts_with("sip:bob@127.9.9.2 700"), "{answer}");
        expect(&call(&mut agent, "lookup_to_dset", form, "nobody", &[])?, &[("X-Rc", "-1"), ("X-Status", "404")])?;
    }
    Ok(())
}

fn branches(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    contacts(&mut agent, "carol", &["<sip:carol@127.9.9.1>"])?;
    contacts(&mut agent, "dave", &["<sip:dave@127.9.9.2>;q=0.9", "<sip:dave@127.9.9.3>;q=0.1"])?;
    let also = format!("X-Branch: dave@{DOMAIN}");
    for form in BOTH {
        let answer = call(&mut agent, "lookup_branches", form, "carol", &[&also])?;
        expect(&answer, &[("X-Rc", "1"), ("X-Ru", "sip:carol@127.9.9.1")])?;
        let uris: Vec<&str> =
            headers(&answer, "X-Branch").into_iter().filter_map(|branch| branch.split(' ').next()).collect();
        ensure!(uris == ["sip:dave@127.9.9.2", "sip:dave@127.9.9.3", "sip:nobody@elsewhere.example"], "{answer}");
        let only_branch = call(&mut agent, "lookup_branches", form, "nobody", &[&also])?;
        expect(&only_branch, &[("X-Rc", "1"), ("X-Ru", &format!("sip:nobody@{DOMAIN}"))])?;
    }
    Ok(())
}

fn first_binding_only(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "modparam(\"cassandra\", \"append_branches\", 0)")?;
    contacts(&mut agent, "bob", &["<sip:bob@127.9.9.1>;q=0.3", "<sip:bob@127.9.9.2>;q=0.7"])?;
    let answer = call(&mut agent, "lookup", "plain", "bob", &[])?;
    ensure!(shown(&answer, "X-Ru") == "sip:bob@127.9.9.2" && headers(&answer, "X-Branch").is_empty(), "{answer}");
    Ok(())
}

fn methods(site: &Site) -> Result<()> {
    let contact = ["<sip:erin@127.9.9.1>;methods=\"INVITE,BYE\""];
    let (_kamailio, mut agent) = start(site, "modparam(\"cassandra\", \"method_filtering\", 1)")?;
    contacts(&mut agent, "erin", &contact)?;
    for form in BOTH {
        expect(&call(&mut agent, "lookup", form, "erin", &[])?, &[("X-Rc", "-2"), ("X-Status", "405")])?;
    }
    register(&mut agent, "erin", &["Contact: *", "Expires: 0"])?;
    register(&mut agent, "erin", &["Contact: <sip:erin@127.9.9.1>", "Expires: 60", "Allow: INVITE, ACK"])?;
    expect(&call(&mut agent, "lookup", "plain", "erin", &[])?, &[("X-Rc", "-2")])?;
    register(&mut agent, "erin", &["Contact: <sip:erin@127.9.9.1>", "Expires: 60", "Allow: MESSAGE"])?;
    expect(&call(&mut agent, "lookup", "plain", "erin", &[])?, &[("X-Rc", "1")])?;
    let (_kamailio, mut agent) = start(site, "")?;
    contacts(&mut agent, "erin", &contact)?;
    expect(&call(&mut agent, "lookup", "plain", "erin", &[])?, &[("X-Rc", "1")])
}

fn registered(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    register(&mut agent, "frank", &["Contact: *", "Expires: 0"])?;
    let lines = ["Contact: <sip:frank@127.9.9.1>", "Expires: 600", "X-Received: sip:127.9.9.7:1024", "X-Account: acme"];
    let request = agent.register("frank", &lines);
    let call_id = headers(&request, "Call-ID")[0].to_owned();
    ensure!(status(&agent.ask(&request)?) == Some(200));
    for form in BOTH {
        expect(&call(&mut agent, "registered", form, "nobody", &[])?, &[("X-Rc", "-1")])?;
        let answer = call(&mut agent, "registered", form, "frank", &[])?;
        expect(&answer, &[("X-Rc", "1"), ("X-Ru", &format!("sip:frank@{DOMAIN}"))])?;
        ensure!(shown(&answer, "X-Rcd").contains("sip:frank@127.9.9.1"), "{answer}");
        for (option, fits) in [("1", call_id.as_str()), ("2", "sip:127.9.9.7:1024"), ("4", "sip:frank@127.9.9.1")] {
            let option = format!("X-Option: {option}");
            let fitting = call(&mut agent, "registered", form, "frank", &[&option, &format!("X-Match: {fits}")])?;
            expect(&fitting, &[("X-Rc", "1")])?;
            let other = call(&mut agent, "registered", form, "frank", &[&option, "X-Match: sip:other@127.9.9.9"])?;
            expect(&other, &[("X-Rc", "-1")])?;
        }
        let restored = call(&mut agent, "registered", form, "frank", &["X-Action: 3"])?;
        ensure!(shown(&restored, "X-Kept").starts_with("acme"), "{restored}");
        ensure!(!shown(&restored, "X-Rcd").contains("127.9.9.1"), "{restored}");
    }
    Ok(())
}

fn unregister(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    for form in BOTH {
        contacts(&mut agent, "grace", &["<sip:grace@127.9.9.1>", "<sip:grace@127.9.9.2>", "<sip:grace@127.9.9.3>"])?;
        let answer = call(&mut agent, "fetch", form, "grace", &[])?;
        let ruid = headers(&answer, "X-Contact")
            .into_iter()
            .find_map(|contact| contact.strip_prefix("sip:grace@127.9.9.2 ")?.split(' ').next().map(str::to_owned))
            .with_context(|| answer.clone())?;
        let one = format!("X-Ruid: {ruid}");
        expect(&call(&mut agent, "unregister", form, "grace", &[&one])?, &[("X-Rc", "1")])?;
        expect(&call(&mut agent, "unregister", form, "grace", &[&one])?, &[("X-Rc", "-3")])?;
        let left = site.contacts("grace")?;
        ensure!(left.len() == 2 && left.iter().all(|left| left["contact"] != "sip:grace@127.9.9.2"), "{left:?}");
        expect(&call(&mut agent, "unregister", form, "grace", &[])?, &[("X-Rc", "1")])?;
        ensure!(site.contacts("grace")?.is_empty(), "still there");
        expect(&call(&mut agent, "lookup", form, "grace", &[])?, &[("X-Rc", "-1")])?;
    }
    Ok(())
}

fn fetched(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    register(&mut agent, "heidi", &["Contact: *", "Expires: 0"])?;
    for contact in ["Contact: <sip:heidi@127.9.9.1>;q=0.1", "Contact: <sip:heidi@127.9.9.2>;q=0.9"] {
        register(&mut agent, "heidi", &[contact, "Expires: 600", "User-Agent: Phone/1"])?;
    }
    for form in BOTH {
        let answer = call(&mut agent, "fetch", form, "heidi", &[])?;
        expect(&answer, &[("X-Rc", "1"), ("X-Fetched", &format!("2 heidi@{DOMAIN}"))])?;
        let contacts = headers(&answer, "X-Contact");
        ensure!(contacts.len() == 2 && contacts[0].starts_with("sip:heidi@127.9.9.2 "), "{answer}");
        ensure!(contacts.iter().all(|contact| contact.ends_with(" Phone/1")), "{answer}");
        expect(&answer, &[("X-Freed", "<null>")])?;
        expect(&call(&mut agent, "fetch", form, "nobody", &[])?, &[("X-Rc", "-1")])?;
    }
    Ok(())
}

fn shown_in_xavps(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    contacts(&mut agent, "ivan", &["<sip:ivan@127.9.9.1>;q=0.1", "<sip:ivan@127.9.9.2>;q=0.9"])?;
    for form in BOTH {
        let answer = call(&mut agent, "lookup_xavp", form, "ivan", &[])?;
        expect(&answer, &[("X-Rc", "1"), ("X-Record", &format!("ivan@{DOMAIN} 2"))])?;
        ensure!(headers(&answer, "X-Contact") == ["sip:ivan@127.9.9.2", "sip:ivan@127.9.9.1"], "{answer}");
        expect(&call(&mut agent, "lookup_xavp", form, "nobody", &[])?, &[("X-Rc", "-1")])?;
    }
    Ok(())
}

fn attributes(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    register(&mut agent, "judy", &["Contact: *", "Expires: 0"])?;
    for (contact, account) in [("127.9.9.1>;q=0.9", "first"), ("127.9.9.2>;q=0.1", "second")] {
        let lines = [
            format!("Contact: <sip:judy@{contact}"),
            "Expires: 600".to_owned(),
            "X-Received: sip:127.9.9.7:1024".to_owned(),
            format!("X-Account: {account}"),
        ];
        let answer = register(&mut agent, "judy", &lines.each_ref().map(String::as_str))?;
        ensure!(shown(&answer, "Contact").contains(";received=\"sip:127.9.9.7:1024\""), "{answer}");
    }
    for form in BOTH {
        expect(
            &call(&mut agent, "lookup", form, "judy", &[])?,
            &[("X-Kept", "first second"), ("X-Du", "sip:127.9.9.7:1024"), ("X-Flag", "6")],
        )?;
    }
    Ok(())
}

fn kept_answer(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    let contact = agent.contact("kate", "");
    let answer = register(&mut agent, "kate", &[&contact, "Expires: 600", "X-Flags: 0x02"])?;
    ensure!(shown(&answer, "Contact").contains(";expires=600") && !shown(&answer, "Date").is_empty(), "{answer}");
    ensure!(site.contacts("kate")?.len() == 1, "not stored");
    let refused = agent.ask(&agent.register("kate", &["Contact: *", "X-Flags: 0x02"]))?;
    ensure!(status(&refused) == Some(400) && shown(&refused, "X-Rc") == "-1", "{refused}");
    Ok(())
}

fn prepared_answer(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    let contact = agent.contact("leo", "");
    for form in ["X-Form: plain", "X-Form: async"] {
        let answer = agent.ask(&agent.register("leo", &[&contact, "Expires: 600", "X-Flags: 0x12", form]))?;
        ensure!(answer.starts_with("SIP/2.0 202 By the script"), "{answer}");
        ensure!(shown(&answer, "Contact").contains(";expires="), "{answer}");
    }
    Ok(())
}

fn rules_for_one_request(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "modparam(\"cassandra\", \"retry_after\", 30)")?;
    register(&mut agent, "mia", &["Contact: *", "Expires: 0"])?;
    let answer = register(&mut agent, "mia", &["Contact: <sip:mia@127.9.9.1>;q=0.1", "Expires: 600", "X-Q: 700"])?;
    ensure!(shown(&answer, "Contact").contains(";q=0.7;"), "{answer}");
    for form in ["X-Form: plain", "X-Form: async"] {
        let limited = ["Contact: <sip:mia@127.9.9.2>", "Expires: 600", "X-Limit: 1", form];
        let answer = agent.ask(&agent.register("mia", &limited))?;
        ensure!(status(&answer) == Some(503) && shown(&answer, "Retry-After") == "30", "{answer}");
        ensure!(shown(&answer, "P-Registrar-Error") == "Too many registered contacts", "{answer}");
    }
    ensure!(site.contacts("mia")?.len() == 1, "stored beyond the limit");
    Ok(())
}

fn run_time(site: &Site) -> Result<()> {
    let (kamailio, mut agent) = start(site, "")?;
    register(&mut agent, "nina", &["Contact: *", "Expires: 0"])?;
    let expires = |agent: &mut Agent| -> Result<String> {
        let answer = register(agent, "nina", &["Contact: <sip:nina@127.9.9.1>"])?;
        Ok(shown(&answer, "Contact").to_owned())
    };
    ensure!(expires(&mut agent)?.contains(";expires=3600"), "the default");
    kamailio.rpc("cfg.set_now_int", json!(["cassandra", "default_expires", 120]))?;
    until("the new expiry", Duration::from_secs(10), || {
        expires(&mut agent).is_ok_and(|contact| contact.contains(";expires=120"))
    })?;
    let refused = kamailio.rpc("cfg.set_now_int", json!(["cassandra", "default_q", 2000]));
    ensure!(refused.is_err(), "a q beyond 1000 was taken");
    Ok(())
}

fn socket(site: &Site) -> Result<()> {
    let (kamailio, mut agent) = start(site, "")?;
    let contact = format!("<sip:oscar@{}>", agent.here());
    contacts(&mut agent, "oscar", &[&contact])?;
    let request = agent.request("MESSAGE", &format!("sip:oscar@{DOMAIN}"), "tester", "oscar", &["X-Do: sock"]);
    agent.send(&request)?;
    let relayed = agent.receive_request("MESSAGE")?;
    ensure!(shown(&relayed, "X-Socket") == format!("udp:{}", kamailio.address()), "{relayed}");
    ensure!(relayed.starts_with(&format!("MESSAGE sip:oscar@{} ", agent.here())), "{relayed}");
    agent.send(&response(&relayed, "200 OK"))?;
    ensure!(status(&agent.final_response()?) == Some(200));
    Ok(())
}

fn letter_case(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    contacts(&mut agent, "Peggy", &["<sip:peggy@127.9.9.1>"])?;
    expect(&call(&mut agent, "lookup", "plain", "peggy", &[])?, &[("X-Rc", "-1")])?;
    expect(&call(&mut agent, "lookup", "plain", "Peggy", &[])?, &[("X-Rc", "1")])?;
    let (_kamailio, mut agent) = start(site, "modparam(\"cassandra\", \"case_sensitive\", 0)")?;
    contacts(&mut agent, "PEGGY", &["<sip:peggy@127.9.9.2>"])?;
    expect(&call(&mut agent, "lookup", "plain", "peggY", &[])?, &[("X-Rc", "1"), ("X-Ru", "sip:peggy@127.9.9.2")])
}

fn stale(site: &Site) -> Result<()> {
    let (kamailio, mut agent) = start(site, "")?;
    contacts(&mut agent, "quinn", &["<sip:quinn@127.9.9.1>"])?;
    contacts(&mut agent, "short", &[])?;
    register(&mut agent, "short", &["Contact: <sip:short@127.9.9.2>;expires=2"])?;
    let frozen = site.frozen()?;
    for form in BOTH {
        let answer = call(&mut agent, "lookup", form, "quinn", &[])?;
        expect(&answer, &[("X-Rc", "1"), ("X-Ru", "sip:quinn@127.9.9.1")])?;
        expect(&call(&mut agent, "lookup", form, "unseen", &[])?, &[("X-Rc", "-10"), ("X-Status", "503")])?;
    }
    until("the end of the short binding", Duration::from_secs(15), || {
        call(&mut agent, "lookup", "plain", "short", &[]).is_ok_and(|answer| shown(&answer, "X-Rc") == "-10")
    })?;
    let saved = agent.ask(&agent.register("quinn", &["Contact: <sip:quinn@127.9.9.3>"]))?;
    ensure!(status(&saved) == Some(503), "{saved}");
    drop(frozen);
    ensure!(statistic(&kamailio, "lookups_stale")? >= 2, "not counted");
    ensure!(kamailio.log().matches("answered from what this node remembers").count() == 1, "not said once");
    let (_kamailio, mut agent) = start(site, "modparam(\"cassandra\", \"stale_lookup\", 0)")?;
    contacts(&mut agent, "quinn", &["<sip:quinn@127.9.9.1>"])?;
    let frozen = site.frozen()?;
    expect(&call(&mut agent, "lookup", "plain", "quinn", &[])?, &[("X-Rc", "-10")])?;
    drop(frozen);
    Ok(())
}

fn bad_input(site: &Site) -> Result<()> {
    let (kamailio, mut agent) =
        start(site, "modparam(\"cassandra\", \"use_path\", 1)\nmodparam(\"cassandra\", \"outbound_mode\", 1)")?;
    let good = "Contact: <sip:rita@127.9.9.1>";
    let long = format!("Contact: <sip:{}@127.9.9.1>", "x".repeat(600));
    for lines in [
        vec!["Contact: *"],
        vec!["Contact: *", "Expires: 60"],
        vec!["Contact: *", good, "Expires: 0"],
        vec!["Contact: *", "Contact: *", "Expires: 0"],
        vec![good, long.as_str()],
        vec![good, "Contact: <sip:rita@127.9.9.1"],
        vec!["Contact: <sip:rita@127.9.9.1>;q=2"],
        vec!["Contact: <sip:rita@127.9.9.1>;q=x"],
        vec!["Contact: <sip:ri\u{0}ta@127.9.9.1>"],
        vec!["Contact: <sip:rita@127.9.9.1>;reg-id=0;+sip.instance=\"<urn:uuid:1>\"", "Supported: outbound, path"],
        vec!["Contact: <sip:rita@127.9.9.1>;reg-id=x;+sip.instance=\"<urn:uuid:1>\"", "Supported: outbound, path"],
        vec![good, "Supported: path", "Path: <sip:127.9.9.9>"],
        vec![good, "Supported: path", "Path: nonsense"],
    ] {
        for form in ["X-Form: plain", "X-Form: async"] {
            let mut lines = lines.clone();
            lines.push(form);
            let answer = agent.ask(&agent.register("rita", &lines)).with_context(|| format!("{lines:?}"))?;
            ensure!(status(&answer) == Some(400), "{lines:?}:\n{answer}");
            ensure!(!shown(&answer, "P-Registrar-Error").is_empty(), "{lines:?}:\n{answer}");
        }
    }
    let to_nobody = agent.request("REGISTER", &format!("sip:{DOMAIN}"), "rita", "rita", &[good]);
    for to in
        ["To: <sip:example.com>", "To: <tel:+1555>", "To: <sip:ri%00ta@example.com>", "To: <sip:ri%ffta@example.com>"]
    {
        let request = to_nobody.replace(&format!("To: <sip:rita@{DOMAIN}>"), to);
        let answer = agent.ask(&request)?;
        ensure!(status(&answer) == Some(400), "{to}:\n{answer}");
    }
    ensure!(site.contacts("rita")?.is_empty(), "something was stored");
    expires_that_is_malformed(&mut agent)?;
    headers_of_64_kb(site, &kamailio)
}

/// RFC 3261 section 10.2.1.1: as good as 3600.
fn expires_that_is_malformed(agent: &mut Agent) -> Result<()> {
    for lines in
        [["Contact: <sip:rita@127.9.9.1>;expires=x", "Expires: 60"], ["Contact: <sip:rita@127.9.9.1>", "Expires: x"]]
    {
        let answer = register(agent, "rita", &lines)?;
        ensure!(shown(&answer, "Contact").contains(";expires=3600"), "{lines:?}:\n{answer}");
    }
    register(agent, "rita", &["Contact: *", "Expires: 0"])?;
    Ok(())
}

fn headers_of_64_kb(site: &Site, kamailio: &Kamailio) -> Result<()> {
    let mut agent = Agent::tcp(kamailio)?;
    let filler = "x".repeat(60 * 1024);
    for line in [
        format!("Contact: <sip:rita@127.9.9.1>;{filler}=1"),
        format!("Path: <sip:{filler};lr>"),
        format!("X-Filler: {filler}"),
    ] {
        let answer = agent.ask(&agent.register("rita", &[&line, "Supported: path"]))?;
        ensure!(matches!(status(&answer), Some(200 | 400 | 503 | 513)), "{answer}");
    }
    register(&mut agent, "rita", &["Contact: *", "Expires: 0"])?;
    ensure!(site.contacts("rita")?.is_empty(), "something was stored");
    let errors = kamailio.log().lines().filter(|line| line.contains("ERROR")).count();
    ensure!(errors < 60, "the log is flooded with {errors} errors:\n{}", kamailio.log());
    Ok(())
}
