//! Digest authentication (RFC 2617, RFC 7616, RFC 8760): reading credentials, computing and checking responses.
//!
//! Nonces are the stock `auth` module's business; here the response is checked, in constant time.

use std::fmt;
use std::str::FromStr;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use sha2::{Sha256, Sha512_256};
use subtle::ConstantTimeEq;

use crate::Aor;
use crate::token::is_token;
use crate::uri::SipUri;

/// A digest algorithm. The `-sess` variants are not supported: they are refused, not mistaken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// MD5, also when no algorithm is named (RFC 7616 section 3.3).
    Md5,
    /// SHA-256.
    Sha256,
    /// SHA-512/256.
    Sha512_256,
}

impl Algorithm {
    /// All, strongest last.
    pub const ALL: [Self; 3] = [Self::Md5, Self::Sha256, Self::Sha512_256];

    /// Its name in a challenge.
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512_256 => "SHA-512-256",
        }
    }

    /// From the `algorithm` parameter; `""` when there is none.
    pub fn parse(parameter: &str) -> Option<Self> {
        match parameter.trim_matches('"').to_ascii_uppercase().as_str() {
            "" | "MD5" => Some(Self::Md5),
            "SHA-256" => Some(Self::Sha256),
            "SHA-512-256" => Some(Self::Sha512_256),
            _ => None,
        }
    }

    /// Length of its result in hex digits.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha256 | Self::Sha512_256 => 64,
        }
    }

    fn hash(self, parts: &[&str]) -> String {
        match self {
            Self::Md5 => hash::<Md5>(parts),
            Self::Sha256 => hash::<Sha256>(parts),
            Self::Sha512_256 => hash::<Sha512_256>(parts),
        }
    }
}

/// The algorithms that a server offers, most preferred first: one challenge for each (RFC 8760 section 2.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Algorithms(Vec<Algorithm>);

/// A text that is no list of algorithms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a list of MD5, SHA-256 and SHA-512-256, each at most once, most preferred first, separated by commas")]
pub struct AlgorithmsError;

impl Algorithms {
    /// In order of preference.
    pub fn iter(&self) -> impl Iterator<Item = Algorithm> + '_ {
        self.0.iter().copied()
    }

    /// How many are preferred to this one; `None` when it is not offered.
    pub fn rank(&self, algorithm: Algorithm) -> Option<usize> {
        self.0.iter().position(|offered| *offered == algorithm)
    }
}

impl FromStr for Algorithms {
    type Err = AlgorithmsError;

    /// Reads `SHA-256,MD5`.
    fn from_str(text: &str) -> Result<Self, AlgorithmsError> {
        let mut offered = Vec::new();
        for name in text.split(',').map(str::trim) {
            let algorithm = Algorithm::parse(name).filter(|_| !name.is_empty()).ok_or(AlgorithmsError)?;
            if offered.contains(&algorithm) {
                return Err(AlgorithmsError);
            }
            offered.push(algorithm);
        }
        Ok(Self(offered))
    }
}

/// Hex digits of the hash of the parts joined by colons.
fn hash<D: Digest>(parts: &[&str]) -> String {
    let mut hasher = D::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            hasher.update(b":");
        }
        hasher.update(part.as_bytes());
    }
    base16ct::lower::encode_string(&hasher.finalize())
}

/// Quality of protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qop {
    /// The request line is protected.
    Auth,
    /// The body, too. Not supported: such a response is never right.
    AuthInt,
}

impl Qop {
    /// From the `qop` parameter of credentials.
    pub fn parse(parameter: &str) -> Option<Self> {
        match parameter.trim_matches('"').to_ascii_lowercase().as_str() {
            "auth" => Some(Self::Auth),
            "auth-int" => Some(Self::AuthInt),
            _ => None,
        }
    }
}

/// H(user:realm:password) in hex: as good as the password within its realm, so it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Ha1 {
    algorithm: Algorithm,
    hex: String,
}

