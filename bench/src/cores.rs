//! Which cores what is measured runs on, and which everything else: databases and phones that take turns with a Kamailio on its
//! core empty its caches, the more the more they work.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of this machine, divided until it is dropped.
#[derive(Debug)]
pub(crate) struct Cores {
    all: CpuSet,
    /// For what is measured.
    first: CpuSet,
    /// For all else.
    others: CpuSet,
}

impl Cores {
    /// Has everything that this thread starts from now on leave the first core alone. `None` when there is only one.
    pub(crate) fn divide() -> Result<Option<Self>> {
        let all = sched_getaffinity(None).context("which cores may be used")?;
        let mut numbers = (0..CpuSet::MAX_CPU).filter(|number| all.is_set(*number));
        let (Some(number), Some(_)) = (numbers.next(), numbers.next()) else { return Ok(None) };
        let (mut first, mut others) = (CpuSet::new(), all);
        first.set(number);
        others.unset(number);
        use_cores(&others)?;
        Ok(Some(Self { all, first, others }))
    }

    /// Has what `start` starts run on the first core, and nowhere else.
    pub(crate) fn on_the_first<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        use_cores(&self.first)?;
        let started = start();
        use_cores(&self.others)?;
        started
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        let _ = use_cores(&self.all);
    }
}

/// Processes and threads inherit it.
fn use_cores(cores: &CpuSet) -> Result<()> {
    sched_setaffinity(None, cores).context("cores cannot be chosen")
}
