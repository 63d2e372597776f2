//! A SIP user agent that sends exactly what a test says: what SIPp cannot, such as the same bytes twice.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::kamailio::Kamailio;
use lab::net;

use super::DOMAIN;

const PATIENCE: Duration = Duration::from_secs(20);
const LARGEST_DATAGRAM: usize = 65_535;

/// One end of a conversation with a Kamailio.
pub struct Agent {
    link: Link,
    here: SocketAddr,
    /// As in Via.
    transport: &'static str,
}

enum Link {
    Udp(UdpSocket),
    /// With what was received beyond the last message.
    Stream(Box<dyn Stream>, Vec<u8>),
    /// Each of its messages is one of SIP.
    Framed(Box<dyn Frames>),
}

/// A connection, encrypted or not.
pub trait Stream: Read + Write + Send {
    /// How long a read waits.
    fn patience(&self, patience: Duration) -> std::io::Result<()>;
}

impl Stream for TcpStream {
    fn patience(&self, patience: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(patience))
    }
}

/// A connection that knows where a message ends.
pub trait Frames: Send {
    /// Sends a message.
    fn send(&mut self, message: &[u8]) -> Result<()>;
    /// The next message.
    fn receive(&mut self, patience: Duration) -> std::io::Result<String>;
}

impl Agent {
    /// Over UDP, from an address of its own.
    pub fn udp(kamailio: &Kamailio) -> Result<Self> {
        Self::udp_from(kamailio, net::loopback())
    }

    /// Over UDP, from this address.
    pub fn udp_from(kamailio: &Kamailio, address: Ipv4Addr) -> Result<Self> {
        Self::udp_towards(kamailio.address(), address)
    }

    /// Over UDP, from this address to one where nobody needs to be yet.
    pub fn udp_towards(to: SocketAddrV4, address: Ipv4Addr) -> Result<Self> {
        let socket = UdpSocket::bind((address, 0))?;
        socket.connect(to)?;
        Ok(Self { here: socket.local_addr()?, link: Link::Udp(socket), transport: "UDP" })
    }

    /// Over one TCP connection.
    pub fn tcp(kamailio: &Kamailio) -> Result<Self> {
        Self::tcp_towards(kamailio.address())
    }

    /// The same to this address.
    pub fn tcp_towards(to: SocketAddrV4) -> Result<Self> {
        let stream = TcpStream::connect(to)?;
        Ok(Self::over_stream(stream.local_addr()?, stream, "TCP"))
    }

    /// Over a connection from `here`, which is of that transport in Via.
    pub fn over_stream(here: SocketAddr, stream: impl Stream + 'static, transport: &'static str) -> Self {
        Self { here, link: Link::Stream(Box::new(stream), Vec::new()), transport }
    }

    /// Over a connection that knows where a message ends.
    pub fn over_frames(here: SocketAddr, frames: impl Frames + 'static, transport: &'static str) -> Self {
        Self { here, link: Link::Framed(Box::new(frames)), transport }
    }

    /// Its address.
    pub fn here(&self) -> SocketAddr {
        self.here
    }

    /// A URI that leads to it.
    pub fn uri_of(&self, user: &str) -> String {
        format!("sip:{user}@{}", self.here)
    }

