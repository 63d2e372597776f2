//! Processes of this machine, for whoever is PID 1 of a container as well: each child is started with its output in ours, each that
//! ends is reaped, whoever's child it was, and signals become events.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::SystemTime;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};
use signal_hook::consts::signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

/// Lines of output that are kept to tell why a process has ended.
const KEPT: usize = 40;

/// Bytes of a line that are read; the rest of it is nobody's.
const LONGEST_LINE: usize = 256 << 10;

/// A line that a child has written, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was read, which is at once.
    pub at: SystemTime,
    /// What it is.
    pub bytes: Vec<u8>,
    /// Whether it was longer.
    pub is_cut: bool,
}

/// Where lines go; gives each as it may be shown. It must not wait for anything: the child would.
pub type Output = Arc<dyn Fn(Line) -> String + Send + Sync>;

/// What happens to this process and its children.
#[derive(Debug)]
pub enum Event {
    /// A process has ended, of which we are the parent by now.
    Exited(Pid, ExitStatus),
    /// A signal other than `SIGCHLD`.
    Signal(i32),
}

/// Has events come from now on: once, before the first child is started.
///
/// # Errors
/// The kernel refuses.
pub fn events() -> Result<mpsc::UnboundedReceiver<Event>> {
    // Children of a child that has ended become ours also where we are not PID 1.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("cannot adopt orphans")?;
    let mut signals =
        Signals::new([SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2]).context("cannot take signals")?;
    let (sender, events) = mpsc::unbounded_channel();
    let forward = move || {
        for signal in signals.forever() {
            let is_over = if signal == SIGCHLD { reap(&sender) } else { sender.send(Event::Signal(signal)) }.is_err();
            if is_over {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(forward).context("cannot start a thread")?;
    Ok(events)
}

/// Takes leave of all children that have ended.
fn reap(events: &mpsc::UnboundedSender<Event>) -> Result<(), mpsc::error::SendError<Event>> {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if status.exited() || status.signaled() {
            events.send(Event::Exited(pid, ExitStatus::from_raw(status.as_raw())))?;
        }
    }
    Ok(())
}

/// A process by which no other is meant, also after its pid was given to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pid: i32,
    /// Clock ticks between the start of the machine and its own.
    started: u64,
}

impl Process {
    /// The one that has this pid now, unless it has ended and nobody has asked for its exit code yet.
    pub fn of(pid: Pid) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        // The name is in parentheses, and may hold anything; after it are the state and, as the 20th field, the start.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let started = fields.get(19)?.parse().ok()?;
        (fields[0] != "Z").then_some(Self { pid: pid.as_raw_nonzero().get(), started })
    }

    /// Its pid, while it is there.
    pub fn running(&self) -> Option<Pid> {
        Pid::from_raw(self.pid).filter(|pid| Self::of(*pid).as_ref() == Some(self))
    }
}

/// A child.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    last_lines: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts a program with these arguments, as the first of a process group of its own, with our environment. What it writes goes to
    /// `output`, line by line.
    ///
    /// # Errors
    /// There is no such program, or it cannot be run.
    pub fn start(command: &[String], output: &Output) -> Result<Self> {
        let (program, arguments) = command.split_first().context("no program is given")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process")?;
        let last_lines = Arc::default();
        if let Some(written) = child.stdout.take() {
            pass_on(written, output, &last_lines)?;
        }
        if let Some(written) = child.stderr.take() {
            pass_on(written, output, &last_lines)?;
        }
        // Not waited for here: whoever ends is reaped above.
        Ok(Self { pid, last_lines })
    }

    /// Which it is.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = rustix::process::kill_process(self.pid, signal) {
            tracing::debug!("process {} gets no signal: {error}", self.pid);
        }
    }

    /// Kills what is left of its group.
    pub fn kill_group(&self) {
        kill_group(self.pid);
    }

    /// What it has written last.
    pub fn last_lines(&self) -> Vec<String> {
        self.last_lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Kills a process group, of which nobody may be left.
pub fn kill_group(leader: Pid) {
    let _ = rustix::process::kill_process_group(leader, Signal::KILL);
}

/// Passes on line for line what comes, and keeps the last ones.
fn pass_on(written: impl Read + Send + 'static, output: &Output, kept: &Arc<Mutex<VecDeque<String>>>) -> Result<()> {
    let (output, kept) = (output.clone(), kept.clone());
    let work = move || {
        let mut written = BufReader::new(written);
        while let Ok(Some(line)) = read_line(&mut written) {
            let shown = output(line);
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(shown);
        }
    };
    thread::Builder::new().name("output".to_owned()).spawn(work).context("cannot start a thread").map(drop)
}

/// Reads a line, or what there is of one at the end; `None` at the end.
fn read_line(from: &mut impl BufRead) -> io::Result<Option<Line>> {
    let mut bytes = Vec::new();
    if from.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    let at = SystemTime::now();
    let is_whole = bytes.pop_if(|last| *last == b'\n').is_some();
    let is_cut = !is_whole && bytes.len() == LONGEST_LINE && from.skip_until(b'\n')? > 1;
    Ok(Some(Line { at, bytes, is_cut }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whatever_is_in_them_and_however_long_they_are() {
        let long = vec![b'x'; LONGEST_LINE + 5];
        let all = [b"one\n\n\0\xff\n", &*long, b"\ntwo\nrest"].concat();
        let mut from = all.as_slice();
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut from).expect("it is all there") {
            lines.push((line.bytes, line.is_cut));
        }
        let whole = |text: &[u8]| (text.to_vec(), false);
        let cut = (long[..LONGEST_LINE].to_vec(), true);
        assert_eq!(lines, [whole(b"one"), whole(b""), whole(b"\0\xff"), cut, whole(b"two"), whole(b"rest")]);
    }
}
