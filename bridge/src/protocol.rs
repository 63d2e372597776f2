//! What is said between a worker and the I/O process. Both ends are the same binary, so the messages carry no version.

use domain::call::{ActiveCall, CallFilter};
use domain::digest::{Credentials, Form};
use domain::lookup::{Filter, Target};
use domain::register::{Register, Rejection, Saved};
use domain::{Aor, Binding, CallEvent, Which};
use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;
use crate::clock::Monotonic;
use crate::credentials::CacheStats;
use crate::guard::{Suspect, Suspicion};

/// Longest message in bytes that a link carries; longer answers are paged.
pub const MAX_MESSAGE: usize = 128 * 1024;

/// Room for most messages in bytes, so that they need not be moved while they grow.
const USUAL_MESSAGE: usize = 1024;

/// One operation, asked for by a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Names the answer; unique within the asking process.
    pub id: u64,
    /// After this nobody waits for the answer.
    pub deadline: Monotonic,
    /// Who gets the answer.
    pub answer: AnswerTo,
    /// What to do.
    pub operation: Operation,
}

/// Who gets the answer of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnswerTo {
    /// The process that asked; it waits.
    Caller,
    /// Any resume worker, which continues the suspended transaction.
    Resume(Ticket),
    /// Nobody.
    Nobody,
}

/// A suspended transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// tm's hash index.
    pub hash_index: u32,
    /// tm's label.
    pub label: u32,
    /// Where its script goes on.
    pub continuation: Continuation,
    /// What the resume worker must know to apply the answer; opaque here.
    pub context: Vec<u8>,
}

/// Where the script of a suspended transaction goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Continuation {
    /// In the route of this index.
    Route(i32),
    /// In the KEMI script's function of this name.
    Callback(String),
}

/// What a resume worker is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Task {
    /// Continue a suspended transaction.
    Resume(Completion),
    /// Run the script's route for an event.
    Tell(Box<ContactEvent>),
    /// Send a contact something that keeps the way to it open.
    KeepAlive(Aor, Box<Binding>),
}

/// What happened to a binding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContactEvent {
    /// What.
    pub kind: EventKind,
    /// Whose.
    pub aor: Aor,
    /// The binding, as it is or was.
    pub binding: Binding,
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// A binding is new.
    Inserted,
    /// A binding was refreshed.
    Updated,
    /// A binding was removed.
    Deleted,
    /// A binding has lapsed.
    Expired,
}

/// A completed request of a suspended transaction, for a resume worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Completion {
    /// Which transaction.
    pub ticket: Ticket,
    /// Its answer.
    pub result: CompletionResult,
}

/// The answer of a completed request, or where to fetch it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum CompletionResult {
    /// The answer itself.
    Inline(Outcome),
    /// The answer is longer than a message: claim it with [`Operation::Claim`].
    Parked(u64),
}

/// What a worker can ask for: one round trip each, whatever it costs inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Operation {
    /// Check digest credentials.
    Authenticate(Box<AuthRequest>),
    /// Apply a REGISTER to its AoR's bindings.
    Save(Box<Register>),
    /// Check credentials and, when they are right, apply the REGISTER; credentials and bindings are read in parallel.
    AuthSave(Box<AuthRequest>, Box<Register>),
    /// Find the bindings that a request to each of these can go to.
    Lookup(Vec<Target>, Filter),
    /// List the bindings of an AoR.
    Contacts(Aor, Filter),
    /// Remove bindings of an AoR, whoever registered them.
    Remove {
        /// Whose bindings.
        aor: Aor,
        /// Which of them.
        which: Which,
    },
    /// Open or close the circuit breaker by force.
    ForceBreaker(Force),
    /// Find out whether an AoR is an enabled subscriber's.
    Subscriber(Aor),
    /// Find out whom an alias means.
    Alias(Aor),
    /// Look after what the I/O process remembers; the backend is not asked.
    Housekeeping(Housekeeping),
    /// Tell what happened to a call, of all its legs and on all nodes.
    Call(String),
    /// List the calls that are under way on all nodes, at most so many of them.
    ActiveCalls(CallFilter, u32),
    /// Tell how many calls are under way on each node.
    CallCounts,
    /// Tell how many calls somebody has and may have.
    CountCalls(CallParty),
    /// Fetch an answer that was too long for a completion.
    Claim(u64),
    /// Panic in the I/O process.
    #[cfg(feature = "fault-injection")]
    Panic,
}

