//! Streams as commands: entries, then groups with consumers and pending entries, then the counters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

use super::RdbError;
use super::commands::Writer;
use super::encoding::Encoding;
use super::packed::{Fault, Packed};
use super::reader::{Reader, decimal};

/// Id of a stream's entry: milliseconds, and a number among those of the same millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Id {
    ms: u64,
    seq: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl Id {
    fn text(self) -> Bytes {
        Bytes::from(self.to_string())
    }

    /// As a length each.
    fn read(reader: &mut Reader) -> Result<Self, RdbError> {
        Ok(Self { ms: reader.length()?, seq: reader.length()? })
    }

    /// As 16 bytes, big endian.
    fn read_fixed(reader: &mut Reader) -> Result<Self, RdbError> {
        let (ms, seq) = (reader.array()?, reader.array()?);
        Ok(Self { ms: u64::from_be_bytes(ms), seq: u64::from_be_bytes(seq) })
    }

    /// As the key of a node.
    fn from_key(key: &[u8]) -> Option<Self> {
        let (ms, seq) = key.split_first_chunk()?;
        let seq = u64::from_be_bytes(seq.try_into().ok()?);
        Some(Self { ms: u64::from_be_bytes(*ms), seq })
    }

    /// The id that lies this far from `self`; the format lets the differences wrap.
    fn offset(self, ms: i64, seq: i64) -> Self {
        Self { ms: self.ms.wrapping_add_signed(ms), seq: self.seq.wrapping_add_signed(seq) }
    }
}

/// What a snapshot says of a stream beside its entries.
struct Stream {
    /// How many nodes hold the entries, and where they begin. They are read last, one at a time.
    nodes: (u64, Reader),
    length: u64,
    last: Id,
    /// Since Redis 7.0: the largest id deleted, and how many entries were ever added.
    counters: Option<(Id, u64)>,
    groups: Vec<Group>,
}

struct Group {
    name: Bytes,
    last: Id,
    /// How many entries it has read; `None`: not known.
    read: Option<u64>,
    consumers: Vec<Consumer>,
}

struct Consumer {
    name: Bytes,
    /// In order of id.
    pending: Vec<Pending>,
}

struct Pending {
    id: Id,
    /// When it was delivered, in milliseconds since 1970.
    time: u64,
    /// How often.
    count: u64,
}

impl Stream {
    fn read(encoding: Encoding, reader: &mut Reader) -> Result<Self, RdbError> {
        let nodes = (reader.length()?, reader.clone());
        for _ in 0..nodes.0 {
            reader.skip_text()?;
            reader.skip_text()?;
        }
        let length = reader.length()?;
        let last = Id::read(reader)?;
        let has_counters = encoding != Encoding::Stream;
        let counters = if has_counters {
            // The first id follows from the entries.
            Id::read(reader)?;
            Some((Id::read(reader)?, reader.length()?))
        } else {
            None
        };
        let mut groups = Vec::new();
        for _ in 0..reader.length()? {
            groups.push(Group::read(encoding, reader)?);
        }
        // What idempotent producers have sent (Redis 8.6) follows; it is left out, see `to_commands`.
        Ok(Self { nodes, length, last, counters, groups })
    }
}

impl Group {
    fn read(encoding: Encoding, reader: &mut Reader) -> Result<Self, RdbError> {
        let name = reader.text()?;
        let last = Id::read(reader)?;
        let read = match encoding {
            Encoding::Stream => None,
            // -1, written as an unsigned number: not known.
            _ => Some(reader.length()?).filter(|&read| i64::try_from(read).is_ok()),
        };
        let mut delivered = BTreeMap::new();
        for _ in 0..reader.length()? {
            let id = Id::read_fixed(reader)?;
            let time = u64::from_le_bytes(reader.array()?);
            delivered.insert(id, (time, reader.length()?));
        }
        let mut consumers = Vec::new();
        for _ in 0..reader.length()? {
            consumers.push(Consumer::read(encoding, reader, &mut delivered)?);
        }
        if !delivered.is_empty() {
            return Err(reader.broken("pending entry of a stream that no consumer has"));
        }
        Ok(Self { name, last, read, consumers })
    }
}

impl Consumer {
    fn read(
        encoding: Encoding,
        reader: &mut Reader,
        delivered: &mut BTreeMap<Id, (u64, u64)>,
    ) -> Result<Self, RdbError> {
        let name = reader.text()?;
        // When it was seen, and when it last got something.
        reader.array::<8>()?;
        if matches!(encoding, Encoding::Stream3 | Encoding::Stream4) {
            reader.array::<8>()?;
        }
        let mut pending = Vec::new();
        for _ in 0..reader.length()? {
            let id = Id::read_fixed(reader)?;
            let (time, count) = delivered
                .remove(&id)
                .ok_or_else(|| reader.broken("pending entry that the stream's group lacks"))?;
            pending.push(Pending { id, time, count });
        }
        Ok(Self { name, pending })
    }
}

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
