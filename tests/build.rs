//! What the build needs and does not find stops it with one sentence that says what to do.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lab::{RunDir, workspace};

/// Of the server that this test was built for.
const FULL_VERSION: &str = env!("KAMAILIO_FULL_VERSION");
const FLAGS: &str = env!("KAMAILIO_FLAGS");

fn run_dir() -> RunDir {
    RunDir::new("build").expect("a directory under target")
}

fn version() -> &'static str {
    FULL_VERSION.split(' ').nth(1).expect("kamailio VERSION (PLATFORM)")
}

/// A program in shell. Another process makes it: while this one has it open for writing, a child that a parallel test forks
/// has too, and Linux does not execute such a file.
fn program(dir: &Path, name: &str, body: &str) -> PathBuf {
    let text = dir.join(format!("{name}.text"));
    fs::write(&text, format!("#!/bin/sh\n{body}\n")).expect("a script");
    let program = dir.join(name);
    let installed = Command::new("install").arg("-m755").args([&text, &program]).status().expect("install");
    assert!(installed.success());
    program
}

/// What says that it is a Kamailio of this version and flags.
fn server(dir: &Path, full_version: &str, flags: &str) -> PathBuf {
    program(dir, "server", &format!("printf 'version: %s \\nflags: %s\\n' '{full_version}' '{flags}'"))
}

/// Runs build.rs as cargo does, except for these variables.
fn build(dir: &Path, changes: &[(&str, &Path)]) -> Output {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    Command::new(env!("BUILD_SCRIPT"))
        .current_dir(workspace().root())
        .env("CARGO_MANIFEST_DIR", workspace().root())
        .env("OUT_DIR", dir)
        .env("HOST", &platform)
        .env("TARGET", &platform)
        .env("OPT_LEVEL", "0")
        .envs(changes.iter().copied())
        .output()
        .expect("the build script")
}

/// The errors that cargo prints, and the page it prints when the script fails otherwise than by them.
fn errors(output: &Output) -> Vec<String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let told = stdout.lines().filter_map(|line| line.strip_prefix("cargo::error=")).map(str::to_owned);
    let page = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && page.is_empty(), "{}: {page}", output.status);
    told.collect()
}

#[test]
fn with_everything_there_the_build_has_nothing_to_say() {
    let dir = run_dir();
    let output = build(dir.path(), &[("KAMAILIO_BIN", &server(dir.path(), FULL_VERSION, FLAGS))]);
    assert_eq!(errors(&output), [""; 0]);
    assert!(dir.join("bindings.rs").exists());
}

#[test]
fn without_kamailio_the_build_says_what_to_install() {
    let dir = run_dir();
    let nothing = dir.join("kamailio");
    let expected = format!(
        "no Kamailio server runs at {} (No such file or directory (os error 2)): \
         install the Debian package kamailio, or name the binary in KAMAILIO_BIN",
        nothing.display()
    );
    assert_eq!(errors(&build(dir.path(), &[("KAMAILIO_BIN", &nothing)])), [expected]);
}

#[test]
fn a_program_that_is_not_kamailio_is_called_that() {
    let dir = run_dir();
    for prints in ["", "echo version: kamailio", "echo version: kamailio 5.6.3", "echo flags: USE_TCP"] {
        let other = program(dir.path(), "other", prints);
        let expected = format!(
            "{} is not a Kamailio server, its -v prints no version and flags: \
             name the server's binary in KAMAILIO_BIN",
            other.display()
        );
        assert_eq!(errors(&build(dir.path(), &[("KAMAILIO_BIN", &other)])), [expected], "{prints}");
    }
}

#[test]
fn without_headers_the_build_names_the_script_that_gets_them() {
    let dir = run_dir();
    let newer = server(dir.path(), "kamailio 99.1.2 (x86_64/linux)", FLAGS);
    assert_eq!(
        errors(&build(dir.path(), &[("KAMAILIO_BIN", &newer)])),
        ["the headers of Kamailio 99.1.2 are missing: run vendor/fetch-headers (see vendor/README.md)"]
    );
}

fn do_not_fit(version: &str, full_version: &str) -> String {
    format!(
        "the headers in vendor/kamailio-{version} do not fit the installed server '{full_version}': delete that \
         directory and run vendor/fetch-headers again, with KAMAILIO_SRC=dir if the server was built by hand"
    )
}

