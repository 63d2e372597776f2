//! Calls, where there are none, and what cannot be asked for. (What is shown of real calls Kamailio's tests of the module tell.)

use anyhow::{Result, ensure};

use crate::site::{FAILED, Site, Test, USAGE};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("without_calls_people_are_told_so_and_programs_get_nothing", none),
    ("what_is_asked_for_wrongly_is_named", not_understood),
];

fn none(site: &Site) -> Result<()> {
    for line in ["calls", "calls --count", "calls --node nowhere", "history nobody@example.com"] {
        let said = site.ok(line, "")?;
        ensure!(said.contains("no calls"), "{line}: {said}");
        let listed = site.json(line, "")?;
        ensure!(listed.as_array().is_some_and(Vec::is_empty), "{line}: {listed}");
        let values = site.ok(&format!("--csv {line}"), "")?;
        ensure!(values.is_empty(), "{line}: {values:?}");
    }
    site.refused("call nobody@192.0.2.1", "", FAILED, &["there is no call nobody@192.0.2.1"])
}

fn not_understood(site: &Site) -> Result<()> {
    site.refused("calls --subscriber alice", "", USAGE, &["alice", "it has no @", "write it as user@domain"])?;
    site.refused("calls --watch soon", "", USAGE, &["soon", "--watch"])?;
    site.refused("history alice@example.com --since yesterday", "", USAGE, &["yesterday", "--since"])?;
    site.refused("schema retention tomorrow", "", USAGE, &["tomorrow"])?;
    site.refused("call", "", USAGE, &["<CALL_ID>"])
}
