//! The schema comes about once, whoever applies it, and is checked before it is used.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use domain::digest::{Algorithm, Form, Ha1, Ha1s};
use lab::wait;
use scylla::client::session::Session;
use scylla_proxy::{
    Condition, Reaction, RequestOpcode, RequestReaction, RequestRule, ResponseFrame, ResponseOpcode, ResponseReaction,
    ResponseRule,
};
use store::admin::{Admin, Profile};
use store::{ConnectError, Store, StoreConfig, schema};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::field::{Field, Visit};

use crate::common::{aor, refusal, round_trip, sentence, session};
use crate::site::{KEYSPACE, REMOTE, Site, apply_at_once};

const LIMIT: Duration = Duration::from_secs(60);

const TABLES: [&str; 12] = [
    "active_by_party",
    "active_call",
    "alias",
    "call_by_account",
    "call_by_subscriber",
    "call_event",
    "cluster_secret",
    "domain",
    "location",
    "schema_version",
    "subscriber",
    "subscriber_by_account",
];

pub(crate) fn at_once(site: &Site) -> Result<()> {
    for (node, result) in site.applied.iter().enumerate() {
        ensure!(result.is_ok(), "through node {node}: {result:?}\n{}", site.logs());
    }
    let config = site.config(0);
    site.runtime.block_on(async {
        ensure!(schema::version(&config).await? == schema::VERSION);
        let tables = tables(&session(&config).await?).await?;
        let names: Vec<_> = tables.iter().map(|(name, ..)| name).collect();
        ensure!(names == TABLES, "{names:?}");
        round_trip(&Store::connect(&config).await?, "alice").await
    })?;
    // A table that two nodes created has left two directories, though only one is in use.
    for node in 0..site.nodes.len() {
        let dirs = site.table_dirs(node)?;
        ensure!(dirs.len() == TABLES.len(), "{dirs:#?}");
    }
    Ok(())
}

/// Name, identity and the settings that somebody may have changed, of each table.
async fn tables(session: &Session) -> Result<Vec<(String, String, i32, i32)>> {
    let query = "SELECT table_name, CAST(id AS text), gc_grace_seconds, default_time_to_live FROM system_schema.tables \
                 WHERE keyspace_name = ?";
    let rows = session.query_unpaged(query, (KEYSPACE,)).await?.into_rows_result()?;
    Ok(rows.rows()?.collect::<Result<_, _>>()?)
}

pub(crate) fn again(site: &Site) -> Result<()> {
    let config = site.config(0);
    site.runtime.block_on(async {
        let session = session(&config).await?;
        session.query_unpaged(format!("ALTER TABLE {KEYSPACE}.call_event WITH default_time_to_live = 60"), ()).await?;
        let before = (tables(&session).await?, applied_at(&session).await?);
        schema::apply(&config, None, |_| {}).await?;
        let after = (tables(&session).await?, applied_at(&session).await?);
        ensure!(before == after, "{before:?}\n{after:?}");
        Ok(())
    })
}

/// The tables of version 1 that later versions change, or read before they are upgraded.
const VERSION_1: [&str; 9] = [
    "CREATE KEYSPACE old WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 2, 'dc2': 1}",
    "CREATE TABLE old.schema_version (component text PRIMARY KEY, version int, applied_at timestamp)",
    "CREATE TABLE old.subscriber (domain text, username text, account_id text, enabled boolean, ha1 text, ha1_sha256 text, \
     max_contacts int, max_calls int, attrs frozen<map<text, text>>, updated_at timestamp, PRIMARY KEY ((domain, username)))",
    "CREATE TABLE old.alias (domain text, alias text, target_domain text, target_username text, PRIMARY KEY ((domain, alias)))",
    "CREATE TABLE old.location (domain text, username text, binding text, contact text, received text, path text, \
     q smallint, expires_at timestamp, state tinyint, call_id text, cseq bigint, user_agent text, methods int, cflags int, \
     instance text, reg_id int, ruid text, socket text, dc text, edge text, registrar text, registered_at timestamp, \
     fmt tinyint, PRIMARY KEY ((domain, username), binding)) WITH gc_grace_seconds = 10800",
    "CREATE TABLE old.call_event (call_id text, event_id timeuuid, dc text, node text, role text, event text, from_uri text, \
     to_uri text, r_uri text, code int, reason text, src text, dst text, detail text, PRIMARY KEY ((call_id), event_id))",
    "CREATE TABLE old.call_by_subscriber (domain text, username text, month int, started_at timestamp, call_id text, \
     direction text, peer text, code int, duration_ms bigint, node text, \
     PRIMARY KEY ((domain, username, month), started_at, call_id)) WITH CLUSTERING ORDER BY (started_at DESC, call_id ASC)",
    "CREATE TABLE old.call_by_account (account_id text, day date, bucket tinyint, started_at timestamp, call_id text, \
     caller text, callee text, code int, duration_ms bigint, PRIMARY KEY ((account_id, day, bucket), started_at, call_id)) \
     WITH CLUSTERING ORDER BY (started_at DESC, call_id ASC)",
    "CREATE TABLE old.active_call (shard smallint, call_id text, dc text, node text, media text, account_id text, \
     caller text, callee text, state text, started_at timestamp, answered_at timestamp, updated_at timestamp, \
     PRIMARY KEY ((shard), call_id)) WITH default_time_to_live = 180",
];

