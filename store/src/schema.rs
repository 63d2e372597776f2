//! The schema as numbered steps, applied in order, each idempotent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::policies::load_balancing::{LoadBalancingPolicy, NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::unprepared::Statement;

use crate::location::GRACE;
use crate::session::{datacentres, open};
use crate::{ConnectError, StoreConfig};

/// The schema version that this binary writes.
pub const VERSION: i32 = if cfg!(feature = "next-schema") { 5 } else { 4 };

/// The row of `schema_version` that holds it.
const COMPONENT: &str = "sip";

/// Statements may wait for other nodes: far longer than a SIP request can.
const PATIENCE: Duration = Duration::from_secs(30);

/// Replicas per data centre.
pub type Replication = Vec<(String, usize)>;

/// The steps to [`VERSION`]; `{ks}` is the keyspace.
#[cfg(not(feature = "next-schema"))]
const STEPS: &[(i32, &[&str])] = &[(1, STEP_1), (2, STEP_2), (3, STEP_3), (4, STEP_4)];
#[cfg(feature = "next-schema")]
const STEPS: &[(i32, &[&str])] = &[(1, STEP_1), (2, STEP_2), (3, STEP_3), (4, STEP_4), (5, crate::next::STEP)];

/// Subscribers, locations, calls.
const STEP_1: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS {ks}.subscriber (domain text, username text, account_id text, enabled boolean, ha1 text, \
     ha1_sha256 text, max_contacts int, max_calls int, attrs frozen<map<text, text>>, updated_at timestamp, \
     PRIMARY KEY ((domain, username))) WITH compaction = {'class': 'LeveledCompactionStrategy'}",
    "CREATE TABLE IF NOT EXISTS {ks}.subscriber_by_account (account_id text, domain text, username text, \
     PRIMARY KEY ((account_id), domain, username))",
    "CREATE TABLE IF NOT EXISTS {ks}.alias (domain text, alias text, target_domain text, target_username text, \
     PRIMARY KEY ((domain, alias)))",
    "CREATE TABLE IF NOT EXISTS {ks}.domain (domain text PRIMARY KEY, account_id text, enabled boolean)",
    "CREATE TABLE IF NOT EXISTS {ks}.location (domain text, username text, binding text, contact text, received text, \
     path text, q smallint, expires_at timestamp, state tinyint, call_id text, cseq bigint, user_agent text, methods int, \
     cflags int, instance text, reg_id int, ruid text, socket text, dc text, edge text, registrar text, \
     registered_at timestamp, fmt tinyint, PRIMARY KEY ((domain, username), binding)) \
     WITH compaction = {'class': 'LeveledCompactionStrategy'} AND gc_grace_seconds = 10800 AND speculative_retry = '95p'",
    "CREATE TABLE IF NOT EXISTS {ks}.call_event (call_id text, event_id timeuuid, dc text, node text, role text, \
     event text, from_uri text, to_uri text, r_uri text, code int, reason text, src text, dst text, detail text, \
     PRIMARY KEY ((call_id), event_id)) WITH default_time_to_live = 2592000 AND gc_grace_seconds = 10800 \
     AND compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS', 'compaction_window_size': 1}",
    "CREATE TABLE IF NOT EXISTS {ks}.call_by_subscriber (domain text, username text, month int, started_at timestamp, \
     call_id text, direction text, peer text, code int, duration_ms bigint, node text, \
     PRIMARY KEY ((domain, username, month), started_at, call_id)) WITH CLUSTERING ORDER BY (started_at DESC, call_id ASC) \
     AND default_time_to_live = 2592000 AND gc_grace_seconds = 10800 \
     AND compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS', 'compaction_window_size': 1}",
    "CREATE TABLE IF NOT EXISTS {ks}.call_by_account (account_id text, day date, bucket tinyint, started_at timestamp, \
     call_id text, caller text, callee text, code int, duration_ms bigint, \
     PRIMARY KEY ((account_id, day, bucket), started_at, call_id)) WITH CLUSTERING ORDER BY (started_at DESC, call_id ASC) \
     AND default_time_to_live = 2592000 AND gc_grace_seconds = 10800 \
     AND compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS', 'compaction_window_size': 1}",
    "CREATE TABLE IF NOT EXISTS {ks}.active_call (shard smallint, call_id text, dc text, node text, media text, \
     account_id text, caller text, callee text, state text, started_at timestamp, answered_at timestamp, \
     updated_at timestamp, PRIMARY KEY ((shard), call_id)) WITH default_time_to_live = 180 AND gc_grace_seconds = 600 \
     AND compaction = {'class': 'LeveledCompactionStrategy'}",
];

