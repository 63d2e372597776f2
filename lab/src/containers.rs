//! Nodes in containers, by the image of `deploy/docker/`, on a container engine of our own: Debian's `docker.io`.
//!
//! Images come from nowhere but Debian's packages: the base image is made by `debootstrap`, and what cargo builds in the image's build
//! stage is what `make build` has built here, of the same sources on the same Debian.

use std::fs;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use fleet::Role;

use crate::process::{self, Managed, OnOurDeath, Spawn};
use crate::progress::step;
use crate::{RunDir, carna, debian, workspace};

/// What is needed.
pub const NEEDED: &str = "containers are needed: Debian's docker.io and debootstrap (`make deps-all`), root, and a kernel that lets \
                          them run; where it does not, CONTAINER_TESTS=off leaves these tests out";

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const BUILD_LIMIT: Duration = Duration::from_secs(900);
const SOON: Duration = Duration::from_secs(60);

const DEBIAN: &str = "lab-debian";
const RUST: &str = "lab-rust";
const NODE: &str = "sip-node";
/// In the place of cargo in the build stage.
const CARGO: &str = "#!/bin/sh\n\
                     # Hands out what was built of these sources before.\n\
                     exec install -D --target-directory=target/release /built/*\n";
const BUILT: [&str; 3] = ["libcassandra.so", "sipctl", "carna"];

/// An engine. Dropping it stops it; its images and containers go with it.
#[derive(Debug)]
pub struct Engine {
    // Before `dir`, in which it has everything.
    daemon: Managed,
    dir: RunDir,
}

impl Engine {
    /// Starts one that shares nothing with any other on this machine, and no network with its containers: they have the machine's.
    pub fn start() -> Result<Self> {
        let dir = RunDir::new("engine")?;
        let at = |name: &str| dir.join(name).display().to_string();
        // What it mounts goes with it.
        let daemon = Spawn::new("dockerd", "unshare", dir.join("dockerd.log"))
            .args(["--mount", "dockerd"])
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--host", &format!("unix://{}", at("socket"))])
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"])
            .on_our_death(OnOurDeath::Terminate)
            .dir(dir.path())
            .start()
            .context(NEEDED)?;
        let engine = Self { daemon, dir };
        let answers = || engine.docker(&["version"]).is_ok();
        engine.daemon.until("the container engine to answer", START_LIMIT, answers).context(NEEDED)?;
        Ok(engine)
    }

    /// Makes the image of all roles by its Dockerfile.
    pub fn build_node(&self) -> Result<()> {
        step("a base image of Debian's packages", || self.import_debian())?;
        step("an image with what was built here", || self.build_rust())?;
        step("the image of a node", || {
            let sources = workspace().root().display().to_string();
            let dockerfile = format!("{sources}/deploy/docker/Dockerfile");
            let bases = [format!("RUST_BASE={RUST}"), format!("DEBIAN_BASE={DEBIAN}")];
            let arguments = ["--build-arg", &bases[0], "--build-arg", &bases[1], "--file", &dockerfile, &sources];
            self.build(NODE, &arguments)
        })
    }

    /// The Debian of this machine, as small as it can be.
    fn import_debian(&self) -> Result<()> {
        let (tree, archive) = (debian::smallest().context(NEEDED)?, self.dir.join("debian.tar"));
        process::run(
            self.spawn("tar").arg("--create").arg("--file").arg(&archive).arg("--directory").arg(&tree).arg("."),
            BUILD_LIMIT,
        )?;
        self.docker(&["import", &archive.display().to_string(), DEBIAN]).map(drop)
    }

    /// The same with what cargo would build.
    fn build_rust(&self) -> Result<()> {
        let context = self.dir.join("rust");
        fs::create_dir_all(context.join("built"))?;
        for name in BUILT {
            let built = workspace().target().join("release").join(name);
            fs::copy(&built, context.join("built").join(name))
                .with_context(|| format!("{} is missing: run `make build`", built.display()))?;
        }
        fs::write(context.join("cargo"), CARGO)?;
        let dockerfile = format!(
            "FROM {DEBIAN}\nCOPY cargo /usr/local/bin/cargo\nCOPY built /built\nRUN chmod +x /usr/local/bin/cargo\n"
        );
        fs::write(context.join("Dockerfile"), dockerfile)?;
        self.build(RUST, &[&context.display().to_string()])
    }

