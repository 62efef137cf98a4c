//! What an error reply means for a batch. Pure.

use super::batch::Kind;
use crate::redis::{error_code, is_passing};

/// Prefix of EXEC's refusal that gives its own reason.
const ABORT_REASON: &str = "EXECABORT Transaction discarded because of: ";

/// What to do about an error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ErrorVerdict {
    /// Nothing: it was to be expected.
    Expected,
    /// Wait, then send the same again.
    Wait,
    /// Tell a person, leave the command out, go on.
    Skip,
}

/// About an error reply to a command that was to be queued: nothing of the batch was applied.
pub(super) fn when_queueing(reply: &str) -> ErrorVerdict {
    if is_passing(reply) { ErrorVerdict::Wait } else { ErrorVerdict::Skip }
}

/// About an error among the replies of EXEC: the others were applied.
pub(super) fn when_executed(reply: &str, kind: Kind) -> ErrorVerdict {
    let exists = error_code(reply) == "BUSYKEY" || reply.contains("already exists");
    match kind {
        Kind::EntryIfMissing if exists => ErrorVerdict::Expected,
        _ => ErrorVerdict::Skip,
    }
}

/// The reason in EXEC's own refusal, if it names one that no queued command has told before.
pub(super) fn abort_reason(reply: &str) -> Option<&str> {
    reply.strip_prefix(ABORT_REASON)
}

/// The text of an error reply.
pub(super) fn error_text(reply: &[u8]) -> Option<String> {
    let line = reply.strip_prefix(b"-")?;
    Some(String::from_utf8_lossy(line.trim_ascii_end()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_waited_for_and_what_stays_is_left_out() {
        for reply in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "READONLY You can't write against a read only replica.",
            "MISCONF Redis is configured to save RDB snapshots",
            "BUSY Redis is busy running a script.",
            "NOREPLICAS Not enough good replicas to write.",
            "LOADING Redis is loading the dataset in memory",
            "NOPERM this user has no permissions",
        ] {
            assert_eq!(when_queueing(reply), ErrorVerdict::Wait, "{reply}");
        }
        for reply in
            ["ERR unknown command 'NOSUCH'", "ERR wrong number of arguments for 'set' command"]
        {
            assert_eq!(when_queueing(reply), ErrorVerdict::Skip, "{reply}");
        }
        let busy = "BUSYKEY Target key name already exists.";
        assert_eq!(when_executed(busy, Kind::EntryIfMissing), ErrorVerdict::Expected);
        assert_eq!(when_executed(busy, Kind::Entry), ErrorVerdict::Skip);
        assert_eq!(when_executed("WRONGTYPE Operation", Kind::Unit), ErrorVerdict::Skip);
        let aborted = "EXECABORT Transaction discarded because of: OOM command not allowed";
        assert_eq!(abort_reason(aborted), Some("OOM command not allowed"));
        assert_eq!(
            abort_reason("EXECABORT Transaction discarded because of previous errors."),
            None
        );
    }
}
