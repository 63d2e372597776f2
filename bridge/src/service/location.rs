//! Bindings: saving and looking them up.

use std::sync::atomic::{AtomicBool, Ordering};

use domain::lookup::{Filter, Selection, Target, Wanted, select};
use domain::register::{Decision, Register, answer_headers, decide};
use domain::{Aor, Binding};
use store::{Store, StoreError};

use super::Service;
use crate::clock;
use crate::metrics::count;
use crate::protocol::{AuthRequest, Lookup, Operation, Outcome, Registered, Verdict};

impl Service {
    pub(super) async fn save(&self, store: &Store, register: &Register) -> Result<Outcome, StoreError> {
        let _order = self.lock(&register.aor).await;
        let existing = store.bindings(&register.aor).await?;
        self.apply(store, register, &existing).await
    }

    pub(super) async fn auth_save(
        &self,
        store: &Store,
        auth: &AuthRequest,
        register: &Register,
    ) -> Result<Outcome, StoreError> {
        if self.accepted_from_memory(auth) {
            return self.save(store, register).await;
        }
        let _order = self.lock(&register.aor).await;
        let (verdict, existing) = Box::pin(self.read_both(store, auth, register)).await;
        match verdict? {
            Verdict::Accepted => self.apply(store, register, &existing?).await,
            refused => Ok(Outcome::Authenticated(refused)),
        }
    }

    /// Boxed where it is used: a task is as large as the longest way through its operation, and this way is seldom gone.
    async fn read_both(
        &self,
        store: &Store,
        auth: &AuthRequest,
        register: &Register,
    ) -> (Result<Verdict, StoreError>, Result<Vec<Binding>, StoreError>) {
        tokio::join!(self.authenticate(store, auth), store.bindings(&register.aor))
    }

    /// Decides what the REGISTER changes and writes it, in the caller's order per AoR.
    async fn apply(&self, store: &Store, register: &Register, existing: &[Binding]) -> Result<Outcome, StoreError> {
        let now = clock::wall();
        let node = self.cluster.get().map_or(&self.config.node, |cluster| &cluster.node);
        let decision = match decide(existing, register, node, now) {
            Ok(decision) => decision,
            Err(rejection) => {
                count(&self.metrics.rejected_regs);
                return Ok(Outcome::Rejected(rejection));
            }
        };
        if !decision.writes.is_empty() {
            store.write_bindings(&register.aor, &decision.writes, now).await?;
        }
        self.wrote(&register.aor, existing, &decision.writes);
        count(&self.metrics.accepted_regs);
        Ok(Outcome::Saved(self.answer(register, existing, &decision, now)))
    }

    fn answer(
        &self,
        register: &Register,
        existing: &[Binding],
        decision: &Decision,
        now: domain::Timestamp,
    ) -> Registered {
        let gruu_key = self.cluster.get().and_then(|cluster| cluster.gruu_key.as_ref());
        Registered { saved: decision.saved, headers: answer_headers(decision, existing, register, gruu_key, now) }
    }

    /// Takes note of what was written: for lookups without Cassandra, for events, for keepalives.
    pub(super) fn wrote(&self, aor: &Aor, existing: &[Binding], writes: &[Binding]) {
        self.take_over(aor, existing, writes);
        let kept = existing.iter().filter(|row| writes.iter().all(|write| write.key != row.key));
        self.last_known.remember(aor, || kept.chain(writes).cloned().collect());
    }

    pub(super) async fn lookup(
        &self,
        store: &Store,
        targets: &[Target],
        filter: &Filter,
    ) -> Result<Vec<Lookup>, StoreError> {
        let mut found = Vec::with_capacity(targets.len());
        for target in targets {
            let lookup = match self.resolve(target) {
                Some(resolved) => {
                    let bindings = store.bindings(resolved.aor()).await?;
                    self.last_known.remember(resolved.aor(), || bindings.clone());
                    resolved.select(bindings, filter)
                }
                None => Lookup::UnknownGruu,
            };
            let hit = matches!(lookup, Lookup::Bindings(_));
            count(if hit { &self.metrics.lookups_found } else { &self.metrics.lookups_missed });
            found.push(lookup);
        }
        Ok(found)
    }

    /// A lookup's answer from what this node has read or written itself, while Cassandra has none: only if it knows usable
    /// bindings of each target.
    pub(super) fn without_backend(&self, operation: &Operation) -> Option<Outcome> {
        static SAID: AtomicBool = AtomicBool::new(false);
        let Operation::Lookup(targets, filter) = operation else { return None };
        let found = targets.iter().map(|target| self.lookup_last_known(target, filter)).collect::<Option<Vec<_>>>()?;
        count(&self.metrics.lookups_stale);
        if !SAID.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "Cassandra does not answer: lookups are answered from what this node remembers, where it does (see the \
                 statistic lookups_stale; this is said once)"
            );
        }
        Some(Outcome::Found(found))
    }

    fn lookup_last_known(&self, target: &Target, filter: &Filter) -> Option<Lookup> {
        let resolved = self.resolve(target)?;
        let bindings = self.last_known.get(resolved.aor())?;
        let lookup = resolved.select(bindings.to_vec(), filter);
        matches!(lookup, Lookup::Bindings(_)).then_some(lookup)
    }

    /// `None` for a temporary GRUU that is not one of ours.
    fn resolve<'t>(&self, target: &'t Target) -> Option<Resolved<'t>> {
        Some(match target {
            Target::Aor(aor) => Resolved::All(aor),
            Target::Instance(aor, instance) => Resolved::Instance(aor, instance),
            Target::Temporary(user, domain) => {
                Resolved::Temporary(self.cluster.get()?.gruu_key.as_ref()?.open(user, domain)?)
            }
        })
    }
}

/// Whose bindings a target means, and which of them.
enum Resolved<'t> {
    All(&'t Aor),
    Instance(&'t Aor, &'t str),
    Temporary(domain::gruu::Temporary),
}

impl Resolved<'_> {
    fn aor(&self) -> &Aor {
        match self {
            Self::All(aor) | Self::Instance(aor, _) => aor,
            Self::Temporary(gruu) => &gruu.aor,
        }
    }

    fn select(&self, bindings: Vec<Binding>, filter: &Filter) -> Lookup {
        let wanted = match self {
            Self::All(_) => Wanted::All,
            Self::Instance(_, instance) => Wanted::Instance(instance),
            Self::Temporary(gruu) => Wanted::Temporary(gruu),
        };
        match select(bindings, wanted, filter, clock::wall()) {
            Selection::Found(bindings) => Lookup::Bindings(bindings),
            Selection::NotRegistered => Lookup::NotRegistered,
            Selection::MethodNotAllowed => Lookup::MethodNotAllowed,
        }
    }
}
