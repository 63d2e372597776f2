//! A phone registers and is called, through stock Kamailio, our module and a real Cassandra.

mod common;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{ALL_IN_ONE, PASSWORD, Site, phone, phone_with_password, run, statistic};
use lab::kamailio::Config;
use lab::sipp::Sipp;
use lab::wait::until;

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob", "carol", "dave", "erin"],
        &[
            ("a_registration_is_stored_async", |site| registers(site, site.all_in_one(), "alice")),
            ("a_registration_is_stored_plain", |site| registers(site, site.plain(), "bob")),
            ("a_wrong_password_and_an_unknown_user_get_the_same_answer", refused),
            ("a_contact_is_removed_with_expires_0", removed),
            ("two_contacts_are_kept_and_the_higher_q_comes_first", two_contacts),
            ("a_registration_expires", expires),
            ("a_call_reaches_the_registered_phone_async", |site| calls(site, site.all_in_one())),
            ("a_call_through_the_all_in_one_configuration_is_recorded", recorded),
            ("a_call_reaches_the_registered_phone_plain", |site| calls(site, site.plain())),
            ("a_call_to_an_unregistered_user_gets_404", unregistered),
            ("a_new_password_works_at_once", new_password),
            ("credentials_are_read_once_and_used_for_their_lifetime_only", cached_credentials),
        ],
    )
}

fn registers(site: &Site, config: Config, user: &str) -> Result<()> {
    let kamailio = site.connected(config)?;
    run(&kamailio, phone(&kamailio, "register.xml", user))?;
    let stored = site.contacts(user)?;
    ensure!(stored.len() == 1, "{stored:?}");
    let expires = stored[0]["expires"].as_u64().unwrap_or_default();
    ensure!((3500..=3600).contains(&expires), "{stored:?}");
    run(&kamailio, phone(&kamailio, "register.xml", user).key("contact", stored_address(&stored[0], user)))?;
    ensure!(site.contacts(user)?.len() == 1, "a refresh made a second binding");
    run(&kamailio, phone(&kamailio, "unregister_all.xml", user))?;
    ensure!(site.contacts(user)?.is_empty(), "still there after Contact: *");
    Ok(())
}

/// host:port of a stored contact.
fn stored_address(stored: &serde_json::Value, user: &str) -> String {
    stored["contact"].as_str().unwrap_or_default().trim_start_matches(&format!("sip:{user}@")).to_owned()
}

fn refused(site: &Site) -> Result<()> {
    for config in [site.all_in_one(), site.plain()] {
        let kamailio = site.connected(config)?;
        for (user, password) in [("alice", "wrong"), ("nobody", PASSWORD)] {
            run(&kamailio, phone_with_password(&kamailio, "register_wrong_password.xml", user, password))?;
            ensure!(site.contacts(user)?.is_empty(), "stored without authentication");
        }
    }
    Ok(())
}

fn removed(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.all_in_one())?;
    for contact in ["127.9.9.9:5071", "127.9.9.9:5072"] {
        run(&kamailio, phone(&kamailio, "register.xml", "alice").key("contact", contact))?;
    }
    run(&kamailio, phone(&kamailio, "unregister.xml", "alice").key("contact", "127.9.9.9:5071"))?;
    let left = site.contacts("alice")?;
    ensure!(left.len() == 1 && left[0]["contact"] == "sip:alice@127.9.9.9:5072", "{left:?}");
    run(&kamailio, phone(&kamailio, "unregister_all.xml", "alice"))?;
    Ok(())
}

fn two_contacts(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.all_in_one())?;
    let answering = Sipp::new("uas_answer.xml").spawn()?;
    for (contact, q) in [("127.9.9.9:5071".to_owned(), ";q=0.2"), (answering.local().to_string(), ";q=0.9")] {
        run(&kamailio, phone(&kamailio, "register.xml", "dave").key("contact", contact).key("contact_params", q))?;
    }
    ensure!(site.contacts("dave")?.len() == 2, "two bindings");
    run(&kamailio, phone(&kamailio, "uac_invite_auth.xml", "alice").key("callee", "dave@example.com"))?;
    answering.finish()?.check()?;
    run(&kamailio, phone(&kamailio, "unregister_all.xml", "dave"))?;
    Ok(())
}

