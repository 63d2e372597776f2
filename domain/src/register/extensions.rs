//! What must be right before any contact is looked at: domain, option tags, Path, flows.

use serde::{Deserialize, Serialize};

use super::{Contact, Contacts, OutboundMode, PathMode, Register, Rejection};
use crate::lookup::{first_path_uri, path_uris};
use crate::token::is_token_char;
use crate::uri::SipUri;

/// Option tags of a Supported or Require header (RFC 3261 sections 20.37 and 20.32).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionTags {
    /// RFC 3327.
    pub path: bool,
    /// RFC 5626.
    pub outbound: bool,
    /// RFC 5627.
    pub gruu: bool,
    /// All others, comma-joined; `_` stands for what no option tag can hold, since a refusal names them.
    pub others: String,
}

impl OptionTags {
    /// Reads the bodies of all headers of one name. The others are kept when `keep_others` says so.
    pub fn parse<'b>(bodies: impl IntoIterator<Item = &'b str>, keep_others: bool) -> Self {
        let mut tags = Self::default();
        for tag in bodies.into_iter().flat_map(|body| body.split(',')).map(str::trim).filter(|tag| !tag.is_empty()) {
            match tag {
                tag if tag.eq_ignore_ascii_case("path") => tags.path = true,
                tag if tag.eq_ignore_ascii_case("outbound") => tags.outbound = true,
                tag if tag.eq_ignore_ascii_case("gruu") => tags.gruu = true,
                other if keep_others => {
                    let separator = if tags.others.is_empty() { "" } else { ", " };
                    tags.others.push_str(separator);
                    tags.others.extend(other.chars().map(|c| if is_token_char(c) { c } else { '_' }));
                }
                _ => {}
            }
        }
        tags
    }
}

/// Which contacts of a REGISTER name flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flows {
    /// None: reg-id is ignored.
    Ignored,
    /// Those with instance and reg-id, but nothing is promised (`regid_mode=1`).
    Named,
    /// Those with instance and reg-id, by RFC 5626: the answer says so.
    Outbound,
}

impl Flows {
    /// The reg-id of a contact that counts; 0 for none.
    pub(super) fn reg_id(self, contact: &Contact) -> u32 {
        match self {
            Self::Ignored => 0,
            _ if contact.instance.is_empty() => 0,
            _ => contact.reg_id.unwrap_or_default(),
        }
    }
}

/// All that can refuse a REGISTER whatever its contacts say.
pub(super) fn check(register: &Register) -> Result<(), Rejection> {
    check_domain(register)?;
    check_required(register)?;
    check_path(register)
}

/// RFC 3261 section 10.3 step 5: the AoR must be valid for the domain in the Request-URI. One sent to an address names no
/// domain.
fn check_domain(register: &Register) -> Result<(), Rejection> {
    let Ok(target) = SipUri::parse(&register.request_uri) else { return Ok(()) };
    let host = target.host.as_str();
    if host == register.aor.domain() || is_address(host) {
        return Ok(());
    }
    Err(Rejection::new(404, "The domain of To is not the one of the Request-URI"))
}

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok()
}

/// Section 10.3 step 2, and RFC 5626 for outbound.
fn check_required(register: &Register) -> Result<(), Rejection> {
    let policy = &register.policy;
    let required = &register.required;
    let outbound_off = policy.outbound == OutboundMode::Off;
    let mut unsupported: Vec<&str> = required.others.split(", ").filter(|tag| !tag.is_empty()).collect();
    if required.path && policy.path == PathMode::Ignore {
        unsupported.push("path");
    }
    if required.outbound && outbound_off {
        unsupported.push("outbound");
    }
    if required.gruu && !policy.gruu {
        unsupported.push("gruu");
    }
    if !unsupported.is_empty() {
        let what = "An extension that is required is not supported";
        return Err(Rejection::new(420, what).with_header("Unsupported", unsupported.join(", ")));
    }
    if policy.outbound == OutboundMode::Required && !register.supported.outbound {
        return Err(Rejection::new(421, "No support for Outbound indicated").with_header("Require", "outbound"));
    }
    Ok(())
}

/// RFC 3327 section 5.3, before anything is stored. A Path must be a list of loose routes.
fn check_path(register: &Register) -> Result<(), Rejection> {
    let mode = register.policy.path;
    if register.path.is_empty() || mode == PathMode::Ignore {
        return Ok(());
    }
    if mode == PathMode::Strict && !register.supported.path {
        return Err(Rejection::new(420, "No support for found Path indicated").with_header("Unsupported", "path"));
    }
    let loose = |uri| SipUri::parse(uri).is_ok_and(|uri| uri.params.contains_key("lr"));
    let is_text = !register.path.contains(|c: char| c.is_control() && c != '\t');
    let well_formed = is_text && first_path_uri(&register.path).is_some() && path_uris(&register.path).all(loose);
    if well_formed { Ok(()) } else { Err(Rejection::new(400, "Path parse error")) }
}

/// RFC 5626 section 6: which reg-ids count.
pub(super) fn flows(register: &Register) -> Result<Flows, Rejection> {
    let Contacts::List(contacts) = &register.contacts else { return Ok(Flows::Ignored) };
    let policy = &register.policy;
    let named = contacts.iter().filter(|contact| contact.reg_id.is_some() && !contact.instance.is_empty());
    let asked = policy.outbound != OutboundMode::Off && register.supported.outbound && named.clone().count() > 0;
    if !asked && !policy.regid_always {
        return Ok(Flows::Ignored);
    }
    if named.clone().any(|contact| contact.reg_id == Some(0)) {
        return Err(Rejection::new(400, "Invalid Reg-Id number"));
    }
    if !asked {
        return Ok(Flows::Named);
    }
    if !register.first_hop && !edge_keeps_flows(&register.path) {
        return Err(Rejection::new(439, "No support for Outbound on edge proxy"));
    }
    if named.filter(|contact| contact.expires != Some(0)).count() > 1 {
        return Err(Rejection::new(400, "More than one Contact with a Reg-Id"));
    }
    Ok(Flows::Outbound)
}

/// Whether the edge understands outbound (`;ob`): by the first Path URI (RFC 5626 section 6), or by the last, which is the
/// proxy that the user agent is connected to, since every hop puts its own in front (RFC 3327 section 5.2).
fn edge_keeps_flows(path: &str) -> bool {
    let keeps = |uri: &str| SipUri::parse(uri).is_ok_and(|uri| uri.params.contains_key("ob"));
    first_path_uri(path).is_some_and(keeps) || path_uris(path).last().is_some_and(keeps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_tags_are_case_insensitive_and_others_are_kept_on_demand() {
        let read = |keep| OptionTags::parse(["Path, timer", "GRUU,100rel"], keep);
        assert_eq!(
            read(true),
            OptionTags { path: true, gruu: true, outbound: false, others: "timer, 100rel".to_owned() }
        );
        assert_eq!(read(false).others, "");
        assert_eq!(OptionTags::parse(["a\u{0}b, \"c\""], true).others, "a_b, _c_");
    }

    #[test]
    fn the_edge_is_at_an_end_of_the_path() {
        for keeping in ["<sip:inner;lr>,<sip:edge;lr;ob>", "<sip:inner;lr;ob>, <sip:edge;lr>", "<sip:edge;ob;lr>"] {
            assert!(edge_keeps_flows(keeping), "{keeping}");
        }
        for not in ["", "<sip:a;lr>,<sip:b;lr;ob>,<sip:c;lr>", "<sip:edge;lr>;ob"] {
            assert!(!edge_keeps_flows(not), "{not}");
        }
    }
}
