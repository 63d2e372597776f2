//! Memory stays flat: shared, private and resident, over a hundred thousand challenged registrations.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{DOMAIN, PASSWORD, Site, no_transaction_left, statistic};
use lab::cpu;
use lab::kamailio::{Config, Kamailio};
use lab::sipp::Sipp;

/// So many that two registrations of one user hardly ever wait for each other.
const USERS: usize = 500;
/// Before the first look: buffers, pools and caches have their size then.
const WARM_UP: u64 = 10_000;
/// Of each form.
const REGISTRATIONS: u64 = 50_000;
const RATE: f64 = 500.0;

/// What may come on top between two looks, for timers, statistics and the looks themselves; a leak of one byte a registration
/// is far above the first two.
const SHARED_SLACK: u64 = 16 * 1024;
const PRIVATE_SLACK: u64 = 16 * 1024;
/// Pages that a process of its own keeps.
const RESIDENT_SLACK: u64 = 1024 * 1024;

fn main() -> ExitCode {
    common::suite(&[], &[("memory_is_flat_over_100000_registrations", flat)])
}

/// Both forms at once: async in the one server, plain in the other.
fn flat(site: &Site) -> Result<()> {
    let users: Vec<String> = (0..USERS).map(|number| format!("user{number}")).collect();
    let rows: String = users.iter().map(|user| format!("{user},{DOMAIN},{PASSWORD}\n")).collect();
    let dir = lab::RunDir::new("subscribers")?;
    let file = dir.write("subscribers.csv", &rows)?;
    site.sipctl(&["subscriber", "import", &file.to_string_lossy()], "")?;
    let servers = [site.connected(spacious(site.all_in_one()))?, site.connected(spacious(site.plain()))?];
    register(&servers, &users, WARM_UP)?;
    let before = servers.iter().map(Held::by).collect::<Result<Vec<_>>>()?;
    register(&servers, &users, REGISTRATIONS)?;
    let after = servers.iter().map(Held::by).collect::<Result<Vec<_>>>()?;
    for ((server, before), after) in servers.iter().zip(&before).zip(&after) {
        eprintln!("{} registrations: {before} -> {after}", REGISTRATIONS);
        before.check_growth(after).with_context(|| server.log())?;
    }
    Ok(())
}

/// With room for the transactions of five seconds, 27 kB each.
fn spacious(config: Config) -> Config {
    Config { shm_mb: 256, ..config }
}

/// A busy machine may make some of them 503; they must not leak either, but most are to be registrations.
fn register(servers: &[Kamailio], users: &[String], calls: u64) -> Result<()> {
    let accepted_before = servers.iter().map(|server| statistic(server, "accepted_regs")).sum::<Result<u64>>()?;
    let phones = servers.iter().map(|server| {
        Sipp::new("register_200_or_503.xml")
            .target(server.address())
            .auth_uri(DOMAIN)
            .users(users.iter().map(|user| (user.as_str(), DOMAIN, PASSWORD)))
            .calls(calls)
            .rate(RATE)
            .timeout(Duration::from_secs(600))
            .spawn()
    });
    for (server, phone) in servers.iter().zip(phones.collect::<Result<Vec<_>>>()?) {
        phone.wait()?.check().with_context(|| server.log())?;
    }
    let accepted =
        servers.iter().map(|server| statistic(server, "accepted_regs")).sum::<Result<u64>>()? - accepted_before;
    ensure!(
        accepted >= calls * servers.len() as u64 * 9 / 10,
        "only {accepted} of 2 x {calls} REGISTERs were accepted"
    );
    servers.iter().try_for_each(no_transaction_left)
}

/// Memory of one server, in bytes.
struct Held {
    shared: u64,
    /// Of all processes.
    private: u64,
    /// Of the process that grew most: pages of its own.
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
