//! Writing of commands and of the replies that we originate.

use bytes::BufMut;

fn put_header(out: &mut impl BufMut, kind: u8, number: usize) {
    out.put_u8(kind);
    out.put_slice(itoa::Buffer::new().format(number).as_bytes());
    out.put_slice(b"\r\n");
}

/// The head of an array of `length` items.
pub fn put_array(out: &mut impl BufMut, length: usize) {
    put_header(out, b'*', length);
}

/// A bulk string.
pub fn put_bulk(out: &mut impl BufMut, bytes: &[u8]) {
    put_header(out, b'$', bytes.len());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

/// A whole command.
pub fn put_command<A: AsRef<[u8]>>(out: &mut impl BufMut, args: &[A]) {
    put_array(out, args.len());
    for arg in args {
        put_bulk(out, arg.as_ref());
    }
}

/// A simple string; `text` must hold no line break.
pub fn put_simple(out: &mut impl BufMut, text: &str) {
    out.put_u8(b'+');
    out.put_slice(text.as_bytes());
    out.put_slice(b"\r\n");
}

/// An error; line breaks in `text` become blanks.
pub fn put_error(out: &mut impl BufMut, text: &str) {
    out.put_u8(b'-');
    for byte in text.bytes() {
        out.put_u8(if byte == b'\r' || byte == b'\n' { b' ' } else { byte });
    }
    out.put_slice(b"\r\n");
}

/// An integer.
pub fn put_integer(out: &mut impl BufMut, value: i64) {
    out.put_u8(b':');
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
    out.put_slice(b"\r\n");
}
