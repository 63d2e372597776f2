//! A node as a manifest starts it.

#![expect(clippy::result_large_err, reason = "the error of a Jail is figment's")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carna::config::Config;
use figment::Jail;
use lab::{RunDir, kamailio, tools, workspace};

use crate::image::Image;

/// Where the image has Kamailio's configurations, and what a node writes.
const CONFIGURATIONS: &str = "/etc/kamailio/";
const RUN: &str = "/run/kamailio";
const STATE: &str = "/var/lib/carna";

/// A container that is a node.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// What it is called where it is described.
    pub(crate) place: String,
    /// The variables that it is given.
    pub(crate) env: BTreeMap<String, String>,
    /// How long it has to end.
    pub(crate) grace: Duration,
    /// Whether its root file system cannot be written.
    pub(crate) is_read_only: bool,
    /// Whether it has no capabilities at all.
    pub(crate) is_powerless: bool,
    /// Where it has a file system in memory.
    pub(crate) in_memory: Vec<String>,
    /// Where it has a volume.
    pub(crate) volumes: Vec<String>,
}

impl Node {
    /// Fails with what is wrong; gives the configuration that its Carna has.
    pub(crate) fn check(&self, deploy: &Path) -> Result<Config> {
        self.checked(deploy).with_context(|| format!("in {}", self.place))
    }

    fn checked(&self, deploy: &Path) -> Result<Config> {
        let mut env = Image::read(&deploy.join("docker/Dockerfile"))?.env();
        env.extend(self.env.clone());
        let config = configuration(&deploy.join("docker/carna.toml"), &env)?;
        ensure!(self.is_read_only, "the root file system can be written");
        ensure!(self.is_powerless, "it has capabilities");
        ensure!(self.in_memory.iter().any(|place| place == RUN), "{RUN} is not writable");
        ensure!(self.volumes.iter().any(|place| place == STATE), "there is no volume at {STATE}");
        ensure!(
            config.state_dir == Path::new(STATE) && env["STATE_DIR"] == STATE,
            "what must survive is not in {STATE}"
        );
        let leave = config.drain.notice + config.drain.limit + config.process.stop_limit;
        ensure!(self.grace > leave, "{:?} to end is less than a drain, which is {leave:?}", self.grace);
        let address = config.node.sip.values().next().map(ToString::to_string);
        ensure!(
            address == env.get("SIP_ADDR").cloned(),
            "node.sip is {address:?}, and SIP_ADDR {:?}",
            env.get("SIP_ADDR")
        );
        start(&config, &env)?;
        Ok(config)
    }
}

/// What Carna makes of its file and these variables.
fn configuration(file: &Path, env: &BTreeMap<String, String>) -> Result<Config> {
    let mut read = Err(anyhow::anyhow!("not read"));
    Jail::try_with(|jail| {
        env.iter().for_each(|(name, value)| jail.set_env(name, value));
        read = Config::read(Some(file));
        Ok(())
    })?;
    read
}

/// Has Kamailio check the configuration that the command names, with the command's other arguments.
fn start(config: &Config, env: &BTreeMap<String, String>) -> Result<()> {
    let dir = RunDir::new("kamailio")?;
    let run = dir.path().display().to_string();
    let ours = format!("{}/", workspace().root().join("kamailio-cfg").display());
    let words = config.process.command.iter().map(|word| word.replace(CONFIGURATIONS, &ours).replace(RUN, &run));
    let words: Vec<String> = words.collect();
    let (program, arguments) = words.split_first().context("no command")?;
    let module_dir = kamailio::our_module_dir().context("the module is needed: run `make build`")?;
    tools::run(
        Command::new(program)
            .args(arguments)
            .args(["-c", "-L", &kamailio::module_path(Some(&module_dir))?])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(env),
    )
    .context("Kamailio does not start with it")
    .map(drop)
}
