//! Streams as commands: entries, then groups with consumers and pending entries, then the counters.

mod parts;

use std::collections::BTreeSet;

use bytes::Bytes;

use super::RdbError;
use super::encoding::Encoding;
use super::packed::{Fault, Packed};
use super::reader::{Reader, decimal};
use super::writer::Writer;
use parts::{Group, Id, Pending, Stream};

/// Writes the stream that `reader` is at.
pub(super) fn stream(
    encoding: Encoding,
    mut reader: Reader,
    writer: &mut Writer,
) -> Result<(), RdbError> {
    let stream = Stream::read(encoding, &mut reader)?;
    let mut missing = Missing::of(&stream.groups);
    let (nodes, mut reader) = (stream.nodes.0, stream.nodes.1.clone());
    for _ in 0..nodes {
        let first = Id::from_key(&reader.text()?);
        let first = first.ok_or_else(|| reader.broken("impossible key of a stream's node"))?;
        let node = reader.text()?;
        entries(first, node, writer, &mut missing).map_err(|fault| reader.broken(fault))?;
    }
    missing.stand_in(None, writer);
    if stream.length == 0 && missing.placed.is_empty() {
        // Only an entry makes a stream. 0-0 is no id; the last id is set below.
        let id = stream.last.max(Id { ms: 0, seq: 1 });
        let zero = Bytes::from_static(b"0");
        writer.send("XADD", [word("MAXLEN"), zero, id.text(), PLACEHOLDER, PLACEHOLDER]);
    }
    for group in &stream.groups {
        write_group(group, writer);
    }
    missing.take_away(&stream, writer);
    let mut end = vec![stream.last.text()];
    if writer.target.has_stream_counters() {
        // Without counters of its own it counts as one that nothing was ever deleted from, as
        // Redis 7.0 has it when it loads such a stream.
        let (deleted, added) = stream.counters.unwrap_or((Id::default(), stream.length));
        end.extend([word("ENTRIESADDED"), decimal(added), word("MAXDELETEDID"), deleted.text()]);
    }
    writer.send("XSETID", end);
    Ok(())
}

/// Field and value of entries that are there only for a while.
const PLACEHOLDER: Bytes = Bytes::from_static(b"-");

fn word(word: &'static str) -> Bytes {
    Bytes::from_static(word.as_bytes())
}

/// Pending entries that the stream itself has no more: deleted or trimmed after their delivery.
///
/// From Redis 7.0 on `XCLAIM` takes only ids that are in the stream. So such entries are put in, in
/// their order, claimed, and taken away again.
struct Missing {
    pending: std::iter::Peekable<std::collections::btree_set::IntoIter<Id>>,
    placed: Vec<Id>,
}

impl Missing {
    fn of(groups: &[Group]) -> Self {
        let consumers = groups.iter().flat_map(|group| &group.consumers);
        let pending = consumers.flat_map(|consumer| consumer.pending.iter().map(|one| one.id));
        let pending: BTreeSet<Id> = pending.collect();
        Self { pending: pending.into_iter().peekable(), placed: Vec::new() }
    }

    /// Puts in what belongs before the entry `next`, or at the end.
    fn stand_in(&mut self, next: Option<Id>, writer: &mut Writer) {
        while let Some(id) = self.pending.next_if(|&id| next.is_none_or(|next| id < next)) {
            writer.send("XADD", [id.text(), PLACEHOLDER, PLACEHOLDER]);
            self.placed.push(id);
        }
        self.pending.next_if(|&id| next == Some(id));
    }

    fn take_away(&self, stream: &Stream, writer: &mut Writer) {
        if self.placed.is_empty() {
            return;
        }
        if stream.counters.is_some_and(|(deleted, _)| deleted == Id::default()) {
            // Nothing was ever deleted, so they were trimmed, and are the first. `XDEL` would leave
            // a largest deleted id, which can't be set back to none.
            writer.send("XTRIM", [word("MAXLEN"), decimal(stream.length)]);
            return;
        }
        let head = vec![word("XDEL"), writer.key.clone()];
        let mut ids = writer.chunks(head);
        for id in &self.placed {
            ids.add([id.text()]);
        }
        ids.flush();
    }
}

/// Writes the entries of a node.
fn entries(
    first: Id,
    node: Bytes,
    writer: &mut Writer,
    missing: &mut Missing,
) -> Result<(), Fault> {
    /// Flags of an entry.
    const DELETED: i64 = 1;
    const SAME_FIELDS: i64 = 2;
    let mut packed = Packed::listpack(node);
    // Counts of valid and of deleted entries, the fields that most entries have, a zero.
    packed.need_integer()?;
    packed.need_integer()?;
    let mut fields = Vec::new();
    for _ in 0..packed.need_integer()? {
        fields.push(packed.need()?.into_text());
    }
    packed.need_integer()?;
    while let Some(flags) = packed.next()? {
        let flags = flags.as_integer().ok_or("impossible flags of a stream's entry")?;
        let id = first.offset(packed.need_integer()?, packed.need_integer()?);
        let mut arguments = vec![id.text()];
        if flags & SAME_FIELDS != 0 {
            for field in &fields {
                arguments.extend([field.clone(), packed.need()?.into_text()]);
            }
        } else {
            for _ in 0..packed.need_integer()? {
                arguments.extend([packed.need()?.into_text(), packed.need()?.into_text()]);
            }
        }
        // The number of elements of this entry, to go backwards by.
        packed.need_integer()?;
        if flags & DELETED == 0 {
            missing.stand_in(Some(id), writer);
            writer.send("XADD", arguments);
        }
    }
    Ok(())
}

fn write_group(group: &Group, writer: &mut Writer) {
    let key = writer.key.clone();
    let sub = |name| vec![word("XGROUP"), word(name), key.clone(), group.name.clone()];
    let mut create = sub("CREATE");
    create.push(group.last.text());
    if let Some(read) = group.read.filter(|_| writer.target.has_stream_counters()) {
        create.extend([word("ENTRIESREAD"), decimal(read)]);
    }
    writer.emit(create);
    for consumer in &group.consumers {
        let mut create = sub("CREATECONSUMER");
        create.push(consumer.name.clone());
        writer.emit(create);
        // What was fetched at once has one time and goes in one command.
        let alike = |a: &Pending, b: &Pending| (a.time, a.count) == (b.time, b.count);
        for run in consumer.pending.chunk_by(alike) {
            let Some(Pending { time, count, .. }) = run.first() else { continue };
            let (name, consumer) = (group.name.clone(), consumer.name.clone());
            let head = vec![word("XCLAIM"), key.clone(), name, consumer, word("0")];
            let tail = [word("TIME"), decimal(*time), word("RETRYCOUNT"), decimal(*count)];
            let tail = tail.into_iter().chain([word("FORCE"), word("JUSTID")]).collect();
            let mut ids = writer.chunks(head).with_tail(tail);
            for pending in run {
                ids.add([pending.id.text()]);
            }
            ids.flush();
        }
    }
}
