//! The checkpoints of a peer in the local Redis, and taking over from a connection that broke.

use redis_protocol::resp2::types::BytesFrame;

use crate::position::{Database, Offset, Position, ReplicationId, SiteName};
use crate::redis::{Connection, RedisError, ServerInfo};
use crate::write_off::CHECKPOINT_KEY;

/// A connection that wrote batches: which process it went to, and its id there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    run_id: String,
    client: i64,
}

/// Makes this connection the only one of ours that writes for a link: the one before it, whose
/// fate is unknown, is ended at the server first, so that nothing it sent can be executed after
/// the checkpoint has been read.
pub async fn take_over(
    connection: &mut Connection,
    before: Option<&Writer>,
) -> Result<(ServerInfo, Writer), RedisError> {
    let server = ServerInfo::ask(connection).await?;
    if let Some(writer) = before.filter(|writer| writer.run_id == server.run_id) {
        connection.call(&["CLIENT", "KILL", "ID", &writer.client.to_string()]).await?;
    }
    let client = match connection.call(&["CLIENT", "ID"]).await? {
        BytesFrame::Integer(id) => id,
        other => return Err(connection.unexpected("CLIENT", format!("{other:?}"))),
    };
    let writer = Writer { run_id: server.run_id.clone(), client };
    Ok((server, writer))
}

/// The positions stored for `site`, with the databases they stand in. The hash may stand in
/// several databases, since a mark is written wherever its batch begins.
pub async fn read_checkpoints(
    connection: &mut Connection,
    site: &SiteName,
) -> Result<Vec<(Database, Position)>, RedisError> {
    let server = ServerInfo::ask(connection).await?;
    let names = [format!("{site}-runid"), format!("{site}-offset")];
    let mut found = Vec::new();
    for database in server.info.databases() {
        connection.call(&["SELECT", &database.to_string()]).await?;
        let fields = [b"HMGET", CHECKPOINT_KEY, names[0].as_bytes(), names[1].as_bytes()];
        match connection.call(&fields).await {
            Ok(BytesFrame::Array(values)) => {
                found.extend(position(&values).map(|position| (database, position)));
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

fn position(values: &[BytesFrame]) -> Option<Position> {
    let [BytesFrame::BulkString(replid), BytesFrame::BulkString(offset)] = values else {
        return None;
    };
    let offset = std::str::from_utf8(offset).ok()?.parse().ok()?;
    Some(Position { replid: ReplicationId::from_bytes(replid).ok()?, offset: Offset(offset) })
}
