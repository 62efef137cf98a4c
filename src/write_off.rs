//! What we write into the local Redis, recognised when it comes back in the replication stream.
//!
//! A batch carries a mark, the mark carries a tag, the tag stands in the write-off set from before
//! the batch is sent until its mark is seen. The filter is pure: stream in, local units out.

mod filter;
mod mark;
mod set;

pub use filter::{Filter, Verdict, Words};
pub use mark::{
    CHECKPOINT_KEY, Mark, Tag, checkpoint_fields, checkpoint_of, is_checkpoint_write, put_probe,
};
pub use set::{KeyRead, Origin, Settled, WriteOffSet, WriteOffStatus};
