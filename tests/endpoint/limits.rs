//! What strangers, slow clients and wrong passwords get.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::server::{Client, Port, command, until};

const USER: &str = "[[user]]\nname = \"default\"\npassword = \"p\"\nrole = \"admin\"\n";

/// With these lines of `[listen]` and one user.
fn port(listen: &str) -> Port {
    Port::start(&format!("[listen]\naddr = \"x\"\n{listen}\n{USER}"))
}

#[test]
fn wrong_passwords_are_counted_slowed_down_and_end_the_connection() {
    let port = port("");
    let mut client = port.client();
    let began = Instant::now();
    for attempt in 1..=10_u64 {
        let line = if attempt % 2 == 0 { "AUTH nobody p" } else { "AUTH wrong" };
        assert!(client.say(line).starts_with("-WRONGPASS"), "{attempt}");
        assert_eq!(port.status.login_failures.load(Ordering::Relaxed), attempt);
    }
    assert_eq!(client.text(), "", "closed");
    // 100, 200, 400, 800 ms, and a second six times.
    assert!(began.elapsed() > Duration::from_secs(7), "{:?}", began.elapsed());
    // A wrong password takes nothing from who is known, and HELLO is no way around.
    let mut client = port.client();
    assert_eq!(client.say("AUTH p"), "+OK");
    let began = Instant::now();
    assert!(client.say("HELLO 2 AUTH default wrong").starts_with("-WRONGPASS"));
    assert!(began.elapsed() > Duration::from_millis(100));
    assert_eq!(client.say("PING"), "+PONG");
    assert_eq!(port.status.login_failures.load(Ordering::Relaxed), 11);
}

#[test]
fn strangers_do_not_take_all_places() {
    let port = port("max_connections = 64");
    let mut strangers: Vec<Client> = (0..16).map(|_| port.client()).collect();
    for stranger in &mut strangers {
        assert!(stranger.say("PING").starts_with("-NOAUTH"));
    }
    let refused = "-ERR too many clients that have not said who they are";
    assert_eq!(port.client().text(), refused);
    assert_eq!(port.client().text(), refused);
    // One that says who it is makes room for another stranger.
    assert_eq!(strangers[0].say("AUTH p"), "+OK");
    let mut another = port.client();
    assert_eq!(another.say("AUTH p"), "+OK");
    strangers.truncate(2);
    until("there is room again", || port.client().say("AUTH p") == "+OK");
}

#[test]
fn a_stranger_has_some_seconds_however_slowly_it_sends() {
    let port = port("");
    let (mut slow, mut silent, mut known) = (port.client(), port.client(), port.client());
    assert_eq!(known.say("AUTH p"), "+OK");
    let began = Instant::now();
    let mut bytes = command("ECHO some-words-that-take-long").into_iter();
    // A byte each half second, so long as it is taken.
    while slow.is_open(Duration::from_millis(500)) {
        assert!(began.elapsed() < Duration::from_secs(20), "still open");
        let _ = slow.try_write(&[bytes.next().unwrap_or(b'x')]);
    }
    assert!(began.elapsed() > Duration::from_secs(8), "{:?}", began.elapsed());
    until("the silent one is closed", || !silent.is_open(Duration::from_millis(10)));
    assert_eq!(known.say("PING"), "+PONG");
}

#[test]
fn a_stranger_that_does_not_read_is_closed_early() {
    let port = port("");
    let mut client = port.client();
    let began = Instant::now();
    // Of the replies to these the kernel takes some megabytes, and 64 MiB once were ours to hold.
    let lines = b"a\n".repeat(1 << 20);
    client.write_until_closed(&lines);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    // Who is known may send much more, and be a stranger again once it has read enough.
    let mut known = port.client();
    assert_eq!(known.say("AUTH p"), "+OK");
    known.write(&command("PING").repeat(20_000));
    known.write(&command("RESET"));
    for _ in 0..20_000 {
        assert_eq!(known.text(), "+PONG");
    }
    assert_eq!(known.text(), "+RESET");
    assert_eq!(known.say("AUTH p"), "+OK");
}

#[test]
fn reset_gives_a_stranger_no_more_time_and_makes_one_of_who_was_known() {
    let port = port("max_connections = 64");
    let mut client = port.client();
    let began = Instant::now();
    while client.try_write(&command("RESET")).is_ok() && client.is_open(Duration::from_millis(500))
    {
        assert!(began.elapsed() < Duration::from_secs(15), "still open");
    }
    assert!(began.elapsed() > Duration::from_secs(8), "{:?}", began.elapsed());
    let mut known = [(); 2].map(|()| {
        let mut client = port.client();
        assert_eq!(client.say("AUTH p"), "+OK");
        client
    });
    let mut strangers: Vec<Client> = (0..15).map(|_| port.client()).collect();
    for stranger in &mut strangers {
        assert!(stranger.say("PING").starts_with("-NOAUTH"));
    }
    let refused = "-ERR too many clients that have not said who they are";
    assert_eq!(known[0].say("RESET"), "+RESET");
    assert_eq!(port.client().text(), refused);
    assert_eq!(known[1].say("RESET"), refused);
    assert_eq!(known[1].text(), "", "closed");
    assert_eq!(known[0].say("AUTH p"), "+OK");
    assert!(port.client().say("PING").starts_with("-NOAUTH"));
}

