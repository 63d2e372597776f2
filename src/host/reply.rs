//! Replies: through sl, which uses the transaction when there is one, so they work in every route.

use std::mem::MaybeUninit;

use once_cell::sync::OnceCell;

use super::message::Message;
use super::{sys, text};

static API: OnceCell<Api> = OnceCell::new();

struct Api(sys::sl_api_t);

// SAFETY: a table of function pointers, filled once before the fork and then only read.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

/// Binds sl's functions. In `mod_init`.
///
/// # Errors
/// A sentence, when sl is not loaded.
pub(crate) fn bind() -> Result<(), String> {
    // SAFETY: the name is terminated.
    let Some(bind) = (unsafe { sys::find_export(c"bind_sl".as_ptr().cast_mut(), 0, 0) }) else {
        return Err("the sl module is not loaded: put loadmodule \"sl.so\" before this module".to_owned());
    };
    // SAFETY: the export of this name has this signature (sl.h).
    let bind: unsafe extern "C" fn(*mut sys::sl_api_t) -> i32 = unsafe { std::mem::transmute(bind) };
    let mut api = MaybeUninit::<sys::sl_api_t>::zeroed();
    // SAFETY: the structure is as large as this version's header says.
    if unsafe { bind(api.as_mut_ptr()) } < 0 {
        return Err("the sl module refuses to be used: see its messages above".to_owned());
    }
    // SAFETY: sl has filled it.
    let _ = API.set(Api(unsafe { api.assume_init() }));
    Ok(())
}

/// Adds a header line to the reply that will be sent to this request. `false` when memory is out.
pub(crate) fn add_header(message: &mut Message<'_>, name: &str, value: &str) -> bool {
    add_line(message, &format!("{name}: {value}\r\n"))
}

/// Adds a header line, with its end, to the reply that will be sent to this request. `false` when memory is out.
pub(crate) fn add_line(message: &mut Message<'_>, line: &str) -> bool {
    // SAFETY: copies the line; the message is the interpreter's current one; main thread.
    let lump = unsafe {
        sys::add_lump_rpl2(message.raw(), line.as_ptr().cast_mut().cast(), text::length(line), sys::LUMP_RPL_HDR as i32)
    };
    !lump.is_null()
}

/// Answers the request. `false` when the reply could not be sent.
pub(crate) fn send(message: &mut Message<'_>, status: u16, reason: &str) -> bool {
    let mut reason = text::lent(reason);
    let Some(reply) = API.get().and_then(|api| api.0.freply) else { return false };
    // SAFETY: the reason lives through the call; the message is the interpreter's current one; main thread.
    unsafe { reply(message.raw(), i32::from(status), &mut reason) >= 0 }
}

/// The same for a REGISTER, whose answer has no Record-Route whatever the request had (RFC 3261 section 10.3); Kamailio copies
/// them into every 2xx.
pub(crate) fn send_without_routes(message: &mut Message<'_>, status: u16, reason: &str) -> bool {
    let hidden = message.retype_headers(sys::HDR_RECORDROUTE_T, sys::HDR_OTHER_T);
    let sent = send(message, status, reason);
    for header in hidden {
        // SAFETY: a header of the message, which is still there.
        unsafe { (*header).type_ = sys::HDR_RECORDROUTE_T };
    }
    sent
}
