//! RPC commands: `kamcmd`, `kamctl rpc` and JSON-RPC all end here.

use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int, c_void};
use std::ptr;

use super::guard::guard;
use super::sys;

/// The answer of one RPC call: a structure of named values.
#[derive(Debug)]
pub(crate) struct Reply<'r> {
    rpc: &'r sys::rpc_t,
    structure: *mut c_void,
}

impl Reply<'_> {
    /// Adds a number. Kamailio 5.6 carries 32 bits; what does not fit is shown as the largest that does.
    pub(crate) fn number(&self, name: &'static CStr, value: u64) {
        let Some(add) = self.rpc.struct_add else { return };
        let value = c_int::try_from(value).unwrap_or(c_int::MAX);
        // SAFETY: the structure is this call's; "d" takes a name and an int.
        unsafe { add(self.structure, c"d".as_ptr().cast_mut(), name.as_ptr(), value) };
    }

    /// Adds a text.
    pub(crate) fn text(&self, name: &'static CStr, value: &str) {
        let Some(add) = self.rpc.struct_add else { return };
        let value = CString::new(value).unwrap_or_default();
        // SAFETY: the structure is this call's; "s" takes a name and terminated text, which it copies.
        unsafe { add(self.structure, c"s".as_ptr().cast_mut(), name.as_ptr(), value.as_ptr()) };
    }
}

/// Answers an RPC call with one structure, which `fill` fills.
///
/// # Safety
/// Called by the server with its RPC interface and context.
pub(crate) unsafe fn answer(rpc: *mut sys::rpc_t, context: *mut c_void, fill: fn(&Reply<'_>)) {
    guard(|| {
        // SAFETY: the server's interface is valid for the call.
        let Some(rpc) = (unsafe { rpc.as_ref() }) else { return };
        let mut structure: *mut c_void = ptr::null_mut();
        // SAFETY: "{" takes the address of a handle.
        let added = unsafe { rpc.add.map_or(-1, |add| add(context, c"{".as_ptr().cast_mut(), &raw mut structure)) };
        if added >= 0 && !structure.is_null() {
            fill(&Reply { rpc, structure });
        } else if let Some(fault) = rpc.fault {
            // SAFETY: a format without arguments.
            unsafe { fault(context, 500, c"no memory for the answer".as_ptr().cast_mut()) };
        }
    });
}

/// One row of the table of RPC commands.
macro_rules! method {
    ($name:literal, $help:literal, $fill:path) => {{
        static HELP: $crate::host::command::Table<[*const std::os::raw::c_char; 2]> =
            $crate::host::command::Table([concat!($help, "\0").as_ptr().cast(), std::ptr::null()]);
        unsafe extern "C" fn entry(rpc: *mut $crate::host::sys::rpc_t, context: *mut std::os::raw::c_void) {
            // SAFETY: the server's call, passed on.
            unsafe { $crate::host::rpc::answer(rpc, context, $fill) }
        }
        $crate::host::rpc::row(concat!($name, "\0"), entry, &HELP.0)
    }};
}
pub(crate) use method;

/// A row of the table; `name` is terminated.
pub(crate) const fn row(
    name: &'static str,
    entry: unsafe extern "C" fn(*mut sys::rpc_t, *mut c_void),
    help: &'static [*const c_char; 2],
) -> sys::rpc_export_t {
    sys::rpc_export_t { name: name.as_ptr().cast(), function: Some(entry), doc_str: help.as_ptr().cast_mut(), flags: 0 }
}

/// The row that ends a table.
pub(crate) const END: sys::rpc_export_t =
    sys::rpc_export_t { name: ptr::null(), function: None, doc_str: ptr::null_mut(), flags: 0 };
