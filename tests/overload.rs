//! Twice as much as the nodes can do: what they take is done in time, the rest is refused at once.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::sip::{Agent, headers, status};
use common::{DOMAIN, PASSWORD, Site, phone, run};
use lab::RunDir;
use lab::kamailio::{Config, Kamailio};
use lab::sipp::Sipp;
use lab::topology::{Role, Topology};
use lab::{net, wait};
use serde_json::json;

/// Who registers all the time; bob is called.
const USERS: [&str; 4] = ["alice", "carol", "dave", "erin"];

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob", "carol", "dave", "erin"],
        &[
            ("a_registrar_with_too_few_workers_refuses_what_it_cannot_do_in_time", few_workers),
            ("a_load_balancer_refuses_what_is_new_and_never_a_bye", load_balancer),
            ("with_a_slow_cassandra_the_rest_is_refused_and_no_load_is_multiplied", slow_cassandra),
            ("what_one_node_refuses_another_takes", another_takes),
            ("what_all_nodes_refuse_is_refused_at_once", all_refuse),
            ("a_target_that_is_no_number_stops_the_start", wrong_target),
        ],
    )
}

/// What takes longer has been sent again, and again.
const IN_TIME: Duration = Duration::from_millis(1600);
/// How long a load lasts.
const LOAD: Duration = Duration::from_secs(6);
const SOON: Duration = Duration::from_secs(20);
/// The default. Cassandra, slowed down, is not far from it at its peak.
const TARGET_MS: u32 = 100;

/// Phones that register: accepted, or refused as it must be done.
fn phones(target: &Kamailio) -> Sipp {
    let users = USERS.map(|user| (user, DOMAIN, PASSWORD));
    let phones = Sipp::new("register_or_refused.xml").target(target.address()).auth_uri(DOMAIN).users(users);
    // Longer than IN_TIME.
    phones.arg("-recv_timeout").arg("2000").trace_messages(false)
}

/// Registrations a second of a few phones, each of which begins the next when the last is done: what can be done at all.
fn peak(phones: Sipp) -> Result<f64> {
    let report = phones.rate(1000.0).calls(120).arg("-l").arg("5").run()?;
    ensure!(report.response_times.count() >= 100, "{report:?}");
    Ok(report.response_times.count() as f64 / report.elapsed.as_secs_f64())
}

/// Registrations a second that are accepted in time of those that are begun at this rate.
fn goodput(phones: Sipp, rate: f64) -> Result<f64> {
    let calls = (rate * LOAD.as_secs_f64()) as u64;
    let report = phones.rate(rate).calls(calls).arg("-l").arg("100000").run()?;
    Ok(report.response_times.within(IN_TIME) as f64 / LOAD.as_secs_f64())
}

/// Compares what is done in time of twice the sustainable load with the peak, and with what is done of it without refusing.
fn compare(what: &str, phones: impl Fn() -> Sipp, nodes: &[&Kamailio]) -> Result<()> {
    let before = peak(phones())?;
    let twice = 2.0 * before;
    ensure!(refused(nodes)? < 10, "refused without overload");
    let with = goodput(phones(), twice)?;
    let refused = refused(nodes)?;
    nodes.iter().try_for_each(|node| refuse_nothing(node))?;
    let after = peak(phones())?;
    nodes.iter().try_for_each(|node| node.rpc("cfg.set_now_int", json!(["overload", "target", 0])).map(drop))?;
    let without = goodput(phones(), twice)?;
    let line = format!(
        "{what}: {before:.0}/s and {after:.0}/s at the peak before and after; of {twice:.0}/s {with:.0}/s are done in time with \
         refusing ({refused} refused), {without:.0}/s without"
    );
    println!("{line}");
    // The machine may have had less to give meanwhile.
    ensure!(with >= 0.8 * before.min(after) && refused > 0, "{line}");
    ensure!(without < with, "not needed: {line}");
    Ok(())
}

