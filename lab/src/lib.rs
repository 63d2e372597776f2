//! Starts the real servers that the demo, the tests and the benchmarks run against: Cassandra on a JDK, stock Kamailio,
//! MariaDB for the stock peer, and SIPp for the phones.
//!
//! Every server gets a loopback address of its own, a run directory under `target/lab/`, and a log that ends up in the
//! message of whatever failed. Nothing here sleeps for a fixed time: each wait is for a condition, with a limit.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let cassandra = lab::cassandra::Cassandra::start(lab::cassandra::Options::default())?;
//! println!("CQL on {}", cassandra.contact_point());
//! # Ok(()) } // dropping a server stops it
//! ```

pub mod baresip;
pub mod builds;
pub mod carna;
pub mod cassandra;
pub mod cluster;
pub mod containers;
pub mod cpu;
pub mod debian;
pub mod event_socket;
pub mod kamailio;
pub mod machines;
pub mod mariadb;
pub mod media;
pub mod net;
pub mod networks;
pub mod packages;
pub mod process;
pub mod progress;
pub mod prometheus;
pub mod relay;
pub mod rtpengine;
pub mod sipctl;
pub mod sipp;
pub mod stock;
pub mod suite;
pub mod support;
pub mod tls;
pub mod tools;
pub mod topology;
pub mod wait;
mod workspace;
pub mod zookeeper;

pub use workspace::{FileLock, RunDir, Workspace, workspace};
