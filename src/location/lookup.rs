//! Looking up: `cassandra_lookup` and its variants, which send a request to bindings.
#![forbid(unsafe_code)]

use bridge::protocol::{Lookup, Operation};
use domain::Binding;
use domain::lookup::{Target, first_path_uri, path_after_first, route_to};
use domain::uri::SipUri;

use super::{rules, target_of};
use crate::bridge_client::Way;
use crate::config::registrar::Registrar;
use crate::forms::{Prepared, forms};
use crate::host::auth::code;
use crate::host::command::{Args, ScriptCode, argument};
use crate::host::log::{log_debug, log_error, log_warning};
use crate::host::message::{Branch, Destination, Message, max_branches};
use crate::host::socket::is_own_host;
use crate::host::xavp::{self, Value};
use crate::lifecycle;
use crate::outcome::Apply;

/// What the target names: not registered.
pub(crate) const NOT_REGISTERED: ScriptCode = -1;
/// No binding takes this method.
const METHOD_NOT_ALLOWED: ScriptCode = -2;
/// What was found cannot be used.
const UNUSABLE: ScriptCode = -3;

forms! {
    /// `cassandra_lookup(domain[, uri])`: sends the request to the bindings of its Request-URI (or of `uri`), as `lookup`: the
    /// first becomes Request-URI, next hop, Route headers, socket, q, branch flags and attributes, the others branches. A GRUU
    /// goes to its instance only.
    ///
    /// Codes: 1 found; -1 not registered; -2 no binding takes this method; -3 error; -10 backend unavailable.
    lookup, lookup_async: prepare_lookup;

    /// `cassandra_lookup_to_dset(domain[, uri])`: the same, with a branch for every binding, and the Request-URI as it was.
    lookup_to_dset, lookup_to_dset_async: prepare_lookup_to_dset;

    /// `cassandra_lookup_branches(domain)`: looks up the Request-URI and every branch that has nothing but a URI. 1 when one of
    /// them is registered.
    lookup_branches, lookup_branches_async: prepare_lookup_branches;
}

fn prepare_lookup(message: &mut Message<'_>, given: &[String], _: Way) -> Prepared {
    let target = target(message, argument(given, 1))?;
    let gruu = !matches!(target, Target::Aor(_));
    prepare(message, vec![target], Apply::Lookup { gruu })
}

fn prepare_lookup_to_dset(message: &mut Message<'_>, given: &[String], _: Way) -> Prepared {
    let target = target(message, argument(given, 1))?;
    prepare(message, vec![target], Apply::LookupToDset)
}

/// A suspended transaction does not keep the branches that it has not sent, so they come along.
fn prepare_lookup_branches(message: &mut Message<'_>, _: &[String], _: Way) -> Prepared {
    let mut targets = vec![target(message, "")?];
    let mut branches = message.take_branches();
    for branch in &mut branches {
        match target_of(&branch.binding.contact) {
            Ok(target) if branch.is_clean => targets.push(target),
            _ => branch.is_clean = false,
        }
    }
    prepare(message, targets, Apply::LookupBranches { branches })
}

fn prepare(message: &Message<'_>, targets: Vec<Target>, how: Apply) -> Prepared {
    let rules = rules().ok_or(code::ERROR)?;
    Ok((Operation::Lookup(targets, rules.filter(message)), how))
}

fn target(message: &Message<'_>, uri: &str) -> Result<Target, ScriptCode> {
    let uri = if uri.is_empty() { message.request_uri() } else { uri.to_owned() };
    // Whatever a SIP peer writes must not fill the log.
    target_of(&uri).map_err(|error| {
        log_debug!("lookup", "{error}");
        UNUSABLE
    })
}

/// The SIP status that a failed lookup stands for; 0 for none.
pub(crate) fn status_of(result: ScriptCode, gruu: bool, found: &[Lookup]) -> u16 {
    match (result, found) {
        (NOT_REGISTERED, [Lookup::NotRegistered]) if gruu => 480,
        (NOT_REGISTERED, _) => 404,
        (METHOD_NOT_ALLOWED, _) => 405,
        _ => 0,
    }
}

/// Applies the answer of [`lookup`].
pub(crate) fn apply_lookup(message: &mut Message<'_>, found: &[Lookup]) -> ScriptCode {
    match bindings(found) {
        Ok([first, others @ ..]) => set_target(message, first).map_or_else(
            |code| code,
            |()| {
                let others = if rules().is_some_and(Registrar::appends_branches) { others } else { &[] };
                add_branches(message, others, 1);
                code::OK
            },
        ),
        Ok([]) => NOT_REGISTERED,
        Err(result) => result,
    }
}

/// Applies the answer of [`lookup_to_dset`].
pub(crate) fn apply_lookup_to_dset(message: &mut Message<'_>, found: &[Lookup]) -> ScriptCode {
    match bindings(found) {
        Ok(bindings) => {
            add_branches(message, bindings, 1);
            code::OK
        }
        Err(result) => result,
    }
}

