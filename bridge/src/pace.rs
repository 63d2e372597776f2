//! When the I/O process looks for work: under load in batches.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Keeps the event loop from waking up for every single message, as a network card moderates its interrupts.
///
/// Woken more often than once in `interval`, the loop sleeps out the rest of it; requests, and Cassandra's answers, then come
/// several to a wake-up and leave several to a packet. Woken less often it never sleeps, nor when no request has come since it
/// last waited: it is not worth the two switches then. It does not sleep either while the answer to a plain call is due, since a
/// SIP worker waits for that; it only lets runnable processes go first.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    callers: AtomicUsize,
    has_requests: AtomicBool,
    woken_at: Mutex<Instant>,
}

impl Pace {
    /// At most one wake-up in `interval`; zero: as many as there are messages.
    pub fn new(interval: Duration) -> Self {
        let woken_at = Mutex::new(Instant::now());
        Self { interval, callers: AtomicUsize::new(0), has_requests: AtomicBool::new(false), woken_at }
    }

    /// To be called by the event loop's thread whenever it has nothing left to do. Sleeps at most the interval.
    pub fn before_waiting(&self) {
        let mut woken_at = self.woken_at.lock().unwrap_or_else(PoisonError::into_inner);
        match self.pause(woken_at.elapsed()) {
            Some(pause) => thread::sleep(pause),
            None => thread::yield_now(),
        }
        *woken_at = Instant::now();
    }

    /// How long to sleep when the last wake-up was `since` ago.
    fn pause(&self, since: Duration) -> Option<Duration> {
        let has_requests = self.has_requests.swap(false, Ordering::Relaxed);
        let left = self.interval.saturating_sub(since);
        (has_requests && !left.is_zero() && self.callers.load(Ordering::Relaxed) == 0).then_some(left)
    }

    /// A request has come, and others may be on their way.
    pub(crate) fn request_came(&self) {
        self.has_requests.store(true, Ordering::Relaxed);
    }

    /// A caller waits as long as the result lives.
    pub(crate) fn caller_waits(self: &Arc<Self>) -> WaitingCaller {
        self.callers.fetch_add(1, Ordering::Relaxed);
        WaitingCaller(self.clone())
    }
}

/// See [`Pace::caller_waits`].
#[derive(Debug)]
pub(crate) struct WaitingCaller(Arc<Pace>);

impl Drop for WaitingCaller {
    fn drop(&mut self) {
        self.0.callers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(10);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The pause after a wake-up that brought a request.
    fn pause_with_request(pace: &Pace, since: Duration) -> Option<Duration> {
        pace.request_came();
        pace.pause(since)
    }

    #[test]
    fn a_wake_up_soon_after_the_last_sleeps_out_the_interval() {
        assert_eq!(pause_with_request(&Pace::new(INTERVAL), millis(3)), Some(millis(7)));
    }

    #[test]
    fn a_wake_up_after_a_long_pause_is_not_held_up() {
        let pace = Pace::new(INTERVAL);
        assert_eq!([10, 500].map(|since| pause_with_request(&pace, millis(since))), [None, None]);
    }

    #[test]
    fn a_wake_up_without_a_request_is_not_held_up() {
        let pace = Pace::new(INTERVAL);
        assert_eq!(pace.pause(millis(3)), None);
        assert_eq!(pause_with_request(&pace, millis(3)), Some(millis(7)));
        assert_eq!(pace.pause(millis(3)), None);
    }

    #[test]
    fn nothing_is_held_up_while_a_caller_waits() {
        let pace = Arc::new(Pace::new(INTERVAL));
        let callers = [pace.caller_waits(), pace.caller_waits()];
        assert_eq!(pause_with_request(&pace, millis(1)), None);
        drop(callers);
        assert_eq!(pause_with_request(&pace, millis(1)), Some(millis(9)));
    }

    #[test]
    fn without_an_interval_nothing_is_held_up() {
        assert_eq!(pause_with_request(&Pace::new(Duration::ZERO), Duration::ZERO), None);
    }

    #[test]
    fn the_loop_sleeps() {
        let pace = Pace::new(INTERVAL);
        let start = Instant::now();
        for _ in 0..3 {
            pace.request_came();
            pace.before_waiting();
        }
        assert!(start.elapsed() >= INTERVAL * 2);
    }
}
