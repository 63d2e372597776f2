//! Child processes that cannot outlive us unless told to, each with a log that its errors quote.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, WaitId, WaitIdOptions};
use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_getaffinity, sched_setaffinity};

use crate::wait::{self, Condition};
use crate::{cpu, networks};

/// How many lines of a log an error quotes.
const TAIL_LINES: usize = 40;
/// How long a busy machine may take to stop all threads of a group.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// What happens to a child when this process ends without stopping it (kill -9, a crash).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOurDeath {
    /// It is killed. Right for a server of one process.
    Kill,
    /// It gets SIGTERM. Right for a server whose main process must stop its children.
    Terminate,
    /// It goes on, and dropping its [`Managed`] does not stop it once [`Managed::detach`] was called.
    Outlive,
}

/// A command line to be started by [`Spawn::start`].
#[derive(Debug)]
pub struct Spawn {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    log: PathBuf,
    on_our_death: OnOurDeath,
}

impl Spawn {
    /// `name` is for messages; `log` receives standard output and standard error, after what it holds already.
    pub fn new(name: impl Into<String>, program: impl AsRef<OsStr>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            log: log.into(),
            on_our_death: OnOurDeath::Kill,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Says what becomes of it when we are gone; [`OnOurDeath::Kill`] unless set.
    pub fn on_our_death(mut self, choice: OnOurDeath) -> Self {
        self.on_our_death = choice;
        self
    }

    /// Starts it in a session of its own, with nothing on standard input, in the network that the calling thread is in, on the cores
    /// that this thread may use.
    pub fn start(self) -> Result<Managed> {
        let log = open_log(&self.log)?;
        let log_start = log.metadata().map(|meta| meta.len()).unwrap_or(0);
        let command = self.command(log)?;
        let child = spawn_from_long_lived_thread(command)
            .with_context(|| format!("cannot start {} ({})", self.name, self.program.to_string_lossy()))?;
        let pid = child.id();
        Ok(Managed {
            name: self.name,
            pid,
            started: cpu::stat(pid).map_or(0, |stat| stat.started),
            child,
            log: self.log,
            log_start,
            over: false,
        })
    }

    fn command(&self, log: File) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let cores = sched_getaffinity(None).context("which cores may be used")?;
        set_up_in_child(&mut command, self.on_our_death, networks::of_this_thread()?, cores);
        Ok(command)
    }
}

/// Gives the child its own session, its network when that is not the process's own (the thread that forks is in that one), its cores,
/// and, unless it is to outlive us, its parent-death signal.
fn set_up_in_child(command: &mut Command, on_our_death: OnOurDeath, network: Option<File>, cores: CpuSet) {
    let parent = rustix::process::getpid();
    let signal = match on_our_death {
        OnOurDeath::Kill => Some(Signal::KILL),
        OnOurDeath::Terminate => Some(Signal::TERM),
        OnOurDeath::Outlive => None,
    };
    let set_up = move || -> std::io::Result<()> {
        rustix::process::setsid()?;
        sched_setaffinity(None, &cores)?;
        if let Some(network) = &network {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        if signal.is_some() {
            rustix::process::set_parent_process_death_signal(signal)?;
            if rustix::process::getppid() != Some(parent) {
                // We died between fork and here, so the signal will never come.
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe code may run. The closure makes five system calls through
    // rustix, which calls the kernel directly, and neither allocates, nor takes a lock, nor panics. It owns Copy data and a file,
    // which the exec closes.
    unsafe { command.pre_exec(set_up) };
}

/// The parent-death signal is sent when the *thread* that forked ends, and a test runs each test in a thread of its own.
/// So all children are forked by one thread that lives as long as the process.
fn spawn_from_long_lived_thread(command: Command) -> std::io::Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();

    let spawner = SPAWNER.get_or_init(|| {
        adopt_orphans();
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                let _ = answer.send(command.spawn()); // the asker waits for it
            }
        });
        jobs
    });
    let (answer, result) = mpsc::channel();
    let gone = |_| std::io::Error::other("the thread that starts processes is gone");
    spawner.send((command, answer)).map_err(|_| gone(mpsc::RecvError))?;
    result.recv().map_err(gone)?
}

/// Makes a process whose parent has died our child instead of init's, so that it can be waited for, and does not stay behind
/// as a zombie where init is a program that does not reap.
fn adopt_orphans() {
    // It fails only on kernels older than all that we run on; orphans then go to init.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open the log {}", path.display()))
}

