//! The stock example configuration, with its own modules on MariaDB and with ours in their place: phones see no difference.

mod common;

use std::net::SocketAddrV4;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use common::{DOMAIN, PASSWORD, Site, run};
use lab::kamailio::{Config, Kamailio};
use lab::mariadb::{self, MariaDb};
use lab::sipp::{Report, Sipp};
use lab::{net, stock, suite};

const USERS: [&str; 10] = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy"];

fn main() -> ExitCode {
    suite::run(
        Peers::start,
        &[
            ("our_module_is_in_the_place_of_the_stock_ones", modules),
            ("a_phone_registers_and_refreshes", |peers| alike(peers, registers)),
            ("a_wrong_password_and_an_unknown_user_are_challenged_again", |peers| alike(peers, refused)),
            ("an_expiry_is_kept_within_its_bounds", |peers| alike(peers, expiry)),
            ("two_contacts_are_listed_and_removed_one_by_one", |peers| alike(peers, two_contacts)),
            ("contacts_that_cannot_be_accepted_are_400", |peers| alike(peers, bad_contacts)),
            ("a_call_reaches_the_registered_phone", |peers| alike(peers, call)),
            ("a_call_to_nobody_is_404", |peers| alike(peers, call_to_nobody)),
            ("a_call_to_a_phone_that_takes_no_calls_is_405", |peers| alike(peers, call_not_allowed)),
            ("a_call_reaches_a_phone_behind_a_nat_where_it_registered_from", |peers| alike(peers, call_through_nat)),
            ("a_call_follows_the_path_of_the_registration", |peers| alike(peers, call_by_path)),
        ],
    )
}

/// Both servers.
struct Peers {
    stock: Kamailio,
    ours: Kamailio,
    /// Where the phones that register are, and the one that calls: the same with either server, so that both see the same.
    phone: SocketAddrV4,
    caller: SocketAddrV4,
    _mariadb: MariaDb,
    _site: Site,
}

/// One server as a scenario sees it.
struct Peer<'p> {
    kamailio: &'p Kamailio,
    phone: SocketAddrV4,
    caller: SocketAddrV4,
}

impl Peers {
    fn start() -> Result<Self> {
        let mariadb = MariaDb::start(mariadb::Options::default())?;
        mariadb.add_subscribers(USERS.map(|user| (user, DOMAIN, PASSWORD)))?;
        let site = Site::start(1, &USERS)?;
        let stock = Kamailio::start(stock_modules(&mariadb)?)?;
        let ours = Kamailio::start(our_module(&site)?)?;
        ours.wait_for_cassandra()?;
        let [phone, caller] = [(); 2].map(|()| SocketAddrV4::new(net::loopback(), 5070));
        Ok(Self { stock, ours, phone, caller, _mariadb: mariadb, _site: site })
    }
}

/// What an operator sets in the file for local settings.
fn local_settings(more: &str) -> String {
    let features = ["WITH_AUTH", "WITH_USRLOCDB", "WITH_NAT"].map(|feature| format!("#!define {feature}\n")).concat();
    format!("{features}{more}\nalias=\"{DOMAIN}\"\nauto_aliases=no\n")
}

fn stock_modules(mariadb: &MariaDb) -> Result<Config> {
    let database = format!("#!define WITH_MYSQL\n#!define DBURL \"{}\"\n", mariadb.url());
    Ok(Config::new(stock::example(&local_settings(&database))?))
}

fn our_module(site: &Site) -> Result<Config> {
    let settings = [("contact_points", site.contact_point()), ("local_dc", "dc1")]
        .map(|(name, value)| format!("modparam(\"cassandra\", \"{name}\", \"{value}\")\n"))
        .concat();
    // Of nathelper's pings: the contacts behind a NAT.
    let settings = settings + "modparam(\"cassandra\", \"ka_mode\", 2)";
    Ok(Config::new(stock::with_ours(&stock::example(&local_settings(""))?, &settings)))
}

