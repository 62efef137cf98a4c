//! The journal against a model, and each rule of it.

mod damage;
mod model;

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use tempfile::TempDir;

use super::*;
use crate::clock::Timestamp;

const PATIENCE: Duration = Duration::from_secs(10);
const BOOT: &str = "this boot";

fn reached(position: Position, database: Database, seen: &Arc<Seen>) -> Reached {
    Reached { position, database, seen: seen.clone(), floors: Arc::default() }
}

/// A journal in a directory of its own, and a stream that goes on in it.
struct Stage {
    _dir: TempDir,
    config: config::Journal,
    journal: Option<Arc<Journal>>,
    builder: BlockBuilder,
    seen: Arc<Seen>,
    count: u64,
}

impl Stage {
    fn new(fsync: Fsync) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config::Journal {
            dir: dir.path().join("journal"),
            max_size: ByteSize::mib(64),
            fsync,
            cache: ByteSize::b(0),
        };
        let (builder, seen) = (BlockBuilder::new(None), Arc::default());
        Self { _dir: dir, config, journal: None, builder, seen, count: 0 }
    }

    async fn begun(fsync: Fsync) -> Self {
        let mut stage = Self::new(fsync);
        stage.open(BOOT).unwrap();
        let position = Position { replid: ReplicationId::random(), offset: Offset(1000) };
        stage.journal().begin_history(position, Database(0)).await.unwrap();
        stage
    }

    fn open(&mut self, boot: &str) -> Result<(), JournalError> {
        self.journal = Some(Journal::open_at_boot(&self.config, Arc::default(), boot)?);
        self.builder = BlockBuilder::new(None);
        Ok(())
    }

    /// As `kill -9`: nothing is said at the end.
    fn reopen(&mut self, boot: &str) -> Result<(), JournalError> {
        self.journal = None;
        self.open(boot)
    }

    fn journal(&self) -> &Arc<Journal> {
        self.journal.as_ref().unwrap()
    }

    /// A block of one unit of so many bytes; its text.
    async fn append(&mut self, size: usize) -> Result<Vec<u8>, JournalError> {
        self.count += 1;
        let text: Vec<u8> = format!("{}|", self.count).bytes().cycle().take(size).collect();
        let at = self.journal().head().position;
        let end = Offset(at.offset.0 + size as u64);
        self.builder.unit(Database(0), &text, end, &self.seen);
        let mut block = Some(self.builder.take(at.replid, at.offset, end));
        let position = Position { offset: end, ..at };
        self.journal().append(&mut block, &reached(position, Database(0), &self.seen)).await?;
        Ok(text)
    }

    /// Until all segments that there are were forced to disk.
    async fn wait_for_disk(&self) {
        let since = Instant::now();
        let on_disk = || {
            let writer = self.journal().core.writer.lock();
            writer.unsynced.is_empty() && writer.synced >= writer.file.sequence
        };
        while !on_disk() {
            assert!(since.elapsed() < PATIENCE);
            tokio::task::yield_now().await;
        }
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.config.dir).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some());
        paths.sort();
        paths
    }
}

/// All units behind a position.
async fn units(journal: &Journal, from: Position) -> Result<Vec<Vec<u8>>, NotInJournal> {
    let mut reader = journal.read_from(from)?;
    let (mut units, mut at) = (Vec::new(), from.offset);
    while let Read::Block(block) = reader.read().await? {
        for unit in block.units.iter().filter(|unit| unit.end > at) {
            units.push(block.payload[unit.from..unit.to].to_vec());
        }
        at = block.end;
    }
    Ok(units)
}

