//! Marked batches of what a client sends outside of its own transactions.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::backend::{Backend, Lost, Outgoing};
use super::replies::{self, Replies};
use super::tag::OpenTag;
use crate::position::SiteName;
use crate::resp::{self, Request};
use crate::write_off::WriteOffSet;

pub(super) const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
pub(super) const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
pub(super) const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";

/// One request of a batch.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) request: Request,
    pub(super) writes: bool,
    /// The database that it selects.
    pub(super) select: Option<u32>,
}

/// How one try of a batch went. All replies are those of its members, in order.
#[derive(Debug, PartialEq)]
pub(super) enum Tried {
    /// Done.
    Done(Vec<Bytes>),
    /// Nothing done: these were refused when queued, the others would have been taken.
    Refused(Vec<Option<Bytes>>),
    /// Nothing done: the mark itself was refused, as every write would be.
    MarkRefused(Bytes),
    /// Nothing done: EXEC was refused.
    Discarded(Bytes),
    /// There was no transaction: each was answered alone.
    Alone(Vec<Bytes>),
}

/// What the replies to MULTI, mark, members and EXEC mean.
pub(super) fn judge(mut got: Vec<Bytes>) -> Result<Tried, Lost> {
    let (Some(exec), false) = (got.pop(), got.len() < 2) else {
        return Err(Lost::Unexpected("a batch"));
    };
    let queued = got.split_off(2);
    if got[0] != replies::OK {
        return Ok(Tried::Alone(queued));
    }
    if exec.starts_with(b"*") && !exec.starts_with(b"*-") {
        if resp::elements(&exec).next().is_some_and(|mark| mark.starts_with(b"-")) {
            return Err(Lost::Unexpected("a mark: somebody wrote the key redis-duplex-checkpoint"));
        }
        let items: Vec<Bytes> =
            resp::elements(&exec).skip(1).map(|item| exec.slice_ref(item)).collect();
        let whole = items.len() == queued.len();
        return if whole { Ok(Tried::Done(items)) } else { Err(Lost::Unexpected("EXEC")) };
    }
    if got[1] != replies::QUEUED {
        return Ok(Tried::MarkRefused(got.swap_remove(1)));
    }
    if queued.iter().any(|reply| reply != replies::QUEUED) {
        let refused = queued.into_iter().map(|reply| (reply != replies::QUEUED).then_some(reply));
        return Ok(Tried::Refused(refused.collect()));
    }
    Ok(Tried::Discarded(reason(&exec)))
}

/// Why EXEC was refused, as the command alone would have been told.
fn reason(exec: &Bytes) -> Bytes {
    let text = String::from_utf8_lossy(exec);
    if let Some((_, why)) = text.trim_end().split_once("discarded because of: ") {
        return replies::error(why).freeze();
    }
    if exec.starts_with(b"-") {
        exec.clone()
    } else {
        replies::error(replies::NOT_EXECUTED).freeze()
    }
}

/// Sends the members in marked batches, one after the other, until each has its reply; those go
/// into `answers`, at the place of the member. `tried` is how a first try of all of them went, if
/// there was one. Only what broke the connection is an error; then the fate of members without an
/// answer is not known.
pub(super) async fn run(
    backend: &mut Backend,
    (set, site): (&Arc<WriteOffSet>, &SiteName),
    (members, tried): (&[Member], Option<Tried>),
    answers: &mut [Option<Bytes>],
    pushed: &mut Replies,
) -> Result<(), Lost> {
    let all: Vec<usize> = (0..members.len()).collect();
    let mut groups = VecDeque::new();
    match tried {
        Some(tried) => tell(tried, all, members, answers, &mut groups),
        None => groups.push_back(all),
    }
    while let Some(group) = groups.pop_front() {
        if group.is_empty() {
            continue;
        }
        if !group.iter().any(|&at| members[at].writes) {
            plain(backend, members, &group, answers, pushed).await?;
            continue;
        }
        let tried = attempt(backend, (set, site), members, &group, pushed).await?;
        tell(tried, group, members, answers, &mut groups);
    }
    Ok(())
}

