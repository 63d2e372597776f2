//! SIPp as the phones: scenarios of `tests/sipp/`, and what came of them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};

use crate::net::{self, Protocol};
use crate::process::{Managed, Signal, Spawn, quote};
use crate::{RunDir, workspace};

/// Above this number of calls the messages are not written down unless asked for: it would slow SIPp down.
const TRACED_CALLS: u64 = 200;
/// How much of each of its logs an error quotes.
const QUOTED_LINES: usize = 150;
/// How much longer than its own timeout SIPp may take to end.
const GRACE: Duration = Duration::from_secs(15);
const BIND_LIMIT: Duration = Duration::from_secs(10);

/// How SIPp sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// All calls from one UDP socket.
    #[default]
    Udp,
    /// Each call from a UDP socket of its own.
    UdpPerCall,
    /// All calls over one TCP connection.
    Tcp,
    /// Each call over a TCP connection of its own.
    TcpPerCall,
}

impl Transport {
    fn flag(self) -> &'static str {
        match self {
            Transport::Udp => "u1",
            Transport::UdpPerCall => "un",
            Transport::Tcp => "t1",
            Transport::TcpPerCall => "tn",
        }
    }

    fn protocol(self) -> Protocol {
        match self {
            Transport::Udp | Transport::UdpPerCall => Protocol::Udp,
            Transport::Tcp | Transport::TcpPerCall => Protocol::Tcp,
        }
    }
}

/// A run of SIPp to be: one call, 10 calls a second, a limit of 30 s, on a fresh address, unless set otherwise.
///
/// A scenario may name defaults for its keywords in its comment, one a line: `key NAME=VALUE`. The keyword `contact` is this
/// SIPp's own `address:port` unless set. The line `ignore unexpected` there is as [`Sipp::ignore_unexpected`].
#[derive(Clone, Debug)]
pub struct Sipp {
    scenario: PathBuf,
    target: Option<SocketAddrV4>,
    local: Ipv4Addr,
    local_port: Option<u16>,
    calls: Option<u64>,
    rate: f64,
    limit: Option<u64>,
    transport: Transport,
    injection: Option<Injection>,
    keys: BTreeMap<String, String>,
    timeout: Duration,
    trace: Option<bool>,
    ignores_unexpected: bool,
    args: Vec<String>,
}

#[derive(Clone, Debug)]
enum Injection {
    Rows(Vec<String>),
    File(PathBuf),
}

impl Sipp {
    /// A scenario: a file of `tests/sipp/` by its name, or any other by its path.
    pub fn new(scenario: impl AsRef<Path>) -> Self {
        let scenario = scenario.as_ref();
        Self {
            scenario: if scenario.components().count() == 1 {
                workspace().scenario(&scenario.to_string_lossy())
            } else {
                scenario.to_path_buf()
            },
            target: None,
            local: net::loopback(),
            local_port: None,
            calls: Some(1),
            rate: 10.0,
            limit: None,
            transport: Transport::default(),
            injection: None,
            keys: BTreeMap::new(),
            timeout: Duration::from_secs(30),
            trace: None,
            ignores_unexpected: false,
            args: Vec::new(),
        }
    }

    /// Where it sends. Not for a scenario that waits to be called.
    pub fn target(mut self, target: SocketAddrV4) -> Self {
        self.target = Some(target);
        self
    }

    /// The address that it sends from and listens on.
    pub fn local(mut self, address: Ipv4Addr) -> Self {
        self.local = address;
        self
    }

    /// The port that it sends from and listens on; a free one unless set.
    pub fn local_port(mut self, port: u16) -> Self {
        self.local_port = Some(port);
        self
    }

    /// How many calls (a REGISTER is one as well).
    pub fn calls(mut self, calls: u64) -> Self {
        self.calls = Some(calls);
        self
    }

    /// Goes on until stopped or until the timeout.
    pub fn endless(mut self) -> Self {
        self.calls = None;
        self
    }

    /// New calls a second.
    pub fn rate(mut self, per_second: f64) -> Self {
        self.rate = per_second;
        self
    }

    /// The most calls at a time.
    pub fn limit(mut self, calls: u64) -> Self {
        self.limit = Some(calls);
        self
    }

