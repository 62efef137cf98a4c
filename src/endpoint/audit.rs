//! Who did what to the server, and who was refused: events with the target `audit`, so that a
//! filter of the log can send them elsewhere.

use std::net::SocketAddr;

use super::access::{Identity, role_name, shown};
use super::command_table::{CommandTable, lower};
use crate::resp::Request;

/// Most bytes of a client's word that are told.
const SHOWN: usize = 64;

/// Containers whose word after the subcommand names a thing and holds no value: a setting, a user, a
/// site. Of others it may be a script, a key or a value.
const NAMED: [&[u8]; 5] = [b"acl", b"cluster", b"config", b"duplex", b"latency"];

/// Subcommands that the table may lack: ours, and of those that Redis 6.2 does not list the ones that
/// matter most.
const SUBCOMMANDS: [(&[u8], &[&str]); 4] = [
    (b"acl", &["deluser", "load", "save", "setuser"]),
    (b"client", &["kill", "list", "no-evict", "pause", "unblock", "unpause"]),
    (b"config", &["resetstat", "rewrite", "set"]),
    (b"duplex", &["link", "pause", "resume", "resync"]),
];

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
    outcome: Outcome,
    request: &Request,
) {
    let user = who.map_or("-", |who| &who.name);
    let role = who.map_or("-", |who| role_name(who.role));
    let user = shown(user.as_bytes(), SHOWN);
    let command = words(table, request);
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

/// Tells of an AUTH that failed, the `failures`-th on this connection. `name` is that of a user: any
/// other word may be the password, in the wrong place.
pub(super) fn tell_failed_login(peer: SocketAddr, name: Option<&str>, failures: u32) {
    let user = name.map_or("(unknown)".to_owned(), |name| shown(name.as_bytes(), SHOWN));
    tracing::warn!(target: "audit", %peer, user, failures, "wrong user or password");
}

/// The words of a request that are no values: its name, its subcommand, at times one more.
pub(super) fn words(table: &CommandTable, request: &Request) -> String {
    let name = lower(request.arg(0));
    let mut text = shown(&name, SHOWN);
    // Where no subcommand stands, through an error most likely, there may be a value.
    if request.len() < 2 || !is_subcommand(table, &name, request) {
        return text;
    }
    text.push(' ');
    text.push_str(&shown(&lower(request.arg(1)), SHOWN));
    if NAMED.contains(&name.as_slice()) && request.len() > 2 {
        text.push(' ');
        text.push_str(&shown(request.arg(2), SHOWN));
    }
    text
}

fn is_subcommand(table: &CommandTable, name: &[u8], request: &Request) -> bool {
    let ours = SUBCOMMANDS.iter().filter(|(container, _)| *container == name);
    table.has_subcommand(name, &lower(request.arg(1)))
        || ours.flat_map(|(_, subcommands)| *subcommands).any(|word| request.arg_is(1, word))
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
            super::words(&table, &request)
        };
        assert_eq!(told("SET key value"), "set");
        assert_eq!(told("CONFIG SET requirepass value"), "config set requirepass");
        assert_eq!(told("SCRIPT LOAD value"), "script load");
        assert_eq!(told("CONFIG requirepass value"), "config");
        assert_eq!(told("SCRIPT value value"), "script");
        assert_eq!(told("DEBUG value"), "debug");
        assert_eq!(told("DUPLEX Pause b"), "duplex pause b");
        assert_eq!(told("DUPLEX value value"), "duplex");
        assert_eq!(told("ACL SETUSER u >value"), "acl setuser u");
        assert_eq!(told("AUHT value"), "auht");
        let long = "x".repeat(200);
        assert_eq!(told(&long).len(), SHOWN);
        assert_eq!(told("a\nb"), "a\\nb");
    }
}
