//! Finding where a reply ends, in RESP2 and RESP3, without building a tree.
//!
//! An aggregate only adds to the number of items still to come, so there is no recursion and no
//! depth that could hurt.

use super::scan::{ScanError, number_line};

/// Finds the end of the reply at the front of a buffer, keeping its place between reads.
#[derive(Debug, Default)]
pub struct ReplyScanner {
    next: usize,
    /// Items still to come; `None` between replies.
    missing: Option<u64>,
    /// Bytes still to come of a bulk string that was taken in part.
    body: usize,
}

impl ReplyScanner {
    /// The length of the reply at the front of `buf`; `None` if it is not all there.
    ///
    /// Until a reply is found, `buf` must only grow; after that its bytes are to be taken off.
    pub fn scan(&mut self, buf: &[u8]) -> Result<Option<usize>, ScanError> {
        let mut missing = self.missing.unwrap_or(1);
        while missing > 0 {
            let Some((end, children)) = item(buf, self.next)? else {
                self.missing = Some(missing);
                return Ok(None);
            };
            self.next = end;
            missing = (missing - 1).saturating_add(children);
        }
        let length = self.next;
        *self = Self::default();
        Ok(Some(length))
    }

    /// How much of the reply at the front of `buf` is there, and whether it ends with that. It is to
    /// be taken off at once, and all that follows of this reply is to be taken so.
    pub fn scan_part(&mut self, buf: &[u8]) -> Result<(usize, bool), ScanError> {
        let mut missing = self.missing.unwrap_or(1);
        let begun = self.body.min(buf.len());
        let mut body = self.body - begun;
        let mut at = self.next + begun;
        while missing > 0 && body == 0 {
            if let Some((end, children)) = item(buf, at)? {
                at = end;
                missing = (missing - 1).saturating_add(children);
            } else if let Some(end) = bulk_end(buf, at)? {
                body = end - buf.len();
                at = buf.len();
                missing -= 1;
            } else {
                break;
            }
        }
        let whole = missing == 0 && body == 0;
        *self = Self { next: 0, missing: (!whole).then_some(missing), body };
        Ok((at, whole))
    }
}

/// Where the bulk string (or one of its kind) at `at` ends, there or not; `None` if it is none, or
/// its length is not there.
fn bulk_end(buf: &[u8], at: usize) -> Result<Option<usize>, ScanError> {
    let Some(b'$' | b'!' | b'=') = buf.get(at) else { return Ok(None) };
    let Some((length, start)) = number_line(buf, at + 1)? else { return Ok(None) };
    let Ok(length) = usize::try_from(length) else { return Ok(Some(start)) };
    let end = start.checked_add(length).and_then(|end| end.checked_add(2));
    end.map(Some).ok_or(ScanError::TooLong)
}

/// One item at `at`: where its own bytes end and how many items must follow for it to be whole.
fn item(buf: &[u8], at: usize) -> Result<Option<(usize, u64)>, ScanError> {
    let Some(&kind) = buf.get(at) else { return Ok(None) };
    let body = at + 1;
    match kind {
        // Lines: simple string, error, integer, null, double, boolean, big number.
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
            Ok(memchr::memchr(b'\n', &buf[body..]).map(|end| (body + end + 1, 0)))
        }
        // Bulk string, bulk error, verbatim string.
        b'$' | b'!' | b'=' => {
            let end = bulk_end(buf, at)?;
            Ok(end.filter(|end| buf.len() >= *end).map(|end| (end, 0)))
        }
        // Array, set, push; map; attribute (which comes before the item it belongs to).
        b'*' | b'~' | b'>' | b'%' | b'|' => {
            let Some((count, start)) = number_line(buf, body)? else { return Ok(None) };
            let count = u64::try_from(count).unwrap_or(0);
            let children = match kind {
                b'%' => count.saturating_mul(2),
                b'|' => count.saturating_mul(2).saturating_add(1),
                _ => count,
            };
            Ok(Some((start, children)))
        }
        got => Err(ScanError::Unexpected { expected: '+', got }),
    }
}

/// The items of a whole array reply, each as it came; nothing for a null or another kind.
pub fn elements(reply: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = match item(reply, 0) {
        Ok(Some((start, children))) if children > 0 => &reply[start..],
        _ => &[],
    };
    std::iter::from_fn(move || {
        let length = ReplyScanner::default().scan(rest).ok().flatten()?;
        let (first, after) = rest.split_at(length);
        rest = after;
        Some(first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: [&[u8]; 14] = [
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":12\r\n",
        b"$-1\r\n",
        b"$3\r\nabc\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*2\r\n*1\r\n:1\r\n$0\r\n\r\n",
        b"%1\r\n+a\r\n*1\r\n_\r\n",
        b"~2\r\n#t\r\n,1.5\r\n",
        b">2\r\n+message\r\n(12345678901234567890\r\n",
        b"|1\r\n+k\r\n+v\r\n:1\r\n",
        b"=5\r\ntxt:a\r\n",
        b"!3\r\nERR\r\n",
    ];

    #[test]
    fn parts_are_the_whole_at_every_split() {
        for reply in REPLIES {
            for cut in 0..reply.len() {
                for again in cut..reply.len() {
                    let (mut scanner, mut taken) = (ReplyScanner::default(), 0);
                    // It was looked for in whole before.
                    assert_eq!(scanner.scan(&reply[..cut]), Ok(None));
                    let mut ends = Vec::new();
                    for there in [cut, again, reply.len()] {
                        let (length, whole) = scanner.scan_part(&reply[taken..there]).unwrap();
                        taken += length;
                        ends.push(whole);
                    }
                    assert_eq!((taken, &ends[..]), (reply.len(), &[false, false, true][..]));
                    // The next one is a reply of its own.
                    assert_eq!(scanner.scan(b":1\r\n"), Ok(Some(4)));
                }
            }
        }
        let mut scanner = ReplyScanner::default();
        assert_eq!(scanner.scan_part(b"*2\r\n$10\r\nabc"), Ok((12, false)));
        assert_eq!(scanner.scan_part(b"defghij\r"), Ok((8, false)));
        assert_eq!(scanner.scan_part(b"\n:1"), Ok((1, false)));
        assert_eq!(scanner.scan_part(b":1\r\n:2\r\n"), Ok((4, true)));
    }

    #[test]
    fn finds_each_end_at_every_split() {
        let stream = REPLIES.concat();
        for cut in 0..=stream.len() {
            let mut scanner = ReplyScanner::default();
            let mut start = 0;
            let mut found = Vec::new();
            for end in [cut, stream.len()] {
                while let Some(length) = scanner.scan(&stream[start..end]).unwrap() {
                    found.push(&stream[start..start + length]);
                    start += length;
                }
            }
            assert_eq!(found, REPLIES, "cut at {cut}");
        }
    }

    #[test]
    fn gives_the_items_of_an_array() {
        let items: Vec<_> = elements(b"*3\r\n:1\r\n*1\r\n+x\r\n$1\r\na\r\n").collect();
        assert_eq!(items, [&b":1\r\n"[..], b"*1\r\n+x\r\n", b"$1\r\na\r\n"]);
        assert_eq!(elements(b"*-1\r\n").count(), 0);
        assert_eq!(elements(b"+OK\r\n").count(), 0);
    }

    #[test]
    fn a_deep_nest_costs_no_stack() {
        let deep = b"*1\r\n".repeat(1_000_000);
        assert_eq!(ReplyScanner::default().scan(&deep), Ok(None));
        assert!(ReplyScanner::default().scan(b"?").is_err());
    }
}
