//! The calls that are under way on all nodes: telling of our own, closing those of nodes that are gone, and looking.

use std::sync::Arc;
use std::time::Duration;

use domain::call::{ActiveCall, CallFilter, EventId, by_node, event};
use domain::{CallEvent, CallRecord};
use futures::{StreamExt, TryStreamExt, stream};
use store::call::active::{SHARDS, Whose};
use store::outbox::Sink;
use store::{Store, StoreError};

use super::Service;
use crate::calls::Snapshot;
use crate::clock::wall;
use crate::metrics::{count, set};
use crate::protocol::{CallParty, NodeCalls, Outcome};

/// Pause between two looks for calls that the others are to be told of.
const TURN: Duration = Duration::from_millis(250);

/// Calls that are told at once.
const REFRESHES: usize = 32;

impl Service {
    /// Keeps telling the others of the calls that are under way here, for ever; first of those that were before a restart.
    pub async fn refresh_calls(self: Arc<Self>) {
        let mut is_adopted = false;
        loop {
            tokio::time::sleep(TURN).await;
            set(&self.metrics.live_calls, self.calls.live().count());
            if !self.takes_writes() {
                continue;
            }
            let Some(store) = self.store.get() else { continue };
            if !is_adopted {
                is_adopted = self.adopt(store).await.is_ok();
            }
            stream::iter(self.calls.live().due())
                .for_each_concurrent(REFRESHES, async |(call_id, known)| {
                    if let Err(error) = self.refresh(store, &call_id, known).await {
                        tracing::debug!("the call {call_id} is not refreshed: {error}");
                        self.calls.live().retry(&call_id);
                    }
                })
                .await;
        }
    }

    async fn adopt(&self, store: &Store) -> Result<(), StoreError> {
        let calls = store.active_calls_in_any().await?;
        let own = calls.into_iter().filter(|call| self.is_own(call));
        let own: Vec<_> = stream::iter(own)
            .map(|call| async {
                let known = call.record();
                let mut record = CallRecord::of(&call.call_id, &store.call_events(known.call_id(&call.call_id)).await?);
                record.complete(known);
                Ok::<_, StoreError>((call.call_id, record))
            })
            .buffer_unordered(REFRESHES)
            .try_collect()
            .await?;
        if !own.is_empty() {
            tracing::info!("{} calls that were under way before are this node's again", own.len());
        }
        self.calls.live().adopt(own);
        Ok(())
    }

    fn is_own(&self, call: &ActiveCall) -> bool {
        call.node == self.config.node.name && call.dc == self.config.node.dc
    }

    /// Says that a call is there, unless it has ended on another node, or was there for too long.
    async fn refresh(&self, store: &Store, id: &str, known: Snapshot) -> Result<(), StoreError> {
        let parties = self.parties_of(store, &known.record).await?;
        let events = store.call_events(known.record.call_id(id)).await?;
        // That it was thought lost does not count here.
        if ends(id, &events).any(|event| event.event != event::LOST) {
            let written = self.calls.live().forget(id);
            return store.remove_call(id, written, &parties).await;
        }
        let now = wall();
        if known.record.started_at.is_some_and(|started_at| self.calls.has_expired(started_at, now)) {
            count(&self.metrics.call_events);
            self.note(known.record.closing(id, event::EXPIRED, "nobody ended it", EventId::at_time(now, id)));
            return Ok(());
        }
        store.refresh_call(&self.presence(id, &known.record, known.written), &parties).await
    }

    /// Looks for calls of nodes that are gone, one shard after the other, for ever, and closes them.
    pub async fn find_lost_calls(self: Arc<Self>) {
        for shard in (0..SHARDS).cycle() {
            tokio::time::sleep(self.calls.interval() / u32::from(SHARDS)).await;
            if !self.takes_writes() {
                continue;
            }
            let Some(store) = self.store.get() else { continue };
            if let Err(error) = self.find_lost_calls_in(store, shard).await {
                tracing::debug!("lost calls are not looked for: {error}");
            }
        }
    }

    async fn find_lost_calls_in(&self, store: &Store, shard: u8) -> Result<(), StoreError> {
        for call in store.active_calls_in(shard).await? {
            if !call.is_lost() || self.calls.live().has(&call.call_id) {
                continue;
            }
            let record = call.record();
            let events = store.call_events(record.call_id(&call.call_id)).await?;
            if ends(&call.call_id, &events).next().is_none() {
                tracing::warn!("the call {} is lost: its node {} is gone", call.call_id, call.node);
                count(&self.metrics.call_events);
                self.calls.take(call.lost(&events));
            }
            let parties = self.parties_of(store, &record).await?;
            store.remove_call(&call.call_id, wall().0.saturating_mul(1000), &parties).await?;
        }
        Ok(())
    }

    /// The calls of all nodes that are meant, at most so many, and how many they are.
    pub(super) async fn active_calls(
        &self,
        store: &Store,
        filter: &CallFilter,
        most: u32,
    ) -> Result<Outcome, StoreError> {
        let mut calls = store.active_calls().await?;
        calls.retain(|call| filter.matches(call));
        let total = u32::try_from(calls.len()).unwrap_or(u32::MAX);
        calls.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(Outcome::ActiveCalls { calls, total })
    }

    /// How many calls each node has.
    pub(super) async fn call_counts(&self, store: &Store) -> Result<Outcome, StoreError> {
        let calls = store.active_calls().await?;
        let counts = by_node(&calls);
        let counts =
            counts.into_iter().map(|((dc, node), calls)| NodeCalls { dc: dc.to_owned(), node: node.to_owned(), calls });
        Ok(Outcome::CallCounts(counts.collect()))
    }

    /// How many calls somebody has, and may have.
    pub(super) async fn count_calls(&self, store: &Store, party: &CallParty) -> Result<Outcome, StoreError> {
        let (calls, max_calls) = match party {
            CallParty::Account(account) => (store.count_calls(Whose::Account(account)).await?, 0),
            CallParty::Subscriber(aor) => {
                let written = aor.to_string();
                let (calls, known) =
                    tokio::try_join!(store.count_calls(Whose::Subscriber(aor)), self.party(store, &written))?;
                (calls, known.map_or(0, |(_, known)| known.max_calls))
            }
        };
        Ok(Outcome::CallsCounted { calls: u32::try_from(calls).unwrap_or(u32::MAX), max_calls })
    }
}

/// Those of a call's events that end what has this record.
fn ends<'e>(record_id: &str, events: &'e [CallEvent]) -> impl Iterator<Item = &'e CallEvent> {
    events.iter().filter(move |event| event.is_end() && event.record_id() == record_id)
}
