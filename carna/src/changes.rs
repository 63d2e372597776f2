//! The last changes, for people: who came and went, and whether ZooKeeper was there.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::watch;

use crate::members::{Member, Standing};
use crate::registry::Seen;
use fleet::{Announcement, NodeId, Role};

/// So many are kept.
const KEPT: usize = 50;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A node is there that was not known.
    Appeared,
    /// One takes nothing new any more.
    Drains,
    /// One is not there any more, and held for a while.
    Missing,
    /// One is there again, or takes what is new again.
    Back,
    /// One runs another process.
    Restarted,
    /// One is not known any more.
    Gone,
    /// The session with ZooKeeper, or its server, is lost.
    ZookeeperLost,
    /// There is a session again.
    ZookeeperBack,
}

/// A node, as a change names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    role: Role,
    name: String,
    dc: String,
}

/// What has happened, to whom, when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    #[serde(serialize_with = "humantime_serde::serialize")]
    at: SystemTime,
    event: Event,
    /// The node that it is of, if it is of one.
    node: Option<Named>,
}

/// The last changes, and what was seen last.
#[derive(Debug)]
pub struct Changes {
    /// The latest first.
    last: VecDeque<Change>,
    nodes: BTreeMap<NodeId, (Announcement, Standing)>,
    /// Whether ZooKeeper is there; `None` until it was.
    is_connected: Option<bool>,
}

impl Changes {
    /// None, since these nodes were known.
    pub fn since(members: &[Member]) -> Self {
        Self { last: VecDeque::new(), nodes: by_id(members), is_connected: None }
    }

    /// Takes who is known now.
    pub fn observe(&mut self, members: &[Member], now: SystemTime) {
        let before = std::mem::replace(&mut self.nodes, by_id(members));
        let gone = before.iter().filter(|(id, _)| !self.nodes.contains_key(id));
        let gone = gone.map(|(_, (node, _))| (node, Event::Gone));
        let stay = self
            .nodes
            .iter()
            .filter_map(|(id, (node, standing))| Some((node, event(before.get(id), node, *standing)?)));
        let changes: Vec<_> = gone.chain(stay).map(|(node, event)| change(now, event, Some(node))).collect();
        changes.into_iter().for_each(|change| self.add(change));
    }

    /// Takes whether ZooKeeper is there now.
    pub fn connected(&mut self, is_connected: bool, now: SystemTime) {
        match (self.is_connected, is_connected) {
            (Some(true), false) => self.add(change(now, Event::ZookeeperLost, None)),
            (Some(false), true) => self.add(change(now, Event::ZookeeperBack, None)),
            // It has not been there yet.
            (None, false) => return,
            _ => {}
        }
        self.is_connected = Some(is_connected);
    }

    /// The last ones, the latest first.
    pub fn last(&self) -> Vec<Change> {
        self.last.iter().cloned().collect()
    }

    fn add(&mut self, change: Change) {
        self.last.push_front(change);
        self.last.truncate(KEPT);
    }
}

/// Keeps `last` up to date, until nobody tells anything any more.
pub async fn keep(seen: watch::Receiver<Seen>, known: watch::Receiver<Vec<Member>>, last: watch::Sender<Vec<Change>>) {
    let (mut seen, mut known) = (seen, known);
    let mut changes = Changes::since(&known.borrow_and_update());
    loop {
        let changed = tokio::select! {
            changed = seen.changed() => changed,
            changed = known.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let now = SystemTime::now();
        changes.connected(seen.borrow_and_update().is_connected, now);
        changes.observe(&known.borrow_and_update(), now);
        last.send_replace(changes.last());
    }
}

fn by_id(members: &[Member]) -> BTreeMap<NodeId, (Announcement, Standing)> {
    members.iter().map(|member| (member.node.id(), (member.node.clone(), member.standing()))).collect()
}

fn change(at: SystemTime, event: Event, node: Option<&Announcement>) -> Change {
    let named = |node: &Announcement| Named { role: node.role, name: node.name.clone(), dc: node.dc.clone() };
    Change { at, event, node: node.map(named) }
}

/// What has happened to a node that is known now.
fn event(before: Option<&(Announcement, Standing)>, node: &Announcement, standing: Standing) -> Option<Event> {
    let Some((known, stood)) = before else { return Some(Event::Appeared) };
    match (stood, standing) {
        (Standing::Missing, Standing::Missing) => None,
        (_, Standing::Missing) => Some(Event::Missing),
        (Standing::Draining, Standing::Draining) => None,
        (_, Standing::Draining) => Some(Event::Drains),
        (Standing::Missing | Standing::Draining, _) => Some(Event::Back),
        _ if known.started != node.started => Some(Event::Restarted),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet::State;
    use fleet::node::testing::node;

    fn member(name: &str) -> Member {
        Member { node: node(Role::Registrar, name, "dc1"), takes_new: true, is_missing: false }
    }

    fn events(changes: &Changes) -> Vec<(Event, String)> {
        let name = |change: &Change| change.node.as_ref().map(|node| node.name.clone()).unwrap_or_default();
        changes.last.iter().rev().map(|change| (change.event, name(change))).collect()
    }

    #[test]
    fn who_was_known_before_is_no_change() {
        let mut changes = Changes::since(&[member("r1")]);
        changes.observe(&[member("r1")], SystemTime::now());
        assert_eq!(changes.last(), []);
    }

    #[test]
    fn a_node_comes_and_goes() {
        let mut changes = Changes::since(&[member("r1")]);
        let mut r2 = member("r2");
        let mut see = |r2: Option<&Member>| {
            let members: Vec<_> = [member("r1")].into_iter().chain(r2.cloned()).collect();
            changes.observe(&members, SystemTime::now());
            changes.last.front().map(|change| change.event)
        };
        r2.takes_new = false;
        assert_eq!(see(Some(&r2)), Some(Event::Appeared));
        r2.takes_new = true;
        assert_eq!(see(Some(&r2)), Some(Event::Appeared), "that it takes part is what was expected");
        r2.is_missing = true;
        assert_eq!(see(Some(&r2)), Some(Event::Missing));
        (r2.is_missing, r2.node.started) = (false, "later".to_owned());
        assert_eq!(see(Some(&r2)), Some(Event::Back));
        r2.node.started = "and again".to_owned();
        assert_eq!(see(Some(&r2)), Some(Event::Restarted));
        r2.node.state = State::Draining;
        assert_eq!(see(Some(&r2)), Some(Event::Drains));
        assert_eq!(see(None), Some(Event::Gone));
        assert_eq!(events(&changes).len(), 6);
    }

    #[test]
    fn zookeeper_is_lost_and_back() {
        let mut changes = Changes::since(&[]);
        [false, true, true, false, false, true].iter().for_each(|there| changes.connected(*there, SystemTime::now()));
        let none = String::new;
        assert_eq!(events(&changes), [(Event::ZookeeperLost, none()), (Event::ZookeeperBack, none())]);
    }

    #[test]
    fn the_last_fifty_are_kept() {
        let mut changes = Changes::since(&[]);
        for number in 0..KEPT {
            changes.observe(&[member(&format!("r{number}"))], SystemTime::now());
        }
        let events = events(&changes);
        assert_eq!((events.len(), events[KEPT - 1].clone()), (KEPT, (Event::Appeared, format!("r{}", KEPT - 1))));
    }
}
