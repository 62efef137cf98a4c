//! What people and machines can see of a running sidecar.

mod status;

pub use status::{
    FollowerStatus, LinkState, LinkStatus, Problem, Problems, Snapshot, SourceState, SourceStatus,
};
