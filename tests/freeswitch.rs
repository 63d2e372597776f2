//! The configuration of FreeSWITCH in `deploy/freeswitch/`, without a FreeSWITCH: a linter that knows its dialplan, and what that
//! one does not look at. Each check is tested on a configuration that is broken on purpose.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::{RunDir, tools, workspace};
use roxmltree::{Document, Node};

/// The linter, from PyPI.
const LINTER: &str = "frslint==0.1.0";

/// Modules, each with the configuration that it reads if there is one, and the dialplan's applications that it brings.
const MODULES: [(&str, &str, &[&str]); 13] = [
    ("mod_console", "console.conf", &[]),
    ("mod_event_socket", "event_socket.conf", &["socket"]),
    ("mod_json_cdr", "json_cdr.conf", &[]),
    ("mod_commands", "", &[]),
    (
        "mod_dptools",
        "",
        &["answer", "bridge", "echo", "export", "hangup", "log", "playback", "record", "set", "sleep", "transfer"],
    ),
    ("mod_dialplan_xml", "", &[]),
    ("mod_lua", "lua.conf", &["lua"]),
    ("mod_sofia", "sofia.conf", &["sofia_sla"]),
    ("mod_sndfile", "", &[]),
    ("mod_tone_stream", "", &[]),
    ("mod_say_en", "", &[]),
    ("mod_conference", "conference.conf", &["conference"]),
    ("mod_voicemail", "voicemail.conf", &["voicemail"]),
];

/// What FreeSWITCH itself reads.
const OF_THE_CORE: [&str; 3] = ["modules.conf", "switch.conf", "acl.conf"];

/// Variables that FreeSWITCH itself defines.
const BUILT_IN: [&str; 1] = ["conf_dir"];

/// Settings of a profile of mod_sofia that we use.
const SOFIA_SETTINGS: [&str; 14] = [
    "sip-ip",
    "sip-port",
    "rtp-ip",
    "context",
    "dialplan",
    "apply-inbound-acl",
    "auth-calls",
    "disable-register",
    "manage-presence",
    "inbound-codec-prefs",
    "outbound-codec-prefs",
    "rfc2833-pt",
    "rtp-timer-name",
    "sip-options-respond-503-on-busy",
];

fn ours() -> PathBuf {
    workspace().root().join("deploy/freeswitch")
}

/// A configuration with `text` in the place of `place` in one of its files.
fn broken(file: &str, place: &str, text: &str) -> Result<RunDir> {
    let copy = RunDir::new("freeswitch")?;
    copy.copy_changed(&ours(), ".", &format!("./{file}"), place, text)?;
    Ok(copy)
}

/// The whole configuration as FreeSWITCH sees it: includes and variables in their places.
fn preprocessed(dir: &Path) -> Result<String> {
    let mut variables: BTreeMap<String, String> =
        BUILT_IN.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
    let mut text = String::new();
    include(dir, "freeswitch.xml", &mut variables, &mut text)?;
    Ok(text)
}

fn include(dir: &Path, file: &str, variables: &mut BTreeMap<String, String>, text: &mut String) -> Result<()> {
    let content = fs::read_to_string(dir.join(file)).with_context(|| format!("the file {file} is included"))?;
    Document::parse(&content).with_context(|| format!("{file} is no XML"))?;
    for line in content.lines().filter(|line| !line.starts_with("<?xml")) {
        let line = expand(line, variables).with_context(|| format!("in {file}"))?;
        let Some((_, command)) = line.split_once("<X-PRE-PROCESS cmd=\"") else {
            text.push_str(&line);
            text.push('\n');
            continue;
        };
        let mut parts = command.split('"');
        let (command, data) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
        match (command, data.split_once('=')) {
            ("include", _) => include(dir, data, variables, text)?,
            ("set" | "exec-set", Some((name, value))) => drop(variables.insert(name.to_owned(), value.to_owned())),
            ("env-set", Some((name, value))) => {
                ensure!(value.starts_with('$'), "env-set takes name=$VARIABLE, not {data}");
                ensure!(variables.contains_key(name), "the variable {name} has no default");
            }
            _ => anyhow::bail!("the pre-processor does not know {line}"),
        }
    }
    Ok(())
}

