//! Who is let in, by which credentials, and what others are told: through stock Kamailio, our module and a real Cassandra.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::digest::{Challenge, answered, ha1, parameter, written};
use common::sip::{self, Agent, headers};
use common::{ALL_IN_ONE, DOMAIN, PASSWORD, Site, statistic};
use domain::digest::{Algorithm, Credentials, respond};
use lab::kamailio::Kamailio;
use lab::wait::until;
use serde_json::json;

/// One function per request, and its code in the answer.
const SCRIPT: &str = "tests/cfg/authentication.cfg";
const ALL_ALGORITHMS: &str = "modparam(\"cassandra\", \"algorithms\", \"SHA-512-256,SHA-256,MD5\")";
/// Patient with a slow Cassandra.
const PATIENT: &str = "modparam(\"cassandra\", \"call_timeout\", 8000)
modparam(\"cassandra\", \"request_timeout\", 2000)";
/// For tests that do not guess but fail.
const UNGUARDED: &str = "modparam(\"cassandra\", \"auth_failures_per_source\", 0)
modparam(\"cassandra\", \"auth_failures_per_aor\", 0)";

fn main() -> ExitCode {
    common::suite(
        &["alice", "bob", "carol", "dave", "erin", "frank"],
        &[
            ("each_algorithm_is_challenged_most_preferred_first_with_a_qop", challenges),
            ("right_credentials_by_each_algorithm_are_accepted", each_algorithm),
            ("an_algorithm_that_was_not_offered_or_a_sess_variant_is_no_credentials", not_offered),
            ("a_response_by_another_algorithm_than_the_named_one_is_refused", confusion),
            ("no_algorithm_named_is_md5", no_algorithm),
            ("several_authorization_headers_are_walked", several_headers),
            ("a_user_may_write_its_name_with_or_without_the_domain", forms),
            ("a_wrong_password_an_unknown_and_a_disabled_user_have_their_codes", refusals),
            ("a_response_of_another_length_is_refused", wrong_length),
            ("the_response_is_for_the_method_and_uri_it_was_made_for", method_and_uri),
            ("parameter_names_quoted_pairs_and_unknown_parameters_are_read_by_the_rules", liberal),
            ("a_hashed_user_name_is_refused_cleanly", userhash),
            ("malformed_credentials_get_400_and_no_line_in_the_log", malformed),
            ("the_user_must_be_the_one_the_request_is_from", identity),
            ("with_use_domain_the_domains_must_agree_too", identity_of_domains),
            ("ack_cancel_and_prack_are_not_challenged", never_challenged),
            ("an_old_nonce_is_stale_for_right_credentials_only", stale),
            ("a_nonce_of_another_node_with_the_same_secret_is_accepted", shared_secret),
            ("a_nonce_of_another_secret_is_stale_never_403", other_secret),
            ("a_nonce_count_that_was_seen_is_stale_and_a_higher_one_is_accepted", nonce_count),
            ("a_one_time_nonce_is_accepted_once", one_time),
            ("the_server_proves_that_it_knows_the_password_and_gives_the_next_nonce", authentication_info),
            ("with_check_digest_uri_it_must_name_the_request_uri", digest_uri),
            ("attributes_of_the_subscriber_are_loaded", attributes),
            ("a_subscriber_is_told_from_others", is_subscriber),
            ("known_and_unknown_users_get_the_same_answers_for_as_many_reads", indistinguishable),
            ("a_thousand_registers_of_one_user_at_once_cost_one_read", thousand),
            ("refused_credentials_cost_one_read_a_second_at_most", reads_of_refused),
            ("a_flush_has_credentials_read_again", flush),
            ("who_guesses_is_refused_unread_and_the_owner_is_not_locked_out", guessing),
            ("a_source_that_guesses_is_refused_for_all_users_until_it_is_cleared", guessing_source),
            ("the_example_configuration_takes_the_preferred_algorithm", preferred),
        ],
    )
}

/// A client of the script: what it asks for, and by which header.
struct Client<'k> {
    agent: Agent,
    function: &'static str,
    method: &'static str,
    kamailio: &'k Kamailio,
}

impl<'k> Client<'k> {
    fn new(kamailio: &'k Kamailio, function: &'static str, method: &'static str) -> Result<Self> {
        Ok(Self { agent: Agent::udp(kamailio)?, function, method, kamailio })
    }

    /// That registers with `cassandra_www_authenticate_async`.
    fn registering(kamailio: &'k Kamailio) -> Result<Self> {
        Self::new(kamailio, "www-async", "REGISTER")
    }

    fn is_proxied(&self) -> bool {
        self.function.starts_with("proxy") || (self.function.starts_with("check") && self.method != "REGISTER")
    }

    fn request(&self, from: &str, lines: &[String]) -> String {
        let function = format!("X-Do: {}", self.function);
        let lines = lines.iter().map(String::as_str).chain([function.as_str(), "X-Flags: 0"]);
        let lines: Vec<&str> = lines.collect();
        self.agent.request(self.method, &format!("sip:{DOMAIN}"), from, from, &lines)
    }

    fn ask(&mut self, from: &str, lines: &[String]) -> Result<Answer> {
        let request = self.request(from, lines);
        self.send(&request)
    }

    fn send(&mut self, request: &str) -> Result<Answer> {
        let text = self.agent.ask(request).with_context(|| self.kamailio.log())?;
        if self.method == "INVITE" && sip::status(&text).is_some_and(|status| status >= 300) {
            self.agent.send(&sip::ack(request, &text))?;
        }
        Ok(Answer(text))
    }

    /// The challenges to a request without credentials.
    fn challenges(&mut self) -> Result<Vec<Challenge>> {
        let answer = self.ask("alice", &[])?;
        ensure!(answer.code()? == -5, "{}", answer.0);
        answer.challenges(self.is_proxied())
    }

    fn challenge(&mut self) -> Result<Challenge> {
        self.challenges()?.into_iter().next().context("no challenge")
    }

    fn header(&self, body: &str) -> String {
        format!("{}Authorization: {body}", if self.is_proxied() { "Proxy-" } else { "" })
    }

    /// Answers a fresh challenge with the credentials of `user`.
    fn authenticate(&mut self, user: &str, password: &str) -> Result<Answer> {
        let challenge = self.challenge()?;
        let body = answered(challenge.credentials(user), self.method, password)?;
        self.present(user, &body)
    }

    fn present(&mut self, user: &str, body: &str) -> Result<Answer> {
        let from = user.split('@').next().unwrap_or(user);
        self.ask(from, &[self.header(body)])
    }

    /// The code for a body.
    fn code(&mut self, body: &str) -> Result<i32> {
        self.present("alice", body)?.code()
    }
}

/// An answer of the script.
#[derive(Debug)]
struct Answer(String);

impl Answer {
    fn status(&self) -> Option<u16> {
        sip::status(&self.0)
    }

    fn header(&self, name: &str) -> Option<&str> {
        headers(&self.0, name).first().copied()
    }

    /// What the function returned.
    fn code(&self) -> Result<i32> {
        self.header("X-Code").and_then(|code| code.parse().ok()).with_context(|| format!("no code in {}", self.0))
    }

    fn challenges(&self, proxied: bool) -> Result<Vec<Challenge>> {
        let (status, name) = if proxied { (407, "Proxy-Authenticate") } else { (401, "WWW-Authenticate") };
        ensure!(self.status() == Some(status), "{}", self.0);
        headers(&self.0, name).into_iter().map(Challenge::parse).collect()
    }
}

fn start(site: &Site, settings: &str) -> Result<Kamailio> {
    site.connected(site.with_settings(SCRIPT, settings)?)
}

fn challenges(site: &Site) -> Result<()> {
    let kamailio = start(site, ALL_ALGORITHMS)?;
    for (function, method) in [("www", "REGISTER"), ("proxy", "INVITE"), ("check", "REGISTER"), ("check", "MESSAGE")] {
        let challenges = Client::new(&kamailio, function, method)?.challenges()?;
        let named: Vec<_> = challenges.iter().filter_map(|challenge| challenge.algorithm).collect();
        ensure!(named == [Algorithm::Sha512_256, Algorithm::Sha256, Algorithm::Md5], "{function}: {challenges:?}");
        for challenge in &challenges {
            ensure!(parameter(&challenge.line, "qop").as_deref() == Some("auth"), "{challenge:?}");
            ensure!(parameter(&challenge.line, "realm").as_deref() == Some(DOMAIN), "{challenge:?}");
            ensure!(!challenge.line.contains("stale"), "{challenge:?}");
        }
    }
    Ok(())
}

fn each_algorithm(site: &Site) -> Result<()> {
    let kamailio = start(site, ALL_ALGORITHMS)?;
    for (function, method) in [
        ("www", "REGISTER"),
        ("www-async", "REGISTER"),
        ("proxy", "MESSAGE"),
        ("proxy-async", "MESSAGE"),
        ("check", "REGISTER"),
        ("check-async", "MESSAGE"),
    ] {
        let mut client = Client::new(&kamailio, function, method)?;
        for challenge in client.challenges()? {
            let body = answered(challenge.credentials("alice"), method, PASSWORD)?;
            let code = client.code(&body)?;
            ensure!(code == 1, "{function} {:?}: {code}\n{}", challenge.algorithm, kamailio.log());
        }
    }
    ensure!(statistic(&kamailio, "auth_accepted")? == 18);
    Ok(())
}

fn not_offered(site: &Site) -> Result<()> {
    let kamailio = start(site, "modparam(\"cassandra\", \"algorithms\", \"SHA-256\")")?;
    let mut client = Client::registering(&kamailio)?;
    let challenge = client.challenge()?;
    let credentials = Credentials { algorithm: Algorithm::Md5, ..challenge.credentials("alice") };
    let md5 = answered(credentials, "REGISTER", PASSWORD)?;
    let sha256 = answered(challenge.credentials("alice"), "REGISTER", PASSWORD)?;
    ensure!(client.code(&md5)? == -5);
    ensure!(client.code(&md5.replace("algorithm=MD5, ", ""))? == -5, "MD5 without a name");
    for other in ["SHA-256-sess", "MD5-sess", "AKAv1-MD5", "SHA-512-256"] {
        ensure!(client.code(&sha256.replace("SHA-256", other))? == -5, "{other}");
    }
    ensure!(statistic(&kamailio, "credential_cache_misses")? == 0, "read for what is no credentials");
    ensure!(client.code(&sha256)? == 1);
    Ok(())
}

fn confusion(site: &Site) -> Result<()> {
    let kamailio = start(site, ALL_ALGORITHMS)?;
    let mut client = Client::registering(&kamailio)?;
    for challenge in client.challenges()? {
        let right = answered(challenge.credentials("alice"), "REGISTER", PASSWORD)?;
        for other in Algorithm::ALL.into_iter().filter(|other| Some(*other) != challenge.algorithm) {
            let named = format!("algorithm={}", challenge.algorithm.context("an algorithm")?.name());
            let confused = right.replace(&named, &format!("algorithm={}", other.name()));
            ensure!(client.code(&confused)? == -2, "{named} said to be {}", other.name());
        }
    }
    Ok(())
}

fn no_algorithm(site: &Site) -> Result<()> {
    let kamailio = start(site, ALL_ALGORITHMS)?;
    let mut client = Client::registering(&kamailio)?;
    let credentials = Credentials { algorithm: Algorithm::Md5, ..client.challenge()?.credentials("alice") };
    let body = answered(credentials, "REGISTER", PASSWORD)?;
    ensure!(client.code(&body.replace("algorithm=MD5, ", ""))? == 1);
    Ok(())
}

fn several_headers(site: &Site) -> Result<()> {
    let kamailio = start(site, ALL_ALGORITHMS)?;
    for function in ["www", "www-async"] {
        let mut client = Client::new(&kamailio, function, "REGISTER")?;
        let challenges = client.challenges()?;
        let [_, sha256, md5] = challenges.as_slice() else { anyhow::bail!("{challenges:?}") };
        let right = answered(sha256.credentials("alice"), "REGISTER", PASSWORD)?;
        let wrong = answered(md5.credentials("mallory"), "REGISTER", "wrong")?;
        let elsewhere = wrong.replace(DOMAIN, "example.org");
        let lines = ["Basic YWxpY2U6eA==", &elsewhere, &wrong, "Digest broken", &right].map(|body| client.header(body));
        let answer = client.ask("alice", &lines)?;
        ensure!(answer.code()? == 1, "{}\n{}", answer.0, kamailio.log());
    }
    Ok(())
}

fn forms(site: &Site) -> Result<()> {
    let kamailio = start(site, ALL_ALGORITHMS)?;
    let mut client = Client::registering(&kamailio)?;
    for challenge in client.challenges()? {
        for name in ["alice".to_owned(), format!("alice@{DOMAIN}")] {
            let body = answered(challenge.credentials(&name), "REGISTER", PASSWORD)?;
            ensure!(client.code(&body)? == 1, "{name} {:?}", challenge.algorithm);
        }
    }
    let body = answered(client.challenge()?.credentials("alice@example.org"), "REGISTER", PASSWORD)?;
    ensure!(client.code(&body)? == -3);
    // The name is hashed as it is written.
    let mut credentials = client.challenge()?.credentials("alice");
    let ha1 = ha1(credentials.algorithm, "alice", PASSWORD)?;
    credentials.username = format!("alice@{DOMAIN}");
    respond(&mut credentials, "REGISTER", &ha1);
    ensure!(client.code(&written(&credentials))? == -2);
    Ok(())
}

fn refusals(site: &Site) -> Result<()> {
    let kamailio = start(site, UNGUARDED)?;
    site.sipctl(&["subscriber", "disable", "erin@example.com"], "")?;
    for function in ["www", "www-async", "check", "check-async"] {
        let mut client = Client::new(&kamailio, function, "REGISTER")?;
        for (user, password, code, status) in [
            ("alice", "wrong", -2, 401),
            ("alice", "", -2, 401),
            ("nobody", PASSWORD, -3, 401),
            ("erin", PASSWORD, -3, 401),
            ("al ice", PASSWORD, -3, 401),
            ("alice", PASSWORD, 1, 200),
        ] {
            let challenge = client.challenge()?;
            let body = answered(challenge.credentials(user), "REGISTER", password)?;
            let answer = client.present("alice", &body)?;
            ensure!(answer.code()? == code && answer.status() == Some(status), "{function} {user}: {}", answer.0);
            ensure!(!answer.0.contains("stale"), "{}", answer.0);
        }
    }
    site.sipctl(&["subscriber", "enable", "erin@example.com"], "")?;
    Ok(())
}

fn wrong_length(site: &Site) -> Result<()> {
    let kamailio = start(site, UNGUARDED)?;
    let mut client = Client::registering(&kamailio)?;
    let challenge = client.challenge()?;
    let right = answered(challenge.credentials("alice"), "REGISTER", PASSWORD)?;
    let response = parameter(&right, "response").context("a response")?;
    for wrong in [&response[..31], &format!("{response}0"), &format!("{response}{response}"), "x"] {
        let code = client.code(&right.replace(&response, wrong))?;
        ensure!(code == -2, "{wrong}: {code}");
    }
    ensure!(client.code(&right.replace(&response, &response.to_uppercase()))? == 1);
    Ok(())
}

fn method_and_uri(site: &Site) -> Result<()> {
    let kamailio = start(site, UNGUARDED)?;
    let mut client = Client::registering(&kamailio)?;
    let challenge = client.challenge()?;
    ensure!(client.code(&answered(challenge.credentials("alice"), "INVITE", PASSWORD)?)? == -2);
    let right = answered(challenge.credentials("alice"), "REGISTER", PASSWORD)?;
    ensure!(client.code(&right.replace("uri=\"sip:", "uri=\"sips:"))? == -2);
    // The method may be given by the script.
    for function in ["www-method", "www-method-async"] {
        let mut client = Client::new(&kamailio, function, "REGISTER")?;
        let method = "X-Flags: PUBLISH".to_owned();
        let answer = client.ask("alice", std::slice::from_ref(&method))?;
        let challenge = answer.challenges(false)?.remove(0);
        for (made_for, code) in [("REGISTER", -2), ("PUBLISH", 1)] {
            let body = answered(challenge.credentials("alice"), made_for, PASSWORD)?;
            let answer = client.ask("alice", &[method.clone(), client.header(&body)])?;
            ensure!(answer.code()? == code, "{function} {made_for}: {}", answer.0);
        }
    }
    Ok(())
}

fn liberal(site: &Site) -> Result<()> {
    let kamailio = start(site, UNGUARDED)?;
    let mut client = Client::registering(&kamailio)?;
    let right = answered(client.challenge()?.credentials("alice"), "REGISTER", PASSWORD)?;
    for (what, with) in [
        ("Digest username", "DIGEST  x-new=\"a,b\", y=z ,UserName"),
        ("realm=\"example.com\"", "REALM = \"ex\\ample\\.com\""),
        ("\"alice\"", "\"\\al\\ice\""),
        (", qop=auth", ",\r\n qop=\"auth\""),
        ("realm=\"example.com\"", "realm=\"EXAMPLE.com\""),
    ] {
        let body = right.replace(what, with);
        ensure!(body != right, "{what}");
        let code = client.code(&body)?;
        ensure!(code == 1, "{body}: {code}");
    }
    Ok(())
}

fn userhash(site: &Site) -> Result<()> {
    let kamailio = start(site, UNGUARDED)?;
    let mut client = Client::registering(&kamailio)?;
    let right = answered(client.challenge()?.credentials("alice"), "REGISTER", PASSWORD)?;
    ensure!(client.code(&format!("{right}, userhash=true"))? == -5);
    ensure!(client.code(&right.replace("username=\"alice\"", "username*=UTF-8''alice"))? == -5);
    ensure!(client.code(&format!("{right}, userhash=false"))? == 1);
    Ok(())
}

fn malformed(site: &Site) -> Result<()> {
    let kamailio = start(site, UNGUARDED)?;
    for function in ["www", "www-async", "check", "check-async"] {
        let mut client = Client::new(&kamailio, function, "REGISTER")?;
        let right = answered(client.challenge()?.credentials("alice"), "REGISTER", PASSWORD)?;
        let before = kamailio.log();
        for body in broken(&right) {
            let answer = client.present("alice", &body)?;
            ensure!(answer.code()? == -1 && answer.status() == Some(400), "{body:?}: {}", answer.0);
        }
        for bytes in [&b"\xff\xfe"[..], b"\xc3"] {
            let marked = client.request("alice", &[client.header(&right.replace("\"alice\"", "\"al%ice\""))]);
            let cut = marked.find('%').context("the mark")?;
            let message = [&marked.as_bytes()[..cut], bytes, &marked.as_bytes()[cut + 1..]].concat();
            client.agent.send_bytes(&message)?;
            let answer = Answer(client.agent.final_response()?);
            ensure!(answer.code()? == -1 && answer.status() == Some(400), "{bytes:?}: {}", answer.0);
        }
        let mut by_tcp = Client { agent: Agent::tcp(&kamailio)?, ..client };
        let answer = by_tcp.present("alice", &format!("{right}, x=\"{}\"", "y".repeat(64 * 1024)))?;
        ensure!(answer.code()? == -1 && answer.status() == Some(400), "64 KB: {}", answer.0);
        ensure!(by_tcp.code(&right)? == 1, "{}", kamailio.log());
        ensure!(kamailio.log() == before, "lines in the log: {}", &kamailio.log()[before.len()..]);
    }
    ensure!(common::status(&kamailio, "panics")? == 0);
    Ok(())
}

/// Each with one thing that makes it malformed.
fn broken(right: &str) -> Vec<String> {
    let mut broken = vec![
        "Digest".to_owned(),
        "Digest x".to_owned(),
        format!("{right},"),
        format!("{right}\""),
        format!("{right}, nc=00000001"),
        right.replace("\"alice\"", "\"alice"),
        right.replace("\"alice\"", "\"al\0ice\""),
        right.replace("\"alice\"", "\"al\u{1}ice\""),
        right.replace("\"alice\"", "\"\""),
        right.replace("nc=00000001", "nc=1"),
        right.replace("nc=00000001", "nc=0000000x"),
        right.replace("qop=auth", "qop=other"),
        right.replace("\", uri", "\" uri"),
    ];
    for name in ["username", "realm", "nonce", "uri", "response", "nc", "cnonce"] {
        let kept =
            right.trim_start_matches("Digest ").split(", ").filter(|part| !part.starts_with(&format!("{name}=")));
        broken.push(format!("Digest {}", kept.collect::<Vec<_>>().join(", ")));
    }
    broken
}

/// The code of an identity check for a request from `from` to `to`.
fn checked(client: &mut Client<'_>, flags: u32, (uri, from, to): (&str, &str, &str), password: &str) -> Result<i32> {
    let challenge = client.challenge()?;
    let body = answered(challenge.credentials("alice"), client.method, password)?;
    let function = format!("X-Do: {}", client.function);
    let lines = [client.header(&body), function, format!("X-Flags: {flags}")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let request = client.agent.request(client.method, &format!("sip:{uri}"), "FROM", "TO", &lines);
    let request = request
        .replace(&format!("<sip:FROM@{DOMAIN}>"), &format!("<sip:{from}>"))
        .replace(&format!("<sip:TO@{DOMAIN}>"), &format!("<sip:{to}>"));
    client.send(&request)?.code()
}

fn identity(site: &Site) -> Result<()> {
    let kamailio = start(site, UNGUARDED)?;
    let (alice, bob, away) = ("alice@example.com", "bob@example.com", "alice@example.org");
    for function in ["check", "check-async"] {
        for (method, flags, addresses, expected) in [
            ("REGISTER", 1, (DOMAIN, alice, alice), 1),
            ("REGISTER", 1, (DOMAIN, away, alice), 1),
            ("REGISTER", 1, (DOMAIN, bob, alice), -8),
            ("REGISTER", 1, (DOMAIN, alice, bob), -8),
            ("REGISTER", 1, (DOMAIN, bob, bob), -8),
            ("REGISTER", 0, (DOMAIN, bob, bob), 1),
            ("REGISTER", 3, (DOMAIN, bob, bob), -8),
            ("PUBLISH", 1, (alice, alice, alice), 1),
            ("PUBLISH", 1, (bob, alice, alice), -8),
            ("PUBLISH", 1, (alice, alice, bob), -8),
            ("MESSAGE", 1, (bob, alice, bob), 1),
            ("MESSAGE", 1, (bob, bob, bob), -8),
            ("MESSAGE", 3, (bob, bob, bob), 1),
            ("SUBSCRIBE", 3, (bob, bob, bob), -8),
        ] {
            let mut client = Client::new(&kamailio, function, method)?;
            let code = checked(&mut client, flags, addresses, PASSWORD)?;
            ensure!(code == expected, "{function} {method} flags {flags} {addresses:?}: {code}");
        }
        // Who it is comes before whether it may.
        let mut client = Client::new(&kamailio, function, "REGISTER")?;
        ensure!(checked(&mut client, 1, (DOMAIN, bob, bob), "wrong")? == -2);
    }
    Ok(())
}

fn identity_of_domains(site: &Site) -> Result<()> {
    let kamailio = start(site, "modparam(\"cassandra\", \"use_domain\", 1)")?;
    let (alice, away) = ("alice@example.com", "alice@example.org");
    for (method, addresses, expected) in [
        ("REGISTER", (DOMAIN, alice, "alice@EXAMPLE.com"), 1),
        ("REGISTER", (DOMAIN, away, alice), -8),
        ("PUBLISH", (alice, alice, alice), 1),
        ("PUBLISH", (away, alice, alice), -8),
    ] {
        let mut client = Client::new(&kamailio, "check", method)?;
        let code = checked(&mut client, 1, addresses, PASSWORD)?;
        ensure!(code == expected, "{method} {addresses:?}: {code}");
    }
    Ok(())
}

fn never_challenged(site: &Site) -> Result<()> {
    let kamailio = start(site, "")?;
    for function in ["www", "proxy", "check"] {
        for method in ["CANCEL", "PRACK"] {
            let mut client = Client::new(&kamailio, function, method)?;
            let answer = client.ask("alice", &[])?;
            ensure!(answer.code()? == 1 && answer.status() == Some(200), "{function} {method}: {}", answer.0);
        }
        // An ACK is never answered at all.
        let mut client = Client::new(&kamailio, function, "ACK")?;
        let ack = client.request("alice", &[]);
        client.agent.send(&ack)?;
        ensure!(client.agent.receive_within(Duration::from_millis(300))?.is_none(), "an answer to an ACK");
    }
    ensure!(statistic(&kamailio, "requests")? == 0, "the backend was asked");
    Ok(())
}

fn stale(site: &Site) -> Result<()> {
    let kamailio = start(site, &format!("modparam(\"auth\", \"nonce_expire\", 1)\n{UNGUARDED}"))?;
    for function in ["www", "check-async"] {
        let mut client = Client::new(&kamailio, function, "REGISTER")?;
        let challenge = client.challenge()?;
        let right = answered(challenge.credentials("alice"), "REGISTER", PASSWORD)?;
        let mut answer = client.present("alice", &right)?;
        ensure!(answer.code()? == 1, "{}", answer.0);
        until("the end of the nonce", Duration::from_secs(10), || -> Result<Option<()>> {
            answer = client.present("alice", &right)?;
            Ok((answer.code()? == -4).then_some(()))
        })?;
        let [fresh] = answer.challenges(false)?.try_into().map_err(|_| anyhow::anyhow!("one challenge"))?;
        ensure!(parameter(&fresh.line, "stale").as_deref() == Some("true"), "{fresh:?}");
        for (user, password, code) in [("alice", "wrong", -2), ("nobody", PASSWORD, -3)] {
            let answer = client.present(user, &answered(challenge.credentials(user), "REGISTER", password)?)?;
            ensure!(answer.code()? == code && !answer.0.contains("stale"), "{user}: {}", answer.0);
        }
    }
    Ok(())
}

fn with_secret(site: &Site, secret: &str) -> Result<Kamailio> {
    start(site, &format!("modparam(\"auth\", \"secret\", \"{secret}\")"))
}

/// Both nodes have run for a second: a nonce from before a node's start is stale by itself.
fn nonce_of(kamailio: &Kamailio, before: &Challenge) -> Result<Challenge> {
    until("a nonce of a later second", Duration::from_secs(10), || -> Result<Option<Challenge>> {
        let challenge = Client::registering(kamailio)?.challenge()?;
        Ok((challenge.nonce[..8] != before.nonce[..8]).then_some(challenge))
    })
}

fn shared_secret(site: &Site) -> Result<()> {
    let (one, other) = (with_secret(site, "the same on all nodes")?, with_secret(site, "the same on all nodes")?);
    let started = Client::registering(&other)?.challenge()?;
    let challenge = nonce_of(&one, &started)?;
    let body = answered(challenge.credentials("alice"), "REGISTER", PASSWORD)?;
    ensure!(Client::registering(&other)?.code(&body)? == 1);
    Ok(())
}

fn other_secret(site: &Site) -> Result<()> {
    let (one, other) = (with_secret(site, "one secret")?, with_secret(site, "another secret")?);
    let started = Client::registering(&other)?.challenge()?;
    let challenge = nonce_of(&one, &started)?;
    let body = answered(challenge.credentials("alice"), "REGISTER", PASSWORD)?;
    let answer = Client::registering(&other)?.present("alice", &body)?;
    ensure!(answer.code()? == -4 && answer.status() == Some(401) && answer.0.contains("stale=true"), "{}", answer.0);
    Ok(())
}

fn nonce_count(site: &Site) -> Result<()> {
    let kamailio = start(site, "modparam(\"auth\", \"nonce_count\", 1)")?;
    let mut client = Client::registering(&kamailio)?;
    let challenge = client.challenge()?;
    for (nc, code) in [("00000001", 1), ("00000001", -4), ("00000003", 1), ("00000002", -4), ("0000000a", 1)] {
        let credentials = Credentials { nc: nc.to_owned(), ..challenge.credentials("alice") };
        let found = client.code(&answered(credentials, "REGISTER", PASSWORD)?)?;
        ensure!(found == code, "nc {nc}: {found}");
    }
    Ok(())
}

fn one_time(site: &Site) -> Result<()> {
    let kamailio = start(site, "modparam(\"auth\", \"one_time_nonce\", 1)")?;
    let mut client = Client::registering(&kamailio)?;
    let body = answered(client.challenge()?.credentials("alice"), "REGISTER", PASSWORD)?;
    ensure!(client.code(&body)? == 1);
    let again = client.present("alice", &body)?;
    ensure!(again.code()? == -6 && again.status() == Some(401), "{}", again.0);
    Ok(())
}

fn authentication_info(site: &Site) -> Result<()> {
    let kamailio = start(site, &format!("modparam(\"cassandra\", \"add_authinfo_hdr\", 1)\n{ALL_ALGORITHMS}"))?;
    for function in ["www", "www-async"] {
        let mut client = Client::new(&kamailio, function, "REGISTER")?;
        for challenge in client.challenges()? {
            let mut credentials = challenge.credentials("alice");
            let body = answered(credentials.clone(), "REGISTER", PASSWORD)?;
            let answer = client.present("alice", &body)?;
            let info = answer.header("Authentication-Info").with_context(|| answer.0.clone())?;
            let ha1 = ha1(credentials.algorithm, "alice", PASSWORD)?;
            respond(&mut credentials, "", &ha1);
            ensure!(parameter(info, "rspauth") == Some(credentials.response), "{info}");
            ensure!(parameter(info, "cnonce").as_deref() == Some("c"), "{info}");
            ensure!(parameter(info, "nc").as_deref() == Some("00000001"), "{info}");
            let next = Challenge { nonce: parameter(info, "nextnonce").context("no nextnonce")?, ..challenge };
            ensure!(client.code(&answered(next.credentials("alice"), "REGISTER", PASSWORD)?)? == 1);
        }
        let refused = client.authenticate("alice", "wrong")?;
        ensure!(refused.header("Authentication-Info").is_none(), "{}", refused.0);
    }
    Ok(())
}

fn digest_uri(site: &Site) -> Result<()> {
    let kamailio = start(site, "modparam(\"cassandra\", \"check_digest_uri\", 1)")?;
    let mut client = Client::registering(&kamailio)?;
    let challenge = client.challenge()?;
    for (uri, code) in [("sip:example.com", 1), ("sip:EXAMPLE.COM", 1), ("sip:example.org", -1), ("*", -1)] {
        let credentials = Credentials { uri: uri.to_owned(), ..challenge.credentials("alice") };
        let found = client.code(&answered(credentials, "REGISTER", PASSWORD)?)?;
        ensure!(found == code, "{uri}: {found}");
    }
    Ok(())
}

fn attributes(site: &Site) -> Result<()> {
    let set = ["--account", "acme", "--max-calls", "7", "--attr", "lang=fr"];
    site.sipctl(&[&["subscriber", "set", "carol@example.com"][..], &set].concat(), "")?;
    let kamailio = start(site, "")?;
    for (function, method) in [("www", "REGISTER"), ("www-async", "REGISTER"), ("check", "MESSAGE")] {
        let mut client = Client::new(&kamailio, function, method)?;
        // Read, then remembered.
        for _ in 0..2 {
            let answer = client.authenticate("carol", PASSWORD)?;
            ensure!(answer.header("X-Loaded") == Some("acme|7|fr|<null>"), "{function}: {}", answer.0);
        }
        let refused = client.authenticate("carol", "wrong")?;
        let loaded = refused.header("X-Loaded").unwrap_or_default().to_owned();
        ensure!(loaded.starts_with("<null>|<null>|<null>|<null>"), "loaded for who is refused: {loaded}");
    }
    Ok(())
}

fn is_subscriber(site: &Site) -> Result<()> {
    site.sipctl(&["subscriber", "set", "dave@example.com", "--account", "acme", "--attr", "tz=UTC"], "")?;
    site.sipctl(&["subscriber", "disable", "erin@example.com"], "")?;
    let kamailio = start(site, "")?;
    for function in ["subscriber", "subscriber-async"] {
        let mut client = Client::new(&kamailio, function, "MESSAGE")?;
        for (uri, flags, code, loaded) in [
            ("sip:dave@example.com", 1, 1, "acme|0|<null>|UTC"),
            ("sip:dave@EXAMPLE.com;transport=tcp", 0, 1, "acme|0|<null>|UTC"),
            ("sip:dave@example.com", 3, 1, "<null>|<null>|<null>|<null>"),
            ("sip:nobody@example.com", 1, -2, "<null>|<null>|<null>|<null>"),
            ("sip:erin@example.com", 1, -2, "<null>|<null>|<null>|<null>"),
            ("sip:dave@example.org", 1, -2, "<null>|<null>|<null>|<null>"),
            ("sip:example.com", 1, -2, "<null>|<null>|<null>|<null>"),
            ("dave", 1, -1, "<null>|<null>|<null>|<null>"),
        ] {
            let answer = client.ask("alice", &[format!("X-Uri: {uri}"), format!("X-Flags: {flags}")])?;
            let found = answer.header("X-Loaded").unwrap_or_default();
            ensure!(answer.code()? == code && found.starts_with(loaded), "{function} {uri} {flags}: {}", answer.0);
        }
    }
    // Each AoR was read once: found ones and missing ones are remembered.
    ensure!(statistic(&kamailio, "credential_cache_misses")? == 4, "{}", kamailio.log());
    ensure!(statistic(&kamailio, "subscribers_found")? == 6 && statistic(&kamailio, "subscribers_missed")? == 6);
    site.sipctl(&["subscriber", "enable", "erin@example.com"], "")?;
    Ok(())
}

/// An answer without what differs between any two requests.
fn comparable(answer: &str) -> String {
    let varying = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let lines = answer.lines().filter(|line| !varying.iter().any(|name| line.starts_with(name)));
    let kept = lines.map(|line| match parameter(line, "nonce") {
        Some(nonce) => line.replace(&nonce, "NONCE"),
        None => line.to_owned(),
    });
    kept.collect::<Vec<_>>().join("\n")
}

fn indistinguishable(site: &Site) -> Result<()> {
    for path in [ALL_IN_ONE, common::PLAIN] {
        let kamailio = site.connected(site.script(path))?;
        let reads = || statistic(&kamailio, "credential_cache_misses");
        for method in ["REGISTER", "MESSAGE"] {
            let mut seen = Vec::new();
            // As long as each other; the first is there.
            for user in ["frank", "ghost"] {
                let mut agent = Agent::udp(&kamailio)?;
                kamailio.rpc("cassandra.cache_flush", json!([]))?;
                let before = reads()?;
                let ask = |agent: &mut Agent, lines: &[&str]| {
                    let request = agent.request(method, &format!("sip:{DOMAIN}"), user, user, lines);
                    agent.ask(&request).with_context(|| kamailio.log())
                };
                let first = ask(&mut agent, &[])?;
                let proxied = method != "REGISTER";
                let challenge = Answer(first.clone()).challenges(proxied)?.remove(0);
                let body = answered(challenge.credentials(user), method, "wrong")?;
                let line = format!("{}Authorization: {body}", if proxied { "Proxy-" } else { "" });
                let mut answers = vec![comparable(&first)];
                for _ in 0..3 {
                    answers.push(comparable(&ask(&mut agent, &[&line])?));
                }
                seen.push((answers, reads()? - before));
            }
            ensure!(seen[0].0 == seen[1].0, "{path} {method}: {seen:#?}");
            ensure!(seen.iter().all(|(_, reads)| (1..=3).contains(reads)), "{path} {method}: {seen:#?}");
        }
    }
    Ok(())
}

fn thousand(site: &Site) -> Result<()> {
    const REGISTERS: usize = 1000;
    let kamailio = start(site, PATIENT)?;
    let challenge = Client::registering(&kamailio)?.challenge()?;
    let mut client = Client { agent: Agent::tcp(&kamailio)?, ..Client::registering(&kamailio)? };
    let body = answered(challenge.credentials("alice"), "REGISTER", PASSWORD)?;
    let all: String = (0..REGISTERS).map(|_| client.request("alice", &[client.header(&body)])).collect();
    site.relay.set_delay(Duration::from_millis(300));
    let answered = client.agent.send(&all).and_then(|()| {
        let answers = (0..REGISTERS).map(|_| client.agent.final_response());
        answers.collect::<Result<Vec<_>>>().with_context(|| kamailio.log())
    });
    site.relay.set_delay(Duration::ZERO);
    let refused: Vec<_> = answered?.into_iter().filter(|answer| sip::status(answer) != Some(200)).collect();
    ensure!(refused.is_empty(), "{} of them, the first:\n{}", refused.len(), refused[0]);
    let reads = statistic(&kamailio, "credential_cache_misses")?;
    ensure!(reads == 1, "{reads} reads");
    ensure!(statistic(&kamailio, "credential_cache_hits")? == REGISTERS as u64 - 1);
    Ok(())
}

/// For three seconds many ask for a user, wrongly.
fn reads_of_refused(site: &Site) -> Result<()> {
    let kamailio = start(site, &format!("{PATIENT}\n{UNGUARDED}"))?;
    for user in ["alice", "nobody"] {
        for function in ["www", "www-async"] {
            let before = statistic(&kamailio, "credential_cache_misses")?;
            let start = std::time::Instant::now();
            let mut client = Client::new(&kamailio, function, "REGISTER")?;
            let body = answered(client.challenge()?.credentials(user), "REGISTER", "wrong")?;
            let mut asked = 0;
            while start.elapsed() < Duration::from_secs(3) {
                let requests: Vec<_> = (0..20).map(|_| client.request(user, &[client.header(&body)])).collect();
                for request in &requests {
                    client.agent.send(request)?;
                }
                for _ in &requests {
                    let answer = Answer(client.agent.final_response()?);
                    ensure!(answer.code()? == if user == "alice" { -2 } else { -3 }, "{}", answer.0);
                    asked += 1;
                }
            }
            let seconds = start.elapsed().as_secs() + 1;
            let reads = statistic(&kamailio, "credential_cache_misses")? - before;
            ensure!((2..=seconds).contains(&reads), "{user} {function}: {reads} reads for {asked} in {seconds} s");
        }
    }
    Ok(())
}

fn flush(site: &Site) -> Result<()> {
    let kamailio = start(site, "")?;
    let mut client = Client::registering(&kamailio)?;
    let reads = || statistic(&kamailio, "credential_cache_misses");
    for user in ["alice", "bob"] {
        client.authenticate(user, PASSWORD)?;
        client.authenticate(user, PASSWORD)?;
    }
    ensure!(reads()? == 2);
    let stats = kamailio.rpc("cassandra.cache_stats", json!([]))?;
    ensure!(stats["entries"] == 2 && stats["hits"] == 2 && stats["reads"] == 2, "{stats}");
    ensure!(kamailio.rpc("cassandra.cache_flush", json!(["alice@example.com"]))? == json!({"removed": 1}));
    ensure!(client.authenticate("alice", PASSWORD)?.code()? == 1 && reads()? == 3);
    ensure!(client.authenticate("bob", PASSWORD)?.code()? == 1 && reads()? == 3);
    ensure!(kamailio.rpc("cassandra.cache_flush", json!([]))? == json!({"removed": 2}));
    ensure!(client.authenticate("bob", PASSWORD)?.code()? == 1 && reads()? == 4);
    let refused = kamailio.rpc("cassandra.cache_flush", json!(["alice"])).err().context("it is accepted")?;
    ensure!(format!("{refused:#}").contains("'alice' is no address-of-record"), "{refused:#}");
    Ok(())
}

fn guarded(site: &Site, per_source: u32, per_aor: u32) -> Result<Kamailio> {
    start(
        site,
        &format!(
            "modparam(\"cassandra\", \"auth_failures_per_source\", {per_source})
             modparam(\"cassandra\", \"auth_failures_per_aor\", {per_aor})
             modparam(\"cassandra\", \"auth_failures_interval\", 3600)"
        ),
    )
}

fn guessing(site: &Site) -> Result<()> {
    let kamailio = guarded(site, 0, 5)?;
    let (mut owner, mut guesser) = (Client::registering(&kamailio)?, Client::registering(&kamailio)?);
    ensure!(owner.authenticate("alice", PASSWORD)?.code()? == 1);
    for _ in 0..5 {
        ensure!(guesser.authenticate("alice", "guess")?.code()? == -2);
    }
    let reads = statistic(&kamailio, "credential_cache_misses")?;
    let slowed = guesser.authenticate("alice", PASSWORD)?;
    ensure!(slowed.code()? == -2 && slowed.status() == Some(401), "a right guess is told: {}", slowed.0);
    ensure!(statistic(&kamailio, "auth_slowed")? == 1);
    ensure!(statistic(&kamailio, "credential_cache_misses")? == reads, "read for who is refused unread");
    ensure!(owner.authenticate("alice", PASSWORD)?.code()? == 1, "the owner is locked out");
    ensure!(guesser.authenticate("bob", PASSWORD)?.code()? == 1, "held up for another user");

    let list = kamailio.rpc("cassandra.guard_list", json!([]))?;
    ensure!(list["aors"] == json!([{"aor": "alice@example.com", "left": 0}]), "{list}");
    let cleared = kamailio.rpc("cassandra.guard_clear", json!(["alice@example.com"]))?;
    ensure!(cleared == json!({"removed": 1}), "{cleared}");
    ensure!(guesser.authenticate("alice", PASSWORD)?.code()? == 1);
    Ok(())
}

fn guessing_source(site: &Site) -> Result<()> {
    let kamailio = guarded(site, 4, 0)?;
    let (mut guesser, mut other) = (Client::registering(&kamailio)?, Client::registering(&kamailio)?);
    for user in ["alice", "bob", "nobody", "ghost"] {
        guesser.authenticate(user, "guess")?;
    }
    ensure!(guesser.authenticate("carol", PASSWORD)?.code()? == -2);
    ensure!(other.authenticate("carol", PASSWORD)?.code()? == 1);
    let source = guesser.agent.here().ip().to_string();
    let list = kamailio.rpc("cassandra.guard_list", json!([]))?;
    ensure!(list["sources"] == json!([{"source": source, "left": 0}]), "{list}");
    ensure!(kamailio.rpc("cassandra.guard_clear", json!([source]))? == json!({"removed": 1}));
    ensure!(guesser.authenticate("carol", PASSWORD)?.code()? == 1);
    Ok(())
}

fn preferred(site: &Site) -> Result<()> {
    let config = site.all_in_one().env("DIGEST_ALGORITHMS", "SHA-256,MD5");
    let kamailio = site.connected(config)?;
    let mut agent = Agent::udp(&kamailio)?;
    let first = Answer(agent.ask(&agent.register("alice", &["Contact: *", "Expires: 0"]))?);
    for challenge in first.challenges(false)? {
        let line = format!("Authorization: {}", answered(challenge.credentials("alice"), "REGISTER", PASSWORD)?);
        let contact = agent.contact("alice", "");
        for lines in [[contact.as_str(), "Expires: 600", &line], ["Contact: *", "Expires: 0", &line]] {
            let answer = agent.ask(&agent.register("alice", &lines))?;
            ensure!(sip::status(&answer) == Some(200), "{answer}\n{}", kamailio.log());
        }
    }
    Ok(())
}
