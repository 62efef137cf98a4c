//! The numbers as Prometheus metrics; `docs/metrics.md` lists them all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::board::Board;
use super::reading::{LinkReading, Reading};

/// The states of the source, each a series.
const SOURCE_STATES: [&str; 3] = ["connecting", "resyncing", "online"];
/// The states of a link, each a series.
const LINK_STATES: [&str; 6] =
    ["connecting", "full_sync", "streaming", "waiting", "paused", "stopped"];

/// A value and its kind. Counters get `_total` behind their name when they are written.
enum Value {
    Counter(u64),
    Gauge(u64),
    Seconds(Duration),
}

struct Metric<T, V> {
    name: &'static str,
    help: &'static str,
    /// Of a link: none for no series now. The kind must not depend on it.
    value: fn(&T) -> V,
    kind: MetricType,
}

const fn counter<T, V>(name: &'static str, help: &'static str, value: fn(&T) -> V) -> Metric<T, V> {
    Metric { name, help, value, kind: MetricType::Counter }
}

const fn gauge<T, V>(name: &'static str, help: &'static str, value: fn(&T) -> V) -> Metric<T, V> {
    Metric { name, help, value, kind: MetricType::Gauge }
}

const fn count(value: u64) -> Value {
    Value::Counter(value)
}

const fn level(value: u64) -> Value {
    Value::Gauge(value)
}

fn time(millis: u64) -> Value {
    Value::Seconds(Duration::from_millis(millis))
}

const SITE: &[Metric<Reading, Value>] = &[
    gauge("uptime_seconds", "Time since the sidecar started", |r| {
        Value::Seconds(Duration::from_secs(r.uptime_seconds))
    }),
    gauge("ready", "1 when the source is online and every link streams", |r| {
        level(u64::from(r.not_ready().is_none()))
    }),
    counter("source_attach_free", "Attached from the stream's end", |r| {
        count(r.source.attached_free)
    }),
    counter("source_attach_again", "Attached where it had left off", |r| {
        count(r.source.attached_again)
    }),
    counter("source_attach_full", "Attached by a full resync", |r| count(r.source.attached_full)),
    gauge("source_offset_bytes", "The local Redis's stream is read up to here", |r| {
        level(r.journal.offset)
    }),
    counter("source_stream_bytes", "Bytes of the stream read", |r| count(r.source.stream_bytes)),
    gauge("source_backlog_bytes", "Size of the local Redis's backlog; 0 before it is known", |r| {
        level(r.source.backlog_bytes)
    }),
    gauge("source_busiest_minute_bytes", "Written to the stream in the busiest minute", |r| {
        level(r.source.busiest_minute_bytes)
    }),
    gauge("source_backlog_alarm", "1 when that is more than the backlog holds", |r| {
        level(u64::from(r.source.backlog_alarm))
    }),
    counter("local_units", "Local units taken into the journal", |r| count(r.source.local_units)),
    counter("local_bytes", "Bytes of local units", |r| count(r.source.local_bytes)),
    counter("echoes", "Batches of ours dropped from the stream", |r| count(r.source.echoes)),
    gauge("write_off_pending", "Tags in flight", |r| level(r.write_off.pending)),
    gauge("write_off_max_pending", "Tags that may be in flight", |r| {
        level(r.write_off.max_pending)
    }),
    gauge("write_off_oldest_seconds", "Age of the oldest tag in flight", |r| {
        time(r.write_off.oldest_ms)
    }),
    gauge("write_off_alarm", "1 when a tag is older than a minute", |r| {
        level(u64::from(r.write_off.alarm))
    }),
    counter("write_off_issued", "Tags given out", |r| count(r.write_off.issued)),
    counter("write_off_settled", "Batches written off", |r| count(r.write_off.settled)),
    counter("write_off_earlier", "Marks of an earlier session", |r| count(r.write_off.earlier)),
    counter("write_off_given_up", "Tags taken out without their mark", |r| {
        count(r.write_off.given_up)
    }),
    gauge("journal_bytes", "Bytes kept in the journal", |r| level(r.journal.bytes)),
    gauge("journal_max_bytes", "Bytes that the journal may keep", |r| level(r.journal.max_bytes)),
    gauge("journal_cached_bytes", "Bytes of the journal that are in memory too", |r| {
        level(r.journal.cached_bytes)
    }),
    gauge("journal_cache_max_bytes", "Bytes of the journal that may be in memory", |r| {
        level(r.journal.cache_max_bytes)
    }),
    gauge("journal_first_offset_bytes", "Stream offset where the journal begins", |r| {
        level(r.journal.first_offset)
    }),
    gauge("followers", "Connections that read from the journal", |r| {
        level(r.followers.len() as u64)
    }),
    gauge("followers_behind_bytes", "What the slowest replica or syncer has still to read", |r| {
        level(r.followers_behind())
    }),
    counter("problems", "Problems that a person should know of", |r| count(r.problems)),
    gauge("clients", "Connections at the port", |r| level(r.port.clients)),
    gauge("max_clients", "How many there may be", |r| level(r.port.max_clients)),
    counter("turned_away", "Connections that the port turned away", |r| count(r.port.turned_away)),
    counter("auth_failures", "Wrong users or passwords at the port", |r| {
        count(r.port.login_failures)
    }),
];

