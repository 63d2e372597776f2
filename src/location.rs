//! Script functions for location: the parameters, codes and side effects of the stock `registrar` module.
#![forbid(unsafe_code)]

use bridge::protocol::Operation;
use domain::Aor;
use domain::register::Register;

use crate::auth::{credentials, not_suspended};
use crate::host::auth::{Scheme, code};
use crate::host::command::{Args, ScriptCode};
use crate::host::log::log_error;
use crate::host::message::{Header, Malformed, Message};
use crate::host::reply;
use crate::outcome::{Apply, REGISTER_REFUSED, ask, ask_async, finish};

/// `save()` flag: do not answer.
const NO_REPLY: u32 = 0x02;
/// `save()` flag: keep only the contacts of this request.
const REPLACE: u32 = 0x04;

/// `cassandra_save(domain[, flags[, uri]])`: applies the REGISTER to its AoR's bindings and answers it, as `save`.
///
/// Codes: 1 inserted, 2 updated, 3 removed, 4 listed; -1 refused, -2 too many contacts (both answered); -10 backend
/// unavailable: nothing is stored and nothing answered.
pub(crate) fn save(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    match prepare_save(message, args.text(1), args.text(2), code::ERROR) {
        Ok((register, reply)) => ask(message, Operation::Save(register), &Apply::Save { auth: None, reply }),
        Err(result) => finish(result, None),
    }
}

/// `cassandra_save_async(domain[, flags[, uri]], route)`.
pub(crate) fn save_async(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    let flags = if args.count() > 2 { args.text(1) } else { "" };
    let uri = if args.count() > 3 { args.text(2) } else { "" };
    match prepare_save(message, flags, uri, code::ERROR) {
        Ok((register, reply)) => {
            ask_async(message, Operation::Save(register), &Apply::Save { auth: None, reply }, args.last())
        }
        Err(result) => finish(result, None),
    }
}

/// `cassandra_auth_save(realm[, flags])`: checks the credentials of a REGISTER, that they are the To user's own, and saves,
/// in one trip.
///
/// Codes of `cassandra_auth_check` (nothing answered), then 1 to 4 of `cassandra_save`; -11 refused by the registrar, -12 too
/// many contacts (both answered).
pub(crate) fn auth_save(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    match prepare_auth_save(message, args.text(0), args.text(1)) {
        Ok((operation, how)) => ask(message, operation, &how),
        Err(result) => finish(result, None),
    }
}

/// `cassandra_auth_save_async(realm[, flags], route)`.
pub(crate) fn auth_save_async(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    let flags = if args.count() > 2 { args.text(1) } else { "" };
    match prepare_auth_save(message, args.text(0), flags) {
        Ok((operation, how)) => ask_async(message, operation, &how, args.last()),
        Err(result) => finish(not_suspended(result), None),
    }
}

/// `cassandra_lookup(domain[, uri])`: sends the request to the bindings of its Request-URI (or `uri`), as `lookup`.
///
/// Codes: 1 found; -1 not registered; -2 no binding takes this method; -3 error; -10 backend unavailable.
pub(crate) fn lookup(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    match prepare_lookup(message, args.text(1)) {
        Ok(operation) => ask(message, operation, &Apply::Lookup),
        Err(result) => finish(result, None),
    }
}

/// `cassandra_lookup_async(domain[, uri], route)`.
pub(crate) fn lookup_async(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    let uri = if args.count() > 2 { args.text(1) } else { "" };
    match prepare_lookup(message, uri) {
        Ok(operation) => ask_async(message, operation, &Apply::Lookup, args.last()),
        Err(result) => finish(result, None),
    }
}

fn prepare_lookup(message: &Message<'_>, uri: &str) -> Result<Operation, ScriptCode> {
    let uri = if uri.is_empty() { message.request_uri() } else { uri.to_owned() };
    match Aor::from_uri(&uri) {
        Ok(aor) => Ok(Operation::Lookup(aor, message.method_bit())),
        Err(error) => {
            log_error!("lookup", "{error}");
            Err(-3)
        }
    }
}

fn prepare_auth_save(message: &mut Message<'_>, realm: &str, flags: &str) -> Result<(Operation, Apply), ScriptCode> {
    let (auth, _) = credentials(message, realm, Scheme::Www)?;
    let (register, reply) = prepare_save(message, flags, "", REGISTER_REFUSED)?;
    if register.aor.username() != auth.aor.username() {
        return Err(code::USER_MISMATCH);
    }
    Ok((Operation::AuthSave(auth.into(), register), Apply::Save { auth: Some(realm.to_owned()), reply }))
}

/// The REGISTER as data, and whether to answer it. What cannot be one is answered 400 here, and `refused` to the script.
fn prepare_save(
    message: &mut Message<'_>,
    flags: &str,
    uri: &str,
    refused: ScriptCode,
) -> Result<(Register, bool), ScriptCode> {
    let flags = parse_flags(flags).map_err(|sentence| {
        log_error!("save", "{sentence}");
        code::ERROR
    })?;
    let reply = flags & NO_REPLY == 0;
    match copy_register(message, uri, flags & REPLACE != 0) {
        Ok(register) => Ok((register, reply)),
        Err(Malformed(reason)) => {
            if reply {
                reply::send(message, 400, "Bad Request");
            }
            log_error!("save", "the REGISTER is malformed: {reason}");
            Err(refused)
        }
    }
}

fn parse_flags(written: &str) -> Result<u32, String> {
    let digits = written.trim();
    let parsed = match digits.strip_prefix("0x") {
        _ if digits.is_empty() => Ok(0),
        Some(hex) => u32::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    parsed.map_err(|_| format!("the flags '{written}' are not a number"))
}

fn copy_register(message: &Message<'_>, uri: &str, replace: bool) -> Result<Register, Malformed> {
    message.parse()?;
    let owner = if uri.is_empty() { message.uri_of_to()? } else { uri.to_owned() };
    let supported = message.headers(Header::Supported);
    Ok(Register {
        aor: Aor::from_uri(&owner).map_err(|_| Malformed("the To URI names no user"))?,
        call_id: message.call_id()?,
        cseq: message.cseq()?,
        expires: message.expires(),
        contacts: message.contacts()?,
        path: message.headers(Header::Path).join(","),
        supports_path: supported
            .iter()
            .flat_map(|body| body.split(','))
            .any(|tag| tag.trim().eq_ignore_ascii_case("path")),
        received: String::new(),
        user_agent: message.headers(Header::UserAgent).into_iter().next().unwrap_or_default(),
        socket: message.socket(),
        cflags: 0,
        replace,
    })
}