/// A text that is no HA1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an HA1 must be {expected} hex digits")]
pub struct Ha1Error {
    expected: usize,
}

impl Ha1 {
    /// The HA1 of a password.
    pub fn compute(algorithm: Algorithm, username: &str, realm: &str, password: &str) -> Self {
        Self { algorithm, hex: algorithm.hash(&[username, realm, password]) }
    }

    /// A stored HA1.
    ///
    /// # Errors
    /// When `hex` is not as many hex digits as the algorithm gives.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Self, Ha1Error> {
        if hex.len() == algorithm.hex_len() && hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            Ok(Self { algorithm, hex: hex.to_ascii_lowercase() })
        } else {
            Err(Ha1Error { expected: algorithm.hex_len() })
        }
    }

    /// One that no password has in practice: checking against it costs an unknown user as much time as a known one.
    pub fn dummy(algorithm: Algorithm) -> Self {
        Self { algorithm, hex: "0".repeat(algorithm.hex_len()) }
    }

    /// The digits, for storing.
    pub fn as_hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ha1({:?}, hidden)", self.algorithm)
    }
}

/// How a user writes its name in credentials: an HA1 holds the name as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// `user`
    User,
    /// `user@domain`
    UserAtDomain,
}

impl Form {
    /// Both.
    pub const ALL: [Self; 2] = [Self::User, Self::UserAtDomain];
}

/// The HA1s of one subscriber: one per algorithm and form of the name, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ha1s([[Option<Ha1>; 2]; 3]);

impl Ha1s {
    /// All HA1s of a password; the domain is the realm.
    pub fn of_password(aor: &Aor, password: &str) -> Self {
        let mut all = Self::default();
        let at_domain = aor.to_string();
        for algorithm in Algorithm::ALL {
            for (form, name) in [(Form::User, aor.username()), (Form::UserAtDomain, &at_domain)] {
                all.set(form, Ha1::compute(algorithm, name, aor.domain(), password));
            }
        }
        all
    }

    /// The HA1 for this algorithm and form of the name.
    pub fn get(&self, algorithm: Algorithm, form: Form) -> Option<&Ha1> {
        self.0[algorithm as usize][form as usize].as_ref()
    }

    /// Adds an HA1 or takes its place.
    pub fn set(&mut self, form: Form, ha1: Ha1) {
        let algorithm = ha1.algorithm as usize;
        self.0[algorithm][form as usize] = Some(ha1);
    }
}

/// Digest credentials as received.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// The realm.
    pub realm: String,
    /// The nonce.
    pub nonce: String,
    /// The digest URI.
    pub uri: String,
    /// The response, in hex.
    pub response: String,
    /// The algorithm that the response was made with.
    pub algorithm: Algorithm,
    /// Quality of protection, when given.
    pub qop: Option<Qop>,
    /// Nonce count, 8 hex digits, with a qop.
    pub nc: String,
    /// Client nonce, with a qop.
    pub cnonce: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, realm, algorithm) = (&self.username, &self.realm, self.algorithm);
        write!(f, "Credentials({user:?} in {realm:?}, {algorithm:?}, rest hidden)")
    }
}

/// What the body of an Authorization or Proxy-Authorization header is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// Digest credentials that can be checked.
    Digest(Box<Credentials>),
    /// Something that is never offered here: another scheme, another algorithm (a `-sess` variant, AKA), a hashed or encoded
    /// user name.
    Other,
}

