//! The way to Logstash: its TCP input takes lines of JSON, and answers nothing. What it does not take now waits in the overflow file, in
//! order.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::overflow::{Numbered, Overflow};
use super::queue::Queue;
use super::{BATCH, Counters};

/// How long lines are gathered for the overflow file, unless there are so many bytes: each group is synced.
const GATHER: Duration = Duration::from_millis(50);
const GROUP: usize = 2 << 20;
/// How long a connection that takes nothing is waited for, when no line has come meanwhile.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long there may be nothing to do before the connection is looked at.
const IDLE: Duration = Duration::from_secs(1);
/// A connection that takes nothing for so long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// How long an address has to answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the last lines have at the end.
const END_LIMIT: Duration = Duration::from_secs(1);
/// What is sent is kept for so long, so many bytes at most: a connection that ends meanwhile may not have delivered it.
const UNSURE: Duration = Duration::from_secs(1);
const UNSURE_BYTES: usize = 1 << 20;

/// Sends lines from a queue, on a thread of its own.
#[derive(Debug)]
pub(super) struct Shipper {
    address: String,
    queue: Arc<Queue>,
    overflow: Overflow,
    counters: Arc<Counters>,
    /// The number of the next line.
    next: u64,
    way: Way,
    /// What is being sent.
    batch: Batch,
    sent: Sent,
    /// What was told of Logstash last.
    told: Option<bool>,
}

/// A connection, or what becomes one.
#[derive(Debug)]
enum Way {
    None { until: Instant },
    Connecting(Receiver<io::Result<TcpStream>>),
    Open { stream: TcpStream, progress: Instant },
}

/// Lines that are being sent.
#[derive(Debug, Default)]
struct Batch {
    lines: Vec<Numbered>,
    bytes: Vec<u8>,
    written: usize,
    is_in_overflow: bool,
}

impl Batch {
    fn of(lines: Vec<Numbered>, is_in_overflow: bool) -> Self {
        let bytes = lines.iter().flat_map(|(_, line)| [line.as_bytes(), b"\n"]).collect::<Vec<_>>().concat();
        Self { lines, bytes, written: 0, is_in_overflow }
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The number below which all are in it, or have been sent.
    fn end(&self) -> u64 {
        self.lines.last().map_or(0, |(number, _)| number + 1)
    }
}

/// Lines that were sent a moment ago.
#[derive(Debug, Default)]
struct Sent {
    lines: VecDeque<(Instant, Numbered)>,
    bytes: usize,
}

impl Sent {
    fn add(&mut self, lines: Vec<Numbered>) {
        let now = Instant::now();
        for line in lines {
            self.bytes += line.1.len();
            self.lines.push_back((now, line));
        }
        while let Some((at, (_, line))) = self.lines.front()
            && (self.bytes > UNSURE_BYTES || at.elapsed() > UNSURE)
        {
            self.bytes -= line.len();
            self.lines.pop_front();
        }
    }

    /// Those that may not have arrived.
    fn unsure(&mut self) -> Vec<Numbered> {
        self.add(Vec::new());
        self.bytes = 0;
        self.lines.drain(..).map(|(_, line)| line).collect()
    }
}

impl Shipper {
    pub(super) fn new(address: String, queue: Arc<Queue>, overflow: Overflow, counters: Arc<Counters>) -> Self {
        let (next, way) = (overflow.next(), Way::None { until: Instant::now() });
        let (batch, sent) = (Batch::default(), Sent::default());
        Self { address, queue, overflow, counters, next, way, batch, sent, told: None }
    }

    /// Sends until there is nothing more to come. Then what cannot be sent within a second is in the overflow file.
    pub(super) fn run(mut self) {
        while let Some(lines) = self.queue.take(self.most(), self.patience()) {
            let patience = if lines.is_empty() { PATIENCE } else { Duration::ZERO };
            self.take(lines);
            self.go_on(patience);
        }
        let until = Instant::now() + END_LIMIT;
        while matches!(self.way, Way::Open { .. }) && self.has_lines() && Instant::now() < until {
            self.go_on(PATIENCE);
        }
        if !matches!(self.way, Way::Open { .. }) || self.has_lines() {
            self.keep_batch();
        }
    }

    /// How many bytes are taken together.
    fn most(&self) -> usize {
        if self.is_direct() { BATCH } else { GROUP }
    }

    /// Whether a new line can be sent at once.
    fn is_direct(&self) -> bool {
        matches!(self.way, Way::Open { .. }) && !self.has_lines()
    }

    /// How long a new line may be waited for.
    fn patience(&self) -> Duration {
        match &self.way {
            Way::Open { .. } if self.has_lines() => Duration::ZERO,
            Way::Open { .. } => IDLE,
            Way::None { .. } | Way::Connecting(_) => PATIENCE,
        }
    }

    fn has_lines(&self) -> bool {
        !self.batch.is_empty() || self.overflow.bytes() > 0
    }

    /// Sends new lines when nothing goes before them, and keeps them otherwise.
    fn take(&mut self, lines: Vec<Arc<str>>) {
        if lines.is_empty() {
            return;
        }
        let lines: Vec<Numbered> = (self.next..).zip(lines).collect();
        self.next += lines.len() as u64;
        if self.is_direct() {
            self.batch = Batch::of(lines, false);
            return;
        }
        self.keep(&lines);
        if lines.iter().map(|(_, line)| line.len()).sum::<usize>() < GROUP / 2 {
            thread::sleep(GATHER);
        }
    }

