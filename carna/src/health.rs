//! Whether the node is healthy, in the long run: one answer that is late changes nothing.

use std::fmt;

/// What a look at the node said, and what it said before.
#[derive(Debug)]
pub struct Health {
    rises: u32,
    falls: u32,
    is_up: bool,
    /// Looks in a row that say otherwise.
    against: u32,
}

impl Health {
    /// Of a node that is not healthy until `rises` looks in a row say so, and then is until `falls` in a row say that it is not.
    pub fn new(rises: u32, falls: u32) -> Self {
        Self { rises, falls, is_up: false, against: 0 }
    }

    /// Takes what a look said. Gives whether the node is healthy.
    pub fn take(&mut self, is_good: bool) -> bool {
        self.against = if is_good == self.is_up { 0 } else { self.against + 1 };
        if self.against >= if self.is_up { self.falls } else { self.rises } {
            (self.is_up, self.against) = (is_good, 0);
        }
        self.is_up
    }

    /// The process is gone: there is nothing to wait for.
    pub fn fall(&mut self) {
        (self.is_up, self.against) = (false, 0);
    }
}

/// What a look at a node shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Whether its process answers.
    pub is_alive: bool,
    /// Why nothing should be sent to it, if so.
    pub trouble: Option<String>,
    /// What it has to do still; `None` when it does not tell.
    pub at_work: Option<Work>,
    /// What it counts.
    pub counts: Counts,
}

/// What the server of a node counts; of each thing nothing where it is not what the role is for, or is not told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls, and further legs, that are under way.
    pub calls: Option<u64>,
    /// REGISTERs applied since the start.
    pub registrations: Option<u64>,
    /// Legs of calls that it has itself, with their audio.
    pub sessions: Option<u64>,
    /// How many of those it may have.
    pub max_sessions: Option<u64>,
}

/// What a node has to do still, and a drain waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Transactions that are not over.
    pub transactions: u64,
    /// Dialogs.
    pub dialogs: u64,
    /// Legs of calls that it has itself, with their audio.
    pub sessions: u64,
    /// Call events that are not in Cassandra.
    pub events: u64,
    /// Those of them that are on the disk, and would be there after a kill.
    pub spooled: u64,
}

impl Work {
    /// Whether there is none.
    pub fn is_over(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transactions, dialogs, sessions, events, spooled: _ } = self;
        write!(
            f,
            "{transactions} transactions, {dialogs} dialogs, {sessions} sessions, {events} call events that are not in Cassandra"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_several_looks_to_change_what_a_node_is() {
        let mut health = Health::new(2, 3);
        let seen: Vec<bool> =
            [true, true, false, false, true, false, false, false, true, true].map(|good| health.take(good)).to_vec();
        assert_eq!(seen, [false, true, true, true, true, true, true, false, false, true]);
        health.fall();
        assert!(!health.take(true) && health.take(true));
    }
}
