//! The journal alone: appending, reading, opening. Prints; `cargo bench --bench journal` runs it.
//!
//! It writes 1 GiB below the directory in `TMPDIR`: set that to the disk to be measured.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench is a program for people to read; a panic is how it fails"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use redis_duplex::config::{self, Fsync};
use redis_duplex::journal::{Block, BlockBuilder, Journal, Reached, Read};
use redis_duplex::position::{Database, Offset, Position, ReplicationId, Seen};

/// `SET key:<12 digits> <64 bytes>` in RESP is about this long.
const UNIT: usize = 107;
const TOTAL: usize = 1 << 30;
/// With `always` each append waits for the disk: so much is enough.
const ALWAYS_TOTAL: usize = 64 << 20;

fn main() {
    // `cargo bench` passes `--bench`; `cargo test --benches` does not, and gets nothing to do.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    println!("units of {UNIT} bytes; MB are 10^6 bytes of payload; times of one append");
    runtime.block_on(async {
        for fsync in [Fsync::No, Fsync::Everysec, Fsync::Always] {
            for size in [1 << 10, 16 << 10, 256 << 10] {
                append(fsync, size).await;
            }
        }
        read_and_open().await;
    });
}

fn config(dir: &Path, fsync: Fsync, cache: ByteSize) -> config::Journal {
    config::Journal { dir: dir.to_owned(), max_size: ByteSize::gib(2), fsync, cache }
}

async fn begin(config: &config::Journal) -> Arc<Journal> {
    let journal = Journal::open(config, Arc::default()).unwrap();
    let position = Position { replid: ReplicationId::random(), offset: Offset(0) };
    journal.begin_history(position, Database(0)).await.unwrap();
    journal
}

/// A block of units that begins at an offset.
fn block(builder: &mut BlockBuilder, at: Position, size: usize, seen: &Arc<Seen>) -> Block {
    let mut end = at.offset;
    for _ in 0..size.div_ceil(UNIT) {
        end.0 += UNIT as u64;
        builder.unit(Database(0), &[b'x'; UNIT], end, seen);
    }
    builder.take(at.replid, at.offset, end)
}

/// Appends so many bytes; how long each append took.
async fn fill(journal: &Journal, total: usize, size: usize) -> Vec<Duration> {
    let mut builder = BlockBuilder::new(None);
    let seen = Arc::default();
    let mut at = journal.head().position;
    let mut times = Vec::new();
    for _ in 0..total / size {
        let mut block = Some(block(&mut builder, at, size, &seen));
        at.offset = block.as_ref().unwrap().end;
        let began = Instant::now();
        let (database, floors) = (Database(0), Arc::default());
        let reached = Reached { position: at, database, seen: seen.clone(), floors };
        journal.append(&mut block, &reached).await.unwrap();
        times.push(began.elapsed());
    }
    times
}

async fn append(fsync: Fsync, size: usize) {
    let dir = tempfile::tempdir().unwrap();
    let journal = begin(&config(dir.path(), fsync, ByteSize::mib(64))).await;
    let total = match fsync {
        Fsync::Always => (size * 2000).min(ALWAYS_TOTAL),
        _ => TOTAL.min(size * 200_000),
    };
    let mut times = fill(&journal, total, size).await;
    let sum: Duration = times.iter().sum();
    times.sort_unstable();
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000];
    println!(
        "append {fsync:?} {:>3} KiB: {:>5.0} MB/s, median {:?}, 99 % {:?}, 99.9 % {:?}, worst {:?}",
        size >> 10,
        total as f64 / sum.as_secs_f64() / 1e6,
        at(500),
        at(990),
        at(999),
        at(1000),
    );
}

async fn read_and_open() {
    let dir = tempfile::tempdir().unwrap();
    for (name, cache) in [("from files", ByteSize::b(0)), ("from memory", ByteSize::gib(4))] {
        let dir = dir.path().join(name);
        let config = config(&dir, Fsync::No, cache);
        let journal = begin(&config).await;
        let start = journal.head();
        fill(&journal, TOTAL, 64 << 10).await;
        let began = Instant::now();
        let mut reader = journal.read_from(start.position).unwrap();
        let mut bytes = 0;
        while let Read::Block(block) = reader.read().await.unwrap() {
            bytes += block.payload.len();
        }
        report("units", name, bytes, began);
        let began = Instant::now();
        let mut reader = journal.follow_from(start.follower).unwrap();
        let mut bytes = 0;
        while let Some(payload) = reader.read().await.unwrap() {
            bytes += payload.len();
        }
        report("bytes", name, bytes, began);
        if cache.as_u64() == 0 {
            let status = journal.status();
            drop((reader, journal));
            let began = Instant::now();
            let journal = Journal::open(&config, Arc::default()).unwrap();
            let (size, segments) = (ByteSize::b(status.bytes), status.segments);
            println!("open {size} in {segments} segments: {:?}", began.elapsed());
            drop(journal);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

fn report(what: &str, name: &str, bytes: usize, began: Instant) {
    let rate = bytes as f64 / began.elapsed().as_secs_f64() / 1e6;
    println!("read {what} {name}: {rate:.0} MB/s");
}
