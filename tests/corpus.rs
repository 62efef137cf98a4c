//! The checks of the fuzz targets on every build: over their corpus, and over some thousand
//! mutations of it that are the same each time. `./dev fuzz` looks further.

#![allow(clippy::unwrap_used, clippy::panic, reason = "this is how a test fails")]

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[path = "../fuzz/checks.rs"]
mod checks;

/// Mutations of each file.
const MUTATIONS: usize = 300;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// One to four changes: a byte, a cut, a piece doubled, a number made large.
fn mutate(bytes: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..=4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.random_range(0..bytes.len());
        let to = random.random_range(at..=bytes.len().min(at + 40));
        match random.random_range(0..6) {
            0 => bytes[at] = random.random(),
            1 => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..to)),
            4 => {
                let piece = bytes[at..to].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                if let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) {
                    let number: u64 = random.random();
                    bytes.splice(at + digit..=at + digit, number.to_string().into_bytes());
                }
            }
        }
    }
    bytes
}

fn replay(name: &str, check: fn(&[u8])) {
    let mut random = StdRng::seed_from_u64(7);
    for seed in corpus(name) {
        check(&seed);
        for _ in 0..MUTATIONS {
            check(&mutate(&seed, &mut random));
        }
    }
}

#[test]
fn requests() {
    replay("request", checks::request);
}

#[test]
fn replies() {
    replay("reply", checks::reply);
}

#[test]
fn replication_streams() {
    replay("stream", checks::stream);
}

#[test]
fn frames_of_a_link() {
    replay("frame", checks::frame);
}

#[test]
fn snapshots() {
    replay("snapshot", checks::snapshot);
}

#[test]
fn configurations() {
    replay("configuration", checks::configuration);
}

/// Writes a seed of the frames anew, when their form has changed.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn make_the_frames() {
    use redis_duplex::frame::Frame;
    let mut out = bytes::BytesMut::new();
    for frame in [
        Frame::Wait("not yet".into()),
        Frame::SnapshotBytes(bytes::Bytes::from_static(b"REDIS0010")),
        Frame::SnapshotEnd,
        Frame::Bye("history broke".into()),
    ] {
        frame.put(&mut out);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frame/some");
    std::fs::write(path, &out).unwrap();
}
