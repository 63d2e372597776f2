//! The I/O process: owns the tokio runtime and the Cassandra session, answers every other process.
//!
//! Its main thread is the only one that may use Kamailio's logger, so it does nothing but write the lines that the runtime's
//! threads send it.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bridge::protocol::Task;
use bridge::server::{self, Ends, Links};
use bridge::service::Service;
use bridge::{Metrics, Pace};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::host::log::{self, Level, log_error};
use crate::host::{process, shared};

mod lines;

use lines::{Line, Lines};

/// Log lines that wait to be written; more are dropped, since nothing may wait for the log.
const LINES: usize = 1024;

/// Events and keepalives that wait for the resume workers.
const NOTICES: usize = 10_000;

/// Runs the I/O process until it is told to stop and has drained. `parent` is the main process.
pub(crate) fn run(config: Config, ends: Ends, parent: i32) {
    let (sender, lines) = sync_channel(LINES);
    match start(config, ends, sender) {
        Ok(runtime) => {
            write_lines(&lines);
            runtime.shutdown_background();
        }
        Err(error) => log_error!("io", "the I/O process cannot start: {error}"),
    }
    if process::orphaned(parent) {
        process::end_siblings();
    }
}

fn start(config: Config, ends: Ends, lines: SyncSender<Line>) -> io::Result<Runtime> {
    let metrics = shared::metrics().ok_or_else(|| io::Error::other("there is no shared memory"))?;
    let (sender_of_notices, notices) = mpsc::channel(NOTICES);
    let links = Links { ends, notices, stop: process::stop_signals()? };
    tracing::subscriber::set_global_default(Lines::new(lines.clone())).map_err(io::Error::other)?;
    let pace = Arc::new(Pace::new(config.batch_interval));
    let pace_of_thread = {
        let pace = pace.clone();
        move || pace.before_waiting()
    };
    let runtime = process::without_signals(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_park(pace_of_thread)
            .thread_name("cassandra-io")
            .enable_all()
            .build()
    })?;
    runtime.spawn(serve(config, links, sender_of_notices, pace, metrics, lines));
    Ok(runtime)
}

async fn serve(
    config: Config,
    links: Links,
    notices: mpsc::Sender<Task>,
    pace: Arc<Pace>,
    metrics: &'static Metrics,
    lines: SyncSender<Line>,
) {
    let service = Arc::new(Service::new(config.service, notices, metrics));
    let connection = tokio::spawn({
        let service = service.clone();
        async move { service.run().await }
    });
    let upkeep = tokio::spawn(service.clone().watch());
    let recording = tokio::spawn(service.clone().record_calls());
    let replay = tokio::spawn(service.clone().replay_calls());
    let refresh = tokio::spawn(service.clone().refresh_calls());
    let search = tokio::spawn(service.clone().find_lost_calls());
    let drain = config.limits.drain;
    let last = match server::serve(links, config.limits, service.clone(), pace, metrics).await {
        Ok(0) => Line::new(Level::Info, "stopped: every accepted operation was completed"),
        Ok(left) => {
            Line::new(Level::Warning, format!("stopped with {left} operations under way: their callers got no answer"))
        }
        Err(error) => Line::new(Level::Critical, format!("the I/O process ends: {error}")),
    };
    service.stop_calls();
    // With a spool this is short; without one, calls that Cassandra does not take in this time are lost.
    let _ = tokio::time::timeout(drain, recording).await;
    for task in [replay, refresh, search] {
        task.abort();
    }
    service.close_calls().await;
    connection.abort();
    upkeep.abort();
    service.close();
    // A full queue must not keep the process alive.
    let _ = lines.try_send(last);
    let _ = lines.try_send(Line::end());
}

/// Writes lines until the last one.
fn write_lines(lines: &Receiver<Line>) {
    while let Ok(line) = lines.recv() {
        process::update_configuration();
        match line {
            Line::Write { level, function, text } => log::write(level, function, &text),
            Line::End => return,
        }
    }
}

const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<OwnedFd>();
};
