//! `make demo`: the main job from end to end, on servers that are gone afterwards.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;

use super::{Cluster, Plan};
use crate::carna::Node;
use crate::progress::{say, step};
use crate::sipp::{Report, Sipp};
use crate::topology::{ROLES, Role};
use crate::{net, wait};

/// How long a call may take into the history.
const RECORDED: Duration = Duration::from_secs(20);

/// A number of bob's, and what is dialled to be joined with it by a media node.
const NUMBER: &str = "1000";
const DIALLED: &str = "*91000";

const PASSWORD: &str = "correct-horse-battery-staple";

/// Starts everything, provisions alice and bob, registers both, lets alice call bob through a media node, shows what is stored, and stops everything.
pub fn demo(plan: &Plan) -> Result<()> {
    let cluster = Cluster::start(plan)?;
    run(&cluster).map_err(|error| cluster.quoting_nodes(error))?;
    step("everything stops", || cluster.stop())
}

fn run(cluster: &Cluster) -> Result<()> {
    let domain = cluster.domain();
    let (alice, bob) = (format!("alice@{domain}"), format!("bob@{domain}"));
    for aor in [&alice, &bob] {
        step(format!("sipctl subscriber add {aor} --password-stdin"), || {
            cluster.sipctl(&["subscriber", "add", aor, "--password-stdin"], &format!("{PASSWORD}\n"))
        })?;
    }
    let number = format!("{NUMBER}@{domain}");
    step(format!("sipctl alias add {number} {bob}"), || cluster.sipctl(&["alias", "add", &number, &bob], ""))?;
    let balancers = cluster.of(Role::LoadBalancer);
    let [first, .., last] = &balancers[..] else { anyhow::bail!("the demo takes two load balancers") };
    let bob_lives = (net::loopback(), 5062);
    step(format!("bob registers at {}", first.address()), || register(phone(cluster, first, "bob"), bob_lives))?;
    step(format!("alice registers at {}", last.address()), || {
        register(phone(cluster, last, "alice"), (net::loopback(), 5062))
    })?;
    let (call, answered) = step(format!("alice calls {DIALLED}"), || {
        call(phone(cluster, last, "alice"), &format!("{DIALLED}@{domain}"), bob_lives)
    })?;
    call.ladder().iter().for_each(say);
    say(format!("its way: alice -> {} -> bob", way(cluster, &call, &answered).join(" -> ")));
    step("the call is recorded", || until_recorded(cluster, &alice))?;
    show(cluster, &[&alice, &bob])
}

/// A phone of `user` that knows this load balancer; it has no scenario yet.
fn phone<'c>(cluster: &'c Cluster, balancer: &Node, user: &'c str) -> impl Fn(&str) -> Sipp + 'c {
    let target = balancer.address();
    move |scenario| {
        Sipp::new(scenario).target(target).auth_uri(cluster.domain()).users([(user, cluster.domain(), PASSWORD)])
    }
}

/// Registers a phone at this address and port.
fn register(phone: impl Fn(&str) -> Sipp, (address, port): (Ipv4Addr, u16)) -> Result<Report> {
    phone("register.xml").local(address).local_port(port).run_successfully()
}

/// Both sides must see a whole call; their reports.
fn call(phone: impl Fn(&str) -> Sipp, callee: &str, (address, port): (Ipv4Addr, u16)) -> Result<(Report, Report)> {
    let answering = Sipp::new("uas_answer.xml").local(address).local_port(port).spawn()?;
    let report = phone("uac_invite_auth.xml").key("callee", callee).run_successfully()?;
    let answered = answering.wait()?;
    answered.check()?;
    Ok((report, answered))
}

/// Names of the nodes that the call passed: those that stay in the caller's leg, as the answer tells the caller (RFC 3261 section
/// 12.1.2), and those that the callee's INVITE passed, as its Via tell the callee (section 8.1.1.7).
fn way(cluster: &Cluster, calling: &Report, answered: &Report) -> Vec<String> {
    let of = |report: &Report, start: &str, header: &str| -> Vec<String> {
        let message =
            report.messages.lines().skip_while(|line| !line.starts_with(start)).take_while(|line| !line.is_empty());
        let bodies = message.filter_map(|line| line.strip_prefix(header)).flat_map(|line| line.split(','));
        bodies.filter_map(|body| known(cluster, body)).collect()
    };
    let mut way: Vec<String> = of(calling, "SIP/2.0 200", "Record-Route:");
    way.reverse();
    let mut second = of(answered, "INVITE ", "Via:");
    second.reverse();
    way.extend(second);
    way.dedup();
    way
}

/// The node whose address is in the text.
fn known(cluster: &Cluster, text: &str) -> Option<String> {
    let numbered = |name: &'static str, addresses: Vec<Ipv4Addr>| {
        (1..).zip(addresses).map(move |(number, address): (u32, _)| (format!("{name} {number}"), address))
    };
    let of = |role: Role| numbered(role.name(), cluster.of(role).iter().map(|node| *node.address().ip()).collect());
    let mut all = ROLES.into_iter().chain([Role::Media]).flat_map(of);
    let is_there = |address: Ipv4Addr| {
        let address = address.to_string();
        // No longer address that begins like it.
        text.match_indices(&address)
            .any(|(at, _)| !text[at + address.len()..].starts_with(|c: char| c.is_ascii_digit()))
    };
    all.find(|(_, address)| is_there(*address)).map(|(name, _)| name)
}

/// What is recorded is written a moment after it happened.
fn until_recorded(cluster: &Cluster, caller: &str) -> Result<()> {
    let is_over = |history: String| history.contains("answered");
    wait::until("the end of the call in the history", RECORDED, || {
        cluster.sipctl(&["--json", "history", caller], "").is_ok_and(is_over)
    })
}

fn show(cluster: &Cluster, aors: &[&str]) -> Result<()> {
    let subscribers = cluster.sipctl(&["subscriber", "list"], "")?;
    println!("\nsubscribers\n{subscribers}");
    for aor in aors {
        let registrations = cluster.sipctl(&["registrations", aor], "")?;
        println!("registrations of {aor}\n{registrations}");
    }
    for aor in aors {
        let history = cluster.sipctl(&["history", aor], "")?;
        println!("calls of {aor}\n{history}");
    }
    Ok(())
}