/// A number of overload.cfg.
fn variable(node: &Kamailio, name: &str) -> Result<i64> {
    let name = format!("overload_{name}");
    let answer = node.rpc("pv.shvGet", json!([name]))?;
    answer["value"].as_i64().with_context(|| format!("{answer}"))
}

/// Requests that nodes have refused because of overload.
fn refused(nodes: &[&Kamailio]) -> Result<u64> {
    sum(nodes, "script.overload_refused")
}

/// A statistic of several nodes.
fn sum<'n>(nodes: impl IntoIterator<Item = &'n &'n Kamailio>, name: &str) -> Result<u64> {
    let one = |node: &&Kamailio| node.rpc("stats.fetchn", json!([name]))?[name].as_u64().context("no such statistic");
    nodes.into_iter().map(one).sum()
}

fn few_workers(site: &Site) -> Result<()> {
    let dispatcher = net::loopback();
    let list = RunDir::new("overload")?;
    list.write("dispatcher.list", &format!("2 sip:{dispatcher}:5060\n"))?;
    let slow = "usleep(\"12000\");\n    route(REGISTER);";
    let mut config: Config = site.changed("kamailio-cfg/registrar.cfg", "route(REGISTER);", slow)?;
    config.workers = 1;
    let config = config.env("NONCE_SECRET", "any").env("DISPATCHER_LIST", list.join("dispatcher.list").display());
    let registrar = site.connected(config.env("LATENCY_TARGET_MS", TARGET_MS))?;
    compare("a registrar with one slow worker", || phones(&registrar).local(dispatcher), &[&registrar])
        .with_context(|| registrar.log())
}

fn load_balancer(site: &Site) -> Result<()> {
    let slow = "usleep(\"12000\");\n        route(ADD_PATH);";
    let slow = site.changed("kamailio-cfg/load-balancer.cfg", "route(ADD_PATH);", slow)?;
    let mut plan = site.roles(1);
    for node in plan.of(Role::LoadBalancer) {
        node.cfg = slow.cfg.clone();
        node.workers = 1;
        node.env.push(("LATENCY_TARGET_MS".to_owned(), TARGET_MS.to_string()));
    }
    let topology = Topology::start(plan)?;
    let balancer = topology.of(Role::LoadBalancer)[0];
    let (address, port) = (net::loopback(), 5062);
    run(balancer, phone(balancer, "register.xml", "bob").local(address).local_port(port))?;
    let calls = 10;
    let answering = Sipp::new("uas_answer.xml").local(address).local_port(port).calls(calls).spawn()?;
    // They hang up while the load lasts: when the peak has been found, and the share of what is refused.
    let caller = phone(balancer, "uac_invite_auth.xml", "alice").calls(calls).key("callee", format!("bob@{DOMAIN}"));
    let talking = caller.rate(10.0).pause(Duration::from_secs(9)).spawn()?;
    compare("a load balancer with one slow worker", || phones(balancer), &[balancer])
        .with_context(|| topology.logs())?;
    talking.wait()?.check().with_context(|| topology.logs())?;
    answering.wait()?.check()
}

fn slow_cassandra(site: &Site) -> Result<()> {
    // By their default deadlines the registrars give up before it is too late for a phone.
    let patient =
        "modparam(\"cassandra\", \"call_timeout\", 20000)\nmodparam(\"cassandra\", \"request_timeout\", 10000)";
    let patient = site.with_settings("kamailio-cfg/registrar.cfg", patient)?;
    let mut plan = site.roles(2).env("LATENCY_TARGET_MS", 2 * TARGET_MS);
    plan.of(Role::Registrar).for_each(|node| node.cfg = patient.cfg.clone());
    let topology = Topology::start(plan)?;
    let balancer = topology.of(Role::LoadBalancer)[0];
    // The credentials are remembered from here on; what is slow are the bindings.
    peak(phones(balancer))?;
    site.relay.set_time_per_frame(Duration::from_millis(8));
    let compared = compare("registrars over a slow Cassandra", || phones(balancer), &topology.of(Role::Registrar));
    site.relay.set_time_per_frame(Duration::ZERO);
    compared.with_context(|| topology.logs())?;
    let came = sum([&balancer], "core.rcv_requests_register")?;
    let asked = sum(&topology.of(Role::Registrar), "core.rcv_requests_register")?;
    ensure!(asked < came + came / 4, "{came} came to the load balancer, and {asked} to the registrars");
    Ok(())
}