pub(crate) fn upgrade(site: &Site) -> Result<()> {
    let in_old = |node| StoreConfig { keyspace: "old".to_owned(), ..site.config(node) };
    site.runtime.block_on(async {
        let session = session(&site.config(0)).await?;
        for cql in VERSION_1 {
            session.query_unpaged(cql, ()).await?;
        }
        let ha1 = Ha1::compute(Algorithm::Md5, "alice", "example.com", "secret");
        for (cql, values) in [
            ("INSERT INTO old.schema_version (component, version) VALUES ('sip', 1)", vec![]),
            (
                "INSERT INTO old.subscriber (domain, username, enabled, ha1) VALUES ('example.com', 'alice', true, ?)",
                vec![ha1.as_hex()],
            ),
        ] {
            session.query_unpaged(cql, values).await?;
        }
        ensure!(
            refusal(&in_old(0)).await?.contains(&format!("has schema version 1 but {} is needed", schema::VERSION))
        );

        for result in apply_at_once(&in_old(0), &in_old(REMOTE)).await {
            result.with_context(|| site.logs())?;
        }
        let store = Store::connect(&in_old(0)).await?;
        let secret = store.cluster_secret("gruu").await?.context("no secret")?;
        schema::apply(&in_old(0), None, |_| {}).await?;
        ensure!(secret.len() == 32 && store.cluster_secret("gruu").await?.as_ref() == Some(&secret), "another secret");
        ensure!(store.cluster_secret("another").await?.is_none());

        let alice = store.credentials(&aor("alice")).await?.context("alice is gone")?;
        ensure!(alice.enabled && alice.ha1s.get(Algorithm::Md5, Form::User) == Some(&ha1), "{alice:?}");
        ensure!(alice.ha1s.get(Algorithm::Md5, Form::UserAtDomain).is_none(), "{alice:?}");
        let admin = Admin::connect(&in_old(0)).await?;
        ensure!(admin.add_subscriber(&aor("bob"), "secret", &Profile::default()).await?, "bob is not new");
        ensure!(admin.set_password(&aor("alice"), "another").await?, "alice is not there");
        for (user, password) in [("alice", "another"), ("bob", "secret")] {
            let stored = store.credentials(&aor(user)).await?.context("gone")?;
            ensure!(stored.ha1s == Ha1s::of_password(&aor(user), password), "{stored:?}");
        }
        round_trip(&store, "alice").await
    })
}

async fn applied_at(session: &Session) -> Result<i64> {
    let query = format!("SELECT WRITETIME(applied_at) FROM {KEYSPACE}.schema_version WHERE component = 'sip'");
    Ok(session.query_unpaged(query, ()).await?.into_rows_result()?.single_row::<(i64,)>()?.0)
}

pub(crate) fn agreement(site: &Site) -> Result<()> {
    let (answers, mut answered) = unbounded_channel();
    let (statements, mut stated) = unbounded_channel();
    {
        let mut proxy = site.proxy();
        let reaction =
            ResponseReaction::transform_frame(Arc::new(another_version)).with_feedback_when_performed(answers);
        proxy.running_nodes[REMOTE].change_response_rules(Some(vec![ResponseRule(schema_version(), reaction)]));
        for node in &mut proxy.running_nodes {
            let create = Condition::RequestOpcode(RequestOpcode::Query)
                .and(Condition::BodyContainsCaseSensitive(b"IF NOT EXISTS".as_slice().into()));
            let reaction = RequestReaction::noop().with_feedback_when_performed(statements.clone());
            node.change_request_rules(Some(vec![RequestRule(create, reaction)]));
        }
    }
    let config = StoreConfig { keyspace: "agreed".to_owned(), ..site.config(0) };
    let applying = site.runtime.spawn(async move { schema::apply(&config, None, |_| {}).await });

    let (mut disagreed, mut before) = (0, 0);
    let waited = wait::until("three answers that disagree", LIMIT, || {
        disagreed += received(&mut answered);
        before += received(&mut stated);
        disagreed >= 3
    });
    site.proxy().running_nodes[REMOTE].change_response_rules(None);
    waited.with_context(|| site.logs())?;
    ensure!(before == 1, "{before} statements while the nodes disagree");
    wait::until("the next step", LIMIT, || received(&mut stated) > 0).with_context(|| site.logs())?;
    applying.abort(); // the other steps are no different
    site.pass();
    Ok(())
}

fn received<T>(reports: &mut UnboundedReceiver<T>) -> usize {
    std::iter::from_fn(|| reports.try_recv().ok()).count()
}

/// A row of `system.local` with nothing but the schema's version.
fn schema_version() -> Condition {
    Condition::ResponseOpcode(ResponseOpcode::Result)
        .and(Condition::BodyContainsCaseSensitive(ROWS.into()))
        .and(Condition::BodyContainsCaseSensitive(b"schema_version".as_slice().into()))
        .and(Condition::not(Condition::BodyContainsCaseSensitive(b"host_id".as_slice().into())))
}

