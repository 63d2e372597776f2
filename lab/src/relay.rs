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

    fn delay(&self) -> Duration {
        Duration::from_micros(self.delay_us.load(Ordering::Relaxed))
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
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        let chunk = Chunk { due: Instant::now() + shared.delay(), bytes: buffer[..length].to_vec() };
        if chunks.send(chunk).is_err() {
            return; // the client is gone
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
