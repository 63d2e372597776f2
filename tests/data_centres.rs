//! Two data centres: nodes and Cassandra of each in a network of their own, and a link between them that is cut.

mod common;

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::digest::credentials;
use common::sip::{Agent, headers, status};
use common::{DOMAIN, PASSWORD, phone, roles, run, settings};
use lab::cassandra::{Cassandra, Options};
use lab::kamailio::Kamailio;
use lab::networks::{Link, Network};
use lab::sipp::{Running, Sipp};
use lab::topology::{ELSEWHERE, Plan, Role, Topology};
use lab::{net, wait};
use serde_json::{Value, json};

fn main() -> ExitCode {
    lab::suite::run(
        Site::start,
        &[
            ("what_begins_stays_in_its_data_centre", local_first),
            ("without_a_role_here_the_other_data_centre_takes_it", roles_gone),
            ("who_registered_in_one_data_centre_is_called_from_the_other", called_across),
            ("a_draining_dispatcher_gets_nothing_new_and_keeps_its_dialogs", draining),
            ("a_data_centre_without_its_database_asks_the_other_once", database_gone),
            ("each_side_of_a_cut_link_goes_on_and_both_agree_when_it_is_healed", link_cut),
        ],
    )
}

const USERS: [&str; 8] = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"];
const SOON: Duration = Duration::from_secs(20);
/// Hints are sent once the nodes have seen each other again.
const HEALED: Duration = Duration::from_secs(90);

/// Two data centres.
struct Site {
    /// Two nodes of each role in the first, one in the second.
    nodes: [Topology; 2],
    servers: Servers,
}

/// What all nodes of two data centres need.
struct Servers {
    // Before the networks that they are in.
    cassandra: [Cassandra; 2],
    link: Link,
}

/// One of them.
#[derive(Clone, Copy)]
struct Centre<'s> {
    name: &'static str,
    network: &'s Network,
    cassandra: &'s Cassandra,
}

impl Site {
    fn start() -> Result<Self> {
        let servers = Servers::start()?;
        Ok(Self { nodes: servers.nodes(2)?, servers })
    }

    fn centres(&self) -> [Centre<'_>; 2] {
        self.servers.centres()
    }
}

impl Servers {
    fn start() -> Result<Self> {
        Cassandra::install()?;
        let link = Link::new()?;
        let first = cassandra(&link.ends[0], "dc1", None)?;
        let second = cassandra(&link.ends[1], "dc2", Some(first.address()))?;
        let servers = Self { cassandra: [first, second], link };
        let [one, two] = servers.centres();
        until("the nodes of Cassandra to see each other", SOON, || Ok(one.peers_up()? == 2))?;
        one.sipctl(&["schema", "apply", "--replication", "dc1=1,dc2=1"], "")?;
        for user in USERS {
            one.sipctl(&["subscriber", "add", &aor(user), "--password-stdin"], PASSWORD)?;
        }
        until("the subscribers in the other data centre", SOON, || {
            Ok(USERS.iter().all(|user| two.sipctl(&["subscriber", "show", &aor(user)], "").is_ok()))
        })?;
        Ok(servers)
    }

    fn centres(&self) -> [Centre<'_>; 2] {
        let centre =
            |index: usize, name| Centre { name, network: &self.link.ends[index], cassandra: &self.cassandra[index] };
        [centre(0, "dc1"), centre(1, "dc2")]
    }

    /// Nodes in both: so many of each role in the first, one in the second. Each knows those of the other as the ones elsewhere.
    fn nodes(&self, count: usize) -> Result<[Topology; 2]> {
        let [one, two] = self.centres();
        let [mut first, mut second] = [one.plan(count), two.plan(1)];
        [first.lines, second.lines] = [second.elsewhere(), first.elsewhere()];
        Ok([one.network.inside(|| Topology::start(first))?, two.network.inside(|| Topology::start(second))?])
    }
}

/// Waits until something holds; that it cannot be asked is not yet an error.
fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::until(what, limit, || holds().unwrap_or(false))
}

fn aor(user: &str) -> String {
    format!("{user}@{DOMAIN}")
}

