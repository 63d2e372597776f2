//! The I/O process's end of the bridge: admits, runs and answers operations.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::CallEvent;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::clock::Monotonic;
use crate::metrics::{Metrics, count, set, uncount};
use crate::pace::{Pace, WaitingCaller};
use crate::protocol::{
    AnswerTo, Completion, CompletionResult, MAX_MESSAGE, Operation, Outcome, Request, Task, Ticket, Unavailable,
    decode, encode, pages,
};
use crate::transport::{Link, SendError, Seqpacket};

/// How long an answer that was too long for a completion waits to be claimed.
const PARKED_FOR: Duration = Duration::from_secs(5);

/// Notices on their way to the resume workers.
const MOST_NOTICES: usize = 64;

/// Tasks without a job that are kept.
const MOST_IDLE_TASKS: usize = 256;

/// What the operations do.
pub trait Backend: Send + Sync + 'static {
    /// Takes over an event of a call, whatever else is under way.
    fn take_event(&self, event: CallEvent);

    /// Runs one operation. At `deadline` it is dropped, wherever it is.
    fn perform(&self, operation: Operation, deadline: Monotonic) -> impl Future<Output = Outcome> + Send;
}

/// The I/O process's ends of the links to the other processes.
#[derive(Debug)]
pub struct Ends {
    /// Of each process's own link.
    pub callers: Vec<Seqpacket>,
    /// Of the link that the resume workers share.
    pub completions: Seqpacket,
    /// Of the link by which all processes send call events.
    pub events: Seqpacket,
}

/// The links of the I/O process.
#[derive(Debug)]
pub struct Links {
    /// Our ends.
    pub ends: Ends,
    /// What the resume workers are told besides completions.
    pub notices: mpsc::Receiver<Task>,
    /// Becomes readable when the server is to stop.
    pub stop: OwnedFd,
}

/// Bounds of the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Operations under way at once; further ones are refused.
    pub in_flight: usize,
    /// How long the drain at the stop may take.
    pub drain: Duration,
    /// While call events come they are taken in turns of this length.
    pub event_turn: Duration,
}

/// Serves until [`Links::stop`] is readable, then drains: reads what is queued, waits for what is under way.
///
/// `pace` is told when callers wait; the runtime's threads are to ask it before they wait. Returns how many operations were
/// still under way when the drain's time was up.
///
/// # Errors
/// When a descriptor cannot be watched.
pub async fn serve<B: Backend>(
    links: Links,
    limits: Limits,
    backend: Arc<B>,
    pace: Arc<Pace>,
    metrics: &'static Metrics,
) -> io::Result<usize> {
    let Ends { callers, completions, events } = links.ends;
    let server = Arc::new(Server {
        backend,
        pace,
        metrics,
        slots: Arc::new(Semaphore::new(limits.in_flight)),
        limits,
        completions: Outbox::new(completions, metrics)?,
        parked: Mutex::default(),
        idle: Mutex::default(),
    });
    let mut readers = Vec::with_capacity(callers.len());
    for caller in callers {
        let outbox = Outbox::new(caller, metrics)?;
        let readable = watch(outbox.link.clone(), Interest::READABLE)?;
        readers.push((outbox.clone(), tokio::spawn(server.clone().read_forever(outbox, readable))));
    }
    let notices = tokio::spawn(server.clone().pass_on(links.notices));
    let events = Arc::new(events);
    let taking = tokio::spawn(server.clone().take_events(events.clone()));
    let stop = watch(links.stop, Interest::READABLE)?;
    let _ = stop.readable().await?;
    let mut buffer = vec![0; MAX_MESSAGE];
    for (outbox, reader) in readers {
        reader.abort();
        // End-of-file never comes: every process of the server holds the other end. Empty is the end.
        server.clone().read_queued(&outbox, &mut buffer);
    }
    let left = server.drain().await;
    taking.abort();
    server.take_queued_events(&events, &mut buffer);
    notices.abort();
    Ok(left)
}

