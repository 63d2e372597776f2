//! What `make demo`, `make up` and `make down` run.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use lab::{net, workspace};

const ROLES: [&str; 5] = ["LB", "DISPATCHER", "REGISTRAR", "OUTBOUND", "MEDIA"];

fn lab(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lab")).args(args).stdin(Stdio::null()).output().expect("the lab's command line")
}

/// What it prints, when all went well.
fn run(args: &[&str]) -> String {
    let output = lab(args);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {text}");
    text
}

#[test]
fn the_demo_shows_the_way_of_its_call_and_what_was_stored() {
    let shown = run(&["demo"]);
    let way = shown.lines().find(|line| line.contains("its way")).expect("the way of the call");
    let places: Vec<_> =
        ["load-balancer 2", "dispatcher", "media", "outbound", "load-balancer 1"].map(|role| way.find(role)).into();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{way}");
    assert!(shown.contains("answered (200)") && shown.contains("flow="), "{shown}");
}

/// Takes the cluster down whatever became of the test.
struct Up;

impl Up {
    fn start() -> Self {
        let state = workspace().target().join("cluster.json");
        assert!(!state.exists(), "a cluster is up already: run `make down` first");
        run(&["up", "--nodes", "2"]);
        Self
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        lab(&["down"]);
    }
}

#[test]
fn a_cluster_that_is_left_up_answers_and_goes_down() {
    let up = Up::start();
    let env_file = workspace().target().join("cluster.env");
    let variables = read(&env_file);
    for (role, number) in ROLES.iter().flat_map(|role| ["", "_2"].map(|number| (role, number))) {
        let address: SocketAddr = variables[&format!("{role}{number}_ADDR")].parse().expect("an address and a port");
        let answer = ask(address, "OPTIONS", "sip:example.com");
        assert!(answer.starts_with("SIP/2.0 200"), "{role}{number}: {answer}");
        assert!(lives(&variables[&format!("{role}{number}_PID")]), "{role}{number}");
    }
    let balancer = variables["LB_ADDR"].parse().expect("an address and a port");
    let challenge = ask(balancer, "INVITE", "sip:bob@example.com");
    assert!(challenge.starts_with("SIP/2.0 407") && challenge.contains("realm=\"example.com\""), "{challenge}");
    let settings: Vec<_> = variables.clone().into_iter().collect();
    let nodes = lab::sipctl::run(&settings, &["--csv", "nodes"], "").expect("the nodes");
    let roles = ["load-balancer", "dispatcher", "registrar", "outbound"];
    let names: Vec<String> = roles.iter().flat_map(|role| [1, 2].map(|number| format!("{role}-{number}"))).collect();
    assert!(names.iter().all(|name| nodes.contains(name)), "{nodes}");
    assert!(run(&["up"]).contains("already up"));
    drop(up);
    assert!(!env_file.exists());
    for (name, pid) in variables.iter().filter(|(name, _)| name.ends_with("_PID")) {
        assert!(!lives(pid), "{name} still runs");
    }
    assert!(run(&["down"]).contains("nothing is up"));
}

/// Whether there is such a process, and not only what is left of it until somebody asks for its exit code.
fn lives(pid: &str) -> bool {
    lab::cpu::stat(pid.parse().expect("a number")).is_some_and(|process| process.state != 'Z')
}

/// The assignments of the file, as a shell sees them.
fn read(file: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(file).expect("the addresses");
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Sends a request of alice's and returns the final answer.
fn ask(to: SocketAddr, method: &str, uri: &str) -> String {
    let here: Ipv4Addr = net::loopback();
    let socket = UdpSocket::bind((here, 0)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let port = socket.local_addr().expect("an address").port();
    let request = format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {here}:{port};branch=z9hG4bK-{port};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag={port}\r\nTo: <{uri}>\r\nCall-ID: {port}@{here}\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:alice@{here}:{port}>\r\nContent-Length: 0\r\n\r\n"
    );
    socket.send_to(request.as_bytes(), to).expect("a way there");
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).expect("an answer");
        let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if !answer.starts_with("SIP/2.0 1") {
            return answer;
        }
    }
}
