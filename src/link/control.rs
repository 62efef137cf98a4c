//! What a person tells a link while it runs.

use std::sync::Arc;

use tokio::sync::watch;

/// The switch of one link; shared with who gives the orders. A restart forgets it.
#[derive(Debug, Clone)]
pub struct Control(Arc<watch::Sender<bool>>);

impl Default for Control {
    /// Of a link that is not paused.
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Control {
    /// The link ends its session and begins no other until [`resume`](Self::resume). Whether that
    /// is new.
    pub fn pause(&self) -> bool {
        !self.0.send_replace(true)
    }

    /// The link goes on. Whether that is new.
    pub fn resume(&self) -> bool {
        self.0.send_replace(false)
    }

    /// Whether the link is paused, or about to be.
    pub fn is_paused(&self) -> bool {
        *self.0.borrow()
    }

    /// Link: waits until it is paused. Cancel safe.
    pub(super) async fn paused(&self) {
        self.wait_for(true).await;
    }

    /// Link: waits until it is not paused. Cancel safe.
    pub(super) async fn resumed(&self) {
        self.wait_for(false).await;
    }

    async fn wait_for(&self, paused: bool) {
        // The sender lives as long as this.
        let _ = self.0.subscribe().wait_for(|now| *now == paused).await;
    }
}
