//! KEMI: the script functions for the languages that a routing script can be written in instead of the configuration's own
//! (Lua, Python, JavaScript and others), as `KSR.cassandra.*`.

use std::ffi::CString;
use std::os::raw::{c_int, c_void};
use std::ptr;

use super::command::{Args, Caller, Parameter, ScriptCode};
use super::guard::guard;
use super::log::log_error;
use super::message::Message;
use super::{sys, text};

/// The module's name in the script: `KSR.cassandra`.
const MODULE: &str = "cassandra\0";

/// What the callback of a resumed transaction may be told; the engines of Kamailio 5.6 do not pass it on.
const EVENT: &str = "cassandra:resumed";

/// An argument as a script language's engine passes it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Given {
    /// A text; null for none.
    Text(*mut sys::str_),
    /// A number.
    Number(c_int),
}

/// Runs a script function that a KEMI script has called, and keeps panics in.
///
/// # Safety
/// Called by an engine with its message and arguments.
pub(crate) unsafe fn run(
    message: *mut sys::sip_msg,
    given: &[Given],
    function: fn(&mut Message<'_>, &Args) -> ScriptCode,
) -> c_int {
    guard(|| {
        // SAFETY: the engine's message is valid for the call.
        let Some(mut message) = (unsafe { Message::from_raw(message) }) else { return -1 };
        let values = given.iter().map(|argument| match *argument {
            // SAFETY: null or the engine's text, valid for the call.
            Given::Text(given) => unsafe { given.as_ref().map(|given| text::owned(given)).unwrap_or_default() },
            Given::Number(number) => number.to_string(),
        });
        function(&mut message, &Args::new(values.collect(), Caller::Kemi))
    })
}

/// Announces the functions to the script languages. In `mod_register`, since some engines read the list in their `mod_init`.
pub(crate) fn register(twins: &'static [sys::sr_kemi_t]) -> c_int {
    // SAFETY: a table that ends with an empty row, lives for ever and is only read.
    unsafe { sys::sr_kemi_modules_add(twins.as_ptr().cast_mut()) }
}

/// Whether the routing script is a KEMI script, so that a callback can be called.
pub(crate) fn has_engine() -> bool {
    // SAFETY: reads a pointer set while the configuration is read.
    !unsafe { sys::sr_kemi_eng_get() }.is_null()
}

/// Runs a function of the KEMI script on the message, as it runs failure routes: that is what a resumed route is.
pub(crate) fn run_callback(message: &mut Message<'_>, name: &str) {
    // Engines take the name as terminated text.
    let Ok(terminated) = CString::new(name) else { return };
    let mut callback = sys::str_ { s: terminated.as_ptr().cast_mut(), len: text::length(name) };
    // SAFETY: the texts live through the call; the message is the one under way, not used by us meanwhile; main thread.
    let ran = unsafe {
        let engine = sys::sr_kemi_eng_get();
        !engine.is_null()
            && sys::sr_kemi_route(
                engine,
                message.raw(),
                sys::FAILURE_ROUTE as c_int,
                &mut callback,
                &mut text::lent(EVENT),
            ) >= 0
    };
    if !ran {
        log_error!("resume", "the callback {name} of the KEMI script cannot be run");
    }
}

/// One row of the table of KEMI functions; see [`super::command::functions!`].
macro_rules! twin {
    (@type number) => { std::os::raw::c_int };
    (@type $text:ident) => { *mut $crate::host::sys::str_ };
    (@given number $argument:ident) => { $crate::host::kemi::Given::Number($argument) };
    (@given $text:ident $argument:ident) => { $crate::host::kemi::Given::Text($argument) };
    ($name:literal ($($argument:ident: $kind:ident),*) = $function:path) => {{
        unsafe extern "C" fn entry(
            message: *mut $crate::host::sys::sip_msg
            $(, $argument: $crate::host::kemi::twin!(@type $kind))*
        ) -> std::os::raw::c_int {
            // SAFETY: the engine's call, passed on with the parameters that the row declares.
            unsafe {
                $crate::host::kemi::run(
                    message,
                    &[$($crate::host::kemi::twin!(@given $kind $argument)),*],
                    $function,
                )
            }
        }
        $crate::host::kemi::row(
            concat!($name, "\0"),
            entry as *const () as *mut std::os::raw::c_void,
            &[$($crate::host::command::parameter!($kind)),*],
        )
    }};
}
pub(crate) use twin;

/// Parameters that a function can have (`SR_KEMI_PARAMS_MAX`).
const MOST_PARAMETERS: usize = 6;

/// A row of the table; `name` is terminated.
pub(crate) const fn row(name: &'static str, function: *mut c_void, parameters: &[Parameter]) -> sys::sr_kemi_t {
    let mut types = [sys::SR_KEMIP_NONE as c_int; MOST_PARAMETERS];
    let mut index = 0;
    while index < parameters.len() {
        types[index] = match parameters[index] {
            Parameter::Text | Parameter::Route | Parameter::Attributes => sys::SR_KEMIP_STR as c_int,
            Parameter::Number => sys::SR_KEMIP_INT as c_int,
        };
        index += 1;
    }
    sys::sr_kemi_t {
        mname: without_terminator(MODULE),
        fname: without_terminator(name),
        rtype: sys::SR_KEMIP_INT as c_int,
        func: function,
        ptypes: types,
    }
}

const fn without_terminator(name: &'static str) -> sys::str_ {
    sys::str_ { s: name.as_ptr().cast_mut().cast(), len: name.len() as c_int - 1 }
}

/// The row that ends a table.
pub(crate) const END: sys::sr_kemi_t = sys::sr_kemi_t {
    mname: sys::str_ { s: ptr::null_mut(), len: 0 },
    fname: sys::str_ { s: ptr::null_mut(), len: 0 },
    rtype: 0,
    func: ptr::null_mut(),
    ptypes: [0; MOST_PARAMETERS],
};
