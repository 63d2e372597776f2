//! Counters and gauges of all processes, in one block of shared memory.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// One block of atomics that every process of the server writes and reads. All zero is its initial state, so a
        /// zeroed block of shared memory is a valid one.
        #[derive(Debug, Default)]
        #[repr(C)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: AtomicU64,)+
        }
    };
}

metrics! {
    /// Operations asked of the I/O process, plain and async.
    requests,
    /// Operations that suspended their transaction.
    suspended,
    /// Suspended transactions whose route was run.
    resumed,
    /// Suspended transactions that were gone (cancelled, timed out) when the answer came.
    resume_failed,
    /// Answers of backend unavailable, for whatever reason.
    unavailable,
    /// Those of them for lack of an answer in time.
    timeouts,
    /// Answers that came after the caller had given up, and were dropped.
    late_answers,
    /// Requests that the full queue to the I/O process refused.
    queue_full,
    /// Requests refused because too many were under way in the I/O process.
    overloaded,
    /// Requests refused at once because the circuit breaker was open.
    breaker_rejected,
    /// How often the circuit breaker has opened.
    breaker_opened,
    /// State of the circuit breaker: 0 closed, 1 open, 2 half-open.
    breaker_state,
    /// 1 while the I/O process has a Cassandra session.
    connected,
    /// Operations under way in the I/O process.
    in_flight,
    /// Panics caught, in commands and in the I/O process.
    panics,
    /// Credentials that were right.
    auth_accepted,
    /// Credentials that were wrong or of unknown users.
    auth_refused,
    /// Credentials accepted without a read.
    credential_cache_hits,
    /// Subscribers read.
    credential_cache_misses,
    /// REGISTERs stored.
    accepted_regs,
    /// REGISTERs refused by the registrar's rules.
    rejected_regs,
    /// Lookups that found a binding.
    lookups_found,
    /// Lookups that found none.
    lookups_missed,
    /// Bindings that this node wrote last.
    owned_contacts,
    /// Bindings of this node that lapsed.
    contacts_expired,
    /// Keepalives sent.
    keepalives,
    /// Events of bindings that were dropped, since too many were on their way.
    events_dropped,
    /// Lookups answered from memory, since Cassandra was unreachable.
    lookups_stale,
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Sets a gauge.
pub fn set(gauge: &AtomicU64, value: u64) {
    gauge.store(value, Ordering::Relaxed);
}

/// Reads a counter or gauge.
pub fn get(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}
