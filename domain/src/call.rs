//! Calls: what happened to one, and what that makes of it.
//!
//! A node captures a [`CallEvent`] where something happens. All events of a call, of all its legs and from all nodes that it
//! went through, add up to its [`CallRecord`], in whatever order they come and however often.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::text::cut;

/// Names of the events that make up a call's record. A script may have others, which are kept and change nothing.
pub mod event {
    /// An INVITE that begins a call.
    pub const ATTEMPT: &str = "call-attempt";
    /// The other side rings.
    pub const EARLY: &str = "call-early";
    /// The call is answered.
    pub const START: &str = "call-start";
    /// An answered call is over.
    pub const END: &str = "call-end";
    /// An INVITE inside the call.
    pub const REINVITE: &str = "call-reinvite";
    /// It was not answered: refused, cancelled, not reachable.
    pub const FAILED: &str = "call-failed";
    /// Nobody ended it in time.
    pub const EXPIRED: &str = "call-expired";
    /// The node that had it is gone.
    pub const LOST: &str = "call-lost";
    /// A media node has a leg of the call.
    pub const CHANNEL_CREATE: &str = "channel-create";
    /// That leg is answered.
    pub const CHANNEL_ANSWER: &str = "channel-answer";
    /// It is joined with another.
    pub const CHANNEL_BRIDGE: &str = "channel-bridge";
    /// It is over.
    pub const CHANNEL_HANGUP: &str = "channel-hangup";
}

/// Names of what the events of a media node's channel add: its [`CallEvent::extra`].
pub mod channel {
    /// Its name on the media node, for good.
    pub const ID: &str = "channel";
    /// `inbound` or `outbound`, as the media node sees it.
    pub const DIRECTION: &str = "direction";
    /// The channel that it is joined with, or was begun for.
    pub const OTHER: &str = "other";
    /// The codec that is received, as `PCMU@8000`.
    pub const CODEC_READ: &str = "codec_read";
    /// The codec that is sent.
    pub const CODEC_WRITE: &str = "codec_write";
    /// Why it ended, as a number of Q.850.
    pub const Q850: &str = "q850";
    /// What ended it in SIP, such as `recv_bye`.
    pub const DISPOSITION: &str = "disposition";
    /// How long it was talked, in milliseconds.
    pub const TALKED: &str = "talked_ms";
    /// RTP packets received.
    pub const RTP_IN: &str = "rtp_in";
    /// RTP packets sent.
    pub const RTP_OUT: &str = "rtp_out";
    /// RTP packets that should have come, and did not in time.
    pub const RTP_SKIPPED: &str = "rtp_skipped";
    /// Share of the received packets that were lost, in percent.
    pub const LOSS: &str = "loss";
    /// The least variance of the time between packets, in square milliseconds.
    pub const JITTER_MIN: &str = "jitter_min";
    /// The greatest one.
    pub const JITTER_MAX: &str = "jitter_max";
    /// Share of what was received without flaws, in percent.
    pub const QUALITY: &str = "quality";
    /// Mean opinion score that the media node makes of that, from 1 to 5.
    pub const MOS: &str = "mos";
}

/// What a script says of a leg.
mod attribute {
    /// The attribute.
    pub(super) const LEG: &str = "leg";
    /// Its value for a leg that a call was not begun with.
    pub(super) const FURTHER: &str = "further";
}

/// Microseconds between the beginning of the Gregorian calendar, from which time-based UUIDs count, and the Unix epoch.
const GREGORIAN_US: i64 = 12_219_292_800_000_000;

/// Names one event for good: a time-based UUID (RFC 9562 section 5.1), made once, where the event is captured. Written again
/// it is the same row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EventId([u8; 16]);

