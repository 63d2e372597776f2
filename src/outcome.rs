//! What an answer does to the message, at once for a plain call and in the resumed route for an async one.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use bridge::Metrics;
use bridge::metrics::count;
use bridge::protocol::{Completion, CompletionResult, Continuation, Operation, Outcome, Unavailable, decode, encode};
use domain::Aor;
use serde::{Deserialize, Serialize};

use crate::alias;
use crate::auth::{self, Authorization, Search};
use crate::bridge_client::{self, Submitted};
use crate::calls;
use crate::host::auth::code;
use crate::host::command::{Args, ResumeIn, ScriptCode};
use crate::host::log::{self, log_error};
use crate::host::message::{Branch, Message};
use crate::host::tm::{self, Transaction};
use crate::host::{kemi, reply, shared};
use crate::location::contacts::{self, Match};
use crate::location::lookup;
use crate::location::save::{self, Answering};
use crate::variables::{self, Left};

/// Backend unavailable: nothing is known. Never confused with "no such user" or "not registered".
pub(crate) const UNAVAILABLE: ScriptCode = -10;

/// How an answer is applied to its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Apply {
    /// Only the return code matters.
    #[cfg(feature = "fault-injection")]
    Nothing,
    /// Credentials were checked.
    Auth(Authorization),
    /// A subscriber was looked for.
    Subscriber(Search),
    /// A REGISTER was applied, with its credentials checked in the same trip when `auth` is there.
    Save {
        /// What right credentials do.
        auth: Option<Authorization>,
        /// What becomes of the answer.
        answering: Answering,
    },
    /// The request goes to the bindings found.
    Lookup {
        /// Whether a GRUU was looked up.
        gruu: bool,
    },
    /// The request gets a branch for each binding found.
    LookupToDset,
    /// The same for its branches.
    LookupBranches {
        /// All branches of the request.
        branches: Vec<Branch>,
    },
    /// Somebody's bindings are compared with what is wanted.
    Registered(Match),
    /// Bindings were removed.
    Unregister {
        /// Whether one was meant, that should have been there.
        one: bool,
    },
    /// Bindings are kept for a variable.
    Fetch {
        /// Whose.
        aor: Aor,
        /// Its profile.
        profile: String,
    },
    /// Bindings are shown in XAVPs.
    LookupXavp {
        /// Whose.
        aor: Aor,
        /// Name of the one for all of them.
        record: String,
        /// Name of those for each.
        contact: String,
    },
    /// Somebody's calls were counted.
    CallsCount,
    /// An alias was looked for.
    Alias(alias::Use),
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
        Submitted::Answered => finish(code::ERROR, None),
        Submitted::Cancelled => {
            answer_cancelled(message);
            finish(code::ERROR, None)
        }
        Submitted::Unavailable(reason) => {
            undo(message, how);
            finish(UNAVAILABLE, Some(reason))
        }
    }
}

/// Answers an INVITE whose CANCEL another process is just handling: should this route end before that has answered it, tm would
/// answer 500. Whoever comes second is told that the request has its answer (RFC 3261 section 9.2).
fn answer_cancelled(message: &mut Message<'_>) {
    reply::send(message, 487, "Request Terminated");
}

/// Gives the message back what was taken from it to ask.
fn undo(message: &mut Message<'_>, how: &Apply) {
    if let Apply::LookupBranches { branches } = how {
        lookup::keep_branches(message, branches);
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
    log::begin(message);
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
    match (how, outcome) {
        (how, Outcome::Unavailable(reason)) => {
            undo(message, how);
            finish(UNAVAILABLE, Some(reason))
        }
        (
            Apply::Auth(authorization) | Apply::Save { auth: Some(authorization), .. },
            Outcome::Authenticated(verdict),
        ) => finish(auth::apply_verdict(message, authorization, &verdict), None),
        (Apply::Subscriber(search), Outcome::Subscriber(found)) => {
            finish(auth::apply_search(message, *search, found.as_deref()), None)
        }
        (Apply::Save { auth, answering }, Outcome::Saved(registered)) => {
            finish(save::apply_saved(message, auth.as_ref(), *answering, registered), None)
        }
        (Apply::Save { auth, answering }, Outcome::Rejected(rejection)) => {
            let result = save::apply_rejection(message, auth.as_ref(), *answering, &rejection);
            finish_with_status(result, rejection.status)
        }
        (Apply::Lookup { gruu }, Outcome::Found(found)) => {
            let result = lookup::apply_lookup(message, &found);
            finish_with_status(result, lookup::status_of(result, *gruu, &found))
        }
        (Apply::LookupToDset, Outcome::Found(found)) => {
            let result = lookup::apply_lookup_to_dset(message, &found);
            finish_with_status(result, lookup::status_of(result, false, &found))
        }
        (Apply::LookupBranches { branches }, Outcome::Found(found)) => {
            let result = lookup::apply_lookup_branches(message, branches, &found);
            finish_with_status(result, lookup::status_of(result, false, &found))
        }
        (Apply::Registered(wanted), Outcome::Contacts(bindings)) => {
            finish(contacts::apply_registered(wanted, &bindings), None)
        }
        (Apply::Unregister { one }, Outcome::Removed(removed)) => {
            finish(contacts::apply_unregister(*one, removed), None)
        }
        (Apply::Fetch { aor, profile }, Outcome::Contacts(bindings)) => {
            finish(contacts::apply_fetch(aor, profile, bindings), None)
        }
        (Apply::LookupXavp { aor, record, contact }, Outcome::Contacts(bindings)) => {
            finish(contacts::apply_lookup_xavp(aor, record, contact, &bindings), None)
        }
        (Apply::CallsCount, Outcome::CallsCounted { calls, max_calls }) => {
            let result = calls::apply_count(calls, max_calls);
            variables::leave(Left { code: result, calls: Some((calls, max_calls)), ..Left::default() });
            result
        }
        (Apply::Alias(what), Outcome::Alias(target)) => {
            let result = alias::apply(message, *what, target.as_ref());
            variables::leave(Left { code: result, aor: target.map(|aor| aor.to_string()), ..Left::default() });
            result
        }
        // An answer to another question: a bug, that the caller takes for an error.
        _ => finish(code::ERROR, None),
    }
}

/// Leaves the code, and why the backend was unavailable, where the script can read it.
pub(crate) fn finish(result: ScriptCode, unavailable: Option<Unavailable>) -> ScriptCode {
    if let (Some(reason), Some(metrics)) = (unavailable, shared::metrics()) {
        count_unavailable(metrics, reason);
    }
    let status = if unavailable.is_some() { 503 } else { 0 };
    variables::leave(Left { code: result, unavailable, status, ..Left::default() });
    result
}

/// Leaves the code, and the SIP status that it stands for (0 for none).
pub(crate) fn finish_with_status(result: ScriptCode, status: u16) -> ScriptCode {
    variables::leave(Left { code: result, status, ..Left::default() });
    result
}

fn count_unavailable(metrics: &Metrics, reason: Unavailable) {
    count(&metrics.unavailable);
    if reason == Unavailable::Timeout {
        count(&metrics.timeouts);
    }
}
