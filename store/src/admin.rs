//! Provisioning, for operators' tools: never used while a SIP request waits.
//!
//! The table `subscriber` is the truth. It changes by lightweight transactions alone, so that no write makes half a subscriber
//! of one that was removed meanwhile, or undoes what another operator just did. They are LOCAL_SERIAL: provision in one data
//! centre.
//!
//! `subscriber_by_account` is its index. No transaction spans two partitions, so the order of the writes keeps the tables in
//! step: an entry is there before its subscriber and goes after it. An interruption leaves at worst an entry too many, which
//! readers skip, never one too few.

mod alias;

use std::collections::BTreeMap;

use domain::Aor;
use domain::digest::{Algorithm, Form, Ha1, Ha1s};
use futures::{StreamExt, TryStreamExt, stream};
use scylla::SerializeRow;
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlTimestamp, CqlValue, Row as AnyRow};
use tokio::sync::OnceCell;

use crate::error::malformed;
use crate::subscriber::{COLUMNS, Row};
use crate::{ConnectError, Store, StoreConfig, StoreError, Subscriber};

/// How often a change starts again because somebody else changed the same subscriber in between.
const ATTEMPTS: usize = 10;

/// Subscribers that are read at once.
const READS_IN_FLIGHT: usize = 32;

/// "The row is still as it was read": what a change is based on, and that there is a row.
const AS_READ: &str = "IF account_id = :was_account_id AND enabled = :was_enabled AND ha1 = :was_ha1 \
                       AND ha1_sha256 = :was_ha1_sha256 AND ha1_sha512_256 = :was_ha1_sha512_256 AND ha1b = :was_ha1b \
                       AND ha1b_sha256 = :was_ha1b_sha256 AND ha1b_sha512_256 = :was_ha1b_sha512_256 \
                       AND max_contacts = :was_max_contacts AND max_calls = :was_max_calls AND attrs = :was_attrs \
                       AND updated_at = :was_updated_at";

/// A session for provisioning.
#[derive(Debug)]
pub struct Admin {
    store: Store,
    keyspace: String,
    insert: OnceCell<PreparedStatement>,
    insert_alias: OnceCell<PreparedStatement>,
}

/// What a subscriber has besides name, password and state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// Account it belongs to; `""` for none.
    pub account_id: String,
    /// Bindings it may have; 0 for the module's limit.
    pub max_contacts: i32,
    /// Calls it may have at once; 0 for no limit.
    pub max_calls: i32,
    /// Attributes for the routing script.
    pub attrs: BTreeMap<String, String>,
}

impl Profile {
    fn of(row: &Row) -> Self {
        Self {
            account_id: row.account_id.clone().unwrap_or_default(),
            max_contacts: row.max_contacts.unwrap_or_default(),
            max_calls: row.max_calls.unwrap_or_default(),
            attrs: row.attrs.clone().unwrap_or_default(),
        }
    }
}

/// The values of [`AS_READ`], and the key.
#[derive(SerializeRow)]
struct AsRead<'a> {
    domain: &'a str,
    username: &'a str,
    was_account_id: Option<&'a str>,
    was_enabled: Option<bool>,
    was_ha1: Option<&'a str>,
    was_ha1_sha256: Option<&'a str>,
    was_ha1_sha512_256: Option<&'a str>,
    was_ha1b: Option<&'a str>,
    was_ha1b_sha256: Option<&'a str>,
    was_ha1b_sha512_256: Option<&'a str>,
    was_max_contacts: Option<i32>,
    was_max_calls: Option<i32>,
    was_attrs: Option<&'a BTreeMap<String, String>>,
    was_updated_at: Option<CqlTimestamp>,
}

impl<'a> From<&'a Row> for AsRead<'a> {
    fn from(row: &'a Row) -> Self {
        Self {
            domain: &row.domain,
            username: &row.username,
            was_account_id: row.account_id.as_deref(),
            was_enabled: row.enabled,
            was_ha1: row.ha1.as_deref(),
            was_ha1_sha256: row.ha1_sha256.as_deref(),
            was_ha1_sha512_256: row.ha1_sha512_256.as_deref(),
            was_ha1b: row.ha1b.as_deref(),
            was_ha1b_sha256: row.ha1b_sha256.as_deref(),
            was_ha1b_sha512_256: row.ha1b_sha512_256.as_deref(),
            was_max_contacts: row.max_contacts,
            was_max_calls: row.max_calls,
            was_attrs: row.attrs.as_ref(),
            was_updated_at: row.updated_at,
        }
    }
}