#[test]
fn headers_of_another_build_of_the_same_version_are_refused() {
    let dir = run_dir();
    let other = server(dir.path(), FULL_VERSION, &FLAGS.replacen("USE_TCP", "NO_TCP", 1));
    assert_eq!(errors(&build(dir.path(), &[("KAMAILIO_BIN", &other)])), [do_not_fit(version(), FULL_VERSION)]);
}

#[test]
fn flags_that_only_the_server_itself_is_built_with_are_not_the_modules() {
    let dir = run_dir();
    let printed = FLAGS.replacen(", USE_FUTEX", ", DBG_QM_MALLOC, DBG_F_MALLOC, DBG_TLSF_MALLOC, USE_FUTEX", 1);
    let output = build(dir.path(), &[("KAMAILIO_BIN", &server(dir.path(), FULL_VERSION, &printed))]);
    assert_eq!(errors(&output), [""; 0]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("cargo::rustc-env=KAMAILIO_FLAGS={FLAGS}\n")), "{said}");
}

#[test]
fn headers_of_another_version_are_refused() {
    let dir = run_dir();
    fs::create_dir(dir.join("vendor")).expect("vendor");
    let ours = workspace().root().join("vendor").join(format!("kamailio-{}", version()));
    symlink(ours, dir.join("vendor/kamailio-99.1.2")).expect("headers under a wrong name");
    let newer = server(dir.path(), "kamailio 99.1.2 (x86_64/linux)", FLAGS);
    assert_eq!(
        errors(&build(dir.path(), &[("CARGO_MANIFEST_DIR", dir.path()), ("KAMAILIO_BIN", &newer)])),
        [do_not_fit("99.1.2", "kamailio 99.1.2 (x86_64/linux)")]
    );
}

#[test]
fn without_libclang_the_build_says_what_to_install() {
    let dir = run_dir();
    assert_eq!(
        errors(&build(dir.path(), &[("LIBCLANG_PATH", dir.path())])),
        ["libclang is missing: install the Debian package libclang-dev, or name its directory in LIBCLANG_PATH"]
    );
}

/// Runs a copy of vendor/fetch-headers that has its own vendor directory, `DIR/vendor`.
fn fetch_headers(dir: &Path, kamailio: &Path, source: &Path) -> Output {
    let script = dir.join("vendor/fetch-headers");
    fs::create_dir_all(dir.join("vendor")).expect("vendor");
    fs::copy(workspace().root().join("vendor/fetch-headers"), &script).expect("the script");
    Command::new("sh")
        .arg(script)
        .env("KAMAILIO_BIN", kamailio)
        .env("KAMAILIO_SRC", source)
        .output()
        .expect("fetch-headers")
}

/// The one line on standard error of a script that gave up.
fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

/// A source tree that says it is Kamailio `version`; its build has two defines and a header.
fn source_tree(dir: &Path, version: &str) -> PathBuf {
    let tree = dir.join("tree");
    for module in ["core", "modules/tm", "lib"] {
        fs::create_dir_all(tree.join("src").join(module)).expect("a source tree");
    }
    let numbers: Vec<_> = version.split('.').collect();
    let defs = format!("VERSION = {}\nPATCHLEVEL = {}\nSUBLEVEL = {}\n", numbers[0], numbers[1], numbers[2]);
    fs::write(tree.join("src/Makefile.defs"), defs).expect("Makefile.defs");
    let config = r#"C_DEFS = -DNAME='"kamailio"' -DCOMPILER='"gcc 12"'"#;
    fs::write(tree.join("src/Makefile"), "cfg:\n\tcp config.text config.mak\n").expect("Makefile");
    fs::write(tree.join("src/config.text"), config).expect("config");
    fs::write(tree.join("src/modules/tm/tm_load.h"), "").expect("a header");
    tree
}

#[test]
fn headers_come_from_the_tree_in_kamailio_src_with_the_defines_of_its_build() {
    let dir = run_dir();
    let tree = source_tree(dir.path(), "99.1.2");
    let kamailio = server(dir.path(), "kamailio 99.1.2 (x86_64/linux)", FLAGS);
    let output = fetch_headers(dir.path(), &kamailio, &tree);
    assert!(output.status.success(), "{output:?}");
    assert!(dir.join("vendor/kamailio-99.1.2/src/modules/tm/tm_load.h").exists());
    let defines = fs::read_to_string(dir.join("vendor/kamailio-99.1.2/defines")).expect("defines");
    assert_eq!(defines, "-DNAME=\"kamailio\"\n-DCOMPILER=\"gcc 12\"\n-DKSR_PTHREAD_MUTEX_SHARED\n");
    assert!(!tree.join("src/config.mak").exists(), "the tree is not ours to write into");
}

