//! Hashes as commands, with the times at which single fields expire.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::RdbError;
use super::encoding::Encoding;
use super::packed::{Packed, each};
use super::reader::{Reader, decimal};
use super::writer::{Chunks, Writer};

/// A hash's fields on their way, and the expiry times that must follow them.
struct Fields<'w, 'a> {
    pairs: Chunks<'w, 'a>,
    expiring: BTreeMap<u64, Vec<Bytes>>,
}

impl Fields<'_, '_> {
    /// `expires_at` is in milliseconds since 1970.
    fn add(&mut self, field: Bytes, value: Bytes, expires_at: Option<u64>) {
        if let Some(time) = expires_at {
            self.expiring.entry(time).or_default().push(field.clone());
        }
        self.pairs.add([field, value]);
    }

    fn finish(mut self) -> Result<(), RdbError> {
        self.pairs.flush();
        let writer = self.pairs.writer;
        let target = writer.target;
        if !self.expiring.is_empty() && !target.has_field_expiry() {
            return Err(RdbError::NoCommands { what: "a hash whose fields expire", target });
        }
        for (time, fields) in self.expiring {
            for fields in fields.chunks(writer.limits.elements.max(1)) {
                let head = [decimal(time), Bytes::from_static(b"FIELDS"), decimal(fields.len())];
                writer.send("HPEXPIREAT", head.into_iter().chain(fields.iter().cloned()));
            }
        }
        Ok(())
    }
}

/// Writes the hash that `reader` is at.
pub(super) fn hash(
    encoding: Encoding,
    mut reader: Reader,
    writer: &mut Writer,
) -> Result<(), RdbError> {
    let mut fields = Fields { pairs: writer.chunks_of("HSET"), expiring: BTreeMap::new() };
    match encoding {
        Encoding::Hash | Encoding::HashExpiryValkey => {
            for _ in 0..reader.length()? {
                let (field, value) = (reader.text()?, reader.text()?);
                let expires_at = match encoding {
                    // -1: never.
                    Encoding::HashExpiryValkey => {
                        u64::try_from(i64::from_le_bytes(reader.array()?)).ok()
                    }
                    _ => None,
                };
                fields.add(field, value, expires_at);
            }
        }
        Encoding::HashExpiry | Encoding::HashExpiryPreGa => {
            let first = match encoding {
                Encoding::HashExpiry => Some(u64::from_le_bytes(reader.array()?)),
                _ => None,
            };
            for _ in 0..reader.length()? {
                let expires_at = match (reader.length()?, first) {
                    (0, _) => None,
                    (time, None) => Some(time),
                    // Counted from the first field to expire, plus one so that 0 means never.
                    (time, Some(first)) => Some(first.saturating_add(time - 1)),
                };
                fields.add(reader.text()?, reader.text()?, expires_at);
            }
        }
        _ => {
            if encoding == Encoding::HashListpackExpiry {
                // When the first field expires; each field has its own time too.
                reader.array::<8>()?;
            }
            let raw = reader.text()?;
            packed_hash(encoding, &reader, raw, &mut fields)?;
        }
    }
    fields.finish()
}

fn packed_hash(
    encoding: Encoding,
    reader: &Reader,
    raw: Bytes,
    fields: &mut Fields,
) -> Result<(), RdbError> {
    let packed = match encoding {
        Encoding::HashZipmap => Packed::zipmap(raw),
        Encoding::HashZiplist => Packed::ziplist(raw),
        _ => Packed::listpack(raw),
    };
    let has_times =
        matches!(encoding, Encoding::HashListpackExpiry | Encoding::HashListpackExpiryPreGa);
    each(reader, Ok(packed), |packed, field| {
        let value = packed.need()?.into_text();
        let time = if has_times { packed.need_integer()? } else { 0 };
        // 0: never.
        fields.add(field, value, u64::try_from(time).ok().filter(|&time| time > 0));
        Ok(())
    })
}
