//! What the module does when something around it fails.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{ALL_IN_ONE, DOMAIN, PASSWORD, PLAIN, Site, phone, run, statistic, status};
use lab::builds::Build;
use lab::kamailio::Kamailio;
use lab::process::Signal;
use lab::sipp::{Running, Sipp};
use lab::wait::until;

const USERS: [&str; 10] = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy"];

fn main() -> ExitCode {
    common::suite(
        &USERS,
        &[
            ("the_processes_show_under_telling_names", names),
            ("a_frozen_cassandra_gives_503_opens_the_breaker_and_recovers", frozen),
            ("cassandra_frozen_killed_and_restarted_under_traffic_every_request_is_answered_async", |site| {
                outages(site, site.all_in_one())
            }),
            ("cassandra_frozen_killed_and_restarted_under_traffic_every_request_is_answered_plain", |site| {
                outages(site, site.plain())
            }),
            ("a_stop_under_load_loses_no_register_that_was_answered_async", |site| stop_under_load(site, ALL_IN_ONE)),
            ("a_stop_under_load_loses_no_register_that_was_answered_plain", |site| stop_under_load(site, PLAIN)),
            ("the_io_process_killed_stops_the_server_and_leaves_nothing", io_killed),
            ("the_main_process_killed_leaves_nothing", main_killed),
            ("a_stop_ends_all_processes", stopped),
            ("a_wrong_parameter_stops_the_start_with_a_sentence", wrong_parameters),
            ("a_panic_in_a_command_and_one_in_the_io_process_cost_one_request", panics),
            ("without_forking_it_registers", no_fork),
            ("bindings_that_could_outlive_gc_grace_are_refused_until_the_table_is_changed", expiry),
            // The last: they stop Cassandra.
            ("it_starts_without_cassandra_and_connects_by_itself", starts_without_cassandra),
        ],
    )
}

fn names(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.all_in_one())?;
    kamailio.find_process("Cassandra I/O")?;
    let processes = kamailio.core_ps()?;
    let resuming = processes.iter().filter(|process| process.description == "Cassandra resume worker").count();
    ensure!(resuming == 4, "{processes:?}");
    Ok(())
}

fn frozen(site: &Site) -> Result<()> {
    for config in [site.all_in_one(), site.plain()] {
        let kamailio = site.connected(config)?;
        run(&kamailio, phone(&kamailio, "register.xml", "alice"))?;
        let cassandra = site.cassandra.lock().map_err(|_| anyhow::anyhow!("a test panicked"))?;
        cassandra.freeze()?;
        let refused = run(
            &kamailio,
            phone(&kamailio, "register_expect_503.xml", "alice").ignore_unexpected().calls(40).rate(40.0),
        );
        let opened = until("an open breaker", Duration::from_secs(10), || {
            status(&kamailio, "breaker_opened").is_ok_and(|n| n > 0)
        });
        cassandra.thaw()?;
        refused?;
        opened.with_context(|| kamailio.log())?;
        until("an answer of 200", Duration::from_secs(30), || {
            phone(&kamailio, "register.xml", "alice").run().is_ok_and(|report| report.check().is_ok())
        })
        .with_context(|| kamailio.log())?;
        let rpc = kamailio.rpc("cassandra.status", serde_json::json!([]))?;
        ensure!(rpc["breaker"] == "closed", "{rpc}");
    }
    Ok(())
}

/// REGISTERs of alice without end.
fn traffic(kamailio: &Kamailio, scenario: &str, rate: f64) -> Result<Running> {
    phone(kamailio, scenario, "alice")
        .rate(rate)
        .ignore_unexpected()
        .endless()
        .timeout(Duration::from_secs(300))
        // Ends soon when nobody answers any more.
        .arg("-max_non_invite_retrans")
        .arg("3")
        .spawn()
}

fn accepted_more(kamailio: &Kamailio, what: &str) -> Result<()> {
    let before = statistic(kamailio, "accepted_regs")?;
    until(&format!("REGISTERs that are accepted {what}"), Duration::from_secs(60), || {
        statistic(kamailio, "accepted_regs").is_ok_and(|now| now >= before + 20)
    })
    .with_context(|| kamailio.log())
}

