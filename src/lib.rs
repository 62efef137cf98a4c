//! Two-way synchronization of two stock Redis servers, by a sidecar beside each.
//!
//! A local write goes down this list on its way out, a peer's write up it on its way in:
//!
//! | module | what happens there |
//! | --- | --- |
//! | [`source`] | the replication stream of the local Redis is read, as its replica |
//! | [`write_off`] | what we wrote ourselves is recognised in it and dropped |
//! | [`journal`] | the rest, the site's own history, is kept in order |
//! | [`feed`] | it is served to peers, replicas and syncers |
//! | [`link`] | a peer's feed is pulled, over [`frame`]s |
//! | [`conflict`] | what both sites wrote at once is found, and decided |
//! | [`repair`] | the primary reads such keys, to send its word on them |
//! | [`apply`] | it is written into the local Redis, in marked batches |
//! | [`endpoint`] | clients and syncers write and look through the one port |
//!
//! Below: [`resp`] and [`rdb`] are the formats, [`net`] connections, [`redis`] those to a server,
//! [`position`], [`clock`] and [`backoff`] plain values, [`password`] hashes of passwords;
//! [`pairing`] is what the two directions between two sites know of each other, [`backlog`] how a peer
//! gets what the journal lacks. Above: [`config`], [`observe`], [`check`], [`verify`], [`cli`], and
//! [`site`], the one place that knows all stages.

pub mod apply;
pub mod backlog;
pub mod backoff;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod conflict;
pub mod endpoint;
pub mod feed;
pub mod frame;
pub mod journal;
pub mod link;
pub mod net;
pub mod observe;
pub mod pairing;
pub mod password;
pub mod position;
pub mod rdb;
pub mod redis;
pub mod repair;
pub mod resp;
#[cfg(test)]
mod simulation;
pub mod site;
pub mod source;
pub mod verify;
pub mod write_off;
