//! Random pipelines through the port and straight to another Redis: the same replies byte for
//! byte, the same data, and nothing in the stream without a mark.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::server::{Port, Server, command};
use crate::stream::Stream;

/// Commands of clients, with `K` for a key and `N` for a number.
const COMMANDS: [&str; 56] = [
    "SET K N",
    "SET K word",
    "SET K N EX 1000",
    "GET K",
    "INCR K",
    "INCRBYFLOAT K 1.5",
    "APPEND K x",
    "DEL K",
    "DEL K K K",
    "UNLINK K",
    "EXISTS K K",
    "EXPIRE K 5000",
    "PERSIST K",
    "TYPE K",
    "RPUSH K N N",
    "LPUSH K N",
    "LPOP K",
    "RPOP K 2",
    "LRANGE K 0 -1",
    "LLEN K",
    "LSET K 0 x",
    "SADD K N",
    "SREM K N",
    "SISMEMBER K N",
    "SCARD K",
    "HSET K f N",
    "HSET K f",
    "HINCRBY K f N",
    "HDEL K f",
    "HGETALL K",
    "ZADD K N m",
    "ZADD K x m",
    "ZRANGE K 0 -1 WITHSCORES",
    "ZINCRBY K N m",
    "GETSET K N",
    "GETDEL K",
    "RENAME K K",
    "COPY K K",
    "MSET K N K N",
    "MGET K K",
    "STRLEN K",
    "NOSUCH K",
    "GET",
    "SET K",
    "ECHO N",
    "PING",
    "PING N",
    "PUBLISH c N",
    "PFADD K N",
    "PFCOUNT K",
    "EVAL return{redis.call('incr',KEYS[1]),'x'} 1 K",
    "SELECT N",
    "SELECT 99",
    "OBJECT FREQ K",
    "CLIENT GETNAME",
    "XLEN K",
];

struct Maker {
    random: StdRng,
    in_multi: bool,
}

impl Maker {
    fn fill(&mut self, pattern: &str) -> String {
        let words = pattern.split(' ').map(|word| match word {
            "K" => format!("key{}", self.random.random_range(0..8)),
            "N" => self.random.random_range(0..4).to_string(),
            other => other.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn next(&mut self) -> String {
        let pattern = match self.random.random_range(0..100) {
            0..5 if !self.in_multi => {
                self.in_multi = true;
                "MULTI"
            }
            0..14 if self.in_multi => {
                self.in_multi = false;
                "EXEC"
            }
            14..17 if self.in_multi => {
                self.in_multi = false;
                "DISCARD"
            }
            5..8 if !self.in_multi => "WATCH K",
            8 => "UNWATCH",
            9 if !self.in_multi => "EXEC",
            10 if !self.in_multi => "DISCARD",
            11 => "EXEC x",
            12 => "MULTI x",
            _ => COMMANDS[self.random.random_range(0..COMMANDS.len())],
        };
        self.fill(pattern)
    }
}

/// Commands altogether, and most of them under way at once.
#[derive(Clone, Copy)]
struct Size {
    commands: usize,
    deep: usize,
}

const SMALL: Size = Size { commands: 2500, deep: 40 };

fn compare(seed: u64, resp3: bool, batch: &str, size: Size) {
    let port = Port::start(batch);
    let plain = Server::start();
    let mut stream = Stream::attach(&port.server);
    let (mut through, mut straight) = (port.client(), plain.client());
    if resp3 {
        // Its reply holds the number of the connection.
        assert!(through.say("HELLO 3").starts_with("%7"));
        assert!(straight.say("HELLO 3").starts_with("%7"));
    }
    let mut maker = Maker { random: StdRng::seed_from_u64(seed), in_multi: false };
    let mut made = 0;
    while made < size.commands {
        let lines: Vec<String> =
            (0..maker.random.random_range(1..=size.deep)).map(|_| maker.next()).collect();
        made += lines.len();
        let bytes: Vec<u8> = lines.iter().flat_map(|line| command(line)).collect();
        let mut cuts: Vec<usize> =
            (0..3).map(|_| maker.random.random_range(0..=bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        for part in cuts.windows(2) {
            through.write(&bytes[part[0]..part[1]]);
        }
        straight.write(&bytes);
        for (at, line) in lines.iter().enumerate() {
            let (got, expected) = (through.reply(), straight.reply());
            let before = &lines[at.saturating_sub(200)..at];
            assert_eq!(
                got.escape_ascii().to_string(),
                expected.escape_ascii().to_string(),
                "seed {seed}, {line} after {before:?}"
            );
        }
    }
    if maker.in_multi {
        assert_eq!((through.say("DISCARD"), straight.say("DISCARD")), ("+OK".into(), "+OK".into()));
    }
    let (mut local, mut other) = (port.server.client(), plain.client());
    local.say("SET end now");
    let found = stream.read_to("now", &port.write_off);
    assert_eq!(found.local, Vec::<String>::new(), "seed {seed}");
    assert!(found.tags.len() > 100);
    let status = port.write_off.status();
    assert_eq!((status.pending, status.earlier), (0, 0), "{status:?}");
    local.say("DEL end");
    for database in 0..4 {
        local.say(&format!("SELECT {database}"));
        local.say("DEL redis-duplex-checkpoint");
    }
    assert_eq!(local.say("DEBUG DIGEST"), other.say("DEBUG DIGEST"), "seed {seed}");
}

#[test]
fn replies_and_data_are_those_of_a_plain_redis() {
    for seed in 0..3 {
        compare(seed, false, "", SMALL);
    }
}

#[test]
fn ten_thousand_under_way() {
    compare(200, false, "", Size { commands: 10_000, deep: 5000 });
    compare(201, false, "[apply]\nbatch_commands = 7\n", Size { commands: 10_000, deep: 10_000 });
}

#[test]
fn likewise_in_resp3_and_in_small_batches() {
    compare(100, true, "", SMALL);
    compare(101, false, "[apply]\nbatch_commands = 3\nbatch_bytes = \"100B\"\n", SMALL);
    compare(102, true, "[apply]\nbatch_commands = 1\n", Size { commands: 2500, deep: 1000 });
}
