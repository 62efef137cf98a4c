//! `DUPLEX PAUSE`, `RESUME` and `RESYNC`; and that the log tells who did what.

use redis::{Connection, cmd, pipe};

use crate::support::load::{Load, check_shared};
use crate::support::pair::{Pair, wait_equal};
use crate::support::redis_server::{RedisServer, connect_to};
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};

fn order(sidecar: &Sidecar, words: &[&str]) -> String {
    cmd("DUPLEX").arg(words).query(&mut sidecar.client()).unwrap()
}

fn refusal(client: &mut Connection, words: &[&str]) -> String {
    let reply: redis::RedisResult<redis::Value> = cmd(words[0]).arg(&words[1..]).query(client);
    let error = reply.unwrap_err();
    format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default())
}

fn number(client: &mut Connection, key: &str) -> u64 {
    cmd("GET").arg(key).query::<Option<u64>>(client).unwrap().unwrap_or_default()
}

/// Increments that show any that is lost or done twice.
fn count(server: &RedisServer, key: &str, times: usize) {
    let mut pipeline = pipe();
    for _ in 0..times {
        pipeline.cmd("INCR").arg(key).ignore();
    }
    pipeline.exec(&mut server.client()).unwrap();
}

#[test]
fn what_is_written_during_a_pause_arrives_once_after_it() {
    let mut pair = Pair::start();
    pair.wait_streaming();
    count(&pair.b, "before", 10);
    pair.wait_equal(PATIENCE);
    let full_syncs = (pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs());
    assert!(order(&pair.sidecar_a, &["PAUSE", "b"]).starts_with("link b: paused"));
    assert_eq!(order(&pair.sidecar_a, &["pause", "b"]), "link b: it was paused already\n");
    pair.sidecar_a.wait_link("b", "paused");
    assert!(order(&pair.sidecar_a, &["LINKS"]).contains("paused"));
    let (status, _) = pair.sidecar_a.http_get("/readyz");
    assert!(status.contains("503"), "{status}");
    let (_, metrics) = pair.sidecar_a.http_get("/metrics");
    assert!(metrics.contains("redis_duplex_link_state{link=\"b\",state=\"paused\"} 1"));
    // The other direction goes on.
    count(&pair.b, "meanwhile", 3000);
    count(&pair.a, "other", 1000);
    eventually("b to have the writes of a", PATIENCE, || {
        number(&mut pair.b.client(), "other") == 1000
    });
    assert_eq!(number(&mut pair.a.client(), "meanwhile"), 0);
    assert_eq!(pair.sidecar_b.info_duplex()["link_a_state"], "streaming");
    let error = refusal(&mut pair.sidecar_a.client(), &["DUPLEX", "RESYNC", "b"]);
    assert!(error.contains("is paused: DUPLEX RESUME b first"), "{error}");
    assert_eq!(order(&pair.sidecar_a, &["RESUME", "b"]), "link b: it goes on where it was\n");
    assert_eq!(order(&pair.sidecar_a, &["RESUME", "b"]), "link b: it was not paused\n");
    pair.sidecar_a.wait_link("b", "streaming");
    pair.wait_equal(PATIENCE);
    assert_eq!(number(&mut pair.a.client(), "meanwhile"), 3000);
    assert_eq!((pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs()), full_syncs);
    // A restart forgets a pause.
    order(&pair.sidecar_a, &["PAUSE", "b"]);
    pair.sidecar_a.wait_link("b", "paused");
    pair.sidecar_b.allow_log("the link broke");
    pair.sidecar_a.stop();
    pair.sidecar_a.restart();
    pair.wait_streaming();
}

#[test]
fn pauses_under_load_lose_and_repeat_nothing() {
    let pair = Pair::start();
    pair.wait_streaming();
    let (of_a, of_b) = (Load::start(&pair.a, "a"), Load::start(&pair.b, "b"));
    for _ in 0..10 {
        order(&pair.sidecar_a, &["PAUSE", "b"]);
        order(&pair.sidecar_b, &["PAUSE", "a"]);
        pair.sidecar_a.wait_link("b", "paused");
        count(&pair.b, "counter", 100);
        order(&pair.sidecar_a, &["RESUME", "b"]);
        order(&pair.sidecar_b, &["RESUME", "a"]);
        pair.wait_streaming();
    }
    let written = [of_a.stop(), of_b.stop()];
    pair.wait_equal(PATIENCE);
    for server in [&pair.a, &pair.b] {
        for written in &written {
            written.check(server);
        }
        check_shared(server, &[&written[0], &written[1]]);
    }
    assert_eq!(number(&mut pair.a.client(), "counter"), 1000);
}

