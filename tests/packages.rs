//! The Debian packages, as `make package` makes them: what is in them, what they ask for, and that the same sources make the same ones.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use lab::packages::Packages;
use lab::{RunDir, tools, workspace};
use serde_json::Value;

const UNIT: &str = "carna.service";
/// What `systemd-analyze security` may give it, of 100.
const EXPOSURE: &str = "15";
/// Each with its crate.
const BUILT: [(&str, &str); 3] =
    [("kamailio-cassandra-modules", "cassandra"), ("carna", "carna"), ("sipctl", "sipctl")];
/// Some that build and test.
const TOOLS: [&str; 3] = ["bindgen", "libtest-mimic", "proptest"];

fn main() -> ExitCode {
    lab::suite::run(
        Made::start,
        &[
            ("lintian_has_nothing_to_say", clean as lab::suite::Test<Made>),
            ("the_module_depends_on_the_kamailio_that_it_was_built_for", depends),
            ("everything_is_in_the_package_that_it_belongs_to", complete),
            ("each_says_what_it_is_made_of_and_under_which_licenses", billed),
            ("none_tells_where_it_was_built", anonymous),
            ("another_directory_makes_the_same_bytes", reproducible),
            ("the_service_has_few_rights", hardened),
        ],
    )
}

/// The packages, and their content.
struct Made {
    packages: Packages,
    content: RunDir,
    // The packages are in it.
    _dir: RunDir,
}

impl Made {
    fn start() -> Result<Self> {
        let (dir, content) = (RunDir::new("packages")?, RunDir::new("content")?);
        let packages = Packages::make(dir.path())?;
        for package in packages.all()? {
            tools::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(content.path()))?;
        }
        Ok(Self { packages, content, _dir: dir })
    }

    fn field(&self, package: &str, field: &str) -> Result<String> {
        tools::run(Command::new("dpkg-deb").arg("--field").arg(self.packages.package(package)?).arg(field))
    }
}

fn clean(made: &Made) -> Result<()> {
    let told = tools::run(
        Command::new("lintian").args(["--allow-root", "--fail-on", "error,warning"]).args(made.packages.all()?),
    )?;
    ensure!(told.trim().is_empty(), "{told}");
    Ok(())
}

