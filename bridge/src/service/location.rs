//! Bindings: saving and looking them up.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::lookup::{Filter, Selection, Target, Wanted, select};
use domain::register::{Decision, Policy, Register, answer_headers, decide};
use domain::{Aor, Binding, Timestamp};
use futures::future::try_join_all;
use store::{Store, StoreError};
use tokio::time::Instant;

use super::Service;
use crate::clock::{self, Monotonic};
use crate::credentials::Question;
use crate::metrics::count;
use crate::protocol::{AuthRequest, Grant, Lookup, Operation, Outcome, Registered, Verdict};

impl Service {
    pub(super) async fn save(
        &self,
        store: &Store,
        register: &Register,
        grant: Option<Grant>,
    ) -> Result<Outcome, StoreError> {
        let _order = self.lock(&register.aor).await;
        let existing = store.bindings(&register.aor).await?;
        self.apply(store, register, &existing, grant).await
    }

    pub(super) async fn auth_save(
        &self,
        store: &Store,
        auth: &AuthRequest,
        register: &Register,
        deadline: Monotonic,
    ) -> Result<Outcome, StoreError> {
        let asked = Instant::now();
        if let Some(verdict) = self.accepted_from_memory(auth) {
            return self.save_if_accepted(store, verdict, register).await;
        }
        if let Some(saved) = Box::pin(self.read_both(store, auth, register, asked)).await? {
            return Ok(saved);
        }
        // In no order with other operations: who guesses must not hold up the owner.
        let verdict = self.authenticate(store, auth, asked, deadline).await?;
        self.save_if_accepted(store, verdict, register).await
    }

    async fn save_if_accepted(
        &self,
        store: &Store,
        verdict: Verdict,
        register: &Register,
    ) -> Result<Outcome, StoreError> {
        match verdict {
            Verdict::Accepted(grant) => self.save(store, register, Some(grant)).await,
            refused => Ok(Outcome::Authenticated(refused)),
        }
    }

    /// Saves what needs credentials that must be read: with the bindings in parallel. `None` when they are refused, or a read
    /// has refused others just now.
    ///
    /// Boxed where it is used: a task is as large as the longest way through its operation, and this way is seldom gone.
    async fn read_both(
        &self,
        store: &Store,
        auth: &AuthRequest,
        register: &Register,
        asked: Instant,
    ) -> Result<Option<Outcome>, StoreError> {
        if self.credentials.refused_just_now(&auth.aor) {
            return Ok(None);
        }
        let _order = self.lock(&register.aor).await;
        // Somebody who was here before may have read them.
        match self.accepted_from_memory(auth) {
            Some(Verdict::Accepted(grant)) => {
                let existing = store.bindings(&register.aor).await?;
                return self.apply(store, register, &existing, Some(grant)).await.map(Some);
            }
            Some(refused) => return Ok(Some(Outcome::Authenticated(refused))),
            None if self.credentials.refused_just_now(&auth.aor) => return Ok(None),
            None => {}
        }
        let question = Question { aor: &auth.aor, asked, patience: None };
        let (verdict, existing) = tokio::join!(self.compare(store, question, auth), store.bindings(&register.aor));
        let verdict = verdict?;
        let Verdict::Accepted(grant) = &verdict else { return Ok(None) };
        self.settle(auth, &verdict);
        self.apply(store, register, &existing?, Some(grant.clone())).await.map(Some)
    }

    /// Decides what the REGISTER changes and writes it, in the caller's order per AoR.
    async fn apply(
        &self,
        store: &Store,
        register: &Register,
        existing: &[Binding],
        grant: Option<Grant>,
    ) -> Result<Outcome, StoreError> {
        let now = clock::wall();
        let register = &*within_limit_of(register, grant.as_ref());
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
        let headers = self.answer_headers(register, existing, &decision, now);
        Ok(Outcome::Saved(Registered { saved: decision.saved, headers, grant }))
    }

    fn answer_headers(
        &self,
        register: &Register,
        existing: &[Binding],
        decision: &Decision,
        now: Timestamp,
    ) -> Vec<(String, String)> {
        let gruu_key = self.cluster.get().and_then(|cluster| cluster.gruu_key.as_ref());
        answer_headers(decision, existing, register, gruu_key, now)
    }

    /// Takes note of what was written: for lookups without Cassandra, for events, for keepalives.
    pub(super) fn wrote(&self, aor: &Aor, existing: &[Binding], writes: &[Binding]) {
        self.take_over(aor, existing, writes);
        let kept = existing.iter().filter(|row| writes.iter().all(|write| write.key != row.key));
        self.last_known.remember(aor, || kept.chain(writes).cloned().collect());
    }

    /// Looks up all targets at once: as many steps for several as for one.
    pub(super) async fn lookup(
        &self,
        store: &Store,
        targets: &[Target],
        filter: &Filter,
    ) -> Result<Vec<Lookup>, StoreError> {
        match targets {
            [target] => Ok(vec![self.lookup_one(store, target, filter).await?]),
            targets => try_join_all(targets.iter().map(|target| self.lookup_one(store, target, filter))).await,
        }
    }

    async fn lookup_one(&self, store: &Store, target: &Target, filter: &Filter) -> Result<Lookup, StoreError> {
        let lookup = match self.resolve(target) {
            Some(resolved) => {
                let bindings = store.bindings(resolved.aor()).await?;
                self.last_known.remember_read(resolved.aor(), &bindings);
                resolved.select(bindings, filter)
            }
            None => Lookup::UnknownGruu,
        };
        let hit = matches!(lookup, Lookup::Bindings(_));
        count(if hit { &self.metrics.lookups_found } else { &self.metrics.lookups_missed });
        Ok(lookup)
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

/// A subscriber's own number of bindings beats the registrar's.
fn within_limit_of<'r>(register: &'r Register, grant: Option<&Grant>) -> Cow<'r, Register> {
    match grant {
        Some(grant) if grant.max_contacts > 0 => {
            let policy = Policy { max_contacts: grant.max_contacts, ..register.policy.clone() };
            Cow::Owned(Register { policy, ..register.clone() })
        }
        _ => Cow::Borrowed(register),
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
