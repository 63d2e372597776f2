//! Statistics: each reads one counter of the shared block.

use std::ptr;

use super::sys;

/// One row of the table of statistics: its name is that of a field of [`bridge::Metrics`].
macro_rules! statistic {
    ($field:ident) => {{
        unsafe extern "C" fn read() -> std::os::raw::c_long {
            $crate::host::shared::metrics()
                .map_or(0, |metrics| bridge::metrics::get(&metrics.$field) as std::os::raw::c_long)
        }
        $crate::host::stats::row(concat!(stringify!($field), "\0"), read)
    }};
}
pub(crate) use statistic;

/// A row of the table; `name` is terminated.
pub(crate) fn row(name: &'static str, read: unsafe extern "C" fn() -> std::os::raw::c_long) -> sys::stat_export_t {
    sys::stat_export_t {
        name: name.as_ptr().cast_mut().cast(),
        flags: sys::STAT_IS_FUNC as i32,
        // With STAT_IS_FUNC this field is the function to call.
        stat_pointer: read as *mut *mut sys::stat_var,
    }
}

/// Registers the statistics group. In `mod_init`.
///
/// # Errors
/// A sentence, when Kamailio refuses.
pub(crate) fn register(group: &'static std::ffi::CStr, mut rows: Vec<sys::stat_export_t>) -> Result<(), String> {
    rows.push(sys::stat_export_t { name: ptr::null_mut(), flags: 0, stat_pointer: ptr::null_mut() });
    // Kamailio keeps pointers into the table.
    let rows = rows.leak();
    // SAFETY: a table that ends with a null name and lives for ever.
    match unsafe { sys::register_module_stats(group.as_ptr().cast_mut(), rows.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err("the statistics cannot be registered: is the module loaded twice?".to_owned()),
    }
}
