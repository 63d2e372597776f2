//! Script functions for calls, and what the module dialog tells of them: each event goes to the I/O process, which sees to the
//! rest. Nothing here waits for it.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bridge::metrics::count;
use bridge::protocol::{CallParty, Operation};
use domain::call::{EventId, event};
use domain::{Aor, CallEvent};

use crate::host::auth::code;
use crate::host::command::{Args, ScriptCode};
use crate::host::dialog::{Dialog, Moment, Side};
use crate::host::log::log_error;
use crate::host::message::Message;
use crate::host::pv::{Attribute, Named, Value};
use crate::host::{shared, xavp};
use crate::outcome::{self, Apply};
use crate::{bridge_client, lifecycle};

/// Longest name of an event or an attribute in bytes.
const LONGEST_NAME: usize = 64;

/// What [`is_name`] wants.
const NAMES_HAVE: &str = "1 to 64 letters, digits, dashes, dots, colons and underscores";

/// Texts of attributes that are remembered: a KEMI script may make ever new ones.
const MOST_PARSED: usize = 256;

/// What Kamailio makes of a variable without value where a text is wanted.
const NULL: &str = "<null>";

/// The XAVP that holds a call's attributes for a transaction.
const ATTRIBUTES: &str = "cassandra_call";

/// The variable of a dialog that holds the call's id where that is not the Call-ID.
const CALL_ID_OF_DIALOG: &str = "cassandra_call_id";

/// The variable of a dialog that is set where it is a leg that the call was not begun with.
const FURTHER_LEG: &str = "cassandra_further_leg";

/// The variable of a dialog by which the script says, before the dialog expires, that it was lost, and why.
const LOST_DIALOG: &str = "call_lost";

/// The status code of an INVITE that was cancelled (RFC 3261 section 21.4.25).
const CANCELLED: u16 = 487;

/// A part of an event.
type Part = fn(&mut CallEvent) -> &mut String;

/// What a message tells by itself: a variable of Kamailio, and where it goes.
const TOLD: [(&str, Part); 8] = [
    ("$ft", |event| &mut event.from_tag),
    ("$tt", |event| &mut event.to_tag),
    ("$rm", |event| &mut event.method),
    ("$fu", |event| &mut event.from_uri),
    ("$tu", |event| &mut event.to_uri),
    ("$ru", |event| &mut event.r_uri),
    ("$ua", |event| &mut event.user_agent),
    ("$du", |event| &mut event.destination),
];

/// Names of the variables `$cassandra_call(name)`, by number.
static NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    static NAMER: Namer = Namer::default();
    /// Looked up once: a variable of Kamailio by its name.
    static VARIABLES: Vec<Option<Named>> = TOLD.iter().map(|(name, _)| Named::find(name)).collect();
    /// Attributes by the text that they are written as.
    static PARSED: RefCell<HashMap<String, Rc<[Attribute]>>> = RefCell::default();
}

/// `cassandra_call_event(event[, attributes])`: records that something happened to the call that the message belongs to.
///
/// Returns 1; -1 for an event without a name or a message without Call-ID. It waits for nothing: whether the event could be
/// taken the statistics tell (`call_events`, `call_events_accepted`, `call_events_dropped`).
pub(crate) fn call_event(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    let (name, attributes) = (args.text(0), args.text(1));
    if !is_name(name) {
        log_error!("cassandra_call_event", "'{name}' is no name of an event: it has {NAMES_HAVE}");
        return code::ERROR;
    }
    match capture(message, name, attributes) {
        Ok(event) => {
            note(event);
            code::OK
        }
        Err(sentence) => {
            log_error!("cassandra_call_event", "{sentence}");
            code::ERROR
        }
    }
}

/// `cassandra_call_attr(name, value)`: every event of the call that is recorded from now on in this transaction has the attribute;
/// `$cassandra_call(name)` is its value. Without a value (`$null`) nothing changes.
///
/// Returns 1; -1 for an attribute without a name.
pub(crate) fn call_attribute(_: &mut Message<'_>, args: &Args) -> ScriptCode {
    let (name, value) = (args.text(0), args.text(1));
    if !is_name(name) {
        log_error!("cassandra_call_attr", "'{name}' is no name of an attribute: it has {NAMES_HAVE}");
        return code::ERROR;
    }
    if value != NULL {
        xavp::extend(ATTRIBUTES, &[(name, xavp::Value::Text(value))]);
    }
    code::OK
}

/// The number of the variable `$cassandra_call(name)`.
///
/// # Errors
/// A sentence, when the name is empty.
pub(crate) fn parse_variable(name: &str) -> Result<i32, String> {
    if name.is_empty() {
        return Err("name an attribute, or 'id'".to_owned());
    }
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    });
    i32::try_from(known).map_err(|_| "there are too many names".to_owned())
}

/// Reads `$cassandra_call(id)`, what the legs of the call have in common, or an attribute of the call.
pub(crate) fn read_variable(message: &Message<'_>, number: i32, _index: i32) -> Value {
    let names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(name) = usize::try_from(number).ok().and_then(|index| names.get(index)) else { return Value::Null };
    let value = if name == "id" { name_of(message).ok().map(|(id, _)| id) } else { xavp::text_of(ATTRIBUTES, name) };
    value.map_or(Value::Null, Value::Owned)
}

