//! Images and manifests in `deploy/`, without a container engine: linters, schemas, and what those do not look at. That a node starts
//! with what a manifest says, its Carna's configuration and its Kamailio say themselves. Each check is tested on what is broken on purpose.

mod compose;
mod image;
mod kubernetes;
mod manifests;
mod marathon;
mod node;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lab::{RunDir, workspace};

/// The directories that are looked at.
const DIRECTORIES: [&str; 4] = ["docker", "compose", "kubernetes", "marathon"];

fn ours() -> PathBuf {
    workspace().root().join("deploy")
}

/// All of `deploy/` that is looked at, with `text` in each place of `place` in one file.
fn broken(file: &str, place: &str, text: &str) -> Result<RunDir> {
    let copy = RunDir::new("deploy")?;
    for directory in DIRECTORIES {
        copy.copy_changed(&ours().join(directory), directory, file, place, text)?;
    }
    Ok(copy)
}

/// Each of these changes to a file makes the check fail, with these words.
fn finds(check: fn(&Path) -> Result<()>, changes: &[(&str, &str, &str, &str)]) -> Result<()> {
    for (file, place, text, words) in changes {
        let copy = broken(file, place, text)?;
        let error = check(copy.path()).err().with_context(|| format!("'{text}' in {file} passes"))?;
        let told = format!("{error:#}");
        ensure!(told.contains(words), "'{text}' in {file} should be '{words}' but is: {told}");
    }
    Ok(())
}

#[test]
fn our_images_pass() -> Result<()> {
    image::check(&ours())
}

