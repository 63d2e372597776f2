//! Calls: what happened to each, and lists of them by subscriber and by account.
//!
//! Every write here is idempotent: an event's row is named by the event itself, and a row of a list is written with the time of
//! the event that it comes from, so that what is written late or again never undoes what happened later.

pub mod active;

use std::collections::{BTreeMap, BTreeSet};

use domain::call::{Disposition, EventId};
use domain::{Aor, CallEvent, CallRecord, Timestamp};
use futures::future::try_join_all;
use md5::{Digest, Md5};
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlDate, CqlTimestamp, CqlTimeuuid, MaybeUnset};
use scylla::{DeserializeRow, SerializeRow as Row};

use crate::error::malformed;
use crate::session::Preparer;
use crate::{ConnectError, Store, StoreError};

/// Parts of an account's day, so that a busy account is on several nodes.
const BUCKETS: u8 = 8;

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// The day of the Unix epoch, as a CQL `date` counts.
const EPOCH_DAY: u32 = 1 << 31;

fn write_event_cql(keyspace: &str) -> String {
    format!(
        "INSERT INTO {keyspace}.call_event (call_id, event_id, dc, node, event, from_uri, to_uri, r_uri, code, reason, src, dst, \
         leg, from_tag, to_tag, method, caller, callee, account_id, ended_by, user_agent, extra) \
         VALUES (:call_id, :event_id, :dc, :node, :event, :from_uri, :to_uri, :r_uri, :code, :reason, :src, :dst, :leg, :from_tag, \
         :to_tag, :method, :caller, :callee, :account_id, :ended_by, :user_agent, :extra)"
    )
}

fn read_events_cql(keyspace: &str) -> String {
    format!(
        "SELECT event_id, dc, node, event, from_uri, to_uri, r_uri, code, reason, src, dst, leg, from_tag, to_tag, method, \
         caller, callee, account_id, ended_by, user_agent, extra FROM {keyspace}.call_event WHERE call_id = ?"
    )
}

fn write_by_subscriber_cql(keyspace: &str) -> String {
    format!(
        "INSERT INTO {keyspace}.call_by_subscriber (domain, username, month, started_at, call_id, direction, peer, code, \
         duration_ms, node, account_id, ringing_at, answered_at, ended_at, disposition, reason, ended_by, dc) \
         VALUES (:domain, :username, :month, :started_at, :call_id, :direction, :peer, :code, :duration_ms, :node, :account_id, \
         :ringing_at, :answered_at, :ended_at, :disposition, :reason, :ended_by, :dc) USING TIMESTAMP :written"
    )
}

fn read_by_subscriber_cql(keyspace: &str) -> String {
    format!(
        "SELECT started_at, call_id, direction, peer, code, duration_ms, node, account_id, ringing_at, answered_at, ended_at, \
         disposition, reason, ended_by, dc FROM {keyspace}.call_by_subscriber \
         WHERE domain = ? AND username = ? AND month = ? AND started_at >= ?"
    )
}

fn write_by_account_cql(keyspace: &str) -> String {
    format!(
        "INSERT INTO {keyspace}.call_by_account (account_id, day, bucket, started_at, call_id, caller, callee, code, duration_ms, \
         node, ringing_at, answered_at, ended_at, disposition, reason, ended_by, dc) \
         VALUES (:account_id, :day, :bucket, :started_at, :call_id, :caller, :callee, :code, :duration_ms, :node, :ringing_at, \
         :answered_at, :ended_at, :disposition, :reason, :ended_by, :dc) USING TIMESTAMP :written"
    )
}

#[derive(Row)]
#[scylla(flavor = "enforce_order")]
struct WrittenEvent<'a> {
    call_id: &'a str,
    event_id: CqlTimeuuid,
    dc: &'a str,
    node: &'a str,
    event: &'a str,
    from_uri: &'a str,
    to_uri: &'a str,
    r_uri: &'a str,
    code: i32,
    reason: &'a str,
    src: &'a str,
    dst: &'a str,
    leg: &'a str,
    from_tag: &'a str,
    to_tag: &'a str,
    method: &'a str,
    caller: &'a str,
    callee: &'a str,
    account_id: &'a str,
    ended_by: &'a str,
    user_agent: &'a str,
    extra: BTreeMap<&'a str, &'a str>,
}

