//! SIP URIs: parsing and equality (RFC 3261 sections 19.1.1 and 19.1.4).

use std::collections::BTreeMap;

/// A SIP or SIPS URI in its parts. Escapes are kept as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SipUri {
    /// Whether the scheme is `sips`.
    pub secure: bool,
    /// User part, without password.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Host name or address in lower case; an IPv6 address with its brackets.
    pub host: String,
    /// Port, when given.
    pub port: Option<u16>,
    /// URI parameters: names in lower case; a parameter without value has `""`.
    pub params: BTreeMap<String, String>,
    /// Headers after `?`: names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// Why a text is not a SIP URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no SIP URI: {0}")]
pub struct UriError(&'static str);

/// Parameters that make two URIs differ when only one of them has it.
const DECISIVE: [&str; 5] = ["user", "ttl", "method", "maddr", "transport"];

impl SipUri {
    /// Parses a SIP or SIPS URI, without angle brackets.
    ///
    /// # Errors
    /// [`UriError`] says what is wrong; no input makes it panic.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once(':').ok_or(UriError("there is no scheme"))?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "sip" => false,
            "sips" => true,
            _ => return Err(UriError("the scheme is neither sip nor sips")),
        };
        if rest.chars().any(|c| c.is_control() || c == '<' || c == '>') {
            return Err(UriError("it holds a character that no URI has"));
        }
        // A user part may hold ';' and '?', so it is cut off first.
        let (userinfo, rest) = match rest.rsplit_once('@') {
            Some((userinfo, rest)) => (Some(userinfo), rest),
            None => (None, rest),
        };
        let (user, password) = split_userinfo(userinfo)?;
        let (rest, headers) = rest.split_once('?').unwrap_or((rest, ""));
        let (hostport, params) = rest.split_once(';').unwrap_or((rest, ""));
        let (host, port) = split_hostport(hostport)?;
        Ok(Self { secure, user, password, host, port, params: pairs(params, ';'), headers: pairs(headers, '&') })
    }

    /// Whether two URIs are equal by RFC 3261 section 19.1.4.
    pub fn equivalent(&self, other: &Self) -> bool {
        // What costs least comes first: a REGISTER may compare many.
        self.secure == other.secure
            && self.port == other.port
            && self.host == other.host
            && same_unescaped(self.user.as_deref(), other.user.as_deref())
            && same_unescaped(self.password.as_deref(), other.password.as_deref())
            && self.same_params(other)
            && self.same_headers(other)
    }

    fn same_params(&self, other: &Self) -> bool {
        let shared_agree = self.params.iter().all(|(name, value)| {
            other.params.get(name).is_none_or(|theirs| unescape(value).eq_ignore_ascii_case(&unescape(theirs)))
        });
        shared_agree && DECISIVE.iter().all(|name| self.params.contains_key(*name) == other.params.contains_key(*name))
    }

    fn same_headers(&self, other: &Self) -> bool {
        self.headers.len() == other.headers.len()
            && self
                .headers
                .iter()
                .all(|(name, value)| other.headers.get(name).is_some_and(|theirs| unescape(value) == unescape(theirs)))
    }

    /// One text for all ways to write the same URI: escapes, letter case, order of parameters and headers.
    ///
    /// Section 19.1.4 equality is not transitive (a parameter that only one URI has may be ignored), so no text can stand for
    /// it: two equal URIs may have different texts. Compare by [`Self::equivalent`].
    pub fn normalised(&self) -> String {
        let mut text = String::from(if self.secure { "sips:" } else { "sip:" });
        if let Some(user) = &self.user {
            text.push_str(&escape(&unescape(user)));
            if let Some(password) = &self.password {
                text.push(':');
                text.push_str(&escape(&unescape(password)));
            }
            text.push('@');
        }
        text.push_str(&self.host);
        if let Some(port) = self.port {
            text.push_str(&format!(":{port}"));
        }
        for (name, value) in &self.params {
            text.push_str(&format!(";{name}={}", escape(&unescape(value).to_ascii_lowercase())));
        }
        for (index, (name, value)) in self.headers.iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            text.push_str(&format!("{separator}{name}={}", escape(&unescape(value))));
        }
        text
    }
}

fn split_userinfo(userinfo: Option<&str>) -> Result<(Option<String>, Option<String>), UriError> {
    match userinfo {
        None => Ok((None, None)),
        Some("") => Err(UriError("the user part is empty")),
        Some(text) => match text.split_once(':') {
            Some((user, password)) => Ok((Some(user.to_owned()), Some(password.to_owned()))),
            None => Ok((Some(text.to_owned()), None)),
        },
    }
}

