//! The registrar's parameters: the names, defaults and meanings of the stock `registrar` (and `usrloc`) where it has them.
#![forbid(unsafe_code)]

use domain::lookup::Filter;
use domain::register::{OutboundMode, PathMode, Policy};

use super::{number, raw, switch};
use crate::host::message::Message;
use crate::host::pv::Named;
use crate::host::runtime::{Definition, Group};
use crate::host::{params, socket, xavp};

/// The parameters that can be changed while the server runs, in their order.
pub(crate) static RUNTIME: Group<{ Setting::COUNT }> = Group::new([3600, 0, 0, 60, 3600, 0, 0, 1, -1, 1, 0]);

/// An index into [`RUNTIME`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Setting {
    DefaultExpires,
    DefaultExpiresRange,
    ExpiresRange,
    MinExpires,
    MaxExpires,
    MaxContacts,
    RetryAfter,
    CaseSensitive,
    DefaultQ,
    AppendBranches,
    UseExpiredContacts,
}

const YEAR: i32 = 31_536_000;

impl Setting {
    pub(crate) const COUNT: usize = 11;

    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::DefaultExpires,
        Self::DefaultExpiresRange,
        Self::ExpiresRange,
        Self::MinExpires,
        Self::MaxExpires,
        Self::MaxContacts,
        Self::RetryAfter,
        Self::CaseSensitive,
        Self::DefaultQ,
        Self::AppendBranches,
        Self::UseExpiredContacts,
    ];

    /// Name, bounds and description.
    pub(crate) const fn definition(self) -> Definition {
        let (name, min, max, help) = match self {
            Self::DefaultExpires => (c"default_expires", 1, YEAR, c"Seconds for a contact that names no expiry"),
            Self::DefaultExpiresRange => {
                (c"default_expires_range", 0, 100, c"Per cent that default_expires is shortened by at random")
            }
            Self::ExpiresRange => (c"expires_range", 0, 100, c"Per cent that an expiry is shortened by at random"),
            Self::MinExpires => (c"min_expires", 0, YEAR, c"Shortest expiry in seconds; 0 for no bound"),
            Self::MaxExpires => (c"max_expires", 0, YEAR, c"Longest expiry in seconds; 0 for the table's own bound"),
            Self::MaxContacts => (c"max_contacts", 0, 100_000, c"Bindings that an AoR may have; 0 for no limit"),
            Self::RetryAfter => (c"retry_after", 0, 86_400, c"Seconds in Retry-After of a 503; 0 for none"),
            Self::CaseSensitive => (c"case_sensitive", 0, 1, c"Whether user names differ by letter case"),
            Self::DefaultQ => (c"default_q", -1, 1000, c"q in thousandths of a contact that has none; -1 for none"),
            Self::AppendBranches => (c"append_branches", 0, 1, c"Whether lookup adds the bindings after the first"),
            Self::UseExpiredContacts => (c"use_expired_contacts", 0, 1, c"Whether bindings count that have expired"),
        };
        Definition { name, min, max, help }
    }

    fn get(self) -> i32 {
        RUNTIME.get(self as usize)
    }

    fn unsigned(self) -> u32 {
        u32::try_from(self.get()).unwrap_or_default()
    }

    fn is_on(self) -> bool {
        self.get() != 0
    }

    /// The table row of its modparam.
    pub(crate) const fn export(self) -> crate::host::sys::param_export_t {
        RUNTIME.export(self as usize, self.definition().name)
    }
}

/// What does not change once the server has started.
#[derive(Debug, Clone)]
pub(crate) struct Registrar {
    min_expires_reject: bool,
    contact_max_size: u16,
    path: PathMode,
    path_use_received: bool,
    /// Whether a Path that begins at this server is followed from its second hop.
    pub(crate) path_check_local: bool,
    nat_flags: u32,
    cseq_delay: u32,
    outbound: OutboundMode,
    regid_always: bool,
    flow_timer: u16,
    gruu: bool,
    received_avp: Option<Named>,
    received_param: String,
    socket: SocketRule,
    realm_prefix: String,
    method_filtering: bool,
    filter_by_flags: bool,
    by_time: bool,
    /// Name of the XAVP by which the script sets rules for one request; `""` for none.
    pub(crate) xavp_cfg: String,
    /// Name of the XAVP that is filled with what was found; `""` for none.
    pub(crate) xavp_rcd: String,
    /// Which of its children are left out.
    pub(crate) xavp_rcd_mask: u32,
    /// Name of the XAVP that is kept with each binding; `""` for none.
    pub(crate) xavp_contact: String,
}

/// Which socket is stored with a binding.
#[derive(Debug, Clone)]
struct SocketRule {
    /// Message flag that makes the script's socket count.
    flag: Option<u32>,
    /// Header that names it; `""`: the `socket` of `xavp_cfg`.
    header: String,
    advertised: bool,
}