#[derive(Row)]
#[scylla(flavor = "enforce_order")]
struct WrittenForSubscriber<'a> {
    domain: &'a str,
    username: &'a str,
    month: i32,
    started_at: CqlTimestamp,
    call_id: &'a str,
    direction: &'a str,
    peer: &'a str,
    code: i32,
    duration_ms: i64,
    node: &'a str,
    account_id: &'a str,
    ringing_at: MaybeUnset<CqlTimestamp>,
    answered_at: MaybeUnset<CqlTimestamp>,
    ended_at: MaybeUnset<CqlTimestamp>,
    disposition: &'a str,
    reason: &'a str,
    ended_by: &'a str,
    dc: &'a str,
    written: i64,
}

#[derive(Row)]
#[scylla(flavor = "enforce_order")]
struct WrittenForAccount<'a> {
    account_id: &'a str,
    day: CqlDate,
    bucket: i8,
    started_at: CqlTimestamp,
    call_id: &'a str,
    caller: &'a str,
    callee: &'a str,
    code: i32,
    duration_ms: i64,
    node: &'a str,
    ringing_at: MaybeUnset<CqlTimestamp>,
    answered_at: MaybeUnset<CqlTimestamp>,
    ended_at: MaybeUnset<CqlTimestamp>,
    disposition: &'a str,
    reason: &'a str,
    ended_by: &'a str,
    dc: &'a str,
    written: i64,
}

#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order")]
struct EventRow {
    event_id: CqlTimeuuid,
    dc: Option<String>,
    node: Option<String>,
    event: Option<String>,
    from_uri: Option<String>,
    to_uri: Option<String>,
    r_uri: Option<String>,
    code: Option<i32>,
    reason: Option<String>,
    src: Option<String>,
    dst: Option<String>,
    leg: Option<String>,
    from_tag: Option<String>,
    to_tag: Option<String>,
    method: Option<String>,
    caller: Option<String>,
    callee: Option<String>,
    account_id: Option<String>,
    ended_by: Option<String>,
    user_agent: Option<String>,
    extra: Option<BTreeMap<String, String>>,
}

impl EventRow {
    fn event(self, call_id: &str) -> CallEvent {
        CallEvent {
            id: EventId::from_bytes(*self.event_id.as_bytes()),
            call_id: call_id.to_owned(),
            event: self.event.unwrap_or_default(),
            leg: self.leg.unwrap_or_default(),
            from_tag: self.from_tag.unwrap_or_default(),
            to_tag: self.to_tag.unwrap_or_default(),
            method: self.method.unwrap_or_default(),
            from_uri: self.from_uri.unwrap_or_default(),
            to_uri: self.to_uri.unwrap_or_default(),
            r_uri: self.r_uri.unwrap_or_default(),
            caller: self.caller.unwrap_or_default(),
            callee: self.callee.unwrap_or_default(),
            account: self.account_id.unwrap_or_default(),
            code: self.code.and_then(|code| u16::try_from(code).ok()).unwrap_or_default(),
            reason: self.reason.unwrap_or_default(),
            ended_by: self.ended_by.unwrap_or_default(),
            source: self.src.unwrap_or_default(),
            destination: self.dst.unwrap_or_default(),
            user_agent: self.user_agent.unwrap_or_default(),
            node: self.node.unwrap_or_default(),
            dc: self.dc.unwrap_or_default(),
            extra: self.extra.unwrap_or_default().into_iter().collect(),
        }
    }
}

/// A row of the list of calls of one party.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Which call.
    pub call_id: String,
    /// What the party was in it.
    pub direction: Direction,
    /// The other side, as `user@domain` or whatever is known of it.
    pub peer: String,
    /// The party's account; `""` for none.
    pub account: String,
    /// The node that recorded it.
    pub node: String,
    /// That node's data centre.
    pub dc: String,
    /// The call.
    pub record: CallRecord,
    /// How long it was talked, in milliseconds.
    pub duration_ms: i64,
}

