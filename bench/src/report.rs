//! The figures: a table on the screen, JSON in `target/bench/`.

use std::fs;

use anyhow::{Context, Result};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use lab::kamailio::MemoryManager;
use lab::progress::say;
use lab::workspace;
use serde::Serialize;

use crate::driver::Cost;
use crate::load::Sample;
use crate::peers::{Kind, Peer, WORKERS};

/// All peers, measured under the same load.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    /// What the phones do.
    pub(crate) operation: &'static str,
    /// Milliseconds added to every answer of the databases.
    pub(crate) delay_ms: u64,
    /// Calls a second at which the costs are compared.
    pub(crate) common_rate: f64,
    /// How that rate was chosen.
    pub(crate) common_rate_is: String,
    /// Kamailio's memory manager.
    pub(crate) memory_manager: MemoryManager,
    /// Length of a measured run.
    pub(crate) seconds: u64,
    /// The stock peers first.
    pub(crate) peers: Vec<Measured>,
}

impl Comparison {
    fn stock(&self) -> impl Iterator<Item = &Measured> {
        self.peers.iter().filter(|peer| peer.kind.is_stock())
    }

    /// A figure, and in brackets its ratio to each stock peer's; a dash where that has none.
    fn against(&self, peer: &Measured, digits: usize, figure: fn(&Measured) -> f64) -> String {
        let ratio = |stock| match figure(peer) / figure(stock) {
            ratio if ratio.is_finite() => format!("{ratio:.2}"),
            _ => "-".to_owned(),
        };
        let ratios: Vec<_> = self.stock().map(ratio).collect();
        format!("{:.digits$} ({})", figure(peer), ratios.join(", "))
    }

    fn has_highest_rates(&self) -> bool {
        self.peers.iter().any(|peer| !peer.at_highest_rate.is_empty())
    }

    fn row(&self, peer: &Measured) -> Vec<String> {
        let mut row = vec![
            peer.name.to_owned(),
            self.against(peer, 3, Measured::kamailio_cpu_ms),
            format!("{:.3}", peer.io_process_cpu_ms()),
            self.against(peer, 3, Measured::database_cpu_ms),
            peer.response_times(),
        ];
        if self.has_highest_rates() {
            row.push(self.against(peer, 0, Measured::throughput));
        }
        row
    }
}

/// One peer's samples.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    #[serde(skip)]
    kind: Kind,
    name: &'static str,
    /// Calls a second that it sustains, if that was looked for.
    pub(crate) highest_rate: Option<f64>,
    pub(crate) at_common_rate: Vec<Sample>,
    pub(crate) at_highest_rate: Vec<Sample>,
}

impl Measured {
    pub(crate) fn new(peer: &Peer, highest_rate: Option<f64>) -> Self {
        let (kind, name) = (peer.kind(), peer.name());
        Self { kind, name, highest_rate, at_common_rate: Vec::new(), at_highest_rate: Vec::new() }
    }

    fn kamailio_cpu_ms(&self) -> f64 {
        self.cost(|sample| sample.kamailio_cpu_ms)
    }

    /// CPU milliseconds in Kamailio beyond those of another peer.
    fn added_ms(&self, base: &Measured) -> f64 {
        self.kamailio_cpu_ms() - base.kamailio_cpu_ms()
    }

    fn io_process_cpu_ms(&self) -> f64 {
        self.cost(|sample| sample.io_process_cpu_ms)
    }

    fn io_process_kernel_cpu_ms(&self) -> f64 {
        self.cost(|sample| sample.io_process_kernel_cpu_ms)
    }

    fn database_cpu_ms(&self) -> f64 {
        self.cost(|sample| sample.database_cpu_ms)
    }

    fn cost(&self, figure: fn(&Sample) -> f64) -> f64 {
        median_of(&self.at_common_rate, figure)
    }

    fn response_times(&self) -> String {
        format!("{:.1} / {:.1}", self.cost(|sample| sample.p50_ms), self.cost(|sample| sample.p99_ms))
    }

    fn throughput(&self) -> f64 {
        median_of(&self.at_highest_rate, |sample| sample.rate)
    }
}

/// What this module's cost in Kamailio may be of another.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    operation: &'static str,
    name: &'static str,
    of: String,
    ratio: f64,
    at_most: f64,
}

impl Comparison {
    /// How our peers do against this stock peer.
    pub(crate) fn targets(&self, stock: Kind, at_most: f64) -> Vec<Target> {
        let Some(stock) = self.peer(stock) else { return Vec::new() };
        let ratio = |peer: &Measured| peer.kamailio_cpu_ms() / stock.kamailio_cpu_ms();
        self.targets_of(&format!("the CPU of {}", stock.name), ratio, at_most)
    }

    /// How what our peers add to `base` does against what this stock peer adds to it.
    pub(crate) fn targets_of_added(&self, stock: Kind, base: Kind, at_most: f64) -> Vec<Target> {
        let (Some(stock), Some(base)) = (self.peer(stock), self.peer(base)) else { return Vec::new() };
        let ratio = |peer: &Measured| peer.added_ms(base) / stock.added_ms(base);
        self.targets_of(&format!("what {} adds", stock.name), ratio, at_most)
    }

