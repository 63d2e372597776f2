//! A routing script in Lua: the module's functions as KEMI has them.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::sip::{Agent, ack, headers};
use common::{DOMAIN, Site, phone, phone_with_password, run, statistic};
use lab::kamailio::{Config, Kamailio};
use lab::sipp::Sipp;
use lab::wait::until;
use lab::workspace;

const SCRIPT: &str = "tests/cfg/kemi.cfg";
/// Longer than a call waits, shorter than the driver's patience with a silent connection.
const TOO_SLOW: Duration = Duration::from_millis(1200);
const SOON: Duration = Duration::from_secs(20);
/// Functions that are not for scripts.
const INTERNAL: [&str; 3] = ["apply_answer", "test_panic", "test_io_panic"];

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob"],
        &[
            ("a_lua_script_registers_and_calls_plain", |site| registers_and_calls(site, "plain", 0)),
            // Two suspends of each of: REGISTER, INVITE, REGISTER that removes.
            ("a_lua_script_registers_and_calls_async", |site| registers_and_calls(site, "async", 6)),
            ("a_lua_script_registers_by_auth_save_async", registers_jointly),
            ("a_lua_script_challenges_a_wrong_password_plain", |site| refuses(site, "plain")),
            ("a_lua_script_challenges_a_wrong_password_async", |site| refuses(site, "async")),
            ("a_lua_script_is_told_that_the_backend_is_unavailable_plain", |site| unavailable(site, "plain")),
            ("a_lua_script_is_told_that_the_backend_is_unavailable_async", |site| unavailable(site, "async")),
            ("a_lua_script_records_a_call", records),
            ("a_lua_script_counts_calls_plain", |site| counts(site, "plain")),
            ("a_lua_script_counts_calls_async", |site| counts(site, "async")),
            ("a_lua_script_asks_whom_an_alias_means_plain", |site| resolves(site, "plain", 0)),
            ("a_lua_script_asks_whom_an_alias_means_async", |site| resolves(site, "async", 4)),
            ("without_a_kemi_script_to_resume_in_an_async_function_refuses", no_engine),
            ("every_script_function_has_its_twin", twins),
        ],
    )
}

fn start(site: &Site, form: &str) -> Result<Kamailio> {
    site.connected(with_lua(site.script(SCRIPT), form))
}

fn with_lua(config: Config, form: &str) -> Config {
    let script = workspace().root().join("tests/cfg/kemi.lua");
    config.env("KEMI_SCRIPT", script.display()).env("FORM", form)
}

fn registers_and_calls(site: &Site, form: &str, resumed: u64) -> Result<()> {
    let kamailio = start(site, form)?;
    let callee = Sipp::new("uas_answer.xml").spawn()?;
    run(&kamailio, phone(&kamailio, "register.xml", "bob").key("contact", callee.local()))?;
    ensure!(site.contacts("bob")?.len() == 1, "{:?}", site.contacts("bob")?);
    run(&kamailio, phone(&kamailio, "uac_invite_auth.xml", "alice").key("callee", format!("bob@{DOMAIN}")))?;
    callee.finish()?.check()?;
    run(&kamailio, phone(&kamailio, "unregister_all.xml", "bob"))?;
    ensure!(site.contacts("bob")?.is_empty(), "still stored");
    ensure!(statistic(&kamailio, "resumed")? == resumed, "{}", kamailio.log());
    ensure!(!kamailio.log().contains("ERROR"), "{}", kamailio.log());
    Ok(())
}

fn records(site: &Site) -> Result<()> {
    let kamailio = start(site, "plain")?;
    let callee = Sipp::new("uas_answer.xml").spawn()?;
    run(&kamailio, phone(&kamailio, "register.xml", "bob").key("contact", callee.local()))?;
    run(&kamailio, phone(&kamailio, "uac_invite_auth.xml", "alice").key("callee", format!("bob@{DOMAIN}")))?;
    callee.finish()?.check()?;
    let call = until("the end of the call", SOON, || -> Result<Option<serde_json::Value>> {
        let shown = site.sipctl(&["--json", "history", &format!("alice@{DOMAIN}")], "")?;
        let calls: Vec<serde_json::Value> = serde_json::from_str(&shown)?;
        Ok(calls.into_iter().find(|call| call["disposition"] == "answered"))
    })?;
    let shown = site.sipctl(&["--json", "call", call["call_id"].as_str().unwrap_or_default()], "")?;
    let events: Vec<serde_json::Value> = serde_json::from_str(&shown)?;
    ensure!(events.len() == 2 && events[1]["event"] == "call-end", "{events:?}");
    ensure!(events[0]["extra"] == serde_json::json!({"form": "plain", "kept": "plain", "trunk": "bob"}), "{events:?}");
    run(&kamailio, phone(&kamailio, "unregister_all.xml", "bob"))?;
    Ok(())
}

