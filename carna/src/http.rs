//! How the node is, for schedulers, for Prometheus and for people: read-only, over HTTP.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::changes::Change;
use crate::health::Work;
use crate::log::Counters;
use crate::members::Member;
use crate::page;
use crate::registry::Seen;
use fleet::{Announcement, Load, NodeId, State};

/// How long an answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What it says of itself.
    pub node: Announcement,
    /// Whether its process answers, or may still take its time to.
    pub is_alive: bool,
    /// Why nothing should be sent to it, if so.
    pub trouble: Option<String>,
    /// How often its process was started.
    pub starts: u32,
    /// What a drain would wait for, if that is known.
    pub at_work: Option<Work>,
}

/// Everything that is told.
#[derive(Debug, Clone)]
pub struct Told {
    /// How the node is.
    pub status: watch::Receiver<Status>,
    /// Who is there.
    pub seen: watch::Receiver<Seen>,
    /// How long it takes until all others know one that is published.
    pub settle: Duration,
    /// Whether Kamailio routes by what is known of them.
    pub loaded: watch::Receiver<bool>,
    /// Who is routed to.
    pub known: watch::Receiver<Vec<Member>>,
    /// What has happened, the latest first.
    pub changes: watch::Receiver<Vec<Change>>,
    /// What this node has to do.
    pub load: watch::Receiver<Load>,
    /// What all have to do.
    pub loads: watch::Receiver<BTreeMap<NodeId, Load>>,
    /// When somebody looked last at what all have to do.
    pub looked: watch::Sender<Option<Instant>>,
    /// What was counted of the log.
    pub log: Arc<Counters>,
}

/// Listens there from now on.
///
/// # Errors
/// Somebody else does.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (http.listen)"))
}

/// Answers for ever.
///
/// # Errors
/// The kernel does not let it.
pub async fn serve(listener: TcpListener, told: Told) -> Result<()> {
    let routes = Router::new()
        .route("/", get(page::page))
        .route("/status", get(page::status))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/nodes", get(nodes))
        .route("/metrics", get(metrics))
        .with_state(told);
    axum::serve(listener, routes).await.context("HTTP has ended")
}

