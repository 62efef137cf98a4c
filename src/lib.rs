//! x
pub mod rdb;