/// What a party is in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It calls.
    Outbound,
    /// It is called.
    Inbound,
}

impl Direction {
    /// As it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order")]
struct ListedRow {
    started_at: CqlTimestamp,
    call_id: String,
    direction: Option<String>,
    peer: Option<String>,
    code: Option<i32>,
    duration_ms: Option<i64>,
    node: Option<String>,
    account_id: Option<String>,
    ringing_at: Option<CqlTimestamp>,
    answered_at: Option<CqlTimestamp>,
    ended_at: Option<CqlTimestamp>,
    disposition: Option<String>,
    reason: Option<String>,
    ended_by: Option<String>,
    dc: Option<String>,
}

impl ListedRow {
    fn listed(self, aor: &Aor) -> Listed {
        let time = |at: Option<CqlTimestamp>| at.map(|at| Timestamp(at.0));
        let peer = self.peer.unwrap_or_default();
        let outbound = self.direction.as_deref() != Some(Direction::Inbound.name());
        let (caller, callee) = if outbound { (aor.to_string(), peer.clone()) } else { (peer.clone(), aor.to_string()) };
        let account = self.account_id.unwrap_or_default();
        Listed {
            call_id: self.call_id,
            direction: if outbound { Direction::Outbound } else { Direction::Inbound },
            peer,
            node: self.node.unwrap_or_default(),
            dc: self.dc.unwrap_or_default(),
            duration_ms: self.duration_ms.unwrap_or_default(),
            record: CallRecord {
                started_at: Some(Timestamp(self.started_at.0)),
                ringing_at: time(self.ringing_at),
                answered_at: time(self.answered_at),
                ended_at: time(self.ended_at),
                disposition: Disposition::named(&self.disposition.unwrap_or_default()),
                code: self.code.and_then(|code| u16::try_from(code).ok()).unwrap_or_default(),
                reason: self.reason.unwrap_or_default(),
                ended_by: self.ended_by.unwrap_or_default(),
                caller,
                callee,
                account: account.clone(),
                ..CallRecord::default()
            },
            account,
        }
    }
}

/// A call, or a further leg of one, as it stands after one of its events, for the lists.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Which call.
    pub call_id: &'a str,
    /// When it started, which is part of its place in the lists.
    pub started_at: Timestamp,
    /// What is known of it.
    pub record: &'a CallRecord,
    /// The event it stands after: what it says is as of then.
    pub as_of: EventId,
    /// The node that records it.
    pub node: &'a str,
    /// That node's data centre.
    pub dc: &'a str,
}

impl Entry<'_> {
    /// What is not known yet is left out: a null would be a tombstone.
    fn times(&self) -> [MaybeUnset<CqlTimestamp>; 3] {
        [self.record.ringing_at, self.record.answered_at, self.record.ended_at].map(if_known)
    }
}

/// Everything that one event changes.
#[derive(Debug, Clone, Copy)]
pub struct Recording<'a> {
    /// The event.
    pub event: &'a CallEvent,
    /// The call as it stands with it, when that is to be seen in the lists.
    pub entry: Option<Entry<'a>>,
    /// What becomes of it among the calls that are under way.
    pub active: Option<active::Change<'a>>,
    /// Who is in the call.
    pub parties: &'a Parties,
}

/// Who is in a call and known to this system.
#[derive(Debug, Clone, Default)]
pub struct Parties {
    /// Subscribers: who, what they are in it, their account (`""` for none).
    pub subscribers: Vec<(Aor, Direction, String)>,
    /// Accounts, each once.
    pub accounts: BTreeSet<String>,
}

/// The statements about calls.
#[derive(Debug)]
pub(crate) struct Statements {
    write_event: PreparedStatement,
    read_events: PreparedStatement,
    write_by_subscriber: PreparedStatement,
    read_by_subscriber: PreparedStatement,
    write_by_account: PreparedStatement,
    active: active::Statements,
}

