//! baresip, a user agent that shares no code with Kamailio or SIPp, from Debian's package.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Managed, Spawn};
use crate::{RunDir, net};

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
        // What it hears is what it says: no sound card is needed.
        let config = "poll_method epoll\nmodule_tmp account.so\nmodule_app menu.so\n\
                      audio_source aubridge,sink\naudio_player aubridge,sink\naudio_alert aubridge,sink\n";
        let at = SocketAddrV4::new(address, 5060);
        let Account { aor, password, proxy, transport } = account;
        let line = format!(
            "<sip:{aor};transport={transport}>;auth_pass={password};outbound=\"sip:{proxy};transport={transport}\";\
             answermode=auto;regint=60\n"
        );
        let mut command = configured(&format!("of {aor}"), dir.path(), at, 10_000..=10_100, config, &line)?
            .args(["-4", "-s"])
            .dir(dir.path());
        if let Some(uri) = call {
            command = command.args(["-e", &format!("/dial {uri}")]);
        }
        let process = command.start().context(NEEDED)?;
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

/// What an error says when it does not start.
pub(crate) const NEEDED: &str = "Debian's baresip-core is needed: run `make deps`";

/// A baresip to be, at this address and with these ports for RTP: writes its configuration (further lines are `config`) and its
/// accounts into `home`, where its log will be, too.
pub(crate) fn configured(
    name: &str,
    home: &Path,
    at: SocketAddrV4,
    rtp: RangeInclusive<u16>,
    config: &str,
    accounts: &str,
) -> Result<Spawn> {
    let (address, first, last) = (at.ip(), rtp.start(), rtp.end());
    let config = format!(
        "sip_listen {at}\nnet_interface {address}\nrtp_ports {first}-{last}\n\
         module_path /usr/lib/baresip/modules\nmodule g711.so\nmodule aubridge.so\n{config}"
    );
    std::fs::write(home.join("config"), config)?;
    std::fs::write(home.join("accounts"), accounts)?;
    Ok(Spawn::new(format!("baresip {name}"), "baresip", home.join("baresip.log")).arg("-f").arg(home))
}
