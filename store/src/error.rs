//! What can go wrong, each in one sentence that says what to do.

use scylla::errors::{DbError, ExecutionError, RequestAttemptError};

use crate::Refusal;
use crate::location::GRACE;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No contact point lets us in.
    #[error("no Cassandra session at {contact_points}: {refusal}")]
    Refused {
        /// Those tried.
        contact_points: String,
        /// What the last of them has against us.
        refusal: Refusal,
    },
    /// The data centre does not exist.
    #[error("there is no data centre '{wanted}' in this cluster, it has {known}: set local_dc to one of them")]
    UnknownDatacentre {
        /// The configured one.
        wanted: String,
        /// Those of the cluster.
        known: String,
    },
    /// The keyspace does not exist.
    #[error("there is no keyspace '{0}': run 'sipctl schema apply', or set the keyspace that holds the tables")]
    NoKeyspace(String),
    /// The tables are missing or older than this binary needs.
    #[error("keyspace '{keyspace}' has schema version {found} but {needed} is needed: run 'sipctl schema apply'")]
    SchemaTooOld {
        /// The keyspace.
        keyspace: String,
        /// What it has; 0 without any.
        found: i32,
        /// What this binary writes.
        needed: i32,
    },
    /// Bindings may outlive the time for which Cassandra remembers that a row is gone.
    #[error(
        "max_expires is {max_expires}, and a binding's row lives {GRACE} seconds longer, but table {keyspace}.location has \
         gc_grace_seconds {gc_grace}: set max_expires to at most {}, or run 'ALTER TABLE {keyspace}.location WITH \
         gc_grace_seconds = {}' on Cassandra",
        gc_grace.saturating_sub(GRACE),
        max_expires.saturating_add(GRACE)
    )]
    ExpiryTooLong {
        /// The keyspace.
        keyspace: String,
        /// Seconds that a binding may live.
        max_expires: u32,
        /// What the table has.
        gc_grace: u32,
    },
    /// A TLS file cannot be used.
    #[error("{file} cannot be used for TLS: {reason}")]
    Tls {
        /// Which file.
        file: String,
        /// Why not.
        reason: String,
    },
    /// The system has no random numbers for a secret.
    #[error("the system gives no random numbers for the cluster's secrets: {0}")]
    NoRandomness(String),
    /// A statement failed while connecting.
    #[error("Cassandra refuses a statement: {0}")]
    Statement(String),
}

/// Why a read or write has no result. Each is a failure of the backend, never an answer about the data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No answer in time.
    #[error("Cassandra did not answer in time")]
    Timeout,
    /// Too few replicas.
    #[error("too few replicas are available: {0}")]
    Unavailable(String),
    /// Anything else.
    #[error("Cassandra: {0}")]
    Failed(String),
}

impl StoreError {
    /// Whether one replica alone might have answered: too few did, or one of them not in time.
    pub(crate) fn fewer_could_answer(error: &ExecutionError) -> bool {
        matches!(
            error,
            ExecutionError::RequestTimeout(_)
                | ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                    DbError::Unavailable { .. } | DbError::ReadTimeout { .. } | DbError::ReadFailure { .. },
                    _
                ))
        )
    }
}

impl From<ExecutionError> for StoreError {
    fn from(error: ExecutionError) -> Self {
        match &error {
            ExecutionError::RequestTimeout(_)
            | ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                DbError::ReadTimeout { .. } | DbError::WriteTimeout { .. },
                _,
            )) => Self::Timeout,
            ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Unavailable { .. }, _)) => {
                Self::Unavailable(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// An answer that is not what the statement asks for.
pub(crate) fn malformed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(format!("an answer is malformed: {error}"))
}
