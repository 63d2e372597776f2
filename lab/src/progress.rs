//! One line per long step: what is being done, and how long it took.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Runs a step and prints `     12.3 s  what` when it is done, on standard error.
///
/// On a terminal the line appears at once and the time is filled in; elsewhere it appears when the step ends.
pub fn step<T>(what: impl Display, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    if terminal {
        eprint!("      ...    {what}");
        let _ = std::io::stderr().flush();
    }
    let result = work();
    if terminal {
        eprint!("\r\x1b[2K");
    }
    let mark = if result.is_ok() { "" } else { "  FAILED" };
    eprintln!("{:>9}    {what}{mark}", seconds(start.elapsed()));
    result
}

/// Prints a line that belongs to no step, in the same column.
pub fn say(text: impl Display) {
    eprintln!("             {text}");
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
