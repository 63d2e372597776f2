//! `sipctl alias`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::site::{FAILED, Site, Test, USAGE};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("an_alias_is_added_shown_changed_and_removed", one),
    ("an_alias_that_exists_is_not_changed_by_add", add_existing),
    ("what_names_an_unknown_alias_creates_none", unknown),
    ("aliases_that_lead_nowhere_are_pointed_out", nowhere),
    ("a_wrong_alias_is_refused_in_one_sentence", wrong),
    ("aliases_are_listed_by_domain_and_target_in_order", list),
    ("a_list_of_aliases_is_imported_and_again_changes_nothing", import),
    ("a_wrong_line_of_aliases_is_named_and_nothing_is_written", wrong_lines),
];

/// The stored rows of a domain, by alias: whom each means.
fn stored(site: &Site, domain: &str) -> Result<Vec<(String, String)>> {
    let text = |value: &Value| value.as_str().unwrap_or("null").to_owned();
    let row = |row: Value| {
        let target = format!("{}@{}", text(&row["target_username"]), text(&row["target_domain"]));
        (text(&row["domain"]) == domain).then(|| (text(&row["alias"]), target))
    };
    let mut rows: Vec<_> = site.rows("* FROM sip.alias")?.into_iter().filter_map(row).collect();
    rows.sort();
    Ok(rows)
}

fn row(alias: &str, target: &str) -> (String, String) {
    (alias.to_owned(), target.to_owned())
}

fn one(site: &Site) -> Result<()> {
    for aor in ["alice@alias1.example.com", "bob@alias1.example.com"] {
        site.ok(&format!("subscriber add {aor} --password-stdin"), "secret")?;
    }
    let said = site.ok("alias add +15551234@ALIAS1.example.com sip:alice@alias1.example.com", "")?;
    ensure!(said == "+15551234@alias1.example.com is added: it means alice@alias1.example.com.\n", "{said}");
    ensure!(stored(site, "alias1.example.com")? == [row("+15551234", "alice@alias1.example.com")]);
    let shown = site.json("alias show sip:%2b15551234@alias1.example.com", "")?;
    ensure!(shown == json!({"alias": "+15551234@alias1.example.com", "target": "alice@alias1.example.com"}), "{shown}");
    let shown = site.ok("alias show +15551234@alias1.example.com", "")?;
    ensure!(
        shown.contains("alias") && shown.contains("target") && shown.contains("alice@alias1.example.com"),
        "{shown}"
    );

    let set = "alias set +15551234@alias1.example.com bob@alias1.example.com";
    let said = site.json(set, "")?;
    let expected =
        json!({"alias": "+15551234@alias1.example.com", "target": "bob@alias1.example.com", "done": "changed"});
    ensure!(said == expected, "{said}");
    ensure!(site.ok(set, "")? == "+15551234@alias1.example.com is changed: it means bob@alias1.example.com.\n");
    ensure!(stored(site, "alias1.example.com")? == [row("+15551234", "bob@alias1.example.com")]);

    let said = site.json("alias remove +15551234@alias1.example.com", "")?;
    ensure!(said == json!({"alias": "+15551234@alias1.example.com", "done": "removed"}), "{said}");
    ensure!(stored(site, "alias1.example.com")?.is_empty());
    site.ok("alias add +15551234@alias1.example.com bob@alias1.example.com", "")?;
    let said = site.ok("alias remove +15551234@alias1.example.com", "")?;
    ensure!(said == "+15551234@alias1.example.com is removed.\n", "{said}");
    Ok(())
}

fn add_existing(site: &Site) -> Result<()> {
    let line = "alias add desk@alias2.example.com alice@alias2.example.com";
    let said = site.json(line, "")?;
    let expected = json!({"alias": "desk@alias2.example.com", "target": "alice@alias2.example.com", "done": "added"});
    ensure!(said == expected, "{said}");
    for target in ["alice", "bob"] {
        let line = format!("alias add desk@alias2.example.com {target}@alias2.example.com");
        site.refused(&line, "", FAILED, &["desk@alias2.example.com exists already", "sipctl alias set"])?;
    }
    ensure!(stored(site, "alias2.example.com")? == [row("desk", "alice@alias2.example.com")]);
    Ok(())
}

fn unknown(site: &Site) -> Result<()> {
    for command in
        ["show nobody@alias3.example.com", "remove nobody@alias3.example.com", "set nobody@alias3.example.com a@b"]
    {
        let parts = ["there is no alias nobody@alias3.example.com", "sipctl alias list"];
        site.refused(&format!("alias {command}"), "", FAILED, &parts)?;
    }
    ensure!(stored(site, "alias3.example.com")?.is_empty(), "it was created");
    Ok(())
}