impl EventId {
    /// The name of what happened `micros` microseconds after the Unix epoch, the `number`-th event of the process that has
    /// the name `process`, of which 14 and 47 bits count.
    pub fn new(micros: i64, number: u16, process: u64) -> Self {
        let ticks = micros.saturating_add(GREGORIAN_US).max(0).cast_unsigned().saturating_mul(10);
        let (low, mid, high) = (ticks as u32, (ticks >> 32) as u16, (ticks >> 48) as u16 & 0x0fff | 0x1000);
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&low.to_be_bytes());
        bytes[4..6].copy_from_slice(&mid.to_be_bytes());
        bytes[6..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..10].copy_from_slice(&(number & 0x3fff | 0x8000).to_be_bytes());
        bytes[10..].copy_from_slice(&process.to_be_bytes()[2..]);
        bytes[10] |= 1; // no network card has such an address
        Self(bytes)
    }

    /// The name that everybody gives to what happens to a call at this time.
    pub fn at_time(at: Timestamp, call_id: &str) -> Self {
        Self::of(at.0.saturating_mul(1000), 0, call_id)
    }

    /// The name that everybody gives to the `number`-th thing that happens to what has this name, `micros` microseconds after the Unix
    /// epoch.
    pub fn of(micros: i64, number: u16, name: &str) -> Self {
        let name = name.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        Self::new(micros, number, name)
    }

    /// One that was stored.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// As it is stored.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// When it happened, in microseconds since the Unix epoch.
    pub fn micros(self) -> i64 {
        let part =
            |from: usize, to: usize| self.0[from..to].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let ticks = (part(6, 8) & 0x0fff) << 48 | part(4, 6) << 32 | part(0, 4);
        i64::try_from(ticks / 10).unwrap_or(i64::MAX) - GREGORIAN_US
    }

    /// When it happened.
    pub fn at(self) -> Timestamp {
        Timestamp(self.micros().div_euclid(1000))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// Bytes of a text of an event that are kept.
pub const LONGEST_TEXT: usize = 1024;

/// Attributes of an event that are kept.
pub const MOST_EXTRA: usize = 16;

/// Something that happened to a call. Absent text is `""` and an absent code 0, as they are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallEvent {
    /// Its name for good, with the time.
    pub id: EventId,
    /// What all legs of the call have in common; the Call-ID where nothing else was said.
    pub call_id: String,
    /// What happened: one of [`event`], or a name of the script's.
    pub event: String,
    /// The leg's Call-ID.
    pub leg: String,
    /// Tag of From.
    pub from_tag: String,
    /// Tag of To.
    pub to_tag: String,
    /// Method of the request that it happened with.
    pub method: String,
    /// URI of From.
    pub from_uri: String,
    /// URI of To.
    pub to_uri: String,
    /// Request-URI.
    pub r_uri: String,
    /// Who calls, as `user@domain`.
    pub caller: String,
    /// Who is called, as `user@domain`.
    pub callee: String,
    /// The account that the script says the call belongs to.
    pub account: String,
    /// Status code of a response.
    pub code: u16,
    /// Its reason phrase, or why the call ended.
    pub reason: String,
    /// Who ended the call: `caller`, `callee`, or whatever the script says.
    pub ended_by: String,
    /// Where the message came from, as a SIP URI.
    pub source: String,
    /// Where it goes, in the same form.
    pub destination: String,
    /// User-Agent or Server of the message.
    pub user_agent: String,
    /// The node that saw it.
    pub node: String,
    /// That node's data centre.
    pub dc: String,
    /// What the script adds, name and value.
    pub extra: Vec<(String, String)>,
}

impl CallEvent {
    /// One of which nothing but its name is known.
    pub fn new(id: EventId) -> Self {
        Self {
            id,
            call_id: String::new(),
            event: String::new(),
            leg: String::new(),
            from_tag: String::new(),
            to_tag: String::new(),
            method: String::new(),
            from_uri: String::new(),
            to_uri: String::new(),
            r_uri: String::new(),
            caller: String::new(),
            callee: String::new(),
            account: String::new(),
            code: 0,
            reason: String::new(),
            ended_by: String::new(),
            source: String::new(),
            destination: String::new(),
            user_agent: String::new(),
            node: String::new(),
            dc: String::new(),
            extra: Vec::new(),
        }
    }

    /// When it happened.
    pub fn at(&self) -> Timestamp {
        self.id.at()
    }

    /// Cuts every text to what is worth keeping, [`LONGEST_TEXT`]: a message may hold far longer ones, which a table's key and a
    /// batch of statements cannot.
    pub fn cut(&mut self) {
        self.cut_to(LONGEST_TEXT);
    }

