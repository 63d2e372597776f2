//! `sipctl call` and `sipctl history`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use domain::call::{CallRecord, Shown as Event, channel, event};
use domain::{Aor, CallEvent, Timestamp};
use serde::Serialize;
use store::Store;
use store::call::Listed;

use super::now;
use crate::connection::Connection;
use crate::output::{Output, Shown, rfc3339};

/// Show what happened to a call, on all nodes.
#[derive(Debug, Args)]
pub(crate) struct Call {
    /// What its legs have in common: the Call-ID, unless the nodes' parameter `call_id` names something else.
    call_id: String,
}

impl Call {
    pub(crate) async fn run(&self, connection: &Connection, output: &Output) -> anyhow::Result<()> {
        let events = connection.admin().await?.store().call_events(&self.call_id).await?;
        if events.is_empty() {
            bail!("there is no call {}: its events are gone, or still on their way", self.call_id);
        }
        let record = CallRecord::of(&self.call_id, &events);
        let start = record.started_at.unwrap_or(events[0].at());
        output.note(&summary(&record));
        if let Some(media) = media(&events) {
            output.note(&media);
        }
        let steps: Vec<_> = events.iter().map(|event| Step::of(event, start)).collect();
        output.list(&steps, "");
        Ok(())
    }
}

/// The call in a line.
fn summary(record: &CallRecord) -> String {
    let name = |party: &str| if party.is_empty() { "?".to_owned() } else { party.to_owned() };
    let talked = if record.answered_at.is_some() && record.is_over() {
        format!(", talked {}", seconds(record.duration_ms()))
    } else {
        String::new()
    };
    let ended_by = match record.who_ended() {
        "" => String::new(),
        who => format!(", ended by {who}"),
    };
    let begun = record.started_at.map(rfc3339).unwrap_or_default();
    format!(
        "{} -> {}: {}{talked}{ended_by} ({begun})",
        name(&record.caller),
        name(&record.callee),
        record.disposition.name()
    )
}

/// What media nodes had of the call, in a line; `None` for a call without one.
fn media(events: &[CallEvent]) -> Option<String> {
    let of_channels = || events.iter().filter(|event| event.is_of_channel());
    let channels: BTreeSet<_> = of_channels().filter_map(|event| event.extra(channel::ID)).collect();
    let nodes: BTreeSet<_> = of_channels().map(|event| event.node.as_str()).collect();
    let ends = || of_channels().filter(|event| event.event == event::CHANNEL_HANGUP);
    let scores: Vec<_> = ends().filter_map(|event| event.extra(channel::MOS)).collect();
    let heard = if scores.is_empty() { String::new() } else { format!(", MOS {}", scores.join(" and ")) };
    let legs = if channels.len() == 1 { "leg" } else { "legs" };
    let nodes = nodes.into_iter().collect::<Vec<_>>().join(" and ");
    (!channels.is_empty()).then(|| format!("media: {} {legs} on {nodes}{heard}", channels.len()))
}

/// What a media node tells of a channel, line by line.
fn of_channel(event: &CallEvent) -> Vec<String> {
    let told = |before: &str, name: &str, after: &str| event.extra(name).map(|value| format!("{before}{value}{after}"));
    let line = |parts: Vec<Option<String>>| parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let codecs = match (event.extra(channel::CODEC_READ), event.extra(channel::CODEC_WRITE)) {
        (Some(read), Some(write)) if read == write => format!("codec {read}"),
        (Some(read), Some(write)) => format!("codecs {read} in, {write} out"),
        _ => String::new(),
    };
    vec![
        line(vec![told("channel ", channel::ID, ""), told("", channel::DIRECTION, "")]),
        line(vec![told("with ", channel::OTHER, "")]),
        line(vec![told("Q.850 ", channel::Q850, ""), told("", channel::DISPOSITION, "")]),
        codecs,
        line(vec![
            told("RTP in ", channel::RTP_IN, ""),
            told("out ", channel::RTP_OUT, ""),
            told("skipped ", channel::RTP_SKIPPED, ""),
            told("lost ", channel::LOSS, " %"),
        ]),
        line(vec![
            told("MOS ", channel::MOS, ""),
            told("quality ", channel::QUALITY, " %"),
            told("jitter ", channel::JITTER_MIN, " ms\u{b2}"),
            told("to ", channel::JITTER_MAX, " ms\u{b2}"),
        ]),
    ]
}

