//! The bindings that this node has read or written lately, for lookups while Cassandra is unreachable.

use std::sync::Arc;

use domain::{Aor, Binding};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// Rows of AoRs, as many as fit; those that are used least go first.
#[derive(Debug)]
pub(crate) struct LastKnown(Option<Cache<Aor, Arc<[Binding]>, ByBindings>>);

/// An AoR weighs as much as it has bindings.
#[derive(Debug, Clone)]
struct ByBindings;

impl Weighter<Aor, Arc<[Binding]>> for ByBindings {
    fn weight(&self, _: &Aor, bindings: &Arc<[Binding]>) -> u64 {
        bindings.len().max(1) as u64
    }
}

/// What an AoR is assumed to have, for the size of the table.
const BINDINGS_OF_AN_AOR: usize = 2;

impl LastKnown {
    /// Room for this many bindings; 0: nothing is remembered.
    pub(crate) fn new(bindings: usize) -> Self {
        let cache = || Cache::with_weighter(bindings / BINDINGS_OF_AN_AOR + 1, bindings as u64, ByBindings);
        Self((bindings > 0).then(cache))
    }

    /// Remembers all rows of an AoR.
    pub(crate) fn remember(&self, aor: &Aor, rows: impl FnOnce() -> Vec<Binding>) {
        if let Some(cache) = &self.0 {
            cache.insert(aor.clone(), rows().into());
        }
    }

    /// Remembers the rows of an AoR that were just read; mostly they are the ones that are remembered.
    pub(crate) fn remember_read(&self, aor: &Aor, rows: &[Binding]) {
        if let Some(cache) = &self.0
            && cache.get(aor).is_none_or(|known| *known != *rows)
        {
            cache.insert(aor.clone(), rows.into());
        }
    }

    /// What was remembered last.
    pub(crate) fn get(&self, aor: &Aor) -> Option<Arc<[Binding]>> {
        self.0.as_ref()?.get(aor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::binding;

    fn aor(name: &str) -> Aor {
        Aor::new(name, "example.com").expect("an AoR")
    }

    #[test]
    fn the_last_rows_are_remembered() {
        let known = LastKnown::new(10);
        assert!(known.get(&aor("a")).is_none());
        known.remember(&aor("a"), || vec![binding("sip:old@h")]);
        known.remember(&aor("a"), || vec![binding("sip:new@h")]);
        assert_eq!(known.get(&aor("a")).expect("remembered")[0].contact, "sip:new@h");
        known.remember_read(&aor("a"), &[]);
        assert!(known.get(&aor("a")).expect("remembered").is_empty());
        known.remember_read(&aor("b"), &[binding("sip:b@h")]);
        assert_eq!(known.get(&aor("b")).expect("remembered").len(), 1);
    }

    #[test]
    fn memory_is_bounded_by_bindings() {
        let known = LastKnown::new(100);
        for number in 0..1000 {
            known.remember(&aor(&number.to_string()), || vec![binding("sip:a@h"); 5]);
        }
        let kept = (0..1000).filter(|number| known.get(&aor(&number.to_string())).is_some()).count();
        assert!((1..=20).contains(&kept), "{kept}");
    }

    #[test]
    fn nothing_is_remembered_without_room() {
        let known = LastKnown::new(0);
        known.remember(&aor("a"), || panic!("asked for rows"));
        known.remember_read(&aor("a"), &[binding("sip:a@h")]);
        assert!(known.get(&aor("a")).is_none());
    }
}
