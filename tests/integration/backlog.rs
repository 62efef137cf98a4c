//! The backlog of the local Redis: told when it is too small, and what happens when it is overrun.

use redis::cmd;

use crate::support::redis_server::RedisServer;
use crate::support::sidecar::Builder;
use crate::support::{PATIENCE, eventually};

fn set_backlog(redis: &RedisServer, size: &str) {
    cmd("CONFIG").arg(&["SET", "repl-backlog-size", size]).exec(&mut redis.client()).unwrap();
}

#[test]
fn a_backlog_that_holds_no_minute_is_told_until_it_is_raised() {
    let redis = RedisServer::start();
    let sidecar = Builder::new("a", &redis).start();
    let alarm = |expected: &str| {
        let what = format!("the alarm to be {expected}");
        eventually(&what, PATIENCE, || sidecar.info_duplex()["source_backlog_alarm"] == expected);
    };
    eventually("the size to be known", PATIENCE, || {
        sidecar.info_duplex()["source_backlog_bytes"] == "1048576"
    });
    alarm("0");
    let value = vec![b'x'; 1 << 20];
    cmd("SET").arg("k").arg(&value).exec(&mut redis.client()).unwrap();
    cmd("SET").arg("k").arg(&value).exec(&mut redis.client()).unwrap();
    alarm("1");
    let errors: String = cmd("DUPLEX").arg("ERRORS").query(&mut sidecar.client()).unwrap();
    assert!(errors.contains("CONFIG SET repl-backlog-size 16mb"), "{errors}");
    let metrics = sidecar.http_get("/metrics").1;
    assert!(metrics.contains("redis_duplex_source_backlog_alarm 1"), "{metrics}");
    set_backlog(&redis, "16mb");
    alarm("0");
    assert_eq!(sidecar.log().matches("repl-backlog-size is too small").count(), 1);
    assert!(sidecar.log().contains("large enough now"));
}
