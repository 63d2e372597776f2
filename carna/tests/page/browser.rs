//! A page in a real browser: Chromium without a window, told what to do over two pipes (its DevTools protocol).

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::RunDir;
use lab::process::{Managed, Spawn};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

const PROGRAM: &str = "/usr/bin/chromium";
/// The machine may be busy with other things when it starts.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A browser with one page. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Browser {
    // Before `_dir`, which it writes to.
    process: Managed,
    commands: File,
    answers: Receiver<Value>,
    commands_sent: u64,
    session: Option<String>,
    complaints: Vec<String>,
    requests: Vec<String>,
    _dir: RunDir,
}

impl Browser {
    /// Starts one with an empty page.
    pub(crate) fn start() -> Result<Self> {
        ensure!(Path::new(PROGRAM).exists(), "Debian's chromium is needed: run `make deps-all`");
        let dir = RunDir::new("chromium")?;
        let [commands, answers] = ["commands", "answers"].map(|name| dir.join(name));
        for pipe in [&commands, &answers] {
            mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        // One that is open both ways is opened without waiting for the other side.
        let both_ways = |pipe| OpenOptions::new().read(true).write(true).open(pipe);
        let (to_browser, held) = (both_ways(&commands)?, both_ways(&answers)?);
        let from_browser = File::open(&answers)?;
        let process = launch(&dir)?;
        let mut browser = Self {
            process,
            commands: to_browser,
            answers: read(from_browser),
            commands_sent: 0,
            session: None,
            complaints: Vec::new(),
            requests: Vec::new(),
            _dir: dir,
        };
        browser.attach()?;
        // From now on the answers end when the browser does.
        drop(held);
        Ok(browser)
    }

    fn attach(&mut self) -> Result<()> {
        let target = self.call("Target.createTarget", json!({"url": "about:blank"}))?;
        let attached = self.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}))?;
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime", "Log", "Network", "Page"] {
            self.call(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(())
    }

    /// Goes there.
    pub(crate) fn open(&mut self, address: &str) -> Result<()> {
        let went = self.call("Page.navigate", json!({"url": address}))?;
        ensure!(went["errorText"].is_null(), "{address}: {went}");
        Ok(())
    }

    /// What a piece of JavaScript gives in the page.
    pub(crate) fn evaluate(&mut self, script: &str) -> Result<Value> {
        let params = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let mut evaluated = self.call("Runtime.evaluate", params)?;
        ensure!(evaluated["exceptionDetails"].is_null(), "{script}: {evaluated}");
        Ok(evaluated["result"]["value"].take())
    }

    /// The text of the element of this id.
    pub(crate) fn text(&mut self, id: &str) -> Result<String> {
        let text = self.evaluate(&format!("document.getElementById('{id}')?.innerText ?? ''"))?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// What the browser has said to be wrong, so far.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// What the page has asked for, so far.
    pub(crate) fn requests(&self) -> &[String] {
        &self.requests
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.commands_sent += 1;
        let mut command = json!({"id": self.commands_sent, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        self.commands.write_all(format!("{command}\0").as_bytes())?;
        loop {
            let answer = self.answers.recv_timeout(ANSWER_LIMIT);
            let mut answer = answer.map_err(|_| self.process.failure(format!("no answer to {method}")))?;
            if answer["id"] != self.commands_sent {
                self.note(&answer);
                continue;
            }
            if let Some(error) = answer.get("error") {
                bail!("{method}: {error}");
            }
            return Ok(answer["result"].take());
        }
    }

    /// Takes note of what was not asked for.
    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                self.requests.extend(params["request"]["url"].as_str().map(str::to_owned));
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(params.to_string()),
            Some("Log.entryAdded") => self.complaints.push(params["entry"]["text"].to_string()),
            _ => {}
        }
    }
}

/// The shell opens the pipes as the file descriptors that the browser expects.
fn launch(dir: &RunDir) -> Result<Managed> {
    let profile = format!("--user-data-dir={}", dir.join("profile").display());
    Spawn::new("Chromium", "/bin/sh", dir.join("chromium.log"))
        .args(["-c", "exec \"$@\" 3<commands 4>answers", "sh", PROGRAM, &profile])
        .args([
            "--headless=new",
            "--remote-debugging-pipe",
            "--no-first-run",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        // Tests run as root, too, and only open pages of their own.
        .args(["--no-sandbox", "--disable-background-networking", "--disable-component-update"])
        .env("HOME", dir.path())
        .dir(dir.path())
        .start()
        .context("cannot start Chromium")
}

/// Messages end with a zero byte.
fn read(pipe: File) -> Receiver<Value> {
    let (tell, answers) = channel();
    std::thread::spawn(move || {
        let messages = BufReader::new(pipe).split(0).map_while(Result::ok);
        for message in messages.filter_map(|message| serde_json::from_slice(&message).ok()) {
            if tell.send(message).is_err() {
                return;
            }
        }
    });
    answers
}
