//! The forms that pack many elements into one string: listpack, ziplist, intset, zipmap.
//!
//! They are read front to back. What only helps to read them backwards (lengths of the element
//! before, position of the last) isn't looked at.

use bytes::Bytes;

use super::RdbError;
use super::reader::{Reader, decimal};

/// What is wrong with a packed string.
pub(super) type Fault = &'static str;

const ENDS_EARLY: Fault = "packed value ends early";
const BAD_ELEMENT: Fault = "unknown kind of element in a packed value";
/// Marks the end of a listpack, a ziplist and a zipmap.
const END: u8 = 0xff;

/// One element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Element {
    Text(Bytes),
    Integer(i64),
}

impl Element {
    pub(super) fn into_text(self) -> Bytes {
        match self {
            Self::Text(text) => text,
            Self::Integer(integer) => decimal(integer),
        }
    }

    pub(super) fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(integer) => Some(*integer),
            // Numbers that don't fit their packing are kept as text.
            Self::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        }
    }
}

/// Which form a packed string has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Listpack,
    Ziplist,
    Intset {
        width: usize,
        left: usize,
    },
    /// Whether the next element is a value: values have spare bytes behind them.
    Zipmap {
        value: bool,
    },
}

/// The elements of a packed string, one by one.
#[derive(Debug)]
pub(super) struct Packed {
    raw: Bytes,
    at: usize,
    form: Form,
}

impl Packed {
    pub(super) fn listpack(raw: Bytes) -> Self {
        // Total bytes (4), number of elements (2).
        Self { raw, at: 6, form: Form::Listpack }
    }

    pub(super) fn ziplist(raw: Bytes) -> Self {
        // Total bytes (4), position of the last element (4), number of elements (2).
        Self { raw, at: 10, form: Form::Ziplist }
    }

    pub(super) fn zipmap(raw: Bytes) -> Self {
        // Number of pairs (1).
        Self { raw, at: 1, form: Form::Zipmap { value: false } }
    }

    pub(super) fn intset(raw: Bytes) -> Result<Self, Fault> {
        let mut head = Self { raw, at: 0, form: Form::Listpack };
        let width = match u32::from_le_bytes(head.array()?) {
            2 => 2,
            4 => 4,
            8 => 8,
            _ => return Err("impossible width of an integer set"),
        };
        let left = u32::from_le_bytes(head.array()?) as usize;
        head.form = Form::Intset { width, left };
        Ok(head)
    }

