//! Where things are: the repository, its target directory, and the directories of servers that run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::FlockOperation;

use crate::wait;

/// The checkout that this program was built from.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

/// The workspace of this program.
pub fn workspace() -> &'static Workspace {
    static WORKSPACE: OnceLock<Workspace> = OnceLock::new();
    WORKSPACE.get_or_init(|| {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = crate_dir.parent().unwrap_or(crate_dir).to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir), // an absolute one replaces the root
            None => root.join("target"),
        };
        Workspace { root, target }
    })
}

impl Workspace {
    /// The directory of the workspace's `Cargo.toml`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Run directories of servers: `target/lab`.
    pub fn lab(&self) -> PathBuf {
        self.target.join("lab")
    }

    /// Downloaded servers: `target/servers`.
    pub fn servers(&self) -> PathBuf {
        self.target.join("servers")
    }

    /// A SIPp scenario of this repository: `tests/sipp/NAME`.
    pub fn scenario(&self, name: &str) -> PathBuf {
        self.root.join("tests/sipp").join(name)
    }

    /// The operator's tool as `cargo build --release` leaves it.
    pub fn sipctl(&self) -> PathBuf {
        self.target.join("release/sipctl")
    }
}

/// A directory for one server: its files, its log, its sockets.
///
/// Dropping it removes it, unless the thread panics (a test failed), `LAB_KEEP` is set in the environment, or
/// [`RunDir::keep`] was called.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    keep: bool,
}

impl RunDir {
    /// A new directory `target/lab/NAME-PID-N`.
    pub fn new(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        static SWEPT: OnceLock<()> = OnceLock::new();
        let lab = workspace().lab();
        SWEPT.get_or_init(|| sweep(&lab));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = lab.join(format!("{name}-{}-{number}", std::process::id()));
        Self::create(path, std::env::var_os("LAB_KEEP").is_some())
    }

    /// A directory at a place of the caller's choice that is kept when dropped; what it held before is removed.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        Self::create(path.into(), true)
    }

    fn create(path: PathBuf, keep: bool) -> Result<Self> {
        remove_tree(&path).with_context(|| format!("cannot empty {}", path.display()))?;
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path, keep })
    }

    /// The one that was asked for, or a new one of this name.
    pub fn at_or_new(path: Option<&Path>, name: &str) -> Result<Self> {
        path.map_or_else(|| Self::new(name), Self::at)
    }

    /// Puts copies of the text files of a directory into one of this name in it; in `file` there is `text` in each place of `place`,
    /// which it must hold.
    pub fn copy_changed(&self, from: &Path, to: &str, file: &str, place: &str, text: &str) -> Result<()> {
        fs::create_dir_all(self.join(to))?;
        for entry in fs::read_dir(from)? {
            let path = entry?.path();
            let name = format!("{to}/{}", path.file_name().context("no name")?.to_string_lossy());
            let mut content = fs::read_to_string(&path)?;
            if name == file {
                ensure!(content.contains(place), "{file} does not hold '{place}'");
                content = content.replace(place, text);
            }
            self.write(&name, &content)?;
        }
        Ok(())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file in it and returns its path.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Leaves the directory in place when this is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.keep && !std::thread::panicking() {
            let _ = remove_tree(&self.path); // a leftover is swept by a later run
        }
    }
}

/// Something that one process at a time may do, on this machine; dropping it lets the next one.
#[derive(Debug)]
pub struct FileLock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl FileLock {
    /// Waits until this process alone holds the lock file. `what` completes "waiting for another process to ...".
    pub fn take(path: &Path, what: &str, limit: Duration) -> Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let waiting = format!("another process to {what} (lock {})", path.display());
        wait::until(&waiting, limit, || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())?;
        Ok(Self(file))
    }
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what earlier runs left behind: directories of processes that are gone, a day after their last change.
/// (Until then they are there to be read: a failed test keeps its directories.)
fn sweep(lab: &Path) {
    const KEPT: Duration = Duration::from_secs(24 * 3600);
    for entry in fs::read_dir(lab).into_iter().flatten().flatten() {
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > KEPT));
        if old && owner(&entry.file_name().to_string_lossy()).is_some_and(|pid| !alive(pid)) {
            let _ = remove_tree(&entry.path());
        }
    }
}

/// The pid in `NAME-PID-N`.
fn owner(dir: &str) -> Option<u32> {
    dir.rsplit('-').nth(1)?.parse().ok()
}

fn alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
