//! MariaDB with the tables of stock Kamailio: the peer that we are measured against.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::RunDir;
use crate::net;
use crate::process::{self, Managed, Spawn};

const INSTALL_LIMIT: Duration = Duration::from_secs(120);
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Database, user and password are all the same word.
const NAME: &str = "kamailio";

/// How MariaDB is to be started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// When a commit reaches the disk: 1 before it is answered (MariaDB's default), 2 within a second. 2 is what Cassandra's
    /// periodic commit log gives, so a comparison uses that.
    pub flush_log_at_commit: u8,
    /// Buffer pool in MB.
    pub buffer_pool_mb: u32,
    /// More arguments of `mariadbd`.
    pub args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { address: net::loopback(), port: 3306, flush_log_at_commit: 2, buffer_pool_mb: 256, args: Vec::new() }
    }
}

/// A server with its own data. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct MariaDb {
    // Before `dir`: the process must be gone when the directory is removed.
    process: Managed,
    dir: RunDir,
    address: SocketAddrV4,
}

impl MariaDb {
    /// Makes a data directory with Kamailio's tables and starts the server; returns when it answers.
    pub fn start(options: Options) -> Result<Self> {
        let dir = RunDir::new("mariadb")?;
        make_data_directory(&dir)?;
        let process = spawn(&dir, &options)?;
        let db = Self { process, dir, address: SocketAddrV4::new(options.address, options.port) };
        // It reads its init file, and so makes the tables, before it listens.
        db.process.until("it to greet", START_LIMIT, || db.greets().is_ok())?;
        db.execute("SELECT COUNT(*) FROM location")?;
        Ok(db)
    }

    /// What goes into Kamailio's `db_url`.
    pub fn url(&self) -> String {
        format!("mysql://{NAME}:{NAME}@{}/{NAME}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process, for what is not wrapped here.
    pub fn process(&self) -> &Managed {
        &self.process
    }

    /// Runs SQL of any length and returns its rows, columns divided by tabs, without a heading.
    pub fn execute(&self, sql: &str) -> Result<String> {
        let script = self.dir.write("execute.sql", sql)?;
        let output = Command::new("mariadb")
            .args(["--no-defaults", "--batch", "--skip-column-names", "--protocol=tcp"])
            .arg(format!("--host={}", self.address.ip()))
            .arg(format!("--port={}", self.address.port()))
            .args([&format!("--user={NAME}"), &format!("--password={NAME}"), NAME])
            .stdin(Stdio::from(std::fs::File::open(&script)?))
            .output()
            .context("Debian's mariadb-client is needed: run `scripts/deps --all`")?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("{}", self.process.failure(error.trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Adds subscribers `(user, domain, password)` as `auth_db` reads them with `calculate_ha1`.
    pub fn add_subscribers<'a>(&self, all: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) -> Result<()> {
        let rows: Vec<String> = all
            .into_iter()
            .map(|(user, domain, password)| format!("({},{},{})", quoted(user), quoted(domain), quoted(password)))
            .collect();
        for some in rows.chunks(1000) {
            let values = some.join(",");
            self.execute(&format!("INSERT INTO subscriber (username, domain, password) VALUES {values}"))?;
        }
        Ok(())
    }

    /// Shuts it down in order.
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate(STOP_LIMIT).map(drop)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Connects and reads the first byte of the greeting.
    fn greets(&self) -> Result<()> {
        let mut stream = TcpStream::connect_timeout(&self.address.into(), ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.read_exact(&mut [0])?;
        Ok(())
    }
}

fn make_data_directory(dir: &RunDir) -> Result<()> {
    let mut install = Spawn::new("mariadb-install-db", "mariadb-install-db", dir.join("install.log"))
        .arg("--no-defaults")
        .arg(format!("--datadir={}", dir.join("data").display()))
        .args(["--skip-test-db", "--auth-root-authentication-method=normal"]);
    if let Some(user) = user_argument() {
        install = install.arg(user);
    }
    process::run(install, INSTALL_LIMIT)
        .context("MariaDB could not make its data directory; `scripts/deps --all` installs it")?;
    Ok(())
}

fn spawn(dir: &RunDir, options: &Options) -> Result<Managed> {
    let init_file = dir.write("init.sql", &one_statement_a_line(include_str!("mariadb.sql")))?;
    let path = |name: &str| dir.join(name).display().to_string();
    let mut server =
        Spawn::new(format!("MariaDB on {}:{}", options.address, options.port), binary(), dir.join("mariadb.log"))
            .arg("--no-defaults")
            .arg(format!("--datadir={}", path("data")))
            .arg(format!("--socket={}", path("mariadb.sock")))
            .arg(format!("--pid-file={}", path("mariadb.pid")))
            .arg(format!("--init-file={}", init_file.display()))
            .arg(format!("--bind-address={}", options.address))
            .arg(format!("--port={}", options.port))
            .arg(format!("--innodb-buffer-pool-size={}M", options.buffer_pool_mb))
            .arg(format!("--innodb-flush-log-at-trx-commit={}", options.flush_log_at_commit))
            .arg("--skip-name-resolve")
            .args(&options.args);
    if let Some(user) = user_argument() {
        server = server.arg(user);
    }
    server.start().context("MariaDB is needed: run `scripts/deps --all`")
}

/// MariaDB refuses to run as root unless told to.
fn user_argument() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some("--user=root")
}

fn binary() -> &'static Path {
    Path::new("/usr/sbin/mariadbd")
}

/// An init file holds one statement a line, without comments.
fn one_statement_a_line(sql: &str) -> String {
    let lines: Vec<&str> = sql.lines().filter(|line| !line.starts_with("--")).collect();
    lines.join(" ").replace("; ", ";\n")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