    /// The next element, `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Element>, Fault> {
        if let Form::Intset { width, left } = &mut self.form {
            let width = *width;
            let Some(less) = left.checked_sub(1) else { return Ok(None) };
            *left = less;
            return self.signed_le(width).map(|integer| Some(Element::Integer(integer)));
        }
        if self.peek()? == END {
            return Ok(None);
        }
        match self.form {
            Form::Listpack => self.listpack_element(),
            Form::Ziplist => self.ziplist_element(),
            Form::Intset { .. } => Ok(Element::Integer(0)),
            Form::Zipmap { value } => self.zipmap_element(value),
        }
        .map(Some)
    }

    /// The next element, which must be there.
    pub(super) fn need(&mut self) -> Result<Element, Fault> {
        self.next()?.ok_or(ENDS_EARLY)
    }

    /// The next element, which must be there and an integer.
    pub(super) fn need_integer(&mut self) -> Result<i64, Fault> {
        self.need()?.as_integer().ok_or("text where a packed value must have a number")
    }

    fn listpack_element(&mut self) -> Result<Element, Fault> {
        let from = self.at;
        let first = self.byte()?;
        let element = match first {
            0..=0x7f => Element::Integer(first.into()),
            0x80..=0xbf => Element::Text(self.bytes(usize::from(first & 0x3f))?),
            0xc0..=0xdf => {
                // 13 bits with sign.
                let bits = i64::from(first & 0x1f) << 8 | i64::from(self.byte()?);
                Element::Integer(if bits >= 1 << 12 { bits - (1 << 13) } else { bits })
            }
            0xe0..=0xef => {
                let size = usize::from(first & 0x0f) << 8 | usize::from(self.byte()?);
                Element::Text(self.bytes(size)?)
            }
            0xf0 => {
                let size = u32::from_le_bytes(self.array()?) as usize;
                Element::Text(self.bytes(size)?)
            }
            0xf1 => Element::Integer(self.signed_le(2)?),
            0xf2 => Element::Integer(self.signed_le(3)?),
            0xf3 => Element::Integer(self.signed_le(4)?),
            0xf4 => Element::Integer(self.signed_le(8)?),
            _ => return Err(BAD_ELEMENT),
        };
        // The element's length stands behind it once more, 7 bits a byte. Redis's own bounds, one
        // below what 14, 21 and 28 bits would hold.
        let back = match self.at - from {
            0..=127 => 1,
            128..16383 => 2,
            16383..2_097_151 => 3,
            2_097_151..268_435_455 => 4,
            _ => 5,
        };
        self.bytes(back)?;
        Ok(element)
    }

    fn ziplist_element(&mut self) -> Result<Element, Fault> {
        // Length of the element before.
        if self.byte()? >= 0xfe {
            self.array::<4>()?;
        }
        let first = self.byte()?;
        Ok(match first {
            0..=0x3f => Element::Text(self.bytes(first.into())?),
            0x40..=0x7f => {
                let size = usize::from(first & 0x3f) << 8 | usize::from(self.byte()?);
                Element::Text(self.bytes(size)?)
            }
            0x80 => {
                let size = u32::from_be_bytes(self.array()?) as usize;
                Element::Text(self.bytes(size)?)
            }
            0xc0 => Element::Integer(self.signed_le(2)?),
            0xd0 => Element::Integer(self.signed_le(4)?),
            0xe0 => Element::Integer(self.signed_le(8)?),
            0xf0 => Element::Integer(self.signed_le(3)?),
            0xfe => Element::Integer(self.signed_le(1)?),
            0xf1..=0xfd => Element::Integer(i64::from(first & 0x0f) - 1),
            _ => return Err(BAD_ELEMENT),
        })
    }

    fn zipmap_element(&mut self, value: bool) -> Result<Element, Fault> {
        let size = match self.byte()? {
            254 => u32::from_le_bytes(self.array()?) as usize,
            size => size.into(),
        };
        let spare = if value { self.byte()? } else { 0 };
        let text = self.bytes(size)?;
        self.bytes(spare.into())?;
        self.form = Form::Zipmap { value: !value };
        Ok(Element::Text(text))
    }

    fn peek(&self) -> Result<u8, Fault> {
        self.raw.get(self.at).copied().ok_or(ENDS_EARLY)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let ahead = self.raw.get(self.at..).and_then(|ahead| ahead.first_chunk().copied());
        self.at += N;
        ahead.ok_or(ENDS_EARLY)
    }

    fn bytes(&mut self, count: usize) -> Result<Bytes, Fault> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.raw.len());
        let end = end.ok_or(ENDS_EARLY)?;
        let bytes = self.raw.slice(self.at..end);
        self.at = end;
        Ok(bytes)
    }

    /// A little-endian integer with sign, of `width` bytes (8 at most).
    fn signed_le(&mut self, width: usize) -> Result<i64, Fault> {
        let ahead = self.raw.get(self.at..).and_then(|ahead| ahead.get(..width));
        let mut wide = [0; 8];
        for (to, from) in wide.iter_mut().rev().zip(ahead.ok_or(ENDS_EARLY)?.iter().rev()) {
            *to = *from;
        }
        self.at += width;
        // The bytes are at the top, so that the shift brings the sign down with them.
        Ok(i64::from_le_bytes(wide) >> (64 - 8 * width))
    }
}

