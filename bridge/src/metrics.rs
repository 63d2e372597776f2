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
            /// How long operations took in the I/O process, from their admission to their answer.
            pub latency: Histogram,
        }

        impl Metrics {
            /// How many there are besides the latency.
            pub const COUNT: usize = [$(stringify!($name)),+].len();
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
    /// 1 while an operator holds the circuit breaker open.
    breaker_held,
    /// 1 while the I/O process has a Cassandra session.
    connected,
    /// Operations under way in the I/O process.
    in_flight,
    /// Answers in the I/O process for which there is no room yet in the queue to their process.
    queue_depth,
    /// Panics caught, in commands and in the I/O process.
    panics,
    /// Credentials that were right.
    auth_accepted,
    /// Credentials that were wrong or of unknown users.
    auth_refused,
    /// Credentials refused unread, because their source or others who asked for the AoR had failed too often.
    auth_slowed,
    /// Credentials that were right, but for a nonce that is too old.
    auth_stale,
    /// AoRs that `cassandra_is_subscriber` found to be subscribers.
    subscribers_found,
    /// AoRs that it found to be none.
    subscribers_missed,
    /// Aliases that were looked up and found.
    aliases_found,
    /// AoRs that were looked up and are no aliases.
    aliases_missed,
    /// Credentials accepted without a read of their own.
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
    /// Events of calls that were captured.
    call_events,
    /// Those of them that are in Cassandra or synced to the spool: these are not lost.
    call_events_accepted,
    /// Those of them that are lost: refused by a full queue, or given up for newer ones.
    call_events_dropped,
    /// Events in the spool, which Cassandra has not taken yet.
    call_events_spooled,
    /// 1 while the spool cannot be used.
    call_spool_broken,
    /// Calls, and further legs, that are under way on this node.
    live_calls,
    /// Lookups answered from memory, since Cassandra was unreachable.
    lookups_stale,
}

/// Upper bounds of a histogram's buckets in milliseconds. One more bucket takes what is above.
pub const BOUNDS_MS: [u64; 10] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/// How often something took how long.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts something that took `micros` microseconds.
    pub fn record(&self, micros: u64) {
        let bucket = BOUNDS_MS.partition_point(|bound| bound * 1000 < micros);
        count(&self.buckets[bucket]);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// How often it took at most `bound` milliseconds, one of [`BOUNDS_MS`].
    pub fn within_ms(&self, bound: u64) -> u64 {
        let counted = BOUNDS_MS.iter().zip(&self.buckets).take_while(|(upper, _)| **upper <= bound);
        counted.map(|(_, bucket)| get(bucket)).sum()
    }

    /// How often it happened.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(get).sum()
    }

    /// How long it took in all, in microseconds.
    pub fn sum_us(&self) -> u64 {
        get(&self.sum_us)
    }
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Takes one from a gauge.
pub fn uncount(gauge: &AtomicU64) {
    gauge.fetch_sub(1, Ordering::Relaxed);
}

/// Sets a gauge.
pub fn set(gauge: &AtomicU64, value: u64) {
    gauge.store(value, Ordering::Relaxed);
}

/// Reads a counter or gauge.
pub fn get(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_took_at_most_each_bound() {
        let histogram = Histogram::default();
        for micros in [0, 999, 1000, 1001, 2000, 150_000, 1_000_000, 5_000_000] {
            histogram.record(micros);
        }
        let within = BOUNDS_MS.map(|bound| histogram.within_ms(bound));
        assert_eq!(within, [3, 5, 5, 5, 5, 5, 5, 6, 6, 7]);
        assert_eq!(histogram.count(), 8);
        assert_eq!(histogram.sum_us(), 6_155_000);
    }
}
