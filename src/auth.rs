//! Script functions for authentication: the parameters, codes and method rules of the stock `auth_db` module, and challenges by
//! several algorithms.
//!
//! Codes: 1 right; -1 error; -2 wrong password; -3 unknown user; -4 stale nonce; -5 no credentials; -6 nonce reused;
//! -8 user mismatch; -10 backend unavailable.
#![forbid(unsafe_code)]

use bridge::protocol::{AuthRequest, Grant, Operation, Verdict};
use domain::digest::{Algorithm, Credentials, Form, Qop, fits};
use domain::uri::SipUri;
use domain::{Aor, number};
use serde::{Deserialize, Serialize};

use crate::bridge_client::Way;
use crate::config::{Authentication, Loaded};
use crate::forms::{Prepared, forms};
use crate::host::auth::{Place, Presented, Scheme, challenge, code, mark_authorized, present, source, without_prefix};
use crate::host::command::{Args, ScriptCode, argument};
use crate::host::log::log_error;
use crate::host::message::Message;
use crate::host::reply;
use crate::lifecycle;
use crate::outcome::Apply;

/// `auth_check()` flag: the user must be the one in From, and in To of a REGISTER or PUBLISH.
const CHECK_IDENTITY: u32 = 1;
/// `auth_check()` flag: not for the methods that are forwarded.
const SKIP_FORWARDED: u32 = 2;

/// `is_subscriber()` flag: load no attributes.
const SKIP_ATTRIBUTES: u32 = 2;

/// Challenge flags, as stock.
const QOP_AUTH: u32 = 1;
const QOP_AUTH_INT: u32 = 2;
const NO_ERROR_REPLY: u32 = 4;
const STALE: u32 = 16;

/// What is done to a message whose credentials are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Authorization {
    place: Place,
    realm: String,
    /// What an Authentication-Info header repeats, when one is wanted.
    info: Option<String>,
    /// Whether the user is the one that the request says it is from.
    is_owner: bool,
}

/// Whether a subscriber was looked for, and what is done when there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Search {
    load_attributes: bool,
}

forms! {
    /// `cassandra_www_authenticate(realm, table[, method])`: checks the Authorization header, as `www_authenticate`.
    www_authenticate, www_authenticate_async: prepare_www;

    /// `cassandra_proxy_authenticate(realm, table)`: checks the Proxy-Authorization header, as `proxy_authenticate`.
    proxy_authenticate, proxy_authenticate_async: prepare_proxy;

    /// `cassandra_auth_check(realm, table, flags)`: as `auth_check`. Flag 1: who has authenticated must be the user in From, and
    /// in To of a REGISTER or PUBLISH, and in the Request-URI of a PUBLISH; with `use_domain` their domains must be the same,
    /// too. Flag 2: not for INVITE, BYE, PRACK, UPDATE and MESSAGE.
    auth_check, auth_check_async: prepare_check;

    /// `cassandra_is_subscriber(uri, table, flags)`: whether the URI is an enabled subscriber's, as `is_subscriber`. Flag 1 is
    /// there for the stock module's sake: a subscriber is always one of the URI's domain. Flag 2: load no attributes.
    ///
    /// Codes: 1 it is; -1 the URI is wrong; -2 it is not; -10 backend unavailable.
    is_subscriber, is_subscriber_async: prepare_search;
}

fn prepare_www(message: &mut Message<'_>, given: &[String], way: Way) -> Prepared {
    to_authenticate(credentials(message, argument(given, 0), Scheme::Www, argument(given, 2), way)?)
}

fn prepare_proxy(message: &mut Message<'_>, given: &[String], way: Way) -> Prepared {
    to_authenticate(credentials(message, argument(given, 0), Scheme::Proxy, "", way)?)
}

fn to_authenticate((request, authorization): (AuthRequest, Authorization)) -> Prepared {
    Ok((Operation::Authenticate(request.into()), Apply::Auth(authorization)))
}

/// The credentials to check and what their acceptance does, or the code when there is nothing to ask the backend. They are
/// checked for `method`, or when it is empty for the request's own.
pub(crate) fn credentials(
    message: &mut Message<'_>,
    realm: &str,
    scheme: Scheme,
    method: &str,
    way: Way,
) -> Result<(AuthRequest, Authorization), ScriptCode> {
    let settings = settings()?;
    let realm = without_prefix(realm);
    if realm.is_empty() {
        log_error!("auth", "the realm is empty");
        return Err(code::ERROR);
    }
    let (credentials, place, stale) = match present(message, realm, scheme, &settings.algorithms) {
        Presented::NotNeeded => return Err(code::OK),
        Presented::Refused(result) => return Err(result),
        Presented::Credentials { credentials, place, stale } => (credentials, place, stale),
    };
    if settings.check_digest_uri && !fits(&credentials.uri, &message.request_uri()) {
        return Err(code::ERROR);
    }
    let (user, form) = name_and_form(&credentials.username, realm);
    // A name that can be no subscriber's is an unknown user.
    let aor = Aor::new(user, realm).map_err(|_| code::USER_UNKNOWN)?;
    let info = settings.authentication_info.then(|| info(&credentials));
    let authorization = Authorization { place, realm: realm.to_owned(), info, is_owner: true };
    let request = AuthRequest {
        aor,
        form,
        stale,
        method: if method.is_empty() { message.method() } else { method.to_owned() },
        source: source_of(message, settings),
        may_wait: way == Way::Async,
        wants_proof: settings.authentication_info,
        credentials,
    };
    Ok((request, authorization))
}

