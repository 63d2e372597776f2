//! The manifests for Kubernetes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fleet::Role;
use lab::tools;
use serde_json::{Value, json};

use crate::manifests::{ADDRESS, check_roles, documents, files, is_true, text};
use crate::node::Node;

/// From PyPI: checks by the schemas of Kubernetes, which it brings.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";

/// Fails with what is wrong in the manifests for Kubernetes.
pub(crate) fn check(deploy: &Path) -> Result<()> {
    let files = files(&deploy.join("kubernetes"), "yaml")?;
    let validator = tools::python(VALIDATOR, "kubernetes-validate")?;
    tools::run(Command::new(validator).args(["--strict", "--quiet"]).args(&files))?;
    let mut all = Vec::new();
    for file in &files {
        all.extend(documents(file)?);
    }
    let mut roles = Vec::new();
    for workload in all.iter().filter(|one| one.pointer("/spec/template/spec/containers").is_some()) {
        roles.push(
            check_workload(workload, &all, deploy)
                .with_context(|| format!("in {}", text(workload, "/metadata/name")))?,
        );
    }
    check_roles(roles.into_iter())
}

fn check_workload(workload: &Value, all: &[Value], deploy: &Path) -> Result<Role> {
    let name = text(workload, "/metadata/name");
    let pod = &workload["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let config = of_kubernetes(workload, all)?.check(deploy)?;
    let labels = &workload["spec"]["template"]["metadata"]["labels"];
    ensure!(labels["app"] == config.node.role.name(), "the label app is not the role");
    ensure!(is_true(pod, "/securityContext/runAsNonRoot"), "it may be root");
    ensure!(container["securityContext"]["allowPrivilegeEscalation"] == false, "it may get privileges");
    ensure!(pod["enableServiceLinks"] == false, "enableServiceLinks lets Services set its variables");
    ensure!(
        container["lifecycle"]["preStop"]["exec"]["command"] == json!(["carna", "drain"]),
        "preStop does not drain"
    );
    let port = container["ports"].as_array().into_iter().flatten().find(|port| port["name"] == "http");
    ensure!(port.is_some_and(|port| port["containerPort"] == config.http.listen.port()), "Carna is at another port");
    for (probe, path) in [("livenessProbe", "/live"), ("readinessProbe", "/ready")] {
        let asked = &container[probe]["httpGet"];
        ensure!(asked["path"] == path && asked["port"] == "http", "the {probe} does not ask Carna for {path}");
        let host = asked["host"].as_str().unwrap_or("0.0.0.0");
        ensure!(host == config.http.listen.ip().to_string(), "the {probe} asks elsewhere");
    }
    if workload["kind"] == "DaemonSet" {
        ensure!(is_true(pod, "/hostNetwork"), "no hostNetwork: phones would not see its address");
        ensure!(pod["dnsPolicy"] == "ClusterFirstWithHostNet", "it does not find Services: dnsPolicy");
        return Ok(config.node.role);
    }
    ensure!(workload["kind"] == "StatefulSet", "a node with a queue is in no StatefulSet");
    let find = |kind: &str| {
        let found = all.iter().find(|one| one["kind"] == kind && text(one, "/metadata/name") == name);
        found.with_context(|| format!("it has no {kind}"))
    };
    let service = find("Service")?;
    ensure!(
        workload["spec"]["serviceName"] == name && service["spec"]["selector"] == *labels,
        "the Service is another's"
    );
    ensure!(service["spec"]["clusterIP"] == "None", "the Service is not headless");
    let budget = find("PodDisruptionBudget")?;
    ensure!(budget["spec"]["selector"]["matchLabels"] == *labels, "the PodDisruptionBudget is another's");
    Ok(config.node.role)
}

fn of_kubernetes(workload: &Value, all: &[Value]) -> Result<Node> {
    let spec = &workload["spec"];
    let pod = &spec["template"]["spec"];
    let container = &pod["containers"][0];
    let claims = spec["volumeClaimTemplates"].as_array().into_iter().flatten();
    let claims: Vec<&str> = claims.map(|claim| text(claim, "/metadata/name")).collect();
    let volumes: Vec<&Value> = pod["volumes"].as_array().into_iter().flatten().collect();
    let is_in_memory =
        |name: &str| volumes.iter().any(|one| one["name"] == name && one["emptyDir"]["medium"] == "Memory");
    // A load balancer has no queue.
    let is_on_disk = |name: &str| match workload["kind"].as_str() {
        Some("DaemonSet") => volumes.iter().any(|one| one["name"] == name && one["emptyDir"] == json!({})),
        _ => claims.contains(&name),
    };
    let mounts: Vec<(&str, String)> = container["volumeMounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| (text(mount, "/name"), text(mount, "/mountPath").to_owned()))
        .collect();
    let of = |holds: &dyn Fn(&str) -> bool| {
        mounts.iter().filter(|(name, _)| holds(name)).map(|(_, path)| path.clone()).collect()
    };
    Ok(Node {
        place: format!("the {} {}", text(workload, "/kind"), text(workload, "/metadata/name")),
        env: env_of_kubernetes(container, all)?,
        grace: Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap_or(30)),
        is_read_only: is_true(container, "/securityContext/readOnlyRootFilesystem"),
        is_powerless: container["securityContext"]["capabilities"] == json!({"drop": ["ALL"]}),
        in_memory: of(&is_in_memory),
        volumes: of(&is_on_disk),
    })
}

/// The variables of a container, with an address of its own, and secrets.
fn env_of_kubernetes(container: &Value, all: &[Value]) -> Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    for source in container["envFrom"].as_array().into_iter().flatten() {
        let name = text(source, "/configMapRef/name");
        let map = all.iter().find(|one| one["kind"] == "ConfigMap" && text(one, "/metadata/name") == name);
        let data = map.with_context(|| format!("there is no ConfigMap {name}"))?["data"].as_object().cloned();
        env.extend(
            data.into_iter().flatten().map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned())),
        );
    }
    let mut before: Vec<(String, String)> = Vec::new();
    for variable in container["env"].as_array().into_iter().flatten() {
        let value = match (variable["value"].as_str(), text(variable, "/valueFrom/fieldRef/fieldPath")) {
            (Some(value), _) => value.to_owned(),
            (None, "status.podIP" | "status.hostIP") => ADDRESS.to_owned(),
            (None, "") => "a secret".to_owned(),
            (None, other) => bail!("a test does not know what {other} is"),
        };
        // Those from other sources are not put into places.
        let value = before.iter().fold(value, |value, (name, known)| value.replace(&format!("$({name})"), known));
        before.push((text(variable, "/name").to_owned(), value));
    }
    env.extend(before);
    Ok(env)
}