/// All bytes from one on.
async fn bytes(journal: &Journal, from: FollowerOffset) -> Result<Vec<u8>, NotInJournal> {
    let mut reader = journal.follow_from(from)?;
    let mut all = Vec::new();
    while let Some(bytes) = reader.read().await? {
        all.extend_from_slice(&bytes);
    }
    assert_eq!(reader.at().0, from.0 + all.len() as u64);
    Ok(all)
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[tokio::test]
async fn echoes_alone_are_not_written_each_time() {
    for fsync in [Fsync::Always, Fsync::Everysec, Fsync::No] {
        let mut stage = Stage::begun(fsync).await;
        stage.append(100).await.unwrap();
        let start = stage.journal().head().position;
        let size = stage.journal().status().bytes;
        for number in 1..=200 {
            let at = Position { offset: Offset(start.offset.0 + number), ..start };
            let peer = Position { offset: Offset(number), ..start };
            let seen = Arc::new(Seen::default().with(&"b".parse().unwrap(), peer));
            stage.journal().append(&mut None, &reached(at, Database(1), &seen)).await.unwrap();
            let head = stage.journal().head();
            assert_eq!((head.position, head.seen), (at, seen.clone()));
            stage.seen = seen;
        }
        // One a second: a few on a slow machine.
        assert!(stage.journal().status().bytes < size + 20 * 100, "too many");
        // What follows stands on it, and a clean end keeps it.
        stage.append(100).await.unwrap();
        let at = stage.journal().head().position;
        let last = Position { offset: Offset(at.offset.0 + 9), ..at };
        stage.journal().append(&mut None, &reached(last, Database(2), &stage.seen)).await.unwrap();
        stage.journal().close().unwrap();
        stage.reopen(BOOT).unwrap();
        let head = stage.journal().head();
        assert_eq!((head.position, head.database), (last, Some(Database(2))));
        assert_eq!(head.seen, stage.seen);
    }
}

#[tokio::test]
async fn a_reopened_journal_knows_all_that_it_knew() {
    for fsync in [Fsync::Always, Fsync::Everysec, Fsync::No] {
        let mut stage = Stage::begun(fsync).await;
        let start = stage.journal().head();
        let peer = Position { replid: ReplicationId::random(), offset: Offset(7) };
        stage.seen = Arc::new(Seen::default().with(&"b".parse().unwrap(), peer));
        let first = stage.append(100).await.unwrap();
        let renamed = ReplicationId::random();
        stage.journal().rename_history(renamed).await.unwrap();
        let second = stage.append(5000).await.unwrap();
        let at = stage.journal().head().position;
        let at = Position { offset: Offset(at.offset.0 + 33), ..at };
        // Only echoes came, and the stream stands in another database now.
        stage.journal().append(&mut None, &reached(at, Database(5), &stage.seen)).await.unwrap();
        stage.journal().ping().await.unwrap();
        let (head, status) = (stage.journal().head(), stage.journal().status());
        for closed in [false, true] {
            if closed {
                stage.journal().close().unwrap();
            }
            stage.reopen(BOOT).unwrap();
            let now = stage.journal().head();
            assert_eq!((now.position, now.database), (at, Some(Database(5))));
            assert_eq!((now.follower, now.units, &now.seen), (head.follower, 2, &stage.seen));
            assert_eq!(stage.journal().status().follower_id, status.follower_id);
            // By the id that the history had before, too.
            let units = units(stage.journal(), start.position).await.unwrap();
            assert_eq!(units, [first.clone(), second.clone()]);
            let all = bytes(stage.journal(), start.follower).await.unwrap();
            let select = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n";
            assert_eq!(all, [select, &first[..], &second, PING].concat());
        }
        assert!(matches!(stage.journal().read_from(peer), Err(NotInJournal::OtherHistory(..))));
        let ahead = Position { offset: Offset(at.offset.0 + 1), ..at };
        assert!(matches!(stage.journal().read_from(ahead), Err(NotInJournal::Ahead { .. })));
    }
}

#[tokio::test]
async fn what_was_before_a_break_can_be_read_to_its_end_and_what_comes_behind_it() {
    let mut stage = Stage::begun(Fsync::Everysec).await;
    let first = stage.journal().head().position;
    let mut texts = vec![stage.append(100).await.unwrap(), stage.append(90).await.unwrap()];
    let last = stage.journal().head().position;
    let mut early = stage.journal().read_from(first).unwrap();
    for offset in [5, 7] {
        let position = Position { replid: ReplicationId::random(), offset: Offset(offset) };
        stage.journal().begin_history(position, Database(0)).await.unwrap();
        texts.push(stage.append(80).await.unwrap());
    }
    assert_eq!(rest_of(stage.journal(), &mut early).await, texts[..2]);
    let ahead = Position { offset: Offset(last.offset.0 + 1), ..last };
    for _ in 0..2 {
        let journal = stage.journal();
        assert!(journal.knew(first) && !journal.knows(first) && journal.read_from(first).is_err());
        assert!(journal.read_past(ahead).is_none());
        let mut reader = journal.read_past(last).unwrap();
        let mut found = rest_of(journal, &mut reader).await;
        for offset in [5, 7] {
            let (begins, next) = journal.read_next(&reader).unwrap();
            assert_eq!(begins.offset, Offset(offset));
            reader = next;
            found.extend(rest_of(journal, &mut reader).await);
        }
        assert_eq!(found, texts[2..]);
        assert!(journal.read_next(&reader).is_none());
        assert_eq!(stage.segments().len(), 3);
        stage.reopen(BOOT).unwrap();
    }
}

/// The units up to the end of the reader's history.
async fn rest_of(journal: &Journal, reader: &mut UnitReader) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    loop {
        match reader.read().await {
            Ok(Read::Block(block)) => {
                let texts = block.units.iter().map(|unit| block.payload[unit.from..unit.to].into());
                found.extend(texts);
            }
            Ok(Read::Idle(head)) => {
                assert_eq!(head.position, journal.head().position);
                return found;
            }
            Err(error) => {
                assert_eq!(error, NotInJournal::HistoryBroke);
                return found;
            }
        }
    }
}

