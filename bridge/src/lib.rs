//! Between Kamailio's processes and Cassandra.
//!
//! SIP workers are forked, single-threaded processes that must never block; the Cassandra driver is asynchronous and has
//! threads. So one process, the I/O process, owns the driver, and every other process talks to it over a socketpair made
//! before the fork:
//!
//! * [`transport`]: bounded, copying message links;
//! * [`protocol`]: what is said over them;
//! * [`client`]: a worker's end: call and wait with a deadline, or submit and go on;
//! * [`server`]: the I/O process's end: admits, runs and answers operations, drains at the stop;
//! * [`pace`]: when it wakes up;
//! * [`breaker`]: turns a dead backend into an immediate answer;
//! * [`service`]: what the operations do, over `store` and `domain`;
//! * [`owned`]: the bindings that this node wrote, for their ends and keepalives;
//! * [`calls`]: call events on their way, and the spool that keeps them while Cassandra does not;
//! * [`event_log`]: events as lines of the log;
//! * [`credentials`]: subscribers that were read lately;
//! * [`guard`]: slows those who guess;
//! * [`attributes`]: what the script is told of a subscriber.
//!
//! Nothing here knows Kamailio: the crate is tested without it.
#![forbid(unsafe_code)]

pub mod attributes;
pub mod breaker;
pub mod calls;
pub mod client;
pub mod clock;
pub mod credentials;
pub mod event_log;
pub mod guard;
mod last_known;
pub mod metrics;
pub mod owned;
pub mod pace;
pub mod protocol;
pub mod server;
pub mod service;
#[cfg(test)]
mod testing;
pub mod transport;

pub use client::Client;
pub use metrics::Metrics;
pub use pace::Pace;