#[test]
fn resync_ends_with_both_sites_equal() {
    let pair = Pair::start();
    pair.wait_streaming();
    let before = (pair.sidecar_a.full_syncs(), pair.sidecar_b.full_syncs());
    let (of_a, of_b) = (Load::start(&pair.a, "a"), Load::start(&pair.b, "b"));
    let reply = order(&pair.sidecar_a, &["RESYNC", "b"]);
    assert_eq!(reply, "link b: both sites take a full sync\n");
    eventually("both sites to take a full sync", PATIENCE, || {
        pair.sidecar_a.full_syncs() > before.0 && pair.sidecar_b.full_syncs() > before.1
    });
    pair.wait_streaming();
    of_a.stop();
    of_b.stop();
    pair.wait_equal(PATIENCE);
}

#[test]
fn orders_are_for_administrators_and_the_log_tells_of_them() {
    let redis = RedisServer::start();
    let user =
        |name: &str| format!("name = \"{name}\"\npassword = \"the-secret\"\nrole = \"{name}\"");
    let builder = Builder::new("a", &redis).peer("b", "127.0.0.1:1");
    let builder = ["admin", "syncer", "observer", "peer"]
        .into_iter()
        .fold(builder, |builder, role| builder.setting("[user]", &user(role)));
    let mut sidecar = builder.start_without_waiting();
    sidecar.allow_log("audit");
    sidecar.allow_log("the link broke");
    let known = |role: &str| connect_to(&format!("{role}:the-secret@{}", sidecar.addr()));
    eventually("the port is served", PATIENCE, || known("admin").is_ok());
    for role in ["observer", "syncer", "peer"] {
        let mut client = known(role).unwrap();
        for order in ["PAUSE", "RESUME", "RESYNC"] {
            let error = refusal(&mut client, &["DUPLEX", order, "b"]);
            assert!(error.starts_with("NOPERM"), "{role}: {error}");
        }
        let error = refusal(&mut client, &["CONFIG", "SET", "requirepass", "the-value"]);
        assert!(error.starts_with("NOPERM"), "{role}: {error}");
    }
    let mut admin = known("admin").unwrap();
    let error = refusal(&mut admin, &["DUPLEX", "PAUSE", "nosuch"]);
    assert!(error.contains("no link to such a site; the [[peer]]s are: b"), "{error}");
    let error = refusal(&mut admin, &["DUPLEX", "PAUSE"]);
    assert!(error.contains("wrong arguments for 'duplex pause'"), "{error}");
    let help: String = cmd("DUPLEX").arg("HELP").query(&mut admin).unwrap();
    assert!(help.contains("DUPLEX PAUSE <site>"), "{help}");
    cmd("DUPLEX").arg(&["PAUSE", "b"]).exec(&mut admin).unwrap();
    cmd("CONFIG").arg(&["SET", "maxmemory", "1gb"]).exec(&mut admin).unwrap();
    assert!(connect_to(&format!("admin:the-value@{}", sidecar.addr())).is_err());
    // The words of AUTH swapped, and a subcommand forgotten.
    assert!(connect_to(&format!("the-value:admin@{}", sidecar.addr())).is_err());
    assert!(cmd("CONFIG").arg(&["requirepass", "the-value"]).exec(&mut admin).is_err());
    // What the server did not list, and what is refused to everybody.
    assert!(cmd("NOSUCH").arg("the-value").exec(&mut admin).is_err());
    assert!(cmd("REPLICAOF").arg(&["the-value", "1"]).exec(&mut admin).is_err());
    let migrate = ["127.0.0.1", "1", "the-value", "0", "1"];
    assert!(cmd("MIGRATE").arg(&migrate).exec(&mut admin).is_err());
    let mut pipeline = pipe();
    pipeline.atomic().cmd("CONFIG").arg(&["SET", "maxmemory", "2gb"]);
    pipeline.exec(&mut admin).unwrap();

    let log = sidecar.log();
    let told = |level: &str, words: &[&str]| {
        let mut lines = log.lines().filter(|line| line.contains(&format!("{level} audit:")));
        lines.any(|line| words.iter().all(|word| line.contains(word)) && line.contains("127.0.0.1"))
    };
    for role in ["observer", "syncer", "peer"] {
        let user = format!("user=\"{role}\" role=\"{role}\"");
        assert!(told("WARN", &["refused", &user, "command=\"duplex resync b\""]), "{log}");
        assert!(told("WARN", &["refused", &user, "command=\"config set requirepass\""]), "{log}");
    }
    assert!(told("INFO", &["runs", "user=\"admin\" role=\"admin\"", "command=\"duplex pause b\""]));
    assert!(told("INFO", &["runs", "command=\"config set maxmemory\""]), "{log}");
    assert!(told("INFO", &["queued", "command=\"config set maxmemory\""]), "{log}");
    assert!(told("WARN", &["wrong user or password", "user=\"admin\"", "failures=1"]), "{log}");
    assert!(told("WARN", &["wrong user or password", "user=\"(unknown)\""]), "{log}");
    assert!(told("INFO", &["runs", "command=\"config\""]), "{log}");
    assert!(told("INFO", &["runs", "command=\"nosuch\""]), "{log}");
    for name in ["replicaof", "migrate"] {
        let command = format!("command=\"{name}\"");
        assert!(told("WARN", &["refused", "user=\"admin\"", &command]), "{log}");
        assert!(!told("INFO", &["runs", &command]), "{log}");
    }
    let info: String = cmd("INFO").arg("duplex").query(&mut admin).unwrap();
    assert!(info.contains("auth_failures:2\r\n"), "{info}");
    let (_, metrics) = sidecar.http_get("/metrics");
    assert!(metrics.contains("redis_duplex_auth_failures_total 2"));
    // Neither passwords nor values, wherever one looks.
    let (_, status) = sidecar.http_get("/status");
    let links: String = cmd("DUPLEX").arg("LINKS").query(&mut admin).unwrap();
    for text in [sidecar.log(), status, metrics, info, links] {
        assert!(!text.contains("the-secret") && !text.contains("the-value"), "{text}");
    }
}

