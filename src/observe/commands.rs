//! The inspection commands `DUPLEX ..`: texts for people.

use super::board::Board;
use super::reading::{LinkReading, Reading, SourceReading};
use super::text::{bar, bytes, millis, number, pairs, seconds, table};
use crate::clock::unix_millis;
use crate::conflict::{Conflict, Winner};
use crate::position::SiteName;

/// Problems shown by `DUPLEX ERRORS` unless a number is given.
const DEFAULT_PROBLEMS: usize = 20;

/// What `DUPLEX HELP` says.
const HELP: &str = "\
DUPLEX STATUS       the site in short: what works, what is behind, what is wrong
DUPLEX LINKS        each link: state, lag, what was applied
DUPLEX WRITEOFF     batches of ours that have not come back in the stream
DUPLEX CHECKPOINTS  up to where each peer's units are applied here
DUPLEX JOURNAL      local units kept for peers and followers, and who reads them
DUPLEX CONFLICTS [n]  keys that both sites wrote at once, newest first: who won, and why
DUPLEX ERRORS [n]   the last problems, newest first
DUPLEX PAUSE <site>   stops taking what that site writes, until RESUME or a restart (role admin)
DUPLEX RESUME <site>  goes on where it was (role admin)
DUPLEX RESYNC <site>  both sites take a full sync; where they differ the primary's value stays (role admin)
DUPLEX HELP         this text
INFO duplex has the same numbers as fields; metrics are at /metrics of listen.http.
";

/// A request that is none of ours; the text is for people, without `ERR`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownCommand {
    /// No such subcommand.
    #[error("unknown subcommand '{0}'. Try DUPLEX HELP.")]
    Subcommand(String),
    /// More words than the subcommand takes, or not a number.
    #[error("wrong arguments for 'duplex {0}'. Try DUPLEX HELP.")]
    Arguments(String),
}

/// The answer to `DUPLEX <words>`: lines ended by a line feed. Without words, the help.
pub fn duplex(board: &Board, words: &[&str]) -> Result<String, UnknownCommand> {
    let (name, rest) = match words {
        [] => ("HELP".to_owned(), words),
        [name, rest @ ..] => (name.to_ascii_uppercase(), rest),
    };
    let reading = board.read();
    let text = match name.as_str() {
        "HELP" => HELP.to_owned(),
        "STATUS" => status(&reading),
        "LINKS" => links(&reading),
        "WRITEOFF" => write_off(&reading),
        "CHECKPOINTS" => checkpoints(&reading),
        "JOURNAL" => journal(&reading),
        "ERRORS" | "CONFLICTS" => {
            let count = match rest {
                [] => Some(DEFAULT_PROBLEMS),
                [count] => count.parse().ok(),
                _ => None,
            };
            let wrong = || UnknownCommand::Arguments(name.to_lowercase());
            let count = count.ok_or_else(wrong)?;
            let errors = name == "ERRORS";
            return Ok(if errors { problems(board, count) } else { conflicts(board, count) });
        }
        // Cut, since it comes from anyone; and it must stay one line.
        _ => {
            let shown = name.chars().filter(|c| !c.is_control()).take(64);
            return Err(UnknownCommand::Subcommand(shown.collect()));
        }
    };
    if rest.is_empty() { Ok(text) } else { Err(UnknownCommand::Arguments(name.to_lowercase())) }
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none".to_owned() } else { text.to_owned() }
}

fn state(state: &str, reason: &str) -> String {
    let state = state.replace('_', " ");
    if reason.is_empty() { state } else { format!("{state}: {reason}") }
}

fn lag(link: &LinkReading) -> String {
    link.lag_ms.map_or_else(|| "unknown".to_owned(), millis)
}

