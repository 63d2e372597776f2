//! The calls that are under way on this node, and further legs of calls, each by its [`CallEvent::record_id`]: what is known of it,
//! and when the others are to be told again that it is there.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::call::event;
use domain::{CallEvent, CallRecord};
use tokio::time::Instant;

use crate::clock;

/// Calls that are remembered. The record of any other is read when it ends, and nobody is told that it is there.
const MOST: usize = 100_000;

/// A call of fewer milliseconds may end before all that happened to it has come here, from other processes.
const SHORT: i64 = 1000;

/// What remains of calls of which this node knows no beginning is forgotten after this.
const FRAGMENT: Duration = Duration::from_secs(60);

/// The calls.
#[derive(Debug)]
pub(crate) struct Live {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: HashMap<String, Kept>,
    /// The last write timestamp given.
    written: i64,
}

#[derive(Debug)]
struct Kept {
    record: CallRecord,
    /// When the others are told again.
    due: Instant,
}

impl Kept {
    /// Whether this node knows how it began, and not that it is over.
    fn is_under_way(&self) -> bool {
        self.record.started_at.is_some() && !self.record.is_over()
    }
}

/// A call at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    /// What is known of it.
    pub(crate) record: CallRecord,
    /// Write timestamp of what is told now: later than of all that was told before.
    pub(crate) written: i64,
}