    fn targets_of(&self, of: &str, ratio: impl Fn(&Measured) -> f64, at_most: f64) -> Vec<Target> {
        let ours = self.peers.iter().filter(|peer| !peer.kind.is_stock());
        ours.map(|peer| Target {
            operation: self.operation,
            name: peer.name,
            of: of.to_owned(),
            ratio: ratio(peer),
            at_most,
        })
        .collect()
    }

    fn peer(&self, kind: Kind) -> Option<&Measured> {
        self.peers.iter().find(|peer| peer.kind == kind)
    }
}

/// Prints which targets are met.
pub(crate) fn show_targets(targets: &[Target]) {
    println!();
    for Target { operation, name, of, ratio, at_most } in targets {
        let verdict = if ratio <= at_most { "met" } else { "missed" };
        println!("{operation}, {name}: {ratio:.2} of {of}; at most {at_most}: {verdict}");
    }
}

/// Prints what the driver alone costs.
pub(crate) fn show_driver(Cost { read_ms, write_ms }: &Cost) {
    println!(
        "\nthe driver alone, without Kamailio: {read_ms:.3} ms of CPU for the read of an AoR's bindings, {write_ms:.3} for the \
         write of one"
    );
}

/// Prints medians, and in brackets their ratio to each stock peer's.
pub(crate) fn show(comparison: &Comparison) {
    let mut header = vec!["", "Kamailio CPU ms", "of it I/O process", "database CPU ms", "p50 / p99 ms"];
    if comparison.has_highest_rates() {
        header.push("highest rate/s");
    }
    let rows = comparison.peers.iter().map(|peer| comparison.row(peer)).collect();
    print(comparison, "in brackets: to each stock peer's", header, rows);
}

/// Prints medians, and what they add to those of the peer `base`.
pub(crate) fn show_added(comparison: &Comparison, base: Kind) {
    let Some(base) = comparison.peer(base) else { return };
    let header = vec![
        "",
        "Kamailio CPU ms",
        "of it I/O process",
        "of that kernel",
        "added",
        "database CPU ms",
        "rings p50 / p99 ms",
    ];
    let rows = comparison.peers.iter().map(|peer| row_with_added(peer, base)).collect();
    print(comparison, &format!("added: to {}", base.name), header, rows);
}

fn row_with_added(peer: &Measured, base: &Measured) -> Vec<String> {
    let added = peer.added_ms(base);
    vec![
        peer.name.to_owned(),
        format!("{:.3}", peer.kamailio_cpu_ms()),
        format!("{:.3}", peer.io_process_cpu_ms()),
        format!("{:.3}", peer.io_process_kernel_cpu_ms()),
        format!("{added:.3} ({:.0} %)", added / base.kamailio_cpu_ms() * 100.0),
        format!("{:.3}", peer.database_cpu_ms()),
        peer.response_times(),
    ]
}

fn print(comparison: &Comparison, explanation: &str, header: Vec<&str>, rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(header);
    table.add_rows(rows);
    println!(
        "\n{}, {WORKERS} SIP workers, memory manager {}, {} ms added to every database answer; costs of one at {:.0}/s ({}), \
         medians of {}; {explanation}",
        comparison.operation,
        comparison.memory_manager.name(),
        comparison.delay_ms,
        comparison.common_rate,
        comparison.common_rate_is,
        comparison.peers.first().map_or(0, |peer| peer.at_common_rate.len())
    );
    println!("{table}");
    for peer in &comparison.peers {
        let lost = peer.at_common_rate.iter().chain(&peer.at_highest_rate).filter(|sample| !sample.sustained).count();
        if lost > 0 {
            println!("{}: {lost} of its runs were not sustained (see the JSON file)", peer.name);
        }
    }
}

/// Writes the figures of a benchmark to `target/bench/NAME.json`.
pub(crate) fn write(
    name: &str,
    benchmark: &str,
    comparisons: &[Comparison],
    driver: Option<Cost>,
    targets: &[Target],
) -> Result<()> {
    let json = serde_json::json!({
        "benchmark": benchmark,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "sip_workers": WORKERS,
        "comparisons": comparisons,
        "driver_alone": driver,
        "targets": targets,
    });
    write_any(name, &json)
}

/// Writes figures to a file of that name.
pub(crate) fn write_any(name: &str, figures: &serde_json::Value) -> Result<()> {
    let dir = workspace().target().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = dir.join(format!("{name}.json"));
    fs::write(&file, serde_json::to_string_pretty(figures)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    say(format!("all figures are in {}", file.display()));
    Ok(())
}

fn median_of(samples: &[Sample], figure: fn(&Sample) -> f64) -> f64 {
    median(samples.iter().map(figure).collect())
}

/// The median; of none it is no number.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}
