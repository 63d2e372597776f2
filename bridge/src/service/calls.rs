//! What becomes of call events in Cassandra: a row each, and the call, or the further leg of one, in the lists of its parties and of
//! their accounts.

use std::borrow::Cow;
use std::sync::Arc;

use domain::call::event;
use domain::{Aor, CallEvent, CallRecord};
use futures::future::try_join_all;
use store::call::active::{Change, Presence};
use store::call::{Direction, Entry, Parties, Recording};
use store::outbox::{Item, Sink};
use store::{Store, StoreError};
use tokio::time::Instant;

use super::{PARTY_LIFETIME, Service};
use crate::breaker::State;

/// What a party of a call is to this system.
#[derive(Debug, Clone)]
pub(super) struct Party {
    read_at: Instant,
    /// `None`: it is no subscriber.
    known: Option<Known>,
}

/// What is known of a subscriber that is in a call.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// `""` for none.
    account: String,
    /// 0 for no limit.
    pub(super) max_calls: u32,
}

/// An event with what has to be known to write it.
struct Write<'i> {
    event: Cow<'i, CallEvent>,
    /// Write timestamp of what it tells of the calls that are under way, if anything.
    active: Option<i64>,
    /// The call, where that is to be seen somewhere.
    record: Option<Cow<'i, CallRecord>>,
    parties: Parties,
    /// Whether it is seen in the lists.
    is_listed: bool,
}

impl Write<'_> {
    fn presence<'w>(&'w self, service: &'w Service) -> Option<Presence<'w>> {
        let written = self.active?;
        self.record.as_deref().map(|record| service.presence(self.event.record_id(), record, written))
    }

    fn recording<'w>(&'w self, presence: Option<&'w Presence<'w>>) -> Recording<'w> {
        let event = &*self.event;
        let entry = self.record.as_deref().filter(|_| self.is_listed).map(|record| Entry {
            call_id: &event.call_id,
            started_at: record.started_at.unwrap_or(event.at()),
            record,
            as_of: event.id,
            node: &event.node,
            dc: &event.dc,
        });
        let active = presence.and_then(|presence| match &*event.event {
            _ if event.is_end() => Some(Change::Gone { call_id: presence.call_id, written: presence.written }),
            _ if presence.record.is_over() => None,
            event::ATTEMPT => Some(Change::Present(presence)),
            event::START => Some(Change::Answered(presence)),
            _ => None,
        });
        Recording { event, entry, active, parties: &self.parties }
    }
}

impl Service {
    /// Sees call events to where they are kept, until [`Self::stop_calls`] and all of them are.
    pub async fn record_calls(self: Arc<Self>) {
        self.calls.clone().record(self).await;
    }

    /// Writes what the spool holds whenever Cassandra answers, for ever.
    pub async fn replay_calls(self: Arc<Self>) {
        self.calls.replay(&*self).await;
    }

    /// Takes no more call events.
    pub fn stop_calls(&self) {
        self.calls.close();
    }

    /// Syncs and closes the spool.
    pub async fn close_calls(&self) {
        self.calls.close_spool().await;
    }

    /// Takes over an event of a call.
    pub(super) fn note(&self, mut event: CallEvent) {
        self.config.node.name.clone_into(&mut event.node);
        self.config.node.dc.clone_into(&mut event.dc);
        self.calls.take(event);
    }

    /// All that a group of events changes, in as few requests as Cassandra likes.
    async fn write_calls(&self, store: &Store, items: &[Item]) -> Result<(), StoreError> {
        let writes = try_join_all(items.iter().map(|item| self.prepare(store, item))).await?;
        let presences: Vec<Option<Presence<'_>>> = writes.iter().map(|write| write.presence(self)).collect();
        let recordings = writes.iter().zip(&presences).map(|(write, presence)| write.recording(presence.as_ref()));
        store.record_calls(recordings).await
    }

