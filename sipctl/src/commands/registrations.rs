//! `sipctl registrations`.

use clap::Args;
use domain::lookup::is_current;
use domain::{Aor, Binding, BindingState, Timestamp};
use serde::Serialize;

use super::now;
use crate::connection::Connection;
use crate::output::{Output, Shown, rfc3339};

/// Show where a subscriber is registered.
#[derive(Debug, Args)]
pub(crate) struct Registrations {
    /// Address-of-record.
    aor: Aor,
    /// Also show rows that have lapsed or were removed.
    #[arg(long)]
    all: bool,
}

impl Registrations {
    pub(crate) async fn run(&self, connection: &Connection, output: &Output) -> anyhow::Result<()> {
        let now = now();
        let bindings = connection.admin().await?.store().bindings(&self.aor).await?;
        let shown = bindings.iter().filter(|binding| self.all || is_current(binding, now));
        let registrations: Vec<_> = shown.map(|binding| Registration::of(binding, now)).collect();
        output.list(&registrations, &format!("{} is not registered.", self.aor));
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Live,
    Lapsed,
    Removed,
}

impl State {
    fn of(binding: &Binding, now: Timestamp) -> Self {
        match binding.state {
            BindingState::Removed => Self::Removed,
            BindingState::Live if is_current(binding, now) => Self::Live,
            BindingState::Live => Self::Lapsed,
        }
    }
}

/// A binding as an operator sees it.
#[derive(Debug, Serialize)]
struct Registration<'a> {
    contact: &'a str,
    state: State,
    /// Seconds that are left.
    expires: u32,
    q: Option<f64>,
    path: &'a str,
    received: &'a str,
    socket: &'a str,
    user_agent: &'a str,
    instance: &'a str,
    reg_id: u32,
    dc: &'a str,
    registrar: &'a str,
    call_id: &'a str,
    cseq: u32,
    registered: String,
}

impl<'a> Registration<'a> {
    fn of(binding: &'a Binding, now: Timestamp) -> Self {
        let state = State::of(binding, now);
        Self {
            contact: &binding.contact,
            state,
            expires: if matches!(state, State::Live) { binding.expires_at.seconds_after(now) } else { 0 },
            q: (binding.q >= 0).then(|| f64::from(binding.q) / 1000.0),
            path: &binding.path,
            received: &binding.received,
            socket: &binding.socket,
            user_agent: &binding.user_agent,
            instance: &binding.instance,
            reg_id: binding.reg_id,
            dc: &binding.dc,
            registrar: &binding.registrar,
            call_id: &binding.call_id,
            cseq: binding.cseq,
            registered: rfc3339(binding.registered_at),
        }
    }

    fn expiry(&self) -> String {
        match self.state {
            State::Live => format!("{} s", self.expires),
            State::Lapsed => "lapsed".to_owned(),
            State::Removed => "removed".to_owned(),
        }
    }

    /// What else there is, each on a line.
    fn details(&self) -> String {
        let reg_id = if self.reg_id > 0 { self.reg_id.to_string() } else { String::new() };
        let registrar = [self.dc, self.registrar].join(" ");
        let q = self.q.map(|q| q.to_string()).unwrap_or_default();
        let parts = [
            ("q ", q.as_str()),
            ("path ", self.path),
            ("received ", self.received),
            ("socket ", self.socket),
            ("agent ", self.user_agent),
            ("", self.instance),
            ("reg-id ", &reg_id),
            ("registrar ", registrar.trim()),
        ];
        let present = parts.iter().filter(|(_, text)| !text.is_empty());
        present.map(|(label, text)| format!("{label}{text}")).collect::<Vec<_>>().join("\n")
    }
}

impl Shown for Registration<'_> {
    const COLUMNS: &'static [&'static str] = &["contact", "expires", "details"];

    fn cells(&self) -> Vec<String> {
        vec![self.contact.to_owned(), self.expiry(), self.details()]
    }
}
