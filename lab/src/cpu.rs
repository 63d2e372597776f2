//! CPU time and memory of processes, from /proc.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// CPU time used since a process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In the program.
    pub user: Duration,
    /// In the kernel on its behalf.
    pub system: Duration,
}

impl Cpu {
    /// Both, in milliseconds. The kernel counts in steps of 10 ms.
    pub fn ms(&self) -> u64 {
        (self.user + self.system).as_millis() as u64
    }
}

impl std::iter::Sum for Cpu {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self { user: sum.user + one.user, system: sum.system + one.system })
    }
}

/// What /proc/PID/stat says of a process.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// The process.
    pub pid: u32,
    /// The one that started it (1 once that is gone).
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// `R`, `S`, `T` (stopped), `Z` (has ended)...
    pub state: char,
    /// All its threads.
    pub cpu: Cpu,
    /// When it started, in clock ticks since boot: with the pid, this names a process for good.
    pub started: u64,
}

/// One process; `None` when it is gone.
pub fn stat(pid: u32) -> Option<Stat> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether no thread of a process does anything until it is told to go on, or it is gone.
pub fn is_stopped(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.filter_map(|line| parse(pid, &line)).all(|thread| matches!(thread.state, 'T' | 'Z' | 'X'))
}

/// What a process is doing: its state, where in the kernel it waits, and its CPU time.
pub fn occupation(pid: u32) -> String {
    let Some(stat) = stat(pid) else { return format!("{pid} is gone") };
    let place = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    format!("{pid} (child of {}) is {} in '{place}' after {} ms of CPU", stat.parent, stat.state, stat.cpu.ms())
}

/// CPU time of each of these processes; those that are gone are left out.
pub fn of(pids: &[u32]) -> HashMap<u32, Cpu> {
    pids.iter().filter_map(|&pid| stat(pid)).map(|stat| (stat.pid, stat.cpu)).collect()
}

/// CPU milliseconds of these processes together.
pub fn total_ms(pids: &[u32]) -> u64 {
    of(pids).into_values().sum::<Cpu>().ms()
}

/// CPU milliseconds of a process and all its living descendants.
pub fn with_descendants_ms(pid: u32) -> u64 {
    let all = processes();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(all.iter().filter(|p| p.parent == parent).map(|p| p.pid));
        next += 1;
    }
    total_ms(&family)
}

/// All living processes of a process group (not the ones that have ended and wait for their parent), in order of pid.
pub fn group(leader: u32) -> Vec<u32> {
    let mut pids: Vec<u32> =
        processes().iter().filter(|p| p.group == leader && p.state != 'Z').map(|p| p.pid).collect();
    pids.sort_unstable();
    pids
}

/// Resident memory of a process in kB; 0 when it is gone.
pub fn rss_kb(pid: u32) -> u64 {
    status_field(pid, "VmRSS:")
}

/// Resident memory that belongs to this process alone (not shared, not from files), in kB; 0 when it is gone.
pub fn private_kb(pid: u32) -> u64 {
    status_field(pid, "RssAnon:")
}

fn status_field(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn processes() -> Vec<Stat> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

fn parse(pid: u32, line: &str) -> Option<Stat> {
    // The second field is the name in parentheses and may hold anything; what follows it starts with field 3.
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        pid,
        state: fields.first()?.chars().next()?,
        parent: number(4)? as u32,
        group: number(5)? as u32,
        cpu: Cpu { user: ticks(number(14)?), system: ticks(number(15)?) },
        started: number(22)?,
    })
}

fn ticks(n: u64) -> Duration {
    Duration::from_secs_f64(n as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = "42 (a ) b) S 7 42 42 0 -1 4 1 2 3 4 150 50 0 0 20 0 1 0 987654 1 2 3 4 5 6 7 8 9";
        let stat = parse(42, line).expect("a stat line");
        assert_eq!((stat.parent, stat.group, stat.state), (7, 42, 'S'));
        assert_eq!(stat.started, 987_654);
        assert_eq!(stat.cpu.user, ticks(150));
    }
}
