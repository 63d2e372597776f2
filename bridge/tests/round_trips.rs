//! How many steps one after the other an operation takes to Cassandra: what it costs where the database is far away.
//!
//! A proxy between the service and a real node keeps every statement back for a while and notes when it came. Statements that
//! come together are one step; one that waited for the answer to another comes later by that while.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bridge::Metrics;
use bridge::calls::CallsConfig;
use bridge::clock::Monotonic;
use bridge::credentials::CacheConfig;
use bridge::guard::GuardConfig;
use bridge::owned::OwnedConfig;
use bridge::protocol::{AuthRequest, Lookup, Operation, Outcome};
use bridge::server::Backend;
use bridge::service::{Service, ServiceConfig};
use domain::Aor;
use domain::digest::{Algorithm, Credentials, Form, Ha1};
use domain::lookup::{Filter, Target};
use domain::register::{Contact, Contacts, Node, OptionTags, Policy, Register, Saved};
use lab::cassandra::{Cassandra, Options};
use lab::{net, wait};
use scylla_proxy::{
    Condition, Proxy, Reaction, RequestFrame, RequestReaction, RequestRule, RunningProxy, ShardAwareness,
};
use store::admin::{Admin, Profile};
use store::{StoreConfig, schema};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

const KEYSPACE: &str = "sip";
const DOMAIN: &str = "example.com";
const PASSWORD: &str = "correct-horse";

/// How long each statement is kept back. Statements half of it apart were not sent together.
const KEPT_BACK: Duration = Duration::from_secs(1);
/// Much longer than any operation takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    lab::suite::run(
        Site::start,
        &[
            ("a_cold_register_with_credentials_reads_both_at_once_then_writes", cold),
            ("a_warm_register_with_credentials_reads_the_bindings_then_writes", warm),
            ("a_lookup_is_one_read", lookup),
            ("a_lookup_of_several_targets_is_one_step", lookup_of_several),
        ],
    )
}

/// The service, its Cassandra node, and the proxy between them.
struct Site {
    runtime: Runtime,
    service: Arc<Service>,
    proxy: tokio::sync::Mutex<RunningProxy>,
    node: Cassandra,
}

impl Site {
    fn start() -> Result<Self> {
        Cassandra::install()?;
        let node = Cassandra::start(Options { broadcast_rpc_address: Some(net::loopback()), ..Options::default() })?;
        let runtime = Runtime::new()?;
        let proxy = runtime.block_on(Proxy::new([proxied(&node)?]).run())?;
        runtime.block_on(schema::apply(&store_config(&node), None, |_| {}))?;
        let service = runtime.block_on(connected_service(&node))?;
        Ok(Self { runtime, service, proxy: proxy.into(), node })
    }

    fn add_subscriber(&self, user: &str) -> Result<()> {
        self.runtime.block_on(async {
            let admin = Admin::connect(&store_config(&self.node)).await?;
            ensure!(admin.add_subscriber(&aor(user), PASSWORD, &Profile::default()).await?, "{user} is there already");
            Ok(())
        })
    }

    /// Runs an operation for `user` as ever.
    fn perform(&self, operation: Operation) -> Outcome {
        self.runtime.block_on(self.service.perform(operation, Monotonic::now().after(PATIENCE)))
    }

    /// Runs an operation for `user`, and returns how many statements were sent in each of its steps.
    fn steps_of(&self, user: &str, operation: Operation) -> Result<(Outcome, Vec<usize>)> {
        self.runtime.block_on(async {
            let (sender, receiver) = unbounded_channel();
            let reaction = RequestReaction::delay(KEPT_BACK).with_feedback_when_performed(sender);
            let names_user = Condition::BodyContainsCaseSensitive(user.as_bytes().into());
            let rules = vec![RequestRule(names_user, reaction)];
            let mut proxy = self.proxy.lock().await;
            proxy.running_nodes[0].change_request_rules(Some(rules));
            let arrivals = note_arrivals(receiver);
            let outcome = self.service.perform(operation, Monotonic::now().after(PATIENCE)).await;
            proxy.turn_off_rules(); // and with the last rule ends the list of arrivals
            Ok((outcome, steps(&arrivals.await?)))
        })
    }
}

fn proxied(node: &Cassandra) -> Result<scylla_proxy::Node> {
    Ok(scylla_proxy::Node::builder()
        .real_address(SocketAddr::from((node.address(), node.port())))
        .proxy_address(node.contact_point().parse()?)
        .shard_awareness(ShardAwareness::Unaware)
        .build())
}

async fn connected_service(node: &Cassandra) -> Result<Arc<Service>> {
    let metrics: &'static Metrics = Box::leak(Box::default());
    let config = ServiceConfig {
        store: store_config(node),
        node: Node { name: "here".to_owned(), ..Node::default() },
        max_expires: 3600,
        owned: OwnedConfig::default(),
        calls: CallsConfig::default(),
        stale_bindings: 0,
        credential_cache: CacheConfig {
            entries: 100,
            lifetime: Duration::from_secs(3600),
            negative_lifetime: Duration::from_secs(3600),
        },
        guard: GuardConfig { per_source: 0, per_aor: 0, interval: PATIENCE },
        attributes: Vec::new(),
        breaker_threshold: 10,
        retry_interval: Duration::from_secs(1),
    };
    let (notices, _) = tokio::sync::mpsc::channel(1);
    let service = Arc::new(Service::new(config, notices, metrics));
    let running = service.clone();
    tokio::spawn(async move { running.run().await });
    let connected = || metrics.connected.load(Ordering::Relaxed) == 1;
    tokio::task::spawn_blocking(move || wait::until("a Cassandra session", PATIENCE, connected)).await??;
    Ok(service)
}

