//! Nodes that find each other: real Kamailio under real Carna, over a real ZooKeeper.

#[path = "../common/mod.rs"]
mod common;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{Registry, load_balancer};
use fleet::{Announcement, Role, State, Transport};
use lab::carna::Node;
use lab::process::{self, Signal};
use lab::wait::until;
use lab::zookeeper::ZooKeeper;

fn main() -> ExitCode {
    lab::suite::run(
        || Ok(()),
        &[
            ("nodes_find_each_other_and_have_the_same_list", found as lab::suite::Test<()>),
            ("a_kamailio_that_dies_is_started_again_and_not_routed_to_meanwhile", died),
            ("a_kamailio_that_does_not_start_is_told_why", no_start),
            ("a_node_that_is_told_to_end_drains_first", drained),
            ("a_drain_does_not_wait_for_answers_of_nodes_that_are_dead", drained_beside_the_dead),
            ("carna_drain_waits_until_the_node_has_ended", drain_command),
            ("the_first_process_of_a_container_reaps_the_children_of_others", first),
            ("without_zookeeper_the_last_known_nodes_stay_also_over_a_restart", no_zookeeper),
            ("a_node_whose_session_expired_is_published_again_under_its_name", expired),
            ("of_two_nodes_of_one_name_the_second_waits", same_name),
            ("what_is_no_announcement_is_routed_to_by_nobody", garbage),
            ("five_hundred_nodes_are_listed_and_loaded", many),
            ("the_leader_of_zookeeper_and_its_quorum_may_be_lost", quorum),
            ("schedulers_and_prometheus_are_told_how_a_node_is", told),
            ("kamailio_may_read_its_nodes_from_a_database", database),
        ],
    )
}

const SOON: Duration = Duration::from_secs(30);

/// Two load balancers, of which the first has found the second.
fn pair(zookeeper: &ZooKeeper) -> Result<[Node; 2]> {
    let [one, two] = [load_balancer(zookeeper, "lb-1")?.start()?, load_balancer(zookeeper, "lb-2")?.start()?];
    one.until_listed(1, &[&one, &two])?;
    Ok([one, two])
}

fn found(_: &()) -> Result<()> {
    let zookeeper = ZooKeeper::start(1)?;
    let nodes = [load_balancer(&zookeeper, "lb-1")?.start()?, load_balancer(&zookeeper, "lb-2")?.start()?];
    for node in &nodes {
        node.until_listed(1, &[&nodes[0], &nodes[1]])?;
        node.until_loaded(2)?;
    }
    ensure!(nodes[0].list() == nodes[1].list(), "{}\n{}", nodes[0].list(), nodes[1].list());
    Ok(())
}

fn died(_: &()) -> Result<()> {
    let zookeeper = ZooKeeper::start(1)?;
    let [_one, two] = pair(&zookeeper)?;
    let registry = Registry::of(&zookeeper)?;
    let first = two.kamailio()?;
    process::signal(first, Signal::KILL)?;
    registry.until(Role::LoadBalancer, &["lb-1"]).with_context(|| two.log())?;
    registry.until(Role::LoadBalancer, &["lb-1", "lb-2"]).with_context(|| two.log())?;
    ensure!(two.kamailio()? != first, "the same process");
    let log = two.log();
    ensure!(log.contains("has ended by signal 9"), "{log}");
    Ok(())
}

fn no_start(_: &()) -> Result<()> {
    let zookeeper = ZooKeeper::start(1)?;
    let mut node = load_balancer(&zookeeper, "lb-1")?.env("TLS_ADDR", "127.0.0.1:5061").attempts(2).launch()?;
    let code = node.wait_for_exit(SOON)?;
    let log = node.log();
    ensure!(
        code == 1 && log.contains("TLS_CERTIFICATE") && log.contains("2 starts in a row have failed"),
        "{code}: {log}"
    );
    Ok(())
}

