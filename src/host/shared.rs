//! The one block of shared memory that all processes of the server count in.

use bridge::Metrics;
use once_cell::sync::OnceCell;

use super::sys;

static METRICS: OnceCell<&'static Metrics> = OnceCell::new();

/// Makes the block, in the main process before it forks: every process sees it at the same address.
///
/// # Errors
/// When there is no shared memory left.
pub(crate) fn create_metrics() -> Result<&'static Metrics, String> {
    METRICS
        .get_or_try_init(|| {
            // SAFETY: called in mod_init, after the server has set up its shared memory.
            let block = unsafe { sys::shim_shared_alloc(size_of::<Metrics>() as u64) }.cast::<Metrics>();
            // SAFETY: the block is null or zeroed, aligned for u64 as all of Kamailio's allocators do, never freed, and
            // all-zero is a valid `Metrics`; it is only ever used through its atomics.
            unsafe { block.as_ref() }.ok_or_else(|| "no shared memory left: start Kamailio with a larger -m".to_owned())
        })
        .copied()
}

/// The block, once made.
pub(crate) fn metrics() -> Option<&'static Metrics> {
    METRICS.get().copied()
}
