//! The sets of nodes that a Kamailio routes by: the content of its dispatcher's list or table.
//!
//! The same members make the same lines on every node of a data centre, in the same order: what hashes choose by it is the same
//! everywhere.

use std::fmt;

use fleet::{ELSEWHERE, Role, State};

use crate::members::Member;

/// Dispatchers that take nothing new, a second time: what is inside their dialogs reaches them.
const DRAINING_DISPATCHERS: u32 = 202;
/// The flag of the module `dispatcher` for a destination that takes nothing new.
pub(crate) const DISABLED: u32 = 4;
/// What the weights of a set are together: the module fills a hundred places by them.
const PLACES: usize = 100;
/// Ids of sets that are not made of nodes.
const GATEWAYS: std::ops::RangeInclusive<i32> = 10..=99;
/// The set of media nodes, of which some may run without an agent.
const MEDIA: i32 = 5;

/// A destination of the module `dispatcher`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Id of its set.
    pub set: u32,
    /// A SIP URI with an address.
    pub destination: String,
    /// The module's flags.
    pub flags: u32,
    /// Those of a higher one are taken first where the module does not choose by weight or hash.
    pub priority: i32,
    /// Its attributes.
    pub attrs: String,
}

impl fmt::Display for Line {
    /// As the module's list file has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { set, destination, flags, priority, attrs } = self;
        write!(f, "{set} {destination} {flags} {priority} {attrs}")
    }
}

impl Line {
    /// A line of the module's list file for a set of gateways, whose ids are 10 to 99, or for a media node that has no agent (5).
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn of_further(text: &str) -> Result<Self, String> {
        let number =
            |what: &str, part: &str| part.parse::<i32>().map_err(|_| format!("its {what} '{part}' is no number"));
        let mut parts = text.split_whitespace();
        let set = number("set id", parts.next().unwrap_or_default())?;
        if !GATEWAYS.contains(&set) && set != MEDIA {
            return Err(format!("its set id {set} is not 5 or between 10 and 99; all others are made of nodes"));
        }
        let destination = parts.next().unwrap_or_default().to_owned();
        if !["sip:", "sips:"].iter().any(|scheme| destination.starts_with(scheme)) {
            return Err(format!("'{destination}' is no SIP URI"));
        }
        let flags = number("flags", parts.next().unwrap_or("0"))?;
        let priority = number("priority", parts.next().unwrap_or("0"))?;
        let flags = u32::try_from(flags).map_err(|_| format!("its flags {flags} are negative"))?;
        let attrs = parts.collect::<Vec<_>>().join(" ");
        Ok(Self { set: set.cast_unsigned(), destination, flags, priority, attrs })
    }
}

/// The lines for a node of the data centre `dc` that these are the members for, sorted.
///
/// Nodes of the same data centre are in the set of their role, those of all others in that and 100. The weights of a set are a
/// hundred together: each node has its share, and at least one, while there are so many. One that takes nothing new has the flag 4. Of
/// several nodes at one address, which moves between them, one stands for all.
pub fn lines(members: &[Member], dc: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for role in Role::ALL {
        for is_here in [true, false] {
            let mut of_set: Vec<_> =
                members.iter().filter(|member| member.node.role == role && (member.node.dc == dc) == is_here).collect();
            of_set.sort_by_key(|member| (&member.node.dc, &member.node.name));
            let rank = |member: &Member| (!member.takes_new, member.node.dc.clone(), member.node.name.clone());
            let is_shared = |member: &Member| {
                let is_better = |other: &&&Member| rank(other) < rank(member);
                of_set.iter().filter(is_better).any(|other| other.node.uri() == member.node.uri())
            };
            let of_set: Vec<_> = of_set.iter().filter(|member| !is_shared(member)).collect();
            let set = role.set() + if is_here { 0 } else { ELSEWHERE };
            let places = places(&of_set.iter().map(|member| share(member)).collect::<Vec<_>>());
            lines.extend(of_set.iter().zip(places).filter_map(|(member, places)| line(set, member, places)));
        }
    }
    let nodes = members.iter().map(|member| &member.node);
    let mut draining: Vec<_> =
        nodes.filter(|node| node.role == Role::Dispatcher && node.state == State::Draining).collect();
    draining.sort_by(|one, other| one.name.cmp(&other.name));
    lines.extend(draining.into_iter().filter_map(|node| {
        Some(Line {
            set: DRAINING_DISPATCHERS,
            destination: node.uri()?,
            flags: 0,
            priority: 0,
            attrs: format!("node={}", node.name),
        })
    }));
    lines
}

fn line(set: u32, member: &Member, places: usize) -> Option<Line> {
    Some(Line {
        set,
        destination: member.node.uri()?,
        flags: if member.takes_new { 0 } else { DISABLED },
        priority: 0,
        attrs: format!("weight={places};node={}", member.node.name),
    })
}

/// What part of the work is a node's, in comparison to others.
fn share(member: &Member) -> u32 {
    if member.takes_new { member.node.weight } else { 0 }
}

