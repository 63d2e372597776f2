//! Lines of FreeSWITCH's console: `2026-01-31 12:00:00.000000 98.37% [NOTICE] sofia.c:1234 what it says`, with the unique id of a channel
//! before it where that is configured. It escapes nothing, so a line that has this form may be a part of something that a caller has
//! sent: each is marked as raw.

use super::record::{Level, Record, Service};
use crate::process::Line;

/// Reads a line.
pub(super) fn read(line: &Line) -> Record {
    let text = String::from_utf8_lossy(&line.bytes);
    let text = text.trim_end();
    let mut record = Record::raw(line.at, Service::FreeSwitch, text.to_owned());
    if let Some((level, file)) = parts(text) {
        (record.level, record.module) = (level, file.to_owned());
    }
    if line.is_cut {
        record.mark(super::record::Flag::Truncated);
    }
    record.cut();
    record
}

/// Level and file.
fn parts(text: &str) -> Option<(Level, &str)> {
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let mut word = words.next()?;
    if word.len() == UNIQUE_ID && word.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()) {
        word = words.next()?;
    }
    let is_made_of = |word: &str, marks: &[u8]| word.bytes().all(|byte| marks.contains(&byte) || byte.is_ascii_digit());
    if !is_made_of(word, b"-") || !is_made_of(words.next()?, b":.") {
        return None;
    }
    let mut word = words.next()?;
    if word.ends_with('%') {
        word = words.next()?;
    }
    let level = Level::named(word.strip_prefix('[')?.strip_suffix(']').filter(|name| !name.is_empty())?)?;
    let (file, line) = words.next()?.split_once(':')?;
    is_made_of(line, b"").then_some((level, file.trim_end_matches(".c")))
}

/// Bytes of a channel's unique id.
const UNIQUE_ID: usize = 36;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn level_and_file_are_read_where_they_are() {
        let of = |text: &str| {
            let record = read(&Line { at: SystemTime::UNIX_EPOCH, bytes: text.as_bytes().to_vec(), is_cut: false });
            assert_eq!(record.message, text);
            (record.level, record.module)
        };
        let sofia = |level| (level, "sofia".to_owned());
        assert_eq!(of("2026-01-31 12:00:00.000000 [NOTICE] sofia.c:1234 New"), sofia(Level::Notice));
        assert_eq!(of("2026-01-31 12:00:00.000000 98.37% [ERR] sofia.c:1 New"), sofia(Level::Error));
        let channel = "7a9a2c1e-0000-4000-8000-000000000001";
        assert_eq!(of(&format!("{channel} 2026-01-31 12:00:00.000000 [CRIT] sofia.c:1 x")), sofia(Level::Critical));
        for other in [
            "v=0",
            "",
            "[ERR] sofia.c:1 x",
            "2026-01-31 12:00:00.000000 [ODD] sofia.c:1 x",
            "2026-01-31 noon [ERR] a.c:1",
        ] {
            assert_eq!(of(other), (Level::Info, String::new()), "{other}");
        }
    }
}
