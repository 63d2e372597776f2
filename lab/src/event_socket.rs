//! A double of FreeSWITCH, for whoever speaks to one from outside: its event socket by the documented protocol of mod_event_socket
//! (`auth`, `api`, `event json`, `exit`), and an answer to OPTIONS unless something else takes SIP there. It has no calls: whoever
//! starts it says how many sessions it has, and what it tells of them.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::net;
use crate::process::{self, Signal};

/// What it wants of whoever connects.
pub const PASSWORD: &str = "of the double";

/// Where it is.
pub const EVENT_SOCKET_PORT: u16 = 8021;
const SIP_PORT: u16 = 5060;
/// The longest command.
const LONGEST_LINE: usize = 65_536;
/// Pause between two looks whether it is over.
const LOOK: Duration = Duration::from_millis(200);
const NOT_FOUND: &str = "-ERR command not found";

/// The double. Dropping it ends it.
#[derive(Debug)]
pub struct FreeSwitch {
    address: Ipv4Addr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    is_over: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sessions: u64,
    most: u64,
    is_paused: bool,
    /// Channels that there are, by what was told.
    channels: BTreeSet<String>,
    /// API commands that were run, but for those that only ask.
    commands: Vec<String>,
    /// Events so far.
    sequence: u64,
    connections: Vec<Connection>,
    /// It ends this process when it is told to shut down.
    process: Option<u32>,
}

#[derive(Debug)]
struct Connection {
    peer: SocketAddr,
    stream: TcpStream,
    /// Names of events that it is told of.
    events: BTreeSet<String>,
}

impl FreeSwitch {
    /// Starts one on a fresh address that may have so many sessions.
    pub fn start(most: u64) -> Result<Self> {
        let double = Self::beside(net::loopback(), most)?;
        let sip = UdpSocket::bind((double.address, SIP_PORT)).context("no port for SIP")?;
        sip.set_read_timeout(Some(LOOK))?;
        let shared = double.shared.clone();
        thread::spawn(move || shared.answer_options(&sip));
        Ok(double)
    }

    /// Starts an event socket on this address, beside what takes SIP there, which may have so many sessions.
    pub fn beside(address: Ipv4Addr, most: u64) -> Result<Self> {
        let state = State { most, ..State::default() };
        let shared = Arc::new(Shared { is_over: AtomicBool::new(false), state: Mutex::new(state) });
        let listener = TcpListener::bind((address, EVENT_SOCKET_PORT)).context("no port for the event socket")?;
        thread::spawn({
            let shared = shared.clone();
            move || shared.accept(&listener)
        });
        Ok(Self { address, shared })
    }

