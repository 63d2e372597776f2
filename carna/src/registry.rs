//! ZooKeeper: what this node says there, and who else is there.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use zookeeper_client::{
    Acls, AddWatchMode, Client, CreateMode, Error, EventType, PersistentWatcher, SessionState, WatchedEvent,
};

use crate::loads::Loads;
use fleet::directory::Published;
use fleet::{Announcement, Directory, NodeId};

/// Changes that come one after the other are read together.
const COALESCED: Duration = Duration::from_millis(300);
/// All is read again so often, whatever was told.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// Pause between two attempts to have a session.
const RETRY: Duration = Duration::from_secs(1);

/// How to find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Servers, `host:port,...`.
    pub servers: String,
    /// Where all nodes are.
    pub directory: Directory,
    /// So long after the last sign of life a node is not there any more.
    pub session_timeout: Duration,
}

/// What is known of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Who is there; `None` until that was read once.
    pub nodes: Option<Vec<Announcement>>,
    /// Whether there is a session just now. While there is none, who was there is what is known.
    pub is_connected: bool,
    /// Since when this node is published, if it is.
    pub published_since: Option<Instant>,
}

impl Seen {
    /// Whether this node is published.
    pub fn is_published(&self) -> bool {
        self.published_since.is_some()
    }

    /// Since when it is, if that is now so.
    fn since(&self, is_published: bool) -> Option<Instant> {
        is_published.then(|| self.published_since.unwrap_or_else(Instant::now))
    }
}

/// Publishes what `own` holds as long as it holds something, and tells in `seen` who is there, until `own` is gone. Then this node is
/// withdrawn, too. Meanwhile what there is to do is exchanged as well.
pub async fn keep(
    config: RegistryConfig,
    own: watch::Receiver<Option<Announcement>>,
    seen: watch::Sender<Seen>,
    loads: Loads,
) {
    loop {
        // In a task of its own: a panic of the client library is the end of one session, not of them all.
        let ended = tokio::spawn(session(config.clone(), own.clone(), seen.clone(), loads.clone())).await;
        seen.send_modify(|seen| (seen.is_connected, seen.published_since) = (false, None));
        let why = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        tracing::warn!("no ZooKeeper session at {}: {why}; the last known nodes stay", config.servers);
        sleep(RETRY).await;
    }
}

/// One session from its beginning to its end. `Ok`: nothing is to be published any more.
async fn session(
    config: RegistryConfig,
    mut own: watch::Receiver<Option<Announcement>>,
    seen: watch::Sender<Seen>,
    loads: Loads,
) -> Result<(), Error> {
    let connector = Client::connector().with_session_timeout(config.session_timeout);
    let client = connector.connect(&config.servers).await?;
    tracing::info!("ZooKeeper session {}, timeout {:?}", client.session_id(), client.session_timeout());
    let mut loads = pin!(loads.exchange(client.clone(), config.directory.clone(), seen.subscribe()));
    let mut registry = Registry::open(client, config.directory).await?;
    let mut state = registry.client.state_watcher();
    let mut read_at = Instant::now();
    loop {
        tokio::select! {
            changed = state.changed() => match changed {
                SessionState::SyncConnected => {
                    // What happened meanwhile was told to nobody.
                    registry.watch().await?;
                    registry.unread.add_all();
                    read_at = Instant::now();
                }
                SessionState::Disconnected => seen.send_modify(|seen| seen.is_connected = false),
                SessionState::Expired => return Err(Error::SessionExpired),
                _ => return Err(Error::ClientClosed),
            },
            event = registry.watcher.changed() => {
                // It must not be asked again: nothing comes after the end of the session.
                if event.session_state.is_terminated() {
                    return Err(Error::SessionExpired);
                }
                registry.note(&event);
                read_at = read_at.min(Instant::now() + COALESCED);
            }
            changed = own.changed() => {
                if changed.is_err() {
                    registry.withdraw().await?;
                    return Ok(());
                }
                let wanted = own.borrow_and_update().clone();
                registry.publish(wanted).await?;
                seen.send_modify(|seen| seen.published_since = seen.since(registry.published.is_some()));
            }
            () = &mut loads => {}
            () = sleep_until(read_at) => {
                if registry.unread.is_empty() {
                    registry.unread.add_all();
                }
                registry.read().await?;
                let wanted = own.borrow().clone();
                registry.publish(wanted).await?;
                seen.send_if_modified(|seen| {
                    let now = Seen {
                        nodes: Some(registry.nodes.values().cloned().collect()),
                        is_connected: true,
                        published_since: seen.since(registry.published.is_some()),
                    };
                    let is_new = *seen != now;
                    *seen = now;
                    is_new
                });
                read_at = Instant::now() + READ_AGAIN;
            }
        }
    }
}

