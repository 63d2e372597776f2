//! Servers under Carna: nodes that find each other in ZooKeeper.

use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fleet::Role;
use rustix::process::{Pid, kill_process_group};
use serde_json::{Value, json};

use crate::event_socket::{self, FreeSwitch};
use crate::kamailio::{MemoryManager, RPC_SOCKET};
use crate::process::{self, Managed, OnOurDeath, Signal, Spawn};
use crate::wait::until;
use crate::zookeeper::ZooKeeper;
use crate::{RunDir, cpu, kamailio, media, net, topology, workspace};

const SOON: Duration = Duration::from_secs(40);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const HTTP_PORT: u16 = 9180;
const LIST: &str = "dispatcher.list";
const CONFIG: &str = "carna.toml";
/// A node to be.
#[derive(Debug)]
pub struct Plan {
    role: Role,
    name: String,
    kamailio: kamailio::Config,
    own_address: Option<SocketAddrV4>,
    servers: String,
    attempts: u32,
    drain: Drain,
    is_in_database: bool,
    further: String,
    /// What a shell does before it becomes the Kamailio.
    before: Option<String>,
    is_first: bool,
    /// Further arguments of its Kamailio.
    arguments: Vec<String>,
    /// Its `[log]`.
    log: String,
    media: Option<Media>,
    program: PathBuf,
    dir: RunDir,
}

/// What a media node has in the place of a Kamailio.
#[derive(Debug)]
struct Media {
    program: media::Program,
    /// Where Cassandra answers.
    contact_points: String,
}

/// How a node leaves.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// So long the others have to hear of it.
    pub notice: Duration,
    /// So long what goes on has to end.
    pub limit: Duration,
}

impl Default for Drain {
    /// For tests with short calls.
    fn default() -> Self {
        Self { notice: Duration::from_secs(5), limit: Duration::from_secs(60) }
    }
}

/// Where the Carna of a node tells how it is, whose Kamailio is here.
pub fn http_address(node: SocketAddrV4) -> SocketAddrV4 {
    SocketAddrV4::new(*node.ip(), HTTP_PORT)
}

/// What the Carna of the node that is here answers to a GET: status code and content.
pub fn get(node: SocketAddrV4, path: &str) -> Result<(u16, String)> {
    net::get(http_address(node), path, ANSWER_LIMIT)
}

/// A node. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    // Before `plan`, whose directory its processes are in.
    process: Managed,
    plan: Plan,
    is_left: bool,
}

impl Plan {
    /// A node of a role by this name, on a fresh address, in the data centre `dc1`, with the release build of Carna.
    pub fn new(role: Role, zookeeper: &ZooKeeper, name: &str) -> Result<Self> {
        let mut config = topology::node(role, name);
        config.workers = 2;
        Self::of(role, zookeeper, config, name)
    }

    /// A node of a role by this name, with this Kamailio.
    pub fn of(role: Role, zookeeper: &ZooKeeper, kamailio: kamailio::Config, name: &str) -> Result<Self> {
        let dir = RunDir::at_or_new(kamailio.dir.as_deref(), "carna")?;
        Ok(Self {
            role,
            name: name.to_owned(),
            kamailio,
            own_address: None,
            servers: zookeeper.servers(),
            attempts: 5,
            drain: Drain::default(),
            is_in_database: false,
            further: String::new(),
            before: None,
            is_first: false,
            arguments: Vec::new(),
            log: String::new(),
            media: None,
            program: workspace().target().join("release/carna"),
            dir,
        })
    }

    /// A media node, whose FreeSWITCH is this double; its process only sleeps. What happens to channels goes to this Cassandra.
    pub fn of_double(zookeeper: &ZooKeeper, name: &str, double: &FreeSwitch, contact_point: &str) -> Result<Self> {
        let command = ["sleep", "infinity"].map(str::to_owned).to_vec();
        let program = media::Program { command, env: Vec::new(), event_socket: double.event_socket() };
        let plan = Self::new(Role::Media, zookeeper, name)?.at(double.sip());
        Ok(Self { media: Some(Media { program, contact_points: contact_point.to_owned() }), ..plan })
    }

