//! Calls that are under way, and further legs of calls, of all nodes: the global view.
//!
//! A row belongs to the node that writes it. It lives for three *intervals* (seconds, a setting of that node, and a column); the
//! owner writes it again every half. A row that was not written for a whole interval is *stale*: its owner is gone, and nobody
//! counts it any more. How old a row is tells what is left of its lifetime, by Cassandra's clock: clocks of readers do not
//! matter.

use domain::call::{ActiveCall, is_stale};
use domain::{Aor, CallRecord, Timestamp};
use futures::future::try_join_all;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlTimestamp, MaybeUnset};
use scylla::{DeserializeRow, SerializeRow as Row};

use super::{Parties, Writes, bucket, if_known, rows};
use crate::session::Preparer;
use crate::{ConnectError, Store, StoreError};

/// Partitions of `active_call`. Fixed with the schema: all nodes of all versions must agree.
pub const SHARDS: u8 = 64;

/// Partitions of an account's calls in `active_by_party`. Fixed, too. A subscriber has one.
const ACCOUNT_BUCKETS: u8 = 8;

/// Of a row without a time, which nobody writes.
const EPOCH: Timestamp = Timestamp(0);

/// A row lives for so many intervals.
const LIVES: i32 = 3;

/// What becomes of a call among those that are under way.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// It is one of them.
    Present(&'a Presence<'a>),
    /// It is one of them still, and its parties are the same.
    Answered(&'a Presence<'a>),
    /// It is over.
    Gone {
        /// Which call, as in [`Presence`].
        call_id: &'a str,
        /// Write timestamp.
        written: i64,
    },
}

/// A call that is under way.
#[derive(Debug, Clone, Copy)]
pub struct Presence<'a> {
    /// Which call; of a further leg its Call-ID.
    pub call_id: &'a str,
    /// What is known of it.
    pub record: &'a CallRecord,
    /// Its owner.
    pub node: &'a str,
    /// The owner's data centre.
    pub dc: &'a str,
    /// The owner's interval in seconds.
    pub interval: i32,
    /// Write timestamp: the change that was decided last wins.
    pub written: i64,
}

/// Whose calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose<'a> {
    /// A subscriber's, calling and called.
    Subscriber(&'a Aor),
    /// An account's.
    Account(&'a str),
}

#[derive(Debug)]
pub(super) struct Statements {
    write_call: PreparedStatement,
    write_answer: PreparedStatement,
    remove_call: PreparedStatement,
    read_calls: PreparedStatement,
    read_call: PreparedStatement,
    write_party: PreparedStatement,
    remove_party: PreparedStatement,
    read_party: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(keyspace: &str, preparer: &Preparer<'_>) -> Result<Self, ConnectError> {
        let (calls, parties) = (format!("{keyspace}.active_call"), format!("{keyspace}.active_by_party"));
        let columns = "call_id, leg_of, dc, node, account_id, callee_account_id, caller, callee, started_at, answered_at, \
                       updated_at, interval, TTL(interval)";
        Ok(Self {
            write_call: preparer.prepare(format!(
                "INSERT INTO {calls} (shard, call_id, leg_of, dc, node, account_id, callee_account_id, caller, callee, state, \
                 started_at, answered_at, updated_at, interval) VALUES (:shard, :call_id, :leg_of, :dc, :node, :account_id, \
                 :callee_account_id, :caller, :callee, :state, :started_at, :answered_at, :updated_at, :interval) \
                 USING TIMESTAMP :written AND TTL :ttl"
            ))
            .await?,
            // The row's lifetime is that of what tells how old it is, which is written again with every column's.
            write_answer: preparer
                .prepare(format!(
                    "INSERT INTO {calls} (shard, call_id, state, answered_at) VALUES (:shard, :call_id, :state, :answered_at) \
                     USING TIMESTAMP :written AND TTL :ttl"
                ))
                .await?,
            remove_call: preparer.prepare(format!("DELETE FROM {calls} USING TIMESTAMP ? WHERE shard = ? AND call_id = ?"))
                .await?,
            read_calls: preparer.prepare(format!("SELECT {columns} FROM {calls} WHERE shard = ?")).await?,
            read_call: preparer.prepare(format!("SELECT {columns} FROM {calls} WHERE shard = ? AND call_id = ?")).await?,
            write_party: preparer.prepare(format!(
                "INSERT INTO {parties} (kind, key, bucket, call_id, node, interval) VALUES (:kind, :key, :bucket, :call_id, \
                 :node, :interval) USING TIMESTAMP :written AND TTL :ttl"
            ))
            .await?,
            remove_party: preparer.prepare(format!(
                "DELETE FROM {parties} USING TIMESTAMP ? WHERE kind = ? AND key = ? AND bucket = ? AND call_id = ?"
            ))
            .await?,
            read_party: preparer.prepare(format!(
                "SELECT interval, TTL(interval) FROM {parties} WHERE kind = ? AND key = ? AND bucket = ?"
            ))
            .await?,
        })
    }

    /// Adds what writes a change.
    pub(super) fn change<'a>(&self, change: Change<'a>, parties: &'a Parties, writes: &mut Writes<'a>) {
        match change {
            Change::Present(presence) => {
                writes.add(&self.write_call, WrittenCall::of(presence, parties));
                for key in keys(presence.call_id, parties) {
                    writes.add(&self.write_party, WrittenParty::of(presence, key));
                }
            }
            Change::Answered(presence) => writes.add(&self.write_answer, WrittenAnswer::of(presence)),
            Change::Gone { call_id, written } => {
                writes.add(&self.remove_call, (written, shard(call_id), call_id));
                for Key { kind, key, bucket } in keys(call_id, parties) {
                    writes.add(&self.remove_party, (written, kind, key, bucket, call_id));
                }
            }
        }
    }
}