impl Live {
    /// None yet; whoever owns a call says so every half `interval`.
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::default() }
    }

    /// Adds an event to its call. `None` when nobody is told of the call at this event, when this node does not know how the call
    /// began, or when this is the end of a call so short that its other events may come yet: then [`Self::settle`] it in a moment.
    pub(crate) fn take(&self, event: &CallEvent) -> Option<Snapshot> {
        let mut state = self.lock();
        let written = state.stamp();
        let id = event.record_id();
        if !state.calls.contains_key(id) {
            if state.calls.len() >= MOST {
                return None;
            }
            let due = Instant::now() + self.interval / 2;
            state.calls.insert(id.to_owned(), Kept { record: CallRecord::default(), due });
        }
        let record = {
            let kept = state.calls.get_mut(id)?;
            kept.record.take(event);
            let age = event.at().0 - kept.record.started_at?.0;
            if event.is_end() && age < SHORT || !is_told(event) {
                return None;
            }
            kept.record.clone()
        };
        if event.is_end() {
            state.calls.remove(id);
        }
        Some(Snapshot { record, written })
    }

    /// Takes a call out that has ended. `None` when this node does not know how it began.
    pub(crate) fn settle(&self, id: &str) -> Option<Snapshot> {
        let mut state = self.lock();
        let written = state.stamp();
        let record = state.calls.remove(id)?.record;
        record.started_at.map(|_| Snapshot { record, written })
    }

    /// Takes over calls that this node, it may be before a restart, said to be its own. They are told one after the other.
    pub(crate) fn adopt(&self, calls: Vec<(String, CallRecord)>) {
        let count = u32::try_from(calls.len()).unwrap_or(u32::MAX).max(1);
        let (now, pause) = (Instant::now(), self.interval / 4 / count);
        let mut state = self.lock();
        for (index, (call_id, record)) in (0..).zip(calls) {
            if state.calls.len() < MOST {
                state.calls.entry(call_id).or_insert(Kept { record, due: now + pause * index });
            }
        }
    }

    /// The calls that the others are to be told of now. What is left of others is forgotten.
    pub(crate) fn due(&self) -> Vec<(String, Snapshot)> {
        let (now, next) = (Instant::now(), Instant::now() + self.interval / 2);
        let mut state = self.lock();
        let written = state.stamp();
        let fragment_due = self.interval / 2;
        state.calls.retain(|_, kept| kept.is_under_way() || now < kept.due + FRAGMENT.saturating_sub(fragment_due));
        let due = state.calls.iter_mut().filter(|(_, kept)| kept.due <= now && kept.record.started_at.is_some());
        due.map(|(call_id, kept)| {
            kept.due = next;
            (call_id.clone(), Snapshot { record: kept.record.clone(), written })
        })
        .collect()
    }

    /// How many are under way.
    pub(crate) fn count(&self) -> u64 {
        self.lock().calls.values().filter(|kept| kept.is_under_way()).count() as u64
    }

    /// Has a call told again soon, since that just failed.
    pub(crate) fn retry(&self, call_id: &str) {
        if let Some(kept) = self.lock().calls.get_mut(call_id) {
            kept.due = Instant::now();
        }
    }

    /// Whether the call is under way here.
    pub(crate) fn has(&self, call_id: &str) -> bool {
        self.lock().calls.contains_key(call_id)
    }

    /// Forgets a call that has ended elsewhere. Returns the write timestamp of that.
    pub(crate) fn forget(&self, call_id: &str) -> i64 {
        let mut state = self.lock();
        state.calls.remove(call_id);
        state.stamp()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the others are told of the call at this event.
pub(crate) fn is_told(event: &CallEvent) -> bool {
    [event::ATTEMPT, event::START].contains(&&*event.event) || event.is_end()
}

impl State {
    /// Microseconds since the epoch, each only once.
    fn stamp(&mut self) -> i64 {
        self.written = clock::wall().0.saturating_mul(1000).max(self.written.saturating_add(1));
        self.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::call_event;

    const INTERVAL: Duration = Duration::from_secs(60);

    fn live() -> Live {
        Live::new(INTERVAL)
    }

    #[test]
    fn a_call_is_there_from_its_attempt_to_its_end() {
        let live = live();
        let begun = live.take(&call_event(event::ATTEMPT, 1_000_000)).expect("known");
        assert_eq!(live.count(), 1);
        let ended = live.take(&call_event(event::END, 9_000_000)).expect("known");
        assert!(begun.written < ended.written && !begun.record.is_over() && ended.record.is_over());
        assert_eq!(live.count(), 0);
        assert!(!live.has("call"));
    }

    #[test]
    fn what_the_end_of_a_short_call_overtakes_still_counts() {
        let live = live();
        assert_eq!(live.take(&call_event(event::END, 1_003_000)), None);
        let begun = live.take(&call_event(event::ATTEMPT, 1_000_000)).expect("known");
        assert!(begun.record.is_over(), "so nobody is told that it is there");
        live.take(&call_event(event::START, 1_001_000));
        let settled = live.settle("call").expect("known");
        assert_eq!(settled.record.duration_ms(), 2);
        assert!(settled.written > begun.written && !live.has("call"));
    }

    #[test]
    fn an_end_alone_is_read_elsewhere() {
        let live = live();
        assert_eq!(live.take(&call_event(event::END, 9_000_000)), None);
        assert_eq!(live.settle("call"), None);
        assert!(!live.has("call"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_others_are_told_every_half_interval() {
        let live = live();
        live.take(&call_event(event::ATTEMPT, 1_000_000));
        for _ in 0..3 {
            assert_eq!(live.due(), Vec::new());
            tokio::time::advance(INTERVAL / 2).await;
            assert_eq!(live.due().len(), 1);
        }
        live.retry("call");
        assert_eq!(live.due().len(), 1);
        live.take(&call_event(event::END, 9_000_000));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(live.due(), Vec::new());
    }

    #[tokio::test(start_paused = true)]
    async fn fragments_are_forgotten() {
        let live = live();
        live.take(&call_event(event::EARLY, 1_000_000));
        tokio::time::advance(FRAGMENT + Duration::from_secs(1)).await;
        assert_eq!((live.due(), live.has("call")), (Vec::new(), false));
    }

    #[tokio::test(start_paused = true)]
    async fn adopted_calls_are_told_one_after_the_other() {
        let live = live();
        let record = live.take(&call_event(event::ATTEMPT, 1_000_000)).expect("known").record;
        live.forget("call");
        live.adopt((0..10).map(|number| (number.to_string(), record.clone())).collect());
        assert_eq!(live.due().len(), 1);
        tokio::time::advance(INTERVAL / 4).await;
        assert_eq!(live.due().len(), 9);
    }
}