/// How many of the hundred places each has. The last one always has one: without it the module takes the set for one without weights.
fn places(shares: &[u32]) -> Vec<usize> {
    let count = shares.len();
    if count > PLACES {
        // Some have none, and get work when others fail.
        return (0..count).map(|index| usize::from(index >= count - PLACES)).collect();
    }
    let free = PLACES - count;
    let sum = shares.iter().map(|share| *share as usize).sum::<usize>();
    if sum == 0 {
        return vec![1; count];
    }
    let mut places: Vec<_> = shares.iter().map(|share| 1 + free * *share as usize / sum).collect();
    // What is left goes to those who lost most by rounding down.
    let left = PLACES - places.iter().sum::<usize>();
    let mut by_loss: Vec<_> = (0..count).collect();
    by_loss.sort_by_key(|index| std::cmp::Reverse(free * shares[*index] as usize % sum));
    by_loss.iter().take(left).for_each(|index| places[*index] += 1);
    places
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use fleet::Announcement;
    use fleet::node::testing::node;

    fn rendered(nodes: &[Announcement]) -> Vec<String> {
        let member =
            |node: &Announcement| Member { node: node.clone(), takes_new: node.state == State::Up, is_missing: false };
        lines(&nodes.iter().map(member).collect::<Vec<_>>(), "dc1").iter().map(Line::to_string).collect()
    }

    #[test]
    fn each_role_has_its_set_and_other_data_centres_have_theirs() {
        let members = [
            node(Role::Registrar, "r2", "dc1"),
            node(Role::Registrar, "r1", "dc1"),
            node(Role::Dispatcher, "d9", "dc2"),
            node(Role::LoadBalancer, "b1", "dc1"),
        ];
        let expected = [
            "1 sip:192.0.2.49:5060 0 0 weight=100;node=b1",
            "102 sip:192.0.2.57:5060 0 0 weight=100;node=d9",
            "3 sip:192.0.2.49:5060 0 0 weight=50;node=r1",
            "3 sip:192.0.2.50:5060 0 0 weight=50;node=r2",
        ];
        assert_eq!(rendered(&members), expected);
        let mut others = members;
        others.reverse();
        assert_eq!(rendered(&others), expected);
    }

    #[test]
    fn a_dispatcher_that_drains_is_asked_for_its_dialogs_alone() {
        let mut members = [node(Role::Dispatcher, "d1", "dc1"), node(Role::Dispatcher, "d2", "dc1")];
        members[0].state = State::Draining;
        assert_eq!(
            rendered(&members),
            [
                "2 sip:192.0.2.49:5060 4 0 weight=1;node=d1",
                "2 sip:192.0.2.50:5060 0 0 weight=99;node=d2",
                "202 sip:192.0.2.49:5060 0 0 node=d1"
            ]
        );
    }

    #[test]
    fn an_address_that_moves_between_nodes_is_listed_once_and_lives_while_one_of_them_does() {
        let mut members = ["b1", "b2"].map(|name| Announcement {
            sip: node(Role::LoadBalancer, "b9", "dc1").sip,
            ..node(Role::LoadBalancer, name, "dc1")
        });
        assert_eq!(rendered(&members), ["1 sip:192.0.2.57:5060 0 0 weight=100;node=b1"]);
        members[0].state = State::Draining;
        assert_eq!(rendered(&members), ["1 sip:192.0.2.57:5060 0 0 weight=100;node=b2"]);
        members[1].state = State::Draining;
        assert_eq!(rendered(&members), ["1 sip:192.0.2.57:5060 4 0 weight=1;node=b1"]);
    }

    #[test]
    fn weights_are_a_hundred_together() {
        assert_eq!(places(&[100, 100, 100]), [34, 33, 33]);
        assert_eq!(places(&[300, 100]), [75, 25]);
        assert_eq!(places(&[0]), [1]);
        assert_eq!(places(&[]), Vec::<usize>::new());
        let many = places(&[100; 500]);
        assert_eq!((many.iter().sum::<usize>(), many[499]), (100, 1));
    }

    #[test]
    fn a_further_line_is_as_the_module_has_it() {
        let line = Line::of_further("10 sip:192.0.2.9:5060;transport=tcp 0 5 weight=50").expect("right");
        assert_eq!(line.to_string(), "10 sip:192.0.2.9:5060;transport=tcp 0 5 weight=50");
        assert_eq!(
            Line::of_further("99 sips:gw.example.com").expect("right").to_string().trim(),
            "99 sips:gw.example.com 0 0"
        );
        for (text, expected) in [
            ("2 sip:192.0.2.9:5060", "not 5 or between 10 and 99"),
            ("ten sip:192.0.2.9", "no number"),
            ("10", "no SIP URI"),
            ("10 tel:+49", "no SIP URI"),
            ("10 sip:192.0.2.9 -1", "negative"),
            ("10 sip:192.0.2.9 0 high", "no number"),
        ] {
            let error = Line::of_further(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn nobody_is_left_out_of_a_hundred(shares in prop::collection::vec(0_u32..=1000, 1..=100)) {
            let places = places(&shares);
            let wanted = if shares.iter().all(|share| *share == 0) { shares.len() } else { 100 };
            prop_assert_eq!(places.iter().sum::<usize>(), wanted);
            prop_assert!(places.iter().all(|places| *places >= 1));
        }
    }
}
