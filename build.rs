//! Binds the module to the installed Kamailio: its version and flags strings, its headers, its preprocessor defines.
//!
//! Everything that differs between Kamailio versions comes from the target binary and from `vendor/kamailio-VERSION`, which
//! `vendor/fetch-headers` fills. Each way this can go wrong stops the build with one sentence.

use std::env;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// The server that the module is built for.
struct Target {
    /// `5.6.3`
    version: String,
    /// `kamailio 5.6.3 (x86_64/linux)`, what the loader compares with `module_version`.
    full_version: String,
    /// What it was built with, as it prints it.
    flags: String,
}

fn main() {
    println!("cargo::rerun-if-env-changed=KAMAILIO_BIN");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/host/shim");

    let target = Target::of_binary(&kamailio_binary());
    let vendor = vendored_headers(&target);
    let defines = read_defines(&vendor);
    let includes = vendor.join("src");

    let flags = flags_of_modules(&target, &includes, &defines);
    check_libclang();
    compile_shim(&includes, &defines);
    generate_bindings(&includes, &defines);

    println!("cargo::rustc-env=KAMAILIO_FULL_VERSION={}", target.full_version);
    println!("cargo::rustc-env=KAMAILIO_FLAGS={flags}");
    // Where tests/build.rs finds this program, to run it with things missing.
    if let Ok(script) = env::current_exe() {
        println!("cargo::rustc-env=BUILD_SCRIPT={}", script.display());
    }
    // The server may dlclose a module it refuses; Rust's thread-local destructors do not survive that.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}

/// Ends the build with one sentence for the person who runs it. Cargo fails because of the sentence; a script that exits with
/// an error has all its output printed as well, and the sentence drowns in it.
fn fail(message: &str) -> ! {
    println!("cargo::error={}", message.replace('\n', " "));
    exit(0)
}

fn kamailio_binary() -> PathBuf {
    if let Some(named) = env::var_os("KAMAILIO_BIN") {
        return PathBuf::from(named);
    }
    env::var_os("PATH")
        .iter()
        .flat_map(env::split_paths)
        .map(|dir| dir.join("kamailio"))
        .find(|file| file.is_file())
        .unwrap_or_else(|| PathBuf::from("/usr/sbin/kamailio"))
}

impl Target {
    fn of_binary(binary: &Path) -> Self {
        println!("cargo::rerun-if-changed={}", binary.display());
        let output = Command::new(binary).arg("-v").output().unwrap_or_else(|error| {
            fail(&format!(
                "no Kamailio server runs at {} ({error}): install the Debian package kamailio, or name the binary in KAMAILIO_BIN",
                binary.display()
            ))
        });
        Self::parse(&String::from_utf8_lossy(&output.stdout)).unwrap_or_else(|| {
            fail(&format!(
                "{} is not a Kamailio server, its -v prints no version and flags: name the server's binary in KAMAILIO_BIN",
                binary.display()
            ))
        })
    }

    /// From what the server prints for -v.
    fn parse(text: &str) -> Option<Self> {
        let line = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix)).map(str::trim);
        let full_version = line("version: ")?;
        Some(Self {
            version: full_version.split(' ').nth(1)?.to_owned(),
            full_version: full_version.to_owned(),
            flags: line("flags: ")?.to_owned(),
        })
    }
}

fn vendored_headers(target: &Target) -> PathBuf {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let vendor = root.join("vendor").join(format!("kamailio-{}", target.version));
    println!("cargo::rerun-if-changed={}", vendor.join("defines").display());
    if !vendor.join("defines").is_file() {
        fail(&format!(
            "the headers of Kamailio {} are missing: run vendor/fetch-headers (see vendor/README.md)",
            target.version
        ));
    }
    vendor
}

fn read_defines(vendor: &Path) -> Vec<String> {
    match fs::read_to_string(vendor.join("defines")) {
        Ok(text) => text.lines().map(str::to_owned).collect(),
        Err(error) => fail(&format!("{}/defines cannot be read: {error}", vendor.display())),
    }
}

fn shim_compiler(includes: &Path, defines: &[String]) -> cc::Build {
    let mut build = cc::Build::new();
    build.include(includes).warnings(false).flag("-std=gnu11").flag("-fvisibility=hidden");
    for define in defines {
        build.flag(define);
    }
    build
}

/// What the loader compares with `module_flags`. Headers and binary must give the same version and flags strings, or structures would
/// be laid out for another server.
fn flags_of_modules(target: &Target, includes: &Path, defines: &[String]) -> String {
    let printed = [target.flags.clone(), without_managers_own(&target.flags)];
    printed.into_iter().find(|flags| headers_give(target, flags, includes, defines)).unwrap_or_else(|| {
        fail(&format!(
            "the headers in vendor/kamailio-{0} do not fit the installed server '{1}': delete that directory and run vendor/fetch-headers again, with KAMAILIO_SRC=dir if the server was built by hand",
            target.version, target.full_version
        ))
    })
}

