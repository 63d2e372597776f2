//! Saving: `cassandra_save`, `cassandra_auth_save` and what belongs to their answers.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use bridge::protocol::{Operation, Registered};
use domain::number;
use domain::register::{Contacts, OptionTags, Register, Rejection, Saved};
use domain::token::is_token;
use serde::{Deserialize, Serialize};

use super::{aor_of, canonical, rules};
use crate::auth::{Authorization, credentials};
use crate::bridge_client::Way;
use crate::config::registrar::Registrar;
use crate::forms::{Failed, Prepared, forms};
use crate::host::auth::{Scheme, code};
use crate::host::command::{Args, ScriptCode, argument};
use crate::host::log::{log_error, log_warning};
use crate::host::message::{Header, Malformed, Message};
use crate::host::{reply, xavp};
use crate::outcome::{Apply, finish};

/// `save()` flag: do not answer.
const NO_REPLY: u32 = 0x02;
/// `save()` flag: keep only the contacts of this request.
const REPLACE: u32 = 0x04;
/// `save()` flag: do not shorten expiries at random.
const EXACT_EXPIRY: u32 = 0x08;
/// `save()` flag, with [`NO_REPLY`]: put the answer's headers where a reply of the script's takes them.
const PREPARE_REPLY: u32 = 0x10;

/// `cassandra_auth_save`: the registrar refused the REGISTER and answered it. `-1` and `-2` are the credentials' codes there.
const REGISTER_REFUSED: ScriptCode = -11;
/// `cassandra_auth_save`: too many contacts; answered.
const TOO_MANY_CONTACTS: ScriptCode = -12;

/// What becomes of the answer to a REGISTER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answering {
    /// It is sent.
    Send,
    /// Its headers are added to the reply that the script will send.
    Prepare,
    /// It is kept for `cassandra_reg_send_reply`.
    Keep,
}

impl Answering {
    fn by_flags(flags: u32) -> Self {
        match (flags & NO_REPLY != 0, flags & PREPARE_REPLY != 0) {
            (false, _) => Self::Send,
            (true, true) => Self::Prepare,
            (true, false) => Self::Keep,
        }
    }
}

/// An answer to a REGISTER.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    reason: String,
    headers: Vec<(String, String)>,
}

/// What names a request: Call-ID and CSeq.
type Request = (String, u32);

fn request(message: &Message<'_>) -> Option<Request> {
    Some((message.call_id().ok()?, message.cseq().ok()?))
}

thread_local! {
    /// The answer that the last save of this process kept, and the request that it is for.
    static KEPT: RefCell<Option<(Request, Answer)>> = const { RefCell::new(None) };
}

forms! {
    /// `cassandra_save(domain[, flags[, uri]])`: applies the REGISTER to the bindings of its To (or of `uri`) and answers it, as
    /// `save` (RFC 3261 section 10.3).
    ///
    /// Codes: 1 inserted, 2 updated, 3 removed, 4 listed; -1 refused, -2 too many contacts (both answered); -10 backend
    /// unavailable: nothing is stored and nothing answered.
    save, save_async: prepare_save;

    /// `cassandra_auth_save(realm[, flags])`: checks the credentials of a REGISTER, that they are the To user's own, and saves,
    /// in one trip.
    ///
    /// Codes of `cassandra_auth_check` (nothing answered), then 1 to 4 of `cassandra_save`; -11 refused by the registrar, -12
    /// too many contacts (both answered).
    auth_save, auth_save_async: prepare_auth_save;
}

/// `cassandra_reg_send_reply()`: sends the answer that a save with flag 0x02 kept, as `reg_send_reply`.
///
/// Codes: 1; -1 when there is none or it cannot be sent.
pub(crate) fn send_kept_reply(message: &mut Message<'_>, _: &Args) -> ScriptCode {
    let kept = KEPT.take().filter(|(of, _)| Some(of) == request(message).as_ref());
    let Some((_, answer)) = kept else {
        log_error!("reg_send_reply", "there is no answer to send: call cassandra_save with flag 0x02 before");
        return finish(code::ERROR, None);
    };
    finish(if send(message, &answer) { code::OK } else { code::ERROR }, None)
}

/// `cassandra_add_sock_hdr(name)`: adds a header that names the local socket which received the message, as `add_sock_hdr`.
///
/// Codes: 1; -1 on an error.
pub(crate) fn add_sock_hdr(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    let (name, socket) = (args.text(0).to_owned(), message.socket(false));
    if !is_token(&name) {
        log_error!("add_sock_hdr", "'{name}' is no header name");
        return finish(code::ERROR, None);
    }
    finish(if message.add_header(&name, &socket).is_ok() { code::OK } else { code::ERROR }, None)
}

fn prepare_save(message: &mut Message<'_>, given: &[String], _: Way) -> Prepared {
    let (register, answering) = prepare(message, argument(given, 1), argument(given, 2), code::ERROR)?;
    Ok((Operation::Save(register.into()), Apply::Save { auth: None, answering }))
}

fn prepare_auth_save(message: &mut Message<'_>, given: &[String], way: Way) -> Prepared {
    let (auth, authorization) = credentials(message, argument(given, 0), Scheme::Www, "", way)?;
    let (register, answering) = prepare(message, argument(given, 1), "", REGISTER_REFUSED)?;
    if canonical(auth.aor.clone()) != register.aor {
        // Who it is comes first: a mismatch is told to those who have authenticated.
        return Ok((Operation::Authenticate(auth.into()), Apply::Auth(authorization.of_another())));
    }
    let operation = Operation::AuthSave(auth.into(), register.into());
    Ok((operation, Apply::Save { auth: Some(authorization), answering }))
}

