//! A phone with audio: an agent, and an RTP socket that sends and knows patterns.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::digest::credentials;
use super::sip::{Agent, ack, headers, response, status, with_lines};
use super::{DOMAIN, enrol};

/// Samples of a packet of 20 ms, PCMU (RFC 3551 section 4.5.14).
const SAMPLES: usize = 160;
const PTIME: Duration = Duration::from_millis(20);
const RTP_HEADER: usize = 12;
/// How long audio may need to come through.
const HEARING: Duration = Duration::from_secs(10);

/// A phone of a subscriber.
pub struct Phone {
    pub sip: Agent,
    user: String,
    pub audio: Audio,
}

/// What it says and hears.
pub struct Audio {
    rtp: UdpSocket,
    /// The level of the pattern that it sends, of both signs in turn.
    pub level: u8,
}

/// A side of a call that is answered.
pub struct Side {
    target: String,
    routes: Vec<String>,
    from: String,
    to: String,
    pub call_id: String,
    number: u32,
    /// Where the other side's audio comes from and goes to.
    pub media: SocketAddr,
}

impl Phone {
    /// One of `user` at this load balancer, not registered.
    pub fn new(sip: Agent, user: &str) -> Result<Self> {
        static LEVEL: AtomicU32 = AtomicU32::new(0);
        let rtp = UdpSocket::bind((sip.here().ip(), 0))?;
        // Levels that are far from silence, which is 0x7f and 0xff.
        let level = 0x10 + 3 * (LEVEL.fetch_add(1, Ordering::Relaxed) % 16) as u8;
        Ok(Self { sip, user: user.to_owned(), audio: Audio { rtp, level } })
    }

    /// One that is registered.
    pub fn registered(mut sip: Agent, user: &str) -> Result<Self> {
        enrol(&mut sip, user)?;
        Self::new(sip, user)
    }

    fn sdp(&self) -> Result<String> {
        let (address, port) = (self.sip.here().ip(), self.audio.rtp.local_addr()?.port());
        Ok(format!(
            "v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n\
             a=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n"
        ))
    }

    fn with_sdp(&self, message: &str) -> Result<String> {
        Ok(with_sdp(&with_lines(message, &self.sip.contact(&self.user, "")), &self.sdp()?))
    }

    /// Calls somebody, with these further header lines, as far as its credentials are accepted or the call is refused. Gives the
    /// INVITE.
    pub fn invite(&mut self, callee: &str, lines: &[&str]) -> Result<String> {
        let uri = if callee.contains('@') { format!("sip:{callee}") } else { format!("sip:{callee}@{DOMAIN}") };
        let request = |phone: &Self, met: &[&str]| -> Result<String> {
            let all: Vec<&str> = lines.iter().chain(met).copied().collect();
            let invite = phone.sip.request("INVITE", &uri, &phone.user, "callee", &all);
            let to = headers(&invite, "To")[0].to_owned();
            phone.with_sdp(&invite.replace(&to, &format!("<{uri}>")))
        };
        let first = request(self, &[])?;
        let challenge = self.sip.ask(&first)?;
        ensure!(status(&challenge) == Some(407), "{challenge}");
        self.sip.send(&ack(&first, &challenge))?;
        let met = credentials(&challenge, "INVITE", &uri, &self.user)?;
        let second = request(self, &[&met])?;
        self.sip.send(&second)?;
        Ok(second)
    }

    /// Waits until what it called answers.
    pub fn answered(&mut self) -> Result<Side> {
        let answer = self.sip.final_response()?;
        ensure!(status(&answer) == Some(200), "{answer}");
        let mut routes = list(&answer, "Record-Route");
        routes.reverse();
        let side = Side::new(&answer, routes, ["From", "To"].map(|name| headers(&answer, name)[0].to_owned()))?;
        self.sip.send(&side.request(&self.sip, "ACK", side.number))?;
        Ok(side)
    }

    /// Waits for a refusal, and acknowledges it.
    pub fn refused(&mut self, invite: &str) -> Result<String> {
        let refusal = self.sip.final_response()?;
        ensure!(status(&refusal) >= Some(300), "{refusal}");
        self.sip.send(&ack(invite, &refusal))?;
        Ok(refusal)
    }

    /// Waits for a call, rings, and answers. Gives the INVITE, too.
    pub fn answer(&mut self) -> Result<(String, Side)> {
        let invite = self.sip.receive_request("INVITE")?;
        self.sip.send(&response(&invite, "180 Ringing"))?;
        let answer = self.with_sdp(&response(&invite, "200 OK"))?;
        self.sip.send(&answer)?;
        let ends = [headers(&answer, "To")[0].to_owned(), headers(&invite, "From")[0].to_owned()];
        let side = Side::new(&invite, list(&invite, "Record-Route"), ends)?;
        Ok((invite, side))
    }

    /// Waits until its answer is acknowledged.
    pub fn acknowledged(&mut self) -> Result<()> {
        self.request("ACK").map(drop)
    }

    /// Waits for a request of this method. Answers those with which others ask whether it is there.
    fn request(&mut self, method: &str) -> Result<String> {
        loop {
            let message = self.sip.receive()?;
            match message.split(' ').next() {
                Some(name) if name == method => return Ok(message),
                Some("OPTIONS" | "INFO") => self.sip.send(&response(&message, "200 OK"))?,
                _ => bail!("not {method}:\n{message}"),
            }
        }
    }

