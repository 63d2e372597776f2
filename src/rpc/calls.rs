//! RPC commands for calls.

use bridge::protocol::{NodeCalls, Operation, Outcome};
use domain::call::{ActiveCall, CallFilter};
use domain::{CallEvent, Timestamp};

use super::{ask, unexpected};
use crate::host::rpc::{Call, Fault, Structure, Value};

/// `cassandra.call CALLID`: what happened to a call, on all nodes, in order. CALLID is what its legs have in common: the
/// Call-ID, unless parameter `call_id` names something else.
pub(crate) fn call(call: &Call<'_>) -> Result<Structure, Fault> {
    let call_id = call.text("CALLID")?;
    match ask(Operation::Call(call_id.clone()))? {
        Outcome::Call(events) if events.is_empty() => Err(Fault::new(
            404,
            format!("there is no call {call_id}: its events are gone, or still on their way from another node"),
        )),
        Outcome::Call(events) => {
            let events = events.into_iter().map(describe).collect();
            Ok(vec![(c"call_id", call_id.into()), (c"events", Value::List(events))])
        }
        _ => Err(unexpected()),
    }
}

/// Calls that are listed without a limit.
const LISTED: u32 = 100;

/// `cassandra.calls [dc=DC] [node=NODE] [account=ACCOUNT] [subscriber=AOR] [limit=N]`: the calls under way on all nodes, the
/// oldest first, at most N (100) of them; `total` tells how many there are.
pub(crate) fn calls(call: &Call<'_>) -> Result<Structure, Fault> {
    let (filter, most) = filter(call)?;
    match ask(Operation::ActiveCalls(filter, most))? {
        Outcome::ActiveCalls { calls, total } => {
            let calls = calls.into_iter().map(describe_active).collect();
            Ok(vec![(c"total", total.into()), (c"calls", Value::List(calls))])
        }
        _ => Err(unexpected()),
    }
}

fn filter(call: &Call<'_>) -> Result<(CallFilter, u32), Fault> {
    let (mut filter, mut most) = (CallFilter::default(), LISTED);
    while let Some(parameter) = call.optional_text() {
        let (name, value) = parameter.split_once('=').unwrap_or((&parameter, ""));
        let value = value.to_owned();
        match name {
            "dc" => filter.dc = Some(value),
            "node" => filter.node = Some(value),
            "account" => filter.account = Some(value),
            "subscriber" => filter.subscriber = Some(value),
            "limit" => {
                most = value.parse().map_err(|_| Fault::new(400, format!("'{value}' is no limit: it is a number")))?;
            }
            _ => {
                return Err(Fault::new(
                    400,
                    format!("'{parameter}' is not dc=, node=, account=, subscriber= or limit= and a value"),
                ));
            }
        }
    }
    Ok((filter, most))
}

fn describe_active(call: ActiveCall) -> Structure {
    vec![
        (c"state", call.state().into()),
        (c"started", call.started_at.rfc3339().into()),
        (c"answered", call.answered_at.map(Timestamp::rfc3339).unwrap_or_default().into()),
        (c"call_id", call.call_id.into()),
        (c"leg_of", call.leg_of.into()),
        (c"caller", call.caller.into()),
        (c"callee", call.callee.into()),
        (c"account", call.account.into()),
        (c"callee_account", call.callee_account.into()),
        (c"node", call.node.into()),
        (c"dc", call.dc.into()),
    ]
}

/// `cassandra.calls_count`: how many calls are under way, in all and on each node.
pub(crate) fn calls_count(_: &Call<'_>) -> Result<Structure, Fault> {
    match ask(Operation::CallCounts)? {
        Outcome::CallCounts(counts) => {
            let total: u32 = counts.iter().map(|node| node.calls).sum();
            let node = |node: NodeCalls| -> Structure {
                vec![(c"dc", node.dc.into()), (c"node", node.node.into()), (c"calls", node.calls.into())]
            };
            let nodes = counts.into_iter().map(node).collect();
            Ok(vec![(c"total", total.into()), (c"nodes", Value::List(nodes))])
        }
        _ => Err(unexpected()),
    }
}

fn describe(event: CallEvent) -> Structure {
    let extra: Vec<String> = event.extra.iter().map(|(name, value)| format!("{name}={value}")).collect();
    vec![
        (c"time", event.at().rfc3339().into()),
        (c"event", event.event.into()),
        (c"node", event.node.into()),
        (c"dc", event.dc.into()),
        (c"leg", event.leg.into()),
        (c"method", event.method.into()),
        (c"code", u32::from(event.code).into()),
        (c"reason", event.reason.into()),
        (c"ended_by", event.ended_by.into()),
        (c"caller", event.caller.into()),
        (c"callee", event.callee.into()),
        (c"r_uri", event.r_uri.into()),
        (c"source", event.source.into()),
        (c"destination", event.destination.into()),
        (c"user_agent", event.user_agent.into()),
        (c"extra", extra.join(";").into()),
    ]
}
