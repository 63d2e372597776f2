//! What nodes have to do, as they say it: the content of a znode beside the announcement.

use serde::{Deserialize, Serialize};

/// What a node has to do; of each thing nothing is said by roles that have nothing to do with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Calls, and further legs, that are under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
    /// REGISTERs applied in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registrations: Option<u64>,
    /// Legs of calls that a media node has, with their audio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// How many of those it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u64>,
}

impl Load {
    /// As it is published.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What a node has published; nothing is known of what is none.
    pub fn parse(published: &[u8]) -> Option<Self> {
        serde_json::from_slice(published).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read_again_and_what_is_none_is_none() {
        let load = Load { calls: Some(3), ..Load::default() };
        assert_eq!(load.json(), br#"{"calls":3}"#);
        assert_eq!(Load::parse(&load.json()), Some(load));
        for garbage in [&b""[..], b"\xff", b"[-1]", br#"{"calls":-1}"#, br#"{"calls":"<b>"}"#] {
            assert_eq!(Load::parse(garbage), None);
        }
    }
}