fn settings() -> Result<&'static Authentication, ScriptCode> {
    lifecycle::module().map(|module| &module.config.authentication).ok_or(code::ERROR)
}

/// `user@realm` is the user of the realm. Any other `@` is part of a name, which is no user's unless it is stored so.
fn name_and_form<'n>(username: &'n str, realm: &str) -> (&'n str, Form) {
    match username.rsplit_once('@') {
        Some((user, domain)) if domain.eq_ignore_ascii_case(realm) => (user, Form::UserAtDomain),
        _ => (username, Form::User),
    }
}

fn source_of(message: &Message<'_>, settings: &Authentication) -> String {
    let named = settings.source.and_then(|variable| variable.text(message)).filter(|source| !source.is_empty());
    named.unwrap_or_else(|| source(message))
}

/// What Authentication-Info repeats of the credentials (RFC 7616 section 3.5).
fn info(credentials: &Credentials) -> String {
    match credentials.qop {
        None => String::new(),
        Some(_) => {
            let cnonce = credentials.cnonce.replace('\\', "\\\\").replace('"', "\\\"");
            format!(", qop=auth, cnonce=\"{cnonce}\", nc={}", credentials.nc)
        }
    }
}

fn prepare_check(message: &mut Message<'_>, given: &[String], way: Way) -> Prepared {
    let flags = flags(given, 2, "cassandra_auth_check")?;
    let method = message.method();
    if matches!(method.as_str(), "ACK" | "CANCEL") {
        return Err(code::OK.into());
    }
    let scheme = if method == "REGISTER" { Scheme::Www } else { Scheme::Proxy };
    let (request, mut authorization) = credentials(message, argument(given, 0), scheme, "", way)?;
    if flags & CHECK_IDENTITY != 0 {
        let skips_user =
            flags & SKIP_FORWARDED != 0 && matches!(method.as_str(), "INVITE" | "BYE" | "PRACK" | "UPDATE" | "MESSAGE");
        let username = (!skips_user).then(|| request.aor.username());
        authorization.is_owner = is_owner(message, &method, username, settings()?.use_domain);
    }
    to_authenticate((request, authorization))
}

fn flags(given: &[String], index: usize, function: &str) -> Result<u32, ScriptCode> {
    number::parse(argument(given, index)).map_err(|sentence| {
        log_error!(function, "the flags are wrong: {sentence}");
        code::ERROR
    })
}

/// Whether the request is from `username` (any user when there is none): From, for a REGISTER and a PUBLISH also To, for a
/// PUBLISH also the Request-URI.
fn is_owner(message: &Message<'_>, method: &str, username: Option<&str>, use_domain: bool) -> bool {
    let Some(from) = message.uri_of_from().ok().and_then(|uri| Aor::from_uri(&uri).ok()) else { return false };
    if username.is_some_and(|username| username != from.username()) {
        return false;
    }
    let same = |uri: Option<String>| {
        let other = uri.and_then(|uri| Aor::from_uri(&uri).ok());
        other.is_some_and(|other| {
            other.username() == from.username() && (!use_domain || other.domain() == from.domain())
        })
    };
    match method {
        "REGISTER" => same(message.uri_of_to().ok()),
        "PUBLISH" => same(message.uri_of_to().ok()) && same(Some(message.request_uri())),
        _ => true,
    }
}

impl Authorization {
    /// The same, but the user is not the one that the request is from.
    pub(crate) fn of_another(self) -> Self {
        Self { is_owner: false, ..self }
    }

    /// Applies right credentials to the message: the code of the function.
    pub(crate) fn accept(&self, message: &mut Message<'_>, grant: &Grant) -> ScriptCode {
        mark_authorized(message, self.place);
        load(message, &grant.attributes);
        if let (Some(info), Some(proof)) = (&self.info, &grant.proof) {
            self.prove(message, info, proof);
        }
        if self.is_owner { code::OK } else { code::USER_MISMATCH }
    }

    /// Adds an Authentication-Info header with a new nonce, as the stock `add_authinfo_hdr` does.
    fn prove(&self, message: &mut Message<'_>, info: &str, proof: &str) {
        let line = challenge(message, self.place.scheme, &self.realm, Algorithm::Md5, None, false).unwrap_or_default();
        let nonce = line.split_once("nonce=\"").and_then(|(_, rest)| rest.split_once('"')).map(|(nonce, _)| nonce);
        if let Some(nonce) = nonce {
            let value = format!("nextnonce=\"{nonce}\", rspauth=\"{proof}\"{info}");
            reply::add_header(message, "Authentication-Info", &value);
        }
    }
}

