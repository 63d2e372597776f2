//! Address-of-record: whom a subscriber is known as (RFC 3261 section 10.3 step 5).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::uri::{SipUri, escape, unescape};

/// A canonical address-of-record: user part unescaped and case-sensitive, domain in lower case, no URI parameters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Aor {
    username: String,
    domain: String,
}

/// Why a text is not an address-of-record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{input}' is no address-of-record: {reason}; write it as user@domain")]
pub struct AorError {
    input: String,
    reason: &'static str,
}

/// Longest user or domain part in bytes.
const LONGEST_PART: usize = 255;

impl Aor {
    /// The AoR of `username` in `domain`, which is put in lower case.
    ///
    /// # Errors
    /// When a part is empty, longer than 255 bytes, or holds what no such part can: white space, control characters, and in
    /// the domain `@`.
    pub fn new(username: &str, domain: &str) -> Result<Self, AorError> {
        let refuse = |reason| Err(AorError { input: format!("{username}@{domain}"), reason });
        if username.is_empty() {
            return refuse("the user part is empty");
        }
        if domain.is_empty() {
            return refuse("the domain is empty");
        }
        if username.len() > LONGEST_PART || domain.len() > LONGEST_PART {
            return refuse("a part is longer than 255 bytes");
        }
        if username.chars().any(char::is_control) {
            return refuse("the user part holds a control character");
        }
        if username.contains(char::REPLACEMENT_CHARACTER) {
            return refuse("the user part is not UTF-8");
        }
        if domain.chars().any(|c| c.is_control() || c.is_whitespace() || c == '@') {
            return refuse("the domain holds a character that no domain has");
        }
        Ok(Self { username: username.to_owned(), domain: domain.to_ascii_lowercase() })
    }

    /// The AoR that a SIP or SIPS URI names: without password, port, parameters and headers, user part unescaped (RFC 3261
    /// section 10.3 step 5).
    ///
    /// # Errors
    /// When `uri` is no SIP URI or has no user part.
    pub fn from_uri(uri: &str) -> Result<Self, AorError> {
        let refuse = |reason| AorError { input: uri.to_owned(), reason };
        let parsed = SipUri::parse(uri).map_err(|_| refuse("it is no SIP URI"))?;
        let user = parsed.user.ok_or_else(|| refuse("the user part is empty"))?;
        Self::new(&unescape(&user), &parsed.host)
    }

    /// The same with the user part in lower case, for a registrar that does not tell cases apart (`case_sensitive=0`).
    pub fn in_lower_case(self) -> Self {
        Self { username: self.username.to_lowercase(), domain: self.domain }
    }

    /// The same in the domain without `prefix`, if that leaves a domain (`realm_prefix`).
    pub fn without_domain_prefix(self, prefix: &str) -> Self {
        match self.domain.strip_prefix(prefix) {
            Some(rest) if !rest.is_empty() => Self { domain: rest.to_owned(), ..self },
            _ => self,
        }
    }

    /// A URI that names it: SIPS when it is `secure`, without parameters.
    pub fn to_uri(&self, secure: bool) -> String {
        format!("{}:{}@{}", if secure { "sips" } else { "sip" }, escape(&self.username), self.domain)
    }

    /// The user part.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The domain, in lower case.
    pub fn domain(&self) -> &str {
        &self.domain
    }
}

impl FromStr for Aor {
    type Err = AorError;

    /// Reads `alice@example.com` or a SIP URI.
    fn from_str(text: &str) -> Result<Self, AorError> {
        let text = text.trim();
        let scheme = text.split(':').next().unwrap_or_default();
        if text.contains(':') && (scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips")) {
            return Self::from_uri(text);
        }
        match text.rsplit_once('@') {
            Some((username, domain)) => Self::new(username, domain),
            None => Err(AorError { input: text.to_owned(), reason: "it has no @" }),
        }
    }
}

impl fmt::Display for Aor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.username, self.domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aor(text: &str) -> Aor {
        text.parse().expect("an AoR")
    }

    #[test]
    fn the_domain_is_case_insensitive_and_the_user_is_not() {
        assert_eq!(aor("alice@EXAMPLE.com"), aor("alice@example.com"));
        assert_ne!(aor("Alice@example.com"), aor("alice@example.com"));
    }

    #[test]
    fn a_uri_loses_all_but_user_and_domain() {
        for uri in [
            "sip:alice@example.com",
            "SIP:alice@Example.Com:5060;transport=tcp?Subject=x",
            "sips:alice:secret@example.com;user=phone",
            "sip:%61lice@example.com",
        ] {
            assert_eq!(Aor::from_uri(uri).expect(uri), aor("alice@example.com"));
        }
    }

    #[test]
    fn what_names_nobody_is_refused_with_a_sentence() {
        for text in [
            "",
            "alice",
            "@example.com",
            "alice@",
            "sip:example.com",
            "tel:+1555",
            "a@b c",
            "a\u{7}@b",
            "a@b@",
            "\u{fffd}@b",
        ] {
            let error = text.parse::<Aor>().expect_err(text);
            assert!(error.to_string().contains("user@domain"), "{error}");
        }
    }

    #[test]
    fn an_operator_may_fold_cases_and_domains() {
        assert_eq!(aor("Alice@example.com").in_lower_case(), aor("alice@example.com"));
        assert_eq!(aor("a@sip.example.com").without_domain_prefix("sip."), aor("a@example.com"));
        assert_eq!(aor("a@sip.").without_domain_prefix("sip."), aor("a@sip."));
    }

    #[test]
    fn it_reads_what_it_writes() {
        assert_eq!(aor(&aor("alice@example.com").to_string()), aor("alice@example.com"));
        for text in ["alice@example.com", "+15551234@example.com", "a@b;c:d e%41@example.com", "é@example.com"] {
            for secure in [false, true] {
                let uri = aor(text).to_uri(secure);
                assert_eq!(Aor::from_uri(&uri).expect(text), aor(text));
                assert_eq!(SipUri::parse(&uri).expect(text).secure, secure);
            }
        }
        assert_eq!(aor("+15551234@Example.com").to_uri(false), "sip:+15551234@example.com");
    }
}
