//! The data that each Redis of the demo holds before it is synchronized.

use super::batch::Batch;
use crate::redis::Connection;

/// The databases that the demo uses.
pub const DATABASES: [u32; 2] = [0, 3];
/// Strings of one side's own, in each database.
const STRINGS: usize = 1000;
/// Keys of each other type, in each database.
const OTHERS: usize = 150;
/// Keys that both sides have, with different values, in each database.
const SHARED: usize = 200;
/// Commands sent together.
const TOGETHER: usize = 500;

/// Fills a Redis with keys of all types: `<site>:..`, which only this side has, and `both:..`.
pub async fn fill(connection: &mut Connection, site: &str) -> anyhow::Result<()> {
    for database in DATABASES {
        let mut batch = Batch::default();
        batch.add(&["SELECT", &database.to_string()]);
        for index in 0..STRINGS {
            string(&mut batch, site, index);
            if index < OTHERS {
                aggregates(&mut batch, site, index);
            }
            if index < SHARED {
                let key = format!("both:text:{index}");
                batch.add(&["SET", &key, &format!("as {site} knows it")]);
            }
            if batch.commands() >= TOGETHER {
                std::mem::take(&mut batch).send(connection).await?;
            }
        }
        batch.send(connection).await?;
    }
    connection.call(&["SELECT", "0"]).await?;
    Ok(())
}

fn string(batch: &mut Batch, site: &str, index: usize) {
    let (key, value) = (format!("{site}:text:{index}"), format!("value {index} of {site}"));
    // A third expires, in an hour or later: not while the demo runs.
    if index.is_multiple_of(3) {
        batch.add(&["SET", &key, &value, "EX", &(3600 + index).to_string()]);
    } else {
        batch.add(&["SET", &key, &value]);
    }
}

fn aggregates(batch: &mut Batch, site: &str, index: usize) {
    let key = |kind: &str| format!("{site}:{kind}:{index}");
    let value = index.to_string();
    batch.add(&["RPUSH", &key("list"), "one", "two", &value]);
    batch.add(&["SADD", &key("set"), "red", "green", &value]);
    batch.add(&["HSET", &key("hash"), "name", &value, "site", site]);
    batch.add(&["ZADD", &key("zset"), "1", "low", "2.5", "high", &value, "own"]);
    let stream = key("stream");
    batch.add(&["XADD", &stream, "1-1", "event", "made"]);
    batch.add(&["XADD", &stream, "2-1", "event", &value]);
    batch.add(&["XGROUP", "CREATE", &stream, "readers", "0"]);
    batch.add(&["XREADGROUP", "GROUP", "readers", "r1", "COUNT", "1", "STREAMS", &stream, ">"]);
}
