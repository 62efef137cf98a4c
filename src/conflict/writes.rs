//! Local writes by key, in generations: what is new goes into the youngest, and what the peer has
//! seen goes with its whole generation.
//!
//! The peer sees in order, so nothing is looked up to be taken out; and the youngest generation is
//! small, so that it stays in the processor's cache however far the peer is behind. A sketch of each
//! generation tells of most keys that they are not there, without a look into it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::effect::Effect;
use super::unit::Key;
use crate::clock::Timestamp;
use crate::position::Offset;

/// Keys in a generation: about a quarter of a megabyte of them. More only where all generations
/// together hold more than [`MOST_GENERATIONS`] times as many.
const GENERATION: usize = 4096;
/// About so many generations are looked through for a key.
const MOST_GENERATIONS: usize = 16;
/// With few keys allowed there are still so many generations, of which the oldest is forgotten.
const LEAST_GENERATIONS: usize = 4;
/// Effects told apart on one key; more become one that conflicts with everything.
const MAX_EFFECTS: usize = 64;
/// Bits of a sketch for each key: with two set for a key, about one in twenty of other keys passes.
const SKETCH_BITS: usize = 8;

/// Keys of one command that depend on each other.
pub(super) type Group = Option<Arc<[Key]>>;

/// The last local write of one kind on a key.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub effect: Effect,
    pub end: Offset,
    pub time: Timestamp,
    pub group: Group,
}

type ByKey = HashMap<u64, SmallVec<[Write; 1]>, RandomState>;

#[derive(Debug)]
struct Generation {
    keys: ByKey,
    sketch: Sketch,
    /// The end of its last write.
    last: Offset,
    /// Whether other keys depend on some of these.
    groups: bool,
}

/// The writes.
#[derive(Debug)]
pub(super) struct Writes {
    max_keys: usize,
    /// The oldest first.
    generations: VecDeque<Generation>,
    /// Of all generations; a key that is in several counts as often.
    len: usize,
    /// An empty one, for its memory.
    spare: ByKey,
}

/// What was forgotten since there were too many keys.
#[derive(Debug)]
pub(super) struct Forgotten {
    /// The end of its last write.
    pub last: Offset,
    /// Whether other keys depend on some of it.
    pub groups: bool,
}

