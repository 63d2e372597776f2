//! Load balancers, dispatchers, registrars and outbound nodes together, each by its configuration in `kamailio-cfg/`.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result};
pub use fleet::{ELSEWHERE, Role};
use serde_json::json;

use crate::kamailio::{Config, Kamailio};
use crate::{RunDir, wait, workspace};

const LIST: &str = "dispatcher.list";
/// What all nodes have for their secrets.
pub const SECRET: &str = "the same for all";
const GONE: Duration = Duration::from_secs(10);

/// The roles that are a Kamailio's, in the order of a request's way.
pub const ROLES: [Role; 4] = [Role::LoadBalancer, Role::Dispatcher, Role::Registrar, Role::Outbound];

/// The nodes to start; see [`Plan::new`].
#[derive(Clone, Debug)]
pub struct Plan {
    /// Each with its role.
    pub nodes: Vec<(Role, Config)>,
    /// Lines of the list of nodes beside theirs.
    pub lines: String,
}

impl Plan {
    /// `count` nodes of each role on fresh addresses, all with these settings in their environment.
    pub fn new(count: usize, settings: &[(String, String)]) -> Self {
        let node = |role: Role, number: usize| {
            let mut config = node(role, &format!("{role}-{number}"));
            config.env.extend_from_slice(settings);
            (role, config)
        };
        let nodes = ROLES.into_iter().flat_map(|role| (1..=count).map(move |number| node(role, number)));
        Self { nodes: nodes.collect(), lines: String::new() }
    }

    /// The nodes of a role.
    pub fn of(&mut self, role: Role) -> impl Iterator<Item = &mut Config> {
        self.nodes.iter_mut().filter(move |(of, _)| *of == role).map(|(_, config)| config)
    }

    /// Where the nodes of a role will listen.
    pub fn addresses(&self, role: Role) -> Vec<SocketAddrV4> {
        let of = self.nodes.iter().filter(|(of, _)| *of == role);
        of.map(|(_, config)| SocketAddrV4::new(config.address, config.port)).collect()
    }

    /// The same with a setting more for all nodes.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        for (_, config) in &mut self.nodes {
            config.env.push((name.to_owned(), value.to_string()));
        }
        self
    }

    /// Its nodes as the lists of other data centres have them.
    pub fn elsewhere(&self) -> String {
        self.list_from(ELSEWHERE)
    }

    /// The list of nodes in the format of the module `dispatcher`.
    pub fn list(&self) -> String {
        self.list_from(0) + &self.lines
    }

    /// Its nodes in such a list, in sets whose ids are so much higher; weights are a hundred in all.
    fn list_from(&self, base: u32) -> String {
        let line = |(role, config): &(Role, Config)| {
            let weight = 100 / self.nodes.iter().filter(|(of, _)| of == role).count();
            format!("{} sip:{}:{} 0 0 weight={weight}\n", base + role.set(), config.address, config.port)
        };
        self.nodes.iter().map(line).collect()
    }
}

/// Running nodes of all roles. Dropping it kills them.
#[derive(Debug)]
pub struct Topology {
    nodes: Vec<(Role, Kamailio)>,
    list: RunDir,
}

impl Topology {
    /// Starts all nodes and returns when they answer and those that use Cassandra have a session.
    pub fn start(plan: Plan) -> Result<Self> {
        let list = RunDir::new("topology")?;
        let file = list.write(LIST, &plan.list())?;
        let start =
            |(role, config): (Role, Config)| Ok((role, start(role, config.env("DISPATCHER_LIST", file.display()))?));
        let nodes = plan.nodes.into_iter().map(start).collect::<Result<_>>()?;
        Ok(Self { nodes, list })
    }

    /// The nodes of a role, in the order of the plan.
    pub fn of(&self, role: Role) -> Vec<&Kamailio> {
        self.nodes.iter().filter(|(of, _)| *of == role).map(|(_, node)| node).collect()
    }

    /// The two nodes of a role that has two.
    pub fn pair(&self, role: Role) -> Result<[&Kamailio; 2]> {
        self.of(role).try_into().ok().with_context(|| format!("there are not two nodes of the role {}", role.name()))
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (Role, &Kamailio)> {
        self.nodes.iter().map(|(role, node)| (*role, node))
    }

    /// Kills all processes of a role's node; `index` counts from 0 in the order of [`Topology::of`].
    pub fn kill(&mut self, role: Role, index: usize) -> Result<()> {
        let mut nodes = self.nodes.iter_mut().filter(|(of, _)| *of == role);
        let (_, node) = nodes.nth(index).with_context(|| format!("there is no {} {index}", role.name()))?;
        node.kill9_main()?;
        wait::until("the end of all its processes", GONE, || node.pids().is_empty()).map(drop)
    }

    /// Writes other lines into the list of nodes, and makes all nodes read it.
    pub fn relist(&self, lines: &str) -> Result<()> {
        self.list.write(LIST, lines)?;
        self.nodes().try_for_each(|(_, node)| node.rpc("dispatcher.reload", json!([])).map(drop))
    }

    /// What every node says.
    pub fn logs(&self) -> String {
        let node = |(role, node): (Role, &Kamailio)| format!("{} {}:\n{}\n", role.name(), node.address(), node.log());
        self.nodes().map(node).collect()
    }
}

/// A node of a role by this name, by its configuration, on a fresh address; those of one fleet have the same secrets.
pub fn node(role: Role, name: &str) -> Config {
    let config = Config::new(workspace().root().join(format!("kamailio-cfg/{role}.cfg"))).env("NODE_NAME", name);
    ["NONCE_SECRET", "FLOW_TOKEN_SECRET"].into_iter().fold(config, |config, secret| config.env(secret, SECRET))
}

fn start(role: Role, config: Config) -> Result<Kamailio> {
    let node = Kamailio::start(config)?;
    if role.needs_cassandra() {
        node.wait_for_cassandra()?;
    }
    Ok(node)
}
