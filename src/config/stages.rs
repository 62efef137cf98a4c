//! The local Redis, the journal, how batches are written, and links.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::SecretString;
use serde::Deserialize;

use crate::net::Connector;
use crate::position::SiteName;

/// How to reach the local Redis.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `host:port`.
    pub addr: String,
    /// A user of that Redis; its default user when missing.
    #[serde(default)]
    pub username: Option<String>,
    /// Password; better in `password_file`.
    #[serde(default)]
    pub password: Option<SecretString>,
    /// File that holds the password, a line feed at its end is ignored.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Environment variable that holds the password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// Whether to speak TLS to it; its certificate must be for the host in `addr`.
    #[serde(default)]
    pub tls: bool,
    /// CAs that its certificate must come from, PEM; those of the system when missing.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The certificate that it is shown if it asks for one, PEM.
    #[serde(default)]
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate, PEM.
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
    /// What was read of these files; set by [`Config::load`](super::Config::load).
    #[serde(skip)]
    pub connector: Option<Arc<Connector>>,
}

/// When the journal's file is forced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    /// Before anyone is sent a unit.
    Always,
    /// Once a second.
    Everysec,
    /// When the system likes.
    No,
}

/// The journal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// Its directory.
    pub dir: PathBuf,
    /// Oldest units go when it is larger.
    pub max_size: ByteSize,
    /// When it is forced to disk.
    pub fsync: Fsync,
    /// How much of its recent part is kept in memory.
    pub cache: ByteSize,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("data"),
            max_size: ByteSize::gib(1),
            fsync: Fsync::Everysec,
            cache: ByteSize::mib(64),
        }
    }
}

/// How batches are written into the local Redis.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Apply {
    /// Most commands in a batch; a larger transaction is one batch all the same.
    pub batch_commands: usize,
    /// Most bytes in a batch, likewise.
    pub batch_bytes: ByteSize,
    /// Most batches that have not come back in the stream; then writers wait.
    pub max_pending: usize,
}

impl Default for Apply {
    fn default() -> Self {
        Self { batch_commands: 128, batch_bytes: ByteSize::kib(256), max_pending: 64 * 1024 }
    }
}

/// Time limits of links.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    /// A peer that says nothing for so long is given up and connected anew.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How often we say that we are there, and what we have seen.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Bytes of a peer's data that may wait to be applied; then the connection is not read on.
    pub queue: ByteSize,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(1),
            queue: ByteSize::mib(16),
        }
    }
}

/// Another site.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its name, as in its own configuration.
    pub site: SiteName,
    /// `host:port` of its sidecar.
    pub addr: String,
    /// A user of its sidecar with the role `peer` or `admin`.
    #[serde(default)]
    pub username: Option<String>,
    /// Password; better in `password_file`.
    #[serde(default)]
    pub password: Option<SecretString>,
    /// File that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Environment variable that holds the password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// Whether to speak TLS to it; its certificate must be for the host in `addr`.
    #[serde(default)]
    pub tls: bool,
    /// CAs that its certificate must come from, PEM; those of the system when missing.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The certificate that it is shown if it asks for one, PEM.
    #[serde(default)]
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate, PEM.
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
    /// What was read of these files; set by [`Config::load`](super::Config::load).
    #[serde(skip)]
    pub connector: Option<Arc<Connector>>,
}
