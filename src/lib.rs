//! Two-way synchronization of two stock Redis servers, by a sidecar beside each.

pub mod clock;
pub mod config;
pub mod endpoint;
pub mod journal;
pub mod observe;
pub mod position;
pub mod rdb;
pub mod redis;
pub mod resp;
pub mod write_off;
