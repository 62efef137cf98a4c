//! The section `Duplex` of `INFO`.

use std::fmt::{self, Display};

use super::reading::{LinkReading, Reading};
use crate::clock::unix_millis;

/// The text of `INFO duplex`: a header and lines `field:value`, each ended by CR LF.
///
/// Numbers are plain; what is not known is `-1` where a number is expected, else empty.
pub fn info_duplex(reading: &Reading) -> String {
    let mut text = Text::default();
    site(&mut text, reading);
    source_and_write_off(&mut text, reading);
    journal(&mut text, reading);
    text.field("followers", reading.followers.len());
    text.field("followers_behind_bytes", reading.followers_behind());
    for (index, follower) in reading.followers.iter().enumerate() {
        text.field(
            format_args!("follower{index}"),
            format_args!(
                "addr={},kind={},sent={},acknowledged={}",
                follower.addr, follower.kind, follower.sent, follower.acknowledged
            ),
        );
    }
    let sites: Vec<_> = reading.links.iter().map(|link| link.site.as_str()).collect();
    text.field("links", sites.join(","));
    for reading in &reading.links {
        link(&mut text, reading);
    }
    text.field("problems", reading.problems);
    text.field("clients", reading.port.clients);
    text.field("max_clients", reading.port.max_clients);
    text.field("turned_away", reading.port.turned_away);
    text.field("auth_failures", reading.port.login_failures);
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn field(&mut self, name: impl Display, value: impl Display) {
        if self.0.is_empty() {
            self.0.push_str("# Duplex\r\n");
        }
        let line = format!("{name}:{value}");
        // A line break in a message would begin another field.
        self.0.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
        self.0.push_str("\r\n");
    }
}

/// A number, or -1 when it is not known.
struct Known(Option<u64>);

impl Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("-1"),
        }
    }
}

fn site(text: &mut Text, reading: &Reading) {
    text.field("duplex_version", reading.version);
    text.field("link_protocol", reading.link_protocol);
    text.field("now_ms", unix_millis());
    text.field("site", &reading.site);
    text.field("primary", &reading.primary);
    text.field("uptime_seconds", reading.uptime_seconds);
    let not_ready = reading.not_ready();
    text.field("ready", u8::from(not_ready.is_none()));
    text.field("not_ready", not_ready.unwrap_or_default());
}

fn source_and_write_off(text: &mut Text, reading: &Reading) {
    let source = &reading.source;
    text.field("source_state", source.state);
    text.field("source_error", &source.error);
    text.field("source_attach_free", source.attached_free);
    text.field("source_attach_again", source.attached_again);
    text.field("source_attach_full", source.attached_full);
    text.field("source_offset", reading.journal.offset);
    text.field("source_replid", &reading.journal.replid);
    text.field("source_stream_bytes", source.stream_bytes);
    text.field("source_backlog_bytes", source.backlog_bytes);
    text.field("source_busiest_minute_bytes", source.busiest_minute_bytes);
    text.field("source_backlog_alarm", u8::from(source.backlog_alarm));
    text.field("local_units", source.local_units);
    text.field("local_bytes", source.local_bytes);
    text.field("echoes", source.echoes);
    let set = &reading.write_off;
    text.field("write_off_pending", set.pending);
    text.field("write_off_max_pending", set.max_pending);
    text.field("write_off_oldest_ms", set.oldest_ms);
    text.field("write_off_alarm", u8::from(set.alarm));
    text.field("write_off_issued", set.issued);
    text.field("write_off_settled", set.settled);
    text.field("write_off_earlier", set.earlier);
    text.field("write_off_given_up", set.given_up);
}

fn journal(text: &mut Text, reading: &Reading) {
    let journal = &reading.journal;
    text.field("journal_units", journal.units);
    text.field("journal_bytes", journal.bytes);
    text.field("journal_max_bytes", journal.max_bytes);
    text.field("journal_cached_bytes", journal.cached_bytes);
    text.field("journal_cache_max_bytes", journal.cache_max_bytes);
    text.field("journal_first_offset", journal.first_offset);
    text.field("follower_id", &journal.follower_id);
    text.field("follower_offset", journal.follower_offset);
    text.field("follower_first_offset", journal.follower_first_offset);
}

