//! How a snapshot is framed in a replication stream: `$<length>` or `$EOF:<40 bytes>`.

use bytes::{Bytes, BytesMut};

/// Length of the random text that ends a snapshot of unknown length, as in Redis.
const MARK_LENGTH: usize = 40;

/// What is found at the front of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum SnapshotPart {
    /// The head was read: the length if it is known, else the mark that will end it.
    Head(Result<u64, Bytes>),
    /// Some bytes of the snapshot.
    Bytes(Bytes),
    /// The snapshot is over; what follows in the buffer is the stream.
    End,
}

#[derive(Debug)]
enum State {
    Head,
    Counted(u64),
    Marked(Bytes),
    Over,
}

/// Takes a snapshot's frame off a buffer.
#[derive(Debug)]
pub struct SnapshotFraming(State);

impl Default for SnapshotFraming {
    fn default() -> Self {
        Self(State::Head)
    }
}

impl SnapshotFraming {
    /// The next part; `None` if more bytes are needed. An `Err` says what stands there instead.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Option<SnapshotPart>, String> {
        match &mut self.0 {
            State::Head => self.head(buf),
            State::Counted(0) | State::Over => {
                self.0 = State::Over;
                Ok(Some(SnapshotPart::End))
            }
            State::Counted(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                *left -= length as u64;
                Ok((length > 0).then(|| SnapshotPart::Bytes(buf.split_to(length).freeze())))
            }
            State::Marked(mark) => {
                if let Some(at) = memchr::memmem::find(buf, mark) {
                    if at > 0 {
                        return Ok(Some(SnapshotPart::Bytes(buf.split_to(at).freeze())));
                    }
                    let _ = buf.split_to(MARK_LENGTH);
                    self.0 = State::Over;
                    return Ok(Some(SnapshotPart::End));
                }
                // The last bytes may be the front of the mark.
                let safe = buf.len().saturating_sub(MARK_LENGTH - 1);
                Ok((safe > 0).then(|| SnapshotPart::Bytes(buf.split_to(safe).freeze())))
            }
        }
    }

    fn head(&mut self, buf: &mut BytesMut) -> Result<Option<SnapshotPart>, String> {
        // Line feeds come while the server prepares the snapshot.
        let blank = buf.iter().take_while(|&&byte| byte == b'\n').count();
        let _ = buf.split_to(blank);
        let Some(end) = memchr::memchr(b'\n', &buf[..buf.len().min(128)]) else {
            return if buf.len() >= 128 {
                Err("a head without an end".to_owned())
            } else {
                Ok(None)
            };
        };
        let line = buf.split_to(end + 1).freeze();
        let text = line.trim_ascii_end();
        let wrong = || format!("\"{}\" where a snapshot must begin", text.escape_ascii());
        let rest = text.strip_prefix(b"$").ok_or_else(wrong)?;
        if let Some(mark) = rest.strip_prefix(b"EOF:") {
            if mark.len() != MARK_LENGTH {
                return Err(wrong());
            }
            let mark = Bytes::copy_from_slice(mark);
            self.0 = State::Marked(mark.clone());
            return Ok(Some(SnapshotPart::Head(Err(mark))));
        }
        let length = std::str::from_utf8(rest).ok().and_then(|t| t.parse().ok());
        let length = length.ok_or_else(wrong)?;
        self.0 = State::Counted(length);
        Ok(Some(SnapshotPart::Head(Ok(length))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stream: &[u8], cut: usize) -> (Vec<u8>, Vec<u8>) {
        let mut framing = SnapshotFraming::default();
        let mut buf = BytesMut::new();
        let mut body = Vec::new();
        for piece in [&stream[..cut], &stream[cut..]] {
            buf.extend_from_slice(piece);
            while let Some(part) = framing.next(&mut buf).unwrap() {
                match part {
                    SnapshotPart::Head(_) => {}
                    SnapshotPart::Bytes(bytes) => body.extend_from_slice(&bytes),
                    SnapshotPart::End => break,
                }
            }
        }
        (body, buf.to_vec())
    }

    #[test]
    fn both_framings_at_every_split() {
        let mark = "0123456789abcdef0123456789abcdef01234567";
        let marked = format!("\n\n$EOF:{mark}\r\nREDIS-0123456789abc-body{mark}*1\r\n");
        for cut in 0..=marked.len() {
            let (body, rest) = run(marked.as_bytes(), cut);
            assert_eq!(body, b"REDIS-0123456789abc-body", "cut at {cut}");
            assert_eq!(rest, b"*1\r\n");
        }
        let counted = b"\n$6\r\nREDIS!*1\r\n";
        for cut in 0..=counted.len() {
            assert_eq!(run(counted, cut), (b"REDIS!".to_vec(), b"*1\r\n".to_vec()));
        }
    }

    #[test]
    fn rubbish_is_told() {
        let mut buf = BytesMut::from(&b"-ERR no\r\n"[..]);
        assert!(SnapshotFraming::default().next(&mut buf).unwrap_err().contains("-ERR no"));
    }
}
