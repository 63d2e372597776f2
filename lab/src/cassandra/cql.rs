//! As much of the native protocol (version 4) as it takes to know that a node answers, and to run a statement.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const REQUEST_V4: u8 = 0x04;
const RESPONSE_V4: u8 = 0x84;
const HEADER: usize = 9;
const MAX_BODY: usize = 16 << 20;

const ERROR: u8 = 0x00;
const STARTUP: u8 = 0x01;
const READY: u8 = 0x02;
const AUTHENTICATE: u8 = 0x03;
const OPTIONS: u8 = 0x05;
const SUPPORTED: u8 = 0x06;
const QUERY: u8 = 0x07;
const AUTH_RESPONSE: u8 = 0x0f;
const AUTH_SUCCESS: u8 = 0x10;

const CONSISTENCY_ONE: u16 = 0x0001;

/// A connection that has been answered once.
pub(super) struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects and asks OPTIONS; fails unless the node says SUPPORTED.
    pub(super) fn open(address: Ipv4Addr, port: u16, timeout: Duration) -> Result<Self> {
        let address = SocketAddr::from((address, port));
        let stream =
            TcpStream::connect_timeout(&address, timeout).with_context(|| format!("no connection to {address}"))?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut connection = Self { stream };
        let (answer, _) = connection.ask(OPTIONS, &[])?;
        if answer != SUPPORTED {
            bail!("{address} answered OPTIONS with opcode {answer:#04x}");
        }
        Ok(connection)
    }

    /// STARTUP, and the login when the node wants one.
    pub(super) fn log_in(&mut self, user: &str, password: &str) -> Result<()> {
        let mut options = 1u16.to_be_bytes().to_vec();
        put_string(&mut options, "CQL_VERSION");
        put_string(&mut options, "3.0.0");
        match self.ask(STARTUP, &options)?.0 {
            READY => Ok(()),
            AUTHENTICATE => self.authenticate(user, password),
            other => bail!("STARTUP was answered with opcode {other:#04x}"),
        }
    }

    fn authenticate(&mut self, user: &str, password: &str) -> Result<()> {
        let token = format!("\0{user}\0{password}");
        let mut body = (token.len() as u32).to_be_bytes().to_vec();
        body.extend(token.as_bytes());
        match self.ask(AUTH_RESPONSE, &body)?.0 {
            AUTH_SUCCESS => Ok(()),
            other => bail!("the login was answered with opcode {other:#04x}"),
        }
    }

    /// Runs one statement and ignores its rows.
    pub(super) fn execute(&mut self, statement: &str) -> Result<()> {
        self.query(statement).map(drop)
    }

    /// Runs one statement whose only row is a bigint, as that of `SELECT COUNT(*)`.
    pub(super) fn count(&mut self, statement: &str) -> Result<u64> {
        let body = self.query(statement)?;
        // The answer ends with its only value: its length, and as many bytes.
        match body.last_chunk::<12>() {
            Some([0, 0, 0, 8, value @ ..]) => Ok(u64::from_be_bytes(*value)),
            _ => bail!("the answer is no number, in CQL: {statement}"),
        }
    }

    fn query(&mut self, statement: &str) -> Result<Vec<u8>> {
        let mut body = (statement.len() as u32).to_be_bytes().to_vec();
        body.extend(statement.as_bytes());
        body.extend(CONSISTENCY_ONE.to_be_bytes());
        body.push(0); // no flags
        let (_, answer) = self.ask(QUERY, &body).with_context(|| format!("in CQL: {statement}"))?;
        Ok(answer)
    }

    /// Sends one frame and reads the answer; an ERROR frame is an error.
    fn ask(&mut self, opcode: u8, body: &[u8]) -> Result<(u8, Vec<u8>)> {
        let mut frame = vec![REQUEST_V4, 0, 0, 0, opcode];
        frame.extend((body.len() as u32).to_be_bytes());
        frame.extend(body);
        self.stream.write_all(&frame).context("cannot send")?;

        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header).context("no answer")?;
        if header[0] != RESPONSE_V4 {
            bail!("not a Cassandra: its answer starts with {:#04x}", header[0]);
        }
        let length = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) as usize;
        if length > MAX_BODY {
            bail!("an answer of {length} bytes is not believable");
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).context("the answer broke off")?;
        if header[4] == ERROR {
            bail!("{}", error_text(&body));
        }
        Ok((header[4], body))
    }
}

/// An ERROR body is a code, then the length and text of the message.
fn error_text(body: &[u8]) -> String {
    let text = body.get(6..).unwrap_or_default();
    let length = match body.get(4..6) {
        Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
        _ => 0,
    };
    String::from_utf8_lossy(&text[..length.min(text.len())]).into_owned()
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}