fn depends(made: &Made) -> Result<()> {
    let installed = tools::run(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", "kamailio"]))?;
    let depends = made.field("kamailio-cassandra-modules", "Depends")?;
    ensure!(depends.contains(&format!("kamailio (= {installed})")), "{depends}");
    ensure!(made.field("sip-node", "Depends")?.contains("kamailio-cassandra-modules (>="));
    Ok(())
}

fn complete(made: &Made) -> Result<()> {
    let modules = tools::run(Command::new("dpkg-architecture").args(["--query", "DEB_HOST_MULTIARCH"]))?;
    let module = format!("usr/lib/{}/kamailio/modules/cassandra.so", modules.trim());
    let stock = tools::run(Command::new("dpkg-query").args(["--listfiles", "kamailio"]))?;
    ensure!(stock.contains(&format!("/{}", module.replace("cassandra.so", "tm.so"))), "stock modules are elsewhere");
    for file in [&module, "usr/bin/carna", "usr/bin/sipctl", "etc/carna/carna.toml", "usr/share/man/man8/carna.8.gz"] {
        ensure!(made.content.join(file).is_file(), "{file} is in no package");
    }
    let ours = names(&workspace().root().join("kamailio-cfg"))?;
    let packed = names(&made.content.join("etc/kamailio"))?;
    ensure!(ours.iter().filter(|name| *name != "README.md").eq(packed.iter()), "{packed:?} are not {ours:?}");
    let conffiles =
        tools::run(Command::new("dpkg-deb").arg("--info").arg(made.packages.package("sip-node")?).arg("conffiles"))?;
    for file in ["/etc/carna/node.env", "/etc/carna/carna.toml", "/etc/kamailio/include/node.cfg"] {
        ensure!(conffiles.lines().any(|line| line == file), "{file} is no configuration file of a package");
    }
    tools::run(Command::new("sha256sum").arg("--check").arg("SHA256SUMS").current_dir(made.packages.dir())).map(drop)
}

fn names(dir: &Path) -> Result<BTreeSet<String>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// A list has what cargo links, and nothing that only builds or tests. (It may have what a feature brings that only a test asks for.)
fn billed(made: &Made) -> Result<()> {
    for (package, name) in BUILT {
        let list: Value = serde_json::from_slice(&fs::read(made.packages.file(&format!("{name}.cdx.json")))?)?;
        ensure!(list["bomFormat"] == "CycloneDX", "{name}: {}", list["bomFormat"]);
        let listed: BTreeSet<_> = list["components"].as_array().into_iter().flatten().filter_map(library).collect();
        let linked = linked(name)?;
        ensure!(linked.is_subset(&listed), "the list of {name} has no {:?}", linked.difference(&listed));
        let is_tool = |library: &&String| TOOLS.iter().any(|tool| library.starts_with(&format!("{tool} ")));
        ensure!(!listed.iter().any(|library| is_tool(&library)), "tools are in the list of {name}");
        let licenses = fs::read_to_string(made.packages.file(&format!("{name}.licenses.txt")))?;
        for library in listed.iter().filter(|library| !is_ours(library)) {
            ensure!(licenses.contains(&format!("\n{library}: ")), "the license of {library} is not told");
        }
        let doc = made.content.join("usr/share/doc").join(package);
        for file in ["copyright", "sbom.cdx.json.gz", "licenses.txt.gz"] {
            ensure!(doc.join(file).is_file(), "{package} has no {file}");
        }
    }
    Ok(())
}

fn library(component: &Value) -> Option<String> {
    Some(format!("{} {}", component["name"].as_str()?, component["version"].as_str()?))
}

fn is_ours(library: &str) -> bool {
    let name = library.split(' ').next().unwrap_or_default();
    workspace().root().join(name).join("Cargo.toml").exists()
}

/// What cargo says of a crate: libraries with their versions, without the crate itself.
fn linked(name: &str) -> Result<BTreeSet<String>> {
    let tree = tools::run(
        Command::new(env!("CARGO"))
            .args(["tree", "--quiet", "--locked", "--package", name, "--edges", "normal", "--prefix", "none"])
            .current_dir(workspace().root()),
    )?;
    let libraries = tree
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(" v"))
        .map(|(library, rest)| format!("{library} {}", rest.split_whitespace().next().unwrap_or_default()));
    Ok(libraries.filter(|library| !library.starts_with(&format!("{name} "))).collect())
}

fn anonymous(made: &Made) -> Result<()> {
    let root = workspace().root().display().to_string();
    let cargo = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))?;
    for place in [root, cargo] {
        let mut grep = Command::new("grep");
        grep.args(["--recursive", "--files-with-matches", "--fixed-strings", &place]);
        let found = grep.arg(made.content.path()).output()?;
        let found = String::from_utf8_lossy(&found.stdout);
        ensure!(found.is_empty(), "{place} is in {found}(built without scripts/rustc? then `cargo clean --release`)");
    }
    Ok(())
}

fn reproducible(made: &Made) -> Result<()> {
    let dir = RunDir::new("packages-elsewhere")?;
    let again = Packages::make(&dir.join("further/down"))?;
    let sums = |packages: &Packages| fs::read_to_string(packages.file("SHA256SUMS"));
    ensure!(sums(&again)? == sums(&made.packages)?, "{}\nis not\n{}", sums(&again)?, sums(&made.packages)?);
    Ok(())
}

fn hardened(made: &Made) -> Result<()> {
    let root = format!("--root={}", made.content.path().display());
    let threshold = format!("--threshold={EXPOSURE}");
    tools::run(Command::new("systemd-analyze").args(["security", "--offline=true", &root, &threshold, UNIT]))
        .context("more than the service needs can be done by it")
        .map(drop)
}
