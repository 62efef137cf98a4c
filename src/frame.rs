//! What sidecars say to each other on a link: frames of `length, kind, payload`.
//!
//! A link begins as RESP on the listen port (`DUPLEX LINK ..`, answered `+LINK`); then the side
//! that has the data sends frames, and the other answers with line feeds as signs of life.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::clock::Timestamp;
use crate::position::{
    Checkpoint, Database, LinkSession, Offset, Owed, Position, ReplicationId, Seen, SiteName,
};

/// The version of this protocol; both sides must speak the same.
pub const PROTOCOL: u32 = 2;
/// What [`Frame::Bye`] says when the site's sidecar is stopped: nothing is wrong.
pub const SHUTTING_DOWN: &str = "shutting down";
/// Bytes before the payload: its length and the kind.
const HEADER: usize = 5;
/// Longest frame: a block holds at least one whole unit, and Redis takes commands of 512 MiB and
/// more.
const MAX_FRAME: usize = 2 << 30;
/// Most sites in a `seen`.
const MAX_SITES: usize = 64;

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// Longer than any frame may be.
    #[error("a frame of {0} bytes is longer than allowed")]
    TooLong(usize),
    /// A kind that this version does not know.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// A payload that does not read as its kind.
    #[error("broken frame: {0}")]
    Broken(&'static str),
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The units behind a checkpoint that was asked for follow.
    Resume {
        /// Where they begin. If a snapshot is owed, it follows them.
        from: Checkpoint,
    },
    /// The site's history broke here, and another one begins; its units follow, then a snapshot.
    Continue {
        /// Where the other one begins.
        at: Checkpoint,
    },
    /// A snapshot follows, then the units behind `at`.
    Snapshot {
        /// Where it was taken.
        at: Position,
        /// Keys in it, as far as the server told.
        keys: u64,
        /// The session in which this site's own link had asked for a full sync by then.
        pair: Option<LinkSession>,
        /// The receiver is to hold what is in it and nothing else, but for its own writes that the
        /// sender had not seen; else what the receiver has stays.
        mirror: bool,
        /// What the site had certainly seen of others when it was taken.
        seen: Seen,
    },
    /// Bytes of the snapshot.
    SnapshotBytes(Bytes),
    /// The snapshot is whole.
    SnapshotEnd,
    /// A block of the journal, encoded.
    Block(Bytes),
    /// All units up to here were sent.
    Heartbeat {
        /// Where the site stands.
        at: Position,
        /// The database in force there in its stream.
        database: Database,
        /// Its clock.
        time: Timestamp,
        /// What its system's clock says, in unix milliseconds.
        wall: u64,
        /// What it has seen of others.
        seen: Seen,
    },
    /// Nothing to send yet, and why; the link is alive.
    Wait(String),
    /// The end of this session, and why.
    Bye(String),
}

impl Frame {
    /// Writes the frame.
    pub fn put(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_bytes(0, HEADER);
        let kind = match self {
            Self::Resume { from } => {
                put_checkpoint(out, *from);
                1
            }
            Self::Continue { at } => {
                put_checkpoint(out, *at);
                9
            }
            Self::Snapshot { at, keys, pair, mirror, seen } => {
                put_position(out, *at);
                out.put_u64_le(*keys);
                out.put_u8(pair.is_some().into());
                out.put_u64_le(pair.map_or(0, |session| session.0));
                out.put_u8((*mirror).into());
                put_seen(out, seen);
                2
            }
            Self::SnapshotBytes(bytes) => {
                out.put_slice(bytes);
                3
            }
            Self::SnapshotEnd => 4,
            Self::Block(bytes) => {
                out.put_slice(bytes);
                5
            }
            Self::Heartbeat { at, database, time, wall, seen } => {
                put_position(out, *at);
                out.put_u32_le(database.0);
                out.put_u64_le(time.0);
                out.put_u64_le(*wall);
                put_seen(out, seen);
                6
            }
            Self::Wait(text) => {
                out.put_slice(text.as_bytes());
                7
            }
            Self::Bye(text) => {
                out.put_slice(text.as_bytes());
                8
            }
        };
        let length = out.len() - start - HEADER;
        // MAX_FRAME fits; a longer payload is refused by the reader.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        out[start + 4] = kind;
    }