#[test]
fn links_need_no_more_than_the_role_peer() {
    let servers = [RedisServer::start(), RedisServer::start()];
    // Of "the-secret".
    let hash = redis_duplex::password::PasswordHash::argon2(b"the-secret").unwrap().to_text();
    let builders = ["a", "b"].map(|site| {
        let server = &servers[usize::from(site == "b")];
        Builder::new(site, server)
            .setting(
                "[user]",
                &format!("name = \"link\"\npassword_hash = \"{hash}\"\nrole = \"peer\""),
            )
            .setting("[user]", "name = \"eye\"\npassword = \"p\"\nrole = \"observer\"")
    });
    let addresses = builders.each_ref().map(Builder::addr);
    let [a, b] = builders;
    let peer = |site: &str, addr: &str| {
        let user = "username = \"link\"\npassword = \"the-secret\"";
        format!("site = \"{site}\"\naddr = \"{addr}\"\n{user}")
    };
    let sidecars = [
        a.setting("[peer]", &peer("b", &addresses[1])).start_without_waiting(),
        b.setting("[peer]", &peer("a", &addresses[0])).start_without_waiting(),
    ];
    for (sidecar, link) in sidecars.iter().zip(["b", "a"]) {
        eventually("the link to stream", PATIENCE, || {
            let client = connect_to(&format!("eye:p@{}", sidecar.addr()));
            let info = client
                .and_then(|mut client| cmd("INFO").arg("duplex").query::<String>(&mut client));
            info.is_ok_and(|info| info.contains(&format!("link_{link}_state:streaming")))
        });
    }
    count(&servers[0], "counter", 500);
    count(&servers[1], "counter", 500);
    wait_equal(&servers[0], &servers[1], PATIENCE);
    assert_eq!(number(&mut servers[0].client(), "counter"), 1000);
    for sidecar in &sidecars {
        let log = sidecar.log();
        assert!(!log.contains("the-secret") && !log.contains("argon2"), "{log}");
        sidecar.pause();
    }
}
