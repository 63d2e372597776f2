//! What nodes count, as operators see it: real Prometheus with `deploy/prometheus/`, and what `deploy/grafana/` shows.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::digest::credentials;
use common::sip::{Agent, headers, status};
use common::{DOMAIN, PASSWORD, Site, settings};
use lab::carna::{Node, Plan};
use lab::event_socket::FreeSwitch;
use lab::prometheus::{Prometheus, promtool};
use lab::sipp::Sipp;
use lab::topology::Role;
use lab::wait::until;
use lab::zookeeper::ZooKeeper;
use lab::{RunDir, workspace};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const METRICS_PORT: u16 = 9182;
const RULES: &str = "rules.yml";
/// How long something lasts until it is an alarm, in the rules, and here.
const LASTS: (&str, &str) = ("for: 30s", "for: 1s");

fn main() -> ExitCode {
    common::suite(
        &["alice"],
        &[
            ("the_rules_are_right_and_alarms_come_when_they_should", rules),
            ("each_alarm_is_explained", explained),
            ("all_that_the_alarms_and_the_dashboard_look_at_is_told_by_nodes", told),
            ("a_breaker_that_opens_is_an_alarm", alarmed),
        ],
    )
}

fn ours(directory: &str) -> PathBuf {
    workspace().root().join("deploy").join(directory)
}

fn rules(_: &Site) -> Result<()> {
    let directory = ours("prometheus");
    promtool(&["check", "rules"], &directory.join(RULES))?;
    promtool(&["check", "config"], &directory.join("prometheus.yml"))?;
    promtool(&["test", "rules"], &directory.join("rules-test.yml"))?;
    // These tests notice a rule that is wrong.
    for (place, text) in
        [("breaker_state == 1", "breaker_state == 2"), ("histogram_quantile(0.95", "histogram_quantile(0.5")]
    {
        let broken = RunDir::new("rules")?;
        broken.copy_changed(&directory, ".", &format!("./{RULES}"), place, text)?;
        ensure!(promtool(&["test", "rules"], &broken.join("rules-test.yml")).is_err(), "{text} is not noticed");
    }
    Ok(())
}

/// What follows `key` on the lines of the rules that have it.
fn of_rules(key: &str) -> Result<Vec<String>> {
    let rules = fs::read_to_string(ours("prometheus").join(RULES))?;
    let value = |line: &str| {
        line.trim_start_matches([' ', '-']).strip_prefix(key).map(|value| value.trim_matches([' ', '\'']).to_owned())
    };
    Ok(rules.lines().filter_map(value).collect())
}

fn explained(_: &Site) -> Result<()> {
    let manual = fs::read_to_string(workspace().root().join("docs/operations.md"))?;
    let explained: BTreeSet<String> =
        manual.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned).collect();
    let alarms: BTreeSet<String> = of_rules("alert:")?.into_iter().collect();
    ensure!(alarms.len() > 20 && alarms == explained, "{:?}", alarms.symmetric_difference(&explained));
    let links: BTreeSet<String> = of_rules("runbook:")?.into_iter().collect();
    let sections: BTreeSet<String> =
        alarms.iter().map(|alarm| format!("docs/operations.md#{}", alarm.to_lowercase())).collect();
    ensure!(links == sections, "{:?}", links.symmetric_difference(&sections));
    Ok(())
}

