//! What must hold for any bytes at all. The fuzz targets call these, and so does `tests/corpus.rs`
//! on every build. None of them may panic, hang, or take memory that was only announced.

use bytes::{Bytes, BytesMut};
use redis_duplex::config::Config;
use redis_duplex::frame::Frame;
use redis_duplex::journal::Block;
use redis_duplex::rdb::{CommandLimits, Decoder, Item, Limits as RdbLimits, RdbVersion};
use redis_duplex::redis::{SnapshotFraming, SnapshotPart};
use redis_duplex::resp::{Limits, ReplyScanner, RequestParser, Scanner, elements};
use redis_duplex::write_off::Mark;

/// Sizes of the pieces that bytes arrive in, besides all at once.
const PIECES: [usize; 3] = [1, 7, 64];

/// What a client sends: the same requests and the same error, however it arrives in pieces.
pub fn request(bytes: &[u8]) {
    for limits in [Limits::CLIENT, Limits::STRANGER] {
        let whole = requests(bytes, bytes.len().max(1), limits);
        for piece in PIECES {
            assert_eq!(requests(bytes, piece, limits).0, whole.0);
        }
    }
}

fn requests(bytes: &[u8], piece: usize, limits: Limits) -> (Vec<Bytes>, Option<String>) {
    let (mut parser, mut input) = (RequestParser::new(limits), BytesMut::new());
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match parser.parse(&mut input) {
                Ok(Some(request)) => {
                    assert_eq!(request.args().len(), request.len());
                    found.push(request.raw().clone());
                }
                Ok(None) => break,
                Err(error) => return (found, Some(error.to_string())),
            }
        }
    }
    (found, None)
}

/// What a server answers: the same replies, however they arrive in pieces.
pub fn reply(bytes: &[u8]) {
    let whole = replies(bytes, bytes.len().max(1));
    for piece in PIECES {
        assert_eq!(replies(bytes, piece), whole);
    }
    for piece in PIECES {
        let parts = in_parts(bytes, piece);
        assert!(parts.starts_with(&whole.concat()) && bytes.starts_with(&parts));
    }
    for reply in &whole {
        let inside: usize = elements(reply).map(<[u8]>::len).sum();
        assert!(inside <= reply.len());
    }
}

fn replies(bytes: &[u8], piece: usize) -> Vec<Bytes> {
    let (mut scanner, mut input) = (ReplyScanner::default(), BytesMut::new());
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match scanner.scan(&input) {
                Ok(Some(length)) => found.push(input.split_to(length).freeze()),
                Ok(None) => break,
                Err(_) => return found,
            }
        }
    }
    found
}

/// The bytes of all replies, taken as they come.
fn in_parts(bytes: &[u8], piece: usize) -> Vec<u8> {
    let (mut scanner, mut input) = (ReplyScanner::default(), BytesMut::new());
    let mut taken = Vec::new();
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            let Ok((length, whole)) = scanner.scan_part(&input) else { return taken };
            taken.extend_from_slice(&input.split_to(length));
            if !whole {
                break;
            }
        }
    }
    taken
}

/// What a master sends behind `+FULLRESYNC`: a framed snapshot, then commands.
pub fn stream(bytes: &[u8]) {
    let whole = streamed(bytes, bytes.len().max(1));
    for piece in PIECES {
        assert_eq!(streamed(bytes, piece), whole);
    }
}

fn streamed(bytes: &[u8], piece: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut framing, mut scanner) = (SnapshotFraming::default(), Scanner::new(Limits::STREAM));
    let (mut input, mut over) = (BytesMut::new(), false);
    let (mut snapshot, mut commands) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        while !over {
            match framing.next(&mut input) {
                Ok(Some(SnapshotPart::Bytes(bytes))) => snapshot.extend_from_slice(&bytes),
                Ok(Some(SnapshotPart::Head(_))) => {}
                Ok(Some(SnapshotPart::End)) => over = true,
                Ok(None) => break,
                Err(_) => return (Vec::new(), commands),
            }
        }
        if !over {
            continue;
        }
        loop {
            let length = match scanner.scan(&input) {
                Ok(Some(command)) => {
                    let _ = Mark::parse(command);
                    commands.push(command.raw().to_vec());
                    command.raw().len()
                }
                Ok(None) => break,
                Err(_) => return (snapshot, commands),
            };
            let _ = input.split_to(length);
        }
    }
    (if over { snapshot } else { Vec::new() }, commands)
}

/// What a peer sends on a link: a frame that is read is written as it was read.
pub fn frame(bytes: &[u8]) {
    let mut input = BytesMut::from(bytes);
    while let Ok(Some(frame)) = Frame::take(&mut input) {
        let mut out = BytesMut::new();
        frame.put(&mut out);
        let again = Frame::take(&mut out);
        assert!(matches!(again, Ok(Some(other)) if other == frame));
        if let Frame::Block(block) = frame {
            let _ = Block::decode(&block);
        }
    }
}

/// A snapshot: entries, and their commands for an old target and a new one.
pub fn snapshot(bytes: &[u8]) {
    // Nothing is kept for a length that is only announced, so this is not reached by small input.
    let limits = RdbLimits { entry_bytes: 1 << 20 };
    let (mut decoder, mut input) = (Decoder::new(limits), BytesMut::new());
    for piece in bytes.chunks(61) {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(Item::Entry(entry))) => {
                    for target in [RdbVersion::redis(9), RdbVersion::redis(12)] {
                        let limits = CommandLimits { elements: 3, bytes: 100 };
                        let _ = entry.to_commands(target, limits, &mut drop);
                        let _ = entry.restore_payload(target);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// A configuration file: it is taken or refused with a message.
pub fn configuration(bytes: &[u8]) {
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if std::io::Write::write_all(&mut file, bytes).is_ok()
        && let Err(error) = Config::load(file.path())
    {
        assert!(!error.to_string().is_empty());
    }
}
