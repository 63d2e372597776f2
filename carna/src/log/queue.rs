//! Lines that wait to be written or sent: bounded, and nobody waits for room.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a line costs beside its bytes.
const OVERHEAD: usize = 64;

/// A queue of lines. The oldest give way.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    is_there: Condvar,
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Arc<str>>,
    bytes: usize,
    is_closed: bool,
}

impl Queue {
    /// One that holds so many bytes at most.
    pub(super) fn new(most: usize) -> Self {
        Self { state: Mutex::default(), is_there: Condvar::new(), most }
    }

    /// Adds a line, unless the queue is closed. Gives how many of the oldest had to give way.
    pub(super) fn push(&self, line: Arc<str>) -> u64 {
        let mut state = self.state();
        if state.is_closed {
            return 0;
        }
        state.bytes += size(&line);
        state.lines.push_back(line);
        let mut dropped = 0;
        while state.bytes > self.most
            && let Some(oldest) = state.lines.pop_front()
        {
            state.bytes -= size(&oldest);
            dropped += 1;
        }
        self.is_there.notify_one();
        dropped
    }

    /// Waits for lines, so long at most, and takes the oldest, so many bytes at most, but one at least. `None`: there will be no more.
    pub(super) fn take(&self, most: usize, patience: Duration) -> Option<Vec<Arc<str>>> {
        let nothing = |state: &mut State| state.lines.is_empty() && !state.is_closed;
        let waited = self.is_there.wait_timeout_while(self.state(), patience, nothing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.lines.is_empty() && state.is_closed {
            return None;
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < most
            && let Some(line) = state.lines.pop_front()
        {
            bytes += size(&line);
            taken.push(line);
        }
        state.bytes -= bytes;
        Some(taken)
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.is_there.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(line: &str) -> usize {
    line.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_lines_give_way_and_are_counted() {
        let queue = Queue::new(3 * size("1"));
        let dropped: u64 = (1..=5).map(|number| queue.push(number.to_string().into())).sum();
        let taken = queue.take(usize::MAX, Duration::ZERO).expect("lines");
        assert_eq!((dropped, taken.concat()), (2, "345".to_owned()));
        assert_eq!(queue.take(1, Duration::ZERO), Some(Vec::new()));
        queue.push("6".into());
        queue.close();
        queue.push("7".into());
        assert_eq!(queue.take(1, Duration::ZERO).expect("what came before the end").concat(), "6");
        assert_eq!(queue.take(1, Duration::ZERO), None);
    }
}
