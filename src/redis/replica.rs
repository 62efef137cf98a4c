//! The handshake of a replica.

use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame;
use tokio::time::timeout;

use super::{Connection, RedisError};
use crate::position::{Offset, Position, ReplicationId};
use crate::resp;

/// How long a server may take to answer PSYNC; it answers at once unless it waits for a fork.
const PSYNC_TIMEOUT: Duration = Duration::from_mins(1);

/// What kind of replica we say to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplicaOptions {
    /// The snapshot may come as `$EOF:`, straight from the server's memory.
    pub eof: bool,
    /// Only the snapshot, then the server closes (`rdb-only`).
    pub snapshot_only: bool,
    /// The version of Valkey that we say to be. Without it Valkey 9 takes us for an old replica:
    /// it writes an older format, and gives up where hashes have fields that expire.
    pub valkey: Option<(u32, u32, u32)>,
    /// A snapshot without data (`rdb-filter-only ""`, from 7.0; needs `eof`).
    pub empty_snapshot: bool,
}

/// How the server answered PSYNC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Psync {
    /// The stream goes on; under this id, if the server named one.
    Continue(Option<ReplicationId>),
    /// A snapshot comes, then the stream from this position on.
    FullResync(Position),
}

/// Introduces us as a replica and asks for the stream behind `from`, or for a snapshot.
///
/// The announced port is 0: Sentinel and `INFO` take us for nobody to talk to.
pub async fn begin_psync(
    connection: &mut Connection,
    options: ReplicaOptions,
    from: Option<Position>,
) -> Result<Psync, RedisError> {
    connection.call(&["REPLCONF", "listening-port", "0"]).await?;
    if options.eof {
        connection.call(&["REPLCONF", "capa", "eof", "capa", "psync2"]).await?;
    } else {
        connection.call(&["REPLCONF", "capa", "psync2"]).await?;
    }
    if let Some((major, minor, patch)) = options.valkey {
        connection.call(&["REPLCONF", "version", &format!("{major}.{minor}.{patch}")]).await?;
    }
    if options.snapshot_only {
        connection.call(&["REPLCONF", "rdb-only", "1"]).await?;
    }
    if options.empty_snapshot {
        connection.call(&["REPLCONF", "rdb-filter-only", ""]).await?;
    }
    let (id, offset) = from.map_or_else(
        || ("?".to_owned(), "-1".to_owned()),
        |position| (position.replid.to_string(), (position.offset.0 + 1).to_string()),
    );
    let mut out = bytes::BytesMut::new();
    resp::put_command(&mut out, &["PSYNC", &id, &offset]);
    connection.write(&out).await?;
    let frame = timeout(PSYNC_TIMEOUT, psync_reply(connection))
        .await
        .map_err(|_| connection.lost(std::io::ErrorKind::TimedOut.into()))??;
    let text = match frame {
        BytesFrame::SimpleString(text) => String::from_utf8_lossy(&text).into_owned(),
        BytesFrame::Error(reply) => {
            return Err(RedisError::Refused {
                addr: connection.addr().to_owned(),
                command: "PSYNC".to_owned(),
                reply: reply.to_string(),
            });
        }
        other => return Err(connection.unexpected("PSYNC", format!("{other:?}"))),
    };
    parse_psync(&text).ok_or_else(|| connection.unexpected("PSYNC", text))
}

/// The reply to PSYNC, past the line feeds that may come before it.
async fn psync_reply(connection: &mut Connection) -> Result<BytesFrame, RedisError> {
    loop {
        let blank = connection.input.iter().take_while(|&&byte| byte == b'\n').count();
        let _ = connection.input.split_to(blank);
        if !connection.input.is_empty() {
            return connection.reply("PSYNC").await;
        }
        connection.read().await?;
    }
}

fn parse_psync(text: &str) -> Option<Psync> {
    let mut words = text.split(' ');
    match words.next()? {
        "CONTINUE" => match words.next() {
            None | Some("") => Some(Psync::Continue(None)),
            Some(id) => Some(Psync::Continue(Some(id.parse().ok()?))),
        },
        "FULLRESYNC" => Some(Psync::FullResync(Position {
            replid: words.next()?.parse().ok()?,
            offset: Offset(words.next()?.parse().ok()?),
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_servers_answer() {
        let id = "b".repeat(40);
        let replid: ReplicationId = id.parse().unwrap();
        assert_eq!(parse_psync("CONTINUE"), Some(Psync::Continue(None)));
        assert_eq!(parse_psync(&format!("CONTINUE {id}")), Some(Psync::Continue(Some(replid))));
        let position = Position { replid, offset: Offset(7) };
        assert_eq!(parse_psync(&format!("FULLRESYNC {id} 7")), Some(Psync::FullResync(position)));
        assert_eq!(parse_psync("FULLRESYNC x 7"), None);
        assert_eq!(parse_psync("OK"), None);
    }
}