impl Writes {
    pub(super) fn new(max_keys: usize) -> Self {
        let generations = VecDeque::new();
        Self { max_keys, generations, len: 0, spare: ByKey::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Enters a write on the key with this hash; what had to be forgotten for it.
    pub(super) fn enter(&mut self, hash: u64, new: Write) -> Option<Forgotten> {
        let full = GENERATION.max(self.len / MOST_GENERATIONS);
        let full = full.min(self.max_keys / LEAST_GENERATIONS).max(1);
        if self.generations.back().is_none_or(|youngest| youngest.keys.len() >= full) {
            let keys = std::mem::take(&mut self.spare);
            let (sketch, last) = (Sketch::new(full), Offset::default());
            self.generations.push_back(Generation { keys, sketch, last, groups: false });
        }
        let youngest = self.generations.back_mut()?;
        youngest.last = youngest.last.max(new.end);
        youngest.groups |= new.group.is_some();
        let writes = youngest.keys.entry(hash).or_default();
        if writes.is_empty() {
            youngest.sketch.add(hash);
            self.len += 1;
        }
        let same = |write: &&mut Write| write.effect == new.effect;
        if let Some(write) = writes.iter_mut().find(same) {
            // The groups of all such commands are one: coarser, but none is missed.
            let group = union(write.group.take(), new.group.as_ref());
            *write = Write { group, ..new };
        } else if writes.len() < MAX_EFFECTS {
            writes.push(new);
        } else {
            let group =
                writes.iter().fold(new.group, |all, write| union(all, write.group.as_ref()));
            writes.clear();
            writes.push(Write { effect: Effect::Change, group, ..new });
        }
        (self.len > self.max_keys).then(|| self.drop_oldest()).flatten()
    }

    /// The peer has seen all up to here.
    pub(super) fn seen(&mut self, to: Offset) {
        while self.generations.front().is_some_and(|oldest| oldest.last <= to) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) -> Option<Forgotten> {
        let Generation { mut keys, last, groups, .. } = self.generations.pop_front()?;
        self.len -= keys.len();
        keys.clear();
        // Not one that grew while the peer was far behind.
        if keys.capacity() <= 4 * GENERATION {
            self.spare = keys;
        }
        Some(Forgotten { last, groups })
    }

    /// The writes on the key with this hash; some of them the peer may have seen.
    pub(super) fn of(&self, hash: u64) -> impl Iterator<Item = &Write> {
        let may_have = self.generations.iter().filter(move |it| it.sketch.may_have(hash));
        may_have.filter_map(move |generation| generation.keys.get(&hash)).flatten()
    }
}

/// Which keys are certainly not among some: a Bloom filter with both bits of a key in one word.
#[derive(Debug)]
struct Sketch(Box<[u64]>);

impl Sketch {
    /// For about so many keys.
    fn new(keys: usize) -> Self {
        let words = (keys * SKETCH_BITS).div_ceil(64).next_power_of_two();
        Self(vec![0; words].into())
    }

    fn add(&mut self, hash: u64) {
        let (word, bits) = self.place(hash);
        self.0[word] |= bits;
    }

    fn may_have(&self, hash: u64) -> bool {
        let (word, bits) = self.place(hash);
        self.0[word] & bits == bits
    }

    #[allow(clippy::cast_possible_truncation, reason = "cut to what there is of words")]
    fn place(&self, hash: u64) -> (usize, u64) {
        let word = (hash >> 12) as usize & (self.0.len() - 1);
        (word, (1 << (hash % 64)) | (1 << (hash / 64 % 64)))
    }
}

fn union(one: Group, other: Option<&Arc<[Key]>>) -> Group {
    let (Some(one), Some(other)) = (&one, other) else { return one.or_else(|| other.cloned()) };
    if other.iter().all(|key| one.contains(key)) {
        return Some(one.clone());
    }
    let mut keys = [&one[..], other].concat();
    keys.sort();
    keys.dedup();
    Some(keys.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conflict::effect::hash_key;
    use crate::position::Database;

    #[test]
    fn a_sketch_has_all_that_were_added_and_few_others() {
        let mut sketch = Sketch::new(GENERATION);
        let hash = |number: usize| hash_key(Database(0), &number.to_le_bytes());
        (0..GENERATION).for_each(|number| sketch.add(hash(number)));
        assert!((0..GENERATION).all(|number| sketch.may_have(hash(number))));
        let others = GENERATION..11 * GENERATION;
        let passed = others.filter(|number| sketch.may_have(hash(*number))).count();
        assert!(passed < GENERATION, "{passed} of {}", 10 * GENERATION);
    }

    #[test]
    fn writes_are_found_until_they_were_seen() {
        let mut writes = Writes::new(1 << 20);
        let hash = |number: u64| hash_key(Database(0), &number.to_le_bytes());
        let count = 5 * GENERATION as u64;
        for number in 1..=count {
            let (effect, time, group) = (Effect::Replace, Timestamp(number), None);
            let write = Write { effect, end: Offset(number), time, group };
            assert!(writes.enter(hash(number), write).is_none());
        }
        assert!((1..=count).all(|n| writes.of(hash(n)).map(|w| w.end).eq([Offset(n)])));
        writes.seen(Offset(count / 2));
        let found = |number: u64| writes.of(hash(number)).next().is_some();
        assert!((count / 2 + 1..=count).all(found));
        assert!(!found(1) && writes.len() < writes.max_keys);
        writes.seen(Offset(count));
        assert!(writes.is_empty());
    }
}
