//! Addresses are unique, and no child outlives its owner.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::process::{OnOurDeath, Spawn, run};
use lab::{RunDir, cpu, net, wait};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const LIMIT: Duration = Duration::from_secs(10);
/// Set in the environment of the second process that a test starts from this same program.
const ROLE: &str = "LAB_TEST_ROLE";

/// A shell with two children.
fn family(dir: &RunDir) -> Spawn {
    Spawn::new("family", "sh", dir.join("log")).args(["-c", "sleep 1000 & sleep 1000 & echo up; wait"])
}

fn gone(pid: u32) -> bool {
    cpu::stat(pid).is_none_or(|stat| stat.state == 'Z')
}

fn this_program(role: &str, test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture"]).env(ROLE, role).stdout(Stdio::piped());
    command
}

#[test]
fn addresses_are_unique_across_processes() {
    let mine: HashSet<String> = (0..200).map(|_| net::loopback().to_string()).collect();
    assert_eq!(mine.len(), 200);
    if std::env::var(ROLE).is_ok() {
        mine.iter().for_each(|address| println!("address {address}"));
        return;
    }
    let output = this_program("other", "addresses_are_unique_across_processes").output().expect("a run");
    let theirs = String::from_utf8_lossy(&output.stdout).into_owned();
    let theirs: HashSet<String> =
        theirs.lines().filter_map(|line| line.strip_prefix("address ")).map(str::to_owned).collect();
    assert_eq!(theirs.len(), 200);
    assert!(mine.is_disjoint(&theirs));
}

#[test]
fn ports_are_unique() {
    let address = net::loopback();
    let ports: HashSet<u16> = (0..100).map(|_| net::free_port(address, net::Protocol::Udp).expect("a port")).collect();
    assert_eq!(ports.len(), 100);
}

#[test]
fn a_child_runs_on_the_cores_of_the_thread_that_starts_it() {
    let dir = RunDir::new("test").expect("a directory");
    let allowed = |name: &str| {
        let child = Spawn::new(name, "grep", dir.join(name)).args(["^Cpus_allowed:", "/proc/self/status"]);
        run(child, LIMIT).expect("a run")
    };
    let before = allowed("before");
    let cores = sched_getaffinity(None).expect("cores");
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).rfind(|&core| cores.is_set(core)).expect("a core"));
    sched_setaffinity(None, &one).expect("a core");
    let after = allowed("after");
    assert_eq!(cores.count() > 1, before != after, "{before}{after}");
    assert_eq!(after, allowed("again"));
}

#[test]
fn dropping_kills_the_whole_group() {
    let dir = RunDir::new("test").expect("a directory");
    let managed = family(&dir).start().expect("a start");
    managed.until("its children", LIMIT, || managed.pids().len() == 3).expect("three processes");
    let pids = managed.pids();
    drop(managed);
    wait::until("all to be gone", LIMIT, || pids.iter().all(|&pid| gone(pid))).expect("no process");
}

#[test]
fn frozen_and_killed_and_told_to_end() {
    let dir = RunDir::new("test").expect("a directory");
    let mut managed = family(&dir).start().expect("a start");
    managed.until("its children", LIMIT, || managed.pids().len() == 3).expect("three processes");

    managed.freeze().expect("a freeze");
    let stopped = || managed.pids().iter().all(|&pid| cpu::is_stopped(pid));
    assert!(stopped());
    assert!(managed.is_running());
    managed.thaw().expect("a thaw");
    wait::until("all to go on", LIMIT, || !stopped()).expect("thawed");

    managed.kill9().expect("a kill");
    assert!(!managed.is_running());
    assert_eq!(managed.pids().len(), 2, "kill9 leaves the children alone");
    drop(managed);

    let mut managed = family(&dir).start().expect("a start");
    managed.freeze().expect("a freeze");
    assert_eq!(managed.terminate(LIMIT).expect("an end"), 128 + 15, "also when frozen");
    assert!(managed.pids().is_empty());
}

#[test]
fn an_end_before_it_is_ready_is_an_error_with_the_log() {
    let dir = RunDir::new("test").expect("a directory");
    let managed =
        Spawn::new("short", "sh", dir.join("log")).args(["-c", "echo out of luck; exit 3"]).start().expect("a start");
    let start = Instant::now();
    let error = managed.until("a miracle", LIMIT, || false).expect_err("no miracle");
    let text = format!("{error:#}");
    assert!(text.contains("code 3") && text.contains("out of luck") && text.contains("a miracle"), "{text}");
    assert!(start.elapsed() < LIMIT / 2);
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let dir = RunDir::new("test").expect("a directory");
    let error = Spawn::new("nothing", "no-such-program", dir.join("log")).start().expect_err("no start");
    assert!(format!("{error:#}").contains("no-such-program"), "{error:#}");
}

/// Children die when the process that started them is killed, although the thread that asked for them is long gone.
#[test]
fn children_die_with_us() {
    if let Ok(path) = std::env::var(ROLE) {
        return start_children_and_wait(Path::new(&path));
    }
    let dir = RunDir::new("test").expect("a directory");
    let pids_file = dir.join("pids");
    let mut other = this_program(&pids_file.to_string_lossy(), "children_die_with_us").spawn().expect("a start");
    let pids = wait::until("children", LIMIT, || read_pids(&pids_file)).expect("children");
    assert!(pids.iter().all(|&pid| !gone(pid)));
    other.kill().expect("a kill -9");
    other.wait().expect("an end");
    wait::until("the children to be gone", LIMIT, || pids.iter().all(|&pid| gone(pid))).expect("no child");
}

fn read_pids(file: &Path) -> Option<Vec<u32>> {
    let text = std::fs::read_to_string(file).ok()?;
    let pids: Vec<u32> = text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    (pids.len() == 2).then_some(pids)
}

fn start_children_and_wait(pids_file: &Path) {
    let start = |on_our_death| {
        let spawn =
            Spawn::new("child", "sleep", pids_file.with_extension("log")).arg("1000").on_our_death(on_our_death);
        std::thread::spawn(|| spawn.start().expect("a start")).join().expect("a thread")
    };
    let children = [start(OnOurDeath::Kill), start(OnOurDeath::Terminate)];
    let text = format!("{} {}", children[0].pid(), children[1].pid());
    let partial = pids_file.with_extension("partial");
    std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, pids_file)).expect("a file");
    std::thread::park(); // until we are killed
}