    fn keep(&mut self, lines: &[Numbered]) {
        let unsent = if self.batch.is_in_overflow { self.batch.end() } else { 0 };
        let dropped = self.overflow.insert(lines, unsent).unwrap_or_else(|error| {
            tracing::error!("{} lines are lost to Logstash: they cannot be kept: {error}", lines.len());
            lines.len() as u64
        });
        self.counters.dropped_logstash.fetch_add(dropped, Relaxed);
        self.counters.overflow_bytes.store(self.overflow.bytes(), Relaxed);
    }

    /// Keeps what was not sent, or may not have arrived, before what has come later.
    fn keep_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let mut lines = self.sent.unsure();
        if !batch.is_in_overflow {
            lines.extend(batch.lines);
        }
        if !lines.is_empty() {
            self.keep(&lines);
        }
    }

    /// Does what can be done for the connection and by it.
    fn go_on(&mut self, patience: Duration) {
        match &mut self.way {
            Way::None { until } if *until <= Instant::now() => self.way = Way::Connecting(connect(&self.address)),
            Way::None { .. } => {}
            Way::Connecting(result) => match result.try_recv() {
                Ok(Ok(stream)) => self.open(stream),
                Ok(Err(error)) => self.lose(&error),
                Err(TryRecvError::Disconnected) => self.lose(&io::ErrorKind::Other.into()),
                Err(TryRecvError::Empty) => {}
            },
            Way::Open { .. } => self.send(patience),
        }
    }

    fn open(&mut self, stream: TcpStream) {
        self.way = Way::Open { stream, progress: Instant::now() };
        self.counters.connected.store(1, Relaxed);
        if self.told != Some(true) {
            self.told = Some(true);
            tracing::info!("Logstash at {} takes lines", self.address);
        }
    }

    fn lose(&mut self, error: &io::Error) {
        self.way = Way::None { until: Instant::now() + PAUSE };
        self.counters.connected.store(0, Relaxed);
        self.keep_batch();
        if self.told != Some(false) {
            self.told = Some(false);
            tracing::warn!("Logstash at {} takes no lines ({error}): they are kept", self.address);
        }
    }

    fn send(&mut self, patience: Duration) {
        if self.batch.is_empty() && self.overflow.bytes() > 0 {
            match self.overflow.oldest(BATCH) {
                Ok(lines) => self.batch = Batch::of(lines, true),
                Err(error) => tracing::error!("lines that wait for Logstash cannot be read: {error}"),
            }
        }
        let Way::Open { stream, progress } = &mut self.way else { return };
        let rest = &self.batch.bytes[self.batch.written..];
        match write_some(stream, rest, patience) {
            Ok(0) if !rest.is_empty() && progress.elapsed() > STALL_LIMIT => self.lose(&io::ErrorKind::TimedOut.into()),
            Ok(0) if !rest.is_empty() => {}
            Ok(written) => {
                *progress = Instant::now();
                self.batch.written += written;
                if self.batch.written == self.batch.bytes.len() {
                    self.sent();
                }
            }
            Err(error) => self.lose(&error),
        }
    }

    /// The batch is on its way.
    fn sent(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_in_overflow
            && let Err(error) = self.overflow.remove_below(batch.end())
        {
            tracing::error!("lines that were sent to Logstash will be sent again: {error}");
        }
        self.counters.overflow_bytes.store(self.overflow.bytes(), Relaxed);
        self.counters.sent.fetch_add(batch.lines.len() as u64, Relaxed);
        self.sent.add(batch.lines);
    }
}

/// Connects, on a thread of its own: neither a name nor an address need answer soon.
fn connect(address: &str) -> Receiver<io::Result<TcpStream>> {
    let (tell, result) = channel();
    let address = address.to_owned();
    let work = move || {
        // Nobody may be there any more to take it.
        let _ = tell.send(connect_now(&address));
    };
    // Without a thread there is no sender, which is seen.
    let _ = thread::Builder::new().name("connect".to_owned()).spawn(work);
    result
}

fn connect_now(address: &str) -> io::Result<TcpStream> {
    let mut last = io::ErrorKind::NotFound.into();
    for one in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&one, CONNECT_LIMIT) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Writes what the connection takes within this time. That it has ended is seen here: who receives never sends.
fn write_some(stream: &mut TcpStream, bytes: &[u8], patience: Duration) -> io::Result<usize> {
    let wanted = if bytes.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
    let patience = if bytes.is_empty() { Duration::ZERO } else { patience };
    let limit = Timespec::try_from(patience).map_err(|_| io::ErrorKind::InvalidInput)?;
    let ready = {
        let mut fds = [PollFd::new(&*stream, wanted)];
        match poll(&mut fds, Some(&limit)) {
            Ok(_) => fds[0].revents(),
            Err(Errno::INTR) => PollFlags::empty(),
            Err(error) => return Err(error.into()),
        }
    };
    if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && stream.read(&mut [0; 256])? == 0 {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    if !ready.contains(PollFlags::OUT) {
        return Ok(0);
    }
    match stream.write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        written => written,
    }
}
