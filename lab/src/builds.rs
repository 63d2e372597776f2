//! Builds of this project that no release has.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{tools, workspace};

/// The module and sipctl with a feature that is for tests alone.
#[derive(Debug)]
pub struct Build {
    dir: PathBuf,
}

impl Build {
    /// Builds these packages with this feature, beside what is built without it.
    pub fn with(feature: &str, packages: &[&str]) -> Result<Self> {
        let cargo = std::env::var_os("CARGO").context("to be run by cargo")?;
        let target = workspace().target();
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--offline", "--target-dir"]).arg(target).current_dir(workspace().root());
        for package in packages {
            command.args(["--package", package, "--features", &format!("{package}/{feature}")]);
        }
        tools::run(&mut command)?;
        // The next build puts its own in their places.
        let dir = target.join("builds").join(feature);
        std::fs::create_dir_all(dir.join("modules"))?;
        for (built, kept) in [("libcassandra.so", "modules/cassandra.so"), ("sipctl", "sipctl")] {
            let built = target.join("debug").join(built);
            if built.exists() {
                std::fs::copy(built, dir.join(kept))?;
            }
        }
        Ok(Self { dir })
    }

    /// The directory of the module `cassandra.so`.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("modules")
    }

    /// The operator's tool.
    pub fn sipctl(&self) -> PathBuf {
        self.dir.join("sipctl")
    }
}
