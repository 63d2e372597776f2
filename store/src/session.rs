//! The session: connecting, checking, and running statements by the consistency rules.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileBuilder, ExecutionProfileHandle};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::client::{Compression, PoolSize};
use scylla::errors::ExecutionError;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;

use crate::timestamp::Timestamps;
use crate::{ConnectError, Refusal, StoreConfig, StoreError, TlsConfig, schema};

/// A session with the statements it needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) session: Session,
    pub(crate) timestamps: Timestamps,
    pub(crate) read_subscriber: PreparedStatement,
    pub(crate) read_alias: PreparedStatement,
    pub(crate) read_bindings: PreparedStatement,
    pub(crate) write_binding: PreparedStatement,
    pub(crate) calls: crate::call::Statements,
    ping: PreparedStatement,
    pub(crate) keyspace: String,
    one_replica: ExecutionProfileHandle,
}

/// Executions of a fallback read besides its first.
const FALLBACK_SPECULATIONS: u32 = 2;

impl Store {
    /// Connects once and checks that data centre, keyspace and tables are there.
    ///
    /// # Errors
    /// [`ConnectError`], one sentence for the operator. The caller tries again.
    pub async fn connect(config: &StoreConfig) -> Result<Self, ConnectError> {
        let session = open(config).await?;
        check_datacentre(&session, &config.local_dc)?;
        schema::check_version(&session, &config.keyspace).await?;
        let preparer = Preparer(&session);
        let keyspace = &config.keyspace;
        Ok(Self(Arc::new(Inner {
            read_subscriber: preparer.prepare(crate::subscriber::read_cql(keyspace)).await?,
            read_alias: preparer.prepare(crate::alias::read_cql(keyspace)).await?,
            read_bindings: preparer.prepare(crate::location::read_cql(keyspace)).await?,
            write_binding: preparer.prepare(crate::location::write_cql(keyspace)).await?,
            calls: crate::call::Statements::prepare(keyspace, &preparer).await?,
            ping: preparer.prepare("SELECT key FROM system.local".to_owned()).await?,
            timestamps: Timestamps::default(),
            keyspace: keyspace.clone(),
            one_replica: one_replica_profile(config).into_handle(),
            session,
        })))
    }

    /// Checks that a binding of `max_expires` seconds is gone before Cassandra forgets that it was removed; otherwise a
    /// replica that missed a removal could bring it back. Returns the longest expiry in seconds that is.
    ///
    /// # Errors
    /// [`ConnectError::ExpiryTooLong`], and whatever the session says.
    pub async fn check_expiry(&self, max_expires: u32) -> Result<u32, ConnectError> {
        schema::check_gc_grace(&self.0.session, &self.0.keyspace, max_expires).await
    }

    /// Asks one node for next to nothing: whether Cassandra answers at all.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let mut ping = self.0.ping.clone();
        ping.set_consistency(Consistency::One);
        self.0.session.execute_unpaged(&ping, ()).await?;
        Ok(())
    }

    /// Reads at LOCAL_QUORUM, then once at LOCAL_ONE when too few replicas answer or not in time: up to two request
    /// timeouts. An empty answer of the one replica is an error, since it may have missed the write.
    pub(crate) async fn read<T>(
        &self,
        statement: &PreparedStatement,
        key: impl SerializeRow + Copy,
        rows: impl Fn(QueryResult) -> Result<Vec<T>, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        match self.0.session.execute_unpaged(statement, key).await {
            Ok(result) => rows(result),
            Err(error) if StoreError::fewer_could_answer(&error) => {
                let mut fallback = statement.clone();
                fallback.set_execution_profile_handle(Some(self.0.one_replica.clone()));
                // Boxed, so that the seldom way does not make every reading task larger.
                let found = rows(Box::pin(self.0.session.execute_unpaged(&fallback, key)).await?)?;
                if found.is_empty() { Err(StoreError::from(error)) } else { Ok(found) }
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Prepares the statements of a session.
pub(crate) struct Preparer<'s>(&'s Session);

impl Preparer<'_> {
    /// Prepares an idempotent statement. Its columns are named, so what a result looks like never changes: Cassandra need not
    /// describe it each time.
    pub(crate) async fn prepare(&self, cql: String) -> Result<PreparedStatement, ConnectError> {
        let mut statement = self.0.prepare(cql).await.map_err(|error| ConnectError::Statement(error.to_string()))?;
        statement.set_is_idempotent(true);
        statement.set_use_cached_result_metadata(true);
        Ok(statement)
    }
}

/// Opens a session, without looking at the schema.
pub(crate) async fn open(config: &StoreConfig) -> Result<Session, ConnectError> {
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.contact_points)
        .default_execution_profile_handle(profile(config).into_handle())
        .connection_timeout(config.connect_timeout)
        .pool_size(PoolSize::PerHost(std::num::NonZeroUsize::MIN))
        // A frozen node is noticed within four seconds.
        .keepalive_interval(Duration::from_secs(2))
        .keepalive_timeout(Duration::from_secs(2))
        .keyspaces_to_fetch([&config.keyspace])
        .fetch_full_schema_metadata(false)
        .driver_config_reporting(false)
        .compression(config.compression.then_some(Compression::Lz4));
    if let Some(login) = &config.login {
        builder = builder.user(&login.username, &login.password);
    }
    if let Some(tls) = &config.tls {
        builder = builder.tls_context(Some(tls_context(tls)?));
    }
    builder.build().await.map_err(|error| ConnectError::Refused {
        contact_points: config.contact_points.join(", "),
        refusal: Refusal::of(&error, config),
    })
}

