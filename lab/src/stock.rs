//! The example configuration of Debian's Kamailio package: with its own modules, or with ours in their place.

use std::fs;

use anyhow::{Context, Result, ensure};

/// Where the package puts it.
const EXAMPLE: &str = "/etc/kamailio/kamailio.cfg";

/// Stock functions that have a twin with the prefix `cassandra_`.
const FUNCTIONS: [&str; 11] = [
    "www_authenticate",
    "proxy_authenticate",
    "auth_check",
    "save",
    "lookup",
    "lookup_to_dset",
    "lookup_branches",
    "registered",
    "unregister",
    "reg_send_reply",
    "add_sock_hdr",
];

/// Stock modules whose work ours does; it is loaded where the last of them was.
const MODULES: [&str; 3] = ["usrloc", "registrar", "auth_db"];

/// Parameters that have another name with us: module, name, our name. nathelper's pings go through `usrloc`, ours do not.
const RENAMED: [(&str, &str, &str); 3] = [
    ("usrloc", "nat_bflag", "nat_bflag"),
    ("nathelper", "natping_interval", "ka_interval"),
    ("nathelper", "sipping_from", "ka_from"),
];

/// The example with `local` in the place of the file that it imports for local settings, and with its log on standard error.
///
/// The RTP proxy that it wants for phones behind a NAT may be missing: it logs so, and the calls go on.
pub fn example(local: &str) -> Result<String> {
    let script = fs::read_to_string(EXAMPLE).with_context(|| format!("there is no {EXAMPLE}: run `make deps`"))?;
    let changes = [("import_file \"kamailio-local.cfg\"", local), ("log_stderror=no", "log_stderror=yes")];
    changes.into_iter().try_fold(script, |script, (place, text)| {
        ensure!(script.contains(place), "{EXAMPLE} does not hold '{place}': is it still the package's?");
        Ok(script.replace(place, text))
    })
}

/// The script with our module in the place of the stock ones, name by name and line by line; `settings` follow its loading.
pub fn with_ours(script: &str, settings: &str) -> String {
    script.lines().map(|line| line_with_ours(line, settings) + "\n").collect()
}

fn line_with_ours(line: &str, settings: &str) -> String {
    match line.trim_start() {
        written if written.starts_with("loadmodule") => loading(line, settings),
        written if written.starts_with("modparam(") => parameter(line).unwrap_or_default(),
        _ => calls(line),
    }
}

fn loading(line: &str, settings: &str) -> String {
    let loads = |module: &&&str| line.contains(&format!("\"{module}.so\""));
    match MODULES.iter().find(loads) {
        Some(&"auth_db") => format!("loadmodule \"cassandra.so\"\n{settings}"),
        Some(_) => String::new(),
        None => line.to_owned(),
    }
}

/// A parameter's line; `None` for what only the stock modules have.
fn parameter(line: &str) -> Option<String> {
    let mut quoted = line.split('"').skip(1).step_by(2);
    let (modules, name) = (quoted.next()?, quoted.next()?);
    let ours = RENAMED.iter().find(|(module, theirs, _)| modules == *module && name == *theirs);
    if let Some((module, theirs, ours)) = ours {
        return Some(line.replacen(module, "cassandra", 1).replacen(theirs, ours, 1));
    }
    match modules {
        "usrloc" | "auth_db" => None,
        _ if modules.split('|').any(|module| module == "registrar") => Some(line.replacen("registrar", "cassandra", 1)),
        _ => Some(line.to_owned()),
    }
}

fn calls(line: &str) -> String {
    FUNCTIONS.iter().fold(line.to_owned(), |line, name| prefixed(&line, name))
}

/// Puts `cassandra_` before each call of the function of exactly this name.
fn prefixed(line: &str, name: &str) -> String {
    let call = format!("{name}(");
    let mut parts = line.split(&call);
    let mut changed = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let longer = changed.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        changed.push_str(if longer { "" } else { "cassandra_" });
        changed.push_str(&call);
        changed.push_str(part);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(line: &str) -> String {
        with_ours(line, "SETTINGS").trim_end().to_owned()
    }

    #[test]
    fn calls_get_our_prefix_and_their_namesakes_do_not() {
        assert_eq!(ours("if (!save(\"location\")) {"), "if (!cassandra_save(\"location\")) {");
        assert_eq!(ours("\tlookup(\"a\"); lookup(\"b\");"), "\tcassandra_lookup(\"a\"); cassandra_lookup(\"b\");");
        assert_eq!(ours("if(alias_db_lookup(\"dbaliases\")) {"), "if(alias_db_lookup(\"dbaliases\")) {");
        assert_eq!(
            ours("if (!auth_check(\"$fd\", \"subscriber\", \"1\"))"),
            "if (!cassandra_auth_check(\"$fd\", \"subscriber\", \"1\"))"
        );
        assert_eq!(ours("auth_challenge(\"$fd\", \"0\");"), "auth_challenge(\"$fd\", \"0\");");
    }

    #[test]
    fn our_module_is_loaded_in_the_place_of_the_stock_ones() {
        assert_eq!(ours("loadmodule \"auth_db.so\""), "loadmodule \"cassandra.so\"\nSETTINGS");
        assert_eq!(ours("loadmodule \"registrar.so\""), "");
        assert_eq!(ours("loadmodule \"auth.so\""), "loadmodule \"auth.so\"");
    }

    #[test]
    fn parameters_keep_their_names_but_for_those_that_were_the_databases() {
        assert_eq!(
            ours("modparam(\"registrar\", \"max_expires\", 3600)"),
            "modparam(\"cassandra\", \"max_expires\", 3600)"
        );
        assert_eq!(
            ours("modparam(\"nathelper|registrar\", \"received_avp\", \"$avp(R)\")"),
            "modparam(\"nathelper|cassandra\", \"received_avp\", \"$avp(R)\")"
        );
        assert_eq!(
            ours("modparam(\"usrloc\", \"nat_bflag\", FLB_NATB)"),
            "modparam(\"cassandra\", \"nat_bflag\", FLB_NATB)"
        );
        assert_eq!(
            ours("modparam(\"nathelper\", \"natping_interval\", 30)"),
            "modparam(\"cassandra\", \"ka_interval\", 30)"
        );
        assert_eq!(ours("modparam(\"usrloc\", \"db_mode\", 2)"), "");
        assert_eq!(ours("modparam(\"tm\", \"fr_timer\", 30000)"), "modparam(\"tm\", \"fr_timer\", 30000)");
    }
}
