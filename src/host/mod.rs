//! Safe wrappers over Kamailio: the only place with `unsafe` (the invariants are in SAFETY.md).
//!
//! Everything here runs on a process's main thread. Nothing here decides anything about SIP.

pub(crate) mod auth;
pub(crate) mod command;
pub(crate) mod dialog;
pub(crate) mod event;
pub(crate) mod guard;
pub(crate) mod keepalive;
pub(crate) mod kemi;
pub(crate) mod log;
pub(crate) mod message;
pub(crate) mod number;
pub(crate) mod params;
pub(crate) mod process;
pub(crate) mod pv;
pub(crate) mod reply;
pub(crate) mod rpc;
pub(crate) mod runtime;
pub(crate) mod shared;
pub(crate) mod socket;
pub(crate) mod stats;
pub(crate) mod sys;
pub(crate) mod text;
pub(crate) mod tm;
pub(crate) mod xavp;
