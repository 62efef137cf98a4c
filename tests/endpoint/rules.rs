//! The port's own rules.

use redis_duplex::endpoint::SessionEnd;

use crate::server::{Client, Port, command, until};
use crate::stream::Stream;

const CHECKPOINT: &str = "redis-duplex-checkpoint";

/// What of a port's writes came through the stream as if local clients had done it.
fn local_units(port: &Port, stream: &mut Stream) -> Vec<String> {
    port.server.client().say("SET end now");
    stream.read_to("now", &port.write_off).local
}

#[test]
fn refused_commands_leave_the_rest_of_the_batch() {
    let port = Port::start("");
    let mut stream = Stream::attach(&port.server);
    let mut client = port.client();
    client
        .write(&["SET a 1", "NOSUCH", "SET", "INCR a", "LPUSH a x", "GET a"].map(command).concat());
    let replies: Vec<String> = (0..6).map(|_| client.text()).collect();
    assert_eq!((replies[0].as_str(), replies[3].as_str()), ("+OK", ":2"));
    assert!(replies[1].starts_with("-ERR unknown command 'NOSUCH'"), "{replies:?}");
    assert!(replies[2].starts_with("-ERR wrong number"), "{replies:?}");
    assert!(replies[4].starts_with("-WRONGTYPE"), "{replies:?}");
    assert_eq!(replies[5], "$1 2");
    assert_eq!(local_units(&port, &mut stream), Vec::<String>::new());
    let status = port.write_off.status();
    assert_eq!((status.pending, status.given_up, status.issued), (0, 1, 2));
}

#[test]
fn a_full_redis_refuses_writes_and_serves_reads() {
    let port = Port::start("");
    let mut client = port.client();
    client.say("SET a 1");
    port.server.client().say("CONFIG SET maxmemory 1");
    client.write(&["GET a", "SET a 2", "GET a"].map(command).concat());
    assert_eq!(client.text(), "$1 1");
    assert!(client.text().starts_with("-OOM"));
    assert_eq!(client.text(), "$1 1");
    port.server.client().say("CONFIG SET maxmemory 0");
    assert_eq!(client.say("SET a 3"), "+OK");
}

#[test]
fn a_foreign_write_spoils_a_watched_transaction_and_its_own_too() {
    let port = Port::start("");
    let mut stream = Stream::attach(&port.server);
    let (mut client, mut other) = (port.client(), port.client());
    for (writer_is_self, expected) in [(false, "*-1"), (true, "*-1")] {
        assert_eq!(client.say("SELECT 2"), "+OK");
        assert_eq!(client.say("WATCH k"), "+OK");
        other.say("SELECT 2");
        let writer = if writer_is_self { &mut client } else { &mut other };
        assert_eq!(writer.say("SET k 1"), "+OK");
        client.say("MULTI");
        client.say("SET k 2");
        assert_eq!(client.say("EXEC"), expected);
        assert_eq!(client.say("GET k"), "$1 1");
    }
    assert_eq!(client.say("WATCH k"), "+OK");
    assert_eq!(client.say("SET unwatched 1"), "+OK");
    client.write(&["MULTI", "SET k 3", "SELECT 0", "EXEC", "SET here 1"].map(command).concat());
    let replies: Vec<String> = (0..5).map(|_| client.text()).collect();
    assert_eq!(replies, ["+OK", "+QUEUED", "+QUEUED", "*2 +OK +OK", "+OK"]);
    assert_eq!(port.server.client().say("GET here"), "$1 1");
    assert_eq!(local_units(&port, &mut stream), Vec::<String>::new());
    assert_eq!(port.write_off.status().pending, 0);
}

#[test]
fn an_abandoned_transaction_gives_its_tag_up() {
    let port = Port::start("");
    let mut client = port.client();
    client.write(&["MULTI", "SET a 1", "NOSUCH"].map(command).concat());
    assert_eq!(client.text(), "+OK");
    assert_eq!(port.write_off.status().pending, 1);
    drop(client);
    until("the tag is given up", || port.write_off.status().pending == 0);
}

