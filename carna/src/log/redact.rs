//! What is in no log, at any level: credentials, challenges, passwords and what is made of them.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::record::{Flag, Level, Record};

/// In the place of what is left out.
const HIDDEN: &str = "[hidden]";

/// A header with credentials or a challenge, over its continuation lines; something long that is called by the name of a parameter of
/// such a header, or anything that is given as its value; the password of a URI. What has a name here stays.
static SECRETS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"(?ix)
        (?P<header> \b (?: (?:proxy-|www-)? (?: authorization | authenticate ) | authentication-info ) \s* [:=] )
            (?: [^\r\n] | \r?\n[\x20\t] )*
        | (?P<digest> \b digest \s+ (?: username | realm | nonce | uri | response | algorithm | qop | opaque | cnonce | nc ) \s* = )
            (?: [^\r\n] | \r?\n[\x20\t] )*
        | (?P<name> \b (?: c?nonce | nextnonce | rspauth | response | opaque | ha1b? | ha2 | password | passwd | pwd | secret )
            (?: \s+ string )? (?: \s+ (?: is | calculated ) )? ["']? (?: \s* [:=] \s* | \s+ (?: is \s+ )? ) ["'<\[({]* )
            (?: [0-9a-z+/_.~-]*[0-9][0-9a-z+/=_.~-]* [0-9a-z+/=_.~-]{7} | [0-9a-z+/_.~-]{16,} )
        | (?P<value> \b (?: c?nonce | nextnonce | rspauth | response | opaque | ha1b? | password | passwd | pwd | secret ) ["']? \s* = \s* )
            (?: "[^"]*" | '[^']*' | [^\s"',;]+ )
        | (?P<uri> \b sips?:[^:@\s;<>"]+ : ) [^@\s;<>"]* @
        "#,
    )
});

/// What looks like a digest, a nonce or a secret: at debug level Kamailio writes such with any words or none.
static HASHES: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b[0-9a-fA-F]{32,}\b|\b[0-9A-Za-z+/]{40,}={0,2}"));

fn pattern(text: &str) -> Regex {
    // A pattern that is none is seen by the first test.
    #[expect(clippy::unwrap_used, reason = "the texts are above")]
    Regex::new(text).unwrap()
}

/// Leaves out of a line what must not be in it.
pub(super) fn redact(record: &mut Record) {
    let mut is_redacted = false;
    if let Some(message) = redacted(&record.message) {
        (record.message, is_redacted) = (message, true);
    }
    if record.level == Level::Debug && HASHES.is_match(&record.message) {
        (record.message, is_redacted) = (HASHES.replace_all(&record.message, HIDDEN).into_owned(), true);
    }
    if is_redacted {
        record.mark(Flag::Redacted);
    }
}

/// A text without what must not be in it; `None`: there is nothing of that kind.
pub fn redacted(text: &str) -> Option<String> {
    SECRETS.is_match(text).then(|| SECRETS.replace_all(text, without).into_owned())
}

fn without(found: &Captures<'_>) -> String {
    let named = |name: &str| found.name(name).map(|part| part.as_str());
    if let Some(uri) = named("uri") {
        return format!("{uri}{HIDDEN}@");
    }
    let keep = ["header", "digest", "value", "name"].iter().find_map(|name| named(name)).unwrap_or_default();
    format!("{keep}{HIDDEN}")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::log::record::Service;

    fn shown(level: Level, message: &str) -> String {
        let mut record = Record::raw(SystemTime::UNIX_EPOCH, Service::Kamailio, message.to_owned());
        record.level = level;
        redact(&mut record);
        assert_eq!(record.flags.contains(&Flag::Redacted), record.message != message, "{record:?}");
        record.message
    }

    #[test]
    fn secrets_are_left_out_whatever_is_around_them() {
        const NONCE: &str = "Z4mX+mdmXo0b/5WCkUVsWFBDKLRUhVZb";
        for text in [
            format!("REGISTER\r\nAuthorization: Digest username=\"a\",\r\n nonce=\"{NONCE}\"\r\nTo: <sip:a@b>\r\n"),
            format!("proxy-authorization : Digest x=\"{NONCE}\""),
            format!("WWW-Authenticate: Digest realm=\"x\", nonce=\"{NONCE}\""),
            format!("body <Digest username=\"a\", response=\"{NONCE}\">"),
            format!("nonce={NONCE},x"),
            format!("cnonce=\"{NONCE}\""),
            format!("response: <{NONCE}>"),
            format!("HA1 string calculated: {NONCE}"),
            format!("the ha1 is {NONCE}"),
            format!("password={NONCE}"),
            format!("passwd '{NONCE}'"),
            format!("to sip:alice:{NONCE}@example.com;x"),
        ] {
            let without = shown(Level::Info, &text);
            assert!(without.contains(HIDDEN) && !without.contains(NONCE), "{text}: {without}");
        }
        let text = "REGISTER\r\nAuthorization: Digest username=\"a\"\r\nTo: <sip:a@b>\r\n";
        assert_eq!(shown(Level::Info, text), "REGISTER\r\nAuthorization:[hidden]\r\nTo: <sip:a@b>\r\n");
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "the response was 404",
            "no response from sip:a@192.0.2.1:5060",
            "sip:alice@example.com:5060;transport=tcp called sip:bob@example.com",
            "call-end 0123456789abcdef0123456789abcdef@host",
            "wrong password",
        ] {
            assert_eq!(shown(Level::Info, text), text);
        }
        assert_eq!(shown(Level::Debug, "our result = '0123456789abcdef0123456789abcdef'"), "our result = '[hidden]'");
    }
}
