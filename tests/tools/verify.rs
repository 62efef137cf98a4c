//! `verify` between real servers.

use std::time::Duration;

use redis_duplex::verify::{Mismatch, Options, Report, verify};

use crate::server::Server;

const DATA: &str = "
    SET text hello
    SET number 12
    SETEX soon 1000 x
    RPUSH list a b c
    SADD set a b c
    HSET hash f 1 g 2
    ZADD zset 1.5 a 1e20 b
    XADD stream 1-1 f v
    XADD stream 2-1 f w
    XGROUP CREATE stream group 0
    XREADGROUP GROUP group bob COUNT 1 STREAMS stream >
    SELECT 3
    SET elsewhere x
    SELECT 0";

fn quick() -> Options {
    Options { rounds: 2, pause: Duration::from_millis(10), ..Options::default() }
}

async fn compare(a: &Server, b: &Server) -> Report {
    verify(&a.target(), &b.target(), &quick(), |_| {}).await.unwrap()
}

fn words(report: &Report) -> Vec<String> {
    let mut words: Vec<_> = report.differences.iter().map(ToString::to_string).collect();
    words.sort();
    words
}

/// Copies by DUMP, so that pending entries have the same times.
fn copy(a: &mut Server, b: &mut Server) {
    for database in [0, 3] {
        for server in [&mut *a, &mut *b] {
            redis::cmd("SELECT").arg(database).exec(&mut server.connection).unwrap();
        }
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut a.connection).unwrap();
        for key in keys {
            let value: Vec<u8> = redis::cmd("DUMP").arg(&key).query(&mut a.connection).unwrap();
            let at: i64 = redis::cmd("PEXPIRETIME").arg(&key).query(&mut a.connection).unwrap();
            let mut restore = redis::cmd("RESTORE");
            restore.arg(&key).arg(at.max(0)).arg(value).arg("ABSTTL");
            restore.exec(&mut b.connection).unwrap();
        }
    }
    a.run("SELECT 0");
    b.run("SELECT 0");
}

fn pair() -> (Server, Server) {
    let (mut a, mut b) = (Server::start(), Server::start());
    a.run(DATA);
    copy(&mut a, &mut b);
    (a, b)
}

#[tokio::test]
async fn equal_servers_are_equal_and_the_checkpoint_key_does_not_count() {
    let (mut a, b) = pair();
    a.run("HSET redis-duplex-checkpoint b-tag 00-1");
    let report = compare(&a, &b).await;
    assert!(report.is_equal(), "{:?}", words(&report));
    assert_eq!((report.compared, report.equal), (9, 9));
}

#[tokio::test]
async fn every_kind_of_difference_is_found_and_told() {
    let (mut a, mut b) = pair();
    b.run(
        "
        SET text hallo
        RPUSH list d
        SREM set a
        HSET hash g 3
        ZADD zset 2 a
        PEXPIRE soon 5000000
        PERSIST soon
        LPUSH number2 x
        SELECT 3
        DEL elsewhere",
    );
    a.run("SET number2 1");
    let report = compare(&a, &b).await;
    assert_eq!(
        words(&report),
        [
            "db 0 \"hash\": hash: 0 members only at A, 0 only at B, 1 differ",
            "db 0 \"list\": lists of 3 and 4 elements differ from element 3 on",
            "db 0 \"number2\": string at A, list at B",
            "db 0 \"set\": set: 1 members only at A, 0 only at B, 0 differ",
            "db 0 \"soon\": expires at A, never at B",
            "db 0 \"text\": strings of 5 and 5 bytes differ from byte 1 on",
            "db 0 \"zset\": zset: 0 members only at A, 0 only at B, 1 differ",
            "db 3 \"elsewhere\": only at A",
        ]
    );
    assert_eq!((report.different, report.only_a, report.only_b), (7, 1, 0));
    assert_eq!(report.compared, report.equal + 8);
}

#[tokio::test]
async fn expiry_may_differ_by_one_millisecond() {
    let (mut a, mut b) = (Server::start(), Server::start());
    a.run("SET x 1 PXAT 4000000000000\nSET y 1 PXAT 4000000000000");
    b.run("SET x 1 PXAT 4000000000001\nSET y 1 PXAT 4000000000002");
    let report = compare(&a, &b).await;
    assert_eq!(words(&report), ["db 0 \"y\": expires 2 ms later at B"]);
}

