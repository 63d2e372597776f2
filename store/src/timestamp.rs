//! Write timestamps: later writes of this process always win over earlier ones.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Gives strictly growing microseconds since the epoch.
#[derive(Debug, Default)]
pub(crate) struct Timestamps(AtomicI64);

impl Timestamps {
    /// The next timestamp: now, later than any given before, and later than `superseded`, which another node's faster clock
    /// may have put ahead of ours.
    pub(crate) fn next(&self, superseded: i64) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        let wanted = now.max(superseded.saturating_add(1));
        let mut last = self.0.load(Ordering::Relaxed);
        loop {
            let next = wanted.max(last.saturating_add(1));
            match self.0.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return next,
                Err(other) => last = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_grow_strictly() {
        let timestamps = Timestamps::default();
        let given: Vec<_> = (0..1000).map(|_| timestamps.next(0)).collect();
        assert!(given.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn a_write_is_later_than_the_row_it_supersedes() {
        let timestamps = Timestamps::default();
        let ahead = timestamps.next(0) + 2_000_000;
        assert_eq!(timestamps.next(ahead), ahead + 1);
        assert!(timestamps.next(0) > ahead + 1);
    }
}
