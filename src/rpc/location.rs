//! RPC commands for location: to see, remove and add the bindings of an AoR, as the stock `ul.lookup`, `ul.rm`,
//! `ul.rm_contact` and `ul.add`, without their first parameter, the table.

use std::time::{SystemTime, UNIX_EPOCH};

use bridge::clock;
use bridge::protocol::{Operation, Outcome};
use domain::lookup::{Filter, first_path_uri};
use domain::register::{Contact, Contacts, OptionTags, PathMode, Policy, Register, Saved, parse_q};
use domain::uri::SipUri;
use domain::{Aor, Binding, Timestamp, Which};

use super::{ask, module, unexpected};
use crate::host::process;
use crate::host::rpc::{Call, Fault, Structure, Value};
use crate::location::canonical;

/// `cassandra.lookup AOR`: the current bindings, best first.
pub(crate) fn lookup(call: &Call<'_>) -> Result<Structure, Fault> {
    let aor = read_aor(call, "AOR")?;
    match ask(Operation::Contacts(aor.clone(), Filter::default()))? {
        Outcome::Contacts(bindings) if bindings.is_empty() => Err(not_registered(&aor)),
        Outcome::Contacts(bindings) => {
            let now = clock::wall();
            let contacts = bindings.into_iter().map(|binding| describe(binding, now)).collect();
            Ok(vec![(c"aor", aor.to_string().into()), (c"contacts", Value::List(contacts))])
        }
        _ => Err(unexpected()),
    }
}

/// `cassandra.alias ALIAS`: whom it means.
pub(crate) fn alias(call: &Call<'_>) -> Result<Structure, Fault> {
    let alias = read_aor(call, "ALIAS")?;
    match ask(Operation::Alias(alias.clone()))? {
        Outcome::Alias(Some(target)) => {
            Ok(vec![(c"alias", alias.to_string().into()), (c"target", target.to_string().into())])
        }
        Outcome::Alias(None) => {
            Err(Fault::new(404, format!("there is no alias {alias}: 'sipctl alias list' shows those there are")))
        }
        _ => Err(unexpected()),
    }
}

/// `cassandra.rm AOR`: removes all bindings.
pub(crate) fn rm(call: &Call<'_>) -> Result<Structure, Fault> {
    let aor = read_aor(call, "AOR")?;
    remove(aor.clone(), Which::All, || not_registered(&aor))
}

/// `cassandra.rm_contact AOR CONTACT`: removes the binding of this contact.
pub(crate) fn rm_contact(call: &Call<'_>) -> Result<Structure, Fault> {
    let aor = read_aor(call, "AOR")?;
    let contact = call.text("CONTACT")?;
    remove(aor.clone(), Which::Contact(contact.clone()), || {
        Fault::new(404, format!("{aor} has no binding with the contact {contact}: cassandra.lookup shows those it has"))
    })
}

/// `cassandra.add AOR CONTACT EXPIRES [Q [PATH [FLAGS [CFLAGS [METHODS]]]]]`: adds or refreshes a binding by the registrar's
/// rules (expiry bounds, number of contacts). `.` leaves a parameter out; FLAGS, which `ul.add` has, means nothing here.
pub(crate) fn add(call: &Call<'_>) -> Result<Structure, Fault> {
    let register = read_register(call)?;
    match ask(Operation::Save(register.into()))? {
        Outcome::Saved(registered) => {
            let saved = if registered.saved == Saved::Updated { "updated" } else { "inserted" };
            Ok(vec![(c"binding", saved.into())])
        }
        Outcome::Rejected(refusal) => {
            Err(Fault::new(refusal.status, format!("the registrar refuses the binding: {}", refusal.what())))
        }
        _ => Err(unexpected()),
    }
}

fn remove(aor: Aor, which: Which, none: impl FnOnce() -> Fault) -> Result<Structure, Fault> {
    match ask(Operation::Remove { aor, which })? {
        Outcome::Removed(0) => Err(none()),
        Outcome::Removed(removed) => Ok(vec![(c"removed", removed.into())]),
        _ => Err(unexpected()),
    }
}

fn read_aor(call: &Call<'_>, name: &str) -> Result<Aor, Fault> {
    let aor = call.text(name)?.parse().map_err(|error: domain::aor::AorError| Fault::new(400, error.to_string()))?;
    Ok(canonical(aor))
}

