//! The whole numbers of Kamailio's variables and XAVPs, whose size depends on its version (`shim/version.h`).

use super::sys;

/// As Kamailio has it.
#[allow(clippy::useless_conversion, reason = "not in all versions of Kamailio")]
pub(crate) fn raw(number: i32) -> sys::shim_number {
    number.into()
}

/// As we have it; `None` when it is larger than any number of ours.
#[allow(
    clippy::useless_conversion,
    clippy::unnecessary_fallible_conversions,
    reason = "not in all versions of Kamailio"
)]
pub(crate) fn small(number: sys::shim_number) -> Option<i32> {
    number.try_into().ok()
}
