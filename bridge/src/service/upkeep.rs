//! Events of bindings, and keepalives, for the bindings that this node owns.

use std::sync::Arc;
use std::time::Duration;

use domain::lookup::is_current;
use domain::registration::{RegistrationEvent, event};
use domain::{Aor, Binding, BindingState, Timestamp};
use tokio::task::JoinSet;

use super::Service;
use crate::metrics::{count, set};
use crate::owned::{Events, Fate, Owned, OwnedConfig, fate};
use crate::protocol::{ContactEvent, EventKind, Task};
use crate::{clock, event_log};

/// How often the index is looked at.
const TICK: Duration = Duration::from_millis(250);

/// Keepalives and ends of one look: what is more waits for the next.
const MOST_KEEPALIVES: usize = 5_000;
const MOST_ENDS: usize = 500;

/// Rows that are read at once.
const READS_IN_FLIGHT: usize = 32;

/// Seconds until a binding is asked about again, when Cassandra could not tell.
const ASK_AGAIN_AFTER: u32 = 5;

/// The index; without its file when that cannot be used.
pub(super) fn open(config: &OwnedConfig) -> Owned {
    let now = clock::wall();
    match Owned::open(config.clone(), now) {
        Ok(owned) => return owned,
        Err(error) => tracing::error!("{error}; until then a restart forgets which contacts this node has"),
    }
    let in_memory = OwnedConfig { file: None, ..config.clone() };
    Owned::open(in_memory, now).unwrap_or_default()
}

impl Service {
    /// Tells of ends and sends keepalives for ever.
    pub async fn watch(self: Arc<Self>) {
        if !self.config.owned.is_needed() {
            return;
        }
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.keep_alive().await;
            self.clone().tell_ends().await;
            set(&self.metrics.owned_contacts, self.owned.count() as u64);
        }
    }

    /// Writes what must survive the stop. Blocks.
    pub fn close(&self) {
        self.owned.close();
    }

    async fn keep_alive(&self) {
        for (aor, binding) in self.owned.to_keep_alive(clock::wall(), MOST_KEEPALIVES) {
            // Waits when the resume workers do not keep up; the next look is later then.
            if self.notices.send(Task::KeepAlive(aor, Box::new(binding))).await.is_err() {
                return;
            }
            count(&self.metrics.keepalives);
        }
    }

    async fn tell_ends(self: Arc<Self>) {
        let mut reads = JoinSet::new();
        for (aor, binding) in self.owned.ended(clock::wall(), MOST_ENDS) {
            if reads.len() >= READS_IN_FLIGHT {
                reads.join_next().await;
            }
            let service = self.clone();
            reads.spawn(async move { service.tell_end(&aor, binding).await });
        }
        reads.join_all().await;
    }

    async fn tell_end(&self, aor: &Aor, known: Binding) {
        let Some(Ok(rows)) = self.read_rows(aor).await else {
            self.owned.ask_again(aor, &known, clock::wall().plus_seconds(ASK_AGAIN_AFTER));
            return;
        };
        let now = clock::wall();
        match fate(&known, &rows, &self.config.node.name, now) {
            Fate::Expired => {
                self.owned.disown(aor, &known.key);
                count(&self.metrics.contacts_expired);
                self.tell(EventKind::Expired, aor, &known, now);
            }
            Fate::Refreshed(binding) => self.owned.own(aor, &binding, now),
            Fate::Gone => self.owned.disown(aor, &known.key),
        }
    }

    /// `None` without a session.
    async fn read_rows(&self, aor: &Aor) -> Option<Result<Vec<Binding>, store::StoreError>> {
        Some(self.store.get()?.bindings(aor).await)
    }

    /// Owns what was written, tells of the changes.
    pub(super) fn take_over(&self, aor: &Aor, existing: &[Binding], writes: &[Binding]) {
        if !self.config.owned.is_needed() {
            return;
        }
        let now = clock::wall();
        for write in writes {
            match write.state {
                BindingState::Live => self.owned.own(aor, write, now),
                BindingState::Removed => self.owned.disown(aor, &write.key),
            }
            self.tell(kind_of(write, existing, now), aor, write, now);
        }
    }

    /// Tells the log and the script of what has happened, if they want to know.
    fn tell(&self, kind: EventKind, aor: &Aor, binding: &Binding, now: Timestamp) {
        if self.config.owned.log {
            let event = RegistrationEvent { name: name_of(kind), aor, binding, at: now };
            tracing::info!(target: event_log::REGISTRATIONS, "registration {}", event.json());
        }
        if is_told(kind, self.owned.events()) {
            self.tell_script(ContactEvent { kind, aor: aor.clone(), binding: binding.clone() });
        }
    }

    /// Nothing waits for an event: when too many are on their way it is dropped.
    fn tell_script(&self, event: ContactEvent) {
        if self.notices.try_send(Task::Tell(Box::new(event))).is_err() {
            count(&self.metrics.events_dropped);
        }
    }
}

fn name_of(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Inserted => event::NEW,
        EventKind::Updated => event::REFRESH,
        EventKind::Deleted => event::DELETED,
        EventKind::Expired => event::EXPIRED,
    }
}

fn kind_of(write: &Binding, existing: &[Binding], now: Timestamp) -> EventKind {
    let known = existing.iter().any(|row| row.key == write.key && is_current(row, now));
    match write.state {
        BindingState::Removed => EventKind::Deleted,
        BindingState::Live if known => EventKind::Updated,
        BindingState::Live => EventKind::Inserted,
    }
}

fn is_told(kind: EventKind, events: Events) -> bool {
    match kind {
        EventKind::Inserted => events.inserted,
        EventKind::Updated => events.updated,
        EventKind::Deleted => events.deleted,
        EventKind::Expired => events.expired,
    }
}
