//! What clients send: arrays of bulk strings, or a line of words typed by hand (inline).

use bytes::{Buf, Bytes, BytesMut};

use super::scan::{Limits, ScanError, Scanner};

/// Longest inline command, as in Redis (`PROTO_INLINE_MAX_SIZE`).
const MAX_INLINE: usize = 64 * 1024;

/// What a TLS client begins with (RFC 8446, 5.1) and no person types.
const TLS_HANDSHAKE: u8 = 22;

/// Why bytes are not a request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    /// Not a command.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// An inline command without an end.
    #[error("Protocol error: too big inline request")]
    InlineTooLong,
    /// An inline command with an open quote.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The beginning of a TLS handshake.
    #[error("Protocol error: this port speaks no TLS")]
    Tls,
}

/// One request of a client, whole, in the form of an array of bulk strings.
#[derive(Clone, Debug)]
pub struct Request {
    raw: Bytes,
    args: Vec<(usize, usize)>,
}

impl Request {
    /// A request made of these arguments.
    pub fn of<A: AsRef<[u8]>>(args: &[A]) -> Self {
        let mut raw = BytesMut::new();
        super::put_array(&mut raw, args.len());
        let mut ranges = Vec::with_capacity(args.len());
        for arg in args {
            super::put_bulk(&mut raw, arg.as_ref());
            let end = raw.len() - 2;
            ranges.push((end - arg.as_ref().len(), end));
        }
        Self { raw: raw.freeze(), args: ranges }
    }

    /// Its bytes.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Number of arguments, the name included.
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// Whether there is not even a name.
    pub fn is_empty(&self) -> bool {
        self.args.is_empty()
    }

    /// Argument `index`; the name is number 0. Empty when there is none.
    pub fn arg(&self, index: usize) -> &[u8] {
        self.args.get(index).map_or(&[], |&(start, end)| &self.raw[start..end])
    }

    /// All arguments, the name first.
    pub fn args(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.args.iter().map(|&(start, end)| &self.raw[start..end])
    }

    /// Whether the name is `name`, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.arg(0).eq_ignore_ascii_case(name.as_bytes())
    }

    /// Whether argument `index` is `word`, in any case.
    pub fn arg_is(&self, index: usize, word: &str) -> bool {
        self.arg(index).eq_ignore_ascii_case(word.as_bytes())
    }
}

/// Takes requests off the front of a buffer.
#[derive(Debug)]
pub struct RequestParser {
    scanner: Scanner,
}

impl RequestParser {
    /// A parser with these bounds.
    pub fn new(limits: Limits) -> Self {
        Self { scanner: Scanner::new(limits) }
    }

    /// Other bounds, from the next request on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.scanner.set_limits(limits);
    }

    /// The next request; `None` if it is not all there. Empty lines and empty arrays, which Redis
    /// ignores too (replicas send a bare line feed while they load), are taken off silently.
    pub fn parse(&mut self, buf: &mut BytesMut) -> Result<Option<Request>, RequestError> {
        loop {
            let Some(&first) = buf.first() else { return Ok(None) };
            let request = if first == b'*' { self.array(buf)? } else { inline(buf)? };
            match request {
                Some(request) if request.is_empty() => {}
                other => return Ok(other),
            }
        }
    }

    fn array(&mut self, buf: &mut BytesMut) -> Result<Option<Request>, RequestError> {
        let Some(command) = self.scanner.scan(buf)? else { return Ok(None) };
        let (length, args) = (command.raw().len(), command.ranges().to_vec());
        Ok(Some(Request { raw: buf.split_to(length).freeze(), args }))
    }
}

fn inline(buf: &mut BytesMut) -> Result<Option<Request>, RequestError> {
    if buf.first() == Some(&TLS_HANDSHAKE) {
        return Err(RequestError::Tls);
    }
    let searched = &buf[..buf.len().min(MAX_INLINE)];
    let Some(end) = memchr::memchr(b'\n', searched) else {
        return if buf.len() >= MAX_INLINE { Err(RequestError::InlineTooLong) } else { Ok(None) };
    };
    let line = buf.split_to(end);
    buf.advance(1);
    Ok(Some(Request::of(&words(&line)?)))
}

/// Splits a line into words the way redis-cli users expect: blanks separate, `"..."` may hold
/// `\n`, `\xHH` and the like, `'...'` is verbatim but for `\'`.
fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, RequestError> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        let Some(&first) = rest.first() else { return Ok(words) };
        let (word, after) = match first {
            b'"' => double_quoted(&rest[1..])?,
            b'\'' => single_quoted(&rest[1..])?,
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                (rest[..end].to_vec(), &rest[end..])
            }
        };
        words.push(word);
        rest = after;
    }
}

fn closed(word: Vec<u8>, after: &[u8]) -> Result<(Vec<u8>, &[u8]), RequestError> {
    match after.first() {
        Some(byte) if !byte.is_ascii_whitespace() => Err(RequestError::UnbalancedQuotes),
        _ => Ok((word, after)),
    }
}

/// The value of a hexadecimal digit.
fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.to_ascii_lowercase() - b'a' + 10,
    }
}

fn double_quoted(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), RequestError> {
    let mut word = Vec::new();
    loop {
        match rest {
            [b'"', after @ ..] => return closed(word, after),
            [b'\\', b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push((hex_value(*high) << 4) | hex_value(*low));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
            [] => return Err(RequestError::UnbalancedQuotes),
        }
    }
}

fn single_quoted(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), RequestError> {
    let mut word = Vec::new();
    loop {
        match rest {
            [b'\'', after @ ..] => return closed(word, after),
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                rest = after;
            }
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
            [] => return Err(RequestError::UnbalancedQuotes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(input: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, RequestError> {
        let mut buf = BytesMut::from(input);
        let mut parser = RequestParser::new(Limits::CLIENT);
        let mut found = Vec::new();
        while let Some(request) = parser.parse(&mut buf)? {
            found.push(request.args().map(<[u8]>::to_vec).collect());
        }
        Ok(found)
    }

    #[test]
    fn reads_arrays_and_lines_mixed() {
        let found =
            all(b"PING\r\n\n*0\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\nset  k \"a\\x41\\n\" '\\'b'\n");
        let expected: Vec<Vec<Vec<u8>>> = vec![
            vec![b"PING".to_vec()],
            vec![b"GET".to_vec(), b"k".to_vec()],
            vec![b"set".to_vec(), b"k".to_vec(), b"aA\n".to_vec(), b"'b".to_vec()],
        ];
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn refuses_bad_lines() {
        assert_eq!(all(&[22, 3, 1, 2, 0, 1]), Err(RequestError::Tls));
        assert_eq!(all(b"set \"a\r\n"), Err(RequestError::UnbalancedQuotes));
        assert_eq!(all(b"set \"a\"b\r\n"), Err(RequestError::UnbalancedQuotes));
        assert_eq!(all(&b"a".repeat(MAX_INLINE)), Err(RequestError::InlineTooLong));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = all(&bytes);
        }
    }
}