/// How a RESULT that holds rows begins.
const ROWS: &[u8] = &[0, 0, 0, 2];

fn another_version(mut frame: ResponseFrame) -> ResponseFrame {
    let mut body = frame.body.to_vec();
    if let Some(last) = body.last_mut() {
        *last ^= 1;
    }
    frame.body = body.into();
    frame
}

pub(crate) fn versions(site: &Site) -> Result<()> {
    let config = site.config(0);
    let (own, next) = (schema::VERSION, schema::VERSION + 1);
    let too_old = format!("keyspace 'sip' has schema version 0 but {own} is needed: run 'sipctl schema apply'");
    let newer = format!(
        "schema version {next} is newer than this module's {own}: reading what is known, writing the old format"
    );
    site.runtime.block_on(async {
        let session = session(&config).await?;
        let run = async |cql: &str| session.query_unpaged(cql, ()).await.map(drop);
        run("DROP TABLE sip.schema_version").await?;
        ensure!(refusal(&config).await? == too_old);
        ensure!(schema::version(&config).await? == 0);

        schema::apply(&config, None, |_| {}).await?;
        run("UPDATE sip.schema_version SET version = 0 WHERE component = 'sip'").await?;
        ensure!(refusal(&config).await? == too_old);

        run(&format!("UPDATE sip.schema_version SET version = {next} WHERE component = 'sip'")).await?;
        schema::apply(&config, None, |_| {}).await?;
        ensure!(schema::version(&config).await? == next, "a newer version is lowered");
        let warned = warnings_of(Store::connect(&config)).await?;
        run(&format!("UPDATE sip.schema_version SET version = {own} WHERE component = 'sip'")).await?;
        ensure!(warned == [newer], "{warned:?}");
        Ok(())
    })
}

pub(crate) fn lacking(site: &Site) -> Result<()> {
    let here = site.config(0);
    site.runtime.block_on(async {
        let elsewhere = StoreConfig { local_dc: "dc3".to_owned(), ..here.clone() };
        ensure!(
            refusal(&elsewhere).await?
                == "there is no data centre 'dc3' in this cluster, it has dc1, dc2: set local_dc to one of them"
        );
        let other = StoreConfig { keyspace: "nothing".to_owned(), ..here.clone() };
        let no_keyspace =
            "there is no keyspace 'nothing': run 'sipctl schema apply', or set the keyspace that holds the tables";
        ensure!(refusal(&other).await? == no_keyspace);
        for error in [schema::version(&other).await.err(), schema::check_expiry(&other, 60).await.err()] {
            ensure!(sentence(&error.context("it succeeds")?)? == no_keyspace);
        }
        let too_far = schema::apply(&other, Some(vec![("dc1".to_owned(), 2), ("dc3".to_owned(), 2)]), |_| {}).await;
        ensure!(
            sentence(&too_far.err().context("it succeeds")?)?
                .starts_with("there is no data centre 'dc3' in this cluster")
        );
        Ok(())
    })
}

pub(crate) fn gc_grace(site: &Site) -> Result<()> {
    let config = site.config(0);
    let sentence_at_10741 = "max_expires is 10741, and a binding's row lives 60 seconds longer, but table sip.location has \
                             gc_grace_seconds 10800: set max_expires to at most 10740, or run 'ALTER TABLE sip.location WITH \
                             gc_grace_seconds = 10801' on Cassandra";
    site.runtime.block_on(async {
        let store = Store::connect(&config).await?;
        for accepted in [3600, 10_740] {
            store.check_expiry(accepted).await?;
            schema::check_expiry(&config, accepted).await?;
        }
        for refused in [store.check_expiry(10_741).await.map(drop), schema::check_expiry(&config, 10_741).await] {
            ensure!(sentence(&refused.err().context("10741 is accepted")?)? == sentence_at_10741);
        }
        let session = session(&config).await?;
        session.query_unpaged("ALTER TABLE sip.location WITH gc_grace_seconds = 10801", ()).await?;
        store.check_expiry(10_741).await?;
        schema::check_expiry(&config, 10_741).await?;
        Ok(())
    })
}

/// What the store warns of while it connects.
async fn warnings_of(connecting: impl Future<Output = Result<Store, ConnectError>>) -> Result<Vec<String>> {
    let warnings = Warnings::default();
    // Of this thread, which is the one that runs what is not spawned.
    let _listening = tracing::subscriber::set_default(warnings.clone());
    connecting.await?;
    Ok(warnings.take())
}

/// Collects warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    fn take(&self) -> Vec<String> {
        self.0.lock().map(|mut warnings| std::mem::take(&mut *warnings)).unwrap_or_default()
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN && metadata.target().starts_with("store")
    }

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

impl Visit for Warnings {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message"
            && let Ok(mut warnings) = self.0.lock()
        {
            warnings.push(format!("{value:?}"));
        }
    }
}
