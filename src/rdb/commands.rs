//! Values as native commands, for targets that can't load the payload, and for values too large to
//! go in one.

use bytes::Bytes;

use super::RdbError;
use super::encoding::Encoding;
use super::entry::Entry;
use super::hash::hash;
use super::packed::{Packed, each};
use super::reader::{Reader, decimal};
use super::stream;
use super::version::RdbVersion;
use super::writer::{CommandLimits, Writer};

impl Entry {
    /// Gives `emit` the commands that make this key on a server whose newest version is `target`, in
    /// order, each as its arguments.
    ///
    /// Compressed parts are unpacked one at a time as `emit` is called, to at most 88 times their size:
    /// whoever sends commands on, rather than gather them, holds little memory.
    ///
    /// The commands add to what is there: the key must not exist before. The database must have been
    /// selected. The expiry comes last, as `PEXPIREAT`. What commands can't say is left out: idle
    /// time and use frequency, when a stream's consumers were last seen, the memory of idempotent
    /// producers, modules' metadata. What the target can't hold at all is an error
    /// ([`RdbError::NoCommands`]), and so is a broken value; commands emitted until then are then
    /// only a part of the value.
    pub fn to_commands(
        &self,
        target: RdbVersion,
        limits: CommandLimits,
        emit: &mut dyn FnMut(Vec<Bytes>),
    ) -> Result<(), RdbError> {
        let reader = Reader::at(self.value.clone(), self.offset, 0);
        let mut writer = Writer { key: self.key.clone(), target, limits, emit };
        match self.encoding.type_name() {
            "string" => string(reader, &mut writer)?,
            "list" => list(self.encoding, reader, &mut writer)?,
            "set" => set(self.encoding, reader, &mut writer)?,
            "zset" => zset(self.encoding, reader, &mut writer)?,
            "hash" => hash(self.encoding, reader, &mut writer)?,
            "stream" => stream::stream(self.encoding, reader, &mut writer)?,
            _ => return Err(RdbError::NoCommands { what: "a value of a module", target }),
        }
        if let Some(time) = self.expires_at {
            writer.send("PEXPIREAT", [decimal(time)]);
        }
        Ok(())
    }
}

fn string(mut reader: Reader, writer: &mut Writer) -> Result<(), RdbError> {
    let mut rest = reader.text()?;
    let piece = writer.limits.bytes.max(1);
    let mut name = "SET";
    loop {
        let next = rest.split_to(piece.min(rest.len()));
        writer.send(name, [next]);
        name = "APPEND";
        if rest.is_empty() {
            break;
        }
    }
    Ok(())
}

fn list(encoding: Encoding, mut reader: Reader, writer: &mut Writer) -> Result<(), RdbError> {
    /// Of a quicklist's node: the element itself, or a listpack of elements.
    const PLAIN: u64 = 1;
    const PACKED: u64 = 2;
    let mut elements = writer.chunks_of("RPUSH");
    let nodes = if encoding == Encoding::ListZiplist { 1 } else { reader.length()? };
    for _ in 0..nodes {
        let container = match encoding {
            Encoding::List => PLAIN,
            Encoding::ListQuicklist2 => reader.length()?,
            _ => PACKED,
        };
        let node = reader.text()?;
        let packed = match (container, encoding) {
            (PLAIN, _) => {
                elements.add([node]);
                continue;
            }
            (PACKED, Encoding::ListQuicklist2) => Packed::listpack(node),
            (PACKED, _) => Packed::ziplist(node),
            _ => return Err(reader.broken("unknown kind of a list's node")),
        };
        each(&reader, Ok(packed), |_, element| {
            elements.add([element]);
            Ok(())
        })?;
    }
    elements.flush();
    Ok(())
}

fn set(encoding: Encoding, mut reader: Reader, writer: &mut Writer) -> Result<(), RdbError> {
    let mut members = writer.chunks_of("SADD");
    if encoding == Encoding::Set {
        for _ in 0..reader.length()? {
            members.add([reader.text()?]);
        }
    } else {
        let raw = reader.text()?;
        let packed = match encoding {
            Encoding::SetIntset => Packed::intset(raw),
            _ => Ok(Packed::listpack(raw)),
        };
        each(&reader, packed, |_, member| {
            members.add([member]);
            Ok(())
        })?;
    }
    members.flush();
    Ok(())
}

