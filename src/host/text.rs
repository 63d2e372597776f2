//! Kamailio's `str` (pointer and length, not terminated) to and from Rust text.

use std::ffi::CStr;
use std::os::raw::{c_char, c_int};

use super::sys;

/// Copies a `str` out. Absent and empty text are the same to Kamailio (`{NULL, 0}`), and so here: `""`. Bytes that are not
/// UTF-8 become replacement characters.
///
/// # Safety
/// `text.s` points to `text.len` readable bytes, or `text.len` is 0 or less, or `text.s` is null.
pub(crate) unsafe fn owned(text: &sys::str_) -> String {
    // SAFETY: the caller's promise.
    String::from_utf8_lossy(unsafe { bytes(text) }).into_owned()
}

/// The bytes of a `str`.
///
/// # Safety
/// As for [`owned`], for as long as the result is used.
pub(crate) unsafe fn bytes(text: &sys::str_) -> &[u8] {
    match usize::try_from(text.len) {
        Ok(length) if length > 0 && !text.s.is_null() => {
            // SAFETY: not null, and the caller promises `length` readable bytes.
            unsafe { std::slice::from_raw_parts(text.s.cast(), length) }
        }
        _ => &[],
    }
}

/// A `str` over Rust text, for a call that only reads or copies it. It must not outlive `text`.
pub(crate) fn lent(text: &str) -> sys::str_ {
    sys::str_ { s: text.as_ptr().cast::<c_char>().cast_mut(), len: length(text) }
}

/// The length of `text` as C takes it.
pub(crate) fn length(text: &str) -> c_int {
    c_int::try_from(text.len()).unwrap_or(c_int::MAX)
}

/// A name that was written with its terminator, as C takes it.
///
/// # Panics
/// In the compiler, when the name is not terminated or has a terminator inside.
pub(crate) const fn terminated(name: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a name with a NUL inside, or without one at its end"),
    }
}
