//! A subscriber as an operator sees it: no HA1 ever gets here.

use std::collections::BTreeMap;

use domain::digest::{Algorithm, Form};
use serde::Serialize;

use crate::output::{Shown, rfc3339, yes_or_no};

#[derive(Debug, Serialize)]
pub(super) struct View {
    subscriber: String,
    enabled: bool,
    account: String,
    max_contacts: i32,
    max_calls: i32,
    /// Those that it can authenticate with.
    algorithms: Vec<&'static str>,
    attrs: BTreeMap<String, String>,
    updated: Option<String>,
}

impl From<store::Subscriber> for View {
    fn from(subscriber: store::Subscriber) -> Self {
        let known = |algorithm: &Algorithm| subscriber.ha1s.get(*algorithm, Form::User).is_some();
        Self {
            subscriber: subscriber.aor.to_string(),
            enabled: subscriber.enabled,
            account: subscriber.account_id,
            max_contacts: subscriber.max_contacts,
            max_calls: subscriber.max_calls,
            algorithms: Algorithm::ALL.into_iter().filter(known).map(Algorithm::name).collect(),
            attrs: subscriber.attrs,
            updated: subscriber.updated_at.map(rfc3339),
        }
    }
}

impl Shown for View {
    const COLUMNS: &'static [&'static str] =
        &["subscriber", "enabled", "account", "max contacts", "max calls", "algorithms", "attributes", "updated"];
    const LISTED: usize = 6;

    fn cells(&self) -> Vec<String> {
        let attributes: Vec<String> = self.attrs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        vec![
            self.subscriber.clone(),
            yes_or_no(self.enabled),
            self.account.clone(),
            self.max_contacts.to_string(),
            self.max_calls.to_string(),
            self.algorithms.join(", "),
            attributes.join("\n"),
            self.updated.clone().unwrap_or_default(),
        ]
    }
}