    /// UDP or TCP, and how many sockets.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// The injection file of the digest scenarios: `(user, domain, password)`, taken in turn, from the start again at the end.
    /// A password must not hold spaces, brackets or semicolons: SIPp has no way to quote them.
    pub fn users<S: AsRef<str>>(self, users: impl IntoIterator<Item = (S, S, S)>) -> Self {
        let row = |(user, domain, password): (S, S, S)| {
            let (user, password) = (user.as_ref(), password.as_ref());
            let credentials = format!("[authentication username={user} password={password}]");
            format!("{user};{};{credentials}", domain.as_ref())
        };
        self.rows(users.into_iter().map(row).collect::<Vec<_>>())
    }

    /// Rows of an injection file, fields divided by `;`, taken in turn.
    pub fn rows(mut self, rows: Vec<String>) -> Self {
        self.injection = Some(Injection::Rows(rows));
        self
    }

    /// An injection file with its `SEQUENTIAL`, `RANDOM` or `USER` line.
    pub fn injection_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.injection = Some(Injection::File(path.into()));
        self
    }

    /// Sets a keyword of the scenario.
    pub fn key(mut self, name: &str, value: impl ToString) -> Self {
        self.keys.insert(name.to_owned(), value.to_string());
        self
    }

    /// The longest that the whole run may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The `uri` of the digest, without `sip:`. SIPp puts the target's address there otherwise, not the Request-URI.
    pub fn auth_uri(self, uri: &str) -> Self {
        self.arg("-auth_uri").arg(uri)
    }

    /// Goes on when a message comes that the scenario does not expect there: a server that is slow gets the same request twice,
    /// and answers both.
    pub fn ignore_unexpected(mut self) -> Self {
        self.ignores_unexpected = true;
        self
    }

    /// How long a `<pause/>` without a length takes.
    pub fn pause(self, length: Duration) -> Self {
        self.arg("-d").arg(length.as_millis().to_string())
    }

    /// Writes all messages down, or not; done for up to 200 calls unless set.
    pub fn trace_messages(mut self, on: bool) -> Self {
        self.trace = Some(on);
        self
    }

    /// One more command-line argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Runs it to its end. Calls that failed are in the report; see [`Report::check`]. That SIPp itself could not do its work,
    /// or did not come to an end in time, is an error.
    pub fn run(self) -> Result<Report> {
        self.spawn()?.wait()
    }

    /// Runs it to its end; a failed call is an error that shows the messages.
    pub fn run_successfully(self) -> Result<Report> {
        let report = self.run()?;
        report.check()?;
        Ok(report)
    }

    /// Starts it, and returns when it listens.
    pub fn spawn(self) -> Result<Running> {
        let dir = RunDir::new("sipp")?;
        let port = match self.local_port {
            Some(port) => port,
            None => net::free_port(self.local, self.transport.protocol())?,
        };
        let local = SocketAddrV4::new(self.local, port);
        let process = self.command(&dir, local)?.start().context("Debian's sip-tester is needed: run `make deps`")?;
        let running =
            Running { process, dir, local, calls: self.calls, timeout: self.timeout, started: Instant::now() };
        if self.target.is_none() {
            running.wait_until_it_listens(self.transport.protocol())?;
        }
        Ok(running)
    }

    fn command(&self, dir: &RunDir, local: SocketAddrV4) -> Result<Spawn> {
        let scenario = fs::read_to_string(&self.scenario)
            .with_context(|| format!("cannot read the scenario {}", self.scenario.display()))?;
        let name = self.scenario.file_name().unwrap_or_default();
        let mut command = Spawn::new(format!("SIPp ({})", name.to_string_lossy()), "sipp", dir.join("sipp.log"))
            .arg("-sf")
            .arg(&self.scenario)
            .args(["-i", &local.ip().to_string(), "-p", &local.port().to_string()])
            .args(["-ci", &local.ip().to_string()]) // its control socket; all would want the same one otherwise
            .args(["-bind_local", "-nostdin", "-skip_rlimit"])
            .args(["-t", self.transport.flag()])
            .args(["-timeout", &format!("{}s", self.timeout.as_secs().max(1))])
            .args(rate_args(self.rate))
            .args(["-trace_stat", "-fd", "1", "-stf", STATISTICS])
            .args(["-trace_err", "-error_file", ERRORS])
            .args(["-trace_rtt", "-rtt_freq", "1"])
            .env("TZ", "UTC") // its times tell no zone
            .dir(dir.path());
        if let Some(target) = self.target {
            command = command.arg(target.to_string());
        }
        if let Some(calls) = self.calls {
            command = command.args(["-m", &calls.to_string()]);
        }
        if let Some(limit) = self.limit {
            command = command.args(["-l", &limit.to_string()]);
        }
        if self.trace.unwrap_or(self.calls.is_some_and(|calls| calls <= TRACED_CALLS)) {
            command = command.args(["-trace_msg", "-message_file", MESSAGES]);
        }
        if let Some(path) = self.injection_path(dir)? {
            command = command.arg("-inf").arg(path);
        }
        for (name, value) in self.all_keys(&scenario, local) {
            command = command.args(["-key", &name, &value]);
        }
        if self.ignores_unexpected || ignores_unexpected(&scenario) {
            command = command.args(["-default_behaviors", "all,-abortunexp"]);
        }
        Ok(command.args(&self.args))
    }

    fn injection_path(&self, dir: &RunDir) -> Result<Option<PathBuf>> {
        match &self.injection {
            None => Ok(None),
            Some(Injection::File(path)) => Ok(Some(path.clone())),
            Some(Injection::Rows(rows)) => {
                let text = format!("SEQUENTIAL\n{}\n", rows.join("\n"));
                Ok(Some(dir.write("injection.csv", &text)?))
            }
        }
    }

    /// The scenario's defaults, ours, and what the caller has set, the last one winning.
    fn all_keys(&self, scenario: &str, local: SocketAddrV4) -> BTreeMap<String, String> {
        let mut keys = default_keys(scenario);
        keys.insert("contact".to_owned(), local.to_string());
        keys.extend(self.keys.clone());
        keys
    }
}

