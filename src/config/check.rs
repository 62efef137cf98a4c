//! What must fit together.

use std::collections::HashSet;

use bytesize::ByteSize;
use secrecy::ExposeSecret;

use super::Config;

/// Least sensible `link.queue`: some batches.
const LEAST_QUEUE: ByteSize = ByteSize::mib(1);
/// Most: what is larger is no bound.
const MOST_QUEUE: ByteSize = ByteSize::gib(2);
/// Most sensible `apply.max_pending`: each takes about 150 bytes.
const MOST_PENDING: usize = 16 << 20;

impl Config {
    /// The error is a sentence for people that says what to do.
    pub(super) fn check(&self) -> Result<(), String> {
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
            match (&user.password, &user.password_hash) {
                (Some(_), Some(_)) => {
                    return Err(format!(
                        "[[user]] \"{}\" has both a password and a `password_hash`: keep one",
                        user.name
                    ));
                }
                (None, Some(_)) => {}
                (Some(password), None) if !password.expose_secret().is_empty() => {}
                (_, None) => {
                    return Err(format!(
                        "[[user]] \"{}\" has no password: set one of `password_hash`, \
                         `password_file`, `password_env` and `password`",
                        user.name
                    ));
                }
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
