//! The connection to a Redis or Valkey server: as a client and as a replica.

mod backlog_cover;
mod connection;
mod replica;
mod server_info;
mod snapshot;

pub use backlog_cover::{LEAST_COVER, advised_backlog_mib, backlog_cover};
pub use connection::{Connection, RedisError, Target, error_code, is_passing};
pub use replica::{Psync, ReplicaOptions, begin_psync};
pub use server_info::{Flavour, InfoText, ServerInfo, Version, info};
pub use snapshot::{SnapshotFraming, SnapshotPart};
