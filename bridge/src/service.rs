//! What the operations do: domain rules over the store, behind the breaker.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use domain::gruu::GruuKey;
use domain::register::Node;
use domain::{Aor, CallEvent};
use quick_cache::sync::Cache;
use store::{ConnectError, Store, StoreConfig, StoreError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::attributes::Column;
use crate::breaker::{Breaker, State};
use crate::calls::{Calls, CallsConfig};
use crate::clock::Monotonic;
use crate::credentials::{CacheConfig, Credentials};
use crate::guard::{Guard, GuardConfig};
use crate::last_known::LastKnown;
use crate::metrics::{Metrics, count, set};
use crate::owned::{Owned, OwnedConfig};
use crate::protocol::{Operation, Outcome, Task, Unavailable};
use crate::server::Backend;
use calls::Party;

mod active;
mod alias;
mod authentication;
mod calls;
mod location;
mod operate;
mod upkeep;

/// AoRs whose hash is equal share a lock; with this many, two that are saved at once hardly ever do.
const LOCKS: usize = 4096;

/// Parties of calls whose account is remembered, and for how long.
const PARTIES: usize = 50_000;
const PARTY_LIFETIME: Duration = Duration::from_secs(300);

/// Longest pause between two attempts to connect.
const SLOWEST_RECONNECT: Duration = Duration::from_secs(10);

/// What an operator can set of the service.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// Where Cassandra is and how it is used.
    pub store: StoreConfig,
    /// This node, as bindings name it.
    pub node: Node,
    /// Longest expiry in seconds that the registrar grants.
    pub max_expires: u32,
    /// What is done with the bindings that this node writes.
    pub owned: OwnedConfig,
    /// Bindings remembered for lookups while Cassandra is unreachable; 0 for none.
    pub stale_bindings: usize,
    /// Bounds of the credential cache.
    pub credential_cache: CacheConfig,
    /// How many failures to authenticate are borne.
    pub guard: GuardConfig,
    /// What the script is told of a subscriber.
    pub attributes: Vec<Column>,
    /// How call events are kept.
    pub calls: CallsConfig,
    /// Failures in a row that open the circuit breaker.
    pub breaker_threshold: u32,
    /// Pause between two probes of an open breaker, and before the second attempt to connect.
    pub retry_interval: Duration,
}

/// The operations over one Cassandra session.
#[derive(Debug)]
pub struct Service {
    config: ServiceConfig,
    metrics: &'static Metrics,
    store: OnceLock<Store>,
    cluster: OnceLock<Cluster>,
    last_known: LastKnown,
    owned: Owned,
    notices: mpsc::Sender<Task>,
    credentials: Credentials,
    guard: Guard,
    calls: Arc<Calls>,
    parties: Cache<Aor, Party>,
    breaker: Mutex<Breaker>,
    locks: Vec<tokio::sync::Mutex<()>>,
    hasher: RandomState,
}

/// What the session found out about the cluster when it connected.
#[derive(Debug)]
struct Cluster {
    /// This node; no binding outlives the time for which its removal is remembered.
    node: Node,
    gruu_key: Option<GruuKey>,
}

/// Why an operation has no answer of its own.
type Refused = Unavailable;

