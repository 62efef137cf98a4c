//! The configuration: one TOML file, every scalar overridable by the environment.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::position::SiteName;

/// Prefix of the environment variables that override the file: `REDIS_DUPLEX__REDIS__ADDR`.
const ENVIRONMENT_PREFIX: &str = "REDIS_DUPLEX__";

/// Why a configuration can't be used. Every message names the file and, where there is one, the line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file or a file it names can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a value of the wrong kind.
    #[error("{}{line}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// `:<line>` or nothing.
        line: String,
        /// What is wrong.
        message: String,
    },
    /// An environment variable that fits no key.
    #[error("environment variable {name}: {message}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// Values that don't fit each other.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
}

/// The whole configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This site's name.
    pub site: SiteName,
    /// The local Redis.
    pub redis: Redis,
    /// Where we listen.
    pub listen: Listen,
    /// Who may connect; none means only loopback (protected mode).
    #[serde(default, rename = "user")]
    pub users: Vec<User>,
    /// The journal.
    #[serde(default)]
    pub journal: Journal,
    /// How batches are written.
    #[serde(default)]
    pub apply: Apply,
    /// Time limits of links.
    #[serde(default)]
    pub link: Link,
    /// The other sites.
    #[serde(default, rename = "peer")]
    pub peers: Vec<Peer>,
    /// Conflicts.
    #[serde(default)]
    pub conflict: Conflict,
    /// What is not synchronized.
    #[serde(default)]
    pub filter: Filter,
}

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
}

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
}

/// What a user may do.
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
    /// Password; better in `password_file`.
    #[serde(default)]
    pub password: Option<SecretString>,
    /// File that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// What the user may do.
    pub role: Role,
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

/// Least sensible `link.queue`: some batches.
const LEAST_QUEUE: ByteSize = ByteSize::mib(1);
/// Most: what is larger is no bound.
const MOST_QUEUE: ByteSize = ByteSize::gib(2);
/// Most sensible `apply.max_pending`: each takes about 150 bytes.
const MOST_PENDING: usize = 16 << 20;

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
}

/// Conflicts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conflict {
    /// The site whose order decides; the same at every site.
    pub primary: Option<SiteName>,
    /// What is done about them.
    pub policy: Policy,
    /// Keys written here and not yet seen by a peer that are remembered; with more, what the peer
    /// sends conflicts with everything.
    pub max_keys: usize,
    /// A peer's clock is believed to be ahead by this much at most.
    #[serde(with = "humantime_serde")]
    pub max_clock_drift: Duration,
}

impl Default for Conflict {
    fn default() -> Self {
        Self {
            primary: None,
            policy: Policy::default(),
            max_keys: 1_000_000,
            max_clock_drift: Duration::from_mins(1),
        }
    }
}

/// What happens to a peer's FLUSHALL or FLUSHDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flush {
    /// Done here too.
    Forward,
    /// Not done here.
    Drop,
    /// The link stops until a person decides.
    #[default]
    Stop,
}

/// What is done when both sites wrote the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Both sites end the same.
    #[default]
    Converge,
    /// It is found and told, nothing is done.
    Report,
    /// It is not looked for.
    Off,
}

/// What is not synchronized.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// FLUSHALL/FLUSHDB from a peer.
    pub flush: Flush,
}

fn default_max_connections() -> usize {
    1000
}

