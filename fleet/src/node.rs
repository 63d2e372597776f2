//! Nodes, as they say what they are: the content of a znode.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Takes requests from phones.
    LoadBalancer,
    /// Authenticates and records calls.
    Dispatcher,
    /// Stores bindings.
    Registrar,
    /// Finds where somebody is registered.
    Outbound,
    /// One side of calls that need one.
    Media,
}

impl Role {
    /// All there are, in the order of their sets.
    pub const ALL: [Self; 5] = [Self::LoadBalancer, Self::Dispatcher, Self::Registrar, Self::Outbound, Self::Media];

    /// As it is written in configurations and paths.
    pub fn name(self) -> &'static str {
        match self {
            Self::LoadBalancer => "load-balancer",
            Self::Dispatcher => "dispatcher",
            Self::Registrar => "registrar",
            Self::Outbound => "outbound",
            Self::Media => "media",
        }
    }

    /// The set of the role's nodes in a list of nodes (`kamailio-cfg/README.md`).
    pub fn set(self) -> u32 {
        match self {
            Self::LoadBalancer => 1,
            Self::Dispatcher => 2,
            Self::Registrar => 3,
            Self::Outbound => 4,
            Self::Media => 5,
        }
    }

    /// Whether its nodes are of no use without Cassandra.
    pub fn needs_cassandra(self) -> bool {
        matches!(self, Self::Dispatcher | Self::Registrar | Self::Outbound)
    }
}

/// What the ids of the sets of other data centres have more in such a list.
pub const ELSEWHERE: u32 = 100;

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a node that is there wants of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It takes what comes.
    #[default]
    Up,
    /// It takes nothing new.
    Draining,
}

impl State {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
        }
    }
}

/// How SIP is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Streams.
    Tcp,
    /// Encrypted streams.
    Tls,
    /// WebSocket.
    Ws,
    /// Encrypted WebSocket.
    Wss,
}

/// A node by which no other is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// What it is for.
    pub role: Role,
    /// Its name among the nodes of its role, in all data centres.
    pub name: String,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

/// What a node tells the others of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// What it is for.
    pub role: Role,
    /// Its name among the nodes of its role, in all data centres.
    pub name: String,
    /// Its data centre.
    pub dc: String,
    /// Its rack; `""` for none.
    #[serde(default)]
    pub rack: String,
    /// What it wants of the others.
    #[serde(default)]
    pub state: State,
    /// Its share of the work, in comparison to others of its role; from 1 to [`MOST_WEIGHT`].
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Where it takes SIP.
    pub sip: BTreeMap<Transport, SocketAddr>,
    /// What it runs.
    #[serde(default)]
    pub version: String,
    /// When its process was started, as RFC 3339 has it.
    #[serde(default)]
    pub started: String,
}

/// The greatest weight.
pub const MOST_WEIGHT: u32 = 1000;

/// The longest name of a node, a data centre or a rack, in bytes: with it a line of a list fits into Kamailio's buffer.
const LONGEST_NAME: usize = 64;

fn default_weight() -> u32 {
    100
}

impl Announcement {
    /// Which node it is of.
    pub fn id(&self) -> NodeId {
        NodeId { role: self.role, name: self.name.clone() }
    }

    /// As it is published.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What the node of this role and name has published.
    ///
    /// # Errors
    /// A sentence about what is wrong with it. What others write must not get into the list of a Kamailio unseen.
    pub fn parse(role: Role, name: &str, published: &[u8]) -> Result<Self, String> {
        let parsed: Self =
            serde_json::from_slice(published).map_err(|error| format!("it is no announcement: {error}"))?;
        if (parsed.role, parsed.name.as_str()) != (role, name) {
            return Err(format!("it is of {} {}", parsed.role, parsed.name));
        }
        parsed.check()?;
        Ok(parsed)
    }

    /// Whether it can be published.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        for (what, name) in [("name", &self.name), ("data centre", &self.dc)] {
            if !is_name(name) {
                return Err(format!(
                    "'{name}' is no {what}: it has 1 to 64 letters, digits, dots, dashes and underscores"
                ));
            }
        }
        if !self.rack.is_empty() && !is_name(&self.rack) {
            return Err(format!("'{}' is no rack: it has letters, digits, dots, dashes and underscores", self.rack));
        }
        if !(1..=MOST_WEIGHT).contains(&self.weight) {
            return Err(format!("the weight {} is not between 1 and {MOST_WEIGHT}", self.weight));
        }
        self.uri()
            .map(drop)
            .ok_or_else(|| "no address by UDP or TCP is given, at which other nodes reach it".to_owned())
    }

    /// Where other nodes send SIP to: by UDP where it takes that.
    pub fn uri(&self) -> Option<String> {
        let by = |transport: Transport| self.sip.get(&transport);
        match (by(Transport::Udp), by(Transport::Tcp)) {
            (Some(address), _) => Some(format!("sip:{address}")),
            (None, Some(address)) => Some(format!("sip:{address};transport=tcp")),
            (None, None) => None,
        }
    }
}

/// Whether it can be a name in a path, in a list of nodes, and on a page.
fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_part) && ![".", ".."].contains(&name)
}

/// For tests.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use super::*;

    /// A node at an address of 192.0.2.0/24 whose last byte is that of its name.
    pub fn node(role: Role, name: &str, dc: &str) -> Announcement {
        let host = name.bytes().last().unwrap_or_default();
        Announcement {
            role,
            name: name.to_owned(),
            dc: dc.to_owned(),
            rack: String::new(),
            state: State::Up,
            weight: 100,
            sip: BTreeMap::from([(Transport::Udp, SocketAddr::from(([192, 0, 2, host], 5060)))]),
            version: "0.1.0".to_owned(),
            started: "2026-01-01T00:00:00Z".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::node;
    use super::*;

    #[test]
    fn what_is_published_is_read_again() {
        let node = node(Role::LoadBalancer, "lb-1", "dc1");
        let published = String::from_utf8(node.json()).expect("text");
        assert!(
            published.contains(r#""role":"load-balancer""#) && published.contains(r#""sip":{"udp":"192.0.2.49:5060"}"#)
        );
        assert_eq!(Announcement::parse(Role::LoadBalancer, "lb-1", published.as_bytes()), Ok(node));
    }

    #[test]
    fn what_is_no_announcement_is_told_why() {
        let of = |change: fn(&mut Announcement)| {
            let mut node = node(Role::Registrar, "r1", "dc1");
            change(&mut node);
            Announcement::parse(Role::Registrar, "r1", &node.json()).expect_err("wrong")
        };
        assert_eq!(of(|node| node.name = "r2".to_owned()), "it is of registrar r2");
        assert!(of(|node| node.dc = "dc 1\n2 sip:evil".to_owned()).contains("is no data centre"));
        assert!(of(|node| node.weight = 0).contains("the weight 0"));
        assert!(of(|node| node.sip = BTreeMap::new()).contains("no address"));
        for garbage in [&b""[..], b"\xff\xfe", b"{}", b"[1]", b"null"] {
            let error = Announcement::parse(Role::Registrar, "r1", garbage).expect_err("garbage");
            assert!(error.starts_with("it is no announcement"), "{error}");
        }
    }

    #[test]
    fn a_node_without_udp_is_reached_by_tcp() {
        let mut node = node(Role::Media, "m1", "dc1");
        let address = node.sip.remove(&Transport::Udp).expect("one");
        node.sip.insert(Transport::Tcp, address);
        assert_eq!(node.uri().as_deref(), Some("sip:192.0.2.49:5060;transport=tcp"));
    }
}
