//! The server's start: what is made before the fork, and which processes are ours.
#![forbid(unsafe_code)]

use std::sync::Mutex;

use bridge::metrics::{count, get};
use bridge::protocol::{MAX_MESSAGE, Task, decode};
use bridge::server::Ends;
use bridge::transport::{Link, Seqpacket};
use once_cell::sync::OnceCell;

use crate::config::{self, Config};
use crate::host::log::{log_error, log_info};
use crate::host::process::{self, Forked, Rank};
use crate::host::{self, shared};
use crate::{io_process, outcome, statistics, upkeep};

/// What every process of the server inherits.
#[derive(Debug)]
pub(crate) struct Module {
    /// The validated parameters.
    pub(crate) config: Config,
    /// The workers' ends of their links, by process index.
    pub(crate) links: Vec<Seqpacket>,
    /// The resume workers' end of the link that they share.
    pub(crate) completions: Seqpacket,
    /// The end, that all processes share, of the link for call events.
    pub(crate) events: Seqpacket,
    /// The I/O process's ends, until it takes them.
    io_ends: Mutex<Option<Ends>>,
}

static CONFIG: OnceCell<Config> = OnceCell::new();
static MODULE: OnceCell<Module> = OnceCell::new();

/// The module, once the links are made.
pub(crate) fn module() -> Option<&'static Module> {
    MODULE.get()
}

/// `mod_init`: checks everything that can be wrong, announces our processes. Nothing here starts a thread or a connection.
pub(crate) fn initialise() -> i32 {
    host::guard::install_panic_hook();
    status(try_initialise())
}

fn try_initialise() -> Result<(), String> {
    shared::create_metrics()?;
    host::tm::bind()?;
    host::reply::bind()?;
    host::auth::bind()?;
    host::keepalive::listen();
    let config = config::read()?;
    if config.calls.dialogs {
        host::dialog::follow()?;
    }
    host::stats::register(c"cassandra", statistics::rows())?;
    process::announce(1 + config.resume_workers);
    let _ = CONFIG.set(config);
    Ok(())
}

/// `child_init`: makes the links before the first fork, forks our processes from the main process.
pub(crate) fn start_process(rank: Rank) -> i32 {
    status(match rank {
        Rank::Init => make_links(),
        Rank::Main => fork_processes(),
        Rank::Other => Ok(()),
    })
}

/// The end, in the main process, when all others are gone: tells what became of the calls' events, also when the I/O process was
/// killed and could not.
pub(crate) fn finish() {
    let Some(metrics) = shared::metrics() else { return };
    let [captured, accepted, dropped] =
        [&metrics.call_events, &metrics.call_events_accepted, &metrics.call_events_dropped].map(get);
    if captured == 0 {
        return;
    }
    let kept = format!("call events: {captured} captured, {accepted} of them are kept, {dropped} were dropped");
    match captured.saturating_sub(accepted + dropped) {
        0 => log_info!("stop", "{kept}"),
        lost => log_error!("stop", "{kept}, {lost} are lost with the I/O process"),
    }
}

fn status(result: Result<(), String>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(sentence) => {
            log_error!("start", "{sentence}");
            -1
        }
    }
}

fn make_links() -> Result<(), String> {
    let mut config = CONFIG.get().ok_or("the module was not initialised")?.clone();
    config::check_transaction_timer(&config)?;
    if config.service.node.uri.is_empty() {
        config.service.node.uri = host::socket::own_uri().unwrap_or_default();
    }
    config.service.owned.events = upkeep::wanted_events(&config.event_callback);
    let pair = || {
        Seqpacket::pair()
            .map_err(|error| format!("no socketpair to the I/O process: {error}; raise the limit of open files"))
    };
    let mut links = Vec::new();
    let mut callers = Vec::new();
    for _ in 0..process::count() {
        let (worker, io) = pair()?;
        links.push(worker);
        callers.push(io);
    }
    let (completions, io_completions) = pair()?;
    let (events, io_events) = pair()?;
    let io_ends = Mutex::new(Some(Ends { callers, completions: io_completions, events: io_events }));
    let _ = MODULE.set(Module { config, links, completions, events, io_ends });
    Ok(())
}

fn fork_processes() -> Result<(), String> {
    let module = module().ok_or("the module was not initialised")?;
    let failed = |error: std::io::Error| format!("a process of the module cannot be forked: {error}");
    let parent = std::process::id().cast_signed();
    if process::fork(c"Cassandra I/O").map_err(failed)? == Forked::Child {
        let ends = module.io_ends.lock().ok().and_then(|mut ends| ends.take());
        if let Some(ends) = ends {
            io_process::run(module.config.clone(), ends, parent);
        }
        process::exit_now();
    }
    for _ in 0..module.config.resume_workers {
        if process::fork(c"Cassandra resume worker").map_err(failed)? == Forked::Child {
            resume_for_ever(module);
        }
    }
    Ok(())
}

/// The life of a resume worker: continues transactions whose answer has come, runs routes for events, sends keepalives.
fn resume_for_ever(module: &Module) -> ! {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        match module.completions.receive(&mut buffer, None) {
            Ok(Some(length)) => {
                process::update_configuration();
                host::guard::guard(|| work(&buffer[..length]));
            }
            Ok(None) => {}
            Err(error) => {
                log_error!("resume", "the link to the I/O process is broken: {error}");
                process::exit_now();
            }
        }
    }
}

fn work(message: &[u8]) {
    match decode::<Task>(message) {
        Ok(Task::Resume(completion)) => {
            let resumed = outcome::resume(completion);
            if let Some(metrics) = shared::metrics() {
                count(if resumed { &metrics.resumed } else { &metrics.resume_failed });
            }
        }
        Ok(Task::Tell(event)) => upkeep::tell(*event),
        Ok(Task::KeepAlive(aor, binding)) => upkeep::keep_alive(&aor, &binding),
        Err(error) => log_error!("resume", "a task is not understood: {error}"),
    }
}

/// `cassandra_test_panic()`: panics in the script function.
#[cfg(feature = "fault-injection")]
pub(crate) fn panic_in_command(_: &mut host::message::Message<'_>, _: &host::command::Args) -> i32 {
    panic!("on purpose, for a test")
}

/// `cassandra_test_io_panic()`: panics in the I/O process while this worker waits.
#[cfg(feature = "fault-injection")]
pub(crate) fn panic_in_io_process(message: &mut host::message::Message<'_>, _: &host::command::Args) -> i32 {
    let answer = crate::bridge_client::call(bridge::protocol::Operation::Panic);
    outcome::apply(message, &outcome::Apply::Nothing, answer)
}