impl Config {
    /// Reads the file, the environment and the password files, and checks the whole.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let variables = std::env::vars().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX));
        Self::parse(path, &text, variables)
    }

    fn parse(
        path: &Path,
        text: &str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let variables: Vec<_> = variables.collect();
        let mut config: Self = if variables.is_empty() {
            toml::from_str(text).map_err(|error| parse_error(path, text, &error))?
        } else {
            let mut table: toml::Table =
                toml::from_str(text).map_err(|error| parse_error(path, text, &error))?;
            overlay(&mut table, &variables)?;
            table.try_into().map_err(|error: toml::de::Error| {
                let names: Vec<_> = variables.iter().map(|(name, _)| name.as_str()).collect();
                ConfigError::Environment {
                    name: names.join(", "),
                    message: format!("with {}: {}", path.display(), error.message()),
                }
            })?
        };
        config.read_passwords()?;
        config
            .check()
            .map_err(|message| ConfigError::Invalid { path: path.to_owned(), message })?;
        Ok(config)
    }

    fn read_passwords(&mut self) -> Result<(), ConfigError> {
        read_password(&mut self.redis.password, self.redis.password_file.as_deref())?;
        for peer in &mut self.peers {
            read_password(&mut peer.password, peer.password_file.as_deref())?;
        }
        for user in &mut self.users {
            read_password(&mut user.password, user.password_file.as_deref())?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let mut sites = HashSet::from([&self.site]);
        for peer in &self.peers {
            if !sites.insert(&peer.site) {
                return Err(format!(
                    "two sites are named \"{}\": give each [[peer]] the `site` of its own \
                     configuration, and this site another name than its peers",
                    peer.site
                ));
            }
        }
        match &self.conflict.primary {
            None if !self.peers.is_empty() => {
                return Err(format!(
                    "[conflict] primary is missing: name the site whose data wins where both \
                     sites have a key, the same at every site, e.g. primary = \"{}\"",
                    self.site
                ));
            }
            Some(primary) if !sites.contains(primary) => {
                return Err(format!(
                    "[conflict] primary = \"{primary}\" is neither this site nor a [[peer]]"
                ));
            }
            _ => {}
        }
        let mut names = HashSet::new();
        for user in &self.users {
            if !names.insert(&user.name) {
                return Err(format!("two [[user]] entries are named \"{}\"", user.name));
            }
            if user.password.as_ref().is_none_or(|p| p.expose_secret().is_empty()) {
                return Err(format!(
                    "[[user]] \"{}\" has no password: set `password` or `password_file`",
                    user.name
                ));
            }
        }
        if self.apply.batch_commands == 0 || self.apply.batch_bytes.as_u64() == 0 {
            return Err("[apply] batch_commands and batch_bytes must be at least 1".to_owned());
        }
        if self.apply.max_pending == 0 || self.apply.max_pending > MOST_PENDING {
            return Err(format!("[apply] max_pending must be from 1 to {MOST_PENDING}"));
        }
        if self.link.queue < LEAST_QUEUE || self.link.queue > MOST_QUEUE {
            return Err(format!("[link] queue must be from {LEAST_QUEUE} to {MOST_QUEUE}"));
        }
        if self.link.heartbeat.is_zero() || self.link.timeout < self.link.heartbeat * 2 {
            return Err("[link] timeout must be at least twice link.heartbeat".to_owned());
        }
        Ok(())
    }
}

fn parse_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    // Not `error.to_string()`: it shows the source line, which may hold a password.
    let line = error.span().map_or_else(String::new, |span| {
        format!(":{}", text[..span.start.min(text.len())].matches('\n').count() + 1)
    });
    ConfigError::Parse { path: path.to_owned(), line, message: error.message().to_owned() }
}

fn overlay(table: &mut toml::Table, variables: &[(String, String)]) -> Result<(), ConfigError> {
    for (name, value) in variables {
        let wrong = |message: &str| ConfigError::Environment {
            name: name.clone(),
            message: message.to_owned(),
        };
        let path = name[ENVIRONMENT_PREFIX.len()..].to_ascii_lowercase();
        let mut keys: Vec<&str> = path.split("__").collect();
        let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(|| {
            wrong("names no key; write e.g. REDIS_DUPLEX__REDIS__ADDR for [redis] addr")
        })?;
        let mut place = &mut *table;
        for key in keys {
            place = place
                .entry(key)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                .as_table_mut()
                .ok_or_else(|| wrong("only scalars outside [[user]] and [[peer]] can be set"))?;
        }
        // A number or boolean where it reads as one and the file has no text there.
        let text_there = place.get(last).is_some_and(toml::Value::is_str);
        let parsed = match (value.parse::<i64>(), value.parse::<bool>()) {
            (Ok(number), _) if !text_there && last != "password" => toml::Value::Integer(number),
            (_, Ok(flag)) if !text_there && last != "password" => toml::Value::Boolean(flag),
            _ => toml::Value::String(value.clone()),
        };
        place.insert(last.to_owned(), parsed);
    }
    Ok(())
}

