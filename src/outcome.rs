//! What an answer does to the message, at once for a plain call and in the resumed route for an async one.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use bridge::Metrics;
use bridge::metrics::count;
use bridge::protocol::{
    Completion, CompletionResult, Continuation, Lookup, Operation, Outcome, Registered, Unavailable, Verdict, decode,
    encode,
};
use domain::Binding;
use domain::lookup::first_path_uri;
use domain::register::{Rejection, Saved};
use serde::{Deserialize, Serialize};

use crate::bridge_client::{self, Submitted};
use crate::host::auth::{Scheme, code, mark_authorized};
use crate::host::command::{Args, ResumeIn, ScriptCode};
use crate::host::log::{log_error, log_warning};
use crate::host::message::{Header, Message, max_branches};
use crate::host::tm::{self, Transaction};
use crate::host::{kemi, reply, shared};
use crate::variables;

/// Backend unavailable: nothing is known. Never confused with "no such user" or "not registered".
pub(crate) const UNAVAILABLE: ScriptCode = -10;

/// `cassandra_auth_save`: the registrar refused the REGISTER and answered it. `-1` and `-2` are the credentials' codes there.
pub(crate) const REGISTER_REFUSED: ScriptCode = -11;
/// `cassandra_auth_save`: too many contacts; answered.
pub(crate) const TOO_MANY_CONTACTS: ScriptCode = -12;

/// How an answer is applied to its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Apply {
    /// Only the return code matters.
    #[cfg(feature = "fault-injection")]
    Nothing,
    /// Credentials for this realm were checked.
    Auth {
        /// The realm.
        realm: String,
        /// Which header carried them.
        scheme: Scheme,
    },
    /// A REGISTER was applied, with its credentials checked in the same trip when `auth` is there.
    Save {
        /// Realm of the credentials.
        auth: Option<String>,
        /// Whether to answer the REGISTER.
        reply: bool,
    },
    /// Bindings were looked up.
    Lookup,
}

/// Asks for `operation`, waits, applies the answer; the plain form of every function.
pub(crate) fn ask(message: &mut Message<'_>, operation: Operation, how: &Apply) -> ScriptCode {
    let answer = bridge_client::call(operation);
    apply(message, how, answer)
}

/// Suspends the transaction and asks for `operation`; the async form of every function.
///
/// Returns 0 when it is suspended, otherwise a negative code: the route or the callback is not run then.
pub(crate) fn ask_async(
    message: &mut Message<'_>,
    operation: Operation,
    how: &Apply,
    resume_in: ResumeIn<'_>,
) -> ScriptCode {
    let continuation = match find_continuation(resume_in) {
        Ok(continuation) => continuation,
        Err(sentence) => {
            log_error!("async", "{sentence}");
            return code::ERROR;
        }
    };
    let Ok(context) = encode(how) else { return code::ERROR };
    match bridge_client::submit(message, operation, continuation, context) {
        Submitted::Suspended => 0,
        Submitted::Over => finish(code::ERROR, None),
        Submitted::Unavailable(reason) => finish(UNAVAILABLE, Some(reason)),
    }
}

fn find_continuation(resume_in: ResumeIn<'_>) -> Result<Continuation, String> {
    match resume_in {
        ResumeIn::Route(name) => match tm::find_route(name) {
            Some(index) => Ok(Continuation::Route(index)),
            None => Err(format!("there is no route[{name}] to resume in")),
        },
        ResumeIn::Callback("") => Err("the name of the function to resume in is empty".to_owned()),
        ResumeIn::Callback(name) if kemi::has_engine() => Ok(Continuation::Callback(name.to_owned())),
        ResumeIn::Callback(name) => {
            Err(format!("{name} cannot be resumed in: the routing script is no KEMI script (core parameter cfgengine)"))
        }
    }
}

/// An answer on its way to its message.
struct Pending {
    how: Apply,
    outcome: Outcome,
    /// The KEMI function that follows; a route follows by itself.
    callback: Option<String>,
}

thread_local! {
    /// The answer of the transaction that is being continued, until its script goes on.
    static PENDING: RefCell<Option<Pending>> = const { RefCell::new(None) };
}

/// Continues a suspended transaction with its answer. Returns whether it was still there.
pub(crate) fn resume(completion: Completion) -> bool {
    let outcome = match completion.result {
        CompletionResult::Inline(outcome) => outcome,
        CompletionResult::Parked(id) => bridge_client::call(Operation::Claim(id)),
    };
    let ticket = completion.ticket;
    let Ok(how) = decode::<Apply>(&ticket.context) else { return false };
    let (route, callback) = match ticket.continuation {
        Continuation::Route(index) => (Some(index), None),
        Continuation::Callback(name) => (None, Some(name)),
    };
    PENDING.set(Some(Pending { how, outcome, callback }));
    let resumed = tm::resume(
        Transaction { hash_index: ticket.hash_index, label: ticket.label },
        c"cassandra_apply_answer",
        route,
    );
    PENDING.take();
    resumed
}

