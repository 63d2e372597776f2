//! What phones do through the load balancers of nodes of all roles, whoever runs these.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::sipp::{Sipp, Transport};
use lab::topology::{Role, Topology};
use lab::{net, wait};

use super::digest::send_authenticated;
use super::sip::{Agent, response, status, with_lines};
use super::{DOMAIN, Site, calls, enrol, phone_at};

const SOON: Duration = Duration::from_secs(10);

/// Nodes of all roles, as phones see them.
pub trait Nodes {
    /// The two load balancers.
    fn balancers(&self) -> Result<[SocketAddrV4; 2]>;

    /// What all nodes have written.
    fn logs(&self) -> String;
}

impl Nodes for Topology {
    fn balancers(&self) -> Result<[SocketAddrV4; 2]> {
        Ok(self.pair(Role::LoadBalancer)?.map(|node| node.address()))
    }

    fn logs(&self) -> String {
        Topology::logs(self)
    }
}

/// Registers `callee` at the first load balancer, and calls it through the second.
pub fn called(site: &Site, nodes: &impl Nodes, transport: Transport, callee: &str) -> Result<()> {
    let [first, second] = nodes.balancers()?;
    // The load balancer calls it at the address that it registers from.
    let (address, port) = (net::loopback(), 5062);
    let at = |sipp: Sipp| sipp.transport(transport).local(address).local_port(port);
    at(phone_at(first, "register.xml", callee)).run_successfully().with_context(|| nodes.logs())?;
    let before = calls::answered(site, callee)?;
    let answering = at(Sipp::new("uas_answer.xml")).spawn()?;
    let caller = phone_at(second, "uac_invite_auth.xml", "alice").transport(transport);
    caller.key("callee", format!("{callee}@{DOMAIN}")).run_successfully().with_context(|| nodes.logs())?;
    answering.wait()?.check()?;
    wait::until("the call in the history", SOON, || calls::answered(site, callee).is_ok_and(|calls| calls > before))
        .with_context(|| format!("{:?}", site.sipctl(&["--csv", "history", &format!("{callee}@{DOMAIN}")], "")))
        .with_context(|| nodes.logs())?;
    let calls = calls::answered(site, callee)?;
    ensure!(calls == before + 1, "{calls} calls, {before} before");
    Ok(())
}

/// Somebody who calls dave by UDP and erin by TCP gives up while they ring.
pub fn given_up(nodes: &impl Nodes) -> Result<()> {
    let [first, second] = nodes.balancers()?;
    // They have no other phones, whose silence would be waited for.
    for (mut callee, user) in
        [(Agent::udp_towards(first, net::loopback())?, "dave"), (Agent::tcp_towards(first)?, "erin")]
    {
        enrol(&mut callee, user)?;
        let caller = phone_at(second, "uac_cancel.xml", "alice").key("callee", format!("{user}@{DOMAIN}")).spawn()?;
        let invite = callee.receive_request("INVITE").with_context(|| nodes.logs())?;
        callee.send(&response(&invite, "180 Ringing"))?;
        let cancel = callee.receive_request("CANCEL")?;
        callee.send(&response(&cancel, "200 OK"))?;
        callee.send(&response(&invite, "487 Request Terminated"))?;
        callee.receive_request("ACK")?;
        caller.wait()?.check().with_context(|| nodes.logs())?;
    }
    Ok(())
}

/// Two phones of frank's ring together, and one answers, or the caller gives up.
pub fn forked(nodes: &impl Nodes) -> Result<()> {
    let [first, second] = nodes.balancers()?;
    let mut phones = [Agent::udp_towards(first, net::loopback())?, Agent::tcp_towards(second)?];
    for phone in &mut phones {
        enrol(phone, "frank")?;
    }
    for is_answered in [true, false] {
        let scenario = if is_answered { "uac_invite_auth.xml" } else { "uac_cancel.xml" };
        let caller = phone_at(second, scenario, "alice").key("callee", format!("frank@{DOMAIN}"));
        // A BYE at once could overtake the ACK.
        let caller = caller.pause(Duration::from_millis(500)).spawn()?;
        let mut invites = Vec::new();
        for phone in &mut phones {
            invites.push(phone.receive_request("INVITE").with_context(|| nodes.logs())?);
        }
        for (phone, invite) in phones.iter_mut().zip(&invites) {
            phone.send(&response(invite, "180 Ringing"))?;
        }
        let silent = if is_answered {
            let answer = with_lines(&response(&invites[0], "200 OK"), &phones[0].contact("frank", ""));
            phones[0].send(&answer)?;
            1..2
        } else {
            0..2
        };
        for index in silent {
            let cancel = phones[index].receive_request("CANCEL").with_context(|| nodes.logs())?;
            phones[index].send(&response(&cancel, "200 OK"))?;
            phones[index].send(&response(&invites[index], "487 Request Terminated"))?;
            phones[index].receive_request("ACK")?;
        }
        if is_answered {
            phones[0].receive_request("ACK")?;
            let bye = phones[0].receive_request("BYE")?;
            phones[0].send(&response(&bye, "200 OK"))?;
        }
        caller.wait()?.check().with_context(|| nodes.logs())?;
    }
    Ok(())
}

/// Ivan may have one call at a time; the nodes have `CHECK_MAX_CALLS`.
pub fn limited(site: &Site, nodes: &impl Nodes) -> Result<()> {
    let [first, second] = nodes.balancers()?;
    let (address, port) = (net::loopback(), 5062);
    let at = |sipp: Sipp| sipp.local(address).local_port(port);
    let ivan = format!("ivan@{DOMAIN}");
    at(phone_at(first, "register.xml", "grace")).key("params", ";expires=60").run_successfully()?;
    site.sipctl(&["subscriber", "set", &ivan, "--max-calls", "1"], "")?;
    let _answering = at(Sipp::new("uas_answer.xml")).endless().spawn()?;
    let calling = || phone_at(second, "uac_invite_auth.xml", "ivan").key("callee", format!("grace@{DOMAIN}"));
    let talking = calling().pause(Duration::from_secs(4)).spawn()?;
    wait::until("the call in the view", SOON, || {
        site.sipctl(&["--json", "calls", "--subscriber", &ivan], "").is_ok_and(|calls| calls.contains("answered"))
    })?;
    let mut another = Agent::udp_towards(first, net::loopback())?;
    let (uri, here) = (format!("sip:grace@{DOMAIN}"), another.contact("ivan", ""));
    send_authenticated(&mut another, "INVITE", &uri, "ivan", "grace", &[&here])?;
    let answer = another.final_response()?;
    ensure!(status(&answer) == Some(403), "{answer}\n{}", nodes.logs());
    talking.wait()?.check().with_context(|| nodes.logs())
}