    /// This media node, whose channels go to this Cassandra.
    pub fn of_media(zookeeper: &ZooKeeper, name: &str, config: &media::Config, contact_points: &str) -> Result<Self> {
        let kamailio = kamailio::Config { dir: config.dir.clone(), ..topology::node(Role::Media, name) };
        let plan = Self::of(Role::Media, zookeeper, kamailio, name)?.at(config.sip());
        let program = media::Program::of(config, &plan.dir)?;
        Ok(Self { media: Some(Media { program, contact_points: contact_points.to_owned() }), ..plan })
    }

    /// Which goes on without us once it was [detached](Node::detach).
    pub fn outlive_us(mut self, outlives: bool) -> Self {
        self.kamailio.outlive_us = outlives;
        self
    }

    /// With this build of Carna.
    pub fn program(mut self, program: &str) -> Self {
        self.program = program.into();
        self
    }

    /// Reached at this address.
    pub fn at(mut self, address: SocketAddrV4) -> Self {
        (self.kamailio.address, self.kamailio.port) = (*address.ip(), address.port());
        self
    }

    /// With an address that is always its own, since the one that it is reached at is at times another's.
    pub fn own(mut self, address: SocketAddrV4) -> Self {
        self.own_address = Some(address);
        self
    }

    /// With a setting of its configuration more.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.kamailio.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With these settings of its configuration more.
    pub fn settings(mut self, settings: &[(String, String)]) -> Self {
        self.kamailio.env.extend_from_slice(settings);
        self
    }

    /// With the module that is in this directory.
    pub fn modules(mut self, directory: PathBuf) -> Self {
        self.kamailio.module_dir = Some(directory);
        self
    }

    /// With as much shared memory as a load needs, in MB.
    pub fn memory(mut self, shm_mb: u32) -> Self {
        (self.kamailio.shm_mb, self.kamailio.memory_manager) = (shm_mb, MemoryManager::Tlsf);
        self
    }

    /// Leaving so.
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
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

    /// With these lines of nodes besides those that are found.
    pub fn further(mut self, lines: &str) -> Self {
        self.further = lines.to_owned();
        self
    }

    /// With a shell that does this first and then becomes its Kamailio.
    pub fn before(mut self, commands: &str) -> Self {
        self.before = Some(commands.to_owned());
        self
    }

