//! The Cassandra side: schema, prepared statements, consistency and retry policy.
//!
//! Reads and writes are at LOCAL_QUORUM, in the local data centre only. A read that too few replicas answer, or not in
//! time, falls back once to LOCAL_ONE; an empty answer there is no answer, since that one replica may have missed the
//! write. Every statement is prepared once per session, marked idempotent, and bounded by the request timeout.
#![forbid(unsafe_code)]

pub mod admin;
mod alias;
pub mod call;
mod config;
mod error;
mod location;
#[cfg(feature = "next-schema")]
mod next;
pub mod outbox;
mod refusal;
pub mod schema;
mod secret;
mod session;
mod subscriber;
mod timestamp;

pub use alias::Alias;
pub use config::{Login, StoreConfig, TlsConfig};
pub use error::{ConnectError, StoreError};
pub use refusal::Refusal;
pub use session::Store;
pub use subscriber::Subscriber;
