//! What operators see: RPC commands and statistics.

use bridge::metrics::get;

use crate::host::rpc::{Call, Fault, Structure};
use crate::host::stats::statistic;
use crate::host::{shared, sys};
use crate::lifecycle;

/// `cassandra.status`: the session, the breaker, the queues.
pub(crate) fn status(_: &Call<'_>) -> Result<Structure, Fault> {
    let (Some(metrics), Some(module)) = (shared::metrics(), lifecycle::module()) else {
        return Err(Fault::new(503, "the module has not started yet: try again"));
    };
    let store = &module.config.service.store;
    let breaker = ["closed", "open", "half-open"].get(get(&metrics.breaker_state) as usize).unwrap_or(&"unknown");
    Ok(vec![
        (c"contact_points", store.contact_points.join(",").into()),
        (c"keyspace", store.keyspace.as_str().into()),
        (c"local_dc", store.local_dc.as_str().into()),
        (c"connected", get(&metrics.connected).into()),
        (c"breaker", (*breaker).into()),
        (c"breaker_opened", get(&metrics.breaker_opened).into()),
        (c"in_flight", get(&metrics.in_flight).into()),
        (c"max_in_flight", (module.config.limits.in_flight as u64).into()),
        (c"requests", get(&metrics.requests).into()),
        (c"unavailable", get(&metrics.unavailable).into()),
        (c"timeouts", get(&metrics.timeouts).into()),
        (c"panics", get(&metrics.panics).into()),
    ])
}

/// The statistics group `cassandra`.
pub(crate) fn statistics() -> Vec<sys::stat_export_t> {
    vec![
        statistic!(requests),
        statistic!(suspended),
        statistic!(resumed),
        statistic!(resume_failed),
        statistic!(unavailable),
        statistic!(timeouts),
        statistic!(late_answers),
        statistic!(queue_full),
        statistic!(overloaded),
        statistic!(breaker_rejected),
        statistic!(breaker_opened),
        statistic!(breaker_state),
        statistic!(connected),
        statistic!(in_flight),
        statistic!(panics),
        statistic!(auth_accepted),
        statistic!(auth_refused),
        statistic!(credential_cache_hits),
        statistic!(credential_cache_misses),
        statistic!(accepted_regs),
        statistic!(rejected_regs),
        statistic!(lookups_found),
        statistic!(lookups_missed),
        statistic!(lookups_stale),
        statistic!(owned_contacts),
        statistic!(contacts_expired),
        statistic!(keepalives),
        statistic!(events_dropped),
    ]
}
