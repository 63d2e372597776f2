//! Cassandra's jars from Maven Central, once per version.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Version;
use crate::process::Spawn;
use crate::{FileLock, progress, wait, workspace};

const DOWNLOAD_LIMIT: Duration = Duration::from_secs(900);
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Makes sure that the jars of `version` are there, and returns their directory. Processes that ask at the same time wait
/// for the one that downloads.
pub(super) fn install(version: Version) -> Result<PathBuf> {
    let servers = workspace().servers();
    let name = format!("cassandra-{}", version.number());
    let home = servers.join(&name);
    if home.exists() {
        return Ok(home);
    }
    let lock = servers.join(format!("{name}.lock"));
    let _lock = FileLock::take(&lock, "finish its download", DOWNLOAD_LIMIT)?;
    if home.exists() {
        return Ok(home); // somebody else has just done it
    }
    progress::step(format!("Cassandra {} from Maven Central (some 60 MB)", version.number()), || {
        download(version, &home, &servers.join(format!("{name}.partial")))
    })?;
    Ok(home)
}

/// The jars arrive in a directory of another name, which is renamed when they are complete.
fn download(version: Version, home: &Path, partial: &Path) -> Result<()> {
    if partial.exists() {
        fs::remove_dir_all(partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    fs::create_dir_all(partial)?;
    let pom = partial.join("pom.xml");
    fs::write(&pom, pom_xml(version.number()))?;
    run_maven(&pom, partial)?;
    let main_jar = partial.join(format!("cassandra-all-{}.jar", version.number()));
    if !main_jar.exists() {
        bail!("Maven finished without error, but left no {}", main_jar.display());
    }
    fs::rename(partial, home).with_context(|| format!("cannot create {}", home.display()))
}

fn run_maven(pom: &Path, out: &Path) -> Result<()> {
    let log = out.join("maven.log");
    let mut maven = Spawn::new("Maven", "mvn", &log)
        .args(["--batch-mode", "--strict-checksums", "--file"])
        .arg(pom)
        .arg("dependency:copy-dependencies")
        .arg("-DincludeScope=runtime")
        .arg(format!("-DoutputDirectory={}", out.display()))
        .start()
        .context("Maven is needed to fetch Cassandra: run `make deps`")?;
    let mut reported = Instant::now();
    wait::until("Maven's downloads", DOWNLOAD_LIMIT, || {
        if reported.elapsed() > PROGRESS_EVERY {
            reported = Instant::now();
            let files = maven.log().matches("Downloaded from").count();
            progress::say(format!("Maven: {files} files so far"));
        }
        !maven.is_running()
    })?;
    let code = maven.wait_for_exit(DOWNLOAD_LIMIT)?;
    if code != 0 {
        return Err(maven.failure(
            "could not fetch Cassandra from Maven Central; is there a network, or a mirror in ~/.m2/settings.xml?",
        ));
    }
    Ok(())
}

fn pom_xml(version: &str) -> String {
    format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>lab</groupId>
  <artifactId>cassandra</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.cassandra</groupId>
      <artifactId>cassandra-all</artifactId>
      <version>{version}</version>
    </dependency>
  </dependencies>
</project>
"#
    )
}
