//! Asking about bindings and removing them: `cassandra_registered`, `cassandra_fetch_contacts`, `cassandra_unregister` and the
//! like.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bridge::protocol::Operation;
use domain::{Aor, Binding, Timestamp, Which};
use serde::{Deserialize, Serialize};

use super::lookup::{NOT_REGISTERED, restore_attributes, show_record};
use super::{aor_of, rules, uri_or_target};
use crate::bridge_client::Way;
use crate::forms::{Prepared, forms};
use crate::host::auth::code;
use crate::host::command::{Args, ScriptCode, argument};
use crate::host::log::{log_debug, log_error};
use crate::host::message::Message;
use crate::host::pv;
use crate::host::xavp::{self, Value};
use crate::outcome::{Apply, finish};

/// `cassandra_unregister`: there is nothing to remove.
const NOT_FOUND: ScriptCode = -3;

/// What a binding must have to count for `cassandra_registered`; `""` for anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Match {
    call_id: String,
    received: String,
    contact: String,
    restore_attributes: bool,
    show_record: bool,
}

impl Match {
    fn fits(&self, binding: &Binding) -> bool {
        let same = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        same(&self.call_id, &binding.call_id)
            && same(&self.received, &binding.received)
            && same(&self.contact, &binding.contact)
    }
}

forms! {
    /// `cassandra_registered(domain[, uri[, match_option[, match_action]]])`: whether the Request-URI (or `uri`; of a reply, its
    /// To) is registered, as `registered`. `match_option` demands what `xavp_cfg` names: 1 `match_callid`, 2 `match_received`, 4
    /// `match_contact`. `match_action`: 1 restores `xavp_contact`, 2 leaves `xavp_rcd` out.
    ///
    /// Codes: 1; -1 not registered, or an error; -10 backend unavailable.
    registered, registered_async: prepare_registered;

    /// `cassandra_unregister(domain, uri[, ruid])`: removes the bindings of `uri`, all or the one with this record-unique id,
    /// as `unregister`.
    ///
    /// Codes: 1; -1 no AoR; -3 there is no such binding; -10 backend unavailable.
    unregister, unregister_async: prepare_unregister;

    /// `cassandra_fetch_contacts(domain, uri, profile)`: fetches the bindings of `uri` for `$cassandra_contact(profile=>...)`,
    /// as `reg_fetch_contacts`.
    ///
    /// Codes: 1; -1 not registered, or an error; -10 backend unavailable.
    fetch_contacts, fetch_contacts_async: prepare_fetch;

    /// `cassandra_lookup_xavp(domain, uri, record, contact)`: shows the bindings of `uri` in `$xavp(record=>...)` (`aor`,
    /// `domain`, `count`) and, for each binding, `$xavp(contact[i]=>...)`, as `lookup_xavp` of later versions.
    ///
    /// Codes: 1; -1 not registered, or an error; -10 backend unavailable.
    lookup_xavp, lookup_xavp_async: prepare_lookup_xavp;
}

/// `cassandra_free_contacts(profile)`: forgets what `cassandra_fetch_contacts` fetched.
pub(crate) fn free_contacts(_: &mut Message<'_>, args: &Args) -> ScriptCode {
    free(args.text(0));
    finish(code::OK, None)
}

/// Keeps bindings for `$cassandra_contact(profile=>...)`.
pub(crate) fn hold(profile: &str, aor: Aor, contacts: Vec<Binding>) {
    FETCHED.with_borrow_mut(|fetched| fetched.insert(profile.to_owned(), Fetched { aor, contacts }));
}

/// Forgets the bindings of a profile.
pub(crate) fn free(profile: &str) {
    FETCHED.with_borrow_mut(|fetched| fetched.remove(profile));
}

fn prepare_registered(message: &mut Message<'_>, given: &[String], _: Way) -> Prepared {
    let rules = rules().ok_or(code::ERROR)?;
    let aor = aor(&uri_or_target(message, argument(given, 1)))?;
    let number = |index| {
        domain::number::parse(argument(given, index)).map_err(|sentence| {
            log_error!("registered", "{sentence}");
            code::ERROR
        })
    };
    let (option, action) = (number(2)?, number(3)?);
    let demanded =
        |bit: u32, name| (option & bit != 0).then(|| rules.text_for_request(name)).flatten().unwrap_or_default();
    let wanted = Match {
        call_id: demanded(1, "match_callid"),
        received: demanded(2, "match_received"),
        contact: demanded(4, "match_contact"),
        restore_attributes: action & 1 != 0,
        show_record: action & 2 == 0,
    };
    Ok((Operation::Contacts(aor, rules.any_contact()), Apply::Registered(wanted)))
}

