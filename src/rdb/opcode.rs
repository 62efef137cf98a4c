//! The opcodes: what stands between entries, or ahead of one.

use super::skip::Step::{self, Bytes, Counted, Length, Module, Text};
use super::version::Flavour;

/// Redis 8.6: what modules attached to the next key. Valkey 9: a slot import that is under way.
pub(super) const KEY_METADATA_OR_SLOT_IMPORT: u8 = 243;
/// How many keys a slot has: a hint.
const SLOT_INFO: u8 = 244;
/// A function library.
pub(super) const FUNCTION: u8 = 245;
/// Data of a module that belongs to no key.
const MODULE_AUX: u8 = 247;
/// Seconds since the next key was used.
pub(super) const IDLE: u8 = 248;
/// How often the next key is used.
pub(super) const FREQUENCY: u8 = 249;
/// A fact about the snapshot.
pub(super) const AUX: u8 = 250;
/// How many keys the database has.
pub(super) const RESIZE_DB: u8 = 251;
/// When the next key expires, in milliseconds.
pub(super) const EXPIRES_MS: u8 = 252;
/// When the next key expires, in seconds.
pub(super) const EXPIRES_SECONDS: u8 = 253;
/// The database of the keys that follow.
pub(super) const SELECT_DB: u8 = 254;
/// The end of all; the checksum follows.
pub(super) const END: u8 = 255;

/// How an opcode's record is laid out, the opcode included; `None` for a byte that is none.
pub(super) fn layout(flavour: Flavour, code: u8) -> Option<&'static [Step]> {
    Some(match (code, flavour) {
        (END, _) => &[Bytes(1)],
        (SELECT_DB | IDLE, _) => &[Bytes(1), Length],
        (EXPIRES_SECONDS, _) => &[Bytes(1), Bytes(4)],
        (EXPIRES_MS, _) => &[Bytes(1), Bytes(8)],
        // Keys, and how many of them expire.
        (RESIZE_DB, _) => &[Bytes(1), Length, Length],
        (AUX, _) => &[Bytes(1), Text, Text],
        (FREQUENCY, _) => &[Bytes(1), Bytes(1)],
        // Module, kind and number of when the data is loaded, values.
        (MODULE_AUX, _) => &[Bytes(1), Length, Length, Length, Module],
        (FUNCTION, _) => &[Bytes(1), Text],
        // Slot, keys, and how many of them expire.
        (SLOT_INFO, _) => &[Bytes(1), Length, Length, Length],
        // Class of metadata, values.
        (KEY_METADATA_OR_SLOT_IMPORT, Flavour::Redis) => &[Bytes(1), Counted(&[Bytes(4), Module])],
        // Job, ranges of slots.
        (KEY_METADATA_OR_SLOT_IMPORT, Flavour::Valkey) => {
            &[Bytes(1), Text, Counted(&[Length, Length])]
        }
        _ => return None,
    })
}
