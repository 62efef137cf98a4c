//! Writing of a peer's units into the local Redis: marked batches, exactly once, in order.
//!
//! One batch executes while the next one is already queued behind its MULTI; its EXEC is sent when
//! the reply of the one before is a success. So the local Redis never idles, and a batch that is
//! refused (out of memory, read-only) can't be overtaken by a later one.

mod applier;
mod batch;
mod checkpoint;
mod entries;
mod pipeline;
mod verdict;

pub use applier::Applier;
pub use batch::{Item, Kind};
pub use checkpoint::{clear_foreign_checkpoint, read_checkpoints, take_over};
pub(crate) use pipeline::Pipeline;
pub use pipeline::{ApplyError, ApplySetup};
