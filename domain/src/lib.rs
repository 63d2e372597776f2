//! SIP rules as pure functions over owned data.
//!
//! Nothing here knows Kamailio, Cassandra, a clock or a random source: time comes in as [`time::Timestamp`], so every rule
//! is tested without a server. The module, the `store` crate and `sipctl` share these types.
#![forbid(unsafe_code)]

pub mod aor;
pub mod binding;
pub mod call;
pub mod digest;
pub mod gruu;
pub mod lookup;
pub mod number;
pub mod register;
pub mod registration;
pub mod text;
pub mod time;
pub mod token;
pub mod uri;

pub use aor::Aor;
pub use binding::{Binding, BindingKey, BindingState, Which};
pub use call::{CallEvent, CallRecord};
pub use time::Timestamp;
