//! TLS everywhere: at the port, to Redis, on links; certificates that are wrong, and then mended.

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use redis::{Commands, Connection};
use tempfile::TempDir;

use crate::support::certificates::{Authority, Issued};
use crate::support::pair::wait_equal;
use crate::support::ports::Port;
use crate::support::redis_server::{RedisServer, binary, connect_tls};
use crate::support::sidecar::{Builder, Sidecar};
use crate::support::{PATIENCE, eventually};

/// What is written in the tests of bulk: many records of TLS, and more than any socket's buffer.
const LARGE: usize = 24 << 20;

/// An authority, and certificates by it.
struct Files {
    dir: TempDir,
    ca: Authority,
    own: Issued,
}

impl Files {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let ca = Authority::new(dir.path(), "ca");
        let own = ca.issue(dir.path(), "own");
        Self { dir, ca, own }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Lines for `[redis]` or `[[peer]]`.
    fn trusting(&self, shown: Option<&Issued>) -> String {
        let shown = shown.map(Issued::settings).unwrap_or_default();
        format!("tls = true\nca_file = \"{}\"\n{shown}", self.ca.file.display())
    }

    /// The settings of a Redis that shows the certificate, and asks for one.
    fn redis(&self) -> Vec<String> {
        let words = [
            ("--tls-cert-file", self.own.cert.as_path()),
            ("--tls-key-file", &self.own.key),
            ("--tls-ca-cert-file", &self.ca.file),
        ];
        words.iter().flat_map(|(key, file)| [key.to_string(), file.display().to_string()]).collect()
    }

