//! What resume workers do for the bindings that this node owns: the script's routes for events, and keepalives.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::fmt;

use bridge::owned::Events;
use bridge::protocol::{ContactEvent, EventKind, Operation};
use domain::lookup::first_path_uri;
use domain::{Aor, Binding, Timestamp, Which};

use crate::host::event;
use crate::host::keepalive::{Options, send_crlf, send_options};
use crate::location::contacts;
use crate::{bridge_client, lifecycle};

/// The profile of `$cassandra_contact` in which an event's binding is.
const PROFILE: &str = "event";

const INSERTED: &CStr = c"cassandra:contact-insert";
const UPDATED: &CStr = c"cassandra:contact-update";
const DELETED: &CStr = c"cassandra:contact-delete";
const EXPIRED: &CStr = c"cassandra:contact-expired";

/// "Flow Failed" (RFC 5626 section 11.5): the edge has lost the connection to the contact.
const FLOW_FAILED: i32 = 430;

/// The events that the script has a route for; all of them for a KEMI script with a callback.
pub(crate) fn wanted_events(callback: &str) -> Events {
    let wanted = |route| !callback.is_empty() || event::exists(route);
    Events { inserted: wanted(INSERTED), updated: wanted(UPDATED), deleted: wanted(DELETED), expired: wanted(EXPIRED) }
}

/// Runs the script's route for an event; the binding is in `$cassandra_contact(event=>...)`.
pub(crate) fn tell(told: ContactEvent) {
    let route = match told.kind {
        EventKind::Inserted => INSERTED,
        EventKind::Updated => UPDATED,
        EventKind::Deleted => DELETED,
        EventKind::Expired => EXPIRED,
    };
    contacts::hold(PROFILE, told.aor, vec![told.binding]);
    let callback = lifecycle::module().map_or("", |module| module.config.event_callback.as_str());
    event::run(route, callback);
    contacts::free(PROFILE);
}

/// Keeps the way to a contact open: an OPTIONS along its Path, whose first hop is the one that the way leads through; two CRLFs
/// where there is none.
pub(crate) fn keep_alive(aor: &Aor, binding: &Binding) {
    match first_path_uri(&binding.path) {
        Some(next_hop) => {
            let (to, from) = (format!("sip:{aor}"), keepalive_from(aor));
            let headers = format!("Route: {}\r\n", binding.path);
            let about = About { ruid: &binding.ruid, registered_at: binding.registered_at, aor };
            send_options(&Options {
                uri: &binding.contact,
                to: &to,
                from: &from,
                headers: &headers,
                next_hop,
                socket: &binding.socket,
                about: &about.to_string(),
            });
        }
        None => {
            let seen = if binding.received.is_empty() { &binding.contact } else { &binding.received };
            send_crlf(seen, &binding.socket);
        }
    }
}

fn keepalive_from(aor: &Aor) -> String {
    match lifecycle::module().map(|module| module.config.keepalive_from.as_str()) {
        Some(from) if !from.is_empty() => from.to_owned(),
        _ => format!("sip:keepalive@{}", aor.domain()),
    }
}

/// Takes note of the answer to an OPTIONS: a flow that failed is removed, and only that.
///
/// In any SIP worker, so nothing waits here.
pub(crate) fn keepalive_answered(code: i32, about: &str) {
    if let (FLOW_FAILED, Some((aor, which))) = (code, About::parse(about)) {
        bridge_client::tell(Operation::Remove { aor, which });
    }
}

/// The binding that an OPTIONS is about, as text that comes back with its answer.
struct About<'a> {
    ruid: &'a str,
    registered_at: Timestamp,
    aor: &'a Aor,
}

impl fmt::Display for About<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.ruid, self.registered_at.0, self.aor)
    }
}

impl About<'_> {
    /// The binding, unless it has been refreshed since.
    fn parse(written: &str) -> Option<(Aor, Which)> {
        let mut parts = written.splitn(3, ' ');
        let (ruid, registered_at, aor) = (parts.next()?, parts.next()?, parts.next()?);
        let registered_at = Timestamp(registered_at.parse().ok()?);
        Some((aor.parse().ok()?, Which::AsOf(ruid.to_owned(), registered_at)))
    }
}
