//! `sipctl registrations`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::site::{Site, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("registrations_show_what_is_current_and_all_shows_the_rest", current_and_all),
    ("registrations_are_readable_at_100_columns", readable),
    ("who_is_not_registered_is_said_to_be_so", none),
];

const INSTANCE: &str = "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6";

/// Longer than the table has room for.
const AGENT: &str = "Linphone/5.2.1 (belle-sip/5.2.10) on a telephone that says a lot about what it is";

/// A binding as the module writes it.
fn store(site: &Site, username: &str, port: u16, state: u8, expires_in: &str) -> Result<()> {
    site.execute(&format!(
        "INSERT INTO sip.location (domain, username, binding, contact, received, path, q, expires_at, state, call_id, cseq, \
         user_agent, methods, cflags, instance, reg_id, ruid, socket, dc, registrar, registered_at, fmt) VALUES \
         ('reg.example.com', '{username}', 'flow:{port}', 'sip:{username}@192.0.2.17:{port};transport=tcp;ob', \
         'sip:203.0.113.9:40123;transport=tcp', '<sip:edge1.example.com;lr;ob>', 500, toTimestamp(now()) {expires_in}, {state}, \
         'call-{port}', 7, '{AGENT}', 0, 0, '{INSTANCE}', 1, 'ruid', 'tcp:127.0.0.3:5060', \
         'dc1', 'registrar-1.example.com', toTimestamp(now()), 1) USING TTL 600"
    ))
}

fn three(site: &Site, username: &str) -> Result<()> {
    store(site, username, 5071, 1, "+ 300s")?;
    store(site, username, 5072, 1, "- 10s")?;
    store(site, username, 5073, 0, "+ 300s")
}

fn states(listed: &Value) -> Vec<(&str, bool)> {
    let expires = |one: &Value| one["expires"].as_u64().is_some_and(|left| left > 0);
    listed
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| (one["state"].as_str().unwrap_or_default(), expires(one)))
        .collect()
}

fn current_and_all(site: &Site) -> Result<()> {
    three(site, "alice")?;
    let current = site.json("registrations sip:alice@REG.example.com", "")?;
    ensure!(states(&current) == [("live", true)], "{current}");
    let all = site.json("registrations alice@reg.example.com --all", "")?;
    ensure!(states(&all) == [("live", true), ("lapsed", false), ("removed", false)], "{all}");
    let live = &current[0];
    ensure!(live["expires"].as_u64().is_some_and(|left| (200..=300).contains(&left)), "{live}");
    ensure!(live["q"] == 0.5 && live["reg_id"] == 1 && live["cseq"] == 7, "{live}");
    for (field, expected) in [
        ("contact", "sip:alice@192.0.2.17:5071;transport=tcp;ob"),
        ("path", "<sip:edge1.example.com;lr;ob>"),
        ("received", "sip:203.0.113.9:40123;transport=tcp"),
        ("socket", "tcp:127.0.0.3:5060"),
        ("user_agent", AGENT),
        ("instance", INSTANCE),
        ("dc", "dc1"),
        ("registrar", "registrar-1.example.com"),
        ("call_id", "call-5071"),
    ] {
        ensure!(live[field] == expected, "{field} of {live}");
    }
    ensure!(live["registered"].as_str().is_some_and(|at| at.ends_with('Z')), "{live}");
    let table = site.ok("registrations alice@reg.example.com --all", "")?;
    for part in [":5071", ":5072", ":5073", "lapsed", "removed", "q 0.5", "path <sip:edge1", "reg-id 1", INSTANCE] {
        ensure!(table.contains(part), "no {part} in\n{table}");
    }
    Ok(())
}

fn readable(site: &Site) -> Result<()> {
    three(site, "bob")?;
    let shown = site.in_terminal("registrations bob@reg.example.com --all", "")?;
    ensure!(shown.code == Some(0), "{shown}");
    let widest = shown.stdout.lines().map(|line| line.trim_end().chars().count()).max().context("no lines")?;
    ensure!(widest <= 100, "{widest} columns: {shown}");
    for whole in [
        "sip:bob@192.0.2.17:5071;transport=tcp",
        "path <sip:edge1.example.com;lr;ob>",
        "received sip:203.0.113.9:40123;transport=tcp",
        "agent Linphone/5.2.1 (belle-sip/5.2.10)",
        INSTANCE,
        "registrar dc1 registrar-1.example.com",
        "lapsed",
        "removed",
    ] {
        ensure!(shown.stdout.contains(whole), "{whole} is broken or missing: {shown}");
    }
    Ok(())
}

fn none(site: &Site) -> Result<()> {
    let said = site.ok("registrations nobody@reg.example.com", "")?;
    ensure!(said == "nobody@reg.example.com is not registered.\n", "{said}");
    ensure!(site.json("registrations nobody@reg.example.com", "")? == serde_json::json!([]));
    Ok(())
}