fn cassandra(network: &Network, dc: &str, seed: Option<Ipv4Addr>) -> Result<Cassandra> {
    let options = Options {
        address: network.address(),
        dc: dc.to_owned(),
        seeds: seed.into_iter().collect(),
        // A connection that hears nothing is given up soon, and what the other node has missed is written out at once.
        yaml: [("internode_tcp_user_timeout", json!("2s")), ("hints_flush_period", json!("1s"))]
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec(),
        ..Options::default()
    };
    network.inside(|| Cassandra::start(options))
}

impl Centre<'_> {
    fn settings(&self) -> Vec<(String, String)> {
        settings(&self.cassandra.contact_point(), self.name)
    }

    fn plan(&self, count: usize) -> Plan {
        let mut plan = roles(count, &self.settings());
        for (number, (role, config)) in plan.nodes.iter_mut().enumerate() {
            config.address = self.network.address();
            config.env.push(("NODE_NAME".to_owned(), format!("{}-{}-{number}", self.name, role.name())));
        }
        plan
    }

    /// Runs sipctl here and returns what it prints.
    fn sipctl(&self, args: &[&str], input: &str) -> Result<String> {
        self.network.inside(|| lab::sipctl::run(&self.settings(), args, input))
    }

    fn list(&self, args: &[&str]) -> Result<Vec<Value>> {
        let all: Vec<&str> = std::iter::once("--json").chain(args.iter().copied()).collect();
        Ok(serde_json::from_str(&self.sipctl(&all, "")?)?)
    }

    /// The contacts of a subscriber, sorted, each with its Call-ID and what was asked for it last.
    fn bindings(&self, user: &str) -> Result<Vec<(String, String, u64)>> {
        let text = |binding: &Value, name: &str| binding[name].as_str().unwrap_or_default().to_owned();
        let all = self.list(&["registrations", &aor(user)])?;
        let mut bindings: Vec<_> = all
            .iter()
            .map(|one| (text(one, "contact"), text(one, "call_id"), one["cseq"].as_u64().unwrap_or_default()))
            .collect();
        bindings.sort();
        Ok(bindings)
    }

    /// The contacts alone.
    fn contacts(&self, user: &str) -> Result<Vec<String>> {
        Ok(self.bindings(user)?.into_iter().map(|(contact, ..)| contact).collect())
    }

    /// Calls of a subscriber that were answered and have ended, sorted.
    fn answered(&self, user: &str) -> Result<Vec<String>> {
        let calls = self.list(&["history", &aor(user)])?;
        let answered = calls.iter().filter(|call| call["disposition"] == "answered");
        let mut ids: Vec<String> = answered.map(|call| format!("{} {}", call["dc"], call["call_id"])).collect();
        ids.sort();
        Ok(ids)
    }

    /// How many nodes of Cassandra are up, as this data centre's one sees it.
    fn peers_up(&self) -> Result<usize> {
        let status = self.network.inside(|| self.cassandra.nodetool(&["status"]))?;
        Ok(status.lines().filter(|line| line.starts_with("UN ")).count())
    }

    /// A phone at this load balancer.
    fn agent(&self, balancer: &Kamailio) -> Result<Agent> {
        self.network.inside(|| Agent::udp(balancer))
    }

    /// A phone of `user` that has registered here and answers one call.
    fn answering(&self, balancer: &Kamailio, user: &str) -> Result<Running> {
        self.network.inside(|| {
            let (address, port) = (net::loopback(), 5062);
            let at = |sipp: Sipp| sipp.local(address).local_port(port);
            run(balancer, at(phone(balancer, "register.xml", user)))?;
            at(Sipp::new("uas_answer.xml")).spawn()
        })
    }

    /// A call from here that is talked for so long.
    fn calling(&self, balancer: &Kamailio, caller: &str, callee: &str, seconds: u64) -> Result<Running> {
        let caller = phone(balancer, "uac_invite_auth.xml", caller);
        let caller = caller.key("callee", aor(callee)).pause(Duration::from_secs(seconds));
        self.network.inside(|| caller.spawn())
    }
}

fn balancer(topology: &Topology) -> Result<&Kamailio> {
    topology.of(Role::LoadBalancer).first().copied().context("there is no load balancer")
}

