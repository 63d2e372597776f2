//! `sipctl subscriber`, all but passwords and import.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::site::{FAILED, Ran, Site, Test, USAGE, start};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("add_creates_and_show_and_list_show_it", add),
    ("add_changes_nothing_of_a_subscriber_that_exists", add_existing),
    ("of_two_that_add_one_aor_at_once_one_wins", concurrent_add),
    ("set_changes_what_is_given_and_keeps_the_rest", set),
    ("set_moves_a_subscriber_between_accounts_in_both_tables", accounts),
    ("concurrent_sets_lose_nothing", concurrent_set),
    ("list_filters_by_domain_and_account_in_order", list),
    ("an_index_entry_too_many_is_not_listed", stale_entry),
    ("disable_and_enable_change_only_that", enabled),
    ("remove_leaves_nothing_in_either_table", remove),
    ("what_names_an_unknown_subscriber_creates_none", unknown),
    ("what_races_with_remove_creates_no_subscriber", racing_remove),
];

fn add_plain(site: &Site, aor: &str) -> Result<String> {
    site.ok(&format!("subscriber add {aor} --password-stdin"), "secret")
}

fn accounts_of(site: &Site, username: &str, domain: &str) -> Result<Vec<String>> {
    let entries = site.rows("* FROM sip.subscriber_by_account")?;
    let ours = entries.iter().filter(|entry| entry["username"] == username && entry["domain"] == domain);
    Ok(ours.map(|entry| entry["account_id"].as_str().unwrap_or_default().to_owned()).collect())
}

fn add(site: &Site) -> Result<()> {
    let said = add_plain(site, "alice@ADD.example.com")?;
    ensure!(said == "alice@add.example.com is added.\n", "{said}");
    let line = "subscriber add bob@add.example.com --password-stdin --account acme --max-contacts 3 --max-calls 4 \
                --attr lang=en --attr tz=UTC";
    let said = site.json(line, "secret\n")?;
    ensure!(said == json!({"subscriber": "bob@add.example.com", "done": "added"}), "{said}");

    let mut bob = site.json("subscriber show bob@add.example.com", "")?;
    let updated = bob["updated"].take();
    ensure!(updated.as_str().is_some_and(|at| at.starts_with("20") && at.ends_with('Z')), "{updated}");
    let expected = json!({"subscriber": "bob@add.example.com", "enabled": true, "account": "acme", "max_contacts": 3,
        "max_calls": 4, "algorithms": ["MD5", "SHA-256", "SHA-512-256"], "attrs": {"lang": "en", "tz": "UTC"}, "updated": null});
    ensure!(bob == expected, "{bob}");
    let shown = site.ok("subscriber show bob@add.example.com", "")?;
    for part in
        ["bob@add.example.com", "acme", "lang=en", "tz=UTC", "MD5, SHA-256, SHA-512-256", "max contacts  3", "updated"]
    {
        ensure!(shown.contains(part), "no {part} in\n{shown}");
    }
    let listed = site.ok("subscriber list", "")?;
    ensure!(listed.contains("alice@add.example.com") && listed.contains("bob@add.example.com"), "{listed}");
    Ok(())
}

fn add_existing(site: &Site) -> Result<()> {
    add_plain(site, "alice@existing.example.com")?;
    let before = site.stored("alice", "existing.example.com")?;
    for options in ["", "--account acme --max-calls 9"] {
        let line = format!("subscriber add alice@existing.example.com --password-stdin {options}");
        site.refused(
            &line,
            "other",
            FAILED,
            &["alice@existing.example.com exists already", "sipctl subscriber passwd"],
        )?;
    }
    ensure!(site.stored("alice", "existing.example.com")? == before, "it was changed");
    ensure!(accounts_of(site, "alice", "existing.example.com")?.is_empty(), "it has got an account");
    Ok(())
}

/// Runs commands at once, each with its input, and waits for all.
fn at_once(site: &Site, lines: &[(&str, &str)]) -> Result<Vec<Ran>> {
    let children = lines
        .iter()
        .map(|(line, input)| start(site.command(line.split_whitespace()), input))
        .collect::<Result<Vec<_>>>()?;
    let named = children.into_iter().zip(lines);
    named.map(|(child, (line, _))| Ok(Ran::new((*line).to_owned(), child.wait_with_output()?))).collect()
}

fn concurrent_add(site: &Site) -> Result<()> {
    for round in 0..8 {
        let line = format!("subscriber add user{round}@race.example.com --password-stdin --max-calls");
        let (first, second) = (format!("{line} 1"), format!("{line} 2"));
        let ran = at_once(site, &[(&first, "one"), (&second, "two")])?;
        let winners: Vec<usize> = (0..2).filter(|index| ran[*index].code == Some(0)).collect();
        let [winner] = winners[..] else { anyhow::bail!("{} won: {} and {}", winners.len(), ran[0], ran[1]) };
        ran[1 - winner].is_refusal(FAILED, &ran[1 - winner].stderr, &["exists already"])?;
        let stored = site.stored(&format!("user{round}"), "race.example.com")?.unwrap_or_default();
        ensure!(stored["max_calls"] == winner + 1, "not the winner's: {stored}");
    }
    Ok(())
}

