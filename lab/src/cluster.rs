//! The whole system on this machine: what `make demo`, `make up` and `make down` run.

mod demo;
mod state;
mod up;

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Error, Result, bail};

pub use demo::demo;
pub use up::{down, up};

use crate::cassandra::{self, Cassandra};
use crate::kamailio::{Config, Kamailio, MemoryManager};
use crate::progress::step;
use crate::{net, workspace};

const KEYSPACE: &str = "sip";

/// What to start and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Kamailio's script; it takes its settings from the environment, like `kamailio-cfg/all-in-one.cfg`.
    pub cfg: PathBuf,
    /// Pre-processor defines for the script, beside the environment.
    pub defines: Vec<(String, String)>,
    /// The domain served.
    pub domain: String,
    /// Where Kamailio listens, at port 5060.
    pub sip_address: Ipv4Addr,
    /// One Cassandra node on each.
    pub cassandra_addresses: Vec<Ipv4Addr>,
    /// Run directories go in there; `None`: fresh ones, removed at the end.
    pub dir: Option<PathBuf>,
    /// The servers go on without us once [`Cluster::detach`] was called.
    pub outlive_us: bool,
}

impl Default for Plan {
    /// `kamailio-cfg/all-in-one.cfg`, one Cassandra node, example.com, on fresh addresses.
    fn default() -> Self {
        Self {
            cfg: workspace().root().join("kamailio-cfg/all-in-one.cfg"),
            defines: Vec::new(),
            domain: "example.com".to_owned(),
            sip_address: net::loopback(),
            cassandra_addresses: vec![net::loopback()],
            dir: None,
            outlive_us: false,
        }
    }
}

/// Cassandra with our schema, and Kamailio with our module. Dropping it stops everything.
#[derive(Debug)]
pub struct Cluster {
    // In this order: Kamailio is stopped before its database.
    kamailio: Kamailio,
    cassandra: Vec<Cassandra>,
    domain: String,
}

impl Cluster {
    /// Starts it all, a line of progress for each step, and returns when it answers.
    pub fn start(plan: &Plan) -> Result<Self> {
        check_built()?;
        Cassandra::install()?;
        let cassandra = start_cassandra(plan)?;
        let settings = settings(&cassandra);
        step("sipctl schema apply", || {
            sipctl(&settings, &["schema", "apply"], "").map_err(|error| quoting(&cassandra[0], error))
        })?;
        let kamailio =
            step("Kamailio with cassandra.so answers OPTIONS", || Kamailio::start(kamailio_config(plan, &settings)))?;
        Ok(Self { kamailio, cassandra, domain: plan.domain.clone() })
    }

    /// The node that takes SIP.
    pub fn kamailio(&self) -> &Kamailio {
        &self.kamailio
    }

    /// The database nodes.
    pub fn cassandra(&self) -> &[Cassandra] {
        &self.cassandra
    }

    /// The domain served.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The environment variables by which `sipctl` and Kamailio find the database.
    pub fn settings(&self) -> Vec<(String, String)> {
        settings(&self.cassandra)
    }

    /// Runs `sipctl ARGS` with `input` on its standard input and returns what it prints.
    pub fn sipctl(&self, args: &[&str], input: &str) -> Result<String> {
        sipctl(&self.settings(), args, input)
    }

    /// Adds the end of Kamailio's log to an error.
    pub fn quoting_kamailio(&self, error: Error) -> Error {
        self.kamailio.process().failure(format!("{error:#}"))
    }

    /// Stops everything in order.
    pub fn stop(mut self) -> Result<()> {
        self.kamailio.stop()?;
        self.cassandra.iter_mut().try_for_each(Cassandra::stop)
    }

    /// Leaves everything running without us; [`Plan::outlive_us`] must have been set.
    pub fn detach(self) {
        self.kamailio.detach();
        self.cassandra.into_iter().for_each(Cassandra::detach);
    }
}

fn start_cassandra(plan: &Plan) -> Result<Vec<Cassandra>> {
    let mut nodes: Vec<Cassandra> = Vec::new();
    for (number, &address) in (1..).zip(&plan.cassandra_addresses) {
        let options = cassandra::Options {
            address,
            rack: format!("rack{number}"),
            seeds: nodes.first().map(Cassandra::address).into_iter().collect(),
            dir: plan.dir.as_ref().map(|dir| dir.join(format!("cassandra-{number}"))),
            outlive_us: plan.outlive_us,
            ..Default::default()
        };
        let what = format!("Cassandra on {address} answers CQL");
        nodes.push(step(what, || Cassandra::start(options))?);
        cassandra::wait_until_all_see_all(&nodes)?;
    }
    if nodes.is_empty() {
        bail!("a cluster needs at least one Cassandra node: set CASSANDRA_NODES to 1 or more");
    }
    Ok(nodes)
}

fn kamailio_config(plan: &Plan, settings: &[(String, String)]) -> Config {
    let mut config = Config::new(plan.cfg.as_path()).env("SIP_DOMAIN", &plan.domain);
    config.env.extend_from_slice(settings);
    // Who tests from one address fails more often than a phone.
    for limit in ["AUTH_FAILURES_PER_SOURCE", "AUTH_FAILURES_PER_AOR"] {
        config = config.env(limit, 1_000_000);
    }
    config.defines.clone_from(&plan.defines);
    config.address = plan.sip_address;
    // A REGISTER keeps 27 kB for the five seconds in which it may be sent again: enough for 3,000 a second.
    config.shm_mb = 512;
    // Kamailio's default searches long for each block of memory (docs/module.md).
    config.memory_manager = MemoryManager::Tlsf;
    config.dir = plan.dir.as_ref().map(|dir| dir.join("kamailio"));
    config.outlive_us = plan.outlive_us;
    config
}

fn settings(nodes: &[Cassandra]) -> Vec<(String, String)> {
    let contact_points: Vec<String> = nodes.iter().map(Cassandra::contact_point).collect();
    let dc = nodes.first().map_or("dc1", Cassandra::dc);
    [
        ("CASSANDRA_CONTACT_POINTS", contact_points.join(",")),
        ("CASSANDRA_LOCAL_DC", dc.to_owned()),
        ("CASSANDRA_KEYSPACE", KEYSPACE.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn sipctl(settings: &[(String, String)], args: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(workspace().sipctl())
        .args(args)
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run sipctl: run `make build`")?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes()); // one that does not read says why in its output
    }
    let output = child.wait_with_output().context("cannot run sipctl")?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("`sipctl {}` failed: {}", args.join(" "), error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn quoting(node: &Cassandra, error: Error) -> Error {
    node.process().failure(format!("{error:#}"))
}

fn check_built() -> Result<()> {
    for file in ["libcassandra.so", "sipctl"] {
        let path = workspace().target().join("release").join(file);
        if !path.exists() {
            bail!("{} is missing: run `make build`", path.display());
        }
    }
    Ok(())
}
