//! What the RESP port tells of the site: the board, in the port's words.

use std::sync::Arc;

use crate::endpoint::Inspect;
use crate::observe::{Board, duplex, info_duplex};
use crate::resp::Request;

/// An id that is nobody's; what Redis shows where there is no second history.
const NO_REPLID: &str = "0000000000000000000000000000000000000000";

/// Answers the port's questions from the board.
#[derive(Debug)]
pub(super) struct Inspection(pub(super) Arc<Board>);

impl Inspect for Inspection {
    fn replication_section(&self) -> String {
        let reading = self.0.read();
        let journal = &reading.journal;
        let kept = journal.follower_offset - journal.follower_first_offset;
        // Never our followers: syncers look for them, and would go to them (SYNCERS).
        format!(
            "role:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\nmaster_replid:{}\r\nmaster_replid2:{NO_REPLID}\r\n\
             master_repl_offset:{}\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:1\r\n\
             repl_backlog_size:{}\r\nrepl_backlog_first_byte_offset:{}\r\nrepl_backlog_histlen:{kept}\r\n",
            journal.follower_id,
            journal.follower_offset,
            journal.max_bytes,
            journal.follower_first_offset + 1,
        )
    }

    fn duplex_section(&self) -> String {
        info_duplex(&self.0.read())
    }

    fn duplex(&self, request: &Request) -> Result<String, String> {
        let words: Vec<_> =
            request.args().skip(1).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        duplex(&self.0, &words).map_err(|error| error.to_string())
    }

    fn role(&self) -> u64 {
        self.0.journal.head().follower.0
    }
}
