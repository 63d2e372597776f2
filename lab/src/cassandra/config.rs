//! The files and JVM arguments of one node.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::Options;
use crate::RunDir;

/// Packages that Cassandra uses by reflection on JDK 17 (from its own jvm17-server.options).
const OPENS: &[&str] = &[
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.perf",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "java.logging/java.util.logging",
    "java.management/java.lang.management",
    "java.management/javax.management",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.rmi/sun.rmi.transport",
    "java.rmi/sun.rmi.transport.tcp",
    "java.sql/java.sql",
    "jdk.attach/sun.tools.attach",
    "jdk.compiler/com.sun.tools.javac.file",
    "jdk.management/com.sun.management.internal",
];

const LOGBACK: &str = r#"<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %date{HH:mm:ss.SSS} %logger{0}: %msg%n</pattern></encoder>
  </appender>
  <logger name="org.apache.cassandra.config.Config" level="WARN"/>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
"#;

const LOGBACK_SILENT: &str = "<configuration><root level=\"OFF\"/></configuration>\n";

/// Writes `cassandra.yaml` and its companions into the node's directory.
pub(super) fn write_files(dir: &RunDir, options: &Options) -> Result<()> {
    dir.write("cassandra.yaml", &serde_json::to_string_pretty(&yaml(dir.path(), options))?)?;
    dir.write("logback.xml", LOGBACK)?;
    dir.write("logback-tools.xml", LOGBACK_SILENT)?;
    dir.write("cassandra-rackdc.properties", &format!("dc={}\nrack={}\n", options.dc, options.rack))?;
    Ok(())
}

/// `cassandra.yaml`; JSON is YAML.
fn yaml(dir: &Path, options: &Options) -> Value {
    let seeds: Vec<String> = options.seeds().iter().map(ToString::to_string).collect();
    let mut yaml = json!({
        "cluster_name": "lab",
        "num_tokens": 16,
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "data_file_directories": [dir.join("data")],
        "commitlog_directory": dir.join("commitlog"),
        "saved_caches_directory": dir.join("saved_caches"),
        "hints_directory": dir.join("hints"),
        "cdc_raw_directory": dir.join("cdc_raw"),
        "seed_provider": [{
            "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
            "parameters": [{"seeds": seeds.join(",")}],
        }],
        "listen_address": options.address,
        "rpc_address": options.address,
        "storage_port": 7000,
        "native_transport_port": options.port,
        "endpoint_snitch": "GossipingPropertyFileSnitch",
        // An acknowledged write survives kill -9 of the process either way; only a power cut differs.
        "commitlog_sync": "periodic",
        "commitlog_sync_period": "10000ms",
        // Small: several nodes share a test machine, and a new segment is written out in full.
        "commitlog_segment_size": "8MiB",
        "commitlog_total_space": "256MiB",
        "memtable_heap_space": "96MiB",
        "memtable_offheap_space": "64MiB",
        "file_cache_size": "64MiB",
        "key_cache_size": "16MiB",
        "concurrent_compactors": 1,
        "auto_snapshot": false, // DROP and TRUNCATE at once, without a copy
        "disk_optimization_strategy": "ssd",
    });
    let mut set = |name: &str, value: Value| yaml[name] = value;
    if let Some(address) = options.broadcast_rpc_address {
        set("broadcast_rpc_address", json!(address));
    }
    if options.auth {
        set("authenticator", json!("PasswordAuthenticator"));
        set("authorizer", json!("CassandraAuthorizer"));
        set("role_manager", json!("CassandraRoleManager"));
        // Changed roles and permissions are seen at once.
        set("roles_validity", json!("100ms"));
        set("permissions_validity", json!("100ms"));
        set("credentials_validity", json!("100ms"));
    }
    if let Some(tls) = &options.tls {
        set(
            "client_encryption_options",
            json!({
                "enabled": true,
                "optional": false,
                "require_client_auth": options.tls_client_auth,
                "keystore": tls.keystore_pem,
                "truststore": tls.ca_pem,
                // Reads PEM files, so that no keystore tool is needed.
                "ssl_context_factory": {
                    "class_name": "org.apache.cassandra.security.PEMBasedSslContextFactory",
                },
            }),
        );
    }
    for (name, value) in &options.yaml {
        set(name, value.clone());
    }
    yaml
}