/// Whose calls are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallParty {
    /// A subscriber's, calling and called.
    Subscriber(Aor),
    /// An account's.
    Account(String),
}

/// How many calls a node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCalls {
    /// Its data centre.
    pub dc: String,
    /// Its name.
    pub node: String,
    /// Calls.
    pub calls: u32,
}

/// Credentials to check.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuthRequest {
    /// Whose credentials: the digest user name in the realm.
    pub aor: Aor,
    /// How the name was written.
    pub form: Form,
    /// The digest response and what it was computed over.
    pub credentials: Credentials,
    /// Whether their nonce, which is one of ours, is too old: right credentials are not accepted then.
    pub stale: bool,
    /// Method of the request.
    pub method: String,
    /// Where the request came from.
    pub source: String,
    /// Whether the caller can wait for a read of the subscriber that may begin only in a while.
    pub may_wait: bool,
    /// Whether the caller wants the proof that the server knows the password, too.
    pub wants_proof: bool,
}

/// What can be done with what the I/O process remembers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Housekeeping {
    /// Forget the credentials of one AoR, or all.
    FlushCache(Option<Aor>),
    /// Tell how many are remembered.
    CacheStats,
    /// Tell who failed to authenticate lately.
    GuardList,
    /// Forget the failures of one, or all.
    GuardClear(Option<Suspect>),
}

/// The answer to [`Housekeeping`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// So many entries were forgotten.
    Removed(u64),
    /// What the credential cache holds.
    Cache(CacheStats),
    /// Who failed, the worst first.
    Guard(Vec<Suspicion>),
}

/// What an operator makes of the circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Force {
    /// It is open and stays so.
    Open,
    /// It is closed and works as ever.
    Closed,
}

/// The answer to an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// To [`Operation::Authenticate`], and to [`Operation::AuthSave`] when the credentials were refused.
    Authenticated(Verdict),
    /// To [`Operation::Save`] and [`Operation::AuthSave`]: the REGISTER was applied.
    Saved(Registered),
    /// To the same: the registrar's rules refuse the REGISTER; nothing was written.
    Rejected(Rejection),
    /// To [`Operation::Lookup`]: one for each target.
    Found(Vec<Lookup>),
    /// To [`Operation::Contacts`], best first.
    Contacts(Vec<Binding>),
    /// To [`Operation::Remove`]: how many bindings were removed.
    Removed(u32),
    /// To [`Operation::ForceBreaker`].
    Forced,
    /// To [`Operation::Subscriber`]: what the script is told of the subscriber; `None` when there is none.
    Subscriber(Option<Attributes>),
    /// To [`Operation::Alias`]: the AoR that it stands for; `None` when there is no such alias.
    Alias(Option<Aor>),
    /// To [`Operation::Housekeeping`].
    Report(Report),
    /// To [`Operation::Call`], in the order in which it happened; none for a call that nobody knows.
    Call(Vec<CallEvent>),
    /// To [`Operation::ActiveCalls`].
    ActiveCalls {
        /// The oldest first.
        calls: Vec<ActiveCall>,
        /// How many there are of this kind, shown or not.
        total: u32,
    },
    /// To [`Operation::CallCounts`], by data centre and node.
    CallCounts(Vec<NodeCalls>),
    /// To [`Operation::CountCalls`].
    CallsCounted {
        /// How many there are.
        calls: u32,
        /// How many there may be; 0 for no limit, and for an account.
        max_calls: u32,
    },
    /// To any: the backend could not answer; nothing is known.
    Unavailable(Unavailable),
}

/// Result of a credentials check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The response is right.
    Accepted(Grant),
    /// The response is right, but for a nonce that is too old.
    StaleNonce,
    /// The user exists, the response is wrong.
    WrongPassword,
    /// There is no such (enabled) user.
    UnknownUser,
}