/// The HA1s of a password as they are stored.
#[derive(SerializeRow)]
struct Stored<'a> {
    ha1: Option<&'a str>,
    ha1_sha256: Option<&'a str>,
    ha1_sha512_256: Option<&'a str>,
    ha1b: Option<&'a str>,
    ha1b_sha256: Option<&'a str>,
    ha1b_sha512_256: Option<&'a str>,
}

impl<'a> From<&'a Ha1s> for Stored<'a> {
    fn from(ha1s: &'a Ha1s) -> Self {
        let hex = |algorithm, form| ha1s.get(algorithm, form).map(Ha1::as_hex);
        Self {
            ha1: hex(Algorithm::Md5, Form::User),
            ha1_sha256: hex(Algorithm::Sha256, Form::User),
            ha1_sha512_256: hex(Algorithm::Sha512_256, Form::User),
            ha1b: hex(Algorithm::Md5, Form::UserAtDomain),
            ha1b_sha256: hex(Algorithm::Sha256, Form::UserAtDomain),
            ha1b_sha512_256: hex(Algorithm::Sha512_256, Form::UserAtDomain),
        }
    }
}

/// A new subscriber.
#[derive(SerializeRow)]
struct New<'a> {
    domain: &'a str,
    username: &'a str,
    account_id: &'a str,
    max_contacts: i32,
    max_calls: i32,
    attrs: &'a BTreeMap<String, String>,
    #[scylla(flatten)]
    password: Stored<'a>,
}

/// Another password.
#[derive(SerializeRow)]
struct NewPassword<'a> {
    domain: &'a str,
    username: &'a str,
    #[scylla(flatten)]
    password: Stored<'a>,
}

/// A profile in place of the one that was read.
#[derive(SerializeRow)]
struct Change<'a> {
    account_id: &'a str,
    max_contacts: i32,
    max_calls: i32,
    attrs: &'a BTreeMap<String, String>,
    #[scylla(flatten)]
    read: AsRead<'a>,
}

impl Admin {
    /// Connects; the schema must be there.
    ///
    /// # Errors
    /// [`ConnectError`], one sentence for the operator.
    pub async fn connect(config: &StoreConfig) -> Result<Self, ConnectError> {
        Ok(Self {
            store: Store::connect(config).await?,
            keyspace: config.keyspace.clone(),
            insert: OnceCell::new(),
            insert_alias: OnceCell::new(),
        })
    }

    /// Reads as the module does.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Creates a subscriber; only HA1s of the password are stored, with the domain as realm. Returns whether it is new.
    ///
    /// # Errors
    /// [`StoreError`]: whether it was created is not known then.
    pub async fn add_subscriber(&self, aor: &Aor, password: &str, profile: &Profile) -> Result<bool, StoreError> {
        if !profile.account_id.is_empty() {
            // An index entry for a subscriber that has another account would stay: look before.
            if self.store.subscriber_row(aor).await?.is_some() {
                return Ok(false);
            }
            self.add_entry(&profile.account_id, aor, self.now()).await?;
        }
        let Profile { account_id, max_contacts, max_calls, attrs } = profile;
        let ha1s = Ha1s::of_password(aor, password);
        let values = New {
            domain: aor.domain(),
            username: aor.username(),
            account_id,
            max_contacts: *max_contacts,
            max_calls: *max_calls,
            attrs,
            password: Stored::from(&ha1s),
        };
        applied(self.session().execute_unpaged(self.insert().await?, values).await?)
    }

