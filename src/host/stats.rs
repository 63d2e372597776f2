//! Statistics: each is read from the shared block of counters.

use std::ffi::CStr;
use std::os::raw::c_long;
use std::ptr;

use super::sys;

/// One row of the table of statistics: its name, and how it is read from the shared block.
macro_rules! statistic {
    ($name:expr, $read:expr) => {{
        extern "C" fn read() -> std::os::raw::c_long {
            const READ: fn(&bridge::Metrics) -> u64 = $read;
            $crate::host::shared::metrics().map_or(0, |metrics| READ(metrics) as std::os::raw::c_long)
        }
        $crate::host::stats::row($name, read)
    }};
}
pub(crate) use statistic;

/// A row of the table.
pub(crate) fn row(name: &'static CStr, read: extern "C" fn() -> c_long) -> sys::stat_export_t {
    sys::stat_export_t {
        name: name.as_ptr().cast_mut(),
        flags: sys::STAT_IS_FUNC as i32,
        // With STAT_IS_FUNC this field is the function to call.
        stat_pointer: read as *mut *mut sys::stat_var,
    }
}

/// Registers the statistics group. In `mod_init`.
///
/// # Errors
/// A sentence, when Kamailio refuses.
pub(crate) fn register(group: &'static CStr, mut rows: Vec<sys::stat_export_t>) -> Result<(), String> {
    rows.push(sys::stat_export_t { name: ptr::null_mut(), flags: 0, stat_pointer: ptr::null_mut() });
    // Kamailio keeps pointers into the table.
    let rows = rows.leak();
    // SAFETY: a table that ends with a null name and lives for ever.
    match unsafe { sys::register_module_stats(group.as_ptr().cast_mut(), rows.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err("the statistics cannot be registered: is the module loaded twice?".to_owned()),
    }
}
