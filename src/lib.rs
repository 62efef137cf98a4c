//! Two-way synchronization of two stock Redis servers, by a sidecar beside each.

pub mod apply;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod conflict;
pub mod endpoint;
pub mod feed;
pub mod frame;
pub mod journal;
pub mod link;
pub mod observe;
pub mod pairing;
pub mod position;
pub mod rdb;
pub mod redis;
pub mod resp;
pub mod site;
pub mod source;
pub mod verify;
pub mod write_off;
