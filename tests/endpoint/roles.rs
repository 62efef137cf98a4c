//! The table of roles in docs/security.md, held against every command of a real server.

use std::collections::BTreeMap;

use crate::server::{Client, Port};

const ROLES: [&str; 4] = ["observer", "peer", "syncer", "admin"];
/// Served before anybody has said who they are, or (up to 6.2) closed as a browser's.
const FOR_ALL: [&str; 6] = ["auth", "hello", "quit", "reset", "post", "host:"];

const USERS: &str = "
[[user]]
name = \"observer\"
password = \"p\"
role = \"observer\"
[[user]]
name = \"peer\"
password = \"p\"
role = \"peer\"
[[user]]
name = \"syncer\"
password = \"p\"
role = \"syncer\"
[[user]]
name = \"admin\"
password = \"p\"
role = \"admin\"
";

/// One row of the table: names and `@categories` in lower case, and for whom.
struct Row {
    names: Vec<String>,
    /// Whether it is for what no other row tells of.
    is_rest: bool,
    /// In the order of [`ROLES`].
    may: [bool; 4],
}

fn rows() -> Vec<Row> {
    let text = include_str!("../../docs/security.md");
    let rows = text.lines().filter(|line| line.ends_with("| yes |"));
    let rows: Vec<Row> = rows
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let names = cells[0].split('`').skip(1).step_by(2);
            Row {
                names: names.map(str::to_lowercase).collect(),
                is_rest: cells[0].starts_with("any other"),
                may: std::array::from_fn(|at| cells[at + 1] == "yes"),
            }
        })
        .collect();
    assert!(rows.len() > 5 && rows.last().unwrap().is_rest);
    rows
}

/// One command or subcommand of the server.
#[derive(Debug)]
struct Listed {
    /// `config get` and the like.
    name: String,
    arity: i64,
    categories: Vec<String>,
    /// Whether it has subcommands.
    is_container: bool,
}

impl Listed {
    fn rights(&self, rows: &[Row]) -> [bool; 4] {
        let fits = |row: &&Row| {
            let by_name = row.names.contains(&self.name)
                || (self.name.starts_with("command ") && row.names.contains(&"command".into()));
            let settings = row.names.contains(&"config get".into());
            let by_category = row.names.iter().any(|name| self.categories.contains(name));
            row.is_rest || (by_name && !settings) || by_category
        };
        rows.iter().find(fits).unwrap().may
    }

    /// The command in a form that does nothing, as a rule an error of the wrong number of arguments.
    fn request(&self) -> String {
        let words = i64::try_from(self.name.split(' ').count()).unwrap();
        if self.is_container || self.arity < -words {
            return self.name.clone();
        }
        // No command takes so many words and no more; a stranger may send 10.
        let many = if self.arity > 0 { 8 } else { 3 };
        format!("{}{}", self.name, " x".repeat(many))
    }
}

fn listed(port: &Port) -> Vec<Listed> {
    let mut client =
        redis::Client::open(format!("redis://127.0.0.1:{}", port.server.port)).unwrap();
    let commands: Vec<Vec<redis::Value>> = redis::cmd("COMMAND").query(&mut client).unwrap();
    let one = |fields: &[redis::Value], is_container| {
        let text = |value: &redis::Value| redis::from_redis_value_ref::<String>(value).unwrap();
        Listed {
            name: text(&fields[0]).replace('|', " "),
            arity: redis::from_redis_value_ref(&fields[1]).unwrap(),
            categories: redis::from_redis_value_ref(&fields[6]).unwrap(),
            is_container,
        }
    };
    let mut all = Vec::new();
    for fields in &commands {
        let subcommands = match fields.get(9) {
            Some(redis::Value::Array(subcommands)) => subcommands.as_slice(),
            _ => &[],
        };
        all.push(one(fields, !subcommands.is_empty()));
        for subcommand in subcommands {
            if let redis::Value::Array(fields) = subcommand {
                all.push(one(fields, false));
            }
        }
    }
    all
}

fn known(port: &Port, role: &str) -> Client {
    let mut client = port.client();
    assert_eq!(client.say(&format!("AUTH {role} p")), "+OK");
    client
}

/// What the server has been asked since its statistics were reset.
fn asked(port: &Port) -> Vec<String> {
    let text = port.server.client().say("INFO commandstats");
    let names = text.split(' ').filter_map(|word| word.strip_prefix("cmdstat_"));
    let names = names.filter_map(|word| word.split(':').next());
    names.filter(|name| !name.starts_with("config")).map(str::to_owned).collect()
}

