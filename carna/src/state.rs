//! What must survive a restart, and what others ask: the nodes that were known last, which process is the agent, which the node's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use crate::files::replace;
use crate::process::Process;
use fleet::Announcement;

/// Files in the state directory.
const NODES: &str = "nodes.json";
const PROCESS: &str = "process.json";
const AGENT: &str = "agent.json";

/// Where it is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    dir: PathBuf,
}

impl Kept {
    /// In this directory, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self::at(dir))
    }

    /// What is kept in this directory, if it is there.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The nodes that were known.
    pub fn nodes(&self) -> Vec<Announcement> {
        let mut nodes: Vec<Announcement> = self.read(NODES).unwrap_or_default();
        nodes.retain(|node| node.check().is_ok());
        nodes
    }

    /// Keeps the nodes that are known.
    ///
    /// # Errors
    /// The file cannot be written; the one before is still there.
    pub fn keep_nodes(&self, nodes: &[Announcement]) -> Result<()> {
        replace(&self.dir.join(NODES), &serde_json::to_vec_pretty(nodes)?)
    }

    /// The process that was ours.
    pub fn process(&self) -> Option<Process> {
        self.read(PROCESS)
    }

    /// Keeps which process is ours.
    ///
    /// # Errors
    /// As [`Self::keep_nodes`].
    pub fn keep_process(&self, process: &Process) -> Result<()> {
        replace(&self.dir.join(PROCESS), &serde_json::to_vec(process)?)
    }

    /// The agent that ran here last.
    pub fn agent(&self) -> Option<Process> {
        self.read(AGENT)
    }

    /// Keeps which process is the agent.
    ///
    /// # Errors
    /// As [`Self::keep_nodes`].
    pub fn keep_agent(&self, process: &Process) -> Result<()> {
        replace(&self.dir.join(AGENT), &serde_json::to_vec(process)?)
    }

    /// What a file holds. One that cannot be read is as good as none, and is told.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let file = self.dir.join(name);
        let text = fs::read(&file).ok()?;
        let read = serde_json::from_slice(&text);
        read.inspect_err(|error| tracing::warn!("{} is not read: {error}", file.display())).ok()
    }
}
