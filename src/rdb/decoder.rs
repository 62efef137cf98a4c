//! The snapshot as a whole: header, opcodes, entries, checksum.

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};

use super::RdbError;
use super::encoding::Encoding;
use super::entry::Entry;
use super::opcode;
use super::reader::Reader;
use super::skip::{Skip, Step, Stop};
use super::version::{Flavour, HEADER, RdbVersion};

/// What a decoder accepts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most bytes that one entry may have in the snapshot, its key included, and the most that
    /// one compressed string in it may unpack to. A whole entry is held in memory.
    pub entry_bytes: u64,
}

impl Default for Limits {
    /// 1 GiB an entry: twice the 512 MiB that Redis's default `proto-max-bulk-len` lets a string be.
    fn default() -> Self {
        Self { entry_bytes: 1 << 30 }
    }
}

/// What a snapshot is made of, in the order it comes.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// The first bytes.
    Header {
        /// What the snapshot is written in.
        version: RdbVersion,
    },
    /// A fact about the snapshot or its server, as `redis-ver` or `repl-offset`.
    Aux {
        /// Its name.
        key: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// How many keys are to come in a database.
    ResizeDb {
        /// The database.
        db: u32,
        /// Number of keys.
        keys: u64,
        /// How many of them expire.
        expires: u64,
    },
    /// A function library, for `FUNCTION LOAD`.
    Function {
        /// Its source, with the line that names engine and library.
        code: Bytes,
    },
    /// A key and its value.
    Entry(Entry),
    /// The end; the checksum was right, or there was none.
    End,
}

/// Length of the checksum at the end.
const TRAILER: usize = 8;

/// What the bytes at the start of the buffer are.
#[derive(Debug, Clone, Copy)]
enum State {
    Header,
    /// A type byte or an opcode.
    Code,
    /// What follows an opcode.
    Opcode(u8),
    /// An entry, up to the end of its key.
    Key(Encoding),
    /// An entry whose key ends here.
    Value(Encoding, usize),
    Trailer,
    Done,
}

/// What is said of a key before it comes.
#[derive(Debug, Default)]
struct Ahead {
    expires_at: Option<u64>,
    idle: Option<u64>,
    frequency: Option<u8>,
    metadata: Bytes,
}

/// Cuts a snapshot into [`Item`]s. No I/O and no waiting: the caller brings the bytes.
///
/// After an error the decoder is of no more use.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    version: RdbVersion,
    state: State,
    skip: Skip,
    /// Bytes taken from the buffer before the record at its start.
    offset: u64,
    digest: Digest,
    /// How many bytes of the record at the buffer's start are in the digest.
    digested: usize,
    db: u32,
    ahead: Ahead,
}