/// Takes what a try of `group` brought; what is to be tried again goes to the front of `groups`.
fn tell(
    tried: Tried,
    group: Vec<usize>,
    members: &[Member],
    answers: &mut [Option<Bytes>],
    groups: &mut VecDeque<Vec<usize>>,
) {
    match tried {
        Tried::Done(items) | Tried::Alone(items) => {
            for (at, item) in group.into_iter().zip(items) {
                answers[at] = Some(item);
            }
        }
        Tried::Refused(refused) => {
            let mut rest = Vec::with_capacity(group.len());
            for (at, error) in group.into_iter().zip(refused) {
                if error.is_none() {
                    rest.push(at);
                }
                answers[at] = error;
            }
            groups.push_front(rest);
        }
        Tried::MarkRefused(error) => {
            let (writes, reads): (Vec<_>, Vec<_>) =
                group.into_iter().partition(|&at| members[at].writes);
            for at in writes {
                answers[at] = Some(error.clone());
            }
            groups.push_front(reads);
        }
        Tried::Discarded(error) => match group[..] {
            [at] => answers[at] = Some(error),
            _ => {
                for at in group.into_iter().rev() {
                    groups.push_front(vec![at]);
                }
            }
        },
    }
}

/// A batch as it is sent: `MULTI`, the mark, the members, and `EXEC` or not yet.
pub(super) fn encode<'a>(
    mark: &[u8],
    members: impl Iterator<Item = &'a Member>,
    exec: bool,
) -> Outgoing {
    let mut out = Outgoing::default();
    out.put(MULTI);
    out.put(mark);
    for member in members {
        out.put_request(member.request.raw());
    }
    if exec {
        out.put(EXEC);
    }
    out
}

async fn attempt(
    backend: &mut Backend,
    (set, site): (&Arc<WriteOffSet>, &SiteName),
    members: &[Member],
    group: &[usize],
    pushed: &mut Replies,
) -> Result<Tried, Lost> {
    // The tag is out before the batch is: its mark may come back before EXEC's reply does.
    let (tag, mark) = OpenTag::issue(set, site).await;
    backend.send(encode(&mark, group.iter().map(|&at| &members[at]), true)).await?;
    let mut got = Vec::with_capacity(group.len() + 3);
    for _ in 0..group.len() + 3 {
        got.push(backend.reply(pushed).await?);
    }
    let tried = judge(got)?;
    if matches!(tried, Tried::Done(_)) {
        tag.done();
    }
    Ok(tried)
}

async fn plain(
    backend: &mut Backend,
    members: &[Member],
    group: &[usize],
    answers: &mut [Option<Bytes>],
    pushed: &mut Replies,
) -> Result<(), Lost> {
    let mut out = Outgoing::default();
    for &at in group {
        out.put_request(members[at].request.raw());
    }
    backend.send(out).await?;
    for &at in group {
        answers[at] = Some(backend.reply(pushed).await?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(replies: &[&'static str]) -> Tried {
        judge(replies.iter().map(|reply| Bytes::from(*reply)).collect()).unwrap()
    }

    #[test]
    fn tells_what_became_of_a_batch() {
        let queued = "+QUEUED\r\n";
        let ok = "+OK\r\n";
        let one = Bytes::from_static(b":1\r\n");
        assert_eq!(judged(&[ok, queued, queued, "*2\r\n:0\r\n:1\r\n"]), Tried::Done(vec![one]));
        let error = "-ERR unknown command\r\n";
        let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
        let refused = Tried::Refused(vec![None, Some(error.into())]);
        assert_eq!(judged(&[ok, queued, queued, error, aborted]), refused);
        let oom = "-OOM command not allowed\r\n";
        assert_eq!(judged(&[ok, oom, oom, aborted]), Tried::MarkRefused(oom.into()));
        let late = "-EXECABORT Transaction discarded because of: OOM command not allowed\r\n";
        assert_eq!(judged(&[ok, queued, queued, late]), Tried::Discarded(oom.into()));
        let nil = replies::error(replies::NOT_EXECUTED).freeze();
        assert_eq!(judged(&[ok, queued, queued, "*-1\r\n"]), Tried::Discarded(nil));
        let busy = "-BUSY\r\n";
        assert_eq!(judged(&[busy, busy, busy, busy]), Tried::Alone(vec![busy.into()]));
        assert!(judge(vec![]).is_err());
        let short = [ok, queued, queued, "*1\r\n:0\r\n"].map(Bytes::from);
        assert!(judge(short.to_vec()).is_err());
    }
}
