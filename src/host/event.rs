//! Event routes: parts of the script that no message starts.

use std::ffi::CStr;

use super::{sys, text};

/// Whether the configuration has this event_route.
pub(crate) fn exists(name: &'static CStr) -> bool {
    // SAFETY: looks the terminated name up; main thread.
    unsafe { sys::shim_has_event_route(name.as_ptr().cast_mut()) != 0 }
}

/// Runs an event_route, or else the KEMI script's function `callback` (`""` for none), on a message of the server's own.
pub(crate) fn run(name: &'static CStr, callback: &str) {
    // SAFETY: the texts live through the call; main thread, outside of any script.
    unsafe { sys::shim_run_event_route(name.as_ptr().cast_mut(), &mut text::lent(callback)) };
}