/// A running child process and the processes that it started. Dropping it kills them all.
///
/// The child is not reaped before that, so its pid and its process group cannot come to mean anything else.
#[derive(Debug)]
pub struct Managed {
    name: String,
    pid: u32,
    started: u64,
    #[expect(dead_code, reason = "we wait by pid, as only that leaves the process unreaped")]
    child: Child,
    log: PathBuf,
    log_start: u64,
    /// Reaped or given away: its pid is not ours any more.
    over: bool,
}

impl Managed {
    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, also that of its process group and session.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its start time in clock ticks since boot; with the pid this names the process for good.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// All living processes of its group, itself first as a rule.
    pub fn pids(&self) -> Vec<u32> {
        if self.over {
            return Vec::new();
        }
        cpu::group(self.pid)
    }

    /// Whether the process itself lives (frozen counts as living).
    pub fn is_running(&self) -> bool {
        !self.over && matches!(self.exit(), Ok(None))
    }

    /// Stops it and its children in their tracks (SIGSTOP), and waits until they stand: on a busy machine threads go on for a
    /// while after the signal, and answer.
    pub fn freeze(&self) -> Result<()> {
        self.signal_group(Signal::STOP)?;
        let stands = || self.pids().into_iter().all(cpu::is_stopped);
        wait::until(&format!("{} to stand still", self.name), FREEZE_LIMIT, stands)
    }

    /// Lets it go on after [`Managed::freeze`] (SIGCONT).
    pub fn thaw(&self) -> Result<()> {
        self.signal_group(Signal::CONT)
    }

    /// Sends a signal to the process itself, not to its children.
    pub fn signal(&self, which: Signal) -> Result<()> {
        self.check_ours()?;
        signal(self.pid, which)
    }

