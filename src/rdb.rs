//! Reading RDB snapshots as they arrive, entry by entry, and putting each entry into a target.
//!
//! [`Decoder`] cuts a snapshot into [`Item`]s and does no I/O: bytes go in as they come, whole
//! items come out. A value isn't decoded on the way; its raw bytes stay as they are in an [`Entry`]
//! because `RESTORE` takes exactly these ([`Entry::restore_payload`]). Only for a target that can't
//! load them are they decoded, into native commands ([`Entry::to_commands`]).
//!
//! Nothing in a snapshot is trusted: a peer may send what it likes. No input panics, and memory is
//! never reserved for a length that is only announced.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `version` | snapshot versions, and which server reads which |
//! | `encoding` | the type bytes, their layout, and the version that brought each |
//! | `length` | the length prefix, the one primitive that all else is made of |
//! | `skip` | finding the end of a value that arrives in pieces |
//! | `opcode` | what stands between entries |
//! | `decoder` | the snapshot as a whole: header, opcodes, entries, checksum |
//! | `entry` | one key with its value; the `RESTORE` payload |
//! | `reader`, `packed` | decoding a complete value: strings, listpacks, ziplists, intsets, zipmaps |
//! | `commands`, `hash`, `stream` | values as native commands |
//! | `writer` | commands of bounded size |

mod commands;
mod decoder;
mod encoding;
mod entry;
mod hash;
mod length;
mod opcode;
mod packed;
mod reader;
mod skip;
mod stream;
mod version;
mod writer;

pub use decoder::{Decoder, Item, Limits};
pub use encoding::Encoding;
pub use entry::Entry;
pub use version::{Flavour, RdbVersion};
pub use writer::CommandLimits;

/// Why a snapshot, or one value of it, can't be read. Offsets count bytes from the snapshot's first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RdbError {
    /// The first bytes are of no snapshot.
    #[error("not an RDB snapshot: it begins with \"{}\"", .0.escape_ascii())]
    Magic([u8; 9]),
    /// A snapshot of a server that is newer, or far older, than what is known here.
    #[error("RDB version {0} isn't known (known: REDIS 9 to 13, VALKEY 80)")]
    Version(RdbVersion),
    /// A byte that stands where a type or an opcode must, and is neither.
    #[error("unknown type or opcode {code} at byte {offset} of the {version} snapshot")]
    Code {
        /// The byte.
        code: u8,
        /// Where it stands.
        offset: u64,
        /// The snapshot's version, which decides what the byte would mean.
        version: RdbVersion,
    },
    /// Bytes that contradict the format.
    #[error("broken snapshot: {what} at byte {offset}")]
    Broken {
        /// What is wrong.
        what: &'static str,
        /// Where it was noticed.
        offset: u64,
    },
    /// One entry is larger than [`Limits::entry_bytes`].
    #[error("the entry at byte {offset} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Where the entry begins.
        offset: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The snapshot was damaged on its way, or on disk.
    #[error("checksum of the snapshot is {found:016x}, its bytes give {expected:016x}")]
    Checksum {
        /// CRC64 of the bytes that came.
        expected: u64,
        /// CRC64 that the snapshot ends with.
        found: u64,
    },
    /// A value that has no native commands, or none that the target knows.
    #[error("{what} can't be written to a target of {target} by commands")]
    NoCommands {
        /// What can't be said.
        what: &'static str,
        /// The target.
        target: RdbVersion,
    },
}
