//! The files of a journal: their names, their heads, and reading the records in them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::crc32_iscsi;

use super::BlockError;
use super::record::{FRAME, Session, State, put_frame, read_frame};
use super::varint::{Input, put_number};
use crate::position::{FollowerOffset, Offset};

/// First bytes of every segment.
const MAGIC: &[u8; 8] = b"rdxjourn";
/// The format that is written and read.
pub(super) const FORMAT: u32 = 1;
/// Magic and format.
const PREFIX: usize = 12;
/// One entry of the sparse index stands for so many bytes of a segment: 16,384 entries for 1 GiB,
/// and a reader that begins anywhere passes over no more than this.
const INDEX_STEP: u64 = 64 << 10;
/// Files of the journal hold data: they are for their owner alone.
pub(super) const PRIVATE: u32 = 0o600;
const EXTENSION: &str = "segment";

/// A segment's file, open for as long as someone reads it.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub sequence: u64,
    pub path: PathBuf,
    pub file: File,
}

/// What a segment begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub join: Join,
    /// Segments of a lower sequence were all forced to disk when this one was made.
    pub synced: u64,
    pub session: Session,
    /// What the segments before add up to.
    pub state: State,
}

/// How a segment follows those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// The same history goes on.
    GoesOn,
    /// A history begins here: older segments don't count any more.
    Anew,
    /// The history broke, another one begins: in older segments is what was before.
    Breaks,
}