    /// Cuts every text to so many bytes.
    pub fn cut_to(&mut self, most: usize) {
        let texts = [
            &mut self.call_id,
            &mut self.event,
            &mut self.leg,
            &mut self.from_tag,
            &mut self.to_tag,
            &mut self.method,
            &mut self.from_uri,
            &mut self.to_uri,
            &mut self.r_uri,
            &mut self.caller,
            &mut self.callee,
            &mut self.account,
            &mut self.reason,
            &mut self.ended_by,
            &mut self.source,
            &mut self.destination,
            &mut self.user_agent,
        ];
        self.extra.truncate(MOST_EXTRA);
        let extra = self.extra.iter_mut().flat_map(|(name, value)| [name, value]);
        for text in texts.into_iter().chain(extra) {
            text.truncate(cut(text, most).len());
        }
    }

    /// How long its texts are together, in bytes.
    pub fn texts(&self) -> usize {
        let own = [
            &self.call_id,
            &self.event,
            &self.leg,
            &self.from_tag,
            &self.to_tag,
            &self.method,
            &self.from_uri,
            &self.to_uri,
            &self.r_uri,
            &self.caller,
            &self.callee,
            &self.account,
            &self.reason,
            &self.ended_by,
            &self.source,
            &self.destination,
            &self.user_agent,
            &self.node,
            &self.dc,
        ];
        let extra: usize = self.extra.iter().map(|(name, value)| name.len() + value.len()).sum();
        own.iter().map(|text| text.len()).sum::<usize>() + extra
    }

    /// As a line of JSON: what is absent is left out, what the script adds is inside `extra`.
    pub fn json(&self) -> String {
        serde_json::to_string(&Shown::from(self)).unwrap_or_default()
    }

    /// As [`Self::json`], and what it makes of the call: of the event that ends it a call detail record.
    pub fn json_with(&self, record: &CallRecord) -> String {
        let whole = Concluded { event: Shown::from(self), call: Conclusion::from(record) };
        serde_json::to_string(&whole).unwrap_or_default()
    }

    /// Whether what its record tells of is over with it.
    pub fn is_end(&self) -> bool {
        [event::END, event::FAILED, event::EXPIRED, event::LOST].contains(&&*self.event)
    }

    /// Whether a media node tells of a channel with it.
    pub fn is_of_channel(&self) -> bool {
        [event::CHANNEL_CREATE, event::CHANNEL_ANSWER, event::CHANNEL_BRIDGE, event::CHANNEL_HANGUP]
            .contains(&&*self.event)
    }

    /// What was added by this name, if anything.
    pub fn extra(&self, name: &str) -> Option<&str> {
        self.extra.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the script says that the call was not begun with this leg, but that somebody in it, such as a media node, began it.
    pub fn is_of_further_leg(&self) -> bool {
        self.extra(attribute::LEG) == Some(attribute::FURTHER)
    }

    /// Says that it is of a leg that the call was not begun with.
    pub fn set_further_leg(&mut self) {
        if !self.is_of_further_leg() {
            self.extra.push((attribute::LEG.to_owned(), attribute::FURTHER.to_owned()));
        }
    }

    /// What has the record that it belongs to: the call, or the further leg of it, by its Call-ID. The call goes on when a further
    /// leg ends: whoever began that one may begin another.
    pub fn record_id(&self) -> &str {
        if self.is_of_further_leg() { &self.leg } else { &self.call_id }
    }
}

/// An event as people and programs are shown it.
#[derive(Debug, Serialize)]
pub struct Shown<'e> {
    time: String,
    event: &'e str,
    call_id: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    leg: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'e str,
    #[serde(skip_serializing_if = "is_zero")]
    code: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    ended_by: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    caller: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    callee: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    account: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    from_uri: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    from_tag: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    to_uri: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    to_tag: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    r_uri: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    source: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    destination: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    node: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    dc: &'e str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<&'e str, &'e str>,
    event_id: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(code: &u16) -> bool {
    *code == 0
}

impl<'e> From<&'e CallEvent> for Shown<'e> {
    fn from(event: &'e CallEvent) -> Self {
        Self {
            time: event.at().rfc3339(),
            event: &event.event,
            call_id: &event.call_id,
            leg: &event.leg,
            method: &event.method,
            code: event.code,
            reason: &event.reason,
            ended_by: &event.ended_by,
            caller: &event.caller,
            callee: &event.callee,
            account: &event.account,
            from_uri: &event.from_uri,
            from_tag: &event.from_tag,
            to_uri: &event.to_uri,
            to_tag: &event.to_tag,
            r_uri: &event.r_uri,
            source: &event.source,
            destination: &event.destination,
            user_agent: &event.user_agent,
            node: &event.node,
            dc: &event.dc,
            extra: event.extra.iter().map(|(name, value)| (&**name, &**value)).collect(),
            event_id: event.id.to_string(),
        }
    }
}