fn status(reading: &Reading) -> String {
    let ready = reading.not_ready().map_or_else(|| "yes".to_owned(), |why| format!("no, {why}"));
    let links = match reading.links.as_slice() {
        [] => "none".to_owned(),
        links => {
            let link = |link: &LinkReading| {
                format!("{} {}, lag {}", link.site, state(link.state, &link.reason), lag(link))
            };
            links.iter().map(link).collect::<Vec<_>>().join("; ")
        }
    };
    let set = &reading.write_off;
    pairs(&[
        ("site", format!("{} (primary: {})", reading.site, or_none(&reading.primary))),
        ("version", reading.version.to_owned()),
        ("up for", seconds(reading.uptime_seconds)),
        ("in sync", ready),
        ("source", state(reading.source.state, &reading.source.error)),
        ("backlog", backlog(&reading.source)),
        ("links", links),
        (
            "local units",
            format!(
                "{} ({})",
                number(reading.source.local_units),
                bytes(reading.source.local_bytes)
            ),
        ),
        (
            "written off",
            format!("{} batches, {} in flight", number(set.settled), number(set.pending)),
        ),
        ("followers", number(reading.followers.len() as u64)),
        ("problems", number(reading.problems)),
    ])
}

/// Whether a break of the connection to the local Redis is without a full sync.
fn backlog(source: &SourceReading) -> String {
    let (size, minute) = (bytes(source.backlog_bytes), bytes(source.busiest_minute_bytes));
    let alarm = if source.backlog_alarm { " (ALARM: raise repl-backlog-size)" } else { "" };
    match source.backlog_bytes {
        0 => "unknown".to_owned(),
        _ => format!("{size}, {minute} written in the busiest minute{alarm}"),
    }
}

fn links(reading: &Reading) -> String {
    if reading.links.is_empty() {
        return "no links: this site has no [[peer]]\n".to_owned();
    }
    let link = |link: &LinkReading| {
        let mut lines = vec![
            ("link", format!("{} at {}", link.site, link.addr)),
            ("  state", state(link.state, &link.reason)),
            ("  lag", lag(link)),
            (
                "  applied",
                format!(
                    "{} units, {} commands, {}, in {} batches",
                    number(link.units),
                    number(link.commands),
                    bytes(link.bytes),
                    number(link.batches)
                ),
            ),
            ("  waiting to be applied", bytes(link.queued_bytes)),
            ("  batches sent again", number(link.retries)),
            ("  commands refused", number(link.errors)),
            ("  sessions", number(link.connects)),
            ("  full syncs", number(link.full_syncs)),
            ("  clock", format!("{} ms ahead of ours", link.clock_skew_ms)),
            (
                "  conflicts",
                format!(
                    "{} found, {} repaired, {} open; {} keys not seen there yet",
                    number(link.conflicts.found),
                    number(link.conflicts.repaired),
                    number(link.conflicts.open),
                    number(link.conflicts.unseen_keys)
                ),
            ),
        ];
        if let Some(snapshot) = &link.snapshot {
            let to_go = snapshot.eta_seconds.map_or_else(|| "?".to_owned(), seconds);
            let text = format!(
                "{} {} of {} keys, {}, {} keys/s, {to_go} to go",
                bar(snapshot.keys, snapshot.expected_keys, 20),
                number(snapshot.keys),
                number(snapshot.expected_keys),
                bytes(snapshot.bytes),
                number(snapshot.keys_per_second)
            );
            lines.push(("  full sync", text));
        }
        pairs(&lines)
    };
    reading.links.iter().map(link).collect::<Vec<_>>().join("\n")
}

fn write_off(reading: &Reading) -> String {
    let set = &reading.write_off;
    let oldest = if set.alarm { " (ALARM: older than a minute)" } else { "" };
    pairs(&[
        ("in flight", format!("{} batches", number(set.pending))),
        ("oldest", format!("{}{oldest}", millis(set.oldest_ms))),
        ("sent", format!("{} batches", number(set.issued))),
        ("written off", format!("{} batches", number(set.settled))),
        ("of an earlier session", format!("{} batches", number(set.earlier))),
        ("given up", format!("{} batches, refused or their connection lost", number(set.given_up))),
        ("echoes dropped", number(reading.source.echoes)),
    ])
}

fn checkpoints(reading: &Reading) -> String {
    let row = |link: &LinkReading| {
        let behind = link.offset.map(|offset| link.peer_offset.saturating_sub(offset));
        vec![
            link.site.clone(),
            or_none(&link.checkpoint),
            behind.map_or_else(|| "?".to_owned(), bytes),
        ]
    };
    let rows: Vec<_> = reading.links.iter().map(row).collect();
    table(&["peer", "applied up to", "behind"], &rows)
}