const LINK: &[Metric<LinkReading, Option<Value>>] = &[
    gauge("link_lag_seconds", "How far behind the peer; absent before anything is applied", |l| {
        l.lag_ms.map(time)
    }),
    gauge("link_applied_offset_bytes", "The peer's stream is applied up to here", |l| {
        l.offset.map(level)
    }),
    gauge("link_peer_offset_bytes", "The peer's stream offset as told last", |l| {
        Some(level(l.peer_offset))
    }),
    gauge("link_queued_bytes", "Bytes received and not yet applied", |l| {
        Some(level(l.queued_bytes))
    }),
    gauge("link_queue_max_bytes", "Bytes that may wait to be applied", |l| {
        Some(level(l.queue_max_bytes))
    }),
    counter("link_units", "Units applied", |l| Some(count(l.units))),
    counter("link_commands", "Commands applied", |l| Some(count(l.commands))),
    counter("link_bytes", "Bytes of the commands applied", |l| Some(count(l.bytes))),
    counter("link_batches", "Batches applied", |l| Some(count(l.batches))),
    counter("link_retries", "Batches sent again", |l| Some(count(l.retries))),
    counter("link_errors", "Commands refused for good", |l| Some(count(l.errors))),
    counter("link_connects", "Sessions begun", |l| Some(count(l.connects))),
    gauge("link_clock_skew_seconds", "How far the peer's clock is from ours, either way", |l| {
        Some(time(l.clock_skew_ms.unsigned_abs()))
    }),
    counter("conflicts", "Keys of the peer's units that local writes conflicted with", |l| {
        Some(count(l.conflicts.found))
    }),
    counter("conflicts_rejected_older", "Peer's writes left out: a local one was newer", |l| {
        Some(count(l.conflicts.rejected_older))
    }),
    counter(
        "conflicts_rejected_deletes",
        "Peer's deletes left out: a local write beat them",
        |l| Some(count(l.conflicts.rejected_deletes)),
    ),
    counter(
        "conflicts_outdated",
        "States from the primary left out: a local write came first",
        |l| Some(count(l.conflicts.outdated)),
    ),
    counter("conflicts_repaired", "Keys whose state was sent to the peer", |l| {
        Some(count(l.conflicts.repaired))
    }),
    counter("conflicts_repaired_bytes", "Bytes of these states", |l| {
        Some(count(l.conflicts.repaired_bytes))
    }),
    gauge("conflicts_open", "Keys that wait to be read and sent", |l| {
        Some(level(l.conflicts.open))
    }),
    gauge("conflicts_unseen_keys", "Keys with local writes that the peer has not seen", |l| {
        Some(level(l.conflicts.unseen_keys))
    }),
    gauge("conflicts_max_keys", "How many of them are told apart", |l| {
        Some(level(l.conflicts.max_keys))
    }),
    counter("link_full_syncs", "Full syncs begun", |l| Some(count(l.full_syncs))),
    gauge("link_snapshot_keys", "Keys read of the full sync that runs", |l| {
        l.snapshot.as_ref().map(|s| level(s.keys))
    }),
    gauge("link_snapshot_expected_keys", "Keys of the full sync that runs", |l| {
        l.snapshot.as_ref().map(|s| level(s.expected_keys))
    }),
];

