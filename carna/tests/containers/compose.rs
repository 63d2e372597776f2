//! The Compose file.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fleet::Role;
use lab::tools;
use serde_json::{Value, json};

use crate::manifests::{ADDRESS, ROLES, SCHEMAS, check_roles, documents, is_true, places, strings, text};
use crate::node::Node;

/// Fails with what is wrong in the Compose file.
pub(crate) fn check(deploy: &Path) -> Result<()> {
    let file = deploy.join("compose/compose.yaml");
    let validator = tools::python(SCHEMAS, "check-jsonschema")?;
    tools::run(Command::new(validator).args(["--builtin-schema", "vendor.compose-spec"]).arg(&file))?;
    let all = documents(&file)?.remove(0);
    let (mut roles, mut names) = (Vec::new(), BTreeSet::new());
    for (name, service) in all["services"].as_object().context("no services")? {
        if service["environment"].get("CARNA_NODE__ROLE").is_none() {
            let is_ours = text(service, "/image").starts_with("${IMAGE");
            ensure!(!is_ours || is_true(service, "/read_only"), "{name} can be written");
            continue;
        }
        let node = of_compose(name, service)?;
        let config = node.check(deploy)?;
        let address = text(service, "/networks/inside/ipv4_address");
        let is_here = if config.node.role == Role::LoadBalancer {
            service["network_mode"] == "host"
        } else {
            config.asked_at().is_some_and(|asked| asked.ip().to_string() == address)
        };
        ensure!(is_here, "{name} has another address than it says");
        let own = config.node.name.unwrap_or_else(|| text(service, "/hostname").to_owned());
        ensure!(names.insert((config.node.role, own)), "there are two nodes of one name: {name}");
        let waits = text(service, "/depends_on/schema/condition");
        ensure!(waits == "service_completed_successfully", "{name} does not wait for the schema");
        roles.push(config.node.role);
    }
    for role in &ROLES[1..] {
        ensure!(roles.iter().filter(|one| *one == role).count() >= 2, "there are not two of the role {role}");
    }
    check_roles(roles.into_iter())
}

fn of_compose(name: &str, service: &Value) -> Result<Node> {
    let env = service["environment"].as_object().context("no environment")?;
    let env = env.iter().map(|(name, value)| (name.clone(), interpolate(value.as_str().unwrap_or_default())));
    let grace = text(service, "/stop_grace_period").replace('m', "min");
    Ok(Node {
        place: format!("the service {name}"),
        env: env.collect(),
        grace: humantime::parse_duration(&grace)?,
        is_read_only: is_true(service, "/read_only"),
        is_powerless: service["cap_drop"] == json!(["ALL"]) && service.get("cap_add").is_none(),
        in_memory: places(&strings(&service["tmpfs"]), 0),
        volumes: places(&strings(&service["volumes"]), 1),
    })
}

/// Puts values in the places of `${NAME}`, `${NAME:-default}` and `${NAME:?what it is}`, as Compose does.
fn interpolate(text: &str) -> String {
    let mut parts = text.split("${");
    let mut done = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once('}').unwrap_or((part, ""));
        let default = variable.split_once(":-").map(|(_, default)| default);
        let given = if variable.starts_with("HOST_ADDR") { ADDRESS } else { "given" };
        done += default.unwrap_or(given);
        done += rest;
    }
    done
}
