//! The pseudo-variables `$cassandra(...)`: what the last function of this process returned.
#![forbid(unsafe_code)]

use std::cell::Cell;

use bridge::protocol::Unavailable;

use crate::host::pv::{Value, Variable};

thread_local! {
    static RESULT: Cell<(i32, Option<Unavailable>)> = const { Cell::new((0, None)) };
}

/// All variables: `rc`, the return code of the last function, and `reason`, why the backend was unavailable (or `$null`).
pub(crate) const ALL: &[Variable] = &[("rc", return_code), ("reason", reason)];

/// Keeps the result of a function.
pub(crate) fn set_result(code: i32, unavailable: Option<Unavailable>) {
    RESULT.set((code, unavailable));
}

fn return_code() -> Value {
    Value::Number(RESULT.get().0)
}

fn reason() -> Value {
    match RESULT.get().1 {
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
