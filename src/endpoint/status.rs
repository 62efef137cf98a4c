//! Who is at the port, in numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The numbers of the port, and of `[listen] local_addr` with it.
#[derive(Debug, Default)]
pub struct PortStatus {
    /// Connections that are served now, replicas and links among them.
    pub clients: AtomicU64,
    /// Connections turned away since the start.
    pub turned_away: AtomicU64,
    /// Wrong users and passwords since the start.
    pub login_failures: AtomicU64,
}

/// A client that counts until this is dropped.
pub(super) struct Present(Arc<PortStatus>);

impl Present {
    pub(super) fn new(status: &Arc<PortStatus>) -> Self {
        status.clients.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(status))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}