    /// With an argument of its Kamailio more.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// With these lines in the section `[log]` of its carna.toml.
    pub fn log(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.log);
        self
    }

    /// As the first process of its container.
    pub fn first(mut self) -> Self {
        self.is_first = true;
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
        Ok(Node { process: self.spawn()?, plan: self, is_left: false })
    }

    /// Where it is reached.
    pub fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.kamailio.address, self.kamailio.port)
    }

    /// Where it is itself.
    fn here(&self) -> SocketAddrV4 {
        self.own_address.unwrap_or(self.address())
    }

    fn spawn(&self) -> Result<Managed> {
        let dir = self.dir.path().display().to_string();
        let database = self.dir.join("dispatcher.sqlite").display().to_string();
        let (place, setting) = if self.is_in_database {
            (format!("database = '{database}'"), ("DISPATCHER_DATABASE", format!("sqlite:///{database}")))
        } else {
            let list = self.dir.join(LIST).display().to_string();
            (format!("list = '{list}'"), ("DISPATCHER_LIST", list))
        };
        let file = self.dir.write(CONFIG, &self.config(&dir, &place)?)?;
        let end = if self.kamailio.outlive_us { OnOurDeath::Outlive } else { OnOurDeath::Terminate };
        let (name, log) = (format!("Carna {}", self.name), self.dir.join("carna.log"));
        let command = if self.is_first {
            let contained = Spawn::new(name, "unshare", log).args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
            contained.arg(&self.program)
        } else {
            Spawn::new(name, &self.program, log)
        };
        let mut command = command
            .args(["run", "--config"])
            .arg(file)
            .env(setting.0, setting.1)
            .on_our_death(end)
            .dir(self.dir.path());
        if let Some(own) = self.own_address {
            command = command.env("NODE_ADDR", own.to_string());
        }
        for (name, value) in kamailio::environment(&self.kamailio, &self.dir) {
            command = command.env(name, value);
        }
        for (name, value) in self.media.iter().flat_map(|media| &media.program.env) {
            command = command.env(name, value);
        }
        command.start().context("Carna is needed: run `make build`")
    }

    /// The node's carna.toml.
    fn config(&self, dir: &str, place: &str) -> Result<String> {
        let (command, server) = match &self.media {
            Some(media) => (media.program.command.clone(), media.config()),
            None => (self.command()?, self.dispatcher(dir, place)?),
        };
        // A list of strings is in JSON what it is in TOML.
        let command = serde_json::to_string(&command)?;
        Ok(format!(
            "state_dir = '{dir}'\n\
             [node]\nrole = '{role}'\nname = '{name}'\ndc = 'dc1'\nsip = {{ udp = '{address}' }}\n\
             [process]\ncommand = {command}\nrestart_pause = '500ms'\nattempts = {attempts}\n\
             [zookeeper]\nservers = '{servers}'\nsession_timeout = '2s'\nhold = '1s'\n\
             {server}\
             [health]\ninterval = '250ms'\naddress = '{here}'\n\
             [drain]\nnotice = '{notice}ms'\nlimit = '{limit}ms'\n\
             [http]\nlisten = '{host}:{HTTP_PORT}'\n\
             [log]\n{log}\n",
            role = self.role,
            name = self.name,
            address = self.address(),
            attempts = self.attempts,
            servers = self.servers,
            here = self.here(),
            notice = self.drain.notice.as_millis(),
            limit = self.drain.limit.as_millis(),
            host = self.here().ip(),
            log = self.log,
        ))
    }

    /// What it runs.
    fn command(&self) -> Result<Vec<String>> {
        let script = self.kamailio.script(&self.dir)?;
        let mut command = vec![kamailio::binary().display().to_string()];
        command.extend(kamailio::arguments(&self.kamailio, &script, &self.dir)?);
        command.extend_from_slice(&self.arguments);
        if let Some(before) = &self.before {
            let shell = ["sh", "-c", &format!("{before}; exec \"$@\""), "sh"].map(str::to_owned);
            command.splice(..0, shell);
        }
        Ok(command)
    }

    /// What its Kamailio routes by.
    fn dispatcher(&self, dir: &str, place: &str) -> Result<String> {
        let further = self.dir.write("further.list", &self.further)?;
        Ok(format!("[dispatcher]\n{place}\nfurther = '{}'\nrpc = '{dir}/{RPC_SOCKET}'\n", further.display()))
    }
}

impl Media {
    /// Where its FreeSWITCH is told what to do, and where is written what that does.
    fn config(&self) -> String {
        let (event_socket, password) = (self.program.event_socket, event_socket::PASSWORD);
        format!(
            "[media]\nevent_socket = '{event_socket}'\npassword = '{password}'\n\
             [cassandra]\ncontact_points = '{}'\n",
            self.contact_points
        )
    }
}

