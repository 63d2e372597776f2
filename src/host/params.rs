//! Module parameters: where Kamailio writes what `modparam` says, and how we read it.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use super::sys;

/// A text parameter. Kamailio stores a pointer to its own copy.
#[derive(Debug)]
pub(crate) struct Text(AtomicPtr<c_char>);

/// A whole-number parameter.
#[derive(Debug)]
pub(crate) struct Number(AtomicI32);

impl Text {
    /// A parameter that has not been set.
    pub(crate) const fn unset() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// What was set, if anything.
    pub(crate) fn get(&self) -> Option<String> {
        let raw = self.0.load(Ordering::Relaxed);
        if raw.is_null() {
            return None;
        }
        // SAFETY: Kamailio stored a terminated copy that lives as long as the process.
        Some(unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned())
    }

    /// The table row that makes this the target of the parameter `name`.
    pub(crate) const fn export(&'static self, name: &'static CStr) -> sys::param_export_t {
        row(name, sys::PARAM_STRING, self.0.as_ptr().cast())
    }
}

impl Number {
    /// A parameter with its default.
    pub(crate) const fn default(value: c_int) -> Self {
        Self(AtomicI32::new(value))
    }

    /// The value set, or the default.
    pub(crate) fn get(&self) -> c_int {
        self.0.load(Ordering::Relaxed)
    }

    /// The table row that makes this the target of the parameter `name`.
    pub(crate) const fn export(&'static self, name: &'static CStr) -> sys::param_export_t {
        row(name, sys::PARAM_INT, self.0.as_ptr().cast())
    }
}

/// The table row that makes an int the target of the parameter `name`.
pub(super) const fn number_row(name: &'static CStr, target: *mut c_int) -> sys::param_export_t {
    row(name, sys::PARAM_INT, target.cast())
}

const fn row(name: &'static CStr, kind: u32, target: *mut c_void) -> sys::param_export_t {
    sys::param_export_t { name: name.as_ptr().cast_mut(), type_: kind, param_pointer: target }
}

/// The row that ends a table.
pub(crate) const END: sys::param_export_t =
    sys::param_export_t { name: ptr::null_mut(), type_: 0, param_pointer: ptr::null_mut() };
