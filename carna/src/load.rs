//! How much a node has to do, told so that the others do not hear of it all the time.

use std::time::Duration;

use tokio::time::Instant;

/// What is less of a change, in percent of what the node can do, is not told.
const STEP: u8 = 10;
/// It is not told more often.
const PAUSE: Duration = Duration::from_secs(10);

/// What was told last.
#[derive(Debug, Default)]
pub(crate) struct Load {
    told: Option<(u8, Instant)>,
}

impl Load {
    /// Takes what the node has to do `now`, in percent. Gives what is to be told of it: what was, unless that is far off and long ago.
    pub(crate) fn take(&mut self, percent: u8, now: Instant) -> u8 {
        match self.told {
            Some((told, at)) if told.abs_diff(percent) < STEP || now < at + PAUSE => told,
            _ => {
                self.told = Some((percent, now));
                percent
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_fast_changes_are_not_told() {
        let (mut load, start) = (Load::default(), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(load.take(5, start), 5);
        assert_eq!(load.take(80, after(9)), 5, "too soon");
        assert_eq!(load.take(14, after(10)), 5, "too little");
        assert_eq!(load.take(80, after(11)), 80);
        assert_eq!(load.take(0, after(21)), 0);
    }
}
