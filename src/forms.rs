//! The two forms of a script function: plain, and async with one more parameter, the route (in KEMI the function) to resume in.
//! What a function asks for is prepared from the message and the arguments, and its answer applied to the message, by the same
//! code for both.
#![forbid(unsafe_code)]

use bridge::protocol::Operation;

use crate::bridge_client::Way;
use crate::host::auth::code;
use crate::host::command::{Args, ScriptCode};
use crate::host::message::Message;
use crate::outcome::{Apply, ask, ask_async, finish_with_status};

/// What a function asks for, and what its answer does; or its code, when there is nothing to ask.
pub(crate) type Prepared = Result<(Operation, Apply), Failed>;

/// The code of a function that had nothing to ask, and the status with which it has answered the request; 0 for none.
pub(crate) struct Failed {
    /// What the script gets.
    pub(crate) code: ScriptCode,
    /// What the phone got.
    pub(crate) status: u16,
}

impl From<ScriptCode> for Failed {
    fn from(code: ScriptCode) -> Self {
        Self { code, status: 0 }
    }
}

/// How a function prepares: from the message and its arguments without the route.
type Prepare = fn(&mut Message<'_>, &[String], Way) -> Prepared;

/// Runs a plain function.
pub(crate) fn run(message: &mut Message<'_>, args: &Args, prepare: Prepare) -> ScriptCode {
    match prepare(message, args.all(), Way::Plain) {
        Ok((operation, how)) => ask(message, operation, &how),
        Err(Failed { code, status }) => finish_with_status(code, status),
    }
}

/// Runs an async function.
pub(crate) fn run_async(message: &mut Message<'_>, args: &Args, prepare: Prepare) -> ScriptCode {
    match prepare(message, args.before_route(), Way::Async) {
        Ok((operation, how)) => ask_async(message, operation, &how, args.last()),
        Err(Failed { code, status }) => finish_with_status(not_suspended(code), status),
    }
}

/// An async function returns 0 or a negative code: a request that needs no authentication (ACK, CANCEL, PRACK) is an error.
fn not_suspended(result: ScriptCode) -> ScriptCode {
    result.min(code::ERROR)
}

/// A plain function and its async twin, from the function that prepares them.
macro_rules! forms {
    ($($(#[$doc:meta])* $plain:ident, $asynchronous:ident: $prepare:path;)*) => {
        $(
            $(#[$doc])*
            pub(crate) fn $plain(message: &mut Message<'_>, args: &Args) -> ScriptCode {
                crate::forms::run(message, args, $prepare)
            }
            $(#[$doc])*
            pub(crate) fn $asynchronous(message: &mut Message<'_>, args: &Args) -> ScriptCode {
                crate::forms::run_async(message, args, $prepare)
            }
        )*
    };
}
pub(crate) use forms;
