//! Bindings: one row each, one partition per AoR, written in one batch.

use std::collections::BTreeMap;

use domain::{Aor, Binding, BindingKey, BindingState, Timestamp};
use scylla::response::query_result::QueryResult;
use scylla::statement::batch::{Batch, BatchType};
use scylla::value::CqlTimestamp;
use scylla::{DeserializeRow, SerializeRow};

use crate::error::malformed;
use crate::{Store, StoreError};

/// Seconds that a row outlives its binding: covers clock skew and late refreshes.
pub(crate) const GRACE: u32 = 60;

/// Version of the row's format.
const FORMAT: i8 = 1;

pub(crate) fn read_cql(keyspace: &str) -> String {
    format!(
        "SELECT binding, contact, received, path, q, expires_at, state, call_id, cseq, user_agent, methods, cflags, \
         instance, reg_id, ruid, socket, dc, edge, registrar, attrs, registered_at, bound_at, WRITETIME(expires_at) AS written_at \
         FROM {keyspace}.location WHERE domain = ? AND username = ?"
    )
}

pub(crate) fn write_cql(keyspace: &str) -> String {
    format!(
        "INSERT INTO {keyspace}.location (domain, username, binding, contact, received, path, q, expires_at, state, call_id, \
         cseq, user_agent, methods, cflags, instance, reg_id, ruid, socket, dc, edge, registrar, attrs, registered_at, bound_at, \
         fmt) \
         VALUES (:domain, :username, :binding, :contact, :received, :path, :q, :expires_at, :state, :call_id, \
         :cseq, :user_agent, :methods, :cflags, :instance, :reg_id, :ruid, :socket, :dc, :edge, :registrar, :attrs, \
         :registered_at, :bound_at, :fmt) \
         USING TTL :ttl AND TIMESTAMP :written"
    )
}

/// A row as it is written: every column every time, never null (a null is a tombstone), never unset (a refresh without Path
/// must not keep the old one).
#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order")]
struct Written<'a> {
    domain: &'a str,
    username: &'a str,
    binding: &'a str,
    contact: &'a str,
    received: &'a str,
    path: &'a str,
    q: i16,
    expires_at: CqlTimestamp,
    state: i8,
    call_id: &'a str,
    cseq: i64,
    user_agent: &'a str,
    methods: i32,
    cflags: i32,
    instance: &'a str,
    reg_id: i32,
    ruid: &'a str,
    socket: &'a str,
    dc: &'a str,
    edge: &'a str,
    registrar: &'a str,
    attrs: BTreeMap<&'a str, &'a str>,
    registered_at: CqlTimestamp,
    bound_at: CqlTimestamp,
    fmt: i8,
    ttl: i32,
    written: i64,
}

#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order")]
struct Row {
    binding: String,
    contact: Option<String>,
    received: Option<String>,
    path: Option<String>,
    q: Option<i16>,
    expires_at: Option<CqlTimestamp>,
    state: Option<i8>,
    call_id: Option<String>,
    cseq: Option<i64>,
    user_agent: Option<String>,
    methods: Option<i32>,
    cflags: Option<i32>,
    instance: Option<String>,
    reg_id: Option<i32>,
    ruid: Option<String>,
    socket: Option<String>,
    dc: Option<String>,
    edge: Option<String>,
    registrar: Option<String>,
    attrs: Option<BTreeMap<String, String>>,
    registered_at: Option<CqlTimestamp>,
    bound_at: Option<CqlTimestamp>,
    written_at: Option<i64>,
}