/// Why a header is no credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the credentials are malformed: {0}")]
pub struct Malformed(&'static str);

/// Longest header body in bytes; credentials take a few hundred.
const LONGEST_HEADER: usize = 8192;

impl Authorization {
    /// Reads a header's body.
    ///
    /// Parameter names are case-insensitive, unknown ones are ignored, quoted pairs are resolved. Strict where anything else
    /// would let two readers see two things: a parameter twice, an open quote, a control character, bytes that are not UTF-8.
    ///
    /// # Errors
    /// [`Malformed`]; no input makes it panic.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        if body.len() > LONGEST_HEADER {
            return Err(Malformed("the header is too long"));
        }
        let text = std::str::from_utf8(body).map_err(|_| Malformed("it is not UTF-8"))?.trim_matches(is_white);
        let Some((scheme, parameters)) = text.split_once(is_white) else {
            return if text.eq_ignore_ascii_case("digest") { Err(Malformed("it is empty")) } else { Ok(Self::Other) };
        };
        if !scheme.eq_ignore_ascii_case("digest") {
            return Ok(Self::Other);
        }
        Fields::parse(parameters)?.credentials()
    }
}

/// What a request presents to a realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// These credentials, in the header of this index.
    Credentials(usize, Box<Credentials>),
    /// Nothing that answers one of its challenges.
    Nothing,
    /// Nothing, and a header that is malformed.
    Malformed,
}

/// Chooses among the Authorization (or Proxy-Authorization) headers of a request: those for the realm by an algorithm that is
/// offered, of several the most preferred one (RFC 8760 section 2.4).
pub fn choose<'h>(headers: impl IntoIterator<Item = &'h [u8]>, realm: &str, offered: &Algorithms) -> Choice {
    let mut chosen: Option<(usize, usize, Box<Credentials>)> = None;
    let mut malformed = false;
    for (index, body) in headers.into_iter().enumerate() {
        match Authorization::parse(body) {
            Ok(Authorization::Digest(credentials)) if credentials.realm.eq_ignore_ascii_case(realm) => {
                let Some(rank) = offered.rank(credentials.algorithm) else { continue };
                if chosen.as_ref().is_none_or(|(best, ..)| rank < *best) {
                    chosen = Some((rank, index, credentials));
                }
            }
            Ok(_) => {}
            Err(_) => malformed = true,
        }
    }
    match chosen {
        Some((_, index, credentials)) => Choice::Credentials(index, credentials),
        None if malformed => Choice::Malformed,
        None => Choice::Nothing,
    }
}

/// Whether a digest URI names what the request is for (RFC 7616 section 3.4.6): the Request-URI or one equal to it.
pub fn fits(digest_uri: &str, request_uri: &str) -> bool {
    let parsed = (SipUri::parse(digest_uri), SipUri::parse(request_uri));
    digest_uri == request_uri || matches!(parsed, (Ok(one), Ok(other)) if one.equivalent(&other))
}