#[tokio::test]
async fn keys_on_one_side_alone_are_found_in_both_directions() {
    let (mut a, mut b) = (Server::start(), Server::start());
    for key in 0..1000 {
        redis::cmd("SET").arg(format!("k{key}")).arg(1).exec(&mut a.connection).unwrap();
        redis::cmd("SET").arg(format!("k{}", key + 10)).arg(1).exec(&mut b.connection).unwrap();
    }
    b.run("SELECT 9\nSET there 1");
    let mut options = quick();
    options.max_differences = 3;
    let mut last = None;
    let report = verify(&a.target(), &b.target(), &options, |p| last = Some(p)).await.unwrap();
    assert_eq!((report.equal, report.only_a, report.only_b), (990, 10, 11));
    assert_eq!(report.differences.len(), 3);
    let last = last.unwrap();
    assert_eq!((last.scanned, last.expected), (2001, 2001));
}

#[tokio::test]
async fn the_order_in_a_set_does_not_matter() {
    let (mut a, mut b) = (Server::start(), Server::start());
    let mut up = redis::cmd("SADD");
    let mut down = redis::cmd("SADD");
    up.arg("set");
    down.arg("set");
    for number in 0..20_000 {
        up.arg(format!("m{number}"));
        down.arg(format!("m{}", 19_999 - number));
    }
    up.exec(&mut a.connection).unwrap();
    down.exec(&mut b.connection).unwrap();
    // The same small set in two encodings.
    a.run("SADD small 1 2 x\nSREM small x");
    b.run("SADD small 2 1");
    let report = compare(&a, &b).await;
    assert!(report.is_equal(), "{:?}", words(&report));
}

#[tokio::test]
async fn streams_are_compared_with_groups_and_pending_entries() {
    let (mut a, mut b) = pair();
    let group = |report: &Report| words(report).join("\n");
    b.run("XACK stream group 1-1");
    let words_of_it = group(&compare(&a, &b).await);
    assert!(words_of_it.contains("db 0 \"stream\": stream: group \"group\": pel"), "{words_of_it}");
    a.run("XACK stream group 1-1");
    assert!(compare(&a, &b).await.is_equal());
    b.run("XGROUP CREATE stream other $");
    assert!(group(&compare(&a, &b).await).contains("groups [group] at A, [group other] at B"));
    b.run("XGROUP DESTROY stream other\nXGROUP CREATECONSUMER stream group eve");
    assert!(group(&compare(&a, &b).await).contains("other consumers (1 at A, 2 at B)"));
    a.run("XGROUP CREATECONSUMER stream group eve");
    b.run("XDEL stream 2-1");
    assert!(group(&compare(&a, &b).await).contains("2 and 1 entries differ from entry 1"));
}

#[tokio::test]
async fn function_libraries_count_like_keys() {
    let (mut a, mut b) = (Server::start(), Server::start());
    let load = |server: &mut Server, name: &str, result: u8| {
        let code = format!(
            "#!lua name={name}\nredis.register_function('{name}', function() return {result} end)"
        );
        redis::cmd("FUNCTION").arg("LOAD").arg(code).exec(&mut server.connection).unwrap();
    };
    load(&mut a, "same", 1);
    load(&mut b, "same", 1);
    load(&mut a, "other", 1);
    load(&mut b, "other", 2);
    load(&mut b, "extra", 2);
    let report = compare(&a, &b).await;
    assert_eq!(
        words(&report),
        ["function library \"extra\": only at B", "function library \"other\": the code differs"]
    );
    assert_eq!(report.equal, 1);
}

#[tokio::test]
async fn what_catches_up_during_the_rounds_is_equal() {
    let (mut a, b) = pair();
    let addr = b.addr.clone();
    a.run("SET late 1");
    let options = Options { rounds: 100, pause: Duration::from_millis(10), ..Options::default() };
    let mut written = false;
    let (at_a, at_b) = (a.target(), b.target());
    let report = verify(&at_a, &at_b, &options, |progress| {
        // Only after it was seen to differ.
        if progress.suspects > 0 && !written {
            written = true;
            let client = redis::Client::open(format!("redis://{addr}/")).unwrap();
            redis::cmd("SET")
                .arg("late")
                .arg(1)
                .exec(&mut client.get_connection().unwrap())
                .unwrap();
        }
    });
    let report = report.await.unwrap();
    assert!(written && report.is_equal(), "{:?}", words(&report));
    assert!(!report.differences.iter().any(|d| d.what == Mismatch::OnlyA));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_with_its_address() {
    let a = Server::start();
    let addr = format!("127.0.0.1:{}", crate::server::free_port());
    let nobody = redis_duplex::redis::Target::open(&addr);
    let error = verify(&a.target(), &nobody, &quick(), |_| {}).await.unwrap_err();
    assert!(error.to_string().contains(&addr), "{error}");
}
