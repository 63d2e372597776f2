//! What `make up` has left running: `target/cluster.json` for `make down`, `target/cluster.env` for everybody else.

use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Cluster;
use crate::process::Managed;
use crate::topology::{ROLES, Role};
use crate::{cpu, workspace};

/// A process, named for good: another one may get its pid, but not its start time as well.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) pid: u32,
    /// In clock ticks since boot.
    pub(super) started: u64,
}

impl Server {
    fn of(process: &Managed) -> Self {
        Self { name: process.name().to_owned(), pid: process.pid(), started: process.started() }
    }

    /// Whether it still runs.
    pub(super) fn lives(&self) -> bool {
        cpu::stat(self.pid).is_some_and(|now| now.started == self.started && now.state != 'Z')
    }
}

/// The processes, in the order in which they are to be stopped.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct State {
    pub(super) servers: Vec<Server>,
}

impl State {
    pub(super) fn of(cluster: &Cluster) -> Self {
        let mut servers: Vec<Server> = cluster.nodes().map(|node| Server::of(node.process())).collect();
        servers.extend(cluster.zookeeper().processes().map(Server::of));
        servers.extend(cluster.cassandra().iter().map(|node| Server::of(node.process())));
        Self { servers }
    }

    /// `None` when nothing was left running.
    pub(super) fn read() -> Result<Option<Self>> {
        let path = state_file();
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path)?;
        let state = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged: stop the servers by hand and remove it", path.display()))?;
        Ok(Some(state))
    }

    pub(super) fn write(&self) -> Result<()> {
        write(&state_file(), &serde_json::to_string_pretty(self)?)
    }

    pub(super) fn remove() -> Result<()> {
        for path in [state_file(), env_file()] {
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Writes `target/cluster.env`: plain assignments, and one line that exports them all, so that sourcing it is enough.
pub(super) fn write_env(cluster: &Cluster) -> Result<()> {
    let variables = variables(cluster)?;
    let mut text: String = variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
    text += &format!("export {}\n", names.join(" "));
    write(&env_file(), &text)
}

/// `LB_ADDR` and `LB_PID` are the first load balancer's, `LB_2_ADDR` and `LB_2_PID` the second one's; so for all roles.
fn variables(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    let mut set = |name: &str, value: String| all.push((name.to_owned(), value));
    let mut set_node = |name: &str, number: u32, address: SocketAddrV4, pid: u32| {
        let name = if number == 1 { name.to_owned() } else { format!("{name}_{number}") };
        set(&format!("{name}_ADDR"), address.to_string());
        set(&format!("{name}_PID"), pid.to_string());
    };
    let roles = ROLES.into_iter().chain([Role::Media]);
    for (role, name) in roles.zip(["LB", "DISPATCHER", "REGISTRAR", "OUTBOUND", "MEDIA"]) {
        for (number, node) in (1..).zip(cluster.of(role)) {
            set_node(name, number, node.address(), node.kamailio()?);
        }
    }
    for (name, value) in cluster.settings() {
        set(&name, value);
    }
    for (number, node) in (1..).zip(cluster.cassandra()) {
        set(&format!("CASSANDRA_{number}_PID"), node.pid().to_string());
    }
    for name in ["ZOOKEEPER", "ZOOKEEPER_SERVERS"] {
        set(name, cluster.zookeeper().servers());
    }
    set("SIP_DOMAIN", cluster.domain().to_owned());
    Ok(all)
}

/// Appears complete or not at all.
fn write(path: &PathBuf, text: &str) -> Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, text)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

pub(super) fn state_file() -> PathBuf {
    workspace().target().join("cluster.json")
}

pub(super) fn env_file() -> PathBuf {
    workspace().target().join("cluster.env")
}