#[tokio::test]
async fn what_broke_makes_room_first_and_only_so_many_are_kept() {
    let mut stage = Stage::new(Fsync::No);
    stage.config.max_size = ByteSize::mib(4);
    stage.open(BOOT).unwrap();
    let begin = async |stage: &Stage| {
        let position = Position { replid: ReplicationId::random(), offset: Offset(5) };
        stage.journal().begin_history(position, Database(0)).await.unwrap();
        position
    };
    let old = begin(&stage).await;
    for _ in 0..12 {
        stage.append(100 << 10).await.unwrap();
    }
    let new = begin(&stage).await;
    assert!(stage.journal().knew(old));
    let first = stage.append(100 << 10).await.unwrap();
    for _ in 0..25 {
        stage.append(100 << 10).await.unwrap();
    }
    assert!(!stage.journal().knew(old));
    assert_eq!(units(stage.journal(), new).await.unwrap()[0], first);
    for _ in 0..20 {
        begin(&stage).await;
    }
    assert!(!stage.journal().knew(new));
    assert!(stage.segments().len() <= 18);
}

#[tokio::test]
async fn a_reader_of_a_past_that_goes_is_not_told_that_it_read_all_of_it() {
    let mut stage = Stage::new(Fsync::Everysec);
    stage.config.max_size = ByteSize::mib(4);
    stage.open(BOOT).unwrap();
    let old = Position { replid: ReplicationId::random(), offset: Offset(1000) };
    stage.journal().begin_history(old, Database(0)).await.unwrap();
    for _ in 0..9 {
        stage.append(100 << 10).await.unwrap();
    }
    let new = Position { replid: ReplicationId::random(), offset: Offset(5) };
    stage.journal().begin_history(new, Database(0)).await.unwrap();
    let mut slow = stage.journal().read_past(old).unwrap();
    assert!(matches!(slow.read().await, Ok(Read::Block(_))));
    for _ in 0..60 {
        stage.append(100 << 10).await.unwrap();
    }
    assert!(!stage.journal().knew(old));
    let (mut got, mut end) = (1, slow.read().await);
    while let Ok(Read::Block(_)) = end {
        got += 1;
        end = slow.read().await;
    }
    let all = matches!(end, Err(NotInJournal::HistoryBroke));
    assert!(got == 9 || !all, "{got} of 9 blocks, then as if that was all");
}

