//! Fact 11: snapshots and dumps carry a version, and an older server refuses a newer one.

use redis::cmd;

use super::{error_of, run};
use crate::support::PATIENCE;
use crate::support::redis_server::RedisServer;
use crate::support::replica::Replica;
use crate::support::version::{Flavour, Version};

/// A dump ends in two bytes of version and eight of checksum, both little endian.
const FOOTER: usize = 10;

/// The version of RDB files that a release writes; none for one that nobody looked at yet.
fn rdb_version(version: Version) -> Option<(&'static str, u16)> {
    match (version.flavour, version.major, version.minor) {
        (Flavour::Redis, 6, _) => Some(("REDIS", 9)),
        (Flavour::Redis, 7, 0) => Some(("REDIS", 10)),
        (Flavour::Redis, 7, 2) | (Flavour::Valkey, 8, _) => Some(("REDIS", 11)),
        (Flavour::Redis, 7, 4) => Some(("REDIS", 12)),
        (Flavour::Valkey, 9, _) => Some(("VALKEY", 80)),
        _ => None,
    }
}

#[test]
fn fact_11_a_snapshot_begins_with_magic_and_version() {
    let server = RedisServer::start();
    let Some((magic, number)) = rdb_version(server.version()) else { return };
    let wanted = format!("{magic}{number:0width$}", width = 9 - magic.len());
    // Without `capa eof` the snapshot is a file of the master, in its own version.
    let mut replica = Replica::connect(&server.addr());
    replica.psync("?", -1);
    assert_eq!(magic_of(&replica.read_snapshot().bytes), wanted);
}

fn magic_of(snapshot: &[u8]) -> String {
    String::from_utf8_lossy(&snapshot[..9]).to_string()
}

#[test]
fn fact_11_valkey_9_writes_old_snapshots_for_replicas_that_name_no_version() {
    let server = RedisServer::start();
    if !server.version().is_valkey_from(9) {
        return;
    }
    let snapshot_for = |version: Option<&str>| {
        let mut replica = Replica::shake_hands(&server.addr());
        if let Some(version) = version {
            assert_eq!(replica.call(&["REPLCONF", "version", version]), "+OK");
        }
        replica.psync("?", -1);
        replica
    };
    run(&mut server.client(), "HSET h f v");
    assert_eq!(magic_of(&snapshot_for(None).read_snapshot().bytes), "REDIS0011");
    assert_eq!(magic_of(&snapshot_for(Some("9.0.0")).read_snapshot().bytes), "VALKEY080");
    // What the old version can't hold makes the full sync fail: no snapshot, the master closes.
    run(&mut server.client(), "HEXPIRE h 1000 FIELDS 1 f");
    assert!(snapshot_for(None).is_closed(PATIENCE));
    assert_eq!(magic_of(&snapshot_for(Some("9.0.0")).read_snapshot().bytes), "VALKEY080");
}

#[test]
fn fact_11_a_dump_of_a_newer_version_is_refused() {
    let server = RedisServer::start();
    let mut client = server.client();
    cmd("SET").arg("k").arg("v").exec(&mut client).unwrap();
    let dump: Vec<u8> = cmd("DUMP").arg("k").query(&mut client).unwrap();
    let body = &dump[..dump.len() - FOOTER];
    let version = u16::from_le_bytes(dump[body.len()..body.len() + 2].try_into().unwrap());
    if let Some((_, number)) = rdb_version(server.version()) {
        assert_eq!(version, number);
    }
    // The footer that we compute is right: the same version passes.
    assert_eq!(with_version(body, version), dump);
    let newer = with_version(body, version + 1);
    let error = redis::cmd("RESTORE").arg("n").arg(0).arg(newer).exec(&mut client).unwrap_err();
    assert!(error.to_string().contains("DUMP payload version or checksum"), "{error}");
    assert!(error_of(&mut client, "RESTORE n 0 x").contains("DUMP payload version or checksum"));
}

fn with_version(body: &[u8], version: u16) -> Vec<u8> {
    let mut dump = [body, &version.to_le_bytes()].concat();
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Redis, &dump);
    dump.extend_from_slice(&sum.to_le_bytes());
    dump
}
