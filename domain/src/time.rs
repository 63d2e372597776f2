//! Points in time, as the callers of the pure rules pass them in.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch (UTC), the resolution of a CQL `timestamp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This point plus `seconds`.
    pub fn plus_seconds(self, seconds: u32) -> Self {
        Self(self.0 + i64::from(seconds) * 1000)
    }

    /// As a SIP Date header says it (RFC 3261 section 20.17).
    pub fn http_date(self) -> String {
        let millis = u64::try_from(self.0).unwrap_or_default();
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(millis))
    }

    /// Whole seconds from `now` until this point, rounded up; 0 when it has passed.
    pub fn seconds_after(self, now: Timestamp) -> u32 {
        let millis = (self.0 - now.0).max(0);
        u32::try_from((millis + 999) / 1000).unwrap_or(u32::MAX)
    }
}
