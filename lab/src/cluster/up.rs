//! `make up` and `make down`.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};

use super::state::{self, State};
use super::{Cluster, Plan};
use crate::net::{self, Protocol};
use crate::progress::{say, step};
use crate::topology::Role;
use crate::{FileLock, process, workspace};

const LOCK_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A cluster's addresses follow each other from one of 127.0.0.10, .20 and so on, the first from which all are free, so that a
/// second checkout can have a cluster as well.
const FIRSTS: std::ops::Range<u8> = 10..240;
const STEP: usize = 10;
/// The last one that is taken.
const LAST: usize = 254;

/// Starts the cluster and leaves it running. When it is up already, says so.
pub fn up(nodes: usize, cassandra_nodes: usize) -> Result<()> {
    let _lock = lock()?;
    if let Some(state) = State::read()? {
        if state.servers.iter().all(state::Server::lives) {
            say(format!("already up; see {}", state::env_file().display()));
            return Ok(());
        }
        say("parts of the last cluster are gone; the rest is stopped first");
        stop(&state)?;
    }
    let cluster = Cluster::start(&plan(nodes, cassandra_nodes)?)?;
    state::write_env(&cluster)?;
    State::of(&cluster).write()?;
    let balancers = cluster.of(Role::LoadBalancer);
    let addresses: Vec<String> = balancers.iter().map(|node| node.address().to_string()).collect();
    say(format!("up: SIP on {}, `make down` stops it", addresses.join(" and ")));
    say(format!("addresses and pids are in {}", state::env_file().display()));
    cluster.detach();
    Ok(())
}

/// Stops what [`up`] has left running; all of it, also when something fails.
pub fn down() -> Result<()> {
    let _lock = lock()?;
    match State::read()? {
        Some(state) => stop(&state),
        None => {
            say("nothing is up");
            Ok(())
        }
    }
}

fn stop(state: &State) -> Result<()> {
    let mut result = Ok(());
    for server in &state.servers {
        let stopped =
            step(format!("{} stops", server.name), || process::stop_detached(server.pid, server.started, STOP_LIMIT));
        result = result.and(stopped.map(drop));
    }
    result.and(State::remove())
}

fn lock() -> Result<FileLock> {
    let path = workspace().target().join("cluster.lock");
    FileLock::take(&path, "finish its `up` or `down`", LOCK_LIMIT)
}

fn plan(nodes: usize, cassandra_nodes: usize) -> Result<Plan> {
    anyhow::ensure!(nodes >= 1, "NODES is {nodes}, but each role needs a node");
    anyhow::ensure!(cassandra_nodes >= 1, "CASSANDRA_NODES is {cassandra_nodes}, but a cluster needs one");
    let plan = Plan {
        nodes,
        cassandra_nodes,
        dir: Some(workspace().target().join("cluster")),
        outlive_us: true,
        ..Plan::default()
    };
    let fits = |first: &u8| usize::from(*first) + plan.size() <= LAST + 1;
    let first = FIRSTS.step_by(STEP).filter(fits).map(|last| Ipv4Addr::new(127, 0, 0, last)).find(|&first| {
        let plan = Plan { first_address: Some(first), ..plan.clone() };
        // Claimed, since another `up` may look for some before these are bound.
        plan.addresses().into_iter().all(|address| is_free(address) && net::claim_address(address))
    });
    let first = first.with_context(|| {
        format!(
            "{} addresses in a row are not free in 127.0.0.0/24: stop another cluster, or start fewer nodes",
            plan.size()
        )
    })?;
    Ok(Plan { first_address: Some(first), ..plan })
}

fn is_free(address: Ipv4Addr) -> bool {
    net::is_free(address, 5060, Protocol::Udp)
        && [2181, 5060, 7000, 8021, 9042, 9180].into_iter().all(|port| net::is_free(address, port, Protocol::Tcp))
}
