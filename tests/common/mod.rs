//! What the suites share: one Cassandra with the schema and some subscribers, and Kamailio on top.
#![allow(dead_code, unreachable_pub, reason = "each suite uses a part")]

pub mod calls;
pub mod digest;
pub mod flows;
pub mod load;
pub mod phone;
pub mod sip;

use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::cassandra::{Cassandra, Options};
use lab::kamailio::{Config, Kamailio, changed_script};
use lab::relay::DelayRelay;
use lab::sipp::{Report, Sipp};
use lab::topology::Plan;
use lab::{net, sipctl, wait, workspace};

pub const DOMAIN: &str = "example.com";
pub const PASSWORD: &str = "correct-horse";
/// Scripts, by their paths.
pub const ALL_IN_ONE: &str = "kamailio-cfg/all-in-one.cfg";
pub const PLAIN: &str = "tests/cfg/plain.cfg";

/// A test of a suite.
pub type Test = lab::suite::Test<Site>;

/// The servers of one suite.
pub struct Site {
    pub cassandra: std::sync::Mutex<Cassandra>,
    /// Between every client and Cassandra; its delay is zero unless a test sets it.
    pub relay: DelayRelay,
    _others: Vec<Cassandra>,
    contact_point: String,
}

/// Runs the tests over a site with these subscribers.
pub fn suite(users: &[&str], tests: &[(&'static str, Test)]) -> ExitCode {
    suite_on(1, users, tests)
}

/// The same over a cluster of this many Cassandra nodes.
pub fn suite_on(nodes: usize, users: &[&str], tests: &[(&'static str, Test)]) -> ExitCode {
    lab::suite::run(|| Site::start(nodes, users), tests)
}

impl Site {
    /// Starts this many Cassandra nodes and adds these subscribers.
    pub fn start(nodes: usize, users: &[&str]) -> Result<Self> {
        Cassandra::install()?;
        let relay_address = net::loopback();
        let cassandra = Cassandra::start(Options { broadcast_rpc_address: Some(relay_address), ..Options::default() })?;
        let node = SocketAddrV4::new(cassandra.address(), cassandra.port());
        let relay = DelayRelay::start(relay_address, cassandra.port(), node, Duration::ZERO)?;
        let contact_point = cassandra.contact_point();
        let (first, others) = join(cassandra, nodes)?;
        let site = Self { contact_point, cassandra: first.into(), relay, _others: others };
        site.sipctl(&["schema", "apply"], "")?;
        for user in users {
            let aor = format!("{user}@{DOMAIN}");
            site.sipctl(&["subscriber", "add", &aor, "--password-stdin"], PASSWORD)?;
        }
        Ok(site)
    }

    /// Runs sipctl and returns what it prints.
    pub fn sipctl(&self, args: &[&str], input: &str) -> Result<String> {
        sipctl::run(&settings(&self.contact_point, "dc1"), args, input)
    }

    /// The all-in-one configuration over this Cassandra, not started yet.
    pub fn all_in_one(&self) -> Config {
        self.script(ALL_IN_ONE)
    }

    /// The same routing with plain functions.
    pub fn plain(&self) -> Config {
        self.script(PLAIN)
    }

    /// A script of this repository over this Cassandra.
    pub fn script(&self, path: &str) -> Config {
        self.on_cassandra(Config::new(workspace().root().join(path)))
    }

    /// So many nodes of each role over this Cassandra, not started yet.
    pub fn roles(&self, count: usize) -> Plan {
        roles(count, &settings(&self.contact_point, "dc1"))
    }

    /// The same with `text` in place of `place`, which it must hold.
    pub fn changed(&self, path: &str, place: &str, text: &str) -> Result<Config> {
        Ok(self.on_cassandra(Config::new(changed_script(path, place, text)?)))
    }

    /// The same with these settings before its routing.
    pub fn with_settings(&self, path: &str, settings: &str) -> Result<Config> {
        self.changed(path, "request_route {", &format!("{settings}\nrequest_route {{"))
    }

    /// Rows of a table.
    pub fn count(&self, table: &str) -> Result<u64> {
        let cassandra = self.cassandra.lock().unwrap_or_else(PoisonError::into_inner);
        cassandra.count(&format!("SELECT COUNT(*) FROM sip.{table}"))
    }

    /// Where Cassandra answers.
    pub fn contact_point(&self) -> &str {
        &self.contact_point
    }

    fn on_cassandra(&self, mut config: Config) -> Config {
        config.env.extend(settings(&self.contact_point, "dc1"));
        config
    }

    /// A running node that has its Cassandra session.
    pub fn connected(&self, config: Config) -> Result<Kamailio> {
        let kamailio = Kamailio::start(config)?;
        kamailio.wait_for_cassandra()?;
        Ok(kamailio)
    }

    /// A connected node by this script with these settings, and a phone that talks to it.
    pub fn with_agent(&self, path: &str, settings: &str) -> Result<(Kamailio, sip::Agent)> {
        let kamailio = self.connected(self.with_settings(path, settings)?)?;
        let agent = sip::Agent::udp(&kamailio)?;
        Ok((kamailio, agent))
    }

    /// Cassandra frozen, until the result is dropped.
    pub fn frozen(&self) -> Result<Frozen<'_>> {
        let cassandra = self.cassandra.lock().unwrap_or_else(PoisonError::into_inner);
        cassandra.freeze()?;
        Ok(Frozen(cassandra))
    }

    /// The contacts that are registered, as sipctl shows them.
    pub fn contacts(&self, user: &str) -> Result<Vec<serde_json::Value>> {
        let shown = self.sipctl(&["--json", "registrations", &format!("{user}@{DOMAIN}")], "")?;
        Ok(serde_json::from_str(&shown)?)
    }
}

/// What nodes over this Cassandra, and sipctl, find in their environment.
pub fn settings(contact_point: &str, dc: &str) -> Vec<(String, String)> {
    [
        ("CASSANDRA_CONTACT_POINTS", contact_point),
        ("CASSANDRA_LOCAL_DC", dc),
        ("SIP_DOMAIN", DOMAIN),
        // A suite fails from one address more often than a phone.
        ("AUTH_FAILURES_PER_SOURCE", "1000000"),
        ("AUTH_FAILURES_PER_AOR", "1000000"),
        ("MIN_EXPIRES", "5"),
        ("MAX_CONTACTS", "0"),
        // A machine full of tests is slow now and then without being overloaded.
        ("LATENCY_TARGET_MS", "2000"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// So many nodes of each role with these settings, not started yet.
pub fn roles(count: usize, settings: &[(String, String)]) -> Plan {
    Plan::new(count, settings).env("REQUESTS_PER_SOURCE", 10_000)
}

/// Starts the nodes that a cluster lacks besides its first, each in a rack of its own.
fn join(first: Cassandra, nodes: usize) -> Result<(Cassandra, Vec<Cassandra>)> {
    let seed = first.address();
    let mut all = vec![first];
    for number in 2..=nodes {
        let options = Options { rack: format!("rack{number}"), seeds: vec![seed], ..Options::default() };
        all.push(Cassandra::start(options)?);
        lab::cassandra::wait_until_all_see_all(&all)?;
    }
    let first = all.remove(0);
    Ok((first, all))
}

/// See [`Site::frozen`].
pub struct Frozen<'s>(MutexGuard<'s, Cassandra>);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.thaw() {
            eprintln!("Cassandra cannot be thawed: {error:#}");
        }
    }
}

/// One number of `cassandra.status`.
pub fn status(kamailio: &Kamailio, name: &str) -> Result<u64> {
    let status = kamailio.rpc("cassandra.status", serde_json::json!([]))?;
    status[name].as_u64().with_context(|| format!("there is no number '{name}' in {status}"))
}

/// One number of the statistics group `cassandra`.
pub fn statistic(kamailio: &Kamailio, name: &str) -> Result<u64> {
    let answer = kamailio.rpc("stats.fetchn", serde_json::json!([format!("cassandra.{name}")]))?;
    let value = answer[format!("cassandra.{name}")].as_u64();
    value.with_context(|| format!("there is no statistic {name} in {answer}"))
}

/// Waits until tm holds no transaction any more.
pub fn no_transaction_left(kamailio: &Kamailio) -> Result<()> {
    wait::until("the end of all transactions", Duration::from_secs(40), || {
        kamailio.rpc("tm.stats", serde_json::json!([])).is_ok_and(|stats| stats["current"] == 0)
    })
    .with_context(|| kamailio.log())
}

/// A phone of `user` with this scenario.
pub fn phone(kamailio: &Kamailio, scenario: &str, user: &str) -> Sipp {
    phone_with_password(kamailio, scenario, user, PASSWORD)
}

/// The same with another password.
pub fn phone_with_password(kamailio: &Kamailio, scenario: &str, user: &str, password: &str) -> Sipp {
    at(kamailio.address(), scenario, user, password)
}

/// A phone of `user` with this scenario, whose server is here.
pub fn phone_at(target: SocketAddrV4, scenario: &str, user: &str) -> Sipp {
    at(target, scenario, user, PASSWORD)
}

fn at(target: SocketAddrV4, scenario: &str, user: &str, password: &str) -> Sipp {
    Sipp::new(scenario).target(target).auth_uri(DOMAIN).users([(user, DOMAIN, password)])
}

/// Runs a phone; when a call fails the error shows its messages and Kamailio's log.
pub fn run(kamailio: &Kamailio, sipp: Sipp) -> Result<Report> {
    sipp.run_successfully().with_context(|| format!("Kamailio's log:\n{}", kamailio.log()))
}

/// Sends an OPTIONS for `user` and returns the answer's first line.
pub fn options(kamailio: &Kamailio, user: &str) -> Result<String> {
    let mut agent = sip::Agent::udp(kamailio)?;
    let request = agent.request("OPTIONS", &format!("sip:{user}@{DOMAIN}"), "t", user, &[]);
    let answer = agent.ask(&request).with_context(|| kamailio.log())?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

/// Registers a phone of `user`, which keeps its connection.
pub fn enrol(phone: &mut sip::Agent, user: &str) -> Result<()> {
    let contact = phone.contact(user, "");
    digest::send_authenticated(phone, "REGISTER", &format!("sip:{DOMAIN}"), user, user, &[&contact])?;
    let answer = phone.final_response()?;
    ensure!(sip::status(&answer) == Some(200), "{answer}");
    Ok(())
}
