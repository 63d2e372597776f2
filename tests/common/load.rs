//! Calls that come in while a node dies, and what callers saw of them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use lab::sipp::{Message, Report, Running, Sipp};
use lab::wait;

use super::sip::headers;
use super::{DOMAIN, PASSWORD, Site, calls};

/// Calls a second, unless a test wants others.
pub const RATE: f64 = 50.0;
const CALLS: u64 = 500;
/// How long each call is talked.
const TALK: Duration = Duration::from_secs(3);
/// Longer than the way to a dead node, a living one, and all that is sent again.
const NO_ANSWER: Duration = Duration::from_secs(15);
const PHONE_PORT: u16 = 5062;
const RECORDED: Duration = Duration::from_secs(20);

/// Who registers again and again, beside the calls.
pub const REGISTERED: [&str; 5] = ["carol", "dave", "erin", "frank", "grace"];
const REGISTRATIONS_PER_SECOND: f64 = 10.0;
/// Longer than all nodes take to be restarted.
const WHOLE_LOAD: Duration = Duration::from_secs(600);

/// What nodes find in their environment that are restarted under load: all of it comes from a few addresses, and nothing may be refused
/// because this machine was slow for a moment.
pub fn settings(site: &Site) -> Vec<(String, String)> {
    let patient = [("REQUESTS_PER_SOURCE", "10000"), ("CALL_TIMEOUT_MS", "1500"), ("REQUEST_TIMEOUT_MS", "700")];
    let patient = patient.map(|(name, value)| (name.to_owned(), value.to_owned()));
    super::settings(site.contact_point(), "dc1").into_iter().chain(patient).collect()
}

/// Calls of alice's to bob, who answers, and registrations of [`REGISTERED`], from now on until they are finished.
pub struct Traffic {
    calling: Running,
    registering: Running,
    _answering: Running,
}

impl Traffic {
    /// Towards this load balancer, so many calls a second; callers, who is called, and who registers are at these addresses.
    pub fn start(balancer: SocketAddrV4, [callers, callees, registering]: [Ipv4Addr; 3], rate: f64) -> Result<Self> {
        phone("register.xml", balancer, &["bob"], callees).run_successfully()?;
        let answering = Sipp::new("uas_answer_again.xml").local(callees).local_port(PHONE_PORT);
        let answering = answering.endless().timeout(WHOLE_LOAD).spawn()?;
        let calling =
            phone("uac_invite_auth.xml", balancer, &["alice"], callers).key("callee", format!("bob@{DOMAIN}"));
        let registering = phone("register.xml", balancer, &REGISTERED, registering).endless();
        Ok(Self {
            calling: endless(calling).rate(rate).spawn()?,
            registering: registering.rate(REGISTRATIONS_PER_SECOND).spawn()?,
            _answering: answering,
        })
    }

    /// Ends it, and makes sure that nothing of it was lost.
    pub fn finish(self, site: &Site) -> Result<()> {
        let registering = self.registering.finish()?;
        registering.check()?;
        check(site, "bob", &self.calling.finish()?, &[])?;
        println!("{} registrations were refreshed", registering.successful);
        for user in REGISTERED {
            ensure!(site.contacts(user)?.len() == 1, "{user} has {:?}", site.contacts(user));
        }
        Ok(())
    }
}

/// Phones of one of `users` each time with this scenario, at this address.
pub fn phone(scenario: &str, balancer: SocketAddrV4, users: &[&str], address: Ipv4Addr) -> Sipp {
    let phone = Sipp::new(scenario).target(balancer).auth_uri(DOMAIN).local(address).local_port(PHONE_PORT);
    phone.users(users.iter().map(|user| (*user, DOMAIN, PASSWORD))).timeout(WHOLE_LOAD)
}

/// A call that began longer before a moment was no longer being set up then.
const SETTING_UP: Duration = Duration::from_secs(1);

/// What the caller saw of a call.
pub struct Call<'report> {
    pub begun: SystemTime,
    pub answered: bool,
    /// The caller has hung up, and knows that it is over: by the answer to its BYE, or, when that was lost and the BYE went another way
    /// then, because there is no such call any more (RFC 3261 section 15.1.1).
    pub ended: bool,
    /// The other side has.
    pub was_ended: bool,
    /// How often it has sent its BYE.
    byes: usize,
    messages: Vec<Message<'report>>,
}