fn set(site: &Site) -> Result<()> {
    let aor = "alice@set.example.com";
    let options = "--account acme --max-contacts 3 --max-calls 4 --attr lang=en --attr tz=UTC";
    site.ok(&format!("subscriber add {aor} --password-stdin {options}"), "secret")?;
    let before = site.stored("alice", "set.example.com")?.unwrap_or_default();

    let said =
        site.json(&format!("subscriber set {aor} --max-calls 7 --attr lang=fr --unset-attr tz --attr x=a=b"), "")?;
    ensure!(said == json!({"subscriber": aor, "done": "changed"}), "{said}");
    let after = site.stored("alice", "set.example.com")?.unwrap_or_default();
    ensure!(after["max_calls"] == 7 && after["attrs"] == json!({"lang": "fr", "x": "a=b"}), "{after}");
    for kept in ["ha1", "ha1_sha256", "enabled", "account_id", "max_contacts"] {
        ensure!(after[kept] == before[kept] && !after[kept].is_null(), "{kept} of {before} and {after}");
    }
    ensure!(after["updated_at"] != before["updated_at"], "no new time: {after}");

    let said = site.ok(&format!("subscriber set {aor} --max-contacts 0"), "")?;
    ensure!(said == "alice@set.example.com is changed.\n", "{said}");
    ensure!(site.json(&format!("subscriber show {aor}"), "")?["max_contacts"] == 0);
    for (options, sentence) in [
        ("", "--max-contacts"),
        ("--max-contacts=-1", "--max-contacts"),
        ("--max-calls many", "many"),
        ("--attr lang", "name=value"),
        ("--account acme --no-account", "--no-account"),
    ] {
        site.refused(&format!("subscriber set {aor} {options}"), "", USAGE, &[sentence])?;
    }
    Ok(())
}

fn accounts(site: &Site) -> Result<()> {
    let (name, domain) = ("alice", "accounts.example.com");
    add_plain(site, &format!("{name}@{domain}"))?;
    ensure!(accounts_of(site, name, domain)?.is_empty());
    for (option, expected) in [
        ("--account one", vec!["one"]),
        ("--account two", vec!["two"]),
        ("--max-calls 1", vec!["two"]),
        ("--no-account", vec![]),
    ] {
        site.ok(&format!("subscriber set {name}@{domain} {option}"), "")?;
        let entries = accounts_of(site, name, domain)?;
        ensure!(entries == expected, "{entries:?} after {option}");
        let stored = site.stored(name, domain)?.unwrap_or_default();
        ensure!(stored["account_id"] == expected.first().copied().unwrap_or_default(), "{stored} after {option}");
    }
    Ok(())
}

fn concurrent_set(site: &Site) -> Result<()> {
    let aor = "alice@sets.example.com";
    add_plain(site, aor)?;
    let lines: Vec<String> = (0..6).map(|n| format!("subscriber set {aor} --attr a{n}=x --account acct{n}")).collect();
    let commands: Vec<(&str, &str)> = lines.iter().map(|line| (line.as_str(), "")).collect();
    for ran in at_once(site, &commands)? {
        ensure!(ran.code == Some(0), "{ran}");
    }
    let stored = site.stored("alice", "sets.example.com")?.unwrap_or_default();
    ensure!(stored["attrs"].as_object().is_some_and(|attrs| attrs.len() == 6), "some are lost: {stored}");
    let entries = accounts_of(site, "alice", "sets.example.com")?;
    ensure!(entries.iter().any(|entry| stored["account_id"] == entry.as_str()), "{entries:?} lacks that of {stored}");
    for n in 0..6 {
        let listed = site.json(&format!("subscriber list --account acct{n}"), "")?;
        let expected = usize::from(stored["account_id"] == format!("acct{n}"));
        ensure!(listed.as_array().map(Vec::len) == Some(expected), "account {n}: {listed} of {stored}");
    }
    Ok(())
}

fn names(listed: &Value) -> Vec<&str> {
    listed.as_array().into_iter().flatten().filter_map(|one| one["subscriber"].as_str()).collect()
}

fn list(site: &Site) -> Result<()> {
    for (aor, account) in
        [("zoe@list1.example.com", "l1"), ("bob@list2.example.com", "l1"), ("amy@list1.example.com", "l2")]
    {
        site.ok(&format!("subscriber add {aor} --password-stdin --account {account}"), "secret")?;
    }
    for (filter, expected) in [
        ("--domain LIST1.example.com", vec!["amy@list1.example.com", "zoe@list1.example.com"]),
        ("--account l1", vec!["zoe@list1.example.com", "bob@list2.example.com"]),
        ("--account l1 --domain list2.example.com", vec!["bob@list2.example.com"]),
        ("--account none", vec![]),
    ] {
        let listed = site.json(&format!("subscriber list {filter}"), "")?;
        ensure!(names(&listed) == expected, "{filter}: {listed}");
    }
    let none = site.ok("subscriber list --account none", "")?;
    ensure!(none == "There is no such subscriber.\n", "{none}");
    Ok(())
}

