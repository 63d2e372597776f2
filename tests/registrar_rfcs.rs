//! What the RFCs say of a registrar and of the requests that it sends on, by messages as a phone sends them: RFC 3261 sections
//! 10.3 and 16.5, RFC 3327 (Path), RFC 5626 (outbound), RFC 5627 (GRUU).

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::sip::{Agent, headers, register, response, status};
use common::{DOMAIN, Site};
use lab::kamailio::Kamailio;

const SCRIPT: &str = "tests/cfg/location.cfg";
/// A phone's identity.
const INSTANCE: &str = "+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>\"";

fn main() -> ExitCode {
    common::suite(
        &[],
        &[
            ("rfc_3261_the_domain_of_to_must_be_the_one_of_the_request_uri", domain_of_to),
            ("rfc_3261_an_extension_that_is_required_and_unknown_is_420_and_nothing_is_stored", unknown_extension),
            ("rfc_3261_the_aor_is_canonical", canonical_aor),
            ("rfc_3261_a_register_without_contact_lists_the_bindings_and_changes_none", query),
            ("rfc_3261_contacts_come_in_one_header_or_in_many_with_any_parameters", many_contacts),
            ("rfc_3261_a_register_is_applied_as_a_whole_or_not_at_all", atomic),
            ("rfc_3261_an_interval_too_brief_is_423_and_nothing_is_stored", too_brief),
            ("rfc_3261_equal_uris_are_one_binding", equal_uris),
            ("rfc_3261_a_register_sent_again_is_answered_again_and_an_older_one_refused", order),
            ("rfc_3261_the_answer_lists_all_bindings_with_what_is_left_of_them_and_a_date", answer),
            ("rfc_3261_the_answer_holds_no_record_route", no_record_route),
            ("rfc_3261_a_lookup_takes_the_contact_as_it_is_without_its_header_parameters", verbatim),
            ("rfc_3261_a_refusal_reaches_the_phone_from_a_resumed_route", refusals_when_resumed),
            ("rfc_3327_the_path_is_echoed_stored_and_replaced", path),
            ("rfc_3327_a_path_that_is_not_supported_is_420_and_nothing_is_stored", path_unsupported),
            ("rfc_5626_a_flow_is_kept_by_instance_and_reg_id_and_the_answer_says_so", flows),
            ("rfc_5626_an_edge_without_outbound_is_439_and_a_phone_without_it_421", no_outbound),
            ("rfc_5626_flows_of_one_phone_are_tried_one_after_the_other", next_flow),
            ("rfc_5627_gruus_reach_their_instance_from_any_node", gruus),
            ("rfc_5627_a_new_call_id_ends_temporary_gruus_and_a_refresh_does_not", gruu_lifetime),
            ("rfc_5627_a_gruu_cannot_be_forged_or_registered", gruu_forged),
        ],
    )
}

fn start(site: &Site, settings: &str) -> Result<(Kamailio, Agent)> {
    site.with_agent(SCRIPT, settings)
}

const FORMS: [&str; 2] = ["X-Form: plain", "X-Form: async"];

/// In both forms the REGISTER is refused with this status, and nothing is stored.
fn refused(site: &Site, agent: &mut Agent, user: &str, lines: &[&str], expected: u16) -> Result<String> {
    let mut last = String::new();
    for form in FORMS {
        let mut all = lines.to_vec();
        all.push(form);
        last = agent.ask(&agent.register(user, &all))?;
        ensure!(status(&last) == Some(expected), "{all:?}:\n{last}");
    }
    ensure!(site.contacts(user)?.is_empty(), "something is stored");
    Ok(last)
}

fn header<'m>(message: &'m str, name: &str) -> &'m str {
    headers(message, name).first().copied().unwrap_or_default()
}

/// What a lookup of this URI does, as the script shows it.
fn lookup(agent: &mut Agent, uri: &str) -> Result<String> {
    let request = agent.request("MESSAGE", uri, "tester", "somebody", &["X-Do: lookup"]);
    agent.ask(&request)
}

fn domain_of_to(site: &Site) -> Result<()> {
    let (kamailio, mut agent) = start(site, "")?;
    for form in FORMS {
        let foreign = agent.request("REGISTER", "sip:other.example", "alice", "alice", &["Contact: <sip:a@h>", form]);
        let answer = agent.ask(&foreign)?;
        ensure!(status(&answer) == Some(404), "{answer}");
        let address = format!("sip:{}", kamailio.address());
        let to_address = agent.request("REGISTER", &address, "alice", "alice", &["Contact: *", "Expires: 0", form]);
        ensure!(status(&agent.ask(&to_address)?) == Some(200));
    }
    ensure!(site.contacts("alice")?.is_empty(), "something is stored");
    Ok(())
}