/// The REGISTER as data, and what becomes of its answer. What cannot be one is answered 400 here, and `refused` to the script.
fn prepare(
    message: &mut Message<'_>,
    flags: &str,
    uri: &str,
    refused: ScriptCode,
) -> Result<(Register, Answering), Failed> {
    let rules = rules().ok_or(code::ERROR)?;
    let flags = number::parse(flags).map_err(|sentence| {
        log_error!("save", "the flags are wrong: {sentence}");
        code::ERROR
    })?;
    if message.method() != "REGISTER" {
        log_error!("save", "a {} is no REGISTER", message.method());
        return Err(code::ERROR.into());
    }
    let answering = Answering::by_flags(flags);
    match copy_register(message, rules, uri, flags) {
        Ok(register) => Ok((register, answering)),
        Err(Malformed(reason)) => {
            let rejection = Rejection::new(400, reason);
            refuse(message, &rejection, answering);
            Err(Failed { code: refused, status: rejection.status })
        }
    }
}

fn copy_register(message: &Message<'_>, rules: &Registrar, uri: &str, flags: u32) -> Result<Register, Malformed> {
    message.parse()?;
    let owner = if uri.is_empty() { message.uri_of_to()? } else { uri.to_owned() };
    let tags = |header, keep_others| OptionTags::parse(message.headers(header).iter().map(String::as_str), keep_others);
    Ok(Register {
        aor: aor_of(&owner).map_err(|_| Malformed("the To URI names no user"))?,
        request_uri: if uri.is_empty() { message.original_uri() } else { String::new() },
        call_id: message.call_id()?,
        cseq: message.cseq()?,
        expires: message.expires(),
        contacts: with_rules_of_the_script(message.contacts()?, rules),
        path: message.headers(Header::Path).join(","),
        supported: tags(Header::Supported, false),
        required: tags(Header::Require, true),
        first_hop: message.is_first_hop(),
        source: message.source_uri(),
        received: rules.received(message),
        user_agent: message.headers(Header::UserAgent).into_iter().next().unwrap_or_default(),
        socket: rules.socket(message),
        cflags: message.branch_flags(),
        replace: flags & REPLACE != 0,
        attributes: if rules.xavp_contact.is_empty() { Vec::new() } else { xavp::children_of(&rules.xavp_contact) },
        policy: rules.policy(flags & EXACT_EXPIRY != 0),
    })
}

/// The `q` and `expires` that the script sets for this request (`xavp_cfg`) beat those of the contacts; removing stays removing.
fn with_rules_of_the_script(contacts: Contacts, rules: &Registrar) -> Contacts {
    let Contacts::List(mut contacts) = contacts else { return contacts };
    let q = rules.for_request("q").and_then(|q| i16::try_from(q).ok()).filter(|q| (0..=1000).contains(q));
    let expires = rules.for_request("expires");
    for contact in &mut contacts {
        contact.q = q.or(contact.q);
        if contact.expires != Some(0) {
            contact.expires = expires.or(contact.expires);
        }
    }
    Contacts::List(contacts)
}

/// Applies the answer of a REGISTER that was stored.
pub(crate) fn apply_saved(
    message: &mut Message<'_>,
    auth: Option<&Authorization>,
    answering: Answering,
    registered: Registered,
) -> ScriptCode {
    if let (Some(authorization), Some(grant)) = (auth, &registered.grant) {
        authorization.accept(message, grant);
    }
    let answer = Answer { status: 200, reason: "OK".to_owned(), headers: registered.headers };
    if !give(message, answer, answering) {
        log_warning!("save", "the binding is stored but the reply could not be sent");
    }
    match registered.saved {
        Saved::Inserted => 1,
        Saved::Updated => 2,
        Saved::Deleted => 3,
        Saved::Queried => 4,
    }
}

/// Applies the answer of a REGISTER that was refused.
pub(crate) fn apply_rejection(
    message: &mut Message<'_>,
    auth: Option<&Authorization>,
    answering: Answering,
    rejection: &Rejection,
) -> ScriptCode {
    refuse(message, rejection, answering);
    match (auth, rejection.script_code) {
        (Some(_), -2) => TOO_MANY_CONTACTS,
        (Some(_), _) => REGISTER_REFUSED,
        (None, plain) => plain,
    }
}

fn refuse(message: &mut Message<'_>, rejection: &Rejection, answering: Answering) {
    let Rejection { status, reason, headers, .. } = rejection.clone();
    if !give(message, Answer { status, reason, headers }, answering) {
        log_warning!("save", "the REGISTER is refused but the reply could not be sent");
    }
}

fn give(message: &mut Message<'_>, answer: Answer, answering: Answering) -> bool {
    match answering {
        Answering::Send => send(message, &answer),
        Answering::Prepare => add_headers(message, &answer),
        Answering::Keep => {
            KEPT.set(request(message).map(|request| (request, answer)));
            true
        }
    }
}

fn send(message: &mut Message<'_>, answer: &Answer) -> bool {
    add_headers(message, answer) && reply::send_without_routes(message, answer.status, &answer.reason)
}

fn add_headers(message: &mut Message<'_>, answer: &Answer) -> bool {
    answer.headers.iter().all(|(name, value)| reply::add_header(message, name, value))
}