fn note_arrivals<T: Send + 'static>(mut reports: UnboundedReceiver<(RequestFrame, T)>) -> JoinHandle<Vec<Instant>> {
    tokio::spawn(async move {
        let mut arrivals = Vec::new();
        while reports.recv().await.is_some() {
            arrivals.push(Instant::now());
        }
        arrivals
    })
}

/// How many came together, and again.
fn steps(arrivals: &[Instant]) -> Vec<usize> {
    let together = |one: &Instant, next: &Instant| next.duration_since(*one) < KEPT_BACK / 2;
    arrivals.chunk_by(together).map(<[Instant]>::len).collect()
}

fn store_config(node: &Cassandra) -> StoreConfig {
    StoreConfig {
        contact_points: vec![node.contact_point()],
        keyspace: KEYSPACE.to_owned(),
        local_dc: "dc1".to_owned(),
        login: None,
        tls: None,
        request_timeout: PATIENCE,
        connect_timeout: PATIENCE,
        compression: false,
        speculative_after: None,
    }
}

fn aor(user: &str) -> Aor {
    Aor::new(user, DOMAIN).expect("an AoR")
}

/// A REGISTER with its credentials.
fn auth_save(user: &str, cseq: u32) -> Operation {
    Operation::AuthSave(auth_request(user).into(), register(user, cseq).into())
}

fn auth_request(user: &str) -> AuthRequest {
    let nonce = "a-nonce";
    // A response without qop (RFC 2617 section 3.2.2.1) is a hash of three parts, and so is an HA2 with a SIP URI: as an HA1.
    let hash = |one: &str, two: &str, three: &str| Ha1::compute(Algorithm::Md5, one, two, three).as_hex().to_owned();
    let response = hash(&hash(user, DOMAIN, PASSWORD), nonce, &hash("REGISTER", "sip", DOMAIN));
    let credentials = Credentials {
        username: user.to_owned(),
        realm: DOMAIN.to_owned(),
        nonce: nonce.to_owned(),
        uri: format!("sip:{DOMAIN}"),
        response,
        algorithm: Algorithm::Md5,
        qop: None,
        nc: String::new(),
        cnonce: String::new(),
    };
    AuthRequest {
        aor: aor(user),
        form: Form::User,
        credentials,
        stale: false,
        method: "REGISTER".to_owned(),
        source: String::new(),
        may_wait: true,
        wants_proof: false,
    }
}

fn register(user: &str, cseq: u32) -> Register {
    let contact = Contact {
        uri: format!("sip:{user}@192.0.2.1"),
        q: None,
        expires: None,
        methods: 0,
        instance: String::new(),
        reg_id: None,
        received: String::new(),
    };
    Register {
        aor: aor(user),
        request_uri: format!("sip:{DOMAIN}"),
        call_id: format!("call-of-{user}"),
        cseq,
        expires: None,
        contacts: Contacts::List(vec![contact]),
        path: String::new(),
        supported: OptionTags::default(),
        required: OptionTags::default(),
        first_hop: true,
        source: "sip:192.0.2.1:5060".to_owned(),
        received: String::new(),
        user_agent: "a test".to_owned(),
        socket: "udp:192.0.2.9:5060".to_owned(),
        cflags: 0,
        replace: false,
        attributes: Vec::new(),
        policy: Policy::default(),
    }
}

fn saved(outcome: &Outcome) -> Option<Saved> {
    match outcome {
        Outcome::Saved(registered) => Some(registered.saved),
        _ => None,
    }
}

fn cold(site: &Site) -> Result<()> {
    site.add_subscriber("alice")?;
    let (outcome, steps) = site.steps_of("alice", auth_save("alice", 1))?;
    ensure!(saved(&outcome) == Some(Saved::Inserted), "{outcome:?}");
    ensure!(steps == [2, 1], "the statements of each step: {steps:?}");
    Ok(())
}

fn warm(site: &Site) -> Result<()> {
    site.add_subscriber("bob")?;
    let first = site.perform(auth_save("bob", 1));
    ensure!(saved(&first) == Some(Saved::Inserted), "{first:?}");
    let (outcome, steps) = site.steps_of("bob", auth_save("bob", 2))?;
    ensure!(saved(&outcome) == Some(Saved::Updated), "{outcome:?}");
    ensure!(steps == [1, 1], "the statements of each step: {steps:?}");
    Ok(())
}

fn lookup(site: &Site) -> Result<()> {
    let first = site.perform(Operation::Save(register("carol", 1).into()));
    ensure!(saved(&first) == Some(Saved::Inserted), "{first:?}");
    let wanted = Operation::Lookup(vec![Target::Aor(aor("carol"))], Filter::default());
    let (outcome, steps) = site.steps_of("carol", wanted)?;
    let found = matches!(&outcome, Outcome::Found(found) if matches!(&found[..], [Lookup::Bindings(_)]));
    ensure!(found, "{outcome:?}");
    ensure!(steps == [1], "the statements of each step: {steps:?}");
    Ok(())
}

fn lookup_of_several(site: &Site) -> Result<()> {
    let targets = ["erin", "erin-at-home", "erin-abroad"].map(|user| Target::Aor(aor(user)));
    let (outcome, steps) = site.steps_of("erin", Operation::Lookup(targets.to_vec(), Filter::default()))?;
    ensure!(matches!(&outcome, Outcome::Found(found) if found.len() == 3), "{outcome:?}");
    ensure!(steps == [3], "the statements of each step: {steps:?}");
    Ok(())
}
