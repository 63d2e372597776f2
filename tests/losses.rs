//! What the death of a node costs while 50 calls a second come in.

mod common;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use common::{DOMAIN, Site, load, phone, run};
use lab::net;
use lab::sipp::Sipp;
use lab::topology::{Role, Topology};

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob", "carol"],
        &[("the_death_of_a_node_of_each_role_costs_the_calls_of_that_instant", calls_go_on)],
    )
}

const BETWEEN_DEATHS: Duration = Duration::from_millis(2500);

fn calls_go_on(site: &Site) -> Result<()> {
    let mut topology = Topology::start(site.roles(2))?;
    let [first, second] = topology.pair(Role::LoadBalancer)?;
    let at = |sipp: Sipp, address| sipp.local(address).local_port(5062);
    let address = net::loopback();
    run(first, at(phone(first, "register.xml", "bob"), address))?;
    let _answering = at(Sipp::new("uas_answer_again.xml"), address).endless().spawn()?;
    let caller = load::of(phone(second, "uac_invite_auth.xml", "alice").key("callee", format!("bob@{DOMAIN}")));
    let registering = phone(first, "register.xml", "carol").calls(100).rate(10.0).key("expires", 60);
    let (calling, registering) = (caller.spawn()?, registering.ignore_unexpected().spawn()?);
    let mut deaths = Vec::new();
    for role in [Role::Dispatcher, Role::Registrar, Role::Outbound] {
        std::thread::sleep(BETWEEN_DEATHS); // the load is what goes on meanwhile
        topology.kill(role, 0)?;
        deaths.push(SystemTime::now());
    }
    registering.wait()?.check().with_context(|| topology.logs())?;
    load::check(site, "bob", &calling.wait()?, &deaths).with_context(|| topology.logs())
}