/// Applies a verdict: the code of the function.
pub(crate) fn apply_verdict(message: &mut Message<'_>, authorization: &Authorization, verdict: &Verdict) -> ScriptCode {
    match verdict {
        Verdict::Accepted(grant) => authorization.accept(message, grant),
        Verdict::StaleNonce => code::STALE_NONCE,
        Verdict::WrongPassword => code::INVALID_PASSWORD,
        Verdict::UnknownUser => code::USER_UNKNOWN,
    }
}

/// Sets the variables of `load_credentials`.
fn load(message: &mut Message<'_>, attributes: &[Option<String>]) {
    let Ok(settings) = settings() else { return };
    for (Loaded { column, variable }, value) in settings.loaded.iter().zip(attributes) {
        let set = match value {
            None => variable.set_null(message),
            Some(number) if column.is_number() => variable.set_number(message, number.parse().unwrap_or_default()),
            Some(text) => variable.set_text(message, text),
        };
        if !set {
            log_error!("load_credentials", "the variable of {column:?} cannot be set here");
        }
    }
}

fn prepare_search(_: &mut Message<'_>, given: &[String], _: Way) -> Prepared {
    let flags = flags(given, 2, "cassandra_is_subscriber")?;
    let uri = argument(given, 0);
    if SipUri::parse(uri).is_err() {
        log_error!("cassandra_is_subscriber", "'{uri}' is no SIP URI");
        return Err(code::ERROR.into());
    }
    // A URI without user is nobody's.
    let aor = Aor::from_uri(uri).map_err(|_| NOT_A_SUBSCRIBER)?;
    let search = Search { load_attributes: flags & SKIP_ATTRIBUTES == 0 };
    Ok((Operation::Subscriber(aor), Apply::Subscriber(search)))
}

/// `is_subscriber`: there is no such subscriber.
const NOT_A_SUBSCRIBER: ScriptCode = -2;

/// Applies the answer to a search: the code of the function.
pub(crate) fn apply_search(message: &mut Message<'_>, search: Search, found: Option<&[Option<String>]>) -> ScriptCode {
    let Some(attributes) = found else { return NOT_A_SUBSCRIBER };
    if search.load_attributes {
        load(message, attributes);
    }
    code::OK
}

/// `cassandra_www_challenge(realm, flags)`: answers 401 with a WWW-Authenticate for each algorithm of `algorithms`, as
/// `www_challenge` does for one.
///
/// Flags: 1 qop auth, 2 qop auth-int, 4 no 500 when it fails, 16 stale. The SHA algorithms have a qop always (RFC 8760).
/// Codes: 1 answered; -1 wrong parameter; -2 no challenge can be made; -3 no answer can be sent; -4 nor the 500.
pub(crate) fn www_challenge(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    answer_challenges(message, args, Scheme::Www)
}

/// `cassandra_proxy_challenge(realm, flags)`: the same with 407 and Proxy-Authenticate.
pub(crate) fn proxy_challenge(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    answer_challenges(message, args, Scheme::Proxy)
}

/// `cassandra_auth_challenge(realm, flags)`: 401 for a REGISTER, 407 for the others.
pub(crate) fn auth_challenge(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    let scheme = if message.method() == "REGISTER" { Scheme::Www } else { Scheme::Proxy };
    answer_challenges(message, args, scheme)
}

fn answer_challenges(message: &mut Message<'_>, args: &Args, scheme: Scheme) -> ScriptCode {
    let realm = args.text(0);
    let (Ok(flags), Ok(settings)) = (flags(args.all(), 1, "challenge"), settings()) else { return code::ERROR };
    if realm.is_empty() {
        log_error!("challenge", "the realm is empty");
        return code::ERROR;
    }
    let lines: Option<Vec<String>> = settings
        .algorithms
        .iter()
        .map(|algorithm| challenge(message, scheme, realm, algorithm, qop(flags, algorithm), flags & STALE != 0))
        .collect();
    match lines {
        Some(lines) if lines.iter().all(|line| reply::add_line(message, line)) => {
            let (status, reason) = scheme.challenge();
            if reply::send(message, status, reason) { code::OK } else { -3 }
        }
        _ if flags & NO_ERROR_REPLY != 0 || reply::send(message, 500, "Internal Server Error") => -2,
        _ => -4,
    }
}

fn qop(flags: u32, algorithm: Algorithm) -> Option<Qop> {
    match algorithm {
        _ if flags & QOP_AUTH_INT != 0 => Some(Qop::AuthInt),
        _ if flags & QOP_AUTH != 0 => Some(Qop::Auth),
        Algorithm::Md5 => None,
        Algorithm::Sha256 | Algorithm::Sha512_256 => Some(Qop::Auth),
    }
}
