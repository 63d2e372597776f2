//! What the driver alone costs: the statements of a lookup and of a refresh by this program, without Kamailio, without the way
//! to an I/O process and back. Whatever asks Cassandra through it costs at least that.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use domain::{Aor, Binding, Timestamp};
use lab::cpu;
use lab::progress::step;
use serde::{Deserialize, Serialize};
use store::{Store, StoreConfig};
use tokio::time::MissedTickBehavior;

use crate::Options;
use crate::peers::{DOMAIN, Peers};

/// Between two bunches of statements: what the module's `batch_interval` makes of a load by default.
const INTERVAL: Duration = Duration::from_millis(2);

/// The load, for a process of its own, whose CPU time is then that of the driver.
#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    /// Where Cassandra is
    #[arg(long)]
    contact_point: String,
}

/// CPU milliseconds of one statement in the process that asks for it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// All bindings of one AoR, read.
    pub(crate) read_ms: f64,
    /// One binding, written.
    pub(crate) write_ms: f64,
}

/// Measures it, in a process of its own, over the bindings that the phones have registered.
pub(crate) fn measure(options: &Options, peers: &Peers, rate: f64) -> Result<Cost> {
    step(format!("the driver alone at {rate:.0} statements a second"), || {
        let output = Command::new(std::env::current_exe()?)
            .args(["driver", "--contact-point", &peers.contact_point()])
            .args(["--rate", &rate.to_string(), "--seconds", &options.seconds.to_string()])
            .args(["--users", &options.users.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "the driver alone failed");
        serde_json::from_slice(&output.stdout).context("the driver alone told no figures")
    })
}

/// The process of its own: prints a [`Cost`].
pub(crate) fn run(load: &Load, options: &Options) -> Result<()> {
    let rate = options.rate.context("--rate is needed")?;
    // As the I/O process has it.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (config, users, seconds) = (config(&load.contact_point), options.users, options.seconds);
    let work = async move {
        let store = Arc::new(Store::connect(&config).await?);
        let bindings = registered(&store, users).await?;
        Work { store, bindings, rate, seconds }.cost().await
    };
    let cost = runtime.block_on(runtime.spawn(work))??;
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}

/// A store there, as the module would have it.
pub(crate) fn config(contact_point: &str) -> StoreConfig {
    StoreConfig {
        contact_points: vec![contact_point.to_owned()],
        keyspace: "sip".to_owned(),
        local_dc: "dc1".to_owned(),
        login: None,
        tls: None,
        request_timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(5),
        compression: false,
        speculative_after: None,
    }
}

/// One binding of each subscriber, as their phones have registered them.
async fn registered(store: &Store, users: usize) -> Result<Vec<(Aor, Binding)>> {
    let mut all = Vec::with_capacity(users);
    for number in 0..users {
        let aor = Aor::new(&format!("user{number}"), DOMAIN)?;
        let binding = store.bindings(&aor).await?.into_iter().next().context("a subscriber is not registered")?;
        all.push((aor, binding));
    }
    Ok(all)
}

fn wall() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64))
}

struct Work {
    store: Arc<Store>,
    bindings: Vec<(Aor, Binding)>,
    rate: f64,
    seconds: u64,
}

impl Work {
    async fn cost(&self) -> Result<Cost> {
        let read_ms = self.of_each(|store, aor, _| async move { store.bindings(&aor).await.map(drop) }).await?;
        let write_ms = self
            .of_each(|store, aor, mut binding| async move {
                let now = wall();
                binding.expires_at = now.plus_seconds(600);
                store.write_bindings(&aor, &[binding], now).await
            })
            .await?;
        Ok(Cost { read_ms, write_ms })
    }

    /// CPU milliseconds of one of these, begun in bunches at the rate.
    async fn of_each<F>(&self, statement: impl Fn(Arc<Store>, Aor, Binding) -> F) -> Result<f64>
    where
        F: Future<Output = Result<(), store::StoreError>> + Send + 'static,
    {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let bunches = self.seconds * 1000 / INTERVAL.as_millis() as u64;
        let (mut begun, mut under_way) = (0, tokio::task::JoinSet::new());
        let before = cpu::total_ms(&[std::process::id()]);
        for bunch in 1..=bunches {
            interval.tick().await;
            while (begun as f64) < self.rate * INTERVAL.as_secs_f64() * bunch as f64 {
                let (aor, binding) = self.bindings[begun % self.bindings.len()].clone();
                under_way.spawn(statement(self.store.clone(), aor, binding));
                begun += 1;
            }
            while let Some(done) = under_way.try_join_next() {
                done??;
            }
        }
        while let Some(done) = under_way.join_next().await {
            done??;
        }
        Ok((cpu::total_ms(&[std::process::id()]) - before) as f64 / begun as f64)
    }
}
