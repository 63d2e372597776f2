//! Kamailio starts, is asked, and stops.

use lab::kamailio::{Config, Kamailio};
use serde_json::json;

const SCRIPT: &str = r#"#!KAMAILIO
auto_aliases=no
loadmodule "kex.so"
loadmodule "corex.so"
loadmodule "sl.so"
loadmodule "xlog.so"
loadmodule "jsonrpcs.so"
request_route {
    sl_send_reply("200", GREETING);
}
"#;

#[test]
fn it_answers_sip_and_rpc_and_stops_in_order() {
    let config = Config::new(SCRIPT).define_str("GREETING", "Hello there");
    let mut kamailio = Kamailio::start(config).expect("a start");

    let uptime = kamailio.rpc("core.uptime", json!([])).expect("an RPC");
    assert!(uptime["uptime"].is_number(), "{uptime}");
    let ps = kamailio.core_ps().expect("processes");
    assert_eq!(ps.iter().filter(|p| p.description.starts_with("udp receiver")).count(), 4, "{ps:?}");
    assert_eq!(ps.len(), kamailio.pids().len());
    let memory = kamailio.memory().expect("memory");
    assert!(memory.shm_used > 100_000 && memory.pkg_total() > 100_000, "{memory:?}");
    assert_eq!(memory.rss.len(), ps.len());
    let error = kamailio.rpc("no.such", json!([])).expect_err("an unknown command");
    assert!(error.to_string().contains("no.such"), "{error}");

    kamailio.stop().expect("a stop");
    assert!(kamailio.pids().is_empty());
}

#[test]
fn a_failed_start_gives_the_log() {
    let log =
        Kamailio::start_expecting_failure(Config::new("#!KAMAILIO\nloadmodule \"no-such.so\"\n")).expect("a failure");
    assert!(log.contains("could not find module <no-such>"), "{log}");
}

#[test]
fn a_start_that_should_work_quotes_the_log() {
    let error = Kamailio::start(Config::new("#!KAMAILIO\nloadmodule \"no-such.so\"\n")).expect_err("a failure");
    assert!(format!("{error:#}").contains("could not find module <no-such>"), "{error:#}");
}
