//! What callers saw of the calls of a load.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use lab::sipp::Report;

use super::sip::headers;

/// A call that began longer before a moment was no longer being set up then.
const SETTING_UP: Duration = Duration::from_secs(1);

/// What the caller saw of a call.
#[derive(Debug)]
pub struct Call {
    pub begun: SystemTime,
    pub answered: bool,
    /// The caller has hung up.
    pub ended: bool,
    /// The other side has.
    pub was_ended: bool,
}

impl Call {
    /// Whether it may have been on its way at this moment.
    pub fn was_being_set_up(&self, moment: SystemTime) -> bool {
        moment.duration_since(self.begun).is_ok_and(|before| before <= SETTING_UP)
    }
}

/// The calls of a run by Call-ID, from the messages that it has written down.
pub fn calls(report: &Report) -> Result<BTreeMap<String, Call>> {
    let mut calls = BTreeMap::new();
    for (time, message) in report.timed_messages()? {
        let header = |name: &str| headers(message, name).first().copied().unwrap_or_default();
        let new = || Call { begun: time, answered: false, ended: false, was_ended: false };
        let call = calls.entry(header("Call-ID").to_owned()).or_insert_with(new);
        let (first_line, cseq) = (message.lines().next().unwrap_or_default(), header("CSeq"));
        match (first_line, cseq.split(' ').nth(1)) {
            (line, Some("INVITE")) if line.starts_with("SIP/2.0 200 ") => call.answered = true,
            (line, Some("BYE")) if line.starts_with("SIP/2.0 200 ") => call.ended = !call.was_ended,
            // It has come through proxies.
            (line, Some("BYE")) if line.starts_with("BYE ") && headers(message, "Via").len() > 1 => {
                call.was_ended = true
            }
            _ => {}
        }
    }
    Ok(calls)
}
