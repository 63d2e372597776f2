//! Script functions for authentication: the parameters, codes and method rules of the stock `auth_db` module.
//!
//! Codes: 1 right; -1 error; -2 wrong password; -3 unknown user; -4 stale nonce; -5 no credentials; -6 nonce reused;
//! -8 user mismatch; -10 backend unavailable. Challenges are the script's, with `auth`'s functions.
#![forbid(unsafe_code)]

use bridge::protocol::{AuthRequest, Operation};
use domain::Aor;

use crate::host::auth::{Presented, Scheme, code, present};
use crate::host::command::{Args, ScriptCode};
use crate::host::log::log_error;
use crate::host::message::Message;
use crate::outcome::{Apply, ask, ask_async, finish};

/// `cassandra_www_authenticate(realm, table)`: checks the Authorization header, as `www_authenticate`.
pub(crate) fn www_authenticate(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    authenticate(message, args.text(0), Scheme::Www)
}

/// `cassandra_www_authenticate_async(realm, table, route)`.
pub(crate) fn www_authenticate_async(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    authenticate_async(message, args, Scheme::Www)
}

/// `cassandra_proxy_authenticate(realm, table)`: checks the Proxy-Authorization header, as `proxy_authenticate`.
pub(crate) fn proxy_authenticate(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    authenticate(message, args.text(0), Scheme::Proxy)
}

/// `cassandra_proxy_authenticate_async(realm, table, route)`.
pub(crate) fn proxy_authenticate_async(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    authenticate_async(message, args, Scheme::Proxy)
}

/// `cassandra_auth_check(realm, table, flags)`: as `auth_check`; flag 1 checks that the user is the one in From (and To of a
/// REGISTER), flag 2 skips that check for INVITE, BYE, PRACK, UPDATE and MESSAGE.
pub(crate) fn auth_check(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    match prepare_check(message, args) {
        Ok((request, how)) => ask(message, Operation::Authenticate(request), &how),
        Err(result) => finish(result, None),
    }
}

/// `cassandra_auth_check_async(realm, table, flags, route)`.
pub(crate) fn auth_check_async(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    match prepare_check(message, args) {
        Ok((request, how)) => ask_async(message, Operation::Authenticate(request), &how, args.last()),
        Err(result) => finish(not_suspended(result), None),
    }
}

fn authenticate(message: &mut Message<'_>, realm: &str, scheme: Scheme) -> ScriptCode {
    match credentials(message, realm, scheme) {
        Ok((request, how)) => ask(message, Operation::Authenticate(request), &how),
        Err(result) => finish(result, None),
    }
}

fn authenticate_async(message: &mut Message<'_>, args: &Args, scheme: Scheme) -> ScriptCode {
    match credentials(message, args.text(0), scheme) {
        Ok((request, how)) => ask_async(message, Operation::Authenticate(request), &how, args.last()),
        Err(result) => finish(not_suspended(result), None),
    }
}

/// An async function returns 0 or a negative code: a request that needs no authentication (ACK, CANCEL, PRACK) is an error.
pub(crate) fn not_suspended(result: ScriptCode) -> ScriptCode {
    result.min(code::ERROR)
}

/// The credentials to check, or the code when there is nothing to ask the backend.
pub(crate) fn credentials(
    message: &mut Message<'_>,
    realm: &str,
    scheme: Scheme,
) -> Result<(AuthRequest, Apply), ScriptCode> {
    if realm.is_empty() {
        log_error!("auth", "the realm is empty");
        return Err(code::ERROR);
    }
    match present(message, realm, scheme) {
        Presented::NotNeeded => Err(code::OK),
        Presented::Refused(result) => Err(result),
        Presented::Credentials(credentials) => {
            // A name that can be no subscriber's is an unknown user.
            let aor = Aor::new(&credentials.username, realm).map_err(|_| code::USER_UNKNOWN)?;
            let request = AuthRequest { aor, credentials, method: message.method() };
            Ok((request, Apply::Auth { realm: realm.to_owned(), scheme }))
        }
    }
}

/// Identity checks of `auth_check`, on top of the credentials.
fn prepare_check(message: &mut Message<'_>, args: &Args) -> Result<(AuthRequest, Apply), ScriptCode> {
    let flags = args.number(2).map_err(|sentence| {
        log_error!("cassandra_auth_check", "the flags are wrong: {sentence}");
        code::ERROR
    })?;
    let method = message.method();
    let scheme = if method == "REGISTER" { Scheme::Www } else { Scheme::Proxy };
    let (request, how) = credentials(message, args.text(0), scheme)?;
    let exempt = flags & 2 != 0 && matches!(method.as_str(), "INVITE" | "BYE" | "PRACK" | "UPDATE" | "MESSAGE");
    if flags & 1 != 0 && !exempt {
        check_identity(message, &method, request.aor.username())?;
    }
    Ok((request, how))
}

fn check_identity(message: &Message<'_>, method: &str, username: &str) -> Result<(), ScriptCode> {
    let same_user = |uri: Result<String, _>| {
        uri.ok().and_then(|uri| Aor::from_uri(&uri).ok()).is_some_and(|aor| aor.username() == username)
    };
    let to_fits = !matches!(method, "REGISTER" | "PUBLISH") || same_user(message.uri_of_to());
    if to_fits && same_user(message.uri_of_from()) { Ok(()) } else { Err(code::USER_MISMATCH) }
}
