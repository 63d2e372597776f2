//! Digest authentication (RFC 2617, RFC 7616, RFC 8760): computing and checking responses.
//!
//! Nonces are the stock `auth` module's business; here the response is checked, in constant time.

use std::fmt;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use sha2::{Sha256, Sha512_256};
use subtle::ConstantTimeEq;

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

/// Whether the response is the one that the holder of `ha1` gives to this request. Takes the same time whichever it is.
pub fn verify(credentials: &Credentials, method: &str, ha1: &Ha1) -> bool {
    if credentials.algorithm != ha1.algorithm || credentials.qop == Some(Qop::AuthInt) {
        return false;
    }
    let algorithm = credentials.algorithm;
    let ha2 = algorithm.hash(&[method, &credentials.uri]);
    let expected = match credentials.qop {
        None => algorithm.hash(&[&ha1.hex, &credentials.nonce, &ha2]),
        Some(_) => algorithm.hash(&[&ha1.hex, &credentials.nonce, &credentials.nc, &credentials.cnonce, "auth", &ha2]),
    };
    expected.as_bytes().ct_eq(credentials.response.to_ascii_lowercase().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7616 section 3.9.1.
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

    const RFC_7616: [(Algorithm, &str); 2] = [
        (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
        (Algorithm::Sha256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ];

    #[test]
    fn rfc_7616_examples_are_right() {
        for (algorithm, response) in RFC_7616 {
            let (credentials, ha1) = mufasa(algorithm, response);
            assert!(verify(&credentials, "GET", &ha1), "{algorithm:?}");
            assert!(!verify(&credentials, "POST", &ha1), "{algorithm:?}");
        }
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
}
