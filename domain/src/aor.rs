//! Address-of-record: whom a subscriber is known as (RFC 3261 section 10.3 step 5).

use serde::{Deserialize, Serialize};

/// A canonical address-of-record: user part unescaped and case-sensitive, domain in lower case, no URI parameters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Aor {
    username: String,
    domain: String,
}

/// Why a text is not an address-of-record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{input}' is no address-of-record: {reason}; write it as user@domain")]
pub struct AorError {
    input: String,
    reason: &'static str,
}
