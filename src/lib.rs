//! Two-way synchronization of two stock Redis servers, by a sidecar beside each.

pub mod cli;
pub mod clock;
pub mod config;
pub mod journal;
pub mod observe;
pub mod position;
pub mod rdb;
pub mod redis;
pub mod resp;
pub mod site;
pub mod verify;
pub mod write_off;