    /// Takes a frame off the front of `buf`; `None` if it is not all there.
    pub fn take(buf: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(mut header) = buf.get(..HEADER) else { return Ok(None) };
        let length = header.get_u32_le() as usize;
        let kind = header.get_u8();
        if !(1..=9).contains(&kind) {
            return Err(FrameError::UnknownKind(kind));
        }
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        if buf.len() < HEADER + length {
            // Growing bit by bit as bytes come: the length is only what a peer says.
            return Ok(None);
        }
        buf.advance(HEADER);
        let mut payload = buf.split_to(length).freeze();
        let frame = match kind {
            1 => Self::Resume { from: get_checkpoint(&mut payload)? },
            2 => Self::Snapshot {
                at: get_position(&mut payload)?,
                keys: get_u64(&mut payload)?,
                pair: get_session(&mut payload)?,
                mirror: payload.try_get_u8().map_err(|_| FrameError::Broken("mirror"))? != 0,
                seen: get_seen(&mut payload)?,
            },
            3 => return Ok(Some(Self::SnapshotBytes(payload))),
            4 => Self::SnapshotEnd,
            5 => return Ok(Some(Self::Block(payload))),
            6 => Self::Heartbeat {
                at: get_position(&mut payload)?,
                database: get_database(&mut payload)?,
                time: Timestamp(get_u64(&mut payload)?),
                wall: get_u64(&mut payload)?,
                seen: get_seen(&mut payload)?,
            },
            7 => return Ok(Some(Self::Wait(text(&payload)))),
            9 => Self::Continue { at: get_checkpoint(&mut payload)? },
            _ => return Ok(Some(Self::Bye(text(&payload)))),
        };
        if payload.is_empty() { Ok(Some(frame)) } else { Err(FrameError::Broken("too long")) }
    }
}

fn text(bytes: &[u8]) -> String {
    // It goes into logs and replies: no control characters, no novels.
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(500).collect()
}

fn put_position(out: &mut BytesMut, position: Position) {
    out.put_slice(position.replid.as_bytes());
    out.put_u64_le(position.offset.0);
}

fn get_position(payload: &mut Bytes) -> Result<Position, FrameError> {
    if payload.len() < 40 {
        return Err(FrameError::Broken("position"));
    }
    let replid = ReplicationId::from_bytes(&payload.split_to(40));
    let replid = replid.map_err(|_| FrameError::Broken("replication id"))?;
    Ok(Position { replid, offset: Offset(get_u64(payload)?) })
}

fn put_checkpoint(out: &mut BytesMut, checkpoint: Checkpoint) {
    put_position(out, checkpoint.position);
    out.put_u32_le(checkpoint.database.0);
    out.put_u64_le(checkpoint.time);
    // Nobody is sent one with a mirror.
    out.put_u8((checkpoint.owed == Owed::Snapshot).into());
}

fn get_checkpoint(payload: &mut Bytes) -> Result<Checkpoint, FrameError> {
    Ok(Checkpoint {
        position: get_position(payload)?,
        database: get_database(payload)?,
        time: get_u64(payload)?,
        owed: match payload.try_get_u8().map_err(|_| FrameError::Broken("checkpoint"))? {
            0 => Owed::Nothing,
            _ => Owed::Snapshot,
        },
    })
}

fn get_u64(payload: &mut Bytes) -> Result<u64, FrameError> {
    payload.try_get_u64_le().map_err(|_| FrameError::Broken("number"))
}

fn get_database(payload: &mut Bytes) -> Result<Database, FrameError> {
    payload.try_get_u32_le().map(Database).map_err(|_| FrameError::Broken("database"))
}