impl Registrar {
    /// Reads and checks the parameters, and declares those that can be changed at run time.
    ///
    /// # Errors
    /// One sentence that names the parameter, its value and what is allowed.
    pub(super) fn read() -> Result<Self, String> {
        check_settings()?;
        RUNTIME.declare(c"cassandra", &Setting::ALL.map(Setting::definition))?;
        Ok(Self {
            min_expires_reject: switch("min_expires_mode", &raw::MIN_EXPIRES_MODE)?,
            contact_max_size: number("contact_max_size", &raw::CONTACT_MAX_SIZE, 16..=4096)? as u16,
            path: path_mode()?,
            path_use_received: switch("path_use_received", &raw::PATH_USE_RECEIVED)?,
            path_check_local: switch("path_check_local", &raw::PATH_CHECK_LOCAL)?,
            nat_flags: flag("nat_bflag", &raw::NAT_BFLAG)?.map_or(0, |flag| 1 << flag),
            cseq_delay: number("cseq_delay", &raw::CSEQ_DELAY, 0..=3600)?,
            outbound: outbound_mode()?,
            regid_always: switch("regid_mode", &raw::REGID_MODE)?,
            flow_timer: number("flow_timer", &raw::FLOW_TIMER, 0..=999)? as u16,
            gruu: switch("gruu_enabled", &raw::GRUU_ENABLED)?,
            received_avp: variable("received_avp", &raw::RECEIVED_AVP)?,
            received_param: raw::RECEIVED_PARAM.get().unwrap_or_else(|| "received".to_owned()),
            socket: SocketRule {
                flag: flag("sock_flag", &raw::SOCK_FLAG)?,
                header: raw::SOCK_HDR_NAME.get().unwrap_or_default(),
                advertised: switch("sock_mode", &raw::SOCK_MODE)?,
            },
            realm_prefix: raw::REALM_PREFIX.get().unwrap_or_default().to_ascii_lowercase(),
            method_filtering: switch("method_filtering", &raw::METHOD_FILTERING)?,
            filter_by_flags: switch("lookup_filter_mode", &raw::LOOKUP_FILTER_MODE)?,
            by_time: switch("desc_time_order", &raw::DESC_TIME_ORDER)?,
            xavp_cfg: raw::XAVP_CFG.get().unwrap_or_default(),
            xavp_rcd: raw::XAVP_RCD.get().unwrap_or_default(),
            xavp_rcd_mask: number("xavp_rcd_mask", &raw::XAVP_RCD_MASK, 0..=31)?,
            xavp_contact: raw::XAVP_CONTACT.get().unwrap_or_default(),
        })
    }

    /// The rules for one REGISTER. With `exact_expiry` its expiries are not shortened at random.
    pub(crate) fn policy(&self, exact_expiry: bool) -> Policy {
        let random = |range: Setting| socket::random_up_to(range.unsigned());
        let cut = |range| if exact_expiry { 0 } else { random(range) };
        let default_expires = Setting::DefaultExpires.unsigned();
        let (min_expires, max_expires) = (Setting::MinExpires.unsigned(), Setting::MaxExpires.unsigned());
        let default_cut = u64::from(default_expires) * u64::from(cut(Setting::DefaultExpiresRange)) / 100;
        Policy {
            default_expires: default_expires - u32::try_from(default_cut).unwrap_or_default(),
            expires_cut: u8::try_from(cut(Setting::ExpiresRange)).unwrap_or_default(),
            // Each can be changed while the server runs.
            min_expires: if max_expires > 0 { min_expires.min(max_expires) } else { min_expires },
            min_expires_reject: self.min_expires_reject,
            max_expires,
            max_contacts: self.for_request("max_contacts").unwrap_or(Setting::MaxContacts.unsigned()),
            retry_after: Setting::RetryAfter.unsigned(),
            default_q: i16::try_from(Setting::DefaultQ.get()).unwrap_or(-1),
            contact_max_size: self.contact_max_size,
            path: self.path,
            path_use_received: self.path_use_received,
            nat_flags: self.nat_flags,
            cseq_delay: self.cseq_delay,
            outbound: self.outbound,
            regid_always: self.regid_always,
            flow_timer: self.flow_timer,
            gruu: self.gruu,
            received_param: self.received_param.clone(),
        }
    }

    /// Which bindings a request may go to.
    pub(crate) fn filter(&self, message: &Message<'_>) -> Filter {
        let by_method = self.method_filtering && !message.has_to_tag();
        let flags = if self.filter_by_flags { self.for_request("rlf_bflags") } else { None };
        Filter {
            method: by_method.then(|| message.method_bit()),
            flags: flags.unwrap_or_default(),
            ..self.any_contact()
        }
    }

