//! The figures: CPU per re-REGISTER (credentials remembered, nonce still valid) and per lookup, for the stock peers with the
//! bindings in the database and in memory, and for the plain and the async form of this module.

use anyhow::Result;
use lab::progress::{say, step};

use crate::peers::{Kind, Peer, Peers, Setup};
use crate::phones::Phones;
use crate::report::{self, Comparison, Target};
use crate::{Options, SEARCH_SECONDS, compare, driver, load, phones, warm_up};

/// The slowest first.
const PEERS: [Kind; 4] = [Kind::StockInDatabase, Kind::StockInMemory, Kind::Plain, Kind::Async];

/// Where the searches begin, in calls a second.
const FIRST_RATE: f64 = 1200.0;
/// The costs are compared at this share of the highest rate that all sustain: nobody has a queue there.
const SHARE: f64 = 0.7;

/// Longer than any run: what is measured is a refresh that finds its credentials remembered.
const CREDENTIAL_CACHE_TTL: u32 = 86_400;

/// What our CPU may be of the stock peers'.
const MOST_OF_IN_DATABASE: f64 = 0.6;
const MOST_OF_IN_MEMORY: f64 = 2.5;

pub(crate) fn run(options: &Options) -> Result<()> {
    let setup = Setup {
        users: options.users,
        distant: false,
        memory: options.memory_manager,
        credential_cache_ttl: CREDENTIAL_CACHE_TTL,
        cores: None,
    };
    let peers = Peers::start(&PEERS, &setup)?;
    peers.all().iter().try_for_each(|peer| warm_up(peer, &peers))?;
    let refreshing = with(&peers, |peer| phones::refreshing(peer.address(), peers.users()))?;
    let refresh = compare(options, "re-REGISTER", &refreshing, common_rate(options, "re-REGISTER", &refreshing)?)?;
    let calling = with(&peers, |_| Ok(phones::calling(peers.users())))?;
    let lookup = compare(options, "lookup", &calling, common_rate(options, "lookup", &calling)?)?;
    let floor = floor_of_lookup(options, &calling, &lookup)?;
    let driver = driver::measure(options, &peers, lookup.common_rate)?;
    let targets: Vec<Target> = [&refresh, &lookup].into_iter().flat_map(targets).collect();
    let comparisons = [refresh, lookup, floor];
    comparisons.iter().for_each(report::show);
    report::show_driver(&driver);
    report::show_targets(&targets);
    report::write("location", "re-REGISTER and lookup", &comparisons, Some(driver), &targets)
}

/// The same lookups with Cassandra out of it: this module answers from what its I/O process remembers. What is left is what
/// the way there and back costs, whatever the database and its driver do.
fn floor_of_lookup(options: &Options, peers: &[(&Peer, Phones)], lookup: &Comparison) -> Result<Comparison> {
    peers.iter().try_for_each(|(peer, _)| peer.keep_off_cassandra())?;
    let rate = (lookup.common_rate, "that of the lookups above".to_owned());
    compare(options, "lookup answered by the I/O process, without Cassandra", peers, rate)
}

fn with(peers: &Peers, phones: impl Fn(&Peer) -> Result<Phones>) -> Result<Vec<(&Peer, Phones)>> {
    peers.all().iter().map(|peer| Ok((peer, phones(peer)?))).collect()
}

/// The rate, and how it was chosen.
fn common_rate(options: &Options, operation: &str, peers: &[(&Peer, Phones)]) -> Result<(f64, String)> {
    if let Some(rate) = options.rate {
        return Ok((rate, "as asked for".to_owned()));
    }
    let what = format!("{operation}: the highest rate that all peers sustain");
    let highest = step(what, || load::highest_rate_of_all(peers, FIRST_RATE, SEARCH_SECONDS, options.seconds))?;
    say(format!("all sustain {highest:.0} a second"));
    Ok(((highest * SHARE).floor(), format!("{:.0} % of the {highest:.0}/s that all peers sustain", SHARE * 100.0)))
}

fn targets(comparison: &Comparison) -> Vec<Target> {
    [(Kind::StockInDatabase, MOST_OF_IN_DATABASE), (Kind::StockInMemory, MOST_OF_IN_MEMORY)]
        .into_iter()
        .flat_map(|(stock, at_most)| comparison.targets(stock, at_most))
        .collect()
}
