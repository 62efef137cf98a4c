//! The scanner of commands: `*N` arrays of `$len` bulk strings, as in a replication stream.

/// Bounds on one command.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most arguments, the name included. Redis itself takes 1024*1024 from clients.
    pub max_args: usize,
    /// Most bytes in one argument. `proto-max-bulk-len` is 512 MiB unless changed.
    pub max_bulk: usize,
    /// Most bytes of the whole command, headers included.
    pub max_command: usize,
}

impl Limits {
    /// For the replication stream of the local Redis, which may hold what Redis takes: bulk
    /// strings as long as `proto-max-bulk-len` can be set.
    pub const STREAM: Self = Self {
        max_args: i32::MAX as usize,
        max_bulk: usize::MAX >> 1,
        max_command: usize::MAX >> 1,
    };
    /// For clients: the defaults of Redis (`client-query-buffer-limit` 1 GiB).
    pub const CLIENT: Self =
        Self { max_args: 1024 * 1024, max_bulk: 512 << 20, max_command: 1 << 30 };
    /// For clients that have not authenticated, as in Redis: 10 arguments of 16 KiB.
    pub const STRANGER: Self = Self { max_args: 10, max_bulk: 16 << 10, max_command: 64 << 10 };
}

/// Why bytes are not a command.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScanError {
    /// Another byte stands where `*` or `$` must.
    #[error("Protocol error: expected '{expected}', got '{}'", got.escape_ascii())]
    Unexpected {
        /// The type byte that belongs there.
        expected: char,
        /// The byte that stands there.
        got: u8,
    },
    /// A length that is no number or has no CRLF.
    #[error("Protocol error: invalid length")]
    InvalidLength,
    /// More arguments than allowed.
    #[error("Protocol error: invalid multibulk length")]
    TooManyArguments,
    /// An argument or command larger than allowed.
    #[error("Protocol error: invalid bulk length")]
    TooLong,
    /// No CRLF after an argument.
    #[error("Protocol error: missing CRLF after an argument")]
    MissingCrlf,
}

/// A command within a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    raw: &'a [u8],
    args: &'a [(usize, usize)],
}

