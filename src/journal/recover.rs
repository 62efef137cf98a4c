//! Reading a journal's directory when it is opened: every record once, so that what was changed on
//! disk is found now and not when a peer needs it.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use super::JournalError;
use super::record::{Record, Session, State};
use super::segment::{Broken, FORMAT, Head, Join, Records, Segment, SegmentFile};
use super::visible::Past;
use crate::position::Offset;

/// What is there.
#[derive(Debug)]
pub(super) struct Recovered {
    /// Histories that broke.
    pub pasts: VecDeque<Past>,
    /// Where the present one began, if that is here.
    pub began: Option<Offset>,
    pub segments: VecDeque<Segment>,
    pub state: State,
    /// The last one that wrote.
    pub session: Session,
    /// It ended well.
    pub clean: bool,
    /// A tail that was not written to its end was cut off.
    pub cut: bool,
    /// And what was behind it in the same history goes with it.
    dropping: bool,
    /// Segments of a lower sequence are on disk.
    pub synced: u64,
}

/// A segment whose head could be read.
type Opened = (SegmentFile, Head, u64);
/// One whose head could not be read.
type Unreadable = (PathBuf, Broken);

/// Reads the directory; `None` if there is no segment in it. `boot` is this boot of the machine.
pub(super) fn recover(dir: &Path, boot: &str) -> Result<Option<Recovered>, JournalError> {
    let (mut opened, unreadable) = open_all(dir)?;
    let fresh = opened.iter().rposition(|(_, head, _)| head.join == Join::Anew).unwrap_or(0);
    let live = opened.split_off(fresh);
    for (file, ..) in opened {
        remove(&file.path)?;
    }
    let Some((_, first, _)) = live.first() else {
        // The very first segment was not written to its end: nobody was sent anything.
        if let Some((path, broken)) = unreadable {
            if !matches!(broken, Broken::Short) {
                return Err(unusable(&path, 0, broken));
            }
            remove(&path)?;
        }
        return Ok(None);
    };
    let mut found = Recovered {
        pasts: VecDeque::new(),
        began: None,
        segments: VecDeque::new(),
        state: first.state.clone(),
        session: first.session.clone(),
        clean: false,
        cut: false,
        dropping: false,
        synced: live.iter().map(|(_, head, _)| head.synced).max().unwrap_or(0),
    };
    let count = live.len();
    for (index, opened) in live.into_iter().enumerate() {
        let last = index + 1 == count && unreadable.is_none();
        found.take(opened, last, boot)?;
    }
    if let Some((path, broken)) = unreadable {
        // Without a whole head nothing was ever put behind it, unless the machine crashed.
        if !matches!(broken, Broken::Short) && !found.machine_crashed(boot) {
            return Err(unusable(&path, 0, broken));
        }
        warn!(file = %path.display(), "a segment of the journal was not begun to its end, dropped");
        remove(&path)?;
    }
    Ok(Some(found))
}

/// Opens all segments behind the last gap; and the last one apart if its head can't be read.
fn open_all(dir: &Path) -> Result<(Vec<Opened>, Option<Unreadable>), JournalError> {
    let failed = |source| JournalError::Open { path: dir.to_owned(), source };
    let mut sequences = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        sequences.extend(SegmentFile::sequence(&entry.map_err(failed)?.path()));
    }
    sequences.sort_unstable();
    // What a crash took of a history that broke leaves a gap before the next one.
    let breaks = |sequence| {
        let opened = SegmentFile::open(&SegmentFile::path(dir, sequence), sequence);
        opened.is_ok_and(|(_, head, _)| head.join == Join::Breaks)
    };
    let is_gap = |pair: &[u64]| pair[0] + 1 != pair[1] && !breaks(pair[1]);
    if let Some(gap) = sequences.windows(2).rposition(is_gap) {
        let before = sequences[gap + 1];
        warn!(dir = %dir.display(), before, "segments of the journal are missing, older ones go");
        for sequence in sequences.drain(..=gap) {
            remove(&SegmentFile::path(dir, sequence))?;
        }
    }
    let mut opened = Vec::new();
    let last = sequences.last().copied();
    for sequence in sequences {
        let path = SegmentFile::path(dir, sequence);
        match SegmentFile::open(&path, sequence) {
            Ok(found) => opened.push(found),
            Err(broken @ (Broken::Short | Broken::Changed(_))) if Some(sequence) == last => {
                return Ok((opened, Some((path, broken))));
            }
            Err(broken) => return Err(unusable(&path, 0, broken)),
        }
    }
    Ok((opened, None))
}

