//! The way to FreeSWITCH: its event socket (mod_event_socket), inbound, as long as there is one.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use freeswitch_esl_tokio::{
    ConnectionStatus, EslClient, EslConnectOptions, EslError, EslEvent, EslEventType, EventFormat,
};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::config::Secret;

/// What is told of channels.
const CHANNELS: [EslEventType; 4] = [
    EslEventType::ChannelCreate,
    EslEventType::ChannelAnswer,
    EslEventType::ChannelBridge,
    EslEventType::ChannelHangupComplete,
];
/// Events that may wait here for a moment.
const QUEUE: usize = 10_000;
/// How long an answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long it may say nothing: it is asked for its status all the time.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// The first pause before the next attempt to connect, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What comes by an event socket.
pub(crate) enum Seen<'e> {
    /// Events come from now on. What happened before was told to nobody; these channels are there, if that is known.
    Beginning(Option<HashSet<String>>),
    /// An event.
    Event(&'e EslEvent),
}

/// An event socket, which is connected again when it ends.
#[derive(Debug)]
pub(crate) struct EventSocket {
    client: watch::Receiver<Option<EslClient>>,
    task: JoinHandle<()>,
}

impl EventSocket {
    /// That of a FreeSWITCH which is there, now or later. What is seen goes to `take`.
    pub(crate) fn open(address: SocketAddr, password: Secret, take: impl FnMut(Seen<'_>) + Send + 'static) -> Self {
        let (tell, client) = watch::channel(None);
        Self { client, task: tokio::spawn(keep(address, password, tell, take)) }
    }

    /// Has it run a command of its API, and gives what that says.
    ///
    /// # Errors
    /// There is no connection, no answer, or a refusal.
    pub(crate) async fn api(&self, command: &str) -> Result<String> {
        let client = self.client.borrow().clone().context("its event socket is not connected")?;
        let answer = client.api(command).await.with_context(|| format!("no answer to '{command}'"))?;
        Ok(answer.api_result().with_context(|| format!("'{command}' is refused"))?.to_owned())
    }

    /// Takes nothing more.
    pub(crate) async fn close(&self) {
        self.task.abort();
        let client = self.client.borrow().clone();
        if let Some(client) = client {
            let _ = client.disconnect().await; // it may be gone
        }
    }
}

/// Connects again and again, for ever.
async fn keep(
    address: SocketAddr,
    password: Secret,
    tell: watch::Sender<Option<EslClient>>,
    mut take: impl FnMut(Seen<'_>) + Send,
) {
    let (mut pause, mut complaint) = (FIRST_PAUSE, String::new());
    loop {
        let ended = session(address, &password, &tell, &mut take).await;
        let was_connected = tell.send_replace(None).is_some();
        let why = ended.unwrap_or_else(|error| error.to_string());
        if was_connected {
            pause = FIRST_PAUSE;
        }
        // While it starts, or has another password, each attempt fails the same way.
        if was_connected || why != complaint {
            tracing::warn!("no event socket at {address}: {why}");
        }
        complaint = why;
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One connection from its beginning to its end. Gives why it ended.
async fn session(
    address: SocketAddr,
    password: &Secret,
    tell: &watch::Sender<Option<EslClient>>,
    take: &mut (impl FnMut(Seen<'_>) + Send),
) -> Result<String, EslError> {
    let options = EslConnectOptions::new().with_event_queue_size(QUEUE).with_connect_timeout(ANSWER_LIMIT);
    let host = address.ip().to_string();
    let (client, mut events) = EslClient::connect_with_options(&host, address.port(), password.text(), options).await?;
    client.set_command_timeout(ANSWER_LIMIT);
    client.set_liveness_timeout(SILENCE_LIMIT);
    // Before that: who ends in between may be thought to be there, but does not end twice.
    take(Seen::Beginning(channels(&client).await));
    client.subscribe_events(EventFormat::Json, CHANNELS).await?;
    tracing::info!("connected with the event socket at {address}");
    tell.send_replace(Some(client.clone()));
    while let Some(event) = events.recv().await {
        match event {
            Ok(event) => take(Seen::Event(&event)),
            // One that cannot be read, or that had no room: those after it can.
            Err(error) => tracing::error!("events of channels are lost: {error}"),
        }
    }
    Ok(match client.status() {
        ConnectionStatus::Disconnected(reason) => reason.to_string(),
        _ => "it has ended".to_owned(),
    })
}

/// What `show channels as json` says.
#[derive(Debug, Deserialize)]
struct Shown {
    /// Not there when there is none.
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    uuid: String,
}

/// The channels that are there, by their unique ids; `None` when it does not say.
async fn channels(client: &EslClient) -> Option<HashSet<String>> {
    let answer = client.api("show channels as json").await.ok()?;
    let shown: Shown = serde_json::from_str(answer.api_result().ok()?).ok()?;
    Some(shown.rows.into_iter().map(|row| row.uuid).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const WELCOME: &str = "Content-Type: auth/request\n\n";
    const ACCEPTED: &str = "Content-Type: command/reply\nReply-Text: +OK accepted\n\n";
    /// A password, a question, and what is to be told.
    const COMMANDS: usize = 3;

    fn password() -> Secret {
        serde_json::from_str("\"secret\"").expect("text")
    }

    /// Says this to whoever connects, and ends the connection when the other side has nothing more to say.
    async fn say(mut stream: TcpStream, said: &[u8]) {
        let _ = stream.write_all(said).await;
        let mut heard = [0; 1024];
        while let Ok(Ok(1..)) = timeout(Duration::from_millis(100), stream.read(&mut heard)).await {}
    }

    /// Has whoever connects log in and do all that comes before events.
    async fn let_in(stream: &mut TcpStream) {
        let mut heard = [0; 1024];
        let _ = stream.write_all(WELCOME.as_bytes()).await;
        for _ in 0..COMMANDS {
            let _ = stream.read(&mut heard).await;
            let _ = stream.write_all(ACCEPTED.as_bytes()).await;
        }
    }

    /// Whether an event socket at which this was said, to somebody who was let in or not, is connected again.
    async fn comes_again_after(is_let_in: bool, said: Vec<u8>) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = EventSocket::open(listener.local_addr().expect("bound"), password(), |_| {});
        let (mut first, _) = listener.accept().await.expect("connected");
        if is_let_in {
            let_in(&mut first).await;
        }
        say(first, &said).await;
        let again = timeout(SOON, listener.accept()).await.is_ok();
        socket.close().await;
        again
    }

    #[tokio::test]
    async fn whatever_is_said_it_is_connected_again() {
        let event = |length: &str, body: &str| {
            (true, format!("Content-Length: {length}\nContent-Type: text/event-json\n\n{body}"))
        };
        let texts = [
            (false, String::new()),
            (false, "SSH-2.0-OpenSSH_9.2\n\n".to_owned()),
            (false, format!("{WELCOME}Content-Type: command/reply\nReply-Text: -ERR invalid\n\n")),
            (false, "Content-Type: text/rude-rejection\nContent-Length: 24\n\nAccess Denied, go away.\n".to_owned()),
            (false, format!("{WELCOME}{ACCEPTED}{ACCEPTED}{ACCEPTED}")),
            event("99999999999999999999", ""),
            event("4294967296", "{}"),
            event("-1", "{}"),
            event("2", "[]"),
            event("40", "{"),
            (true, "x".repeat(100_000)),
            (true, "Content-Type: text/disconnect-notice\nContent-Length: 5\n\nbye.\n".to_owned()),
        ];
        let mut cases = JoinSet::new();
        for (is_let_in, text) in texts {
            cases.spawn(async move { (comes_again_after(is_let_in, text.clone().into_bytes()).await, text) });
        }
        while let Some(case) = cases.join_next().await {
            let (again, text) = case.expect("no panic");
            assert!(again, "not after {text:.200}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn whatever_bytes_come_it_is_connected_again(
            is_let_in: bool,
            start in prop_oneof![Just(""), Just(WELCOME), Just("Content-Type: text/event-json\nContent-Length: 20\n\n")],
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let said = [start.as_bytes(), &bytes, b"\n\n"].concat();
            prop_assert!(runtime.block_on(comes_again_after(is_let_in, said)));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_costs_no_other_event() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let names = seen.clone();
        let take = move |what: Seen<'_>| {
            let name = match what {
                Seen::Beginning(_) => "beginning",
                Seen::Event(event) => freeswitch_esl_tokio::HeaderLookup::unique_id(event).unwrap_or_default(),
            };
            names.lock().expect("no panic").push(name.to_owned());
        };
        let _socket = EventSocket::open(listener.local_addr().expect("bound"), password(), take);
        let (mut stream, _) = listener.accept().await.expect("connected");
        let_in(&mut stream).await;
        let event = |body: &str| format!("Content-Length: {}\nContent-Type: text/event-json\n\n{body}", body.len());
        let events = event("{\"Unique-ID\":\"a\"}") + &event("{\"Unique-ID\"") + &event("{\"Unique-ID\":\"b\"}");
        say(stream, events.as_bytes()).await;
        assert_eq!(*seen.lock().expect("no panic"), ["beginning", "a", "b"]);
    }
}