fn profile(config: &StoreConfig) -> ExecutionProfile {
    let profile = local_profile(config).consistency(Consistency::LocalQuorum);
    match config.speculative_after {
        Some(interval) => speculative(profile, 1, interval).build(),
        None => profile.build(),
    }
}

/// The profile of fallback reads. The node that let the first attempt time out may be the one that is picked again, so
/// others are asked too before this attempt is over.
fn one_replica_profile(config: &StoreConfig) -> ExecutionProfile {
    let interval = config.request_timeout / (2 * FALLBACK_SPECULATIONS);
    speculative(local_profile(config).consistency(Consistency::LocalOne), FALLBACK_SPECULATIONS, interval).build()
}

fn local_profile(config: &StoreConfig) -> ExecutionProfileBuilder {
    let policy = DefaultPolicy::builder().token_aware(true).permit_dc_failover(false);
    let policy = match config.local_dc.as_str() {
        "" => policy,
        dc => policy.prefer_datacenter(dc.to_owned()),
    };
    ExecutionProfile::builder().request_timeout(Some(config.request_timeout)).load_balancing_policy(policy.build())
}

fn speculative(profile: ExecutionProfileBuilder, executions: u32, retry_interval: Duration) -> ExecutionProfileBuilder {
    let max_retry_count = executions as usize;
    profile.speculative_execution_policy(Some(Arc::new(SimpleSpeculativeExecutionPolicy {
        max_retry_count,
        retry_interval,
    })))
}

/// A data centre that does not exist would give an empty plan for every statement.
fn check_datacentre(session: &Session, wanted: &str) -> Result<(), ConnectError> {
    let known = datacentres(session);
    if known.iter().any(|name| name == wanted) {
        return Ok(());
    }
    Err(ConnectError::UnknownDatacentre { wanted: wanted.to_owned(), known: known.join(", ") })
}

/// Names of the cluster's data centres, sorted.
pub(crate) fn datacentres(session: &Session) -> Vec<String> {
    let mut names: Vec<String> =
        session.get_cluster_state().get_nodes_info().iter().filter_map(|node| node.datacenter.clone()).collect();
    names.sort();
    names.dedup();
    names
}

fn tls_context(tls: &TlsConfig) -> Result<Arc<rustls::ClientConfig>, ConnectError> {
    let refuse = |file: &Path, reason: String| ConnectError::Tls { file: file.display().to_string(), reason };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&tls.ca_file).map_err(|reason| refuse(&tls.ca_file, reason))? {
        roots.add(certificate).map_err(|error| refuse(&tls.ca_file, error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(&tls.ca_file, error.to_string()))?
        .with_root_certificates(roots);
    let client = match (&tls.cert_file, &tls.key_file) {
        (Some(cert_file), Some(key_file)) => {
            let chain = certificates(cert_file).map_err(|reason| refuse(cert_file, reason))?;
            let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| refuse(key_file, error.to_string()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| refuse(cert_file, error.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(client))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = fs::read(file).map_err(|error| error.to_string())?;
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if found.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(found) }
}

impl From<ExecutionError> for ConnectError {
    fn from(error: ExecutionError) -> Self {
        Self::Statement(error.to_string())
    }
}
