//! What stands for Logstash: takes lines by TCP, and holds each to the contract.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::net;
use lab::wait::until;
use serde_json::Value;

use crate::contract::Contract;

const SOON: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(20);

/// A receiver. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    is_over: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Value>,
    /// What was no line of the contract.
    complaints: Vec<String>,
}

/// Whether lines may be old: those that have waited are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    Fresh,
    Any,
}

impl Receiver {
    /// On a fresh address.
    pub(crate) fn start() -> Result<Self> {
        Self::at((net::loopback(), 5044).into(), Age::Fresh)
    }

    /// At this address.
    pub(crate) fn at(address: SocketAddr, age: Age) -> Result<Self> {
        let contract = Contract::read()?;
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let shared = Arc::<Shared>::default();
        let thread = thread::spawn({
            let shared = shared.clone();
            move || shared.take_all(&listener, &contract, age)
        });
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where lines are taken.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has come. Something that breaks the contract is an error.
    pub(crate) fn lines(&self) -> Result<Vec<Value>> {
        let state = self.shared.state();
        match state.complaints.first() {
            Some(complaint) => bail!("{complaint}"),
            None => Ok(state.lines.clone()),
        }
    }

    /// Waits for a line.
    pub(crate) fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = || self.lines().map(|lines| lines.into_iter().find(&is_it));
        until(what, SOON, found).with_context(|| format!("last came {:#?}", self.last(6)))
    }

    /// The messages of the last lines.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let state = self.shared.state();
        state.lines.iter().rev().take(count).map(ToString::to_string).collect()
    }

    /// Ends, with all connections, and gives what has come.
    pub(crate) fn end(mut self) -> Result<Vec<Value>> {
        self.stop();
        self.lines()
    }

    fn stop(&mut self) {
        self.shared.is_over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_all(&self, listener: &TcpListener, contract: &Contract, age: Age) {
        thread::scope(|scope| {
            while !self.is_over.load(Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(scope.spawn(move || self.take(stream, contract, age))),
                    Err(_) => thread::sleep(LOOK),
                }
            }
        });
    }

    fn take(&self, stream: TcpStream, contract: &Contract, age: Age) {
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(LOOK));
        let mut from = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            match from.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) if line.last() == Some(&b'\n') => {
                    line.pop();
                    let checked = if age == Age::Fresh { contract.check_now(&line) } else { contract.check(&line) };
                    match checked {
                        Ok(document) => self.state().lines.push(document),
                        Err(error) => self.state().complaints.push(format!("{error:#}")),
                    }
                    line.clear();
                }
                Ok(_) => {}
                Err(_) if self.is_over.load(Relaxed) => return,
                Err(_) => {}
            }
        }
    }
}

/// Listens, takes connections, and reads nothing.
pub(crate) fn deaf() -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((net::loopback(), 5044)).context("no address")?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// An address where nobody is.
pub(crate) fn nobody() -> (Ipv4Addr, u16) {
    (net::loopback(), 5044)
}
