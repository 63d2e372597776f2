//! `sipctl registrations`.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use domain::lookup::is_current;
use domain::{Aor, Binding, Timestamp};
use serde_json::Value;

use crate::connection::Connection;
use crate::output::Output;

/// Show where a subscriber is registered.
#[derive(Debug, Args)]
pub(crate) struct Registrations {
    /// Address-of-record.
    aor: Aor,
    /// Also show rows that have lapsed or were removed.
    #[arg(long)]
    all: bool,
}

const COLUMNS: [&str; 8] = ["contact", "expires", "q", "path", "received", "user agent", "dc", "registrar"];

impl Registrations {
    pub(crate) async fn run(&self, connection: &Connection, output: &Output) -> anyhow::Result<()> {
        let now = now();
        let bindings = connection.admin().await?.store().bindings(&self.aor).await?;
        let shown = bindings.iter().filter(|binding| self.all || is_current(binding, now));
        output.rows(&COLUMNS, &shown.map(|binding| row(binding, now)).collect::<Vec<_>>());
        Ok(())
    }
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

fn row(binding: &Binding, now: Timestamp) -> Vec<Value> {
    vec![
        binding.contact.clone().into(),
        if is_current(binding, now) { binding.expires_at.seconds_after(now).into() } else { 0.into() },
        if binding.q < 0 { Value::String(String::new()) } else { (f64::from(binding.q) / 1000.0).into() },
        binding.path.clone().into(),
        binding.received.clone().into(),
        binding.user_agent.clone().into(),
        binding.dc.clone().into(),
        binding.registrar.clone().into(),
    ]
}
