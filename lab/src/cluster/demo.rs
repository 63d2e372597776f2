//! `make demo`: the main job from end to end, on servers that are gone afterwards.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;

use super::{Cluster, Plan};
use crate::kamailio::Kamailio;
use crate::progress::{say, step};
use crate::sipp::{Report, Sipp};
use crate::topology::Role;
use crate::{net, wait};

/// How long a call may take into the history.
const RECORDED: Duration = Duration::from_secs(20);

const PASSWORD: &str = "correct-horse-battery-staple";

/// Starts everything, provisions alice and bob, registers both, lets alice call bob, shows what is stored, and stops everything.
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
    let balancers = cluster.topology().of(Role::LoadBalancer);
    let [first, .., last] = &balancers[..] else { anyhow::bail!("the demo takes two load balancers") };
    let bob_lives = (net::loopback(), 5062);
    step(format!("bob registers at {}", first.address()), || register(phone(cluster, first, "bob"), bob_lives))?;
    step(format!("alice registers at {}", last.address()), || {
        register(phone(cluster, last, "alice"), (net::loopback(), 5062))
    })?;
    let (call, answered) = step("alice calls bob", || call(phone(cluster, last, "alice"), &bob, bob_lives))?;
    call.ladder().iter().for_each(say);
    say(format!("its way: {}", way(cluster, &answered).join(" -> ")));
    step("the call is recorded", || until_recorded(cluster, &bob))?;
    show(cluster, &[&alice, &bob])
}

/// A phone of `user` that knows this load balancer; it has no scenario yet.
fn phone<'c>(cluster: &'c Cluster, balancer: &Kamailio, user: &'c str) -> impl Fn(&str) -> Sipp + 'c {
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
    // A 180 may come after the 200 that overtook it on the way through so many processes.
    let report = phone("uac_invite_auth.xml").key("callee", callee).ignore_unexpected().run_successfully()?;
    let answered = answering.wait()?;
    answered.check()?;
    Ok((report, answered))
}

/// Names of the nodes that the INVITE of the call passed, as its Via tell the callee (RFC 3261 section 8.1.1.7).
fn way(cluster: &Cluster, answered: &Report) -> Vec<String> {
    let invite =
        answered.messages.lines().skip_while(|line| !line.starts_with("INVITE ")).take_while(|line| !line.is_empty());
    let via = invite.filter_map(|line| line.strip_prefix("Via: SIP/2.0/UDP ")?.split([';', ':', ' ']).next());
    let mut way: Vec<String> = via.map(|host| name(cluster, host)).collect();
    way.reverse();
    way
}

/// What is at an address: a node by its role and number, else a phone.
fn name(cluster: &Cluster, host: &str) -> String {
    let of = |role: Role| (1..).zip(cluster.topology().of(role)).map(move |(number, node)| (role, number, node));
    let found = Role::ALL.into_iter().flat_map(of).find(|(.., node)| node.address().ip().to_string() == host);
    match found {
        Some((role, number, _)) => format!("{} {number}", role.name()),
        None => format!("phone at {host}"),
    }
}

/// What is recorded is written a moment after it happened.
fn until_recorded(cluster: &Cluster, callee: &str) -> Result<()> {
    let is_over = |history: String| history.contains("answered");
    wait::until("the end of the call in the history", RECORDED, || {
        cluster.sipctl(&["--json", "history", callee], "").is_ok_and(is_over)
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
