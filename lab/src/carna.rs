//! Kamailio under Carna: nodes that find each other in ZooKeeper.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fleet::Role;
use rustix::process::{Pid, Signal as Raw, kill_process_group};
use serde_json::{Value, json};

use crate::process::{Managed, OnOurDeath, Spawn};
use crate::wait::until;
use crate::zookeeper::ZooKeeper;
use crate::{RunDir, cpu, kamailio, net, workspace};

const SOON: Duration = Duration::from_secs(40);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const HTTP_PORT: u16 = 9180;
/// A node to be.
#[derive(Debug)]
pub struct Plan {
    role: Role,
    name: String,
    address: SocketAddrV4,
    own_address: Option<SocketAddrV4>,
    servers: String,
    env: Vec<(String, String)>,
    attempts: u32,
    is_in_database: bool,
    program: PathBuf,
    dir: RunDir,
}

/// A node. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    // Before `plan`, whose directory its processes are in.
    process: Managed,
    plan: Plan,
}

impl Plan {
    /// A node of a role by this name, on a fresh address, in the data centre `dc1`, with the release build of Carna.
    pub fn new(role: Role, zookeeper: &ZooKeeper, name: &str) -> Result<Self> {
        Ok(Self {
            role,
            name: name.to_owned(),
            address: SocketAddrV4::new(net::loopback(), 5060),
            own_address: None,
            servers: zookeeper.servers(),
            env: Vec::new(),
            attempts: 5,
            is_in_database: false,
            program: workspace().target().join("release/carna"),
            dir: RunDir::new("carna")?,
        })
    }

    /// With this build of Carna.
    pub fn program(mut self, program: &str) -> Self {
        self.program = program.into();
        self
    }

    /// Reached at this address.
    pub fn at(mut self, address: SocketAddrV4) -> Self {
        self.address = address;
        self
    }

    /// With an address that is always its own, since the one that it is reached at is at times another's.
    pub fn own(mut self, address: SocketAddrV4) -> Self {
        self.own_address = Some(address);
        self
    }

    /// With a setting of its configuration more.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// So many starts of its Kamailio may fail in a row.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// With the list of nodes in an SQLite database.
    pub fn with_database(mut self) -> Self {
        self.is_in_database = true;
        self
    }

    /// Starts it and waits until its Kamailio answers.
    pub fn start(self) -> Result<Node> {
        let node = self.launch()?;
        until("Kamailio under Carna to answer", SOON, || node.answers()).with_context(|| node.log())?;
        Ok(node)
    }

    /// Starts it, in the network of the calling thread.
    pub fn launch(self) -> Result<Node> {
        Ok(Node { process: self.spawn()?, plan: self })
    }

    /// Where it is itself.
    fn here(&self) -> SocketAddrV4 {
        self.own_address.unwrap_or(self.address)
    }

    fn spawn(&self) -> Result<Managed> {
        let dir = self.dir.path().display().to_string();
        let database = self.dir.join("dispatcher.sqlite").display().to_string();
        let (place, setting) = if self.is_in_database {
            (format!("database = '{database}'"), ("DISPATCHER_DATABASE", format!("sqlite:///{database}")))
        } else {
            let list = format!("{dir}/dispatcher.list");
            (format!("list = '{list}'"), ("DISPATCHER_LIST", list))
        };
        let file = self.dir.write("carna.toml", &self.config(&place)?)?;
        let mut command = Spawn::new(format!("Carna {}", self.name), &self.program, self.dir.join("carna.log"))
            .args(["run", "--config"])
            .arg(file)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("SIP_ADDR", self.address.to_string())
            .env("FLOW_TOKEN_SECRET", "the same on all")
            .env("NONCE_SECRET", "the same on all")
            .env("NODE_NAME", &self.name)
            .env(setting.0, setting.1)
            .on_our_death(OnOurDeath::Terminate)
            .dir(self.dir.path());
        if let Some(own) = self.own_address {
            command = command.env("NODE_ADDR", own.to_string());
        }
        for (name, value) in &self.env {
            command = command.env(name, value);
        }
        command.start().context("Carna is needed: run `make build`")
    }

