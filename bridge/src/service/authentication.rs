//! Authentication: comparing credentials with subscribers, remembered or read, and slowing those who guess.

use domain::Aor;
use domain::digest::{Ha1, proof, verify};
use store::{Store, StoreError, Subscriber};
use tokio::time::Instant;

use super::Service;
use crate::attributes::{self, Attributes};
use crate::clock::Monotonic;
use crate::credentials::Question;
use crate::metrics::count;
use crate::protocol::{AuthRequest, Grant, Housekeeping, Operation, Outcome, Report, Verdict};

impl Service {
    /// Whether the credentials are right by what is remembered; only a fresh read can refuse them.
    pub(super) fn accepted_from_memory(&self, request: &AuthRequest) -> Option<Verdict> {
        let verdict = self.credentials.accepted(&request.aor, |subscriber| self.judge(subscriber, request))?;
        self.settle(request, &verdict);
        Some(verdict)
    }

    pub(super) async fn authenticate(
        &self,
        store: &Store,
        request: &AuthRequest,
        asked: Instant,
        deadline: Monotonic,
    ) -> Result<Verdict, StoreError> {
        let patience = if request.may_wait { self.patience(deadline) } else { None };
        let question = Question { aor: &request.aor, asked, patience };
        let verdict = self.compare(store, question, request).await?;
        self.settle(request, &verdict);
        Ok(verdict)
    }

    /// Until when a read may begin and still be answered before the deadline.
    fn patience(&self, deadline: Monotonic) -> Option<Instant> {
        let left = deadline.remaining()?.checked_sub(self.config.store.request_timeout)?;
        Some(Instant::now() + left)
    }

    pub(super) async fn compare(
        &self,
        store: &Store,
        question: Question<'_>,
        request: &AuthRequest,
    ) -> Result<Verdict, StoreError> {
        let judged = self.credentials.check(store, question, |subscriber| self.judge(subscriber, request)).await?;
        Ok(judged.unwrap_or_else(|refused| refused))
    }

    /// Compares the response with the subscriber's HA1, unless somebody has guessed too often; `Err` is a refusal. An unknown
    /// user costs the same computation.
    fn judge(&self, subscriber: Option<&Subscriber>, request: &AuthRequest) -> Result<Verdict, Verdict> {
        if self.guard.refuses(&request.source, &request.aor) {
            return Err(Verdict::WrongPassword);
        }
        let algorithm = request.credentials.algorithm;
        let enabled = subscriber.filter(|subscriber| subscriber.enabled);
        let known = enabled.and_then(|subscriber| subscriber.ha1s.get(algorithm, request.form));
        let nobody = Ha1::dummy(algorithm);
        let right = verify(&request.credentials, &request.method, known.unwrap_or(&nobody));
        match (enabled, known, right) {
            (Some(subscriber), Some(ha1), true) => Ok(self.grant(subscriber, ha1, request)),
            (Some(_), _, _) => Err(Verdict::WrongPassword),
            (None, _, _) => Err(Verdict::UnknownUser),
        }
    }

    fn grant(&self, subscriber: &Subscriber, ha1: &Ha1, request: &AuthRequest) -> Verdict {
        if request.stale {
            return Verdict::StaleNonce;
        }
        Verdict::Accepted(Grant {
            attributes: attributes::values(&self.config.attributes, subscriber),
            max_contacts: u32::try_from(subscriber.max_contacts).unwrap_or_default(),
            proof: request.wants_proof.then(|| proof(&request.credentials, ha1)),
        })
    }

    /// Counts a verdict, and holds it for or against those who asked.
    pub(super) fn settle(&self, request: &AuthRequest, verdict: &Verdict) {
        match verdict {
            Verdict::Accepted(_) => {
                count(&self.metrics.auth_accepted);
                self.guard.accepted(&request.source, &request.aor);
            }
            Verdict::StaleNonce => count(&self.metrics.auth_stale),
            Verdict::WrongPassword | Verdict::UnknownUser => {
                count(&self.metrics.auth_refused);
                self.guard.failed(&request.source, &request.aor);
            }
        }
    }

    /// The answer to those who have guessed too often: the one to a wrong password.
    pub(super) fn slowed(&self, operation: &Operation) -> Option<Outcome> {
        let (Operation::Authenticate(request) | Operation::AuthSave(request, _)) = operation else { return None };
        self.guard.refuses(&request.source, &request.aor).then(|| {
            count(&self.metrics.auth_slowed);
            Outcome::Authenticated(Verdict::WrongPassword)
        })
    }

    pub(super) async fn subscriber(&self, store: &Store, aor: &Aor) -> Result<Option<Attributes>, StoreError> {
        let found = self.credentials.find(store, aor).await?.filter(|subscriber| subscriber.enabled);
        count(if found.is_some() { &self.metrics.subscribers_found } else { &self.metrics.subscribers_missed });
        Ok(found.map(|subscriber| attributes::values(&self.config.attributes, &subscriber)))
    }

    pub(super) fn keep_house(&self, what: &Housekeeping) -> Report {
        match what {
            Housekeeping::FlushCache(aor) => Report::Removed(self.credentials.flush(aor.as_ref())),
            Housekeeping::CacheStats => Report::Cache(self.credentials.stats()),
            Housekeeping::GuardList => Report::Guard(self.guard.list()),
            Housekeeping::GuardClear(suspect) => Report::Removed(self.guard.clear(suspect.as_ref())),
        }
    }
}
