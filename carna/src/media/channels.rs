//! What happens to the channels of a FreeSWITCH, as events of calls.

use std::collections::{HashMap, HashSet};

use domain::CallEvent;
use domain::call::{EventId, channel, event};

/// Channels that are remembered by the call that they belong to: more than a media node has.
const MOST: usize = 20_000;

/// Why a channel ended whose end was not told.
const UNSEEN: &str = "its end was not seen";

/// By names of FreeSWITCH's, the events that a call's record is told of.
const EVENTS: [(&str, &str); 4] = [
    ("CHANNEL_CREATE", event::CHANNEL_CREATE),
    ("CHANNEL_ANSWER", event::CHANNEL_ANSWER),
    ("CHANNEL_BRIDGE", event::CHANNEL_BRIDGE),
    ("CHANNEL_HANGUP_COMPLETE", event::CHANNEL_HANGUP),
];

/// What is added, and the header or variable that has it.
const ADDED: [(&str, &str); 13] = [
    (channel::ID, "Unique-ID"),
    (channel::DIRECTION, "Call-Direction"),
    (channel::Q850, "variable_hangup_cause_q850"),
    (channel::DISPOSITION, "variable_sip_hangup_disposition"),
    (channel::TALKED, "variable_billmsec"),
    (channel::RTP_IN, "variable_rtp_audio_in_packet_count"),
    (channel::RTP_OUT, "variable_rtp_audio_out_packet_count"),
    (channel::RTP_SKIPPED, "variable_rtp_audio_in_skip_packet_count"),
    (channel::LOSS, "variable_rtp_audio_in_jitter_loss_rate"),
    (channel::JITTER_MIN, "variable_rtp_audio_in_jitter_min_variance"),
    (channel::JITTER_MAX, "variable_rtp_audio_in_jitter_max_variance"),
    (channel::QUALITY, "variable_rtp_audio_in_quality_percentage"),
    (channel::MOS, "variable_rtp_audio_in_mos"),
];

/// An event as FreeSWITCH tells it.
pub(crate) trait Told {
    /// The header of this name; a variable of the channel's has `variable_` before it.
    fn header(&self, name: &str) -> Option<&str>;
}

impl Told for freeswitch_esl_tokio::EslEvent {
    fn header(&self, name: &str) -> Option<&str> {
        freeswitch_esl_tokio::HeaderLookup::header_str(self, name)
    }
}

/// The channels of a node.
#[derive(Debug)]
pub(crate) struct Channels {
    node: String,
    dc: String,
    /// The call of each, by its unique id.
    calls: HashMap<String, String>,
}

impl Channels {
    /// Of the node of this name, in this data centre.
    pub(crate) fn new(node: &str, dc: &str) -> Self {
        Self { node: node.to_owned(), dc: dc.to_owned(), calls: HashMap::new() }
    }

    /// Takes which channels are there now, `micros` microseconds after the Unix epoch, when nothing was told for a while. Gives the ends of
    /// those that are not there any more; where that is not known, all are forgotten.
    pub(crate) fn begin(&mut self, there: Option<&HashSet<String>>, micros: i64) -> Vec<CallEvent> {
        let Some(there) = there else {
            self.calls.clear();
            return Vec::new();
        };
        let ended: Vec<_> = self.calls.extract_if(|channel, _| !there.contains(channel)).collect();
        ended.into_iter().map(|(channel, call_id)| self.unseen_end(channel, call_id, micros)).collect()
    }

    /// The end of a channel that was over at this time.
    fn unseen_end(&self, channel: String, call_id: String, micros: i64) -> CallEvent {
        let id = EventId::of(micros, 0, &format!("{channel} {}", event::CHANNEL_HANGUP));
        CallEvent {
            event: event::CHANNEL_HANGUP.to_owned(),
            reason: UNSEEN.to_owned(),
            extra: vec![(channel::ID.to_owned(), channel)],
            ..self.event(id, call_id)
        }
    }

