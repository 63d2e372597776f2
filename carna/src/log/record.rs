//! A line of the log and its fields. Their names, their types and how long they may be are in `deploy/logstash/index-template.json`.

use std::fmt;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::event::Details;

/// Bytes of a message that are kept.
pub const LONGEST_MESSAGE: usize = 16 << 10;
/// Bytes of any other text.
pub const LONGEST_TEXT: usize = 1024;
/// The version of ECS whose names these are.
const ECS: &str = "8.11.0";

/// Of which node a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The node's role.
    pub role: String,
    /// Its name.
    pub node: String,
    /// Its data centre.
    pub dc: String,
    /// The container, or the machine.
    pub container: String,
}

/// Who has written a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Kamailio with its modules, also ours.
    Kamailio,
    /// FreeSWITCH with its modules.
    FreeSwitch,
    /// This agent.
    Carna,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Somebody must act now.
    Alert,
    /// It cannot go on like this.
    Critical,
    /// Something has failed.
    Error,
    /// Something may fail.
    Warning,
    /// Out of the ordinary.
    Notice,
    /// What is worth knowing.
    Info,
    /// For those who look for a fault.
    Debug,
}

impl Level {
    /// The one that a server calls by this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ALERT" => Self::Alert,
            // Kamailio's L_CRIT has no name.
            "BUG" | "CRITICAL" | "CRIT" | "" => Self::Critical,
            "ERROR" | "ERR" => Self::Error,
            "WARNING" => Self::Warning,
            "NOTICE" => Self::Notice,
            "INFO" => Self::Info,
            "DEBUG" => Self::Debug,
            _ => return None,
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Alert => "ALERT",
            Self::Critical => "CRITICAL",
            Self::Error => "ERROR",
            Self::Warning => "WARN",
            Self::Notice => "NOTICE",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        })
    }
}

/// What was done to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flag {
    /// It has no form that keeps apart what the server and what a caller says; all of it is the message.
    Raw,
    /// Something was too long, and is cut.
    Truncated,
    /// Something was left out that is in no log.
    Redacted,
    /// Something was no UTF-8, or had a form that no server writes.
    Repaired,
}

/// A line.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When it was written.
    pub at: SystemTime,
    /// By whom.
    pub service: Service,
    /// How much it matters.
    pub level: Level,
    /// The module of the server, or of Carna.
    pub module: String,
    /// The function in it.
    pub function: String,
    /// The process.
    pub pid: Option<i32>,
    /// The Call-ID of the message that it is about.
    pub call_id: String,
    /// What it says.
    pub message: String,
    /// What was done to it.
    pub flags: Vec<Flag>,
    /// What has happened, when it tells of a call or a binding.
    pub details: Option<Box<Details>>,
}

impl Record {
    /// A line of which nothing is known but what it says.
    pub fn raw(at: SystemTime, service: Service, message: String) -> Self {
        Self {
            at,
            service,
            level: Level::Info,
            module: String::new(),
            function: String::new(),
            pid: None,
            call_id: String::new(),
            message,
            flags: vec![Flag::Raw],
            details: None,
        }
    }

    /// Marks it, once.
    pub(super) fn mark(&mut self, flag: Flag) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }

    /// Cuts what is too long.
    pub(super) fn cut(&mut self) {
        let texts = [
            (&mut self.module, LONGEST_TEXT),
            (&mut self.function, LONGEST_TEXT),
            (&mut self.call_id, LONGEST_TEXT),
            (&mut self.message, LONGEST_MESSAGE),
        ];
        let mut is_cut = false;
        for (text, most) in texts {
            is_cut |= cut(text, most);
        }
        if is_cut {
            self.mark(Flag::Truncated);
        }
    }

    /// As one line of JSON, the `number`-th of this node.
    pub fn json(&self, place: &Place, number: u64) -> String {
        let json = serde_json::to_string(&Document::of(self, place, number)).unwrap_or_default();
        if json.contains(is_break) { json.chars().map(escaped).collect() } else { json }
    }

    /// As a line for people. What a server has written in no form of its own is as it was.
    pub fn text(&self) -> String {
        match self.service {
            Service::Carna => {
                let at = humantime::format_rfc3339_micros(self.at);
                // What follows the first line cannot be taken for one of its own.
                format!("{at} {:>5} {}", self.level, self.message.trim_end().replace('\n', "\n    "))
            }
            Service::Kamailio | Service::FreeSwitch => self.summary(),
        }
    }

    /// What it says, by whom, on one line.
    pub fn summary(&self) -> String {
        let message = printable(&self.message);
        if self.flags.contains(&Flag::Raw) {
            return message;
        }
        let (mut pid, mut function, mut call_id) = (String::new(), String::new(), String::new());
        if let Some(number) = self.pid {
            pid = format!("({number}) ");
        }
        if !self.function.is_empty() {
            function = format!(" {}()", printable(&self.function));
        }
        if !self.call_id.is_empty() {
            call_id = format!(" [{}]", printable(&self.call_id));
        }
        format!("{pid}{}: {}{function}{call_id}: {message}", self.level, printable(&self.module))
    }
}