/// What all nodes say.
fn logs(nodes: &[Topology; 2]) -> String {
    nodes.iter().map(Topology::logs).collect()
}

/// A call that is talked and hung up.
fn call(nodes: &[Topology; 2], from: (Centre, &str), to: (Centre, &str)) -> Result<()> {
    let at = |centre: Centre| balancer(&nodes[usize::from(centre.name == "dc2")]);
    let answering = to.0.answering(at(to.0)?, to.1).with_context(|| logs(nodes))?;
    let calling = from.0.calling(at(from.0)?, from.1, to.1, 0)?;
    calling.wait()?.check().with_context(|| logs(nodes))?;
    answering.wait()?.check()
}

/// Sends a request, again with credentials when it is challenged, and gives the final answer.
fn ask(agent: &mut Agent, method: &str, from: &str, to: &str, lines: &[&str]) -> Result<String> {
    let uri = if method == "REGISTER" { format!("sip:{DOMAIN}") } else { format!("sip:{}", aor(to)) };
    let challenge = agent.ask(&agent.request(method, &uri, from, to, lines))?;
    if !matches!(status(&challenge), Some(401 | 407)) {
        return Ok(challenge);
    }
    let met = credentials(&challenge, method, &uri, from)?;
    let lines: Vec<&str> = lines.iter().copied().chain([met.as_str()]).collect();
    agent.ask(&agent.request(method, &uri, from, to, &lines))
}

/// Registers contacts of `user`, each a whole header line.
fn register(agent: &mut Agent, user: &str, contacts: &[&str]) -> Result<()> {
    let answer = ask(agent, "REGISTER", user, user, contacts)?;
    ensure!(status(&answer) == Some(200), "{contacts:?}: {answer}");
    Ok(())
}

/// Requests that begin something which nodes have got, all together.
fn requests(nodes: &[&Kamailio]) -> Result<u64> {
    let names = ["core.rcv_requests_register", "core.rcv_requests_invite", "core.rcv_requests_message"];
    let count = |node: &Kamailio| -> Result<u64> {
        let all = node.rpc("stats.fetchn", json!(names))?;
        names.iter().map(|name| all[*name].as_u64().with_context(|| format!("no {name}"))).sum()
    };
    nodes.iter().map(|node| count(node)).sum()
}

const WORKERS: [Role; 3] = [Role::Dispatcher, Role::Registrar, Role::Outbound];

fn local_first(site: &Site) -> Result<()> {
    let nodes = &site.nodes;
    let [one, _] = site.centres();
    let counts = || {
        let count = |role| Ok([requests(&nodes[0].of(role))?, requests(&nodes[1].of(role))?]);
        WORKERS.into_iter().map(count).collect::<Result<Vec<_>>>()
    };
    let (before, each_before) = (counts()?, each_dispatcher(&nodes[0])?);
    call(nodes, (one, "alice"), (one, "bob"))?;
    let mut phone = one.agent(balancer(&nodes[0])?)?;
    for _ in 0..10 {
        let answer = ask(&mut phone, "MESSAGE", "alice", "frank", &[])?;
        ensure!(status(&answer) == Some(480), "{answer}");
    }
    for ((role, before), after) in WORKERS.into_iter().zip(before).zip(counts()?) {
        let [here, there] = [after[0] - before[0], after[1] - before[1]];
        ensure!(here > 0 && there == 0, "{}: {here} requests here, {there} elsewhere", role.name());
    }
    // By their weights, as without another data centre.
    let each = each_dispatcher(&nodes[0])?;
    ensure!(each.iter().zip(&each_before).all(|(after, before)| after > before), "{each_before:?}, then {each:?}");
    Ok(())
}

fn each_dispatcher(topology: &Topology) -> Result<Vec<u64>> {
    topology.of(Role::Dispatcher).into_iter().map(|node| requests(&[node])).collect()
}

fn roles_gone(site: &Site) -> Result<()> {
    let mut nodes = site.servers.nodes(1)?;
    let [one, _] = site.centres();
    for role in [Role::Registrar, Role::Outbound, Role::Dispatcher] {
        nodes[0].kill(role, 0)?;
        call(&nodes, (one, "alice"), (one, "bob")).with_context(|| format!("without a {} in dc1", role.name()))?;
        ensure!(requests(&nodes[1].of(role))? > 0, "no {} of the other data centre was asked", role.name());
    }
    Ok(())
}