/// `cassandra_calls_count(kind, key)`: how many calls a `subscriber` (a URI or `user@domain`), calling and called, or an `account`
/// has on all nodes; `$cassandra(calls)` tells it, `$cassandra(max_calls)` how many the subscriber may have (0: no limit).
///
/// Returns 1; [`LIMIT_REACHED`] when the subscriber has as many as it may; -1 for another kind or no key; -10 when Cassandra does
/// not tell. Calls that begin or end just now may be missing, or be counted still.
pub(crate) fn calls_count(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    match counted_party(args) {
        Some(party) => outcome::ask(message, Operation::CountCalls(party), &Apply::CallsCount),
        None => outcome::finish(code::ERROR, None),
    }
}

/// The async form of [`calls_count`].
pub(crate) fn calls_count_async(message: &mut Message<'_>, args: &Args) -> ScriptCode {
    match counted_party(args) {
        Some(party) => outcome::ask_async(message, Operation::CountCalls(party), &Apply::CallsCount, args.last()),
        None => outcome::finish(code::ERROR, None),
    }
}

/// The subscriber has as many calls as it may.
const LIMIT_REACHED: ScriptCode = -2;

/// What a count makes of the script's condition.
pub(crate) fn apply_count(calls: u32, max_calls: u32) -> ScriptCode {
    if max_calls > 0 && calls >= max_calls { LIMIT_REACHED } else { code::OK }
}

fn counted_party(args: &Args) -> Option<CallParty> {
    let (kind, key) = (args.text(0), args.text(1));
    let party = match kind {
        "subscriber" => Aor::from_uri(key).or_else(|_| key.parse()).ok().map(CallParty::Subscriber),
        "account" => (!key.is_empty()).then(|| CallParty::Account(key.to_owned())),
        _ => None,
    };
    if party.is_none() {
        log_error!(
            "cassandra_calls_count",
            "'{kind}' '{key}': count the calls of a subscriber (a SIP URI or user@domain) or of an account"
        );
    }
    party
}

/// Something happened to a dialog: it becomes an event of its call.
pub(crate) fn dialog(dialog: &Dialog<'_>) {
    let message = dialog.message();
    let name = match (dialog.moment(), &message) {
        (Moment::Created, _) => event::ATTEMPT,
        (Moment::Early, _) => event::EARLY,
        (Moment::Answered, _) => event::START,
        (Moment::Request, Some(request)) if request.method() == "INVITE" => event::REINVITE,
        (Moment::Request, _) => return,
        (Moment::Failed, _) => event::FAILED,
        (Moment::Ended, _) => event::END,
        (Moment::Expired, _) if dialog.variable(LOST_DIALOG).is_some() => event::LOST,
        (Moment::Expired, _) => event::EXPIRED,
    };
    match capture_dialog(dialog, name, message.as_ref()) {
        Ok(event) => note(event),
        Err(sentence) => log_error!("calls", "{sentence}"),
    }
}

fn capture_dialog(dialog: &Dialog<'_>, name: &str, message: Option<&Message<'_>>) -> Result<CallEvent, String> {
    let mut event = new_event(name);
    match message {
        Some(message) => describe(&mut event, message, "")?,
        None => {
            event.from_uri = dialog.caller_uri();
            event.to_uri = dialog.callee_uri();
            event.from_tag = dialog.tag(Side::Caller);
            event.to_tag = dialog.tag(Side::Callee);
        }
    }
    if event.r_uri.is_empty() {
        event.r_uri = dialog.request_uri();
    }
    event.leg = dialog.call_id();
    if dialog.moment() == Moment::Created {
        if event.call_id != event.leg {
            dialog.set_variable(CALL_ID_OF_DIALOG, &event.call_id);
        }
        if event.is_of_further_leg() {
            dialog.set_variable(FURTHER_LEG, "1");
        }
    } else {
        event.call_id = dialog.variable(CALL_ID_OF_DIALOG).unwrap_or_else(|| event.leg.clone());
        if dialog.variable(FURTHER_LEG).is_some() {
            event.set_further_leg();
        }
    }
    conclude(&mut event, dialog, message);
    Ok(event)
}

/// How the dialog went on or ended, where the script did not say so.
fn conclude(event: &mut CallEvent, dialog: &Dialog<'_>, message: Option<&Message<'_>>) {
    let is_response = message.is_some_and(|message| !message.is_request());
    if is_response && event.code == 0 {
        event.code = message.map(Message::status).unwrap_or_default();
        event.reason = message.map(Message::reason_phrase).unwrap_or_default();
    }
    let (code, ended_by) = match dialog.moment() {
        Moment::Failed if is_response && event.code == CANCELLED => (0, "caller"),
        Moment::Failed if is_response => (0, "callee"),
        Moment::Failed => (dialog.own_answer(), if dialog.own_answer() == CANCELLED { "caller" } else { "server" }),
        Moment::Ended => (
            200,
            dialog.from().map_or("server", |side| match side {
                Side::Caller => "caller",
                Side::Callee => "callee",
            }),
        ),
        Moment::Expired => (0, "server"),
        _ => return,
    };
    if event.code == 0 {
        event.code = code;
    }
    if event.reason.is_empty() && dialog.moment() == Moment::Ended {
        event.reason = message.and_then(|bye| bye.header_named("Reason")).unwrap_or_default();
    }
    if event.event == event::LOST && event.reason.is_empty() {
        event.reason = dialog.variable(LOST_DIALOG).unwrap_or_default();
    }
    if event.ended_by.is_empty() {
        ended_by.clone_into(&mut event.ended_by);
    }
}