const STATISTICS: &str = "statistics.csv";
const ERRORS: &str = "errors.log";
const MESSAGES: &str = "messages.log";

/// SIPp takes whole calls in a period, so a fraction becomes a longer period.
fn rate_args(per_second: f64) -> [String; 4] {
    let (calls, period_ms) =
        if per_second >= 10.0 { (per_second.round(), 1000.0) } else { (1.0, 1000.0 / per_second.max(0.001)) };
    ["-r".to_owned(), calls.to_string(), "-rp".to_owned(), period_ms.round().to_string()]
}

/// The lines `key NAME=VALUE` of a scenario's comment. What follows the value after two spaces is its explanation.
fn default_keys(scenario: &str) -> BTreeMap<String, String> {
    scenario
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("key "))
        .filter_map(|line| line.split("  ").next()?.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

/// Whether a line of a scenario's comment says so. What follows after two spaces is its explanation.
fn ignores_unexpected(scenario: &str) -> bool {
    scenario.lines().any(|line| line.trim_start().split("  ").next() == Some("ignore unexpected"))
}

/// A SIPp at work. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    process: Managed,
    dir: RunDir,
    local: SocketAddrV4,
    calls: Option<u64>,
    timeout: Duration,
    started: Instant,
}

impl Running {
    /// Where it sends from and listens.
    pub fn local(&self) -> SocketAddrV4 {
        self.local
    }

    /// The process, for what is not wrapped here.
    pub fn process(&self) -> &Managed {
        &self.process
    }

    /// Waits until it has done its calls.
    pub fn wait(mut self) -> Result<Report> {
        let code = self.process.wait_for_exit(self.timeout + GRACE)?;
        self.report(code)
    }

    /// Lets it finish the calls that are open, without new ones, and takes its report.
    pub fn finish(self) -> Result<Report> {
        let _ = self.process.signal(Signal::USR1); // it may just have ended
        self.wait()
    }

    fn wait_until_it_listens(&self, protocol: Protocol) -> Result<()> {
        let what = format!("it to listen on {protocol} {}", self.local);
        self.process.until(&what, BIND_LIMIT, || net::is_bound(self.local, protocol))
    }

