//! The registrar's decision: what a REGISTER changes and what the answer says (RFC 3261 section 10.3).

mod answer;
mod change;
mod extensions;

use serde::{Deserialize, Serialize};

use crate::lookup::is_current;
use crate::{Aor, Binding, Timestamp};

pub use answer::{answer_headers, parse_q};
use change::Change;
pub use extensions::OptionTags;

/// One element of a Contact header as received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// The URI, without angle brackets.
    pub uri: String,
    /// q in thousandths when given and well formed.
    pub q: Option<i16>,
    /// The `expires` parameter in seconds when given; malformed counts as 3600 (RFC 3261 section 10.2.1.1).
    pub expires: Option<u32>,
    /// The methods it takes, of its `methods` parameter or else of the Allow header, as Kamailio's method bits; 0 when neither
    /// says.
    pub methods: u32,
    /// `+sip.instance` without quotes; `""` when not given.
    pub instance: String,
    /// `reg-id` when given; 0 for a malformed one, which is as wrong as 0 (RFC 5626 section 4.2.1).
    pub reg_id: Option<u32>,
    /// `received` parameter of the contact; `""` when not given.
    pub received: String,
}

/// What the Contact headers of a REGISTER ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contacts {
    /// No Contact header: only list the bindings.
    Query,
    /// `Contact: *`: remove all bindings.
    Star,
    /// Add, refresh or (with expires 0) remove each of these.
    List(Vec<Contact>),
}

/// A REGISTER, copied out of the message, and the rules that it is judged by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Whose bindings.
    pub aor: Aor,
    /// The Request-URI, whose domain must be the AoR's; `""` when that was decided elsewhere.
    pub request_uri: String,
    /// Call-ID header.
    pub call_id: String,
    /// CSeq number.
    pub cseq: u32,
    /// Expires header in seconds when given.
    pub expires: Option<u32>,
    /// What the Contact headers say.
    pub contacts: Contacts,
    /// Path header bodies in order, comma-joined; `""` without.
    pub path: String,
    /// What the user agent supports.
    pub supported: OptionTags,
    /// What it requires.
    pub required: OptionTags,
    /// Whether it came straight from the user agent: it has one Via.
    pub first_hop: bool,
    /// Where it came from, as a SIP URI (`sip:192.0.2.1:40000;transport=tcp`).
    pub source: String,
    /// Source as a SIP URI for contacts behind a NAT, which the script has found; `""` to store none.
    pub received: String,
    /// User-Agent header.
    pub user_agent: String,
    /// Local socket it arrived on (`tcp:192.0.2.9:5060`).
    pub socket: String,
    /// Branch flags to keep with the bindings.
    pub cflags: u32,
    /// Keep only the contacts of this REGISTER (save flag 0x04).
    pub replace: bool,
    /// Attributes to keep with the bindings, from the script.
    pub attributes: Vec<(String, String)>,
    /// The operator's rules.
    pub policy: Policy,
}

/// What the operator allows; filled from the module's parameters and what the script sets for one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Seconds for a contact that names no expiry.
    pub default_expires: u32,
    /// Per cent that this request's expiries are shortened by, so that refreshes spread.
    pub expires_cut: u8,
    /// Lower bound in seconds (0: none).
    pub min_expires: u32,
    /// True: answer 423 below `min_expires`; false: raise to it.
    pub min_expires_reject: bool,
    /// Upper bound in seconds (0: none).
    pub max_expires: u32,
    /// Bindings an AoR may have (0: no limit).
    pub max_contacts: u32,
    /// Seconds in Retry-After when there are too many (0: none).
    pub retry_after: u32,
    /// q in thousandths for contacts that say none (0 to 1000; -1: unspecified).
    pub default_q: i16,
    /// Longest contact URI in bytes.
    pub contact_max_size: u16,
    /// How Path is treated.
    pub path: PathMode,
    /// Whether the first Path URI's `received` parameter says where a contact is.
    pub path_use_received: bool,
    /// Branch flags that say a contact is behind a NAT.
    pub nat_flags: u32,
    /// Same Call-ID and CSeq within this many seconds is a retransmission.
    pub cseq_delay: u32,
    /// RFC 5626.
    pub outbound: OutboundMode,
    /// Whether reg-id names a flow also without outbound (`regid_mode=1`).
    pub regid_always: bool,
    /// Seconds of the Flow-Timer header (0: none).
    pub flow_timer: u16,
    /// Whether user agents that support it get GRUUs (RFC 5627).
    pub gruu: bool,
    /// Name of the Contact parameter of the answer that says where a contact was seen; `""` for none.
    pub received_param: String,
}

impl Default for Policy {
    /// The stock registrar's defaults, with GRUUs and a lower bound of a minute.
    fn default() -> Self {
        Self {
            default_expires: 3600,
            expires_cut: 0,
            min_expires: 60,
            min_expires_reject: false,
            max_expires: 3600,
            max_contacts: 0,
            retry_after: 0,
            default_q: -1,
            contact_max_size: 512,
            path: PathMode::Ignore,
            path_use_received: false,
            nat_flags: 0,
            cseq_delay: 20,
            outbound: OutboundMode::Off,
            regid_always: false,
            flow_timer: 0,
            gruu: true,
            received_param: "received".to_owned(),
        }
    }
}

