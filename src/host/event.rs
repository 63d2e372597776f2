//! Event routes: parts of the script that no message starts.

use std::ffi::{CStr, CString};

use super::{sys, text};

/// Whether the configuration has this event_route.
pub(crate) fn exists(name: &'static CStr) -> bool {
    // SAFETY: looks the terminated name up; main thread.
    unsafe { sys::shim_has_event_route(name.as_ptr().cast_mut()) != 0 }
}

/// Runs an event_route, or else the KEMI script's function `callback` (`""` for none), on a message of the server's own.
pub(crate) fn run(name: &'static CStr, callback: &str) {
    // Engines take the name as terminated text.
    let Ok(terminated) = CString::new(callback) else { return };
    let mut callback = sys::str_ { s: terminated.as_ptr().cast_mut(), len: text::length(callback) };
    // SAFETY: the texts live through the call; main thread, outside of any script.
    unsafe { sys::shim_run_event_route(name.as_ptr().cast_mut(), &mut callback) };
}
