//! RPC commands for authentication: the credential cache, and who has failed too often.

use bridge::guard::{Suspect, Suspicion};
use bridge::metrics::get;
use bridge::protocol::{Housekeeping, Operation, Outcome, Report};
use domain::Aor;
use domain::aor::AorError;

use super::{ask, metrics, unexpected};
use crate::host::rpc::{Call, Fault, Structure, Value};

/// `cassandra.cache_stats`: what the credential cache holds, and what it is good for.
pub(crate) fn cache_stats(_: &Call<'_>) -> Result<Structure, Fault> {
    let Report::Cache(stats) = keep_house(Housekeeping::CacheStats)? else { return Err(unexpected()) };
    let metrics = metrics()?;
    Ok(vec![
        (c"entries", stats.entries.into()),
        (c"capacity", stats.capacity.into()),
        (c"hits", get(&metrics.credential_cache_hits).into()),
        (c"reads", get(&metrics.credential_cache_misses).into()),
    ])
}

/// `cassandra.cache_flush [aor]`: has credentials read again.
pub(crate) fn cache_flush(call: &Call<'_>) -> Result<Structure, Fault> {
    let aor = call.optional_text().map(|written| parse_aor(&written)).transpose()?;
    removed(Housekeeping::FlushCache(aor))
}

/// `cassandra.guard_list`: who failed to authenticate lately, the worst first.
pub(crate) fn guard_list(_: &Call<'_>) -> Result<Structure, Fault> {
    let Report::Guard(list) = keep_house(Housekeeping::GuardList)? else { return Err(unexpected()) };
    let (mut sources, mut aors) = (Vec::new(), Vec::new());
    for Suspicion { suspect, left } in list {
        match suspect {
            Suspect::Source(source) => sources.push(vec![(c"source", source.into()), (c"left", left.into())]),
            Suspect::Aor(aor) => aors.push(vec![(c"aor", aor.to_string().into()), (c"left", left.into())]),
        }
    }
    Ok(vec![(c"sources", Value::List(sources)), (c"aors", Value::List(aors))])
}

/// `cassandra.guard_clear [source|aor]`: forgets failures.
pub(crate) fn guard_clear(call: &Call<'_>) -> Result<Structure, Fault> {
    let suspect = match call.optional_text() {
        Some(written) if written.contains('@') => Some(Suspect::Aor(parse_aor(&written)?)),
        other => other.map(Suspect::Source),
    };
    removed(Housekeeping::GuardClear(suspect))
}

fn removed(what: Housekeeping) -> Result<Structure, Fault> {
    match keep_house(what)? {
        Report::Removed(count) => Ok(vec![(c"removed", count.into())]),
        _ => Err(unexpected()),
    }
}

fn keep_house(what: Housekeeping) -> Result<Report, Fault> {
    match ask(Operation::Housekeeping(what))? {
        Outcome::Report(report) => Ok(report),
        _ => Err(unexpected()),
    }
}

fn parse_aor(written: &str) -> Result<Aor, Fault> {
    written.parse().map_err(|error: AorError| Fault::new(400, error.to_string()))
}
