//! The statistics group `cassandra`: counters and gauges of all processes of the server.
#![forbid(unsafe_code)]

use std::ffi::CStr;

use bridge::Metrics;
use bridge::metrics::{BOUNDS_MS, get};

use crate::host::stats::statistic;
use crate::host::{sys, text};

/// How a statistic is read.
pub(crate) type Read = fn(&Metrics) -> u64;

/// The statistics: a name that is a field of [`Metrics`], or a name and how it is read.
macro_rules! statistics {
    (@read $name:ident) => { |metrics| get(&metrics.$name) };
    (@read $name:ident $read:expr) => { $read };
    (@name $name:ident) => { const { text::terminated(concat!(stringify!($name), "\0")) } };
    ($($name:ident $(= $read:expr)?),+ $(,)?) => {
        /// All statistics, by name.
        pub(crate) const ALL: &[(&CStr, Read)] = &[
            $((statistics!(@name $name), statistics!(@read $name $($read)?))),+
        ];

        /// The group's table, for Kamailio.
        pub(crate) fn rows() -> Vec<sys::stat_export_t> {
            vec![$(statistic!(statistics!(@name $name), statistics!(@read $name $($read)?))),+]
        }
    };
}

statistics! {
    requests,
    suspended,
    resumed,
    resume_failed,
    unavailable,
    timeouts,
    late_answers,
    queue_full,
    overloaded,
    breaker_rejected,
    breaker_opened,
    breaker_state,
    breaker_held,
    connected,
    in_flight,
    queue_depth,
    panics,
    auth_accepted,
    auth_refused,
    auth_slowed,
    auth_stale,
    subscribers_found,
    subscribers_missed,
    aliases_found,
    aliases_missed,
    credential_cache_hits,
    credential_cache_misses,
    accepted_regs,
    rejected_regs,
    lookups_found,
    lookups_missed,
    lookups_stale,
    owned_contacts,
    contacts_expired,
    keepalives,
    events_dropped,
    call_events,
    call_events_accepted,
    call_events_dropped,
    call_events_spooled,
    call_spool_broken,
    live_calls,
    latency_le_1ms = |metrics| metrics.latency.within_ms(1),
    latency_le_2ms = |metrics| metrics.latency.within_ms(2),
    latency_le_5ms = |metrics| metrics.latency.within_ms(5),
    latency_le_10ms = |metrics| metrics.latency.within_ms(10),
    latency_le_20ms = |metrics| metrics.latency.within_ms(20),
    latency_le_50ms = |metrics| metrics.latency.within_ms(50),
    latency_le_100ms = |metrics| metrics.latency.within_ms(100),
    latency_le_200ms = |metrics| metrics.latency.within_ms(200),
    latency_le_500ms = |metrics| metrics.latency.within_ms(500),
    latency_le_1000ms = |metrics| metrics.latency.within_ms(1000),
    latency_inf = |metrics| metrics.latency.count(),
    latency_count = |metrics| metrics.latency.count(),
    latency_sum_us = |metrics| metrics.latency.sum_us(),
}

/// Those of the latency: its bounds, above them, how often, how long.
const OF_LATENCY: usize = BOUNDS_MS.len() + 3;
const _: () = assert!(ALL.len() == Metrics::COUNT + OF_LATENCY, "a metric is missing among the statistics");