fn refused_more(kamailio: &Kamailio, what: &str) -> Result<()> {
    let before = statistic(kamailio, "unavailable")?;
    until(&format!("REGISTERs that are refused {what}"), Duration::from_secs(60), || {
        statistic(kamailio, "unavailable").is_ok_and(|now| now >= before + 20)
    })
    .with_context(|| kamailio.log())
}

fn outages(site: &Site, config: lab::kamailio::Config) -> Result<()> {
    let kamailio = site.connected(config)?;
    let mut cassandra = site.cassandra.lock().map_err(|_| anyhow::anyhow!("a test panicked"))?;
    let phones = traffic(&kamailio, "register_200_or_503.xml", 50.0)?;
    accepted_more(&kamailio, "at the beginning")?;
    cassandra.freeze()?;
    let frozen = refused_more(&kamailio, "while it is frozen");
    cassandra.thaw()?;
    frozen?;
    accepted_more(&kamailio, "after the thaw")?;
    cassandra.kill9()?;
    refused_more(&kamailio, "while it is dead")?;
    cassandra.restart()?;
    accepted_more(&kamailio, "after the restart")?;
    phones.finish()?.check().with_context(|| kamailio.log())?;
    until("the end of all operations", Duration::from_secs(10), || {
        status(&kamailio, "in_flight").is_ok_and(|left| left == 0)
    })?;
    ensure!(status(&kamailio, "panics")? == 0, "{}", kamailio.log());
    Ok(())
}

fn stop_under_load(site: &Site, script: &str) -> Result<()> {
    // Otherwise Kamailio waits at its stop for the timers' lock, which a worker may have taken with it into its end.
    let stoppable = "dns_cache_init=off\ndst_blocklist_init=off";
    let mut kamailio = site.connected(site.with_settings(script, stoppable)?)?;
    let subscribers = USERS.map(|user| (user, DOMAIN, PASSWORD));
    let phones = Sipp::new("register_new_contact.xml")
        .target(kamailio.address())
        .auth_uri(DOMAIN)
        .users(subscribers)
        .calls(400)
        .rate(150.0)
        .timeout(Duration::from_secs(60))
        .arg("-max_non_invite_retrans")
        .arg("3")
        .spawn()?;
    until("some load", Duration::from_secs(20), || statistic(&kamailio, "accepted_regs").is_ok_and(|n| n >= 100))
        .with_context(|| kamailio.log())?;
    kamailio.stop()?;
    nothing_left(&kamailio)?;
    let answered = phones.wait()?.successful;
    // Each had a contact of its own, so what was stored can be counted.
    let mut stored = 0;
    for user in USERS {
        stored += site.contacts(user)?.len() as u64;
    }
    ensure!((100..400).contains(&answered), "{answered} were answered: the stop did not come under load");
    ensure!(stored >= answered, "{answered} were answered 200 but {stored} are stored\n{}", kamailio.log());
    let kamailio = site.connected(site.all_in_one())?;
    for user in USERS {
        run(&kamailio, phone(&kamailio, "unregister_all.xml", user))?;
    }
    Ok(())
}

fn io_killed(site: &Site) -> Result<()> {
    let kamailio = site.connected(site.all_in_one())?;
    let _phones = traffic(&kamailio, "register.xml", 50.0)?;
    accepted_more(&kamailio, "before")?;
    let io = kamailio.find_process("Cassandra I/O")?;
    lab::process::signal(io.pid, Signal::KILL)?;
    nothing_left(&kamailio)
}

fn main_killed(site: &Site) -> Result<()> {
    let mut kamailio = site.connected(site.all_in_one())?;
    let _phones = traffic(&kamailio, "register.xml", 50.0)?;
    accepted_more(&kamailio, "before")?;
    kamailio.kill9_main()?;
    nothing_left(&kamailio)
}

fn stopped(site: &Site) -> Result<()> {
    let mut kamailio = site.connected(site.all_in_one())?;
    kamailio.stop()?;
    nothing_left(&kamailio)
}

fn nothing_left(kamailio: &Kamailio) -> Result<()> {
    until("the end of all processes", Duration::from_secs(10), || kamailio.pids().is_empty())
        .with_context(|| format!("left: {:?}\n{}", kamailio.pids(), kamailio.log()))?;
    Ok(())
}

