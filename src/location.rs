//! Script functions for location: the parameters, codes and side effects of the stock `registrar` module.
#![forbid(unsafe_code)]

pub(crate) mod contacts;
pub(crate) mod lookup;
pub(crate) mod save;

use domain::Aor;
use domain::aor::AorError;
use domain::lookup::Target;

use crate::config::registrar::Registrar;
use crate::host::message::Message;
use crate::lifecycle;

/// The registrar's parameters; there are none before the module has started.
fn rules() -> Option<&'static Registrar> {
    lifecycle::module().map(|module| &module.config.registrar)
}

/// An AoR as this registrar knows it.
pub(crate) fn canonical(aor: Aor) -> Aor {
    match rules() {
        Some(rules) => rules.canonical(aor),
        None => aor,
    }
}

/// The AoR of a URI, as this registrar knows it.
fn aor_of(uri: &str) -> Result<Aor, AorError> {
    Aor::from_uri(uri).map(canonical)
}

/// Whom a URI names, as this registrar knows them.
pub(crate) fn target_of(uri: &str) -> Result<Target, AorError> {
    Ok(match Target::of_uri(uri)? {
        Target::Aor(aor) => Target::Aor(canonical(aor)),
        Target::Instance(aor, instance) => Target::Instance(canonical(aor), instance),
        temporary => temporary,
    })
}

/// The URI that a function is asked about: its argument, else the one that the request goes to, or that a reply is from.
fn uri_or_target(message: &Message<'_>, written: &str) -> String {
    match written {
        "" if message.is_request() => message.request_uri(),
        "" => message.uri_of_to().unwrap_or_default(),
        written => written.to_owned(),
    }
}