fn journal(reading: &Reading) -> String {
    let journal = &reading.journal;
    let mut text = pairs(&[
        ("units", format!("{} since the start", number(journal.units))),
        ("size", format!("{} of {}", bytes(journal.bytes), bytes(journal.max_bytes))),
        ("history", journal.replid.clone()),
        ("from offset", number(journal.first_offset)),
        ("to offset", number(journal.offset)),
        ("follower id", journal.follower_id.clone()),
        ("follower from", number(journal.follower_first_offset)),
        ("follower to", number(journal.follower_offset)),
    ]);
    if !reading.followers.is_empty() {
        let rows: Vec<_> = reading
            .followers
            .iter()
            .map(|f| vec![f.addr.clone(), f.kind.clone(), number(f.sent), number(f.acknowledged)])
            .collect();
        text.push('\n');
        text.push_str(&table(&["reader", "kind", "sent up to", "acknowledged"], &rows));
    }
    text
}

fn conflicts(board: &Board, count: usize) -> String {
    let conflicts = board.newest_conflicts(count);
    if conflicts.is_empty() {
        return "no conflicts\n".to_owned();
    }
    let now = unix_millis();
    let row = |(site, conflict): (SiteName, Conflict)| {
        let ago = format!("{} ago", millis(now.saturating_sub(conflict.at)));
        let winner = match conflict.winner {
            Winner::Local => "this site".to_owned(),
            Winner::Remote => site.to_string(),
            Winner::Both => "both".to_owned(),
        };
        let (local, remote) = (conflict.local.to_owned(), conflict.remote.to_owned());
        vec![ago, site.to_string(), conflict.key, local, remote, winner, conflict.why.to_owned()]
    };
    let heads = ["when", "with", "db:key", "here", "there", "winner", "why"];
    table(&heads, &conflicts.into_iter().map(row).collect::<Vec<_>>())
}

fn problems(board: &Board, count: usize) -> String {
    let problems = board.newest_problems(count);
    if problems.is_empty() {
        return "no problems\n".to_owned();
    }
    let now = unix_millis();
    let row = |problem: super::Problem| {
        let ago = format!("{} ago", millis(now.saturating_sub(problem.at)));
        vec![ago, problem.place, problem.text.replace(['\r', '\n'], " ")]
    };
    table(&["when", "where", "what"], &problems.into_iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{FollowerStatus, board::tests::board};

    #[test]
    fn every_command_of_the_help_answers() {
        let board = board();
        board.problems.add("link b", "WRONGTYPE of key \"x\"");
        board.followers.lock().push(std::sync::Arc::new(FollowerStatus {
            addr: "10.0.0.9:4000".to_owned(),
            kind: "replica".to_owned(),
            sent: 5.into(),
            acknowledged: 4.into(),
        }));
        let help = duplex(&board, &[]).unwrap();
        let lines = help.lines().filter_map(|line| line.strip_prefix("DUPLEX "));
        // What names a site is an order, which others take.
        let lines = lines.filter(|line| !line.contains("<site>"));
        for name in lines.filter_map(|line| line.split(' ').next()) {
            let text = duplex(&board, &[&name.to_lowercase()]).unwrap();
            assert!(text.ends_with('\n') && !text.contains('\r'), "{name}: {text}");
        }
        let text = duplex(&board, &["STATUS"]).unwrap();
        assert!(text.contains("in sync      yes\n"), "{text}");
        assert!(text.contains("b streaming, lag unknown"), "{text}");
        assert!(duplex(&board, &["errors", "1"]).unwrap().contains("WRONGTYPE"));
        assert!(duplex(&board, &["JOURNAL"]).unwrap().contains("10.0.0.9:4000  replica"));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let board = board();
        let error = |words: &[&str]| duplex(&board, words).unwrap_err().to_string();
        assert_eq!(error(&["nosuch\r\n"]), "unknown subcommand 'NOSUCH'. Try DUPLEX HELP.");
        assert!(error(&["errors", "many"]).contains("wrong arguments for 'duplex errors'"));
        assert!(error(&["status", "x"]).contains("wrong arguments for 'duplex status'"));
    }
}