fn seconds(millis: i64) -> String {
    format!("{}.{:03} s", millis / 1000, millis % 1000)
}

/// A rung of the ladder; in JSON the event.
#[derive(Debug, Serialize)]
struct Step<'e> {
    #[serde(flatten)]
    event: Event<'e>,
    #[serde(skip)]
    cells: [String; 5],
}

impl<'e> Step<'e> {
    fn of(event: &'e CallEvent, start: Timestamp) -> Self {
        let after = event.at().0 - start.0;
        let code = if event.code == 0 { String::new() } else { format!("{} ", event.code) };
        let what = format!("{} {code}{}", event.method, event.reason);
        let way = [event.source.as_str(), event.destination.as_str()];
        let way: Vec<&str> = way.into_iter().filter(|end| !end.is_empty()).collect();
        let extra = if event.is_of_channel() {
            of_channel(event)
        } else {
            event.extra.iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        let is_of_other_leg = !event.leg.is_empty() && event.leg != event.call_id;
        let details: Vec<String> = std::iter::once(event.r_uri.clone())
            .chain(is_of_other_leg.then(|| format!("leg {}", event.leg)))
            .chain(extra)
            .filter(|line| !line.is_empty())
            .collect();
        let cells = [
            format!("{}{}", if after < 0 { "-" } else { "+" }, seconds(after.abs())),
            [event.dc.as_str(), event.node.as_str()].join(" ").trim().to_owned(),
            format!("{}\n{}", event.event, what.trim()).trim().to_owned(),
            way.join("\n-> "),
            details.join("\n"),
        ];
        Self { event: event.into(), cells }
    }
}

impl Shown for Step<'_> {
    const COLUMNS: &'static [&'static str] = &["time", "node", "event", "way", "details"];

    fn cells(&self) -> Vec<String> {
        self.cells.to_vec()
    }
}

/// Show the calls of a subscriber, the latest first.
#[derive(Debug, Args)]
pub(crate) struct History {
    /// Address-of-record.
    aor: Aor,
    /// How far back, for example 12h, 7d.
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
    since: Duration,
}

impl History {
    pub(crate) async fn run(&self, connection: &Connection, output: &Output) -> anyhow::Result<()> {
        let admin = connection.admin().await?;
        let now = now();
        let since = Timestamp(now.0.saturating_sub(i64::try_from(self.since.as_millis()).unwrap_or(i64::MAX)).max(0));
        let calls = history(admin.store(), &self.aor, since, now).await?;
        let lines: Vec<_> = calls.iter().map(Line::of).collect();
        output.list(&lines, &format!("{} had no calls since {}.", self.aor, rfc3339(since)));
        Ok(())
    }
}

/// All calls from `since` to `now`, month by month, each once: nodes that saw the same call may each have begun it.
async fn history(store: &Store, aor: &Aor, since: Timestamp, now: Timestamp) -> anyhow::Result<Vec<Listed>> {
    let mut found = Vec::new();
    for month in months(since, now) {
        found.extend(store.calls_of(aor, month, since).await?);
    }
    let mut seen = BTreeSet::new();
    // The one that is over says most.
    found.sort_by_key(|call: &Listed| (!call.record.is_over(), call.record.started_at.map(|at| at.0)));
    found.retain(|call| seen.insert((call.call_id.clone(), call.direction.name())));
    found.sort_by_key(|call| std::cmp::Reverse(call.record.started_at.map(|at| at.0)));
    Ok(found)
}

/// The months from the last to the first of these times, as `YYYYMM`.
fn months(since: Timestamp, now: Timestamp) -> impl Iterator<Item = i32> {
    let first = since.month();
    let before = |month: &i32| Some(if month % 100 == 1 { month - 100 + 11 } else { month - 1 });
    std::iter::successors(Some(now.month()), before).take_while(move |month| *month >= first)
}

