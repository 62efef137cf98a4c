//! Tests that run real Redis servers and our real binary, as one crate so that it links once.
//!
//! `REDIS_DUPLEX_TEST_SERVER` names the server binary to test with; `./dev matrix` sets it to one
//! version after the other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests stand outside #[test] functions, and a panic is how a test fails"
)]

mod backlog;
mod check;
mod commuting;
mod conflicts;
mod every_command;
mod facts;
mod failover;
mod followers;
mod hostile_peer;
mod journal_disk;
mod local_redis;
mod memory;
mod networks;
mod no_loop;
mod orders;
mod pressure;
mod refusals;
mod restarts;
mod sidecar_works;
mod starts_wrong;
mod support;
mod support_works;
mod sync_under_load;
mod tls;
