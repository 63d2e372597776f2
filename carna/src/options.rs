//! Whether somebody answers SIP.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// How long an answer is waited for.
const OPTIONS_LIMIT: Duration = Duration::from_secs(1);
const LONGEST_SIP: usize = 65_535;
/// How an answer begins that is none of a node that takes nothing new.
const TAKES_REQUESTS: &str = "SIP/2.0 2";

/// Asks there by OPTIONS, unless there is nobody to ask, and gives a sentence about what was answered if that was a refusal.
///
/// # Errors
/// Nobody answers in a second.
pub(crate) async fn refusal(address: Option<SocketAddr>) -> Result<Option<String>> {
    let Some(address) = address else { return Ok(None) };
    let answer = options(address).await?;
    Ok((!answer.starts_with(TAKES_REQUESTS)).then(|| format!("it answers OPTIONS with {answer}")))
}

/// Asks by OPTIONS over UDP whether somebody is there, and gives the first line of the answer.
///
/// # Errors
/// Nobody answers in a second.
async fn options(address: SocketAddr) -> Result<String> {
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
