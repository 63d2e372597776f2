//! Builds of this project that no release has.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{tools, workspace};

/// The module and sipctl with a feature that is for tests alone.
#[derive(Debug)]
pub struct Build {
    dir: PathBuf,
}

impl Build {
    /// Builds these packages with this feature, beside what is built without it.
    pub fn with(feature: &str, packages: &[&str]) -> Result<Self> {
        let target = workspace().target();
        let mut command = Command::new("cargo");
        command.args(["build", "--quiet", "--offline", "--target-dir"]).arg(target).current_dir(workspace().root());
        // Of the whole workspace, so that what they need has the features with which it is built for other tests.
        command.args(["--workspace", "--lib", "--bin", "sipctl"]);
        for package in packages {
            command.args(["--features", &format!("{package}/{feature}")]);
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