fn counts(site: &Site, form: &str) -> Result<()> {
    let kamailio = start(site, form)?;
    let mut agent = Agent::udp(&kamailio)?;
    let invite = agent.request("INVITE", &format!("sip:count@{DOMAIN}"), "bob", "count", &[]);
    let answer = agent.ask(&invite).with_context(|| kamailio.log())?;
    agent.send(&ack(&invite, &answer))?;
    ensure!(headers(&answer, "X-Calls") == ["1 0"], "{answer}");
    Ok(())
}

fn resolves(site: &Site, form: &str, suspended: u64) -> Result<()> {
    let alias = format!("{form}@{DOMAIN}");
    site.sipctl(&["alias", "add", &alias, &format!("bob@{DOMAIN}")], "")?;
    let kamailio = start(site, form)?;
    let mut agent = Agent::udp(&kamailio)?;
    let (called, meant) = (format!("sip:{alias}"), format!("bob@{DOMAIN}"));
    for (function, uri, expected) in [
        ("lookup", called.as_str(), format!("1 {meant} sip:{meant}")),
        ("lookup_ex", &called, format!("1 {meant} sip:{meant}")),
        ("find", &called, format!("1 {meant} {called}")),
        ("lookup", "sip:nobody@example.com", "-1 <null> sip:nobody@example.com".to_owned()),
        ("lookup", "sip:example.com", "-2 <null> sip:example.com".to_owned()),
    ] {
        let line = format!("X-Function: {function}");
        let answer = agent.ask(&agent.request("MESSAGE", uri, "alice", "bob", &[&line]))?;
        ensure!(headers(&answer, "X-Meant") == [expected.as_str()], "{function} {uri}: {answer}\n{}", kamailio.log());
    }
    ensure!(statistic(&kamailio, "suspended")? == suspended);
    Ok(())
}

fn registers_jointly(site: &Site) -> Result<()> {
    let kamailio = start(site, "joint")?;
    run(&kamailio, phone(&kamailio, "register.xml", "bob"))?;
    ensure!(site.contacts("bob")?.len() == 1, "{:?}", site.contacts("bob")?);
    run(&kamailio, phone_with_password(&kamailio, "register_wrong_password.xml", "bob", "wrong"))?;
    run(&kamailio, phone(&kamailio, "unregister_all.xml", "bob"))?;
    ensure!(site.contacts("bob")?.is_empty(), "still stored");
    Ok(())
}

fn refuses(site: &Site, form: &str) -> Result<()> {
    let kamailio = start(site, form)?;
    run(&kamailio, phone_with_password(&kamailio, "register_wrong_password.xml", "alice", "wrong"))?;
    ensure!(site.contacts("alice")?.is_empty(), "stored without authentication");
    Ok(())
}

fn unavailable(site: &Site, form: &str) -> Result<()> {
    let kamailio = start(site, form)?;
    site.relay.set_delay(TOO_SLOW);
    let refused = run(&kamailio, phone(&kamailio, "register_expect_503.xml", "alice"));
    site.relay.set_delay(Duration::ZERO);
    refused.map(drop)
}

/// The configuration's own language routes, and calls functions in Lua.
fn no_engine(site: &Site) -> Result<()> {
    let route = "request_route { lua_run(\"ksr_request_route\"); }";
    let kamailio = site.connected(with_lua(site.changed(SCRIPT, "cfgengine \"lua\"", route)?, "async"))?;
    // The script challenges whatever is no success.
    run(&kamailio, phone(&kamailio, "register_wrong_password.xml", "alice"))?;
    ensure!(statistic(&kamailio, "suspended")? == 0, "suspended, but nothing can resume it");
    ensure!(kamailio.log().contains("registrant_checked cannot be resumed in"), "{}", kamailio.log());
    Ok(())
}

/// The names in the table of script functions, and what the script sees.
fn twins(site: &Site) -> Result<()> {
    let table = std::fs::read_to_string(workspace().root().join("src/lib.rs"))?;
    let rows = table.split("\"cassandra_").skip(1).filter_map(|rest| rest.split_once('"'));
    let names = rows.filter(|(_, rest)| rest.starts_with('(')).map(|(name, _)| name);
    let functions: Vec<&str> = names.filter(|name| !INTERNAL.contains(name)).collect();
    ensure!(functions.contains(&"save"), "the table of script functions is not found: {functions:?}");
    let kamailio = start(site, "plain")?;
    let mut agent = Agent::udp(&kamailio)?;
    let request = agent.request("OPTIONS", &format!("sip:{DOMAIN}"), "alice", "alice", &[]);
    let answer = agent.ask(&request).with_context(|| kamailio.log())?;
    let offered: Vec<&str> = headers(&answer, "X-Functions").first().context("no list")?.split(' ').collect();
    let missing: Vec<&&str> = functions.iter().filter(|name| !offered.contains(name)).collect();
    ensure!(missing.is_empty(), "without a KEMI twin: {missing:?}; there are {offered:?}");
    Ok(())
}