impl Row {
    fn binding(self) -> Binding {
        Binding {
            key: BindingKey(self.binding),
            contact: self.contact.unwrap_or_default(),
            received: self.received.unwrap_or_default(),
            path: self.path.unwrap_or_default(),
            q: self.q.unwrap_or(-1),
            expires_at: Timestamp(self.expires_at.map_or(0, |at| at.0)),
            state: if self.state == Some(1) { BindingState::Live } else { BindingState::Removed },
            call_id: self.call_id.unwrap_or_default(),
            cseq: self.cseq.and_then(|cseq| u32::try_from(cseq).ok()).unwrap_or_default(),
            user_agent: self.user_agent.unwrap_or_default(),
            methods: self.methods.unwrap_or_default().cast_unsigned(),
            cflags: self.cflags.unwrap_or_default().cast_unsigned(),
            instance: self.instance.unwrap_or_default(),
            reg_id: self.reg_id.and_then(|id| u32::try_from(id).ok()).unwrap_or_default(),
            ruid: self.ruid.unwrap_or_default(),
            socket: self.socket.unwrap_or_default(),
            dc: self.dc.unwrap_or_default(),
            edge: self.edge.unwrap_or_default(),
            registrar: self.registrar.unwrap_or_default(),
            attributes: self.attrs.unwrap_or_default().into_iter().collect(),
            registered_at: Timestamp(self.registered_at.map_or(0, |at| at.0)),
            bound_at: Timestamp(self.bound_at.map_or(0, |at| at.0)),
            written_at: self.written_at.unwrap_or_default(),
        }
    }
}

fn rows(result: QueryResult) -> Result<Vec<Binding>, StoreError> {
    let result = result.into_rows_result().map_err(malformed)?;
    let mut bindings = Vec::with_capacity(result.rows_num());
    for row in result.rows::<Row>().map_err(malformed)? {
        bindings.push(row.map_err(malformed)?.binding());
    }
    Ok(bindings)
}

impl Store {
    /// All rows of this AoR: live bindings, lapsed ones and soft deletes.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known then.
    pub async fn bindings(&self, aor: &Aor) -> Result<Vec<Binding>, StoreError> {
        self.read(&self.0.read_bindings, (aor.domain(), aor.username()), rows).await
    }

    /// Writes rows of one AoR, all or none, with a lifetime of their expiry and [`GRACE`]. `now` is the time that the
    /// expiries were reckoned from.
    ///
    /// # Errors
    /// [`StoreError`]: whether it was written is not known then; writing it again is harmless.
    pub async fn write_bindings(&self, aor: &Aor, writes: &[Binding], now: Timestamp) -> Result<(), StoreError> {
        #[cfg(feature = "next-schema")]
        self.write_next(aor, writes).await?;
        let superseded = writes.iter().map(|write| write.written_at).max().unwrap_or_default();
        let written = self.0.timestamps.next(superseded);
        let rows: Vec<Written<'_>> = writes.iter().map(|write| row(aor, write, now, written)).collect();
        if let [one] = rows.as_slice() {
            self.0.session.execute_unpaged(&self.0.write_binding, one).await?;
            return Ok(());
        }
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        for _ in &rows {
            batch.append_statement(self.0.write_binding.clone());
        }
        Box::pin(self.0.session.batch(&batch, rows)).await?;
        Ok(())
    }
}

fn row<'a>(aor: &'a Aor, write: &'a Binding, now: Timestamp, written: i64) -> Written<'a> {
    Written {
        domain: aor.domain(),
        username: aor.username(),
        binding: &write.key.0,
        contact: &write.contact,
        received: &write.received,
        path: &write.path,
        q: write.q,
        expires_at: CqlTimestamp(write.expires_at.0),
        state: i8::from(write.state == BindingState::Live),
        call_id: &write.call_id,
        cseq: write.cseq.into(),
        user_agent: &write.user_agent,
        methods: write.methods.cast_signed(),
        cflags: write.cflags.cast_signed(),
        instance: &write.instance,
        reg_id: i32::try_from(write.reg_id).unwrap_or_default(),
        ruid: &write.ruid,
        socket: &write.socket,
        dc: &write.dc,
        edge: &write.edge,
        registrar: &write.registrar,
        attrs: write.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        registered_at: CqlTimestamp(write.registered_at.0),
        bound_at: CqlTimestamp(write.bound_at.0),
        fmt: FORMAT,
        ttl: i32::try_from(write.expires_at.seconds_after(now).saturating_add(GRACE)).unwrap_or(i32::MAX),
        written,
    }
}
