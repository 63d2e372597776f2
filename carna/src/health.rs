//! Whether the node is healthy, in the long run: one answer that is late changes nothing.

use std::fmt;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::kamailio::{self, Rpc};
use fleet::Role;

/// How an answer to OPTIONS begins that is none of a node that drains.
const TAKES_REQUESTS: &str = "SIP/2.0 2";

/// What a look at the node said, and what it said before.
#[derive(Debug)]
pub struct Health {
    rises: u32,
    falls: u32,
    is_up: bool,
    /// Looks in a row that say otherwise.
    against: u32,
}

impl Health {
    /// Of a node that is not healthy until `rises` looks in a row say so, and then is until `falls` in a row say that it is not.
    pub fn new(rises: u32, falls: u32) -> Self {
        Self { rises, falls, is_up: false, against: 0 }
    }

    /// Takes what a look said. Gives whether the node is healthy.
    pub fn take(&mut self, is_good: bool) -> bool {
        self.against = if is_good == self.is_up { 0 } else { self.against + 1 };
        if self.against >= if self.is_up { self.falls } else { self.rises } {
            (self.is_up, self.against) = (is_good, 0);
        }
        self.is_up
    }

    /// The process is gone: there is nothing to wait for.
    pub fn fall(&mut self) {
        (self.is_up, self.against) = (false, 0);
    }
}

/// What a look at a node shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Whether its process answers.
    pub is_alive: bool,
    /// Why nothing should be sent to it, if so.
    pub trouble: Option<String>,
    /// What it has to do still; `None` when it does not tell.
    pub at_work: Option<Work>,
    /// What its module counts.
    pub counts: Counts,
}

/// What the module of a node counts; of each thing nothing where it is not what the role is for, or is not told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls, and further legs, that are under way.
    pub calls: Option<u64>,
    /// REGISTERs applied since the start.
    pub registrations: Option<u64>,
}

impl Counts {
    /// By the statistics of the module.
    fn of(role: Role, stats: &Value) -> Self {
        let of = |counting: Role, name: &str| if role == counting { number(stats, name) } else { None };
        Self { calls: of(Role::Dispatcher, "live_calls"), registrations: of(Role::Registrar, "accepted_regs") }
    }
}

/// What a node has to do still, and a drain waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Transactions that are not over.
    pub transactions: u64,
    /// Dialogs.
    pub dialogs: u64,
    /// Call events that are not in Cassandra.
    pub events: u64,
}

impl Work {
    /// Whether there is none.
    pub fn is_over(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transactions, dialogs, events } = self;
        write!(f, "{transactions} transactions, {dialogs} dialogs, {events} call events that are not in Cassandra")
    }
}

/// Looks at a Kamailio: it answers OPTIONS at this address (`None`: it is not asked) and RPC, and its module has a session with
/// Cassandra where the role needs one.
pub async fn look(role: Role, address: Option<SocketAddr>, rpc: &Rpc) -> Look {
    let answers = async {
        let answer = match address {
            Some(address) => Some(kamailio::options(address).await?),
            None => None,
        };
        rpc.call("core.uptime", json!([])).await?;
        anyhow::Ok(answer)
    };
    let refusal = match answers.await {
        Ok(answer) => answer.filter(|answer| !answer.starts_with(TAKES_REQUESTS)),
        Err(error) => return Look { trouble: Some(format!("{error:#}")), ..Look::default() },
    };
    let trouble = match refusal {
        Some(answer) => Some(format!("it answers OPTIONS with {answer}")),
        None if role.needs_cassandra() => without_cassandra(rpc).await,
        None => None,
    };
    let under_way = under_way(role, rpc).await;
    // After that: what has ended meanwhile is an event now, and not overlooked.
    let stats = if role.needs_cassandra() { rpc.call("cassandra.stats", json!([])).await.ok() } else { None };
    let at_work = under_way.and_then(|under_way| at_work(role, under_way, stats.as_ref()));
    let counts = stats.as_ref().map(|stats| Counts::of(role, stats)).unwrap_or_default();
    Look { is_alive: true, trouble, at_work, counts }
}

async fn without_cassandra(rpc: &Rpc) -> Option<String> {
    match rpc.call("cassandra.status", json!([])).await {
        Ok(status) if status["connected"] == 1 => None,
        Ok(_) => Some("its module has no session with Cassandra".to_owned()),
        Err(error) => Some(format!("{error:#}")),
    }
}

/// Transactions that are not over, and the dialogs that Kamailio knows.
async fn under_way(role: Role, rpc: &Rpc) -> Option<Work> {
    // Those that only wait for what is sent again are done; probes of this node's own would be there for ever.
    let stats = rpc.call("tm.stats", json!([])).await.ok()?;
    let mut transactions = number(&stats, "current")?.saturating_sub(number(&stats, "waiting")?);
    if role == Role::LoadBalancer && is_elsewhere(rpc).await {
        transactions = 0;
    }
    let mut dialogs = 0;
    if role == Role::Dispatcher {
        dialogs = number(&rpc.call("dlg.stats_active", json!([])).await.ok()?, "all")?;
    }
    Some(Work { transactions, dialogs, events: 0 })
}

/// See [`Look::at_work`]: what is under way, and what the module says of it.
fn at_work(role: Role, under_way: Work, stats: Option<&Value>) -> Option<Work> {
    if role != Role::Dispatcher {
        return Some(under_way);
    }
    let stats = stats?;
    // A dialog whose BYE took another way is known for hours; a call of before a restart is no dialog here.
    let dialogs = under_way.dialogs.min(number(stats, "live_calls")?);
    Some(Work { dialogs, events: number(stats, "call_events_spooled")?, ..under_way })
}

/// Whether the address of a load balancer is another's: what goes on ends there.
async fn is_elsewhere(rpc: &Rpc) -> bool {
    rpc.call("pv.shvGet", json!(["is_elsewhere"])).await.is_ok_and(|variable| number(&variable, "value") == Some(1))
}

fn number(value: &Value, name: &str) -> Option<u64> {
    let number = &value[name];
    number.as_u64().or_else(|| number.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_counts_what_it_is_for() {
        let stats = json!({"live_calls": 7, "accepted_regs": "12"});
        assert_eq!(Counts::of(Role::Dispatcher, &stats), Counts { calls: Some(7), registrations: None });
        assert_eq!(Counts::of(Role::Registrar, &stats), Counts { calls: None, registrations: Some(12) });
        assert_eq!(Counts::of(Role::Outbound, &stats), Counts::default());
    }

    #[test]
    fn it_takes_several_looks_to_change_what_a_node_is() {
        let mut health = Health::new(2, 3);
        let seen: Vec<bool> =
            [true, true, false, false, true, false, false, false, true, true].map(|good| health.take(good)).to_vec();
        assert_eq!(seen, [false, true, true, true, true, true, true, false, false, true]);
        health.fall();
        assert!(!health.take(true) && health.take(true));
    }
}
