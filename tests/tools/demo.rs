//! The demo's parts against real servers, and that it leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use redis_duplex::cli::demo::{Stage, Writer, count_keys, fill, find_redis_server, stream_offset};
use redis_duplex::redis::{Connection, Target};
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

#[tokio::test]
async fn each_step_of_a_writer_takes_effect() {
    let server = Server::start();
    // Without a replica there is no stream.
    let (host, port) = server.addr.split_once(':').unwrap();
    let _replica = Server::start_with(&["--replicaof", &format!("{host} {port}")]);
    let mut redis = Connection::open(&server.target()).await.unwrap();
    let limit = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut writer = Writer::new("a");
    while stream_offset(&mut redis).await.unwrap() == 0 {
        assert!(tokio::time::Instant::now() < limit);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut before = stream_offset(&mut redis).await.unwrap();
    for step in 0..18 * 60 {
        writer.batch(1).send(&mut redis).await.unwrap();
        let after = stream_offset(&mut redis).await.unwrap();
        assert!(after > before, "step {} had no effect", step % 18);
        before = after;
    }
    assert_eq!(writer.units(), 18 * 60);
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
    assert!(error.contains("sidecar-a ended with exit status: 1"), "{error}");
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
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("Two stock Redis"), "{first}");
    let ours = || -> Vec<u32> {
        let name = directory.path().to_str().unwrap();
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let of_it = |id: &u32| {
            let link = std::fs::read_link(format!("/proc/{id}/cwd"));
            runs(*id) && link.is_ok_and(|path| path.to_string_lossy().starts_with(name))
        };
        ids.filter(of_it).collect()
    };
    assert_eq!(ours().len(), 2);
    signal(&child, "-INT", 2);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: ended by SIGINT"), "{text}");
    assert!(ours().is_empty());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