fn called_across(site: &Site) -> Result<()> {
    let nodes = &site.nodes;
    let [one, two] = site.centres();
    let looked_up = requests(&nodes[0].of(Role::Outbound))?;
    let before = [one, two].map(|centre| centre.answered("carol").map(|calls| calls.len()));
    let answering = one.answering(balancer(&nodes[0])?, "carol")?;
    until("the registration in dc2", SOON, || Ok(two.contacts("carol")?.len() == 1))?;
    let calling = two.calling(balancer(&nodes[1])?, "alice", "carol", 4)?;
    // Both data centres count the call where it is.
    for centre in [one, two] {
        until(&format!("the call in {}", centre.name), SOON, || {
            let counts = centre.list(&["calls", "--count"])?;
            Ok(counts.len() == 1 && counts[0]["dc"] == "dc2" && counts[0]["calls"] == 1)
        })
        .with_context(|| format!("{:?}", centre.list(&["calls", "--count"])))?;
        ensure!(centre.list(&["calls", "--dc", "dc1"])?.is_empty(), "{} sees a call in dc1", centre.name);
    }
    calling.wait()?.check().with_context(|| logs(nodes))?;
    answering.wait()?.check()?;
    for (centre, before) in [one, two].into_iter().zip(before) {
        let wanted = before? + 1;
        until(
            &format!("the call's record in {}", centre.name),
            SOON,
            || Ok(centre.answered("carol")?.len() == wanted),
        )?;
        until(&format!("no call in {}", centre.name), SOON, || Ok(centre.list(&["calls"])?.is_empty()))?;
    }
    let now = requests(&nodes[0].of(Role::Outbound))?;
    ensure!(now == looked_up, "the outbound node of dc1 was asked for a call of dc2");
    Ok(())
}

fn draining(site: &Site) -> Result<()> {
    let nodes = &site.nodes;
    let [one, _] = site.centres();
    let answering = one.answering(balancer(&nodes[0])?, "bob")?;
    let talking = one.calling(balancer(&nodes[0])?, "alice", "bob", 5)?;
    let has_the_call = |node: &&Kamailio| {
        let stats = node.rpc("dlg.stats_active", json!([]));
        stats.is_ok_and(|stats| stats["ongoing"].as_u64() > Some(0))
    };
    let dispatchers = nodes[0].of(Role::Dispatcher);
    let drained = *wait::until("the call", SOON, || dispatchers.iter().find(|node| has_the_call(node)))?;
    let byes = || -> Result<u64> {
        let name = "core.rcv_requests_bye";
        drained.rpc("stats.fetchn", json!([name]))?[name].as_u64().context("no such statistic")
    };
    let (new_before, byes_before) = (requests(&[drained])?, byes()?);
    let draining = Draining::begin(nodes, drained)?;
    let mut other = one.agent(balancer(&nodes[0])?)?;
    for user in &USERS[..6] {
        let contact = other.contact(user, ";expires=5");
        register(&mut other, user, &[&contact])?;
        let answer = ask(&mut other, "MESSAGE", user, "nobody", &[])?;
        ensure!(status(&answer) == Some(404), "{answer}");
    }
    ensure!(requests(&[drained])? == new_before, "the draining dispatcher has got something new");
    talking.wait()?.check().with_context(|| logs(nodes))?;
    answering.wait()?.check()?;
    ensure!(byes()? == byes_before + 1, "the BYE of its dialog has not reached the draining dispatcher");
    drop(draining);
    Ok(())
}

/// A dispatcher of the first data centre that drains until this is dropped.
struct Draining<'s>(&'s [Topology; 2]);

impl<'s> Draining<'s> {
    fn begin(nodes: &'s [Topology; 2], drained: &Kamailio) -> Result<Self> {
        let this = Self(nodes);
        let second = format!("202 sip:{} 0 0\n", drained.address());
        nodes[0].relist(&(list(nodes, |node| if node.address() == drained.address() { 4 } else { 0 }) + &second))?;
        Ok(this)
    }
}

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0[0].relist(&list(self.0, |_| 0)) {
            eprintln!("the list of nodes is not what it was: {error:#}");
        }
    }
}

