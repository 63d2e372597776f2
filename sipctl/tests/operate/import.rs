//! `sipctl subscriber import`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use domain::Aor;
use domain::digest::{Algorithm, Ha1};
use lab::{RunDir, wait};
use serde_json::json;

use crate::site::{FAILED, Ran, Site, Test, start};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("import_creates_thousands_and_again_changes_nothing", thousands),
    ("an_interrupted_import_goes_on", interrupted),
    ("an_import_outlasts_a_cassandra_that_stands_still", outlasts),
    ("import_opens_one_session", one_session),
    ("import_reads_standard_input", standard_input),
    ("a_wrong_line_is_named_and_nothing_is_written", wrong_lines),
    ("a_file_that_cannot_be_read_is_named", unreadable),
    ("a_terminal_shows_how_far_an_import_is", progress),
];

/// Enough to be under way for a while.
const MANY: usize = 2000;

/// Longer than it takes to notice that a node is gone.
const STILL: Duration = Duration::from_secs(7);

fn csv(domain: &str, count: usize) -> String {
    (0..count).map(|n| format!("user{n},{domain},secret{n}\n")).collect()
}

fn thousands(site: &Site) -> Result<()> {
    let dir = RunDir::new("import")?;
    let file = dir.write("users.csv", &csv("many.example.com", MANY))?;
    let line = format!("subscriber import {}", file.display());
    site.ok("subscriber add user7@many.example.com --password-stdin", "mine")?;
    let mine = site.stored("user7", "many.example.com")?;

    let began = Instant::now();
    let ran = site.run(&line, "")?;
    eprintln!("{MANY} subscribers imported in {:.1} s", began.elapsed().as_secs_f64());
    ensure!(ran.stdout == "1999 added, 1 existed already and are unchanged.\n", "{ran}");
    ensure!(ran.stderr.is_empty(), "it shows progress to nobody: {ran}");
    ensure!(site.count("many.example.com")? == MANY);
    ensure!(site.stored("user7", "many.example.com")? == mine, "an existing one is changed");
    let last = site.json(&format!("subscriber show user{}@many.example.com", MANY - 1), "")?;
    ensure!(last["enabled"] == true && last["algorithms"] == json!(["MD5", "SHA-256", "SHA-512-256"]), "{last}");
    let stored = site.stored("user1999", "many.example.com")?.unwrap_or_default();
    let aor: Aor = "user1999@many.example.com".parse()?;
    let ha1 = Ha1::compute(Algorithm::Sha256, aor.username(), aor.domain(), "secret1999");
    ensure!(stored["ha1_sha256"] == ha1.as_hex(), "not its password");

    let again = site.json(&line, "")?;
    ensure!(again == json!({"added": 0, "existing": MANY}), "{again}");
    Ok(())
}

fn interrupted(site: &Site) -> Result<()> {
    let users = csv("interrupted.example.com", MANY);
    let mut first = start(site.command(["subscriber", "import", "-"]), &users)?;
    wait::until("some to be written", Duration::from_secs(30), || {
        site.count("interrupted.example.com").is_ok_and(|count| count > 0)
    })?;
    first.kill()?;
    first.wait()?;
    let there = site.count("interrupted.example.com")?;
    ensure!(there < MANY, "it was not interrupted");
    let sums = site.json("subscriber import -", &users)?;
    // What was in flight when it was interrupted may have been written since.
    let existing = sums["existing"].as_u64().context("a sum")? as usize;
    ensure!(existing >= there && sums["added"] == MANY - existing, "{there} were there: {sums}");
    ensure!(site.count("interrupted.example.com")? == MANY);
    Ok(())
}

fn outlasts(site: &Site) -> Result<()> {
    let import = start(site.command(["--json", "subscriber", "import", "-"]), &csv("still.example.com", MANY))?;
    wait::until("some to be written", Duration::from_secs(30), || {
        site.count("still.example.com").is_ok_and(|count| count > 0)
    })?;
    site.freeze_for(STILL)?;
    let ran = Ran::new("import".to_owned(), import.wait_with_output()?);
    ensure!(ran.code == Some(0), "{ran}");
    ensure!(site.count("still.example.com")? == MANY, "{ran}");
    Ok(())
}

fn one_session(site: &Site) -> Result<()> {
    let connections = || -> Result<usize> { Ok(site.rows("port FROM system_views.clients")?.len()) };
    let before = connections()?;
    let import = start(site.command(["subscriber", "import", "-"]), &csv("session.example.com", MANY))?;
    wait::until("some to be written", Duration::from_secs(30), || {
        site.count("session.example.com").is_ok_and(|count| count > 0)
    })?;
    let its = connections()? - before;
    let output = import.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A control connection, and one for the only node.
    ensure!(its == 2, "{its} connections");
    Ok(())
}

fn standard_input(site: &Site) -> Result<()> {
    let users = "\u{feff}username,domain,password\r\nalice,STDIN.example.com,\"a \"\"b\"\", c\"\r\n\r\nbob,stdin.example.com,x\r\n";
    let sums = site.json("subscriber import -", users)?;
    ensure!(sums == json!({"added": 2, "existing": 0}), "{sums}");
    let stored = site.stored("alice", "stdin.example.com")?.unwrap_or_default();
    let ha1 = Ha1::compute(Algorithm::Md5, "alice", "stdin.example.com", "a \"b\", c");
    ensure!(stored["ha1"] == ha1.as_hex(), "the password is not as it stands in the file: {stored}");
    Ok(())
}

fn wrong_lines(site: &Site) -> Result<()> {
    let good = csv("wrong.example.com", 3);
    for (line, sentence) in [
        ("x,wrong.example.com", "line 4: it does not have the 3 fields username,domain,password"),
        ("x,wrong.example.com,a,b", "line 4: it does not have the 3 fields"),
        ("x,wrong.example.com,", "line 4: the password is empty"),
        ("x,wrong example.com,y", "line 4: 'x@wrong example.com' is no address-of-record"),
        (",wrong.example.com,y", "line 4: '@wrong.example.com' is no address-of-record: the user part is empty"),
        ("user1,Wrong.example.com,y", "line 4 repeats user1@wrong.example.com of line 2"),
        ("x\ny", "line 4: it does not have the 3 fields username,domain,password; line 5: it does not"),
    ] {
        let parts = ["nothing is imported from standard input", sentence];
        site.refused("subscriber import -", &format!("{good}{line}\n"), FAILED, &parts)?;
    }
    ensure!(site.count("wrong.example.com")? == 0, "something was written");
    Ok(())
}

fn unreadable(site: &Site) -> Result<()> {
    for file in ["/nonexistent/users.csv", "/proc"] {
        site.refused(&format!("subscriber import {file}"), "", FAILED, &[file, "cannot be read"])?;
    }
    Ok(())
}

fn progress(site: &Site) -> Result<()> {
    let dir = RunDir::new("import")?;
    let file = dir.write("users.csv", &csv("progress.example.com", 300))?;
    let ran = site.in_terminal(&format!("subscriber import {}", file.display()), "")?;
    ensure!(ran.code == Some(0) && ran.stdout.contains("/300"), "no bar: {ran}");
    ensure!(ran.stdout.ends_with("300 added, 0 existed already and are unchanged.\r\n"), "{ran}");
    Ok(())
}
