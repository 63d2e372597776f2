//! Where Cassandra is and how it is used.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Everything a session needs to know.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Some nodes, as `host:port`; the others are found through them.
    pub contact_points: Vec<String>,
    /// Keyspace of all tables.
    pub keyspace: String,
    /// Data centre that requests go to; no other is ever used.
    pub local_dc: String,
    /// Password authentication, when Cassandra wants it.
    pub login: Option<Login>,
    /// TLS, when Cassandra wants it.
    pub tls: Option<TlsConfig>,
    /// Bound of one statement, retries included; a read that falls back takes up to two.
    pub request_timeout: Duration,
    /// Bound of opening one connection.
    pub connect_timeout: Duration,
    /// LZ4 frames; costs CPU, saves bandwidth.
    pub compression: bool,
    /// After this long an idempotent read is also sent to another replica.
    pub speculative_after: Option<Duration>,
}

/// User name and password at Cassandra.
#[derive(Clone)]
pub struct Login {
    /// The role.
    pub username: String,
    /// Its password; never shown.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?}, hidden)", self.username)
    }
}

/// Files for TLS, in PEM. The server's certificate must be signed by the CA and name the node's address.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Certificates of the CAs that may sign the server's.
    pub ca_file: PathBuf,
    /// Our certificate, when Cassandra wants one.
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
}
