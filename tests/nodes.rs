//! Several registrars on one cluster of three Cassandra nodes.

mod common;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, ensure};
use common::sip::{Agent, headers, register, response, status};
use common::{DOMAIN, Site};
use lab::kamailio::{Config, Kamailio};

const SCRIPT: &str = "tests/cfg/upkeep.cfg";
/// Contacts that two nodes register at once.
const DEVICES: u32 = 40;

fn main() -> ExitCode {
    common::suite_on(
        3,
        &[],
        &[
            ("a_contact_on_one_nodes_connection_is_called_through_that_node", through_the_node_that_has_it),
            ("a_contact_with_a_path_is_called_along_it_from_any_node", along_the_path),
            ("devices_that_register_at_two_nodes_at_once_all_stay_registered", at_once),
            ("registers_of_one_device_keep_their_order_across_nodes", in_order),
            ("clocks_that_differ_by_two_seconds_lose_and_revive_nothing", skewed_clocks),
        ],
    )
}

/// Patient, since three databases that have just started share two cores.
const PATIENT: &str = "modparam(\"cassandra\", \"call_timeout\", 8000)
modparam(\"cassandra\", \"request_timeout\", 4000)";

fn node(site: &Site, name: &str) -> Result<Config> {
    site.with_settings(SCRIPT, &format!("{PATIENT}\nmodparam(\"cassandra\", \"node_name\", \"{name}\")"))
}

fn two_nodes(site: &Site) -> Result<(Kamailio, Kamailio)> {
    Ok((site.connected(node(site, "one")?)?, site.connected(node(site, "two")?)?))
}

/// Sends a MESSAGE for `user` to a node; the phone answers it.
fn message(node: &Kamailio, user: &str, phone: &mut Agent) -> Result<String> {
    let mut caller = Agent::udp(node)?;
    caller.send(&caller.request("MESSAGE", &format!("sip:{user}@{DOMAIN}"), "caller", user, &[]))?;
    let arrived = phone.receive_request("MESSAGE").with_context(|| format!("node {}", node.address()))?;
    phone.send(&response(&arrived, "200 OK"))?;
    let answer = caller.final_response()?;
    ensure!(status(&answer) == Some(200), "{answer}");
    Ok(arrived)
}

fn through_the_node_that_has_it(site: &Site) -> Result<()> {
    let (one, two) = two_nodes(site)?;
    let mut phone = Agent::tcp(&one)?;
    // Its contact cannot be connected to: only the connection that it has leads to it.
    let contact =
        format!("Contact: <sip:alice@127.9.9.9:9;transport=tcp>;received=\"sip:{};transport=tcp\"", phone.here());
    register(&mut phone, "alice", &[&contact, "Expires: 600"])?;
    for node in [&one, &two] {
        let arrived = message(node, "alice", &mut phone).with_context(|| format!("{}\n{}", one.log(), two.log()))?;
        ensure!(arrived.starts_with("MESSAGE sip:alice@127.9.9.9:9;transport=tcp "), "{arrived}");
        ensure!(headers(&arrived, "Route").is_empty(), "{arrived}");
    }
    let hops = |arrived: &str| headers(arrived, "Via").len();
    ensure!(hops(&message(&one, "alice", &mut phone)?) == 2, "the node that has it sends it itself");
    ensure!(hops(&message(&two, "alice", &mut phone)?) == 3, "the other sends it through that node");
    Ok(())
}

fn along_the_path(site: &Site) -> Result<()> {
    let (one, two) = two_nodes(site)?;
    let mut edge = Agent::udp(&one)?;
    let path = format!("Path: <sip:{};lr>", edge.here());
    register(&mut edge, "bob", &["Contact: <sip:bob@127.9.9.9>", "Expires: 600", &path, "Supported: path"])?;
    let route = format!("<sip:{};lr>", edge.here());
    // An agent takes messages of its own node only, so the edge has one socket for each.
    ensure!(headers(&message(&one, "bob", &mut edge)?, "Route") == [route.as_str()]);
    let mut edge = Agent::udp(&two)?;
    let path = format!("Path: <sip:{};lr>", edge.here());
    let mut at_one = Agent::udp(&one)?;
    register(&mut at_one, "bob", &["Contact: <sip:bob@127.9.9.9>", "Expires: 600", &path, "Supported: path"])?;
    let route = format!("<sip:{};lr>", edge.here());
    ensure!(headers(&message(&two, "bob", &mut edge)?, "Route") == [route.as_str()]);
    Ok(())
}

fn at_once(site: &Site) -> Result<()> {
    let (one, two) = two_nodes(site)?;
    let registering = [&one, &two].map(Agent::udp);
    thread::scope(|scope| {
        let all: Vec<_> = (0_u32..)
            .zip(registering)
            .map(|(half, agent)| {
                scope.spawn(move || -> Result<()> {
                    let mut agent = agent?;
                    for device in 0..DEVICES {
                        let contact = format!("Contact: <sip:carol@127.9.{half}.{device}>");
                        register(&mut agent, "carol", &[&contact, "Expires: 600"])?;
                    }
                    Ok(())
                })
            })
            .collect();
        all.into_iter().try_for_each(|half| half.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    let stored = site.contacts("carol")?.len();
    ensure!(stored == 2 * DEVICES as usize, "{stored} of {} are registered", 2 * DEVICES);
    for node in [&one, &two] {
        let listed = register(&mut Agent::udp(node)?, "carol", &[])?;
        ensure!(headers(&listed, "Contact")[0].matches("sip:carol@").count() == stored, "{listed}");
    }
    Ok(())
}

/// RFC 3261 section 10.3 step 7: a late REGISTER of the same Call-ID changes nothing, whichever node it comes to.
fn in_order(site: &Site) -> Result<()> {
    let (one, two) = two_nodes(site)?;
    let (mut first, mut second) = (Agent::udp(&one)?, Agent::udp(&two)?);
    let early = first.register("dave", &["Contact: <sip:dave@127.9.9.1>;q=0.1", "Expires: 600"]);
    let cseq = headers(&early, "CSeq")[0].to_owned();
    let later = early.replace(&cseq, "999999 REGISTER").replace("q=0.1", "q=0.9");
    // The Via names the first phone; Kamailio answers where a request came from.
    ensure!(status(&second.ask(&later)?) == Some(200));
    let late = first.ask(&early)?;
    ensure!(status(&late) == Some(400), "{late}");
    ensure!(site.contacts("dave")?[0]["q"] == 0.9, "the late one counted");
    let removing =
        later.replace("999999", "1000000").replace("Expires: 600", "Expires: 0").replace("branch=", "branch=z9hG4bKr");
    ensure!(status(&second.ask(&removing)?) == Some(200));
    ensure!(status(&first.ask(&early.replace("branch=", "branch=z9hG4bKs"))?) == Some(400), "revived");
    ensure!(site.contacts("dave")?.is_empty(), "the late one brought it back");
    Ok(())
}

fn skewed_clocks(site: &Site) -> Result<()> {
    let ahead = site.connected(skewed(node(site, "ahead")?, "+2s")?)?;
    let _leftovers = Leftovers { of: ahead.pid() };
    let behind = site.connected(node(site, "behind")?)?;
    let (mut fast, mut slow) = (Agent::udp(&ahead)?, Agent::udp(&behind)?);
    for round in 0..3 {
        let contact = format!("Contact: <sip:erin@127.9.9.{round}>");
        register(&mut fast, "erin", &[&contact, "Expires: 600"])?;
        // Written by a clock that is behind, and still later.
        register(&mut slow, "erin", &[&contact, "Expires: 0"])?;
        ensure!(site.contacts("erin")?.is_empty(), "the removal was lost in round {round}");
        register(&mut slow, "erin", &[&contact, "Expires: 600"])?;
        register(&mut fast, "erin", &[&format!("{contact};q=0.5"), "Expires: 300"])?;
        register(&mut slow, "erin", &[&format!("{contact};q=0.7"), "Expires: 100"])?;
        let stored = site.contacts("erin")?;
        ensure!(stored.len() == 1 && stored[0]["q"] == 0.7, "{stored:?}");
        let expires = stored[0]["expires"].as_u64().unwrap_or_default();
        ensure!((90..=104).contains(&expires), "{stored:?}");
        register(&mut fast, "erin", &[&contact, "Expires: 0"])?;
        ensure!(site.contacts("erin")?.is_empty(), "still there after round {round}");
    }
    Ok(())
}

/// The same with another wall clock; the monotonic one stays.
fn skewed(config: Config, by: &str) -> Result<Config> {
    let library = faketime_library()?;
    Ok(config.env("LD_PRELOAD", library.display()).env("FAKETIME", by).env("FAKETIME_DONT_FAKE_MONOTONIC", "1"))
}

/// libfaketime's objects in shared memory, which outlive a process that is killed.
struct Leftovers {
    of: u32,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for name in ["faketime_shm", "sem.faketime_sem"] {
            let _ = std::fs::remove_file(format!("/dev/shm/{name}_{}", self.of));
        }
    }
}

/// Where Debian's libfaketime is on this architecture.
fn faketime_library() -> Result<PathBuf> {
    let libraries = std::fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found = libraries.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).filter(|library| library.exists());
    found.next().context("libfaketime is missing: run scripts/deps --all")
}
