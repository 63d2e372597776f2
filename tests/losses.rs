//! What the death of a node costs while 50 calls a second come in.

mod common;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use common::calls;
use common::load::{self, Call};
use common::{DOMAIN, Site, phone, run};
use lab::sipp::Sipp;
use lab::topology::{Role, Topology};
use lab::{net, wait};

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob", "carol"],
        &[("the_death_of_a_node_of_each_role_costs_the_calls_of_that_instant", calls_go_on)],
    )
}

const RATE: f64 = 50.0;
const CALLS: u64 = 500;
/// How long each call is talked.
const TALK: Duration = Duration::from_secs(3);
const BETWEEN_DEATHS: Duration = Duration::from_millis(2500);
/// Longer than the way to a dead node, a living one, and all that is sent again.
const NO_ANSWER: Duration = Duration::from_secs(15);
const RECORDED: Duration = Duration::from_secs(20);

fn calls_go_on(site: &Site) -> Result<()> {
    let mut topology = Topology::start(site.roles(2))?;
    let [first, second] = topology.pair(Role::LoadBalancer)?;
    let at = |sipp: Sipp, address| sipp.local(address).local_port(5062);
    let address = net::loopback();
    run(first, at(phone(first, "register.xml", "bob"), address))?;
    let _answering = at(Sipp::new("uas_answer.xml"), address).endless().ignore_unexpected().spawn()?;
    let caller = phone(second, "uac_invite_auth.xml", "alice").key("callee", format!("bob@{DOMAIN}"));
    let caller = caller.calls(CALLS).rate(RATE).pause(TALK).ignore_unexpected().trace_messages(true);
    let caller = caller.arg("-recv_timeout").arg(NO_ANSWER.as_millis().to_string()).timeout(Duration::from_secs(60));
    let registering = phone(first, "register.xml", "carol").calls(100).rate(10.0).key("expires", 60);
    let (calling, registering) = (caller.spawn()?, registering.ignore_unexpected().spawn()?);
    let mut deaths = Vec::new();
    for role in [Role::Dispatcher, Role::Registrar, Role::Outbound] {
        std::thread::sleep(BETWEEN_DEATHS); // the load is what goes on meanwhile
        topology.kill(role, 0)?;
        deaths.push(SystemTime::now());
    }
    registering.wait()?.check().with_context(|| topology.logs())?;
    let calls = load::calls(&calling.wait()?)?;
    ensure!(calls.len() as u64 == CALLS, "{} calls were begun", calls.len());
    let being_set_up = |call: &Call| deaths.iter().any(|death| call.was_being_set_up(*death));
    let lost: Vec<&Call> = calls.values().filter(|call| !call.answered).collect();
    let unexplained: Vec<&&Call> = lost.iter().filter(|call| !being_set_up(call)).collect();
    ensure!(unexplained.is_empty(), "{unexplained:#?} were not being set up at {deaths:?}\n{}", topology.logs());
    let hanging: Vec<&Call> = calls.values().filter(|call| call.answered && !call.ended).collect();
    ensure!(hanging.is_empty(), "{hanging:#?} did not end\n{}", topology.logs());
    let answered = CALLS as usize - lost.len();
    println!("{answered} calls answered and ended, {} that were being set up at a death were lost", lost.len());
    // What began twice is one call, and what the dead dispatcher knew has ended in the records all the same.
    wait::until("the calls in the history", RECORDED, || {
        calls::answered(site, "bob").is_ok_and(|calls| calls >= answered)
    })
    .with_context(|| format!("{answered} were answered, recorded are {:?}", calls::answered(site, "bob")))?;
    let recorded = calls::answered(site, "bob")?;
    ensure!(recorded <= answered + lost.len(), "{answered} were answered, recorded are {recorded}");
    Ok(())
}