#[test]
fn a_kamailio_src_of_another_version_is_refused() {
    let dir = run_dir();
    let tree = source_tree(dir.path(), "98.0.1");
    let output = fetch_headers(dir.path(), &server(dir.path(), "kamailio 99.1.2 (x86_64/linux)", FLAGS), &tree);
    assert_eq!(
        complaint(&output),
        format!(
            "fetch-headers: KAMAILIO_SRC={} is Kamailio 98.0.1, but the installed server is 99.1.2: use the tree of 99.1.2",
            tree.display()
        )
    );
    assert!(!dir.join("vendor/kamailio-99.1.2").exists());
}

#[test]
fn a_kamailio_src_that_is_no_source_tree_is_refused() {
    let dir = run_dir();
    let output = fetch_headers(dir.path(), &server(dir.path(), FULL_VERSION, FLAGS), &dir.join("nowhere"));
    assert_eq!(
        complaint(&output),
        format!(
            "fetch-headers: KAMAILIO_SRC={} is not a Kamailio source tree: it has no src/Makefile.defs",
            dir.join("nowhere").display()
        )
    );
}

#[test]
fn without_kamailio_no_headers_are_fetched() {
    let dir = run_dir();
    let nothing = dir.join("kamailio");
    assert_eq!(
        complaint(&fetch_headers(dir.path(), &nothing, dir.path())),
        format!(
            "fetch-headers: no Kamailio server found at {}: install the Debian package kamailio, or name the binary in KAMAILIO_BIN",
            nothing.display()
        )
    );
    let other = program(dir.path(), "other", "");
    assert_eq!(
        complaint(&fetch_headers(dir.path(), &other, dir.path())),
        format!(
            "fetch-headers: {} is not a Kamailio server, its -v prints no version: name the server's binary in KAMAILIO_BIN",
            other.display()
        )
    );
}

/// A directory of links to all the programs on the PATH but these. `id` answers as it does for an ordinary user: whoever runs
/// the tests, they install nothing.
fn programs_without(dir: &Path, names: &[&str]) -> PathBuf {
    let bin = dir.join("bin");
    fs::create_dir(&bin).expect("bin");
    program(&bin, "id", "echo 1000");
    let path = std::env::var_os("PATH").expect("PATH");
    let files = std::env::split_paths(&path).filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    for file in files.filter(|file| !names.iter().any(|name| file.file_name() == **name)) {
        // Of programs with one name the first counts: a link that is there stays.
        let _ = symlink(file.path(), bin.join(file.file_name()));
    }
    bin
}

fn deps(bin: &Path) -> Output {
    Command::new("/bin/sh").arg(workspace().root().join("scripts/deps")).env("PATH", bin).output().expect("deps")
}

const OLD_DEBIAN_CARGO: &str = "echo 'cargo 1.63.0 (fd9c4297c 2022-07-01)'";

#[test]
fn when_nothing_is_missing_deps_says_nothing() {
    let dir = run_dir();
    let output = deps(&programs_without(dir.path(), &["sudo"]));
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn without_cargo_deps_says_how_to_get_it() {
    let dir = run_dir();
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    let expected = |found| {
        format!(
            "deps: Rust {wanted} or newer is needed, but {found} (Debian's own package is too old): \
             get it from https://rustup.rs, then try again."
        )
    };
    let bin = programs_without(dir.path(), &["cargo"]);
    assert_eq!(complaint(&deps(&bin)), expected("there is no cargo on the PATH"));
    program(&bin, "cargo", OLD_DEBIAN_CARGO);
    assert_eq!(complaint(&deps(&bin)), expected("cargo is 1.63.0"));
}

#[test]
fn without_the_right_to_install_deps_prints_the_line_to_run() {
    let dir = run_dir();
    let bin = programs_without(dir.path(), &["sudo", "gcc", "sipp"]);
    let line = "sudo apt-get update && sudo apt-get install --yes --no-install-recommends gcc sip-tester";
    assert_eq!(
        complaint(&deps(&bin)),
        format!("deps: something is missing; please run this line, then try again:\n  {line}")
    );
    program(&bin, "sudo", "exit 1"); // asks for a password
    assert!(complaint(&deps(&bin)).ends_with(line));
}

#[test]
fn off_debian_deps_names_what_is_missing() {
    let dir = run_dir();
    let output = deps(&programs_without(dir.path(), &["sudo", "gcc", "apt-get"]));
    assert_eq!(complaint(&output), "deps: not a Debian system; please install what these packages of Debian hold: gcc");
}