    fn build(&self, image: &str, arguments: &[&str]) -> Result<()> {
        let command = [&["build", "--network", "host", "--tag", image], arguments].concat();
        self.docker(&command).map(drop)
    }

    /// Runs a command of the engine to its end, and returns what it prints.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        process::run(self.client().args(arguments), BUILD_LIMIT)
    }

    fn client(&self) -> Spawn {
        let socket = format!("unix://{}", self.dir.join("socket").display());
        // The builder that the engine has in it.
        self.spawn("docker").env("DOCKER_BUILDKIT", "0").args(["--host", &socket])
    }

    fn spawn(&self, program: &str) -> Spawn {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Spawn::new(program, program, self.dir.join(&format!("{program}-{number}.log")))
    }
}

impl Drop for Engine {
    /// In order, so that it stops its containers.
    fn drop(&mut self) {
        if let Err(error) = self.daemon.terminate(STOP_LIMIT) {
            eprintln!("the container engine does not stop: {error:#}");
        }
    }
}

/// A node in a container, with the machine's network. Dropping it kills it.
#[derive(Debug)]
pub struct Container {
    engine: Arc<Engine>,
    name: String,
    address: SocketAddrV4,
    client: Managed,
}

impl Container {
    /// Starts a node of a role as deployments do: not as root, without capabilities, with nothing to write to but its two places.
    pub fn start(
        engine: &Arc<Engine>,
        role: Role,
        name: &str,
        address: SocketAddrV4,
        settings: &[(String, String)],
    ) -> Result<Self> {
        let mut command = engine
            .client()
            .args(["run", "--name", name, "--network", "host", "--read-only", "--cap-drop", "ALL"])
            .args(["--security-opt", "no-new-privileges", "--tmpfs", "/run/kamailio:uid=10001,gid=10001,mode=0750"])
            .args(["--volume", &format!("{name}:/var/lib/carna")]);
        let own = [
            ("CARNA_NODE__ROLE", role.to_string()),
            ("CARNA_NODE__NAME", name.to_owned()),
            ("CARNA_NODE__DC", "dc1".to_owned()),
            ("CARNA_NODE__SIP__UDP", address.to_string()),
            ("CARNA_HTTP__LISTEN", carna::http_address(address).to_string()),
            ("NODE_NAME", name.to_owned()),
            ("SIP_ADDR", address.to_string()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        for (name, value) in own.iter().chain(settings) {
            command = command.args(["--env", &format!("{name}={value}")]);
        }
        // What it is told the engine passes on to the container.
        let client = command.arg(NODE).on_our_death(OnOurDeath::Terminate).start()?;
        Ok(Self { engine: engine.clone(), name: name.to_owned(), address, client })
    }

    /// Where it takes SIP.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Waits until it takes part and uses so many nodes, itself among them.
    pub fn until_it_uses(&self, nodes: usize) -> Result<()> {
        let get = |path: &str| carna::get(self.address, path);
        let uses = || {
            get("/ready").is_ok_and(|(code, _)| code == 200)
                && get("/status").is_ok_and(|(_, status)| status.matches("\"standing\":\"up\"").count() == nodes)
        };
        self.client.until("the node to use all others", SOON, uses)
    }

    /// What the engine says of its health.
    pub fn health(&self) -> Result<String> {
        let shown = self.engine.docker(&["inspect", "--format", "{{.State.Health.Status}}", &self.name])?;
        Ok(shown.trim().to_owned())
    }

    /// Runs a command in it, and returns what it prints.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        self.engine.docker(&[&["exec", &self.name], command].concat())
    }

    /// Has the engine stop it, which lets it drain, and returns its exit code.
    pub fn stop(&self) -> Result<String> {
        let limit = STOP_LIMIT.as_secs().to_string();
        self.engine.docker(&["stop", "--time", &limit, &self.name])?;
        Ok(self.engine.docker(&["inspect", "--format", "{{.State.ExitCode}}", &self.name])?.trim().to_owned())
    }

    /// What it has written.
    pub fn log(&self) -> String {
        format!("{}:\n{}\n", self.name, self.client.log())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.engine.docker(&["rm", "--force", "--volumes", &self.name]); // an engine that is gone has taken it along
    }
}
