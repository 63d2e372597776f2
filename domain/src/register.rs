//! The registrar's decision: what a REGISTER changes and what the answer says (RFC 3261 section 10.3).

use serde::{Deserialize, Serialize};

use crate::{Aor, Binding};

/// One element of a Contact header as received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// The URI, without angle brackets.
    pub uri: String,
    /// q in thousandths when given and well formed.
    pub q: Option<i16>,
    /// The `expires` parameter in seconds when given; malformed counts as 3600 (RFC 3261 section 10.2.1.1).
    pub expires: Option<u32>,
    /// `methods` parameter as Kamailio's method bits; 0 when not given.
    pub methods: u32,
    /// `+sip.instance` without quotes; `""` when not given.
    pub instance: String,
    /// `reg-id`; 0 when not given.
    pub reg_id: u32,
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

/// A REGISTER, copied out of the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Whose bindings.
    pub aor: Aor,
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
    /// Whether the user agent said `Supported: path`.
    pub supports_path: bool,
    /// Source as a SIP URI for NATed contacts; `""` to store none.
    pub received: String,
    /// User-Agent header.
    pub user_agent: String,
    /// Local socket it arrived on.
    pub socket: String,
    /// Branch flags to keep with the bindings.
    pub cflags: u32,
    /// Keep only the contacts of this REGISTER (save flag 0x04).
    pub replace: bool,
}

/// What the operator allows; filled from the module's parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Seconds for a contact that names no expiry.
    pub default_expires: u32,
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
    pub contact_max_size: usize,
    /// How Path is treated.
    pub path: PathMode,
    /// Same Call-ID and CSeq within this many seconds is a retransmission.
    pub cseq_delay: u32,
    /// Data centre of this node, stored with each binding.
    pub dc: String,
    /// Name of this node, stored with each binding.
    pub registrar: String,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Which kind of change.
    pub saved: Saved,
    /// Rows to write, live ones and soft deletes; written as one batch.
    pub writes: Vec<Binding>,
    /// All bindings current after the write, for the 200's Contact headers.
    pub current: Vec<Binding>,
    /// Whether the 200 echoes Path.
    pub echo_path: bool,
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