fn stale_entry(site: &Site) -> Result<()> {
    site.ok("subscriber add alice@stale.example.com --password-stdin --account mine", "secret")?;
    for username in ["alice", "gone"] {
        site.execute(&format!(
            "INSERT INTO sip.subscriber_by_account (account_id, domain, username) VALUES ('stale', 'stale.example.com', '{username}')"
        ))?;
    }
    let listed = site.json("subscriber list --account stale", "")?;
    ensure!(listed == json!([]), "{listed}");
    Ok(())
}

fn enabled(site: &Site) -> Result<()> {
    let aor = "alice@enabled.example.com";
    site.ok(&format!("subscriber add {aor} --password-stdin --account acme --attr a=b"), "secret")?;
    let mut before = site.stored("alice", "enabled.example.com")?.unwrap_or_default();
    for (command, state) in [("disable", false), ("disable", false), ("enable", true)] {
        let said = site.ok(&format!("subscriber {command} {aor}"), "")?;
        ensure!(said == format!("{aor} is {command}d.\n"), "{said}");
        let said = site.json(&format!("subscriber {command} {aor}"), "")?;
        ensure!(said == json!({"subscriber": aor, "done": format!("{command}d")}), "{said}");
        let mut after = site.stored("alice", "enabled.example.com")?.unwrap_or_default();
        ensure!(after["enabled"] == state, "{after}");
        for row in [&mut before, &mut after] {
            row["enabled"].take();
            row["updated_at"].take();
        }
        ensure!(after == before, "{before} became {after}");
        ensure!(site.json(&format!("subscriber show {aor}"), "")?["enabled"] == state);
    }
    Ok(())
}

fn remove(site: &Site) -> Result<()> {
    for (name, run) in [("alice", false), ("bob", true)] {
        let aor = format!("{name}@remove.example.com");
        site.ok(&format!("subscriber add {aor} --password-stdin --account acme --attr a=b"), "secret")?;
        site.ok(&format!("subscriber set {aor} --account other"), "")?;
        let line = format!("subscriber remove {aor}");
        if run {
            ensure!(site.json(&line, "")? == json!({"subscriber": aor, "done": "removed"}));
        } else {
            ensure!(site.ok(&line, "")? == format!("{aor} is removed.\n"));
        }
        ensure!(site.stored(name, "remove.example.com")?.is_none(), "the row is there");
        ensure!(accounts_of(site, name, "remove.example.com")?.is_empty(), "the index is there");
        site.refused(&line, "", FAILED, &["no subscriber", &aor])?;
    }
    // As new: nothing of the old one comes back.
    add_plain(site, "alice@remove.example.com")?;
    let again = site.json("subscriber show alice@remove.example.com", "")?;
    ensure!(again["account"] == "" && again["attrs"] == json!({}), "{again}");
    Ok(())
}

fn unknown(site: &Site) -> Result<()> {
    let aor = "nobody@unknown.example.com";
    for command in ["enable", "disable", "show", "remove"] {
        site.refused(&format!("subscriber {command} {aor}"), "", FAILED, &["no subscriber", aor])?;
    }
    site.refused(&format!("subscriber set {aor} --account acme"), "", FAILED, &["no subscriber", aor])?;
    site.refused(&format!("subscriber passwd {aor} --password-stdin"), "secret", FAILED, &["no subscriber", aor])?;
    ensure!(site.stored("nobody", "unknown.example.com")?.is_none(), "it was created");
    ensure!(accounts_of(site, "nobody", "unknown.example.com")?.is_empty(), "it has got an account");
    Ok(())
}

fn racing_remove(site: &Site) -> Result<()> {
    let aor = "alice@removed.example.com";
    let lines = ["remove", "disable", "enable", "passwd --password-stdin", "set --max-calls 1"].map(|command| {
        let (verb, options) = command.split_once(' ').unwrap_or((command, ""));
        format!("subscriber {verb} {aor} {options}")
    });
    let commands: Vec<(&str, &str)> = lines.iter().map(|line| (line.as_str(), "secret")).collect();
    for _ in 0..10 {
        add_plain(site, aor)?;
        let ran = at_once(site, &commands)?;
        ensure!(ran[0].code == Some(0), "{}", ran[0]);
        let left = site.stored("alice", "removed.example.com")?;
        ensure!(left.is_none(), "{left:?} after {}{}{}{}", ran[1], ran[2], ran[3], ran[4]);
    }
    Ok(())
}