    /// SIGKILL for the process itself, and waits until it is dead. Its children are left alone.
    pub fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_quietly(Duration::from_secs(10))
    }

    /// SIGTERM, then waits until it has ended and returns its exit code (128 + signal when one ended it); what is left of
    /// its group then is killed. If it does not end within `timeout` the whole group is killed, and that is an error.
    pub fn terminate(&mut self, timeout: Duration) -> Result<i32> {
        let _ = self.thaw(); // a frozen process takes no SIGTERM
        self.signal(Signal::TERM)?;
        let ended = self.wait_quietly(timeout);
        let code = self.exit();
        self.finish();
        ended?;
        Ok(code?.unwrap_or_default())
    }

    /// Waits until it ends by itself and returns its exit code (128 + signal when one ended it).
    pub fn wait_for_exit(&mut self, timeout: Duration) -> Result<i32> {
        let what = format!("{} to end", self.name);
        wait::until(&what, timeout, || self.exit()).map_err(|error| self.failure(format!("{error:#}")))
    }

    /// Waits until `ready` holds. Fails with the log's tail when the process ends first, or after `timeout`.
    pub fn until<C: Condition>(&self, what: &str, timeout: Duration, mut ready: impl FnMut() -> C) -> Result<C::Value> {
        wait::until(what, timeout, || {
            if let Some(code) = self.exit()? {
                bail!("it has ended with code {code}");
            }
            ready().check()
        })
        .map_err(|error| self.failure(format!("{error:#}")))
    }

    /// Its log file.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has written since this start.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let start = (self.log_start as usize).min(bytes.len());
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }

    /// An error that says what failed and quotes the last lines of the log.
    pub fn failure(&self, what: impl std::fmt::Display) -> Error {
        anyhow!("{}: {what}\n{}", self.name, quote(&self.log, &self.log(), TAIL_LINES))
    }

    /// Lets it go on without us: nothing is stopped when this is dropped. Only for [`OnOurDeath::Outlive`].
    pub fn detach(mut self) {
        self.leave();
    }

    /// The same for one that is a part of something that is dropped.
    pub(crate) fn leave(&mut self) {
        self.over = true;
    }

    /// The exit code if it has ended, without reaping it.
    fn exit(&self) -> Result<Option<i32>> {
        if self.over {
            return Ok(Some(0));
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = rustix::process::waitid(WaitId::Pid(as_pid(self.pid)?), options)
            .with_context(|| format!("cannot ask for the state of {}", self.name))?;
        Ok(status.map(|status| {
            let signal = status.terminating_signal().unwrap_or(0);
            status.exit_status().unwrap_or(128 + signal)
        }))
    }

    /// Waits for the end also after Ctrl-C: this is how things are stopped.
    fn wait_quietly(&self, timeout: Duration) -> Result<()> {
        let ended = wait::uninterrupted(timeout, || !matches!(self.exit(), Ok(None)));
        if !ended {
            let seconds = timeout.as_secs_f64();
            let living = self.pids().into_iter().map(cpu::occupation).collect::<Vec<_>>().join("; ");
            return Err(self.failure(format!("still running {seconds:.1} s after it was told to stop: {living}")));
        }
        Ok(())
    }

    fn signal_group(&self, which: Signal) -> Result<()> {
        self.check_ours()?;
        rustix::process::kill_process_group(as_pid(self.pid)?, which)
            .with_context(|| format!("cannot signal the processes of {}", self.name))
    }

    fn check_ours(&self) -> Result<()> {
        if self.over {
            bail!("{} was stopped before", self.name);
        }
        Ok(())
    }

    /// Waits for every process of the group: its orphans are our children (see [`adopt_orphans`]). When this returns they
    /// hold no port and no file any more.
    fn reap_group(&self) {
        if let Ok(group) = as_pid(self.pid) {
            // An error means that there are no more.
            while rustix::process::waitid(WaitId::Pgid(Some(group)), WaitIdOptions::EXITED).is_ok() {}
        }
    }

    /// Kills what is left of the group, then reaps: in this order the group's number is still ours.
    fn finish(&mut self) {
        if !self.over {
            let _ = self.signal_group(Signal::KILL); // fails only when nobody is left
            self.reap_group();
            self.over = true;
        }
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Sends a signal to one process.
pub fn signal(pid: u32, which: Signal) -> Result<()> {
    rustix::process::kill_process(as_pid(pid)?, which).with_context(|| format!("cannot signal process {pid}"))
}

/// Runs a short command to its end and returns what it printed. Fails with its output when its exit code is not 0.
pub fn run(spawn: Spawn, timeout: Duration) -> Result<String> {
    let mut child = spawn.start()?;
    let code = child.wait_for_exit(timeout)?;
    if code != 0 {
        return Err(child.failure(format!("failed with exit code {code}")));
    }
    Ok(child.log())
}

/// Stops a process that an earlier run of this program left running, if `started` shows that it is still the same one:
/// SIGTERM to it, and after `timeout` SIGKILL to its group. Returns false when it was gone already.
pub fn stop_detached(pid: u32, started: u64, timeout: Duration) -> Result<bool> {
    let same = || cpu::stat(pid).is_some_and(|now| now.started == started && now.state != 'Z');
    if !same() {
        return Ok(false);
    }
    let group = as_pid(pid)?;
    let _ = rustix::process::kill_process_group(group, Signal::CONT);
    signal(pid, Signal::TERM)?;
    if !wait::uninterrupted(timeout, || !same()) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        wait::uninterrupted(timeout, || !same());
    }
    Ok(true)
}

/// The last lines of a text, indented, under the path they come from.
pub(crate) fn quote(path: &Path, text: &str, most: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(most)..];
    if tail.is_empty() {
        return format!("  ({} is empty)", path.display());
    }
    let indented = |lines: &[&str]| -> String {
        lines.iter().map(|line| format!("\n  | {}", shorten(line))).collect::<Vec<_>>().concat()
    };
    let complaints = complaints(&lines[..lines.len() - tail.len()]);
    let before = if complaints.is_empty() { String::new() } else { format!("{}\n  | ...", indented(&complaints)) };
    format!("  last lines of {}:{before}{}", path.display(), indented(tail))
}

/// The last lines that tell of an error: what follows may be nothing but the end.
fn complaints<'l>(lines: &[&'l str]) -> Vec<&'l str> {
    const MOST: usize = 5;
    let telling: Vec<&str> =
        lines.iter().filter(|line| line.contains("ERROR") || line.contains("Exception")).copied().collect();
    telling[telling.len().saturating_sub(MOST)..].to_vec()
}

/// Some servers print their whole configuration in one line.
fn shorten(line: &str) -> String {
    const LONGEST: usize = 500;
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

fn as_pid(pid: u32) -> Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process id"))
}
