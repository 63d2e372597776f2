//! Nodes of the tests: Carna over the configurations of the roles.
#![allow(dead_code, reason = "each suite uses a part")]

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use carna::kamailio::{self, Rpc};
use carna::process::kill_group;
use carna::state::Kept;
use fleet::{Announcement, Role};
use lab::process::{Managed, OnOurDeath, Spawn};
use lab::wait::until;
use lab::zookeeper::ZooKeeper;
use lab::{RunDir, net, workspace};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use zookeeper_client::{Acls, Client, CreateMode};

const SOON: Duration = Duration::from_secs(40);

/// A node to be.
pub(crate) struct Plan {
    role: Role,
    name: String,
    address: SocketAddrV4,
    servers: String,
    env: Vec<(String, String)>,
    attempts: u32,
    is_in_database: bool,
    dir: RunDir,
}

/// A node.
pub(crate) struct Node {
    // Before `plan`, whose directory its processes are in.
    process: Managed,
    plan: Plan,
    runtime: Runtime,
}

impl Node {
    /// A load balancer by this name.
    pub(crate) fn load_balancer(zookeeper: &ZooKeeper, name: &str) -> Result<Plan> {
        Self::of(Role::LoadBalancer, zookeeper, name)
    }

    /// A node of a role by this name.
    pub(crate) fn of(role: Role, zookeeper: &ZooKeeper, name: &str) -> Result<Plan> {
        Ok(Plan {
            role,
            name: name.to_owned(),
            address: SocketAddrV4::new(net::loopback(), 5060),
            servers: zookeeper.servers(),
            env: Vec::new(),
            attempts: 5,
            is_in_database: false,
            dir: RunDir::new("carna")?,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.plan.name
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.plan.address
    }

    pub(crate) fn process(&mut self) -> &mut Managed {
        &mut self.process
    }

    pub(crate) fn log(&self) -> String {
        format!("{}:\n{}\n", self.plan.name, self.process.log())
    }

    /// What its Kamailio's list file holds.
    pub(crate) fn list(&self) -> String {
        std::fs::read_to_string(self.plan.dir.join("dispatcher.list")).unwrap_or_default()
    }

    /// Whether its Kamailio answers.
    pub(crate) fn answers(&self) -> bool {
        self.runtime.block_on(kamailio::options(self.address().into())).is_ok()
    }

    /// What its Carna answers to a GET: status code and content.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect((*self.address().ip(), 9180))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: carna\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, content) = answer.split_once("\r\n\r\n").context("no answer")?;
        let code = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((code, content.to_owned()))
    }

    /// Its Kamailio's main process.
    pub(crate) fn kamailio(&self) -> Result<u32> {
        let marker = "process ";
        let log = self.log();
        let line = log.lines().rfind(|line| line.contains(" as process ")).context("nothing was started")?;
        Ok(line.rsplit(marker).next().context("no pid")?.trim().parse()?)
    }

    /// Waits until the set in the list is of these nodes.
    pub(crate) fn until_listed(&self, set: u32, nodes: &[&Node]) -> Result<()> {
        let mut wanted: Vec<String> = nodes.iter().map(|node| format!("sip:{}", node.address())).collect();
        wanted.sort();
        let listed = || {
            let list = self.list();
            let start = format!("{set} ");
            let mut listed: Vec<String> = list
                .lines()
                .filter_map(|line| line.strip_prefix(&start)?.split(' ').next().map(str::to_owned))
                .collect();
            listed.sort();
            listed
        };
        until(&format!("{wanted:?} in the list of {}", self.plan.name), SOON, || listed() == wanted)
            .with_context(|| format!("{}\n{}", self.list(), self.log()))
    }

    /// Waits until its Kamailio has so many destinations in all that take something new.
    pub(crate) fn until_loaded(&self, count: usize) -> Result<()> {
        let rpc = Rpc::new(&self.plan.dir.join("kamailio_rpc.sock"), self.plan.dir.path());
        let shown = || self.runtime.block_on(rpc.call("dispatcher.list", json!([])));
        let loaded = || shown().is_ok_and(|shown| shown.to_string().matches("\"FLAGS\":\"A").count() == count);
        until("the destinations in Kamailio", SOON, loaded).with_context(|| format!("{:?}\n{}", shown(), self.log()))
    }

    /// The same node, whose Carna is killed, if it still runs, and started again.
    pub(crate) fn again(mut self) -> Result<Self> {
        let _ = self.process.kill9();
        self.process = self.plan.spawn()?;
        Ok(self)
    }
}

impl Drop for Node {
    /// A Carna that is killed leaves its Kamailio behind, for the next one to end; here there is none.
    fn drop(&mut self) {
        let _ = self.process.kill9();
        if let Some(pid) = Kept::at(self.plan.dir.path()).process().and_then(|process| process.running()) {
            kill_group(pid);
        }
    }
}

impl Plan {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// With the list of nodes in an SQLite database.
    pub(crate) fn with_database(mut self) -> Self {
        self.is_in_database = true;
        self
    }

