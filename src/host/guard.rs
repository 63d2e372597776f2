//! The panic boundary: no panic crosses into C, where it would end the process and with it the whole server.

use std::any::Any;
use std::os::raw::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bridge::metrics::count;

use super::{log, shared};

/// What a C caller gets for a value when the body panicked.
pub(crate) trait OnPanic {
    /// The error value of this type.
    const ON_PANIC: Self;
}

impl OnPanic for c_int {
    /// -1 is false and an error to the script and to the server's start; 0 would stop the script as if all were well.
    const ON_PANIC: Self = -1;
}

impl OnPanic for () {
    const ON_PANIC: Self = ();
}

/// Runs the body of an entry from C; a panic becomes the error value. The hook has logged it.
pub(crate) fn guard<R: OnPanic>(body: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        // The payload's own drop could panic again, outside of any guard.
        std::mem::forget(payload);
        if let Some(metrics) = shared::metrics() {
            count(&metrics.panics);
        }
        R::ON_PANIC
    })
}

/// Makes panics log one line through Kamailio instead of printing a backtrace, which takes a worker a hundred
/// milliseconds. On a thread of the I/O process the line goes through `tracing`, since only a main thread may use
/// Kamailio's logger.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let text = text_of(panic.payload()).unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        if super::process::on_main_thread() {
            log::write(log::Level::Critical, "panic", &format!("bug: {text} at {place}"));
        } else {
            tracing::error!("bug: {text} at {place}");
        }
    }));
}

/// What `panic!` was called with.
fn text_of(payload: &dyn Any) -> Option<&str> {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}