    /// An event of a call on this node.
    fn event(&self, id: EventId, call_id: String) -> CallEvent {
        CallEvent { call_id, node: self.node.clone(), dc: self.dc.clone(), ..CallEvent::new(id) }
    }

    /// What an event of FreeSWITCH's tells of a call; `None` when it is of none.
    ///
    /// It is named by the channel and by FreeSWITCH's own time and number, so whoever hears of it, and however often, writes one row.
    pub(crate) fn take(&mut self, told: &impl Told) -> Option<CallEvent> {
        let (_, name) = EVENTS.into_iter().find(|(name, _)| told.header("Event-Name") == Some(name))?;
        let channel = told.header("Unique-ID").filter(|id| !id.is_empty())?;
        let micros: i64 = told.header("Event-Date-Timestamp")?.parse().ok()?;
        let sequence: u64 = told.header("Event-Sequence").and_then(|number| number.parse().ok()).unwrap_or_default();
        let call_id = self.call_of(told, channel)?;
        if name == event::CHANNEL_HANGUP {
            self.calls.remove(channel);
        } else if self.calls.len() < MOST {
            self.calls.insert(channel.to_owned(), call_id.clone());
        }
        let id = EventId::of(micros, (sequence & 0xffff) as u16, &format!("{channel} {name}"));
        let mut event = CallEvent { event: name.to_owned(), ..self.event(id, call_id) };
        describe(&mut event, told);
        event.cut();
        Some(event)
    }

    /// The call of a channel: what dispatchers call it, which the channel has from its INVITE or from the one that it was begun for; where
    /// nobody said anything, its Call-ID, as everywhere.
    fn call_of(&self, told: &impl Told, channel: &str) -> Option<String> {
        let of = |channel: &str| self.calls.get(channel).map(String::as_str);
        let present = |name: &str| told.header(name).filter(|value| !value.is_empty());
        let call_id = present("variable_sip_h_X-Call")
            .or_else(|| of(channel))
            .or_else(|| of(present("Other-Leg-Unique-ID")?))
            .or_else(|| present("variable_sip_call_id"))?;
        Some(call_id.to_owned())
    }
}

/// What an event tells besides its name.
fn describe(event: &mut CallEvent, told: &impl Told) {
    let text = |name: &str| told.header(name).unwrap_or_default().to_owned();
    let uri = |name: &str| told.header(name).map(|uri| format!("sip:{uri}")).unwrap_or_default();
    event.leg = text("variable_sip_call_id");
    event.from_tag = text("variable_sip_from_tag");
    event.to_tag = text("variable_sip_to_tag");
    event.from_uri = uri("variable_sip_from_uri");
    event.to_uri = uri("variable_sip_to_uri");
    event.r_uri = uri("variable_sip_req_uri");
    event.user_agent = text("variable_sip_user_agent");
    if event.event == event::CHANNEL_HANGUP {
        event.reason = text("Hangup-Cause");
        event.code = sip_code(told).unwrap_or_default();
    }
    if let (Some("inbound"), Some(ip), Some(port)) = (
        told.header("Call-Direction"),
        told.header("variable_sip_network_ip"),
        told.header("variable_sip_network_port"),
    ) {
        event.source = format!("sip:{ip}:{port}");
    }
    let others = ["Bridge-A-Unique-ID", "Bridge-B-Unique-ID", "Other-Leg-Unique-ID"];
    let own = told.header("Unique-ID");
    let other = others.into_iter().filter_map(|name| told.header(name)).find(|id| Some(*id) != own);
    let joined = [
        (channel::OTHER, other.map(str::to_owned)),
        (channel::CODEC_READ, codec(told, "Read")),
        (channel::CODEC_WRITE, codec(told, "Write")),
    ];
    let added = ADDED.into_iter().map(|(name, header)| (name, told.header(header).map(str::to_owned)));
    let added = added.chain(joined).filter_map(|(name, value)| Some((name.to_owned(), value?)));
    event.extra = added.filter(|(_, value)| !value.is_empty()).collect();
}