#[test]
fn the_checkpoint_is_left_alone() {
    let port = Port::start("");
    let mut client = port.client();
    assert_eq!(client.say(&format!("HSET {CHECKPOINT} a b")), ":1");
    assert_eq!(client.say(&format!("RESTORE {CHECKPOINT} 0 x")), "+OK");
    assert_eq!(client.say("SET a 1"), "+OK");
    assert_eq!(client.say(&format!("DEL {CHECKPOINT} a")), ":1");
    client.say("MULTI");
    assert_eq!(client.say(&format!("DEL {CHECKPOINT}")), "+QUEUED");
    assert_eq!(client.say("SET b 1"), "+QUEUED");
    assert_eq!(client.say("EXEC"), "*2 :1 +OK");
    let fields = port.server.client().say(&format!("HKEYS {CHECKPOINT}"));
    assert_eq!(fields, "*1 $5 a-tag");
}

#[test]
fn flushes_go_by_the_policy() {
    for (policy, reply, left) in
        [("forward", "+OK", "$-1"), ("drop", "+OK", "$1 1"), ("stop", "-ERR", "$1 1")]
    {
        let port = Port::start(&format!("[filter]\nflush = \"{policy}\"\n"));
        let mut client = port.client();
        client.say("SET a 1");
        let got = client.say("FLUSHALL");
        assert!(got.starts_with(reply), "{policy}: {got}");
        assert_eq!(policy == "stop", got.contains("[filter] flush"), "{got}");
        assert_eq!(client.say("GET a"), left, "{policy}");
        client.write(&["MULTI", "FLUSHDB", "SET b 1", "EXEC"].map(command).concat());
        let replies: Vec<String> = (0..4).map(|_| client.text()).collect();
        let done = if policy == "stop" { "-EXECABORT" } else { "*2 +OK +OK" };
        assert!(replies[3].starts_with(done), "{policy}: {replies:?}");
    }
}

#[test]
fn what_cant_be_honoured_says_so() {
    let port = Port::start("");
    let mut client = port.client();
    for line in [
        "REPLICAOF no one",
        "SLAVEOF 127.0.0.1 1",
        "MIGRATE h 1 k 0 1",
        "BLPOP k 0",
        "BZPOPMIN k 0",
        "XREAD BLOCK 0 STREAMS k $",
        "DUPLEX",
        "DUPLEX nonsense",
    ] {
        let got = client.say(line);
        assert!(got.starts_with("-ERR "), "{line}: {got}");
    }
    assert!(client.say("DUPLEX nonsense").contains("DUPLEX HELP"));
    assert_eq!(client.say("DUPLEX STATUS"), "$4 fine");
    client.say("MULTI");
    assert_eq!(client.say("BLPOP k 0"), "+QUEUED");
    assert_eq!(client.say("EXEC"), "*1 *-1");
    client.say("MULTI");
    assert!(client.say("REPLICAOF no one").starts_with("-ERR "));
    assert!(client.say("EXEC").starts_with("-EXECABORT"));
}

#[test]
fn info_and_role_are_ours() {
    let mut port = Port::start("");
    let mut client = port.client();
    let info = client.say("INFO");
    assert!(info.contains("# Server") && info.contains("role:master connected_slaves:0"), "{info}");
    assert!(info.ends_with("# Duplex site:a") && !info.contains("master_repl_offset"), "{info}");
    assert!(client.say("INFO keyspace").contains("# Keyspace"));
    assert_eq!(client.say("ROLE"), "*3 $6 master :1099511627776 *0");
    assert!(client.say("HELLO 3").starts_with('%'));
    assert!(client.say("INFO replication").starts_with("=52 txt:# Replication role:master"));
    port.server.stop();
    let mut client = port.client();
    assert!(client.say("INFO").contains("# Duplex"));
    let got = client.say("GET a");
    assert!(got.starts_with("-ERR the local Redis is not reachable"), "{got}");
    assert_eq!(client.say("PING"), "+PONG");
}

#[test]
fn a_lost_redis_is_told_and_the_connection_closed() {
    let mut port = Port::start("");
    let mut client = port.client();
    assert_eq!(client.say("SET a 1"), "+OK");
    client.write(&command("DEBUG SLEEP 3"));
    let mut monitor = port.client();
    assert_eq!(monitor.say("PING"), "+PONG");
    port.server.stop();
    // Closed while it was idle, or told that the command's fate is not known.
    let got = client.text();
    assert!(got.is_empty() || got.starts_with("-ERR the local Redis is not reachable"), "{got}");
    assert_eq!(client.text(), "");
}