/// Why a segment, or what comes next in it, can't be read.
#[derive(Debug)]
pub(super) enum Broken {
    /// It ends before what it announces: it was never written to its end.
    Short,
    /// It is not what was written.
    Changed(&'static str),
    /// Of this format, which we don't know.
    Format(u32),
    /// The system could not read it.
    Io(io::Error),
}

impl From<BlockError> for Broken {
    fn from(error: BlockError) -> Self {
        Self::Changed(error.0)
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl SegmentFile {
    pub(super) fn path(dir: &Path, sequence: u64) -> PathBuf {
        dir.join(format!("{sequence:020}.{EXTENSION}"))
    }

    /// The sequence of a file by its name; `None` if it is no segment.
    pub(super) fn sequence(path: &Path) -> Option<u64> {
        if path.extension()? != EXTENSION {
            return None;
        }
        path.file_stem()?.to_str()?.parse().ok()
    }

    /// Makes a segment; where its records begin. Leaves nothing behind on an error.
    pub(super) fn create(dir: &Path, sequence: u64, head: &Head) -> io::Result<(Self, u64)> {
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        out.put_u32_le(FORMAT);
        put_frame(&mut out, |out| head.put(out))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let path = Self::path(dir, sequence);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(PRIVATE)
            .open(&path)?;
        if let Err(error) = file.write_all_at(&out, 0) {
            // If this fails too, a segment without a whole head is passed over when it is opened.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok((Self { sequence, path, file }, out.len() as u64))
    }

    /// Opens a segment and reads its head; where its records begin.
    pub(super) fn open(path: &Path, sequence: u64) -> Result<(Self, Head, u64), Broken> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let end = file.metadata()?.len();
        let prefix = end.min(PREFIX as u64);
        let mut start = BytesMut::zeroed(usize::try_from(prefix).unwrap_or(0));
        file.read_exact_at(&mut start, 0)?;
        let magic = start.len().min(MAGIC.len());
        if start[..magic] != MAGIC[..magic] {
            return Err(Broken::Changed("it does not begin as a segment of a journal"));
        }
        let Some(format) = start.get(8..PREFIX) else { return Err(Broken::Short) };
        let format = format.try_into().map_or(0, u32::from_le_bytes);
        if format != FORMAT {
            return Err(Broken::Format(format));
        }
        let mut records = Records::new(prefix, end);
        let Some(body) = records.next(&file)? else { return Err(Broken::Short) };
        let head = Head::read(&body)?;
        Ok((Self { sequence, path: path.to_owned(), file }, head, records.at))
    }
}

impl Head {
    fn put(&self, out: &mut BytesMut) {
        out.put_u8(match self.join {
            Join::GoesOn => 0,
            Join::Anew => 1,
            Join::Breaks => 2,
        });
        put_number(out, self.synced);
        self.session.put(out);
        self.state.put(out);
    }

    fn read(body: &[u8]) -> Result<Self, BlockError> {
        let mut input = Input(body);
        let head = Self {
            join: match input.byte()? {
                0 => Join::GoesOn,
                1 => Join::Anew,
                2 => Join::Breaks,
                _ => return Err(BlockError("a segment that follows in an unknown way")),
            },
            synced: input.number()?,
            session: Session::read(&mut input)?,
            state: State::read(&mut input)?,
        };
        input.end()?;
        Ok(head)
    }
}

/// Reads records one after the other, a chunk at a time.
#[derive(Debug)]
pub(super) struct Records {
    /// Where the next record begins.
    pub at: u64,
    end: u64,
    chunk: Bytes,
}

impl Records {
    /// Least that is read at once; records share the memory of their chunk.
    const CHUNK: u64 = 256 << 10;

    /// Of the records between two places.
    pub(super) fn new(at: u64, end: u64) -> Self {
        Self { at, end, chunk: Bytes::new() }
    }

    /// The next record's body, `None` at the end. After an error the place is where it was.
    pub(super) fn next(&mut self, file: &File) -> Result<Option<Bytes>, Broken> {
        if self.at >= self.end {
            return Ok(None);
        }
        self.fill(file, FRAME)?;
        let (length, sum) = read_frame(&self.chunk[..FRAME])
            .ok_or(Broken::Changed("the length of a record was changed"))?;
        let whole = FRAME + length;
        self.fill(file, whole)?;
        let body = self.chunk.slice(FRAME..whole);
        if crc32_iscsi(&body) != sum {
            return Err(Broken::Changed("a record was changed"));
        }
        self.chunk = self.chunk.slice(whole..);
        self.at += whole as u64;
        Ok(Some(body))
    }

    fn fill(&mut self, file: &File, needed: usize) -> Result<(), Broken> {
        if self.chunk.len() >= needed {
            return Ok(());
        }
        let left = self.end - self.at;
        if left < needed as u64 {
            return Err(Broken::Short);
        }
        let size = Self::CHUNK.max(needed as u64).min(left);
        let mut chunk = BytesMut::zeroed(usize::try_from(size).unwrap_or(needed));
        file.read_exact_at(&mut chunk, self.at)?;
        self.chunk = chunk.freeze();
        Ok(())
    }
}

/// A segment as readers see it.
#[derive(Debug)]
pub(super) struct Segment {
    pub file: std::sync::Arc<SegmentFile>,
    /// Where its records begin.
    pub records: u64,
    /// Up to where it may be read.
    pub end: u64,
    /// Units that end at or before this are in earlier segments.
    pub first: Offset,
    /// Followers' bytes before this are in earlier segments.
    pub first_follower: FollowerOffset,
    index: Vec<IndexEntry>,
}

/// A record's place, and what comes before it.
#[derive(Clone, Copy, Debug)]
struct IndexEntry {
    at: u64,
    units_to: Offset,
    bytes_to: FollowerOffset,
}

/// What a reader is after.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// Units that end behind this.
    Units(Offset),
    /// Followers' bytes from this on.
    Bytes(FollowerOffset),
}

impl Segment {
    pub(super) fn new(file: std::sync::Arc<SegmentFile>, records: u64, before: &State) -> Self {
        Self {
            file,
            records,
            end: records,
            first: before.last_unit,
            first_follower: before.follower,
            index: Vec::new(),
        }
    }

    /// A record was added: where it begins and ends, and the state before it.
    pub(super) fn add(&mut self, at: u64, end: u64, units_to: Offset, bytes_to: FollowerOffset) {
        self.end = end;
        if self.index.last().map_or(self.records, |last| last.at) + INDEX_STEP <= at {
            self.index.push(IndexEntry { at, units_to, bytes_to });
        }
    }

    /// Whether what is wanted is not in earlier segments.
    pub(super) fn begins_before(&self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::Units(offset) => self.first <= offset,
            Wanted::Bytes(offset) => self.first_follower <= offset,
        }
    }

    /// A record's place, from which on what is wanted is found.
    pub(super) fn seek(&self, wanted: Wanted) -> u64 {
        let behind = self.index.partition_point(|entry| match wanted {
            Wanted::Units(offset) => entry.units_to <= offset,
            Wanted::Bytes(offset) => entry.bytes_to <= offset,
        });
        behind.checked_sub(1).map_or(self.records, |index| self.index[index].at)
    }
}
