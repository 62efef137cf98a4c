//! What existing syncers and replicas do, byte for byte, against real servers and real sidecars.
//!
//! The syncers here are scripts of what those programs send and of what they can take, not the
//! programs themselves; `redis-cli` and `redis-server` are the real ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests stand outside #[test] functions, and a panic is how a test fails"
)]

mod following;
mod replicas;
mod sources;
#[allow(dead_code, reason = "shared with the integration tests, which use more of it")]
mod support;
mod syncer;
mod targets;
mod two_way;
mod wire;
