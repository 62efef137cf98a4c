//! `redis-duplex hash-password`.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin, stdout};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};

use super::Failure;
use crate::password::PasswordHash;

/// Arguments of `hash-password`.
#[derive(Debug, Args)]
pub struct HashPassword {
    /// Print sha256:.. instead of argon2id: quick to compare, and only for long random passwords
    #[arg(long)]
    sha256: bool,
}

impl HashPassword {
    pub(super) fn execute(&self) -> Result<ExitCode, Failure> {
        let password = read_password()?;
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

/// One line of stdin, without its end; at a terminal it is asked for and not shown.
fn read_password() -> anyhow::Result<SecretString> {
    let input = stdin();
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
    let mut line = String::new();
    let read = input.lock().read_line(&mut line);
    if let Some(before) = before {
        tcsetattr(&input, OptionalActions::Now, &before).context("the terminal")?;
        writeln!(stderr()).context("stderr")?;
    }
    read.context("can't read the password")?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("the password is empty");
    }
    Ok(password.into())
}