/// An HA1 per algorithm and form of the user name; what a binding is ordered by and carries; secrets that all nodes share.
const STEP_2: &[&str] = &[
    "ALTER TABLE {ks}.subscriber ADD IF NOT EXISTS (ha1_sha512_256 text, ha1b text, ha1b_sha256 text, ha1b_sha512_256 text)",
    "ALTER TABLE {ks}.location ADD IF NOT EXISTS (bound_at timestamp, attrs frozen<map<text, text>>)",
    "CREATE TABLE IF NOT EXISTS {ks}.cluster_secret (name text PRIMARY KEY, value blob)",
];

/// More of what happens to a call, and how it went.
const STEP_3: &[&str] = &[
    "ALTER TABLE {ks}.call_event ADD IF NOT EXISTS (leg text, from_tag text, to_tag text, method text, caller text, \
     callee text, account_id text, ended_by text, user_agent text, extra frozen<map<text, text>>)",
    "ALTER TABLE {ks}.call_by_subscriber ADD IF NOT EXISTS (account_id text, ringing_at timestamp, answered_at timestamp, \
     ended_at timestamp, disposition text, reason text, ended_by text, dc text)",
    "ALTER TABLE {ks}.call_by_account ADD IF NOT EXISTS (node text, ringing_at timestamp, answered_at timestamp, \
     ended_at timestamp, disposition text, reason text, ended_by text, dc text)",
    "ALTER TABLE {ks}.active_call ADD IF NOT EXISTS (callee_account_id text, interval int)",
    "CREATE TABLE IF NOT EXISTS {ks}.active_by_party (kind text, key text, bucket tinyint, call_id text, node text, \
     interval int, PRIMARY KEY ((kind, key, bucket), call_id)) WITH default_time_to_live = 180 AND gc_grace_seconds = 600 \
     AND compaction = {'class': 'LeveledCompactionStrategy'}",
];

/// Legs that a call was not begun with.
const STEP_4: &[&str] = &["ALTER TABLE {ks}.active_call ADD IF NOT EXISTS (leg_of text)"];

/// The secrets of table `cluster_secret`.
const SECRETS: [&str; 1] = ["gruu"];

/// Their length in bytes.
const SECRET_LENGTH: usize = 32;

/// Brings the keyspace to [`VERSION`]: creates what is missing, changes nothing that is there. `replication` defaults to up
/// to three replicas in every data centre. `progress` is told each step.
///
/// # Errors
/// [`ConnectError`]; running it again goes on where it stopped.
pub async fn apply(
    config: &StoreConfig,
    replication: Option<Replication>,
    progress: impl Fn(&str),
) -> Result<(), ConnectError> {
    let session = open(&StoreConfig { request_timeout: PATIENCE, local_dc: String::new(), ..config.clone() }).await?;
    let replication = replication.unwrap_or_else(|| default_replication(&session));
    check_replication(&session, &replication)?;
    let keyspace = &config.keyspace;
    let applier = Applier::new(&session);
    progress(&format!("keyspace {keyspace}, replicas {}", describe(&replication)));
    applier.run(create_keyspace(keyspace, &replication)).await?;
    applier.run(create_version_table(keyspace)).await?;
    let found = read_version(&session, keyspace).await?;
    for (version, statements) in STEPS.iter().filter(|(version, _)| *version > found) {
        for statement in *statements {
            let statement = statement.replace("{ks}", keyspace);
            progress(statement.split(" (").next().unwrap_or_default());
            applier.run(statement).await?;
        }
        applier.record_version(keyspace, *version).await?;
    }
    for name in SECRETS {
        applier.make_secret(keyspace, name).await?;
    }
    progress(&format!("schema version {}", read_version(&session, keyspace).await?));
    Ok(())
}