/// What the panels of the dashboard ask, with its variables in their places.
fn of_dashboard() -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(ours("grafana").join("dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let asked = targets.map(|target| target["expr"].as_str().map(str::to_owned).context("a target without expr"));
    let in_place = |expression: String| {
        expression.replace("$__rate_interval", "5s").replace("$dc", ".*").replace("$instance", ".*")
    };
    asked.map(|expression| expression.map(in_place)).collect()
}

/// A node of each role with the module and a media node, with a Prometheus that asks them each second.
struct Scene {
    registrar: Node,
    dispatcher: Node,
    _media: Node,
    _double: FreeSwitch,
    prometheus: Prometheus,
    // After them.
    _zookeeper: ZooKeeper,
    _files: RunDir,
}

impl Scene {
    fn start(site: &Site) -> Result<Self> {
        let zookeeper = ZooKeeper::start(1)?;
        let node = |role: Role| -> Result<Node> {
            let plan = Plan::new(role, &zookeeper, role.name())?;
            let metrics = SocketAddrV4::new(*plan.address().ip(), METRICS_PORT);
            let plan = plan.settings(&settings(site.contact_point(), "dc1"));
            // That Cassandra hangs is no overload here.
            plan.env("METRICS_ADDR", &metrics.to_string()).env("LATENCY_TARGET_MS", "0").start()
        };
        let (registrar, dispatcher) = (node(Role::Registrar)?, node(Role::Dispatcher)?);
        let double = FreeSwitch::start(100)?;
        let media = Plan::of_double(&zookeeper, "media", &double, site.contact_point())?.launch()?;
        for node in [&registrar, &dispatcher] {
            node.until_loaded(3)?;
        }
        let files = RunDir::new("metrics")?;
        files.copy_changed(&ours("prometheus"), ".", &format!("./{RULES}"), LASTS.0, LASTS.1)?;
        let config = fs::read_to_string(files.join("prometheus.yml"))?;
        files.write("prometheus.yml", &config.replace("_interval: 15s", "_interval: 1s"))?;
        let nodes: Vec<String> = [&registrar, &dispatcher, &media].into_iter().map(target).collect();
        files.write("nodes.yml", &nodes.concat())?;
        let prometheus = Prometheus::start(&files.join("prometheus.yml"))?;
        Ok(Self {
            registrar,
            dispatcher,
            _media: media,
            _double: double,
            prometheus,
            _zookeeper: zookeeper,
            _files: files,
        })
    }
}

/// A node as `deploy/prometheus/nodes.yml` has it.
fn target(node: &Node) -> String {
    let (name, address) = (node.name(), node.address());
    let kamailio = match node.role() {
        Role::Media => String::new(),
        _ => format!("kamailio: \"{}:{METRICS_PORT}\", ", address.ip()),
    };
    format!(
        "- targets: [{name}]\n  labels: {{role: {role}, dc: dc1, instance: {name}, {kamailio}carna: \"{}:9180\"}}\n",
        address.ip(),
        role = node.role(),
    )
}

/// Names in an expression that are of what nodes tell, or of rules over that.
fn names(expression: &str) -> BTreeSet<&str> {
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expression.split(|c: char| !is_of_a_name(c));
    words.filter(|word| ["kamailio_", "carna_", "cassandra:"].iter().any(|start| word.starts_with(start))).collect()
}

fn told(site: &Site) -> Result<()> {
    let scene = Scene::start(site)?;
    let prometheus = &scene.prometheus;
    // Something to count.
    let phone = Sipp::new("register.xml").target(scene.registrar.address()).auth_uri(DOMAIN);
    let phone = phone.users([("alice", DOMAIN, PASSWORD)]).local(*scene.dispatcher.address().ip()).local_port(5099);
    let _registering = phone.endless().rate(5.0).timeout(Duration::from_secs(300)).spawn()?;
    let (alarms, panels) = (of_rules("expr:")?, of_dashboard()?);
    ensure!(alarms.len() > 30 && panels.len() > 20, "{} rules, {} targets", alarms.len(), panels.len());
    let wanted: BTreeSet<&str> = alarms.iter().chain(&panels).flat_map(|expression| names(expression)).collect();
    let missing = || -> Result<Vec<&str>> {
        let known = prometheus.names()?;
        Ok(wanted.iter().copied().filter(|name| !known.iter().any(|one| one == name)).collect())
    };
    until("all that is asked for", SOON, || missing().is_ok_and(|missing| missing.is_empty()))
        .with_context(|| format!("nobody tells {:?}\n{}", missing(), prometheus.log()))?;
    for expression in alarms.iter().chain(&panels) {
        prometheus.query(expression)?;
    }
    // What there is a number of at any time is shown.
    let numbers = panels.iter().filter(|expression| !expression.contains("==") && !expression.contains("ALERTS"));
    for expression in numbers {
        until("a number", SOON, || prometheus.query(expression).is_ok_and(|samples| !samples.is_empty()))
            .with_context(|| format!("{expression} shows nothing"))?;
    }
    let is_counted = || -> Result<bool> {
        let rates = prometheus.query("sum by (dc) (rate(kamailio_cassandra_accepted_regs[5s]))")?;
        Ok(rates.iter().any(|rate| rate["metric"]["dc"] == "dc1" && rate["value"][1] != "0"))
    };
    until("registrations", SOON, || is_counted().is_ok_and(|is| is))?;
    let all_scraped = prometheus.query("up == 0")?;
    ensure!(
        all_scraped.iter().all(|one| one["metric"]["job"] == "kamailio" && one["metric"]["instance"] == "media"),
        "{all_scraped:?}"
    );
    Ok(())
}

fn alarmed(site: &Site) -> Result<()> {
    let scene = Scene::start(site)?;
    let alarm = |state: &str| -> Result<bool> {
        let alarms = scene.prometheus.alarms()?;
        let is_it = |one: &Value| one["labels"]["alertname"] == "CassandraBreakerOpen" && one["state"] == state;
        Ok(alarms.iter().any(|one| is_it(one) && one["labels"]["instance"] == "registrar"))
    };
    ensure!(!alarm("firing")?, "there was one before");
    let frozen = site.frozen()?;
    // Each takes an answer of Cassandra's.
    let mut phone = Agent::udp_towards(scene.registrar.address(), *scene.dispatcher.address().ip())?;
    until("the alarm", SOON, || -> Result<Option<()>> {
        let challenge = phone.ask(&phone.register("alice", &[&phone.contact("alice", "")]))?;
        ensure!(status(&challenge) == Some(401), "{challenge}");
        let credentials = credentials(&challenge, "REGISTER", &format!("sip:{DOMAIN}"), "alice")?;
        let answer = phone.ask(&phone.register("alice", &[&phone.contact("alice", ""), &credentials]))?;
        ensure!(status(&answer) == Some(503) && headers(&answer, "Retry-After").len() == 1, "{answer}");
        Ok(alarm("firing")?.then_some(()))
    })
    .with_context(|| scene.prometheus.log())?;
    drop(frozen);
    until("its end", SOON, || alarm("firing").is_ok_and(|is| !is))
}