/// Asks the node of this machine that listens there for a page, and waits two seconds at most.
///
/// # Errors
/// It does not answer, or with another code than 200; then the error is what it says.
pub fn ask(listen: SocketAddr, page: &str) -> Result<()> {
    let address = match listen {
        all if all.ip() == Ipv4Addr::UNSPECIFIED => (Ipv4Addr::LOCALHOST, all.port()).into(),
        all if all.ip() == Ipv6Addr::UNSPECIFIED => (Ipv6Addr::LOCALHOST, all.port()).into(),
        one => one,
    };
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        write!(stream, "GET {page} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().with_context(|| format!("no answer from {address} (http.listen)"))?;
    let (head, content) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{}", content.trim_end());
    Ok(())
}

/// 200 when it holds, and else 503, with a sentence.
fn answer(trouble: Option<String>) -> Response {
    match trouble {
        None => "ok\n".into_response(),
        Some(sentence) => (StatusCode::SERVICE_UNAVAILABLE, format!("{sentence}\n")).into_response(),
    }
}

/// Whether the process is of any use: one that is not may be killed.
async fn live(Shared(told): Shared<Told>) -> Response {
    let status = told.status.borrow();
    let trouble =
        (!status.is_alive).then(|| status.trouble.clone().unwrap_or_else(|| "its process is not there".to_owned()));
    answer(trouble)
}

/// Whether the node takes part.
async fn ready(Shared(told): Shared<Told>) -> Response {
    answer(why_not_ready(&told))
}

pub(crate) fn why_not_ready(told: &Told) -> Option<String> {
    let status = told.status.borrow();
    if status.node.state == State::Draining {
        return Some("it drains".to_owned());
    }
    if let Some(trouble) = &status.trouble {
        return Some(trouble.clone());
    }
    match told.seen.borrow().published_since {
        None => return Some("it is not published in ZooKeeper".to_owned()),
        Some(since) if since.elapsed() < told.settle => return Some("not all other nodes know it yet".to_owned()),
        Some(_) => {}
    }
    (!*told.loaded.borrow()).then(|| "its Kamailio does not route by what is known of the nodes".to_owned())
}

/// All nodes that are known, of all roles and data centres.
async fn nodes(Shared(told): Shared<Told>) -> Json<Vec<Announcement>> {
    Json(told.seen.borrow().nodes.clone().unwrap_or_default())
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    role: &'static str,
    dc: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LogLabels {
    to: &'static str,
}

/// What was written, sent and lost of the log.
fn count_log(registry: &mut Registry, log: &Counters) {
    let gauges = [
        ("log_overflow_bytes", "Bytes of lines that wait for Logstash in the overflow file", &log.overflow_bytes),
        ("log_connected", "Whether there is a connection to Logstash", &log.connected),
    ];
    for (name, help, value) in gauges {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value.load(Relaxed));
        registry.register(name, help, gauge);
    }
    let counted = |value: &AtomicU64| {
        let counter = Counter::<u64>::default();
        counter.inc_by(value.load(Relaxed));
        counter
    };
    registry.register("log_lines", "Lines of the node's server and of Carna", counted(&log.lines));
    registry.register("log_sent", "Lines sent to Logstash", counted(&log.sent));
    let dropped = Family::<LogLabels, Counter>::default();
    for (to, value) in [("stdout", &log.dropped_stdout), ("logstash", &log.dropped_logstash)] {
        dropped.get_or_create(&LogLabels { to }).inc_by(value.load(Relaxed));
    }
    registry.register("log_dropped", "Lines that are lost", dropped);
}

/// What Prometheus is told.
async fn metrics(Shared(told): Shared<Told>) -> Response {
    let mut registry = Registry::with_prefix("carna");
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    {
        let (status, seen) = (told.status.borrow(), told.seen.borrow());
        gauge("alive", "Whether the process answers", status.is_alive.into());
        gauge("ready", "Whether the node takes part", why_not_ready(&told).is_none().into());
        gauge("draining", "Whether the node takes nothing new", (status.node.state == State::Draining).into());
        gauge("starts", "Starts of the process", status.starts.into());
        gauge("zookeeper_connected", "Whether there is a session with ZooKeeper", seen.is_connected.into());
        gauge("published", "Whether the node is published", seen.is_published().into());
        gauge("routes_loaded", "Whether Kamailio routes by what is known", (*told.loaded.borrow()).into());
        if let Some(work) = status.at_work {
            gauge("transactions", "Transactions that are not over", work.transactions);
            gauge("dialogs", "Dialogs", work.dialogs);
            gauge("sessions", "Legs of calls with their audio", work.sessions);
            gauge("call_events", "Call events that are not in Cassandra", work.events);
            gauge("call_events_spooled", "Call events that are not in Cassandra, but on the disk", work.spooled);
        }
        let load = told.load.borrow();
        if let Some(calls) = load.calls {
            gauge("calls", "Calls and further legs that are under way", calls);
        }
        if let Some(registrations) = load.registrations {
            gauge("registrations_per_minute", "REGISTERs applied in a minute", registrations);
        }
        if let Some(most) = load.max_sessions {
            gauge("max_sessions", "Legs of calls that it may have", most);
        }
    }
    count_log(&mut registry, &told.log);
    let nodes = Family::<Labels, Gauge>::default();
    for node in told.seen.borrow().nodes.iter().flatten() {
        let labels = Labels { role: node.role.name(), dc: node.dc.clone(), state: node.state.name() };
        nodes.get_or_create(&labels).inc();
    }
    registry.register_with_unit("known", "Nodes that are known", Unit::Other("nodes".to_owned()), nodes);
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
