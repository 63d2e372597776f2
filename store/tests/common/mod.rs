//! What the suites share: servers that start once and stop at the end, and configurations.
#![allow(dead_code, unreachable_pub, reason = "each suite uses a part")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use domain::{Aor, Binding, Timestamp};
use lab::cassandra::Options;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use store::{ConnectError, Store, StoreConfig};

/// A runtime as the module has it.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

/// A configuration for `dc1` without login and encryption, patient enough for a busy machine.
pub fn config(contact_point: impl Into<String>, keyspace: &str) -> StoreConfig {
    StoreConfig {
        contact_points: vec![contact_point.into()],
        keyspace: keyspace.to_owned(),
        local_dc: "dc1".to_owned(),
        login: None,
        tls: None,
        request_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        compression: false,
        speculative_after: None,
    }
}

pub fn aor(username: &str) -> Aor {
    Aor::new(username, "example.com").expect("an AoR")
}

/// Long before the end of any test.
pub const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A live binding, registered at [`NOW`] for ten minutes.
pub fn binding(contact: &str) -> Binding {
    Binding {
        expires_at: NOW.plus_seconds(600),
        call_id: "call".to_owned(),
        cseq: 1,
        user_agent: "a test".to_owned(),
        dc: "dc1".to_owned(),
        registrar: "here".to_owned(),
        edge: "sip:192.0.2.9".to_owned(),
        attributes: vec![("account".to_owned(), "acme".to_owned())],
        registered_at: NOW,
        bound_at: NOW,
        ..Binding::of_uri(contact.to_owned())
    }
}

/// Writes a binding and reads it back.
pub async fn round_trip(store: &Store, user: &str) -> Result<()> {
    let (aor, contact) = (aor(user), format!("sip:{user}@192.0.2.1"));
    store.write_bindings(&aor, &[binding(&contact)], NOW).await?;
    let found = store.bindings(&aor).await?;
    let [found] = found.as_slice() else { bail!("{found:?}") };
    ensure!(*found == Binding { written_at: found.written_at, ..binding(&contact) }, "{found:?}");
    Ok(())
}

/// The sentence with which a connect fails.
pub async fn refusal(config: &StoreConfig) -> Result<String> {
    match Store::connect(config).await {
        Ok(_) => anyhow::bail!("it connects"),
        Err(error) => sentence(&error),
    }
}

/// What an operator reads: one line, neither empty nor a debug dump.
pub fn sentence(error: &ConnectError) -> Result<String> {
    let text = error.to_string();
    for ugly in ["\n", "{", "Some(", "Error(", "Kind"] {
        ensure!(!text.contains(ugly), "not a sentence for a person: {text}");
    }
    Ok(text)
}

/// A node that does not write its schema to disk after each statement, which takes most of their time.
pub fn fast_schema() -> Options {
    Options { jvm: vec!["-Dcassandra.test.flush_local_schema_changes=false".to_owned()], ..Options::default() }
}

/// A session of the driver, for looking behind the store. Without a certificate of ours.
pub async fn session(config: &StoreConfig) -> Result<Session> {
    let mut builder = SessionBuilder::new().known_nodes(&config.contact_points);
    if let Some(login) = &config.login {
        builder = builder.user(&login.username, &login.password);
    }
    if let Some(tls) = &config.tls {
        builder = builder.tls_context(Some(Arc::new(trusting(&tls.ca_file)?)));
    }
    Ok(builder.build().await?)
}

fn trusting(ca_file: &Path) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