fn unknown_extension(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    let lines = ["Contact: <sip:alice@127.9.9.1>", "Require: gruu, levitation", "Require: teleport"];
    let answer = refused(site, &mut agent, "alice", &lines, 420)?;
    ensure!(header(&answer, "Unsupported") == "levitation, teleport", "{answer}");
    Ok(())
}

fn canonical_aor(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    let request = agent.register("bob", &["Contact: <sip:bob@127.9.9.1>", "Expires: 60"]);
    let to = format!("To: <sip:bob@{DOMAIN}>");
    let written = request.replace(&to, "To: \"Bob, jr.\" <sip:%62ob:secret@EXAMPLE.com:5062;user=phone;x=y>");
    let answer = agent.ask(&written)?;
    ensure!(status(&answer) == Some(200), "{answer}");
    ensure!(site.contacts("bob")?.len() == 1, "not registered as bob");
    let found = lookup(&mut agent, "sip:b%6Fb@Example.COM;transport=udp")?;
    ensure!(header(&found, "X-Ru") == "sip:bob@127.9.9.1", "{found}");
    register(&mut agent, "bob", &["Contact: *", "Expires: 0"]).map(drop)
}

fn query(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    register(&mut agent, "carol", &["Contact: <sip:carol@127.9.9.1>;expires=100, <sip:carol@127.9.9.2>;expires=200"])?;
    for form in FORMS {
        let answer = register(&mut agent, "carol", &["Expires: 9", form])?;
        let contact = header(&answer, "Contact");
        ensure!(contact.matches("<sip:carol@").count() == 2 && !contact.contains("expires=9"), "{answer}");
    }
    Ok(())
}

fn many_contacts(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    let lines = [
        "Contact: \"Dave, at home\" <sip:dave@127.9.9.1;line=1>;q=0.5;expires=100, sip:dave@127.9.9.2;expires=200",
        "m: <sip:dave@127.9.9.3?Subject=x%20y>;Expires=300;x-unknown=\"a,b;c\"",
        "Expires: 50",
        "Contact: <sip:dave@127.9.9.1;line=2>",
    ];
    let answer = register(&mut agent, "dave", &lines)?;
    let contact = header(&answer, "Contact");
    for expected in [
        "<sip:dave@127.9.9.1;line=1>;q=0.5;expires=100",
        "<sip:dave@127.9.9.2>;expires=200",
        "<sip:dave@127.9.9.3?Subject=x%20y>;expires=300",
        "<sip:dave@127.9.9.1;line=2>;expires=50",
    ] {
        ensure!(contact.split(", ").any(|one| one == expected), "{expected} is not in\n{answer}");
    }
    ensure!(site.contacts("dave")?.len() == 4, "four bindings");
    Ok(())
}

fn atomic(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) =
        start(site, "modparam(\"cassandra\", \"min_expires_mode\", 1)\nmodparam(\"cassandra\", \"min_expires\", 60)")?;
    let lines = ["Contact: <sip:erin@127.9.9.1>;expires=600, <sip:erin@127.9.9.2>;expires=10"];
    refused(site, &mut agent, "erin", &lines, 423).map(drop)
}

fn too_brief(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) =
        start(site, "modparam(\"cassandra\", \"min_expires_mode\", 1)\nmodparam(\"cassandra\", \"min_expires\", 60)")?;
    let answer = refused(site, &mut agent, "frank", &["Contact: <sip:frank@127.9.9.1>", "Expires: 10"], 423)?;
    ensure!(header(&answer, "Min-Expires") == "60", "{answer}");
    Ok(())
}

fn equal_uris(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    for contact in [
        "sip:grace@Host.example;transport=TCP",
        "sip:%67race@host.example;Transport=tcp;ob",
        "SIP:grace@HOST.example;transport=tcp",
    ] {
        register(&mut agent, "grace", &[&format!("Contact: <{contact}>"), "Expires: 60"])?;
    }
    ensure!(site.contacts("grace")?.len() == 1, "{:?}", site.contacts("grace")?);
    for contact in ["sip:grace@host.example:5060;transport=tcp", "sips:grace@host.example", "sip:Grace@host.example"] {
        register(&mut agent, "grace", &[&format!("Contact: <{contact}>"), "Expires: 60"])?;
    }
    ensure!(site.contacts("grace")?.len() == 4, "{:?}", site.contacts("grace")?);
    Ok(())
}

