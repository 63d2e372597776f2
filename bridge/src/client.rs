//! A worker's end of the bridge.

use std::time::Duration;

use domain::CallEvent;

use crate::clock::Monotonic;
use crate::metrics::{Metrics, count};
use crate::protocol::{AnswerTo, MAX_MESSAGE, Operation, Outcome, Request, Ticket, Unavailable, decode, encode, page};
use crate::transport::{Link, SendError};

/// Asks the I/O process for operations. One per process, used by its main thread only.
#[derive(Debug)]
pub struct Client<'m, L> {
    link: L,
    metrics: &'m Metrics,
    last_id: u64,
    buffer: Vec<u8>,
}

/// Sends an event of a call on its way, over the link that all processes share: there is no answer.
///
/// # Errors
/// Why it could not be queued.
pub fn send_event(link: &impl Link, metrics: &Metrics, event: &CallEvent) -> Result<(), Unavailable> {
    let message = encode(event).map_err(|_| Unavailable::Failed)?;
    queue(link, metrics, &message)
}

fn queue(link: &impl Link, metrics: &Metrics, message: &[u8]) -> Result<(), Unavailable> {
    link.send(message).map_err(|error| match error {
        SendError::Full => {
            count(&metrics.queue_full);
            Unavailable::QueueFull
        }
        SendError::TooLong(_) => Unavailable::TooLong,
        SendError::Broken(_) => Unavailable::Failed,
    })
}

impl<'m, L: Link> Client<'m, L> {
    /// A client over this process's own link.
    pub fn new(link: L, metrics: &'m Metrics) -> Self {
        Self { link, metrics, last_id: 0, buffer: vec![0; MAX_MESSAGE] }
    }

    /// Asks for `operation` and waits for its answer, `patience` at the longest.
    ///
    /// Every failure is an [`Outcome::Unavailable`]. An answer that comes later is dropped by the next call; what it wrote
    /// is idempotent.
    pub fn call(&mut self, operation: Operation, patience: Duration) -> Outcome {
        let deadline = Monotonic::now().after(patience);
        self.send(operation, deadline, AnswerTo::Caller)
            .and_then(|()| self.await_answer(deadline))
            .unwrap_or_else(Outcome::Unavailable)
    }

    /// Asks for `operation` and returns at once; its answer goes to a resume worker with `ticket`.
    ///
    /// # Errors
    /// Why the request could not be queued: no answer will come then.
    pub fn submit(&mut self, operation: Operation, patience: Duration, ticket: Ticket) -> Result<(), Unavailable> {
        let deadline = Monotonic::now().after(patience);
        self.send(operation, deadline, AnswerTo::Resume(ticket))
    }

    /// Asks for `operation` and returns at once; its answer is dropped.
    ///
    /// # Errors
    /// Why the request could not be queued.
    pub fn tell(&mut self, operation: Operation, patience: Duration) -> Result<(), Unavailable> {
        let deadline = Monotonic::now().after(patience);
        self.send(operation, deadline, AnswerTo::Nobody)
    }

    fn send(&mut self, operation: Operation, deadline: Monotonic, answer: AnswerTo) -> Result<(), Unavailable> {
        count(&self.metrics.requests);
        self.last_id += 1;
        let request = Request { id: self.last_id, deadline, answer, operation };
        let message = encode(&request).map_err(|_| Unavailable::Failed)?;
        queue(&self.link, self.metrics, &message)
    }

    /// Collects the pages of the last request's answer. Pages of earlier requests are late: dropped.
    fn await_answer(&mut self, deadline: Monotonic) -> Result<Outcome, Unavailable> {
        let mut body = Vec::new();
        loop {
            let length = match self.link.receive(&mut self.buffer, Some(deadline)) {
                Ok(Some(length)) => length,
                Ok(None) => return Err(Unavailable::Timeout),
                Err(_) => return Err(Unavailable::Failed),
            };
            let (id, more, part) = page(&self.buffer[..length]).ok_or(Unavailable::Failed)?;
            if id != self.last_id {
                if !more {
                    count(&self.metrics.late_answers);
                }
            } else if more || !body.is_empty() {
                body.extend_from_slice(part);
                if !more {
                    return decode(&body).map_err(|_| Unavailable::Failed);
                }
            } else {
                return decode(part).map_err(|_| Unavailable::Failed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::metrics::get;
    use crate::protocol::{Continuation, Lookup, pages};
    use crate::testing;
    use crate::transport::Seqpacket;

    fn lookup() -> Operation {
        testing::lookup("alice")
    }

    fn answer(far: &Seqpacket, id: u64, outcome: &Outcome) {
        for message in pages(id, &encode(outcome).expect("encodes")) {
            far.send(&message).expect("sent");
        }
    }

    fn receive(far: &Seqpacket) -> Request {
        let mut buffer = vec![0; MAX_MESSAGE];
        let length = far.receive(&mut buffer, None).expect("a request").expect("no deadline");
        decode(&buffer[..length]).expect("a request")
    }

    #[test]
    fn a_call_without_an_answer_ends_at_its_deadline() {
        let (near, _far) = Seqpacket::pair().expect("a pair");
        let metrics = Metrics::default();
        let outcome = Client::new(near, &metrics).call(lookup(), Duration::from_millis(20));
        assert_eq!(outcome, Outcome::Unavailable(Unavailable::Timeout));
    }

    #[test]
    fn a_late_answer_is_never_taken_for_the_next_call() {
        let (near, far) = Seqpacket::pair().expect("a pair");
        let metrics = Metrics::default();
        let mut client = Client::new(near, &metrics);
        client.call(lookup(), Duration::from_millis(10));
        let late = receive(&far).id;
        let other = thread::spawn(move || {
            let next = receive(&far).id;
            answer(&far, late, &Outcome::Found(vec![Lookup::MethodNotAllowed]));
            answer(&far, next, &Outcome::Found(vec![Lookup::NotRegistered]));
        });
        let outcome = client.call(lookup(), Duration::from_secs(5));
        other.join().expect("the far end");
        assert_eq!(outcome, Outcome::Found(vec![Lookup::NotRegistered]));
        assert_eq!(get(&metrics.late_answers), 1);
    }

    #[test]
    fn a_full_queue_is_unavailable_at_once() {
        let (near, _far) = Seqpacket::pair().expect("a pair");
        let metrics = Metrics::default();
        let mut client = Client::new(near, &metrics);
        let ticket =
            || Ticket { hash_index: 1, label: 2, continuation: Continuation::Route(3), context: vec![0; 1000] };
        let refused = (0..10_000).find_map(|_| client.submit(lookup(), Duration::from_secs(1), ticket()).err());
        assert_eq!(refused, Some(Unavailable::QueueFull));
        assert_eq!(get(&metrics.queue_full), 1);
    }
}
