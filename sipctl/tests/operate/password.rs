//! Passwords: from where they are taken, and what becomes of them.

use anyhow::{Result, ensure};
use domain::Aor;
use domain::digest::{Algorithm, Ha1};
use serde_json::json;

use crate::site::{FAILED, Site, Test, USAGE};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_password_is_stored_as_ha1s_and_nowhere_else", only_ha1s),
    ("passwd_changes_the_ha1s_and_nothing_else", passwd),
    ("a_password_is_never_an_argument", never_an_argument),
    ("a_terminal_is_asked_for_the_password_twice", asked_twice),
    ("without_a_terminal_there_is_no_prompt", no_terminal),
    ("an_empty_password_is_refused", empty),
];

const PASSWORD: &str = "Tr0ub4dor and three";

/// The columns of HA1s: of the user name, of the name with its domain.
const HA1S: [&str; 6] = ["ha1", "ha1_sha256", "ha1_sha512_256", "ha1b", "ha1b_sha256", "ha1b_sha512_256"];

/// What is to be in them.
fn ha1s(aor: &str, password: &str) -> Result<Vec<String>> {
    let aor: Aor = aor.parse()?;
    let names = [aor.username().to_owned(), aor.to_string()];
    let of_name = |name: String| {
        Algorithm::ALL.map(|algorithm| Ha1::compute(algorithm, &name, aor.domain(), password).as_hex().to_owned())
    };
    Ok(names.into_iter().flat_map(of_name).collect())
}

fn ensure_stored(site: &Site, aor: &str, password: &str) -> Result<()> {
    let (username, domain) = aor.split_once('@').unwrap_or_default();
    let stored = site.stored(username, domain)?.unwrap_or_default();
    for (column, expected) in HA1S.into_iter().zip(ha1s(aor, password)?) {
        ensure!(stored[column] == expected, "{column} of {aor}");
    }
    Ok(())
}

/// Every row of every table of the keyspace.
fn everything(site: &Site) -> Result<String> {
    let mut all = String::new();
    for table in site.rows("table_name FROM system_schema.tables WHERE keyspace_name = 'sip'")? {
        let name = table["table_name"].as_str().unwrap_or_default();
        for row in site.rows(&format!("* FROM sip.{name}"))? {
            all.push_str(&row.to_string());
        }
    }
    Ok(all)
}

fn only_ha1s(site: &Site) -> Result<()> {
    let aor = "alice@secret.example.com";
    let mut said = site.ok(&format!("subscriber add {aor} --password-stdin --account acme"), PASSWORD)?;
    ensure_stored(site, aor, PASSWORD)?;
    let ha1s = ha1s(aor, PASSWORD)?;
    let all = everything(site)?;
    ensure!(all.contains(&ha1s[0]), "the search does not see what is stored");
    ensure!(!all.contains(PASSWORD), "the password is stored");

    let refused = site.run(&format!("subscriber add {aor} --password-stdin"), PASSWORD)?;
    said.push_str(&refused.to_string());
    for command in [format!("subscriber show {aor}"), "subscriber list".to_owned()] {
        said.push_str(&site.ok(&command, "")?);
        said.push_str(&site.json(&command, "")?.to_string());
    }
    for secret in ha1s.iter().map(String::as_str).chain([PASSWORD]) {
        ensure!(!said.contains(secret), "a secret is shown: {said}");
    }
    Ok(())
}

fn passwd(site: &Site) -> Result<()> {
    let aor = "alice@passwd.example.com";
    let options = "--account acme --max-calls 4 --attr a=b";
    site.ok(&format!("subscriber add {aor} --password-stdin {options}"), "before")?;
    site.ok(&format!("subscriber disable {aor}"), "")?;
    let mut before = site.stored("alice", "passwd.example.com")?.unwrap_or_default();
    let line = format!("subscriber passwd {aor} --password-stdin");
    // With and without an end of line; only the first line counts.
    for (input, password) in [("one", "one"), ("two\n", "two"), ("three\r\n", "three"), ("four\nmore\n", "four")] {
        let said = site.ok(&line, input)?;
        ensure!(said == format!("{aor} is given a new password.\n"), "{said}");
        ensure_stored(site, aor, password)?;
    }
    ensure!(site.json(&line, PASSWORD)? == json!({"subscriber": aor, "done": "given a new password"}));
    ensure_stored(site, aor, PASSWORD)?;
    let mut after = site.stored("alice", "passwd.example.com")?.unwrap_or_default();
    for changed in HA1S.into_iter().chain(["updated_at"]) {
        ensure!(after[changed].take() != before[changed].take(), "{changed} is as before");
    }
    ensure!(after == before, "{before} became {after}");
    Ok(())
}

fn never_an_argument(site: &Site) -> Result<()> {
    for command in ["add", "passwd"] {
        for password in
            ["--password hunter2", "--password=hunter2", "-p hunter2", "--password-stdin=hunter2", "hunter2"]
        {
            site.refused(&format!("subscriber {command} a@argument.example.com {password}"), "", USAGE, &[])?;
        }
    }
    ensure!(site.count("argument.example.com")? == 0, "something was written");
    Ok(())
}

fn asked_twice(site: &Site) -> Result<()> {
    let aor = "alice@prompt.example.com";
    let ran = site.in_terminal(&format!("subscriber add {aor}"), "typed\nmistyped\n")?;
    ensure!(ran.code == Some(FAILED) && ran.stdout.contains("the two passwords differ"), "{ran}");
    ensure!(site.count("prompt.example.com")? == 0, "it was written");
    let ran = site.in_terminal(&format!("subscriber add {aor}"), "typed\ntyped\n")?;
    ensure!(ran.code == Some(0) && ran.stdout.contains(&format!("Password of {aor}: ")), "{ran}");
    ensure_stored(site, aor, "typed")
}

fn no_terminal(site: &Site) -> Result<()> {
    let ran = site.without_terminal("subscriber add alice@noterm.example.com")?;
    ran.is_refusal(FAILED, &ran.stderr, &["no terminal to ask for the password", "--password-stdin"])
}

fn empty(site: &Site) -> Result<()> {
    for command in ["add", "passwd"] {
        for input in ["", "\n", "\r\n"] {
            let line = format!("subscriber {command} alice@empty.example.com --password-stdin");
            site.refused(&line, input, FAILED, &["the password of alice@empty.example.com is empty"])?;
        }
    }
    ensure!(site.count("empty.example.com")? == 0, "something was written");
    Ok(())
}