fn order(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    let early = agent.register("heidi", &["Contact: <sip:heidi@127.9.9.1>;q=0.1", "Expires: 60"]);
    let cseq = header(&early, "CSeq").to_owned();
    let late =
        early.replace(&cseq, "4294967290 REGISTER").replace("q=0.1", "q=0.9").replace("branch=", "branch=z9hG4bKl");
    for request in [&late, &late.replace("z9hG4bKl", "z9hG4bKm")] {
        let answer = agent.ask(request)?;
        ensure!(status(&answer) == Some(200) && header(&answer, "Contact").contains("q=0.9"), "{answer}");
    }
    let answer = agent.ask(&early)?;
    ensure!(status(&answer) == Some(400), "{answer}");
    ensure!(site.contacts("heidi")?[0]["q"] == 0.9);
    Ok(())
}

fn answer(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    register(&mut agent, "ivan", &["Contact: <sip:ivan@127.9.9.1>;q=0.125", "Expires: 600"])?;
    for form in FORMS {
        let answer = register(&mut agent, "ivan", &["Contact: <sip:ivan@127.9.9.2>", "Expires: 60", form])?;
        let contact = header(&answer, "Contact");
        ensure!(
            contact.contains("<sip:ivan@127.9.9.1>;q=0.125;expires=") && contact.contains("127.9.9.2>;expires=60"),
            "{answer}"
        );
        let date = header(&answer, "Date");
        ensure!(date.ends_with(" GMT") && date.len() == "Sun, 06 Nov 1994 08:49:37 GMT".len(), "{answer}");
    }
    Ok(())
}

fn no_record_route(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    for form in FORMS {
        let lines = ["Contact: <sip:judy@127.9.9.1>", "Expires: 60", "Record-Route: <sip:127.9.9.9;lr>", form];
        let answer = register(&mut agent, "judy", &lines)?;
        ensure!(headers(&answer, "Record-Route").is_empty(), "{answer}");
    }
    Ok(())
}

fn verbatim(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    let uri = "sip:ka%74e@127.9.9.1:5070;transport=udp;line=a-b;ob";
    register(&mut agent, "kate", &[&format!("Contact: \"K\" <{uri}>;q=0.3;methods=\"MESSAGE\";x=y"), "Expires: 60"])?;
    let found = lookup(&mut agent, &format!("sip:kate@{DOMAIN}"))?;
    ensure!(header(&found, "X-Ru") == uri, "{found}");
    Ok(())
}

fn refusals_when_resumed(site: &Site) -> Result<()> {
    let settings = "modparam(\"cassandra\", \"max_contacts\", 1)\nmodparam(\"cassandra\", \"retry_after\", 7)";
    let (_kamailio, mut agent) = start(site, settings)?;
    let asynchronous = "X-Form: async";
    register(&mut agent, "leo", &["Contact: <sip:leo@127.9.9.1>", "Expires: 60", asynchronous])?;
    let too_many = agent.ask(&agent.register("leo", &["Contact: <sip:leo@127.9.9.2>", asynchronous]))?;
    ensure!(status(&too_many) == Some(503) && header(&too_many, "Retry-After") == "7", "{too_many}");
    let star = agent.ask(&agent.register("leo", &["Contact: *", "Expires: 1", asynchronous]))?;
    ensure!(status(&star) == Some(400) && !header(&star, "P-Registrar-Error").is_empty(), "{star}");
    Ok(())
}

const USE_PATH: &str = "modparam(\"cassandra\", \"use_path\", 1)";

fn path(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, USE_PATH)?;
    let lines = [
        "Contact: <sip:mia@127.9.9.1>",
        "Expires: 60",
        "Path: <sip:127.9.9.9;lr>, <sip:p@127.9.9.8;lr;ob>",
        "Supported: timer, path",
        "Path: <sip:127.9.9.7;lr>",
    ];
    let vector = "<sip:127.9.9.9;lr>, <sip:p@127.9.9.8;lr;ob>,<sip:127.9.9.7;lr>";
    let answer = register(&mut agent, "mia", &lines)?;
    ensure!(header(&answer, "Path") == vector, "{answer}");
    let found = lookup(&mut agent, &format!("sip:mia@{DOMAIN}"))?;
    ensure!(header(&found, "X-Du") == "sip:127.9.9.9;lr" && header(&found, "X-Rcd").ends_with(vector), "{found}");
    register(&mut agent, "mia", &["Contact: <sip:mia@127.9.9.1>", "Expires: 60", "Supported: path"])?;
    let found = lookup(&mut agent, &format!("sip:mia@{DOMAIN}"))?;
    ensure!(header(&found, "X-Du") == "<null>", "{found}");
    Ok(())
}

