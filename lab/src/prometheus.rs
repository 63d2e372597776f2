//! Real Prometheus, from Debian's package.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{Managed, Spawn};
use crate::{RunDir, net, tools};

const PORT: u16 = 9090;
const START_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const NEEDED: &str = "Debian's prometheus is needed: run `make deps-all`";

/// A running Prometheus. Dropping it kills it.
#[derive(Debug)]
pub struct Prometheus {
    process: Managed,
    address: Ipv4Addr,
    _data: RunDir,
}

impl Prometheus {
    /// Starts one with this configuration, and returns when it is ready.
    pub fn start(config: &Path) -> Result<Self> {
        let address = net::loopback();
        let data = RunDir::new("prometheus")?;
        let process = Spawn::new("Prometheus", "prometheus", data.join("prometheus.log"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", data.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}:{PORT}"))
            .start()
            .context(NEEDED)?;
        let prometheus = Self { process, address, _data: data };
        let is_ready = || prometheus.get("/-/ready").is_ok_and(|(code, _)| code == 200);
        prometheus.process.until("it to be ready", START_LIMIT, is_ready)?;
        Ok(prometheus)
    }

    /// What an expression gives now: a list of samples.
    ///
    /// # Errors
    /// It cannot be evaluated; then the error says why.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let mut data = self.ask(&format!("query?query={}", encoded(expression)))?;
        serde_json::from_value(data["result"].take()).with_context(|| format!("{expression} gives no list"))
    }

    /// The alarms that are about to come, or there.
    pub fn alarms(&self) -> Result<Vec<Value>> {
        Ok(serde_json::from_value(self.ask("alerts")?["alerts"].take())?)
    }

    /// Names of all that is known.
    pub fn names(&self) -> Result<Vec<String>> {
        Ok(serde_json::from_value(self.ask("label/__name__/values")?)?)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn ask(&self, what: &str) -> Result<Value> {
        let (_, answer) = self.get(&format!("/api/v1/{what}"))?;
        let mut answer: Value = serde_json::from_str(&answer).with_context(|| format!("no JSON: {answer}"))?;
        ensure!(answer["status"] == "success", "{what}: {answer}");
        Ok(answer["data"].take())
    }

    fn get(&self, path: &str) -> Result<(u16, String)> {
        net::get(SocketAddrV4::new(self.address, PORT), path, ANSWER_LIMIT)
    }
}

/// Runs `promtool` with these arguments; fails with what it says.
pub fn promtool(arguments: &[&str], file: &Path) -> Result<String> {
    tools::run(Command::new("promtool").args(arguments).arg(file)).context(NEEDED)
}

/// As a part of a URL.
fn encoded(text: &str) -> String {
    let byte =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(byte).collect()
}
