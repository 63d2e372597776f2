//! `sipctl calls`.

use std::time::Duration;

use clap::Args;
use domain::call::{ActiveCall, CallFilter, by_node};
use domain::{Aor, Timestamp};
use serde::Serialize;
use store::Store;

use super::now;
use crate::connection::Connection;
use crate::output::{Output, Screen, Shown, rfc3339, table_of};

/// Show the calls that are under way on all nodes, the oldest first.
#[derive(Debug, Args)]
pub(crate) struct Calls {
    /// Only those of this data centre.
    #[arg(long)]
    dc: Option<String>,
    /// Only those of this node.
    #[arg(long)]
    node: Option<String>,
    /// Only those of this account, calling or called.
    #[arg(long)]
    account: Option<String>,
    /// Only those of this subscriber, calling or called.
    #[arg(long, value_name = "AOR")]
    subscriber: Option<Aor>,
    /// Show how many each node has, and no calls.
    #[arg(long)]
    count: bool,
    /// Show them again and again, in place, until Ctrl-C; every two seconds or as often as is said, for example 500ms.
    #[arg(long, value_name = "PAUSE", num_args = 0..=1, default_missing_value = "2s", value_parser = humantime::parse_duration)]
    watch: Option<Duration>,
}

impl Calls {
    pub(crate) async fn run(&self, connection: &Connection, output: &Output) -> anyhow::Result<()> {
        let admin = connection.admin().await?;
        let store = admin.store();
        match self.watch {
            None => self.show(&self.find(store).await?, output),
            Some(pause) => {
                let mut screen = Screen::new();
                loop {
                    let calls = self.find(store).await?;
                    if output.is_for_people() {
                        screen.show(&self.picture(&calls))?;
                    } else {
                        self.show(&calls, output);
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
        Ok(())
    }

    async fn find(&self, store: &Store) -> anyhow::Result<Vec<ActiveCall>> {
        let mut calls = store.active_calls().await?;
        let filter = CallFilter {
            dc: self.dc.clone(),
            node: self.node.clone(),
            account: self.account.clone(),
            subscriber: self.subscriber.as_ref().map(Aor::to_string),
        };
        calls.retain(|call| filter.matches(call));
        Ok(calls)
    }

    fn show(&self, calls: &[ActiveCall], output: &Output) {
        if self.count {
            output.list(&nodes(calls), NONE);
        } else {
            output.note(&summary(calls));
            output.list(&lines(calls), NONE);
        }
    }

    /// What people see who watch.
    fn picture(&self, calls: &[ActiveCall]) -> String {
        let table = if self.count { table_of(&nodes(calls)) } else { table_of(&lines(calls)) };
        format!("{}  {}\n{table}", rfc3339(now()), summary(calls))
    }
}

const NONE: &str = "There are no calls.";

/// How many, and where.
fn summary(calls: &[ActiveCall]) -> String {
    let nodes = nodes(calls);
    let each: Vec<String> = nodes.iter().map(|node| format!("{} {} {}", node.dc, node.node, node.calls)).collect();
    match nodes.iter().map(|node| node.calls).sum() {
        0 => NONE.to_owned(),
        1 => format!("1 call: {}", each.join(", ")),
        count => format!("{count} calls: {}", each.join(", ")),
    }
}

/// How many calls a node has.
#[derive(Debug, Serialize)]
struct Node<'c> {
    dc: &'c str,
    node: &'c str,
    calls: u32,
}

fn nodes(calls: &[ActiveCall]) -> Vec<Node<'_>> {
    by_node(calls).into_iter().map(|((dc, node), calls)| Node { dc, node, calls }).collect()
}

impl Shown for Node<'_> {
    const COLUMNS: &'static [&'static str] = &["dc", "node", "calls"];

    fn cells(&self) -> Vec<String> {
        vec![self.dc.to_owned(), self.node.to_owned(), self.calls.to_string()]
    }
}

/// A call in the list.
#[derive(Debug, Serialize)]
struct Line<'c> {
    call_id: &'c str,
    leg_of: &'c str,
    state: &'static str,
    started: String,
    answered: Option<String>,
    /// Since it was answered, or else since it started.
    seconds: i64,
    caller: &'c str,
    callee: &'c str,
    account: &'c str,
    callee_account: &'c str,
    dc: &'c str,
    node: &'c str,
}

fn lines(calls: &[ActiveCall]) -> Vec<Line<'_>> {
    let now = now();
    calls.iter().map(|call| Line::of(call, now)).collect()
}

impl<'c> Line<'c> {
    fn of(call: &'c ActiveCall, now: Timestamp) -> Self {
        let since = call.answered_at.unwrap_or(call.started_at);
        Self {
            call_id: &call.call_id,
            leg_of: &call.leg_of,
            state: call.state(),
            started: call.started_at.rfc3339(),
            answered: call.answered_at.map(Timestamp::rfc3339),
            seconds: (now.0 - since.0).max(0) / 1000,
            caller: &call.caller,
            callee: &call.callee,
            account: &call.account,
            callee_account: &call.callee_account,
            dc: &call.dc,
            node: &call.node,
        }
    }
}

impl Shown for Line<'_> {
    const COLUMNS: &'static [&'static str] = &["for", "state", "caller", "callee", "node", "call"];

    fn cells(&self) -> Vec<String> {
        let seconds = self.seconds;
        vec![
            format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
            self.state.to_owned(),
            self.caller.to_owned(),
            self.callee.to_owned(),
            [self.dc, self.node].join(" ").trim().to_owned(),
            if self.leg_of.is_empty() { self.call_id.to_owned() } else { format!("leg of {}", self.leg_of) },
        ]
    }
}