/// An event with what became of the call.
#[derive(Debug, Serialize)]
struct Concluded<'e> {
    #[serde(flatten)]
    event: Shown<'e>,
    call: Conclusion<'e>,
}

/// A call as a whole, as people and programs are shown it: times in RFC 3339, `null` for what did not happen.
#[derive(Debug, Serialize)]
pub struct Conclusion<'r> {
    start: Option<String>,
    ringing: Option<String>,
    answer: Option<String>,
    end: Option<String>,
    duration_ms: i64,
    disposition: &'static str,
    ended_by: &'r str,
}

impl<'r> From<&'r CallRecord> for Conclusion<'r> {
    fn from(record: &'r CallRecord) -> Self {
        let time = |at: Option<Timestamp>| at.map(Timestamp::rfc3339);
        Self {
            start: time(record.started_at),
            ringing: time(record.ringing_at),
            answer: time(record.answered_at),
            end: time(record.ended_at),
            duration_ms: record.duration_ms(),
            disposition: record.disposition.name(),
            ended_by: record.who_ended(),
        }
    }
}

/// How a call went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Disposition {
    /// It is not over.
    #[default]
    Ongoing,
    /// It was answered.
    Answered,
    /// Nobody answered: not there, or too late.
    NoAnswer,
    /// The other side is busy.
    Busy,
    /// The caller gave up.
    Cancelled,
    /// It was refused, or could not be set up.
    Failed,
    /// Nobody ended it in time.
    Expired,
    /// The node that had it is gone.
    Lost,
}

impl Disposition {
    /// All there are.
    const ALL: [Self; 8] = [
        Self::Ongoing,
        Self::Answered,
        Self::NoAnswer,
        Self::Busy,
        Self::Cancelled,
        Self::Failed,
        Self::Expired,
        Self::Lost,
    ];

    /// As it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ongoing => "ongoing",
            Self::Answered => "answered",
            Self::NoAnswer => "noanswer",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Lost => "lost",
        }
    }

    /// The one of this name; [`Self::Ongoing`] where there is none.
    pub fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|one| one.name() == name).unwrap_or_default()
    }

    /// Of a call that was not answered but with this status code (RFC 3261 section 21).
    fn of_code(code: u16) -> Self {
        match code {
            486 | 600 => Self::Busy,
            487 => Self::Cancelled,
            408 | 480 => Self::NoAnswer,
            _ => Self::Failed,
        }
    }
}

/// What is known of a call, or of a further leg of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// Of a further leg the call that it belongs to; `""` of a call.
    pub leg_of: String,
    /// Its first attempt.
    pub started_at: Option<Timestamp>,
    /// When it first rang.
    pub ringing_at: Option<Timestamp>,
    /// When it was answered.
    pub answered_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// How it went.
    pub disposition: Disposition,
    /// Status code of the end; 0 while it is not over.
    pub code: u16,
    /// Why it ended.
    pub reason: String,
    /// Who ended it, if that was said; see [`Self::who_ended`].
    pub ended_by: String,
    /// Who calls, as `user@domain`.
    pub caller: String,
    /// Who is called, as `user@domain`.
    pub callee: String,
    /// The account that the script says it belongs to.
    pub account: String,
    /// The caller's tag.
    pub caller_tag: String,
    /// The tag of who sent the BYE.
    pub end_tag: String,
}

