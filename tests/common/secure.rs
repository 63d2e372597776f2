//! Phones by TLS and WebSocket.

use std::io::ErrorKind;
use std::net::{SocketAddrV4, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use crate::common::sip::{Agent, Frames, Stream};

type Tls = StreamOwned<ClientConnection, TcpStream>;

impl Stream for Tls {
    fn patience(&self, patience: Duration) -> std::io::Result<()> {
        self.sock.patience(patience)
    }
}

/// A phone by TLS that trusts this authority alone.
pub(crate) fn tls(to: SocketAddrV4, ca_pem: &Path) -> Result<Agent> {
    let stream = encrypted(to, ca_pem)?;
    Ok(Agent::over_stream(stream.sock.local_addr()?, stream, "TLS"))
}

/// A phone in a page of this origin, by WebSocket.
pub(crate) fn websocket(to: SocketAddrV4, origin: &str) -> Result<Agent> {
    let stream = TcpStream::connect(to)?;
    let here = stream.local_addr()?;
    Ok(Agent::over_frames(here, shake_hands(stream, &format!("ws://{to}/"), origin)?, "WS"))
}

/// The same in TLS.
pub(crate) fn secure_websocket(to: SocketAddrV4, ca_pem: &Path, origin: &str) -> Result<Agent> {
    let stream = encrypted(to, ca_pem)?;
    let here = stream.sock.local_addr()?;
    Ok(Agent::over_frames(here, shake_hands(stream, &format!("wss://{to}/"), origin)?, "WSS"))
}

fn encrypted(to: SocketAddrV4, ca_pem: &Path) -> Result<Tls> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_pem).context("no certificate")?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = versions.with_root_certificates(roots).with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), ServerName::from(std::net::IpAddr::from(*to.ip())))?;
    let mut stream = StreamOwned::new(connection, TcpStream::connect(to)?);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).context("no TLS")?;
    }
    Ok(stream)
}

struct Framed<S>(WebSocket<S>);

fn shake_hands<S: Stream>(stream: S, uri: &str, origin: &str) -> Result<Framed<S>> {
    let mut request = uri.into_client_request()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", "sip".parse()?);
    request.headers_mut().insert("Origin", origin.parse()?);
    let (socket, _) = tungstenite::client(request, stream).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(Framed(socket))
}

impl<S: Stream> Frames for Framed<S> {
    fn send(&mut self, message: &[u8]) -> Result<()> {
        Ok(self.0.send(Message::text(String::from_utf8(message.to_vec())?))?)
    }

    fn receive(&mut self, patience: Duration) -> std::io::Result<String> {
        self.0.get_ref().patience(patience)?;
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => return Ok(text.to_string()),
                Ok(Message::Binary(bytes)) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) => return Err(error),
                Err(error) => return Err(std::io::Error::new(ErrorKind::ConnectionAborted, error)),
            }
        }
    }
}
