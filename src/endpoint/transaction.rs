//! Requests that go to the local Redis one by one, a client's own transactions among them.

use bytes::{Bytes, BytesMut};

use super::backend::Lost;
use super::replies::{self, Replies};
use super::tag::OpenTag;
use crate::resp;

/// What stands in a transaction in the place of what is not to be done: a read of nothing, whose
/// reply is then replaced.
pub(super) const NOTHING: &[u8] = b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n";
/// What spoils a transaction as a refused command does: a command that no server knows.
pub(super) const SPOILER: &[u8] = b"*1\r\n$20\r\nREDIS-DUPLEX-REFUSED\r\n";

/// One command of a transaction, by whose reply it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Item {
    /// The client's command.
    Theirs,
    /// The client's `SELECT` of this database.
    Select(u32),
    /// [`NOTHING`], and the reply for the client.
    Ours(&'static [u8]),
}

/// One request on its way, by what is to be done with its reply.
#[derive(Debug)]
pub(super) enum Step {
    /// Outside of a transaction; a `SELECT` names its database.
    Pass(Option<u32>),
    /// Outside of a transaction; it may take for ever.
    Block,
    /// `MULTI`, and the tag of the mark that follows it, if one does.
    Begin(Option<OpenTag>),
    /// The mark: its reply is nobody's.
    Mark,
    /// Within a transaction.
    Queue(Item),
    /// [`SPOILER`], and the error for the client.
    Spoil(String),
    Exec,
    Discard,
}

/// The transaction that is open at the local Redis.
#[derive(Debug)]
pub(super) struct Transaction {
    tag: Option<OpenTag>,
    items: Vec<Item>,
}

/// Answers the client by the reply to a step. `database` is the one in force.
pub(super) fn answer(
    step: Step,
    reply: &Bytes,
    open: &mut Option<Transaction>,
    database: &mut u32,
    replies: &mut Replies,
) -> Result<(), Lost> {
    match step {
        Step::Pass(select) => {
            if let (Some(number), true) = (select, reply == replies::OK) {
                *database = number;
            }
            replies.reply(reply);
        }
        Step::Block => replies.reply(reply),
        Step::Begin(tag) => {
            if reply == replies::OK {
                *open = Some(Transaction { tag, items: Vec::new() });
            }
            replies.reply(reply);
        }
        Step::Mark => {}
        Step::Queue(item) => {
            if let (Some(transaction), true) = (open.as_mut(), reply == replies::QUEUED) {
                transaction.items.push(item);
            }
            replies.reply(reply);
        }
        Step::Spoil(error) => replies.error(&error),
        Step::Discard => {
            *open = None;
            replies.reply(reply);
        }
        Step::Exec => match open.take() {
            Some(transaction) if reply.starts_with(b"*") && !reply.starts_with(b"*-") => {
                let marks = usize::from(transaction.tag.is_some());
                let (whole, selected) = without_mark(reply, marks, &transaction.items)?;
                if let Some(tag) = transaction.tag {
                    tag.done();
                }
                *database = selected.unwrap_or(*database);
                replies.reply(&whole);
            }
            // Refused, or a watched key was touched: the tag goes with the transaction.
            _ => replies.reply(reply),
        },
    }
    Ok(())
}

/// EXEC's array without the items of marks and with our own replies in it; and the database
/// that is selected after it, if one was.
fn without_mark(
    reply: &Bytes,
    marks: usize,
    items: &[Item],
) -> Result<(BytesMut, Option<u32>), Lost> {
    if resp::elements(reply).take(marks).any(|mark| mark.starts_with(b"-")) {
        return Err(Lost::Unexpected("a mark: somebody wrote the key redis-duplex-checkpoint"));
    }
    let mut out = BytesMut::with_capacity(reply.len());
    resp::put_array(&mut out, items.len());
    let mut selected = None;
    let mut count = 0;
    for (got, item) in resp::elements(reply).skip(marks).zip(items) {
        count += 1;
        match item {
            Item::Ours(ours) => out.extend_from_slice(ours),
            Item::Theirs => out.extend_from_slice(got),
            Item::Select(number) => {
                if got == replies::OK {
                    selected = Some(*number);
                }
                out.extend_from_slice(got);
            }
        }
    }
    if count != items.len() {
        return Err(Lost::Unexpected("EXEC"));
    }
    Ok((out, selected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_sees_only_its_own() {
        let reply = Bytes::from_static(b"*4\r\n:1\r\n+OK\r\n$0\r\n\r\n-ERR x\r\n");
        let items = [Item::Select(3), Item::Ours(b":1\r\n"), Item::Theirs];
        let (out, selected) = without_mark(&reply, 1, &items).unwrap();
        assert_eq!(&out[..], b"*3\r\n+OK\r\n:1\r\n-ERR x\r\n");
        assert_eq!(selected, Some(3));
        assert!(without_mark(&Bytes::from_static(b"*1\r\n:1\r\n"), 1, &items).is_err());
        let (empty, _) = without_mark(&Bytes::from_static(b"*1\r\n:0\r\n"), 1, &[]).unwrap();
        assert_eq!(&empty[..], b"*0\r\n");
    }
}
