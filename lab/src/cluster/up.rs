//! `make up` and `make down`.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};

use super::state::{self, State};
use super::{Cluster, Plan};
use crate::net::{self, Protocol};
use crate::progress::{say, step};
use crate::{FileLock, process, workspace};

const LOCK_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A cluster's addresses are 127.0.0.BASE for SIP and the next ones for Cassandra. The first of these that is free is
/// taken, so that a second checkout can have a cluster as well.
const BASES: [u8; 8] = [10, 40, 70, 100, 130, 160, 190, 220];
/// So that a cluster stays below the next one's base.
const MAX_CASSANDRA_NODES: usize = 20;

/// Starts the cluster and leaves it running. When it is up already, says so.
pub fn up(cassandra_nodes: usize) -> Result<()> {
    let _lock = lock()?;
    if let Some(state) = State::read()? {
        if state.servers.iter().all(state::Server::lives) {
            say(format!("already up; see {}", state::env_file().display()));
            return Ok(());
        }
        say("parts of the last cluster are gone; the rest is stopped first");
        stop(&state)?;
    }
    let cluster = Cluster::start(&plan(cassandra_nodes)?)?;
    state::write_env(&cluster)?;
    State::of(&cluster).write()?;
    say(format!("up: SIP on {}, `make down` stops it", cluster.kamailio().address()));
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

fn plan(cassandra_nodes: usize) -> Result<Plan> {
    anyhow::ensure!(
        (1..=MAX_CASSANDRA_NODES).contains(&cassandra_nodes),
        "CASSANDRA_NODES is {cassandra_nodes}, but 1 to {MAX_CASSANDRA_NODES} are possible"
    );
    let base = BASES
        .into_iter()
        .find(|&base| addresses(base, cassandra_nodes).all(is_free))
        .context("all addresses from 127.0.0.10 on are taken: stop another cluster first")?;
    let mut addresses = addresses(base, cassandra_nodes);
    Ok(Plan {
        sip_address: addresses.next().context("a cluster has a SIP address")?,
        cassandra_addresses: addresses.collect(),
        dir: Some(workspace().target().join("cluster")),
        outlive_us: true,
        ..Plan::default()
    })
}

fn addresses(base: u8, cassandra_nodes: usize) -> impl Iterator<Item = Ipv4Addr> {
    (base..).take(cassandra_nodes + 1).map(|last| Ipv4Addr::new(127, 0, 0, last))
}

fn is_free(address: Ipv4Addr) -> bool {
    net::is_free(address, 5060, Protocol::Udp)
        && [5060, 7000, 9042].into_iter().all(|port| net::is_free(address, port, Protocol::Tcp))
}
