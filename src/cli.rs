//! The command line.

mod check;
pub mod demo;
mod hash_password;
mod run;
mod screen;
mod signals;
mod status;
mod telemetry;
mod tls;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

pub use telemetry::start_telemetry;

/// Two-way synchronization of two stock Redis servers, by a sidecar beside each.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "\
Try it on this machine:  redis-duplex demo
For one command:         redis-duplex help run"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What to log: error, warn, info, debug, or a filter such as `info,redis_duplex::link=debug`
    /// [default: RUST_LOG, else info]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How to log
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the sidecar of one site until SIGTERM or Ctrl-C
    ///
    /// The first signal drains: what was begun is finished, then it exits with 0. The second exits
    /// at once with 1. SIGHUP reads the files of TLS again. Exit code 2: the configuration is wrong.
    #[command(after_help = "\
Examples:
  redis-duplex run -c /etc/redis-duplex.toml
  REDIS_DUPLEX__REDIS__ADDR=10.0.0.1:6379 redis-duplex run -c a.toml --log-format json")]
    Run(run::Run),
    /// Check both ends before a start, and say what to fix
    ///
    /// Looks at the local Redis, this machine and each peer's sidecar; changes nothing, and may run
    /// beside a sidecar. One line each: ok, warn or FAIL, what was found, what to do. Takes some
    /// seconds. Exit code 0: it will work, maybe with warnings. 1: something fails. 2: the
    /// configuration is wrong.
    #[command(after_help = "\
Examples:
  redis-duplex check -c /etc/redis-duplex.toml")]
    Check(check::Check),
    /// Compare two Redis servers key by key: type, value, TTL, streams' groups, functions
    ///
    /// Reads both servers and changes nothing; they may be in use. Keys that differ are looked at
    /// again before they count, since data moves. Exit code 0: equal, 1: different, 2: error.
    #[command(after_help = "\
Examples:
  redis-duplex verify 127.0.0.1:6379 10.0.0.2:6379
  REDIS_DUPLEX_PASSWORD_A=x REDIS_DUPLEX_PASSWORD_B=y redis-duplex verify a:6379 b:6379
  redis-duplex verify a:6379 b:6379 --rounds 10 --pause 2s --show 100
  redis-duplex verify a:6379 b:6379 --tls-a --tls-b --ca-file ca.crt")]
    Verify(verify::Verify),
    /// Show what a sidecar's `INFO duplex` says, for people
    #[command(after_help = "\
Examples:
  redis-duplex status 127.0.0.1:6380
  redis-duplex status -w 127.0.0.1:6380
  redis-duplex status --tls --ca-file ca.crt a.example:6380")]
    Status(status::Status),
    /// Print the hash of a password, for `password_hash` in the configuration
    ///
    /// Reads the password from the terminal, without showing it, or one line from stdin.
    #[command(after_help = "\
Examples:
  redis-duplex hash-password
  openssl rand -hex 32 | tee secret | redis-duplex hash-password --sha256")]
    HashPassword(hash_password::HashPassword),
    /// Show it at work: two Redis, two sidecars, writes on both sides, and the proof that all is right
    ///
    /// Everything runs on this machine, on free ports and in a temporary directory; nothing is left
    /// behind. Needs a `redis-server`. Exit code 0 only when everything was proven.
    #[command(after_help = "\
Examples:
  redis-duplex demo
  redis-duplex demo --seconds 30 --rate 10000
  redis-duplex demo --redis-server /opt/valkey/bin/valkey-server")]
    Demo(demo::Demo),
}

/// Runs the command.
pub async fn execute(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Run(run) => run.execute().await,
        Command::Check(check) => check.execute().await,
        Command::Verify(verify) => verify.execute().await,
        Command::Status(status) => status.execute().await,
        Command::HashPassword(hash_password) => hash_password.execute().await,
        Command::Demo(demo) => demo.execute().await,
    }
}

/// Why a command failed, and the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }

    /// The exit code.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    /// Prints `error: ` and the chain of causes as one line on stderr.
    pub fn print(&self) {
        let mut chain: Vec<String> = Vec::new();
        for cause in self.error.chain() {
            let text = cause.to_string().replace(['\r', '\n'], " ");
            // Many errors tell their cause in their own text.
            if !chain.last().is_some_and(|last| last.contains(&text)) {
                chain.push(text);
            }
        }
        // Nobody is left to tell when stderr is closed.
        let _ = writeln!(std::io::stderr(), "error: {}", chain.join(": "));
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { code: 1, error }
    }
}

/// `host:port`, as clap checks it.
fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("write host:port, e.g. 127.0.0.1:6379".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_make_sense() {
        Cli::command().debug_assert();
        assert!(address("127.0.0.1:6379").is_ok() && address("[::1]:6379").is_ok());
        for wrong in ["6379", ":6379", "host", "host:", "host:70000"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