/// What comes with right credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What the script is told of the subscriber.
    pub attributes: Attributes,
    /// Bindings that the subscriber may have; 0 for the registrar's own limit.
    pub max_contacts: u32,
    /// The proof, if it was asked for, that the server knows the password, too (`rspauth`).
    pub proof: Option<String>,
}

/// A REGISTER that was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// Which kind of change.
    pub saved: Saved,
    /// Headers of the 200, name and value.
    pub headers: Vec<(String, String)>,
    /// Of the credentials that were checked in the same trip.
    pub grant: Option<Grant>,
}

/// Result of a lookup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Lookup {
    /// Usable bindings, best first.
    Bindings(Vec<Binding>),
    /// There is no current binding.
    NotRegistered,
    /// There is, but none takes this method.
    MethodNotAllowed,
    /// A GRUU that is not one of ours.
    UnknownGruu,
}

/// Why the backend could not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Unavailable {
    /// No session with Cassandra yet.
    #[error("there is no Cassandra session yet")]
    NotConnected,
    /// The circuit breaker is open.
    #[error("the circuit breaker is open")]
    BreakerOpen,
    /// Cassandra did not answer in time.
    #[error("Cassandra did not answer in time")]
    Timeout,
    /// Cassandra answered with an error.
    #[error("Cassandra answered with an error")]
    Backend,
    /// Too many operations are under way.
    #[error("too many operations are under way")]
    Overloaded,
    /// The queue to the I/O process is full.
    #[error("the queue to the I/O process is full")]
    QueueFull,
    /// The request is longer than a message can be.
    #[error("the request is too long")]
    TooLong,
    /// The operation failed inside the I/O process.
    #[error("the operation failed inside the I/O process")]
    Failed,
}

/// Encodes a message.
///
/// # Errors
/// When a value cannot be serialised; the types here always can.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(message, Vec::with_capacity(USUAL_MESSAGE))
}

/// Decodes a message.
///
/// # Errors
/// When the bytes are not such a message.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes(bytes)
}

/// The header of each page of an answer: the request's id, and whether more pages follow.
pub const PAGE_HEADER: usize = 9;

/// Splits an answer into messages of at most [`MAX_MESSAGE`] bytes.
pub fn pages(id: u64, body: &[u8]) -> Vec<Vec<u8>> {
    let room = MAX_MESSAGE - PAGE_HEADER;
    let count = body.len().div_ceil(room).max(1);
    (0..count)
        .map(|index| {
            let part = &body[index * room..body.len().min((index + 1) * room)];
            let mut page = Vec::with_capacity(PAGE_HEADER + part.len());
            page.extend_from_slice(&id.to_le_bytes());
            page.push(u8::from(index + 1 < count));
            page.extend_from_slice(part);
            page
        })
        .collect()
}

/// One page of an answer, as [`pages`] made it: id, whether more follow, the part.
pub fn page(message: &[u8]) -> Option<(u64, bool, &[u8])> {
    let (id, rest) = message.split_first_chunk::<8>()?;
    let (more, part) = rest.split_first()?;
    Some((u64::from_le_bytes(*id), *more != 0, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reassemble(id: u64, messages: &[Vec<u8>]) -> Vec<u8> {
        let mut body = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            assert!(message.len() <= MAX_MESSAGE);
            let (page_id, more, part) = page(message).expect("a page");
            assert_eq!(page_id, id);
            assert_eq!(more, index + 1 < messages.len());
            body.extend_from_slice(part);
        }
        body
    }

    #[test]
    fn pages_carry_any_length() {
        let room = MAX_MESSAGE - PAGE_HEADER;
        for length in [0, 1, room - 1, room, room + 1, 3 * room, 1_000_000] {
            let body: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            assert_eq!(reassemble(7, &pages(7, &body)), body);
        }
    }

    #[test]
    fn a_cut_page_is_refused() {
        assert!(page(&[1, 2, 3, 4, 5, 6, 7, 8]).is_none());
        assert!(page(&[]).is_none());
    }
}