/// The first data centre's list of nodes, with these flags of its own nodes.
fn list(nodes: &[Topology; 2], flags: impl Fn(&Kamailio) -> u32) -> String {
    let here = nodes[0].nodes().map(|(role, node)| (role.set(), node, flags(node), 50));
    let there = nodes[1].nodes().map(|(role, node)| (role.set() + ELSEWHERE, node, 0, 100));
    let line = |(set, node, flags, weight): (u32, &Kamailio, u32, u32)| {
        format!("{set} sip:{} {flags} 0 weight={weight}\n", node.address())
    };
    here.chain(there).map(line).collect()
}

/// Cassandra of a data centre frozen, until the result is dropped.
struct Frozen<'s>(&'s Cassandra);

impl<'s> Frozen<'s> {
    fn new(cassandra: &'s Cassandra) -> Result<Self> {
        cassandra.freeze()?;
        Ok(Self(cassandra))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.thaw() {
            eprintln!("Cassandra cannot be thawed: {error:#}");
        }
    }
}

/// How often nodes of a role have answered that their database is not there, in each data centre.
fn unavailable(nodes: &[Topology; 2], role: Role) -> Result<[u64; 2]> {
    let count = |topology: &Topology| -> Result<u64> {
        topology.of(role).into_iter().map(|node| common::statistic(node, "unavailable")).sum()
    };
    Ok([count(&nodes[0])?, count(&nodes[1])?])
}

fn database_gone(site: &Site) -> Result<()> {
    let nodes = &site.nodes;
    let [one, two] = site.centres();
    let mut phone = one.agent(balancer(&nodes[0])?)?;
    let contact = phone.contact("erin", "");
    // Requests that need nothing but the database; no dispatcher remembers the credentials of who sends the messages.
    let mut prepared = |method: &str, from: &str, to: &str| -> Result<String> {
        let uri = if method == "REGISTER" { format!("sip:{DOMAIN}") } else { format!("sip:{}", aor(to)) };
        let challenge = phone.ask(&phone.request(method, &uri, from, to, &[&contact]))?;
        let met = credentials(&challenge, method, &uri, from)?;
        Ok(phone.request(method, &uri, from, to, &[&contact, &met]))
    };
    let [register, register_again] = [prepared("REGISTER", "erin", "erin")?, prepared("REGISTER", "erin", "erin")?];
    let [message, message_again] = [prepared("MESSAGE", "grace", "nobody")?, prepared("MESSAGE", "heidi", "nobody")?];
    let before = [unavailable(nodes, Role::Registrar)?, unavailable(nodes, Role::Dispatcher)?];
    let asked = |index: usize, role| -> Result<[u64; 2]> {
        let now = unavailable(nodes, role)?;
        Ok([now[0] - before[index][0], now[1] - before[index][1]])
    };

    let here = Frozen::new(one.cassandra)?;
    let answer = phone.ask(&register)?;
    ensure!(status(&answer) == Some(200), "{answer}\n{}", logs(nodes));
    ensure!(asked(0, Role::Registrar)? == [1, 0], "{:?}", asked(0, Role::Registrar)?);
    // A dispatcher itself needs the database, so it is a dispatcher of the other data centre that goes on.
    let answer = phone.ask(&message)?;
    ensure!(status(&answer) == Some(404), "{answer}\n{}", logs(nodes));
    ensure!(asked(1, Role::Dispatcher)? == [1, 0], "{:?}", asked(1, Role::Dispatcher)?);

    let there = Frozen::new(two.cassandra)?;
    for request in [register_again, message_again] {
        let answer = phone.ask(&request)?;
        ensure!(status(&answer) == Some(503) && headers(&answer, "Retry-After").len() == 1, "{answer}");
        ensure!(headers(&answer, "X-Backend").is_empty(), "{answer}");
    }
    drop((here, there));
    for (index, role) in [Role::Registrar, Role::Dispatcher].into_iter().enumerate() {
        let asked = asked(index, role)?;
        ensure!(asked == [2, 1], "{} answered {asked:?} times that there is no database", role.name());
    }
    until("the registration in dc1", HEALED, || Ok(one.contacts("erin")?.len() == 1))?;
    for (_, node) in nodes.iter().flat_map(Topology::nodes).filter(|(role, _)| role.needs_cassandra()) {
        until("a node's database to be there again", HEALED, || {
            Ok(node.rpc("cassandra.status", json!([]))?["breaker"] == "closed")
        })?;
    }
    Ok(())
}