    /// Starts it and waits until its Kamailio answers.
    pub(crate) fn start(self) -> Result<Node> {
        let node = self.launch()?;
        until("Kamailio under Carna to answer", SOON, || node.answers()).with_context(|| node.log())?;
        Ok(node)
    }

    /// Starts it.
    pub(crate) fn launch(self) -> Result<Node> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Node { process: self.spawn()?, plan: self, runtime })
    }

    fn spawn(&self) -> Result<Managed> {
        let dir = self.dir.path().display().to_string();
        let database = self.dir.join("dispatcher.sqlite").display().to_string();
        let place = if self.is_in_database {
            format!("database = '{database}'")
        } else {
            format!("list = '{dir}/dispatcher.list'")
        };
        let script = workspace().root().join(format!("kamailio-cfg/{}.cfg", self.role));
        let modules = lab::kamailio::module_path(lab::kamailio::our_module_dir().as_deref())?;
        let config = format!(
            "state_dir = '{dir}'\n\
             [node]\nrole = '{}'\nname = '{}'\ndc = 'dc1'\nsip = {{ udp = '{}' }}\n\
             [process]\n\
             command = ['kamailio', '-DD', '-E', '-n', '2', '-m', '64', '-M', '8', '-L', '{modules}', '-Y', '{dir}', '-w', '{dir}', \
             '-f', '{}']\n\
             restart_pause = '500ms'\nattempts = {}\n\
             [zookeeper]\nservers = '{}'\nsession_timeout = '2s'\nhold = '1s'\n\
             [dispatcher]\n{place}\nrpc = '{dir}/kamailio_rpc.sock'\n\
             [health]\ninterval = '250ms'\n\
             [drain]\nnotice = '8s'\nlimit = '60s'\n\
             [http]\nlisten = '{}:9180'\n",
            self.role,
            self.name,
            self.address,
            script.display(),
            self.attempts,
            self.servers,
            self.address.ip()
        );
        let file = self.dir.write("carna.toml", &config)?;
        let mut command =
            Spawn::new(format!("Carna {}", self.name), env!("CARGO_BIN_EXE_carna"), self.dir.join("carna.log"))
                .args(["run", "--config"])
                .arg(file)
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .env("SIP_ADDR", self.address.to_string())
                .env("FLOW_TOKEN_SECRET", "the same on all")
                .env("NONCE_SECRET", "the same on all")
                .env("NODE_NAME", &self.name)
                .on_our_death(OnOurDeath::Terminate)
                .dir(self.dir.path());
        command = if self.is_in_database {
            command.env("DISPATCHER_DATABASE", format!("sqlite:///{database}"))
        } else {
            command.env("DISPATCHER_LIST", format!("{dir}/dispatcher.list"))
        };
        for (name, value) in &self.env {
            command = command.env(name, value);
        }
        command.start()
    }
}

/// What is in ZooKeeper.
pub(crate) struct Registry {
    client: Client,
    runtime: Runtime,
}

impl Registry {
    pub(crate) fn of(zookeeper: &ZooKeeper) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(Client::connect(&zookeeper.servers()))?;
        Ok(Self { client, runtime })
    }

    /// Waits until these are the published nodes of the role.
    pub(crate) fn until(&self, role: Role, wanted: &[&str]) -> Result<()> {
        let published = || {
            let mut names =
                self.runtime.block_on(self.client.list_children(&format!("/carna/{role}"))).unwrap_or_default();
            names.sort();
            names
        };
        until(&format!("{wanted:?} to be published"), SOON, || published() == wanted)
            .with_context(|| format!("published are {:?}", published()))
            .map(drop)
    }

    pub(crate) fn get(&self, role: Role, name: &str) -> Result<Announcement> {
        let (published, _) = self.runtime.block_on(self.client.get_data(&format!("/carna/{role}/{name}")))?;
        Announcement::parse(role, name, &published).map_err(anyhow::Error::msg)
    }

    pub(crate) fn put(&self, path: &str, content: &[u8]) -> Result<()> {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.runtime.block_on(async { self.client.create(path, content, &options).await })?;
        Ok(())
    }

    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        Ok(self.runtime.block_on(self.client.delete(path, None))?)
    }
}