/// What JSON takes as it is, and a reader may take for the end of a line, or a terminal for a command.
fn is_break(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// As it stands in JSON: only texts hold such.
fn escaped(c: char) -> String {
    if is_break(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }
}

/// Cuts a text to so many bytes. Gives whether it was longer.
pub(super) fn cut(text: &mut String, most: usize) -> bool {
    let is_longer = text.len() > most;
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
    is_longer
}

/// Control characters as what stands for them, so that a line stays one, and a terminal does nothing.
fn printable(text: &str) -> String {
    let printable = |c: char| if is_break(c) && c != '\t' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(printable).collect()
}

/// What is sent of a line.
#[derive(Serialize)]
struct Document<'r> {
    #[serde(rename = "@timestamp", serialize_with = "time")]
    at: SystemTime,
    message: &'r str,
    ecs: Ecs,
    log: Log<'r>,
    service: ServiceOf<'r>,
    labels: Labels<'r>,
    container: Named<'r>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Process>,
    event: Event<'r>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sip: Option<Sip<'r>>,
    #[serde(flatten)]
    details: Option<&'r Details>,
}

#[derive(Serialize)]
struct Ecs {
    version: &'static str,
}

#[derive(Serialize)]
struct Log<'r> {
    level: Level,
    #[serde(skip_serializing_if = "str::is_empty")]
    logger: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Origin<'r>>,
    #[serde(skip_serializing_if = "<[Flag]>::is_empty")]
    flags: &'r [Flag],
}

#[derive(Serialize)]
struct Origin<'r> {
    function: &'r str,
}

#[derive(Serialize)]
struct ServiceOf<'r> {
    name: Service,
    node: Node<'r>,
}

#[derive(Serialize)]
struct Node<'r> {
    name: &'r str,
    role: &'r str,
}

#[derive(Serialize)]
struct Labels<'r> {
    dc: &'r str,
}

#[derive(Serialize)]
struct Named<'r> {
    name: &'r str,
}

#[derive(Serialize)]
struct Process {
    pid: i32,
}

#[derive(Serialize)]
struct Event<'r> {
    sequence: u64,
    #[serde(flatten)]
    happened: Option<&'r super::event::Happened>,
}

#[derive(Serialize)]
struct Sip<'r> {
    #[serde(skip_serializing_if = "str::is_empty")]
    call_id: &'r str,
    #[serde(flatten)]
    told: Option<&'r super::event::Sip>,
}

fn time<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_micros(*at))
}

impl<'r> Document<'r> {
    fn of(record: &'r Record, place: &'r Place, sequence: u64) -> Self {
        let details = record.details.as_deref();
        let told = details.map(|details| &details.sip);
        let is_of_sip = told.is_some() || !record.call_id.is_empty();
        Self {
            at: record.at,
            message: &record.message,
            ecs: Ecs { version: ECS },
            log: Log {
                level: record.level,
                logger: &record.module,
                origin: (!record.function.is_empty()).then_some(Origin { function: &record.function }),
                flags: &record.flags,
            },
            service: ServiceOf { name: record.service, node: Node { name: &place.node, role: &place.role } },
            labels: Labels { dc: &place.dc },
            container: Named { name: &place.container },
            process: record.pid.map(|pid| Process { pid }),
            event: Event { sequence, happened: details.map(|details| &details.event) },
            sip: is_of_sip.then_some(Sip { call_id: &record.call_id, told }),
            details,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_people_is_one_line_whatever_was_sent() {
        let mut record = Record::raw(SystemTime::UNIX_EPOCH, Service::Kamailio, "a\r\nb\u{1b}[31m\0\u{7f}c".to_owned());
        assert_eq!(record.text(), "a\\r\\nb\\u{1b}[31m\\u{0}\\u{7f}c");
        record.flags.clear();
        (record.module, record.function, record.pid) = ("core".to_owned(), "parse\nmsg".to_owned(), Some(7));
        record.call_id = "c\n1".to_owned();
        assert_eq!(record.summary(), "(7) INFO: core parse\\nmsg() [c\\n1]: a\\r\\nb\\u{1b}[31m\\u{0}\\u{7f}c");
        record.service = Service::Carna;
        record.message = "one\n2026-01-31T12:00:00.000000Z  INFO two".to_owned();
        assert!(record.text().lines().nth(1).is_some_and(|line| line.starts_with("    2026")), "{}", record.text());
    }

    #[test]
    fn a_line_of_json_has_nothing_that_ends_a_line() {
        let text = "a\r\n\u{85}\u{2028}\u{2029}\u{7f}\u{9b}\0ä";
        let [role, node, dc, container] = ["registrar", "r1", "dc1", "c"].map(str::to_owned);
        let json = Record::raw(SystemTime::UNIX_EPOCH, Service::Kamailio, text.to_owned())
            .json(&Place { role, node, dc, container }, 1);
        assert!(!json.contains(is_break), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(read["message"], text);
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters_and_marked() {
        let mut record = Record::raw(SystemTime::UNIX_EPOCH, Service::Kamailio, "ä".repeat(LONGEST_MESSAGE));
        record.call_id = format!("a{}", "ä".repeat(LONGEST_TEXT));
        record.cut();
        assert_eq!((record.message.len(), record.call_id.len()), (LONGEST_MESSAGE, LONGEST_TEXT - 1));
        assert_eq!(record.flags, [Flag::Raw, Flag::Truncated]);
    }
}
