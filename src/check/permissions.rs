//! Whether our user of the local Redis may do all that we do.
//!
//! `ACL DRYRUN` where it is to be had (7.0). Else each command is queued in a transaction that is
//! discarded: Redis tells a missing permission when it queues.

use redis_protocol::resp2::types::BytesFrame;

use super::{List, within};
use crate::config::Redis;
use crate::redis::{Connection, RedisError, ServerInfo};

const SUBJECT: &str = "permissions";
/// A key that an application could have.
const KEY: &[u8] = b"some:key";
/// Missing commands that are named; all are counted.
const NAMED: usize = 6;

/// What the sidecar itself sends besides writes.
const OURS: [&[&str]; 20] = [
    &["psync", "?", "-1"],
    &["replconf", "capa", "eof"],
    &["ping"],
    &["select", "0"],
    &["info", "all"],
    &["command"],
    &["client", "id"],
    &["client", "list"],
    &["client", "kill", "id", "1"],
    &["client", "setname", "x"],
    &["multi"],
    &["exec"],
    &["discard"],
    &["watch", "some:key"],
    &["unwatch"],
    &["hmget", "redis-duplex-checkpoint", "x"],
    &["publish", "channel", "x"],
    &["flushall"],
    &["restore", "some:key", "0", "x"],
    &["hset", "redis-duplex-checkpoint", "x", "y"],
];
/// These can't stand in a transaction, or would end it.
const UNQUEUED: [&str; 7] = ["psync", "replconf", "multi", "exec", "discard", "watch", "unwatch"];

/// How it is found out.
#[derive(Clone, Copy)]
enum Way<'a> {
    DryRun(&'a str),
    Queue,
}

pub(super) async fn check(
    connection: &mut Connection,
    config: &Redis,
    server: &ServerInfo,
    list: &mut List<'_>,
) {
    let user = config.username.as_deref().unwrap_or("default");
    match ask(connection, user, server.version.is_7_or_later()).await {
        Ok((missing, all)) if missing.is_empty() => {
            list.ok(SUBJECT, format!("user {user} may do all that is needed ({all} commands)"));
        }
        Ok((missing, _)) => {
            let named = missing.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>();
            let more = missing.len() - named.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let found = format!("user {user} may not: {}{more}", named.join(", "));
            list.fail(SUBJECT, found, format!("ACL SETUSER {user} ~* &* +@all"));
        }
        Err(error) => {
            let remedy = format!("give user {user} all: ACL SETUSER {user} ~* &* +@all");
            list.fail(SUBJECT, error.to_string(), remedy);
        }
    }
}

/// What is not permitted, and how many commands were asked for.
async fn ask(
    connection: &mut Connection,
    user: &str,
    is_7: bool,
) -> Result<(Vec<String>, usize), RedisError> {
    let addr = connection.addr().to_owned();
    let commands = within(&addr, commands(connection)).await?;
    let dry_run =
        is_7 && within(&addr, permitted(connection, Way::DryRun(user), &[b"ping"])).await.is_ok();
    let way = if dry_run { Way::DryRun(user) } else { Way::Queue };
    let queued = matches!(way, Way::Queue);
    let asking = async {
        let mut missing = Vec::new();
        if queued {
            connection.call(&["MULTI"]).await?;
        }
        for words in &commands {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let name = String::from_utf8_lossy(words[0]).into_owned();
            if queued && UNQUEUED.contains(&name.as_str()) {
                continue;
            }
            if !permitted(connection, way, &words).await? {
                missing.push(name);
            }
        }
        if queued {
            connection.call(&["DISCARD"]).await?;
        }
        Ok(missing)
    };
    Ok((within(&addr, asking).await?, commands.len()))
}

/// Whether these words are permitted. Other errors (too few arguments) say nothing about that.
async fn permitted(
    connection: &mut Connection,
    way: Way<'_>,
    words: &[&[u8]],
) -> Result<bool, RedisError> {
    let answer = match way {
        Way::DryRun(user) => {
            let mut all: Vec<&[u8]> = vec![b"ACL", b"DRYRUN", user.as_bytes()];
            all.extend(words);
            match connection.call(&all).await {
                // It says what is missing as a text, and what is wrong with the words as an error.
                Ok(BytesFrame::SimpleString(_)) => return Ok(true),
                Ok(_) => return Ok(false),
                Err(error) => Err(error),
            }
        }
        Way::Queue => connection.call(words).await.map(|_| ()),
    };
    match answer {
        Err(error) => match error.reply() {
            // The question itself may be forbidden.
            Some(reply) if reply.starts_with("NOPERM") && matches!(way, Way::Queue) => Ok(false),
            Some(reply) if reply.starts_with("NOPERM") || reply.contains("not found") => Err(error),
            Some(_) => Ok(true),
            None => Err(error),
        },
        Ok(()) => Ok(true),
    }
}

/// What the sidecar sends, and every command that writes, with as many arguments as each needs.
async fn commands(connection: &mut Connection) -> Result<Vec<Vec<Vec<u8>>>, RedisError> {
    let BytesFrame::Array(listed) = connection.call(&["COMMAND"]).await? else {
        return Err(connection.unexpected("COMMAND", "no list"));
    };
    let mut all: Vec<Vec<Vec<u8>>> = OURS
        .iter()
        .map(|words| words.iter().map(|word| word.as_bytes().to_vec()).collect())
        .collect();
    all.extend(listed.iter().filter_map(write_command));
    Ok(all)
}

fn write_command(entry: &BytesFrame) -> Option<Vec<Vec<u8>>> {
    let BytesFrame::Array(fields) = entry else { return None };
    let BytesFrame::BulkString(name) = fields.first()? else { return None };
    let BytesFrame::Integer(arity) = fields.get(1)? else { return None };
    let BytesFrame::Array(flags) = fields.get(2)? else { return None };
    let writes = flags.iter().any(|flag| match flag {
        BytesFrame::SimpleString(flag) | BytesFrame::BulkString(flag) => &flag[..] == b"write",
        _ => false,
    });
    let is_key_first = matches!(fields.get(3), Some(BytesFrame::Integer(1)));
    if !writes {
        return None;
    }
    let arguments = usize::try_from(arity.unsigned_abs()).ok()?.saturating_sub(1);
    let argument = |index| if index == 0 && is_key_first { KEY.to_vec() } else { b"1".to_vec() };
    let mut words = vec![name.to_ascii_lowercase()];
    words.extend((0..arguments).map(argument));
    Some(words)
}
