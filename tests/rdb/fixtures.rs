//! Small snapshots of several servers, kept as files, and what they must decode to.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::BytesMut;
use proptest::prelude::*;
use redis_duplex::rdb::{CommandLimits, Decoder, Item, Limits, RdbVersion};

use crate::server::{Server, binaries};
use crate::{COMMANDS, decode};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rdb")
}

/// The snapshots, with their paths.
fn snapshots() -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(directory()).unwrap().map(|file| file.unwrap().path());
    let snapshots = files.filter(|path| path.extension().is_some_and(|end| end == "rdb"));
    let snapshots: Vec<_> =
        snapshots.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    assert!(snapshots.len() >= 4);
    snapshots
}

/// Items as text: entries with their encoding and their commands.
fn describe(items: &[Item]) -> String {
    let mut text = String::new();
    for item in items {
        let Item::Entry(entry) = item else {
            writeln!(text, "{item:?}").unwrap();
            continue;
        };
        writeln!(text, "{} {} {:?}", entry.db, entry.key.escape_ascii(), entry.encoding).unwrap();
        let limits = CommandLimits::default();
        let target = if entry.encoding.is_loaded_by(RdbVersion::valkey(80)) {
            RdbVersion::valkey(80)
        } else {
            RdbVersion::redis(13)
        };
        entry
            .to_commands(target, limits, &mut |command| {
                let words = command.iter().map(|word| word.escape_ascii().to_string());
                writeln!(text, "    {}", words.collect::<Vec<_>>().join(" ")).unwrap();
            })
            .unwrap();
    }
    text
}

#[test]
fn snapshots_decode_to_what_was_put_in() {
    for (path, snapshot) in snapshots() {
        let found = describe(&decode(&snapshot, usize::MAX).unwrap());
        let expected = std::fs::read_to_string(path.with_extension("txt")).unwrap();
        assert!(found == expected, "{}: found {found}", path.display());
    }
}

#[test]
fn pieces_make_no_difference() {
    for (path, snapshot) in snapshots() {
        let whole = decode(&snapshot, usize::MAX).unwrap();
        assert_eq!(decode(&snapshot, 1).unwrap(), whole, "{}", path.display());
        for cut in 1..snapshot.len() {
            let (mut decoder, mut items) = (Decoder::new(Limits::default()), Vec::new());
            let mut buffer = BytesMut::new();
            for piece in [&snapshot[..cut], &snapshot[cut..]] {
                buffer.extend_from_slice(piece);
                while let Some(item) = decoder.decode(&mut buffer).unwrap() {
                    items.push(item);
                }
            }
            assert!(items == whole, "{} cut at {cut}", path.display());
        }
    }
}

#[test]
fn a_snapshot_cut_short_has_no_end() {
    for (_, snapshot) in snapshots() {
        for end in 0..snapshot.len() {
            let items = decode(&snapshot[..end], usize::MAX).unwrap();
            assert_ne!(items.last(), Some(&Item::End));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..Default::default() })]

    /// Damage is an error or, in a part that means little, another item; never a panic. The checksum
    /// only comes at the end, so that values reach the command writer before it can speak.
    #[test]
    fn damage_never_panics(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        piece in 1_usize..5000,
    ) {
        let snapshots = SNAPSHOTS.with(Clone::clone);
        let mut snapshot = snapshots[which.index(snapshots.len())].1.clone();
        for (at, byte) in damage {
            let at = 9 + at.index(snapshot.len() - 9);
            snapshot[at] = byte;
        }
        snapshot.truncate(snapshot.len() - cut.index(snapshot.len()) / 4);
        let (mut decoder, mut buffer) = (Decoder::new(Limits::default()), BytesMut::new());
        'snapshot: for piece in snapshot.chunks(piece) {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer) {
                    Ok(Some(Item::Entry(entry))) => {
                        for target in [RdbVersion::valkey(80), RdbVersion::redis(9)] {
                            let _ = entry.to_commands(target, CommandLimits::default(), &mut |_| {});
                            entry.restore_payload(target);
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => {
                        prop_assert!(!error.to_string().is_empty());
                        break 'snapshot;
                    }
                }
            }
        }
    }
}

thread_local! {
    static SNAPSHOTS: Rc<Vec<(PathBuf, Vec<u8>)>> = Rc::new(snapshots());
}

/// `REDIS_SERVERS=.. ./dev fixtures`
#[test]
#[ignore = "writes the fixtures anew"]
fn make_the_snapshots() {
    for binary in binaries() {
        let mut server = Server::start(&binary);
        server.run(COMMANDS);
        let snapshot = server.save();
        let directory = directory();
        let text = describe(&decode(&snapshot, usize::MAX).unwrap());
        std::fs::write(directory.join(format!("{}.rdb", server.name)), snapshot).unwrap();
        std::fs::write(directory.join(format!("{}.txt", server.name)), text).unwrap();
    }
}
