//! Points in time, as the callers of the pure rules pass them in.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const DAY_MS: i64 = 86_400_000;
const DAYS_OF_400_YEARS: i64 = 146_097;
/// From the 1st of March of the year 0.
const DAYS_BEFORE_EPOCH: i64 = 719_468;

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

    /// In UTC as RFC 3339 says it, to the millisecond: `2026-01-01T00:00:00.000Z`.
    pub fn rfc3339(self) -> String {
        let millis = u64::try_from(self.0).unwrap_or_default();
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
    }

    /// The month in UTC as `YYYYMM`, for example 202601.
    pub fn month(self) -> i32 {
        // The Gregorian calendar in periods of 400 years, each year beginning in March, so that the leap day is its last.
        let day = self.0.div_euclid(DAY_MS) + DAYS_BEFORE_EPOCH;
        let (period, day) = (day.div_euclid(DAYS_OF_400_YEARS), day.rem_euclid(DAYS_OF_400_YEARS));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year + year / 4 - year / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let (month, into_next_year) =
            if month_from_march < 10 { (month_from_march + 3, 0) } else { (month_from_march - 9, 1) };
        i32::try_from((year + period * 400 + into_next_year) * 100 + month).unwrap_or_default()
    }

    /// Whole seconds from `now` until this point, rounded up; 0 when it has passed.
    pub fn seconds_after(self, now: Timestamp) -> u32 {
        let millis = (self.0 - now.0).max(0);
        u32::try_from((millis + 999) / 1000).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

    proptest! {
        #[test]
        fn the_month_is_that_of_the_date(millis in 0..4_102_444_800_000_i64) {
            let at = Timestamp(millis);
            // "Tue, 15 Nov 1994 08:12:31 GMT"
            let date = at.http_date();
            let words: Vec<&str> = date.split(' ').collect();
            let month = MONTHS.iter().position(|name| *name == words[2]).map(|index| index as i32 + 1);
            prop_assert_eq!((Some(at.month() / 100), Some(at.month() % 100)), (words[3].parse().ok(), month));
        }
    }
}