#[test]
fn a_hello_that_is_refused_lets_nobody_in() {
    let port = port("");
    let mut client = port.client();
    for line in [
        "HELLO 3 AUTH default p BAD",
        "HELLO 9 AUTH default p",
        "HELLO x AUTH default p",
        "HELLO 2 SETNAME a\nb AUTH default p",
    ] {
        let reply = client.say(line);
        assert!(reply.starts_with('-'), "{line}: {reply}");
        assert!(client.say("PING").starts_with("-NOAUTH"), "{line}");
    }
    assert!(client.say("HELLO 2 SETNAME a AUTH default p").starts_with('*'));
    assert_eq!(client.say("PING"), "+PONG");
}

#[test]
fn idle_clients_are_closed_but_not_subscribers() {
    let port = port("timeout = \"400ms\"");
    let [mut idle, mut busy, mut subscriber, mut modern] = [(); 4].map(|()| {
        let mut client = port.client();
        assert_eq!(client.say("AUTH p"), "+OK");
        client
    });
    assert!(subscriber.say("SUBSCRIBE c").starts_with("*3"));
    assert!(modern.say("HELLO 3").starts_with('%'));
    assert!(modern.say("SUBSCRIBE c").starts_with(">3"));
    let began = Instant::now();
    until("the idle one is closed", || {
        assert_eq!(busy.say("PING"), "+PONG");
        !idle.is_open(Duration::from_millis(20))
    });
    assert!(began.elapsed() > Duration::from_millis(350), "{:?}", began.elapsed());
    until("time passes", || {
        assert_eq!(busy.say("PING"), "+PONG");
        began.elapsed() > Duration::from_secs(1)
    });
    busy.write(&command("PUBLISH c x"));
    assert_eq!(subscriber.text(), "*3 $7 message $1 c $1 x");
    assert_eq!(modern.text(), ">3 $7 message $1 c $1 x");
}

#[test]
fn a_browser_is_turned_away() {
    for port in [port(""), Port::start("")] {
        let mut client = port.client();
        client.write(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET k v\r\n");
        assert_eq!(client.text(), "");
        let mut client = port.client();
        client.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nSET k v\r\n");
        until("it is closed", || client.text().is_empty());
        assert_eq!(port.server.client().say("DBSIZE"), ":0");
    }
}

#[test]
fn hashed_passwords_and_many_clients() {
    let slow = redis_duplex::password::PasswordHash::argon2(b"p").unwrap().to_text();
    let fast = redis_duplex::password::PasswordHash::sha256(b"q").to_text();
    let port = Port::start(&format!(
        "[[user]]\nname = \"default\"\npassword_hash = \"{slow}\"\nrole = \"syncer\"\n\
         [[user]]\nname = \"u\"\npassword_hash = \"{fast}\"\nrole = \"observer\"\n"
    ));
    let mut clients: Vec<Client> = (0..50).map(|_| port.client()).collect();
    for client in &mut clients {
        client.write(&command("AUTH p"));
    }
    for client in &mut clients {
        assert_eq!(client.text(), "+OK");
    }
    // Now the password is known, and takes no time any more.
    let began = Instant::now();
    for _ in 0..200 {
        assert_eq!(port.client().say("AUTH p"), "+OK");
    }
    println!("200 clients with a password that was right before: {:?}", began.elapsed());
    assert_eq!(port.client().say("AUTH u q"), "+OK");
    for wrong in ["AUTH u p", "AUTH q", "AUTH nobody p", &format!("AUTH u {fast}")] {
        assert!(port.client().say(wrong).starts_with("-WRONGPASS"), "{wrong}");
    }
}

/// Connections of the port to its server.
fn connections(port: &Port) -> usize {
    port.server.client().say("CLIENT LIST").matches(" cmd=").count() - 1
}

#[test]
#[ignore = "takes more than a minute, and 200 MB"]
fn clients_that_do_not_read_are_dropped() {
    let port = Port::start("");
    let (mut reads, mut hears) = (port.client(), port.client());
    let mut writer = port.server.client();
    let megabyte = "x".repeat(1 << 20);
    assert_eq!(writer.say(&format!("SET big {megabyte}")), "+OK");
    assert!(hears.say("SUBSCRIBE c").starts_with("*3"));
    reads.write(&command("GET big").repeat(100));
    for _ in 0..20 {
        assert_eq!(writer.say(&format!("PUBLISH c {megabyte}")), ":1");
    }
    drop(writer);
    let began = Instant::now();
    until("both have a connection behind them", || connections(&port) == 2);
    while connections(&port) > 0 {
        assert!(began.elapsed() < Duration::from_secs(90), "{} left", connections(&port));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(began.elapsed() > Duration::from_secs(50), "{:?}", began.elapsed());
}
