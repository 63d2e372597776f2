//! One Cassandra with the schema, `sipctl` run in it, and a look at what was stored.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::cassandra::{Cassandra, Options};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use serde_json::Value;
use tokio::runtime::Runtime;

/// A test of the suite.
pub(crate) type Test = lab::suite::Test<Site>;

/// What was wrong with the command line.
pub(crate) const USAGE: i32 = 2;

/// Anything else that is wrong.
pub(crate) const FAILED: i32 = 1;

pub(crate) struct Site {
    cassandra: Cassandra,
    session: Session,
    runtime: Runtime,
}

/// What a run of `sipctl` said; shown whole when it is not what a test expects.
pub(crate) struct Ran {
    command: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Site {
    pub(crate) fn start() -> Result<Self> {
        let cassandra = Cassandra::start(Options::default())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let session = runtime.block_on(SessionBuilder::new().known_node(cassandra.contact_point()).build())?;
        let site = Self { cassandra, session, runtime };
        site.ok("schema apply", "")?;
        Ok(site)
    }

    pub(crate) fn contact_point(&self) -> String {
        self.cassandra.contact_point()
    }

    /// Waits for something that is asynchronous.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(work)
    }

    /// `sipctl` in this site's environment, not started yet.
    pub(crate) fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        self.at_site(env!("CARGO_BIN_EXE_sipctl"), arguments)
    }

    /// The same in a terminal of 100 columns, which takes what is typed from standard input.
    pub(crate) fn in_terminal(&self, line: &str, typed: &str) -> Result<Ran> {
        let shell = format!("stty rows 40 cols 100; exec {} {line}", env!("CARGO_BIN_EXE_sipctl"));
        run(self.at_site("script", ["--quiet", "--return", "--command", &shell, "/dev/null"]), typed)
    }

    /// The same without a terminal to ask at.
    pub(crate) fn without_terminal(&self, line: &str) -> Result<Ran> {
        let words = line.split_whitespace();
        run(self.at_site("setsid", ["--wait", env!("CARGO_BIN_EXE_sipctl")].into_iter().chain(words)), "")
    }

    fn at_site<'a>(&self, program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("CASSANDRA_CONTACT_POINTS", self.contact_point())
            .env("CASSANDRA_LOCAL_DC", self.cassandra.dc())
            .env_remove("CASSANDRA_KEYSPACE")
            .env_remove("CASSANDRA_USERNAME")
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs `sipctl` with the words of `line`.
    pub(crate) fn run(&self, line: &str, input: &str) -> Result<Ran> {
        run(self.command(line.split_whitespace()), input)
    }

    /// Runs it; it must succeed, without a word on standard error unless it shows its steps. Returns what it prints.
    pub(crate) fn ok(&self, line: &str, input: &str) -> Result<String> {
        let ran = self.run(line, input)?;
        ensure!(ran.code == Some(0), "it fails: {ran}");
        Ok(ran.stdout)
    }

    /// Runs it with `--json`; it must succeed, say nothing on standard error, and print one JSON value.
    pub(crate) fn json(&self, line: &str, input: &str) -> Result<Value> {
        let ran = self.run(&format!("--json {line}"), input)?;
        ensure!(ran.code == Some(0) && ran.stderr.is_empty(), "it fails or is not silent: {ran}");
        serde_json::from_str(&ran.stdout).with_context(|| format!("not JSON: {ran}"))
    }

    /// Runs it, plain and with `--json`; it must fail with this exit code and one sentence that holds all of `parts`.
    pub(crate) fn refused(&self, line: &str, input: &str, code: i32, parts: &[&str]) -> Result<()> {
        let plain = self.run(line, input)?;
        plain.is_refusal(code, &plain.stderr, parts)?;
        ensure!(code == USAGE || plain.stderr.lines().count() == 1, "not one line: {plain}");
        let json = self.run(&format!("--json {line}"), input)?;
        let error: Value = serde_json::from_str(&json.stderr).with_context(|| format!("not JSON: {json}"))?;
        let fields = error.as_object().with_context(|| format!("not an object: {json}"))?;
        ensure!(fields.len() == 1, "more than an error: {json}");
        json.is_refusal(code, fields["error"].as_str().unwrap_or_default(), parts)
    }

    /// The rows of `SELECT JSON {what}`.
    pub(crate) fn rows(&self, what: &str) -> Result<Vec<Value>> {
        let found = self.runtime.block_on(self.session.query_unpaged(format!("SELECT JSON {what}"), ()))?;
        let rows = found.into_rows_result()?;
        rows.rows::<(String,)>()?.map(|row| Ok(serde_json::from_str(&row?.0)?)).collect()
    }

    /// The stored row of a subscriber.
    pub(crate) fn stored(&self, username: &str, domain: &str) -> Result<Option<Value>> {
        let rows =
            self.rows(&format!("* FROM sip.subscriber WHERE domain = '{domain}' AND username = '{username}'"))?;
        Ok(rows.into_iter().next())
    }

    /// How many subscribers of a domain are stored.
    pub(crate) fn count(&self, domain: &str) -> Result<usize> {
        Ok(self.rows("domain FROM sip.subscriber")?.iter().filter(|row| row["domain"] == domain).count())
    }

    /// Stops Cassandra in its tracks for this long; connections stay open and nothing answers.
    pub(crate) fn freeze_for(&self, time: Duration) -> Result<()> {
        self.cassandra.freeze()?;
        std::thread::sleep(time);
        self.cassandra.thaw()
    }

    /// Runs a statement.
    pub(crate) fn execute(&self, cql: &str) -> Result<()> {
        self.cassandra.execute(cql)
    }
}

/// Starts a command and writes its input.
pub(crate) fn start(mut command: Command, input: &str) -> Result<Child> {
    let mut child = command.spawn().with_context(|| format!("{command:?} does not start"))?;
    let written = child.stdin.take().context("no standard input")?.write_all(input.as_bytes());
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()), // it need not read what it refuses
        _ => Ok(child),
    }
}

fn run(command: Command, input: &str) -> Result<Ran> {
    let shown = format!("{:?}", command.get_args().collect::<Vec<_>>());
    Ok(Ran::new(shown, start(command, input)?.wait_with_output()?))
}

impl Ran {
    pub(crate) fn new(command: String, output: Output) -> Self {
        Self {
            command,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails unless it was refused with this code, nothing was printed, and the sentence has all the parts.
    pub(crate) fn is_refusal(&self, code: i32, sentence: &str, parts: &[&str]) -> Result<()> {
        ensure!(self.code == Some(code), "not refused with {code}: {self}");
        ensure!(self.stdout.is_empty(), "a refusal has no result: {self}");
        for panicked in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
            ensure!(!self.stderr.contains(panicked), "it panics: {self}");
        }
        match parts.iter().find(|part| !sentence.contains(**part)) {
            Some(part) => bail!("the sentence lacks '{part}': {self}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, code, stdout, stderr } = self;
        write!(f, "sipctl {command}\nexit code {code:?}\nstdout: {stdout}\nstderr: {stderr}")
    }
}
