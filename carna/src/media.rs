//! A FreeSWITCH, seen from outside: what its event socket tells and takes, and what happens to its channels, for the records of calls.

mod channels;
mod event_socket;
mod history;
mod status;

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};

use crate::config::Config;
use crate::health::{Counts, Look, Work};
use crate::log;
use crate::options;
use channels::Channels;
use event_socket::{EventSocket, Seen};
use history::History;
pub use history::HistoryConfig;
use status::Status;

/// The FreeSWITCH of a media node.
#[derive(Debug)]
pub struct FreeSwitch {
    address: Option<SocketAddr>,
    socket: EventSocket,
    /// `None`: nobody is told of its channels.
    history: Option<History>,
}

impl FreeSwitch {
    /// That of a node of this configuration, whose name this is. From now on what happens to its channels is recorded, whenever it is
    /// there. To be called in a runtime.
    ///
    /// # Errors
    /// Something is missing in the configuration, or cannot be read.
    pub fn new(config: &Config, name: &str) -> Result<Self> {
        let media = config.media.as_ref().context("[media] is missing: it says where the event socket is")?;
        let history = config.history()?.map(History::start);
        if history.is_none() {
            tracing::warn!("there is no [cassandra]: what happens to channels is not recorded");
        }
        let taker = history.as_ref().map(History::taker);
        let mut channels = Channels::new(name, &config.node.dc);
        let take = move |seen: Seen<'_>| {
            let events = match seen {
                Seen::Beginning(there) => channels.begin(there.as_ref(), now()),
                Seen::Event(event) => channels.take(event).into_iter().collect(),
            };
            for event in events {
                tracing::info!(target: log::CALLS, "call {}", event.json());
                if let Some(taker) = &taker {
                    taker.take(event);
                }
            }
        };
        let socket = EventSocket::open(media.event_socket, media.password()?, take);
        Ok(Self { address: config.asked_at(), socket, history })
    }

    /// Looks at it: it answers OPTIONS, and is ready by its own account. One that is full is not ill: dispatchers take the next one.
    pub async fn look(&self) -> Look {
        let looked = async {
            let status = self.socket.api("status").await?;
            let status = Status::parse(&status).ok_or_else(|| anyhow!("its status is none: {status}"))?;
            anyhow::Ok((status, options::refusal(self.address).await?))
        };
        let (status, refusal) = match looked.await {
            Ok(looked) => looked,
            Err(error) => return Look { trouble: Some(format!("{error:#}")), ..Look::default() },
        };
        let trouble = if status.is_ready { refusal.filter(|_| !status.is_full()) } else { Some(NOT_READY.to_owned()) };
        let (events, spooled) = self.history.as_ref().map_or((0, 0), |history| (history.waiting(), history.spooled()));
        let at_work = Work { sessions: status.sessions, events, spooled, ..Work::default() };
        let counts = Counts { sessions: Some(status.sessions), max_sessions: status.most, ..Counts::default() };
        Look { is_alive: true, trouble, at_work: Some(at_work), counts }
    }

    /// Has it refuse new calls. Those that it has go on, and may call others.
    ///
    /// # Errors
    /// It does not take the command.
    pub async fn refuse(&self) -> Result<()> {
        self.socket.api("fsctl pause inbound").await.map(drop)
    }

    /// Has it end as soon as it has no session: to be told when it has none, since until then it answers nothing else.
    ///
    /// # Errors
    /// It does not take the command.
    pub async fn end(&self) -> Result<()> {
        self.socket.api("fsctl shutdown elegant").await.map(drop)
    }

    /// Sees to it that what is known of its channels is in Cassandra or on the disk.
    pub async fn close(&self) {
        self.socket.close().await;
        if let Some(history) = &self.history {
            history.close().await;
        }
    }
}

/// Microseconds since the Unix epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

const NOT_READY: &str = "it says that it is not ready: paused, or about to end";