impl Recovered {
    /// Of a journal that was made just now.
    pub(super) fn first(segment: Segment, state: State, session: Session) -> Self {
        Self {
            segments: [segment].into(),
            began: Some(state.last_unit),
            pasts: VecDeque::new(),
            state,
            session,
            clean: false,
            cut: false,
            dropping: false,
            synced: 0,
        }
    }

    /// Whether the machine went down since the last session, without a clean end of it.
    pub(super) fn machine_crashed(&self, boot: &str) -> bool {
        !self.clean && self.session.boot != boot
    }

    fn take(&mut self, opened: Opened, last: bool, boot: &str) -> Result<(), JournalError> {
        let (file, head, records) = opened;
        let breaks = head.join == Join::Breaks && !self.segments.is_empty();
        if breaks {
            self.dropping = false;
        } else if self.dropping {
            return remove(&file.path);
        }
        // What a crash of the machine can take is what was not forced to disk by then.
        let sequence = file.sequence;
        let may_be_lost =
            |found: &Self, sequence| found.machine_crashed(boot) && sequence >= found.synced;
        // The id for followers changes between segments, after a crash of the machine.
        let follows =
            State { follower_id: head.state.follower_id, ..self.state.clone() } == head.state;
        if breaks {
            let segments = std::mem::take(&mut self.segments);
            let (state, began) = (self.state.clone(), self.began);
            self.pasts.push_back(Past { state, epoch: 0, began, segments });
        } else if !follows {
            if may_be_lost(self, sequence.saturating_sub(1)) {
                (self.cut, self.dropping) = (true, true);
                return remove(&file.path);
            }
            let broken = Broken::Changed("it does not continue the segment before");
            return Err(unusable(&file.path, 0, broken));
        }
        if head.join != Join::GoesOn {
            self.began = Some(head.state.last_unit);
        }
        self.state = head.state;
        self.session = head.session;
        self.clean = false;
        let end = file.file.metadata().map_err(|error| unusable(&file.path, 0, error.into()))?;
        let mut segment = Segment::new(Arc::new(file), records, &self.state);
        let mut reader = Records::new(records, end.len());
        loop {
            let at = reader.at;
            match self.add_next(&mut reader, &mut segment) {
                Ok(true) => {}
                Ok(false) => break,
                Err(broken) => {
                    let torn = last && matches!(broken, Broken::Short);
                    let changed = matches!(broken, Broken::Short | Broken::Changed(_));
                    let expected = torn || (changed && may_be_lost(self, sequence));
                    if !expected {
                        return Err(unusable(&segment.file.path, at, broken));
                    }
                    cut(&segment.file, at, end.len())?;
                    (self.cut, self.dropping) = (true, true);
                    break;
                }
            }
        }
        self.segments.push_back(segment);
        Ok(())
    }

    fn add_next(&mut self, reader: &mut Records, segment: &mut Segment) -> Result<bool, Broken> {
        let at = reader.at;
        let Some(body) = reader.next(&segment.file.file)? else { return Ok(false) };
        let place = (self.state.last_unit, self.state.follower);
        let taken = Record::read(&body).and_then(|record| {
            self.state.add(&record)?;
            Ok(record)
        });
        let record = taken.inspect_err(|_| reader.at = at)?;
        self.clean = record == Record::Close;
        if let Record::Open(session) = record {
            self.session = session;
        }
        segment.add(at, reader.at, place.0, place.1);
        Ok(true)
    }
}

fn cut(file: &SegmentFile, at: u64, end: u64) -> Result<(), JournalError> {
    warn!(
        file = %file.path.display(), at, bytes = end - at,
        "the journal's last record was not written to its end, cut off"
    );
    let done = file.file.set_len(at).and_then(|()| file.file.sync_all());
    done.map_err(|source| JournalError::Open { path: file.path.clone(), source })
}

fn remove(path: &Path) -> Result<(), JournalError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(JournalError::Open { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn unusable(path: &Path, offset: u64, broken: Broken) -> JournalError {
    let path = path.to_owned();
    match broken {
        Broken::Short => JournalError::Corrupt { path, offset, what: "it is too short" },
        Broken::Changed(what) => JournalError::Corrupt { path, offset, what },
        Broken::Format(found) => JournalError::Format { path, found, known: FORMAT },
        Broken::Io(source) => JournalError::Open { path, source },
    }
}
