//! Finding the end of something that arrives in pieces.
//!
//! A layout is a list of [`Step`]s; a [`Skip`] walks it over the bytes that are there and remembers
//! where it stopped, so that every byte is looked at once however small the pieces are.

use smallvec::SmallVec;

use super::length::{self, Prefix};

/// One part of a layout.
#[derive(Debug)]
pub(super) enum Step {
    /// A length prefix, its number of no interest here.
    Length,
    /// A string in any form.
    Text,
    /// So many bytes.
    Bytes(u64),
    /// A number, then the steps so many times. The steps take at least one byte.
    Counted(&'static [Step]),
    /// A number, then so many times this many bytes.
    CountedBytes(u64),
    /// A double as text, with one byte of length (253 and above stand for nan and infinities).
    OldDouble,
    /// A module's values, each with its kind before it, up to the end mark.
    Module,
}

/// Why a walk can't go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The format is broken, for this reason.
    Broken(&'static str),
    /// The record would be longer than the limit.
    TooLarge,
}

/// Steps under way.
#[derive(Debug)]
struct Frame {
    steps: &'static [Step],
    next: usize,
    rounds: u64,
}

/// A walk over one record, which starts at the buffer's first byte.
#[derive(Debug)]
pub(super) struct Skip {
    // Layouts nest four deep at most (stream, group, pending entry; a module's value).
    frames: SmallVec<[Frame; 4]>,
    /// Bytes walked over.
    at: usize,
    /// Bytes that are still to be stepped over, whatever they are.
    blind: u64,
    limit: u64,
}

impl Skip {
    pub(super) fn new(limit: u64) -> Self {
        Self { frames: SmallVec::new(), at: 0, blind: 0, limit }
    }

    /// Bytes of the record that have been walked over.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Starts a new record.
    pub(super) fn reset(&mut self) {
        self.frames.clear();
        self.at = 0;
        self.blind = 0;
    }

    /// Goes on with these steps. What was begun before must be done.
    pub(super) fn begin(&mut self, steps: &'static [Step]) {
        self.frames.push(Frame { steps, next: 0, rounds: 1 });
    }

    /// Walks as far as `record` reaches. `true`: all steps are done, `at` is the end.
    pub(super) fn run(&mut self, record: &[u8]) -> Result<bool, Stop> {
        loop {
            if !self.pass_blind(record) {
                return Ok(false);
            }
            let Some(frame) = self.frames.last_mut() else { return Ok(true) };
            let Some(step) = frame.steps.get(frame.next) else {
                frame.rounds = frame.rounds.saturating_sub(1);
                frame.next = 0;
                if frame.rounds == 0 {
                    self.frames.pop();
                }
                continue;
            };
            let ahead = record.get(self.at..).unwrap_or_default();
            if !self.step(step, ahead)? {
                return Ok(false);
            }
        }
    }

    /// Steps over what needs no look. `false`: more is to come.
    fn pass_blind(&mut self, record: &[u8]) -> bool {
        if self.blind > 0 {
            let there = record.len().saturating_sub(self.at);
            let pass = usize::try_from(self.blind).map_or(there, |blind| blind.min(there));
            self.at += pass;
            self.blind -= pass as u64;
        }
        self.blind == 0
    }

    /// Does one step if all of its head is `ahead`, else changes nothing and returns `false`.
    fn step(&mut self, step: &Step, ahead: &[u8]) -> Result<bool, Stop> {
        match *step {
            Step::Bytes(count) => {
                self.pass_step();
                self.leap(0, count)?;
            }
            Step::Length => {
                let Some((_, head)) = number(ahead)? else { return Ok(false) };
                self.pass_step();
                self.leap(head, 0)?;
            }
            Step::Text => {
                let Some((head, body)) = self.text(ahead)? else { return Ok(false) };
                self.pass_step();
                self.leap(head, body)?;
            }
            Step::CountedBytes(each) => {
                let Some((count, head)) = number(ahead)? else { return Ok(false) };
                self.pass_step();
                self.leap(head, count.checked_mul(each).ok_or(Stop::TooLarge)?)?;
            }
            Step::Counted(steps) => {
                let Some((rounds, head)) = number(ahead)? else { return Ok(false) };
                self.pass_step();
                self.leap(head, 0)?;
                // Each round takes at least a byte.
                self.check_room(rounds)?;
                if rounds > 0 {
                    self.frames.push(Frame { steps, next: 0, rounds });
                }
            }
            Step::OldDouble => {
                let Some(&size) = ahead.first() else { return Ok(false) };
                self.pass_step();
                self.leap(1, if size >= 253 { 0 } else { size.into() })?;
            }
            Step::Module => {
                let Some((kind, head)) = number(ahead)? else { return Ok(false) };
                let value: &[Step] = match kind {
                    0 => {
                        self.pass_step();
                        &[]
                    }
                    1 | 2 => &[Step::Length],
                    3 => &[Step::Bytes(4)],
                    4 => &[Step::Bytes(8)],
                    5 => &[Step::Text],
                    _ => return Err(Stop::Broken("unknown kind of a module's value")),
                };
                self.leap(head, 0)?;
                if !value.is_empty() {
                    self.begin(value);
                }
            }
        }
        Ok(true)
    }

