//! `redis-duplex status`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use redis_protocol::resp2::types::BytesFrame;
use secrecy::SecretString;

use super::screen::Screen;
use super::signals::Signals;
use super::tls::Tls;
use super::{Failure, address};
use crate::observe::text::{bar, bytes, millis, number, pairs, seconds};
use crate::redis::{Connection, InfoText, RedisError, Target};

/// How often `-w` redraws.
const REDRAW: Duration = Duration::from_secs(1);

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The sidecar's port (listen.addr), host:port
    #[arg(value_parser = address)]
    addr: String,
    /// Show it anew each second, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// A [[user]] of the sidecar
    #[arg(long, value_name = "NAME", env = "REDIS_DUPLEX_USER")]
    user: Option<String>,
    /// Its password; better in the environment
    #[arg(long, value_name = "TEXT", env = "REDIS_DUPLEX_PASSWORD", hide_env_values = true)]
    password: Option<SecretString>,
    /// Speak TLS to it
    #[arg(long)]
    tls: bool,
    #[command(flatten)]
    files: Tls,
}

impl Status {
    pub(super) async fn execute(self) -> Result<ExitCode, Failure> {
        let tls = self.files.connector(self.tls, "--tls")?;
        let target = Target { addr: self.addr, username: self.user, password: self.password, tls };
        let mut screen = Screen::stdout();
        if !self.watch {
            screen.text(&page(&fetch(&target).await?)).context("stdout")?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut signals = Signals::new()?;
        loop {
            let text = match fetch(&target).await {
                Ok(info) => page(&info),
                // The sidecar may be started again while we watch.
                Err(error) => format!("{error:#}"),
            };
            screen.page(&text).context("stdout")?;
            tokio::select! {
                _ = signals.next() => return Ok(ExitCode::SUCCESS),
                () = tokio::time::sleep(REDRAW) => {}
            }
        }
    }
}

async fn fetch(target: &Target) -> anyhow::Result<InfoText> {
    let mut connection = Connection::open(target).await?;
    let info = duplex_info(&mut connection).await?;
    if info.get("duplex_version").is_empty() {
        bail!(
            "{} is a Redis but no sidecar: give the sidecar's port, listen.addr of its configuration",
            target.addr
        );
    }
    Ok(info)
}

/// The fields of `INFO duplex`; none from a plain Redis.
pub(super) async fn duplex_info(connection: &mut Connection) -> Result<InfoText, RedisError> {
    match connection.call(&["INFO", "duplex"]).await? {
        BytesFrame::BulkString(text) => Ok(InfoText::parse(&String::from_utf8_lossy(&text))),
        other => Err(connection.unexpected("INFO", format!("{other:?}"))),
    }
}

/// A field `name=value` in a line of them.
fn part<'a>(line: &'a str, name: &str) -> &'a str {
    let mut parts = line.split(',').filter_map(|part| part.split_once('='));
    parts.find(|(key, _)| *key == name).map_or("", |(_, value)| value)
}

fn count(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// What a person wants to see of `INFO duplex`.
fn page(info: &InfoText) -> String {
    let count_of = |name: &str| count(info.get(name));
    let ready = match info.get("not_ready") {
        "" => "yes".to_owned(),
        why => format!("no, {why}"),
    };
    let alarm = if info.number("write_off_alarm") == 1 { "  ALARM" } else { "" };
    let mut text = pairs(&[
        ("site", format!("{} (primary: {})", info.get("site"), info.get("primary"))),
        ("version", info.get("duplex_version").to_owned()),
        ("up for", seconds(count_of("uptime_seconds"))),
        ("in sync", ready),
        ("source", info.get("source_state").to_owned()),
        (
            "local units",
            format!("{} ({})", number(count_of("local_units")), bytes(count_of("local_bytes"))),
        ),
        (
            "written off",
            format!(
                "{} batches, {} in flight, oldest {}{alarm}",
                number(count_of("write_off_settled")),
                number(count_of("write_off_pending")),
                millis(count_of("write_off_oldest_ms"))
            ),
        ),
        (
            "journal",
            format!(
                "{} {} of {}",
                bar(count_of("journal_bytes"), count_of("journal_max_bytes"), 20),
                bytes(count_of("journal_bytes")),
                bytes(count_of("journal_max_bytes"))
            ),
        ),
        ("followers", number(count_of("followers"))),
        ("problems", number(count_of("problems"))),
    ]);
    for site in info.get("links").split(',').filter(|site| !site.is_empty()) {
        text.push('\n');
        text.push_str(&link(info, site));
    }
    text
}

fn link(info: &InfoText, site: &str) -> String {
    let field = |name: &str| info.get(&format!("link_{site}_{name}"));
    let line = info.get(&format!("link_{site}"));
    let amount = |name: &str| number(count(part(line, name)));
    let state = match field("reason") {
        "" => field("state").replace('_', " "),
        reason => format!("{}: {reason}", field("state").replace('_', " ")),
    };
    let lag = field("lag_ms").parse().map_or_else(|_| "unknown".to_owned(), millis);
    let mut lines = vec![
        ("link", format!("{site} at {}", field("addr"))),
        ("  state", state),
        ("  lag", lag),
        (
            "  applied",
            format!(
                "{} units, {} commands, {} batches",
                amount("units"),
                amount("commands"),
                amount("batches")
            ),
        ),
        ("  sent again, refused", format!("{}, {}", amount("retries"), amount("errors"))),
        ("  sessions, full syncs", format!("{}, {}", amount("connects"), amount("full_syncs"))),
    ];
    let snapshot = field("snapshot");
    if !snapshot.is_empty() {
        let of = |name: &str| count(part(snapshot, name));
        let to_go = part(snapshot, "eta_seconds").parse().map_or("?".to_owned(), seconds);
        let text = format!(
            "{} {} of {} keys, {} keys/s, {to_go} to go",
            bar(of("keys"), of("expected_keys"), 30),
            number(of("keys")),
            number(of("expected_keys")),
            number(of("keys_per_second"))
        );
        lines.push(("  full sync", text));
    }
    pairs(&lines)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::observe::{LinkState, Snapshot, board::tests::board, info_duplex};

    #[test]
    fn the_page_shows_what_info_says() {
        let board = board();
        let show = || page(&InfoText::parse(&info_duplex(&board.read())));
        let text = show();
        assert!(text.contains("site         a (primary: a)\n"), "{text}");
        assert!(text.contains("in sync      yes\n"), "{text}");
        assert!(text.contains("  lag                   unknown\n"), "{text}");
        assert!(text.contains("5 units, 0 commands"), "{text}");
        board.links[0].0.set_state(LinkState::FullSync);
        board.links[0].0.update_snapshot(|snapshot| {
            let since = Instant::now();
            *snapshot = Some(Snapshot { since, bytes: 1, keys: 5, expected_keys: 10, done: false });
        });
        let text = show();
        assert!(text.contains("in sync      no, link b is full_sync\n"), "{text}");
        assert!(text.contains("[###############...............] 5 of 10 keys"), "{text}");
    }
}