fn is_white(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// The parameters of digest credentials that mean something here.
#[derive(Default)]
struct Fields {
    username: Option<String>,
    realm: Option<String>,
    nonce: Option<String>,
    uri: Option<String>,
    response: Option<String>,
    algorithm: Option<String>,
    qop: Option<String>,
    nc: Option<String>,
    cnonce: Option<String>,
    userhash: Option<String>,
    encoded_username: Option<String>,
}

impl Fields {
    fn parse(text: &str) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        let mut rest = text;
        loop {
            let (name, value, after) = parameter(rest)?;
            fields.set(name, value)?;
            rest = after.trim_start_matches(is_white);
            if rest.is_empty() {
                return Ok(fields);
            }
            rest = rest.strip_prefix(',').ok_or(Malformed("there is no comma between two parameters"))?;
        }
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), Malformed> {
        let field = match name.to_ascii_lowercase().as_str() {
            "username" => &mut self.username,
            "realm" => &mut self.realm,
            "nonce" => &mut self.nonce,
            "uri" => &mut self.uri,
            "response" => &mut self.response,
            "algorithm" => &mut self.algorithm,
            "qop" => &mut self.qop,
            "nc" => &mut self.nc,
            "cnonce" => &mut self.cnonce,
            "userhash" => &mut self.userhash,
            "username*" => &mut self.encoded_username,
            _ => return Ok(()),
        };
        match field.replace(value) {
            None => Ok(()),
            Some(_) => Err(Malformed("a parameter is there twice")),
        }
    }

    fn credentials(self) -> Result<Authorization, Malformed> {
        let hashed = self.userhash.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if hashed || self.encoded_username.is_some() {
            return Ok(Authorization::Other);
        }
        let Some(algorithm) = Algorithm::parse(self.algorithm.as_deref().unwrap_or_default()) else {
            return Ok(Authorization::Other);
        };
        let qop = match self.qop {
            None => None,
            Some(written) => Some(Qop::parse(&written).ok_or(Malformed("the qop is neither auth nor auth-int"))?),
        };
        let nc = self.nc.unwrap_or_default();
        if qop.is_some() && !(nc.len() == 8 && nc.bytes().all(|digit| digit.is_ascii_hexdigit())) {
            return Err(Malformed("with a qop there must be an nc of 8 hex digits"));
        }
        if qop.is_some() && self.cnonce.is_none() {
            return Err(Malformed("with a qop there must be a cnonce"));
        }
        let required =
            |field: Option<String>, missing| field.filter(|value| !value.is_empty()).ok_or(Malformed(missing));
        Ok(Authorization::Digest(Box::new(Credentials {
            username: required(self.username, "there is no username")?,
            realm: required(self.realm, "there is no realm")?,
            nonce: required(self.nonce, "there is no nonce")?,
            uri: required(self.uri, "there is no uri")?,
            response: required(self.response, "there is no response")?,
            algorithm,
            qop,
            nc,
            cnonce: self.cnonce.unwrap_or_default(),
        })))
    }
}

/// The first parameter of `text`: name, value, what follows.
fn parameter(text: &str) -> Result<(&str, String, &str), Malformed> {
    let (name, after) = text.split_once('=').ok_or(Malformed("a parameter has no value"))?;
    let name = name.trim_matches(is_white);
    if !is_token(name) {
        return Err(Malformed("a parameter's name is no token"));
    }
    let after = after.trim_start_matches(is_white);
    let (value, rest) = match after.strip_prefix('"') {
        Some(quoted) => unquote(quoted)?,
        None => token(after)?,
    };
    Ok((name, value, rest))
}

fn token(text: &str) -> Result<(String, &str), Malformed> {
    let end = text.find(|c| c == ',' || is_white(c)).unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    if value.is_empty() || value.contains(|c: char| c == '"' || c.is_control()) {
        return Err(Malformed("a parameter's value is no token"));
    }
    Ok((value.to_owned(), rest))
}

/// The value of a quoted string (RFC 3261 section 25.1), and what follows its closing quote.
fn unquote(text: &str) -> Result<(String, &str), Malformed> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        let character = match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => characters.next().ok_or(Malformed("a quote is open"))?.1,
            other => other,
        };
        if character.is_control() && character != '\t' {
            return Err(Malformed("it holds a control character"));
        }
        value.push(character);
    }
    Err(Malformed("a quote is open"))
}

/// Whether the response is the one that the holder of `ha1` gives to this request. Takes the same time whichever it is.
pub fn verify(credentials: &Credentials, method: &str, ha1: &Ha1) -> bool {
    if credentials.algorithm != ha1.algorithm || credentials.qop == Some(Qop::AuthInt) {
        return false;
    }
    let expected = response(credentials, method, ha1);
    expected.as_bytes().ct_eq(credentials.response.to_ascii_lowercase().as_bytes()).into()
}

/// What the server answers to right credentials to prove that it knows the HA1, too (`rspauth`, RFC 7616 section 3.5).
pub fn proof(credentials: &Credentials, ha1: &Ha1) -> String {
    response(credentials, "", ha1)
}

/// RFC 7616 section 3.4.1, without a body's hash.
fn response(credentials: &Credentials, method: &str, ha1: &Ha1) -> String {
    let algorithm = ha1.algorithm;
    let ha2 = algorithm.hash(&[method, &credentials.uri]);
    match credentials.qop {
        None => algorithm.hash(&[&ha1.hex, &credentials.nonce, &ha2]),
        Some(_) => algorithm.hash(&[&ha1.hex, &credentials.nonce, &credentials.nc, &credentials.cnonce, "auth", &ha2]),
    }
}

