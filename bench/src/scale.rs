//! Registrars that come and go under Carna: how long until a new one takes its share, when one that drains gets the last, and how many
//! REGISTERs a second so many do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::carna::{Node, Plan};
use lab::cassandra::{Cassandra, Options as CassandraOptions};
use lab::kamailio::changed_script;
use lab::progress::{say, step};
use lab::sipp::{Running, Sipp};
use lab::topology::{self, Role};
use lab::wait::until;
use lab::zookeeper::ZooKeeper;
use lab::{net, sipctl};
use serde_json::json;

use crate::peers::DOMAIN;
use crate::{Options, report};

const REGISTRARS: usize = 3;
/// Enough that the module's hash gives each registrar about as many.
const USERS: usize = 300;
const PASSWORD: &str = "correct-horse";
/// Each registrar has one worker, which sleeps so long for each request: with the two of a registration it does about 160 a second,
/// and the machine, which has to do all of it, could do more.
const WORK: &str = "usleep(\"3000\");\n    route(REGISTER);";
/// Phones that register again as soon as they have an answer: enough for three, and none waits so long that it sends again.
const PHONES: u64 = 16;
/// More than all do.
const AT_ONCE: f64 = 5000.0;
/// A few phones all the time, so that it shows who gets work.
const TRICKLE: f64 = 10.0;

/// A REGISTER is kept for the five seconds in which it may be sent again.
const SHM_MB: u32 = 512;
const WARM_UP: f64 = 50.0;
const SOON: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
const A_DAY: Duration = Duration::from_secs(86_400);
/// What a new node may take until it takes traffic.
const AT_MOST: Duration = Duration::from_secs(10);

pub(crate) fn run(options: &Options) -> Result<()> {
    Cassandra::install()?;
    let mut fleet = Fleet::start()?;
    step("the first registrar", || fleet.begin())?;
    step("Cassandra's compiler sees the work", || fleet.warm_up())?;
    let trickle = fleet.trickle()?;
    let (mut sustained, mut joined) = (Vec::new(), Vec::new());
    for number in 1..=REGISTRARS {
        if number > 1 {
            let taken = step(format!("registrar {number} takes traffic"), || fleet.join(number))?;
            joined.push(taken.as_secs_f64());
        }
        let rates = (0..options.rounds.max(1)).map(|_| fleet.sustained(options.seconds)).collect::<Result<Vec<_>>>()?;
        let rate = report::median(rates);
        say(format!("{number} registrars: {rate:.0} registrations a second"));
        sustained.push(rate);
    }
    let longest = joined.iter().copied().fold(0.0, f64::max);
    let verdict = if longest <= AT_MOST.as_secs_f64() { "met" } else { "missed" };
    say(format!(
        "from the start of a new registrar's process to its first REGISTER: {joined:.1?} s; at most {:.0} s: {verdict}",
        AT_MOST.as_secs_f64()
    ));
    let last = step("a registrar drains", || fleet.drain())?;
    say(format!("it got its last REGISTER {:.1} s after it was told to drain", last.as_secs_f64()));
    let phones = trickle.finish()?;
    phones.check().context("of the registrations that went on all the time")?;
    say(format!("of {} registrations that went on all the time none failed", phones.successful));
    report::write_any(
        "scale",
        &json!({"registrations_a_second": sustained, "seconds_until_traffic": joined, "seconds_until_the_last": last.as_secs_f64()}),
    )
}

/// A load balancer, a dispatcher, and registrars.
struct Fleet {
    // Before what they need.
    registrars: Vec<Node>,
    balancer: Node,
    dispatcher: Node,
    zookeeper: ZooKeeper,
    settings: Vec<(String, String)>,
    _cassandra: Cassandra,
}

impl Fleet {
    fn start() -> Result<Self> {
        let cassandra =
            step("Cassandra", || Cassandra::start(CassandraOptions { optimised: true, ..Default::default() }))?;
        let settings = settings(&cassandra);
        let users: String = (0..USERS).map(|number| format!("user{number},{DOMAIN},{PASSWORD}\n")).collect();
        step(format!("{USERS} subscribers"), || {
            sipctl::run(&settings, &["schema", "apply"], "")?;
            sipctl::run(&settings, &["subscriber", "import", "-"], &format!("username,domain,password\n{users}"))
        })?;
        let zookeeper = step("ZooKeeper", || ZooKeeper::start(1))?;
        let start = |role: Role| configured(Plan::new(role, &zookeeper, &role.to_string())?, &settings).start();
        let (balancer, dispatcher) = (start(Role::LoadBalancer)?, start(Role::Dispatcher)?);
        Ok(Self { registrars: Vec::new(), balancer, dispatcher, zookeeper, settings, _cassandra: cassandra })
    }