fn expires(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.all_in_one())?;
    run(&kamailio, phone(&kamailio, "register.xml", "erin").key("expires", 5))?;
    ensure!(site.contacts("erin")?.len() == 1, "not stored");
    lab::wait::until("the registration's end", std::time::Duration::from_secs(15), || {
        site.contacts("erin").is_ok_and(|contacts| contacts.is_empty())
    })?;
    run(&kamailio, phone(&kamailio, "invite_expect_404.xml", "alice").key("callee", "erin@example.com"))?;
    Ok(())
}

fn calls(site: &Site, config: Config) -> Result<()> {
    let kamailio = site.connected(config)?;
    let callee = Sipp::new("uas_answer.xml").spawn()?;
    run(&kamailio, phone(&kamailio, "register.xml", "carol").key("contact", callee.local()))?;
    run(&kamailio, phone(&kamailio, "uac_invite_auth.xml", "alice").key("callee", "carol@example.com"))?;
    callee.finish()?.check()?;
    run(&kamailio, phone(&kamailio, "unregister_all.xml", "carol"))?;
    Ok(())
}

fn recorded(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.all_in_one())?;
    let callee = Sipp::new("uas_answer.xml").spawn()?;
    run(&kamailio, phone(&kamailio, "register.xml", "erin").key("contact", callee.local()))?;
    run(&kamailio, phone(&kamailio, "uac_invite_auth.xml", "bob").key("callee", "erin@example.com"))?;
    callee.finish()?.check()?;
    run(&kamailio, phone(&kamailio, "unregister_all.xml", "erin"))?;
    for user in ["bob", "erin"] {
        let history = || site.sipctl(&["--csv", "history", &format!("{user}@example.com")], "");
        until("the end of the call", Duration::from_secs(20), || {
            history().is_ok_and(|calls| calls.contains(",answered,"))
        })
        .with_context(|| format!("{:?}\n{}", history(), kamailio.log()))?;
        ensure!(history()?.lines().count() == 2, "{}", history()?);
    }
    Ok(())
}

fn unregistered(site: &Site) -> Result<()> {
    for config in [site.all_in_one(), site.plain()] {
        let kamailio = site.connected(config)?;
        run(&kamailio, phone(&kamailio, "invite_expect_404.xml", "alice").key("callee", "nobody@example.com"))?;
    }
    Ok(())
}

fn new_password(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.all_in_one())?;
    site.sipctl(&["subscriber", "passwd", "bob@example.com", "--password-stdin"], "another")?;
    run(&kamailio, phone(&kamailio, "register_wrong_password.xml", "bob"))?;
    run(&kamailio, phone_with_password(&kamailio, "register.xml", "bob", "another"))?;
    run(&kamailio, phone_with_password(&kamailio, "unregister_all.xml", "bob", "another"))?;
    site.sipctl(&["subscriber", "passwd", "bob@example.com", "--password-stdin"], PASSWORD)?;
    Ok(())
}

fn cached_credentials(site: &Site) -> Result<()> {
    let settings = "modparam(\"cassandra\", \"credential_cache_ttl\", 2)";
    let kamailio = site.connected(site.with_settings(ALL_IN_ONE, settings)?)?;
    let hits = || statistic(&kamailio, "credential_cache_hits");
    let first = Instant::now();
    run(&kamailio, phone(&kamailio, "register.xml", "alice"))?;
    ensure!(hits()? == 0, "accepted without a read");
    run(&kamailio, phone(&kamailio, "register.xml", "alice"))?;
    ensure!(hits()? == 1 || first.elapsed() > Duration::from_secs(2), "read twice");
    site.sipctl(&["subscriber", "disable", "alice@example.com"], "")?;
    let refused = until("the end of the old credentials", Duration::from_secs(20), || {
        phone(&kamailio, "register_wrong_password.xml", "alice").run().is_ok_and(|report| report.check().is_ok())
    });
    site.sipctl(&["subscriber", "enable", "alice@example.com"], "")?;
    refused.with_context(|| kamailio.log())?;
    // Refused credentials are compared with a read that is a second old at most.
    until("the credentials to be accepted again", Duration::from_secs(10), || {
        phone(&kamailio, "unregister_all.xml", "alice").run().is_ok_and(|report| report.check().is_ok())
    })
    .with_context(|| kamailio.log())
}