/// The tables of what happened to calls, which keep each row for a time.
pub const HISTORY: [&str; 3] = ["call_event", "call_by_subscriber", "call_by_account"];

/// How long a table keeps its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// The table.
    pub table: String,
    /// Seconds that a row lives.
    pub seconds: u32,
    /// Hours of rows that Cassandra keeps in one file, which it deletes as a whole when all of them have lapsed.
    pub window_hours: u32,
}

/// Windows that a table's rows are spread over: what Cassandra's documentation recommends at most.
const WINDOWS: u32 = 30;

/// The longest lifetime that Cassandra knows, in seconds: 20 years.
pub const LONGEST_RETENTION: u32 = 630_720_000;

impl Retention {
    /// The table keeps its rows for so many seconds; the window is what makes at most thirty of them.
    pub fn new(table: &str, seconds: u32) -> Self {
        Self { table: table.to_owned(), seconds, window_hours: seconds.div_ceil(WINDOWS).div_ceil(3600).max(1) }
    }
}

/// How long the tables of [`HISTORY`] keep their rows.
///
/// # Errors
/// [`ConnectError`], whatever the session says.
pub async fn retention(config: &StoreConfig) -> Result<Vec<Retention>, ConnectError> {
    let session = open(&StoreConfig { request_timeout: PATIENCE, ..config.clone() }).await?;
    check_keyspace(&session, &config.keyspace).await?;
    let query =
        "SELECT default_time_to_live, compaction FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
    let mut found = Vec::new();
    for table in HISTORY {
        let result = session.query_unpaged(query, (&config.keyspace, table)).await?;
        let row = first_row::<(i32, HashMap<String, String>)>(result)?;
        let (seconds, compaction) = row.unwrap_or_default();
        let size = compaction.get("compaction_window_size").and_then(|size| size.parse().ok()).unwrap_or(1);
        let is_hours = compaction.get("compaction_window_unit").is_some_and(|unit| unit == "HOURS");
        found.push(Retention {
            table: table.to_owned(),
            seconds: u32::try_from(seconds).unwrap_or_default(),
            window_hours: if is_hours { size } else { size * 24 },
        });
    }
    Ok(found)
}

/// Has a table of [`HISTORY`] keep rows for so long. Rows that are there keep their lifetime.
///
/// # Errors
/// [`ConnectError`], whatever the session says.
pub async fn set_retention(config: &StoreConfig, retention: &Retention) -> Result<(), ConnectError> {
    let session = open(&StoreConfig { request_timeout: PATIENCE, ..config.clone() }).await?;
    check_keyspace(&session, &config.keyspace).await?;
    let Retention { table, seconds, window_hours } = retention;
    let (unit, size) = if window_hours % 24 == 0 { ("DAYS", window_hours / 24) } else { ("HOURS", *window_hours) };
    let statement = format!(
        "ALTER TABLE {}.{table} WITH default_time_to_live = {seconds} AND compaction = {{'class': \
         'TimeWindowCompactionStrategy', 'compaction_window_unit': '{unit}', 'compaction_window_size': {size}}}",
        config.keyspace
    );
    Applier::new(&session).run(statement).await
}

/// Runs the statements of the steps, all through one node.
///
/// Each Cassandra node decides by itself what IF NOT EXISTS finds: two nodes that create a table at the same time give it two
/// identities, of which one wins and takes the other's rows away. So everybody who applies goes through the same node, which
/// takes one statement after the other: of those connected, the one with the lowest host id. (Two appliers that see different
/// nodes, in a cluster that is just forming or falls apart, may still differ.)
struct Applier<'s> {
    session: &'s Session,
    coordinator: Option<Arc<dyn LoadBalancingPolicy>>,
}

impl<'s> Applier<'s> {
    fn new(session: &'s Session) -> Self {
        let state = session.get_cluster_state();
        let first = state.get_nodes_info().iter().filter(|node| node.is_connected()).min_by_key(|node| node.host_id);
        let coordinator =
            first.map(|node| SingleTargetLoadBalancingPolicy::new(NodeIdentifier::Node(node.clone()), None));
        Self { session, coordinator }
    }