    /// Finds out what has to be known to write an event.
    async fn prepare<'i>(&self, store: &Store, item: &'i Item) -> Result<Write<'i>, StoreError> {
        let mut event = Cow::Borrowed(&item.event);
        let is_listed = event.event == event::ATTEMPT || event.is_end();
        let record = match &item.record {
            Some(record) => Some(Cow::Borrowed(record)),
            None if is_listed => Some(Cow::Owned(Box::pin(self.record_of(store, &mut event)).await?)),
            None => None,
        };
        let parties = match &record {
            Some(record) if is_listed => self.parties_of(store, record).await?,
            _ => Parties::default(),
        };
        Ok(Write { event, active: item.active, record, parties, is_listed })
    }

    pub(super) fn presence<'a>(&'a self, call_id: &'a str, record: &'a CallRecord, written: i64) -> Presence<'a> {
        let interval = i32::try_from(self.calls.interval().as_secs()).unwrap_or(i32::MAX);
        let node = &self.config.node;
        Presence { call_id, record, node: &node.name, dc: &node.dc, interval, written }
    }

    /// What is known of a call that did not begin here, or not since this node started. A node to which only the end of a further
    /// leg comes knows by itself neither that it is one nor of which call: the event is told.
    async fn record_of(&self, store: &Store, event: &mut Cow<'_, CallEvent>) -> Result<CallRecord, StoreError> {
        let mut record = CallRecord::of(event.record_id(), &store.call_events(&event.call_id).await?);
        if record.started_at.is_none()
            && let Some(call) = store.active_call(event.record_id()).await?
        {
            if !call.leg_of.is_empty() {
                let event = event.to_mut();
                event.set_further_leg();
                call.leg_of.clone_into(&mut event.call_id);
                record = CallRecord::of(event.record_id(), &store.call_events(&event.call_id).await?);
            }
            record.complete(call.record());
        }
        record.take(event);
        Ok(record)
    }

    /// Who is in the call and known here. Of a further leg it is the callee alone, and its account unless that is the caller's, too:
    /// the caller, and whom the call belongs to, have the call.
    pub(super) async fn parties_of(&self, store: &Store, record: &CallRecord) -> Result<Parties, StoreError> {
        let (caller, callee) = tokio::try_join!(self.party(store, &record.caller), self.party(store, &record.callee))?;
        let mut parties = Parties::default();
        if record.is_of_further_leg() {
            let others = [record.account.as_str(), caller.as_ref().map_or("", |(_, known)| &known.account), ""];
            if let Some((aor, known)) = callee {
                if !others.contains(&known.account.as_str()) {
                    parties.accounts.insert(known.account.clone());
                }
                parties.subscribers.push((aor, Direction::Inbound, known.account));
            }
            return Ok(parties);
        }
        parties.accounts.insert(record.account.clone());
        for (party, direction) in [(caller, Direction::Outbound), (callee, Direction::Inbound)] {
            if let Some((aor, known)) = party {
                parties.accounts.insert(known.account.clone());
                parties.subscribers.push((aor, direction, known.account));
            }
        }
        parties.accounts.remove("");
        Ok(parties)
    }

    /// A party, if it is a subscriber.
    pub(super) async fn party(&self, store: &Store, written: &str) -> Result<Option<(Aor, Known)>, StoreError> {
        let Ok(aor) = written.parse::<Aor>() else { return Ok(None) };
        let known = self.parties.get(&aor).filter(|party| party.read_at.elapsed() < PARTY_LIFETIME);
        let party = match known {
            Some(party) => party,
            None => {
                let known = Box::pin(store.credentials(&aor)).await?.map(|subscriber| Known {
                    account: subscriber.account_id,
                    max_calls: u32::try_from(subscriber.max_calls).unwrap_or_default(),
                });
                let party = Party { read_at: Instant::now(), known };
                self.parties.insert(aor.clone(), party.clone());
                party
            }
        };
        Ok(party.known.map(|known| (aor, known)))
    }
}

impl Sink for Service {
    fn takes_writes(&self) -> bool {
        self.store.get().is_some() && self.breaker().state() == State::Closed
    }

    async fn write(&self, items: &[Item]) -> bool {
        let Some(store) = self.store.get() else { return false };
        let written = self.write_calls(store, items).await;
        written.inspect_err(|error| tracing::debug!("call events are not written: {error}")).is_ok()
    }
}
