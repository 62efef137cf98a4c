//! Reading a record that is whole.

use bytes::Bytes;

use super::RdbError;
use super::length::{self, Prefix};

/// The most bytes that one byte of LZF data can stand for: a reference of 3 bytes repeats up to
/// 264 bytes.
const LZF_MOST: usize = 88;

/// A place in a record, and where in the snapshot that record began.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    raw: Bytes,
    at: usize,
    start: u64,
}

impl Reader {
    /// Reads `raw`, which begins at byte `start` of the snapshot, from its byte `at`.
    pub(super) fn at(raw: Bytes, start: u64, at: usize) -> Self {
        Self { raw, at, start }
    }

    /// An error at this place.
    pub(super) fn broken(&self, what: &'static str) -> RdbError {
        RdbError::Broken { what, offset: self.start + self.at as u64 }
    }

    /// Everything from `at` on.
    pub(super) fn into_rest(mut self, at: usize) -> Bytes {
        self.raw.split_off(at.min(self.raw.len()))
    }

    fn prefix(&mut self) -> Result<Prefix, RdbError> {
        let ahead = self.raw.get(self.at..).unwrap_or_default();
        let (prefix, size) = length::prefix(ahead)
            .map_err(|what| self.broken(what))?
            .ok_or_else(|| self.broken("value ends within a length"))?;
        self.at += size;
        Ok(prefix)
    }

    pub(super) fn length(&mut self) -> Result<u64, RdbError> {
        match self.prefix()? {
            Prefix::Length(length) => Ok(length),
            Prefix::Form(_) => Err(self.broken("a string where a length must be")),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        let array = self.raw.get(self.at..).and_then(|ahead| ahead.first_chunk().copied());
        let array = array.ok_or_else(|| self.broken("value ends within a number"))?;
        self.at += N;
        Ok(array)
    }

    pub(super) fn bytes(&mut self, count: u64) -> Result<Bytes, RdbError> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        match end {
            Some(end) if end <= self.raw.len() => {
                let bytes = self.raw.slice(self.at..end);
                self.at = end;
                Ok(bytes)
            }
            _ => Err(self.broken("value ends within a string")),
        }
    }

    /// A string, as its text whatever form it has.
    pub(super) fn text(&mut self) -> Result<Bytes, RdbError> {
        Ok(match self.prefix()? {
            Prefix::Length(count) => self.bytes(count)?,
            Prefix::Form(length::INT8) => decimal(i8::from_le_bytes(self.array()?)),
            Prefix::Form(length::INT16) => decimal(i16::from_le_bytes(self.array()?)),
            Prefix::Form(length::INT32) => decimal(i32::from_le_bytes(self.array()?)),
            Prefix::Form(length::LZF) => self.unpack()?,
            Prefix::Form(_) => return Err(self.broken("unknown form of a string")),
        })
    }

    /// Steps over a string without unpacking it.
    pub(super) fn skip_text(&mut self) -> Result<(), RdbError> {
        let count = match self.prefix()? {
            Prefix::Length(count) => count,
            Prefix::Form(length::INT8) => 1,
            Prefix::Form(length::INT16) => 2,
            Prefix::Form(length::INT32) => 4,
            Prefix::Form(length::LZF) => {
                let packed = self.length()?;
                self.length()?;
                packed
            }
            Prefix::Form(_) => return Err(self.broken("unknown form of a string")),
        };
        self.bytes(count).map(drop)
    }

    fn unpack(&mut self) -> Result<Bytes, RdbError> {
        let (packed, unpacked) = (self.length()?, self.length()?);
        let packed = self.bytes(packed)?;
        // No more memory than the bytes that are there can fill.
        usize::try_from(unpacked)
            .ok()
            .filter(|&unpacked| unpacked <= packed.len().saturating_mul(LZF_MOST))
            .and_then(|unpacked| lzf_rust::decompress_into_vec(&packed, unpacked).ok())
            .map(Bytes::from)
            .ok_or_else(|| self.broken("compressed string doesn't unpack to its length"))
    }

    pub(super) fn double(&mut self) -> Result<f64, RdbError> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// A score as text, as the first form of a sorted set has it.
    pub(super) fn old_double(&mut self) -> Result<Bytes, RdbError> {
        match self.array()? {
            [253] => Err(self.broken("score that is no number")),
            [254] => Ok(Bytes::from_static(b"inf")),
            [255] => Ok(Bytes::from_static(b"-inf")),
            [size] => self.bytes(size.into()),
        }
    }
}

/// An integer as text.
pub(super) fn decimal(number: impl itoa::Integer) -> Bytes {
    Bytes::copy_from_slice(itoa::Buffer::new().format(number).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(raw: &'static [u8]) -> Result<Bytes, RdbError> {
        Reader::at(Bytes::from_static(raw), 100, 0).text()
    }

    #[test]
    fn every_form_of_a_string_is_its_text() {
        assert_eq!(text(b"\x02hi").unwrap(), "hi");
        assert_eq!(text(&[0xc0, 0x80]).unwrap(), "-128");
        assert_eq!(text(&[0xc1, 0xe8, 0x03]).unwrap(), "1000");
        assert_eq!(text(&[0xc2, 0, 0, 0, 0x80]).unwrap(), "-2147483648");
        // One literal, then 9 bytes back by 1.
        assert_eq!(text(&[0xc3, 5, 10, 0, b'a', 0xe0, 0, 0]).unwrap(), "aaaaaaaaaa");
    }

    #[test]
    fn skipping_ends_where_reading_does() {
        let raw = b"\x02hi\xc0\x80\xc1\xe8\x03\xc2\0\0\0\x80\xc3\x05\x0a\0a\xe0\0\0\x01!";
        let mut reading = Reader::at(Bytes::from_static(raw), 0, 0);
        let mut skipping = reading.clone();
        for _ in 0..6 {
            reading.text().unwrap();
            skipping.skip_text().unwrap();
            assert_eq!(reading.at, skipping.at);
        }
        assert_eq!(reading.at, raw.len());
        assert!(skipping.skip_text().is_err());
    }

    #[test]
    fn a_compressed_string_must_unpack_to_its_length() {
        for raw in [
            &[0xc3, 5, 9, 0, b'a', 0xe0, 0, 0] as &[u8],
            &[0xc3, 5, 11, 0, b'a', 0xe0, 0, 0],
            &[0xc3, 1, 0x80, 0xff, 0xff, 0xff, 0xff, 0],
        ] {
            let error = text(raw).unwrap_err();
            assert!(matches!(error, RdbError::Broken { offset: 100.., .. }), "{error}");
        }
    }
}