fn wrong_parameters(site: &Site) -> Result<()> {
    for (parameter, sentence) in [
        ("\"call_timeout\", 1", "parameter call_timeout is 1 but must be 10 to 30000 milliseconds"),
        ("\"call_timeout\", 100", "parameter request_timeout is 200 but must be at most half of call_timeout (100)"),
        ("\"call_timeout\", 30000", "parameter call_timeout is 30000 but must be below tm's fr_timer (30000 ms)"),
        (
            "\"contact_points\", \"a b\"",
            "parameter contact_points is 'a b' but must be a comma-separated list of host or host:port",
        ),
        ("\"contact_points\", \"host:0\"", "parameter contact_points is 'host:0'"),
        ("\"keyspace\", \"a-b\"", "parameter keyspace is 'a-b' but must be at most 48 letters, digits and underscores"),
        ("\"local_dc\", \"\"", "parameter local_dc is empty"),
        ("\"username\", \"u\"", "parameter username is set but password is not"),
        ("\"password\", \"p\"", "parameter password is set but username is not"),
        ("\"tls_ca_file\", \"/no/such\"", "parameter tls_ca_file is '/no/such' but that file cannot be read"),
        ("\"tls_cert_file\", \"/etc/hostname\"", "parameters tls_cert_file and tls_key_file belong together"),
        ("\"connect_timeout\", 1", "parameter connect_timeout is 1 but must be 100 to 60000 milliseconds"),
        ("\"breaker_threshold\", 0", "parameter breaker_threshold is 0 but must be 1 to 1000000"),
        ("\"retry_interval\", 0", "parameter retry_interval is 0 but must be 10 to 3600000 milliseconds"),
        ("\"credential_cache_size\", 0", "parameter credential_cache_size is 0 but must be 1 to 10000000"),
        ("\"credential_cache_ttl\", -1", "parameter credential_cache_ttl is -1 but must be 0 to 86400"),
        (
            "\"credential_cache_negative_ttl\", -1",
            "parameter credential_cache_negative_ttl is -1 but must be 0 to 86400",
        ),
        ("\"auth_failures_per_source\", -1", "parameter auth_failures_per_source is -1 but must be 0 to 1000000000"),
        ("\"auth_failures_per_aor\", -1", "parameter auth_failures_per_aor is -1 but must be 0 to 1000000000"),
        ("\"auth_failures_interval\", 0", "parameter auth_failures_interval is 0 but must be 1 to 86400"),
        ("\"auth_source\", \"si\"", "parameter auth_source is 'si' but must be a variable, for example $si"),
        (
            "\"algorithms\", \"MD5,SHA-1\"",
            "parameter algorithms is 'MD5,SHA-1' but must be a list of MD5, SHA-256 and SHA-512-256",
        ),
        (
            "\"load_credentials\", \"$avp(x)=\"",
            "parameter load_credentials is '$avp(x)=' but '$avp(x)=' is not understood",
        ),
        (
            "\"load_credentials\", \"$ci=lang\"",
            "parameter load_credentials names $ci, which is no variable that can be set",
        ),
        ("\"use_domain\", 2", "parameter use_domain is 2 but must be 0 or 1"),
        ("\"add_authinfo_hdr\", 2", "parameter add_authinfo_hdr is 2 but must be 0 or 1"),
        ("\"check_digest_uri\", 2", "parameter check_digest_uri is 2 but must be 0 or 1"),
        ("\"max_in_flight\", 0", "parameter max_in_flight is 0 but must be 1 to 1000000"),
        ("\"batch_interval\", 50000", "parameter batch_interval is 50000 but must be 0 to 20000 microseconds"),
        ("\"resume_workers\", 0", "parameter resume_workers is 0 but must be 1 to 1000"),
        ("\"drain_timeout\", -1", "parameter drain_timeout is -1 but must be 0 to 50000 milliseconds"),
        ("\"default_expires\", 0", "parameter default_expires is 0 but must be 1 to 31536000"),
        ("\"min_expires\", 9999", "parameter min_expires is 9999 but must not exceed max_expires (3600)"),
        ("\"min_expires_mode\", 2", "parameter min_expires_mode is 2 but must be 0 or 1"),
        ("\"max_expires\", -1", "parameter max_expires is -1 but must be 0 to 31536000"),
        ("\"default_expires_range\", 101", "parameter default_expires_range is 101 but must be 0 to 100"),
        ("\"expires_range\", -1", "parameter expires_range is -1 but must be 0 to 100"),
        ("\"case_sensitive\", 2", "parameter case_sensitive is 2 but must be 0 to 1"),
        ("\"append_branches\", 2", "parameter append_branches is 2 but must be 0 to 1"),
        ("\"use_expired_contacts\", 2", "parameter use_expired_contacts is 2 but must be 0 to 1"),
        ("\"path_use_received\", 2", "parameter path_use_received is 2 but must be 0 or 1"),
        ("\"path_check_local\", 2", "parameter path_check_local is 2 but must be 0 or 1"),
        ("\"nat_bflag\", 32", "parameter nat_bflag is 32 but must be the number of a flag, 0 to 31, or -1 for none"),
        ("\"outbound_mode\", 3", "parameter outbound_mode is 3 but must be 0 (off), 1 (supported) or 2 (required)"),
        ("\"regid_mode\", 2", "parameter regid_mode is 2 but must be 0 or 1"),
        ("\"flow_timer\", 1000", "parameter flow_timer is 1000 but must be 0 to 999"),
        ("\"gruu_enabled\", 2", "parameter gruu_enabled is 2 but must be 0 or 1"),
        ("\"received_avp\", \"x\"", "parameter received_avp is 'x' but must be a variable, for example $avp(RECEIVED)"),
        ("\"sock_flag\", 40", "parameter sock_flag is 40 but must be the number of a flag"),
        ("\"sock_mode\", 2", "parameter sock_mode is 2 but must be 0 or 1"),
        ("\"method_filtering\", 2", "parameter method_filtering is 2 but must be 0 or 1"),
        ("\"lookup_filter_mode\", 2", "parameter lookup_filter_mode is 2 but must be 0 or 1"),
        ("\"desc_time_order\", 2", "parameter desc_time_order is 2 but must be 0 or 1"),
        ("\"xavp_rcd_mask\", 32", "parameter xavp_rcd_mask is 32 but must be 0 to 31"),
        ("\"node_uri\", \"here\"", "parameter node_uri is 'here' but must be a SIP URI"),
        ("\"stale_lookup\", 2", "parameter stale_lookup is 2 but must be 0 or 1"),
        ("\"stale_bindings\", 0", "parameter stale_bindings is 0 but must be 1 to 100000000"),
        ("\"state_dir\", \"/no/such\"", "parameter state_dir is '/no/such' but no file can be made there"),
        ("\"ka_mode\", 8", "parameter ka_mode is 8 but must be 0 to 7"),
        ("\"ka_interval\", 0", "parameter ka_interval is 0 but must be 1 to 3600"),
        ("\"ka_from\", \"me\"", "parameter ka_from is 'me' but must be a SIP URI"),
        ("\"max_contacts\", -1", "parameter max_contacts is -1 but must be 0 to 100000"),
        ("\"retry_after\", -1", "parameter retry_after is -1 but must be 0 to 86400"),
        ("\"default_q\", 1001", "parameter default_q is 1001 but must be -1 to 1000"),
        ("\"contact_max_size\", 1", "parameter contact_max_size is 1 but must be 16 to 4096"),
        ("\"use_path\", 2", "parameter use_path is 2 but must be 0 or 1"),
        ("\"path_mode\", 3", "parameter path_mode is 3 but must be 0 (off), 1 (lazy) or 2 (strict)"),
        ("\"cseq_delay\", -1", "parameter cseq_delay is -1 but must be 0 to 3600"),
    ] {
        let config = site.with_settings(PLAIN, &format!("modparam(\"cassandra\", {parameter})"))?;
        let log = Kamailio::start_expecting_failure(config)?;
        ensure!(log.contains(sentence), "modparam {parameter}: the log does not say '{sentence}':\n{log}");
    }
    Ok(())
}

