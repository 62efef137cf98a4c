//! Putting commands together: one at a time, or as few as the limits let many elements go in.

use bytes::Bytes;

use super::version::RdbVersion;

/// How large a command may get. One that carries a single element may be larger, since elements
/// aren't split (except strings, which `APPEND` puts together).
#[derive(Debug, Clone, Copy)]
pub struct CommandLimits {
    /// The most elements, or pairs, in a command.
    pub elements: usize,
    /// The most bytes of elements in a command.
    pub bytes: usize,
}

impl Default for CommandLimits {
    /// 1000 elements and 256 KiB: a server is busy with such a command for well under a millisecond.
    fn default() -> Self {
        Self { elements: 1000, bytes: 256 << 10 }
    }
}

/// Where commands go, and what they must keep to.
pub(super) struct Writer<'a> {
    pub(super) key: Bytes,
    pub(super) target: RdbVersion,
    pub(super) limits: CommandLimits,
    pub(super) emit: &'a mut dyn FnMut(Vec<Bytes>),
}

impl<'a> Writer<'a> {
    /// A command of any shape.
    pub(super) fn emit(&mut self, command: Vec<Bytes>) {
        (self.emit)(command);
    }

    /// A command whose first argument is the key.
    pub(super) fn send(&mut self, name: &'static str, rest: impl IntoIterator<Item = Bytes>) {
        let mut command = vec![Bytes::from_static(name.as_bytes()), self.key.clone()];
        command.extend(rest);
        (self.emit)(command);
    }

    /// A command that takes any number of elements after `head`, sent as often as it takes.
    pub(super) fn chunks<'w>(&'w mut self, head: Vec<Bytes>) -> Chunks<'w, 'a> {
        Chunks { writer: self, head, tail: Vec::new(), elements: Vec::new(), count: 0, bytes: 0 }
    }

    /// The same for a command whose only other argument is the key.
    pub(super) fn chunks_of<'w>(&'w mut self, name: &'static str) -> Chunks<'w, 'a> {
        let head = vec![Bytes::from_static(name.as_bytes()), self.key.clone()];
        self.chunks(head)
    }
}

/// Elements gathered for a command.
pub(super) struct Chunks<'w, 'a> {
    pub(super) writer: &'w mut Writer<'a>,
    head: Vec<Bytes>,
    tail: Vec<Bytes>,
    elements: Vec<Bytes>,
    count: usize,
    bytes: usize,
}

impl Chunks<'_, '_> {
    /// Ends every command with these arguments.
    pub(super) fn with_tail(mut self, tail: Vec<Bytes>) -> Self {
        self.tail = tail;
        self
    }

    /// Adds one element, which may be several arguments that belong together.
    pub(super) fn add<const N: usize>(&mut self, element: [Bytes; N]) {
        let size: usize = element.iter().map(Bytes::len).sum();
        let limits = self.writer.limits;
        let full = self.count >= limits.elements || self.bytes.saturating_add(size) > limits.bytes;
        if full {
            self.flush();
        }
        self.elements.extend(element);
        self.count += 1;
        self.bytes = self.bytes.saturating_add(size);
    }

    /// Sends what is gathered. To be called when all elements are in.
    pub(super) fn flush(&mut self) {
        if self.count > 0 {
            let mut command = self.head.clone();
            command.append(&mut self.elements);
            command.extend_from_slice(&self.tail);
            self.writer.emit(command);
        }
        (self.count, self.bytes) = (0, 0);
    }
}