    /// All bindings, whatever the request.
    pub(crate) fn any_contact(&self) -> Filter {
        Filter { method: None, flags: 0, expired: Setting::UseExpiredContacts.is_on(), by_time: self.by_time }
    }

    /// The branch flags that say a contact is behind a NAT.
    pub(crate) fn nat_flags(&self) -> u32 {
        self.nat_flags
    }

    /// Whether lookup uses the bindings after the first.
    pub(crate) fn appends_branches(&self) -> bool {
        Setting::AppendBranches.is_on()
    }

    /// A whole number that the script has set for this request (`xavp_cfg`).
    pub(crate) fn for_request(&self, name: &str) -> Option<u32> {
        if self.xavp_cfg.is_empty() {
            return None;
        }
        xavp::number_of(&self.xavp_cfg, name).and_then(|value| u32::try_from(value).ok())
    }

    /// A text that the script has set for this request (`xavp_cfg`).
    pub(crate) fn text_for_request(&self, name: &str) -> Option<String> {
        if self.xavp_cfg.is_empty() {
            return None;
        }
        xavp::text_of(&self.xavp_cfg, name).filter(|value| !value.is_empty())
    }

    /// Where the script has seen the contact (`received_avp`); `""` when it says nothing.
    pub(crate) fn received(&self, message: &Message<'_>) -> String {
        self.received_avp.and_then(|variable| variable.text(message)).unwrap_or_default()
    }

    /// The socket to store with the bindings of this REGISTER.
    pub(crate) fn socket(&self, message: &Message<'_>) -> String {
        let chosen = self.socket.flag.filter(|flag| message.has_flag(*flag)).and_then(|_| self.chosen_socket(message));
        chosen.unwrap_or_else(|| message.socket(self.socket.advertised))
    }

    fn chosen_socket(&self, message: &Message<'_>) -> Option<String> {
        let written = match self.socket.header.as_str() {
            "" => self.text_for_request("socket"),
            header => message.header_named(header),
        }?;
        socket::is_local(&written).then_some(written)
    }

    /// An AoR as this registrar knows it.
    pub(crate) fn canonical(&self, aor: domain::Aor) -> domain::Aor {
        let aor = if self.realm_prefix.is_empty() { aor } else { aor.without_domain_prefix(&self.realm_prefix) };
        if Setting::CaseSensitive.is_on() { aor } else { aor.in_lower_case() }
    }
}

/// Longest expiry at the start, for the check against the table.
pub(super) fn initial_max_expires() -> u32 {
    u32::try_from(RUNTIME.initial(Setting::MaxExpires as usize)).unwrap_or_default()
}

fn check_settings() -> Result<(), String> {
    let value = |setting: Setting| RUNTIME.initial(setting as usize);
    for setting in Setting::ALL {
        let Definition { name, min, max, .. } = setting.definition();
        let value = value(setting);
        if !(min..=max).contains(&value) {
            return Err(format!("parameter {} is {value} but must be {min} to {max}", name.to_string_lossy()));
        }
    }
    let (min, max) = (value(Setting::MinExpires), value(Setting::MaxExpires));
    if max > 0 && min > max {
        return Err(format!("parameter min_expires is {min} but must not exceed max_expires ({max})"));
    }
    Ok(())
}

fn path_mode() -> Result<PathMode, String> {
    let mode = match raw::PATH_MODE.get() {
        0 => PathMode::Off,
        1 => PathMode::Lazy,
        2 => PathMode::Strict,
        wrong => return Err(format!("parameter path_mode is {wrong} but must be 0 (off), 1 (lazy) or 2 (strict)")),
    };
    Ok(if switch("use_path", &raw::USE_PATH)? { mode } else { PathMode::Ignore })
}

fn outbound_mode() -> Result<OutboundMode, String> {
    match raw::OUTBOUND_MODE.get() {
        0 => Ok(OutboundMode::Off),
        1 => Ok(OutboundMode::Supported),
        2 => Ok(OutboundMode::Required),
        wrong => Err(format!("parameter outbound_mode is {wrong} but must be 0 (off), 1 (supported) or 2 (required)")),
    }
}

/// The number of a flag; `None` for -1.
fn flag(name: &str, parameter: &params::Number) -> Result<Option<u32>, String> {
    match parameter.get() {
        -1 => Ok(None),
        number @ 0..=31 => Ok(Some(number as u32)),
        wrong => Err(format!("parameter {name} is {wrong} but must be the number of a flag, 0 to 31, or -1 for none")),
    }
}

/// A variable that the parameter names.
fn variable(name: &str, parameter: &params::Text) -> Result<Option<Named>, String> {
    let Some(written) = parameter.get() else { return Ok(None) };
    Named::find(&written)
        .map(Some)
        .ok_or_else(|| format!("parameter {name} is '{written}' but must be a variable, for example $avp(RECEIVED)"))
}
