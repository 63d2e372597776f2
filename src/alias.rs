//! Script functions for aliases: the parameters and side effects of the stock `alias_db` module.
//!
//! Codes: 1 an alias; -1 none; -2 the URI can be none, nothing was asked; -3 error; -10 backend unavailable.
#![forbid(unsafe_code)]

use bridge::protocol::Operation;
use domain::Aor;
use domain::lookup::Target;
use domain::uri::SipUri;
use serde::{Deserialize, Serialize};

use crate::bridge_client::Way;
use crate::forms::{Prepared, forms};
use crate::host::auth::code;
use crate::host::command::{Args, ScriptCode, argument};
use crate::host::log::{log_debug, log_error};
use crate::host::message::Message;
use crate::location::target_of;
use crate::outcome::Apply;

/// There is no such alias.
const NO_ALIAS: ScriptCode = -1;
/// The URI can be no alias. Of its own, since an async function returns -1 at once when it cannot suspend.
const NO_NAME: ScriptCode = -2;
/// A parameter is wrong, or what was found cannot be used.
const UNUSABLE: ScriptCode = -3;

/// What becomes of the AoR that an alias stands for, besides showing it to the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Use {
    /// It becomes the Request-URI, SIPS if that was.
    RequestUri { secure: bool },
    /// Nothing.
    Nothing,
}

forms! {
    /// `cassandra_alias_lookup(table[, flags])`: when the Request-URI is an alias, the URI of the AoR that it stands for takes
    /// its place, as `alias_db_lookup`.
    lookup, lookup_async: prepare_lookup;

    /// `cassandra_alias_find(table, uri[, flags])`: whom `uri` means when it is an alias, as `alias_db_find`. Nothing is changed:
    /// the answer is in `$cassandra(aor)`.
    find, find_async: prepare_find;
}

fn prepare_lookup(message: &mut Message<'_>, given: &[String], _: Way) -> Prepared {
    check_flags(argument(given, 1))?;
    let uri = message.request_uri();
    let secure = SipUri::parse(&uri).is_ok_and(|uri| uri.secure);
    Ok((Operation::Alias(name_in(&uri)?), Apply::Alias(Use::RequestUri { secure })))
}

fn prepare_find(_: &mut Message<'_>, given: &[String], _: Way) -> Prepared {
    check_flags(argument(given, 2))?;
    Ok((Operation::Alias(name_in(argument(given, 1))?), Apply::Alias(Use::Nothing)))
}

/// `u`, use the domain, is what happens always. The others of the stock module would have to read the whole table.
fn check_flags(flags: &str) -> Result<(), ScriptCode> {
    let Some(other) = flags.chars().find(|flag| *flag != 'u') else { return Ok(()) };
    let reason = match other {
        'd' => "aliases are found by name and domain",
        'r' => "aliases are not found by whom they mean",
        _ => "there is no such flag",
    };
    log_error!("alias", "the flags '{flags}' are wrong: {reason}; use 'u' or none");
    Err(UNUSABLE)
}

/// The name that is looked for. A GRUU means one phone of an AoR, so it is no alias.
fn name_in(uri: &str) -> Result<Aor, ScriptCode> {
    match target_of(uri) {
        Ok(Target::Aor(aor)) => Ok(aor),
        Ok(_) => Err(NO_NAME),
        // Whatever a SIP peer writes must not fill the log.
        Err(error) => {
            log_debug!("alias", "{error}");
            Err(NO_NAME)
        }
    }
}

/// Applies the answer: the code of the function.
pub(crate) fn apply(message: &mut Message<'_>, what: Use, target: Option<&Aor>) -> ScriptCode {
    let Some(target) = target else { return NO_ALIAS };
    if let Use::RequestUri { secure } = what
        && let Err(refused) = message.set_request_uri(&target.to_uri(secure))
    {
        log_error!("alias", "the request cannot be sent to {target}: {}", refused.0);
        return UNUSABLE;
    }
    code::OK
}
