//! The fleet: what nodes say of themselves in ZooKeeper, and where.
#![forbid(unsafe_code)]

#[cfg(feature = "zookeeper")]
pub mod directory;
pub mod load;
pub mod node;

#[cfg(feature = "zookeeper")]
pub use directory::Directory;
pub use load::Load;
pub use node::{Announcement, ELSEWHERE, NodeId, Role, State, Transport};