#[tokio::test]
async fn a_reader_of_what_broke_since_is_told_apart() {
    let mut stage = Stage::begun(Fsync::Everysec).await;
    let mut reader = stage.journal().read_from(stage.journal().head().position).unwrap();
    assert!(matches!(reader.read().await, Ok(Read::Idle(_))));
    assert!(stage.journal().is_present(&reader));
    stage.append(100).await.unwrap();
    let position = Position { replid: ReplicationId::random(), offset: Offset(5) };
    stage.journal().begin_history(position, Database(0)).await.unwrap();
    // Its unit is not of the history in which a snapshot is cut now.
    assert!(!stage.journal().is_present(&reader));
    assert!(matches!(reader.read().await, Ok(Read::Block(_))));
}

#[tokio::test]
async fn a_new_history_ends_readers() {
    let mut stage = Stage::begun(Fsync::Everysec).await;
    let before = stage.journal().head();
    stage.append(100).await.unwrap();
    let id = stage.journal().status().follower_id;
    let mut units_before = stage.journal().read_from(before.position).unwrap();
    let mut bytes_before = stage.journal().follow_from(before.follower).unwrap();
    let position = Position { replid: ReplicationId::random(), offset: Offset(5) };
    stage.journal().begin_history(position, Database(9)).await.unwrap();
    assert!(matches!(units_before.read().await, Ok(Read::Block(_))));
    assert!(matches!(units_before.read().await, Err(NotInJournal::HistoryBroke)));
    assert!(matches!(bytes_before.read().await, Err(NotInJournal::HistoryBroke)));
    for _ in 0..2 {
        let head = stage.journal().head();
        assert_eq!((head.position, head.database), (position, Some(Database(9))));
        assert!(head.follower > before.follower);
        assert_ne!(stage.journal().status().follower_id, id);
        assert!(units(stage.journal(), before.position).await.is_err());
        assert!(bytes(stage.journal(), before.follower).await.is_err());
        assert_eq!(stage.segments().len(), 2);
        stage.reopen(BOOT).unwrap();
    }
    let earlier = Position { offset: Offset(3), ..position };
    stage.journal().begin_anew(earlier, Database(0)).await.unwrap();
    assert!(!stage.journal().knew(before.position));
    assert_eq!(stage.segments().len(), 1);
}

#[tokio::test]
async fn the_oldest_segments_go_and_readers_are_told_what_is_missing() {
    let mut stage = Stage::new(Fsync::Everysec);
    stage.config.max_size = ByteSize::mib(4);
    stage.open(BOOT).unwrap();
    let start = stage.journal().head();
    let mut slow = stage.journal().read_from(start.position).unwrap();
    for _ in 0..100 {
        stage.append(100 << 10).await.unwrap();
    }
    let status = stage.journal().status();
    assert!(status.bytes <= 4 << 20, "{status:?}");
    assert!(status.bytes >= 2 << 20, "{status:?}");
    let missing = stage.journal().read_from(start.position).unwrap_err();
    assert!(matches!(missing, NotInJournal::Dropped { .. }), "{missing}");
    assert!(matches!(slow.read().await, Err(NotInJournal::Dropped { .. })));
    let missing = stage.journal().follow_from(start.follower).unwrap_err();
    assert!(matches!(missing, NotInJournal::Dropped { .. }));
    for _ in 0..2 {
        let status = stage.journal().status();
        let kept = units(stage.journal(), status.first).await.unwrap();
        assert!(kept.len() > 20 && kept.last().unwrap().starts_with(b"100|"));
        let all = bytes(stage.journal(), status.first_follower).await.unwrap();
        assert_eq!(all, kept.concat());
        stage.reopen(BOOT).unwrap();
    }
}

