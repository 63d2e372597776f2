//! The bindings that this node was the last to write: it tells when they end, and keeps the way to them open.
//!
//! Rows in Cassandra vanish without a word, and no node may read the whole table. So each node keeps an index of what it wrote
//! itself, in memory, and in a file that survives a restart. When the time of a binding has come, the row tells whether it has
//! ended, or whether another node has taken it over.

mod journal;

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::lookup::is_current;
use domain::{Aor, Binding, BindingKey, BindingState, Timestamp};

use journal::Journal;

pub use journal::JournalError;

/// Seconds that a lapsed row is still there after its binding's end (the store's grace), with some room.
const ROW_OUTLIVES: u32 = 50;

/// What is done with bindings.
#[derive(Debug, Clone, Default)]
pub struct OwnedConfig {
    /// Which events are told to the script.
    pub events: Events,
    /// Whether each event goes to the log, as a line of JSON.
    pub log: bool,
    /// How bindings are kept alive; `None`: they are not.
    pub keepalive: Option<Keepalive>,
    /// Where the index survives a restart; `None`: it does not.
    pub file: Option<PathBuf>,
}

impl OwnedConfig {
    /// Whether there is anything to do.
    pub fn is_needed(&self) -> bool {
        self.keepalive.is_some() || self.log || self.events != Events::default()
    }

    fn is_index_needed(&self) -> bool {
        self.keepalive.is_some() || self.log || self.events.expired
    }
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Events {
    /// A binding is new.
    pub inserted: bool,
    /// A binding was refreshed.
    pub updated: bool,
    /// A binding was removed.
    pub deleted: bool,
    /// A binding has lapsed.
    pub expired: bool,
}

/// Which bindings are kept alive, and how often; as the stock `ka_mode`.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Time between two messages to one contact.
    pub interval: Duration,
    /// Only those behind a NAT: seen elsewhere than they say, or with one of these branch flags.
    pub natted_only: Option<u32>,
    /// Only those on UDP.
    pub udp_only: bool,
}

impl Keepalive {
    fn concerns(&self, binding: &Binding) -> bool {
        let natted = |flags: u32| !binding.received.is_empty() || binding.cflags & flags != 0;
        self.natted_only.is_none_or(natted) && (!self.udp_only || binding.socket.starts_with("udp:"))
    }
}

/// What became of a binding when its time had come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has lapsed: nobody refreshed it.
    Expired,
    /// This node refreshed it, and the index did not know: it goes on.
    Refreshed(Box<Binding>),
    /// It was removed, or another node has it now.
    Gone,
}

/// What the rows of its AoR say about a binding that should have lapsed by `now`.
pub(crate) fn fate(known: &Binding, rows: &[Binding], node: &str, now: Timestamp) -> Fate {
    match rows.iter().find(|row| row.key == known.key) {
        Some(row) if is_current(row, now) && row.registrar == node => Fate::Refreshed(Box::new(row.clone())),
        Some(row) if row.state == BindingState::Live && !is_current(row, now) => Fate::Expired,
        Some(_) => Fate::Gone,
        // A row that lapsed by itself would still be there; one that was removed elsewhere may be gone.
        None if now <= known.expires_at.plus_seconds(ROW_OUTLIVES) => Fate::Gone,
        None => Fate::Expired,
    }
}

type Key = (Aor, BindingKey);

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    config: OwnedConfig,
    state: Mutex<State>,
    journal: Option<Journal>,
}

#[derive(Debug, Default)]
struct State {
    bindings: HashMap<Arc<Key>, Entry>,
    ends: BTreeSet<(Timestamp, Arc<Key>)>,
    pings: BTreeSet<(Timestamp, Arc<Key>)>,
}

#[derive(Debug)]
struct Entry {
    binding: Binding,
    ping_at: Option<Timestamp>,
}

