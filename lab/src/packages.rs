//! Debian packages of what was built here, as `make package` makes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{FileLock, tools, workspace};

const LIMIT: Duration = Duration::from_secs(900);

/// Directory with packages, and what is beside them.
#[derive(Debug)]
pub struct Packages {
    dir: PathBuf,
}

impl Packages {
    /// Makes them in this directory, which is emptied, of what `make build` has built.
    pub fn make(dir: &Path) -> Result<Self> {
        // What lists the libraries writes between the sources.
        let lock = workspace().target().join("package.lock");
        let _lock = FileLock::take(&lock, "make packages", LIMIT)?;
        tools::run(Command::new("make").arg("--directory").arg(workspace().root()).args(["--silent", "cyclonedx"]))?;
        tools::run(Command::new(workspace().root().join("scripts/package")).arg(dir))
            .context("run `make deps-all build`")?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file beside them.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The package of this name.
    pub fn package(&self, name: &str) -> Result<PathBuf> {
        let prefix = format!("{name}_");
        let files = self.all()?;
        let is_of = |file: &PathBuf| file.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&prefix));
        files.into_iter().find(is_of).with_context(|| format!("there is no package {name}"))
    }

    /// All packages, in the order of their names.
    pub fn all(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let mut packages: Vec<_> =
            entries.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect();
        packages.sort();
        Ok(packages)
    }
}
