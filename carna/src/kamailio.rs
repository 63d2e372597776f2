//! What is asked of a Kamailio from outside: its RPC commands, and whether it answers SIP.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::time::timeout;

/// How long an answer is waited for. Kamailio answers from a process of its own, which may read a long list meanwhile.
const RPC_LIMIT: Duration = Duration::from_secs(5);
const OPTIONS_LIMIT: Duration = Duration::from_secs(1);
/// The longest answer: what a Unix socket takes by default.
const LONGEST_ANSWER: usize = 212_992;
const LONGEST_SIP: usize = 65_535;

/// RPC commands over the Unix datagram socket of the module `jsonrpcs`.
#[derive(Debug)]
pub struct Rpc {
    socket: PathBuf,
    /// Where our own sockets are made, which Kamailio answers to.
    dir: PathBuf,
}

impl Rpc {
    /// By this socket of Kamailio's; answers come to sockets in `dir`.
    pub fn new(socket: &Path, dir: &Path) -> Self {
        Self { socket: socket.to_owned(), dir: dir.to_owned() }
    }

    /// Calls a command and returns its result.
    ///
    /// # Errors
    /// Kamailio is not there, does not answer in five seconds, or refuses the command; then the error is what it says.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let request = json!({"jsonrpc": "2.0", "id": number, "method": method, "params": params});
        let ours = Bound(self.dir.join(format!("rpc-{}-{number}", std::process::id())));
        let socket = UnixDatagram::bind(&ours.0).with_context(|| format!("cannot create {}", ours.0.display()))?;
        socket.connect(&self.socket).with_context(|| format!("nobody is at {}", self.socket.display()))?;
        let mut answer = vec![0; LONGEST_ANSWER];
        let exchange = async {
            socket.send(request.to_string().as_bytes()).await?;
            socket.recv(&mut answer).await
        };
        let length = timeout(RPC_LIMIT, exchange).await.with_context(|| format!("no answer to {method}"))??;
        let mut answer: Value = serde_json::from_slice(&answer[..length])
            .with_context(|| format!("{method} was answered with something else than JSON"))?;
        match answer.get("error") {
            Some(error) => bail!("{method}: {}", error["message"].as_str().unwrap_or("refused")),
            None => Ok(answer["result"].take()),
        }
    }
}

/// A socket that goes when this is dropped.
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Asks by OPTIONS over UDP whether somebody is there, and gives the first line of the answer.
///
/// # Errors
/// Nobody answers in a second.
pub async fn options(address: SocketAddr) -> Result<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    let here = socket.local_addr()?;
    let id = format!("carna-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let request = format!(
        "OPTIONS sip:{address} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK-{id};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:carna@{here}>;tag={id}\r\nTo: <sip:{address}>\r\nCall-ID: {id}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    );
    let mut answer = vec![0; LONGEST_SIP];
    let exchange = async {
        socket.send(request.as_bytes()).await?;
        socket.recv(&mut answer).await
    };
    let length = timeout(OPTIONS_LIMIT, exchange).await.context("no answer to OPTIONS")??;
    Ok(String::from_utf8_lossy(&answer[..length]).lines().next().unwrap_or_default().to_owned())
}