    /// A Redis with a port in TLS beside the plain one.
    fn start_redis(&self, port: &Port, more: &[&str]) -> RedisServer {
        let number = port.number().to_string();
        let mut words = self.redis();
        words.extend(["--tls-port".to_string(), number]);
        words.extend(more.iter().map(ToString::to_string));
        RedisServer::start_with(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// `redis-cli --tls` to this port.
    fn cli(&self, sidecar: &Sidecar, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.arg("--tls").arg("--cacert").arg(&self.ca.file);
        command.arg("--cert").arg(&self.own.cert).arg("--key").arg(&self.own.key);
        text(&command.args(port_of(sidecar)).args(words).output().unwrap())
    }

    /// Two sites in TLS, all but the local Redis; `b` reaches `a` as these lines of `[[peer]]` say.
    fn sites(&self, own_a: &Issued, b_to_a: &str) -> Sites {
        let (a, b) = (RedisServer::start(), RedisServer::start());
        let (for_a, for_b) = (Builder::new("a", &a), Builder::new("b", &b));
        let (addr_a, addr_b) = (for_a.addr(), for_b.addr());
        let own = &self.own;
        let for_a = for_a.tls(own_a, &self.ca, Some(own));
        let for_a = for_a.peer_with("b", &addr_b, &self.trusting(Some(own)));
        let for_b = for_b.tls(own, &self.ca, Some(own)).peer_with("a", &addr_a, b_to_a);
        let mut sidecar_a = for_a.start_without_waiting();
        let mut sidecar_b = for_b.start();
        for sidecar in [&mut sidecar_a, &mut sidecar_b] {
            sidecar.allow_log("trying again");
            sidecar.allow_log("a client did not come in");
            sidecar.allow_log("refused a link");
        }
        eventually("site a to listen", PATIENCE, || TcpStream::connect(&addr_a).is_ok());
        Sites { sidecar_a, sidecar_b, a, b }
    }
}

struct Sites {
    sidecar_a: Sidecar,
    sidecar_b: Sidecar,
    a: RedisServer,
    b: RedisServer,
}

impl Sites {
    /// Both links stream, and carry.
    fn wait_in_sync(&self) {
        self.sidecar_b.wait_link("a", "streaming");
        redis::cmd("SET").arg("from-a").arg("1").exec(&mut self.a.client()).unwrap();
        redis::cmd("SET").arg("from-b").arg("2").exec(&mut self.b.client()).unwrap();
        wait_equal(&self.a, &self.b, PATIENCE);
    }

    fn freeze(&mut self) {
        self.sidecar_a.freeze();
        self.sidecar_b.freeze();
    }
}

fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

fn port_of(sidecar: &Sidecar) -> [String; 4] {
    let (host, port) = sidecar.addr().rsplit_once(':').map(owned).unwrap();
    ["-h".to_string(), host, "-p".to_string(), port]
}

fn owned((host, port): (&str, &str)) -> (String, String) {
    (host.to_string(), port.to_string())
}

fn number(addr: &str) -> u16 {
    addr.rsplit_once(':').unwrap().1.parse().unwrap()
}

#[track_caller]
fn wait_log(sidecar: &Sidecar, part: &str) {
    eventually(&format!("the log to say {part:?}"), PATIENCE, || sidecar.log().contains(part));
}

/// Whether the Redis under test was built with TLS; if not the test is passed over, loudly.
fn redis_speaks_tls() -> bool {
    let words = ["--port", "0", "--tls-port", "1", "--tls-cert-file", "/nonexistent"];
    let output = Command::new(binary()).args(words).output().unwrap();
    // Redis does not know the setting, Valkey says what it lacks.
    let lacks = ["Bad directive", "Failed finding TLS support"];
    let speaks = !lacks.iter().any(|lack| text(&output).contains(lack));
    if !speaks {
        eprintln!("SKIPPED: {} was built without TLS", binary());
    }
    speaks
}

fn program(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_redis-duplex")).args(words).output().unwrap()
}

fn ping(connection: &mut Connection) -> bool {
    redis::cmd("PING").query::<String>(connection).is_ok_and(|pong| pong == "PONG")
}

#[test]
fn everything_in_tls_syncs_both_ways() {
    if !redis_speaks_tls() {
        return;
    }
    let files = Files::new();
    let (port_a, port_b) = (Port::free(), Port::free());
    let a = files.start_redis(&port_a, &[]);
    let b = files.start_redis(&port_b, &["--tls-protocols", "TLSv1.2"]);
    let own = Some(&files.own);
    let for_site = |site: &str, redis: &RedisServer, port: &Port, host: &str| {
        Builder::new(site, redis)
            .redis_addr(&format!("{host}:{}", port.number()))
            .setting("redis", &files.trusting(own))
            .tls(&files.own, &files.ca, own)
    };
    let for_a = for_site("a", &a, &port_a, "127.0.0.1");
    let for_b = for_site("b", &b, &port_b, "localhost");
    let (addr_a, addr_b) = (for_a.addr(), for_b.addr());
    redis::cmd("SET").arg("before").arg(vec![b'x'; LARGE]).exec(&mut b.client()).unwrap();
    let mut sidecar_a = for_a.peer_with("b", &addr_b, &files.trusting(own)).start_without_waiting();
    let mut sidecar_b = for_b.peer_with("a", &addr_a, &files.trusting(own)).start();
    sidecar_a.wait_ready();
    sidecar_a.allow_log("it spoke plain text to a TLS port");
    sidecar_a.wait_link("b", "streaming");
    sidecar_b.wait_link("a", "streaming");

    redis::cmd("SET").arg("large").arg(vec![b'y'; LARGE]).exec(&mut a.client()).unwrap();
    for (server, name) in [(&a, "of-a"), (&b, "of-b")] {
        let mut pipe = redis::pipe();
        for index in 0..20_000 {
            pipe.cmd("HSET").arg(format!("{name}:{}", index % 1000)).arg(index).arg(name).ignore();
        }
        pipe.exec(&mut server.client()).unwrap();
    }
    wait_equal(&a, &b, PATIENCE);

    commands_in_tls(&files, &sidecar_a, [&port_a, &port_b]);

    // Through the port: what is larger than any buffer, both ways, and many requests at once.
    let mut client = sidecar_a.client();
    let _: () = client.set("through", vec![b'z'; LARGE]).unwrap();
    let back: Vec<u8> = client.get("through").unwrap();
    assert!(back.len() == LARGE && back.iter().all(|byte| *byte == b'z'));
    let mut pipe = redis::pipe();
    for index in 0..10_000 {
        pipe.cmd("SET").arg(format!("p:{index}")).arg(index).ignore();
        pipe.cmd("GET").arg(format!("p:{index}"));
    }
    let got: Vec<u64> = pipe.query(&mut client).unwrap();
    assert!(got.iter().copied().eq(0..10_000));
    assert_eq!(files.cli(&sidecar_a, &["SET", "cli", "1"]).trim(), "OK");
    let status = files.cli(&sidecar_a, &["DUPLEX", "STATUS"]);
    assert!(status.contains("in sync") && status.contains("yes"), "{status}");

    replica_in_tls(&files, &a, &sidecar_a);
    sidecar_a.freeze();
    sidecar_b.freeze();
}

/// A stock replica that shows its certificate at our port gets all that is there and what follows.
fn replica_in_tls(files: &Files, master: &RedisServer, sidecar: &Sidecar) {
    let mut words = files.redis();
    let (host, port) = sidecar.addr().rsplit_once(':').map(owned).unwrap();
    words.extend(["--tls-replication", "yes", "--replicaof", &host, &port].map(str::to_string));
    let replica = RedisServer::start_with(&words.iter().map(String::as_str).collect::<Vec<_>>());
    wait_equal(master, &replica, PATIENCE);
    redis::cmd("SET").arg("later").arg(vec![b'l'; LARGE]).exec(&mut master.client()).unwrap();
    redis::cmd("SELECT").arg(3).exec(&mut master.client()).unwrap();
    redis::cmd("SET").arg("in 3").arg(1).exec(&mut master.client_db(3)).unwrap();
    wait_equal(master, &replica, PATIENCE);
    assert_eq!(replica.info("replication")["master_link_status"], "up");
}

/// `check`, `status` and `verify` come in as well.
fn commands_in_tls(files: &Files, sidecar: &Sidecar, redis: [&Port; 2]) {
    let path = |path: &Path| path.display().to_string();
    let (ca, cert, key) = (path(&files.ca.file), path(&files.own.cert), path(&files.own.key));
    let tls = ["--ca-file", &ca, "--tls-cert", &cert, "--tls-key", &key];
    let output = program(&["check", "-c", &path(sidecar.config())]);
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains(": this site's sidecar runs there"), "{told}");
    let addr = sidecar.addr();
    let output = program(&[&["status", "--tls", &addr], &tls[..]].concat());
    assert!(text(&output).contains("site         a (primary: a)"), "{}", text(&output));
    let [a, b] = redis.map(|port| format!("127.0.0.1:{}", port.number()));
    let output = program(&[&["verify", "--tls-a", "--tls-b", &a, &b], &tls[..]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let output = program(&["status", &addr]);
    assert!(text(&output).contains("this port of redis-duplex speaks TLS"), "{}", text(&output));
    let output = program(&["status", &addr, "--ca-file", &ca]);
    assert!(text(&output).contains("files for TLS, but no TLS: add --tls"), "{}", text(&output));
}

#[test]
fn an_unknown_authority_is_told_and_mended_by_sighup() {
    let files = Files::new();
    let other = Authority::new(files.dir(), "other");
    let trusted = files.dir().join("trusted.crt");
    std::fs::copy(&other.file, &trusted).unwrap();
    let lines =
        format!("tls = true\nca_file = \"{}\"\n{}", trusted.display(), files.own.settings());
    let mut sites = files.sites(&files.own, &lines);
    wait_log(&sites.sidecar_b, "its certificate is of an unknown issuer: set ca_file");
    wait_log(&sites.sidecar_a, "it does not accept our certificate (UnknownCA)");
    std::fs::copy(&files.ca.file, &trusted).unwrap();
    sites.sidecar_b.hang_up();
    wait_log(&sites.sidecar_b, "read certificates and keys again");
    sites.wait_in_sync();
    sites.freeze();
}

/// Makes a certificate of site a that is no good.
type Make = fn(&Authority, &Path) -> Issued;

#[test]
fn a_wrong_name_or_an_old_certificate_is_told_and_mended_at_the_other_end() {
    let files = Files::new();
    let cases: [(Make, &str); 2] = [
        (
            |ca, dir| ca.issue_for(dir, "of-a", "elsewhere.example"),
            "its certificate is not for \"127.0.0.1\" but for elsewhere.example:",
        ),
        (|ca, dir| ca.issue_expired(dir, "of-a"), "its certificate has expired"),
    ];
    for (make, expected) in cases {
        let own_a = make(&files.ca, files.dir());
        let mut sites = files.sites(&own_a, &files.trusting(Some(&files.own)));
        wait_log(&sites.sidecar_b, expected);
        files.ca.issue(files.dir(), "of-a");
        sites.sidecar_a.hang_up();
        sites.wait_in_sync();
        sites.freeze();
    }
}

#[test]
fn a_peer_without_a_certificate_or_without_tls_is_told_so() {
    let files = Files::new();
    let mut sites = files.sites(&files.own, &files.trusting(None));
    wait_log(&sites.sidecar_b, "it asks for a client certificate: set tls_cert and tls_key");
    wait_log(&sites.sidecar_a, "it showed no certificate, and [listen] client_ca asks for one");
    sites.freeze();
    let mut sites = files.sites(&files.own, "");
    wait_log(&sites.sidecar_b, "this port of redis-duplex speaks TLS: connect with TLS");
    wait_log(&sites.sidecar_a, "it spoke plain text to a TLS port: redis-cli --tls");
    let output = Command::new("redis-cli").args(port_of(&sites.sidecar_b)).arg("PING").output();
    assert!(text(&output.unwrap()).contains("ERR this port of redis-duplex speaks TLS"));
    sites.freeze();
}

#[test]
fn tls_at_a_plain_port_is_told_at_both_ends() {
    let files = Files::new();
    let redis = RedisServer::start();
    let mut plain = Builder::new("a", &redis).start();
    plain.allow_log("a client spoke TLS to a plain port");
    assert!(connect_tls(number(&plain.addr()), files.ca.client(None)).is_err());
    wait_log(&plain, "a client spoke TLS to a plain port: set tls_cert and tls_key of [listen]");
    let ca = files.ca.file.display().to_string();
    let output = program(&["status", "--tls", "--ca-file", &ca, &plain.addr()]);
    let told = text(&output);
    assert!(told.contains("it speaks no TLS: remove tls = true, or name its TLS port"), "{told}");
}

#[test]
fn a_redis_that_is_not_trusted_is_waited_for_until_sighup() {
    if !redis_speaks_tls() {
        return;
    }
    let files = Files::new();
    let other = Authority::new(files.dir(), "other");
    let trusted = files.dir().join("trusted.crt");
    std::fs::copy(&other.file, &trusted).unwrap();
    let port = Port::free();
    let redis = files.start_redis(&port, &[]);
    let lines =
        format!("tls = true\nca_file = \"{}\"\n{}", trusted.display(), files.own.settings());
    let builder = Builder::new("a", &redis).redis_addr(&format!("127.0.0.1:{}", port.number()));
    let mut sidecar = builder.setting("redis", &lines).start_without_waiting();
    sidecar.allow_log("its certificate is of an unknown issuer");
    sidecar.allow_log("bad files for TLS, the old ones stay in force");
    wait_log(&sidecar, "its certificate is of an unknown issuer: set ca_file");
    std::fs::write(&trusted, "nothing").unwrap();
    sidecar.hang_up();
    wait_log(&sidecar, "trusted.crt holds no certificate: name a PEM file");
    std::fs::copy(&files.ca.file, &trusted).unwrap();
    sidecar.hang_up();
    sidecar.wait_ready();
    let problems: String = redis::cmd("DUPLEX").arg("ERRORS").query(&mut sidecar.client()).unwrap();
    assert!(problems.contains("trusted.crt holds no certificate"), "{problems}");
    assert!(problems.contains("the old files stay in force"), "{problems}");
}

#[test]
fn sighup_changes_the_certificate_for_new_connections_alone() {
    let files = Files::new();
    let redis = RedisServer::start();
    let mut sidecar = Builder::new("a", &redis).tls(&files.own, &files.ca, None).start();
    let port = number(&sidecar.addr());
    let mut old = sidecar.client();
    let next = Authority::new(files.dir(), "next");
    let comes_in = |ca: &Authority| connect_tls(port, ca.client(None)).is_ok();
    next.issue(files.dir(), "own");
    assert!(comes_in(&files.ca) && !comes_in(&next), "nothing is read before SIGHUP");
    sidecar.hang_up();
    eventually("the new certificate", PATIENCE, || comes_in(&next));
    wait_log(&sidecar, "place=[listen] valid_until=4096-01-01 00:00 UTC");
    assert!(!comes_in(&files.ca));
    assert!(ping(&mut old), "a connection that is there goes on");
    // A bad file changes nothing.
    sidecar.allow_log("bad files for TLS, the old ones stay in force");
    sidecar.allow_log("it does not accept our certificate (UnknownCA)");
    std::fs::write(files.dir().join("own.key"), "no key").unwrap();
    sidecar.hang_up();
    wait_log(&sidecar, "own.key holds no private key without a passphrase: name a PEM file");
    assert!(comes_in(&next) && ping(&mut old));
}

#[test]
fn a_client_that_says_nothing_is_closed_and_holds_up_nobody() {
    let files = Files::new();
    let redis = RedisServer::start();
    let builder = Builder::new("a", &redis).tls(&files.own, &files.ca, None);
    let mut sidecar = builder.setting("listen", "max_connections = 3").start();
    sidecar.allow_log("no TLS handshake within 10s");
    sidecar.allow_log("turned a client away");
    eventually("the looks at the start to have left", PATIENCE, || {
        let (head, metrics) = sidecar.http_get("/metrics");
        assert!(head.contains("200"), "{head}");
        metrics.contains("\nredis_duplex_clients 0\n")
    });
    let began = Instant::now();
    let mut silent: Vec<TcpStream> =
        (0..2).map(|_| TcpStream::connect(sidecar.addr()).unwrap()).collect();
    let mut client = sidecar.client();
    assert!(ping(&mut client));
    // They count.
    assert!(connect_tls(number(&sidecar.addr()), files.ca.client(None)).is_err());
    let (_, metrics) = sidecar.http_get("/metrics");
    for line in ["clients 3", "max_clients 3", "turned_away_total 1"] {
        assert!(metrics.contains(&format!("\nredis_duplex_{line}\n")), "{line}: {metrics}");
    }
    let mut one = silent.pop().unwrap();
    one.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(one.read(&mut [0; 8]).unwrap(), 0, "it is closed");
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(9), "only after {waited:?}");
    wait_log(&sidecar, "no TLS handshake within 10s");
    assert!(ping(&mut client) && ping(&mut sidecar.client()));
}