/// A partition of `active_by_party`.
struct Key {
    kind: &'static str,
    key: String,
    bucket: i8,
}

const SUBSCRIBER: &str = "subscriber";
const ACCOUNT: &str = "account";

fn keys(call_id: &str, parties: &Parties) -> impl Iterator<Item = Key> {
    let subscribers =
        parties.subscribers.iter().map(|(aor, ..)| Key { kind: SUBSCRIBER, key: aor.to_string(), bucket: 0 });
    let bucket = bucket(call_id, ACCOUNT_BUCKETS);
    let accounts = parties.accounts.iter().map(move |account| Key { kind: ACCOUNT, key: account.clone(), bucket });
    subscribers.chain(accounts)
}

fn shard(call_id: &str) -> i16 {
    bucket(call_id, SHARDS).into()
}

#[derive(Row)]
#[scylla(flavor = "enforce_order")]
struct WrittenCall<'a> {
    shard: i16,
    call_id: &'a str,
    leg_of: MaybeUnset<&'a str>,
    dc: &'a str,
    node: &'a str,
    account_id: &'a str,
    callee_account_id: &'a str,
    caller: &'a str,
    callee: &'a str,
    state: &'static str,
    started_at: CqlTimestamp,
    answered_at: MaybeUnset<CqlTimestamp>,
    updated_at: CqlTimestamp,
    interval: i32,
    written: i64,
    ttl: i32,
}

impl<'a> WrittenCall<'a> {
    fn of(presence: &Presence<'a>, parties: &'a Parties) -> Self {
        let record = presence.record;
        let account_of = |wanted: super::Direction| {
            let party = parties.subscribers.iter().find(|(_, direction, _)| *direction == wanted);
            party.map_or("", |(_, _, account)| account.as_str())
        };
        let named = record.account.as_str();
        let updated_at = Timestamp(presence.written / 1000);
        Self {
            shard: shard(presence.call_id),
            call_id: presence.call_id,
            leg_of: if record.is_of_further_leg() { MaybeUnset::Set(&record.leg_of) } else { MaybeUnset::Unset },
            dc: presence.dc,
            node: presence.node,
            account_id: if named.is_empty() { account_of(super::Direction::Outbound) } else { named },
            callee_account_id: account_of(super::Direction::Inbound),
            caller: &record.caller,
            callee: &record.callee,
            state: state(record),
            started_at: CqlTimestamp(record.started_at.unwrap_or(updated_at).0),
            answered_at: if_known(record.answered_at),
            updated_at: CqlTimestamp(updated_at.0),
            interval: presence.interval,
            written: presence.written,
            ttl: presence.interval.saturating_mul(LIVES),
        }
    }
}

#[derive(Row)]
#[scylla(flavor = "enforce_order")]
struct WrittenAnswer<'a> {
    shard: i16,
    call_id: &'a str,
    state: &'static str,
    answered_at: MaybeUnset<CqlTimestamp>,
    written: i64,
    ttl: i32,
}

impl<'a> WrittenAnswer<'a> {
    fn of(presence: &Presence<'a>) -> Self {
        Self {
            shard: shard(presence.call_id),
            call_id: presence.call_id,
            state: state(presence.record),
            answered_at: if_known(presence.record.answered_at),
            written: presence.written,
            ttl: presence.interval.saturating_mul(LIVES),
        }
    }
}

fn state(record: &CallRecord) -> &'static str {
    if record.answered_at.is_some() { "answered" } else { "early" }
}

#[derive(Row)]
#[scylla(flavor = "enforce_order")]
struct WrittenParty<'a> {
    kind: &'static str,
    key: String,
    bucket: i8,
    call_id: &'a str,
    node: &'a str,
    interval: i32,
    written: i64,
    ttl: i32,
}

impl<'a> WrittenParty<'a> {
    fn of(presence: &Presence<'a>, key: Key) -> Self {
        Self {
            kind: key.kind,
            key: key.key,
            bucket: key.bucket,
            call_id: presence.call_id,
            node: presence.node,
            interval: presence.interval,
            written: presence.written,
            ttl: presence.interval.saturating_mul(LIVES),
        }
    }
}

#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct CallRow {
    call_id: String,
    leg_of: Option<String>,
    dc: Option<String>,
    node: Option<String>,
    account_id: Option<String>,
    callee_account_id: Option<String>,
    caller: Option<String>,
    callee: Option<String>,
    started_at: Option<CqlTimestamp>,
    answered_at: Option<CqlTimestamp>,
    updated_at: Option<CqlTimestamp>,
    interval: Option<i32>,
    left: Option<i32>,
}