/// What to do with Path headers (RFC 3327), as the stock registrar's `use_path` and `path_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMode {
    /// Ignore Path (`use_path=0`).
    Ignore,
    /// Store it, do not echo it (`path_mode=0`).
    Off,
    /// Store it; echo it only when the user agent supports it (`path_mode=1`).
    Lazy,
    /// Store it; 420 when the user agent does not support it (`path_mode=2`).
    Strict,
}

/// Whether flows (RFC 5626) are registered, as the stock registrar's `outbound_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutboundMode {
    /// No: a user agent that requires it gets 420.
    Off,
    /// For user agents that support it.
    Supported,
    /// A user agent that does not support it gets 421.
    Required,
}

/// The node that a REGISTER is processed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its data centre, stored with each binding.
    pub dc: String,
    /// Its name, stored with each binding.
    pub name: String,
    /// SIP URI at which other nodes reach it, for contacts on connections that it holds.
    pub uri: String,
    /// Seconds that a binding lives at most, whatever the policy says; 0 for no such bound.
    pub longest_expiry: u32,
}

/// What an accepted REGISTER did, with the stock return codes of `save()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Saved {
    /// 1: at least one binding is new.
    Inserted,
    /// 2: bindings were refreshed.
    Updated,
    /// 3: bindings were removed, none added.
    Deleted,
    /// 4: nothing changed, the bindings are only listed.
    Queried,
}

/// A REGISTER that is accepted: what to write and what to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Which kind of change.
    pub saved: Saved,
    /// Rows to write, live ones and soft deletes; written as one batch.
    pub writes: Vec<Binding>,
    /// Whether the answer tells that a flow was registered.
    pub(crate) outbound: bool,
}

impl Decision {
    /// All bindings current after the write, best first, for the 200's Contact header. `existing` and `now` are those that
    /// were decided over.
    pub fn current<'d>(&'d self, existing: &'d [Binding], now: Timestamp) -> Vec<&'d Binding> {
        let mut current: Vec<&Binding> = current(existing, &self.writes, now).collect();
        crate::lookup::sort_by_preference(&mut current);
        current
    }
}

fn current<'d>(existing: &'d [Binding], writes: &'d [Binding], now: Timestamp) -> impl Iterator<Item = &'d Binding> {
    let untouched = existing.iter().filter(|binding| writes.iter().all(|write| write.key != binding.key));
    untouched.chain(writes).filter(move |binding| is_current(binding, now))
}

/// A REGISTER that is refused: nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{status} {reason}")]
pub struct Rejection {
    /// SIP status code.
    pub status: u16,
    /// Reason phrase.
    pub reason: String,
    /// What the script gets: -1, or -2 for too many contacts.
    pub script_code: i32,
    /// Extra reply headers, name and value.
    pub headers: Vec<(String, String)>,
}

/// The header in which the stock registrar says what is wrong.
const ERROR_HEADER: &str = "P-Registrar-Error";

impl Rejection {
    /// A refusal that says in `P-Registrar-Error`, as the stock registrar does, what is wrong.
    pub fn new(status: u16, what: &str) -> Self {
        let reason = match status {
            403 => "Forbidden",
            404 => "Not Found",
            420 => "Bad Extension",
            421 => "Extension Required",
            423 => "Interval Too Brief",
            439 => "First Hop Lacks Outbound Support",
            503 => "Service Unavailable",
            _ => "Bad Request",
        };
        let headers = vec![(ERROR_HEADER.to_owned(), what.to_owned())];
        Self { status, reason: reason.to_owned(), script_code: -1, headers }
    }

    /// What is wrong, for people.
    pub fn what(&self) -> &str {
        self.headers.iter().find(|(name, _)| name == ERROR_HEADER).map_or(&self.reason, |(_, what)| what)
    }

    fn with_header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

/// Seconds that a soft delete is kept, for its CSeq: longer than any retransmission of an older REGISTER (RFC 3261: 32 s).
pub const REMOVED_FOR: u32 = 120;

/// Decides a REGISTER over the stored bindings of its AoR, live ones, lapsed ones and soft deletes alike.
///
/// All contacts are accepted or none (RFC 3261 section 10.3): a refused REGISTER writes nothing.
///
/// # Errors
/// [`Rejection`] with the status, the headers and the script's return code.
pub fn decide(existing: &[Binding], register: &Register, node: &Node, now: Timestamp) -> Result<Decision, Rejection> {
    extensions::check(register)?;
    let flows = extensions::flows(register)?;
    let mut change = Change::new(existing, register, node, flows, now);
    match &register.contacts {
        Contacts::Query => {}
        Contacts::Star => change.remove_all()?,
        Contacts::List(contacts) => change.apply(contacts)?,
    }
    change.check_count()?;
    Ok(change.decision())
}

#[cfg(test)]
pub(crate) mod tests;