#[test]
fn the_role_table_holds_for_every_command() {
    let port = Port::start(USERS);
    let rows = rows();
    let commands = listed(&port);
    // 6.2 lists no subcommands; the other test has some by name.
    let is_old = !commands.iter().any(|command| command.name == "config get");
    let containers =
        ["acl", "client", "cluster", "config", "memory", "module", "script", "latency"];
    let tested = commands.iter().filter(|command| {
        let name = command.name.as_str();
        let is_coarse = is_old && containers.contains(&name);
        !(FOR_ALL.contains(&name) || is_coarse)
    });
    let tested: Vec<&Listed> = tested.collect();
    let mut counts = BTreeMap::new();
    for (at, role) in ROLES.into_iter().enumerate() {
        let (allowed, refused): (Vec<&Listed>, Vec<&Listed>) =
            tested.iter().copied().partition(|command| command.rights(&rows)[at]);
        assert_eq!(port.server.client().say("CONFIG RESETSTAT"), "+OK");
        let mut client = known(&port, role);
        for command in &refused {
            let reply = client.say(&command.request());
            assert!(reply.starts_with("-NOPERM"), "{role}: {}: {reply}", command.name);
        }
        assert_eq!(asked(&port), Vec::<String>::new(), "{role}");
        for command in &allowed {
            let mut client = known(&port, role);
            let reply = client.say(&command.request());
            assert!(!reply.starts_with("-NO"), "{role}: {}: {reply}", command.name);
        }
        counts.insert(role, (allowed.len(), refused.len()));
    }
    for command in &tested {
        let reply = port.client().say(&command.request());
        assert!(reply.starts_with("-NOAUTH"), "{}: {reply}", command.name);
    }
    println!("{} commands and subcommands; allowed, refused: {counts:?}", tested.len());
    assert_eq!(counts["admin"].1, 0);
    assert_eq!(counts["observer"], counts["peer"]);
    // Nobody has shut the server down.
    assert_eq!(port.server.client().say("PING"), "+PONG");
}

#[test]
fn subcommands_are_judged_on_their_own() {
    let port = Port::start(USERS);
    let mut clients = ROLES.map(|role| known(&port, role));
    let mut may = |line: &str| {
        let replies = [0, 1, 2, 3].map(|at| clients[at].say(line));
        replies.map(|reply| !reply.starts_with("-NOPERM"))
    };
    let (all, data, admin) = ([true; 4], [false, false, true, true], [false, false, false, true]);
    for (line, expected) in [
        ("CLIENT GETNAME", all),
        ("client SetName x", all),
        ("CLIENT SETINFO lib-name x", all),
        ("CLIENT INFO", data),
        ("CLIENT LIST", admin),
        ("CLIENT KILL ID 999999", admin),
        ("CLIENT", [false, false, false, true]),
        ("CONFIG GET databases", data),
        ("CONFIG GET databases maxmemory", data),
        ("CONFIG GET requirepass", admin),
        ("CONFIG GET *", admin),
        ("CONFIG SET maxmemory 0", admin),
        ("MEMORY USAGE k", data),
        ("MEMORY PURGE", admin),
        ("SCRIPT EXISTS x", data),
        ("SCRIPT KILL", admin),
        ("CLUSTER INFO", data),
        ("CLUSTER MEET 127.0.0.1 1", admin),
        ("ACL WHOAMI", admin),
        ("SLOWLOG GET", admin),
        ("CONFIG NOSUCH", admin),
        ("NOSUCH", admin),
        ("config|get databases", admin),
        ("DUPLEX STATUS", all),
        ("DUPLEX PAUSE b", admin),
        ("DUPLEX Resync b", admin),
    ] {
        assert_eq!(may(line), expected, "{line}");
    }
    // Not within a transaction either; and what was queued with it is not done.
    let syncer = &mut clients[2];
    assert_eq!(syncer.say("MULTI"), "+OK");
    assert_eq!(syncer.say("SET k v"), "+QUEUED");
    assert!(syncer.say("CONFIG SET maxmemory 1").starts_with("-NOPERM"));
    assert!(syncer.say("EXEC").starts_with("-EXECABORT"));
    assert_eq!(syncer.say("GET k"), "$-1");
}

#[test]
fn who_was_subscribed_may_no_more_than_before() {
    let port = Port::start(USERS);
    let mut client = known(&port, "syncer");
    for _ in 0..2 {
        assert!(client.say("SUBSCRIBE x").starts_with("*3"));
        assert!(client.say("UNSUBSCRIBE x").starts_with("*3"));
        let reply = client.say("MONITOR");
        assert!(reply.starts_with("-NOPERM"), "{reply}");
    }
    assert_eq!(client.say("SET k v"), "+OK");
    let mut admin = known(&port, "admin");
    assert!(admin.say("SUBSCRIBE x").starts_with("*3"));
    assert!(admin.say("UNSUBSCRIBE x").starts_with("*3"));
    assert_eq!(admin.say("MONITOR"), "+OK");
    assert_eq!(admin.say("RESET"), "+RESET");
}