    /// Where its event socket is.
    pub fn event_socket(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, EVENT_SOCKET_PORT)
    }

    /// Where it takes SIP.
    pub fn sip(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, SIP_PORT)
    }

    /// Has it say that it has so many sessions.
    pub fn set_sessions(&self, sessions: u64) {
        self.shared.state().sessions = sessions;
    }

    /// Whether it takes no calls.
    pub fn is_paused(&self) -> bool {
        self.shared.state().is_paused
    }

    /// Has it say that it takes no calls.
    pub fn pause(&self, is_paused: bool) {
        self.shared.state().is_paused = is_paused;
    }

    /// Stands for this process, which ends when it is told to shut down.
    pub fn stand_for(&self, process: u32) {
        self.shared.state().process = Some(process);
    }

    /// The API commands that it was told, but for those that only ask.
    pub fn commands(&self) -> Vec<String> {
        self.shared.state().commands.clone()
    }

    /// Whether somebody is told of events by this name.
    pub fn is_heard(&self, event: &str) -> bool {
        self.shared.state().connections.iter().any(|connection| connection.events.contains(event))
    }

    /// Tells of an event of a channel, with these headers, as if it happened now.
    pub fn tell(&self, event: &str, channel: &str, headers: &[(&str, &str)]) {
        let mut state = self.shared.state();
        state.sequence += 1;
        if event == "CHANNEL_HANGUP_COMPLETE" {
            state.channels.remove(channel);
        } else {
            state.channels.insert(channel.to_owned());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let own = [
            ("Event-Name", event.to_owned()),
            ("Core-UUID", "2130a7d1-c1f7-44cd-8fae-8ed5946f3cec".to_owned()),
            ("Event-Date-Timestamp", now.to_string()),
            ("Event-Sequence", state.sequence.to_string()),
            ("Unique-ID", channel.to_owned()),
        ];
        let more = headers.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let told: Map<String, Value> =
            own.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value.into())).collect();
        let body = json!(told).to_string();
        state.send(event, &format!("Content-Length: {}\nContent-Type: text/event-json\n\n{body}", body.len()));
    }

    /// Tells whoever hears of this event something that is no event.
    pub fn tell_garbage(&self, event: &str) {
        let body = "{\"Event-Name\":\"CHANNEL_";
        let message = format!("Content-Length: {}\nContent-Type: text/event-json\n\n{body}", body.len());
        self.shared.state().send(event, &message);
    }

    /// Ends all connections.
    pub fn disconnect(&self) {
        for connection in self.shared.state().connections.drain(..) {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for FreeSwitch {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.disconnect();
        // Wakes who accepts.
        let _ = TcpStream::connect(self.event_socket());
    }
}

impl State {
    fn send(&mut self, event: &str, message: &str) {
        let heard = self.connections.iter_mut().filter(|connection| connection.events.contains(event));
        heard.for_each(|connection| drop(connection.stream.write_all(message.as_bytes())));
    }

    /// As `status` of mod_commands has it.
    fn status(&self) -> String {
        let ready = if self.is_paused { "not ready" } else { "ready" };
        let Self { sessions, most, .. } = self;
        format!(
            "UP 0 years, 0 days, 0 hours, 1 minute, 2 seconds, 3 milliseconds, 4 microseconds\n\
             FreeSWITCH (Version 1.10.12 -release 64bit) is {ready}\n{sessions} session(s) since startup\n\
             {sessions} session(s) - peak {sessions}, last 5min {sessions} \n0 session(s) per Sec out of max 200, peak 1, last 5min 1 \n\
             {most} session(s) max\nmin idle cpu 0.00/98.00\nCurrent Stack Size/Max 240K/8192K\n"
        )
    }

    /// As `show channels as json` of mod_commands has it: no rows when there is none.
    fn show_channels(&self) -> String {
        let rows: Vec<_> =
            self.channels.iter().map(|channel| json!({"uuid": channel, "state": "CS_EXECUTE"})).collect();
        let shown =
            if rows.is_empty() { json!({"row_count": 0}) } else { json!({"row_count": rows.len(), "rows": rows}) };
        format!("{shown}\n")
    }

    /// What a command of the API says.
    fn run(&mut self, command: &str) -> String {
        match command {
            "status" => return self.status(),
            "show channels as json" => return self.show_channels(),
            _ => {}
        }
        self.commands.push(command.to_owned());
        match command {
            "fsctl pause inbound" => self.is_paused = true,
            "fsctl resume" => self.is_paused = false,
            "fsctl shutdown elegant" => {
                if let Some(process) = self.process.take() {
                    let _ = process::signal(process, Signal::TERM);
                }
            }
            other => return format!("-ERR {other} Command not found!\n"),
        }
        "+OK\n".to_owned()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.is_over() {
                return;
            }
            let Ok((stream, peer)) = stream.and_then(|stream| Ok((stream.try_clone()?, stream.peer_addr()?))) else {
                continue;
            };
            let shared = self.clone();
            thread::spawn(move || {
                // One that breaks is the client's concern.
                let _ = shared.serve(stream, peer);
                shared.state().connections.retain(|connection| connection.peer != peer);
            });
        }
    }

    /// Sees a connection from its beginning to its end.
    fn serve(&self, mut stream: TcpStream, peer: SocketAddr) -> Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?);
        stream.write_all(b"Content-Type: auth/request\n\n")?;
        if command(&mut lines)?.as_deref() != Some(&format!("auth {PASSWORD}")) {
            stream.write_all(reply("-ERR invalid").as_bytes())?;
            return disconnected(&mut stream);
        }
        stream.write_all(reply("+OK accepted").as_bytes())?;
        while let Some(command) = command(&mut lines)? {
            // Whoever writes has the state: replies and events come one after the other.
            let mut state = self.state();
            let (verb, rest) = command.split_once(' ').unwrap_or((&command, ""));
            match verb {
                "api" => {
                    let body = state.run(rest);
                    let head = format!("Content-Type: api/response\nContent-Length: {}\n\n", body.len());
                    stream.write_all((head + &body).as_bytes())?;
                }
                "event" if rest.starts_with("json ") => {
                    let events = rest.split(' ').skip(1).map(str::to_owned).collect();
                    stream.write_all(reply("+OK event listener enabled json").as_bytes())?;
                    state.connections.push(Connection { peer, stream: stream.try_clone()?, events });
                }
                "exit" => {
                    stream.write_all(reply("+OK bye").as_bytes())?;
                    return disconnected(&mut stream);
                }
                _ => stream.write_all(reply(NOT_FOUND).as_bytes())?,
            }
        }
        Ok(())
    }

    fn answer_options(&self, sip: &UdpSocket) {
        let mut request = vec![0; LONGEST_LINE];
        while !self.is_over() {
            let Ok((length, from)) = sip.recv_from(&mut request) else { continue };
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let copied = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
            let headers: String = request
                .split("\r\n")
                .filter(|line| copied.iter().any(|name| line.starts_with(name)))
                .map(|line| format!("{line}\r\n"))
                .collect();
            let _ = sip.send_to(format!("SIP/2.0 200 OK\r\n{headers}Content-Length: 0\r\n\r\n").as_bytes(), from);
        }
    }
}

/// The next command: lines up to an empty one, of which the first counts. `None`: there is none any more.
fn command(lines: &mut impl BufRead) -> Result<Option<String>> {
    let mut first = None;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 || line.len() > LONGEST_LINE {
            return Ok(None);
        }
        match line.trim_end() {
            "" if first.is_some() => return Ok(first),
            "" => {}
            text => first = first.or_else(|| Some(text.to_owned())),
        }
    }
}

fn reply(text: &str) -> String {
    format!("Content-Type: command/reply\nReply-Text: {text}\n\n")
}

fn disconnected(stream: &mut TcpStream) -> Result<()> {
    let body = "Disconnected, goodbye.\n";
    write!(stream, "Content-Type: text/disconnect-notice\nContent-Length: {}\n\n{body}", body.len())?;
    Ok(stream.shutdown(Shutdown::Both)?)
}