    /// The transport as Via calls it.
    pub fn transport(&self) -> &'static str {
        self.transport
    }

    /// A request outside of a dialog, by a new transaction, from `from` to `to` (both are users of the domain). `headers` are
    /// whole lines.
    pub fn request(&self, method: &str, uri: &str, from: &str, to: &str, headers: &[&str]) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", self.here.port());
        let mut lines = vec![
            format!("{method} {uri} SIP/2.0"),
            format!("Via: SIP/2.0/{} {};branch=z9hG4bK-{id};rport", self.transport(), self.here),
            "Max-Forwards: 70".to_owned(),
            format!("From: <sip:{from}@{DOMAIN}>;tag=f{id}"),
            format!("To: <sip:{to}@{DOMAIN}>"),
            format!("Call-ID: {id}@{}", self.here.ip()),
            format!("CSeq: {number} {method}"),
        ];
        lines.extend(headers.iter().map(|line| (*line).to_owned()));
        lines.push("Content-Length: 0\r\n\r\n".to_owned());
        lines.join("\r\n")
    }

    /// A REGISTER of `user` with these header lines.
    pub fn register(&self, user: &str, headers: &[&str]) -> String {
        self.request("REGISTER", &format!("sip:{DOMAIN}"), user, user, headers)
    }

    /// A Contact header with this agent's own address.
    pub fn contact(&self, user: &str, parameters: &str) -> String {
        format!("Contact: <sip:{user}@{};transport={}>{parameters}", self.here, self.transport().to_lowercase())
    }

    /// Sends this message.
    pub fn send(&mut self, message: &str) -> Result<()> {
        self.send_bytes(message.as_bytes())
    }

    /// Sends these bytes, which need not be text.
    pub fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        match &mut self.link {
            Link::Udp(socket) => socket.send(message).map(drop)?,
            Link::Stream(stream, _) => stream.write_all(message)?,
            Link::Framed(frames) => frames.send(message)?,
        }
        Ok(())
    }

    /// The next message, or `None` when none comes within `patience`.
    pub fn receive_within(&mut self, patience: Duration) -> Result<Option<String>> {
        let received = match &mut self.link {
            Link::Udp(socket) => receive_datagram(socket, patience),
            Link::Stream(stream, rest) => receive_framed(stream.as_mut(), rest, patience),
            Link::Framed(frames) => frames.receive(patience),
        };
        match received {
            Ok(message) => Ok(Some(message)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The next message.
    pub fn receive(&mut self) -> Result<String> {
        self.receive_within(PATIENCE)?.with_context(|| format!("no message came to {} in {PATIENCE:?}", self.here))
    }

    /// The next final response.
    pub fn final_response(&mut self) -> Result<String> {
        loop {
            let message = self.receive()?;
            match status(&message) {
                Some(200..) => return Ok(message),
                Some(_) => {}
                None => bail!("a request instead of a response:\n{message}"),
            }
        }
    }

    /// Sends a request and returns its final response.
    pub fn ask(&mut self, request: &str) -> Result<String> {
        self.send(request)?;
        self.final_response()
    }

    /// The next message, which must be a request of this method.
    pub fn receive_request(&mut self, method: &str) -> Result<String> {
        let message = self.receive()?;
        ensure!(message.starts_with(&format!("{method} ")), "not an {method}:\n{message}");
        Ok(message)
    }
}

/// A call of one phone to another that is answered.
pub struct Talk {
    caller: Agent,
    callee: Agent,
    /// What the dialog's requests go through.
    route: String,
    /// From and To of the answer.
    ends: [String; 2],
    call_id: String,
    number: u32,
}

impl Talk {
    /// `caller` calls `callee` (both are users of the domain) with these further header lines, who rings and answers.
    pub fn begin(kamailio: &Kamailio, caller: &str, callee: &str, lines: &[&str]) -> Result<Self> {
        let (mut calling, mut called) = (Agent::udp(kamailio)?, Agent::udp(kamailio)?);
        let contact = calling.contact(caller, "");
        let all: Vec<&str> = std::iter::once(contact.as_str()).chain(lines.iter().copied()).collect();
        let invite = calling.request("INVITE", &called.uri_of(callee), caller, callee, &all);
        calling.send(&invite)?;
        let received = called.receive_request("INVITE")?;
        called.send(&response(&received, "180 Ringing"))?;
        while status(&calling.receive()?) != Some(180) {} // sent at once, the two could change places
        let answer = [called.contact(callee, ""), "Server: answering machine".to_owned()].join("\r\n");
        called.send(&with_lines(&response(&received, "200 OK"), &answer))?;
        let answer = calling.final_response()?;
        ensure!(status(&answer) == Some(200), "{answer}");
        let mut talk = Self {
            route: format!("Route: {}", headers(&answer, "Record-Route")[0]),
            ends: ["From", "To"].map(|name| headers(&answer, name)[0].to_owned()),
            call_id: headers(&answer, "Call-ID")[0].to_owned(),
            number: headers(&answer, "CSeq")[0].split(' ').next().unwrap_or_default().parse()?,
            caller: calling,
            callee: called,
        };
        talk.acknowledge()?;
        Ok(talk)
    }

    /// The Call-ID.
    pub fn call_id(&self) -> &str {
        &self.call_id
    }

    /// Somebody sends a request inside the dialog, which the other answers with 200.
    pub fn request(&mut self, method: &str, from_callee: bool) -> Result<()> {
        self.number += 1;
        let request = self.within(method, self.number, from_callee);
        let (asking, asked) = self.sides(from_callee);
        asking.send(&request)?;
        let received = asked.receive_request(method)?;
        asked.send(&response(&received, "200 OK"))?;
        let answer = asking.final_response()?;
        ensure!(status(&answer) == Some(200), "{answer}");
        if method == "INVITE" { self.acknowledge_from(from_callee) } else { Ok(()) }
    }

    /// Somebody hangs up.
    pub fn hang_up(mut self, callee: bool) -> Result<()> {
        self.request("BYE", callee)
    }

    fn acknowledge(&mut self) -> Result<()> {
        self.acknowledge_from(false)
    }

    fn acknowledge_from(&mut self, callee: bool) -> Result<()> {
        let ack = self.within("ACK", self.number, callee);
        let (asking, asked) = self.sides(callee);
        asking.send(&ack)?;
        asked.receive_request("ACK").map(drop)
    }

    fn sides(&mut self, from_callee: bool) -> (&mut Agent, &mut Agent) {
        if from_callee { (&mut self.callee, &mut self.caller) } else { (&mut self.caller, &mut self.callee) }
    }

    fn within(&self, method: &str, number: u32, from_callee: bool) -> String {
        let [from, to] = &self.ends;
        let (own, other, from, to) =
            if from_callee { (&self.callee, &self.caller, to, from) } else { (&self.caller, &self.callee, from, to) };
        [
            format!("{method} {} SIP/2.0", other.uri_of("phone")),
            format!("Via: SIP/2.0/UDP {};branch=z9hG4bK-d{method}{number}-{}", own.here(), own.here().port()),
            "Max-Forwards: 70".to_owned(),
            self.route.clone(),
            format!("From: {from}"),
            format!("To: {to}"),
            format!("Call-ID: {}", self.call_id),
            format!("CSeq: {number} {method}"),
            own.contact("phone", ""),
            "Content-Length: 0\r\n\r\n".to_owned(),
        ]
        .join("\r\n")
    }
}

/// The message with these lines, too.
pub fn with_lines(message: &str, lines: &str) -> String {
    message.replacen("\r\nContent-Length", &format!("\r\n{lines}\r\nContent-Length"), 1)
}

fn receive_datagram(socket: &UdpSocket, patience: Duration) -> std::io::Result<String> {
    socket.set_read_timeout(Some(patience))?;
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// What the Content-Length counts belongs to the message (RFC 3261 section 18.3).
fn receive_framed(stream: &mut dyn Stream, rest: &mut Vec<u8>, patience: Duration) -> std::io::Result<String> {
    stream.patience(patience)?;
    loop {
        if let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&rest[..end]);
            let body = headers(&head, "Content-Length").first().and_then(|length| length.parse().ok()).unwrap_or(0);
            let length = end + 4 + body;
            if rest.len() >= length {
                let message: Vec<u8> = rest.drain(..length).collect();
                return Ok(String::from_utf8_lossy(&message).into_owned());
            }
        }
        let mut some = [0; 64 * 1024];
        match stream.read(&mut some)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => rest.extend(&some[..length]),
        }
    }
}