/// Passes an event on.
fn note(mut event: CallEvent) {
    let Some(metrics) = shared::metrics() else { return };
    event.cut();
    count(&metrics.call_events);
    if !bridge_client::send_event(&event) {
        count(&metrics.call_events_dropped);
    }
}

fn capture(message: &Message<'_>, name: &str, attributes: &str) -> Result<CallEvent, String> {
    let mut event = new_event(name);
    describe(&mut event, message, attributes)?;
    Ok(event)
}

fn new_event(name: &str) -> CallEvent {
    let mut event = CallEvent::new(NAMER.with(Namer::next));
    name.clone_into(&mut event.event);
    event
}

/// Puts into an event what its message tells, and what the script adds.
fn describe(event: &mut CallEvent, message: &Message<'_>, attributes: &str) -> Result<(), String> {
    let rules = &lifecycle::module().ok_or("the module has not started")?.config.calls;
    (event.call_id, event.leg) = name_of(message)?;
    VARIABLES.with(|variables| {
        for ((_, field), variable) in TOLD.iter().zip(variables) {
            *field(event) = variable.and_then(|variable| variable.text(message)).unwrap_or_default();
        }
    });
    if event.user_agent.is_empty() {
        event.user_agent = message.header_named("Server").unwrap_or_default();
    }
    event.source = message.source_uri();
    // Only who begins the call says by From and To who calls whom.
    if message.is_request() && event.to_tag.is_empty() {
        event.caller = party(&event.from_uri);
        event.callee = party(&event.to_uri);
    }
    for attribute in rules.extra.iter().chain(parsed(attributes)?.iter()) {
        if let Some(value) = attribute.evaluate(message) {
            set(event, &attribute.name, value)?;
        }
    }
    // The last value of a name is in front.
    for (name, value) in xavp::children_of(ATTRIBUTES).into_iter().rev() {
        set(event, &name, value)?;
    }
    Ok(())
}

/// What the legs of the message's call have in common, and this one's Call-ID.
fn name_of(message: &Message<'_>) -> Result<(String, String), String> {
    let leg = message.call_id().map_err(|error| error.0.to_owned())?;
    let named = lifecycle::module().and_then(|module| module.config.calls.call_id);
    let id = named.and_then(|variable| variable.text(message)).filter(|id| !id.is_empty());
    Ok((id.unwrap_or_else(|| leg.clone()), leg))
}

/// Whether it can name an event or an attribute. [`NULL`] cannot.
fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:_".contains(&byte);
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_part)
}

/// As `user@domain`; `""` for a URI that names nobody.
fn party(uri: &str) -> String {
    Aor::from_uri(uri).map(|aor| aor.to_string()).unwrap_or_default()
}

/// What a name means: a part of the event, or an attribute of its own.
fn set(event: &mut CallEvent, name: &str, value: String) -> Result<(), String> {
    match name {
        "code" => event.code = value.parse().map_err(|_| format!("the code '{value}' is no status code"))?,
        "reason" => event.reason = value,
        "ended_by" => event.ended_by = value,
        "caller" => event.caller = value,
        "callee" => event.callee = value,
        "account" => event.account = value,
        "call_id" => event.call_id = value,
        "destination" => event.destination = value,
        _ => {
            event.extra.retain(|(known, _)| known != name);
            event.extra.push((name.to_owned(), value));
        }
    }
    Ok(())
}

fn parsed(written: &str) -> Result<Rc<[Attribute]>, String> {
    if let Some(known) = PARSED.with_borrow(|known| known.get(written).cloned()) {
        return Ok(known);
    }
    let attributes: Rc<[Attribute]> = Attribute::parse_all(written)?.into();
    PARSED.with_borrow_mut(|known| {
        if known.len() >= MOST_PARSED {
            known.clear();
        }
        known.insert(written.to_owned(), attributes.clone());
    });
    Ok(attributes)
}

/// Names the events of one process.
struct Namer {
    process: u64,
    number: Cell<u16>,
}

impl Default for Namer {
    /// With a random name: processes come and go, on many nodes.
    fn default() -> Self {
        let random = RandomState::new().build_hasher().finish();
        Self { process: random, number: Cell::new(random as u16) }
    }
}

impl Namer {
    fn next(&self) -> EventId {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.number.set(self.number.get().wrapping_add(1));
        EventId::new(i64::try_from(since_epoch.as_micros()).unwrap_or_default(), self.number.get(), self.process)
    }
}
