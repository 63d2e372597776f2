//! Who is there, by what ZooKeeper says, and what it may not make us believe: a node is not gone because it is missing for a moment,
//! and there is never nobody. One that is new gets nothing until all the others know it: before that, those would not believe what it
//! passes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fleet::{Announcement, NodeId, State};
use serde::Serialize;

/// A node that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it says of itself.
    pub node: Announcement,
    /// Whether it gets what is new.
    pub takes_new: bool,
    /// Whether ZooKeeper does not show it any more, or did not yet.
    pub is_missing: bool,
}

/// How a node stands with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It gets what comes.
    Up,
    /// It gets nothing yet.
    New,
    /// It gets nothing new any more.
    Draining,
    /// It is not there, and held to be there for a while.
    Missing,
}

impl Member {
    /// How it stands with this node.
    pub fn standing(&self) -> Standing {
        match (self.is_missing, self.node.state, self.takes_new) {
            (true, ..) => Standing::Missing,
            (_, State::Draining, _) => Standing::Draining,
            (_, State::Up, false) => Standing::New,
            (_, State::Up, true) => Standing::Up,
        }
    }
}

/// The nodes that are known.
#[derive(Debug)]
pub struct Members {
    /// Data centre of the node that asks: its own nodes and those elsewhere are different sets.
    dc: String,
    /// How long one that is missing is still one of them.
    hold: Duration,
    /// How long it takes until all others know one that is new.
    settle: Duration,
    known: BTreeMap<NodeId, Known>,
    /// Whether ZooKeeper has said something yet: whoever is there before us is not new.
    has_seen: bool,
}

#[derive(Debug)]
struct Known {
    announcement: Announcement,
    missing_since: Option<Instant>,
    new_until: Option<Instant>,
}

impl Known {
    /// When it is gone. One that drained has said so.
    fn gone_at(&self, hold: Duration) -> Option<Instant> {
        let hold = if self.announcement.state == State::Draining { Duration::ZERO } else { hold };
        self.missing_since.map(|since| since + hold)
    }

    /// Whether all others know it, and it does not leave.
    fn is_settled(&self, now: Instant) -> bool {
        self.announcement.state == State::Up && self.new_until.is_none_or(|until| until <= now)
    }
}

impl Members {
    /// Those that were known before.
    pub fn new(dc: &str, hold: Duration, settle: Duration, before: Vec<Announcement>) -> Self {
        let old = |announcement: Announcement| {
            (announcement.id(), Known { announcement, missing_since: None, new_until: None })
        };
        let known = before.into_iter().map(old).collect();
        Self { dc: dc.to_owned(), hold, settle, known, has_seen: false }
    }

    /// Takes over what ZooKeeper says now: of all nodes, or nothing is to be said.
    pub fn observe(&mut self, seen: Vec<Announcement>, now: Instant) {
        let mut seen: BTreeMap<_, _> = seen.into_iter().map(|announcement| (announcement.id(), announcement)).collect();
        for (id, known) in &mut self.known {
            match seen.remove(id) {
                Some(announcement) => (known.announcement, known.missing_since) = (announcement, None),
                None => known.missing_since = known.missing_since.or(Some(now)),
            }
        }
        let new_until = self.has_seen.then(|| now + self.settle);
        let new = |(id, announcement)| (id, Known { announcement, missing_since: None, new_until });
        self.known.extend(seen.into_iter().map(new));
        self.has_seen = true;
        self.forget(now);
    }

    /// Who is there.
    pub fn at(&mut self, now: Instant) -> Vec<Member> {
        self.forget(now);
        let member = |known: &Known| Member {
            node: known.announcement.clone(),
            takes_new: known.announcement.state == State::Up
                && (known.is_settled(now) || !self.others(known).any(|other| other.is_settled(now))),
            is_missing: known.missing_since.is_some(),
        };
        self.known.values().map(member).collect()
    }

