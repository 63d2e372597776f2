//! The figure: CPU per challenged REGISTER and REGISTERs a second, for the stock peer and for the plain and the async form of
//! this module, with the database beside Kamailio and with 10 ms added to every answer of the database.

use std::time::Duration;

use anyhow::Result;
use lab::progress::{say, step};

use crate::peers::{Kind, Peer, Peers, Setup};
use crate::phones::Phones;
use crate::report::{self, Comparison, Measured};
use crate::{Options, SEARCH_SECONDS, load, measure, phones, warm_up};

/// The stock peer first.
const PEERS: [Kind; 3] = [Kind::StockInDatabase, Kind::Plain, Kind::Async];

/// Where the searches begin, in REGISTERs a second.
const FIRST_RATE: f64 = 1200.0;
const FIRST_RATE_WITH_DELAY: f64 = 80.0;

/// The module's default.
const CREDENTIAL_CACHE_TTL: u32 = 60;

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut comparisons = vec![compare(options, Duration::ZERO, FIRST_RATE)?];
    if options.rate.is_none() {
        comparisons.push(compare(options, Duration::from_millis(options.delay_ms), FIRST_RATE_WITH_DELAY)?);
    }
    comparisons.iter().for_each(report::show);
    report::write("register", "challenged REGISTER", &comparisons, None, &[])
}

/// Finds what each peer sustains, then measures all of them at the stock peer's rate, and each at its own, in turn.
fn compare(options: &Options, delay: Duration, first_rate: f64) -> Result<Comparison> {
    let setup = Setup {
        users: options.users,
        distant: !delay.is_zero(),
        memory: options.memory_manager,
        credential_cache_ttl: CREDENTIAL_CACHE_TTL,
        cores: None,
    };
    let peers = Peers::start(&PEERS, &setup)?;
    let phones = phones::registering(peers.users());
    let mut measured = Vec::new();
    for peer in peers.all() {
        peers.set_delay(Duration::ZERO);
        warm_up(peer, &peers)?;
        peers.set_delay(delay);
        measured.push(Measured::new(peer, highest_rate(options, peer, &phones, first_rate)?));
    }
    let common = options.rate.or(measured[0].highest_rate).unwrap_or(first_rate);
    for round in 1..=options.rounds {
        for (peer, measured) in peers.all().iter().zip(&mut measured) {
            measured.at_common_rate.push(measure(options, peer, &phones, round, common)?);
            if let Some(highest) = measured.highest_rate {
                measured.at_highest_rate.push(measure(options, peer, &phones, round, highest)?);
            }
        }
    }
    Ok(Comparison {
        operation: "challenged REGISTER",
        delay_ms: delay.as_millis() as u64,
        common_rate: common,
        common_rate_is: options.rate.map_or("the stock peer's highest rate", |_| "as asked for").to_owned(),
        memory_manager: options.memory_manager,
        seconds: options.seconds,
        peers: measured,
    })
}

fn highest_rate(options: &Options, peer: &Peer, phones: &Phones, first: f64) -> Result<Option<f64>> {
    if options.rate.is_some() {
        return Ok(None);
    }
    let what = format!("{}: the highest rate it sustains", peer.name());
    let rate = step(what, || load::highest_rate(peer, phones, first, SEARCH_SECONDS, options.seconds))?;
    say(format!("{} sustains {rate:.0} REGISTERs a second", peer.name()));
    Ok(Some(rate))
}
