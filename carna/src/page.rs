//! The page that shows the fleet to people, and what it asks for: read-only, and nothing of the configuration is in it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;
use tokio::time::Instant;

use crate::changes::Change;
use crate::http::{Told, why_not_ready};
use crate::members::{Member, Standing};
use fleet::{Load, NodeId, Role, Transport};

const PAGE: &str = include_str!("page.html");
/// What stands in the page for the nonce of an answer.
const NONCE: &str = "{nonce}";
/// The longest text of another node's that is shown.
const LONGEST: usize = 64;

/// The page. It holds its script and its style, and loads nothing but `/status`: its policy allows no more, so that nothing which
/// another node says could ever run here.
pub(crate) async fn page() -> Response {
    let Ok(nonce) = nonce() else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, [(header::CONTENT_SECURITY_POLICY, policy)], PAGE.replace(NONCE, &nonce)).into_response()
}

/// What nobody can guess.
fn nonce() -> rustix::io::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the page shows.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    /// When that was, by the clock of this machine.
    #[serde(serialize_with = "humantime_serde::serialize")]
    now: SystemTime,
    /// Whose page it is.
    here: NodeHere,
    /// Whether ZooKeeper is there; while it is not, the others are shown as they were.
    is_connected: bool,
    nodes: Vec<Line>,
    changes: Vec<Change>,
}

#[derive(Debug, Serialize)]
struct NodeHere {
    role: Role,
    name: String,
    is_ready: bool,
}

/// A node.
#[derive(Debug, Serialize)]
struct Line {
    role: Role,
    name: String,
    dc: String,
    rack: String,
    standing: Standing,
    weight: u32,
    sip: BTreeMap<Transport, SocketAddr>,
    version: String,
    since: String,
    #[serde(flatten)]
    load: Load,
}

impl Line {
    fn of(member: &Member, load: Load) -> Self {
        let node = member.node.clone();
        Self {
            role: node.role,
            name: node.name,
            dc: node.dc,
            rack: node.rack,
            standing: member.standing(),
            weight: node.weight,
            sip: node.sip,
            version: shorten(&node.version),
            since: shorten(&node.started),
            load,
        }
    }
}

/// Answers what the page shows.
pub(crate) async fn status(Shared(told): Shared<Told>) -> Response {
    told.looked.send_replace(Some(Instant::now()));
    ([(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], Json(shown(&told)))
        .into_response()
}

fn shown(told: &Told) -> Shown {
    let is_ready = why_not_ready(told).is_none();
    let own = told.status.borrow().node.clone();
    let loads = told.loads.borrow();
    // What this node has to do needs no way through ZooKeeper.
    let load = |id: NodeId| {
        if id == own.id() { *told.load.borrow() } else { loads.get(&id).copied().unwrap_or_default() }
    };
    Shown {
        now: SystemTime::now(),
        here: NodeHere { role: own.role, name: own.name.clone(), is_ready },
        is_connected: told.seen.borrow().is_connected,
        nodes: told.known.borrow().iter().map(|member| Line::of(member, load(member.node.id()))).collect(),
        changes: told.changes.borrow().clone(),
    }
}

/// Others may say what they want, but not for pages.
fn shorten(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_and_has_a_nonce_wherever_it_needs_one() {
        assert!(!PAGE.contains("://"), "an address of somebody else");
        assert!(!PAGE.contains("innerHTML") && !PAGE.contains("style=") && !PAGE.contains("onclick"));
        for tag in ["<script", "<style"] {
            assert_eq!(PAGE.matches(tag).count(), PAGE.matches(&format!("{tag} nonce=\"{NONCE}\"")).count());
        }
        assert_ne!(nonce().expect("random bytes"), nonce().expect("random bytes"));
    }

    #[test]
    fn what_others_say_at_length_is_cut() {
        assert_eq!(shorten(&"ä".repeat(1000)).chars().count(), LONGEST);
    }
}
