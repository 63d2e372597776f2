//! The figures: a table on the screen, JSON in `target/bench/`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use lab::kamailio::MemoryManager;
use lab::workspace;
use serde::Serialize;

use crate::load::Sample;
use crate::peers::{Peer, WORKERS};

/// All peers, measured with the same distance to their databases.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    /// Milliseconds added to every answer of the databases.
    pub(crate) delay_ms: u64,
    /// REGISTERs a second at which the costs are compared: the stock peer's highest rate.
    pub(crate) common_rate: f64,
    /// Kamailio's memory manager.
    pub(crate) memory_manager: MemoryManager,
    /// Length of a measured run.
    pub(crate) seconds: u64,
    /// The stock peer first.
    pub(crate) peers: Vec<Measured>,
}

/// One peer's samples.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    /// REGISTERs a second that it sustains.
    pub(crate) highest_rate: f64,
    pub(crate) at_common_rate: Vec<Sample>,
    pub(crate) at_highest_rate: Vec<Sample>,
}

impl Measured {
    pub(crate) fn new(peer: &Peer, highest_rate: f64) -> Self {
        Self { name: peer.name(), highest_rate, at_common_rate: Vec::new(), at_highest_rate: Vec::new() }
    }

    fn cost(&self, figure: fn(&Sample) -> f64) -> f64 {
        median(&self.at_common_rate, figure)
    }

    fn throughput(&self) -> f64 {
        median(&self.at_highest_rate, |sample| sample.rate)
    }
}

/// Prints medians, and in brackets their ratio to the stock peer's.
pub(crate) fn show(comparison: &Comparison) {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header([
        "",
        "Kamailio CPU ms",
        "of it I/O process",
        "database CPU ms",
        "p50 / p99 ms",
        "highest rate/s",
    ]);
    let stock = &comparison.peers[0];
    for peer in &comparison.peers {
        let against = |ours: f64, theirs: f64, digits: usize| format!("{ours:.digits$} ({:.2})", ours / theirs);
        let cost = |figure: fn(&Sample) -> f64| against(peer.cost(figure), stock.cost(figure), 3);
        table.add_row([
            peer.name.to_owned(),
            cost(|sample| sample.kamailio_cpu_ms),
            format!("{:.3}", peer.cost(|sample| sample.io_process_cpu_ms)),
            cost(|sample| sample.database_cpu_ms),
            format!("{:.1} / {:.1}", peer.cost(|sample| sample.p50_ms), peer.cost(|sample| sample.p99_ms)),
            if peer.at_highest_rate.is_empty() {
                "not measured".to_owned()
            } else {
                against(peer.throughput(), stock.throughput(), 0)
            },
        ]);
    }
    println!(
        "\nchallenged REGISTER, {WORKERS} SIP workers, memory manager {}, {} ms added to every database answer; costs of one \
         REGISTER at {:.0}/s, medians of {}; in brackets: to the stock peer's",
        comparison.memory_manager.name(),
        comparison.delay_ms,
        comparison.common_rate,
        stock.at_common_rate.len()
    );
    println!("{table}");
    for peer in &comparison.peers {
        let lost = peer.at_common_rate.iter().chain(&peer.at_highest_rate).filter(|sample| !sample.sustained).count();
        if lost > 0 {
            println!("{}: {lost} of its runs were not sustained (see the JSON file)", peer.name);
        }
    }
}

/// Writes everything to `target/bench/register.json`.
pub(crate) fn write(comparisons: &[Comparison]) -> Result<PathBuf> {
    let dir = workspace().target().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = dir.join("register.json");
    let json = serde_json::json!({
        "benchmark": "challenged REGISTER",
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "sip_workers": WORKERS,
        "comparisons": comparisons,
    });
    fs::write(&file, serde_json::to_string_pretty(&json)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn median(samples: &[Sample], figure: fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}
