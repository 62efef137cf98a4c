//! Who did what to the server, and who was refused: events with the target `audit`, so that a
//! filter of the log can send them elsewhere.

use std::net::SocketAddr;

use super::access::{Identity, role_name, shown};
use super::command_table::{CommandTable, lower};
use super::rights::Need;
use crate::resp::Request;

/// Most bytes of a client's word that are told.
const SHOWN: usize = 64;

/// Containers whose word after the subcommand names a thing and holds no value: a setting, a user, a
/// site. Of others it may be a script, a key or a value.
const NAMED: [&[u8]; 5] = [b"acl", b"cluster", b"config", b"duplex", b"latency"];

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is done now.
    Runs,
    /// It is done by EXEC.
    Queued,
    /// It is not done.
    Refused,
}

/// Tells of a request for an administrator, or of one that was refused.
pub(super) fn tell(
    table: &CommandTable,
    (peer, who): (SocketAddr, Option<&Identity>),
    (need, outcome): (Need, Outcome),
    request: &Request,
) {
    let user = who.map_or("-", |who| &who.name);
    let role = who.map_or("-", |who| role_name(who.role));
    let user = shown(user.as_bytes(), SHOWN);
    let command = words(table, need, request);
    match outcome {
        Outcome::Runs => {
            tracing::info!(target: "audit", %peer, user, role, command, "runs");
        }
        Outcome::Queued => {
            tracing::info!(target: "audit", %peer, user, role, command, "queued");
        }
        Outcome::Refused => {
            tracing::warn!(target: "audit", %peer, user, role, command, "refused");
        }
    }
}

/// Tells of an AUTH that failed, the `failures`-th on this connection. The name is the client's own
/// word.
pub(super) fn tell_failed_login(peer: SocketAddr, name: &[u8], failures: u32) {
    let user = shown(name, SHOWN);
    tracing::warn!(target: "audit", %peer, user, failures, "wrong user or password");
}

/// The words of a request that are no values: its name, its subcommand, at times one more.
pub(super) fn words(table: &CommandTable, need: Need, request: &Request) -> String {
    let name = lower(request.arg(0));
    let mut text = shown(&name, SHOWN);
    let is_named = NAMED.contains(&name.as_slice());
    let has_subcommand = is_named || name.as_slice() == b"debug" || table.is_container(&name);
    // Of a misspelt AUTH the next word is a password.
    if need == Need::Unlisted || request.len() < 2 || !has_subcommand {
        return text;
    }
    text.push(' ');
    text.push_str(&shown(&lower(request.arg(1)), SHOWN));
    if is_named && request.len() > 2 {
        text.push(' ');
        text.push_str(&shown(request.arg(2), SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::command_table::Kind;

    #[test]
    fn no_values_are_told() {
        let table = CommandTable::of(&[
            ("set", Kind::Write),
            ("config", Kind::Other),
            ("config|set", Kind::Other),
            ("script", Kind::Other),
            ("script|load", Kind::Other),
        ]);
        let told = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let request = Request::of(&words);
            super::words(&table, table.need(&request), &request)
        };
        assert_eq!(told("SET key value"), "set");
        assert_eq!(told("CONFIG SET requirepass value"), "config set requirepass");
        assert_eq!(told("SCRIPT LOAD value"), "script load");
        assert_eq!(told("AUHT value"), "auht");
        let long = "x".repeat(200);
        assert_eq!(told(&long).len(), SHOWN);
        assert_eq!(told("a\nb"), "a\\nb");
    }
}
