//! The clocks that both ends of the bridge share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A point on the machine's monotonic clock, in microseconds: the same in every process, unaffected by clock steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Monotonic(u64);

impl Monotonic {
    /// The present.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self(now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000)
    }

    /// This point plus `duration`.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0 + u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 2))
    }

    /// Time left until this point; `None` once it has passed.
    pub fn remaining(self) -> Option<Duration> {
        self.0.checked_sub(Self::now().0).filter(|left| *left > 0).map(Duration::from_micros)
    }

    /// Microseconds from `earlier` to this point; 0 when it is not earlier.
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The wall clock, as bindings store it.
pub fn wall() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
