//! What people and machines can see of a running sidecar.

pub(crate) mod board;
mod commands;
mod http;
mod http_limits;
mod info;
mod metrics;
mod reading;
mod status;
pub mod text;

pub use board::Board;
pub use commands::{UnknownCommand, duplex};
pub use http::serve;
pub use info::info_duplex;
pub use metrics::Metrics;
pub use reading::{
    FollowerReading, JournalReading, LinkReading, PortReading, Reading, SnapshotReading,
    SourceReading, WriteOffReading,
};
pub use status::{
    FollowerStatus, LinkState, LinkStatus, Problem, Problems, Snapshot, SourceState, SourceStatus,
};
