//! A TCP relay that stands for distance: what the server says arrives late, in order, and without holding up what follows.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const CHUNK: usize = 64 * 1024;
/// Chunks under way in one connection; a sender that is further ahead waits, as on a long line.
const UNDER_WAY: usize = 4096;

/// Relays TCP connections to a server and delays each chunk of its answers. Dropping it closes them all.
///
/// A chunk is stamped when it arrives and released when its delay is over, so many requests under way at a time all take one
/// delay, not one after the other. For Cassandra, give the relay's address as `broadcast_rpc_address` and use the same port:
/// a driver takes the addresses of nodes from `system.local` and would go around the relay otherwise.
#[derive(Debug)]
pub struct DelayRelay {
    address: SocketAddrV4,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddrV4,
    delay_us: AtomicU64,
    per_frame_us: AtomicU64,
    /// When the server that the relay stands for has done its work so far.
    idle_from: Mutex<Instant>,
    accepted: AtomicU64,
    closing: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
}

impl DelayRelay {
    /// Listens on `address:port` and relays to `target`.
    pub fn start(address: Ipv4Addr, port: u16, target: SocketAddrV4, delay: Duration) -> Result<Self> {
        let address = SocketAddrV4::new(address, port);
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        let shared = Arc::new(Shared {
            target,
            delay_us: AtomicU64::default(),
            per_frame_us: AtomicU64::default(),
            idle_from: Mutex::new(Instant::now()),
            accepted: AtomicU64::default(),
            closing: AtomicBool::default(),
            open: Mutex::default(),
        });
        let relay = Self { address, shared: Arc::clone(&shared) };
        relay.set_delay(delay);
        thread::spawn(move || accept(&listener, &shared));
        Ok(relay)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// How many connections it has taken so far.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Changes the delay of what arrives from now on.
    pub fn set_delay(&self, delay: Duration) {
        let micros = delay.as_micros() as u64;
        self.shared.delay_us.store(micros, Ordering::Relaxed);
    }

    /// Stands for a slow Cassandra, too: each frame of its answers takes this long, one after the other on all connections. Zero
    /// ends that.
    pub fn set_time_per_frame(&self, time: Duration) {
        self.shared.per_frame_us.store(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// Breaks all connections; new ones are taken.
    pub fn cut(&self) {
        for stream in self.shared.open().drain(..) {
            let _ = stream.shutdown(Shutdown::Both); // may be closed already
        }
    }
}

impl Drop for DelayRelay {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address); // wakes the thread that accepts, which then ends
        self.cut();
    }
}

impl Shared {
    fn open(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When answers with so many frames in them are due.
    fn due(&self, frames: u32) -> Instant {
        let delay = Duration::from_micros(self.delay_us.load(Ordering::Relaxed));
        let per_frame = Duration::from_micros(self.per_frame_us.load(Ordering::Relaxed));
        if per_frame.is_zero() {
            return Instant::now() + delay;
        }
        let mut idle_from = self.idle_from.lock().unwrap_or_else(PoisonError::into_inner);
        *idle_from = (*idle_from).max(Instant::now()) + per_frame * frames;
        *idle_from + delay
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming().flatten() {
        if shared.closing.load(Ordering::Relaxed) {
            return;
        }
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        // When the server cannot be reached the client sees its connection closed, as it would without a relay.
        let _ = relay(client, shared);
    }
}

/// Three threads a connection: requests, answers as they come, answers as they are due.
fn relay(client: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    let server = TcpStream::connect_timeout(&shared.target.into(), Duration::from_secs(5))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    shared.open().extend([client.try_clone()?, server.try_clone()?]);

    let (chunks, due) = mpsc::sync_channel(UNDER_WAY);
    let (requests_in, requests_out) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || forward(requests_in, requests_out));
    let stamps = Arc::clone(shared);
    thread::spawn(move || stamp(server, &chunks, &stamps));
    thread::spawn(move || release(&due, client));
    Ok(())
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to); // an error is an end
    let _ = to.shutdown(Shutdown::Write);
}

/// Reads answers and notes when each is due.
fn stamp(mut server: TcpStream, chunks: &SyncSender<Chunk>, shared: &Shared) {
    let mut buffer = vec![0; CHUNK];
    let mut frames = Frames::default();
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        let bytes = buffer[..length].to_vec();
        let chunk = Chunk { due: shared.due(frames.begun_in(&bytes)), bytes };
        if chunks.send(chunk).is_err() {
            return; // the client is gone
        }
    }
}

/// Counts the frames of Cassandra's protocol, version 4: nine bytes, of which the last four are the length of what follows.
#[derive(Debug, Default)]
struct Frames {
    header: Vec<u8>,
    body_left: usize,
}

impl Frames {
    const HEADER: usize = 9;

    /// How many begin in the next bytes of the stream: their headers end there.
    fn begun_in(&mut self, mut bytes: &[u8]) -> u32 {
        let mut begun = 0;
        loop {
            let body = self.body_left.min(bytes.len());
            bytes = &bytes[body..];
            self.body_left -= body;
            let header = (Self::HEADER - self.header.len()).min(bytes.len());
            self.header.extend(&bytes[..header]);
            bytes = &bytes[header..];
            let Some((_, &length)) = self.header.split_last_chunk().filter(|_| self.header.len() == Self::HEADER)
            else {
                return begun;
            };
            self.body_left = u32::from_be_bytes(length) as usize;
            self.header.clear();
            begun += 1;
        }
    }
}

/// Writes answers when they are due. The end of the answers is delayed like them: it comes after the last chunk.
fn release(due: &Receiver<Chunk>, mut client: TcpStream) {
    for chunk in due {
        thread::sleep(chunk.due.saturating_duration_since(Instant::now()));
        if client.write_all(&chunk.bytes).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let frame = |body: u8| [&[0x84, 0, 0, 1, 8, 0, 0, 0, body][..], &vec![7; body.into()]].concat();
        let stream = [frame(0), frame(5), frame(200), frame(1)].concat();
        for size in 1..=stream.len() {
            let mut frames = Frames::default();
            let counted: u32 = stream.chunks(size).map(|chunk| frames.begun_in(chunk)).sum();
            assert_eq!(counted, 4, "cut into {size}");
        }
    }
}
