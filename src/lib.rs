//! Two-way synchronization of two stock Redis servers, by a sidecar beside each.

pub mod clock;
pub mod config;
pub mod position;
pub mod redis;
pub mod resp;
