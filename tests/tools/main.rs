//! What people run beside the sidecar: `verify`, the command line, the demo's parts.

mod server;
mod verify;