    /// The node's carna.toml.
    fn config(&self, place: &str) -> Result<String> {
        let dir = self.dir.path().display();
        let script = workspace().root().join(format!("kamailio-cfg/{}.cfg", self.role));
        let modules = kamailio::module_path(kamailio::our_module_dir().as_deref())?;
        Ok(format!(
            "state_dir = '{dir}'\n\
             [node]\nrole = '{role}'\nname = '{name}'\ndc = 'dc1'\nsip = {{ udp = '{address}' }}\n\
             [process]\n\
             command = ['kamailio', '-DD', '-E', '-n', '2', '-m', '64', '-M', '8', '-L', '{modules}', '-Y', '{dir}', '-w', '{dir}', \
             '-f', '{script}']\n\
             restart_pause = '500ms'\nattempts = {attempts}\n\
             [zookeeper]\nservers = '{servers}'\nsession_timeout = '2s'\nhold = '1s'\n\
             [dispatcher]\n{place}\nrpc = '{dir}/kamailio_rpc.sock'\n\
             [health]\ninterval = '250ms'\naddress = '{here}'\n\
             [drain]\nnotice = '5s'\nlimit = '60s'\n\
             [http]\nlisten = '{host}:{HTTP_PORT}'\n",
            role = self.role,
            name = self.name,
            address = self.address,
            script = script.display(),
            attempts = self.attempts,
            servers = self.servers,
            here = self.here(),
            host = self.here().ip(),
        ))
    }
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Where it is reached.
    pub fn address(&self) -> SocketAddrV4 {
        self.plan.address
    }

    /// Its Carna.
    pub fn process(&mut self) -> &mut Managed {
        &mut self.process
    }

    /// What its Carna and its Kamailio have written since the last start.
    pub fn log(&self) -> String {
        format!("{}:\n{}\n", self.plan.name, self.process.log())
    }

    /// What its Kamailio's list file holds.
    pub fn list(&self) -> String {
        fs::read_to_string(self.plan.dir.join("dispatcher.list")).unwrap_or_default()
    }

    /// Whether its Kamailio answers.
    pub fn answers(&self) -> bool {
        kamailio::ask_over_udp(self.plan.here()).is_ok()
    }

    /// What its Kamailio answers to an RPC command.
    pub fn rpc(&self, method: &str, params: Value) -> Result<Value> {
        kamailio::rpc(&self.plan.dir, method, params)
    }

    /// What its Carna answers to a GET: status code and content.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect((*self.plan.here().ip(), HTTP_PORT))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: carna\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, content) = answer.split_once("\r\n\r\n").context("no answer")?;
        let code = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((code, content.to_owned()))
    }

    /// Has its Carna's program do something else with the same configuration, and gives what it writes; fails with that when it fails.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.plan.program)
            .args(arguments)
            .arg("--config")
            .arg(self.plan.dir.join("carna.toml"))
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Its Kamailio's main process.
    pub fn kamailio(&self) -> Result<u32> {
        let log = self.log();
        let line = log.lines().rfind(|line| line.contains(" as process ")).context("nothing was started")?;
        Ok(line.rsplit("process ").next().context("no pid")?.trim().parse()?)
    }

    /// Waits until the set in the list is of these nodes.
    pub fn until_listed(&self, set: u32, nodes: &[&Self]) -> Result<()> {
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
    pub fn until_loaded(&self, count: usize) -> Result<()> {
        let shown = || self.rpc("dispatcher.list", json!([]));
        let loaded = || shown().is_ok_and(|shown| shown.to_string().matches("\"FLAGS\":\"A").count() == count);
        until("the destinations in Kamailio", SOON, loaded).with_context(|| format!("{:?}\n{}", shown(), self.log()))
    }

    /// The same node, whose Carna is killed, if it still runs, and started again.
    pub fn again(mut self) -> Result<Self> {
        let _ = self.process.kill9();
        self.process = self.plan.spawn()?;
        Ok(self)
    }

    /// The group of its Kamailio, when it runs without a Carna.
    fn orphans(&self) -> Option<Pid> {
        let kept = fs::read(self.plan.dir.join("process.json")).ok()?;
        let kept: Value = serde_json::from_slice(&kept).ok()?;
        let pid = u32::try_from(kept["pid"].as_u64()?).ok()?;
        let is_the_same = cpu::stat(pid).is_some_and(|now| Some(now.started) == kept["started"].as_u64());
        if is_the_same { Pid::from_raw(pid.cast_signed()) } else { None }
    }
}

impl Drop for Node {
    /// A Carna that is killed leaves its Kamailio behind, for the next one to end; here there is none.
    fn drop(&mut self) {
        let _ = self.process.kill9();
        if let Some(group) = self.orphans() {
            let _ = kill_process_group(group, Raw::KILL);
        }
    }
}