impl Statements {
    /// Prepares them all.
    pub(crate) async fn prepare(keyspace: &str, preparer: &Preparer<'_>) -> Result<Self, ConnectError> {
        Ok(Self {
            write_event: preparer.prepare(write_event_cql(keyspace)).await?,
            read_events: preparer.prepare(read_events_cql(keyspace)).await?,
            write_by_subscriber: preparer.prepare(write_by_subscriber_cql(keyspace)).await?,
            read_by_subscriber: preparer.prepare(read_by_subscriber_cql(keyspace)).await?,
            write_by_account: preparer.prepare(write_by_account_cql(keyspace)).await?,
            active: active::Statements::prepare(keyspace, preparer).await?,
        })
    }
}

/// Writes that go to Cassandra as one request. They need not succeed or fail together: each is idempotent.
struct Writes<'a> {
    batch: Batch,
    rows: Vec<Box<dyn SerializeRow + Send + Sync + 'a>>,
    /// About as long.
    bytes: usize,
}

/// Partitions of one request, and its bytes, above which Cassandra warns by default; the latter with some room.
const MOST_PARTITIONS: usize = 10;
const MOST_BYTES: usize = 4096;

/// Bytes of a row besides its longest texts, about.
const ROW: usize = 150;

impl<'a> Writes<'a> {
    fn new() -> Self {
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        Self { batch, rows: Vec::new(), bytes: 0 }
    }

    fn add(&mut self, statement: &PreparedStatement, row: impl SerializeRow + Send + Sync + 'a) {
        self.batch.append_statement(statement.clone());
        self.rows.push(Box::new(row));
    }

    /// Whether there is room for these, too. Each row is in a partition of its own.
    fn takes(&self, more: &Self) -> bool {
        self.rows.is_empty()
            || self.rows.len() + more.rows.len() <= MOST_PARTITIONS && self.bytes + more.bytes <= MOST_BYTES
    }

    fn append(&mut self, more: &mut Self) {
        self.batch.statements.append(&mut more.batch.statements);
        self.rows.append(&mut more.rows);
        self.bytes += more.bytes;
    }
}

fn rows<R, T>(result: QueryResult, read: impl Fn(R) -> T) -> Result<Vec<T>, StoreError>
where
    R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm>,
{
    let result = result.into_rows_result().map_err(malformed)?;
    result.rows::<R>().map_err(malformed)?.map(|row| row.map(&read).map_err(malformed)).collect()
}

impl<'a> WrittenEvent<'a> {
    fn of(event: &'a CallEvent) -> Self {
        Self {
            call_id: &event.call_id,
            event_id: CqlTimeuuid::from_bytes(event.id.bytes()),
            dc: &event.dc,
            node: &event.node,
            event: &event.event,
            from_uri: &event.from_uri,
            to_uri: &event.to_uri,
            r_uri: &event.r_uri,
            code: event.code.into(),
            reason: &event.reason,
            src: &event.source,
            dst: &event.destination,
            leg: &event.leg,
            from_tag: &event.from_tag,
            to_tag: &event.to_tag,
            method: &event.method,
            caller: &event.caller,
            callee: &event.callee,
            account_id: &event.account,
            ended_by: &event.ended_by,
            user_agent: &event.user_agent,
            extra: event.extra.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        }
    }
}

impl<'a> WrittenForSubscriber<'a> {
    fn of(entry: Entry<'a>, party: &'a Aor, direction: Direction, account: &'a str) -> Self {
        let record = entry.record;
        let peer = match direction {
            Direction::Outbound => &record.callee,
            Direction::Inbound => &record.caller,
        };
        let [ringing_at, answered_at, ended_at] = entry.times();
        Self {
            domain: party.domain(),
            username: party.username(),
            month: entry.started_at.month(),
            started_at: CqlTimestamp(entry.started_at.0),
            call_id: entry.call_id,
            direction: direction.name(),
            peer,
            code: record.code.into(),
            duration_ms: record.duration_ms(),
            node: entry.node,
            account_id: account,
            ringing_at,
            answered_at,
            ended_at,
            disposition: record.disposition.name(),
            reason: &record.reason,
            ended_by: record.who_ended(),
            dc: entry.dc,
            written: entry.as_of.micros(),
        }
    }
}