impl<'a> Command<'a> {
    /// The bytes as they came.
    pub fn raw(self) -> &'a [u8] {
        self.raw
    }

    /// Number of arguments, the name included.
    pub fn len(self) -> usize {
        self.args.len()
    }

    /// Whether there is not even a name (`*0`).
    pub fn is_empty(self) -> bool {
        self.args.is_empty()
    }

    /// Argument `index`; the name is number 0. Empty when there is none.
    pub fn arg(self, index: usize) -> &'a [u8] {
        self.args.get(index).map_or(&[], |&(start, end)| &self.raw[start..end])
    }

    /// All arguments, the name first.
    pub fn args(self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        self.args.iter().map(move |&(start, end)| &self.raw[start..end])
    }

    /// Where the arguments lie within [`Self::raw`].
    pub(super) fn ranges(self) -> &'a [(usize, usize)] {
        self.args
    }

    /// Whether the name is `name`, in any case.
    pub fn is(self, name: &str) -> bool {
        self.arg(0).eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Finds commands at the front of a buffer, keeping its place while a command arrives in parts.
#[derive(Debug)]
pub struct Scanner {
    limits: Limits,
    /// Ranges of the arguments found, from the command's first byte.
    args: Vec<(usize, usize)>,
    /// Arguments still to come; `None` before the `*N` line was read.
    missing: Option<usize>,
    /// Where scanning goes on.
    next: usize,
}

impl Scanner {
    /// A scanner with these bounds.
    pub fn new(limits: Limits) -> Self {
        Self { limits, args: Vec::new(), missing: None, next: 0 }
    }

    /// Other bounds, from the next command on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Scans the command that begins at the front of `buf`; `None` if it is not all there.
    ///
    /// Until a command is found, `buf` must only grow; after that its bytes are to be taken off.
    pub fn scan<'a>(&'a mut self, buf: &'a [u8]) -> Result<Option<Command<'a>>, ScanError> {
        let mut missing = if let Some(missing) = self.missing {
            missing
        } else {
            self.args.clear();
            let Some((count, next)) = header(buf, 0, b'*')? else { return Ok(None) };
            // Redis takes `*0` and `*-1` for nothing at all.
            let count = usize::try_from(count).unwrap_or(0);
            if count > self.limits.max_args {
                return Err(ScanError::TooManyArguments);
            }
            self.next = next;
            count
        };
        while missing > 0 {
            let Some((length, start)) = header(buf, self.next, b'$')? else { break };
            let length = usize::try_from(length).map_err(|_| ScanError::TooLong)?;
            let end = start.checked_add(length).ok_or(ScanError::TooLong)?;
            if length > self.limits.max_bulk || end > self.limits.max_command {
                return Err(ScanError::TooLong);
            }
            if buf.len() < end + 2 {
                break;
            }
            if &buf[end..end + 2] != b"\r\n" {
                return Err(ScanError::MissingCrlf);
            }
            self.args.push((start, end));
            self.next = end + 2;
            missing -= 1;
        }
        if missing > 0 {
            self.missing = Some(missing);
            return Ok(None);
        }
        self.missing = None;
        Ok(Some(Command { raw: &buf[..self.next], args: &self.args }))
    }
}

/// Longest header line: a type byte, a sign, 19 digits, CRLF.
const MAX_HEADER: usize = 23;

/// Reads `<kind><number>\r\n` at `at`: the number and where the line ends.
///
/// A loop over the digits: lengths have one to four of them, too few for `memchr` to pay.
pub(super) fn header(buf: &[u8], at: usize, kind: u8) -> Result<Option<(i64, usize)>, ScanError> {
    let Some(&first) = buf.get(at) else { return Ok(None) };
    if first != kind {
        return Err(ScanError::Unexpected { expected: kind as char, got: first });
    }
    number_line(buf, at + 1)
}

/// Reads `<number>\r\n` at `at`: the number and where the line ends.
pub(super) fn number_line(buf: &[u8], at: usize) -> Result<Option<(i64, usize)>, ScanError> {
    let mut next = at;
    let negative = buf.get(next) == Some(&b'-');
    if negative {
        next += 1;
    }
    let digits = next;
    let mut value: i64 = 0;
    while let Some(&byte) = buf.get(next) {
        if byte.is_ascii_digit() {
            value = value
                .checked_mul(10)
                .and_then(|v| v.checked_add(i64::from(byte - b'0')))
                .ok_or(ScanError::InvalidLength)?;
            next += 1;
        } else if byte == b'\r' && next > digits {
            return match buf.get(next + 1) {
                None => Ok(None),
                Some(b'\n') => Ok(Some((if negative { -value } else { value }, next + 2))),
                Some(_) => Err(ScanError::InvalidLength),
            };
        } else {
            return Err(ScanError::InvalidLength);
        }
        if next - at > MAX_HEADER {
            return Err(ScanError::InvalidLength);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(args: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        crate::resp::put_command(&mut out, args);
        out
    }

    #[test]
    fn refuses_what_is_no_command() {
        let scan = |bytes: &[u8]| Scanner::new(Limits::CLIENT).scan(bytes).map(|c| c.is_some());
        assert_eq!(scan(b"+OK\r\n"), Err(ScanError::Unexpected { expected: '*', got: b'+' }));
        assert_eq!(scan(b"*1\r\n:1\r\n"), Err(ScanError::Unexpected { expected: '$', got: b':' }));
        assert_eq!(scan(b"*1\r\n$3\r\nabcXY"), Err(ScanError::MissingCrlf));
        assert_eq!(scan(b"*x\r\n"), Err(ScanError::InvalidLength));
        assert_eq!(scan(b"*\r\n"), Err(ScanError::InvalidLength));
        assert_eq!(scan(b"*1\r\n$+3\r\n"), Err(ScanError::InvalidLength));
        assert_eq!(scan(b"*1\r\n$99999999999999999999"), Err(ScanError::InvalidLength));
        assert_eq!(scan(b"*1\r\n$-1\r\n"), Err(ScanError::TooLong));
        assert_eq!(scan(b"*2000000\r\n"), Err(ScanError::TooManyArguments));
        assert_eq!(scan(b"*1\r\n$999999999\r\n"), Err(ScanError::TooLong));
        assert_eq!(scan(b"*1\r\n$3\r\nab"), Ok(false));
        assert_eq!(scan(b"*0\r\n"), Ok(true));
    }

    proptest! {
        #[test]
        fn finds_the_same_commands_at_every_split(
            commands in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 1..5),
            cut in any::<prop::sample::Index>(),
        ) {
            let stream: Vec<u8> = commands.iter().flat_map(|c| encode(c)).collect();
            let cut = cut.index(stream.len());
            let mut scanner = Scanner::new(Limits::STREAM);
            let mut found: Vec<Vec<Vec<u8>>> = Vec::new();
            let mut start = 0;
            for end in [cut, stream.len()] {
                while let Some(command) = scanner.scan(&stream[start..end]).unwrap() {
                    found.push(command.args().map(<[u8]>::to_vec).collect());
                    start += command.raw().len();
                }
            }
            prop_assert_eq!(start, stream.len());
            prop_assert_eq!(found, commands);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Scanner::new(Limits::CLIENT).scan(&bytes);
            let mut starred = b"*3\r\n$".to_vec();
            starred.extend(&bytes);
            let _ = Scanner::new(Limits::CLIENT).scan(&starred);
        }
    }
}
