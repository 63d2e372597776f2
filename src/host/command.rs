//! Script functions: the entries that Kamailio calls, their arguments and their start-time checks.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_void};
use std::ptr;

use super::guard::guard;
use super::message::Message;
use super::{sys, text};

/// What a function tells the script: positive is true, negative false, 0 stops the script.
pub(crate) type ScriptCode = c_int;

/// Where a function may be called. A resumed route is written as a request route and runs as a failure route.
pub(crate) const REQUEST_AND_RESUMED: u32 = sys::REQUEST_ROUTE | sys::FAILURE_ROUTE;

/// The evaluated arguments of one call.
#[derive(Debug)]
pub(crate) struct Args(Vec<String>);

impl Args {
    /// The argument at `index`; `""` when the call has fewer.
    pub(crate) fn text(&self, index: usize) -> &str {
        self.0.get(index).map_or("", String::as_str)
    }

    /// How many arguments the call has.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The last argument.
    pub(crate) fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// The argument at `index` as a number; 0 when the call has fewer.
    ///
    /// # Errors
    /// A sentence, when it is not a number.
    pub(crate) fn number(&self, index: usize) -> Result<u32, String> {
        match self.text(index) {
            "" => Ok(0),
            hex if hex.starts_with("0x") => u32::from_str_radix(&hex[2..], 16).map_err(|_| hex),
            decimal => decimal.parse().map_err(|_| decimal),
        }
        .map_err(|wrong| format!("'{wrong}' is not a number"))
    }
}

/// Runs a script function: evaluates its arguments and keeps panics in.
///
/// # Safety
/// Called by the script interpreter with its message and with parameters that `fixup_spve_all` prepared.
pub(crate) unsafe fn run(
    name: &'static str,
    message: *mut sys::sip_msg,
    arguments: &[*mut c_char],
    function: fn(&mut Message<'_>, &Args) -> ScriptCode,
) -> c_int {
    guard(|| {
        // SAFETY: the interpreter's message is valid for the call.
        let Some(mut message) = (unsafe { Message::from_raw(message) }) else { return -1 };
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            let mut value = sys::str_ { s: ptr::null_mut(), len: 0 };
            // SAFETY: the parameter was prepared by fixup_spve_all; the result stays valid until the next evaluation.
            if unsafe { sys::get_str_fparam(&mut value, message.raw(), argument.cast()) } != 0 {
                super::log::log_error!(name, "a parameter has no value");
                return -1;
            }
            // SAFETY: Kamailio just gave this text.
            values.push(unsafe { text::owned(&value) });
        }
        function(&mut message, &Args(values))
    })
}

/// Prepares one parameter at the start. With `route` it must, unless it is computed, name a route of the configuration.
///
/// # Safety
/// Called by the server with the address of a parameter of its own.
pub(crate) unsafe fn fixup(name: &'static str, parameter: *mut *mut c_void, number: c_int, route: bool) -> c_int {
    guard(|| {
        if route {
            // SAFETY: before its fixup a parameter is terminated text.
            let written = unsafe { CStr::from_ptr((*parameter).cast()) }.to_string_lossy().into_owned();
            if !written.contains('$') && super::tm::find_route(&written).is_none() {
                super::log::log_error!(
                    name,
                    "there is no route[{written}]: its last parameter names the route to resume in"
                );
                return -1;
            }
        }
        // SAFETY: the server's own parameter, as its fixup expects it.
        unsafe { sys::fixup_spve_all(parameter, number) }
    })
}

/// One row of the table of script functions: name, number of parameters (0 to 4), function, and `route` when the last
/// parameter names a route.
macro_rules! command {
    ($name:literal, 0, $function:path) => {
        $crate::host::command::command!(@row $name, 0, [], $function, None)
    };
    ($name:literal, 1, $function:path $(, $route:ident)?) => {
        $crate::host::command::command!(@row $name, 1, [a], $function, $crate::host::command::command!(@fixup $name, 1 $(, $route)?))
    };
    ($name:literal, 2, $function:path $(, $route:ident)?) => {
        $crate::host::command::command!(@row $name, 2, [a b], $function, $crate::host::command::command!(@fixup $name, 2 $(, $route)?))
    };
    ($name:literal, 3, $function:path $(, $route:ident)?) => {
        $crate::host::command::command!(@row $name, 3, [a b c], $function, $crate::host::command::command!(@fixup $name, 3 $(, $route)?))
    };
    ($name:literal, 4, $function:path $(, $route:ident)?) => {
        $crate::host::command::command!(@row $name, 4, [a b c d], $function, $crate::host::command::command!(@fixup $name, 4 $(, $route)?))
    };
    (@fixup $name:literal, $count:literal) => {{
        unsafe extern "C" fn fixup(parameter: *mut *mut std::os::raw::c_void, number: std::os::raw::c_int) -> std::os::raw::c_int {
            // SAFETY: the server's call, passed on.
            unsafe { $crate::host::command::fixup($name, parameter, number, false) }
        }
        Some(fixup)
    }};
    (@fixup $name:literal, $count:literal, route) => {{
        unsafe extern "C" fn fixup(parameter: *mut *mut std::os::raw::c_void, number: std::os::raw::c_int) -> std::os::raw::c_int {
            // SAFETY: the server's call, passed on.
            unsafe { $crate::host::command::fixup($name, parameter, number, number == $count) }
        }
        Some(fixup)
    }};
    (@row $name:literal, $count:literal, [$($argument:ident)*], $function:path, $fixup:expr) => {{
        unsafe extern "C" fn entry(
            message: *mut $crate::host::sys::sip_msg $(, $argument: *mut std::os::raw::c_char)*
        ) -> std::os::raw::c_int {
            // SAFETY: the interpreter's call, passed on with as many parameters as the row declares.
            unsafe { $crate::host::command::run($name, message, &[$($argument),*], $function) }
        }
        $crate::host::sys::cmd_export_t {
            name: concat!($name, "\0").as_ptr().cast_mut().cast(),
            // SAFETY: the interpreter calls with as many parameters as `param_no` says; C's calling convention is the same
            // for all of these.
            function: Some(unsafe {
                std::mem::transmute::<*const (), unsafe extern "C" fn(
                    *mut $crate::host::sys::sip_msg, *mut std::os::raw::c_char, *mut std::os::raw::c_char,
                ) -> std::os::raw::c_int>(entry as *const ())
            }),
            param_no: $count,
            fixup: $fixup,
            free_fixup: None,
            flags: $crate::host::command::REQUEST_AND_RESUMED,
        }
    }};
}
pub(crate) use command;

/// The row that ends a table.
pub(crate) const END: sys::cmd_export_t =
    sys::cmd_export_t { name: ptr::null_mut(), function: None, param_no: 0, fixup: None, free_fixup: None, flags: 0 };

/// Lets a table of raw pointers be a `static`.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Table<T>(pub(crate) T);

// SAFETY: Kamailio reads the tables in the main process before it forks, and nobody writes them.
unsafe impl<T> Sync for Table<T> {}