/// Everything after `java`.
pub(super) fn jvm_args(home: &Path, dir: &Path, jmx_port: u16, options: &Options) -> Vec<String> {
    let heap = options.heap_mb;
    let mut args = vec![
        format!("-Xms{heap}m"),
        format!("-Xmx{heap}m"),
        "-XX:MaxDirectMemorySize=256m".to_owned(),
        "-XX:+UseSerialGC".to_owned(), // least memory and least threads: two cores are shared with everything else
        "-XX:+ExitOnOutOfMemoryError".to_owned(),
        "-Xss512k".to_owned(),
        format!("-javaagent:{}", jar(home, "jamm-").unwrap_or_default().display()),
        "-Djava.security.manager=allow".to_owned(), // needed from JDK 18 on
        "-Djdk.attach.allowAttachSelf=true".to_owned(),
        "-Dfile.encoding=UTF-8".to_owned(),
        "-Djava.net.preferIPv4Stack=true".to_owned(),
        format!("-Djava.io.tmpdir={}", dir.display()),
        format!("-Djna.tmpdir={}", dir.display()),
        format!("-Dcassandra.config=file://{}", dir.join("cassandra.yaml").display()),
        format!("-Dcassandra-rackdc.properties=file://{}", dir.join("cassandra-rackdc.properties").display()),
        logback(dir, "logback.xml"),
        format!("-Dcassandra.storagedir={}", dir.display()),
        format!("-Dcassandra.jmx.local.port={jmx_port}"),
        "-Dcassandra-foreground=yes".to_owned(),
        "-Dcassandra.skip_wait_for_gossip_to_settle=0".to_owned(),
        format!("-Dcassandra.ring_delay_ms={}", ring_delay_ms(options)),
        "-Dcassandra.superuser_setup_delay_ms=0".to_owned(),
        // What it would measure for two seconds at each start.
        "-Dcassandra.memtable.row_overhead_size=180".to_owned(),
        "-Dcassandra.shutdown_announce_in_ms=500".to_owned(), // 2 s otherwise
    ];
    if !options.optimised {
        args.push("-XX:TieredStopAtLevel=1".to_owned());
    }
    args.extend(OPENS.iter().flat_map(|package| add_open(package)));
    args.extend(options.jvm.iter().cloned());
    args.extend([
        "-cp".to_owned(),
        format!("{}/*", home.display()),
        "org.apache.cassandra.service.CassandraDaemon".to_owned(),
    ]);
    args
}

/// What a node waits for when it joins; it is also how long it goes on asking its seeds whether they are there, and on a busy
/// machine their answer takes more than a second.
fn ring_delay_ms(options: &Options) -> u32 {
    if options.seeds.is_empty() { 1000 } else { 3000 }
}

/// `nodetool` as a `java` command line.
pub(super) fn nodetool_args(home: &Path, dir: &Path, jmx_port: u16) -> Vec<String> {
    let mut args = vec!["-Xmx64m".to_owned(), "-XX:TieredStopAtLevel=1".to_owned(), logback(dir, "logback-tools.xml")];
    args.extend(["java.base/sun.nio.ch", "java.base/jdk.internal.ref"].iter().flat_map(|package| add_open(package)));
    args.extend([
        "-cp".to_owned(),
        format!("{}/*", home.display()),
        "org.apache.cassandra.tools.NodeTool".to_owned(),
        "-p".to_owned(),
        jmx_port.to_string(),
    ]);
    args
}

fn logback(dir: &Path, file: &str) -> String {
    format!("-Dlogback.configurationFile={}", dir.join(file).display())
}

fn add_open(package: &str) -> [String; 4] {
    let all = format!("{package}=ALL-UNNAMED");
    ["--add-opens".to_owned(), all.clone(), "--add-exports".to_owned(), all]
}

/// The jar whose name starts with `prefix`.
fn jar(home: &Path, prefix: &str) -> Option<PathBuf> {
    std::fs::read_dir(home)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
}