impl Service {
    /// A service that is not connected yet; [`Self::run`] connects it. It tells the resume workers by `notices`.
    pub fn new(config: ServiceConfig, notices: mpsc::Sender<Task>, metrics: &'static Metrics) -> Self {
        Self {
            owned: upkeep::open(&config.owned),
            notices,
            credentials: Credentials::new(config.credential_cache, metrics),
            guard: Guard::new(config.guard),
            calls: Arc::new(Calls::new(config.calls.clone(), metrics)),
            parties: Cache::new(PARTIES),
            breaker: Mutex::new(Breaker::new(config.breaker_threshold)),
            last_known: LastKnown::new(config.stale_bindings),
            config,
            metrics,
            store: OnceLock::new(),
            cluster: OnceLock::new(),
            locks: std::iter::repeat_with(|| tokio::sync::Mutex::new(())).take(LOCKS).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Connects, retrying with growing pauses, then probes the backend whenever the breaker is open. Never returns.
    pub async fn run(&self) {
        self.connect().await;
        loop {
            tokio::time::sleep(self.config.retry_interval).await;
            if self.breaker().state() == State::Open {
                self.probe().await;
            }
        }
    }

    async fn connect(&self) {
        let mut pause = self.config.retry_interval;
        loop {
            match self.open().await {
                Ok((store, cluster)) => {
                    tracing::info!("connected to Cassandra, keyspace {}", self.config.store.keyspace);
                    let _ = self.cluster.set(cluster);
                    let _ = self.store.set(store);
                    set(&self.metrics.connected, 1);
                    return;
                }
                Err(error) => tracing::error!("no Cassandra session: {error}; next attempt in {pause:?}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(SLOWEST_RECONNECT);
        }
    }

    /// A session, if its tables suit the registrar's rules.
    async fn open(&self) -> Result<(Store, Cluster), ConnectError> {
        let store = Store::connect(&self.config.store).await?;
        let longest_expiry = store.check_expiry(self.config.max_expires).await?;
        let secret = store.cluster_secret("gruu").await.map_err(|error| ConnectError::Statement(error.to_string()))?;
        if secret.is_none() {
            tracing::warn!("there is no cluster secret for temporary GRUUs: run 'sipctl schema apply'");
        }
        let node = Node { longest_expiry, ..self.config.node.clone() };
        Ok((store, Cluster { node, gruu_key: secret.map(|secret| GruuKey::new(&secret)) }))
    }

    async fn probe(&self) {
        let Some(store) = self.store.get() else { return };
        if store.ping().await.is_ok() {
            self.change_breaker(Breaker::probe_succeeded);
        }
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the breaker, and says so when that changes its state.
    fn change_breaker<T>(&self, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let (before, result, after) = {
            let mut breaker = self.breaker();
            let before = breaker.state();
            let result = change(&mut breaker);
            (before, result, breaker.state())
        };
        if before != after {
            set(&self.metrics.breaker_state, after.as_metric());
            match after {
                State::Open => {
                    count(&self.metrics.breaker_opened);
                    tracing::error!("Cassandra does not answer: requests are refused at once until it does");
                }
                State::HalfOpen => tracing::info!("Cassandra answers a probe: trying one request at a time"),
                State::Closed => tracing::info!("Cassandra answers again"),
            }
        }
        result
    }

    /// Operations on one AoR that write go one after the other.
    async fn lock(&self, aor: &Aor) -> tokio::sync::MutexGuard<'_, ()> {
        let index = self.hasher.hash_one(aor) % self.locks.len() as u64;
        self.locks[usize::try_from(index).unwrap_or_default()].lock().await
    }

    async fn run_operation(
        &self,
        store: &Store,
        operation: &Operation,
        deadline: Monotonic,
    ) -> Result<Outcome, StoreError> {
        match operation {
            Operation::Authenticate(request) => {
                self.authenticate(store, request, Instant::now(), deadline).await.map(Outcome::Authenticated)
            }
            Operation::Save(register) => self.save(store, register, None).await,
            Operation::AuthSave(auth, register) => self.auth_save(store, auth, register, deadline).await,
            Operation::Subscriber(aor) => self.subscriber(store, aor).await.map(Outcome::Subscriber),
            Operation::Alias(alias) => self.alias(store, alias).await.map(Outcome::Alias),
            Operation::Lookup(targets, filter) => self.lookup(store, targets, filter).await.map(Outcome::Found),
            Operation::Contacts(aor, filter) => self.contacts(store, aor, filter).await.map(Outcome::Contacts),
            Operation::Remove { aor, which } => self.remove(store, aor, which).await.map(Outcome::Removed),
            Operation::Call(call_id) => store.call_events(call_id).await.map(Outcome::Call),
            Operation::ActiveCalls(filter, most) => self.active_calls(store, filter, *most).await,
            Operation::CallCounts => self.call_counts(store).await,
            Operation::CountCalls(party) => self.count_calls(store, party).await,
            // Answered before they come here.
            Operation::Claim(_) | Operation::ForceBreaker(_) | Operation::Housekeeping(_) => {
                Ok(Outcome::Unavailable(Unavailable::Failed))
            }
            #[cfg(feature = "fault-injection")]
            Operation::Panic => panic!("on purpose, for a test"),
        }
    }

    /// What is no answer of the backend: the breaker must neither hold it up nor learn from it.
    fn without_asking(&self, operation: &Operation) -> Option<Outcome> {
        if let Some(slowed) = self.slowed(operation) {
            return Some(slowed);
        }
        match operation {
            Operation::Authenticate(request) => self.accepted_from_memory(request).map(Outcome::Authenticated),
            Operation::Housekeeping(what) => Some(Outcome::Report(self.keep_house(what))),
            Operation::ForceBreaker(force) => {
                self.force_breaker(*force);
                Some(Outcome::Forced)
            }
            _ => None,
        }
    }

    /// Runs the operation if the breaker admits it, which learns from how it ends.
    async fn attempt(&self, operation: &Operation, deadline: Monotonic) -> Result<Outcome, Refused> {
        let store = self.store.get().ok_or(Unavailable::NotConnected)?;
        let admission = self.admit(deadline)?;
        match self.run_operation(store, operation, deadline).await {
            Ok(outcome) => {
                admission.succeeded();
                Ok(outcome)
            }
            Err(error) => {
                tracing::debug!("an operation failed: {error}");
                admission.failed();
                let timeout = matches!(error, StoreError::Timeout);
                Err(if timeout { Unavailable::Timeout } else { Unavailable::Backend })
            }
        }
    }

    fn admit(&self, deadline: Monotonic) -> Result<Admission<'_>, Refused> {
        if !self.change_breaker(Breaker::admit) {
            count(&self.metrics.breaker_rejected);
            return Err(Unavailable::BreakerOpen);
        }
        Ok(Admission { service: self, deadline, settled: false })
    }
}

impl Backend for Service {
    fn take_event(&self, event: CallEvent) {
        self.note(event);
    }

    async fn perform(&self, operation: Operation, deadline: Monotonic) -> Outcome {
        if let Some(known) = self.without_asking(&operation) {
            return known;
        }
        match self.attempt(&operation, deadline).await {
            Ok(outcome) => outcome,
            Err(reason) => self.without_backend(&operation).unwrap_or(Outcome::Unavailable(reason)),
        }
    }
}

/// An operation that the breaker admitted. Dropped unsettled at its deadline it is a failure of the backend; earlier, by a
/// panic, it says nothing.
struct Admission<'s> {
    service: &'s Service,
    deadline: Monotonic,
    settled: bool,
}

impl Admission<'_> {
    fn succeeded(mut self) {
        self.settled = true;
        self.service.change_breaker(Breaker::succeeded);
    }

    fn failed(mut self) {
        self.settled = true;
        self.service.change_breaker(Breaker::failed);
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        if self.deadline.remaining().is_none() {
            self.service.change_breaker(Breaker::failed);
        } else {
            self.service.change_breaker(Breaker::abandoned);
        }
    }
}