#[test]
fn what_is_wrong_in_an_image_is_found() -> Result<()> {
    let (roles, media) = ("docker/Dockerfile", "docker/Dockerfile.media");
    finds(
        image::check,
        &[
            (roles, "WORKDIR /src", "WORKDIR src", "DL3000"),
            (roles, "ENTRYPOINT [\"carna\", \"run\"]", "ENTRYPOINT carna run", "DL3025"),
            (roles, "ENTRYPOINT [\"carna\", \"run\"]", "", "has no ENTRYPOINT"),
            (roles, "USER 10001:10001", "USER 0", "should not be root"),
            (roles, "USER 10001:10001", "", "has no USER"),
            (roles, "CMD [\"carna\", \"health\"]", "CMD carna health", "DL3025"),
            (roles, "STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "STOPSIGNAL"),
            (roles, "VOLUME [\"/var/lib/carna\"]", "", "has no VOLUME"),
            (roles, "COPY kamailio-cfg", "COPY kamailio", "kamailio is not there"),
            (media, "FREESWITCH_BASE", "BASE", "no build argument FREESWITCH_BASE"),
            (
                media,
                "HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3",
                "HEALTHCHECK NONE\n#",
                "NONE",
            ),
        ],
    )
}

#[test]
fn our_compose_file_passes() -> Result<()> {
    compose::check(&ours())
}

#[test]
fn what_is_wrong_in_a_compose_file_is_found() -> Result<()> {
    let file = "compose/compose.yaml";
    finds(
        compose::check,
        &[
            (file, "read_only: true", "readonly: true", "readonly"),
            (file, "stop_grace_period: 16m", "stop_grace_period: 15m", "is less than a drain"),
            (file, "CARNA_NODE__DC:", "CARNA_NODE__DATA_CENTRE:", "data_centre"),
            (file, "CARNA_NODE__ROLE: outbound", "CARNA_NODE__ROLE: outgoing", "NODE.ROLE"),
            (file, "NONCE_SECRET: ${NONCE_SECRET:?", "NONCE: ${NONCE_SECRET:?", "NONCE_SECRET"),
            (file, "CARNA_NODE__SIP__UDP: 172.30.0.41", "CARNA_NODE__SIP__UDP: 172.30.0.40", "SIP_ADDR"),
            (file, "ipv4_address: 172.30.0.41", "ipv4_address: 172.30.0.40", "has another address"),
            (file, "hostname: outbound-2", "hostname: outbound-1", "two nodes of one name"),
            (file, "[\"outbound-2:/var/lib/carna\"]", "[]", "no volume"),
            (file, "[\"/run/kamailio:uid", "[\"/run/kamail:uid", "not writable"),
        ],
    )
}

#[test]
fn our_kubernetes_manifests_pass() -> Result<()> {
    kubernetes::check(&ours())
}

#[test]
fn what_is_wrong_in_a_kubernetes_manifest_is_found() -> Result<()> {
    let (edge, worker, settings) =
        ("kubernetes/load-balancer.yaml", "kubernetes/dispatcher.yaml", "kubernetes/settings.yaml");
    finds(
        kubernetes::check,
        &[
            (edge, "hostNetwork: true", "hostnetwork: true", "hostnetwork"),
            (edge, "hostNetwork: true", "hostNetwork: false", "hostNetwork"),
            (edge, "FLOW_TOKEN_SECRET", "FLOW_SECRET", "FLOW_TOKEN_SECRET"),
            (edge, "host: 127.0.0.1, ", "", "asks elsewhere"),
            (worker, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "can be written"),
            (worker, "runAsNonRoot: true", "runAsNonRoot: false", "may be root"),
            (worker, "drop: [ALL]", "drop: [NET_RAW]", "capabilities"),
            (worker, "enableServiceLinks: false", "enableServiceLinks: true", "enableServiceLinks"),
            (worker, "terminationGracePeriodSeconds: 960", "terminationGracePeriodSeconds: 30", "is less than a drain"),
            (worker, "[carna, drain]", "[sleep, '5']", "preStop"),
            (worker, "path: /ready", "path: /live", "readinessProbe"),
            (worker, "maxUnavailable: 1", "maxUnavailable: [1]", "spec.maxUnavailable"),
            (worker, "name: state\n      spec", "name: other\n      spec", "no volume"),
            (worker, "clusterIP: None", "type: ClusterIP", "not headless"),
            (worker, "app: dispatcher", "app: registrar", "the role"),
            (settings, "CARNA_ZOOKEEPER__SERVERS", "CARNA_ZOOKEEPER__HOSTS", "hosts"),
        ],
    )
}

#[test]
fn our_marathon_apps_pass() -> Result<()> {
    marathon::check(&ours())
}

#[test]
fn what_is_wrong_in_a_marathon_app_is_found() -> Result<()> {
    let (edge, worker) = ("marathon/load-balancer.json", "marathon/registrar.json");
    finds(
        marathon::check,
        &[
            (edge, "[\"edge\", \"CLUSTER\", \"true\"]", "[\"edge\", \"CLUSTERED\", \"true\"]", "CLUSTERED"),
            (edge, ", [\"edge\", \"CLUSTER\", \"true\"]", "", "static"),
            (edge, "\"requirePorts\": true", "\"requirePorts\": false", "requirePorts"),
            (worker, "\"hostname\", \"UNIQUE\"", "\"hostname\", \"LIKE\", \"a.*\"", "UNIQUE"),
            (worker, "gracePeriodSeconds\": 90", "gracePeriod\": 90", "gracePeriod"),
            (worker, "gracePeriodSeconds\": 90", "gracePeriodSeconds\": 10", "start_limit"),
            (
                worker,
                "\"taskKillGracePeriodSeconds\": 960",
                "\"taskKillGracePeriodSeconds\": 60",
                "is less than a drain",
            ),
            (worker, "\"path\": \"/live\"", "\"path\": \"/ready\"", "/live"),
            (worker, "exec carna run", "carna run", "exec"),
            (worker, "CARNA_NODE__SIP__UDP=$HOST:$PORT0", "CARNA_NODE__SIP__UDP=$HOST:$PORT1", "SIP_ADDR"),
            (worker, "CARNA_HTTP__LISTEN=0.0.0.0:$PORT1", "CARNA_HTTP__PORT=$PORT1", "HTTP.PORT"),
            (worker, "{\"key\": \"read-only\", \"value\": \"true\"},", "", "can be written"),
            (worker, "no-healthcheck", "no-health", "the image's health check"),
            (worker, "\"source\": \"sip/nonce-secret\"", "\"sauce\": \"sip/nonce-secret\"", "sauce"),
        ],
    )
}
