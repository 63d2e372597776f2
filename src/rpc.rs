//! What operators see: RPC commands and statistics.

use bridge::metrics::get;

use crate::host::rpc::Reply;
use crate::host::stats::statistic;
use crate::host::{shared, sys};
use crate::lifecycle;

/// `cassandra.status`: the session, the breaker, the queues.
pub(crate) fn status(reply: &Reply<'_>) {
    let (Some(metrics), Some(module)) = (shared::metrics(), lifecycle::module()) else { return };
    let store = &module.config.service.store;
    reply.text(c"contact_points", &store.contact_points.join(","));
    reply.text(c"keyspace", &store.keyspace);
    reply.text(c"local_dc", &store.local_dc);
    reply.number(c"connected", get(&metrics.connected));
    reply.text(
        c"breaker",
        ["closed", "open", "half-open"].get(get(&metrics.breaker_state) as usize).unwrap_or(&"unknown"),
    );
    reply.number(c"breaker_opened", get(&metrics.breaker_opened));
    reply.number(c"in_flight", get(&metrics.in_flight));
    reply.number(c"max_in_flight", module.config.limits.in_flight as u64);
    reply.number(c"requests", get(&metrics.requests));
    reply.number(c"unavailable", get(&metrics.unavailable));
    reply.number(c"timeouts", get(&metrics.timeouts));
    reply.number(c"panics", get(&metrics.panics));
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
    ]
}