fn drained(_: &()) -> Result<()> {
    let zookeeper = ZooKeeper::start(1)?;
    let [one, mut two] = pair(&zookeeper)?;
    two.tell_to_end()?;
    let disabled = format!("1 sip:{} 4 0 ", two.address());
    until("the node that drains in the list", SOON, || one.list().contains(&disabled)).with_context(|| one.log())?;
    two.wait_for_end(SOON)?;
    one.until_listed(1, &[&one])?;
    let log = two.log();
    ensure!(
        log.contains("drained: nothing goes on any more") && log.contains("withdrawn as load-balancer lb-2"),
        "{log}"
    );
    Ok(())
}

fn drained_beside_the_dead(_: &()) -> Result<()> {
    let zookeeper = ZooKeeper::start(1)?;
    let dead: String = (1..=8).map(|host| format!("5 sip:127.1.9.{host}:5060\n")).collect();
    let mut one = load_balancer(&zookeeper, "lb-1")?.further(&dead).start()?;
    let probes = || one.rpc("tm.stats", serde_json::json!([])).is_ok_and(|stats| stats["current"].as_u64() > Some(8));
    until("probes that are not answered", SOON, probes).with_context(|| one.log())?;
    one.tell_to_end()?;
    // Less than the drain's limit.
    one.wait_for_end(SOON)?;
    let log = one.log();
    ensure!(log.contains("drained: nothing goes on any more"), "{log}");
    Ok(())
}

fn drain_command(_: &()) -> Result<()> {
    let zookeeper = ZooKeeper::start(1)?;
    let [one, mut two] = pair(&zookeeper)?;
    two.command(&["drain"])?;
    let log = two.log();
    ensure!(log.contains("drained: nothing goes on any more"), "{log}");
    let error = two.command(&["drain"]).expect_err("it has ended").to_string();
    ensure!(error.contains("no node runs by this configuration"), "{error}");
    two.wait_for_end(SOON)?;
    one.until_listed(1, &[&one])
}

fn first(_: &()) -> Result<()> {
    let zookeeper = ZooKeeper::start(1)?;
    // The parent of this child ends before it.
    let node = load_balancer(&zookeeper, "lb-1")?.first().before("(sleep 0.3 & echo orphan $!)");
    let mut node = node.start()?;
    let carna = node.pid()?;
    let status = std::fs::read_to_string(format!("/proc/{carna}/status"))?;
    ensure!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");
    let children = || std::fs::read_to_string(format!("/proc/{carna}/task/{carna}/children")).unwrap_or_default();
    ensure!(node.log().contains("orphan "), "{}", node.log());
    // Its Kamailio alone is left: no orphan, and nothing of one.
    until("the orphan to be reaped", SOON, || children().split_whitespace().count() == 1)
        .with_context(|| format!("{}\n{}", children(), node.log()))?;
    node.tell_to_end()?;
    node.wait_for_end(SOON)
}

fn no_zookeeper(_: &()) -> Result<()> {
    let mut zookeeper = ZooKeeper::start(1)?;
    let [one, two] = pair(&zookeeper)?;
    let list = one.list();
    zookeeper.kill(0)?;
    until("the loss to be noticed", SOON, || one.log().contains("the last known nodes stay"))
        .with_context(|| one.log())?;
    let one = one.again()?;
    until("an answer", SOON, || one.answers())?;
    ensure!(one.list() == list, "{}\n{list}", one.list());
    zookeeper.restart(0)?;
    let registry = Registry::of(&zookeeper)?;
    registry.until(Role::LoadBalancer, &["lb-1", "lb-2"]).with_context(|| one.log() + &two.log())?;
    ensure!(one.list() == list, "{}\n{list}", one.list());
    Ok(())
}

fn expired(_: &()) -> Result<()> {
    let zookeeper = ZooKeeper::start(1)?;
    let [one, two] = pair(&zookeeper)?;
    two.process().signal(Signal::STOP)?;
    one.until_listed(1, &[&one])?;
    two.process().signal(Signal::CONT)?;
    one.until_listed(1, &[&one, &two]).with_context(|| two.log())?;
    ensure!(two.log().matches("published as load-balancer lb-2").count() == 2, "{}", two.log());
    Ok(())
}

