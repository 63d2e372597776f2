//! How long it takes to look at ten thousand calls under way: `sipctl calls`, as people and as programs see it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use domain::{Aor, CallRecord, Timestamp};
use futures::{StreamExt, TryStreamExt, stream};
use lab::cassandra::{Cassandra, Options as CassandraOptions};
use lab::progress::{say, step};
use lab::workspace;
use store::call::active::Presence;
use store::call::{Direction, Parties};
use store::schema;
use store::{Store, StoreError};

use crate::driver::config;
use crate::peers::DOMAIN;
use crate::{Options, report};

const CALLS: usize = 10_000;
const NODES: usize = 10;
const WRITES_AT_ONCE: usize = 64;
/// Longer than the benchmark: nobody tells of these calls again.
const INTERVAL: i32 = 3600;
/// What it may take.
const AT_MOST: Duration = Duration::from_secs(1);

pub(crate) fn run(options: &Options) -> Result<()> {
    Cassandra::install()?;
    let cassandra = step("Cassandra", || Cassandra::start(CassandraOptions { optimised: true, ..Default::default() }))?;
    let contact_point = cassandra.contact_point();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    step(format!("{CALLS} calls under way on {NODES} nodes"), || runtime.block_on(write(&contact_point)))?;
    let mut taken = Vec::new();
    for arguments in [&["calls"] as &[&str], &["--json", "calls"], &["calls", "--count"]] {
        let line = format!("sipctl {}", arguments.join(" "));
        let look = |_| Ok(look(&contact_point, arguments)?.as_secs_f64());
        let times = (0..options.rounds.max(1)).map(look).collect::<Result<Vec<_>>>()?;
        let count = times.len();
        let median = report::median(times);
        let verdict = if median <= AT_MOST.as_secs_f64() { "met" } else { "missed" };
        say(format!("{line}: {median:.2} s (median of {count}); at most {:.0} s: {verdict}", AT_MOST.as_secs_f64()));
        taken.push((line, median));
    }
    report::write_any("view", &serde_json::json!({"calls": CALLS, "nodes": NODES, "seconds": taken}))
}

async fn write(contact_point: &str) -> Result<()> {
    let config = config(contact_point);
    schema::apply(&config, None, |_| {}).await?;
    let store = Store::connect(&config).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
    stream::iter(0..CALLS)
        .map(|number| one(&store, number, now))
        .buffer_unordered(WRITES_AT_ONCE)
        .try_collect::<()>()
        .await
        .map_err(Into::into)
}

async fn one(store: &Store, number: usize, now: i64) -> Result<(), StoreError> {
    let user = |number: usize| Aor::new(&format!("user{number}"), DOMAIN);
    let (Ok(caller), Ok(callee)) = (user(number), user(number + CALLS)) else { return Ok(()) };
    let record = CallRecord {
        started_at: Some(Timestamp(now / 1000 - number as i64)),
        answered_at: (!number.is_multiple_of(4)).then_some(Timestamp(now / 1000)),
        caller: caller.to_string(),
        callee: callee.to_string(),
        ..CallRecord::default()
    };
    let parties = Parties {
        subscribers: vec![
            (caller, Direction::Outbound, "account".to_owned()),
            (callee, Direction::Inbound, "account".to_owned()),
        ],
        accounts: ["account".to_owned()].into(),
    };
    let presence = Presence {
        call_id: &format!("{number}-843817637684230@192.0.2.{}", number % 250),
        record: &record,
        node: &format!("dispatcher-{}", number % NODES),
        dc: "dc1",
        interval: INTERVAL,
        written: now,
    };
    store.refresh_call(&presence, &parties).await
}

/// Runs it once, to the end of its output.
fn look(contact_point: &str, arguments: &[&str]) -> Result<Duration> {
    let begun = Instant::now();
    let output = Command::new(workspace().sipctl())
        .args(arguments)
        .env("CASSANDRA_CONTACT_POINTS", contact_point)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let taken = begun.elapsed();
    ensure!(output.status.success(), "sipctl {arguments:?} failed");
    let shown = String::from_utf8_lossy(&output.stdout);
    let is_whole = shown.matches("dispatcher-").count() >= if arguments.contains(&"--count") { NODES } else { CALLS };
    ensure!(is_whole, "sipctl {arguments:?} shows less than all calls");
    Ok(taken)
}
