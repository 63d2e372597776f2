//! How to reach Cassandra: options, or the environment that `make up` writes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use store::admin::Admin;
use store::{ConnectError, Login, StoreConfig, TlsConfig};

/// Where Cassandra is.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// Some Cassandra nodes, host:port, comma-separated.
    #[arg(
        long,
        global = true,
        env = "CASSANDRA_CONTACT_POINTS",
        default_value = "127.0.0.1:9042",
        value_delimiter = ','
    )]
    contact_points: Vec<String>,
    /// Keyspace of the tables.
    #[arg(long, global = true, env = "CASSANDRA_KEYSPACE", default_value = "sip")]
    keyspace: String,
    /// Data centre to work in.
    #[arg(long, global = true, env = "CASSANDRA_LOCAL_DC", default_value = "dc1")]
    local_dc: String,
    /// Role to log in with; its password comes from the environment variable CASSANDRA_PASSWORD.
    #[arg(long, global = true, env = "CASSANDRA_USERNAME")]
    username: Option<String>,
    /// CA certificates (PEM) to speak TLS with.
    #[arg(long, global = true, env = "CASSANDRA_CA_FILE")]
    ca_file: Option<PathBuf>,
}

impl Connection {
    /// The configuration of a session.
    ///
    /// # Errors
    /// When a role is given without its password.
    pub(crate) fn config(&self) -> anyhow::Result<StoreConfig> {
        let login = match &self.username {
            None => None,
            Some(username) => {
                let password = std::env::var("CASSANDRA_PASSWORD")
                    .context("a Cassandra role is given but its password is not: set CASSANDRA_PASSWORD")?;
                Some(Login { username: username.clone(), password })
            }
        };
        Ok(StoreConfig {
            contact_points: self.contact_points.clone(),
            keyspace: self.keyspace.clone(),
            local_dc: self.local_dc.clone(),
            login,
            tls: self.ca_file.clone().map(|ca_file| TlsConfig { ca_file, cert_file: None, key_file: None }),
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            compression: false,
            speculative_after: None,
        })
    }

    /// A session for provisioning.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub(crate) async fn admin(&self) -> anyhow::Result<Admin> {
        Ok(Admin::connect(&self.config()?).await?)
    }
}

/// Which option to look at when there is no session; `""` when the error says it all.
pub(crate) fn advice(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref() {
        Some(ConnectError::Refused { .. }) => " (see --contact-points, or CASSANDRA_CONTACT_POINTS)",
        Some(ConnectError::UnknownDatacentre { .. }) => " (see --local-dc, or CASSANDRA_LOCAL_DC)",
        Some(ConnectError::NoKeyspace(_)) => " (see --keyspace, or CASSANDRA_KEYSPACE)",
        _ => "",
    }
}