#[tokio::test]
async fn a_follower_begins_at_the_unit_behind_its_snapshot() {
    for cache in [0, 1 << 20] {
        let mut stage = Stage::begun(Fsync::No).await;
        stage.config.cache = ByteSize::b(cache);
        stage.reopen(BOOT).unwrap();
        let start = stage.journal().head();
        let first = stage.append(100).await.unwrap();
        let between = stage.journal().head();
        let second = stage.append(200).await.unwrap();
        let journal = stage.journal();
        let select = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n";
        let (from, missing) = journal.follower_at(start.position.offset).await.unwrap();
        assert_eq!((from, missing), (start.follower, None), "the first unit has a SELECT");
        let all = [&select[..], &first, &second].concat();
        assert_eq!(bytes(journal, from).await.unwrap(), all);
        // Within a unit there is no snapshot, but echoes may end there.
        let within = Offset(between.position.offset.0 + 3);
        for offset in [between.position.offset, within] {
            let (from, missing) = journal.follower_at(offset).await.unwrap();
            assert_eq!(missing, Some(Database(0)));
            assert_eq!(bytes(journal, from).await.unwrap(), second);
        }
        let end = journal.head();
        let found = journal.follower_at(end.position.offset).await.unwrap();
        assert_eq!(found, (end.follower, Some(Database(0))));
        journal.expect_snapshot().cut(end.position.offset);
        let found = journal.follower_at(end.position.offset).await.unwrap();
        assert_eq!(found, (end.follower, None), "the next unit will have one");
        assert!(journal.follower_at(Offset(1)).await.is_err());
    }
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let mut stage = Stage::begun(Fsync::Everysec).await;
    let error = Journal::open(&stage.config, Arc::default()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, JournalError::InUse { .. }));
    assert!(text.contains(stage.config.dir.to_str().unwrap()) && text.contains("stop"), "{text}");
    stage.reopen(BOOT).unwrap();
}

#[tokio::test]
async fn nothing_is_taken_after_the_end_and_a_gap_is_refused() {
    let mut stage = Stage::begun(Fsync::Always).await;
    stage.append(10).await.unwrap();
    let here = stage.journal().head().position;
    let back = Position { offset: Offset(here.offset.0 - 1), ..here };
    let seen = Arc::default();
    let refused = stage.journal().append(&mut None, &reached(back, Database(0), &seen)).await;
    assert!(matches!(refused, Err(JournalError::Unfit(_))));
    let other = Position { replid: ReplicationId::random(), ..here };
    let refused = stage.journal().append(&mut None, &reached(other, Database(0), &seen)).await;
    assert!(matches!(refused, Err(JournalError::Unfit(_))));
    stage.journal().close().unwrap();
    stage.journal().close().unwrap();
    assert!(matches!(stage.append(10).await, Err(JournalError::Closed)));
    assert_eq!(stage.journal().head().position, here);
}

#[tokio::test]
async fn moments_go_on_behind_those_in_the_journal() {
    let mut stage = Stage::begun(Fsync::No).await;
    let ahead = Timestamp::from_unix_millis(crate::clock::unix_millis() + 50_000);
    stage.journal = None;
    let clock = Arc::new(Clock::default());
    clock.observe(ahead);
    stage.journal = Some(Journal::open_at_boot(&stage.config, clock, BOOT).unwrap());
    stage.append(10).await.unwrap();
    stage.journal = None;
    let clock = Arc::new(Clock::default());
    stage.journal = Some(Journal::open_at_boot(&stage.config, clock.clone(), BOOT).unwrap());
    assert!(clock.take(1) > Timestamp(ahead.0 + 1));
}