impl Owned {
    /// The index as it was when the node stopped.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub(crate) fn open(config: OwnedConfig, now: Timestamp) -> Result<Self, JournalError> {
        let (journal, kept) = match config.file.as_deref().filter(|_| config.is_index_needed()) {
            Some(file) => {
                let (journal, kept) = Journal::open(file)?;
                (Some(journal), kept)
            }
            None => (None, Vec::new()),
        };
        let owned = Self { config, state: Mutex::default(), journal };
        for (aor, binding) in kept {
            owned.state().insert(&owned.config, aor, binding, now);
        }
        Ok(owned)
    }

    /// The events to tell.
    pub(crate) fn events(&self) -> Events {
        self.config.events
    }

    /// Takes over a binding that this node wrote.
    pub(crate) fn own(&self, aor: &Aor, binding: &Binding, now: Timestamp) {
        if !self.config.is_index_needed() {
            return;
        }
        let key = self.state().insert(&self.config, aor.clone(), binding.clone(), now);
        if let Some(journal) = &self.journal {
            journal.put(&key, binding);
        }
    }

    /// Forgets a binding that is no more.
    pub(crate) fn disown(&self, aor: &Aor, key: &BindingKey) {
        if !self.config.is_index_needed() {
            return;
        }
        let key = (aor.clone(), key.clone());
        if self.state().remove(&key).is_some()
            && let Some(journal) = &self.journal
        {
            journal.remove(&key);
        }
    }

    /// Bindings whose end has come, `most` of them; they stay in the index until something is known about them.
    pub(crate) fn ended(&self, now: Timestamp, most: usize) -> Vec<(Aor, Binding)> {
        let mut state = self.state();
        let due: Vec<_> = state.ends.iter().take(most).take_while(|(end, _)| *end <= now).cloned().collect();
        let mut ended = Vec::with_capacity(due.len());
        for (end, key) in due {
            state.ends.remove(&(end, key.clone()));
            if let Some(entry) = state.bindings.get(&*key) {
                ended.push((key.0.clone(), entry.binding.clone()));
            }
        }
        ended
    }

    /// Asks about a binding again at a later time, since nobody could tell.
    pub(crate) fn ask_again(&self, aor: &Aor, binding: &Binding, at: Timestamp) {
        let mut state = self.state();
        let key = (aor.clone(), binding.key.clone());
        if let Some((key, _)) = state.bindings.get_key_value(&key) {
            let key = key.clone();
            state.ends.insert((at, key));
        }
    }

    /// Bindings that are to be kept alive now, `most` of them; each comes again after the interval.
    pub(crate) fn to_keep_alive(&self, now: Timestamp, most: usize) -> Vec<(Aor, Binding)> {
        let Some(rule) = self.config.keepalive else { return Vec::new() };
        let mut state = self.state();
        let due: Vec<_> = state.pings.iter().take(most).take_while(|(at, _)| *at <= now).cloned().collect();
        let mut pinged = Vec::with_capacity(due.len());
        for (at, key) in due {
            state.pings.remove(&(at, key.clone()));
            let next = after(at.max(now), rule.interval);
            let Some(entry) = state.bindings.get_mut(&*key) else { continue };
            if !is_current(&entry.binding, now) {
                entry.ping_at = None;
                continue;
            }
            entry.ping_at = Some(next);
            pinged.push((key.0.clone(), entry.binding.clone()));
            state.pings.insert((next, key));
        }
        pinged
    }

    /// How many bindings there are.
    pub(crate) fn count(&self) -> usize {
        self.state().bindings.len()
    }

    /// Writes to the file what is still to be written. Blocks; at the stop.
    pub(crate) fn close(&self) {
        if let Some(journal) = &self.journal {
            journal.close();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, config: &OwnedConfig, aor: Aor, binding: Binding, now: Timestamp) -> Arc<Key> {
        let key = (aor, binding.key.clone());
        let known = self.remove(&key);
        let key = Arc::new(key);
        let ping_at = config.keepalive.filter(|rule| rule.concerns(&binding)).map(|rule| {
            let first = || after(now, spread(&key, rule.interval));
            known.and_then(|known| known.ping_at).unwrap_or_else(first)
        });
        self.ends.insert((binding.expires_at, key.clone()));
        if let Some(at) = ping_at {
            self.pings.insert((at, key.clone()));
        }
        self.bindings.insert(key.clone(), Entry { binding, ping_at });
        key
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let (key, entry) = self.bindings.remove_entry(key)?;
        self.ends.remove(&(entry.binding.expires_at, key.clone()));
        if let Some(at) = entry.ping_at {
            self.pings.remove(&(at, key));
        }
        Some(entry)
    }
}