/// What phones receive in a scenario, a line a message.
type Scenario = fn(&Peer<'_>) -> Result<Vec<String>>;

/// Runs a scenario with both servers, and compares what the phones receive.
fn alike(peers: &Peers, scenario: Scenario) -> Result<()> {
    let play = |kamailio| scenario(&Peer { kamailio, phone: peers.phone, caller: peers.caller });
    let stock = play(&peers.stock).context("with the stock modules")?;
    let ours = play(&peers.ours).context("with our module")?;
    ensure!(stock == ours, "with the stock modules:\n{}\nwith our module:\n{}", stock.join("\n"), ours.join("\n"));
    Ok(())
}

impl Peer<'_> {
    /// The phone of `user` with this scenario, where all phones are.
    fn phone(&self, scenario: &str, user: &str) -> Sipp {
        at(self.phone, common::phone(self.kamailio, scenario, user))
    }

    /// Runs a phone, and returns what it received.
    fn run(&self, phone: Sipp) -> Result<Vec<String>> {
        run(self.kamailio, phone).map(|report| received(&report))
    }

    fn register(&self, user: &str, contact: &str, parameters: &str) -> Result<Vec<String>> {
        self.run(self.phone("register.xml", user).key("contact", contact).key("contact_params", parameters))
    }

    fn unregister(&self, user: &str, contact: &str) -> Result<Vec<String>> {
        self.run(self.phone("unregister.xml", user).key("contact", contact))
    }

    fn unregister_all(&self, user: &str) -> Result<Vec<String>> {
        self.run(self.phone("unregister_all.xml", user))
    }

    fn query(&self, user: &str) -> Result<Vec<String>> {
        self.run(self.phone("register_query.xml", user))
    }

    /// What alice's phone receives that calls `callee`.
    fn caller(&self, scenario: &str, callee: &str) -> Result<Vec<String>> {
        let phone = at(self.caller, common::phone(self.kamailio, scenario, "alice"));
        self.run(phone.key("callee", format!("{callee}@{DOMAIN}")))
    }

    /// A call to `callee`, whose phone answers: what both receive.
    fn call(&self, callee: &str) -> Result<Vec<String>> {
        let answering = at(self.phone, Sipp::new("uas_answer.xml")).spawn()?;
        let caller = self.caller("uac_invite_auth.xml", callee)?;
        let answered = answering.finish()?;
        answered.check()?;
        Ok([caller, received(&answered)].concat())
    }
}

/// A phone at this address.
fn at(address: SocketAddrV4, phone: Sipp) -> Sipp {
    phone.local(*address.ip()).local_port(address.port())
}

fn modules(peers: &Peers) -> Result<()> {
    let loads = |kamailio: &Kamailio, module: &str| -> Result<bool> {
        let all = kamailio.rpc("core.modules", serde_json::json!([]))?;
        Ok(all.as_array().is_some_and(|all| all.iter().any(|name| name == module)))
    };
    for module in ["auth_db", "registrar", "usrloc"] {
        ensure!(loads(&peers.stock, module)? && !loads(&peers.ours, module)?, "{module}");
    }
    ensure!(loads(&peers.ours, "cassandra")? && !loads(&peers.stock, "cassandra")?, "cassandra");
    Ok(())
}

fn registers(peer: &Peer<'_>) -> Result<Vec<String>> {
    Ok([
        peer.register("bob", "127.9.9.1:5070", "")?,
        peer.register("bob", "127.9.9.1:5070", ";q=0.5")?,
        peer.query("bob")?,
    ]
    .concat())
}

fn refused(peer: &Peer<'_>) -> Result<Vec<String>> {
    let attempt = |user, password| {
        let phone = common::phone_with_password(peer.kamailio, "register_wrong_password.xml", user, password);
        peer.run(at(peer.phone, phone))
    };
    Ok([attempt("bob", "wrong")?, attempt("nobody", PASSWORD)?].concat())
}