/// The registry over a board; made once, scraped often.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// Content type of [`Self::scrape`].
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// The metrics of `board`.
    pub fn new(board: Arc<Board>) -> Self {
        let mut registry = Registry::with_prefix("redis_duplex");
        registry.register_collector(Box::new(Site(board)));
        Self(registry)
    }

    /// All metrics as text.
    pub fn scrape(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.0)?;
        Ok(out)
    }
}

#[derive(Debug)]
struct Site(Arc<Board>);

impl Collector for Site {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let reading = self.0.read();
        let mut build = encoder.encode_descriptor(
            "build",
            "Who and what runs; always 1",
            None,
            MetricType::Gauge,
        )?;
        let labels = [
            ("site", reading.site.as_str()),
            ("primary", reading.primary.as_str()),
            ("version", reading.version),
        ];
        put(&Value::Gauge(1), build.encode_family(&labels)?)?;
        for metric in SITE {
            let out = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            put(&(metric.value)(&reading), out)?;
        }
        let help = "1 for the state that it is in";
        let mut out = encoder.encode_descriptor("source_state", help, None, MetricType::Gauge)?;
        for state in SOURCE_STATES {
            let value = Value::Gauge(u64::from(state == reading.source.state));
            put(&value, out.encode_family(&[("state", state)])?)?;
        }
        let mut out = encoder.encode_descriptor("link_state", help, None, MetricType::Gauge)?;
        for link in &reading.links {
            for state in LINK_STATES {
                let value = Value::Gauge(u64::from(state == link.state));
                let labels = [("link", link.site.as_str()), ("state", state)];
                put(&value, out.encode_family(&labels)?)?;
            }
        }
        for metric in LINK {
            let mut out = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            for link in &reading.links {
                if let Some(value) = (metric.value)(link) {
                    put(&value, out.encode_family(&[("link", link.site.as_str())])?)?;
                }
            }
        }
        Ok(())
    }
}

fn put(value: &Value, out: MetricEncoder<'_>) -> fmt::Result {
    match value {
        Value::Counter(value) => ConstCounter::new(*value).encode(out),
        Value::Gauge(value) => ConstGauge::new(*value).encode(out),
        Value::Seconds(value) => ConstGauge::new(value.as_secs_f64()).encode(out),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::observe::board::tests::board;

    fn scrape() -> String {
        Metrics::new(Arc::new(board())).scrape().unwrap()
    }

    /// Name with suffix, kind and labels of each metric.
    fn scraped(text: &str) -> BTreeSet<(String, String)> {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let metric = |line: &str| {
            let (name, kind) = line.split_once(' ').unwrap();
            let suffix = if kind == "counter" { "_total" } else { "" };
            (format!("{name}{suffix}"), kind.to_owned())
        };
        types.map(metric).collect()
    }

    #[test]
    fn the_documented_table_is_what_is_scraped() {
        let table = include_str!("../../docs/metrics.md");
        let documented: BTreeSet<_> = table
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| `redis_duplex_")?.split('|').map(str::trim);
                let name = cells.next()?.trim_end_matches('`');
                Some((format!("redis_duplex_{name}"), cells.next()?.to_owned()))
            })
            .collect();
        assert_eq!(documented, scraped(&scrape()));
    }

    #[test]
    fn every_series_has_a_type_and_the_labels_that_it_should() {
        let text = scrape();
        assert!(text.contains("redis_duplex_link_units_total{link=\"b\"} 5\n"), "{text}");
        assert!(text.contains("redis_duplex_link_state{link=\"b\",state=\"streaming\"} 1\n"));
        assert!(text.contains("redis_duplex_source_state{state=\"resyncing\"} 0\n"));
        assert!(text.contains("redis_duplex_local_units_total 12\n"));
        assert!(!text.contains("redis_duplex_link_lag_seconds{"));
        assert!(text.ends_with("# EOF\n"));
        let names: BTreeSet<_> = scraped(&text).into_iter().map(|(name, _)| name).collect();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(names.contains(name), "{line}");
        }
        let board = board();
        board.links[0].0.applied_at.store(crate::clock::unix_millis(), Ordering::Relaxed);
        let text = Metrics::new(Arc::new(board)).scrape().unwrap();
        assert!(text.contains("redis_duplex_link_lag_seconds{link=\"b\"} 0"), "{text}");
    }
}