fn not_registered(aor: &Aor) -> Fault {
    Fault::new(404, format!("{aor} has no bindings: no phone is registered under this name now"))
}

/// A REGISTER of one contact, with a Call-ID of its own: whatever was there before, this is newer.
fn read_register(call: &Call<'_>) -> Result<Register, Fault> {
    let aor = read_aor(call, "AOR")?;
    let mut contact = Contact {
        uri: read_contact(call)?,
        expires: Some(read_expires(call)?),
        q: read_q(call)?,
        methods: 0,
        instance: String::new(),
        reg_id: None,
        received: String::new(),
    };
    let policy = module()?.config.registrar.policy(true);
    let path = read_path(call, &policy)?;
    call.optional_number("FLAGS")?;
    let cflags = call.optional_number("CFLAGS")?.unwrap_or_default();
    contact.methods = call.optional_number("METHODS")?.unwrap_or_default();
    Ok(Register {
        aor,
        call_id: unique_call_id(),
        cseq: 1,
        expires: None,
        contacts: Contacts::List(vec![contact]),
        path,
        request_uri: String::new(),
        supported: OptionTags { path: true, ..OptionTags::default() },
        required: OptionTags::default(),
        first_hop: true,
        source: String::new(),
        received: String::new(),
        user_agent: "cassandra.add".to_owned(),
        socket: String::new(),
        cflags,
        replace: false,
        attributes: Vec::new(),
        policy,
    })
}

fn read_contact(call: &Call<'_>) -> Result<String, Fault> {
    let contact = call.text("CONTACT")?;
    match SipUri::parse(&contact) {
        Ok(_) => Ok(contact),
        Err(_) => {
            Err(Fault::new(400, format!("the contact '{contact}' is no SIP URI: write it as sip:user@host:port")))
        }
    }
}

fn read_expires(call: &Call<'_>) -> Result<u32, Fault> {
    match call.number("EXPIRES")? {
        0 => Err(Fault::new(
            400,
            "the parameter EXPIRES is 0 but must be at least 1 second; cassandra.rm_contact removes",
        )),
        seconds => Ok(seconds),
    }
}

fn read_q(call: &Call<'_>) -> Result<Option<i16>, Fault> {
    let Some(written) = call.optional_decimal() else { return Ok(None) };
    parse_q(&written).map(Some).ok_or_else(|| {
        Fault::new(400, format!("the parameter Q is '{written}' but must be 0 to 1 with at most three decimals"))
    })
}

fn read_path(call: &Call<'_>, policy: &Policy) -> Result<String, Fault> {
    let Some(path) = call.optional_text() else { return Ok(String::new()) };
    if policy.path == PathMode::Ignore {
        return Err(Fault::new(
            400,
            "a PATH is given but the registrar ignores them: set parameter use_path, or give .",
        ));
    }
    match first_path_uri(&path) {
        Some(_) => Ok(path),
        None => Err(Fault::new(400, format!("the parameter PATH is '{path}' but must be as in SIP: <sip:host;lr>"))),
    }
}

fn unique_call_id() -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}@cassandra.add", since_epoch.as_nanos(), process::id())
}

fn describe(binding: Binding, now: Timestamp) -> Structure {
    vec![
        (c"contact", binding.contact.into()),
        (c"expires", binding.expires_at.seconds_after(now).into()),
        (c"q", q_text(binding.q).into()),
        (c"received", binding.received.into()),
        (c"path", binding.path.into()),
        (c"call_id", binding.call_id.into()),
        (c"cseq", binding.cseq.into()),
        (c"user_agent", binding.user_agent.into()),
        (c"methods", binding.methods.into()),
        (c"cflags", binding.cflags.into()),
        (c"instance", binding.instance.into()),
        (c"reg_id", binding.reg_id.into()),
        (c"ruid", binding.ruid.into()),
        (c"socket", binding.socket.into()),
        (c"dc", binding.dc.into()),
        (c"registrar", binding.registrar.into()),
    ]
}

/// As SIP writes it; `""` for none.
fn q_text(thousandths: i16) -> String {
    match thousandths {
        ..0 => String::new(),
        q => format!("{}.{:03}", q / 1000, q % 1000),
    }
}
