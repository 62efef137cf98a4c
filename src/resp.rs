//! The wire format of Redis: scanning of commands, requests and replies, and writing.
//!
//! What comes from a stream or from clients is scanned by our own code, in place: ranges into the
//! buffer, every length checked, state kept between reads so that nothing is scanned twice.

mod reply;
mod request;
mod scan;
mod write;

pub use reply::{ReplyScanner, elements};
pub use request::{Request, RequestError, RequestParser};
pub use scan::{Command, Limits, ScanError, Scanner};
pub use write::{put_array, put_bulk, put_command, put_error, put_integer, put_simple};