fn expiry(peer: &Peer<'_>) -> Result<Vec<String>> {
    let asked = |expires: u32| {
        peer.run(peer.phone("register.xml", "carol").key("contact", "127.9.9.1").key("expires", expires))
    };
    Ok([asked(10)?, asked(600)?, asked(90_000)?, peer.register("carol", "127.9.9.1", ";expires=300")?].concat())
}

fn two_contacts(peer: &Peer<'_>) -> Result<Vec<String>> {
    Ok([
        peer.register("dave", "127.9.9.1:5071", ";q=0.2")?,
        peer.register("dave", "127.9.9.2:5072;ob", ";q=0.9")?,
        peer.register("dave", "127.9.9.3;transport=tcp", ";q=0.2")?,
        peer.query("dave")?,
        peer.unregister("dave", "127.9.9.1:5071")?,
        peer.unregister("dave", "127.9.9.1:5071")?,
        peer.query("dave")?,
        peer.unregister_all("dave")?,
        peer.unregister_all("dave")?,
    ]
    .concat())
}

fn bad_contacts(peer: &Peer<'_>) -> Result<Vec<String>> {
    let bad = |contacts: &str| peer.run(peer.phone("register_expect_400.xml", "erin").key("contacts", contacts));
    Ok([bad("*")?, bad("<sip:erin@127.9.9.1")?, bad("<sip:erin@127.9.9.1>;q=2")?].concat())
}

fn call(peer: &Peer<'_>) -> Result<Vec<String>> {
    peer.register("frank", &peer.phone.to_string(), "")?;
    peer.call("frank")
}

fn call_to_nobody(peer: &Peer<'_>) -> Result<Vec<String>> {
    peer.register("grace", "127.9.9.1", "")?;
    peer.unregister("grace", "127.9.9.1")?;
    Ok([peer.caller("invite_expect_404.xml", "grace")?, peer.caller("invite_expect_404.xml", "nobody")?].concat())
}

fn call_not_allowed(peer: &Peer<'_>) -> Result<Vec<String>> {
    peer.register("heidi", &peer.phone.to_string(), ";methods=\"MESSAGE, OPTIONS\"")?;
    peer.caller("invite_expect_405.xml", "heidi")
}

fn call_through_nat(peer: &Peer<'_>) -> Result<Vec<String>> {
    Ok([peer.register("ivan", "10.11.12.13:5099", "")?, peer.query("ivan")?, peer.call("ivan")?].concat())
}

fn call_by_path(peer: &Peer<'_>) -> Result<Vec<String>> {
    let path = format!("\r\nPath: <sip:{};lr>\r\nSupported: path", peer.phone);
    Ok([peer.register("judy", "127.9.9.1:5099", &path)?, peer.call("judy")?].concat())
}

/// The messages that a phone received, but for provisional responses: of each its first line, Contact and Route.
fn received(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let mut shown = false;
    let mut at_start = false;
    for line in report.messages.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        if line.contains(" message sent ") || line.contains(" message received ") {
            shown = line.contains(" message received ");
            at_start = true;
            continue;
        }
        shown &= !(at_start && line.starts_with("SIP/2.0 1"));
        if shown && (at_start || line.starts_with("Contact:") || line.starts_with("Route:")) {
            lines.push(comparable(line));
        }
        at_start = false;
    }
    lines
}

/// A header with its elements in one order, for q tells which comes first, and the remaining seconds rounded up to tens.
fn comparable(line: &str) -> String {
    let Some(contacts) = line.strip_prefix("Contact: ") else { return line.to_owned() };
    let mut contacts: Vec<String> = contacts.split(", ").map(without_time).collect();
    contacts.sort();
    format!("Contact: {}", contacts.join(", "))
}

fn without_time(contact: &str) -> String {
    let Some((uri, parameters)) = contact.split_once(";expires=") else { return contact.to_owned() };
    let digits = parameters.find(|c: char| !c.is_ascii_digit()).unwrap_or(parameters.len());
    let seconds: u32 = parameters[..digits].parse().unwrap_or_default();
    format!("{uri};expires={}{}", seconds.div_ceil(10) * 10, &parameters[digits..])
}
