//! Facts 1, 2 and 6: what a write becomes, and what comes without one.

use super::{Observed, assert_stream, attempt, run};
use crate::support::{PATIENCE, eventually};

/// What to do first, a command, and what the stream holds of it.
type Case<'a> = (&'a [&'a str], &'a str, &'a [&'a str]);

#[test]
fn fact_1_writes_become_effects() {
    let cases: [Case; 10] = [
        (&["SET s v EX 100"], "GETEX s PERSIST", &["PERSIST s"]),
        (&["SET s v"], "GETDEL s", &["DEL s"]),
        (&["SET n 1"], "INCRBYFLOAT n 0.5", &["SET n 1.5 KEEPTTL"]),
        (&["HSET h f 1"], "HINCRBYFLOAT h f 0.5", &["HSET h f 1.5"]),
        (&["SADD set m"], "SPOP set", &["SREM set m"]),
        (&["RPUSH l 1 2"], "BLPOP l 1", &["LPOP l"]),
        (&["DEL l", "RPUSH l 1 2"], "BLMOVE l m LEFT RIGHT 1", &["LMOVE l m LEFT RIGHT"]),
        (&[], "XADD x * f v", &["XADD x #-# f v"]),
        (&[], "XADD x MAXLEN ~ 1 * f v", &["XADD x MAXLEN = # #-# f v"]),
        (&[], "INCR i", &["INCR i"]),
    ];
    assert_cases(&mut Observed::start(), &cases);
}

#[test]
fn fact_1_times_of_expiry_are_absolute_from_7_on() {
    let mut observed = Observed::start();
    let absolute: [Case; 4] = [
        (&[], "SET s v EX 100", &["SET s v PXAT #"]),
        (&[], "SETEX s 100 v", &["SET s v PXAT #"]),
        (&["SET s v"], "EXPIRE s 100", &["PEXPIREAT s #"]),
        (&["SET s v"], "GETEX s EX 100", &["PEXPIREAT s #"]),
    ];
    let relative: [Case; 4] = [
        (&[], "SET s v EX 100", &["SET s v PX 100000"]),
        (&[], "SETEX s 100 v", &["SET s v PX 100000"]),
        (&["SET s v"], "EXPIRE s 100", &["EXPIRE s 100"]),
        (&["SET s v"], "GETEX s EX 100", &["PEXPIRE s 100000"]),
    ];
    let modern = observed.server.version().is_seven_or_later();
    assert_cases(&mut observed, if modern { &absolute } else { &relative });
}

#[test]
fn fact_1_a_script_is_its_effects() {
    let mut observed = Observed::start();
    let modern = observed.server.version().is_seven_or_later();
    let seen = observed.effects_of(&["EVAL redis.call('SET','e',ARGV[1]) 0 1"]);
    // Before 7.0 a script with one effect is a transaction too.
    let wanted: &[&str] = if modern { &["SET e 1"] } else { &["MULTI", "SET e 1", "EXEC"] };
    assert_stream(&seen, wanted);
    let seen = observed.effects_of(&["EVAL redis.call('SET','a','1')redis.call('SET','b','2') 0"]);
    assert_stream(&seen, &["MULTI", "SET a 1", "SET b 2", "EXEC"]);
}

fn assert_cases(observed: &mut Observed, cases: &[Case]) {
    for (before, command, wanted) in cases {
        observed.effects_of(before);
        assert_stream(&observed.effects_of(&[command]), wanted);
    }
}

#[test]
fn fact_2_writes_without_effect_leave_no_trace() {
    let mut observed = Observed::start();
    observed.effects_of(&["SET s v", "SADD set m", "HSET h f v", "ZADD z 1 m"]);
    let without = [
        "DEL nokey",
        "SADD set m",
        "SREM set other",
        "SET s w NX",
        "SET nokey w XX",
        "SETNX s w",
        "HSETNX h f w",
        "ZADD z NX 2 m",
        "EXPIRE nokey 100",
        "PERSIST s",
        "LPOP nokey",
    ];
    for command in without {
        assert_stream(&observed.effects_of(&[command]), &[]);
    }
    // A write of what is there already is no such case.
    assert_stream(&observed.effects_of(&["SET s v", "HSET h f v"]), &["SET s v", "HSET h f v"]);
}

#[test]
fn fact_6_expiry_comes_as_a_delete() {
    let mut observed = Observed::start();
    observed.effects_of(&["SET k v PX 1"]);
    eventually("the key to expire", PATIENCE, || {
        attempt(&mut observed.client, "GET k").unwrap() == redis::Value::Nil
    });
    let wanted = expiry_name(&observed);
    assert_stream(&observed.drain(), &[&format!("{wanted} k")]);
}

/// Valkey 8 turned `lazyfree-lazy-expire` on, and UNLINK is how that shows.
fn expiry_name(observed: &Observed) -> &'static str {
    if observed.server.version().is_valkey_from(8) { "UNLINK" } else { "DEL" }
}

#[test]
fn fact_6_where_a_key_found_expired_in_a_transaction_is_deleted() {
    let mut observed = Observed::start();
    run(&mut observed.client, "DEBUG SET-ACTIVE-EXPIRE 0");
    observed.effects_of(&["SET k v PX 1"]);
    // No command may touch the key before, so the server's clock is what is watched.
    let set_at = server_clock(&mut observed);
    eventually("the key to be old", PATIENCE, || server_clock(&mut observed) > set_at + 5_000);
    let seen =
        observed.effects_of(&["MULTI", "HSET mark t 1", "GET k", "SET a 1", "SET b 1", "EXEC"]);
    let delete = format!("{} k", expiry_name(&observed));
    let delete = delete.as_str();
    let inside = ["MULTI", "HSET mark t 1", delete, "SET a 1", "SET b 1", "EXEC"];
    assert_stream(&seen, &inside);
}

/// The server's time in microseconds.
fn server_clock(observed: &mut Observed) -> u64 {
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(&mut observed.client).unwrap();
    seconds * 1_000_000 + micros
}

#[test]
fn fact_6_evictions_come_before_the_transaction_that_caused_them() {
    let mut observed = Observed::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let value = "v".repeat(10_000);
    for n in 0..300 {
        run(&mut observed.client, &format!("SET old{n} {value}"));
    }
    observed.drain();
    let used: u64 = observed.server.info("memory")["used_memory"].parse().unwrap();
    run(&mut observed.client, &format!("CONFIG SET maxmemory {used}"));
    let sets: Vec<String> = (0..20).map(|n| format!("SET new{n} {value}")).collect();
    let mut batch = vec!["MULTI"];
    batch.extend(sets.iter().map(String::as_str));
    batch.push("EXEC");
    let mut seen = observed.effects_of(&batch);
    seen.retain(|line| line != "PING");
    let begin = seen.iter().position(|line| line == "MULTI").unwrap();
    let end = seen.iter().position(|line| line == "EXEC").unwrap();
    let deleted = |line: &String| line.starts_with("DEL ") || line.starts_with("UNLINK ");
    assert!(begin > 0, "nothing was evicted before the transaction");
    assert!(seen[..begin].iter().all(deleted), "{:?}", &seen[..begin]);
    assert_eq!(end - begin - 1, sets.len(), "the transaction holds its own writes alone");
}
