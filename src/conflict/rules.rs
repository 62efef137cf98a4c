//! The rules by name, so that a test can leave out one and show that it is needed.

/// A rule of the protocol; `docs/conflicts.md` says what each is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// A local write that a unit had not seen conflicts with it.
    FindConflicts,
    /// A unit that had not seen the snapshot conflicts with everything.
    BlindConflicts,
    /// A newer local write that leaves nothing of the peer's wins.
    NewerWins,
    /// A delete of the peer loses against a local write.
    WritesBeatDeletes,
    /// The primary's word is left out where the primary will hear of a write here.
    SkipStates,
    /// A snapshot's entry is left out where the peer has not seen a write here.
    SkipEntries,
    /// A conflict goes on in other keys that a local command made of this one.
    Spread,
    /// What the peer has seen counts when all that it sent before has come back.
    SeenInOrder,
}

/// Whether the rule is in force: always.
#[cfg(not(test))]
pub(super) const fn follows(_: Rule) -> bool {
    true
}

#[cfg(test)]
pub(super) use without::{follows, without};

#[cfg(test)]
mod without {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static LEFT_OUT: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Whether the rule is in force.
    pub(in crate::conflict) fn follows(rule: Rule) -> bool {
        LEFT_OUT.get() != Some(rule)
    }

    /// Runs `work` with a rule left out, in this thread.
    pub(in crate::conflict) fn without<T>(rule: Option<Rule>, work: impl FnOnce() -> T) -> T {
        LEFT_OUT.set(rule);
        let done = work();
        LEFT_OUT.set(None);
        done
    }
}