impl CallRecord {
    /// What those of these events add up to that belong to the call of this id, or to the further leg of this Call-ID.
    pub fn of<'e>(id: &str, events: impl IntoIterator<Item = &'e CallEvent>) -> Self {
        let mut record = Self::default();
        events.into_iter().filter(|event| event.record_id() == id).for_each(|event| record.take(event));
        record
    }

    /// Adds an event. The first one of its kind counts, whichever comes first here: two nodes may see the same.
    pub fn take(&mut self, event: &CallEvent) {
        if event.is_of_further_leg() {
            event.call_id.clone_into(&mut self.leg_of);
        }
        let at = event.at();
        let earlier = |known: &mut Option<Timestamp>| {
            let is_first = known.is_none_or(|known| at < known);
            if is_first {
                *known = Some(at);
            }
            is_first
        };
        match &*event.event {
            event::ATTEMPT => {
                if earlier(&mut self.started_at) {
                    event.from_tag.clone_into(&mut self.caller_tag);
                }
            }
            event::EARLY => drop(earlier(&mut self.ringing_at)),
            event::START => drop(earlier(&mut self.answered_at)),
            _ if event.is_end() => {
                if self.is_ended_by(event) {
                    self.ended_at = Some(at);
                    self.code = event.code;
                    event.reason.clone_into(&mut self.reason);
                    event.ended_by.clone_into(&mut self.ended_by);
                    let bye_tag = if event.method == "BYE" { event.from_tag.as_str() } else { "" };
                    bye_tag.clone_into(&mut self.end_tag);
                    self.disposition = match &*event.event {
                        event::EXPIRED => Disposition::Expired,
                        event::LOST => Disposition::Lost,
                        event::FAILED => Disposition::of_code(event.code),
                        _ => Disposition::Answered,
                    };
                }
            }
            _ => return,
        }
        for (known, told) in
            [(&mut self.caller, &event.caller), (&mut self.callee, &event.callee), (&mut self.account, &event.account)]
        {
            if known.is_empty() {
                told.clone_into(known);
            }
        }
    }

    /// What ends the call, or the further leg, that has this record and this id, when nothing in it did.
    pub fn closing(&self, id: &str, event: &str, reason: &str, event_id: EventId) -> CallEvent {
        let mut closing = CallEvent {
            call_id: self.call_id(id).to_owned(),
            leg: id.to_owned(),
            event: event.to_owned(),
            reason: reason.to_owned(),
            caller: self.caller.clone(),
            callee: self.callee.clone(),
            account: self.account.clone(),
            ..CallEvent::new(event_id)
        };
        if self.is_of_further_leg() {
            closing.set_further_leg();
        }
        closing
    }

    /// Whether it is the record of a further leg, and not of a call.
    pub fn is_of_further_leg(&self) -> bool {
        !self.leg_of.is_empty()
    }

    /// The call of which what has this record and this id is, or is a part.
    pub fn call_id<'r>(&'r self, id: &'r str) -> &'r str {
        if self.is_of_further_leg() { &self.leg_of } else { id }
    }

    /// Takes over what is not known yet.
    pub fn complete(&mut self, other: Self) {
        if !self.is_of_further_leg() {
            self.leg_of = other.leg_of;
        }
        self.started_at = self.started_at.or(other.started_at);
        self.answered_at = self.answered_at.or(other.answered_at);
        for (known, told) in
            [(&mut self.caller, other.caller), (&mut self.callee, other.callee), (&mut self.account, other.account)]
        {
            if known.is_empty() {
                *known = told;
            }
        }
    }

    /// Whether the call ended with this event, and not with another that is known: the first counts, but a call that was thought
    /// lost, and then ended, was not.
    fn is_ended_by(&self, event: &CallEvent) -> bool {
        match (self.ended_at, self.disposition == Disposition::Lost, event.event == event::LOST) {
            (None, _, _) | (Some(_), true, false) => true,
            (Some(_), false, true) => false,
            (Some(known), _, _) => event.at() < known,
        }
    }

    /// Who ended the call: what was said, or else the side that sent the BYE: `caller` or `callee`.
    pub fn who_ended(&self) -> &str {
        match (self.ended_by.as_str(), self.end_tag.as_str(), self.caller_tag.as_str()) {
            ("", "", _) | ("", _, "") => "",
            ("", sender, caller) if sender == caller => "caller",
            ("", _, _) => "callee",
            (said, _, _) => said,
        }
    }

    /// Whether the call is over.
    pub fn is_over(&self) -> bool {
        self.ended_at.is_some()
    }

    /// How long it was talked, in milliseconds: from the answer to the end; 0 for a call that was not answered.
    pub fn duration_ms(&self) -> i64 {
        match (self.answered_at, self.ended_at) {
            (Some(answered), Some(ended)) => (ended.0 - answered.0).max(0),
            _ => 0,
        }
    }
}