/// Applies the answer of [`lookup_branches`]: the Request-URI is looked up as ever; a branch becomes those of its bindings, and
/// stays as it is when there are none.
pub(crate) fn apply_lookup_branches(message: &mut Message<'_>, branches: &[Branch], found: &[Lookup]) -> ScriptCode {
    let Some((first, of_branches)) = found.split_first() else { return code::ERROR };
    let result = apply_lookup(message, std::slice::from_ref(first));
    let mut of_branches = of_branches.iter();
    let mut any = result > 0;
    for (index, branch) in (1..).zip(branches) {
        let looked_up = if branch.is_clean { of_branches.next() } else { None };
        match looked_up.map(std::slice::from_ref).map(bindings) {
            Some(Ok(bindings)) => {
                any = true;
                add_branches(message, bindings, index);
            }
            _ => keep_branch(message, &branch.binding),
        }
    }
    if any { code::OK } else { result }
}

/// Gives a request back the branches that were to be looked up.
pub(crate) fn keep_branches(message: &mut Message<'_>, branches: &[Branch]) {
    branches.iter().for_each(|branch| keep_branch(message, &branch.binding));
}

/// Adds a branch as the script made it.
fn keep_branch(message: &mut Message<'_>, binding: &Binding) {
    let destination = Destination { binding, next_hop: binding.received.clone(), route: binding.path.clone() };
    if let Err(refused) = message.add_branch(&destination) {
        log_warning!("lookup", "the branch {} is lost: {}", binding.contact, refused.0);
    }
}

fn bindings(found: &[Lookup]) -> Result<&[Binding], ScriptCode> {
    match found {
        [Lookup::Bindings(bindings)] => Ok(bindings),
        [Lookup::MethodNotAllowed] => Err(METHOD_NOT_ALLOWED),
        _ => Err(NOT_REGISTERED),
    }
}

fn set_target(message: &mut Message<'_>, binding: &Binding) -> Result<(), ScriptCode> {
    let destination =
        destination(binding).and_then(|destination| message.set_target(&destination).map_err(|error| error.0));
    destination.map_err(|reason| {
        log_error!("lookup", "the binding {} cannot be used: {reason}", binding.contact);
        UNUSABLE
    })?;
    show_record(binding);
    restore_attributes(binding, 0);
    Ok(())
}

/// As many as a request may have; the first of them is the branch of this index.
fn add_branches(message: &mut Message<'_>, bindings: &[Binding], index: usize) {
    // A suspended transaction has used one branch, and may be suspended once more.
    let room = max_branches().saturating_sub(3);
    if bindings.len() > room {
        log_warning!("lookup", "{} bindings are left out: raise max_branches (up to 30)", bindings.len() - room);
    }
    for (index, binding) in (index..).zip(bindings.iter().take(room)) {
        let added =
            destination(binding).and_then(|destination| message.add_branch(&destination).map_err(|error| error.0));
        match added {
            Ok(()) => restore_attributes(binding, index),
            Err(reason) => log_warning!("lookup", "the binding {} is left out: {reason}", binding.contact),
        }
    }
}

/// Where a request to a binding goes first: the first hop of its route, else where the REGISTER came from, else its contact.
fn destination(binding: &Binding) -> Result<Destination<'_>, &'static str> {
    let own_uri = lifecycle::module().map_or("", |module| module.config.service.node.uri.as_str());
    let route = without_own_hop(route_to(binding, own_uri))?;
    let next_hop = first_path_uri(&route).unwrap_or(&binding.received).to_owned();
    Ok(Destination { binding, next_hop, route })
}

/// With `path_check_local` a Path that begins at this server is followed from its second hop.
fn without_own_hop(route: String) -> Result<String, &'static str> {
    let Some(first) = first_path_uri(&route).filter(|_| rules().is_some_and(|rules| rules.path_check_local)) else {
        return Ok(route);
    };
    let hop = SipUri::parse(first).map_err(|_| "its Path is malformed")?;
    Ok(if is_own_host(&hop.host) { path_after_first(&route).to_owned() } else { route })
}

/// Bits of `xavp_rcd_mask`, as in the stock registrar.
mod left_out {
    pub(super) const RUID: u32 = 1;
    pub(super) const CONTACT: u32 = 2;
    pub(super) const EXPIRES: u32 = 4;
    pub(super) const RECEIVED: u32 = 8;
    pub(super) const PATH: u32 = 16;
}

/// Shows the script which binding was found (`xavp_rcd`).
pub(super) fn show_record(binding: &Binding) {
    let Some(rules) = rules().filter(|rules| !rules.xavp_rcd.is_empty()) else { return };
    let expires = super::contacts::seconds_left(binding);
    let all = [
        (left_out::RUID, "ruid", Value::Text(&binding.ruid)),
        (left_out::RECEIVED, "received", Value::Text(&binding.received)),
        (left_out::CONTACT, "contact", Value::Text(&binding.contact)),
        (left_out::EXPIRES, "expires", Value::Number(expires)),
        (left_out::PATH, "path", Value::Text(&binding.path)),
    ];
    let shown = all.into_iter().filter(|(bit, _, value)| rules.xavp_rcd_mask & bit == 0 && *value != Value::Text(""));
    xavp::extend(&rules.xavp_rcd, &shown.map(|(_, name, value)| (name, value)).collect::<Vec<_>>());
}

/// Gives the script back what it kept with the binding (`xavp_contact`).
pub(super) fn restore_attributes(binding: &Binding, branch: usize) {
    let Some(rules) = rules().filter(|rules| !rules.xavp_contact.is_empty()) else { return };
    if !binding.attributes.is_empty() {
        let kept: Vec<_> = binding.attributes.iter().map(|(name, value)| (name.as_str(), Value::Text(value))).collect();
        xavp::insert(&rules.xavp_contact, branch, &kept);
    }
}