    fn report(&self, code: i32) -> Result<Report> {
        let counters = self.counters().unwrap_or_default();
        let count = |name: &str| -> u64 {
            let value = counters.get(name).map(String::as_str).unwrap_or_default();
            value.parse().unwrap_or(0)
        };
        let report = Report {
            name: self.process.name().to_owned(),
            successful: count("SuccessfulCall(C)"),
            failed: count("FailedCall(C)"),
            created: count("TotalCallCreated"),
            expected: self.calls,
            retransmissions: count("Retransmissions(C)"),
            response_times: ResponseTimes::read(self.dir.path()),
            elapsed: self.started.elapsed(),
            exit_code: code,
            output: last_screen(&self.process.log()),
            errors: self.file(ERRORS),
            messages: self.file(MESSAGES),
            counters,
        };
        // 0: all calls went well, 1: some failed, 97 and 99: ended by the timeout or a signal; else it could not work.
        if ![0, 1, 97, 99].contains(&code) {
            bail!("{}", report.describe(&format!("ended with exit code {code}")));
        }
        Ok(report)
    }

    /// The last line of the statistics, by column.
    fn counters(&self) -> Option<BTreeMap<String, String>> {
        let text = fs::read_to_string(self.dir.join(STATISTICS)).ok()?;
        let mut lines = text.lines();
        let names = lines.next()?.split(';');
        let values = lines.next_back()?.split(';');
        Some(names.zip(values).map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn file(&self, name: &str) -> String {
        let bytes = fs::read(self.dir.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    /// Calls that went through the whole scenario.
    pub successful: u64,
    /// Calls that did not.
    pub failed: u64,
    /// Calls begun.
    pub created: u64,
    /// Calls asked for.
    pub expected: Option<u64>,
    /// Messages sent again for lack of an answer.
    pub retransmissions: u64,
    /// Times between a scenario's `start_rtd` and `rtd`.
    pub response_times: ResponseTimes,
    /// From start to end.
    pub elapsed: Duration,
    /// SIPp's exit code.
    pub exit_code: i32,
    /// Its last screen.
    pub output: String,
    /// What it noted as unexpected.
    pub errors: String,
    /// All messages, if they were traced.
    pub messages: String,
    /// The last line of its statistics by column name, for example `FailedMaxUDPRetrans(C)`.
    pub counters: BTreeMap<String, String>,
}

impl Report {
    /// An error that shows the messages, unless every call that was asked for went well.
    pub fn check(&self) -> Result<()> {
        let missing = self.expected.is_some_and(|calls| self.successful < calls);
        if self.failed > 0 || missing || self.successful == 0 {
            return Err(anyhow!(self.describe("not all calls went well")));
        }
        Ok(())
    }

    /// Successful calls a second.
    pub fn rate(&self) -> f64 {
        self.successful as f64 / self.elapsed.as_secs_f64()
    }

    /// The messages as a ladder, one line each: `--> INVITE sip:bob@example.com`, `<-- 180 Ringing`. Empty when not traced.
    pub fn ladder(&self) -> Vec<String> {
        let mut arrow = None;
        let mut ladder = Vec::new();
        for line in self.messages.lines().filter(|line| !line.is_empty()) {
            if let Some(arrow) = arrow.take() {
                let text = line.trim_end_matches(" SIP/2.0");
                ladder.push(format!("{arrow} {}", text.trim_start_matches("SIP/2.0 ")));
            } else if line.contains(" message sent ") {
                arrow = Some("-->");
            } else if line.contains(" message received ") {
                arrow = Some("<--");
            }
        }
        ladder
    }

    /// The messages, each with when it was sent or received. Empty when not traced.
    pub fn timed_messages(&self) -> Result<Vec<Message<'_>>> {
        // A line of dashes and the time, a line that says which way, an empty one, then the message.
        let parts =
            self.messages.split("----------------------------------------------- ").filter(|part| !part.is_empty());
        parts
            .map(|part| {
                let (time, rest) = part.split_once('\n').context("a message without its time")?;
                let (_, text) = rest.split_once("\n\n").context("a message without its direction")?;
                let time = humantime::parse_rfc3339_weak(time.trim()).with_context(|| format!("no time: {time}"))?;
                Ok(Message { time, text })
            })
            .collect()
    }

    fn describe(&self, what: &str) -> String {
        let asked = self.expected.map_or("any number of".to_owned(), |calls| calls.to_string());
        let mut text = format!(
            "{}: {what}: {} successful, {} failed, {} begun of {asked} asked for, {} retransmissions\n",
            self.name, self.successful, self.failed, self.created, self.retransmissions
        );
        let parts = [(ERRORS, &self.errors), (MESSAGES, &self.messages), ("its screen", &self.output)];
        for (name, part) in parts.into_iter().filter(|(_, part)| !part.is_empty()) {
            text += &quote(Path::new(name), part, QUOTED_LINES);
            text.push('\n');
        }
        text.trim_end().to_owned()
    }
}

/// What SIPp has sent or received.
#[derive(Clone, Copy)]
pub struct Message<'report> {
    /// When.
    pub time: SystemTime,
    /// All of it.
    pub text: &'report str,
}

/// When, and the first line.
impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.text.lines().next().unwrap_or_default();
        write!(f, "{} {line}", humantime::format_rfc3339_millis(self.time))
    }
}