fn read_password(
    password: &mut Option<SecretString>,
    file: Option<&Path>,
) -> Result<(), ConfigError> {
    let Some(path) = file else { return Ok(()) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    *password = Some(text.trim_end_matches(['\r', '\n']).into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "site = \"a\"\n[redis]\naddr = \"127.0.0.1:6379\"\n[listen]\n\
                        addr = \"127.0.0.1:6380\"\n";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("x.toml"), text, std::iter::empty()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_commented_example_is_valid_and_every_key_in_it_is_known() {
        let text = include_str!("../conf/redis-duplex.toml");
        parse(text).unwrap();
        // Every commented key, switched on, is known too.
        let all: String = text
            .lines()
            .filter(|line| !line.contains("password_file"))
            .map(|line| match line.strip_prefix("# ") {
                Some(rest)
                    if rest.starts_with('[')
                        || rest.split_once(" = ").is_some_and(|(k, _)| {
                            k.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
                        }) =>
                {
                    rest
                }
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n");
        parse(&all).unwrap();
    }

    #[test]
    fn errors_name_the_line_and_the_key_and_hide_passwords() {
        let error = parse(&format!("{GOOD}nosuch = 1\n")).unwrap_err();
        assert!(error.starts_with("x.toml:6: unknown field `nosuch`"), "{error}");
        let error =
            parse(&format!("{GOOD}[[user]]\nname = \"x\"\nrole = \"admin\"\npassword = 77123\n"))
                .unwrap_err();
        assert!(error.starts_with("x.toml:") && error.contains("string"), "{error}");
        assert!(!error.contains("site ="), "{error}");
    }

    #[test]
    fn what_does_not_fit_together_is_told() {
        let peer = |site: &str| format!("{GOOD}[[peer]]\nsite = \"{site}\"\naddr = \"h:1\"\n");
        assert!(parse(&peer("b")).unwrap_err().contains("primary is missing"));
        assert!(parse(&peer("a")).unwrap_err().contains("two sites are named \"a\""));
        let stranger = format!("{}[conflict]\nprimary = \"c\"\n", peer("b"));
        assert!(parse(&stranger).unwrap_err().contains("neither this site nor a [[peer]]"));
        assert!(parse(&format!("{}[conflict]\nprimary = \"b\"\n", peer("b"))).is_ok());
        let user = format!("{GOOD}[[user]]\nname = \"x\"\nrole = \"admin\"\n");
        assert!(parse(&user).unwrap_err().contains("has no password"));
    }

    #[test]
    fn the_environment_overrides_scalars() {
        let set = |pairs: &[(&str, &str)]| {
            let variables: Vec<_> =
                pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            Config::parse(Path::new("x.toml"), GOOD, variables.into_iter())
        };
        let config = set(&[
            ("REDIS_DUPLEX__REDIS__ADDR", "other:1"),
            ("REDIS_DUPLEX__APPLY__BATCH_COMMANDS", "7"),
            ("REDIS_DUPLEX__REDIS__PASSWORD", "123"),
        ])
        .unwrap();
        assert_eq!(config.redis.addr, "other:1");
        assert_eq!(config.apply.batch_commands, 7);
        assert!(config.redis.password.is_some_and(|p| p.expose_secret() == "123"));
        let error = set(&[("REDIS_DUPLEX__REDIS__NOSUCH", "1")]).unwrap_err().to_string();
        assert!(error.contains("REDIS_DUPLEX__REDIS__NOSUCH"), "{error}");
    }
}