fn get_session(payload: &mut Bytes) -> Result<Option<LinkSession>, FrameError> {
    let there = payload.try_get_u8().map_err(|_| FrameError::Broken("session"))? != 0;
    let session = get_u64(payload)?;
    Ok(there.then_some(LinkSession(session)))
}

fn put_seen(out: &mut BytesMut, seen: &Seen) {
    let sites = &seen.0[..seen.0.len().min(MAX_SITES)];
    out.put_u8(u8::try_from(sites.len()).unwrap_or(0));
    for (site, position) in sites {
        // A name has at most 32 bytes.
        out.put_u8(u8::try_from(site.as_str().len()).unwrap_or(0));
        out.put_slice(site.as_str().as_bytes());
        put_position(out, *position);
    }
}

fn get_seen(payload: &mut Bytes) -> Result<Seen, FrameError> {
    let broken = FrameError::Broken("seen");
    let count = payload.try_get_u8().map_err(|_| broken)?;
    let mut sites = Vec::new();
    for _ in 0..count {
        let length = payload.try_get_u8().map_err(|_| FrameError::Broken("seen"))?.into();
        if payload.len() < length {
            return Err(FrameError::Broken("seen"));
        }
        let name = payload.split_to(length);
        let site: Option<SiteName> =
            std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok());
        sites.push((site.ok_or(FrameError::Broken("site name"))?, get_position(payload)?));
    }
    Ok(Seen(sites))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> Vec<Frame> {
        let at = Position { replid: ReplicationId::random(), offset: Offset(77) };
        let there =
            Checkpoint { position: at, database: Database(3), time: 9, owed: Owed::Nothing };
        let seen = Seen(vec![("b".parse().unwrap(), at), ("c_2".parse().unwrap(), at)]);
        vec![
            Frame::Resume { from: there },
            Frame::Continue { at: Checkpoint { owed: Owed::Snapshot, ..there } },
            Frame::Snapshot {
                at,
                keys: 12,
                pair: Some(LinkSession(7)),
                mirror: true,
                seen: seen.clone(),
            },
            Frame::SnapshotBytes(Bytes::from_static(b"abc")),
            Frame::SnapshotEnd,
            Frame::Block(Bytes::from_static(b"")),
            Frame::Heartbeat { at, database: Database(2), time: Timestamp(5), wall: 8, seen },
            Frame::Wait("preparing".into()),
            Frame::Bye("gone".into()),
        ]
    }

    #[test]
    fn frames_round_trip_at_every_split() {
        let mut stream = BytesMut::new();
        for frame in frames() {
            frame.put(&mut stream);
        }
        let frames: Vec<Frame> = {
            let mut all = stream.clone();
            std::iter::from_fn(|| Frame::take(&mut all).unwrap()).collect()
        };
        assert_eq!(frames.len(), 9);
        for cut in 0..stream.len() {
            let mut buf = BytesMut::from(&stream[..cut]);
            let mut found = Vec::new();
            while let Some(frame) = Frame::take(&mut buf).unwrap() {
                found.push(frame);
            }
            buf.extend_from_slice(&stream[cut..]);
            while let Some(frame) = Frame::take(&mut buf).unwrap() {
                found.push(frame);
            }
            assert_eq!(found, frames, "cut at {cut}");
        }
    }

    #[test]
    fn another_protocol_is_told_at_once() {
        let mut buf = BytesMut::from(&b"HTTP/1.1 400 Bad Request"[..]);
        assert_eq!(Frame::take(&mut buf), Err(FrameError::UnknownKind(b'/')));
    }

    proptest! {
        #[test]
        fn never_panics(kind in 0u8..11, payload in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut buf = BytesMut::new();
            buf.put_u32_le(u32::try_from(payload.len()).unwrap());
            buf.put_u8(kind);
            buf.put_slice(&payload);
            let _ = Frame::take(&mut buf);
        }
    }
}