    /// Starts the first registrar, and waits until it is known.
    fn begin(&mut self) -> Result<()> {
        self.registrars.push(self.registrar(1)?.launch()?);
        let known = 2 + self.registrars.len();
        [&self.balancer, &self.dispatcher].into_iter().try_for_each(|node| node.until_loaded(known))
    }

    /// Starts one more registrar. How long it takes from there to its first REGISTER.
    fn join(&mut self, number: usize) -> Result<Duration> {
        let plan = self.registrar(number)?;
        let begun = Instant::now();
        let node = plan.launch()?;
        until("its first REGISTER", SOON, || registers(&node).is_some_and(|count| count > 0))
            .with_context(|| node.log())?;
        let taken = begun.elapsed();
        self.registrars.push(node);
        Ok(taken)
    }

    fn registrar(&self, number: usize) -> Result<Plan> {
        let mut config = topology::node(Role::Registrar, &format!("r{number}"));
        config.cfg = changed_script("kamailio-cfg/registrar.cfg", "route(REGISTER);", WORK)?.into();
        config.workers = 1;
        let plan = Plan::of(Role::Registrar, &self.zookeeper, config, &format!("r{number}"))?;
        Ok(configured(plan, &self.settings))
    }

    /// Phones of all subscribers, at the load balancer.
    fn phones(&self) -> Sipp {
        let users: Vec<_> =
            (0..USERS).map(|number| (format!("user{number}"), DOMAIN.to_owned(), PASSWORD.to_owned())).collect();
        Sipp::new("register.xml").target(self.balancer.address()).local(net::loopback()).auth_uri(DOMAIN).users(users)
    }

    /// Registers all, some of whom a cold Cassandra may keep waiting too long.
    fn warm_up(&self) -> Result<()> {
        self.phones().calls(2 * USERS as u64).rate(WARM_UP).run().map(drop)
    }

    /// Phones that begin to register, and go on.
    fn trickle(&self) -> Result<Running> {
        self.phones().endless().rate(TRICKLE).timeout(A_DAY).spawn()
    }

    /// Registrations a second of phones that do nothing else.
    fn sustained(&self, seconds: u64) -> Result<f64> {
        let phones = self.phones().endless().rate(AT_ONCE).limit(PHONES).timeout(A_DAY).spawn()?;
        std::thread::sleep(Duration::from_secs(seconds));
        let report = phones.finish()?;
        report.check()?;
        Ok(report.successful as f64 / report.elapsed.as_secs_f64())
    }

    /// Has the last registrar drain. How long after that it gets its last REGISTER.
    fn drain(&mut self) -> Result<Duration> {
        let mut node = self.registrars.pop().context("no registrar")?;
        let begun = Instant::now();
        node.tell_to_end()?;
        let (mut count, mut last) = (registers(&node).unwrap_or_default(), Duration::ZERO);
        while let Some(now) = registers(&node) {
            if now > count {
                (count, last) = (now, begun.elapsed());
            }
            std::thread::sleep(LOOK);
        }
        node.wait_for_end(SOON)?;
        Ok(last)
    }
}

/// REGISTERs that it has got, while it answers.
fn registers(node: &Node) -> Option<u64> {
    const STATISTIC: &str = "core.rcv_requests_register";
    let answer = node.rpc("stats.fetchn", json!([STATISTIC])).ok()?;
    answer[STATISTIC].as_u64()
}

fn configured(plan: Plan, settings: &[(String, String)]) -> Plan {
    let mut plan = plan.memory(SHM_MB);
    for (name, value) in settings {
        plan = plan.env(name, value);
    }
    plan
}

fn settings(cassandra: &Cassandra) -> Vec<(String, String)> {
    let contact_point = cassandra.contact_point();
    [
        ("CASSANDRA_CONTACT_POINTS", contact_point.as_str()),
        ("CASSANDRA_LOCAL_DC", cassandra.dc()),
        ("SIP_DOMAIN", DOMAIN),
        ("REQUESTS_PER_SOURCE", "1000000"),
        ("MAX_CONTACTS", "0"),
        // What they can do is looked for, not what they refuse.
        ("LATENCY_TARGET_MS", "0"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}
