//! What a replica says of itself before it asks for the stream.

use std::net::SocketAddr;

use super::replies;
use crate::position::ReplicationId;
use crate::resp::Request;

/// Most bytes of an address: a host name has no more (RFC 1035, 2.3.4).
const LONGEST_ADDRESS: usize = 255;

/// What a replica asks for and what it can read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one option of the wire protocol")]
pub struct ReplicaWish {
    /// Where to go on: an id and the first byte wanted, counted from 1. None for `SYNC`,
    /// `PSYNC ? -1`, and for an id that can be nobody's.
    pub from: Option<(ReplicationId, u64)>,
    /// `SYNC`: the snapshot comes without a `+FULLRESYNC` line.
    pub sync: bool,
    /// `capa eof`: it can read a snapshot framed by `$EOF:`.
    pub eof: bool,
    /// `capa psync2`: it wants the id behind `+CONTINUE`.
    pub psync2: bool,
    /// `rdb-only 1`: the snapshot, then the end.
    pub snapshot_only: bool,
    /// The port it says it listens on; 0 when it said none.
    pub port: u16,
    /// The address it says it has, else the one it comes from, without port.
    pub address: String,
    /// Where the connection comes from.
    pub peer: SocketAddr,
}

impl ReplicaWish {
    pub(super) fn new(peer: SocketAddr) -> Self {
        Self {
            from: None,
            sync: false,
            eof: false,
            psync2: false,
            snapshot_only: false,
            port: 0,
            address: peer.ip().to_canonical().to_string(),
            peer,
        }
    }

    /// `REPLCONF ..`: whether it is to be answered with OK at all; the error text if it is wrong.
    pub(super) fn replconf(&mut self, request: &Request) -> Result<bool, String> {
        if request.arg_is(1, "ack") {
            return Ok(false);
        }
        if request.len() < 3 || request.len().is_multiple_of(2) {
            return Err(replies::SYNTAX.to_owned());
        }
        for at in (1..request.len()).step_by(2) {
            let option = request.arg(at).to_ascii_lowercase();
            let value = String::from_utf8_lossy(request.arg(at + 1));
            match option.as_slice() {
                b"listening-port" => {
                    self.port = value
                        .parse()
                        .map_err(|_| "ERR value is not an integer or out of range".to_owned())?;
                }
                b"ip-address" if value.is_empty() => {}
                b"ip-address" if is_address(&value) => self.address = value.into_owned(),
                b"ip-address" => return Err("ERR REPLCONF ip-address is no address".to_owned()),
                b"capa" => {
                    self.eof |= value.eq_ignore_ascii_case("eof");
                    self.psync2 |= value.eq_ignore_ascii_case("psync2");
                }
                b"rdb-only" => self.snapshot_only = value != "0",
                // GETACK comes from a syncer that forwards its source's stream word by word.
                b"version" | b"getack" => {}
                other => {
                    let name: String = other.escape_ascii().to_string().chars().take(64).collect();
                    return Err(format!("ERR Unrecognized REPLCONF option: {name}"));
                }
            }
        }
        Ok(true)
    }

    /// The wish of this `PSYNC` or `SYNC`; the error text if it is wrong.
    pub(super) fn ask(mut self, request: &Request) -> Result<Self, String> {
        self.sync = request.is("SYNC");
        let wanted = if self.sync { 1 } else { 3 };
        if request.len() != wanted {
            return Err(replies::arity(if self.sync { "sync" } else { "psync" }));
        }
        if !self.sync {
            let offset = String::from_utf8_lossy(request.arg(2)).parse::<i64>();
            let offset = offset.map_err(|_| "ERR value is not an integer or out of range")?;
            let id = ReplicationId::from_bytes(request.arg(1)).ok();
            self.from = id.zip(u64::try_from(offset).ok());
        }
        Ok(self)
    }
}

/// Whether this may be an IP address or a host name. It stands in logs and in text that others read.
fn is_address(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-:_%[]".contains(&byte);
    text.len() <= LONGEST_ADDRESS && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_what_replicas_say() {
        let mut wish = ReplicaWish::new("127.0.0.1:9".parse().unwrap());
        let mut say = |words: &[&str]| wish.replconf(&Request::of(words));
        assert_eq!(say(&["REPLCONF", "listening-port", "6379"]), Ok(true));
        assert_eq!(say(&["replconf", "CAPA", "EOF", "capa", "psync2", "capa", "x"]), Ok(true));
        assert_eq!(say(&["REPLCONF", "ACK", "7", "FACK", "8"]), Ok(false));
        assert_eq!(say(&["REPLCONF", "GETACK", "*"]), Ok(true));
        assert!(say(&["REPLCONF", "capa"]).is_err());
        assert!(say(&["REPLCONF", "rdb-filter-only", ""]).is_err());
        assert!(wish.eof && wish.psync2 && !wish.snapshot_only);
        assert_eq!((wish.port, wish.address.as_str()), (6379, "127.0.0.1"));
        let mut named = wish.clone();
        let mut address = |text: &str| {
            let reply = named.replconf(&Request::of(&["REPLCONF", "ip-address", text]));
            (reply.is_ok(), named.address.clone())
        };
        for good in ["10.0.0.7", "[fe80::1%eth0]", "redis_1.example.com", &"h".repeat(255)] {
            assert_eq!(address(good), (true, good.to_owned()));
        }
        let before = address("").1;
        for bad in ["a b", "a\nb", "a\u{1b}[2J", "<b>", "a,b=c", "é", &"h".repeat(256)] {
            assert_eq!(address(bad), (false, before.clone()), "{bad}");
        }

        let ask = |words: &[&str]| wish.clone().ask(&Request::of(words));
        assert_eq!(ask(&["PSYNC", "?", "-1"]).unwrap().from, None);
        assert!(ask(&["SYNC"]).unwrap().sync);
        let id = ReplicationId::random();
        assert_eq!(ask(&["PSYNC", id.as_str(), "12"]).unwrap().from, Some((id, 12)));
        assert!(ask(&["PSYNC", id.as_str(), "x"]).is_err());
        assert!(ask(&["PSYNC"]).is_err());
    }
}