/// Response times of all calls. SIPp's clock advances once in its event loop, so each is good to a few milliseconds.
#[derive(Clone, Debug, Default)]
pub struct ResponseTimes {
    sorted_ms: Vec<f64>,
}

impl ResponseTimes {
    /// How many were taken.
    pub fn count(&self) -> usize {
        self.sorted_ms.len()
    }

    /// How many did not exceed a time.
    pub fn within(&self, time: Duration) -> usize {
        self.sorted_ms.partition_point(|ms| *ms <= time.as_secs_f64() * 1000.0)
    }

    /// The mean in milliseconds; 0 without any.
    pub fn mean_ms(&self) -> f64 {
        self.sorted_ms.iter().sum::<f64>() / self.count().max(1) as f64
    }

    /// The time in milliseconds that this share of the calls (0.5, 0.99) did not exceed; 0 without any.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let rank = (share * self.count() as f64).ceil() as usize;
        let index = rank.saturating_sub(1).min(self.count().saturating_sub(1));
        self.sorted_ms.get(index).copied().unwrap_or(0.0)
    }

    /// The longest in milliseconds; 0 without any.
    pub fn max_ms(&self) -> f64 {
        self.sorted_ms.last().copied().unwrap_or(0.0)
    }

    /// From `SCENARIO_PID_rtt.csv`: date, time in ms, number of the timer.
    fn read(dir: &Path) -> Self {
        let text = rtt_file(dir).and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let mut sorted_ms: Vec<f64> = text.lines().filter_map(|line| line.split(';').nth(1)?.parse().ok()).collect();
        sorted_ms.sort_by(f64::total_cmp);
        Self { sorted_ms }
    }
}

fn rtt_file(dir: &Path) -> Option<PathBuf> {
    fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with("_rtt.csv"))
}

/// SIPp paints its screens one below the other; the last of the scenario says it all. Without one: what it printed, which then
/// is an error.
fn last_screen(output: &str) -> String {
    let last = output.rsplit("------ Scenario Screen ------").next().unwrap_or(output);
    let end = last.find("------ Test Terminated").unwrap_or(last.len());
    last[..end].trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_of_keywords_come_from_the_scenario() {
        let keys = default_keys("<!--\n  key expires=3600   seconds\n  key params=    none\n  contact x=y\n-->");
        assert_eq!(keys.get("expires").map(String::as_str), Some("3600"));
        assert_eq!(keys.get("params").map(String::as_str), Some(""));
        assert_eq!(keys.len(), 2);
    }

    #[test]
    fn a_scenario_says_whether_it_ignores_what_it_does_not_expect() {
        assert!(ignores_unexpected("<!--\n  ignore unexpected\n-->"));
        assert!(ignores_unexpected("<!--\n  ignore unexpected    for a reason\n-->"));
        assert!(!ignores_unexpected("<!--\n  It does not ignore unexpected messages.\n-->"));
    }

    #[test]
    fn percentiles() {
        let times = ResponseTimes { sorted_ms: (1..=100).map(f64::from).collect() };
        assert_eq!(times.percentile_ms(0.5), 50.0);
        assert_eq!(times.percentile_ms(0.99), 99.0);
        assert_eq!(times.max_ms(), 100.0);
        assert_eq!(times.within(Duration::from_millis(30)), 30);
        assert_eq!(ResponseTimes::default().percentile_ms(0.5), 0.0);
    }
}