    /// The statement that an import runs thousands of times.
    async fn insert(&self) -> Result<&PreparedStatement, StoreError> {
        let query = format!(
            "INSERT INTO {}.subscriber (domain, username, enabled, account_id, max_contacts, max_calls, attrs, ha1, ha1_sha256, \
             ha1_sha512_256, ha1b, ha1b_sha256, ha1b_sha512_256, updated_at) VALUES (:domain, :username, true, :account_id, \
             :max_contacts, :max_calls, :attrs, :ha1, :ha1_sha256, :ha1_sha512_256, :ha1b, :ha1b_sha256, :ha1b_sha512_256, \
             toTimestamp(now())) IF NOT EXISTS",
            self.keyspace
        );
        let prepare = || async { self.session().prepare(query).await.map_err(failed) };
        self.insert.get_or_try_init(prepare).await
    }

    /// Gives a subscriber another password. Returns whether it exists.
    ///
    /// # Errors
    /// [`StoreError`]; it can be tried again.
    pub async fn set_password(&self, aor: &Aor, password: &str) -> Result<bool, StoreError> {
        let ha1s = Ha1s::of_password(aor, password);
        let password = Stored::from(&ha1s);
        let columns = "ha1 = :ha1, ha1_sha256 = :ha1_sha256, ha1_sha512_256 = :ha1_sha512_256, ha1b = :ha1b, \
                       ha1b_sha256 = :ha1b_sha256, ha1b_sha512_256 = :ha1b_sha512_256";
        self.update_existing(columns, NewPassword { domain: aor.domain(), username: aor.username(), password }).await
    }

