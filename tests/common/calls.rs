//! What is stored of calls, as sipctl shows it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::wait::until;
use serde_json::Value;

use super::{DOMAIN, Site};

const SOON: Duration = Duration::from_secs(20);

/// What sipctl shows of a call, an event each.
pub fn events(site: &Site, call_id: &str) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&site.sipctl(&["--json", "call", call_id], "")?)?)
}

/// What happened.
pub fn names(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["event"].as_str()).collect()
}

/// The calls of a subscriber in the last hour.
pub fn history(site: &Site, user: &str) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&site.sipctl(&["--json", "history", &format!("{user}@{DOMAIN}"), "--since", "1h"], "")?)?)
}

/// The call in the list of a subscriber.
pub fn listed(site: &Site, user: &str, call_id: &str) -> Result<Option<Value>> {
    Ok(history(site, user)?.into_iter().find(|call| call["call_id"] == call_id))
}

/// How many calls of a subscriber were answered and have ended.
pub fn answered(site: &Site, user: &str) -> Result<usize> {
    Ok(history(site, user)?.iter().filter(|call| call["disposition"] == "answered").count())
}

/// Waits until this many events of the call are stored.
pub fn until_stored(site: &Site, call_id: &str, count: usize) -> Result<Vec<Value>> {
    until(&format!("{count} events of {call_id}"), SOON, || {
        events(site, call_id).is_ok_and(|found| found.len() >= count)
    })
    .with_context(|| format!("{:#?}", events(site, call_id)))?;
    let found = events(site, call_id)?;
    ensure!(found.len() == count, "{found:?}");
    Ok(found)
}