    /// Runs one statement and waits until all nodes agree on the schema, also when it found nothing to do: another applier's
    /// change may be on its way to them.
    async fn run(&self, statement: String) -> Result<(), ConnectError> {
        self.run_with(statement, ()).await
    }

    async fn run_with(&self, statement: String, values: impl SerializeRow) -> Result<(), ConnectError> {
        let mut statement = Statement::new(statement);
        statement.set_load_balancing_policy(self.coordinator.clone());
        self.session.query_unpaged(statement, values).await?;
        match self.session.await_schema_agreement().await {
            Ok(_) => Ok(()),
            Err(error) => Err(ConnectError::Statement(error.to_string())),
        }
    }

    /// A secret is made once and never changed.
    async fn make_secret(&self, keyspace: &str, name: &str) -> Result<(), ConnectError> {
        let mut value = vec![0; SECRET_LENGTH];
        getrandom::fill(&mut value).map_err(|error| ConnectError::NoRandomness(error.to_string()))?;
        let insert = format!("INSERT INTO {keyspace}.cluster_secret (name, value) VALUES (?, ?) IF NOT EXISTS");
        self.run_with(insert, (name, value)).await
    }

    /// The version only ever grows.
    async fn record_version(&self, keyspace: &str, version: i32) -> Result<(), ConnectError> {
        self.run(format!(
            "INSERT INTO {keyspace}.schema_version (component, version, applied_at) \
             VALUES ('{COMPONENT}', {version}, toTimestamp(now())) IF NOT EXISTS"
        ))
        .await?;
        self.run(format!(
            "UPDATE {keyspace}.schema_version SET version = {version}, applied_at = toTimestamp(now()) \
             WHERE component = '{COMPONENT}' IF version < {version}"
        ))
        .await
    }
}

/// The version that a keyspace has.
///
/// # Errors
/// [`ConnectError::NoKeyspace`] and whatever the session says.
pub async fn version(config: &StoreConfig) -> Result<i32, ConnectError> {
    let session = open(&StoreConfig { request_timeout: PATIENCE, ..config.clone() }).await?;
    check_keyspace(&session, &config.keyspace).await?;
    read_version(&session, &config.keyspace).await
}

/// Refuses a keyspace that lacks what this binary needs. A newer schema is fine: it is read and written as the old one.
pub(crate) async fn check_version(session: &Session, keyspace: &str) -> Result<(), ConnectError> {
    check_keyspace(session, keyspace).await?;
    let found = read_version(session, keyspace).await?;
    if found < VERSION {
        return Err(ConnectError::SchemaTooOld { keyspace: keyspace.to_owned(), found, needed: VERSION });
    }
    if found > VERSION {
        tracing::warn!(
            "schema version {found} is newer than this module's {VERSION}: reading what is known, writing the old format"
        );
    }
    Ok(())
}

/// Refuses bindings whose rows live longer than the table's `gc_grace_seconds`.
///
/// # Errors
/// [`ConnectError::ExpiryTooLong`], and whatever the session says.
pub async fn check_expiry(config: &StoreConfig, max_expires: u32) -> Result<(), ConnectError> {
    let session = open(&StoreConfig { request_timeout: PATIENCE, ..config.clone() }).await?;
    check_keyspace(&session, &config.keyspace).await?;
    check_gc_grace(&session, &config.keyspace, max_expires).await.map(drop)
}

/// Returns the longest expiry that fits.
pub(crate) async fn check_gc_grace(session: &Session, keyspace: &str, max_expires: u32) -> Result<u32, ConnectError> {
    let query = "SELECT gc_grace_seconds FROM system_schema.tables WHERE keyspace_name = ? AND table_name = 'location'";
    let row = first_row::<(i32,)>(session.query_unpaged(query, (keyspace,)).await?)?;
    let gc_grace = row.and_then(|(seconds,)| u32::try_from(seconds).ok()).unwrap_or_default();
    match gc_grace.checked_sub(GRACE) {
        Some(longest) if max_expires <= longest => Ok(longest),
        _ => Err(ConnectError::ExpiryTooLong { keyspace: keyspace.to_owned(), max_expires, gc_grace }),
    }
}

