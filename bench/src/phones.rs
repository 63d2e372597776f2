//! What the phones send: SIPp with its scenario and its subscribers.

use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::sipp::Sipp;
use lab::{net, workspace};
use md5::{Digest, Md5};

use crate::peers::{DOMAIN, Subscriber};

/// The same in each run, so that every subscriber has one binding.
const CONTACT: &str = "127.0.0.1:5060";

/// How often a phone asks for a nonce, and how long it waits each time.
const ATTEMPTS: usize = 10;
const PATIENCE: Duration = Duration::from_millis(500);
const LONGEST_ANSWER: usize = 4096;

/// Of a call that is answered. Together they are more than the second in which the end of a call may overtake its other events,
/// so that this module waits for them: few real calls are so short. Without ringing, the answer would overtake it: different SIP
/// workers relay them.
const RINGING: Duration = Duration::from_millis(1000);
const TALK: Duration = Duration::from_millis(200);

/// Longer than any benchmark.
const A_DAY: Duration = Duration::from_secs(86_400);

/// SIPp as the phones, without target, rate and end.
#[derive(Clone, Debug)]
pub(crate) struct Phones {
    /// What they send.
    pub(crate) sipp: Sipp,
    /// How long they wait in each of their calls.
    pub(crate) pauses: Duration,
}

impl Phones {
    /// They wait for answers only.
    fn without_pauses(sipp: Sipp) -> Self {
        Self { sipp, pauses: Duration::ZERO }
    }
}

/// Subscribers that register, are challenged, and register again with their credentials.
pub(crate) fn registering(users: &[Subscriber]) -> Phones {
    let rows = users.iter().map(|(user, domain, password)| (user.as_str(), domain.as_str(), password.as_str()));
    Phones::without_pauses(Sipp::new("register.xml").auth_uri(DOMAIN).key("contact", CONTACT).users(rows))
}

/// Subscribers that refresh their binding with a nonce that each has from `server`: asked for now, used in the runs.
pub(crate) fn refreshing(server: SocketAddrV4, users: &[Subscriber]) -> Result<Phones> {
    let socket = UdpSocket::bind((net::loopback(), 0)).context("no socket for the phones")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let row = |subscriber: &Subscriber| {
        let nonce = ask_for_nonce(&socket, subscriber)?;
        let (user, domain, _) = subscriber;
        Ok(format!("{user};{domain};{}", authorization(subscriber, &nonce)))
    };
    let rows = users.iter().map(row).collect::<Result<_>>()?;
    Ok(Phones::without_pauses(Sipp::new(scenario("refresh.xml")).key("contact", CONTACT).rows(rows)))
}

/// Callers of registered subscribers.
pub(crate) fn calling(users: &[Subscriber]) -> Phones {
    let rows = users.iter().map(|(user, domain, _)| format!("{user};{domain}")).collect();
    Phones::without_pauses(Sipp::new(scenario("lookup.xml")).rows(rows))
}

/// Subscribers that call one another and talk for a moment; those who are called are at `callees`.
pub(crate) fn talking(users: &[Subscriber], callees: SocketAddrV4) -> Phones {
    let others = users.iter().cycle().skip(users.len() / 2);
    let rows =
        users.iter().zip(others).map(|((caller, domain, _), (callee, ..))| format!("{caller};{callee};{domain}"));
    let sipp =
        Sipp::new(scenario("call.xml")).key("callee", callees).rows(rows.collect()).pause(TALK).ignore_unexpected();
    Phones { sipp, pauses: RINGING + TALK }
}

/// Those who are called: they ring for a while and answer, until they are stopped.
pub(crate) fn answering() -> Sipp {
    Sipp::new(scenario("answer.xml")).pause(RINGING).ignore_unexpected().endless().timeout(A_DAY)
}

fn scenario(name: &str) -> std::path::PathBuf {
    workspace().root().join("bench/sipp").join(name)
}

/// Registers without credentials, and takes the nonce out of the challenge.
fn ask_for_nonce(socket: &UdpSocket, (user, domain, _): &Subscriber) -> Result<String> {
    let here = socket.local_addr()?;
    let call_id = format!("nonce-{user}-{here}");
    let request = format!(
        "REGISTER sip:{domain} SIP/2.0\r\n\
         Via: SIP/2.0/UDP {here};branch=z9hG4bK{user};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:{user}@{domain}>;tag={user}\r\n\
         To: <sip:{user}@{domain}>\r\n\
         Call-ID: {call_id}\r\n\
         CSeq: 1 REGISTER\r\n\
         Contact: <sip:{user}@{CONTACT}>\r\n\
         Content-Length: 0\r\n\r\n"
    );
    let mut buffer = [0; LONGEST_ANSWER];
    for _ in 0..ATTEMPTS {
        socket.send(request.as_bytes())?;
        while let Ok(length) = socket.recv(&mut buffer) {
            let answer = String::from_utf8_lossy(&buffer[..length]);
            if let Some(nonce) = nonce_in(&answer).filter(|_| answer.contains(&call_id)) {
                return Ok(nonce.to_owned());
            }
        }
    }
    bail!("{user} is not challenged")
}

fn nonce_in(challenge: &str) -> Option<&str> {
    let (_, rest) = challenge.split_once("nonce=\"")?;
    rest.split_once('"').map(|(nonce, _)| nonce)
}

/// RFC 7616 section 3.4.1 with MD5 and qop `auth`. The servers keep no count of how often a nonce was used.
fn authorization((user, domain, password): &Subscriber, nonce: &str) -> String {
    const NC: &str = "00000002";
    const CNONCE: &str = "6b8b4567";
    let uri = format!("sip:{domain}");
    let ha1 = md5_hex(&format!("{user}:{domain}:{password}"));
    let ha2 = md5_hex(&format!("REGISTER:{uri}"));
    let response = md5_hex(&format!("{ha1}:{nonce}:{NC}:{CNONCE}:auth:{ha2}"));
    format!(
        "Authorization: Digest username=\"{user}\", realm=\"{domain}\", nonce=\"{nonce}\", uri=\"{uri}\", \
         response=\"{response}\", algorithm=MD5, qop=auth, nc={NC}, cnonce=\"{CNONCE}\""
    )
}

fn md5_hex(text: &str) -> String {
    Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
