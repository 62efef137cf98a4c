//! What the port tells of the site, and what it is told.

use std::sync::Arc;

use super::Ends;
use crate::endpoint::Inspect;
use crate::observe::{self, Board, LinkState};
use crate::resp::Request;

/// The site, as the port sees it.
pub(super) struct Inspector {
    pub(super) board: Arc<Board>,
    pub(super) links: Vec<Ends>,
}

impl Inspect for Inspector {
    fn replication_section(&self) -> String {
        let journal = self.board.journal.status();
        let (id, end) = (journal.follower_id, journal.head.follower.0);
        // Redis counts the backlog's first byte from 1.
        let first = journal.first_follower.0 + 1;
        let length = end + 1 - first;
        format!(
            "role:master\nconnected_slaves:0\nmaster_failover_state:no-failover\n\
             master_replid:{id}\nmaster_replid2:{zeros}\nmaster_repl_offset:{end}\n\
             second_repl_offset:-1\nrepl_backlog_active:1\nrepl_backlog_size:{size}\n\
             repl_backlog_first_byte_offset:{first}\nrepl_backlog_histlen:{length}\n",
            zeros = "0".repeat(40),
            size = journal.max_bytes,
        )
    }

    fn duplex_section(&self) -> String {
        observe::info_duplex(&self.board.read())
    }

    fn duplex(&self, request: &Request) -> Result<String, String> {
        let words: Vec<_> = request.args().skip(1).map(String::from_utf8_lossy).collect();
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        if let [order, rest @ ..] = words.as_slice()
            && let Some(order) = Order::of(order)
        {
            return self.obey(order, rest);
        }
        observe::duplex(&self.board, &words)
            .map_err(|error| error.to_string().trim_start_matches("ERR ").to_owned())
    }

    fn role(&self) -> u64 {
        self.board.journal.head().follower.0
    }
}

/// What an administrator may tell a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Pause,
    Resume,
    Resync,
}

impl Order {
    fn of(word: &str) -> Option<Self> {
        [Self::Pause, Self::Resume, Self::Resync]
            .into_iter()
            .find(|order| word.eq_ignore_ascii_case(order.name()))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Resync => "resync",
        }
    }
}

impl Inspector {
    fn obey(&self, order: Order, words: &[&str]) -> Result<String, String> {
        let [site] = words else {
            let name = order.name();
            return Err(format!("wrong arguments for 'duplex {name}'. Try DUPLEX HELP."));
        };
        let link = self.links.iter().find(|link| link.pairing.site.as_str() == *site);
        let link = link.ok_or_else(|| {
            let known: Vec<&str> =
                self.links.iter().map(|link| link.pairing.site.as_str()).collect();
            format!("there is no link to such a site; the [[peer]]s are: {}", known.join(", "))
        })?;
        if let LinkState::Stopped(reason) = link.status.state() {
            return Err(format!("the link has stopped until the sidecar restarts: {reason}"));
        }
        let text = match order {
            Order::Pause if link.control.pause() => {
                "paused until DUPLEX RESUME or a restart of this sidecar"
            }
            Order::Pause => "it was paused already",
            Order::Resume if link.control.resume() => "it goes on where it was",
            Order::Resume => "it was not paused",
            Order::Resync if link.control.is_paused() => {
                return Err(format!("the link is paused: DUPLEX RESUME {site} first"));
            }
            Order::Resync => {
                link.pairing.begin_anew();
                "both sites take a full sync"
            }
        };
        Ok(format!("link {site}: {text}\n"))
    }
}
