//! A Kamailio, seen from outside: what its RPC commands tell, and whether it answers SIP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::health::{Counts, Look, Work};
use crate::options;
use fleet::Role;

/// How long an answer is waited for. Kamailio answers from a process of its own, which may read a long list meanwhile.
const RPC_LIMIT: Duration = Duration::from_secs(5);
/// So many transactions fit into an answer.
const LISTED: u64 = 200;
/// The longest answer: what a Unix socket takes by default.
const LONGEST_ANSWER: usize = 212_992;
/// What `$shv(draining)` is: an address that moves is given up.
const LEAVE: u8 = 1;
/// And then: what is new is refused.
const REFUSE: u8 = 2;

/// The Kamailio of a node.
#[derive(Debug)]
pub struct Kamailio {
    role: Role,
    address: Option<SocketAddr>,
    rpc: Arc<Rpc>,
    /// Whether it was told to take nothing new: only then what is left is looked at closely.
    refuses: AtomicBool,
}

impl Kamailio {
    /// Of a node of this role; `None`: it is not asked by OPTIONS.
    pub fn new(role: Role, address: Option<SocketAddr>, rpc: Rpc) -> Self {
        Self { role, address, rpc: Arc::new(rpc), refuses: AtomicBool::new(false) }
    }

    /// The way to its RPC commands.
    pub fn rpc(&self) -> &Arc<Rpc> {
        &self.rpc
    }

    /// Looks at it: it answers OPTIONS and RPC, and its module has a session with Cassandra where the role needs one.
    pub async fn look(&self) -> Look {
        let answers = async {
            let refusal = options::refusal(self.address).await?;
            self.rpc.call("core.uptime", json!([])).await?;
            anyhow::Ok(refusal)
        };
        let trouble = match answers.await {
            Ok(None) if self.role.needs_cassandra() => self.without_cassandra().await,
            Ok(refusal) => refusal,
            Err(error) => return Look { trouble: Some(format!("{error:#}")), ..Look::default() },
        };
        let under_way = self.under_way().await;
        // After that: what has ended meanwhile is an event now, and not overlooked.
        let stats =
            if self.role.needs_cassandra() { self.rpc.call("cassandra.stats", json!([])).await.ok() } else { None };
        let at_work = under_way.and_then(|under_way| at_work(self.role, under_way, stats.as_ref()));
        let counts = stats.as_ref().map(|stats| counts(self.role, stats)).unwrap_or_default();
        Look { is_alive: true, trouble, at_work, counts }
    }

    /// Has it give up an address that moves between nodes.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn leave(&self) -> Result<()> {
        self.set_draining(LEAVE).await
    }

    /// Has it refuse what is new.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn refuse(&self) -> Result<()> {
        self.refuses.store(true, Ordering::Relaxed);
        self.set_draining(REFUSE).await
    }

    async fn set_draining(&self, draining: u8) -> Result<()> {
        self.rpc.call("pv.shvSet", json!(["draining", "int", draining])).await.map(drop)
    }

    async fn without_cassandra(&self) -> Option<String> {
        match self.rpc.call("cassandra.status", json!([])).await {
            Ok(status) if status["connected"] == 1 => None,
            Ok(_) => Some("its module has no session with Cassandra".to_owned()),
            Err(error) => Some(format!("{error:#}")),
        }
    }

    /// Transactions that are not over, and the dialogs that it knows.
    async fn under_way(&self) -> Option<Work> {
        let stats = self.rpc.call("tm.stats", json!([])).await.ok()?;
        let known = number(&stats, "current")?;
        // Those that only wait for what is sent again are done.
        let mut transactions = known.saturating_sub(number(&stats, "waiting")?);
        if transactions > 0 && self.refuses.load(Ordering::Relaxed) {
            if known <= LISTED {
                transactions = transactions.min(self.transactions_of_others().await?);
            }
            if self.role == Role::LoadBalancer && self.is_elsewhere().await {
                transactions = 0;
            }
        }
        let mut dialogs = 0;
        if self.role == Role::Dispatcher {
            dialogs = number(&self.rpc.call("dlg.stats_active", json!([])).await.ok()?, "all")?;
        }
        Some(Work { transactions, dialogs, ..Work::default() })
    }

    /// All but this node's own probes, of which there are always some while a node that is listed does not answer.
    async fn transactions_of_others(&self) -> Option<u64> {
        let listed = self.rpc.call("tm.list", json!([])).await.ok()?;
        let is_probe = |one: &&Value| one["uas_request"] == "no" && one["method"] == "OPTIONS";
        // One alone is no list.
        let all = listed.as_array().map_or(std::slice::from_ref(&listed), Vec::as_slice);
        Some(all.iter().filter(|one| !is_probe(one)).count() as u64)
    }

    /// Whether the address of a load balancer is another's: what goes on ends there.
    async fn is_elsewhere(&self) -> bool {
        let variable = self.rpc.call("pv.shvGet", json!(["is_elsewhere"])).await;
        variable.is_ok_and(|variable| number(&variable, "value") == Some(1))
    }
}

/// See [`Look::at_work`]: what is under way, and what the module says of it.
fn at_work(role: Role, under_way: Work, stats: Option<&Value>) -> Option<Work> {
    if role != Role::Dispatcher {
        return Some(under_way);
    }
    let stats = stats?;
    // A dialog whose BYE took another way is known for hours; a call of before a restart is no dialog here.
    let dialogs = under_way.dialogs.min(number(stats, "live_calls")?);
    let spooled = number(stats, "call_events_spooled")?;
    Some(Work { dialogs, events: spooled, spooled, ..under_way })
}

/// What is counted, by the statistics of the module.
fn counts(role: Role, stats: &Value) -> Counts {
    let of = |counting: Role, name: &str| if role == counting { number(stats, name) } else { None };
    Counts {
        calls: of(Role::Dispatcher, "live_calls"),
        registrations: of(Role::Registrar, "accepted_regs"),
        ..Counts::default()
    }
}

fn number(value: &Value, name: &str) -> Option<u64> {
    let number = &value[name];
    number.as_u64().or_else(|| number.as_str()?.parse().ok())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_counts_what_it_is_for() {
        let stats = json!({"live_calls": 7, "accepted_regs": "12"});
        assert_eq!(counts(Role::Dispatcher, &stats), Counts { calls: Some(7), ..Counts::default() });
        assert_eq!(counts(Role::Registrar, &stats), Counts { registrations: Some(12), ..Counts::default() });
        assert_eq!(counts(Role::Outbound, &stats), Counts::default());
    }
}
