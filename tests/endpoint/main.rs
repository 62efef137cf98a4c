//! The RESP port in front of a real Redis: what clients see is what that Redis would say, and what
//! they write carries a mark.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is how a test fails")]

mod limits;
mod random;
mod roles;
mod rules;
mod server;
mod stream;