fn path_unsupported(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, USE_PATH)?;
    let lines = ["Contact: <sip:nina@127.9.9.1>", "Path: <sip:127.9.9.9;lr>"];
    let answer = refused(site, &mut agent, "nina", &lines, 420)?;
    ensure!(header(&answer, "Unsupported") == "path", "{answer}");
    Ok(())
}

const OUTBOUND: &str = "modparam(\"cassandra\", \"use_path\", 1)
modparam(\"cassandra\", \"outbound_mode\", 1)
modparam(\"cassandra\", \"flow_timer\", 25)";

fn flows(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, OUTBOUND)?;
    for (flow, host) in [(1, "127.9.9.1"), (2, "127.9.9.2"), (1, "127.9.9.3:6060")] {
        let contact = format!("Contact: <sip:oscar@{host}>;reg-id={flow};{INSTANCE}");
        let answer = register(&mut agent, "oscar", &[&contact, "Expires: 60", "Supported: outbound, path"])?;
        ensure!(header(&answer, "Require") == "outbound" && header(&answer, "Flow-Timer") == "25", "{answer}");
        ensure!(header(&answer, "Contact").contains(&format!("reg-id={flow}")), "{answer}");
    }
    register(&mut agent, "oscar", &["Contact: <sip:oscar@127.9.9.4>", "Expires: 60"])?;
    let mut stored: Vec<String> =
        site.contacts("oscar")?.iter().map(|one| one["contact"].as_str().unwrap_or_default().to_owned()).collect();
    stored.sort();
    ensure!(stored == ["sip:oscar@127.9.9.2", "sip:oscar@127.9.9.3:6060", "sip:oscar@127.9.9.4"], "{stored:?}");
    Ok(())
}

fn no_outbound(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, OUTBOUND)?;
    let contact = format!("Contact: <sip:peggy@127.9.9.1>;reg-id=1;{INSTANCE}");
    let via = format!("Via: SIP/2.0/UDP {};branch=z9hG4bKedge", agent.here());
    for path in ["Path: <sip:127.9.9.9;lr>", "X-Path: none"] {
        let lines = [contact.as_str(), "Expires: 60", "Supported: outbound, path", path, &via];
        refused(site, &mut agent, "peggy", &lines, 439)?;
    }
    let (_kamailio, mut agent) = start(site, &OUTBOUND.replace("mode\", 1", "mode\", 2"))?;
    let answer = refused(site, &mut agent, "peggy", &["Contact: <sip:peggy@127.9.9.1>", "Expires: 60"], 421)?;
    ensure!(header(&answer, "Require") == "outbound", "{answer}");
    Ok(())
}

fn next_flow(site: &Site) -> Result<()> {
    let settings = format!(
        "{OUTBOUND}\nmodparam(\"tm\", \"contacts_avp\", \"tm_contacts\")\nmodparam(\"tm\", \"contact_flows_avp\", \"tm_contact_flows\")"
    );
    let (kamailio, mut first) = start(site, &settings)?;
    let mut second = Agent::udp(&kamailio)?;
    for (flow, agent) in [(1, &mut first), (2, &mut second)] {
        let contact = format!("Contact: <sip:quinn@{}>;reg-id={flow};{INSTANCE}", agent.here());
        register(agent, "quinn", &[&contact, "Expires: 60", "Supported: outbound, path"])?;
    }
    let mut caller = Agent::udp(&kamailio)?;
    caller.send(&caller.request("MESSAGE", &format!("sip:quinn@{DOMAIN}"), "caller", "quinn", &["X-Do: flows"]))?;
    let patience = Duration::from_millis(700);
    let (request, mut failing, mut other) = match second.receive_within(patience)? {
        Some(request) => (request, second, first),
        None => (first.receive_request("MESSAGE").with_context(|| kamailio.log())?, first, second),
    };
    ensure!(other.receive_within(patience)?.is_none(), "both flows at once");
    failing.send(&response(&request, "430 Flow Failed"))?;
    let request = other.receive_request("MESSAGE").with_context(|| kamailio.log())?;
    other.send(&response(&request, "200 OK"))?;
    ensure!(status(&caller.final_response()?) == Some(200));
    Ok(())
}

