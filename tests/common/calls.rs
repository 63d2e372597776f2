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

/// The call in the list of a subscriber.
pub fn listed(site: &Site, user: &str, call_id: &str) -> Result<Option<Value>> {
    let shown = site.sipctl(&["--json", "history", &format!("{user}@{DOMAIN}"), "--since", "1h"], "")?;
    let calls: Vec<Value> = serde_json::from_str(&shown)?;
    Ok(calls.into_iter().find(|call| call["call_id"] == call_id))
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
