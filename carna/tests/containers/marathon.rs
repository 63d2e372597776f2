//! The apps for Marathon.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fleet::Role;
use lab::{RunDir, tools};
use serde_json::{Value, json};

use crate::manifests::{ADDRESS, SCHEMAS, check_roles, files, is_true, places, strings, text};
use crate::node::Node;

/// Fails with what is wrong in the apps for Marathon.
pub(crate) fn check(deploy: &Path) -> Result<()> {
    let directory = deploy.join("marathon");
    let schema = directory.join("schema.json");
    let mut files = files(&directory, "json")?;
    files.retain(|file| *file != schema);
    let validator = tools::python(SCHEMAS, "check-jsonschema")?;
    tools::run(Command::new(&validator).arg("--check-metaschema").arg(&schema))?;
    tools::run(Command::new(&validator).arg("--schemafile").arg(&schema).args(&files))?;
    let mut roles = Vec::new();
    for file in &files {
        let app: Value = serde_json::from_slice(&fs::read(file)?)?;
        roles.push(check_app(&app, deploy).with_context(|| format!("in {}", file.display()))?);
    }
    check_roles(roles.into_iter())
}

fn check_app(app: &Value, deploy: &Path) -> Result<Role> {
    let config = of_marathon(app)?.check(deploy)?;
    let role = config.node.role;
    let constraints = app["constraints"].as_array().context("no constraints")?;
    ensure!(
        constraints.contains(&json!(["hostname", "UNIQUE"])),
        "hostname is not UNIQUE: two nodes would have one name"
    );
    ensure!(app["networks"] == json!([{"mode": "host"}]), "it is not in the host's network");
    if role == Role::LoadBalancer {
        let is_static = constraints.iter().any(|one| one[0] == "edge" && one[2] == "true");
        ensure!(is_static, "a load balancer is not kept to the machines of the edge, whose addresses are static");
        ensure!(is_true(app, "/requirePorts"), "phones know its port: requirePorts");
    }
    let health = &app["healthChecks"][0];
    ensure!(health["path"] == "/live" && health["portIndex"] == 1, "the health check does not ask Carna for /live");
    let grace = Duration::from_secs(health["gracePeriodSeconds"].as_u64().unwrap_or_default());
    ensure!(grace > config.process.start_limit, "gracePeriodSeconds is less than process.start_limit");
    Ok(role)
}

fn of_marathon(app: &Value) -> Result<Node> {
    let docker = &app["container"]["docker"];
    let parameters = docker["parameters"].as_array().context("no parameters")?;
    let given = |key: &str| -> Vec<String> {
        parameters.iter().filter(|one| one["key"] == key).map(|one| text(one, "/value").to_owned()).collect()
    };
    ensure!(given("entrypoint") == ["/bin/sh"], "the arguments are for /bin/sh");
    ensure!(
        given("no-healthcheck") == ["true"],
        "the image's health check does not have what the shell gives to Carna"
    );
    Ok(Node {
        place: format!("the app {}", text(app, "/id")),
        env: env_of_marathon(app)?,
        grace: Duration::from_secs(app["taskKillGracePeriodSeconds"].as_u64().unwrap_or_default()),
        is_read_only: given("read-only") == ["true"],
        is_powerless: given("cap-drop") == ["ALL"] && given("cap-add").is_empty(),
        in_memory: places(&given("tmpfs"), 0),
        volumes: places(&given("volume"), 1),
    })
}

/// What Carna has in its environment when the shell has done what the app says, with ports that Marathon has chosen.
fn env_of_marathon(app: &Value) -> Result<BTreeMap<String, String>> {
    let arguments = strings(&app["args"]);
    ensure!(
        arguments.len() == 2 && arguments[1].ends_with("; exec carna run"),
        "the shell does not exec Carna: no signal reaches it"
    );
    let dir = RunDir::new("marathon")?;
    let program = dir.write("carna", "#!/bin/sh\nexec env\n")?;
    tools::run(Command::new("chmod").arg("+x").arg(&program))?;
    let mut shell = Command::new("/bin/sh");
    shell.args(&arguments).env_clear().env("HOST", ADDRESS);
    for (index, port) in app["portDefinitions"].as_array().into_iter().flatten().enumerate() {
        let port = port["port"].as_u64().filter(|port| *port != 0).unwrap_or(31_000 + index as u64);
        shell.env(format!("PORT{index}"), port.to_string());
    }
    for (name, value) in app["env"].as_object().into_iter().flatten() {
        let secret = text(value, "/secret");
        ensure!(value.is_string() || app["secrets"].get(secret).is_some(), "there is no secret {secret}");
        shell.env(name, value.as_str().unwrap_or("a secret"));
    }
    let printed = tools::run(shell.env("PATH", format!("{}:/usr/bin:/bin", dir.path().display())))?;
    let env = printed.lines().filter_map(|line| line.split_once('='));
    Ok(env.filter(|(name, _)| *name != "PATH").map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}