/// The codec of a direction, `Read` or `Write`, with its rate.
fn codec(told: &impl Told, direction: &str) -> Option<String> {
    let name = told.header(&format!("Channel-{direction}-Codec-Name"))?;
    let rate = told.header(&format!("Channel-{direction}-Codec-Rate"));
    Some(rate.map_or_else(|| name.to_owned(), |rate| format!("{name}@{rate}")))
}

/// The status code that ended it, where one did: `sip:486`.
fn sip_code(told: &impl Told) -> Option<u16> {
    let specific = told.header("variable_proto_specific_hangup_cause").and_then(|cause| cause.strip_prefix("sip:"));
    specific.or_else(|| told.header("variable_sip_term_status"))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use domain::call::MOST_EXTRA;
    use proptest::prelude::*;

    use super::*;

    impl Told for HashMap<String, String> {
        fn header(&self, name: &str) -> Option<&str> {
            self.get(name).map(String::as_str)
        }
    }

    fn told(name: &str, channel: &str, more: &[(&str, &str)]) -> HashMap<String, String> {
        let own = [
            ("Event-Name", name),
            ("Unique-ID", channel),
            ("Event-Date-Timestamp", "1767225600123456"),
            ("Event-Sequence", "70000"),
        ];
        own.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn channels() -> Channels {
        Channels::new("m1", "dc1")
    }

    #[test]
    fn the_end_of_a_leg_says_why_and_how_it_was() {
        let hangup = told(
            "CHANNEL_HANGUP_COMPLETE",
            "a-leg",
            &[
                ("variable_sip_h_X-Call", "the-call"),
                ("variable_sip_call_id", "the-leg"),
                ("Call-Direction", "inbound"),
                ("Other-Leg-Unique-ID", "b-leg"),
                ("variable_sip_network_ip", "192.0.2.11"),
                ("variable_sip_network_port", "5060"),
                ("variable_sip_from_uri", "alice@example.com"),
                ("Hangup-Cause", "USER_BUSY"),
                ("variable_hangup_cause_q850", "17"),
                ("variable_proto_specific_hangup_cause", "sip:486"),
                ("variable_sip_hangup_disposition", "recv_bye"),
                ("variable_billmsec", "12345"),
                ("Channel-Read-Codec-Name", "PCMU"),
                ("Channel-Read-Codec-Rate", "8000"),
                ("Channel-Write-Codec-Name", "PCMA"),
                ("Channel-Write-Codec-Rate", "8000"),
                ("variable_rtp_audio_in_packet_count", "617"),
                ("variable_rtp_audio_out_packet_count", "615"),
                ("variable_rtp_audio_in_skip_packet_count", "2"),
                ("variable_rtp_audio_in_jitter_loss_rate", "0.32"),
                ("variable_rtp_audio_in_jitter_min_variance", "0.05"),
                ("variable_rtp_audio_in_jitter_max_variance", "3.11"),
                ("variable_rtp_audio_in_quality_percentage", "98.00"),
                ("variable_rtp_audio_in_mos", "4.42"),
            ],
        );
        let event = channels().take(&hangup).expect("of a call");
        assert_eq!((event.call_id.as_str(), event.leg.as_str()), ("the-call", "the-leg"));
        assert_eq!((event.event.as_str(), event.code, event.reason.as_str()), ("channel-hangup", 486, "USER_BUSY"));
        assert_eq!((event.id.micros(), event.node.as_str(), event.dc.as_str()), (1_767_225_600_123_456, "m1", "dc1"));
        assert_eq!((event.source.as_str(), event.from_uri.as_str()), ("sip:192.0.2.11:5060", "sip:alice@example.com"));
        let all = [(channel::OTHER, "b-leg"), (channel::MOS, "4.42"), (channel::CODEC_READ, "PCMU@8000")];
        for (name, value) in all.into_iter().chain([(channel::RTP_IN, "617"), (channel::Q850, "17")]) {
            assert_eq!(event.extra(name), Some(value), "{name} of {event:?}");
        }
        assert!(event.extra.len() == MOST_EXTRA, "{} are told, {MOST_EXTRA} kept", event.extra.len());
    }

    #[test]
    fn the_same_event_has_the_same_name_and_another_has_not() {
        let call = [("variable_sip_call_id", "call")];
        let id = |name: &str, channel: &str| channels().take(&told(name, channel, &call)).map(|event| event.id);
        assert_eq!(id("CHANNEL_CREATE", "a"), id("CHANNEL_CREATE", "a"));
        assert_ne!(id("CHANNEL_CREATE", "a"), id("CHANNEL_CREATE", "b"));
        assert_ne!(id("CHANNEL_CREATE", "a"), id("CHANNEL_ANSWER", "a"));
    }

    #[test]
    fn a_leg_without_a_name_belongs_to_the_call_that_it_was_begun_for() {
        let mut channels = channels();
        let mut call_of =
            |name: &str, channel: &str, more: &[(&str, &str)]| Some(channels.take(&told(name, channel, more))?.call_id);
        let of = |id: &str| Some(id.to_owned());
        assert_eq!(call_of("CHANNEL_CREATE", "a", &[("variable_sip_h_X-Call", "call")]), of("call"));
        assert_eq!(call_of("CHANNEL_CREATE", "b", &[("Other-Leg-Unique-ID", "a")]), of("call"));
        assert_eq!(call_of("CHANNEL_ANSWER", "b", &[("variable_sip_call_id", "own")]), of("call"), "it keeps it");
        assert_eq!(call_of("CHANNEL_CREATE", "c", &[("variable_sip_call_id", "own")]), of("own"), "nobody said more");
        assert_eq!(call_of("CHANNEL_CREATE", "d", &[]), None, "of no call");
        assert_eq!(call_of("HEARTBEAT", "a", &[]), None);
    }

    #[test]
    fn what_ended_unseen_ends_when_that_is_noticed() {
        let mut channels = channels();
        for channel in ["a", "b"] {
            channels.take(&told("CHANNEL_CREATE", channel, &[("variable_sip_h_X-Call", "call")]));
        }
        let there = HashSet::from(["b".to_owned(), "other".to_owned()]);
        let ends = channels.begin(Some(&there), 5_000_000);
        let [end] = ends.as_slice() else { panic!("{ends:?}") };
        assert_eq!((end.event.as_str(), end.call_id.as_str(), end.at().0), ("channel-hangup", "call", 5000));
        assert_eq!((end.extra(channel::ID), end.reason.as_str(), end.node.as_str()), (Some("a"), UNSEEN, "m1"));
        assert_eq!(channels.begin(Some(&there), 6_000_000), [], "once");
        assert_eq!(channels.begin(None, 7_000_000), [], "nothing is known");
        assert!(channels.calls.is_empty());
        // What the leg itself says is enough.
        assert!(channels.take(&told("CHANNEL_ANSWER", "b", &[])).is_none());
        assert!(channels.take(&told("CHANNEL_ANSWER", "b", &[("variable_sip_h_X-Call", "call")])).is_some());
    }

    proptest! {
        #[test]
        fn whatever_is_told_is_survived(headers in proptest::collection::hash_map(
            proptest::sample::select(vec![
                "Event-Name", "Unique-ID", "Event-Date-Timestamp", "Event-Sequence", "variable_sip_h_X-Call", "Call-Direction",
                "variable_sip_call_id", "Other-Leg-Unique-ID", "variable_proto_specific_hangup_cause", "Channel-Read-Codec-Name",
            ]).prop_map(str::to_owned),
            "\\PC{0,40}|[0-9]{0,25}|CHANNEL_HANGUP_COMPLETE|CHANNEL_CREATE|sip:[0-9]{0,6}",
            0..10,
        )) {
            if let Some(event) = channels().take(&headers) {
                prop_assert!(!event.call_id.is_empty() && event.is_of_channel());
            }
        }
    }
}
