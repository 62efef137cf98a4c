//! A tag that is out: it is given up unless its batch was done.

use std::sync::Arc;

use crate::position::SiteName;
use crate::write_off::{Mark, Origin, Tag, WriteOffSet};

/// An issued tag. Dropping it gives the tag up: a mark that comes all the same is still an echo.
#[derive(Debug)]
pub(super) struct OpenTag {
    set: Arc<WriteOffSet>,
    tag: Option<Tag>,
}

impl OpenTag {
    /// A new tag and the bytes of its mark. Waits while too many tags are out.
    pub(super) async fn issue(set: &Arc<WriteOffSet>, site: &SiteName) -> (Self, Vec<u8>) {
        let tag = set.issue(Origin::Endpoint).await;
        let mut mark = Vec::with_capacity(128);
        Mark { site: site.clone(), tag, checkpoint: None }.put(&mut mark);
        (Self { set: Arc::clone(set), tag: Some(tag) }, mark)
    }

    /// The batch was done: its mark is on its way.
    pub(super) fn done(mut self) {
        self.tag = None;
    }
}

impl Drop for OpenTag {
    fn drop(&mut self) {
        if let Some(tag) = self.tag.take() {
            self.set.give_up(tag);
        }
    }
}
