//! What people run beside the sidecar: `verify`, the command line, the demo's parts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is how a test fails"
)]

mod command_line;
mod demo;
mod server;
mod verify;
