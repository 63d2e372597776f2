//! Logging through Kamailio's own logger: its level, its facility, its prefix (with the Call-ID), its engines.

use std::ffi::CString;

use domain::text::cut;

use super::message::Message;
use super::{sys, text};

/// Kamailio's log levels that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// `L_CRIT`
    Critical,
    /// `L_ERR`
    Error,
    /// `L_WARN`
    Warning,
    /// `L_INFO`
    Info,
    /// `L_DBG`
    Debug,
}

impl Level {
    fn raw(self) -> i32 {
        match self {
            Self::Critical => sys::L_CRIT,
            Self::Error => sys::L_ERR,
            Self::Warning => sys::L_WARN as i32,
            Self::Info => sys::L_INFO as i32,
            Self::Debug => sys::L_DBG as i32,
        }
    }
}

/// Bytes of a line that are written: Kamailio's JSON log leaves out what is longer than 32 KiB.
const LONGEST_LINE: usize = 31_000;

/// Whether a line of this level would be written.
pub(crate) fn enabled(level: Level) -> bool {
    // SAFETY: reads the process's debug level; main thread (SAFETY.md 2).
    unsafe { sys::shim_log_enabled(level.raw()) != 0 }
}

/// Says that the lines which follow in this process belong to a message, as Kamailio does itself before it runs a route of its own.
pub(crate) fn begin(message: &Message<'_>) {
    // SAFETY: the message is the interpreter's current one, and is only read; main thread (SAFETY.md 2).
    unsafe { sys::shim_log_begin(message.raw()) };
}

/// Writes one line; `function` is shown before the text. Line breaks and other control characters in the text are
/// replaced, so that what a SIP peer sent cannot forge a line.
pub(crate) fn write(level: Level, function: &str, line: &str) {
    if !enabled(level) {
        return;
    }
    let clean: String = cut(line, LONGEST_LINE).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let function = CString::new(function).unwrap_or_default();
    // SAFETY: both texts live through the call, which only reads them; main thread (SAFETY.md 2).
    unsafe { sys::shim_log(level.raw(), function.as_ptr(), clean.as_ptr().cast(), text::length(&clean)) };
}

macro_rules! log_error {
    ($function:expr, $($arg:tt)+) => { $crate::host::log::write($crate::host::log::Level::Error, $function, &format!($($arg)+)) };
}
macro_rules! log_warning {
    ($function:expr, $($arg:tt)+) => { $crate::host::log::write($crate::host::log::Level::Warning, $function, &format!($($arg)+)) };
}
macro_rules! log_info {
    ($function:expr, $($arg:tt)+) => { $crate::host::log::write($crate::host::log::Level::Info, $function, &format!($($arg)+)) };
}
macro_rules! log_debug {
    ($function:expr, $($arg:tt)+) => { $crate::host::log::write($crate::host::log::Level::Debug, $function, &format!($($arg)+)) };
}
pub(crate) use {log_debug, log_error, log_info, log_warning};
