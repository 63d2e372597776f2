//! The fleet: what nodes say of themselves in ZooKeeper, and where.
#![forbid(unsafe_code)]

pub mod directory;
pub mod node;

pub use directory::Directory;
pub use node::{Announcement, NodeId, Role, State, Transport};
