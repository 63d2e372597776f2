//! One file per noun.

pub(crate) mod alias;
pub(crate) mod calls;
pub(crate) mod history;
mod import;
pub(crate) mod nodes;
pub(crate) mod registrations;
pub(crate) mod schema;
pub(crate) mod subscriber;

use std::time::{SystemTime, UNIX_EPOCH};

use domain::Timestamp;

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
