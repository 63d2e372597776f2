//! What nodes have to do: each writes it into ZooKeeper, seldom, and reads what the others wrote while somebody looks at it here.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::health::Counts;
use crate::registry::Seen;
use fleet::{Directory, Load, NodeId};

/// What is there is looked at so often.
const TURN: Duration = Duration::from_secs(2);
/// What this node has to do is written not more often than that, and only when it has changed.
const WRITE: Duration = Duration::from_secs(10);
/// So long after the last look of somebody's the others' are not read any more.
const INTEREST: Duration = Duration::from_secs(10);
/// A rate is that of so long.
const SPAN: Duration = Duration::from_secs(30);

/// Makes rates of counts.
#[derive(Debug, Default)]
pub struct Meter {
    /// Registrations, counted since the start of Kamailio.
    counted: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// What there is to do by what was counted until `now`.
    pub fn take(&mut self, counts: Counts, now: Instant) -> Load {
        let Counts { calls, registrations, sessions, max_sessions } = counts;
        let load = Load { calls, registrations: None, sessions, max_sessions };
        let Some(count) = registrations else {
            self.counted.clear();
            return load;
        };
        // It was started again.
        if self.counted.back().is_some_and(|(_, last)| *last > count) {
            self.counted.clear();
        }
        self.counted.push_back((now, count));
        while self.counted.get(1).is_some_and(|(at, _)| now - *at >= SPAN) {
            self.counted.pop_front();
        }
        Load { registrations: self.per_minute(), ..load }
    }

    /// How many there are in a minute; unknown until that can be told.
    fn per_minute(&self) -> Option<u64> {
        let ((first, from), (last, to)) = (self.counted.front()?, self.counted.back()?);
        let span = u64::try_from((*last - *first).as_millis()).ok().filter(|span| *span > 0)?;
        Some(((to - from) * 60_000 + span / 2) / span)
    }
}

/// What is exchanged.
#[derive(Debug, Clone)]
pub struct Loads {
    /// This node.
    pub id: NodeId,
    /// What it has to do.
    pub own: watch::Receiver<Load>,
    /// When somebody looked last at what all have to do.
    pub looked: watch::Receiver<Option<Instant>>,
    /// What they have to do.
    pub known: watch::Sender<BTreeMap<NodeId, Load>>,
}

impl Loads {
    /// Exchanges them by this session for ever. What goes wrong is tried again.
    pub async fn exchange(self, client: Client, directory: Directory, seen: watch::Receiver<Seen>) {
        let mut written =
            Written { path: directory.load_path(&self.id), client: client.clone(), is_ours: false, load: None };
        let mut write_at = Instant::now();
        loop {
            sleep(TURN).await;
            let wanted =
                Some(*self.own.borrow()).filter(|load| seen.borrow().is_published() && *load != Load::default());
            if wanted != written.load && write_at <= Instant::now() {
                write_at = Instant::now() + WRITE;
                told(written.make(wanted).await);
            }
            if self.looked.borrow().is_some_and(|at| at.elapsed() < INTEREST) {
                told(self.read(&client, &directory, &seen).await);
            } else {
                // Whoever looks next is not shown what was long ago.
                self.known.send_replace(BTreeMap::new());
            }
        }
    }

    async fn read(&self, client: &Client, directory: &Directory, seen: &watch::Receiver<Seen>) -> Result<(), Error> {
        let ids = seen.borrow().nodes.iter().flatten().map(|node| node.id()).collect();
        self.known.send_replace(directory.loads(client, ids).await?);
        Ok(())
    }
}

/// It is no harm: what others have to do is only shown.
fn told(result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::debug!("what nodes have to do is not exchanged: {error}");
    }
}

/// What this node has written.
struct Written {
    client: Client,
    path: String,
    /// Whether what is there ends with this session, and not with one before.
    is_ours: bool,
    load: Option<Load>,
}

impl Written {
    /// Makes it what is wanted.
    async fn make(&mut self, wanted: Option<Load>) -> Result<(), Error> {
        self.load = None;
        match wanted {
            Some(load) if self.is_ours => self.client.set_data(&self.path, &load.json(), None).await.map(drop),
            Some(load) => self.create(load).await,
            None => self.delete().await,
        }
        .inspect_err(|_| self.is_ours = false)?;
        (self.is_ours, self.load) = (wanted.is_some(), wanted);
        Ok(())
    }

    async fn create(&self, load: Load) -> Result<(), Error> {
        self.delete().await?;
        let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        self.client.create(&self.path, &load.json(), &ephemeral).await.map(drop)
    }

    async fn delete(&self) -> Result<(), Error> {
        match self.client.delete(&self.path, None).await {
            Err(Error::NoNode) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(registrations: u64) -> Counts {
        Counts { registrations: Some(registrations), ..Counts::default() }
    }

    #[test]
    fn a_rate_is_that_of_the_last_looks() {
        let start = Instant::now();
        let mut meter = Meter::default();
        let mut rate =
            |second: u64, count| meter.take(counts(count), start + Duration::from_secs(second)).registrations;
        assert_eq!(rate(0, 1000), None, "a count alone is no rate");
        assert_eq!(rate(1, 1002), Some(120));
        assert_eq!(rate(10, 1010), Some(60));
        assert_eq!(rate(40, 1010), Some(0), "what was long ago does not count");
        assert_eq!(rate(60, 1011), Some(1));
    }

    #[test]
    fn a_count_that_begins_again_is_no_rate() {
        let start = Instant::now();
        let mut meter = Meter::default();
        let mut rate = |second: u64, count| meter.take(count, start + Duration::from_secs(second)).registrations;
        rate(0, counts(1000));
        assert_eq!(rate(1, counts(3)), None);
        assert_eq!(rate(2, counts(4)), Some(60));
        assert_eq!(rate(3, Counts::default()), None, "Kamailio does not tell");
        assert_eq!(rate(4, counts(4)), None);
    }
}