    fn pass_step(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.next += 1;
        }
    }

    /// Head and body of the string `ahead`.
    fn text(&self, ahead: &[u8]) -> Result<Option<(usize, u64)>, Stop> {
        let Some((prefix, head)) = length::prefix(ahead).map_err(Stop::Broken)? else {
            return Ok(None);
        };
        Ok(match prefix {
            Prefix::Length(body) => Some((head, body)),
            Prefix::Form(length::INT8) => Some((head, 1)),
            Prefix::Form(length::INT16) => Some((head, 2)),
            Prefix::Form(length::INT32) => Some((head, 4)),
            Prefix::Form(length::LZF) => {
                let Some((packed, more)) = number(ahead.get(head..).unwrap_or_default())? else {
                    return Ok(None);
                };
                let head = head + more;
                let Some((unpacked, more)) = number(ahead.get(head..).unwrap_or_default())? else {
                    return Ok(None);
                };
                // A small record must not unpack into a huge one either.
                if unpacked > self.limit {
                    return Err(Stop::TooLarge);
                }
                Some((head + more, packed))
            }
            Prefix::Form(_) => return Err(Stop::Broken("unknown form of a string")),
        })
    }

    /// Passes a head that is there and a body that may not be.
    fn leap(&mut self, head: usize, body: u64) -> Result<(), Stop> {
        self.at += head;
        self.check_room(body)?;
        self.blind = body;
        Ok(())
    }

    fn check_room(&self, more: u64) -> Result<(), Stop> {
        let end = (self.at as u64).checked_add(more);
        if end.is_some_and(|end| end <= self.limit) { Ok(()) } else { Err(Stop::TooLarge) }
    }
}

/// A prefix that must be a plain number.
fn number(ahead: &[u8]) -> Result<Option<(u64, usize)>, Stop> {
    match length::prefix(ahead).map_err(Stop::Broken)? {
        Some((Prefix::Length(number), head)) => Ok(Some((number, head))),
        Some((Prefix::Form(_), _)) => Err(Stop::Broken("a string where a length must be")),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: &[Step] = &[Step::Counted(&[Step::Text, Step::CountedBytes(2)]), Step::Module];
    // Two rounds: "ab" and 1x2 bytes, the integer 7 and none; then a module's uint, string, end.
    const RECORD: &[u8] = &[2, 2, b'a', b'b', 1, 9, 9, 0xc0, 7, 0, 2, 5, 5, 1, b'x', 0];

    #[test]
    fn the_end_is_found_from_every_piece() {
        for cut in 0..RECORD.len() {
            let mut skip = Skip::new(100);
            skip.begin(NESTED);
            assert_eq!(skip.run(&RECORD[..cut]), Ok(false), "cut at {cut}");
            assert_eq!(skip.run(RECORD), Ok(true), "cut at {cut}");
            assert_eq!(skip.at(), RECORD.len());
        }
    }

    #[test]
    fn announced_lengths_are_held_to_the_limit() {
        for (steps, record) in [
            (&[Step::Text] as &[Step], &[0x80u8, 0, 0, 1, 0] as &[u8]),
            (&[Step::Text], &[0xc3, 1, 0x80, 0, 0, 1, 0, 0]),
            (&[Step::Counted(&[Step::Text])], &[0x81, 255, 255, 255, 255, 255, 255, 255, 255]),
            (&[Step::CountedBytes(16)], &[0x81, 255, 255, 255, 255, 255, 255, 255, 255]),
        ] {
            let mut skip = Skip::new(100);
            skip.begin(steps);
            assert_eq!(skip.run(record), Err(Stop::TooLarge), "{record:?}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        for (steps, record) in [
            (&[Step::Length] as &[Step], &[0xc0u8] as &[u8]),
            (&[Step::Text], &[0xc9]),
            (&[Step::Text], &[0x8f]),
            (&[Step::Module], &[6]),
        ] {
            let mut skip = Skip::new(100);
            skip.begin(steps);
            assert!(matches!(skip.run(record), Err(Stop::Broken(_))), "{record:?}");
        }
    }
}