impl Decoder {
    /// A decoder for one snapshot.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            version: RdbVersion::redis(0),
            state: State::Header,
            skip: Skip::new(limits.entry_bytes),
            offset: 0,
            digest: Digest::new(CrcAlgorithm::Crc64Redis),
            digested: 0,
            db: 0,
            ahead: Ahead::default(),
        }
    }

    /// How many bytes of the snapshot have been taken as whole items.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next item off the start of `buffer`. `None` means that more bytes are needed, or,
    /// once [`Item::End`] has been returned, that nothing follows: bytes after the end of the
    /// snapshot stay in `buffer`.
    ///
    /// Until an item is whole its bytes stay in `buffer`, which must only be appended to; they are
    /// not looked at a second time. The bytes of an item share the buffer's memory.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, RdbError> {
        loop {
            match self.state {
                State::Header => return self.header(buffer),
                State::Trailer => return self.trailer(buffer),
                State::Done => return Ok(None),
                State::Code => {
                    let Some(&code) = buffer.first() else { return Ok(None) };
                    self.begin(code)?;
                }
                State::Opcode(code) => {
                    let Some(record) = self.record(buffer)? else { return Ok(None) };
                    if let Some(item) = self.opcode(code, record)? {
                        return Ok(Some(item));
                    }
                }
                State::Key(encoding) => {
                    if !self.walk(buffer)? {
                        return Ok(None);
                    }
                    self.skip.begin(encoding.layout());
                    self.state = State::Value(encoding, self.skip.at());
                }
                State::Value(encoding, key_end) => {
                    let Some(record) = self.record(buffer)? else { return Ok(None) };
                    return self
                        .entry(encoding, key_end, record)
                        .map(|entry| Some(Item::Entry(entry)));
                }
            }
        }
    }

    fn header(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, RdbError> {
        let Some(magic) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let version = RdbVersion::of_header(magic)?;
        self.version = version;
        self.digest.update(magic);
        self.take(buffer, HEADER);
        Ok(Some(Item::Header { version }))
    }

    fn trailer(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, RdbError> {
        let Some(trailer) = buffer.first_chunk::<TRAILER>() else { return Ok(None) };
        let found = u64::from_le_bytes(*trailer);
        let expected = self.digest.finalize();
        // Zero: the server runs with `rdbchecksum no`.
        if found != 0 && found != expected {
            return Err(RdbError::Checksum { expected, found });
        }
        self.take(buffer, TRAILER);
        self.state = State::Done;
        Ok(Some(Item::End))
    }

    /// Starts on the record whose first byte is `code`.
    fn begin(&mut self, code: u8) -> Result<(), RdbError> {
        if let Some(encoding) = Encoding::of_code(self.version.flavour, code) {
            self.skip.begin(&[Step::Bytes(1), Step::Text]);
            self.state = State::Key(encoding);
            return Ok(());
        }
        let steps = opcode::layout(self.version.flavour, code).ok_or(RdbError::Code {
            code,
            offset: self.offset,
            version: self.version,
        })?;
        self.skip.begin(steps);
        self.state = State::Opcode(code);
        Ok(())
    }

    /// Walks on, and keeps the checksum up with the walk while the bytes are warm.
    fn walk(&mut self, buffer: &BytesMut) -> Result<bool, RdbError> {
        let done = self.skip.run(buffer).map_err(|stop| match stop {
            Stop::Broken(what) => {
                RdbError::Broken { what, offset: self.offset + self.skip.at() as u64 }
            }
            Stop::TooLarge => {
                RdbError::TooLarge { offset: self.offset, limit: self.limits.entry_bytes }
            }
        })?;
        if !done {
            self.digest_to(self.skip.at(), buffer);
        }
        Ok(done)
    }

    fn digest_to(&mut self, end: usize, buffer: &BytesMut) {
        if let Some(walked) = buffer.get(self.digested..end) {
            self.digest.update(walked);
            self.digested = end;
        }
    }

    /// The record at the buffer's start, once it is whole.
    fn record(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, RdbError> {
        if !self.walk(buffer)? {
            return Ok(None);
        }
        let end = self.skip.at();
        self.digest_to(end, buffer);
        Ok(Some(self.take(buffer, end)))
    }

    /// Takes a record off, and gets ready for the next.
    fn take(&mut self, buffer: &mut BytesMut, size: usize) -> Bytes {
        self.offset += size as u64;
        self.digested = 0;
        self.skip.reset();
        self.state = State::Code;
        buffer.split_to(size).freeze()
    }

    fn entry(
        &mut self,
        encoding: Encoding,
        key_end: usize,
        record: Bytes,
    ) -> Result<Entry, RdbError> {
        let start = self.offset - record.len() as u64;
        let mut reader = Reader::at(record, start, 1);
        let key = reader.text()?;
        let value = reader.into_rest(key_end);
        let ahead = std::mem::take(&mut self.ahead);
        Ok(Entry {
            db: self.db,
            key,
            encoding,
            value,
            expires_at: ahead.expires_at,
            idle: ahead.idle,
            frequency: ahead.frequency,
            metadata: ahead.metadata,
            offset: start + key_end as u64,
        })
    }

    /// Acts on a whole opcode.
    fn opcode(&mut self, code: u8, record: Bytes) -> Result<Option<Item>, RdbError> {
        let start = self.offset - record.len() as u64;
        let whole = (code == opcode::KEY_METADATA_OR_SLOT_IMPORT).then(|| record.clone());
        let mut reader = Reader::at(record, start, 1);
        match code {
            opcode::END => self.state = State::Trailer,
            opcode::SELECT_DB => {
                let db = reader.length()?;
                self.db =
                    u32::try_from(db).map_err(|_| reader.broken("impossible database number"))?;
            }
            opcode::EXPIRES_SECONDS => {
                let seconds = u32::from_le_bytes(reader.array()?);
                self.ahead.expires_at = Some((u64::from(seconds) * 1000).max(1));
            }
            opcode::EXPIRES_MS => {
                // Redis keeps it signed. A time before 1970 is over as surely as 1 ms after, and
                // `RESTORE` takes 0 for "never".
                let time = i64::from_le_bytes(reader.array()?);
                self.ahead.expires_at = Some(u64::try_from(time).unwrap_or(0).max(1));
            }
            opcode::RESIZE_DB => {
                let (keys, expires) = (reader.length()?, reader.length()?);
                return Ok(Some(Item::ResizeDb { db: self.db, keys, expires }));
            }
            opcode::AUX => {
                let (key, value) = (reader.text()?, reader.text()?);
                return Ok(Some(Item::Aux { key, value }));
            }
            opcode::FREQUENCY => self.ahead.frequency = Some(reader.array::<1>()?[0]),
            opcode::IDLE => self.ahead.idle = Some(reader.length()?),
            opcode::FUNCTION => return Ok(Some(Item::Function { code: reader.text()? })),
            opcode::KEY_METADATA_OR_SLOT_IMPORT if self.version.flavour == Flavour::Redis => {
                self.ahead.metadata = whole.unwrap_or_default();
            }
            // Module data, slot hints and slot imports: they are their server's own.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot of these parts, with its checksum.
    fn snapshot(magic: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = [magic, &parts.concat(), &[opcode::END]].concat();
        let checksum = crc_fast::checksum(CrcAlgorithm::Crc64Redis, &bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Item>, RdbError> {
        decode_with(Limits::default(), bytes)
    }

    fn decode_with(limits: Limits, bytes: &[u8]) -> Result<Vec<Item>, RdbError> {
        let (mut decoder, mut buffer) = (Decoder::new(limits), BytesMut::from(bytes));
        let mut items = Vec::new();
        while let Some(item) = decoder.decode(&mut buffer)? {
            items.push(item);
        }
        Ok(items)
    }

    fn entries(items: Vec<Item>) -> Vec<Entry> {
        items
            .into_iter()
            .filter_map(|item| match item {
                Item::Entry(entry) => Some(entry),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn what_is_said_ahead_belongs_to_the_next_key_alone() {
        let parts: [&[u8]; 8] = [
            &[254, 3],
            &[251, 2, 1],
            &[252, 0x10, 0x27, 0, 0, 0, 0, 0, 0],
            &[248, 60],
            b"\x00\x01a\x01x",
            &[254, 5],
            &[249, 7],
            b"\x00\x01b\xc0\x09",
        ];
        let items = decode(&snapshot(b"REDIS0009", &parts)).unwrap();
        assert_eq!(items[0], Item::Header { version: RdbVersion::redis(9) });
        assert_eq!(items[1], Item::ResizeDb { db: 3, keys: 2, expires: 1 });
        assert_eq!(items.last(), Some(&Item::End));
        let [a, b]: [Entry; 2] = entries(items).try_into().unwrap();
        assert_eq!(
            (a.db, &a.key[..], a.expires_at, a.idle),
            (3, &b"a"[..], Some(10_000), Some(60))
        );
        assert_eq!((b.db, &b.key[..], b.expires_at, b.idle), (5, &b"b"[..], None, None));
        assert_eq!((b.frequency, &b.value[..]), (Some(7), &[0xc0, 9][..]));
    }

    #[test]
    fn the_magic_chooses_what_243_and_22_mean() {
        // Valkey: job and one range; hash with a field that never expires.
        let never = [255; 8];
        let parts: [&[u8]; 3] = [&[243, 1, b'j', 1, 0, 5], b"\x16\x01h\x01\x01f\x01v", &never];
        let hash = &entries(decode(&snapshot(b"VALKEY080", &parts)).unwrap())[0];
        assert_eq!(hash.encoding, Encoding::HashExpiryValkey);
        // Redis: metadata of one class with one number, for the string; time before field.
        let metadata = [243, 1, 1, 2, 3, 4, 2, 9, 0];
        let parts: [&[u8]; 3] = [&metadata, b"\x00\x01a\x01x", b"\x16\x01h\x01\x00\x01f\x01v"];
        let entries = entries(decode(&snapshot(b"REDIS0013", &parts)).unwrap());
        assert_eq!(entries[0].metadata[..], metadata);
        assert_eq!(entries[1].encoding, Encoding::HashExpiryPreGa);
        assert!(entries[1].metadata.is_empty());
    }

    #[test]
    fn modules_are_skipped_and_their_values_kept() {
        let aux = [247, 0x81, 1, 2, 3, 4, 5, 6, 7, 8, 2, 1, 5, 1, b'x', 0];
        let value: &[u8] =
            &[0x81, 1, 2, 3, 4, 5, 6, 7, 8, 1, 5, 3, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let parts: [&[u8]; 3] = [&aux, b"\x07\x01m", value];
        let module = &entries(decode(&snapshot(b"REDIS0012", &parts)).unwrap())[0];
        assert_eq!(module.value, value);
        let target = RdbVersion::redis(12);
        let error = module.to_commands(target, crate::rdb::CommandLimits::default(), &mut |_| {});
        assert!(matches!(error, Err(RdbError::NoCommands { .. })));
    }

    #[test]
    fn bytes_after_the_end_stay() {
        let mut bytes = snapshot(b"REDIS0010", &[]);
        bytes.extend(b"*1\r\n");
        let (mut decoder, mut buffer) =
            (Decoder::new(Limits::default()), BytesMut::from(&bytes[..]));
        while decoder.decode(&mut buffer).unwrap().is_some() {}
        assert_eq!(buffer, "*1\r\n");
        assert_eq!(decoder.offset(), bytes.len() as u64 - 4);
    }

    #[test]
    fn errors_say_what_and_where() {
        let text = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
        assert!(
            text(b"-ERR no such").starts_with("not an RDB snapshot: it begins with \"-ERR no s")
        );
        assert!(text(b"REDIS0014").starts_with("RDB version REDIS 14 isn't known"));
        assert_eq!(
            text(b"REDIS0011\xc8"),
            "unknown type or opcode 200 at byte 9 of the REDIS 11 snapshot"
        );
        assert_eq!(
            text(b"REDIS0011\x00\xc7"),
            "broken snapshot: unknown form of a string at byte 10"
        );
        let mut bytes = snapshot(b"REDIS0010", &[b"\x00\x01a\x01x"]);
        bytes[13] ^= 1;
        assert!(text(&bytes).starts_with("checksum of the snapshot is"));
        // A checksum of zero is none.
        let end = bytes.len() - 8;
        bytes[end..].fill(0);
        assert!(decode(&bytes).is_ok());
    }

    #[test]
    fn a_large_entry_is_refused_before_it_arrives() {
        let limits = Limits { entry_bytes: 100 };
        let bytes = b"REDIS0011\x00\x01a\x80\x00\x00\x01\x00";
        let error = decode_with(limits, bytes).unwrap_err();
        assert_eq!(error, RdbError::TooLarge { offset: 9, limit: 100 });
    }

    #[test]
    fn an_entry_in_many_pieces_is_walked_once() {
        let value = vec![b'x'; 1 << 20];
        let head = [b"\x01\x01l\x80\x00\x00\x00\x04" as &[u8]].concat();
        let element = [&[0x80u8, 0, 0x10, 0, 0] as &[u8], &value].concat();
        let bytes = snapshot(b"REDIS0011", &[&head, &element, &element, &element, &element]);
        let (mut decoder, mut buffer) = (Decoder::new(Limits::default()), BytesMut::new());
        let mut found = 0;
        for piece in bytes.chunks(1000) {
            let before = decoder.skip.at();
            buffer.extend_from_slice(piece);
            while let Some(item) = decoder.decode(&mut buffer).unwrap() {
                found += usize::from(matches!(item, Item::Entry(_)));
            }
            assert!(decoder.skip.at() >= before || buffer.len() < 2000);
        }
        assert_eq!((found, buffer.len()), (1, 0));
    }
}
