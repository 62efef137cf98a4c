//! What a crash or a bad disk does to the files.

use super::*;

/// Cuts the last bytes off a file.
fn shorten(path: &Path, bytes: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
}

/// Many segments with a unit of 100 KiB each in them; where they begin.
async fn filled(fsync: Fsync) -> (Stage, Position, Vec<Vec<u8>>) {
    let mut stage = Stage::begun(fsync).await;
    stage.config.max_size = ByteSize::mib(16);
    stage.reopen(BOOT).unwrap();
    let start = stage.journal().head().position;
    let mut texts = Vec::new();
    for _ in 0..35 {
        texts.push(stage.append(100 << 10).await.unwrap());
    }
    (stage, start, texts)
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_wherever_it_is_torn() {
    let mut stage = Stage::begun(Fsync::Everysec).await;
    let start = stage.journal().head().position;
    let id = stage.journal().status().follower_id;
    let first = stage.append(100).await.unwrap();
    let path = stage.segments().pop().unwrap();
    let before = std::fs::metadata(&path).unwrap().len();
    stage.append(300).await.unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in before + 1..whole.len() as u64 {
        stage.journal = None;
        std::fs::write(&path, &whole[..usize::try_from(length).unwrap()]).unwrap();
        stage.open(BOOT).unwrap();
        assert_eq!(
            units(stage.journal(), start).await.unwrap(),
            std::slice::from_ref(&first),
            "{length}"
        );
        // The machine was up all the time: followers saw nothing that is gone.
        assert_eq!(stage.journal().status().follower_id, id);
    }
    let again = stage.append(50).await.unwrap();
    stage.reopen(BOOT).unwrap();
    assert_eq!(units(stage.journal(), start).await.unwrap(), [first, again]);
}

#[tokio::test]
async fn a_changed_byte_is_found_at_the_opening_wherever_it_is() {
    let mut stage = Stage::begun(Fsync::Everysec).await;
    for size in [20, 30, 40] {
        stage.append(size).await.unwrap();
    }
    stage.journal = None;
    let path = stage.segments().pop().unwrap();
    for at in 0..std::fs::metadata(&path).unwrap().len() {
        flip(&path, at);
        let error = stage.open(BOOT).unwrap_err();
        let text = error.to_string();
        match error {
            JournalError::Corrupt { offset, .. } => {
                assert!(offset <= at, "{text}");
                assert!(text.contains(path.to_str().unwrap()) && text.contains("Move"), "{text}");
            }
            JournalError::Format { .. } => {
                assert!((8..12).contains(&at) && text.contains("run the version"), "{text}");
            }
            error => panic!("{error}"),
        }
        flip(&path, at);
    }
    stage.open(BOOT).unwrap();
}

#[tokio::test]
async fn what_a_disk_is_known_to_have_lost_is_cut_off() {
    let mut stage = Stage::begun(Fsync::Always).await;
    let start = stage.journal().head().position;
    let id = stage.journal().status().follower_id;
    let mut texts = vec![stage.append(100).await.unwrap()];

    // Nothing is gone after all: what is there is written anew, and followers go on.
    intact::unset(&stage.config.dir).unwrap();
    stage.reopen(BOOT).unwrap();
    assert_eq!(units(stage.journal(), start).await.unwrap(), texts);
    assert_eq!(stage.journal().status().follower_id, id);
    assert!(intact::is(&stage.config.dir).unwrap());

    // In the middle of what came since something is.
    texts.push(stage.append(100).await.unwrap());
    let path = stage.segments().pop().unwrap();
    let first = std::fs::metadata(&path).unwrap().len();
    stage.append(100).await.unwrap();
    stage.append(100).await.unwrap();
    stage.journal = None;
    flip(&path, first + 50);
    assert!(matches!(stage.open(BOOT), Err(JournalError::Corrupt { .. })));
    intact::unset(&stage.config.dir).unwrap();
    stage.open(BOOT).unwrap();
    assert_eq!(units(stage.journal(), start).await.unwrap(), texts);
    assert_ne!(stage.journal().status().follower_id, id);
    texts.push(stage.append(50).await.unwrap());
    stage.reopen(BOOT).unwrap();
    assert_eq!(units(stage.journal(), start).await.unwrap(), texts);
}

#[tokio::test]
async fn a_changed_byte_is_never_served() {
    let (stage, start, texts) = filled(Fsync::Everysec).await;
    // Opened before the change, which is then found by the readers.
    for path in stage.segments() {
        let at = std::fs::metadata(&path).unwrap().len() / 2;
        flip(&path, at);
        let mut reader = stage.journal().read_from(start).unwrap();
        let mut count = 0;
        let error = loop {
            match reader.read().await {
                Ok(Read::Block(block)) => {
                    assert!(block.payload.ends_with(&texts[count]));
                    count += 1;
                }
                Ok(Read::Idle(_)) => panic!("served what was changed"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, NotInJournal::Unreadable(_)), "{error}");
        assert!(bytes(stage.journal(), stage.journal().status().first_follower).await.is_err());
        flip(&path, at);
    }
    assert_eq!(units(stage.journal(), start).await.unwrap(), texts);
}

#[tokio::test]
async fn damage_before_the_tail_is_refused_also_after_a_crash_of_the_machine() {
    let (mut stage, start, texts) = filled(Fsync::Everysec).await;
    stage.wait_for_disk().await;
    // A segment that is begun now says that all before it is on disk.
    for _ in 0..15 {
        stage.append(100 << 10).await.unwrap();
    }
    stage.journal = None;
    let segments = stage.segments();
    for (damaged, path) in [("first", &segments[0]), ("second", &segments[1])] {
        let whole = std::fs::read(path).unwrap();
        shorten(path, 10);
        for boot in [BOOT, "another boot"] {
            let error = stage.open(boot).unwrap_err();
            assert!(matches!(error, JournalError::Corrupt { .. }), "{damaged}: {error}");
        }
        std::fs::write(path, whole).unwrap();
    }
    stage.open(BOOT).unwrap();
    let units = units(stage.journal(), start).await.unwrap();
    assert_eq!(units[..texts.len()], texts);
}

#[tokio::test]
async fn after_a_crash_of_the_machine_followers_begin_anew_unless_nothing_can_be_lost() {
    // What the policy was, whether the session ended well, whether the tail is torn.
    let cases = [
        (Fsync::Everysec, false, false, true),
        (Fsync::No, false, false, true),
        (Fsync::Always, false, false, false),
        (Fsync::Always, false, true, true),
        (Fsync::Everysec, true, false, false),
        (Fsync::No, true, false, false),
    ];
    for (fsync, closed, torn, changes) in cases {
        let mut stage = Stage::begun(fsync).await;
        let start = stage.journal().head();
        let first = stage.append(100).await.unwrap();
        let last = stage.append(100).await.unwrap();
        let id = stage.journal().status().follower_id;
        if closed {
            stage.journal().close().unwrap();
        }
        stage.journal = None;
        if torn {
            // Not shorter, but not what was written either: its last page never reached the disk.
            let path = stage.segments().pop().unwrap();
            flip(&path, std::fs::metadata(&path).unwrap().len() - 1);
        }
        stage.open("another boot").unwrap();
        let case = (fsync, closed, torn);
        assert_eq!(stage.journal().status().follower_id != id, changes, "{case:?}");
        let kept = units(stage.journal(), start.position).await.unwrap();
        let texts = if torn { vec![first] } else { vec![first, last] };
        assert_eq!(kept, texts, "{case:?}");
        // Told once: the next opening changes nothing more.
        let id = stage.journal().status().follower_id;
        let more = stage.append(10).await.unwrap();
        stage.reopen("another boot").unwrap();
        assert_eq!(stage.journal().status().follower_id, id, "{case:?}");
        let kept = units(stage.journal(), start.position).await.unwrap();
        assert_eq!(kept, [texts, vec![more]].concat(), "{case:?}");
    }
}

#[tokio::test]
async fn a_crash_of_the_machine_may_take_more_than_the_last_segment() {
    let (mut stage, start, texts) = filled(Fsync::No).await;
    stage.journal = None;
    let segments = stage.segments();
    assert!(segments.len() > 3, "{segments:?}");
    shorten(&segments[segments.len() - 2], 10);
    let error = stage.open(BOOT).unwrap_err();
    assert!(matches!(error, JournalError::Corrupt { .. }), "{error}");
    stage.open("another boot").unwrap();
    let kept = units(stage.journal(), start).await.unwrap();
    assert!(kept.len() < texts.len() && kept == texts[..kept.len()], "{}", kept.len());
}

#[tokio::test]
async fn a_segment_that_was_not_begun_to_its_end_is_dropped() {
    let (mut stage, start, texts) = filled(Fsync::Everysec).await;
    let last = stage.segments().pop().unwrap();
    stage.journal = None;
    let sequence = segment::SegmentFile::sequence(&last).unwrap() + 1;
    let next = segment::SegmentFile::path(&stage.config.dir, sequence);
    let head = std::fs::read(&last).unwrap();
    for length in 0..50 {
        std::fs::write(&next, &head[..length]).unwrap();
        stage.open(BOOT).unwrap();
        assert!(!next.exists());
        stage.journal = None;
    }
    // The same at the very beginning, when there is nothing else.
    for path in stage.segments() {
        std::fs::remove_file(path).unwrap();
    }
    std::fs::write(&next, &head[..20]).unwrap();
    stage.open(BOOT).unwrap();
    assert_eq!(stage.journal().head().database, None);
    assert!(stage.journal().read_from(start).is_err() && !texts.is_empty());
}

#[tokio::test]
async fn behind_a_missing_segment_the_journal_goes_on_without_a_gap() {
    let (mut stage, start, texts) = filled(Fsync::Everysec).await;
    stage.journal = None;
    std::fs::remove_file(&stage.segments()[1]).unwrap();
    stage.open(BOOT).unwrap();
    assert!(matches!(stage.journal().read_from(start), Err(NotInJournal::Dropped { .. })));
    let kept = units(stage.journal(), stage.journal().status().first).await.unwrap();
    assert!(!kept.is_empty() && texts.ends_with(&kept));
}