impl Node {
    /// Its role.
    pub fn role(&self) -> Role {
        self.plan.role
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Where it is reached.
    pub fn address(&self) -> SocketAddrV4 {
        self.plan.address()
    }

    /// The process that is its Carna.
    pub fn pid(&self) -> Result<u32> {
        let started = self.process.pid();
        if !self.plan.is_first {
            return Ok(started);
        }
        let children = fs::read_to_string(format!("/proc/{started}/task/{started}/children"))?;
        children.trim().parse().with_context(|| format!("'{children}' is not one child"))
    }

    /// Its Carna, or what has started it.
    pub fn process(&self) -> &Managed {
        &self.process
    }

    /// Waits until its Carna has ended, and returns the exit code.
    pub fn wait_for_exit(&mut self, limit: Duration) -> Result<i32> {
        self.process.wait_for_exit(limit)
    }

    /// SIGKILL to its Carna alone.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill9()
    }

    /// Whether it takes part.
    pub fn is_ready(&self) -> bool {
        self.get("/ready").is_ok_and(|(code, _)| code == 200)
    }

    /// Has it drain and end.
    pub fn tell_to_end(&self) -> Result<()> {
        process::signal(self.pid()?, Signal::TERM)
    }

    /// Waits until it has ended; that it ends otherwise than it was told to is an error.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<()> {
        let code = self.process.wait_for_exit(limit)?;
        ensure!(code == 0, "{}", self.process.failure(format!("ended with exit code {code} when told to end")));
        Ok(())
    }

    /// Leaves it running without us; its Kamailio must be [to outlive us](kamailio::Config::outlive_us).
    pub fn detach(mut self) {
        self.plan.dir.keep();
        self.process.leave();
        self.is_left = true;
    }

    /// What its Carna and its Kamailio have written since the last start.
    pub fn log(&self) -> String {
        format!("{}:\n{}\n", self.plan.name, self.process.log())
    }

    /// What its Kamailio's list file holds.
    pub fn list(&self) -> String {
        fs::read_to_string(self.plan.dir.join(LIST)).unwrap_or_default()
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
        get(self.plan.here(), path)
    }

    /// Where a browser finds a page of its Carna's.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}:{HTTP_PORT}{path}", self.plan.here().ip())
    }

    /// Has its Carna's program do something else with the same configuration, and gives what it writes; fails with that when it fails.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let dir = RunDir::new("command")?;
        let command = Spawn::new("carna", &self.plan.program, dir.join("carna.log"));
        process::run(command.args(arguments).arg("--config").arg(self.plan.dir.join(CONFIG)), SOON)
    }

    /// Its Kamailio's main process, or what stands for it.
    pub fn kamailio(&self) -> Result<u32> {
        let log = self.log();
        let line = log.lines().rfind(|line| line.contains(" as process ")).context("nothing was started")?;
        let (_, pid) = line.rsplit_once(" as process ").context("no pid")?;
        // A line of JSON goes on behind it.
        Ok(pid.split(|c: char| !c.is_ascii_digit()).next().context("no pid")?.parse()?)
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

    /// Whether its Kamailio has so many destinations in all that take something new.
    pub fn has_loaded(&self, count: usize) -> bool {
        self.destinations().is_ok_and(|shown| shown.to_string().matches("\"FLAGS\":\"A").count() == count)
    }

    /// Waits until [it has](Node::has_loaded).
    pub fn until_loaded(&self, count: usize) -> Result<()> {
        until("the destinations in Kamailio", SOON, || self.has_loaded(count))
            .with_context(|| format!("{:?}\n{}", self.destinations(), self.log()))
    }

    fn destinations(&self) -> Result<Value> {
        self.rpc("dispatcher.list", json!([]))
    }

    /// The same node, whose Carna is killed, if it still runs, and started again.
    pub fn again(mut self) -> Result<Self> {
        let _ = self.process.kill9();
        self.process = self.plan.spawn()?;
        Ok(self)
    }

    /// The same with the module that is in this directory; `None`: our release build.
    pub fn again_with(mut self, modules: Option<PathBuf>) -> Result<Self> {
        self.plan.kamailio.module_dir = modules.or_else(kamailio::our_module_dir);
        self.again()
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
        if self.is_left {
            return;
        }
        let _ = self.process.kill9();
        if let Some(group) = self.orphans() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
