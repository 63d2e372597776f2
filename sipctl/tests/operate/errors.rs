//! What goes wrong is said in one sentence, with an exit code, in JSON when that is asked for.

use std::fs::OpenOptions;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::site::{FAILED, Ran, Site, Test, USAGE};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("no_session_is_said_with_the_option_to_look_at", no_session),
    ("a_bad_aor_is_named", bad_aor),
    ("a_wrong_command_line_is_refused", usage),
    ("help_and_version_are_no_errors", help),
    ("a_result_that_cannot_be_written_is_an_error", full_disk),
    ("a_reader_that_has_seen_enough_is_none", broken_pipe),
];

fn no_session(site: &Site) -> Result<()> {
    let unused = format!("{}:9042", lab::net::loopback());
    for command in ["schema check", "subscriber list", "registrations a@b"] {
        let line = format!("--contact-points {unused} {command}");
        site.refused(
            &line,
            "",
            FAILED,
            &["no Cassandra session at", &unused, "nothing listens there", "--contact-points"],
        )?;
    }
    let parts = ["no data centre 'nowhere'", "it has dc1", "--local-dc"];
    site.refused("--local-dc nowhere subscriber list", "", FAILED, &parts)?;
    site.refused("--username admin subscriber list", "", FAILED, &["set CASSANDRA_PASSWORD"])?;
    site.refused("--ca-file /nonexistent.pem subscriber list", "", FAILED, &["/nonexistent.pem cannot be used for TLS"])
}

fn bad_aor(site: &Site) -> Result<()> {
    for command in ["subscriber add", "subscriber show", "subscriber remove", "alias show", "registrations"] {
        for (aor, reason) in
            [("alice", "it has no @"), ("@example.com", "the user part is empty"), ("a@", "domain is empty")]
        {
            site.refused(&format!("{command} {aor}"), "", USAGE, &[aor, reason, "write it as user@domain"])?;
        }
    }
    Ok(())
}

fn usage(site: &Site) -> Result<()> {
    for (line, part) in [("bogus", "bogus"), ("subscriber show", "<AOR>"), ("subscriber list --bogus", "--bogus")] {
        site.refused(line, "", USAGE, &[part])?;
    }
    site.refused("schema apply --replication dc1=x", "", FAILED, &["--replication dc1=x is not understood"])
}

fn help(site: &Site) -> Result<()> {
    for line in ["--help", "--version", "subscriber import --help", "--json subscriber set --help"] {
        ensure!(site.ok(line, "")?.contains("sipctl"), "{line}");
    }
    Ok(())
}

fn full_disk(site: &Site) -> Result<()> {
    let mut command = site.command(["subscriber", "list"]);
    command.stdout(OpenOptions::new().write(true).open("/dev/full")?);
    let ran = Ran::new("subscriber list >/dev/full".to_owned(), command.output()?);
    ran.is_refusal(FAILED, &ran.stderr, &["the result cannot be written"])
}

fn broken_pipe(site: &Site) -> Result<()> {
    let mut child = site.command(["subscriber", "list"]).stdin(Stdio::null()).spawn()?;
    drop(child.stdout.take().context("no standard output")?);
    let ran = Ran::new("subscriber list | true".to_owned(), child.wait_with_output()?);
    ensure!(ran.stderr.is_empty(), "{ran}");
    Ok(())
}