impl CallRow {
    fn call(self) -> ActiveCall {
        let time = |at: Option<CqlTimestamp>| at.map(|at| Timestamp(at.0));
        let interval = self.interval.unwrap_or_default();
        ActiveCall {
            call_id: self.call_id,
            leg_of: self.leg_of.unwrap_or_default(),
            node: self.node.unwrap_or_default(),
            dc: self.dc.unwrap_or_default(),
            caller: self.caller.unwrap_or_default(),
            callee: self.callee.unwrap_or_default(),
            account: self.account_id.unwrap_or_default(),
            callee_account: self.callee_account_id.unwrap_or_default(),
            started_at: time(self.started_at).unwrap_or(EPOCH),
            answered_at: time(self.answered_at),
            updated_at: time(self.updated_at).unwrap_or(EPOCH),
            age: age(interval, self.left),
            interval,
        }
    }
}

fn age(interval: i32, left: Option<i32>) -> i32 {
    interval.saturating_mul(LIVES) - left.unwrap_or_default()
}

impl Store {
    /// Says again that a call is under way.
    ///
    /// # Errors
    /// [`StoreError`]: whether it was written is not known then.
    pub async fn refresh_call(&self, presence: &Presence<'_>, parties: &Parties) -> Result<(), StoreError> {
        self.change_active(Change::Present(presence), parties).await
    }

    /// Takes a call that is over from those that are under way.
    ///
    /// # Errors
    /// As [`Self::refresh_call`].
    pub async fn remove_call(&self, call_id: &str, written: i64, parties: &Parties) -> Result<(), StoreError> {
        self.change_active(Change::Gone { call_id, written }, parties).await
    }

    async fn change_active(&self, change: Change<'_>, parties: &Parties) -> Result<(), StoreError> {
        let mut writes = Writes::new();
        self.0.calls.active.change(change, parties, &mut writes);
        self.write(writes).await
    }

    /// The calls of one of the [`SHARDS`], stale ones, too.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub async fn active_calls_in(&self, shard: u8) -> Result<Vec<ActiveCall>, StoreError> {
        self.read(&self.0.calls.active.read_calls, (i16::from(shard),), |result| rows(result, CallRow::call)).await
    }

    /// The call of this id, or the further leg of this Call-ID, if it is under way; stale ones, too.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub async fn active_call(&self, call_id: &str) -> Result<Option<ActiveCall>, StoreError> {
        let values = (shard(call_id), call_id);
        let found = self.read(&self.0.calls.active.read_call, values, |result| rows(result, CallRow::call)).await?;
        Ok(found.into_iter().next())
    }

    /// The calls of all shards, stale ones, too, in no order.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub async fn active_calls_in_any(&self) -> Result<Vec<ActiveCall>, StoreError> {
        let shards = try_join_all((0..SHARDS).map(|shard| self.active_calls_in(shard))).await?;
        Ok(shards.into_iter().flatten().collect())
    }

    /// The calls under way on all nodes, the oldest first. No stale ones.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub async fn active_calls(&self) -> Result<Vec<ActiveCall>, StoreError> {
        let mut calls = self.active_calls_in_any().await?;
        calls.retain(|call| !call.is_stale());
        calls.sort_by(|one, other| (one.started_at, &one.call_id).cmp(&(other.started_at, &other.call_id)));
        Ok(calls)
    }

    /// How many calls somebody has. Those that begin or end just now may be missing or be counted still.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub async fn count_calls(&self, whose: Whose<'_>) -> Result<usize, StoreError> {
        let (kind, key, buckets) = match whose {
            Whose::Subscriber(aor) => (SUBSCRIBER, aor.to_string(), 1),
            Whose::Account(account) => (ACCOUNT, account.to_owned(), ACCOUNT_BUCKETS),
        };
        let key = key.as_str();
        let counts = (0..buckets).map(|bucket| async move {
            let values = (kind, key, bucket.cast_signed());
            let present = |(interval, left): (Option<i32>, Option<i32>)| {
                let interval = interval.unwrap_or_default();
                !is_stale(age(interval, left), interval)
            };
            let found = self.read(&self.0.calls.active.read_party, values, |result| rows(result, present)).await?;
            Ok::<_, StoreError>(found.into_iter().filter(|present| *present).count())
        });
        Ok(try_join_all(counts).await?.into_iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_stale_when_nobody_spoke_of_it_for_an_interval() {
        for (left, stale) in [(180, false), (150, false), (121, false), (120, true), (0, true)] {
            assert_eq!(is_stale(age(60, Some(left)), 60), stale, "{left} s of 180 are left");
        }
    }

    #[test]
    fn shards_are_the_same_for_ever() {
        // The first byte of the MD5 of the call id; rows of other nodes and versions are where these say.
        assert_eq!([shard("a"), shard("abc"), shard("")], [0x0c, 0x90 % 64, 0xd4 % 64]);
    }
}