/// A call that is under way, or a further leg of one, as the node that owns it last said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveCall {
    /// Which call; of a further leg its Call-ID.
    pub call_id: String,
    /// Of a further leg the call that it belongs to; `""` of a call.
    pub leg_of: String,
    /// Its owner.
    pub node: String,
    /// The owner's data centre.
    pub dc: String,
    /// The caller, as `user@domain`.
    pub caller: String,
    /// The callee, as `user@domain`.
    pub callee: String,
    /// The caller's account, or the one that the script named; `""` for none.
    pub account: String,
    /// The callee's account; `""` for none.
    pub callee_account: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was answered, if it was.
    pub answered_at: Option<Timestamp>,
    /// When its owner last said that it is there.
    pub updated_at: Timestamp,
    /// Seconds since then.
    pub age: i32,
    /// Seconds within which the owner says so again.
    pub interval: i32,
}

impl ActiveCall {
    /// Whether its owner is gone.
    pub fn is_stale(&self) -> bool {
        is_stale(self.age, self.interval)
    }

    /// Whether its owner has been gone for so long that the call is lost: half as long again as makes it stale.
    pub fn is_lost(&self) -> bool {
        self.age > self.interval.saturating_mul(3) / 2
    }

    /// `answered` or `early`.
    pub fn state(&self) -> &'static str {
        if self.answered_at.is_some() { "answered" } else { "early" }
    }

    /// What its owner knew of it.
    pub fn record(&self) -> CallRecord {
        CallRecord {
            leg_of: self.leg_of.clone(),
            started_at: Some(self.started_at),
            answered_at: self.answered_at,
            caller: self.caller.clone(),
            callee: self.callee.clone(),
            account: self.account.clone(),
            ..CallRecord::default()
        }
    }

    /// What ends it when its owner is gone, after these events of the call: the same event whoever notices, so that it is written once, and
    /// later than all that is known of it.
    pub fn lost(&self, events: &[CallEvent]) -> CallEvent {
        let last = events.iter().map(|event| event.at().0).fold(self.updated_at.0, i64::max);
        let id = EventId::at_time(Timestamp(last.saturating_add(1)), &self.call_id);
        CallEvent {
            node: self.node.clone(),
            dc: self.dc.clone(),
            ..self.record().closing(&self.call_id, event::LOST, "its node is gone", id)
        }
    }
}

/// Whether a call is stale that its owner, who says so every `interval` seconds, said to be there `age` seconds ago.
pub fn is_stale(age: i32, interval: i32) -> bool {
    age >= interval
}

/// Which calls are meant; all where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallFilter {
    /// Data centre of the owner.
    pub dc: Option<String>,
    /// Name of the owner.
    pub node: Option<String>,
    /// Account of the caller or of the callee.
    pub account: Option<String>,
    /// Caller or callee, as `user@domain`.
    pub subscriber: Option<String>,
}

impl CallFilter {
    /// Whether the call is meant.
    pub fn matches(&self, call: &ActiveCall) -> bool {
        let is = |wanted: &Option<String>, one: &[&str]| wanted.as_deref().is_none_or(|wanted| one.contains(&wanted));
        is(&self.dc, &[&call.dc])
            && is(&self.node, &[&call.node])
            && is(&self.account, &[&call.account, &call.callee_account])
            && is(&self.subscriber, &[&call.caller, &call.callee])
    }
}

