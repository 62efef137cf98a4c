//! The program as people call it: help, errors, exit codes, signals.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::server::{Server, free_port};

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-duplex"));
    command.stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn run(args: &[&str]) -> Output {
    program().args(args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// The one line on stderr.
fn error(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(text.starts_with("error: ") && text.lines().count() == 1, "{text}");
    text
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Polls `condition`, at most ten seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < limit, "it never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal once the process listens for it; the mask is in /proc.
pub fn signal(child: &Child, name: &str, number: u32) {
    let status = format!("/proc/{}/status", child.id());
    eventually("the process listens for the signal", || {
        let text = std::fs::read_to_string(&status).unwrap();
        let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (number - 1)) != 0
    });
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn configuration(directory: &Path, more: &str) -> String {
    let path = directory.join("a.toml");
    let text = format!(
        "site = \"a\"\n{more}\n[redis]\naddr = \"127.0.0.1:{}\"\n[listen]\n\
         addr = \"127.0.0.1:{}\"\n[journal]\ndir = '{}'\n",
        free_port(),
        free_port(),
        directory.join("journal").display()
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_command_has_help_with_examples() {
    let help = run(&["--help"]);
    assert_eq!(code(&help), 0);
    for command in ["run", "check", "verify", "status", "demo"] {
        assert!(stdout(&help).contains(command), "{command}");
        let help = run(&[command, "--help"]);
        assert_eq!(code(&help), 0);
        let text = stdout(&help);
        assert!(text.contains("Examples:") && text.contains("Usage: "), "{text}");
    }
    let version = stdout(&run(&["--version"]));
    assert_eq!(version.trim(), concat!("redis-duplex ", env!("CARGO_PKG_VERSION")));
    assert_eq!(code(&run(&["nosuch"])), 2);
    assert_eq!(code(&run(&["verify", "127.0.0.1:1"])), 2);
    assert_eq!(code(&run(&["verify", "127.0.0.1", "127.0.0.1:2"])), 2);
}

#[test]
fn a_wrong_configuration_is_one_line_and_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), "nosuch = 1");
    let output = run(&["run", "-c", &path]);
    assert_eq!(code(&output), 2);
    assert!(error(&output).contains("a.toml:2: unknown field `nosuch`"));

    let output = run(&["run", "-c", "/nosuch/file.toml"]);
    assert_eq!(code(&output), 2);
    let text = error(&output);
    assert!(text.contains("can't read /nosuch/file.toml: No such file"), "{text}");
    assert_eq!(text.matches("No such file").count(), 1, "{text}");

    let path = configuration(directory.path(), "");
    let output = run(&["run", "-c", &path, "--log-level", "=="]);
    assert_eq!(code(&output), 2);
    assert!(error(&output).contains("--log-level \"==\" is no log filter"));
}

#[test]
fn a_signal_drains_and_exits_with_0() {
    for (name, number) in [("-TERM", 15), ("-INT", 2)] {
        let directory = tempfile::tempdir().unwrap();
        let path = configuration(directory.path(), "");
        let child = program()
            .args(["run", "-c", &path, "--log-format", "json"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        signal(&child, name, number);
        let output = child.wait_with_output().unwrap();
        let log = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(code(&output), 0, "{log}");
        for line in log.lines() {
            let _: serde_json::Value = serde_json::from_str(line).unwrap();
        }
        assert!(log.contains("\"message\":\"stopped\""), "{log}");
    }
}

#[test]
fn verify_exits_with_what_it_found() {
    let (mut a, b) = (Server::start(), Server::start_with(&["--requirepass", "secret"]));
    let compare = || {
        let mut command = program();
        command.args(["verify", &a.addr, &b.addr, "--pause", "1ms"]);
        command.env("REDIS_DUPLEX_PASSWORD_B", "secret").output().unwrap()
    };
    let output = compare();
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(stdout(&output).contains("result     equal\n"), "{}", stdout(&output));
    a.run("SET only-here 1");
    let compare = || {
        let mut command = program();
        command.args(["verify", &a.addr, &b.addr, "--pause", "1ms"]);
        command.env("REDIS_DUPLEX_PASSWORD_B", "secret").output().unwrap()
    };
    let output = compare();
    assert_eq!(code(&output), 1);
    let text = stdout(&output);
    assert!(text.contains("only at A  1\n") && text.contains("result     DIFFERENT\n"), "{text}");
    assert!(text.contains("  db 0 \"only-here\": only at A\n"), "{text}");

    let output = run(&["verify", &a.addr, &b.addr]);
    assert_eq!(code(&output), 2);
    assert!(error(&output).contains("NOAUTH"));
    let nobody = format!("127.0.0.1:{}", free_port());
    let output = run(&["verify", &a.addr, &nobody]);
    assert_eq!(code(&output), 2);
    assert!(error(&output).contains(&format!("can't connect to {nobody}")));
}

#[test]
fn status_knows_a_plain_redis() {
    let server = Server::start();
    let output = run(&["status", &server.addr]);
    assert_eq!(code(&output), 1);
    assert!(error(&output).contains("is a Redis but no sidecar"));
}

#[test]
fn a_demo_without_a_server_says_what_to_do() {
    let output = run(&["demo", "--redis-server", "/nosuch/redis-server"]);
    assert_eq!(code(&output), 1);
    assert!(error(&output).contains("--redis-server /nosuch/redis-server: there is no such file"));
    let output = program().arg("demo").env("PATH", "/nosuch").output().unwrap();
    assert_eq!(code(&output), 1);
    assert!(error(&output).contains("redis-server is not on the PATH: install it"));
}

#[test]
fn an_interrupted_prompt_leaves_the_terminal_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let typescript = directory.path().join("typescript");
    let shown = || std::fs::read_to_string(&typescript).unwrap_or_default();
    let commands =
        format!("trap : INT; {} hash-password; stty -a", env!("CARGO_BIN_EXE_redis-duplex"));
    // It gives the program a terminal.
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--command", &commands]).arg(&typescript);
    let started = script.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let Ok(mut script) = started else {
        println!("SKIPPED: there is no `script` here");
        return;
    };
    let mut keys = script.stdin.take().unwrap();
    eventually("the prompt", || shown().contains("Password: "));
    // Ctrl-C.
    keys.write_all(b"\x03").unwrap();
    eventually("the terminal's settings", || shown().contains(" echo") && shown().contains("isig"));
    assert!(!shown().contains(" -echo "), "{}", shown());
    drop(keys);
    script.wait().unwrap();
}
