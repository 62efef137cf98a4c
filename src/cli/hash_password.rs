//! `redis-duplex hash-password`.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin, stdout};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use super::Failure;
use crate::password::PasswordHash;

/// What shells call the end by SIGINT: 128 and its number.
const INTERRUPTED: u8 = 130;

/// Arguments of `hash-password`.
#[derive(Debug, Args)]
pub struct HashPassword {
    /// Print sha256:.. instead of argon2id: quick to compare, and only for long random passwords
    #[arg(long)]
    sha256: bool,
}

impl HashPassword {
    pub(super) async fn execute(&self) -> Result<ExitCode, Failure> {
        let Some(password) = read_password().await? else {
            return Ok(ExitCode::from(INTERRUPTED));
        };
        let bytes = password.expose_secret().as_bytes();
        let hash = if self.sha256 {
            PasswordHash::sha256(bytes)
        } else {
            PasswordHash::argon2(bytes).context("argon2")?
        };
        writeln!(stdout(), "{}", hash.to_text()).context("stdout")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// One line of stdin, without its end; at a terminal it is asked for and not shown. None when that
/// is interrupted.
async fn read_password() -> anyhow::Result<Option<SecretString>> {
    let input = stdin();
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let before = if input.is_terminal() {
        let before = tcgetattr(&input).context("the terminal")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        write!(stderr(), "Password: ").context("stderr")?;
        tcsetattr(&input, OptionalActions::Flush, &silent).context("the terminal")?;
        Some(before)
    } else {
        None
    };
    let reading = spawn_blocking(|| {
        let mut line = String::new();
        stdin().lock().read_line(&mut line).map(|_| line)
    });
    let read = tokio::select! {
        read = reading => Some(read.context("can't read the password")?),
        _ = interrupt.recv() => None,
    };
    if let Some(before) = before {
        tcsetattr(&input, OptionalActions::Now, &before).context("the terminal")?;
        writeln!(stderr()).context("stderr")?;
    }
    let Some(read) = read else { return Ok(None) };
    let line = read.context("can't read the password")?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("the password is empty");
    }
    Ok(Some(password.into()))
}
