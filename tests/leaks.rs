//! Memory stays flat: shared, private and resident, over a hundred thousand challenged registrations.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{DOMAIN, PASSWORD, Site, no_transaction_left, statistic};
use lab::cpu;
use lab::kamailio::{Config, Kamailio};
use lab::sipp::Sipp;
use lab::wait::until;

/// So many that two registrations of one user hardly ever wait for each other.
const USERS: usize = 500;
/// All under way at once before the first look: memory has been at its highest then.
const PEAK: u64 = 400;

/// What the servers get, each.
struct Load {
    /// Registrations before the first look: buffers, pools and caches have their size then.
    warm_up: u64,
    registrations: u64,
    rate: f64,
}

const FULL: Load = Load { warm_up: 10_000, registrations: 50_000, rate: 400.0 };
/// With `LEAK_TEST=short` in the environment, for a module that is not optimised. A block of memory lost with each registration shows
/// here too.
const SHORT: Load = Load { warm_up: 2_000, registrations: 2_000, rate: 100.0 };

/// What may come on top between two looks, for timers, statistics and the looks themselves; a leak of one byte a registration
/// is far above the first two.
const SHARED_SLACK: u64 = 16 * 1024;
const PRIVATE_SLACK: u64 = 16 * 1024;
/// Pages that a process of its own keeps.
const RESIDENT_SLACK: u64 = 1024 * 1024;

fn main() -> ExitCode {
    common::suite(&[], &[("memory_is_flat_over_many_registrations", flat)])
}

/// Both forms at once: async in the one server, plain in the other.
fn flat(site: &Site) -> Result<()> {
    let users: Vec<String> = (0..USERS).map(|number| format!("user{number}")).collect();
    let rows: String = users.iter().map(|user| format!("{user},{DOMAIN},{PASSWORD}\n")).collect();
    let dir = lab::RunDir::new("subscribers")?;
    let file = dir.write("subscribers.csv", &rows)?;
    site.sipctl(&["subscriber", "import", &file.to_string_lossy()], "")?;
    let servers = [site.connected(spacious(site.all_in_one()))?, site.connected(spacious(site.plain()))?];
    let load = if std::env::var("LEAK_TEST").is_ok_and(|length| length == "short") { SHORT } else { FULL };
    reach_peak(site, &servers, &users)?;
    register(&servers, &users, load.warm_up, load.rate)?;
    let before = servers.iter().map(Held::by).collect::<Result<Vec<_>>>()?;
    register(&servers, &users, load.registrations, load.rate)?;
    let after = servers.iter().map(Held::by).collect::<Result<Vec<_>>>()?;
    for ((server, before), after) in servers.iter().zip(&before).zip(&after) {
        eprintln!("{} registrations: {before} -> {after}", load.registrations);
        before.check_growth(after).with_context(|| server.log())?;
    }
    Ok(())
}

/// With room for the transactions of five seconds, 27 kB each.
fn spacious(config: Config) -> Config {
    Config { shm_mb: 256, ..config }
}

/// Cassandra answers nothing for as long as it takes to have many operations under way.
fn reach_peak(site: &Site, servers: &[Kamailio], users: &[String]) -> Result<()> {
    let cassandra = site.cassandra.lock().map_err(|_| anyhow::anyhow!("a test panicked"))?;
    cassandra.freeze()?;
    let refused = send(servers, users, PEAK, 2000.0);
    cassandra.thaw()?;
    refused?;
    servers.iter().try_for_each(|server| {
        until("a closed breaker", Duration::from_secs(30), || -> Result<Option<()>> {
            send(std::slice::from_ref(server), users, 1, 10.0)?;
            Ok((statistic(server, "breaker_state")? == 0 && statistic(server, "accepted_regs")? > 0).then_some(()))
        })
    })
}

/// A busy machine may make some of them 503 or late; they must not leak either, but most are to be registrations.
fn register(servers: &[Kamailio], users: &[String], calls: u64, rate: f64) -> Result<()> {
    let accepted_by = |server| statistic(server, "accepted_regs");
    let before = servers.iter().map(accepted_by).sum::<Result<u64>>()?;
    send(servers, users, calls, rate)?;
    let accepted = servers.iter().map(accepted_by).sum::<Result<u64>>()? - before;
    ensure!(
        accepted >= calls * servers.len() as u64 * 9 / 10,
        "only {accepted} of 2 x {calls} REGISTERs were accepted"
    );
    servers.iter().try_for_each(no_transaction_left)
}

/// REGISTERs that may be answered 200 or 503.
fn send(servers: &[Kamailio], users: &[String], calls: u64, rate: f64) -> Result<()> {
    let phones = servers.iter().map(|server| {
        Sipp::new("register_200_or_503.xml")
            .target(server.address())
            .auth_uri(DOMAIN)
            .users(users.iter().map(|user| (user.as_str(), DOMAIN, PASSWORD)))
            .ignore_unexpected()
            .calls(calls)
            .rate(rate)
            .timeout(Duration::from_secs(600))
            .spawn()
    });
    for (server, phone) in servers.iter().zip(phones.collect::<Result<Vec<_>>>()?) {
        let report = phone.wait()?;
        ensure!(report.created == calls, "SIPp stopped early: {:?}\n{}", report.check(), server.log());
    }
    Ok(())
}

/// Memory of one server, in bytes.
struct Held {
    shared: u64,
    /// Of all processes.
    private: u64,
    /// By process: pages of its own.
    resident: Vec<(u32, u64)>,
}

impl Held {
    fn by(server: &Kamailio) -> Result<Self> {
        let memory = server.memory()?;
        Ok(Self {
            shared: memory.shm_used,
            private: memory.pkg_total(),
            resident: server.pids().into_iter().map(|pid| (pid, cpu::private_kb(pid) * 1024)).collect(),
        })
    }

    fn check_growth(&self, later: &Self) -> Result<()> {
        ensure!(later.shared <= self.shared + SHARED_SLACK, "shared memory grew: {self} -> {later}");
        ensure!(later.private <= self.private + PRIVATE_SLACK, "private memory grew: {self} -> {later}");
        for ((pid, before), (same, after)) in self.resident.iter().zip(&later.resident) {
            ensure!(pid == same, "a process is another one: {self} -> {later}");
            ensure!(*after <= before + RESIDENT_SLACK, "process {pid} grew from {before} to {after} bytes");
        }
        Ok(())
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let resident: u64 = self.resident.iter().map(|(_, bytes)| bytes).sum();
        write!(f, "shm {}, pkg {}, own pages {}", self.shared, self.private, resident)
    }
}
