//! Script functions for location: the parameters, codes and side effects of the stock `registrar` module.
//!
//! Each has an async twin with one more parameter, the route (in KEMI the function) to resume in. What a function asks for is
//! prepared from the message and the arguments, and its answer applied to the message, by the same code for both.
#![forbid(unsafe_code)]

pub(crate) mod contacts;
pub(crate) mod lookup;
pub(crate) mod save;

use bridge::protocol::Operation;
use domain::Aor;
use domain::aor::AorError;
use domain::lookup::Target;

use crate::auth::not_suspended;
use crate::bridge_client::Way;
use crate::config::registrar::Registrar;
use crate::host::command::{Args, ScriptCode};
use crate::host::message::Message;
use crate::lifecycle;
use crate::outcome::{Apply, ask, ask_async, finish_with_status};

/// What a function asks for, and what its answer does; or its code, when there is nothing to ask.
type Prepared = Result<(Operation, Apply), Failed>;

/// The code of a function that had nothing to ask, and the status with which it has answered the request; 0 for none.
struct Failed {
    code: ScriptCode,
    status: u16,
}

impl From<ScriptCode> for Failed {
    fn from(code: ScriptCode) -> Self {
        Self { code, status: 0 }
    }
}

/// How a function prepares: from the message and its arguments without the route.
type Prepare = fn(&mut Message<'_>, &[String], Way) -> Prepared;

/// Runs a plain function.
fn run(message: &mut Message<'_>, args: &Args, prepare: Prepare) -> ScriptCode {
    match prepare(message, args.all(), Way::Plain) {
        Ok((operation, how)) => ask(message, operation, &how),
        Err(Failed { code, status }) => finish_with_status(code, status),
    }
}

/// Runs an async function.
fn run_async(message: &mut Message<'_>, args: &Args, prepare: Prepare) -> ScriptCode {
    match prepare(message, args.before_route(), Way::Async) {
        Ok((operation, how)) => ask_async(message, operation, &how, args.last()),
        Err(Failed { code, status }) => finish_with_status(not_suspended(code), status),
    }
}

/// A plain function and its async twin, from the function that prepares them.
macro_rules! forms {
    ($($(#[$doc:meta])* $plain:ident, $asynchronous:ident: $prepare:path;)*) => {
        $(
            $(#[$doc])*
            pub(crate) fn $plain(message: &mut Message<'_>, args: &Args) -> ScriptCode {
                crate::location::run(message, args, $prepare)
            }
            $(#[$doc])*
            pub(crate) fn $asynchronous(message: &mut Message<'_>, args: &Args) -> ScriptCode {
                crate::location::run_async(message, args, $prepare)
            }
        )*
    };
}
use forms;

/// The argument at `index`; `""` when the call has fewer.
fn argument(given: &[String], index: usize) -> &str {
    given.get(index).map_or("", String::as_str)
}

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
fn target_of(uri: &str) -> Result<Target, AorError> {
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