fn prepare_unregister(_: &mut Message<'_>, given: &[String], _: Way) -> Prepared {
    let (uri, ruid) = (argument(given, 1), argument(given, 2));
    if uri.is_empty() {
        log_error!(
            "unregister",
            "the uri is empty: bindings are stored by their AoR, a record id alone does not find one"
        );
        return Err(code::ERROR.into());
    }
    let which = if ruid.is_empty() { Which::All } else { Which::Ruid(ruid.to_owned()) };
    let one = which != Which::All;
    Ok((Operation::Remove { aor: aor(uri)?, which }, Apply::Unregister { one }))
}

fn prepare_fetch(_: &mut Message<'_>, given: &[String], _: Way) -> Prepared {
    let rules = rules().ok_or(code::ERROR)?;
    let aor = aor(argument(given, 1))?;
    let how = Apply::Fetch { aor: aor.clone(), profile: argument(given, 2).to_owned() };
    Ok((Operation::Contacts(aor, rules.any_contact()), how))
}

fn prepare_lookup_xavp(_: &mut Message<'_>, given: &[String], _: Way) -> Prepared {
    let rules = rules().ok_or(code::ERROR)?;
    let aor = aor(argument(given, 1))?;
    let (record, contact) = (argument(given, 2).to_owned(), argument(given, 3).to_owned());
    Ok((Operation::Contacts(aor.clone(), rules.any_contact()), Apply::LookupXavp { aor, record, contact }))
}

fn aor(uri: &str) -> Result<Aor, ScriptCode> {
    // Whatever a SIP peer writes must not fill the log.
    aor_of(uri).map_err(|error| {
        log_debug!("contacts", "{error}");
        code::ERROR
    })
}

/// Applies the answer of [`registered`].
pub(crate) fn apply_registered(wanted: &Match, bindings: &[Binding]) -> ScriptCode {
    let Some(binding) = bindings.iter().find(|binding| wanted.fits(binding)) else { return NOT_REGISTERED };
    if wanted.show_record {
        show_record(binding);
    }
    if wanted.restore_attributes {
        restore_attributes(binding, 0);
    }
    code::OK
}

/// Applies the answer of [`unregister`]: removing all of none is done, removing one that is not there is not.
pub(crate) fn apply_unregister(one: bool, removed: u32) -> ScriptCode {
    if one && removed == 0 { NOT_FOUND } else { code::OK }
}

/// Applies the answer of [`fetch_contacts`].
pub(crate) fn apply_fetch(aor: &Aor, profile: &str, contacts: Vec<Binding>) -> ScriptCode {
    let registered = !contacts.is_empty();
    hold(profile, aor.clone(), contacts);
    if registered { code::OK } else { NOT_REGISTERED }
}

/// Applies the answer of [`lookup_xavp`].
pub(crate) fn apply_lookup_xavp(aor: &Aor, record: &str, contact: &str, bindings: &[Binding]) -> ScriptCode {
    if bindings.is_empty() {
        return NOT_REGISTERED;
    }
    let name = aor.to_string();
    let count = i32::try_from(bindings.len()).unwrap_or(i32::MAX);
    xavp::push(
        record,
        &[("aor", Value::Text(&name)), ("domain", Value::Text(aor.domain())), ("count", Value::Number(count))],
    );
    // Each goes in front of those before.
    for binding in bindings.iter().rev() {
        xavp::push(
            contact,
            &[
                ("addr", Value::Text(&binding.contact)),
                ("path", Value::Text(&binding.path)),
                ("received", Value::Text(&binding.received)),
                ("expires", Value::Number(seconds_left(binding))),
                ("callid", Value::Text(&binding.call_id)),
                ("q", Value::Number(binding.q.into())),
                ("cseq", Value::Number(binding.cseq.cast_signed())),
                ("cflags", Value::Number(binding.cflags.cast_signed())),
                ("methods", Value::Number(binding.methods.cast_signed())),
                ("user_agent", Value::Text(&binding.user_agent)),
                ("socket", Value::Text(&binding.socket)),
                ("ruid", Value::Text(&binding.ruid)),
                ("regid", Value::Number(binding.reg_id.cast_signed())),
                ("instance", Value::Text(&binding.instance)),
            ],
        );
    }
    code::OK
}