/// The first action of every resumed route: applies the pending answer, so that the route finds it in its message and in
/// `$cassandra(rc)` and `$rc`. For a KEMI script it is the only action, and calls the script's function.
pub(crate) fn apply_pending(message: &mut Message<'_>, _: &Args) -> ScriptCode {
    let Some(pending) = PENDING.take() else {
        log_error!("cassandra_apply_answer", "there is no answer to apply: this function is not for scripts");
        return code::ERROR;
    };
    let result = apply(message, &pending.how, pending.outcome);
    match pending.callback {
        None => result,
        Some(name) => {
            kemi::run_callback(message, &name);
            code::OK
        }
    }
}

/// Applies an answer and returns the function's code.
pub(crate) fn apply(message: &mut Message<'_>, how: &Apply, outcome: Outcome) -> ScriptCode {
    match outcome {
        Outcome::Unavailable(reason) => finish(UNAVAILABLE, Some(reason)),
        Outcome::Authenticated(verdict) => finish(apply_verdict(message, how, verdict), None),
        Outcome::Saved(registered) => finish(apply_saved(message, how, &registered), None),
        Outcome::Rejected(rejection) => finish(apply_rejection(message, how, &rejection), None),
        Outcome::Found(found) => finish(apply_lookup(message, found), None),
        // Answers to operators, not to script functions.
        Outcome::Contacts(_) | Outcome::Removed(_) => finish(code::ERROR, None),
    }
}

/// Leaves the code, and why the backend was unavailable, where the script can read it.
pub(crate) fn finish(result: ScriptCode, unavailable: Option<Unavailable>) -> ScriptCode {
    if let (Some(reason), Some(metrics)) = (unavailable, shared::metrics()) {
        count_unavailable(metrics, reason);
    }
    variables::set_result(result, unavailable);
    result
}

fn count_unavailable(metrics: &Metrics, reason: Unavailable) {
    count(&metrics.unavailable);
    if reason == Unavailable::Timeout {
        count(&metrics.timeouts);
    }
}

fn apply_verdict(message: &mut Message<'_>, how: &Apply, verdict: Verdict) -> ScriptCode {
    match verdict {
        Verdict::Accepted => {
            if let Apply::Auth { realm, scheme } = how {
                mark_authorized(message, realm, *scheme);
            }
            code::OK
        }
        Verdict::WrongPassword => code::INVALID_PASSWORD,
        Verdict::UnknownUser => code::USER_UNKNOWN,
    }
}

fn apply_saved(message: &mut Message<'_>, how: &Apply, registered: &Registered) -> ScriptCode {
    let Apply::Save { auth, reply } = how else { return code::ERROR };
    if let Some(realm) = auth {
        mark_authorized(message, realm, Scheme::Www);
    }
    if *reply && !answer_register(message, registered) {
        log_warning!("save", "the binding is stored but the reply could not be sent");
    }
    match registered.saved {
        Saved::Inserted => 1,
        Saved::Updated => 2,
        Saved::Deleted => 3,
        Saved::Queried => 4,
    }
}

fn answer_register(message: &mut Message<'_>, registered: &Registered) -> bool {
    let contacts = &registered.contacts;
    let mut complete = contacts.is_empty() || reply::add_header(message, "Contact", contacts);
    if registered.echo_path {
        let path = message.headers(Header::Path).join(", ");
        complete &= reply::add_header(message, "Path", &path);
    }
    complete && reply::send(message, 200, "OK")
}

fn apply_rejection(message: &mut Message<'_>, how: &Apply, rejection: &Rejection) -> ScriptCode {
    if matches!(how, Apply::Save { reply: true, .. }) {
        for (name, value) in &rejection.headers {
            reply::add_header(message, name, value);
        }
        reply::send(message, rejection.status, &rejection.reason);
    }
    match (how, rejection.script_code) {
        (Apply::Save { auth: Some(_), .. }, -2) => TOO_MANY_CONTACTS,
        (Apply::Save { auth: Some(_), .. }, _) => REGISTER_REFUSED,
        (_, plain) => plain,
    }
}

fn apply_lookup(message: &mut Message<'_>, found: Lookup) -> ScriptCode {
    match found {
        Lookup::Bindings(bindings) => set_destinations(message, &bindings),
        Lookup::NotRegistered => -1,
        Lookup::MethodNotAllowed => -2,
    }
}

/// The first binding becomes the target, the others branches, as many as a request may have.
fn set_destinations(message: &mut Message<'_>, bindings: &[Binding]) -> ScriptCode {
    let Some((first, others)) = bindings.split_first() else { return -1 };
    if let Err(refused) = message.set_target(first, next_hop(first)) {
        log_error!("lookup", "the binding {} cannot be used: {}", first.contact, refused.0);
        return -3;
    }
    // A suspended transaction has used one branch, and may be suspended once more.
    let room = max_branches().saturating_sub(3);
    if others.len() > room {
        log_warning!("lookup", "{} bindings are left out: raise max_branches (up to 30)", others.len() - room);
    }
    for binding in others.iter().take(room) {
        if let Err(refused) = message.add_branch(binding, next_hop(binding)) {
            log_warning!("lookup", "the binding {} is left out: {}", binding.contact, refused.0);
        }
    }
    1
}

/// Where a request to a binding goes first: its Path's first hop, else where the REGISTER came from, else (`""`) its contact.
fn next_hop(binding: &Binding) -> &str {
    first_path_uri(&binding.path).unwrap_or(&binding.received)
}
