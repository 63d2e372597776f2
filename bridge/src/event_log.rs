//! Events as lines of the log, one JSON object each: only what is written here has one of these targets, so a line that has it is no text
//! that a caller has sent.

/// The target of events of calls; their lines begin with `call `.
pub const CALLS: &str = "bridge::call_log";

/// The target of events of bindings; their lines begin with `registration `.
pub const REGISTRATIONS: &str = "bridge::registration_log";

/// Bytes of a line at most: Kamailio's JSON log leaves out what is longer than 32 KiB.
pub const LONGEST_LINE: usize = 30_000;
