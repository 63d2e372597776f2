//! Bindings: where an address-of-record can be reached, one row of the `location` table each.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// What identifies a binding among those of its AoR: `+sip.instance` with reg-id when the contact has them (RFC 5626
/// section 6), else the normalised contact URI (RFC 3261 section 19.1.4). Never the Call-ID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BindingKey(pub String);

/// Whether a stored binding counts. Removal is a soft delete, so that the CSeq of the removing REGISTER is still there
/// when a late retransmission of an older one arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindingState {
    /// Removed by the user agent; kept for a short time for its CSeq.
    Removed,
    /// Registered (until it expires).
    Live,
}

/// One binding of one AoR. Absent text is `""` and absent numbers are 0, as they are stored: a null would be a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Identity within the AoR.
    pub key: BindingKey,
    /// The Contact URI as registered, with its URI parameters, without angle brackets.
    pub contact: String,
    /// Source of the REGISTER as a SIP URI, when it differs from the contact (NAT); `""` otherwise.
    pub received: String,
    /// The Path header bodies in order, comma-joined (RFC 3327); `""` without Path.
    pub path: String,
    /// The q value in thousandths (0 to 1000).
    pub q: i16,
    /// When the binding lapses.
    pub expires_at: Timestamp,
    /// Live or removed.
    pub state: BindingState,
    /// Call-ID of the REGISTER that wrote this binding.
    pub call_id: String,
    /// CSeq number of that REGISTER.
    pub cseq: u32,
    /// User-Agent header of that REGISTER.
    pub user_agent: String,
    /// Bit set of the methods the contact accepts, in Kamailio's method bits; 0 = not said (all).
    pub methods: u32,
    /// Branch flags to set when the binding is used.
    pub cflags: u32,
    /// `+sip.instance` value without quotes; `""` when absent.
    pub instance: String,
    /// RFC 5626 reg-id; 0 when absent.
    pub reg_id: u32,
    /// Record-unique id: stable for one (AoR, key), on every node.
    pub ruid: String,
    /// The local socket that received the REGISTER (`udp:127.0.0.1:5060`).
    pub socket: String,
    /// Data centre of the registrar that wrote it.
    pub dc: String,
    /// Name of the registrar node that wrote it.
    pub registrar: String,
    /// When the REGISTER was accepted.
    pub registered_at: Timestamp,
    /// Write time of the stored row in microseconds since the epoch; 0 for a binding not read from the store.
    pub written_at: i64,
}
