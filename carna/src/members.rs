//! Who is there, by what ZooKeeper says, and what it may not make us believe: a node is not gone because it is missing for a moment,
//! and there is never nobody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fleet::{Announcement, NodeId, State};

/// The nodes that are known.
#[derive(Debug)]
pub struct Members {
    /// Data centre of the node that asks: its own nodes and those elsewhere are different sets.
    dc: String,
    /// How long one that is missing is still one of them.
    hold: Duration,
    known: BTreeMap<NodeId, Known>,
}

#[derive(Debug)]
struct Known {
    announcement: Announcement,
    missing_since: Option<Instant>,
}

impl Known {
    /// When it is gone. One that drained has said so.
    fn gone_at(&self, hold: Duration) -> Option<Instant> {
        let hold = if self.announcement.state == State::Draining { Duration::ZERO } else { hold };
        self.missing_since.map(|since| since + hold)
    }
}

impl Members {
    /// Those that were known before.
    pub fn new(dc: &str, hold: Duration, before: Vec<Announcement>) -> Self {
        let known =
            before.into_iter().map(|announcement| (announcement.id(), Known { announcement, missing_since: None }));
        Self { dc: dc.to_owned(), hold, known: known.collect() }
    }

    /// Takes over what ZooKeeper says now: of all nodes, or nothing is to be said.
    pub fn observe(&mut self, seen: Vec<Announcement>, now: Instant) {
        let mut seen: BTreeMap<_, _> = seen.into_iter().map(|announcement| (announcement.id(), announcement)).collect();
        for (id, known) in &mut self.known {
            match seen.remove(id) {
                Some(announcement) => *known = Known { announcement, missing_since: None },
                None => known.missing_since = known.missing_since.or(Some(now)),
            }
        }
        let new = |(id, announcement)| (id, Known { announcement, missing_since: None });
        self.known.extend(seen.into_iter().map(new));
        self.forget(now);
    }

    /// Who is there.
    pub fn at(&mut self, now: Instant) -> Vec<Announcement> {
        self.forget(now);
        self.known.values().map(|known| known.announcement.clone()).collect()
    }

    /// When somebody will be gone, if nothing changes.
    pub fn next_change(&self) -> Option<Instant> {
        self.known.values().filter(|known| self.is_replaced(known)).filter_map(|known| known.gone_at(self.hold)).min()
    }

    /// Drops those that are gone, as long as others are left of the same set. The last ones stay whatever is said of them: whether they
    /// live Kamailio finds out by itself.
    fn forget(&mut self, now: Instant) {
        let is_gone = |known: &Known| known.gone_at(self.hold).is_some_and(|at| at <= now);
        let gone = self.known.iter().filter(|(_, known)| is_gone(known) && self.is_replaced(known));
        let gone: Vec<_> = gone.map(|(id, _)| id.clone()).collect();
        gone.iter().for_each(|id| drop(self.known.remove(id)));
    }

    /// Whether there is another one of its set that is not missing.
    fn is_replaced(&self, one: &Known) -> bool {
        let set = |known: &Known| (known.announcement.role, known.announcement.dc == self.dc);
        self.known.values().any(|other| set(one) == set(other) && other.missing_since.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet::Role;
    use fleet::node::testing::node;

    const HOLD: Duration = Duration::from_secs(10);

    fn registrar(name: &str) -> Announcement {
        node(Role::Registrar, name, "dc1")
    }

    fn names(members: &mut Members, now: Instant) -> Vec<String> {
        members.at(now).into_iter().map(|node| node.name).collect()
    }

    #[test]
    fn one_that_is_missing_is_there_for_a_while() {
        let start = Instant::now();
        let mut members = Members::new("dc1", HOLD, Vec::new());
        members.observe(vec![registrar("r1"), registrar("r2")], start);
        members.observe(vec![registrar("r1")], start);
        assert_eq!(members.next_change(), Some(start + HOLD));
        assert_eq!(names(&mut members, start + HOLD / 2), ["r1", "r2"]);
        assert_eq!(names(&mut members, start + HOLD), ["r1"]);
        assert_eq!(members.next_change(), None);
    }

    #[test]
    fn one_that_is_missing_and_back_has_not_been_away() {
        let start = Instant::now();
        let mut members = Members::new("dc1", HOLD, Vec::new());
        members.observe(vec![registrar("r1"), registrar("r2")], start);
        members.observe(vec![registrar("r1")], start + HOLD);
        members.observe(vec![registrar("r1"), registrar("r2")], start + HOLD * 3 / 2);
        assert_eq!(names(&mut members, start + 3 * HOLD), ["r1", "r2"]);
    }

    #[test]
    fn one_that_drained_is_gone_at_once() {
        let start = Instant::now();
        let mut members = Members::new("dc1", HOLD, Vec::new());
        let draining = Announcement { state: State::Draining, ..registrar("r2") };
        members.observe(vec![registrar("r1"), draining], start);
        members.observe(vec![registrar("r1")], start);
        assert_eq!(names(&mut members, start), ["r1"]);
    }

    #[test]
    fn the_last_ones_stay() {
        let start = Instant::now();
        let mut members =
            Members::new("dc1", HOLD, vec![registrar("r1"), registrar("r2"), node(Role::Registrar, "r3", "dc2")]);
        members.observe(Vec::new(), start);
        assert_eq!(members.next_change(), None);
        assert_eq!(names(&mut members, start + 10 * HOLD), ["r1", "r2", "r3"]);
        members.observe(vec![registrar("r4")], start + 20 * HOLD);
        assert_eq!(names(&mut members, start + 20 * HOLD), ["r3", "r4"]);
    }
}
