//! Logs: to stderr, as text or JSON.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, anyhow};
use tracing_subscriber::EnvFilter;

use super::{Cli, Command, Failure, LogFormat};

/// Starts logging for the whole process. `--log-level` beats RUST_LOG; the default is `info`, and
/// `warn` for the commands that talk to a person.
pub fn start_telemetry(cli: &Cli) -> Result<(), Failure> {
    let default = if matches!(cli.command, Command::Run(_)) { "info" } else { "warn" };
    let from_environment = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|t| !t.is_empty());
    let (name, text) = match (&cli.log_level, from_environment) {
        (Some(level), _) => ("--log-level", level.clone()),
        (None, Some(text)) => (EnvFilter::DEFAULT_ENV, text),
        (None, None) => ("", default.to_owned()),
    };
    let filter = EnvFilter::try_new(&text)
        .with_context(|| format!("{name} {text:?} is no log filter; write e.g. debug"))
        .map_err(|error| Failure::new(2, error))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal());
    let started = match cli.log_format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::from(anyhow!("can't start logging: {error}")))
}
