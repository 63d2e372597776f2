//! The pseudo-variables `$cassandra(...)`: what the last function of this process returned.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use bridge::protocol::Unavailable;

use crate::host::message::Message;
use crate::host::pv::Value;

/// What a function left behind.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Its return code.
    pub(crate) code: i32,
    /// Why the backend was unavailable, if it was.
    pub(crate) unavailable: Option<Unavailable>,
    /// The SIP status that a failure stands for; 0 for none.
    pub(crate) status: u16,
    /// How many calls were counted, and how many there may be.
    pub(crate) calls: Option<(u32, u32)>,
    /// Whom an alias means.
    pub(crate) aor: Option<String>,
}

thread_local! {
    static LEFT: RefCell<Left> =
        const { RefCell::new(Left { code: 0, unavailable: None, status: 0, calls: None, aor: None }) };
}

/// A variable: its name, and how it is read.
type Variable = (&'static str, fn(&Left) -> Value);

/// All variables of the class; the number of each is its index.
const ALL: [Variable; 6] = [
    ("rc", return_code),
    ("reason", reason),
    ("status", status),
    ("calls", calls),
    ("max_calls", max_calls),
    ("aor", aor),
];

/// Keeps what a function leaves behind.
pub(crate) fn leave(left: Left) {
    LEFT.set(left);
}

/// The number of a variable.
///
/// # Errors
/// A sentence that names all variables.
pub(crate) fn parse(name: &str) -> Result<i32, String> {
    let index = ALL.iter().position(|(known, _)| *known == name);
    index.and_then(|index| i32::try_from(index).ok()).ok_or_else(|| {
        let known: Vec<_> = ALL.iter().map(|(name, _)| *name).collect();
        format!("use one of {}", known.join(", "))
    })
}

/// Reads the variable of this number.
pub(crate) fn read(_: &Message<'_>, number: i32, _index: i32) -> Value {
    let variable = usize::try_from(number).ok().and_then(|index| ALL.get(index));
    variable.map_or(Value::Null, |(_, read)| LEFT.with_borrow(read))
}

fn return_code(left: &Left) -> Value {
    Value::Number(left.code)
}

fn status(left: &Left) -> Value {
    if left.status == 0 { Value::Null } else { Value::Number(left.status.into()) }
}

fn calls(left: &Left) -> Value {
    left.calls.map_or(Value::Null, |(calls, _)| number(calls))
}

fn max_calls(left: &Left) -> Value {
    left.calls.map_or(Value::Null, |(_, most)| number(most))
}

fn aor(left: &Left) -> Value {
    left.aor.clone().map_or(Value::Null, Value::Owned)
}

fn number(value: u32) -> Value {
    Value::Number(i32::try_from(value).unwrap_or(i32::MAX))
}

fn reason(left: &Left) -> Value {
    match left.unavailable {
        None => Value::Null,
        Some(Unavailable::NotConnected) => Value::Text("not connected"),
        Some(Unavailable::BreakerOpen) => Value::Text("breaker open"),
        Some(Unavailable::Timeout) => Value::Text("timeout"),
        Some(Unavailable::Backend) => Value::Text("backend error"),
        Some(Unavailable::Overloaded) => Value::Text("overloaded"),
        Some(Unavailable::QueueFull) => Value::Text("queue full"),
        Some(Unavailable::TooLong) => Value::Text("request too long"),
        Some(Unavailable::Failed) => Value::Text("failed"),
    }
}