fn link_cut(site: &Site) -> Result<()> {
    let nodes = &site.nodes;
    let [one, two] = site.centres();
    let mut here = one.agent(balancer(&nodes[0])?)?;
    let mut there = two.agent(balancer(&nodes[1])?)?;
    // Phones whose contacts are names, so that those of all have another one.
    let contact = |name: &str, expires: u32| format!("Contact: <sip:{name}@192.0.2.7>;expires={expires}");
    for (user, names) in [("dave", ["goes", "stays"]), ("erin", ["moves", "late"])] {
        let lines = names.map(|name| contact(name, 600));
        register(&mut here, user, &["Contact: *", "Expires: 0"])?;
        register(&mut here, user, &lines.each_ref().map(String::as_str))?;
        until("the registrations in dc2", HEALED, || Ok(two.contacts(user)?.len() == 2))?;
    }
    let calls_before = one.answered("frank")?;

    site.servers.link.cut()?;
    // dave: one phone goes in dc1, a new one comes in each. erin: a phone that goes in dc1 and then comes again in dc2, one
    // that is registered again in dc2 and after that goes in dc1.
    register(&mut here, "dave", &[&contact("goes", 0), &contact("new-here", 600)])?;
    register(&mut there, "dave", &[&contact("new-there", 600)])?;
    register(&mut here, "erin", &[&contact("moves", 0)])?;
    register(&mut there, "erin", &[&contact("moves", 500), &contact("late", 500)])?;
    register(&mut here, "erin", &[&contact("late", 0)])?;
    call(nodes, (one, "frank"), (one, "bob")).context("inside dc1")?;
    call(nodes, (two, "frank"), (two, "carol")).context("inside dc2")?;
    for (centre, dc) in [(one, "\"dc1\""), (two, "\"dc2\"")] {
        until(&format!("the record of its own call in {}", centre.name), SOON, || {
            let new = |call: &String| !calls_before.contains(call) && call.starts_with(dc);
            Ok(centre.answered("frank")?.iter().filter(|call| new(call)).count() == 1)
        })?;
        ensure!(centre.answered("frank")?.len() == calls_before.len() + 1, "{}: was the link cut?", centre.name);
    }
    let uris = |names: &[&str]| names.iter().map(|name| format!("sip:{name}@192.0.2.7")).collect::<Vec<_>>();
    ensure!(one.contacts("dave")? == uris(&["new-here", "stays"]), "{:?}", one.contacts("dave")?);
    ensure!(two.contacts("dave")? == uris(&["goes", "new-there", "stays"]), "{:?}", two.contacts("dave")?);
    ensure!(one.contacts("erin")?.is_empty(), "{:?}", one.contacts("erin")?);

    site.servers.link.heal()?;
    let agreed = |centre: Centre| -> Result<bool> {
        Ok(centre.contacts("dave")? == uris(&["new-here", "new-there", "stays"])
            && centre.contacts("erin")? == uris(&["moves"])
            && centre.answered("frank")?.len() == calls_before.len() + 2)
    };
    for centre in [one, two] {
        until(&format!("what both have seen in {}", centre.name), HEALED, || agreed(centre)).with_context(|| {
            let seen = (centre.bindings("dave"), centre.bindings("erin"), centre.answered("frank"));
            format!("{seen:#?}\n{:?}", centre.peers_up())
        })?;
    }
    for user in ["dave", "erin", "bob", "carol"] {
        until(&format!("the same registrations of {user}"), SOON, || Ok(one.bindings(user)? == two.bindings(user)?))?;
    }
    for centre in [one, two] {
        ensure!(centre.list(&["calls"])?.is_empty(), "{} has a call that is over", centre.name);
    }
    call(nodes, (one, "alice"), (two, "carol")).context("over the healed link")
}
