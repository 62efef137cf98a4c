//! This machine: room for the journal, and the addresses that the sidecar listens on.

use std::io;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, lookup_host};
use tokio::time::timeout;

use super::{List, STEP_LIMIT, open, within};
use crate::config::Config;
use crate::observe::text::bytes;
use crate::redis::{Target, info};

pub(super) async fn check(config: &Config, list: &mut List<'_>) {
    journal(config, list);
    let ours = is_running(config).await;
    listen("listen.addr", &config.listen.addr, ours, list).await;
    if let Some(http) = &config.listen.http {
        listen("listen.http", http, ours, list).await;
    }
    if config.users.is_empty() && !config.peers.is_empty() {
        let local = lookup_host(&config.listen.addr).await;
        if local.is_ok_and(|mut addrs| addrs.any(|addr| !addr.ip().is_loopback())) {
            let found = "none: only this machine may connect, so no peer can";
            list.fail(
                "users",
                found,
                "add a [[user]] with a password, and name it in the peer's [[peer]]",
            );
        }
    }
}

fn journal(config: &Config, list: &mut List<'_>) {
    let subject = "journal.dir";
    let dir = &config.journal.dir;
    // A new journal's directory is made at the start, with its parents.
    let there = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
    let there =
        there.ancestors().find(|path| path.exists()).map_or_else(PathBuf::new, Path::to_owned);
    let shown = dir.display();
    if let Err(error) = tempfile::tempfile_in(&there) {
        let found = format!("{shown} can't be written: {error}");
        return list.fail(subject, found, "let the sidecar's user own it, or set [journal] dir");
    }
    let free = match rustix::fs::statvfs(&there) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(error) => {
            return list.warn(subject, format!("{shown}: {error}"), "see that its disk has room");
        }
    };
    let (taken, wanted) = (size_of(dir), config.journal.max_size.as_u64());
    let text = format!(
        "{shown}: {} free, the journal takes {} of at most {}",
        bytes(free),
        bytes(taken),
        bytes(wanted)
    );
    if free.saturating_add(taken) < wanted {
        let remedy = "make room or lower [journal] max_size: when the disk is full, local writes \
                      wait in Redis's backlog and no further";
        list.warn(subject, text, remedy);
    } else {
        list.ok(subject, text);
    }
}

fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|meta| meta.len()).sum()
}

/// Whether the sidecar of this configuration runs already.
async fn is_running(config: &Config) -> bool {
    if let Some(acceptor) = &config.listen.acceptor {
        // It may ask for a client certificate, which this machine need not have.
        let looked = timeout(STEP_LIMIT, acceptor.is_served_at(&config.listen.addr)).await;
        return looked.unwrap_or(false);
    }
    let user = config.users.first();
    let target = Target {
        username: user.map(|user| user.name.clone()),
        password: user.and_then(|user| user.password.clone()),
        ..Target::open(&config.listen.addr)
    };
    let Ok(mut connection) = open(&target).await else { return false };
    let asked = within(&target.addr, info(&mut connection, "duplex")).await;
    asked.is_ok_and(|info| info.get("site") == config.site.as_str())
}

async fn listen(subject: &'static str, addr: &str, ours: bool, list: &mut List<'_>) {
    match TcpListener::bind(addr).await {
        Ok(_) => list.ok(subject, format!("{addr} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && ours => {
            list.ok(subject, format!("{addr}: this site's sidecar runs there"));
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let found = format!("{addr}: somebody else listens there");
            list.fail(subject, found, "stop it or choose another address");
        }
        Err(error) => {
            let remedy = "name an address of this machine, or 0.0.0.0 for all";
            list.fail(subject, format!("{addr}: {error}"), remedy);
        }
    }
}