/// Makes a node refuse nearly all that is new for some seconds.
fn refuse(node: &Kamailio) -> Result<()> {
    node.rpc("pv.shvSet", json!(["overload_needed", "int", 950]))?;
    wait::until("it to refuse", SOON, || variable(node, "share").is_ok_and(|share| share > 500))
}

/// Ends that, which else takes some seconds.
fn refuse_nothing(node: &Kamailio) -> Result<()> {
    node.rpc("pv.shvSet", json!(["overload_needed", "int", 0]))?;
    wait::until("it to take all", SOON, || variable(node, "share").is_ok_and(|share| share == 0))
}

/// The answers to as many REGISTERs without credentials.
fn answers(balancer: &Kamailio, count: u32) -> Result<Vec<String>> {
    let mut phone = Agent::udp(balancer)?;
    (0..count).map(|_| phone.ask(&phone.register("bob", &[&phone.contact("bob", "")]))).collect()
}

fn another_takes(site: &Site) -> Result<()> {
    let topology = Topology::start(site.roles(2))?;
    for role in [Role::Dispatcher, Role::Registrar] {
        // Both, since one of them is not asked at all for bob.
        for node in topology.of(role) {
            refuse(node)?;
            let answers = answers(topology.of(Role::LoadBalancer)[0], 10)?;
            ensure!(answers.iter().all(|answer| status(answer) == Some(401)), "{answers:?}\n{}", topology.logs());
            refuse_nothing(node)?;
        }
        ensure!(refused(&topology.of(role))? > 0, "no {} has refused anything", role.name());
    }
    Ok(())
}

fn all_refuse(site: &Site) -> Result<()> {
    let topology = Topology::start(site.roles(2))?;
    let balancer = topology.of(Role::LoadBalancer)[0];
    let registrars = topology.of(Role::Registrar);
    registrars.iter().try_for_each(|node| refuse(node))?;
    let answers = answers(balancer, 40)?;
    let refusals: Vec<&String> = answers.iter().filter(|answer| status(answer) == Some(503)).collect();
    // 36 on average; the rest is let through, so that the end is seen.
    ensure!(refusals.len() > 20, "{answers:?}");
    for refusal in &refusals {
        let after = headers(refusal, "Retry-After");
        ensure!(after.len() == 1 && after[0].parse::<u32>().is_ok_and(|seconds| seconds >= 5), "{refusal}");
        ensure!(headers(refusal, "X-Backend").is_empty(), "{refusal}");
    }
    // No dispatcher was asked for what the registrars have refused, and hardly a second registrar.
    let name = "core.rcv_requests_register";
    let (dispatched, asked) = (sum(&topology.of(Role::Dispatcher), name)?, sum(&registrars, name)?);
    ensure!(dispatched == 40 && asked < 60, "{dispatched} at the dispatchers, {asked} at the registrars");
    ensure!(registrars.iter().all(|node| variable(node, "share").is_ok_and(|share| share > 0)), "they refuse no more");
    Ok(())
}

fn wrong_target(site: &Site) -> Result<()> {
    let log = Kamailio::start_expecting_failure(site.all_in_one().env("LATENCY_TARGET_MS", "soon"))?;
    ensure!(log.contains("parse error in config file") && log.contains("overload.cfg"), "{log}");
    Ok(())
}