impl<'a> WrittenForAccount<'a> {
    fn of(entry: Entry<'a>, account: &'a str) -> Self {
        let record = entry.record;
        let [ringing_at, answered_at, ended_at] = entry.times();
        Self {
            account_id: account,
            day: day(entry.started_at),
            bucket: bucket(entry.call_id, BUCKETS),
            started_at: CqlTimestamp(entry.started_at.0),
            call_id: entry.call_id,
            caller: &record.caller,
            callee: &record.callee,
            code: record.code.into(),
            duration_ms: record.duration_ms(),
            node: entry.node,
            ringing_at,
            answered_at,
            ended_at,
            disposition: record.disposition.name(),
            reason: &record.reason,
            ended_by: record.who_ended(),
            dc: entry.dc,
            written: entry.as_of.micros(),
        }
    }
}

impl Store {
    /// Writes events and what they change, in requests of at most ten partitions and four kilobytes: above that Cassandra
    /// warns of batches. Written again it is the same rows.
    ///
    /// # Errors
    /// [`StoreError`]: what of it was written is not known then; writing it again is harmless.
    pub async fn record_calls<'a>(&self, recordings: impl Iterator<Item = Recording<'a>>) -> Result<(), StoreError> {
        let mut requests = vec![Writes::new()];
        for recording in recordings {
            let mut writes = self.writes_of(recording);
            match requests.last_mut() {
                Some(last) if last.takes(&writes) => last.append(&mut writes),
                _ => requests.push(writes),
            }
        }
        try_join_all(requests.into_iter().map(|writes| self.write(writes))).await.map(drop)
    }

    fn writes_of<'a>(&self, recording: Recording<'a>) -> Writes<'a> {
        let (statements, parties) = (&self.0.calls, recording.parties);
        let mut writes = Writes::new();
        writes.add(&statements.write_event, WrittenEvent::of(recording.event));
        writes.bytes = recording.event.texts() + ROW;
        if let Some(entry) = recording.entry {
            for (party, direction, account) in &parties.subscribers {
                let row = WrittenForSubscriber::of(entry, party, *direction, account);
                writes.add(&statements.write_by_subscriber, row);
            }
            for account in &parties.accounts {
                writes.add(&statements.write_by_account, WrittenForAccount::of(entry, account));
            }
        }
        if let Some(change) = recording.active {
            statements.active.change(change, parties, &mut writes);
        }
        writes.bytes += writes.rows.len().saturating_sub(1) * (ROW + recording.event.call_id.len());
        writes
    }

    async fn write(&self, writes: Writes<'_>) -> Result<(), StoreError> {
        if writes.rows.is_empty() {
            return Ok(());
        }
        Box::pin(self.0.session.batch(&writes.batch, writes.rows)).await?;
        Ok(())
    }

    /// All events of a call, in the order in which they happened.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub async fn call_events(&self, call_id: &str) -> Result<Vec<CallEvent>, StoreError> {
        let event = |row: EventRow| row.event(call_id);
        self.read(&self.0.calls.read_events, (call_id,), |result| rows(result, event)).await
    }

    /// The calls of a subscriber in one month (`YYYYMM`) from `since` on, the latest first.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub async fn calls_of(&self, aor: &Aor, month: i32, since: Timestamp) -> Result<Vec<Listed>, StoreError> {
        let values = (aor.domain(), aor.username(), month, CqlTimestamp(since.0));
        self.read(&self.0.calls.read_by_subscriber, values, |result| rows(result, |row: ListedRow| row.listed(aor)))
            .await
    }
}

fn day(at: Timestamp) -> CqlDate {
    let days = i32::try_from(at.0.div_euclid(DAY)).unwrap_or_default();
    CqlDate(EPOCH_DAY.wrapping_add_signed(days))
}

/// The same on every node and in every version.
fn bucket(call_id: &str, buckets: u8) -> i8 {
    (Md5::digest(call_id)[0] % buckets).cast_signed()
}

/// What is not known is left out.
fn if_known(at: Option<Timestamp>) -> MaybeUnset<CqlTimestamp> {
    match at {
        Some(at) => MaybeUnset::Set(CqlTimestamp(at.0)),
        None => MaybeUnset::Unset,
    }
}