fn expiry(site: &Site) -> Result<()> {
    site.sipctl(&["schema", "check"], "")?;
    let refused = site.sipctl(&["schema", "check", "--max-expires", "20000"], "").err().context("it is accepted")?;
    let sentence = "max_expires is 20000, and a binding's row lives 60 seconds longer, but table sip.location has \
                    gc_grace_seconds 10800: set max_expires to at most 10740, or run 'ALTER TABLE sip.location WITH \
                    gc_grace_seconds = 20060' on Cassandra";
    ensure!(format!("{refused:#}").contains(sentence), "{refused:#}");

    let script = std::fs::read_to_string(lab::workspace().root().join("tests/cfg/plain.cfg"))?;
    let mut config = site.plain();
    let parameter = "modparam(\"cassandra\", \"max_expires\", 20000)\nrequest_route {";
    config.cfg = script.replace("request_route {", parameter).into();
    let kamailio = Kamailio::start(config)?;
    until("the refusal in the log", Duration::from_secs(30), || kamailio.log().contains(sentence))?;
    run(&kamailio, phone(&kamailio, "register_expect_503.xml", "alice"))?;

    let cassandra = site.cassandra.lock().map_err(|_| anyhow::anyhow!("a test panicked"))?;
    cassandra.execute("ALTER TABLE sip.location WITH gc_grace_seconds = 20060")?;
    kamailio.wait_for_cassandra()?;
    run(&kamailio, phone(&kamailio, "register.xml", "alice"))?;
    site.sipctl(&["schema", "check", "--max-expires", "20000"], "")?;
    cassandra.execute("ALTER TABLE sip.location WITH gc_grace_seconds = 10800")
}