fn nowhere(site: &Site) -> Result<()> {
    let said = site.ok("alias add desk@alias4.example.com nobody@alias4.example.com", "")?;
    ensure!(said.ends_with("\nThere is no subscriber nobody@alias4.example.com.\n"), "{said}");
    let said = site.ok("alias add room@alias4.example.com desk@alias4.example.com", "")?;
    ensure!(
        said.ends_with("\ndesk@alias4.example.com is an alias itself; what it means is not looked up.\n"),
        "{said}"
    );
    site.execute("INSERT INTO sip.alias (domain, alias, target_domain) VALUES ('alias4.example.com', 'half', 'x')")?;
    let shown = site.json("alias show half@alias4.example.com", "")?;
    ensure!(shown == json!({"alias": "half@alias4.example.com", "target": ""}), "{shown}");
    let listed = site.json("alias list --domain alias4.example.com", "")?;
    ensure!(listed.as_array().map(Vec::len) == Some(3), "{listed}");
    Ok(())
}

fn wrong(site: &Site) -> Result<()> {
    let own = "alias add desk@alias5.example.com sip:desk@ALIAS5.example.com";
    site.refused(own, "", FAILED, &["desk@alias5.example.com cannot mean itself"])?;
    site.refused(&own.replace("add", "set"), "", FAILED, &["desk@alias5.example.com cannot mean itself"])?;
    for (line, parts) in [
        ("add +15551234 alice@alias5.example.com", ["'+15551234' is no address-of-record", "it has no @"]),
        ("add desk@alias5.example.com alice", ["'alice' is no address-of-record", "it has no @"]),
        ("add desk@alias5.example.com tel:+15551234", ["'tel:+15551234' is no address-of-record", "it has no @"]),
        ("add desk@alias5.example.com", ["required arguments", "<TARGET>"]),
        ("list --target alice", ["'alice' is no address-of-record", "--target"]),
    ] {
        site.refused(&format!("alias {line}"), "", USAGE, &parts)?;
    }
    ensure!(stored(site, "alias5.example.com")?.is_empty(), "something was written");
    Ok(())
}

fn list(site: &Site) -> Result<()> {
    for (alias, target) in [("z@alias6", "a@alias6"), ("b@alias7", "a@alias6"), ("c@alias6", "d@alias6")] {
        site.ok(&format!("alias add {alias}.example.com {target}.example.com"), "")?;
    }
    for (filter, expected) in [
        ("--domain ALIAS6.example.com", vec!["c@alias6.example.com", "z@alias6.example.com"]),
        ("--target a@ALIAS6.example.com", vec!["z@alias6.example.com", "b@alias7.example.com"]),
        ("--target a@alias6.example.com --domain alias7.example.com", vec!["b@alias7.example.com"]),
        ("--domain none.example.com", vec![]),
    ] {
        let listed = site.json(&format!("alias list {filter}"), "")?;
        let names: Vec<&str> =
            listed.as_array().into_iter().flatten().filter_map(|one| one["alias"].as_str()).collect();
        ensure!(names == expected, "{filter}: {listed}");
    }
    let csv = site.ok("--csv alias list --domain alias7.example.com", "")?;
    ensure!(csv == "alias,target\nb@alias7.example.com,a@alias6.example.com\n", "{csv}");
    ensure!(site.ok("alias list --domain none.example.com", "")? == "There is no such alias.\n");
    ensure!(site.ok("alias list", "")?.contains("b@alias7.example.com"));
    Ok(())
}

fn import(site: &Site) -> Result<()> {
    site.ok("alias add 100@alias8.example.com mine@alias8.example.com", "")?;
    let lines =
        "alias,target\n100@alias8.example.com,a@alias8.example.com\n 101@Alias8.example.com, b@alias8.example.com\n";
    ensure!(site.json("alias import -", lines)? == json!({"added": 1, "existing": 1}));
    let both = [row("100", "mine@alias8.example.com"), row("101", "b@alias8.example.com")];
    ensure!(stored(site, "alias8.example.com")? == both, "{:?}", stored(site, "alias8.example.com")?);
    // What is listed can be imported.
    let listed = site.ok("--csv alias list --domain alias8.example.com", "")?;
    let said = site.ok("alias import -", &listed)?;
    ensure!(said == "0 added, 2 existed already and are unchanged.\n", "{said}");
    ensure!(stored(site, "alias8.example.com")? == both);
    Ok(())
}

fn wrong_lines(site: &Site) -> Result<()> {
    let good = "100@alias9.example.com,a@alias9.example.com";
    for (line, sentence) in [
        ("101@alias9.example.com", "line 2: it does not have the 2 fields alias,target"),
        ("101@alias9.example.com,a", "line 2: 'a' is no address-of-record: it has no @"),
        ("101,a@alias9.example.com", "line 2: '101' is no address-of-record: it has no @"),
        ("a@b,a@b", "line 2: a@b cannot mean itself"),
        ("100@Alias9.example.com,b@alias9.example.com", "line 2 repeats 100@alias9.example.com of line 1"),
    ] {
        let parts = ["nothing is imported from standard input", sentence];
        site.refused("alias import -", &format!("{good}\n{line}\n"), FAILED, &parts)?;
    }
    ensure!(stored(site, "alias9.example.com")?.is_empty(), "something was written");
    Ok(())
}