/// All that the caller has sent and received, for whoever wonders why.
impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.messages.iter().try_for_each(|message| {
            let header = |name: &str| headers(message.text, name).join(", ");
            writeln!(f, "{message} ({}, Route: {}, Via: {})", header("CSeq"), header("Route"), header("Via"))
        })
    }
}

impl Call<'_> {
    /// Whether it may have been on its way at this moment.
    pub fn was_being_set_up(&self, moment: SystemTime) -> bool {
        moment.duration_since(self.begun).is_ok_and(|before| before <= SETTING_UP)
    }
}

/// The load of a caller: 500 calls, 50 a second, of three seconds each.
pub fn of(caller: Sipp) -> Sipp {
    endless(caller).calls(CALLS).timeout(Duration::from_secs(60))
}

/// The same, until it is told to finish.
pub fn endless(caller: Sipp) -> Sipp {
    let caller = caller.endless().rate(RATE).pause(TALK).trace_messages(true);
    caller.arg("-recv_timeout").arg(NO_ANSWER.as_millis().to_string())
}

/// Makes sure that of this load only calls are lost that were being set up when a node died, that all others were answered and ended
/// by their BYE, and that the records of the one who was called say so. (One that was being set up may be answered and not end: its
/// ACK, say, was lost on the way.)
pub fn check(site: &Site, callee: &str, report: &Report, deaths: &[SystemTime]) -> Result<()> {
    let seen = calls_of(report)?;
    let begun = seen.len() as u64;
    ensure!(begun == report.created && report.expected.is_none_or(|calls| calls == begun), "{begun} calls were begun");
    let being_set_up = |call: &Call| deaths.iter().any(|death| call.was_being_set_up(*death));
    let lost: Vec<&Call> = seen.values().filter(|call| !call.answered || !call.ended).collect();
    let unexplained: Vec<&&Call> = lost.iter().filter(|call| !being_set_up(call)).collect();
    if let Some(call) = unexplained.first() {
        bail!("{} calls were not being set up at {deaths:?}, such as\n{call:?}", unexplained.len());
    }
    let answered = seen.len() - lost.len();
    println!("{answered} calls answered and ended, {} that were being set up at a death were lost", lost.len());
    // What began twice is one call, and what a dead node knew has ended in the records all the same.
    let recorded = || calls::answered(site, callee);
    wait::until("the calls in the history", RECORDED, || recorded().is_ok_and(|calls| calls >= answered))
        .with_context(|| format!("{answered} were answered, recorded are {:?}", recorded()))?;
    let recorded = recorded()?;
    ensure!(recorded <= answered + lost.len(), "{answered} were answered, recorded are {recorded}");
    Ok(())
}

/// The calls of a run by Call-ID, from the messages that it has written down.
pub fn calls_of(report: &Report) -> Result<BTreeMap<String, Call<'_>>> {
    let mut seen = BTreeMap::new();
    for message in report.timed_messages()? {
        let header = |name: &str| headers(message.text, name).first().copied().unwrap_or_default();
        let new = || Call {
            begun: message.time,
            answered: false,
            ended: false,
            was_ended: false,
            byes: 0,
            messages: Vec::new(),
        };
        let call = seen.entry(header("Call-ID").to_owned()).or_insert_with(new);
        let (first_line, cseq) = (message.text.lines().next().unwrap_or_default(), header("CSeq"));
        call.messages.push(message);
        match (first_line, cseq.split(' ').nth(1)) {
            (line, Some("INVITE")) if line.starts_with("SIP/2.0 200 ") => call.answered = true,
            (line, Some("BYE")) if line.starts_with("SIP/2.0 200 ") => call.ended = !call.was_ended,
            (line, Some("BYE")) if line.starts_with("SIP/2.0 481 ") => call.ended |= call.byes > 1,
            // It has come through proxies.
            (line, Some("BYE")) if line.starts_with("BYE ") && headers(message.text, "Via").len() > 1 => {
                call.was_ended = true
            }
            (line, Some("BYE")) if line.starts_with("BYE ") => call.byes += 1,
            _ => {}
        }
    }
    Ok(seen)
}
