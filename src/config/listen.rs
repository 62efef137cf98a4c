//! The ports, and who may use them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

use crate::net::Acceptor;
use crate::password::PasswordHash;

/// Where the sidecar listens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// RESP: peers, syncers, redis-cli.
    pub addr: String,
    /// The same port again, but what is written through it counts as local: for applications, and
    /// for syncers that read here and write a little of their own. Not served when missing.
    #[serde(default)]
    pub local_addr: Option<String>,
    /// HTTP: /metrics /healthz /readyz /status. Not served when missing.
    #[serde(default)]
    pub http: Option<String>,
    /// The version that `INFO` tells instead of the local Redis's own: some syncers refuse what
    /// they don't know.
    #[serde(default)]
    pub redis_version: Option<String>,
    /// Most connections on `addr` at once.
    #[serde(default = "default_max_connections")]
    pub max_connections: usize,
    /// A client that sends nothing for so long is closed, as by Redis's own `timeout`; zero: never.
    #[serde(default, with = "humantime_serde")]
    pub timeout: Duration,
    /// The certificate of `addr` and `local_addr`, with those between it and its CA, PEM. Plain
    /// text is spoken there when missing.
    #[serde(default)]
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate, PEM.
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
    /// CAs that clients' certificates must come from, PEM; clients need none when missing.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// What was read of these files; set by [`Config::load`](super::Config::load).
    #[serde(skip)]
    pub acceptor: Option<Arc<Acceptor>>,
}

impl Listen {
    /// Most connections at once, on all ports that clients come to.
    pub fn max_clients(&self) -> u64 {
        let ports = 1 + u64::from(self.local_addr.is_some());
        ports.saturating_mul(self.max_connections as u64)
    }
}

/// What a user may do; docs/security.md has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Links.
    Peer,
    /// Replication from us, and reads and writes.
    Syncer,
    /// Inspection only.
    Observer,
}

/// One user of the listen port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name; `default` is who sends `AUTH <password>` alone.
    pub name: String,
    /// Password, in one of four ways; this is the poorest.
    #[serde(default)]
    pub password: Option<SecretString>,
    /// File that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Environment variable that holds the password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// Hash of the password: what `redis-duplex hash-password` prints, or `sha256:` and 64 digits.
    #[serde(default)]
    pub password_hash: Option<PasswordHash>,
    /// What the user may do.
    pub role: Role,
}

fn default_max_connections() -> usize {
    1000
}
