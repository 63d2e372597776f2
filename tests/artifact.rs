//! The release module exports what Kamailio looks for and nothing else, and brings nothing along that must not be there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

fn module() -> PathBuf {
    let file = lab::workspace().target().join("release/libcassandra.so");
    assert!(file.exists(), "{} is missing: run `make build`", file.display());
    file
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).arg(module()).output().expect(program);
    assert!(output.status.success(), "{program} {args:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn names(args: &[&str]) -> BTreeSet<String> {
    let last_word =
        |line: &str| line.split_whitespace().last().map(|name| name.split('@').next().unwrap_or(name).to_owned());
    output("nm", args).lines().filter_map(last_word).collect()
}

#[test]
fn it_exports_only_what_the_loader_looks_for() {
    let exported = names(&["-D", "--defined-only"]);
    assert_eq!(exported, ["exports", "mod_register", "module_flags", "module_version"].map(str::to_owned).into());
}

#[test]
fn it_imports_the_servers_own_functions() {
    let imported = names(&["-D", "--undefined-only"]);
    for name in ["find_export", "fork_process", "parse_headers", "add_lump_rpl2", "append_branch", "_shm_root"] {
        assert!(imported.contains(name), "{name} is not imported");
    }
}

#[test]
fn it_links_no_openssl() {
    let needed = output("readelf", &["-d"]);
    assert!(needed.contains("libc.so.6"), "{needed}");
    assert!(!needed.contains("libssl") && !needed.contains("libcrypto"), "{needed}");
    assert!(
        names(&["-D", "--undefined-only"]).iter().all(|name| !name.starts_with("SSL_") && !name.starts_with("EVP_"))
    );
}

#[test]
fn it_has_no_test_functions() {
    let bytes = std::fs::read(module()).expect("the module");
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("cassandra_auth_save"));
    assert!(!holds("cassandra_test_"));
}

#[test]
fn tokio_comes_without_signal_handlers() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", "cassandra", "-e", "normal,features", "-i", "tokio"])
        .current_dir(lab::workspace().root())
        .output()
        .expect("cargo tree");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8_lossy(&tree.stdout);
    assert!(tree.contains("tokio feature \"rt\""), "{tree}");
    for feature in ["signal", "process", "full"] {
        assert!(!tree.contains(&format!("tokio feature \"{feature}\"")), "tokio's {feature}:\n{tree}");
    }
}
