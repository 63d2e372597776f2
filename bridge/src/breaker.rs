//! The circuit breaker: after repeated failures nobody waits for a dead backend.
//!
//! Closed, every operation passes and consecutive failures are counted. Open, every operation is refused at once, while the
//! owner probes the backend in the background. A probe that succeeds half-opens it: one trial operation at a time passes,
//! and the first success closes the breaker, a failure opens it again.
//!
//! An operator can open it and so keep everybody off the backend, until he closes it: no probe half-opens it then.

/// What the breaker does with operations now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All pass.
    Closed,
    /// None pass.
    Open,
    /// One at a time passes.
    HalfOpen,
}

impl State {
    /// The number that statistics show: 0 closed, 1 open, 2 half-open.
    pub fn as_metric(self) -> u64 {
        match self {
            Self::Closed => 0,
            Self::Open => 1,
            Self::HalfOpen => 2,
        }
    }
}

/// A circuit breaker; see the module's description.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    failures: u32,
    threshold: u32,
    trial_under_way: bool,
    held: bool,
}

impl Breaker {
    /// A closed breaker that opens after `threshold` failures in a row (at least 1).
    pub fn new(threshold: u32) -> Self {
        Self { state: State::Closed, failures: 0, threshold: threshold.max(1), trial_under_way: false, held: false }
    }

    /// What it does now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether an operation may start. One that may must be followed by [`Self::succeeded`], [`Self::failed`] or
    /// [`Self::abandoned`].
    pub fn admit(&mut self) -> bool {
        match self.state {
            State::Closed => true,
            State::Open => false,
            State::HalfOpen => !std::mem::replace(&mut self.trial_under_way, true),
        }
    }

    /// An admitted operation got an answer of the backend.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        // A straggler from before the opening proves nothing new: only a trial closes.
        if self.state == State::HalfOpen {
            self.trial_under_way = false;
            self.state = State::Closed;
        }
    }

    /// An admitted operation failed. Returns whether this opened the breaker.
    pub fn failed(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        let opens = match self.state {
            State::Closed => self.failures >= self.threshold,
            State::HalfOpen => true,
            State::Open => false,
        };
        if opens {
            self.state = State::Open;
            self.trial_under_way = false;
        }
        opens
    }

    /// An admitted operation ended without saying anything of the backend.
    pub fn abandoned(&mut self) {
        self.trial_under_way = false;
    }

    /// A background probe of the open breaker succeeded.
    pub fn probe_succeeded(&mut self) {
        if self.state == State::Open && !self.held {
            self.state = State::HalfOpen;
            self.trial_under_way = false;
        }
    }

    /// Opens it, until [`Self::force_closed`].
    pub fn force_open(&mut self) {
        self.state = State::Open;
        self.trial_under_way = false;
        self.held = true;
    }

    /// Closes it. From now on it opens by itself again.
    pub fn force_closed(&mut self) {
        self.state = State::Closed;
        self.failures = 0;
        self.trial_under_way = false;
        self.held = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(3);
        assert_eq!([breaker.failed(), breaker.failed(), breaker.failed()], [false, false, true]);
        breaker
    }

    #[test]
    fn opens_after_failures_in_a_row() {
        let mut breaker = opened();
        assert_eq!(breaker.state(), State::Open);
        assert!(!breaker.admit());
    }

    #[test]
    fn a_success_in_between_starts_the_count_again() {
        let mut breaker = Breaker::new(3);
        breaker.failed();
        breaker.failed();
        breaker.succeeded();
        assert!(!breaker.failed());
        assert!(!breaker.failed());
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn half_open_lets_one_trial_pass_at_a_time() {
        let mut breaker = opened();
        breaker.probe_succeeded();
        assert!(breaker.admit());
        assert!(!breaker.admit());
        breaker.abandoned();
        assert!(breaker.admit());
    }

    #[test]
    fn a_good_trial_closes() {
        let mut breaker = opened();
        breaker.probe_succeeded();
        assert!(breaker.admit());
        breaker.succeeded();
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn a_bad_trial_opens_again() {
        let mut breaker = opened();
        breaker.probe_succeeded();
        assert!(breaker.admit());
        assert!(breaker.failed());
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn held_open_it_stays_open_until_it_is_closed_by_force() {
        let mut breaker = Breaker::new(3);
        breaker.force_open();
        breaker.probe_succeeded();
        breaker.succeeded();
        assert_eq!(breaker.state(), State::Open);
        breaker.force_closed();
        assert!(breaker.admit());
        assert_eq!([breaker.failed(), breaker.failed(), breaker.failed()], [false, false, true]);
        breaker.probe_succeeded();
        assert_eq!(breaker.state(), State::HalfOpen);
    }

    #[test]
    fn stragglers_neither_close_nor_reopen_an_open_breaker() {
        let mut breaker = opened();
        breaker.succeeded();
        assert_eq!(breaker.state(), State::Open);
        assert!(!breaker.failed());
    }
}
