//! Settings of the local Redis that decide what a break costs.

use super::List;
use super::local::setting;
use crate::observe::text::{bytes, seconds};
use crate::redis::{Connection, InfoText};

/// Redis frees its backlog when nobody has read for so long; less than this does not survive a
/// longer absence of the sidecar.
const LEAST_BACKLOG_TTL: u64 = 600;
/// Redis's own default of the hard limit of replicas' output buffers, 256 MiB.
const DEFAULT_OUTPUT_LIMIT: u64 = 256 << 20;

/// What others need of them.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// The setting, where it can be read; INFO has it too, but only with an active backlog.
    pub backlog_size: Option<u64>,
}

pub(super) async fn check(
    connection: &mut Connection,
    info: &InfoText,
    list: &mut List<'_>,
) -> Settings {
    let mut settings = Settings::default();
    let size = match setting(connection, "repl-backlog-size").await {
        Ok(size) => size,
        Err(error) => {
            let found = format!("can't be read: {}", error.reply().unwrap_or("no answer"));
            let remedy = "look for yourself: repl-backlog-ttl 3600 or 0, \
                          client-output-buffer-limit replica 256mb or 0, and some persistence";
            list.warn("CONFIG", found, remedy);
            return settings;
        }
    };
    settings.backlog_size = size.and_then(|size| size.parse().ok());
    if let Ok(Some(ttl)) = setting(connection, "repl-backlog-ttl").await {
        backlog_ttl(&ttl, list);
    }
    if let Ok(Some(limits)) = setting(connection, "client-output-buffer-limit").await {
        output_limit(&limits, list);
    }
    if let Ok(Some(save)) = setting(connection, "save").await {
        persistence(info.number("aof_enabled") == 1, !save.is_empty(), list);
    }
    settings
}

fn backlog_ttl(ttl: &str, list: &mut List<'_>) {
    let subject = "repl-backlog-ttl";
    match ttl.parse() {
        Ok(0) => list.ok(subject, "0: the backlog is kept for ever"),
        Ok(ttl @ LEAST_BACKLOG_TTL..) => list.ok(subject, seconds(ttl)),
        Ok(ttl) => {
            let found = format!("{}: after that without the sidecar Redis frees it", seconds(ttl));
            list.warn(subject, found, "CONFIG SET repl-backlog-ttl 3600");
        }
        Err(_) => {}
    }
}

/// `normal 0 0 0 slave 268435456 67108864 60 pubsub ..`: class, hard, soft, seconds.
fn output_limit(limits: &str, list: &mut List<'_>) {
    let subject = "client-output-buffer-limit";
    let words: Vec<&str> = limits.split_whitespace().collect();
    let Some(limit) = words.chunks(4).find(|limit| matches!(limit[0], "slave" | "replica")) else {
        return;
    };
    let of = |index: usize| limit.get(index).and_then(|word| word.parse().ok()).unwrap_or(0_u64);
    let (hard, soft, time) = (of(1), of(2), of(3));
    let text = format!("replica {} {} {time}", bytes(hard), bytes(soft));
    if (hard == 0 || hard >= DEFAULT_OUTPUT_LIMIT)
        && (soft == 0 || soft >= DEFAULT_OUTPUT_LIMIT / 4)
    {
        list.ok(subject, text);
    } else {
        let found = format!("{text}: Redis cuts us off after a burst, and during full syncs");
        let remedy = "CONFIG SET client-output-buffer-limit \"replica 256mb 64mb 60\", or more";
        list.warn(subject, found, remedy);
    }
}

fn persistence(aof: bool, save: bool, list: &mut List<'_>) {
    let subject = "persistence";
    match (aof, save) {
        (true, _) => list.ok(subject, "appendonly yes"),
        (false, true) => list.ok(subject, "snapshots: after a crash it stands at the last one"),
        (false, false) => {
            let found = "none: after a restart Redis is empty, all comes back by a full sync, and \
                         writes that the peer had not seen are lost";
            list.warn(subject, found, "CONFIG SET appendonly yes, or set `save`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Level, List};
    use super::*;

    fn levels(judge: impl Fn(&mut List<'_>)) -> Vec<Level> {
        let mut list = List { place: String::new(), found: Vec::new(), tell: Box::new(|_| {}) };
        judge(&mut list);
        list.found.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn what_is_too_little_is_told() {
        assert_eq!(levels(|list| backlog_ttl("0", list)), [Level::Ok]);
        assert_eq!(levels(|list| backlog_ttl("3600", list)), [Level::Ok]);
        assert_eq!(levels(|list| backlog_ttl("60", list)), [Level::Warn]);
        for (limits, expected) in [
            ("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", Level::Ok),
            ("normal 0 0 0 slave 0 0 0 pubsub 33554432 8388608 60", Level::Ok),
            ("normal 0 0 0 replica 1048576 0 0 pubsub 33554432 8388608 60", Level::Warn),
            ("normal 0 0 0 slave 268435456 1048576 60 pubsub 0 0 0", Level::Warn),
        ] {
            assert_eq!(levels(|list| output_limit(limits, list)), [expected], "{limits}");
        }
        assert_eq!(levels(|list| output_limit("normal 0", list)), []);
        assert_eq!(levels(|list| persistence(false, false, list)), [Level::Warn]);
        assert_eq!(levels(|list| persistence(false, true, list)), [Level::Ok]);
    }
}