/// Since 6.1 -v also names what the headers of the memory managers define; the loader and the modules are compiled without these.
fn without_managers_own(flags: &str) -> String {
    ["QM", "F", "TLSF"]
        .iter()
        .fold(flags.to_owned(), |flags, manager| flags.replace(&format!(", DBG_{manager}_MALLOC"), ""))
}

fn headers_give(target: &Target, flags: &str, includes: &Path, defines: &[String]) -> bool {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let probe = out.join("probe.c");
    let text = format!(
        "#include \"core/config.h\"\n#include \"core/ver_defs.h\"\n\
         _Static_assert(__builtin_strcmp(SER_FULL_VERSION, {:?}) == 0, \"version\");\n\
         _Static_assert(__builtin_strcmp(SER_COMPILE_FLAGS, {flags:?}) == 0, \"flags\");\n",
        target.full_version
    );
    if let Err(error) = fs::write(&probe, text) {
        fail(&format!("{} cannot be written: {error}", probe.display()));
    }
    shim_compiler(includes, defines).cargo_warnings(false).file(&probe).try_compile("probe").is_ok()
}

fn compile_shim(includes: &Path, defines: &[String]) {
    let mut build = shim_compiler(includes, defines);
    for entry in fs::read_dir("src/host/shim").into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "c") {
            build.file(entry.path());
        }
    }
    if let Err(error) = build.try_compile("shim") {
        fail(&format!("the C shim does not compile against Kamailio's headers: {error}"));
    }
}

/// bindgen panics when libclang is not there; the silent hook keeps the page that a panic prints away.
fn check_libclang() {
    panic::set_hook(Box::new(|_| {}));
    if panic::catch_unwind(bindgen::clang_version).is_err() {
        fail("libclang is missing: install the Debian package libclang-dev, or name its directory in LIBCLANG_PATH");
    }
    drop(panic::take_hook());
}

fn generate_bindings(includes: &Path, defines: &[String]) {
    let result = bindgen::Builder::default()
        .header("src/host/shim/bindings.h")
        .clang_arg(format!("-I{}", includes.display()))
        .clang_args(defines)
        .allowlist_file(".*/src/host/shim/bindings\\.h")
        .allowlist_item("(exports|module_exports|cmd_export|param_export|pv_export|rpc_export|stat_export).*")
        .allowlist_function(concat!(
            "find_export|find_module_by_name|register_procs|cfg_register_child|cfg_child_init|get_max_procs|fork_process|",
            "parse_headers|parse_from_header|parse_to_header|parse_contact|parse_expires|parse_methods|get_proto_name|ip_addr2a|parse_credentials|mark_authorized_cred|get_str_fparam|fixup_spve_all|",
            "route_lookup|add_lump_rpl2|rewrite_uri|set_dst_uri|reset_dst_uri|set_path_vector|reset_path_vector|set_instance|set_ruid|set_ua|",
            "set_ruri_q|append_branch|get_sip_branch|clear_branches|getbflagsval|setbflagsval|parse_allow|parse_phostport|",
            "grep_sock_info|check_self|fastrand_max|pv_.*|xavp_.*|cfg_declare|",
            "register_module_stats|sr_kemi_modules_add|sr_kemi_eng_get|sr_kemi_route|shim_.*"
        ))
        .allowlist_type("tm_binds|sl_api.*|auth_api_s|.*contact.*|exp_body|to_body|cseq_body|allow_body|auth_body|dig_cred|branch_t|cfg_def_t|send_flags|sip_protos|sr_xtype_t")
        .allowlist_var("process_no|route_type|main_rt|sr_dst_max_branches|udp_listen|tcp_listen|SIP_REQUEST|CFG_.*|PV_VAL_.*|PV_TYPE_.*|PVT_AVP|PROTO_.*|SND_F_.*|SR_XTYPE_.*|PARAM_.*|PV_NAME_.*|[A-Z_]+_ROUTE|STAT_[A-Z_]+|SHIM_.*|HDR_.*|METHOD_.*|PROC_.*|L_[A-Z]+|LUMP_RPL_.*|SR_KEMIP_.*")
        .opaque_type("cell|tm_.*_t|dlg_t|timer_ln")
        .prepend_enum_name(false)
        .layout_tests(true)
        .derive_default(true)
        .generate();
    let bindings = match result {
        Ok(bindings) => bindings,
        Err(error) => fail(&format!("bindgen cannot read Kamailio's headers: {error}")),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("bindings.rs");
    if let Err(error) = bindings.write_to_file(&out) {
        fail(&format!("{} cannot be written: {error}", out.display()));
    }
}