    /// Allows or forbids authentication. Returns whether the subscriber exists.
    ///
    /// # Errors
    /// [`StoreError`]; it can be tried again.
    pub async fn set_enabled(&self, aor: &Aor, enabled: bool) -> Result<bool, StoreError> {
        #[derive(SerializeRow)]
        struct State<'a> {
            domain: &'a str,
            username: &'a str,
            enabled: bool,
        }
        let values = State { domain: aor.domain(), username: aor.username(), enabled };
        self.update_existing("enabled = :enabled", values).await
    }

    async fn update_existing(&self, columns: &str, values: impl SerializeRow) -> Result<bool, StoreError> {
        let query = format!(
            "UPDATE {}.subscriber SET {columns}, updated_at = toTimestamp(now()) \
             WHERE domain = :domain AND username = :username IF EXISTS",
            self.keyspace
        );
        applied(self.session().query_unpaged(query, values).await?)
    }

    /// Changes what a subscriber has. Returns whether it exists. `change` is called again when somebody else changed the same
    /// subscriber meanwhile.
    ///
    /// # Errors
    /// [`StoreError`]; it can be tried again.
    pub async fn change_profile(&self, aor: &Aor, change: impl Fn(&mut Profile)) -> Result<bool, StoreError> {
        for _ in 0..ATTEMPTS {
            let Some(row) = self.store.subscriber_row(aor).await? else { return Ok(false) };
            let mut profile = Profile::of(&row);
            change(&mut profile);
            if self.replace_profile(aor, &row, &profile).await? {
                return Ok(true);
            }
        }
        Err(contended(aor))
    }

    /// Returns whether the row was still as it was read.
    async fn replace_profile(&self, aor: &Aor, row: &Row, profile: &Profile) -> Result<bool, StoreError> {
        let old_account = row.account_id.as_deref().unwrap_or_default();
        let moves = old_account != profile.account_id;
        // One time for both entries, from before the change: whoever changes the account next writes later ones.
        let written = self.now();
        if moves {
            self.add_entry(&profile.account_id, aor, written).await?;
        }
        let query = format!(
            "UPDATE {}.subscriber SET account_id = :account_id, max_contacts = :max_contacts, max_calls = :max_calls, \
             attrs = :attrs, updated_at = toTimestamp(now()) WHERE domain = :domain AND username = :username {AS_READ}",
            self.keyspace
        );
        let Profile { account_id, max_contacts, max_calls, attrs } = profile;
        let values =
            Change { account_id, max_contacts: *max_contacts, max_calls: *max_calls, attrs, read: AsRead::from(row) };
        let replaced = applied(self.session().query_unpaged(query, values).await?)?;
        if replaced && moves {
            self.remove_entry(old_account, aor, written).await?;
        }
        Ok(replaced)
    }

    /// Removes a subscriber. Returns whether it existed.
    ///
    /// # Errors
    /// [`StoreError`]; it can be tried again.
    pub async fn remove_subscriber(&self, aor: &Aor) -> Result<bool, StoreError> {
        let query = format!(
            "DELETE FROM {}.subscriber WHERE domain = :domain AND username = :username {AS_READ}",
            self.keyspace
        );
        for _ in 0..ATTEMPTS {
            let Some(row) = self.store.subscriber_row(aor).await? else { return Ok(false) };
            let written = self.now();
            if applied(self.session().query_unpaged(query.as_str(), AsRead::from(&row)).await?)? {
                self.remove_entry(row.account_id.as_deref().unwrap_or_default(), aor, written).await?;
                return Ok(true);
            }
        }
        Err(contended(aor))
    }

    /// All subscribers, in no order. Reads the whole table, page by page.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_subscribers(&self) -> Result<Vec<Subscriber>, StoreError> {
        let rows: Vec<Row> = self.pages(format!("SELECT {COLUMNS} FROM {}.subscriber", self.keyspace), ()).await?;
        rows.into_iter().map(Row::subscriber).collect()
    }

    /// The subscribers of one account, in no order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_account(&self, account_id: &str) -> Result<Vec<Subscriber>, StoreError> {
        let query =
            format!("SELECT domain, username FROM {}.subscriber_by_account WHERE account_id = ?", self.keyspace);
        let entries: Vec<(String, String)> = self.pages(query, (account_id,)).await?;
        stream::iter(entries)
            .map(|(domain, username)| async move {
                let aor = Aor::new(&username, &domain).map_err(malformed)?;
                self.store.credentials(&aor).await
            })
            .buffer_unordered(READS_IN_FLIGHT)
            // An entry may have outlived its subscriber or the account it was in.
            .try_filter_map(async |found| Ok(found.filter(|subscriber| subscriber.account_id == account_id)))
            .try_collect()
            .await
    }

    async fn pages<T>(&self, query: String, values: impl SerializeRow) -> Result<Vec<T>, StoreError>
    where
        T: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata> + 'static,
    {
        let pager = self.session().query_iter(query, values).await.map_err(failed)?;
        pager.rows_stream::<T>().map_err(malformed)?.try_collect().await.map_err(failed)
    }

    async fn add_entry(&self, account_id: &str, aor: &Aor, written: i64) -> Result<(), StoreError> {
        let query = format!(
            "INSERT INTO {}.subscriber_by_account (account_id, domain, username) VALUES (?, ?, ?) USING TIMESTAMP ?",
            self.keyspace
        );
        if !account_id.is_empty() {
            self.session().query_unpaged(query, (account_id, aor.domain(), aor.username(), written)).await?;
        }
        Ok(())
    }

    async fn remove_entry(&self, account_id: &str, aor: &Aor, written: i64) -> Result<(), StoreError> {
        let query = format!(
            "DELETE FROM {}.subscriber_by_account USING TIMESTAMP ? WHERE account_id = ? AND domain = ? AND username = ?",
            self.keyspace
        );
        if !account_id.is_empty() {
            self.session().query_unpaged(query, (written, account_id, aor.domain(), aor.username())).await?;
        }
        Ok(())
    }

    fn session(&self) -> &Session {
        &self.store.0.session
    }

    fn now(&self) -> i64 {
        self.store.0.timestamps.next(0)
    }
}

/// Whether a transaction took effect: the first column of its answer, whatever follows it.
fn applied(result: QueryResult) -> Result<bool, StoreError> {
    let rows = result.into_rows_result().map_err(malformed)?;
    let row: AnyRow = rows.first_row().map_err(malformed)?;
    match row.columns.first() {
        Some(Some(CqlValue::Boolean(applied))) => Ok(*applied),
        _ => Err(malformed("a transaction does not say whether it took effect")),
    }
}

fn contended(aor: &Aor) -> StoreError {
    StoreError::Failed(format!("{aor} is being changed by others again and again: try again"))
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}