/// Registers `user` with these header lines, which must be accepted. Gives the answer.
pub fn register(agent: &mut Agent, user: &str, lines: &[&str]) -> Result<String> {
    let answer = agent.ask(&agent.register(user, lines))?;
    ensure!(status(&answer) == Some(200), "{lines:?}:\n{answer}");
    Ok(answer)
}

/// The status of a response; `None` for a request.
pub fn status(message: &str) -> Option<u16> {
    message.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
}

/// The bodies of all header lines of this name, in order.
pub fn headers<'m>(message: &'m str, name: &str) -> Vec<&'m str> {
    message
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, body)| body.trim())
        .collect()
}

/// A response to a request, with a tag of its own.
pub fn response(request: &str, status: &str) -> String {
    let copied = request.lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        ["via", "from", "call-id", "cseq", "record-route"].contains(&name.as_str())
    });
    let mut lines = vec![format!("SIP/2.0 {status}")];
    lines.extend(copied.map(str::to_owned));
    let tag = |to: &str| if to.contains(";tag=") { String::new() } else { ";tag=agent".to_owned() };
    lines.extend(headers(request, "To").into_iter().map(|to| format!("To: {to}{}", tag(to))));
    lines.push("Content-Length: 0\r\n\r\n".to_owned());
    lines.join("\r\n")
}

/// The CANCEL of an INVITE (RFC 3261 section 9.1).
pub fn cancel(invite: &str) -> String {
    same_transaction(invite, "CANCEL", headers(invite, "To")[0])
}

/// The ACK to a refusal of an INVITE (RFC 3261 section 17.1.1.3).
pub fn ack(invite: &str, refusal: &str) -> String {
    same_transaction(invite, "ACK", headers(refusal, "To")[0])
}

fn same_transaction(invite: &str, method: &str, to: &str) -> String {
    let lines = invite.lines().filter_map(|line| match line.split([':', ' ']).next()? {
        "INVITE" | "CSeq" => Some(line.replace("INVITE", method)),
        "Via" | "Max-Forwards" | "From" | "Call-ID" => Some(line.to_owned()),
        "To" => Some(format!("To: {to}")),
        _ => None,
    });
    let mut lines: Vec<String> = lines.collect();
    lines.push("Content-Length: 0\r\n\r\n".to_owned());
    lines.join("\r\n")
}