fn same_name(_: &()) -> Result<()> {
    let zookeeper = ZooKeeper::start(1)?;
    let one = load_balancer(&zookeeper, "lb-1")?.start()?;
    one.until_listed(1, &[&one])?;
    let two = load_balancer(&zookeeper, "lb-1")?.start()?;
    until("the second to notice", SOON, || two.log().contains("another node is load-balancer lb-1"))
        .with_context(|| two.log())?;
    two.until_listed(1, &[&one])?;
    let registry = Registry::of(&zookeeper)?;
    let published = || Ok::<_, anyhow::Error>(registry.get(Role::LoadBalancer, "lb-1")?.sip[&Transport::Udp]);
    ensure!(published()? == one.address().into());
    drop(one);
    until("the second in its place", SOON, || published().is_ok_and(|address| address == two.address().into()))
        .with_context(|| two.log())?;
    two.until_listed(1, &[&two])
}

fn garbage(_: &()) -> Result<()> {
    let zookeeper = ZooKeeper::start(1)?;
    let one = load_balancer(&zookeeper, "lb-1")?.start()?;
    let registry = Registry::of(&zookeeper)?;
    registry.until(Role::LoadBalancer, &["lb-1"]).with_context(|| one.log())?;
    registry.put("/carna/load-balancer/lb-2", b"\xff\xfe not JSON")?;
    registry.put(
        "/carna/load-balancer/lb-3",
        br#"{"role":"load-balancer","name":"lb-3\n1 sip:6.6.6.6","dc":"dc1","sip":{"udp":"192.0.2.3:5060"}}"#,
    )?;
    registry.put("/carna/elsewhere", b"of nobody")?;
    let log = || one.log();
    until("both to be noticed", SOON, || {
        ["/lb-2", "/lb-3"].iter().all(|path| log().contains(&format!("{path} is not believed")))
    })
    .with_context(log)?;
    let other = announcement("lb-4", 4);
    registry.put("/carna/load-balancer/lb-4", &other.json())?;
    until("what is right", SOON, || one.list().contains("node=lb-4")).with_context(log)?;
    ensure!(!one.list().contains("6.6.6.6") && !one.list().contains("lb-2"), "{}", one.list());
    Ok(())
}

fn many(_: &()) -> Result<()> {
    const NODES: u16 = 500;
    let zookeeper = ZooKeeper::start(1)?;
    let one = load_balancer(&zookeeper, "lb-1")?.start()?;
    let registry = Registry::of(&zookeeper)?;
    registry.until(Role::LoadBalancer, &["lb-1"]).with_context(|| one.log())?;
    for number in 0..NODES {
        let node = Announcement { role: Role::Dispatcher, ..announcement(&format!("d-{number}"), number) };
        registry.put(&format!("/carna/dispatcher/{}", node.name), &node.json())?;
    }
    until("all in the list", SOON, || one.list().matches("node=d-").count() == usize::from(NODES))
        .with_context(|| one.log())?;
    one.until_loaded(1 + usize::from(NODES))
}

fn quorum(_: &()) -> Result<()> {
    let mut zookeeper = ZooKeeper::start(3)?;
    let [one, two] = pair(&zookeeper)?;
    let list = one.list();
    let leader = zookeeper.leader()?;
    zookeeper.kill(leader)?;
    // What is told by another leader is heard.
    let registry = Registry::of(&zookeeper)?;
    registry.put("/carna/load-balancer/lb-3", &announcement("lb-3", 3).json())?;
    until("a change after the leader's death", SOON, || one.list().contains("node=lb-3")).with_context(|| one.log())?;
    registry.remove("/carna/load-balancer/lb-3")?;
    until("the next one", SOON, || one.list() == list).with_context(|| one.log())?;
    // No majority any more.
    let other = (leader + 1) % 3;
    zookeeper.kill(other)?;
    until("the loss to be noticed", SOON, || one.log().contains("the last known nodes stay"))
        .with_context(|| one.log())?;
    ensure!(one.list() == list, "{}\n{list}", one.list());
    zookeeper.restart(leader)?;
    zookeeper.restart(other)?;
    (0..3).try_for_each(|index| zookeeper.wait_for(index))?;
    let registry = Registry::of(&zookeeper)?;
    registry.until(Role::LoadBalancer, &["lb-1", "lb-2"]).with_context(|| one.log() + &two.log())?;
    registry.put("/carna/load-balancer/lb-3", &announcement("lb-3", 3).json())?;
    until("a change after all that", SOON, || one.list().contains("node=lb-3")).with_context(|| one.log())
}