/// The response of a client that holds `ha1`: for tools that are one.
pub fn respond(credentials: &mut Credentials, method: &str, ha1: &Ha1) {
    credentials.algorithm = ha1.algorithm;
    credentials.response = response(credentials, method, ha1);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The examples of RFC 7616 section 3.9.1.
    fn mufasa(algorithm: Algorithm, response: &str) -> (Credentials, Ha1) {
        let credentials = Credentials {
            username: "Mufasa".into(),
            realm: "http-auth@example.org".into(),
            nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v".into(),
            uri: "/dir/index.html".into(),
            response: response.into(),
            algorithm,
            qop: Some(Qop::Auth),
            nc: "00000001".into(),
            cnonce: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ".into(),
        };
        (credentials, Ha1::compute(algorithm, "Mufasa", "http-auth@example.org", "Circle of Life"))
    }

    /// The RFC's own example of the third algorithm is wrong (see its errata): this one was computed with OpenSSL.
    const RFC_7616: [(Algorithm, &str); 3] = [
        (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
        (Algorithm::Sha256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        (Algorithm::Sha512_256, "430d05014cecc49cab6fbe03176d41a1da86cbfe24a16580e22aaad928d960d0"),
    ];

    #[test]
    fn rfc_7616_examples_are_right() {
        for (algorithm, response) in RFC_7616 {
            let (credentials, ha1) = mufasa(algorithm, response);
            assert!(verify(&credentials, "GET", &ha1), "{algorithm:?}");
            assert!(!verify(&credentials, "POST", &ha1), "{algorithm:?}");
        }
    }

    /// RFC 7616 section 3.9.2, the hashed user name, as the RFC's errata correct it.
    #[test]
    fn sha_512_256_is_not_sha_512_cut_short() {
        let hash = Algorithm::Sha512_256.hash(&["J\u{e4}s\u{f8}n Doe", "api@example.org"]);
        assert_eq!(hash, "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b");
    }

    /// RFC 2617 section 3.5.
    #[test]
    fn rfc_2617_example_is_right() {
        let credentials = Credentials {
            username: "Mufasa".into(),
            realm: "testrealm@host.com".into(),
            nonce: "dcd98b7102dd2f0e8b11d0f600bfb0c093".into(),
            uri: "/dir/index.html".into(),
            response: "6629fae49393a05397450978507c4ef1".into(),
            algorithm: Algorithm::Md5,
            qop: Some(Qop::Auth),
            nc: "00000001".into(),
            cnonce: "0a4f113b".into(),
        };
        let ha1 = Ha1::compute(Algorithm::Md5, "Mufasa", "testrealm@host.com", "Circle Of Life");
        assert!(verify(&credentials, "GET", &ha1));
        let without = Credentials { qop: None, response: "670fd8c2df070c60b045671b8b24ff02".into(), ..credentials };
        assert!(verify(&without, "GET", &ha1));
    }

    #[test]
    fn any_changed_part_is_refused() {
        let (right, ha1) = mufasa(RFC_7616[0].0, RFC_7616[0].1);
        let wrong = [
            Credentials { nonce: "x".into(), ..right.clone() },
            Credentials { uri: "/".into(), ..right.clone() },
            Credentials { nc: "00000002".into(), ..right.clone() },
            Credentials { cnonce: "x".into(), ..right.clone() },
            Credentials { qop: None, ..right.clone() },
            Credentials { qop: Some(Qop::AuthInt), ..right.clone() },
            Credentials { response: right.response[..31].into(), ..right.clone() },
            Credentials { response: String::new(), ..right.clone() },
        ];
        for credentials in wrong {
            assert!(!verify(&credentials, "GET", &ha1));
        }
    }

    #[test]
    fn an_algorithm_is_never_taken_for_another() {
        let (credentials, _) = mufasa(RFC_7616[0].0, RFC_7616[0].1);
        let (_, other) = mufasa(RFC_7616[1].0, RFC_7616[1].1);
        assert!(!verify(&credentials, "GET", &other));
        assert_eq!(Algorithm::parse("MD5-sess"), None);
        assert_eq!(Algorithm::parse("sha-512-256"), Some(Algorithm::Sha512_256));
    }

    #[test]
    fn secrets_are_not_shown() {
        let (credentials, ha1) = mufasa(RFC_7616[0].0, RFC_7616[0].1);
        let shown = format!("{credentials:?} {ha1:?}");
        assert!(
            !shown.contains(ha1.as_hex())
                && !shown.contains(&credentials.response)
                && !shown.contains(&credentials.nonce)
        );
    }

    #[test]
    fn a_stored_ha1_must_fit_its_algorithm() {
        assert!(Ha1::from_hex(Algorithm::Md5, &"a".repeat(32)).is_ok());
        assert!(Ha1::from_hex(Algorithm::Md5, &"a".repeat(64)).is_err());
        assert!(Ha1::from_hex(Algorithm::Md5, &"g".repeat(32)).is_err());
    }

    fn aor() -> Aor {
        Aor::new("alice", "example.com").expect("an AoR")
    }

    #[test]
    fn a_password_has_an_ha1_per_algorithm_and_form() {
        let all = Ha1s::of_password(&aor(), "secret");
        for algorithm in Algorithm::ALL {
            for (form, name) in [(Form::User, "alice"), (Form::UserAtDomain, "alice@example.com")] {
                let expected = Ha1::compute(algorithm, name, "example.com", "secret");
                assert_eq!(all.get(algorithm, form), Some(&expected));
            }
        }
        assert_eq!(Ha1s::default().get(Algorithm::Md5, Form::User), None);
    }

    #[test]
    fn offered_algorithms_are_ranked_and_nothing_else_is_understood() {
        let offered: Algorithms = "SHA-256, md5".parse().expect("two algorithms");
        assert_eq!(offered.rank(Algorithm::Sha256), Some(0));
        assert_eq!(offered.rank(Algorithm::Md5), Some(1));
        assert_eq!(offered.rank(Algorithm::Sha512_256), None);
        for wrong in ["", "MD5,", "MD5,MD5", "MD5-sess", "SHA-1", "MD5 SHA-256"] {
            assert!(wrong.parse::<Algorithms>().is_err(), "{wrong}");
        }
    }

    const WRITTEN: &str = "Digest username=\"alice\", realm=\"example.com\", nonce=\"n\", uri=\"sip:example.com\", \
                           response=\"0123\", algorithm=SHA-256, qop=auth, nc=00000001, cnonce=\"c\"";

    fn parsed(header: &str) -> Credentials {
        match Authorization::parse(header.as_bytes()) {
            Ok(Authorization::Digest(credentials)) => *credentials,
            other => panic!("{header}: {other:?}"),
        }
    }

    #[test]
    fn credentials_are_read_from_a_header() {
        let credentials = parsed(WRITTEN);
        assert_eq!((credentials.username.as_str(), credentials.realm.as_str()), ("alice", "example.com"));
        assert_eq!((credentials.algorithm, credentials.qop), (Algorithm::Sha256, Some(Qop::Auth)));
        assert_eq!((credentials.nc.as_str(), credentials.cnonce.as_str()), ("00000001", "c"));
    }

    #[test]
    fn parameter_names_are_case_insensitive_and_unknown_ones_are_ignored() {
        let shouted =
            WRITTEN.replace("Digest username", "dIGEST  x-new=\"a,b\",y=z,\r\n\tUserName").replace("nonce", "NONCE");
        assert_eq!(parsed(&shouted), parsed(WRITTEN));
    }

    #[test]
    fn quoted_pairs_are_resolved() {
        let escaped = WRITTEN.replace("\"alice\"", r#""al\i\"c\\e, x=y""#).replace("\"n\"", r#""\n""#);
        let credentials = parsed(&escaped);
        assert_eq!((credentials.username.as_str(), credentials.nonce.as_str()), ("ali\"c\\e, x=y", "n"));
    }

    #[test]
    fn no_algorithm_is_md5_and_a_sess_variant_is_none_of_ours() {
        assert_eq!(parsed(&WRITTEN.replace("algorithm=SHA-256, ", "")).algorithm, Algorithm::Md5);
        for other in ["MD5-sess", "SHA-256-sess", "AKAv1-MD5", "\"\""] {
            let header = WRITTEN.replace("=SHA-256", &format!("={other}"));
            let read = Authorization::parse(header.as_bytes());
            assert!(other == "\"\"" || read == Ok(Authorization::Other), "{other}: {read:?}");
        }
    }

    #[test]
    fn another_scheme_and_a_hashed_or_encoded_name_are_none_of_ours() {
        for other in ["Basic YWxpY2U6c2VjcmV0", "Bearer x", "", "Negotiate"] {
            assert_eq!(Authorization::parse(other.as_bytes()), Ok(Authorization::Other), "{other}");
        }
        for other in
            [format!("{WRITTEN}, userhash=true"), WRITTEN.replace("username=\"alice\"", "username*=UTF-8''alice")]
        {
            assert_eq!(Authorization::parse(other.as_bytes()), Ok(Authorization::Other), "{other}");
        }
        assert_eq!(parsed(&format!("{WRITTEN}, userhash=false")), parsed(WRITTEN));
    }

    #[test]
    fn malformed_credentials_are_refused() {
        let cut = |what: &str, with: &str| {
            let changed = WRITTEN.replace(what, with);
            assert_ne!(changed, WRITTEN, "{what}");
            changed
        };
        let wrong = [
            "Digest".to_owned(),
            "Digest ,".to_owned(),
            cut("\"c\"", "\"c"),
            cut("\"c\"", "\"c\\"),
            cut("\"c\"", ""),
            cut("\"alice\"", "\"al\u{0}ice\""),
            cut("\"alice\"", "\"al\r\nice\""),
            cut("\"alice\"", "\"\""),
            cut("username=\"alice\", ", ""),
            cut("realm=\"example.com\", ", ""),
            cut(" nonce=\"n\",", ""),
            cut("uri=\"sip:example.com\", ", ""),
            cut("response=\"0123\", ", ""),
            cut(", cnonce=\"c\"", ""),
            cut("nc=00000001, ", ""),
            cut("nc=00000001", "nc=1"),
            cut("nc=00000001", "nc=0000000g"),
            cut("nc=00000001", "nc=000000001"),
            cut("qop=auth", "qop=other"),
            cut("\"n\",", "\"n\""),
            cut("\"n\",", "\"n\", nonce=\"m\","),
            format!("{WRITTEN},"),
            format!("{WRITTEN}, x=\"{}\"", "y".repeat(LONGEST_HEADER)),
        ];
        for header in wrong {
            assert!(Authorization::parse(header.as_bytes()).is_err(), "{header}");
        }
        assert!(Authorization::parse(&[WRITTEN.as_bytes(), b", x=\"\xff\""].concat()).is_err());
    }

    fn chosen(headers: &[&str], offered: &str) -> Choice {
        let offered = offered.parse().expect("algorithms");
        choose(headers.iter().map(|header| header.as_bytes()), "Example.com", &offered)
    }

    #[test]
    fn of_several_headers_the_most_preferred_for_the_realm_is_chosen() {
        let md5 = WRITTEN.replace("SHA-256", "MD5");
        let elsewhere = WRITTEN.replace("example.com\",", "example.org\",");
        let headers = ["Basic x", &elsewhere, &md5, "Digest broken", WRITTEN];
        let index = |offered| match chosen(&headers, offered) {
            Choice::Credentials(index, _) => Some(index),
            _ => None,
        };
        assert_eq!(index("SHA-256,MD5"), Some(4));
        assert_eq!(index("MD5,SHA-256"), Some(2));
        assert_eq!(index("MD5"), Some(2));
        assert_eq!(index("SHA-512-256"), None);
    }

    #[test]
    fn a_malformed_header_counts_only_when_there_is_no_other() {
        assert_eq!(chosen(&["Digest broken"], "SHA-256"), Choice::Malformed);
        assert_eq!(chosen(&["Basic x"], "SHA-256"), Choice::Nothing);
        assert_eq!(chosen(&[], "SHA-256"), Choice::Nothing);
        assert_eq!(chosen(&[WRITTEN], "MD5"), Choice::Nothing, "an algorithm that was not offered");
    }

    #[test]
    fn a_digest_uri_fits_the_request_uri_or_an_equal_one() {
        for (uri, fitting) in [
            ("sip:example.com", true),
            ("sip:EXAMPLE.com", true),
            ("sip:example.org", false),
            ("sips:example.com", false),
            ("*", false),
        ] {
            assert_eq!(fits(uri, "sip:example.com"), fitting, "{uri}");
        }
    }

    /// Written with every character escaped that may be.
    fn escaped(text: &str) -> String {
        text.chars().flat_map(|c| ['\\', c]).collect()
    }

    proptest! {
        #[test]
        fn no_header_makes_the_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Authorization::parse(&body);
            let _ = Authorization::parse(&[b"Digest ".as_slice(), &body].concat());
        }

        #[test]
        fn no_parameters_make_the_reader_panic(parameters in "[a-z*]{0,8}=?[\"\\\\]?[ -~]{0,12}[\"\\\\]?,?[\\PC\r\n\t]{0,9}") {
            let _ = Authorization::parse(format!("{WRITTEN}, {parameters}").as_bytes());
            let _ = Authorization::parse(format!("Digest {parameters}").as_bytes());
        }

        #[test]
        fn what_is_written_is_read(username in "[ -~]{1,40}", cnonce in "[ -~]{1,40}", nc in "[0-9a-fA-F]{8}") {
            let header = WRITTEN
                .replace("\"alice\"", &format!("\"{}\"", escaped(&username)))
                .replace("\"c\"", &format!("\"{}\"", escaped(&cnonce)))
                .replace("00000001", &nc);
            let credentials = parsed(&header);
            prop_assert_eq!((credentials.username, credentials.cnonce, credentials.nc), (username, cnonce, nc));
        }

        #[test]
        fn only_the_password_of_the_request_opens(
            password in "[ -~]{0,20}",
            other in "[ -~]{0,20}",
            algorithm in proptest::sample::select(Algorithm::ALL.as_slice()),
            with_qop: bool,
        ) {
            let mut credentials = parsed(WRITTEN);
            credentials.qop = with_qop.then_some(Qop::Auth);
            let ha1 = |password: &str| Ha1::compute(algorithm, "alice", "example.com", password);
            respond(&mut credentials, "REGISTER", &ha1(&password));
            prop_assert!(verify(&credentials, "REGISTER", &ha1(&password)));
            prop_assert!(!verify(&credentials, "INVITE", &ha1(&password)));
            prop_assert_eq!(verify(&credentials, "REGISTER", &ha1(&other)), password == other);
        }

        #[test]
        fn a_response_of_another_length_is_refused(response in "[0-9a-f]{0,80}") {
            let mut credentials = parsed(WRITTEN);
            let ha1 = Ha1::compute(Algorithm::Sha256, "alice", "example.com", "secret");
            respond(&mut credentials, "REGISTER", &ha1);
            let right = std::mem::replace(&mut credentials.response, response);
            prop_assert_eq!(verify(&credentials, "REGISTER", &ha1), credentials.response == right);
        }
    }
}
