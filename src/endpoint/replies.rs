//! The replies that we give on our own account, and where replies to a client are gathered.

use bytes::BytesMut;

use crate::resp;

pub(super) const OK: &[u8] = b"+OK\r\n";
pub(super) const ONE: &[u8] = b":1\r\n";
pub(super) const PONG: &[u8] = b"+PONG\r\n";
pub(super) const QUEUED: &[u8] = b"+QUEUED\r\n";
pub(super) const RESET: &[u8] = b"+RESET\r\n";

pub(super) const TOO_MANY_CLIENTS: &str = "ERR max number of clients reached";
pub(super) const TOO_MANY_STRANGERS: &str = "ERR too many clients that have not said who they are";
pub(super) const PROTECTED: &str = "DENIED redis-duplex is in protected mode: its configuration \
     has no [[user]], so only connections from the same machine are served. Add a [[user]] with a \
     password, or connect over the loopback interface";
pub(super) const SPEAKS_TLS: &str = "ERR this port of redis-duplex speaks TLS: connect with TLS \
     (redis-cli --tls, [[peer]] tls = true)";
pub(super) const NO_AUTH: &str = "NOAUTH Authentication required.";
/// In the words of Redis.
pub(super) const NO_AUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already \
     authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to \
     authenticate the client and select the RESP protocol version at the same time";
pub(super) const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair";
/// The words by which clients know that they may go on without a password.
pub(super) const NO_PASSWORD_SET: &str = "ERR AUTH <password> called without any password \
     configured for the default user";
/// A write of the checkpoint hash together with other keys.
pub(super) const OWN_KEY: &str =
    "ERR the key redis-duplex-checkpoint is the sidecar's own: leave it out";
pub(super) const NO_REPLICAOF: &str = "ERR this port belongs to redis-duplex, which follows only \
     its local Redis: send REPLICAOF to the Redis itself";
pub(super) const NO_MIGRATE: &str = "ERR MIGRATE can't be taken back if only half of it succeeds: \
     send it to the Redis itself";
pub(super) const NO_BLOCKING: &str = "ERR blocking commands are not possible on the port of \
     redis-duplex: use the form that doesn't block, or the Redis itself";
pub(super) const FLUSH_STOPPED: &str = "ERR refused by the configuration of redis-duplex: \
     [filter] flush = \"stop\"; set it to \"forward\" to have flushes done or to \"drop\" to have \
     them ignored";
pub(super) const NOT_EXECUTED: &str = "ERR the local Redis did not execute the command";
pub(super) const SYNTAX: &str = "ERR syntax error";
pub(super) const NOT_IN_TRANSACTION: &str =
    "ERR not possible within MULTI on the port of redis-duplex";
/// In the words of Redis.
pub(super) const ONLY_PUBSUB: &str = "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET \
     are allowed in this context";

/// An error as bytes.
pub(super) fn error(text: &str) -> BytesMut {
    let mut out = BytesMut::with_capacity(text.len() + 3);
    resp::put_error(&mut out, text);
    out
}

/// The error of a wrong number of arguments.
pub(super) fn arity(command: &str) -> String {
    format!("ERR wrong number of arguments for '{command}' command")
}

/// What `CLIENT REPLY` asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    On,
    Off,
    SkipNext,
}

/// The replies to a client that were not sent yet.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// What is to be written.
    pub(super) out: BytesMut,
    mode: Mode,
}

impl Replies {
    /// The one reply to one request.
    pub(super) fn reply(&mut self, bytes: &[u8]) {
        self.part(bytes, true);
    }

    /// Some of the one reply to one request; `whole` when it ends with this.
    pub(super) fn part(&mut self, bytes: &[u8], whole: bool) {
        match self.mode {
            Mode::On => self.out.extend_from_slice(bytes),
            Mode::SkipNext if whole => self.mode = Mode::On,
            Mode::Off | Mode::SkipNext => {}
        }
    }

    /// An error as the reply to one request.
    pub(super) fn error(&mut self, text: &str) {
        self.reply(&error(text));
    }

    /// A text as the reply to one request.
    pub(super) fn text(&mut self, text: &str, resp3: bool) {
        let mut out = BytesMut::with_capacity(text.len() + 32);
        if resp3 {
            // A verbatim string: its length counts the four bytes of the format's name.
            out.extend_from_slice(format!("={}\r\ntxt:{text}\r\n", text.len() + 4).as_bytes());
        } else {
            resp::put_bulk(&mut out, text.as_bytes());
        }
        self.reply(&out);
    }

    /// What comes without having been asked for.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// `CLIENT REPLY ON|OFF|SKIP`; only ON is answered.
    pub(super) fn set_mode(&mut self, word: &[u8]) {
        if word.eq_ignore_ascii_case(b"on") {
            self.mode = Mode::On;
            self.reply(OK);
        } else if word.eq_ignore_ascii_case(b"off") {
            self.mode = Mode::Off;
        } else if !word.eq_ignore_ascii_case(b"skip") {
            self.error(SYNTAX);
        } else if self.mode != Mode::Off {
            self.mode = Mode::SkipNext;
        }
    }

    /// All replies again, as for a new connection.
    pub(super) fn reset_mode(&mut self) {
        self.mode = Mode::On;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_kept() {
        let mut replies = Replies::default();
        replies.set_mode(b"skip");
        replies.reply(b"1");
        replies.reply(b"2");
        replies.set_mode(b"OFF");
        replies.reply(b"3");
        replies.set_mode(b"skip");
        replies.reply(b"4");
        replies.set_mode(b"on");
        replies.reply(b"5");
        assert_eq!(&replies.out[..], b"2+OK\r\n5");
    }
}