#[test]
fn subscribers_get_messages_and_can_reset() {
    let port = Port::start("");
    let mut stream = Stream::attach(&port.server);
    let (mut client, mut other) = (port.client(), port.client());
    assert_eq!(client.say("SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
    assert_eq!(other.say("PUBLISH c hello"), ":1");
    assert_eq!(client.text(), "*3 $7 message $1 c $5 hello");
    assert!(client.say("GET a").starts_with("-ERR"));
    assert_eq!(client.say("PING"), "*2 $4 pong $0");
    assert_eq!(client.say("RESET"), "+RESET");
    assert_eq!(client.say("SET a 1"), "+OK");
    assert!(other.say("HELLO 3").starts_with('%'));
    other.write(&["SUBSCRIBE c d", "GET a", "PUBLISH c x"].map(command).concat());
    assert_eq!(other.text(), ">3 $9 subscribe $1 c :1");
    assert_eq!(other.text(), ">3 $9 subscribe $1 d :2");
    assert_eq!(other.text(), "$1 1");
    let (first, second) = (other.text(), other.text());
    let mut both = [first.as_str(), second.as_str()];
    both.sort_unstable();
    assert_eq!(both, [":1", ">3 $7 message $1 c $1 x"]);
    assert_eq!(local_units(&port, &mut stream), Vec::<String>::new());
}

/// A subscriber without subscriptions is a client like any other, at once and in order.
#[test]
fn a_subscriber_that_unsubscribes_goes_on() {
    let port = Port::start("");
    let mut stream = Stream::attach(&port.server);
    let mut plain = port.server.client();
    let lines = [
        "SUBSCRIBE c d",
        "GET a",
        "PSUBSCRIBE p*",
        "PING hello",
        "UNSUBSCRIBE c",
        "INCR a",
        "PUNSUBSCRIBE",
        "UNSUBSCRIBE",
        "GET a",
        "SUBSCRIBE e",
        "PING",
        "UNSUBSCRIBE e",
        "PING",
        "UNSUBSCRIBE",
    ];
    let mut client = port.client();
    let bytes = lines.map(command).concat();
    client.write(&bytes);
    plain.write(&bytes);
    for line in lines.iter().chain(["and more"; 1].iter()) {
        assert_eq!(client.text(), plain.text(), "{line}");
    }
    assert_eq!(client.say("INCR a"), ":1");
    assert_eq!(client.say("SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
    client.write(&["UNSUBSCRIBE", "INCR a", "SUBSCRIBE c"].map(command).concat());
    assert_eq!(client.text(), "*3 $11 unsubscribe $1 c :0");
    assert_eq!(client.text(), ":2");
    assert_eq!(client.text(), "*3 $9 subscribe $1 c :1");
    assert_eq!(client.say("QUIT"), "+OK");
    assert_eq!(local_units(&port, &mut stream), Vec::<String>::new());
}

/// A batch that is refused in the middle of others: what was sent behind it must not be done first.
#[test]
fn a_later_batch_never_overtakes() {
    let port = Port::start("[apply]\nbatch_commands = 5\n");
    let mut client = port.client();
    for round in 0..50 {
        let mut all = Vec::new();
        for n in 0..100 {
            all.extend(command(&format!("SET k {n}")));
            all.extend(command(&format!("RPUSH list:{round} {n}")));
            if (n + round) % 7 == 0 {
                all.extend(command("NOSUCH x"));
                all.extend(command("SET k"));
            }
        }
        all.extend(command("ECHO end"));
        client.write(&all);
        while client.text() != "$3 end" {}
        assert_eq!(client.say("GET k"), "$2 99");
        let list = client.say(&format!("LRANGE list:{round} 0 -1"));
        let items: Vec<&str> = list.split(' ').skip(2).step_by(2).collect();
        let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(items, expected);
    }
}

/// A client that is gone is not waited for, and one that only shut its side down is answered.
#[test]
fn half_closed_clients_are_answered() {
    let port = Port::start("");
    let mut client = port.client();
    let all = ["SET a 1", "INCR a", "MULTI", "INCR a", "EXEC", "GET a"].map(command).concat();
    client.write(&all);
    client.finish();
    let replies: Vec<String> = (0..6).map(|_| client.text()).collect();
    assert_eq!(replies, ["+OK", ":2", "+OK", "+QUEUED", "*1 :3", "$1 3"]);
    assert_eq!(client.text(), "", "and then it is closed");
}

#[test]
fn client_reply_is_honoured() {
    let port = Port::start("");
    let mut client = port.client();
    let lines = [
        "CLIENT REPLY OFF",
        "SET a 1",
        "INCR a",
        "MULTI",
        "INCR a",
        "EXEC",
        "CLIENT REPLY ON",
        "CLIENT REPLY SKIP",
        "INCR a",
        "GET a",
    ];
    client.write(&lines.map(command).concat());
    assert_eq!(client.text(), "+OK");
    assert_eq!(client.text(), "$1 4");
}

#[test]
fn replicas_and_peers_are_handed_over() {
    let port = Port::start("");
    let mut client = port.client();
    client.write(&command("REPLCONF ACK 1"));
    assert_eq!(client.say("REPLCONF listening-port 7000"), "+OK");
    assert_eq!(client.say("REPLCONF capa eof capa psync2"), "+OK");
    assert_eq!(client.say("CLIENT SETINFO LIB-NAME x").split(' ').next(), Some("-ERR"));
    let mut bytes = command("PSYNC ? -1");
    bytes.extend(command("REPLCONF ACK 0"));
    client.write(&bytes);
    let mut link = port.client();
    link.write(b"DUPLEX LINK b\r\n");
    until("both are handed over", || port.handed.lock().unwrap().len() == 2);
    for end in port.handed.lock().unwrap().drain(..) {
        match end {
            SessionEnd::Replica { wish, input, .. } => {
                assert!(wish.eof && wish.psync2 && !wish.sync && wish.from.is_none());
                assert_eq!(wish.port, 7000);
                assert_eq!(input, command("REPLCONF ACK 0"));
            }
            SessionEnd::Peer { request, .. } => assert_eq!(request.arg(2), b"b"),
            SessionEnd::Closed => panic!("not handed over"),
        }
    }
}

#[test]
fn users_and_roles() {
    let users =
        [("default", "one", "syncer"), ("root", "two", "admin"), ("eye", "three", "observer")];
    let users = users.map(|(name, password, role)| {
        format!("[[user]]\nname = \"{name}\"\npassword = \"{password}\"\nrole = \"{role}\"\n")
    });
    let port = Port::start(&users.concat());
    let mut client = port.client();
    assert!(client.say("PING").starts_with("-NOAUTH"));
    assert!(client.say("HELLO 3").starts_with("-NOAUTH"));
    assert!(client.say("AUTH two").starts_with("-WRONGPASS"));
    assert_eq!(client.say("AUTH one"), "+OK");
    assert_eq!(client.say("SET a 1"), "+OK");
    assert!(client.say("DUPLEX PAUSE b").starts_with("-NOPERM"));
    assert!(client.say("DEBUG SLEEP 0").starts_with("-NOPERM"));
    assert!(client.say("HELLO 2 AUTH eye three").starts_with("*14"));
    assert!(client.say("SET a 1").starts_with("-NOPERM"));
    assert_eq!(client.say("PING"), "+PONG");
    assert_eq!(client.say("AUTH root two"), "+OK");
    assert_eq!(client.say("DEBUG SLEEP 0"), "+OK");
    assert_eq!(client.say("RESET"), "+RESET");
    assert!(client.say("GET a").starts_with("-NOAUTH"));
    let mut stranger = port.client();
    stranger.write(b"*11\r\n");
    assert!(stranger.text().starts_with("-ERR Protocol error"));
    assert_eq!(stranger.text(), "");
}

#[test]
fn no_more_clients_than_allowed() {
    let port = Port::start("[listen]\naddr = \"x\"\nmax_connections = 2\n");
    let (mut first, mut second) = (port.client(), port.client());
    assert_eq!((first.say("PING"), second.say("PING")), ("+PONG".into(), "+PONG".into()));
    assert_eq!(port.client().text(), "-ERR max number of clients reached");
    drop(second);
    until("a place is free", || {
        let mut client = Client::connect(port.number);
        client.say("PING") == "+PONG"
    });
}

#[test]
fn large_values_pass() {
    let port = Port::start("");
    let mut client = port.client();
    let value = "x".repeat(3_000_000);
    client.write(&[command(&format!("SET big {value}")), command("GET big")].concat());
    assert_eq!(client.text(), "+OK");
    assert_eq!(client.text(), format!("$3000000 {value}"));
}
