//! Which role a command takes. Pure; the local Redis's own categories decide, and a few names
//! where they are too coarse. docs/security.md has the same as a table.

use crate::resp::Request;

/// What a client must be to send a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Anyone who has said who it is: it tells of the server or the connection, not of data.
    Look,
    /// A peer: `DUPLEX LINK`.
    Link,
    /// A syncer: data, and what goes with it.
    Data,
    /// A syncer too if it asks for harmless settings alone: `CONFIG GET`.
    Settings,
    /// An administrator.
    Admin,
    /// An administrator, since the local Redis did not list it when the sidecar started.
    Unlisted,
}

/// Commands of the server or the connection that tell nothing of data.
const LOOK: [&str; 12] = [
    "client|getname",
    "client|help",
    "client|id",
    "client|reply",
    "client|setinfo",
    "client|setname",
    "command",
    "echo",
    "info",
    "ping",
    "role",
    "time",
];

/// What Redis has in `@admin` or `@dangerous`, or in no category of data, and syncers need.
const DATA: [&str; 21] = [
    "cluster|countkeysinslot",
    "cluster|getkeysinslot",
    "cluster|info",
    "cluster|keyslot",
    "cluster|myid",
    "cluster|nodes",
    "cluster|shards",
    "cluster|slots",
    "flushall",
    "flushdb",
    "keys",
    "object|help",
    "psync",
    "replconf",
    "restore",
    "restore-asking",
    "sort",
    "sort_ro",
    "swapdb",
    "sync",
    "xinfo|help",
];

/// What stops other clients' scripts or the whole server, though Redis has it in no category that
/// says so.
const ADMIN: [&str; 3] = ["function|kill", "script|debug", "script|kill"];

/// Categories of data, and of what a client that uses data needs.
const OF_DATA: [&str; 8] =
    ["connection", "keyspace", "pubsub", "read", "readonly", "scripting", "transaction", "write"];

/// Settings that tell no secret: `CONFIG GET` of these alone takes no administrator. Those that
/// clients and syncers look at; no patterns, since `*` shows `requirepass`.
const SETTINGS: [&str; 15] = [
    "appendonly",
    "cluster-enabled",
    "databases",
    "maxmemory",
    "maxmemory-policy",
    "notify-keyspace-events",
    "proto-max-bulk-len",
    "rdb-version",
    "repl-backlog-size",
    "repl-diskless-sync",
    "repl-diskless-sync-delay",
    "repl-timeout",
    "save",
    "timeout",
    "tls-replication",
];

/// The subcommands that are not for administrators alone, for servers before 7.0, which list
/// none: there the container's own categories, without `@admin` and `@dangerous`, are theirs.
pub(super) const SUBCOMMANDS: [(&str, &[&str]); 9] = [
    (
        "client",
        &[
            "caching",
            "getname",
            "getredir",
            "help",
            "id",
            "info",
            "reply",
            "setname",
            "tracking",
            "trackinginfo",
        ],
    ),
    ("cluster", &["countkeysinslot", "getkeysinslot", "info", "keyslot", "myid", "nodes", "slots"]),
    ("config", &["get"]),
    ("memory", &["usage"]),
    ("object", &["encoding", "freq", "help", "idletime", "refcount"]),
    ("pubsub", &["channels", "help", "numpat", "numsub"]),
    ("script", &["exists", "flush", "help", "load"]),
    ("xgroup", &["create", "createconsumer", "delconsumer", "destroy", "help", "setid"]),
    ("xinfo", &["consumers", "groups", "help", "stream"]),
];

/// What a command takes by its full name (`container|subcommand`), in lower case, and the
/// categories and flags that the server gives it, without `@`.
pub(super) fn need(full: &str, categories: &[&str]) -> Need {
    let is_any = |names: &[&str]| categories.iter().any(|category| names.contains(category));
    let container = full.split('|').next().unwrap_or(full);
    if full == "config|get" {
        Need::Settings
    } else if LOOK.contains(&full) || container == "command" {
        Need::Look
    } else if DATA.contains(&full) {
        Need::Data
    } else if ADMIN.contains(&full) || is_any(&["admin", "dangerous"]) || !is_any(&OF_DATA) {
        Need::Admin
    } else {
        Need::Data
    }
}

/// Whether all that a `CONFIG GET` asks for is harmless.
pub(super) fn asks_for_settings(request: &Request) -> bool {
    request.len() > 2
        && (2..request.len()).all(|at| SETTINGS.iter().any(|setting| request.arg_is(at, setting)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_and_names() {
        assert_eq!(need("get", &["read", "string", "fast"]), Need::Data);
        assert_eq!(need("keys", &["keyspace", "read", "slow", "dangerous"]), Need::Data);
        assert_eq!(need("migrate", &["keyspace", "write", "slow", "dangerous"]), Need::Admin);
        assert_eq!(need("memory|purge", &["slow"]), Need::Admin);
        assert_eq!(need("acl|whoami", &["slow"]), Need::Admin);
        assert_eq!(need("script|kill", &["slow", "scripting"]), Need::Admin);
        assert_eq!(need("script|load", &["slow", "scripting"]), Need::Data);
        assert_eq!(need("client|id", &["slow", "connection"]), Need::Look);
        assert_eq!(need("client|tracking", &["slow", "connection"]), Need::Data);
        assert_eq!(need("command|docs", &["slow", "connection"]), Need::Look);
        assert_eq!(need("config|set", &["admin", "slow", "dangerous"]), Need::Admin);
        // What nobody has heard of is for administrators.
        assert_eq!(need("newthing", &["fast"]), Need::Admin);
    }

    #[test]
    fn harmless_settings_alone() {
        let asks = |words: &[&str]| asks_for_settings(&Request::of(words));
        assert!(
            asks(&["CONFIG", "GET", "databases"]) && asks(&["config", "get", "SAVE", "timeout"])
        );
        for secret in ["*", "requirepass", "data*", "masterauth"] {
            assert!(!asks(&["CONFIG", "GET", secret]), "{secret}");
            assert!(!asks(&["CONFIG", "GET", "databases", secret]), "{secret}");
        }
        assert!(!asks(&["CONFIG", "GET"]));
    }
}