/// A parameter of the only Contact.
fn parameter<'m>(answer: &'m str, name: &str) -> Result<&'m str> {
    let (_, rest) = header(answer, "Contact").split_once(&format!(";{name}=\"")).with_context(|| answer.to_owned())?;
    Ok(rest.split('"').next().unwrap_or_default())
}

fn with_gruu(agent: &mut Agent, user: &str, lines: &[&str]) -> Result<(String, String)> {
    let contact = format!("Contact: <sip:{user}@127.9.9.1>;{INSTANCE}");
    let mut all = vec![contact.as_str(), "Expires: 60", "Supported: gruu"];
    all.extend(lines);
    let answer = register(agent, user, &all)?;
    Ok((parameter(&answer, "pub-gruu")?.to_owned(), parameter(&answer, "temp-gruu")?.to_owned()))
}

fn gruus(site: &Site) -> Result<()> {
    let (_one, mut agent) = start(site, "")?;
    let (_two, mut elsewhere) = start(site, "")?;
    register(&mut agent, "rita", &["Contact: <sip:rita@127.9.9.2>;q=1", "Expires: 60"])?;
    let (public, temporary) = with_gruu(&mut agent, "rita", &[])?;
    ensure!(public == format!("sip:rita@{DOMAIN};gr=urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF"), "{public}");
    ensure!(temporary.ends_with(&format!("@{DOMAIN};gr")) && !temporary.contains("rita"), "{temporary}");
    let reach = |agent: &mut Agent, gruu: &str| -> Result<()> {
        let found = lookup(agent, gruu)?;
        ensure!(header(&found, "X-Ru") == "sip:rita@127.9.9.1" && headers(&found, "X-Branch").is_empty(), "{found}");
        Ok(())
    };
    for gruu in [&public, &temporary] {
        reach(&mut agent, gruu)?;
        reach(&mut elsewhere, gruu)?;
    }
    let (again, another) = with_gruu(&mut elsewhere, "rita", &[])?;
    ensure!(again == public && another != temporary, "{again} {another}");
    reach(&mut agent, &another)?;
    let unsupported = register(&mut agent, "rita", &[])?;
    ensure!(!header(&unsupported, "Contact").contains("gruu"), "{unsupported}");
    let other = lookup(&mut agent, &format!("sip:rita@{DOMAIN};gr=urn:uuid:1"))?;
    ensure!(header(&other, "X-Rc") == "-1" && header(&other, "X-Status") == "480", "{other}");
    Ok(())
}

fn gruu_lifetime(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    let contact = format!("Contact: <sip:sybil@127.9.9.1>;{INSTANCE}");
    let lines = [contact.as_str(), "Expires: 60", "Supported: gruu"];
    let first = agent.register("sybil", &lines);
    let temporary = parameter(&agent.ask(&first)?, "temp-gruu")?.to_owned();
    let cseq = header(&first, "CSeq").to_owned();
    let refresh = first.replace(&cseq, "77777 REGISTER").replace("branch=", "branch=z9hG4bKr");
    ensure!(status(&agent.ask(&refresh)?) == Some(200));
    ensure!(header(&lookup(&mut agent, &temporary)?, "X-Rc") == "1", "the refresh ended it");
    // A REGISTER of another Call-ID, as after a restart of the phone.
    register(&mut agent, "sybil", &lines)?;
    let ended = lookup(&mut agent, &temporary)?;
    ensure!(header(&ended, "X-Rc") == "-1" && header(&ended, "X-Status") == "480", "{ended}");
    Ok(())
}

fn gruu_forged(site: &Site) -> Result<()> {
    let (_kamailio, mut agent) = start(site, "")?;
    let (public, temporary) = with_gruu(&mut agent, "trent", &[])?;
    let forged = temporary.replacen("sip:tgruu.", "sip:tgruu.A", 1);
    let refused = lookup(&mut agent, &forged)?;
    ensure!(header(&refused, "X-Rc") == "-1" && header(&refused, "X-Status") == "404", "{refused}");
    for gruu in [public, temporary] {
        let answer = agent.ask(&agent.register("trent", &[&format!("Contact: <{gruu}>"), "Expires: 60"]))?;
        ensure!(status(&answer) == Some(403), "{answer}");
    }
    Ok(())
}
