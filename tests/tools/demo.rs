//! The demo's parts against real servers, and that it leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use redis_duplex::cli::demo::{Stage, Watch, Writer, count_keys, fill, find_redis_server};
use redis_duplex::redis::{Connection, Target};
use redis_duplex::resp::{Limits, Scanner};
use redis_duplex::verify::{Options, verify};

use crate::command_line::{eventually, program, signal};
use crate::server::Server;

fn runs(process: u32) -> bool {
    // A process that ended and was not waited for is a zombie, which runs no more.
    let status = std::fs::read_to_string(format!("/proc/{process}/status"));
    status.is_ok_and(|text| !text.contains("State:\tZ"))
}

async fn stage() -> Stage {
    Stage::start(&find_redis_server(None).unwrap()).await.unwrap()
}

#[tokio::test]
async fn both_sides_are_filled_with_different_data() {
    let stage = stage().await;
    let (a, b) = (Target::open(&stage.sides[0].redis), Target::open(&stage.sides[1].redis));
    let mut at_a = Connection::open(&a).await.unwrap();
    let mut at_b = Connection::open(&b).await.unwrap();
    fill(&mut at_a, "a").await.unwrap();
    fill(&mut at_b, "b").await.unwrap();
    let keys = count_keys(&mut at_a).await.unwrap();
    assert!(keys > 3000, "{keys}");
    at_a.call(&["HSET", "redis-duplex-checkpoint", "probe", "1"]).await.unwrap();
    assert_eq!(count_keys(&mut at_a).await.unwrap(), keys);
    let options = Options { rounds: 0, ..Options::default() };
    let report = verify(&a, &b, &options, |_| {}).await.unwrap();
    assert_eq!((report.only_a, report.only_b), (keys - 400, keys - 400));
    assert_eq!((report.different, report.equal), (400, 0));
    stage.stop().await.unwrap();
}

/// Units in an append-only file, which gets the same commands as the replication stream.
fn units_in(file: &Path) -> u64 {
    let bytes = std::fs::read(file).unwrap();
    let mut rest = bytes.as_slice();
    let mut scanner = Scanner::new(Limits::STREAM);
    let (mut units, mut in_transaction) = (0, false);
    while let Some(command) = scanner.scan(rest).unwrap() {
        let length = command.raw().len();
        if command.is("MULTI") {
            in_transaction = true;
        } else if command.is("EXEC") {
            in_transaction = false;
            units += 1;
        } else if !in_transaction && !command.is("SELECT") {
            units += 1;
        }
        rest = &rest[length..];
    }
    units
}

#[tokio::test]
async fn each_step_of_a_writer_is_exactly_one_unit() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let server = Server::start_with(&options);
    let file = server.directory.path().join("appendonlydir/appendonly.aof.1.incr.aof");
    let mut redis = Connection::open(&server.target()).await.unwrap();
    let mut writer = Writer::new("a");
    for step in 0..18 * 3 {
        writer.batch(1).send(&mut redis).await.unwrap();
        assert_eq!(units_in(&file), step + 1, "step {}", step % 18);
    }
    for _ in 0..20 {
        writer.batch(18 * 10 + 7).send(&mut redis).await.unwrap();
        assert_eq!(units_in(&file), writer.units());
    }
}

#[tokio::test]
async fn two_sidecars_come_in_sync_and_tell_of_it() {
    let mut stage = stage().await;
    stage.start_sidecars(Path::new(env!("CARGO_BIN_EXE_redis-duplex"))).unwrap();
    let mut told = Vec::new();
    let in_sync = Watch::until_in_sync(&mut stage, |states| {
        told.push(states.map(str::to_owned));
        Ok(())
    });
    let mut watch = in_sync.await.unwrap();
    assert_eq!(told.last().unwrap(), &["streaming", "streaming"]);
    let [at_a, _] = watch.until_quiet(|_| true).await.unwrap();
    assert_eq!((at_a.local_units, at_a.pending), (0, 0));

    let addr = &stage.sides[0].sidecar;
    let output = program().args(["status", addr]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("site         a (primary: a)"), "{text}");
    assert!(text.contains("  state                 streaming"), "{text}");

    let mut sidecar = Connection::open(&Target::open(addr)).await.unwrap();
    for command in ["HELP", "STATUS", "LINKS", "WRITEOFF", "CHECKPOINTS", "JOURNAL", "ERRORS"] {
        sidecar.call(&["DUPLEX", command]).await.unwrap();
    }
    let error = sidecar.call(&["DUPLEX", "nosuch"]).await.unwrap_err();
    let reply = "ERR unknown subcommand 'NOSUCH'. Try DUPLEX HELP.";
    assert_eq!(error.reply(), Some(reply));
    assert_eq!(stage.complaints(), Vec::<String>::new());
    stage.stop().await.unwrap();
}

#[test]
fn the_demo_proves_everything_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let output = program()
        .args(["demo", "--seconds", "1", "--rate", "500"])
        .env("TMPDIR", directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{:?}", String::from_utf8(output.stderr));
    assert_eq!(text.lines().filter(|line| line.starts_with("yes  ")).count(), 6, "{text}");
    assert!(text.contains("looped 0 ") && text.contains("a 0, b 0"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    assert!(processes_in(directory.path()).is_empty());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// Processes that run in or name this directory.
fn processes_in(directory: &Path) -> Vec<u32> {
    let name = directory.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_it = |id: &u32| {
        let cwd = std::fs::read_link(format!("/proc/{id}/cwd"));
        let arguments = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let names = String::from_utf8_lossy(&arguments).contains(name);
        runs(*id) && (names || cwd.is_ok_and(|path| path.to_string_lossy().starts_with(name)))
    };
    ids.filter(of_it).collect()
}

#[tokio::test]
async fn a_stage_that_is_stopped_or_dropped_leaves_nothing() {
    for drop_it in [false, true] {
        let stage = stage().await;
        let (directory, processes) = (stage.directory().to_owned(), stage.process_ids());
        assert_eq!(processes.len(), 2);
        assert!(directory.exists() && processes.iter().all(|id| runs(*id)));
        if drop_it {
            drop(stage);
        } else {
            stage.stop().await.unwrap();
        }
        assert!(!directory.exists());
        eventually("the servers end", || !processes.iter().any(|id| runs(*id)));
    }
}

#[tokio::test]
async fn a_process_that_dies_is_an_error_with_its_log() {
    let mut stage = stage().await;
    stage.check().unwrap();
    stage.start_sidecars(Path::new("/bin/false")).unwrap();
    let limit = tokio::time::Instant::now() + Duration::from_secs(10);
    let error = loop {
        match stage.check() {
            Err(error) => break error.to_string(),
            Ok(()) => assert!(tokio::time::Instant::now() < limit),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    // Whichever of them was seen first.
    assert!(error.contains(" ended with exit status: 1"), "{error}");
    stage.stop().await.unwrap();
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = program()
        .args(["demo", "--seconds", "600"])
        .env("TMPDIR", directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("In sync")));
    assert_eq!(processes_in(directory.path()).len(), 4);
    signal(&child, "-INT", 2);
    let _ = lines.by_ref().count();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: ended by SIGINT"), "{text}");
    assert!(processes_in(directory.path()).is_empty());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
