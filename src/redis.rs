//! The connection to a Redis or Valkey server: as a client and as a replica.

mod connection;
mod replica;
mod server_info;
mod snapshot;

pub use connection::{Connection, RedisError, Target, error_code, is_passing, tune};
pub use replica::{Psync, ReplicaOptions, begin_psync};
pub use server_info::{Flavour, InfoText, ServerInfo, Version};
pub use snapshot::{SnapshotFraming, SnapshotPart};
