//! baresip, a user agent that shares no code with Kamailio or SIPp, from Debian's package.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Managed, Spawn};
use crate::{RunDir, net};

const MODULES: &str = "/usr/lib/baresip/modules";
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A subscriber's phone.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its address of record without `sip:`.
    pub aor: String,
    /// Its password.
    pub password: String,
    /// Where it sends everything.
    pub proxy: SocketAddrV4,
    /// `udp`, `tcp` or `tls`.
    pub transport: &'static str,
}

/// A running baresip on an address of its own. It answers every call. Dropping it kills it.
#[derive(Debug)]
pub struct Baresip {
    process: Managed,
    address: Ipv4Addr,
    _dir: RunDir,
}

impl Baresip {
    /// Starts it; it registers, and calls this URI if there is one.
    pub fn start(account: &Account, call: Option<&str>) -> Result<Self> {
        let dir = RunDir::new("baresip")?;
        let address = net::loopback();
        dir.write("config", &config(address))?;
        let Account { aor, password, proxy, transport } = account;
        let line = format!(
            "<sip:{aor};transport={transport}>;auth_pass={password};outbound=\"sip:{proxy};transport={transport}\";\
             answermode=auto;regint=60\n"
        );
        dir.write("accounts", &line)?;
        let mut command = Spawn::new(format!("baresip of {aor}"), "baresip", dir.join("baresip.log"))
            .args(["-4", "-s", "-f"])
            .arg(dir.path())
            .dir(dir.path());
        if let Some(uri) = call {
            command = command.args(["-e", &format!("/dial {uri}")]);
        }
        let process = command.start().context("Debian's baresip-core is needed: run `make deps-all`")?;
        Ok(Self { process, address, _dir: dir })
    }

    /// Where it is.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Waits until it has said this.
    pub fn until(&self, text: &str, limit: Duration) -> Result<()> {
        self.process.until(&format!("'{text}'"), limit, || self.process.log().contains(text))
    }

    /// Ends it as a user does: calls are hung up, registrations withdrawn.
    pub fn stop(mut self) -> Result<()> {
        self.process.terminate(STOP_LIMIT).map(drop)
    }

    /// What it has said, with its SIP messages.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// What it hears is what it says: no sound card is needed.
fn config(address: Ipv4Addr) -> String {
    format!(
        "poll_method epoll\nsip_listen {address}:5060\nnet_interface {address}\nrtp_ports 10000-10100\n\
         module_path {MODULES}\nmodule g711.so\nmodule aubridge.so\nmodule_tmp account.so\n\
         module_app menu.so\naudio_source aubridge,sink\naudio_player aubridge,sink\naudio_alert aubridge,sink\n"
    )
}
