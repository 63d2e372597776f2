//! Waiting for a condition instead of for a time.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// What a condition may return: `bool`, `Option<T>` or `Result<Option<T>>`.
///
/// An error ends the wait at once: use it for "this will never come true", for example when the server has died.
pub trait Condition {
    /// What the wait returns.
    type Value;
    /// `Ok(None)`: not yet.
    fn check(self) -> Result<Option<Self::Value>>;
}

impl Condition for bool {
    type Value = ();
    fn check(self) -> Result<Option<()>> {
        Ok(self.then_some(()))
    }
}

impl<T> Condition for Option<T> {
    type Value = T;
    fn check(self) -> Result<Option<T>> {
        Ok(self)
    }
}

impl<T> Condition for Result<Option<T>> {
    type Value = T;
    fn check(self) -> Result<Option<T>> {
        self
    }
}

/// Asks `condition` again and again until it holds, and fails after `timeout` with a message that names `what`.
///
/// Fails at once when the condition returns an error, and when Ctrl-C was pressed (see [`catch_ctrl_c`]).
pub fn until<C: Condition>(what: &str, timeout: Duration, mut condition: impl FnMut() -> C) -> Result<C::Value> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(value) = condition().check().with_context(|| format!("waiting for {what}"))? {
            return Ok(value);
        }
        interruption()?;
        if start.elapsed() >= timeout {
            bail!("waited {:.1} s in vain for {what}", timeout.as_secs_f64());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits also after Ctrl-C, for what has to be waited for then; says whether the condition came true in time.
pub(crate) fn uninterrupted(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    while !condition() {
        if start.elapsed() >= timeout {
            return false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    true
}

/// Makes SIGINT, SIGTERM and SIGHUP end every wait with an error, so that `Drop` stops whatever was started.
/// A second signal ends the program at once; its servers follow it by their parent-death signal.
pub fn catch_ctrl_c() -> Result<()> {
    let flag = interrupt_flag();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // In this order: the first signal only sets the flag, the next one finds it set.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))
            .context("cannot watch for Ctrl-C")?;
        signal_hook::flag::register(signal, Arc::clone(flag)).context("cannot watch for Ctrl-C")?;
    }
    Ok(())
}

/// Whether Ctrl-C was pressed since [`catch_ctrl_c`].
pub fn interrupted() -> bool {
    interrupt_flag().load(Ordering::Relaxed)
}

fn interruption() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

fn interrupt_flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(Default::default)
}
