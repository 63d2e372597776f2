//! Carna, the agent of a node: runs its Kamailio or FreeSWITCH, says in ZooKeeper that the node is there, keeps the list of nodes right
//! that Kamailio routes by, and takes the node out without a lost call.
//!
//! One node from its start to its end is in [`agent`].
#![forbid(unsafe_code)]

pub mod agent;
pub mod changes;
pub mod config;
mod files;
pub mod health;
pub mod http;
pub mod kamailio;
pub mod loads;
pub mod log;
#[cfg(feature = "media")]
pub mod media;
pub mod members;
mod options;
pub mod page;
pub mod process;
pub mod registry;
pub mod router;
pub mod routes;
pub mod server;
pub mod sets;
pub mod state;
