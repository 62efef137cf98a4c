//! Facts 3, 4, 7 and 8: what MULTI and SELECT look like, and what may fail where.

use redis::{ConnectionLike, Value};

use super::{Observed, assert_stream, error_of, run};
use crate::support::redis_server::RedisServer;

#[test]
fn fact_3_a_transaction_is_contiguous() {
    let mut observed = Observed::start();
    let mut other = observed.server.client();
    run(&mut observed.client, "MULTI");
    run(&mut observed.client, "HSET mark t 1");
    run(&mut other, "SET other 1");
    run(&mut observed.client, "SET k v");
    run(&mut other, "SET other 2");
    run(&mut observed.client, "EXEC");
    let wanted = ["SET other 1", "SET other 2", "MULTI", "HSET mark t 1", "SET k v", "EXEC"];
    assert_stream(&observed.drain(), &wanted);
}

#[test]
fn fact_3_a_single_effect_comes_bare_from_7_on() {
    let mut observed = Observed::start();
    let seen =
        observed.effects_of(&["MULTI", "HSET mark t 1", "DEL nokey", "SREM nokey m", "EXEC"]);
    let bare = observed.server.version().is_seven_or_later();
    let wanted: &[&str] =
        if bare { &["HSET mark t 1"] } else { &["MULTI", "HSET mark t 1", "EXEC"] };
    assert_stream(&seen, wanted);
    assert_stream(&observed.effects_of(&["MULTI", "DEL nokey", "EXEC"]), &[]);
}

#[test]
fn fact_4_select_comes_only_when_the_database_changes() {
    let mut observed = Observed::start();
    assert_stream(
        &observed.effects_of(&["SET a 1", "SELECT 0", "SET b 1"]),
        &["SET a 1", "SET b 1"],
    );
    let seen = observed.effects_of(&["SELECT 3", "GET a", "SELECT 0", "SELECT 4", "SET c 1"]);
    assert_stream(&seen, &["SELECT 4", "SET c 1"]);
    // Nothing tells the database of a second connection that writes to the same one.
    run(&mut observed.server.client_db(4), "SET d 1");
    assert_stream(&observed.drain(), &["SET d 1"]);
}

#[test]
fn fact_4_select_stands_before_or_inside_multi() {
    let mut observed = Observed::start();
    let batch = ["SELECT 5", "MULTI", "SET a 1", "SELECT 6", "SET b 1", "SELECT 5", "EXEC"];
    let seen = observed.effects_of(&batch);
    let version = observed.server.version();
    // The SELECT at the end is for the marker of this test, which is written in database 5 again.
    let wanted = if version.is_valkey_from(8) {
        ["MULTI", "SELECT 5", "SET a 1", "SELECT 6", "SET b 1", "EXEC", "SELECT 5"]
    } else if version.is_seven_or_later() {
        ["SELECT 5", "MULTI", "SET a 1", "SELECT 6", "SET b 1", "EXEC", "SELECT 5"]
    } else {
        // EXEC itself counts as written in the database selected when the transaction ends.
        ["SELECT 5", "MULTI", "SET a 1", "SELECT 6", "SET b 1", "SELECT 5", "EXEC"]
    };
    assert_stream(&seen, &wanted);
}

/// Names of commands with a flag in the answer of COMMAND.
fn commands_with(server: &RedisServer, flags: &[&str]) -> Vec<String> {
    let all: Vec<Vec<Value>> = redis::cmd("COMMAND").query(&mut server.client()).unwrap();
    let mut names = Vec::new();
    for command in all {
        let name: String = redis::from_redis_value(command[0].clone()).unwrap();
        let has: Vec<String> = redis::from_redis_value(command[2].clone()).unwrap();
        if flags.iter().all(|flag| has.iter().any(|other| other == flag)) {
            names.push(name);
        }
    }
    names.sort();
    names
}

#[test]
fn fact_7_every_write_may_stand_in_a_transaction() {
    let server = RedisServer::start();
    if server.version().is_seven_or_later() {
        // Servers before 7.0 have no such flag.
        let refused = commands_with(&server, &["no_multi"]);
        for name in ["psync", "save", "shutdown", "sync"] {
            assert!(refused.iter().any(|other| other == name), "{name} is not in {refused:?}");
        }
    }
    assert_eq!(commands_with(&server, &["no_multi", "write"]), Vec::<String>::new());
    let mut client = server.client();
    run(&mut client, "MULTI");
    for command in ["FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "BLPOP l 0", "MOVE k 1", "SCRIPT FLUSH"] {
        assert_eq!(run(&mut client, command), Value::SimpleString("QUEUED".to_string()));
    }
    run(&mut client, "EXEC");
    for command in ["WATCH k", "MULTI"] {
        run(&mut client, "MULTI");
        error_of(&mut client, command);
        run(&mut client, "DISCARD");
    }
}

#[test]
fn fact_8_some_errors_abort_the_whole_transaction() {
    let mut observed = Observed::start();
    let mut attempt = |bad: &str, code: &str| {
        run(&mut observed.client, "MULTI");
        run(&mut observed.client, "HSET mark t 1");
        let error = error_of(&mut observed.client, bad);
        assert!(error.starts_with(code), "{bad}: {error}");
        let error = error_of(&mut observed.client, "EXEC");
        assert!(error.starts_with("EXECABORT"), "{bad}: {error}");
        assert_stream(&observed.drain(), &[]);
    };
    attempt("NOSUCHCOMMAND a", "ERR unknown command");
    attempt("SET onlykey", "ERR wrong number of arguments");
}

#[test]
fn fact_8_out_of_memory_aborts_when_queued() {
    let mut observed = Observed::start_with(&["--maxmemory-policy", "noeviction"]);
    run(&mut observed.client, "MULTI");
    let mut other = observed.server.client();
    run(&mut other, "CONFIG SET maxmemory 1");
    let error = error_of(&mut observed.client, "SET k v");
    assert!(error.starts_with("OOM"), "{error}");
    assert!(error_of(&mut observed.client, "EXEC").starts_with("EXECABORT"));
    run(&mut other, "CONFIG SET maxmemory 0");
    assert_stream(&observed.drain(), &[]);
}

#[test]
fn fact_8_a_wrong_type_fails_alone() {
    let mut observed = Observed::start();
    observed.effects_of(&["SET string v"]);
    let client = &mut observed.client;
    for command in ["MULTI", "HSET mark t 1", "LPUSH string x", "SET k v"] {
        run(client, command);
    }
    let replies = client.req_packed_command(b"*1\r\n$4\r\nEXEC\r\n").unwrap();
    let Value::Array(replies) = replies else { panic!("EXEC answered {replies:?}") };
    assert_eq!((&replies[0], &replies[2]), (&Value::Int(1), &Value::Okay));
    assert!(matches!(&replies[1], Value::ServerError(error) if error.code() == "WRONGTYPE"));
    assert_stream(&observed.drain(), &["MULTI", "HSET mark t 1", "SET k v", "EXEC"]);
}
