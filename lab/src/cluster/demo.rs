//! `make demo`: the main job from end to end, on servers that are gone afterwards.

use std::net::SocketAddrV4;

use anyhow::Result;

use super::{Cluster, Plan};
use crate::progress::{say, step};
use crate::sipp::{Report, Running, Sipp};

const PASSWORD: &str = "correct-horse-battery-staple";

/// Starts everything, provisions alice and bob, registers both, lets alice call bob, shows what is stored, and stops everything.
pub fn demo(plan: &Plan) -> Result<()> {
    let cluster = Cluster::start(plan)?;
    run(&cluster).map_err(|error| cluster.quoting_kamailio(error))?;
    step("everything stops", || cluster.stop())
}

fn run(cluster: &Cluster) -> Result<()> {
    let domain = cluster.domain();
    let (alice, bob) = (format!("alice@{domain}"), format!("bob@{domain}"));
    for aor in [&alice, &bob] {
        step(format!("sipctl subscriber add {aor} --password-stdin"), || {
            cluster.sipctl(&["subscriber", "add", aor, "--password-stdin"], &format!("{PASSWORD}\n"))
        })?;
    }
    let bobs_phone = step("bob's phone listens", || Sipp::new("uas_answer.xml").spawn())?;
    let contact = bobs_phone.local();
    step(format!("bob registers {contact}"), || register(cluster, "bob", contact))?;
    step("alice registers", || register(cluster, "alice", SocketAddrV4::new(*contact.ip(), 5062)))?;
    let call = step("alice calls bob", || call(cluster, &bob, bobs_phone))?;
    call.ladder().iter().for_each(say);
    show(cluster, &[&alice, &bob])
}

fn phone(cluster: &Cluster, user: &str, scenario: &str) -> Sipp {
    Sipp::new(scenario).target(cluster.kamailio().address()).users([(user, cluster.domain(), PASSWORD)])
}

fn register(cluster: &Cluster, user: &str, contact: SocketAddrV4) -> Result<Report> {
    phone(cluster, user, "register.xml").key("contact", contact).run_successfully()
}

/// Both sides must see a whole call.
fn call(cluster: &Cluster, callee: &str, callees_phone: Running) -> Result<Report> {
    let report = phone(cluster, "alice", "uac_invite_auth.xml").key("callee", callee).run_successfully()?;
    callees_phone.wait()?.check()?;
    Ok(report)
}

fn show(cluster: &Cluster, aors: &[&str]) -> Result<()> {
    let subscribers = cluster.sipctl(&["subscriber", "list"], "")?;
    println!("\nsubscribers\n{subscribers}");
    for aor in aors {
        let registrations = cluster.sipctl(&["registrations", aor], "")?;
        println!("registrations of {aor}\n{registrations}");
    }
    Ok(())
}