fn split_hostport(text: &str) -> Result<(String, Option<u16>), UriError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (address, after) =
                bracketed.split_once(']').ok_or(UriError("an IPv6 address has no closing bracket"))?;
            (format!("[{address}]"), after.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    if host.is_empty() || host == "[]" || host.chars().any(char::is_whitespace) {
        return Err(UriError("the host is missing or malformed"));
    }
    let port =
        port.map(|port| port.parse().map_err(|_| UriError("the port is not a number up to 65535"))).transpose()?;
    Ok((host.to_ascii_lowercase(), port))
}

fn pairs(text: &str, separator: char) -> BTreeMap<String, String> {
    text.split(separator)
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect()
}

fn same_unescaped(a: Option<&str>, b: Option<&str>) -> bool {
    a == b || a.map(unescape) == b.map(unescape)
}

/// Replaces `%HH` by the byte it stands for; a broken escape stays as it is, bytes that are not UTF-8 become replacement
/// characters.
pub fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escaped = (bytes[index] == b'%')
            .then(|| bytes.get(index + 1..index + 3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.chars().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.push(escaped.unwrap_or(bytes[index]));
        index += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Escapes all that has, or could have, a meaning in a URI, in a list of URIs or in a quoted string.
pub(crate) fn escape(text: &str) -> String {
    escape_except(text, b"+$/")
}

/// Escapes all but unreserved characters (RFC 3261 section 25.1) and `others`.
pub(crate) fn escape_except(text: &str, others: &[u8]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) || others.contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(text: &str) -> SipUri {
        SipUri::parse(text).expect(text)
    }

    fn equal(a: &str, b: &str) -> bool {
        uri(a).equivalent(&uri(b))
    }

    /// The examples of RFC 3261 section 19.1.4.
    #[test]
    fn rfc_3261_equal_uris_are_equal() {
        assert!(equal("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"));
        assert!(equal("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"));
        assert!(equal("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"));
        assert!(equal(
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com"
        ));
        assert!(equal(
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x"
        ));
    }

    #[test]
    fn rfc_3261_different_uris_are_different() {
        for (a, b) in [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
            ("sip:carol@chicago.com", "sips:carol@chicago.com"),
        ] {
            assert!(!equal(a, b), "{a} and {b}");
        }
    }

    #[test]
    fn ipv6_hosts_keep_their_brackets() {
        let parsed = uri("sip:alice@[2001:DB8::1]:5080;lr");
        assert_eq!((parsed.host.as_str(), parsed.port), ("[2001:db8::1]", Some(5080)));
    }

    #[test]
    fn what_is_no_sip_uri_is_refused() {
        for text in [
            "",
            "alice",
            "tel:+1555",
            "sip:",
            "sip:@host",
            "sip:a@",
            "sip:a@b:port",
            "sip:a@b:70000",
            "sip:a@[::1",
            "sip:a@b\r\n",
        ] {
            assert!(SipUri::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_normalised_text_separates_what_differs() {
        for other in
            ["sip:a@h:5060", "sips:a@h", "sip:A@h", "sip:a@h;transport=tcp", "sip:a@h2", "sip:a:p@h", "sip:a@h;x"]
        {
            assert_ne!(uri("sip:a@h").normalised(), uri(other).normalised(), "{other}");
        }
    }

    fn any_uri() -> impl Strategy<Value = String> {
        (
            "(sip|sips|SIP)",
            "[a-cA-C%41]{1,3}",
            "[a-bA-B]{1,2}",
            "(|:5060|:5062)",
            "(|;transport=tcp|;Transport=TCP|;lr|;ob;lr)",
        )
            .prop_map(|(scheme, user, host, port, params)| format!("{scheme}:{user}@{host}{port}{params}"))
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".*") {
            let _ = SipUri::parse(&text);
            let _ = SipUri::parse(&format!("sip:{text}"));
        }

        #[test]
        fn equality_is_reflexive_and_symmetric(a in any_uri(), b in any_uri()) {
            prop_assert!(equal(&a, &a));
            prop_assert_eq!(equal(&a, &b), equal(&b, &a));
        }

        #[test]
        fn uris_with_one_normalised_text_are_equal(a in any_uri(), b in any_uri()) {
            if uri(&a).normalised() == uri(&b).normalised() {
                prop_assert!(equal(&a, &b));
            }
        }
    }
}
