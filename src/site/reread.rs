//! What is read again at SIGHUP.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::Config;
use crate::observe::Problems;

/// Reads the files of TLS again whenever `reread` says so, until `stop`.
pub(super) async fn tls(
    config: Arc<Config>,
    problems: Arc<Problems>,
    reread: Arc<Notify>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = reread.notified() => {}
        }
        let done = config.reload_tls();
        if done.is_empty() {
            info!("asked to read certificates again, but nothing here speaks TLS");
        }
        for (place, done) in done {
            match done {
                Ok(valid_until) => {
                    let valid_until = valid_until.unwrap_or_else(|| "-".to_owned());
                    info!(%place, %valid_until, "read certificates and keys again, for connections from now on");
                }
                Err(reason) => {
                    error!(%place, %reason, "bad files for TLS, the old ones stay in force");
                    problems.add("tls", format!("{place} {reason}; the old files stay in force"));
                }
            }
        }
    }
}