/// Puts the values of `$${variable}` into a line.
fn expand(line: &str, variables: &BTreeMap<String, String>) -> Result<String> {
    let mut parts = line.split("$${");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').context("a variable without end")?;
        let value = variables.get(name).with_context(|| format!("the variable {name} is not defined"))?;
        text.push_str(value);
        text.push_str(rest);
    }
    Ok(text)
}

/// The elements of this name below `node`.
fn all<'d>(node: Node<'d, 'd>, name: &'static str) -> impl Iterator<Item = Node<'d, 'd>> {
    node.descendants().filter(move |node| node.has_tag_name(name))
}

fn attribute<'d>(node: Node<'d, 'd>, name: &str) -> &'d str {
    node.attribute(name).unwrap_or_default()
}

/// The value of a parameter.
fn parameter<'d>(node: Node<'d, 'd>, name: &str) -> &'d str {
    all(node, "param").find(|param| attribute(*param, "name") == name).map_or("", |param| attribute(param, "value"))
}

/// Fails with what is wrong.
fn check(dir: &Path) -> Result<()> {
    let text = preprocessed(dir)?;
    let document = Document::parse(&text).context("the whole is no XML")?;
    let root = document.root_element();
    let configurations: BTreeMap<&str, Node> =
        all(root, "configuration").map(|configuration| (attribute(configuration, "name"), configuration)).collect();
    let configuration = |name: &str| configurations.get(name).copied().with_context(|| format!("there is no {name}"));
    let loaded: Vec<&str> = all(configuration("modules.conf")?, "load").map(|load| attribute(load, "module")).collect();
    for module in &loaded {
        let (_, file, _) =
            MODULES.iter().find(|(name, ..)| name == module).with_context(|| format!("{module} is unknown"))?;
        ensure!(file.is_empty() || configurations.contains_key(file), "{module} is loaded, but there is no {file}");
    }
    for name in configurations.keys() {
        let module = MODULES.iter().find(|(_, file, _)| file == name).map(|(module, ..)| *module);
        let is_read = OF_THE_CORE.contains(name) || module.is_some_and(|module| loaded.contains(&module));
        ensure!(is_read, "no loaded module reads {name}");
    }
    check_sofia(configuration("sofia.conf")?, configuration("acl.conf")?, root)?;
    check_dialplan(root, &loaded)?;
    let socket = configuration("event_socket.conf")?;
    ensure!(parameter(socket, "listen-ip") == "127.0.0.1", "the event socket is not on the loopback address");
    ensure!(parameter(socket, "apply-inbound-acl") == "loopback.auto", "the event socket is not for this machine only");
    ensure!(!["", "ClueCon"].contains(&parameter(socket, "password")), "everybody knows the event socket's password");
    ensure!(parameter(configuration("console.conf")?, "json") == "true", "the log is not JSON");
    Ok(())
}

fn check_sofia(sofia: Node, acl: Node, root: Node) -> Result<()> {
    let lists: Vec<Node> = all(acl, "list").collect();
    for profile in all(sofia, "profile") {
        for param in all(profile, "param") {
            let name = attribute(param, "name");
            ensure!(SOFIA_SETTINGS.contains(&name), "mod_sofia knows no {name}");
        }
        let context = parameter(profile, "context");
        ensure!(all(root, "context").any(|one| attribute(one, "name") == context), "there is no context {context}");
        let name = parameter(profile, "apply-inbound-acl");
        let list = lists.iter().find(|list| attribute(**list, "name") == name);
        let list = list.with_context(|| format!("there is no ACL {name}"))?;
        ensure!(attribute(*list, "default") == "deny", "the ACL {name} lets anybody in");
    }
    Ok(())
}

fn check_dialplan(root: Node, loaded: &[&str]) -> Result<()> {
    let profiles: Vec<&str> = all(root, "profile").map(|profile| attribute(profile, "name")).collect();
    for action in all(root, "action") {
        let (name, data) = (attribute(action, "application"), attribute(action, "data"));
        let (module, ..) = MODULES
            .iter()
            .find(|(_, _, applications)| applications.contains(&name))
            .with_context(|| format!("the application {name} is unknown"))?;
        ensure!(loaded.contains(module), "the application {name} is of {module}, which is not loaded");
        if name == "bridge" {
            let profile = data.split('/').nth(1).unwrap_or_default();
            ensure!(profiles.contains(&profile), "there is no profile {profile} for {data}");
        }
        if name == "conference" {
            let profile = data.split('@').nth(1).unwrap_or_default();
            ensure!(profiles.contains(&profile), "there is no profile {profile} for {data}");
        }
    }
    Ok(())
}