/// Seconds until a binding lapses.
pub(super) fn seconds_left(binding: &Binding) -> i32 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX));
    i32::try_from(binding.expires_at.seconds_after(now)).unwrap_or(i32::MAX)
}

/// What `cassandra_fetch_contacts` found.
struct Fetched {
    aor: Aor,
    contacts: Vec<Binding>,
}

thread_local! {
    /// By profile.
    static FETCHED: RefCell<HashMap<String, Fetched>> = RefCell::new(HashMap::new());
}

/// The variables of the class that the configuration names, by their numbers: profile and attribute. Mostly filled while the
/// configuration is read.
static NAMED: Mutex<Vec<(String, Attribute)>> = Mutex::new(Vec::new());

/// How an attribute of `$cassandra_contact(profile=>attribute)[index]` is read.
type Attribute = fn(&Fetched, &Binding) -> pv::Value;

/// The attributes, named as those of the stock `$ulc`.
const ATTRIBUTES: [(&str, Attribute); 20] = [
    ("aor", |fetched, _| text(fetched.aor.to_string())),
    ("domain", |fetched, _| text(fetched.aor.domain())),
    ("count", |fetched, _| number(fetched.contacts.len() as u64)),
    ("addr", |_, binding| text(&*binding.contact)),
    ("path", |_, binding| text(&*binding.path)),
    ("received", |_, binding| text(&*binding.received)),
    // Points in time, as in $ulc.
    ("expires", |_, binding| number(binding.expires_at.0.cast_unsigned() / 1000)),
    ("modified", |_, binding| number(binding.registered_at.0.cast_unsigned() / 1000)),
    ("callid", |_, binding| text(&*binding.call_id)),
    ("q", |_, binding| pv::Value::Number(binding.q.into())),
    ("cseq", |_, binding| number(binding.cseq.into())),
    ("cflags", |_, binding| number(binding.cflags.into())),
    ("methods", |_, binding| number(binding.methods.into())),
    ("user_agent", |_, binding| text(&*binding.user_agent)),
    ("socket", |_, binding| text(&*binding.socket)),
    ("ruid", |_, binding| text(&*binding.ruid)),
    ("regid", |_, binding| number(binding.reg_id.into())),
    ("instance", |_, binding| text(&*binding.instance)),
    ("registrar", |_, binding| text(&*binding.registrar)),
    ("dc", |_, binding| text(&*binding.dc)),
];

fn text(value: impl Into<String>) -> pv::Value {
    let value = value.into();
    if value.is_empty() { pv::Value::Null } else { pv::Value::Owned(value) }
}

/// As an int, in which Kamailio keeps what is unsigned.
fn number(value: u64) -> pv::Value {
    pv::Value::Number(value as i32)
}

/// The number of `$cassandra_contact(profile=>attribute)`.
///
/// # Errors
/// A sentence that says how it is written.
pub(crate) fn parse_variable(name: &str) -> Result<i32, String> {
    let known = || ATTRIBUTES.map(|(name, _)| name).join(", ");
    let (profile, attribute) = name.split_once("=>").ok_or("write $cassandra_contact(profile=>attribute)")?;
    let (_, read) = ATTRIBUTES
        .iter()
        .find(|(known, _)| *known == attribute.trim())
        .ok_or_else(|| format!("the attribute is none of {}", known()))?;
    let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    named.push((profile.trim().to_owned(), *read));
    i32::try_from(named.len() - 1).map_err(|error| error.to_string())
}

/// Reads the variable of this number for the contact at `index`.
pub(crate) fn read_variable(_: &Message<'_>, number: i32, index: i32) -> pv::Value {
    let named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((profile, read)) = usize::try_from(number).ok().and_then(|number| named.get(number)) else {
        return pv::Value::Null;
    };
    FETCHED
        .with_borrow(|fetched| {
            let fetched = fetched.get(profile)?;
            let binding = fetched.contacts.get(usize::try_from(index).unwrap_or_default())?;
            Some(read(fetched, binding))
        })
        .unwrap_or(pv::Value::Null)
}
