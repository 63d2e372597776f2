//! `make demo`: the main job from end to end, on servers that are gone afterwards.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;

use super::{Cluster, Plan};
use crate::progress::{say, step};
use crate::sipp::{Report, Running, Sipp};
use crate::wait;

/// How long a call may take into the history.
const RECORDED: Duration = Duration::from_secs(20);

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
    step("the call is recorded", || until_recorded(cluster, &bob))?;
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

/// What is recorded is written a moment after it happened.
fn until_recorded(cluster: &Cluster, callee: &str) -> Result<()> {
    let is_over = |history: String| history.contains("answered");
    wait::until("the end of the call in the history", RECORDED, || {
        cluster.sipctl(&["--json", "history", callee], "").is_ok_and(is_over)
    })
}

fn show(cluster: &Cluster, aors: &[&str]) -> Result<()> {
    let subscribers = cluster.sipctl(&["subscriber", "list"], "")?;
    println!("\nsubscribers\n{subscribers}");
    for aor in aors {
        let registrations = cluster.sipctl(&["registrations", aor], "")?;
        println!("registrations of {aor}\n{registrations}");
    }
    for aor in aors {
        let history = cluster.sipctl(&["history", aor], "")?;
        println!("calls of {aor}\n{history}");
    }
    Ok(())
}