fn database(_: &()) -> Result<()> {
    let zookeeper = ZooKeeper::start(1)?;
    let one = load_balancer(&zookeeper, "lb-1")?.with_database().start()?;
    let two = load_balancer(&zookeeper, "lb-2")?.start()?;
    two.until_listed(1, &[&one, &two])?;
    one.until_loaded(2)
}

fn told(_: &()) -> Result<()> {
    let mut zookeeper = ZooKeeper::start(1)?;
    let one = load_balancer(&zookeeper, "lb-1")?.start()?;
    let health = |node: &Node, more: &[&str]| node.command(&[&["health"], more].concat());
    let answers = |node: &Node, path: &str, code: u16| node.get(path).is_ok_and(|(answered, _)| answered == code);
    until("the node to be ready", SOON, || answers(&one, "/ready", 200)).with_context(|| one.log())?;
    ensure!(answers(&one, "/live", 200) && answers(&one, "/nothing", 404));
    let nodes = || -> Result<Vec<Announcement>> { Ok(serde_json::from_str(&one.get("/nodes")?.1)?) };
    until("the node itself among the nodes", SOON, || nodes().is_ok_and(|nodes| nodes.len() == 1))
        .with_context(|| one.log())?;
    ensure!(nodes()?.iter().all(|node| node.name == "lb-1" && !node.started.is_empty()), "{:?}", nodes());
    let (_, metrics) = one.get("/metrics")?;
    for line in
        ["carna_ready 1", "carna_starts 1", "carna_known_nodes{role=\"load-balancer\",dc=\"dc1\",state=\"up\"} 1"]
    {
        ensure!(metrics.contains(line), "{line} is not in {metrics}");
    }
    health(&one, &[])?;
    health(&one, &["--ready"])?;
    zookeeper.kill(0)?;
    until("the node not to be ready", SOON, || answers(&one, "/ready", 503)).with_context(|| one.log())?;
    health(&one, &[])?;
    let told = health(&one, &["--ready"]).expect_err("it is not ready").to_string();
    ensure!(told.contains("it is not published in ZooKeeper"), "{told}");
    ensure!(answers(&one, "/live", 200) && one.get("/metrics")?.1.contains("carna_zookeeper_connected 0"));
    zookeeper.restart(0)?;
    until("the node to be ready again", SOON, || answers(&one, "/ready", 200)).with_context(|| one.log())?;
    one.tell_to_end()?;
    until("the node to drain", SOON, || {
        one.get("/ready").is_ok_and(|answer| answer == (503, "it drains\n".to_owned()))
    })
    .with_context(|| one.log())?;
    let is_gone = || health(&one, &[]).is_err_and(|error| error.to_string().contains("no answer from"));
    until("the node to be gone", SOON, is_gone).with_context(|| one.log())
}

/// What a node says that is not there.
fn announcement(name: &str, host: u16) -> Announcement {
    let [high, low] = host.to_be_bytes();
    Announcement {
        role: Role::LoadBalancer,
        name: name.to_owned(),
        dc: "dc1".to_owned(),
        rack: String::new(),
        state: State::Up,
        weight: 100,
        sip: [(Transport::Udp, SocketAddr::from(([127, 1, high, low], 5060)))].into(),
        version: String::new(),
        started: String::new(),
    }
}
