//! The length prefix. Its two top bits say how it goes on: 6 bits, 14 bits, 4 or 8 bytes big endian,
//! or that no length follows but a string in a special form.

/// Form of a string that is an 8-bit integer.
pub(super) const INT8: u8 = 0;
/// Form of a string that is a 16-bit integer, little endian.
pub(super) const INT16: u8 = 1;
/// Form of a string that is a 32-bit integer, little endian.
pub(super) const INT32: u8 = 2;
/// Form of a string that is compressed: length packed, length unpacked, LZF data.
pub(super) const LZF: u8 = 3;

/// What a length prefix says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    /// A plain number.
    Length(u64),
    /// The form of the string that follows: [`INT8`] and its neighbours.
    Form(u8),
}

/// What a prefix that is whole, but means nothing, is reported as.
pub(super) const BAD_PREFIX: &str = "impossible length prefix";

/// Reads the prefix at the start of `bytes`, and how many bytes it takes. `Ok(None)`: it isn't all
/// there yet.
#[inline]
pub(super) fn prefix(bytes: &[u8]) -> Result<Option<(Prefix, usize)>, &'static str> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let low = first & 0x3f;
    Ok(match first >> 6 {
        0 => Some((Prefix::Length(low.into()), 1)),
        1 => bytes.get(1).map(|&next| (Prefix::Length(u64::from(low) << 8 | u64::from(next)), 2)),
        3 => Some((Prefix::Form(low), 1)),
        _ => match first {
            0x80 => {
                fixed(bytes).map(|number| (Prefix::Length(u32::from_be_bytes(number).into()), 5))
            }
            0x81 => fixed(bytes).map(|number| (Prefix::Length(u64::from_be_bytes(number)), 9)),
            _ => return Err(BAD_PREFIX),
        },
    })
}

/// The `N` bytes after the first.
fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.get(1..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width() {
        let cases: [(&[u8], Prefix, usize); 6] = [
            (&[0x3f], Prefix::Length(63), 1),
            (&[0x41, 0x02], Prefix::Length(0x102), 2),
            (&[0x80, 0, 1, 0, 0], Prefix::Length(1 << 16), 5),
            (&[0x81, 0, 0, 1, 0, 0, 0, 0, 0], Prefix::Length(1 << 40), 9),
            (&[0x81, 255, 255, 255, 255, 255, 255, 255, 255], Prefix::Length(u64::MAX), 9),
            (&[0xc3], Prefix::Form(LZF), 1),
        ];
        for (bytes, expected, size) in cases {
            assert_eq!(prefix(bytes), Ok(Some((expected, size))));
            for cut in 0..size {
                assert_eq!(prefix(&bytes[..cut]), Ok(None), "{bytes:?} cut at {cut}");
            }
        }
        assert_eq!(prefix(&[0x82, 0]), Err(BAD_PREFIX));
    }
}
