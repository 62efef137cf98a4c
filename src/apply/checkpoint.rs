//! The checkpoints of a peer in the local Redis, and taking over from a connection that broke.

use redis_protocol::resp2::types::BytesFrame;

use crate::position::{Checkpoint, Database, SiteName};
use crate::redis::{Connection, RedisError, ServerInfo};
use crate::write_off::{CHECKPOINT_KEY, checkpoint_fields, checkpoint_of};

/// Makes this connection the only one that writes batches of `peer` for `site`: those before it,
/// of this process or of one that was killed, are ended at the server first. What they sent and
/// the server has not executed is dropped with them, however long it is on its way, so that
/// nothing can be executed after the checkpoint has been read. They are known by their name, which
/// each gets before its first batch.
pub async fn take_over(
    connection: &mut Connection,
    site: &SiteName,
    peer: &SiteName,
) -> Result<ServerInfo, RedisError> {
    let name = format!("redis-duplex:{site}<-{peer}");
    let server = ServerInfo::ask(connection).await?;
    let own = match connection.call(&["CLIENT", "ID"]).await? {
        BytesFrame::Integer(id) => id.to_string(),
        other => return Err(connection.unexpected("CLIENT", format!("{other:?}"))),
    };
    let clients = match connection.call(&["CLIENT", "LIST"]).await? {
        BytesFrame::BulkString(text) => text,
        other => return Err(connection.unexpected("CLIENT", format!("{other:?}"))),
    };
    for id in named(&String::from_utf8_lossy(&clients), &name) {
        if id != own {
            connection.call(&["CLIENT", "KILL", "ID", id]).await?;
        }
    }
    connection.call(&["CLIENT", "SETNAME", &name]).await?;
    Ok(server)
}

/// The ids of clients with this name, from `CLIENT LIST`.
fn named<'a>(clients: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    clients.lines().filter_map(move |line| {
        let field = |wanted: &str| line.split(' ').find_map(|field| field.strip_prefix(wanted));
        (field("name=") == Some(name)).then(|| field("id="))?
    })
}

/// The checkpoints stored for `site`, with the databases they stand in. Marks are
/// written in one database, but somebody may have moved the hash to another.
pub async fn read_checkpoints(
    connection: &mut Connection,
    site: &SiteName,
) -> Result<Vec<(Database, Checkpoint)>, RedisError> {
    let server = ServerInfo::ask(connection).await?;
    let names = checkpoint_fields(site);
    let mut found = Vec::new();
    for database in server.info.databases() {
        connection.call(&["SELECT", &database.to_string()]).await?;
        let mut fields = vec![b"HMGET", CHECKPOINT_KEY];
        fields.extend(names.iter().map(String::as_bytes));
        match connection.call(&fields).await {
            Ok(BytesFrame::Array(values)) => {
                found.extend(checkpoint(&values).map(|checkpoint| (database, checkpoint)));
            }
            Ok(other) => return Err(connection.unexpected("HMGET", format!("{other:?}"))),
            // Somebody put another type there: it holds no checkpoint.
            Err(error) if error.reply().is_some_and(|r| r.starts_with("WRONGTYPE")) => {}
            Err(error) => return Err(error),
        }
    }
    connection.call(&["SELECT", "0"]).await?;
    Ok(found)
}

/// Takes the key of the checkpoints away if it is no hash: somebody wrote it, and no mark could be
/// written. Whether that was so. Database 0 is selected.
pub async fn clear_foreign_checkpoint(connection: &mut Connection) -> Result<bool, RedisError> {
    let kind = connection.call(&[b"TYPE", CHECKPOINT_KEY]).await?;
    let good =
        matches!(&kind, BytesFrame::SimpleString(kind) if matches!(&kind[..], b"hash" | b"none"));
    if !good {
        connection.call(&[b"DEL", CHECKPOINT_KEY]).await?;
    }
    Ok(!good)
}

fn checkpoint(values: &[BytesFrame]) -> Option<Checkpoint> {
    let text = |value: &BytesFrame| match value {
        BytesFrame::BulkString(text) => Some(text.clone()),
        _ => None,
    };
    let [runid, offset, place] = values else { return None };
    checkpoint_of(&text(runid)?, &text(offset)?, &text(place)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_found_by_their_whole_name() {
        let clients = "id=3 addr=127.0.0.1:5 name=redis-duplex:b<-a age=1\n\
                       id=4 addr=127.0.0.1:6 name= age=1\n\
                       id=51 addr=127.0.0.1:7 name=redis-duplex:b<-a age=1\n\
                       id=6 addr=127.0.0.1:8 name=redis-duplex:b<-a2 age=1\n";
        assert!(named(clients, "redis-duplex:b<-a").eq(["3", "51"]));
    }
}
