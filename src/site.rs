//! Wires the stages of one site together.

use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Runs the sidecar until `stop` is cancelled and what was begun is finished.
pub async fn run(_config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    stop.cancelled().await;
    Ok(())
}
