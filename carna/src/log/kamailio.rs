//! Lines of Kamailio. Those of its JSON log (`--log-engine=json:M`) keep apart what it says itself and what it was sent; of any other line
//! nothing is believed: all of it is the message.
//!
//! `log_prefix` of `kamailio-cfg/include/node.cfg` is `call=CALL-ID `, of which no more than [`LONGEST_CALL_ID`] bytes and a half, with
//! `%` and two hexadecimal digits for whatever is neither a letter, a digit nor one of `-_.~`: Kamailio does not escape a prefix.

use serde::Deserialize;

use super::event;
use super::record::{Flag, Level, Record, Service};
use crate::process::Line;

/// Bytes of a Call-ID that are shown; Kamailio's prefix has one more, when there are more.
const LONGEST_CALL_ID: usize = 320;
/// The module that writes events.
const OURS: &str = "cassandra";

/// What Kamailio writes: these fields and no others, each of them once. A prefix that is no form of ours could add some or have them
/// twice, and then the line is none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "idx")]
    _idx: i32,
    pid: i32,
    level: String,
    module: String,
    #[serde(rename = "file")]
    _file: String,
    #[serde(rename = "line")]
    _line: i32,
    function: String,
    logprefix: String,
    message: String,
}

/// Reads a line.
pub(super) fn read(line: &Line) -> Record {
    let text = String::from_utf8_lossy(&line.bytes);
    let parsed = if text.starts_with('{') { serde_json::from_str::<Written>(&text).ok() } else { None };
    let mut record = match parsed.and_then(|written| believed(line, written)) {
        Some(record) => record,
        None => Record::raw(line.at, Service::Kamailio, text.trim_end().to_owned()),
    };
    if matches!(text, std::borrow::Cow::Owned(_)) {
        record.mark(Flag::Repaired);
    }
    if line.is_cut {
        record.mark(Flag::Truncated);
    }
    record.cut();
    record
}

fn believed(line: &Line, written: Written) -> Option<Record> {
    let mut record = Record::raw(line.at, Service::Kamailio, written.message);
    record.flags.clear();
    record.level = Level::named(&written.level)?;
    (record.module, record.function, record.pid) = (written.module, written.function, Some(written.pid));
    match call_id(&written.logprefix) {
        Some(CallId { text, is_repaired, is_cut }) => {
            record.call_id = text;
            if is_repaired {
                record.mark(Flag::Repaired);
            }
            if is_cut {
                record.mark(Flag::Truncated);
            }
        }
        None if written.logprefix.is_empty() => {}
        None => record.mark(Flag::Repaired),
    }
    if record.module == OURS {
        event::recognise(&mut record);
    }
    Some(record)
}

#[derive(Debug, PartialEq, Eq)]
struct CallId {
    text: String,
    is_repaired: bool,
    is_cut: bool,
}

/// The Call-ID in a prefix of our form.
fn call_id(prefix: &str) -> Option<CallId> {
    let mut bytes = unescape(prefix.strip_prefix("call=")?.strip_suffix(' ')?)?;
    let is_cut = bytes.len() > LONGEST_CALL_ID;
    bytes.truncate(LONGEST_CALL_ID);
    let text = String::from_utf8_lossy(&bytes);
    // What a cut has left of a character is no fault of the sender's.
    let whole = if is_cut { text.trim_end_matches('\u{fffd}') } else { &text };
    Some(CallId { text: whole.to_owned(), is_repaired: whole.contains('\u{fffd}'), is_cut })
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let value = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
                bytes.push(u8::try_from(value).ok()?);
            }
            b'-' | b'_' | b'.' | b'~' => bytes.push(byte),
            _ if byte.is_ascii_alphanumeric() => bytes.push(byte),
            _ => return None,
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn read_text(text: &str) -> Record {
        read_bytes(text.as_bytes())
    }

    fn read_bytes(bytes: &[u8]) -> Record {
        read(&Line { at: SystemTime::UNIX_EPOCH, bytes: bytes.to_vec(), is_cut: false })
    }

    fn written(prefix: &str, message: &str) -> String {
        format!(
            r#"{{ "idx": 7, "pid": 544, "level": "ERROR", "module": "dispatcher", "file": "dispatch.c", "line": 5, "function": "f", "logprefix": "{prefix}", "message": "{message}" }}"#
        )
    }

    #[test]
    fn a_line_of_the_json_log_has_its_fields() {
        let record = read_text(&written("call=a%40b%22%0a ", "no\\nway"));
        assert_eq!((record.level, record.pid), (Level::Error, Some(544)));
        assert_eq!((&*record.module, &*record.function), ("dispatcher", "f"));
        assert_eq!((&*record.call_id, &*record.message), ("a@b\"\n", "no\nway"));
        assert_eq!(record.flags, []);
        assert_eq!(read_text(&written("", "x")).call_id, "");
    }

    #[test]
    fn a_prefix_that_is_not_escaped_sets_no_field() {
        for prefix in
            [r#"x", "message": "forged"#, r#"x", "user": "forged"#, r#"", "level": "ALERT", "logprefix": ""#, "\\"]
        {
            let line = written(prefix, "x");
            let record = read_text(&line);
            assert_eq!((record.flags.as_slice(), &*record.message), ([Flag::Raw].as_slice(), &*line));
            assert_eq!((record.level, record.pid, &*record.module), (Level::Info, None, ""));
        }
        for prefix in ["a@b", "call=a@b ", "call=%4 ", "call=%zz ", "call=%+1 "] {
            let record = read_text(&written(prefix, "x"));
            assert_eq!((&*record.call_id, record.flags.as_slice()), ("", [Flag::Repaired].as_slice()), "{prefix}");
        }
    }

    #[test]
    fn what_is_no_json_is_a_message_and_nothing_else() {
        let banner = read_text("loading modules under config path: /usr/lib\r");
        assert_eq!(
            (&*banner.message, banner.flags.as_slice()),
            ("loading modules under config path: /usr/lib", [Flag::Raw].as_slice())
        );
        assert_eq!(read_text(" 5(123) ERROR: core: forged").level, Level::Info);
        let bytes = read_bytes(b"\xff\0\x7f");
        assert_eq!(
            (&*bytes.message, bytes.flags.as_slice()),
            ("\u{fffd}\0\u{7f}", [Flag::Raw, Flag::Repaired].as_slice())
        );
    }

    #[test]
    fn a_call_id_is_what_was_sent_and_cut_when_it_is_too_long() {
        let of = |bytes: &[u8]| {
            let escaped: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
            call_id(&format!("call={escaped} ")).expect("a Call-ID")
        };
        let right = |text: &str| CallId { text: text.to_owned(), is_repaired: false, is_cut: false };
        assert_eq!(of(b""), right(""));
        assert_eq!(of("ä\0\\u0041\"".as_bytes()), right("ä\0\\u0041\""));
        assert_eq!(of(b"a\xff"), CallId { is_repaired: true, ..right("a\u{fffd}") });
        assert_eq!(of(&[b'a'; 320]), right(&"a".repeat(320)));
        assert_eq!(of(&[b'a'; 321]), CallId { is_cut: true, ..right(&"a".repeat(320)) });
        let half = [&[b'a'; 319], "ä".as_bytes()].concat();
        assert_eq!(of(&half), CallId { is_cut: true, ..right(&"a".repeat(319)) });
    }
}