    /// When somebody will be gone, or not new any more, if nothing else changes after `now`.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let gone =
            self.known.values().filter(|known| self.is_replaced(known)).filter_map(|known| known.gone_at(self.hold));
        let settled = self.known.values().filter_map(|known| known.new_until).filter(|until| *until > now);
        gone.chain(settled).min()
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
        self.others(one).any(|other| other.missing_since.is_none())
    }

    /// The others of its set.
    fn others<'m>(&'m self, one: &'m Known) -> impl Iterator<Item = &'m Known> {
        let set = |known: &Known| (known.announcement.role, known.announcement.dc == self.dc);
        self.known.values().filter(move |other| set(one) == set(other) && !std::ptr::eq(*other, one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet::Role;
    use fleet::node::testing::node;

    const HOLD: Duration = Duration::from_secs(10);
    const SETTLE: Duration = Duration::from_secs(3);

    fn registrar(name: &str) -> Announcement {
        node(Role::Registrar, name, "dc1")
    }

    fn names(members: &mut Members, now: Instant) -> Vec<String> {
        members.at(now).into_iter().map(|member| member.node.name).collect()
    }

    fn used(members: &mut Members, now: Instant) -> Vec<String> {
        members.at(now).into_iter().filter(|member| member.takes_new).map(|member| member.node.name).collect()
    }

    #[test]
    fn one_that_is_missing_is_there_for_a_while() {
        let start = Instant::now();
        let mut members = Members::new("dc1", HOLD, SETTLE, Vec::new());
        members.observe(vec![registrar("r1"), registrar("r2")], start);
        members.observe(vec![registrar("r1")], start);
        assert_eq!(members.next_change(start), Some(start + HOLD));
        assert_eq!(names(&mut members, start + HOLD / 2), ["r1", "r2"]);
        assert_eq!(names(&mut members, start + HOLD), ["r1"]);
        assert_eq!(members.next_change(start + 10 * HOLD), None);
    }

    #[test]
    fn one_that_is_missing_and_back_has_not_been_away() {
        let start = Instant::now();
        let mut members = Members::new("dc1", HOLD, SETTLE, Vec::new());
        members.observe(vec![registrar("r1"), registrar("r2")], start);
        members.observe(vec![registrar("r1")], start + HOLD);
        members.observe(vec![registrar("r1"), registrar("r2")], start + HOLD * 3 / 2);
        assert_eq!(names(&mut members, start + 3 * HOLD), ["r1", "r2"]);
    }

    #[test]
    fn one_that_drained_is_gone_at_once() {
        let start = Instant::now();
        let mut members = Members::new("dc1", HOLD, SETTLE, Vec::new());
        let draining = Announcement { state: State::Draining, ..registrar("r2") };
        members.observe(vec![registrar("r1"), draining], start);
        members.observe(vec![registrar("r1")], start);
        assert_eq!(names(&mut members, start), ["r1"]);
    }

    #[test]
    fn one_that_is_new_gets_nothing_until_all_know_it() {
        let start = Instant::now();
        let mut members = Members::new("dc1", HOLD, SETTLE, Vec::new());
        members.observe(vec![registrar("r1")], start);
        assert_eq!(used(&mut members, start), ["r1"], "it was there before");
        members.observe(vec![registrar("r1"), registrar("r2")], start);
        assert_eq!(names(&mut members, start), ["r1", "r2"]);
        assert_eq!(used(&mut members, start), ["r1"]);
        assert_eq!(members.next_change(start), Some(start + SETTLE));
        assert_eq!(used(&mut members, start + SETTLE), ["r1", "r2"]);
        assert_eq!(members.next_change(start + SETTLE), None);
        // One that was missing is not new.
        members.observe(vec![registrar("r1")], start + SETTLE);
        members.observe(vec![registrar("r1"), registrar("r2")], start + SETTLE);
        assert_eq!(used(&mut members, start + SETTLE), ["r1", "r2"]);
    }

    #[test]
    fn it_is_seen_how_each_stands() {
        let start = Instant::now();
        let standings =
            |members: &mut Members| -> Vec<Standing> { members.at(start).iter().map(Member::standing).collect() };
        let mut members = Members::new("dc1", HOLD, SETTLE, Vec::new());
        let draining = Announcement { state: State::Draining, ..registrar("r2") };
        members.observe(vec![registrar("r1"), draining, registrar("r3")], start);
        members.observe(vec![registrar("r1"), registrar("r2"), registrar("r3")], start);
        assert_eq!(standings(&mut members), [Standing::Up; 3], "one that stays after all is not new");
        let draining = Announcement { state: State::Draining, ..registrar("r2") };
        members.observe(vec![registrar("r1"), draining, registrar("r4")], start);
        let expected = [Standing::Up, Standing::Draining, Standing::Missing, Standing::New];
        assert_eq!(standings(&mut members), expected);
    }

    #[test]
    fn where_nobody_else_is_the_new_ones_are_used_at_once() {
        let start = Instant::now();
        let mut members = Members::new("dc1", HOLD, SETTLE, Vec::new());
        members.observe(Vec::new(), start);
        members.observe(vec![registrar("r1"), registrar("r2"), node(Role::Registrar, "r3", "dc2")], start);
        assert_eq!(used(&mut members, start), ["r1", "r2", "r3"]);
    }

    #[test]
    fn the_last_ones_stay() {
        let start = Instant::now();
        let mut members = Members::new(
            "dc1",
            HOLD,
            SETTLE,
            vec![registrar("r1"), registrar("r2"), node(Role::Registrar, "r3", "dc2")],
        );
        members.observe(Vec::new(), start);
        assert_eq!(members.next_change(start + 10 * HOLD), None);
        assert_eq!(names(&mut members, start + 10 * HOLD), ["r1", "r2", "r3"]);
        members.observe(vec![registrar("r4")], start + 20 * HOLD);
        assert_eq!(names(&mut members, start + 20 * HOLD), ["r3", "r4"]);
    }
}