struct Server<B: Backend> {
    backend: Arc<B>,
    pace: Arc<Pace>,
    metrics: &'static Metrics,
    slots: Arc<Semaphore>,
    limits: Limits,
    completions: Outbox,
    parked: Mutex<Parked>,
    idle: Mutex<Vec<oneshot::Sender<Job<B>>>>,
}

impl<B: Backend> Server<B> {
    async fn read_forever(self: Arc<Self>, outbox: Outbox, readable: AsyncFd<Arc<Seqpacket>>) {
        // Kept: a block of this size is a system call to get, one to give back, and a page fault in between.
        let mut buffer = vec![0; MAX_MESSAGE];
        while let Ok(mut ready) = readable.readable().await {
            self.clone().read_queued(&outbox, &mut buffer);
            ready.clear_ready();
        }
    }

    fn read_queued(self: Arc<Self>, outbox: &Outbox, buffer: &mut [u8]) {
        each_queued(&outbox.link, buffer, |message| self.clone().accept(message, outbox));
    }

    /// Takes call events for ever. The link is watched only while none come: as long as they do they are fetched once in a turn,
    /// so that neither they nor their senders, who wait for nothing, wake the event loop each.
    async fn take_events(self: Arc<Self>, link: Arc<Seqpacket>) -> io::Result<()> {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            let _ = watch(link.clone(), Interest::READABLE)?.readable().await?;
            while self.take_queued_events(&link, &mut buffer) > 0 {
                tokio::time::sleep(self.limits.event_turn).await;
            }
        }
    }

    /// Returns how many there were.
    fn take_queued_events(&self, link: &Seqpacket, buffer: &mut [u8]) -> usize {
        each_queued(link, buffer, |message| match decode(message) {
            Ok(event) => self.backend.take_event(event),
            Err(error) => tracing::error!("a call event of {} bytes is not understood: {error}", message.len()),
        })
    }

    fn accept(self: Arc<Self>, message: &[u8], outbox: &Outbox) {
        let request: Request = match decode(message) {
            Ok(request) => request,
            Err(error) => {
                tracing::error!("a request of {} bytes is not understood: {error}", message.len());
                return;
            }
        };
        self.pace.request_came();
        let slot = self.slots.clone().try_acquire_owned().ok();
        let overloaded = slot.is_none();
        self.show_in_flight();
        let job = Job {
            server: self.clone(),
            outbox: outbox.clone(),
            id: request.id,
            admitted: Monotonic::now(),
            deadline: request.deadline,
            operation: Some(request.operation),
            _caller: (request.answer == AnswerTo::Caller).then(|| self.pace.caller_waits()),
            answer: Some(request.answer),
            slot,
        };
        if overloaded {
            count(&self.metrics.overloaded);
            return job.complete(Outcome::Unavailable(Unavailable::Overloaded));
        }
        self.start(job);
    }

    /// Gives a job to a task that has none; only without one is a task made. A task is some kilobytes, so they are kept.
    fn start(self: Arc<Self>, job: Job<B>) {
        let idle = self.idle().pop();
        let unwanted = match idle {
            Some(task) => task.send(job).err(),
            None => Some(job),
        };
        if let Some(job) = unwanted {
            tokio::spawn(self.run_jobs(job));
        }
    }

    async fn run_jobs(self: Arc<Self>, mut job: Job<B>) {
        loop {
            job.run().await;
            let Some(next) = self.offer_this_task() else { return };
            match next.await {
                Ok(next) => job = next,
                Err(_) => return,
            }
        }
    }

    /// Where the next job of this task will come from; `None` when enough tasks wait already.
    fn offer_this_task(&self) -> Option<oneshot::Receiver<Job<B>>> {
        let mut idle = self.idle();
        (idle.len() < MOST_IDLE_TASKS).then(|| {
            let (sender, receiver) = oneshot::channel();
            idle.push(sender);
            receiver
        })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<oneshot::Sender<Job<B>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes notices on to the resume workers, no faster than they take them.
    async fn pass_on(self: Arc<Self>, mut notices: mpsc::Receiver<Task>) {
        let room = Arc::new(Semaphore::new(MOST_NOTICES));
        while let Some(task) = notices.recv().await {
            let Ok(slot) = room.clone().acquire_owned().await else { return };
            match encode(&task) {
                Ok(message) => self.completions.deliver(vec![message], Some(slot)),
                Err(error) => tracing::error!("a notice cannot be encoded: {error}"),
            }
        }
    }

    async fn drain(&self) -> usize {
        let all = u32::try_from(self.limits.in_flight).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(self.limits.drain, self.slots.acquire_many(all)).await;
        self.under_way()
    }

    fn under_way(&self) -> usize {
        self.limits.in_flight.saturating_sub(self.slots.available_permits())
    }

    fn show_in_flight(&self) {
        set(&self.metrics.in_flight, self.under_way() as u64);
    }

    fn parked(&self) -> std::sync::MutexGuard<'_, Parked> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An accepted request. It is always answered: dropped without an answer, by a panic or an abort, it answers that it failed.
struct Job<B: Backend> {
    server: Arc<Server<B>>,
    outbox: Outbox,
    id: u64,
    admitted: Monotonic,
    deadline: Monotonic,
    operation: Option<Operation>,
    answer: Option<AnswerTo>,
    _caller: Option<WaitingCaller>,
    slot: Option<OwnedSemaphorePermit>,
}

impl<B: Backend> Job<B> {
    async fn run(mut self) {
        let outcome = match self.operation.take() {
            Some(Operation::Claim(id)) => self.server.parked().claim(id),
            Some(operation) => {
                let outcome = self.perform(operation).await;
                self.server.metrics.latency.record(Monotonic::now().micros_since(self.admitted));
                Some(outcome)
            }
            None => None,
        };
        self.complete(outcome.unwrap_or(Outcome::Unavailable(Unavailable::Failed)));
    }

    async fn perform(&self, operation: Operation) -> Outcome {
        let timeout = Outcome::Unavailable(Unavailable::Timeout);
        let Some(remaining) = self.deadline.remaining() else { return timeout };
        // Pinned here: the future of an operation is several kilobytes, which would move into that of the timeout otherwise.
        let performing = pin!(self.server.backend.perform(operation, self.deadline));
        tokio::time::timeout(remaining, performing).await.unwrap_or(timeout)
    }

    fn complete(mut self, outcome: Outcome) {
        self.send(outcome);
    }

    fn send(&mut self, outcome: Outcome) {
        let Some(answer) = self.answer.take() else { return };
        let slot = self.slot.take();
        match answer {
            AnswerTo::Caller => match encode(&outcome) {
                Ok(body) => self.outbox.deliver(pages(self.id, &body), slot),
                Err(error) => tracing::error!("an answer cannot be encoded: {error}"),
            },
            AnswerTo::Resume(ticket) => self.send_completion(ticket, outcome, slot),
            AnswerTo::Nobody => drop(slot),
        }
        self.server.show_in_flight();
    }

    fn send_completion(&self, ticket: Ticket, outcome: Outcome, slot: Option<OwnedSemaphorePermit>) {
        let task = Task::Resume(Completion { ticket, result: CompletionResult::Inline(outcome) });
        match encode(&task).map(|message| self.fitting(task, message)) {
            Ok(message) => self.server.completions.deliver(vec![message], slot),
            Err(error) => tracing::error!("a completion cannot be encoded: {error}"),
        }
    }

    /// The message of a task; of one that is too long, another that says where its answer is parked.
    fn fitting(&self, task: Task, message: Vec<u8>) -> Vec<u8> {
        match task {
            Task::Resume(Completion { ticket, result: CompletionResult::Inline(outcome) })
                if message.len() > MAX_MESSAGE =>
            {
                let parked = self.server.parked().park(outcome);
                let task = Task::Resume(Completion { ticket, result: CompletionResult::Parked(parked) });
                encode(&task).unwrap_or_default()
            }
            _ => message,
        }
    }
}

impl<B: Backend> Drop for Job<B> {
    fn drop(&mut self) {
        self.send(Outcome::Unavailable(Unavailable::Failed));
    }
}

/// Answers too long for a completion, until a resume worker claims them or nobody does.
#[derive(Debug, Default)]
struct Parked {
    last_id: u64,
    outcomes: HashMap<u64, Outcome>,
    expiry: VecDeque<(Instant, u64)>,
}

impl Parked {
    fn park(&mut self, outcome: Outcome) -> u64 {
        let now = Instant::now();
        while let Some((at, stale)) = self.expiry.front().copied()
            && now.duration_since(at) > PARKED_FOR
        {
            self.expiry.pop_front();
            self.outcomes.remove(&stale);
        }
        self.last_id += 1;
        self.outcomes.insert(self.last_id, outcome);
        self.expiry.push_back((now, self.last_id));
        self.last_id
    }

    fn claim(&mut self, id: u64) -> Option<Outcome> {
        self.outcomes.remove(&id)
    }
}

/// The sending side of a link: sends at once when there is room, else queues and sends in order as room appears. What is
/// queued is bounded by the operations under way, whose slots it keeps.
#[derive(Clone)]
struct Outbox {
    link: Arc<Seqpacket>,
    backlog: mpsc::UnboundedSender<Backlog>,
    queued: Arc<Mutex<usize>>,
    metrics: &'static Metrics,
}

struct Backlog {
    messages: Vec<Vec<u8>>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Outbox {
    fn new(link: Seqpacket, metrics: &'static Metrics) -> io::Result<Self> {
        link.set_nonblocking()?;
        let link = Arc::new(link);
        let (backlog, waiting) = mpsc::unbounded_channel();
        let queued = Arc::new(Mutex::new(0));
        tokio::spawn(send_backlog(link.clone(), waiting, queued.clone(), metrics));
        Ok(Self { link, backlog, queued, metrics })
    }

    fn deliver(&self, mut messages: Vec<Vec<u8>>, slot: Option<OwnedSemaphorePermit>) {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        if *queued == 0 {
            let sent = messages.iter().take_while(|message| self.link.send(message).is_ok()).count();
            messages.drain(..sent);
        }
        if !messages.is_empty() && self.backlog.send(Backlog { messages, _slot: slot }).is_ok() {
            *queued += 1;
            count(&self.metrics.queue_depth);
        }
    }
}

/// Reads what there is to read, without waiting. Returns how many messages that were.
fn each_queued(link: &Seqpacket, buffer: &mut [u8], mut take: impl FnMut(&[u8])) -> usize {
    let mut taken = 0;
    loop {
        match link.try_receive(buffer) {
            Ok(length) => {
                take(&buffer[..length]);
                taken += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return taken,
            Err(error) => {
                tracing::error!("a message cannot be read: {error}");
                return taken;
            }
        }
    }
}

/// Has the event loop watch a descriptor, which lives as long as the result: it is owned by it.
#[expect(deprecated, reason = "its successor is unsafe for types that can change their descriptor; ours never do")]
fn watch<T: std::os::fd::AsRawFd>(descriptor: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, interest)
}

async fn send_backlog(
    link: Arc<Seqpacket>,
    mut waiting: mpsc::UnboundedReceiver<Backlog>,
    queued: Arc<Mutex<usize>>,
    metrics: &'static Metrics,
) {
    while let Some(backlog) = waiting.recv().await {
        for message in &backlog.messages {
            if let Err(error) = send_when_writable(&link, message).await {
                tracing::error!("an answer cannot be sent: {error}");
            }
        }
        *queued.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        uncount(&metrics.queue_depth);
    }
}

async fn send_when_writable(link: &Seqpacket, message: &[u8]) -> io::Result<()> {
    // Watched only while there is no room: a link that is watched for room wakes the event loop whenever the other end reads.
    let mut watched = None;
    loop {
        match (link.send(message), &watched) {
            (Ok(()), _) => return Ok(()),
            (Err(SendError::Full), None) => watched = Some(watch(link.try_clone()?, Interest::WRITABLE)?),
            (Err(SendError::Full), Some(room)) => room.writable().await?.clear_ready(),
            (Err(SendError::Broken(error)), _) => return Err(error),
            (Err(SendError::TooLong(_)), _) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use domain::lookup::Target;

    use super::*;
    use crate::client::Client;
    use crate::metrics::get;
    use crate::protocol::{Continuation, Lookup, decode};
    use crate::testing::{call_event, lookup};

    /// Answers lookups by user name: what each test needs of a backend.
    struct Scripted;

    static TAKEN: AtomicUsize = AtomicUsize::new(0);

    impl Backend for Scripted {
        fn take_event(&self, _event: CallEvent) {
            TAKEN.fetch_add(1, Ordering::Relaxed);
        }

        async fn perform(&self, operation: Operation, _deadline: Monotonic) -> Outcome {
            let Operation::Lookup(targets, _) = operation else { panic!("not scripted") };
            let [Target::Aor(aor)] = targets.as_slice() else { panic!("not scripted") };
            match aor.username() {
                "panic" => panic!("on purpose"),
                "slow" => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    Outcome::Found(vec![Lookup::NotRegistered])
                }
                "long" => Outcome::Rejected(domain::register::Rejection {
                    status: 500,
                    reason: "x".repeat(3 * MAX_MESSAGE),
                    script_code: -1,
                    headers: Vec::new(),
                }),
                _ => Outcome::Found(vec![Lookup::NotRegistered]),
            }
        }
    }

    struct Running {
        near: Vec<Seqpacket>,
        completions: Seqpacket,
        events: Seqpacket,
        stop: std::io::PipeWriter,
        server: thread::JoinHandle<usize>,
        metrics: &'static Metrics,
    }

    fn start(callers: usize, in_flight: usize) -> Running {
        let metrics: &'static Metrics = Box::leak(Box::default());
        let (near, far) = (0..callers).map(|_| Seqpacket::pair().expect("a pair")).unzip();
        let (completions, far_completions) = Seqpacket::pair().expect("a pair");
        let (events, far_events) = Seqpacket::pair().expect("a pair");
        let (stop_reader, stop) = std::io::pipe().expect("a pipe");
        let server = thread::spawn(move || {
            let ends = Ends { callers: far, completions: far_completions, events: far_events };
            let links = Links { ends, notices: mpsc::channel(1).1, stop: stop_reader.into() };
            let limits = Limits { in_flight, drain: Duration::from_secs(2), event_turn: Duration::from_millis(5) };
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(serve(links, limits, Arc::new(Scripted), Arc::new(Pace::new(Duration::ZERO)), metrics))
                .expect("served")
        });
        Running { near, completions, events, stop, server, metrics }
    }

    fn ticket() -> Ticket {
        Ticket { hash_index: 1, label: 2, continuation: Continuation::Route(3), context: vec![4] }
    }

    fn completion(link: &Seqpacket) -> Completion {
        let mut buffer = vec![0; MAX_MESSAGE];
        let soon = Monotonic::now().after(Duration::from_secs(5));
        let length = link.receive(&mut buffer, Some(soon)).expect("received").expect("in time");
        match decode(&buffer[..length]).expect("a task") {
            Task::Resume(completion) => completion,
            other => panic!("{other:?}"),
        }
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    fn soon(what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
            thread::yield_now();
        }
    }

    #[test]
    fn a_panic_completes_the_call_at_once() {
        let mut running = start(1, 10);
        let mut client = Client::new(running.near.remove(0), running.metrics);
        assert_eq!(client.call(lookup("panic"), PATIENCE), Outcome::Unavailable(Unavailable::Failed));
        assert_eq!(client.call(lookup("alice"), PATIENCE), Outcome::Found(vec![Lookup::NotRegistered]));
    }

    #[test]
    fn an_answer_longer_than_a_message_arrives_whole() {
        let mut running = start(1, 10);
        let mut client = Client::new(running.near.remove(0), running.metrics);
        let Outcome::Rejected(rejection) = client.call(lookup("long"), PATIENCE) else { panic!("another outcome") };
        assert_eq!(rejection.reason.len(), 3 * MAX_MESSAGE);
    }

    #[test]
    fn a_completion_longer_than_a_message_is_claimed_once() {
        let mut running = start(1, 10);
        let mut client = Client::new(running.near.remove(0), running.metrics);
        client.submit(lookup("long"), PATIENCE, ticket()).expect("queued");
        let parked = completion(&running.completions);
        assert_eq!(parked.ticket, ticket());
        let CompletionResult::Parked(id) = parked.result else { panic!("not parked") };
        assert!(matches!(client.call(Operation::Claim(id), PATIENCE), Outcome::Rejected(_)));
        assert_eq!(client.call(Operation::Claim(id), PATIENCE), Outcome::Unavailable(Unavailable::Failed));
    }

    #[test]
    fn more_than_the_limit_are_refused_at_once() {
        let mut running = start(2, 1);
        let mut busy = Client::new(running.near.remove(0), running.metrics);
        busy.submit(lookup("slow"), PATIENCE, ticket()).expect("queued");
        while get(&running.metrics.in_flight) == 0 {
            thread::yield_now();
        }
        let mut refused = Client::new(running.near.remove(0), running.metrics);
        assert_eq!(refused.call(lookup("alice"), PATIENCE), Outcome::Unavailable(Unavailable::Overloaded));
        completion(&running.completions);
    }

    #[test]
    fn call_events_are_taken_whatever_is_under_way_and_at_the_stop() {
        let mut running = start(1, 1);
        let mut busy = Client::new(running.near.remove(0), running.metrics);
        busy.submit(lookup("slow"), PATIENCE, ticket()).expect("queued");
        let tell = |number| {
            let event = encode(&call_event("call-attempt", number)).expect("encodes");
            running.events.send(&event).expect("queued");
        };
        let taken = || TAKEN.load(Ordering::Relaxed);
        (0..10).for_each(tell);
        soon("the first", || taken() == 10);
        thread::sleep(Duration::from_millis(20)); // none came in a whole turn, so the link is watched again
        tell(10);
        soon("one more", || taken() == 11);
        (11..20).for_each(tell);
        drop(running.stop);
        running.server.join().expect("stopped");
        assert_eq!(taken(), 20);
    }

    #[test]
    fn the_latency_of_each_operation_is_counted() {
        let mut running = start(1, 10);
        let mut client = Client::new(running.near.remove(0), running.metrics);
        client.call(lookup("slow"), PATIENCE);
        let latency = &running.metrics.latency;
        assert_eq!((latency.count(), latency.within_ms(200)), (1, 0));
        assert!(latency.sum_us() >= 300_000, "{latency:?}");
        client.call(lookup("alice"), PATIENCE);
        assert_eq!((latency.count(), latency.within_ms(200)), (2, 1));
    }

    #[test]
    fn an_operation_past_its_deadline_is_cut() {
        let mut running = start(1, 10);
        let mut client = Client::new(running.near.remove(0), running.metrics);
        client.submit(lookup("slow"), Duration::from_millis(50), ticket()).expect("queued");
        let CompletionResult::Inline(outcome) = completion(&running.completions).result else { panic!("parked") };
        assert_eq!(outcome, Outcome::Unavailable(Unavailable::Timeout));
    }

    #[test]
    fn the_stop_waits_for_what_is_under_way_and_reads_what_is_queued() {
        let mut running = start(1, 10);
        let mut client = Client::new(running.near.remove(0), running.metrics);
        for _ in 0..5 {
            client.submit(lookup("slow"), PATIENCE, ticket()).expect("queued");
        }
        drop(running.stop);
        for _ in 0..5 {
            let CompletionResult::Inline(outcome) = completion(&running.completions).result else { panic!("parked") };
            assert_eq!(outcome, Outcome::Found(vec![Lookup::NotRegistered]));
        }
        assert_eq!(running.server.join().expect("stopped"), 0);
    }

    #[test]
    fn completions_are_queued_when_the_resume_workers_are_slow() {
        // More than the link holds, whatever the kernel grants it.
        const MANY: usize = 4800;
        let mut running = start(1, 5000);
        let mut client = Client::new(running.near.remove(0), running.metrics);
        for _ in 0..MANY {
            while client.submit(lookup("alice"), PATIENCE, ticket()).is_err() {
                thread::yield_now();
            }
        }
        soon("answers in the queue", || get(&running.metrics.queue_depth) > 0);
        for _ in 0..MANY {
            completion(&running.completions);
        }
        soon("an empty queue", || get(&running.metrics.queue_depth) == 0);
    }
}