/// Hands each element of a packed string to `take`, which may go on to the next ones itself. Errors
/// are placed where `reader` is.
pub(super) fn each(
    reader: &Reader,
    packed: Result<Packed, Fault>,
    mut take: impl FnMut(&mut Packed, Bytes) -> Result<(), Fault>,
) -> Result<(), RdbError> {
    let walk = || {
        let mut packed = packed?;
        while let Some(element) = packed.next()? {
            take(&mut packed, element.into_text())?;
        }
        Ok(())
    };
    walk().map_err(|fault| reader.broken(fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut packed: Packed) -> Result<Vec<String>, Fault> {
        let mut texts = Vec::new();
        while let Some(element) = packed.next()? {
            texts.push(String::from_utf8_lossy(&element.into_text()).into_owned());
        }
        Ok(texts)
    }

    #[test]
    fn listpack_elements() {
        let mut raw = vec![0; 6];
        raw.extend([0x7f, 1]); // 127
        raw.extend([0x82, b'h', b'i', 3]);
        raw.extend([0xdf, 0xff, 2]); // -1 in 13 bits
        raw.extend([0xc1, 0x00, 2]); // 256
        raw.extend([0xf1, 0x00, 0x80, 3]); // -32768
        raw.extend([0xf2, 0x00, 0x00, 0x80, 4]); // -8388608
        raw.extend([0xf3, 0xff, 0xff, 0xff, 0x7f, 5]);
        raw.extend([0xf4, 0, 0, 0, 0, 0, 0, 0, 0x80, 9]);
        raw.extend([0xe0, 200]);
        raw.extend([b'x'; 200]);
        raw.extend([0, 0]); // two bytes for a length of 202
        raw.push(0xff);
        let texts = all(Packed::listpack(raw.into())).unwrap();
        assert_eq!(texts[..4], ["127", "hi", "-1", "256"]);
        assert_eq!(texts[4..8], ["-32768", "-8388608", "2147483647", "-9223372036854775808"]);
        assert_eq!(texts[8].len(), 200);
    }

    #[test]
    fn ziplist_elements() {
        let mut raw = vec![0; 10];
        raw.extend([0, 0x02, b'h', b'i']);
        raw.extend([0xfe, 0, 0, 0, 0, 0x40, 1, b'x']); // long form of the length before
        raw.extend([0, 0xf1, 0, 0xfd]); // 0 and 12
        raw.extend([0, 0xfe, 0x80, 0, 0xc0, 0, 1, 0, 0xf0, 0xff, 0xff, 0xff]);
        raw.push(0xff);
        let texts = all(Packed::ziplist(raw.into())).unwrap();
        assert_eq!(texts, ["hi", "x", "0", "12", "-128", "256", "-1"]);
    }

    #[test]
    fn zipmap_and_intset_elements() {
        let raw = Bytes::from_static(b"\x02\x01a\x02\x01xy.\xfe\x01\0\0\0b\x00\x00\xff");
        assert_eq!(all(Packed::zipmap(raw)).unwrap(), ["a", "xy", "b", ""]);
        let raw = Bytes::from_static(&[2, 0, 0, 0, 2, 0, 0, 0, 0xff, 0xff, 5, 0]);
        assert_eq!(all(Packed::intset(raw).unwrap()).unwrap(), ["-1", "5"]);
    }

    #[test]
    fn torn_values_are_errors() {
        assert!(all(Packed::listpack(Bytes::new())).is_err());
        assert!(all(Packed::listpack(vec![0, 0, 0, 0, 0, 0, 0x85, 1].into())).is_err());
        assert!(all(Packed::ziplist(vec![0; 11].into())).is_err());
        assert!(Packed::intset(Bytes::from_static(&[2, 0, 0])).is_err());
        let short = Bytes::from_static(&[8, 0, 0, 0, 255, 255, 255, 255, 1]);
        assert!(all(Packed::intset(short).unwrap()).is_err());
    }
}
