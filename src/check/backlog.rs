//! Whether the backlog of the local Redis is large enough for what is written.

use std::time::{Duration, Instant};

use super::settings::Settings;
use super::{List, within};
use crate::observe::text::{bytes, seconds};
use crate::redis::{
    Connection, InfoText, LEAST_COVER, RedisError, advised_backlog_mib, backlog_cover, info,
};

/// How long writes are watched.
const WATCHED: Duration = Duration::from_secs(2);
/// The default of `repl-backlog-size`, 1 MiB: soon overrun by anything.
const DEFAULT_SIZE: u64 = 1 << 20;

const SUBJECT: &str = "repl-backlog-size";

pub(super) async fn check(connection: &mut Connection, settings: &Settings, list: &mut List<'_>) {
    list.doing("watching how much is written, for 2 s");
    let measured = measure(connection).await;
    let (before, after, took) = match measured {
        Ok(measured) => measured,
        Err(error) => return list.fail(SUBJECT, error.to_string(), "run the check again"),
    };
    let number = |info: &InfoText, name: &str| u64::try_from(info.number(name)).unwrap_or(0);
    let size = settings.backlog_size.unwrap_or_else(|| number(&after, "repl_backlog_size"));
    // Without a replica Redis counts no stream; what clients send is about the same then.
    let counted = number(&after, "repl_backlog_active") == 1;
    let field = if counted { "master_repl_offset" } else { "total_net_input_bytes" };
    let written = number(&after, field).saturating_sub(number(&before, field));
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = written.saturating_mul(1000) / millis;
    judge(size, if counted || rate > OWN_TRAFFIC { rate } else { 0 }, list);
}

/// What our own questions cause, in bytes a second; nobody writes if there is no more.
const OWN_TRAFFIC: u64 = 1024;

fn judge(size: u64, rate: u64, list: &mut List<'_>) {
    let advice = advised_backlog_mib(rate);
    let remedy = format!("CONFIG SET repl-backlog-size {advice}mb, and in its configuration file");
    let short = bytes(size);
    match backlog_cover(size, rate) {
        Some(cover) => {
            let found = format!(
                "{short} covers {} at the {} a second that are written now",
                seconds(cover.as_secs()),
                bytes(rate)
            );
            if cover < LEAST_COVER {
                list.warn(SUBJECT, found, remedy);
            } else {
                list.ok(SUBJECT, found);
            }
        }
        None if size <= DEFAULT_SIZE => {
            let found = format!("{short}; nothing was written while we looked");
            let remedy = "CONFIG SET repl-backlog-size 256mb, or what minutes of writes take";
            list.warn(SUBJECT, found, remedy);
        }
        None => list.ok(SUBJECT, format!("{short}; nothing was written while we looked")),
    }
}

async fn measure(
    connection: &mut Connection,
) -> Result<(InfoText, InfoText, Duration), RedisError> {
    let addr = connection.addr().to_owned();
    let mut sample = async || {
        let mut text = within(&addr, info(connection, "replication")).await?;
        text.extend(within(&addr, info(connection, "stats")).await?);
        Ok::<_, RedisError>(text)
    };
    let before = sample().await?;
    let began = Instant::now();
    tokio::time::sleep(WATCHED).await;
    let after = sample().await?;
    Ok((before, after, began.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::super::{Finding, Level};
    use super::*;

    fn judged(size: u64, rate: u64) -> Finding {
        let mut list = List { place: String::new(), found: Vec::new(), tell: Box::new(|_| {}) };
        judge(size, rate, &mut list);
        list.found.remove(0)
    }

    #[test]
    fn what_a_minute_writes_must_fit() {
        assert_eq!(judged(1 << 20, 0).level, Level::Warn);
        assert_eq!(judged(64 << 20, 0).level, Level::Ok);
        let small = judged(1 << 20, 1 << 17);
        assert_eq!(small.level, Level::Warn);
        assert!(small.found.contains("covers 8 s"), "{}", small.found);
        assert!(small.remedy.contains("repl-backlog-size 48mb"), "{}", small.remedy);
        assert_eq!(judged(64 << 20, 1 << 20).level, Level::Ok);
    }
}
