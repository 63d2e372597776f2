//! rtpengine, from Debian's package, relaying in user space.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Managed, Spawn};
use crate::{RunDir, net};

const START_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const LARGEST_DATAGRAM: usize = 65_535;

/// A running rtpengine. Dropping it kills it.
#[derive(Debug)]
pub struct Rtpengine {
    process: Managed,
    control: SocketAddrV4,
    media: Ipv4Addr,
    _dir: RunDir,
}

impl Rtpengine {
    /// Starts it on addresses of its own and returns when it answers.
    pub fn start() -> Result<Self> {
        let dir = RunDir::new("rtpengine")?;
        let media = net::loopback();
        let control = SocketAddrV4::new(media, 2223);
        let process = Spawn::new(format!("rtpengine on {media}"), "rtpengine", dir.join("rtpengine.log"))
            .args(["--foreground", "--log-stderr", "--table=-1", "--config-file=none", "--num-threads=2"])
            .arg(format!("--interface={media}"))
            .arg(format!("--listen-ng={control}"))
            .args(["--port-min=30000", "--port-max=30200", "--delete-delay=0"])
            .dir(dir.path())
            .start()
            .context("Debian's rtpengine-daemon is needed: run `make deps-all`")?;
        let engine = Self { process, control, media, _dir: dir };
        let answers = || engine.ask("d7:command4:pinge").is_ok_and(|answer| answer.contains("pong"));
        engine.process.until("it to answer", START_LIMIT, answers)?;
        Ok(engine)
    }

    /// Its control socket as Kamailio's module wants it.
    pub fn control(&self) -> String {
        format!("udp:{}", self.control)
    }

    /// Where media goes through.
    pub fn media(&self) -> Ipv4Addr {
        self.media
    }

    /// Whether it relays for a call whose id begins like this.
    pub fn has_call(&self, id: &str) -> Result<bool> {
        Ok(self.ask("d7:command4:list5:limiti1000ee")?.contains(id))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Sends a command in its own format, and returns the answer.
    fn ask(&self, command: &str) -> Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let socket = UdpSocket::bind((self.media, 0))?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        socket.connect(self.control)?;
        // It answers a cookie that it knows as it did before.
        let cookie = NEXT.fetch_add(1, Ordering::Relaxed);
        socket.send(format!("lab{cookie} {command}").as_bytes())?;
        let mut answer = vec![0; LARGEST_DATAGRAM];
        let length = socket.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }
}
