//! Messages that keep the way to a contact open.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int};

use super::guard::guard;
use super::{socket, sys, text, tm};

/// An OPTIONS outside of any dialog.
#[derive(Debug)]
pub(crate) struct Options<'a> {
    /// Request-URI.
    pub(crate) uri: &'a str,
    /// URI of To.
    pub(crate) to: &'a str,
    /// URI of From.
    pub(crate) from: &'a str,
    /// Further header lines.
    pub(crate) headers: &'a str,
    /// URI that it is sent to; `""` for the Request-URI.
    pub(crate) next_hop: &'a str,
    /// Local socket that it is sent from, when it is one of this server's.
    pub(crate) socket: &'a str,
    /// What comes back with the answer.
    pub(crate) about: &'a str,
}

/// Sends an OPTIONS. `false` when it could not be sent.
pub(crate) fn send_options(options: &Options<'_>) -> bool {
    let local = if socket::is_local(options.socket) { options.socket } else { "" };
    let raw = sys::shim_options {
        uri: text::lent(options.uri),
        to: text::lent(options.to),
        from: text::lent(options.from),
        headers: text::lent(options.headers),
        next_hop: text::lent(options.next_hop),
        socket: text::lent(local),
        about: text::lent(options.about),
    };
    // SAFETY: the texts live through the call, which copies what it keeps; main thread.
    tm::with_api(|api| unsafe { sys::shim_send_options(api, &raw) } == 0).unwrap_or_default()
}

/// Sends two CRLFs to the address of a URI, from this local socket when it is one of this server's. `false` when they could not
/// be sent; names are not looked up.
pub(crate) fn send_crlf(uri: &str, from: &str) -> bool {
    // SAFETY: the text lives through the call; main thread.
    unsafe { sys::shim_send_crlf(&mut text::lent(uri), socket::find(from)) >= 0 }
}

/// Has every answer to [`send_options`] end in [`crate::upkeep`]. In `mod_init`: the answers come in other processes.
pub(crate) fn listen() {
    // SAFETY: the function lives for ever.
    unsafe { sys::shim_set_options_listener(Some(answered)) };
}

/// # Safety
/// `about` is terminated text.
unsafe extern "C" fn answered(code: c_int, about: *const c_char) {
    guard(|| {
        // SAFETY: the caller's promise.
        let about = unsafe { CStr::from_ptr(about) }.to_string_lossy().into_owned();
        crate::upkeep::keepalive_answered(code, &about);
    });
}
