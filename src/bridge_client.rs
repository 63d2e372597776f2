//! This process's end of the bridge: made at its first use, after whatever fork it came from.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::time::Duration;

use bridge::Client;
use bridge::protocol::{Continuation, Operation, Outcome, Ticket, Unavailable};
use bridge::transport::Seqpacket;
use domain::CallEvent;

use crate::host::log::log_warning;
use crate::host::message::Message;
use crate::host::tm::{self, Suspended};
use crate::host::{process, shared};
use crate::lifecycle;

type ProcessClient = (usize, Client<'static, &'static Seqpacket>);

thread_local! {
    // Kept with the index of the process it was made in: one forked later must not use its parent's link.
    static CLIENT: RefCell<Option<ProcessClient>> = const { RefCell::new(None) };
}

/// How a function asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It waits: a SIP worker stands still meanwhile.
    Plain,
    /// It suspends the transaction.
    Async,
}

/// Asks for `operation` and waits for the answer, as long as `call_timeout` says.
pub(crate) fn call(operation: Operation) -> Outcome {
    with_client(|client, patience| client.call(operation, patience)).unwrap_or_else(Outcome::Unavailable)
}

/// Asks for `operation` and does not wait: whether it is done nobody is told. Returns whether it could be asked for.
pub(crate) fn tell(operation: Operation) -> bool {
    match with_client(|client, patience| client.tell(operation, patience)) {
        Ok(Ok(())) => true,
        Err(reason) | Ok(Err(reason)) => {
            log_warning!("tell", "something is left undone: {reason}");
            false
        }
    }
}

/// Sends an event of a call on its way to where it is kept. Returns whether it could be sent.
pub(crate) fn send_event(event: &CallEvent) -> bool {
    let sent = lifecycle::module()
        .zip(shared::metrics())
        .ok_or(Unavailable::Failed)
        .and_then(|(module, metrics)| bridge::client::send_event(&module.events, metrics, event));
    sent.inspect_err(|reason| log_warning!("calls", "an event of the call {} is lost: {reason}", event.call_id)).is_ok()
}

/// What became of a request to suspend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Submitted {
    /// The transaction is suspended and its route will run; or this is a retransmission of such a request.
    Suspended,
    /// The transaction was cancelled.
    Cancelled,
    /// The transaction was answered.
    Answered,
    /// The transaction could not be suspended or the request not queued.
    Unavailable(Unavailable),
}

/// Suspends the message's transaction and asks for `operation`; the answer, with `context`, continues it there.
pub(crate) fn submit(
    message: &mut Message<'_>,
    operation: Operation,
    continuation: Continuation,
    context: Vec<u8>,
) -> Submitted {
    let transaction = match tm::suspend(message) {
        Suspended::Yes(transaction) => transaction,
        Suspended::Retransmission => return Submitted::Suspended,
        Suspended::Cancelled => return Submitted::Cancelled,
        Suspended::Answered => return Submitted::Answered,
        Suspended::Failed => return Submitted::Unavailable(Unavailable::Failed),
    };
    let ticket = Ticket { hash_index: transaction.hash_index, label: transaction.label, continuation, context };
    match with_client(|client, patience| client.submit(operation, patience, ticket)).and_then(|queued| queued) {
        Ok(()) => {
            if let Some(metrics) = shared::metrics() {
                bridge::metrics::count(&metrics.suspended);
            }
            Submitted::Suspended
        }
        Err(reason) => {
            tm::cancel_suspend(transaction);
            Submitted::Unavailable(reason)
        }
    }
}

fn with_client<T>(ask: impl FnOnce(&mut Client<'static, &'static Seqpacket>, Duration) -> T) -> Result<T, Unavailable> {
    let module = lifecycle::module().ok_or(Unavailable::Failed)?;
    let index = process::index();
    CLIENT.with_borrow_mut(|kept| {
        let client = match kept {
            Some((maker, client)) if *maker == index => client,
            _ => {
                let link = module.links.get(index).ok_or(Unavailable::Failed)?;
                let metrics = shared::metrics().ok_or(Unavailable::Failed)?;
                &mut kept.insert((index, Client::new(link, metrics))).1
            }
        };
        Ok(ask(client, module.config.call_timeout))
    })
}
