//! `sipctl schema`.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::site::{FAILED, Site, Test, USAGE};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("schema_is_missing_until_it_is_applied", missing_until_applied),
    ("an_old_schema_is_refused_with_what_to_do", too_old),
    ("history_is_kept_as_long_as_is_said", retention),
];

fn missing_until_applied(site: &Site) -> Result<()> {
    for command in ["schema check", "schema show", "subscriber list", "registrations a@b"] {
        let line = format!("--keyspace fresh {command}");
        site.refused(&line, "", FAILED, &["no keyspace 'fresh'", "sipctl schema apply", "--keyspace"])?;
    }
    let applied = site.run("--keyspace fresh schema apply", "")?;
    ensure!(applied.code == Some(0) && applied.stdout.contains("applied"), "{applied}");
    ensure!(applied.stderr.contains("CREATE TABLE IF NOT EXISTS fresh.subscriber"), "no steps: {applied}");
    let version = site.json("--keyspace fresh schema apply", "")?["version"].clone();
    ensure!(version.as_i64() >= Some(1), "{version}");
    ensure!(site.json("--keyspace fresh schema check", "")? == json!({"version": version}));
    ensure!(site.ok("--keyspace fresh schema check", "")?.contains("what this version needs"));
    let shown = site.json("--keyspace fresh schema show", "")?;
    ensure!(shown == json!([{"keyspace": "fresh", "version": version, "needed": version}]), "{shown}");
    ensure!(site.ok("--keyspace fresh schema show", "")?.contains("fresh"));
    ensure!(site.json("--keyspace fresh subscriber list", "")? == json!([]));
    Ok(())
}

fn retention(site: &Site) -> Result<()> {
    site.ok("--keyspace kept schema apply", "")?;
    let kept = |line: &str| -> Result<Vec<(i64, i64)>> {
        let shown = site.json(&format!("--keyspace kept schema retention {line}"), "")?;
        let rows = shown.as_array().cloned().unwrap_or_default();
        Ok(rows.iter().filter_map(|row| Some((row["seconds"].as_i64()?, row["window_hours"].as_i64()?))).collect())
    };
    let (month, half_day) = ((30 * 86_400, 24), (43_200, 1));
    ensure!(kept("")? == [month; 3]);
    ensure!(kept("12h --table call_by_account")? == [month, month, half_day]);
    ensure!(kept("90d")? == [(90 * 86_400, 72); 3]);
    site.refused("--keyspace kept schema retention 5m", "", FAILED, &["between 1h and 20y"])?;
    site.refused("--keyspace kept schema retention 5d --table subscriber", "", USAGE, &["subscriber", "call_event"])?;
    ensure!(kept("")? == [(90 * 86_400, 72); 3]);
    Ok(())
}

fn too_old(site: &Site) -> Result<()> {
    site.execute("CREATE KEYSPACE old WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 1}")?;
    site.execute("CREATE TABLE old.schema_version (component text PRIMARY KEY, version int, applied_at timestamp)")?;
    for command in ["schema check", "subscriber list"] {
        let parts = ["version 0", "is needed", "sipctl schema apply"];
        site.refused(&format!("--keyspace old {command}"), "", FAILED, &parts)?;
    }
    Ok(())
}