/// What is to be read again.
#[derive(Debug, Default)]
struct Unread {
    all: bool,
    nodes: BTreeSet<NodeId>,
}

impl Unread {
    fn add_all(&mut self) {
        self.all = true;
    }

    fn is_empty(&self) -> bool {
        !self.all && self.nodes.is_empty()
    }
}

struct Registry {
    client: Client,
    directory: Directory,
    watcher: PersistentWatcher,
    unread: Unread,
    nodes: BTreeMap<NodeId, Announcement>,
    /// What is wrong in znodes, told once.
    complaints: BTreeMap<NodeId, String>,
    published: Option<Announcement>,
    /// Whether somebody else has this node's name.
    is_contested: bool,
}

impl Registry {
    async fn open(client: Client, directory: Directory) -> Result<Self, Error> {
        directory.make(&client).await?;
        let watcher = client.watch(directory.root(), AddWatchMode::PersistentRecursive).await?;
        let mut unread = Unread::default();
        unread.add_all();
        let (nodes, complaints) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { client, directory, watcher, unread, nodes, complaints, published: None, is_contested: false })
    }

    /// Has the server tell of changes again: the client does not do so after it has moved to another server.
    async fn watch(&mut self) -> Result<(), Error> {
        self.watcher = self.client.watch(self.directory.root(), AddWatchMode::PersistentRecursive).await?;
        Ok(())
    }

    /// Takes note of what has to be read.
    fn note(&mut self, event: &WatchedEvent) {
        match self.directory.id(&event.path) {
            Some(id) => drop(self.unread.nodes.insert(id)),
            None if event.event_type == EventType::Session => {}
            None => self.unread.add_all(),
        }
    }

    /// Reads what has to be read. What is no announcement is as if it were not there.
    async fn read(&mut self) -> Result<(), Error> {
        let ids: Vec<NodeId> = if self.unread.all {
            self.directory.list(&self.client).await?
        } else {
            self.unread.nodes.iter().cloned().collect()
        };
        let found = self.directory.read(&self.client, ids).await?;
        if self.unread.all {
            self.nodes.clear();
        }
        for (id, published) in found {
            self.take(id, published);
        }
        self.unread = Unread::default();
        Ok(())
    }

    fn take(&mut self, id: NodeId, published: Published) {
        match published {
            Some(Ok(announcement)) => {
                self.complaints.remove(&id);
                self.nodes.insert(id, announcement);
            }
            Some(Err(sentence)) => {
                self.nodes.remove(&id);
                if self.complaints.get(&id) != Some(&sentence) {
                    tracing::warn!("what is at {} is not believed: {sentence}", self.directory.path(&id));
                    self.complaints.insert(id, sentence);
                }
            }
            None => {
                self.complaints.remove(&id);
                self.nodes.remove(&id);
            }
        }
    }

    /// Makes what is published of this node what is wanted, unless somebody else has its name.
    async fn publish(&mut self, wanted: Option<Announcement>) -> Result<(), Error> {
        let Some(wanted) = wanted else { return self.withdraw().await };
        let (id, path) = (wanted.id(), self.directory.path(&wanted.id()));
        let there = self.client.check_stat(&path).await?;
        let is_contested = there.is_some_and(|there| there.ephemeral_owner != self.client.session_id().0);
        if is_contested {
            if !self.is_contested {
                tracing::warn!("another node is {id}, or was a moment ago: this one is not published until it is gone");
            }
            self.published = None;
        } else if there.is_none() {
            let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
            match self.client.create(&path, &wanted.json(), &ephemeral).await {
                Ok(_) => self.is_now(wanted),
                // That will be told, and then it is looked at again.
                Err(Error::NodeExists) => {}
                Err(error) => return Err(error),
            }
        } else if self.published.as_ref() != Some(&wanted) || self.nodes.get(&id).is_some_and(|seen| *seen != wanted) {
            self.client.set_data(&path, &wanted.json(), None).await?;
            self.is_now(wanted);
        }
        self.is_contested = is_contested;
        Ok(())
    }

    fn is_now(&mut self, published: Announcement) {
        tracing::info!("published as {}, {}", published.id(), published.state.name());
        self.published = Some(published);
    }

    /// Takes this node away, if it is there.
    async fn withdraw(&mut self) -> Result<(), Error> {
        let Some(published) = self.published.take() else { return Ok(()) };
        match self.client.delete(&self.directory.path(&published.id()), None).await {
            Ok(()) => tracing::info!("withdrawn as {}", published.id()),
            Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
