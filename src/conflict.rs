//! Which keys local clients wrote that a peer has not seen yet.
//!
//! What comes from the peer about such a key does not know of that write. A snapshot entry must
//! not replace it: the write is on its way to the peer, and both sides end with it.

mod keys;
mod unseen;

pub use keys::KeyTable;
pub use unseen::Unseen;
