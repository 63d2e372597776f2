//! Loopback addresses and ports that nobody else on this machine uses.
//!
//! A claim is an abstract Unix socket held for the life of the process: the kernel frees it when the process dies, and its
//! name is seen in exactly the network namespace whose loopback it protects, by every user and every checkout.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// 127.64.0.0/10: `loopback()` hands out addresses from here only, so that fixed ones elsewhere never collide with it.
const POOL: u32 = 0x7f40_0000;
const POOL_SIZE: u32 = 1 << 22;

/// Below the range from which Linux takes ephemeral ports.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// UDP or TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Streams.
    Tcp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
        })
    }
}

/// What is answered to a GET within this time: status code and content.
pub fn get(address: SocketAddrV4, path: &str, limit: Duration) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(limit))?;
    // By this version of HTTP the answer comes as one piece, and ends the connection.
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, content) = answer.split_once("\r\n\r\n").context("no answer")?;
    let code = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((code, content.to_owned()))
}

/// A fresh 127.x.y.z that no other process that asks here gets while this one lives.
///
/// # Panics
///
/// When four million addresses are taken.
pub fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..POOL_SIZE {
        let n = scatter(NEXT.fetch_add(1, Ordering::Relaxed)) % POOL_SIZE;
        let address = Ipv4Addr::from(POOL + n);
        let last = address.octets()[3];
        if last != 0 && last != 255 && claim_address(address) {
            return address;
        }
    }
    panic!("no loopback address is free");
}

/// A port on `address` that is free now and that [`free_port`] gives to nobody else while this process lives.
pub fn free_port(address: Ipv4Addr, protocol: Protocol) -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    for _ in 0..count {
        let step = scatter(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
        let port = PORTS.start + step as u16;
        if is_free(address, port, protocol) && claim(&format!("port-{address}-{protocol}-{port}")) {
            return Ok(port);
        }
    }
    bail!("no {protocol} port is free on {address}")
}

/// Makes sure that nobody else who asks here takes this address while this process lives; false when somebody has.
pub fn claim_address(address: Ipv4Addr) -> bool {
    claim(&format!("address-{address}"))
}

/// Whether `port` can be bound now.
pub fn is_free(address: Ipv4Addr, port: u16, protocol: Protocol) -> bool {
    let address = SocketAddrV4::new(address, port);
    match protocol {
        Protocol::Udp => UdpSocket::bind(address).is_ok(),
        Protocol::Tcp => TcpListener::bind(address).is_ok(),
    }
}

/// Whether some process has bound exactly this address, without trying to bind it and so getting in the way.
pub fn is_bound(address: SocketAddrV4, protocol: Protocol) -> bool {
    // The table writes the address as the number that its bytes are on this machine.
    let ip = u32::from_ne_bytes(address.ip().octets());
    let wanted = format!("{ip:08X}:{:04X}", address.port());
    let table = std::fs::read_to_string(format!("/proc/thread-self/net/{protocol}")).unwrap_or_default();
    table.lines().any(|line| line.split_whitespace().nth(1) == Some(&wanted))
}

/// Takes a name for the life of this process; false if somebody has it.
fn claim(name: &str) -> bool {
    static HELD: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let Ok(address) = SocketAddr::from_abstract_name(format!("sip-lab-{name}")) else {
        return false;
    };
    match UnixListener::bind_addr(&address) {
        Ok(socket) => {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
            true
        }
        Err(_) => false,
    }
}

/// Spreads consecutive numbers, each process from another start, so that processes seldom try what another one has.
fn scatter(n: u32) -> u32 {
    std::process::id().wrapping_mul(0x9e37_79b1).wrapping_add(n.wrapping_mul(0x85eb_ca6b)) >> 8
}
