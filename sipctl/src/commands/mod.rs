//! One file per noun.

pub(crate) mod registrations;
pub(crate) mod schema;
pub(crate) mod subscriber;