fn after(at: Timestamp, interval: Duration) -> Timestamp {
    Timestamp(at.0.saturating_add(i64::try_from(interval.as_millis()).unwrap_or(i64::MAX)))
}

/// A part of the interval that is another one for each binding, so that not all are kept alive in the same moment.
fn spread(key: &Key, interval: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(hasher.finish() % millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{binding, temporary_file};

    const NOW: Timestamp = Timestamp(1_000_000);

    fn alice() -> Aor {
        Aor::new("alice", "example.com").expect("an AoR")
    }

    fn lasting(contact: &str, seconds: u32) -> Binding {
        Binding { expires_at: NOW.plus_seconds(seconds), registrar: "us".to_owned(), ..binding(contact) }
    }

    fn expiring() -> OwnedConfig {
        OwnedConfig { events: Events { expired: true, ..Events::default() }, ..OwnedConfig::default() }
    }

    fn keeping_alive(rule: Keepalive) -> Owned {
        Owned::open(OwnedConfig { keepalive: Some(rule), ..OwnedConfig::default() }, NOW).expect("opened")
    }

    fn contacts(found: Vec<(Aor, Binding)>) -> Vec<String> {
        found.into_iter().map(|(_, binding)| binding.contact).collect()
    }

    #[test]
    fn a_binding_ends_once_and_after_its_last_refresh() {
        let owned = Owned::open(expiring(), NOW).expect("opened");
        owned.own(&alice(), &lasting("sip:a@h", 10), NOW);
        owned.own(&alice(), &lasting("sip:b@h", 20), NOW);
        owned.own(&alice(), &lasting("sip:a@h", 30), NOW);
        assert!(owned.ended(NOW.plus_seconds(19), 9).is_empty());
        assert_eq!(contacts(owned.ended(NOW.plus_seconds(40), 1)), ["sip:b@h"]);
        assert_eq!(contacts(owned.ended(NOW.plus_seconds(40), 9)), ["sip:a@h"]);
        assert!(owned.ended(NOW.plus_seconds(99), 9).is_empty());
    }

    #[test]
    fn what_nobody_can_tell_is_asked_again() {
        let owned = Owned::open(expiring(), NOW).expect("opened");
        let phone = lasting("sip:a@h", 10);
        owned.own(&alice(), &phone, NOW);
        assert_eq!(owned.ended(NOW.plus_seconds(10), 9).len(), 1);
        owned.ask_again(&alice(), &phone, NOW.plus_seconds(15));
        assert!(owned.ended(NOW.plus_seconds(14), 9).is_empty());
        assert_eq!(owned.ended(NOW.plus_seconds(15), 9).len(), 1);
        owned.disown(&alice(), &phone.key);
        owned.ask_again(&alice(), &phone, NOW);
        assert_eq!((owned.ended(NOW.plus_seconds(99), 9).len(), owned.count()), (0, 0));
    }

    #[test]
    fn the_rows_tell_what_became_of_a_binding() {
        let known = lasting("sip:a@h", 10);
        let now = NOW.plus_seconds(11);
        let fate = |rows: &[Binding]| fate(&known, rows, "us", now);
        assert_eq!(fate(std::slice::from_ref(&known)), Fate::Expired);
        let refreshed = Binding { expires_at: NOW.plus_seconds(99), ..known.clone() };
        assert_eq!(fate(std::slice::from_ref(&refreshed)), Fate::Refreshed(Box::new(refreshed.clone())));
        assert_eq!(fate(&[Binding { registrar: "them".to_owned(), ..refreshed }]), Fate::Gone);
        assert_eq!(fate(&[known.removed(now)]), Fate::Gone);
        assert_eq!(fate(&[lasting("sip:b@h", 99)]), Fate::Gone);
        assert_eq!(super::fate(&known, &[], "us", NOW.plus_seconds(100)), Fate::Expired);
    }

    #[test]
    fn contacts_are_kept_alive_at_their_own_times_until_they_end() {
        let interval = Duration::from_secs(10);
        let owned = keeping_alive(Keepalive { interval, natted_only: None, udp_only: false });
        for number in 0..100 {
            owned.own(&alice(), &lasting(&format!("sip:{number}@h"), 25), NOW);
        }
        let early = owned.to_keep_alive(NOW.plus_seconds(5), 1000).len();
        assert!((20..80).contains(&early), "{early} of 100 in the first half");
        assert_eq!(early + owned.to_keep_alive(NOW.plus_seconds(10), 1000).len(), 100);
        assert_eq!(owned.to_keep_alive(NOW.plus_seconds(20), 1000).len(), 100);
        assert_eq!(owned.to_keep_alive(NOW.plus_seconds(30), 1000).len(), 0);
    }

    #[test]
    fn a_refresh_does_not_put_the_next_message_off() {
        let owned = keeping_alive(Keepalive { interval: Duration::from_secs(10), natted_only: None, udp_only: false });
        for second in 0..12 {
            owned.own(&alice(), &lasting("sip:a@h", 100), NOW.plus_seconds(second));
        }
        assert_eq!(owned.to_keep_alive(NOW.plus_seconds(11), 9).len(), 1);
    }

    #[test]
    fn only_those_concerned_are_kept_alive() {
        let rule = Keepalive { interval: Duration::from_secs(1), natted_only: Some(64), udp_only: true };
        let udp = |binding: Binding| Binding { socket: "udp:127.0.0.1:5060".to_owned(), ..binding };
        assert!(!rule.concerns(&udp(binding("sip:a@h"))));
        assert!(rule.concerns(&udp(Binding { cflags: 64, ..binding("sip:a@h") })));
        let seen = Binding { received: "sip:192.0.2.1:1024".to_owned(), ..binding("sip:a@h") };
        assert!(rule.concerns(&udp(seen.clone())));
        assert!(!rule.concerns(&Binding { socket: "tcp:127.0.0.1:5060".to_owned(), ..seen }));
    }

    #[test]
    fn the_index_survives_a_restart() {
        let file = temporary_file("owned");
        let config = OwnedConfig { file: Some(file.path()), ..expiring() };
        let before = Owned::open(config.clone(), NOW).expect("opened");
        before.own(&alice(), &lasting("sip:a@h", 10), NOW);
        before.own(&alice(), &lasting("sip:b@h", 10), NOW);
        before.own(&alice(), &lasting("sip:a@h", 20), NOW);
        before.disown(&alice(), &lasting("sip:b@h", 10).key);
        before.close();
        drop(before);
        let after = Owned::open(config, NOW).expect("opened again");
        assert_eq!(contacts(after.ended(NOW.plus_seconds(99), 9)), ["sip:a@h"]);
    }

    #[test]
    fn a_file_that_another_server_uses_is_refused_with_a_sentence() {
        let file = temporary_file("owned");
        let config = OwnedConfig { file: Some(file.path()), ..expiring() };
        let _first = Owned::open(config.clone(), NOW).expect("opened");
        let refused = Owned::open(config, NOW).expect_err("in use").to_string();
        assert!(refused.contains("another Kamailio"), "{refused}");
    }
}