fn link(text: &mut Text, link: &LinkReading) {
    let name = format!("link_{}", link.site);
    text.field(
        &name,
        format_args!(
            "state={},checkpoint={},lag_ms={},units={},commands={},batches={},retries={},\
             errors={},connects={},full_syncs={}",
            link.state,
            link.checkpoint,
            Known(link.lag_ms),
            link.units,
            link.commands,
            link.batches,
            link.retries,
            link.errors,
            link.connects,
            link.full_syncs
        ),
    );
    if let Some(snapshot) = &link.snapshot {
        text.field(
            format_args!("{name}_snapshot"),
            format_args!(
                "bytes={},keys={},expected_keys={},keys_per_second={},eta_seconds={}",
                snapshot.bytes,
                snapshot.keys,
                snapshot.expected_keys,
                snapshot.keys_per_second,
                Known(snapshot.eta_seconds)
            ),
        );
    }
    text.field(format_args!("{name}_addr"), &link.addr);
    text.field(format_args!("{name}_state"), link.state);
    text.field(format_args!("{name}_reason"), &link.reason);
    text.field(format_args!("{name}_offset"), Known(link.offset));
    text.field(format_args!("{name}_peer_offset"), link.peer_offset);
    text.field(format_args!("{name}_lag_ms"), Known(link.lag_ms));
    text.field(format_args!("{name}_units"), link.units);
    text.field(format_args!("{name}_queued_bytes"), link.queued_bytes);
    text.field(format_args!("{name}_clock_skew_ms"), link.clock_skew_ms);
    let conflicts = &link.conflicts;
    text.field(
        format_args!("{name}_conflicts"),
        format_args!(
            "found={},rejected_older={},rejected_deletes={},outdated={},repaired={},\
             repaired_bytes={},open={},unseen_keys={},max_keys={}",
            conflicts.found,
            conflicts.rejected_older,
            conflicts.rejected_deletes,
            conflicts.outdated,
            conflicts.repaired,
            conflicts.repaired_bytes,
            conflicts.open,
            conflicts.unseen_keys,
            conflicts.max_keys
        ),
    );
    text.field(format_args!("{name}_queue_max_bytes"), link.queue_max_bytes);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::observe::{LinkState, Snapshot, board::tests::board};
    use crate::redis::InfoText;

    #[test]
    fn fields_can_be_read_back() {
        let text = info_duplex(&board().read());
        assert!(text.starts_with("# Duplex\r\nduplex_version:") && text.ends_with("\r\n"));
        let info = InfoText::parse(&text);
        assert_eq!(info.get("site"), "a");
        assert_eq!(info.get("source_state"), "online");
        assert_eq!(info.number("local_units"), 12);
        assert_eq!(info.number("ready"), 1);
        assert_eq!(info.get("links"), "b");
        assert_eq!(info.get("link_b_state"), "streaming");
        assert_eq!(info.number("link_b_offset"), 77);
        assert_eq!(info.number("link_b_lag_ms"), -1);
        let line = info.get("link_b");
        assert!(line.starts_with("state=streaming,checkpoint=cccc"), "{line}");
        assert!(line.contains(":77,lag_ms=-1,units=5,commands=0"), "{line}");
        assert!(!text.contains("link_b_snapshot"));
    }

    #[test]
    fn a_full_sync_has_its_line_and_messages_stay_on_theirs() {
        let board = board();
        board.links[0].0.set_state(LinkState::Waiting("OOM\r\nfield:1".to_owned()));
        board.links[0].0.update_snapshot(|snapshot| {
            *snapshot = Some(Snapshot {
                since: Instant::now(),
                bytes: 10,
                keys: 1,
                expected_keys: 2,
                done: false,
            });
        });
        let text = info_duplex(&board.read());
        let info = InfoText::parse(&text);
        assert!(info.get("link_b_snapshot").starts_with("bytes=10,keys=1,expected_keys=2,"));
        assert_eq!(info.get("link_b_reason"), "OOM  field:1");
        assert_eq!(info.get("field"), "");
    }
}