/// A call in the list.
#[derive(Debug, Serialize)]
struct Line<'c> {
    call_id: &'c str,
    started: String,
    direction: &'static str,
    peer: &'c str,
    disposition: &'static str,
    code: u16,
    reason: &'c str,
    ended_by: &'c str,
    ringing: Option<String>,
    answered: Option<String>,
    ended: Option<String>,
    duration_ms: i64,
    account: &'c str,
    dc: &'c str,
    node: &'c str,
}

impl<'c> Line<'c> {
    fn of(call: &'c Listed) -> Self {
        let record = &call.record;
        Self {
            call_id: &call.call_id,
            started: record.started_at.map(Timestamp::rfc3339).unwrap_or_default(),
            direction: call.direction.name(),
            peer: &call.peer,
            disposition: record.disposition.name(),
            code: record.code,
            reason: &record.reason,
            ended_by: record.who_ended(),
            ringing: record.ringing_at.map(Timestamp::rfc3339),
            answered: record.answered_at.map(Timestamp::rfc3339),
            ended: record.ended_at.map(Timestamp::rfc3339),
            duration_ms: call.duration_ms,
            account: &call.account,
            dc: &call.dc,
            node: &call.node,
        }
    }
}

impl Shown for Line<'_> {
    const COLUMNS: &'static [&'static str] = &["started", "direction", "peer", "result", "talked", "call"];

    fn cells(&self) -> Vec<String> {
        let code = if self.code == 0 { String::new() } else { format!(" ({})", self.code) };
        vec![
            self.started.clone(),
            self.direction.to_owned(),
            self.peer.to_owned(),
            format!("{}{code}", self.disposition),
            seconds(self.duration_ms),
            self.call_id.to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use domain::call::EventId;

    use super::*;

    /// An event of a media node's channel.
    fn of_media(name: &str, channel: &str, extra: &[(&str, &str)]) -> CallEvent {
        let own = [(channel::ID, channel)];
        let extra = own.iter().chain(extra).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        CallEvent {
            call_id: "call".to_owned(),
            event: name.to_owned(),
            node: "m1".to_owned(),
            extra: extra.collect(),
            ..CallEvent::new(EventId::new(1_000_000, 0, 1))
        }
    }

    #[test]
    fn media_are_told_in_a_line() {
        let end = |channel: &str, mos: &str| of_media(event::CHANNEL_HANGUP, channel, &[(channel::MOS, mos)]);
        let events = [of_media(event::CHANNEL_CREATE, "a", &[]), end("a", "4.50"), end("b", "3.12")];
        assert_eq!(media(&events).as_deref(), Some("media: 2 legs on m1, MOS 4.50 and 3.12"));
        assert_eq!(media(&events[..1]).as_deref(), Some("media: 1 leg on m1"));
        assert_eq!(media(&[]), None);
    }

    #[test]
    fn a_channel_is_told_for_people() {
        let told = [
            (channel::DIRECTION, "inbound"),
            (channel::OTHER, "b"),
            (channel::Q850, "16"),
            (channel::CODEC_READ, "PCMU@8000"),
            (channel::CODEC_WRITE, "PCMU@8000"),
            (channel::RTP_IN, "617"),
            (channel::LOSS, "0.32"),
            (channel::MOS, "4.42"),
        ];
        let event = of_media(event::CHANNEL_HANGUP, "a", &told);
        let [_, node, name, _, details] = Step::of(&event, Timestamp(1000)).cells;
        assert_eq!((node.as_str(), name.as_str()), ("m1", "channel-hangup"));
        let lines =
            ["channel a, inbound", "with b", "Q.850 16", "codec PCMU@8000", "RTP in 617, lost 0.32 %", "MOS 4.42"];
        assert_eq!(details.lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn the_months_go_back_over_the_turn_of_the_year() {
        let (november, february) = (Timestamp(1_762_000_000_000), Timestamp(1_771_000_000_000));
        assert_eq!(months(november, february).collect::<Vec<_>>(), [202_602, 202_601, 202_512, 202_511]);
    }
}
