//! The local Redis: is it there, is it one that we work with, is it in a state to work.

use super::{List, backlog, open, permissions, settings, within};
use crate::config::Config;
use crate::redis::{Connection, InfoText, RedisError, ServerInfo, Target, info};
use crate::source::AttachError;

/// Part of `maxmemory` in use from which on it is told, in percent.
const NEARLY_FULL: u64 = 90;

/// The sections that are needed; what modules and commands tell is not.
const SECTIONS: [&str; 7] =
    ["server", "clients", "memory", "persistence", "stats", "replication", "cluster"];

pub(super) async fn check(config: &Config, list: &mut List<'_>) {
    let target = Target::from(&config.redis);
    let addr = target.addr.clone();
    let asked = async {
        let mut connection = open(&target).await?;
        let server = within(&addr, ServerInfo::ask(&mut connection)).await?;
        // Redis leaves the section of clusters out of `all` where there is none.
        let mut all = InfoText::default();
        for section in SECTIONS {
            all.extend(within(&addr, info(&mut connection, section)).await?);
        }
        Ok::<_, RedisError>((connection, server, all))
    };
    let (mut connection, server, info) = match asked.await {
        Ok(asked) => asked,
        Err(error) => {
            // The same words as at a start of the sidecar; the remedy is in them.
            let text = AttachError::from(error).to_string();
            return list.fail("reachable", text, "");
        }
    };
    list.ok("reachable", addr);
    version(&server, list);
    role(&info, list);
    loading(&info, list);
    permissions::check(&mut connection, &config.redis, &server, list).await;
    memory(&info, list);
    min_replicas(&info, list);
    let settings = settings::check(&mut connection, &info, list).await;
    backlog::check(&mut connection, &settings, list).await;
}

fn version(server: &ServerInfo, list: &mut List<'_>) {
    let version = server.version.to_string();
    if !server.version.is_supported() {
        return list.fail("version", version, "use Redis 6.2 or later, or Valkey 8 or later");
    }
    if server.version.is_7_or_later() {
        list.ok("version", version);
    } else {
        let remedy = "use 7.0 or later if keys have TTLs: until then they live longer at the other \
                      site by the time a write is under way";
        list.warn("version", version, remedy);
    }
    if server.info.number("cluster_enabled") == 1 {
        list.fail("cluster mode", "on", "use a server with `cluster-enabled no`");
    } else {
        list.ok("cluster mode", "off");
    }
}

fn role(info: &InfoText, list: &mut List<'_>) {
    if info.get("role") == "slave" {
        let master = format!("{}:{}", info.get("master_host"), info.get("master_port"));
        let remedy = "point [redis] addr at its master, or promote it (REPLICAOF NO ONE)";
        return list.fail("role", format!("a replica of {master}"), remedy);
    }
    list.ok("role", "master");
}

fn loading(info: &InfoText, list: &mut List<'_>) {
    if info.number("loading") == 1 {
        list.warn("state", "it loads its data", "wait, it answers writes later");
    }
    if info.get("rdb_last_bgsave_status") == "err" {
        let remedy = "make its directory writable and its disk roomy: Redis may refuse writes \
                      (MISCONF), and full syncs need snapshots";
        list.warn("last save", "failed", remedy);
    }
}

fn memory(info: &InfoText, list: &mut List<'_>) {
    let number = |name: &str| u64::try_from(info.number(name)).unwrap_or(0);
    let (used, limit) = (number("used_memory"), number("maxmemory"));
    let policy = info.get("maxmemory_policy");
    if limit == 0 {
        return list.ok("eviction", "maxmemory is 0: no limit, nothing is evicted");
    }
    if policy == "noeviction" {
        list.ok("eviction", "noeviction: when it is full, the peer's writes wait for room");
    } else {
        let found = format!("{policy}: what is evicted here arrives at the peer as DEL");
        let remedy = "mend it with `CONFIG SET maxmemory-policy noeviction`, or see to it that \
                      losing a key at both sites is fine (a cache)";
        list.warn("eviction", found, remedy);
    }
    if used.saturating_mul(100) / limit >= NEARLY_FULL {
        let found = format!("{} % of maxmemory is used", used.saturating_mul(100) / limit);
        list.warn("memory", found, "raise maxmemory: the data of both sites must fit");
    }
}

fn min_replicas(info: &InfoText, list: &mut List<'_>) {
    // Only told where it is set.
    let good = info.get("min_slaves_good_slaves");
    if good.is_empty() {
        return list.ok("min-replicas-to-write", "0");
    }
    let found = format!("set, {good} good replicas now; the sidecar counts as one more");
    list.warn("min-replicas-to-write", found, "raise it by one, so that it means what it meant");
}

/// A setting that may not be read, as on managed servers.
pub(super) async fn setting(
    connection: &mut Connection,
    name: &str,
) -> Result<Option<String>, RedisError> {
    use redis_protocol::resp2::types::BytesFrame::{Array, BulkString};
    let addr = connection.addr().to_owned();
    let answer = within(&addr, connection.call(&["CONFIG", "GET", name])).await?;
    let value = match answer {
        Array(words) => words.into_iter().nth(1),
        _ => None,
    };
    Ok(match value {
        Some(BulkString(text)) => Some(String::from_utf8_lossy(&text).into_owned()),
        _ => None,
    })
}
