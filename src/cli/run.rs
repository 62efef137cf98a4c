//! `redis-duplex run`.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Failure;
use super::signals::Signals;
use crate::config::Config;

/// How long draining may take; longer than any batch in flight, shorter than the 90 s after which
/// systemd kills.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The configuration, TOML; see conf/redis-duplex.toml
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

impl Run {
    pub(super) async fn execute(self) -> Result<ExitCode, Failure> {
        let config = Config::load(&self.config).map_err(|error| Failure::new(2, error))?;
        let mut signals = Signals::new()?;
        let stop = CancellationToken::new();
        let reread = Arc::new(Notify::new());
        let mut site = pin!(crate::site::run(config, stop.clone(), reread.clone()));
        let again = || reread.notify_one();
        tokio::select! {
            ended = &mut site => return finished(ended),
            signal = signals.next_end(again) => {
                info!(signal, limit = ?DRAIN_LIMIT, "draining, a second signal exits at once");
                stop.cancel();
            }
        }
        tokio::select! {
            ended = &mut site => finished(ended),
            signal = signals.next_end(again) => {
                warn!(signal, "exiting without draining");
                Ok(ExitCode::FAILURE)
            }
            () = tokio::time::sleep(DRAIN_LIMIT) => {
                error!(limit = ?DRAIN_LIMIT, "draining took too long");
                Err(Failure::from(anyhow!("draining took longer than {DRAIN_LIMIT:?}")))
            }
        }
    }
}

fn finished(ended: anyhow::Result<()>) -> Result<ExitCode, Failure> {
    ended?;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}