/// How many calls each node has, by data centre and node. Further legs are parts of calls that are counted where they began.
pub fn by_node<'c>(calls: impl IntoIterator<Item = &'c ActiveCall>) -> BTreeMap<(&'c str, &'c str), u32> {
    let mut counts = BTreeMap::new();
    for call in calls.into_iter().filter(|call| call.leg_of.is_empty()) {
        *counts.entry((call.dc.as_str(), call.node.as_str())).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-01-01T00:00:00Z
    const NEW_YEAR_US: i64 = 1_767_225_600_000_000;
    const CALL: &str = "a-call";

    fn event(name: &str, after_ms: i64, code: u16) -> CallEvent {
        CallEvent {
            call_id: CALL.to_owned(),
            leg: CALL.to_owned(),
            event: name.to_owned(),
            caller: "alice@example.com".to_owned(),
            callee: "bob@example.com".to_owned(),
            code,
            ..CallEvent::new(EventId::new(NEW_YEAR_US + after_ms * 1000, 1, 2))
        }
    }

    #[test]
    fn an_id_is_a_time_based_uuid() {
        // RFC 9562 appendix A.1: C232AB00-9414-11EC-B3C8-9F6BDECED846, 2022-02-22T19:22:22Z.
        let id = EventId::new(1_645_557_742_000_000, 0x33C8, 0x9F6B_DECE_D846);
        assert_eq!(id.to_string(), "c232ab00-9414-11ec-b3c8-9f6bdeced846");
        assert_eq!(id.at(), Timestamp(1_645_557_742_000));
    }

    proptest! {
        #[test]
        fn an_id_tells_its_time(micros in 0..4_000_000_000_000_000_i64, number: u16, process: u64) {
            prop_assert_eq!(EventId::new(micros, number, process).micros(), micros);
        }

        #[test]
        fn a_record_does_not_depend_on_the_order_of_its_events(order in Just((0..6).collect::<Vec<_>>()).prop_shuffle()) {
            let events = [
                event(event::ATTEMPT, 0, 0),
                event(event::ATTEMPT, 3, 0), // another node
                event(event::EARLY, 100, 180),
                event(event::START, 2000, 200),
                event(event::END, 7000, 200),
                event(event::END, 7004, 200),
            ];
            let record = CallRecord::of(CALL, order.iter().map(|index: &usize| &events[*index]));
            prop_assert_eq!(&record, &CallRecord::of(CALL, &events));
            prop_assert_eq!(record.duration_ms(), 5000);
            prop_assert_eq!(record.started_at, Some(events[0].at()));
        }
    }

    proptest! {
        #[test]
        fn a_call_that_was_thought_lost_ends_when_it_ends(order in Just((0..4).collect::<Vec<_>>()).prop_shuffle()) {
            let events = [
                event(event::ATTEMPT, 0, 0),
                event(event::START, 1000, 200),
                event(event::LOST, 2000, 0),
                event(event::END, 9000, 200),
            ];
            let record = CallRecord::of(CALL, order.iter().map(|index: &usize| &events[*index]));
            prop_assert_eq!((record.disposition, record.duration_ms()), (Disposition::Answered, 8000));
        }
    }

    #[test]
    fn a_lost_call_is_the_same_event_whoever_notices() {
        let call = active(CALL);
        assert_eq!(call.lost(&[]), call.lost(&[]));
        assert_eq!(call.lost(&[]).at(), Timestamp(call.updated_at.0 + 1));
        let mut answer = CallEvent::new(EventId::new((call.updated_at.0 + 5000) * 1000 + 999, 1, 2));
        event::START.clone_into(&mut answer.event);
        assert_eq!(call.lost(&[answer]).at(), Timestamp(call.updated_at.0 + 5001));
        assert_ne!(call.lost(&[]).id, active("another-call").lost(&[]).id);
    }

    #[test]
    fn a_call_is_stale_after_an_interval_and_lost_after_half_as_long_again() {
        for (age, stale, lost) in
            [(0, false, false), (59, false, false), (60, true, false), (90, true, false), (91, true, true)]
        {
            let call = ActiveCall { age, ..active(CALL) };
            assert_eq!((call.is_stale(), call.is_lost()), (stale, lost), "{age} s");
        }
    }

    #[test]
    fn a_filter_finds_a_call_by_each_of_its_parties() {
        let call = active(CALL);
        let by = |change: fn(&mut CallFilter)| {
            let mut filter = CallFilter::default();
            change(&mut filter);
            filter.matches(&call)
        };
        assert!(by(|_| {}) && by(|filter| filter.node = Some("lb1".to_owned())));
        assert!(
            by(|filter| filter.account = Some("acme".to_owned()))
                && by(|filter| filter.account = Some("duck".to_owned()))
        );
        assert!(by(|filter| filter.subscriber = Some("bob@example.com".to_owned())));
        assert!(!by(|filter| filter.dc = Some("dc2".to_owned())) && !by(|filter| filter.account = Some(String::new())));
    }

    fn active(call_id: &str) -> ActiveCall {
        ActiveCall {
            call_id: call_id.to_owned(),
            leg_of: String::new(),
            node: "lb1".to_owned(),
            dc: "dc1".to_owned(),
            caller: "alice@example.com".to_owned(),
            callee: "bob@example.com".to_owned(),
            account: "acme".to_owned(),
            callee_account: "duck".to_owned(),
            started_at: Timestamp(NEW_YEAR_US / 1000),
            answered_at: None,
            updated_at: Timestamp(NEW_YEAR_US / 1000 + 5000),
            age: 0,
            interval: 60,
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut event = event("a", 0, 0);
        event.call_id = "ä".repeat(2000);
        event.extra = vec![("name".to_owned(), "x".repeat(5000)); 100];
        event.cut();
        assert_eq!(event.call_id, "ä".repeat(512));
        assert_eq!((event.extra.len(), event.extra[0].1.len()), (MOST_EXTRA, LONGEST_TEXT));
    }

    #[test]
    fn a_call_goes_as_its_code_says() {
        for (name, code, expected) in [
            (event::FAILED, 486, Disposition::Busy),
            (event::FAILED, 600, Disposition::Busy),
            (event::FAILED, 487, Disposition::Cancelled),
            (event::FAILED, 480, Disposition::NoAnswer),
            (event::FAILED, 408, Disposition::NoAnswer),
            (event::FAILED, 404, Disposition::Failed),
            (event::EXPIRED, 0, Disposition::Expired),
            (event::LOST, 0, Disposition::Lost),
            (event::END, 200, Disposition::Answered),
        ] {
            let record = CallRecord::of(CALL, &[event(event::ATTEMPT, 0, 0), event(name, 50, code)]);
            assert_eq!((record.disposition, record.duration_ms()), (expected, 0), "{name} {code}");
        }
    }

    #[test]
    fn who_sends_the_bye_ends_the_call() {
        let tagged = |name: &str, method: &str, tag: &str| CallEvent {
            from_tag: tag.to_owned(),
            method: method.to_owned(),
            ..event(name, 0, 0)
        };
        let attempt = tagged(event::ATTEMPT, "INVITE", "a");
        for (tag, expected) in [("a", "caller"), ("b", "callee")] {
            let bye = tagged(event::END, "BYE", tag);
            assert_eq!(CallRecord::of(CALL, [&attempt, &bye]).who_ended(), expected);
            assert_eq!(CallRecord::of(CALL, [&bye]).who_ended(), "", "nobody knows");
            let said = CallEvent { ended_by: "operator".to_owned(), ..bye };
            assert_eq!(CallRecord::of(CALL, [&attempt, &said]).who_ended(), "operator");
        }
    }

    #[test]
    fn a_further_leg_has_a_record_of_its_own() {
        let further = |name: &str, after_ms: i64, code: u16| {
            let mut event = CallEvent {
                leg: "a-leg".to_owned(),
                callee: "carol@example.com".to_owned(),
                ..event(name, after_ms, code)
            };
            event.set_further_leg();
            event
        };
        let events = [
            event(event::ATTEMPT, 0, 0),
            event(event::START, 50, 200),
            further(event::ATTEMPT, 60, 0),
            further(event::EARLY, 100, 180),
            further(event::FAILED, 2000, 486),
            event(event::END, 5050, 200),
        ];
        let call = CallRecord::of(CALL, &events);
        assert_eq!((call.disposition, call.duration_ms(), call.ringing_at), (Disposition::Answered, 5000, None));
        assert_eq!((call.callee.as_str(), call.leg_of.as_str()), ("bob@example.com", ""));
        let leg = CallRecord::of("a-leg", &events);
        assert_eq!((leg.disposition, leg.started_at), (Disposition::Busy, Some(events[2].at())));
        assert_eq!((leg.callee.as_str(), leg.leg_of.as_str()), ("carol@example.com", CALL));
    }

    #[test]
    fn what_closes_a_further_leg_belongs_to_it() {
        let call = ActiveCall { leg_of: CALL.to_owned(), ..active("a-leg") };
        let lost = call.lost(&[]);
        assert_eq!((lost.call_id.as_str(), lost.leg.as_str(), lost.record_id()), (CALL, "a-leg", "a-leg"));
        assert_eq!(active(CALL).lost(&[]).record_id(), CALL);
    }

    #[test]
    fn a_further_leg_is_no_call_more_on_its_node() {
        let calls = [active(CALL), ActiveCall { leg_of: CALL.to_owned(), ..active("a-leg") }];
        assert_eq!(by_node(&calls), BTreeMap::from([(("dc1", "lb1"), 1)]));
    }

    #[test]
    fn an_event_of_the_scripts_own_changes_no_record() {
        let record = CallRecord::of(CALL, &[event("voicemail", 5, 0)]);
        assert_eq!(record, CallRecord::default());
    }
}