    /// Hangs up.
    pub fn hang_up(&mut self, side: &Side) -> Result<()> {
        self.say_bye(side)?;
        self.bye_answered()
    }

    /// Hangs up, without waiting for the answer.
    pub fn say_bye(&mut self, side: &Side) -> Result<()> {
        self.sip.send(&side.request(&self.sip, "BYE", side.number + 1))
    }

    /// Waits for the answer.
    pub fn bye_answered(&mut self) -> Result<()> {
        let answer = self.sip.final_response()?;
        ensure!(status(&answer) == Some(200), "{answer}");
        Ok(())
    }

    /// Waits until the other side hangs up.
    pub fn hung_up(&mut self) -> Result<()> {
        let bye = self.request("BYE")?;
        self.sip.send(&response(&bye, "200 OK"))
    }
}

impl Audio {
    /// Sends what it says to the other side until it hears the pattern of `level`.
    pub fn hears(&self, side: &Side, level: u8) -> Result<()> {
        self.rtp.set_read_timeout(Some(PTIME))?;
        let start = Instant::now();
        let (mut heard, mut packets) = ([0; 1500], 0);
        for number in 0_u16.. {
            if start.elapsed() > HEARING {
                break;
            }
            self.rtp.send_to(&packet(number, self.level), side.media)?;
            // The timeout sets the pace when nothing comes; what comes does it otherwise.
            let Ok((length, _)) = self.rtp.recv_from(&mut heard) else { continue };
            packets += 1;
            if length > RTP_HEADER && is_pattern(&heard[RTP_HEADER..length], level) {
                // The other one may still have to hear.
                for number in number + 1..number + 26 {
                    self.rtp.send_to(&packet(number, self.level), side.media)?;
                    std::thread::sleep(PTIME);
                }
                return Ok(());
            }
        }
        bail!(
            "{level:#x} was not heard from {} in {packets} packets, {:x?}",
            side.media,
            &heard[..RTP_HEADER + SAMPLES]
        )
    }
}

/// Both talk and hear each other.
pub fn hear_each_other(one: (&Audio, &Side), other: (&Audio, &Side)) -> Result<()> {
    std::thread::scope(|scope| {
        let (first, second) = (one.0.level, other.0.level);
        let hearing = scope.spawn(move || other.0.hears(other.1, first));
        one.0.hears(one.1, second)?;
        hearing.join().ok().context("the other phone panicked")?
    })
}

impl Side {
    fn new(message: &str, routes: Vec<String>, [from, to]: [String; 2]) -> Result<Self> {
        let header =
            |name: &str| headers(message, name).first().copied().with_context(|| format!("no {name}: {message}"));
        let target = header("Contact")?.split(['<', '>']).nth(1).context("no URI in Contact")?.to_owned();
        let number = header("CSeq")?.split(' ').next().unwrap_or_default().parse()?;
        Ok(Self { target, routes, from, to, call_id: header("Call-ID")?.to_owned(), number, media: media_of(message)? })
    }

    fn request(&self, sip: &Agent, method: &str, number: u32) -> String {
        let routes: Vec<String> = self.routes.iter().map(|route| format!("Route: {route}")).collect();
        let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        let fresh = sip.request(method, &self.target, "any", "any", &routes);
        let line =
            |name: &str, body: &str| (format!("{name}: {}", headers(&fresh, name)[0]), format!("{name}: {body}"));
        let changes = [
            line("From", &self.from),
            line("To", &self.to),
            line("Call-ID", &self.call_id),
            line("CSeq", &format!("{number} {method}")),
        ];
        changes.iter().fold(fresh.clone(), |request, (place, text)| request.replacen(place, text, 1))
    }
}

/// The entries of all header lines of this name.
fn list(message: &str, name: &str) -> Vec<String> {
    headers(message, name).iter().flat_map(|line| line.split(',')).map(|entry| entry.trim().to_owned()).collect()
}

/// The message with this session description.
pub fn with_sdp(message: &str, sdp: &str) -> String {
    let typed = with_lines(message, "Content-Type: application/sdp");
    typed.replace("Content-Length: 0", &format!("Content-Length: {}", sdp.len())) + sdp
}

/// Where the audio of a session description goes.
pub fn media_of(message: &str) -> Result<SocketAddr> {
    let line = |start: &str| message.lines().find_map(|line| line.strip_prefix(start));
    let address: IpAddr = line("c=IN IP4 ").with_context(|| format!("no address: {message}"))?.trim().parse()?;
    let port = line("m=audio ").and_then(|rest| rest.split(' ').next()).context("no audio")?.parse()?;
    Ok(SocketAddr::new(address, port))
}

/// A packet of a square wave of 500 Hz.
fn packet(number: u16, level: u8) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(number.to_be_bytes());
    packet.extend((u32::from(number) * SAMPLES as u32).to_be_bytes());
    packet.extend(u32::from(level).to_be_bytes());
    packet.extend((0..SAMPLES).map(|sample| if sample / 8 % 2 == 0 { level } else { level | 0x80 }));
    packet
}

/// Whether this is, but for a few samples, the wave of that level.
fn is_pattern(samples: &[u8], level: u8) -> bool {
    let count = |sample: u8| samples.iter().filter(|&&other| other == sample).count();
    let (low, high) = (count(level), count(level | 0x80));
    low.min(high) >= samples.len() / 4 && low + high >= samples.len() * 9 / 10
}
