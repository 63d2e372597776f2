//! Challenges, and what phones answer to them.

use anyhow::{Context, Result, ensure};
use domain::Aor;
use domain::digest::{Algorithm, Credentials, Form, Ha1, Ha1s, Qop, respond};

use super::sip::{Agent, ack, headers, status};
use super::{DOMAIN, PASSWORD};

/// A challenge of an answer.
#[derive(Debug, Clone)]
pub struct Challenge {
    pub algorithm: Option<Algorithm>,
    pub nonce: String,
    pub line: String,
}

impl Challenge {
    pub fn parse(line: &str) -> Result<Self> {
        let algorithm = parameter(line, "algorithm").and_then(|name| Algorithm::parse(&name));
        Ok(Self { algorithm, nonce: parameter(line, "nonce").context("no nonce")?, line: line.to_owned() })
    }

    /// Right credentials of `user`, to be changed by a test.
    pub fn credentials(&self, user: &str) -> Credentials {
        Credentials {
            username: user.to_owned(),
            realm: DOMAIN.to_owned(),
            nonce: self.nonce.clone(),
            uri: format!("sip:{DOMAIN}"),
            response: String::new(),
            algorithm: self.algorithm.unwrap_or(Algorithm::Md5),
            qop: Some(Qop::Auth),
            nc: "00000001".to_owned(),
            cnonce: "c".to_owned(),
        }
    }
}

/// The value of a parameter, without its quotes.
pub fn parameter(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("{name}="))?;
    let value = rest.strip_prefix('"').map_or_else(|| rest.split(',').next(), |quoted| quoted.split('"').next());
    value.map(|value| value.trim().to_owned())
}

/// The HA1 of `user`, or of `user@domain` where that is what is written.
pub fn ha1(algorithm: Algorithm, user: &str, password: &str) -> Result<Ha1> {
    let (user, form) = match user.split_once('@') {
        Some((user, _)) => (user, Form::UserAtDomain),
        None => (user, Form::User),
    };
    let all = Ha1s::of_password(&Aor::new(user, DOMAIN)?, password);
    all.get(algorithm, form).cloned().context("an HA1 of each algorithm")
}

/// The header's body, answered by who knows `password`.
pub fn answered(mut credentials: Credentials, method: &str, password: &str) -> Result<String> {
    let ha1 = ha1(credentials.algorithm, &credentials.username, password)?;
    respond(&mut credentials, method, &ha1);
    Ok(written(&credentials))
}

/// Credentials as the body of their header.
pub fn written(credentials: &Credentials) -> String {
    let Credentials { username, realm, nonce, uri, response, algorithm, nc, cnonce, .. } = credentials;
    let name = algorithm.name();
    format!(
        "Digest username=\"{username}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", \
         algorithm={name}, qop=auth, nc={nc}, cnonce=\"{cnonce}\""
    )
}

/// The header line that meets the first challenge of a 401 or 407, for this request of `user`, who has everybody's password.
pub fn credentials(refusal: &str, method: &str, uri: &str, user: &str) -> Result<String> {
    let (asked, answer) = match status(refusal) {
        Some(407) => ("Proxy-Authenticate", "Proxy-Authorization"),
        _ => ("WWW-Authenticate", "Authorization"),
    };
    let challenges = headers(refusal, asked);
    let challenge = Challenge::parse(challenges.first().with_context(|| format!("no challenge: {refusal}"))?)?;
    let credentials = Credentials { uri: uri.to_owned(), ..challenge.credentials(user) };
    Ok(format!("{answer}: {}", answered(credentials, method, PASSWORD)?))
}

/// Sends a request of `from`, which must be challenged as its method is (RFC 3261 section 22), and once more with right credentials. Gives what was sent at last.
pub fn send_authenticated(
    agent: &mut Agent,
    method: &str,
    uri: &str,
    from: &str,
    to: &str,
    lines: &[&str],
) -> Result<String> {
    let first = agent.request(method, uri, from, to, lines);
    let challenge = agent.ask(&first)?;
    let expected = if method == "REGISTER" { 401 } else { 407 };
    ensure!(status(&challenge) == Some(expected), "no challenge: {challenge}");
    if method == "INVITE" {
        agent.send(&ack(&first, &challenge))?;
    }
    let met = credentials(&challenge, method, uri, from)?;
    let lines: Vec<&str> = lines.iter().copied().chain([met.as_str()]).collect();
    let request = agent.request(method, uri, from, to, &lines);
    agent.send(&request)?;
    Ok(request)
}
