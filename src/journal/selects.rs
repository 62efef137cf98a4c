//! Where units must name their database: behind a follower's snapshot.
//!
//! A follower's stream begins, behind its snapshot, with a SELECT, and what one follower was sent
//! must be there for the next one who asks for the same byte. So the SELECT can't be made up for
//! one of them; it has to be in the journal. Where a snapshot will be cut is known only when Redis
//! has cut it, so from the moment that one is asked for each unit gets a SELECT, until the first
//! one behind the cut has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::position::Offset;

/// Which units get a SELECT though the database has not changed.
#[derive(Debug, Default)]
pub(super) struct Selects {
    /// Snapshots that were asked for and whose cut is not known yet.
    expected: AtomicUsize,
    /// One more than the last cut; 0 when there is none.
    cut: AtomicU64,
}

impl Selects {
    /// Whether the unit that follows one that ends at `before` must have one.
    pub(super) fn wanted(&self, before: Offset) -> bool {
        // The cut is entered before its snapshot is no longer expected, and read after it.
        self.expected.load(Ordering::SeqCst) > 0 || before.0 < self.cut.load(Ordering::SeqCst)
    }

    /// Offsets begin anew.
    pub(super) fn forget_cuts(&self) {
        self.cut.store(0, Ordering::SeqCst);
    }
}

/// A snapshot for a follower that was asked for; dropped when there will be none.
#[derive(Debug)]
pub struct ExpectedSnapshot(Arc<Selects>);

impl ExpectedSnapshot {
    pub(super) fn new(selects: &Arc<Selects>) -> Self {
        selects.expected.fetch_add(1, Ordering::SeqCst);
        Self(selects.clone())
    }

    /// It was cut at this offset: the first unit behind it has a SELECT.
    pub fn cut(self, at: Offset) {
        self.0.cut.fetch_max(at.0.saturating_add(1), Ordering::SeqCst);
    }
}

impl Drop for ExpectedSnapshot {
    fn drop(&mut self) {
        self.0.expected.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_the_asking_to_the_first_unit_behind_the_cut() {
        let selects = Arc::new(Selects::default());
        assert!(!selects.wanted(Offset(0)));
        let (one, other) = (ExpectedSnapshot::new(&selects), ExpectedSnapshot::new(&selects));
        assert!(selects.wanted(Offset(70)));
        one.cut(Offset(100));
        assert!(selects.wanted(Offset(170)));
        drop(other);
        assert!(selects.wanted(Offset(100)) && !selects.wanted(Offset(101)));
        selects.forget_cuts();
        assert!(!selects.wanted(Offset(100)));
    }
}