async fn check_keyspace(session: &Session, keyspace: &str) -> Result<(), ConnectError> {
    let query = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
    match first_row::<(String,)>(session.query_unpaged(query, (keyspace,)).await?)? {
        Some(_) => Ok(()),
        None => Err(ConnectError::NoKeyspace(keyspace.to_owned())),
    }
}

/// The version that the keyspace records; 0 when it records none.
async fn read_version(session: &Session, keyspace: &str) -> Result<i32, ConnectError> {
    let query = format!("SELECT version FROM {keyspace}.schema_version WHERE component = '{COMPONENT}'");
    match session.query_unpaged(query, ()).await {
        Ok(result) => Ok(first_row::<(i32,)>(result)?.map_or(0, |(version,)| version)),
        // What Cassandra calls a statement on a table that is not there.
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Invalid, _))) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn first_row<R: for<'f, 'm> DeserializeRow<'f, 'm>>(result: QueryResult) -> Result<Option<R>, ConnectError> {
    let malformed = |error: &dyn std::error::Error| ConnectError::Statement(error.to_string());
    let rows = result.into_rows_result().map_err(|error| malformed(&error))?;
    rows.maybe_first_row().map_err(|error| malformed(&error))
}

fn default_replication(session: &Session) -> Replication {
    let state = session.get_cluster_state();
    let nodes_of =
        |dc: &str| state.get_nodes_info().iter().filter(|node| node.datacenter.as_deref() == Some(dc)).count();
    datacentres(session)
        .into_iter()
        .map(|dc| {
            let replicas = nodes_of(&dc).min(3);
            (dc, replicas)
        })
        .collect()
}

fn check_replication(session: &Session, replication: &Replication) -> Result<(), ConnectError> {
    let known = datacentres(session);
    match replication.iter().find(|(dc, _)| !known.contains(dc)) {
        Some((wanted, _)) => Err(ConnectError::UnknownDatacentre { wanted: wanted.clone(), known: known.join(", ") }),
        None => Ok(()),
    }
}

fn create_keyspace(keyspace: &str, replication: &Replication) -> String {
    let replicas: Vec<String> = replication.iter().map(|(dc, count)| format!("'{dc}': {count}")).collect();
    format!(
        "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', {}}} AND durable_writes = true",
        replicas.join(", ")
    )
}

fn create_version_table(keyspace: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {keyspace}.schema_version (component text PRIMARY KEY, version int, applied_at timestamp)"
    )
}

fn describe(replication: &Replication) -> String {
    let parts: Vec<String> = replication.iter().map(|(dc, count)| format!("{dc}={count}")).collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyspace_is_replicated_by_data_centre() {
        let cql = create_keyspace("sip", &vec![("dc1".to_owned(), 3), ("dc2".to_owned(), 2)]);
        assert!(cql.contains("'class': 'NetworkTopologyStrategy', 'dc1': 3, 'dc2': 2"), "{cql}");
    }

    #[test]
    fn a_table_has_at_most_thirty_windows_of_whole_hours() {
        for (days, hours) in [(1, 1), (30, 24), (31, 25), (90, 72), (365, 292)] {
            let retention = Retention::new("call_event", days * 86_400);
            assert_eq!(retention.window_hours, hours, "{days} days");
            assert!(retention.seconds <= WINDOWS * retention.window_hours * 3600, "{days} days");
        }
    }

    #[test]
    fn the_steps_end_at_the_version_and_are_idempotent() {
        assert_eq!(STEPS.last().map(|(version, _)| *version), Some(VERSION));
        let statements = STEPS.iter().flat_map(|(_, statements)| *statements);
        for statement in statements {
            assert!(
                ["TABLE IF NOT EXISTS {ks}.", " ADD IF NOT EXISTS ("].iter().any(|safe| statement.contains(safe)),
                "{statement}"
            );
        }
    }
}