/// Fails with what the linter finds.
fn lint(dir: &Path) -> Result<()> {
    let linter = tools::python(LINTER, "frslint")?;
    // Its exit code tells of errors only.
    for (what, praise) in [("analyze", "No issues found"), ("lint", "No style violations found")] {
        let output = Command::new(&linter).arg(what).arg(dir.join("freeswitch.xml")).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success() && text.contains(praise), "{text}");
    }
    Ok(())
}

#[test]
fn our_configuration_passes_the_linter_and_our_checks() -> Result<()> {
    lint(&ours())?;
    check(&ours())
}

#[test]
fn the_linter_finds_what_is_wrong() -> Result<()> {
    for (file, place, text, sentence) in [
        ("dialplan.xml", "application=\"echo\"", "application=\"ecko\"", "Unknown application: 'ecko'"),
        ("dialplan.xml", r"^\*44$", "^(*44$", "Invalid regex"),
    ] {
        let error = lint(broken(file, place, text)?.path()).expect_err(text).to_string();
        ensure!(error.contains(sentence), "no '{sentence}' in: {error}");
    }
    Ok(())
}

#[test]
fn our_checks_find_what_is_wrong() -> Result<()> {
    for (file, place, text, sentence) in [
        ("dialplan.xml", "</context>", "", "dialplan.xml is no XML"),
        ("freeswitch.xml", "data=\"dialplan.xml\"", "data=\"dialplans.xml\"", "the file dialplans.xml is included"),
        (
            "freeswitch.xml",
            "cmd=\"set\" data=\"media_ip",
            "cmd=\"sets\" data=\"media_ip",
            "the pre-processor does not know",
        ),
        ("freeswitch.xml", "media_ip=$MEDIA_IP", "media_ip=MEDIA_IP", "env-set takes name=$VARIABLE"),
        (
            "freeswitch.xml",
            "data=\"media_ip=127.0.0.1\"",
            "data=\"media=127.0.0.1\"",
            "the variable media_ip has no default",
        ),
        ("configuration.xml", "$${media_ip}", "$${media_address}", "the variable media_address is not defined"),
        ("configuration.xml", "module=\"mod_dptools\"", "module=\"mod_dptool\"", "mod_dptool is unknown"),
        ("configuration.xml", "<load module=\"mod_dptools\"/>", "", "is of mod_dptools, which is not loaded"),
        ("configuration.xml", "<load module=\"mod_voicemail\"/>", "", "no loaded module reads voicemail.conf"),
        ("configuration.xml", "name=\"lua.conf\"", "name=\"luna.conf\"", "mod_lua is loaded, but there is no lua.conf"),
        (
            "configuration.xml",
            "\"apply-inbound-acl\" value=\"dispatchers\"",
            "\"apply-inbound-acl\" value=\"all\"",
            "no ACL all",
        ),
        ("configuration.xml", "default=\"deny\"", "default=\"allow\"", "the ACL dispatchers lets anybody in"),
        (
            "configuration.xml",
            "\"context\" value=\"dispatchers\"",
            "\"context\" value=\"public\"",
            "there is no context public",
        ),
        ("configuration.xml", "\"sip-ip\"", "\"sip-address\"", "mod_sofia knows no sip-address"),
        (
            "configuration.xml",
            "\"listen-ip\" value=\"127.0.0.1\"",
            "\"listen-ip\" value=\"::\"",
            "not on the loopback address",
        ),
        ("configuration.xml", "$${event_socket_password}", "ClueCon", "everybody knows"),
        ("configuration.xml", "value=\"loopback.auto\"", "value=\"any_v4.auto\"", "not for this machine only"),
        ("configuration.xml", "name=\"json\" value=\"true\"", "name=\"json\" value=\"false\"", "the log is not JSON"),
        ("dialplan.xml", "application=\"answer\"", "application=\"awnser\"", "the application awnser is unknown"),
        ("dialplan.xml", "sofia/inside/", "sofia/outside/", "there is no profile outside"),
    ] {
        let error = check(broken(file, place, text)?.path()).expect_err(text);
        ensure!(format!("{error:#}").contains(sentence), "no '{sentence}' in: {error:#}");
    }
    Ok(())
}