fn zset(encoding: Encoding, mut reader: Reader, writer: &mut Writer) -> Result<(), RdbError> {
    let mut members = writer.chunks_of("ZADD");
    match encoding {
        Encoding::Zset | Encoding::Zset2 => {
            for _ in 0..reader.length()? {
                let member = reader.text()?;
                let score = match encoding {
                    Encoding::Zset => reader.old_double()?,
                    _ => score(reader.double()?).ok_or_else(|| reader.broken(NO_NUMBER))?,
                };
                members.add([score, member]);
            }
        }
        _ => {
            let raw = reader.text()?;
            let packed = match encoding {
                Encoding::ZsetZiplist => Packed::ziplist(raw),
                _ => Packed::listpack(raw),
            };
            each(&reader, Ok(packed), |packed, member| {
                let score = packed.need()?.into_text();
                members.add([score, member]);
                Ok(())
            })?;
        }
    }
    members.flush();
    Ok(())
}

const NO_NUMBER: &str = "score that is no number";

/// A score as text that reads back as the same double.
fn score(score: f64) -> Option<Bytes> {
    let text = match score {
        _ if score.is_nan() => return None,
        f64::INFINITY => "inf".to_owned(),
        f64::NEG_INFINITY => "-inf".to_owned(),
        // Plain digits as far as people write them so, not 300 of them.
        _ if score == 0.0 || (1e-5..1e17).contains(&score.abs()) => score.to_string(),
        _ => format!("{score:e}"),
    };
    Some(Bytes::from(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rdb::Flavour;

    const REDIS_7_4: RdbVersion = RdbVersion::redis(12);

    fn written(
        encoding: Encoding,
        value: &[u8],
        target: RdbVersion,
        limits: CommandLimits,
    ) -> Result<Vec<String>, RdbError> {
        let entry = Entry {
            db: 0,
            key: Bytes::from_static(b"k"),
            encoding,
            value: Bytes::copy_from_slice(value),
            expires_at: None,
            idle: None,
            frequency: None,
            metadata: Bytes::new(),
            offset: 1000,
        };
        let mut commands = Vec::new();
        entry.to_commands(target, limits, &mut |command| {
            let words: Vec<_> =
                command.iter().map(|word| word.escape_ascii().to_string()).collect();
            commands.push(words.join(" "));
        })?;
        Ok(commands)
    }

    fn one(encoding: Encoding, value: &[u8]) -> String {
        written(encoding, value, REDIS_7_4, CommandLimits::default()).unwrap().join("; ")
    }

    /// A string in front of which its length stands.
    fn text(raw: &[u8]) -> Vec<u8> {
        [&[u8::try_from(raw.len()).unwrap()], raw].concat()
    }

    /// Two elements, "f" and 3.
    const LISTPACK: &[u8] = b"\x0b\0\0\0\x02\0\x81f\x02\x03\x01\xff";
    const ZIPLIST: &[u8] = b"\x0f\0\0\0\x0d\0\0\0\x02\0\0\x01f\x03\xf4\xff";

    // The forms that the servers of the integration test don't write.
    #[test]
    fn old_forms() {
        assert_eq!(one(Encoding::List, b"\x02\x01a\xc0\x05"), "RPUSH k a 5");
        assert_eq!(one(Encoding::ListZiplist, &text(ZIPLIST)), "RPUSH k f 3");
        assert_eq!(one(Encoding::ZsetZiplist, &text(ZIPLIST)), "ZADD k 3 f");
        assert_eq!(one(Encoding::HashZiplist, &text(ZIPLIST)), "HSET k f 3");
        assert_eq!(one(Encoding::HashZipmap, &text(b"\x01\x01f\x01\x02v..\xff")), "HSET k f v");
        let zset = b"\x03\x01a\x031.5\x01b\xfe\x01c\xff";
        assert_eq!(one(Encoding::Zset, zset), "ZADD k 1.5 a inf b -inf c");
    }

    #[test]
    fn a_quicklist_has_nodes_of_both_kinds() {
        let nodes = [b"\x02\x02" as &[u8], &text(LISTPACK), b"\x01\x05plain"].concat();
        assert_eq!(one(Encoding::ListQuicklist2, &nodes), "RPUSH k f 3 plain");
        let error = written(
            Encoding::ListQuicklist2,
            b"\x01\x03\x01x",
            REDIS_7_4,
            CommandLimits::default(),
        );
        let what = "unknown kind of a list's node";
        assert_eq!(error, Err(RdbError::Broken { what, offset: 1004 }));
    }

    #[test]
    fn fields_expire_in_every_form() {
        let expected = "HSET k f v g w; HPEXPIREAT k 1000 FIELDS 1 f; HPEXPIREAT k 1005 FIELDS 1 g";
        let first = 1000_u64.to_le_bytes();
        let relative = [&first as &[u8], b"\x02\x01\x01f\x01v\x06\x01g\x01w"].concat();
        assert_eq!(one(Encoding::HashExpiry, &relative), expected);
        let absolute = b"\x02\x43\xe8\x01f\x01v\x43\xed\x01g\x01w";
        assert_eq!(one(Encoding::HashExpiryPreGa, absolute), expected);
        let second = 1005_u64.to_le_bytes();
        let behind = [b"\x02\x01f\x01v" as &[u8], &first, b"\x01g\x01w", &second].concat();
        assert_eq!(one(Encoding::HashExpiryValkey, &behind), expected);
        let triplets = b"------\x81f\x02\x81v\x02\xc3\xe8\x02\x81g\x02\x81w\x02\xc3\xed\x02\xff";
        assert_eq!(one(Encoding::HashListpackExpiryPreGa, &text(triplets)), expected);
        let triplets = [&first as &[u8], &text(triplets)].concat();
        assert_eq!(one(Encoding::HashListpackExpiry, &triplets), expected);

        let limits = CommandLimits::default();
        let old = written(Encoding::HashExpiry, &relative, RdbVersion::redis(11), limits);
        assert!(matches!(old, Err(RdbError::NoCommands { .. })));
    }

    #[test]
    fn commands_keep_to_the_limits() {
        let small = CommandLimits { elements: 2, bytes: 5 };
        let list = b"\x05\x01a\x01b\x01c\x07ddddddd\x01e";
        let commands = written(Encoding::List, list, REDIS_7_4, small).unwrap();
        assert_eq!(commands, ["RPUSH k a b", "RPUSH k c", "RPUSH k ddddddd", "RPUSH k e"]);
        let commands = written(Encoding::String, b"\x0cabcdefghijkl", REDIS_7_4, small).unwrap();
        assert_eq!(commands, ["SET k abcde", "APPEND k fghij", "APPEND k kl"]);
        assert_eq!(written(Encoding::String, b"\0", REDIS_7_4, small).unwrap(), ["SET k "]);
        let none = CommandLimits { elements: 0, bytes: 0 };
        let commands = written(Encoding::Set, b"\x02\x01a\x01b", REDIS_7_4, none).unwrap();
        assert_eq!(commands, ["SADD k a", "SADD k b"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Whatever the value, in whatever encoding.
        #[test]
        fn nonsense_never_panics(value in prop::collection::vec(any::<u8>(), 0..200), code: u8) {
            for flavour in [Flavour::Redis, Flavour::Valkey] {
                if let Some(encoding) = Encoding::of_code(flavour, code % 27) {
                    // As it is, and as the one string that packed forms are in.
                    let packed = text(&value[..value.len().min(63)]);
                    for value in [value.clone(), packed] {
                        let _ = written(encoding, &value, REDIS_7_4, CommandLimits::default());
                    }
                }
            }
        }
    }

    #[test]
    fn scores_read_back_as_they_were() {
        for number in [0.0, -0.0, 1.0, 0.1, -2.5e-7, 1e16, 1e300, 5e-324, f64::MAX, f64::INFINITY] {
            let text = score(number).unwrap();
            assert!(text.len() < 26, "{text:?}");
            let back: f64 = std::str::from_utf8(&text).unwrap().parse().unwrap();
            assert_eq!(back.to_bits(), number.to_bits(), "{text:?}");
        }
        assert_eq!(score(f64::NAN), None);
    }
}