#[tokio::test]
async fn what_comes_behind_a_gap_is_later_than_all_in_it() {
    let mut stage = Stage::new(Fsync::No);
    let clock = Arc::new(Clock::default());
    stage.journal = Some(Journal::open_at_boot(&stage.config, clock.clone(), BOOT).unwrap());
    let at = Position { replid: ReplicationId::random(), offset: Offset(0) };
    stage.journal().begin_history(at, Database(0)).await.unwrap();
    for end in 1..=3 {
        stage.builder.unit(Database(0), PING, Offset(end), &stage.seen);
    }
    let mut block = stage.builder.take(at.replid, Offset(0), Offset(3));
    let first = Timestamp::from_unix_millis(crate::clock::unix_millis() + 1000);
    block.first_timestamp = first;
    let position = Position { offset: Offset(3), ..at };
    let seen = stage.seen.clone();
    stage.journal().append(&mut Some(block), &reached(position, Database(0), &seen)).await.unwrap();
    assert!(clock.take(1) > Timestamp(first.0 + 2));
}

#[tokio::test]
async fn readers_wait_for_what_comes_and_the_disk_is_reached_within_seconds() {
    let mut stage = Stage::begun(Fsync::Everysec).await;
    let mut reader = stage.journal().read_from(stage.journal().head().position).unwrap();
    assert!(matches!(reader.read().await, Ok(Read::Idle(_))));
    let (text, ()) = tokio::join!(stage.append(10), reader.moved());
    let text = text.unwrap();
    let Ok(Read::Block(block)) = reader.read().await else { panic!("no block") };
    assert!(block.payload.ends_with(&text));
    stage.wait_for_disk().await;
}

#[tokio::test]
async fn what_is_on_disk_is_for_the_owner_alone() {
    let stage = Stage::begun(Fsync::Everysec).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&stage.config.dir), 0o700);
    let files: Vec<_> = std::fs::read_dir(&stage.config.dir).unwrap().collect();
    assert!(files.len() > 1);
    for file in files {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

/// A file system of its own, of so many bytes; unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: u64) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at);
        let done = mount.stderr(std::process::Stdio::null()).status();
        done.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    // Within a segment, and where one is begun: with a head that has room or not.
    for room in (0..24).map(|pages| (950 << 10) + (pages << 12)).chain([2 << 20]) {
        fill_disk(room).await;
    }
}

async fn fill_disk(room: usize) {
    let mut stage = Stage::new(Fsync::Always);
    stage.config.max_size = ByteSize::mib(16);
    let Some(disk) = SmallDisk::mount(&stage.config.dir, 3 << 20) else {
        println!("SKIPPED: a tmpfs can't be mounted here");
        return;
    };
    stage.open(BOOT).unwrap();
    let start = stage.journal().head();
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![0; (3 << 20) - room]).unwrap();
    let mut written = Vec::new();
    let error = loop {
        match stage.append(70_001).await {
            Ok(text) => written.push(text),
            Err(error) => break error,
        }
        assert!(written.len() < 100);
    };
    assert!(matches!(error, JournalError::Write { .. }), "{error}");
    assert!(stage.journal().status().failing);
    assert_eq!(units(stage.journal(), start.position).await.unwrap(), written);

    // The very same block is taken when there is room.
    let at = stage.journal().head().position;
    let end = Offset(at.offset.0 + 200_000);
    stage.builder.unit(Database(0), &vec![b'x'; 200_000], end, &stage.seen);
    let mut block = Some(stage.builder.take(at.replid, at.offset, end));
    let position = Position { offset: end, ..at };
    for _ in 0..3 {
        let refused =
            stage.journal().append(&mut block, &reached(position, Database(0), &stage.seen)).await;
        assert!(matches!(refused, Err(JournalError::Write { .. })));
        assert!(block.is_some());
        assert_eq!(stage.journal().head().position, at);
    }
    std::fs::remove_file(ballast).unwrap();
    stage.journal().append(&mut block, &reached(position, Database(0), &stage.seen)).await.unwrap();
    assert!(block.is_none() && !stage.journal().status().failing);
    written.push(vec![b'x'; 200_000]);
    stage.reopen(BOOT).unwrap();
    assert_eq!(units(stage.journal(), start.position).await.unwrap(), written);
    stage.journal = None;
}