fn panics(site: &Site) -> Result<()> {
    let faults = r#"request_route {
        if ($rU == "command") { cassandra_test_panic(); sl_send_reply("200", "rc $rc"); exit; }
        if ($rU == "io") { cassandra_test_io_panic(); sl_send_reply("200", "rc $rc $cassandra(reason)"); exit; }"#;
    let mut config = site.changed(PLAIN, "request_route {", faults)?;
    // Has functions that panic on purpose.
    config.module_dir = Some(Build::with("fault-injection", &["cassandra"])?.modules());
    let kamailio = site.connected(config)?;
    for _ in 0..5 {
        let answer = common::options(&kamailio, "command")?;
        ensure!(answer == "SIP/2.0 200 rc -1", "{answer}");
        let answer = common::options(&kamailio, "io")?;
        ensure!(answer == "SIP/2.0 200 rc -10 failed", "{answer}");
    }
    ensure!(status(&kamailio, "panics")? == 5, "not counted");
    ensure!(kamailio.log().contains("bug: on purpose, for a test"), "{}", kamailio.log());
    run(&kamailio, phone(&kamailio, "register.xml", "alice"))?;
    Ok(())
}

fn no_fork(site: &Site) -> Result<()> {
    let mut config = site.changed(PLAIN, "auto_aliases=no", "auto_aliases=no\nfork=no")?;
    config.tcp = false;
    let kamailio = Kamailio::start(config)?;
    until("an answer of 200", Duration::from_secs(30), || {
        phone(&kamailio, "register.xml", "alice").run().is_ok_and(|report| report.check().is_ok())
    })
    .with_context(|| kamailio.log())?;
    Ok(())
}

fn starts_without_cassandra(site: &Site) -> Result<()> {
    let mut cassandra = site.cassandra.lock().map_err(|_| anyhow::anyhow!("a test panicked"))?;
    cassandra.kill9()?;
    let kamailio = Kamailio::start(site.all_in_one())?;
    run(&kamailio, phone(&kamailio, "register_expect_503.xml", "alice"))?;
    cassandra.restart()?;
    kamailio.wait_for_cassandra()?;
    run(&kamailio, phone(&kamailio, "register.xml", "alice"))?;
    // The same session survives another restart.
    cassandra.kill9()?;
    run(&kamailio, phone(&kamailio, "register_expect_503.xml", "alice"))?;
    cassandra.restart()?;
    until("an answer of 200", Duration::from_secs(60), || {
        phone(&kamailio, "register.xml", "alice").run().is_ok_and(|report| report.check().is_ok())
    })
    .with_context(|| kamailio.log())?;
    Ok(())
}
