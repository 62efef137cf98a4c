//! The type bytes: what each holds, how its bytes are laid out, and which version brought it.

use super::skip::Step::{self, Bytes, Counted, CountedBytes, Length, Module, OldDouble, Text};
use super::version::{Flavour, RdbVersion};

/// How a value is written in a snapshot: a type of Redis in one of its forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// A string.
    String,
    /// A list, its elements one by one.
    List,
    /// A list in one ziplist.
    ListZiplist,
    /// A list in several ziplists.
    ListQuicklist,
    /// A list in several listpacks, large elements apart.
    ListQuicklist2,
    /// A set, its members one by one.
    Set,
    /// A set of integers.
    SetIntset,
    /// A set in one listpack.
    SetListpack,
    /// A sorted set, scores as text.
    Zset,
    /// A sorted set, scores as doubles.
    Zset2,
    /// A sorted set in one ziplist.
    ZsetZiplist,
    /// A sorted set in one listpack.
    ZsetListpack,
    /// A hash, its fields one by one.
    Hash,
    /// A hash in one zipmap (before Redis 2.6).
    HashZipmap,
    /// A hash in one ziplist.
    HashZiplist,
    /// A hash in one listpack.
    HashListpack,
    /// Redis: fields with expiry times one by one, as in release candidates of 7.4.
    HashExpiryPreGa,
    /// Redis: fields with expiry times in one listpack, as in release candidates of 7.4.
    HashListpackExpiryPreGa,
    /// Redis 7.4: fields with expiry times one by one.
    HashExpiry,
    /// Redis 7.4: fields with expiry times in one listpack.
    HashListpackExpiry,
    /// Valkey 9: fields with expiry times one by one.
    HashExpiryValkey,
    /// A stream.
    Stream,
    /// A stream with counters (Redis 7.0).
    Stream2,
    /// A stream whose consumers have an active time (Redis 7.2).
    Stream3,
    /// A stream with idempotent producers (Redis 8.6).
    Stream4,
    /// A module's value.
    Module,
}

/// What is known of an encoding.
struct Facts {
    code: u8,
    since: RdbVersion,
    layout: &'static [Step],
}

/// Elements one by one.
const STRINGS: &[Step] = &[Counted(&[Text])];
/// Fields and values one by one.
const PAIRS: &[Step] = &[Counted(&[Text, Text])];
/// Expiry time, field and value one by one.
const TRIPLETS: Step = Counted(&[Length, Text, Text]);
/// All of the value in one string.
const PACKED: &[Step] = &[Text];

/// Nodes of a stream: first id, and the entries in a listpack.
const NODES: Step = Counted(&[Text, Text]);
/// Pending entries of a group: id and delivery time, delivery count.
const PENDING: Step = Counted(&[Bytes(24), Length]);
/// Consumers: name, when seen, ids pending.
const CONSUMERS: Step = Counted(&[Text, Bytes(8), CountedBytes(16)]);
/// The same with the time of the last fetch.
const ACTIVE_CONSUMERS: Step = Counted(&[Text, Bytes(16), CountedBytes(16)]);
/// Nodes, length, last id, groups (name, last id, pending entries, consumers).
const STREAM: &[Step] =
    &[NODES, Length, Length, Length, Counted(&[Text, Length, Length, PENDING, CONSUMERS])];
/// With first id, largest deleted id and entries ever added; groups with entries read.
const STREAM_2: &[Step] = &[
    NODES,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Counted(&[Text, Length, Length, Length, PENDING, CONSUMERS]),
];
const STREAM_3: &[Step] = &[
    NODES,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Counted(&[Text, Length, Length, Length, PENDING, ACTIVE_CONSUMERS]),
];
/// With idempotence: duration, most entries, producers (name, message ids with entry ids), counters.
const STREAM_4: &[Step] = &[
    NODES,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Counted(&[Text, Length, Length, Length, PENDING, ACTIVE_CONSUMERS]),
    Length,
    Length,
    Counted(&[Text, Counted(&[Text, Length, Length])]),
    Length,
    Length,
];

/// The newest version of Redis's numbering whose types Valkey 9 loads.
const VALKEY_BRANCHED: u16 = 11;

impl Encoding {
    /// The encoding that a type byte stands for in a snapshot of this flavour.
    pub(super) fn of_code(flavour: Flavour, code: u8) -> Option<Self> {
        Some(match (code, flavour) {
            (0, _) => Self::String,
            (1, _) => Self::List,
            (2, _) => Self::Set,
            (3, _) => Self::Zset,
            (4, _) => Self::Hash,
            (5, _) => Self::Zset2,
            (7, _) => Self::Module,
            (9, _) => Self::HashZipmap,
            (10, _) => Self::ListZiplist,
            (11, _) => Self::SetIntset,
            (12, _) => Self::ZsetZiplist,
            (13, _) => Self::HashZiplist,
            (14, _) => Self::ListQuicklist,
            (15, _) => Self::Stream,
            (16, _) => Self::HashListpack,
            (17, _) => Self::ZsetListpack,
            (18, _) => Self::ListQuicklist2,
            (19, _) => Self::Stream2,
            (20, _) => Self::SetListpack,
            (21, _) => Self::Stream3,
            (22, Flavour::Valkey) => Self::HashExpiryValkey,
            (22, Flavour::Redis) => Self::HashExpiryPreGa,
            (23, Flavour::Redis) => Self::HashListpackExpiryPreGa,
            (24, Flavour::Redis) => Self::HashExpiry,
            (25, Flavour::Redis) => Self::HashListpackExpiry,
            (26, Flavour::Redis) => Self::Stream4,
            _ => return None,
        })
    }

    fn facts(self) -> Facts {
        let redis = |code, number, layout| Facts { code, since: RdbVersion::redis(number), layout };
        match self {
            Self::String => redis(0, 9, PACKED),
            Self::List => redis(1, 9, STRINGS),
            Self::Set => redis(2, 9, STRINGS),
            Self::Zset => redis(3, 9, &[Counted(&[Text, OldDouble])]),
            Self::Hash => redis(4, 9, PAIRS),
            Self::Zset2 => redis(5, 9, &[Counted(&[Text, Bytes(8)])]),
            Self::Module => redis(7, 9, &[Length, Module]),
            Self::HashZipmap => redis(9, 9, PACKED),
            Self::ListZiplist => redis(10, 9, PACKED),
            Self::SetIntset => redis(11, 9, PACKED),
            Self::ZsetZiplist => redis(12, 9, PACKED),
            Self::HashZiplist => redis(13, 9, PACKED),
            Self::ListQuicklist => redis(14, 9, STRINGS),
            Self::Stream => redis(15, 9, STREAM),
            Self::HashListpack => redis(16, 10, PACKED),
            Self::ZsetListpack => redis(17, 10, PACKED),
            Self::ListQuicklist2 => redis(18, 10, &[Counted(&[Length, Text])]),
            Self::Stream2 => redis(19, 10, STREAM_2),
            Self::SetListpack => redis(20, 11, PACKED),
            Self::Stream3 => redis(21, 11, STREAM_3),
            Self::HashExpiryPreGa => redis(22, 12, &[TRIPLETS]),
            Self::HashListpackExpiryPreGa => redis(23, 12, PACKED),
            Self::HashExpiry => redis(24, 12, &[Bytes(8), TRIPLETS]),
            Self::HashListpackExpiry => redis(25, 12, &[Bytes(8), Text]),
            Self::Stream4 => redis(26, 13, STREAM_4),
            Self::HashExpiryValkey => Facts {
                code: 22,
                since: RdbVersion::valkey(80),
                layout: &[Counted(&[Text, Text, Bytes(8)])],
            },
        }
    }

    /// The type byte.
    pub fn code(self) -> u8 {
        self.facts().code
    }

    /// The oldest version whose servers load this encoding, but never one below 9 (Redis 6.2), the
    /// oldest that matters here. A `RESTORE` payload carries this number, so that every server that
    /// knows the type takes it.
    pub fn since(self) -> RdbVersion {
        self.facts().since
    }

    /// Whether a server whose newest version is `target` loads this encoding.
    ///
    /// Tried: Valkey 9.1 refuses payloads of version 12 and above (but for its own 80), and Redis
    /// 7.0 refuses types 20 to 22 whatever the version says.
    pub fn is_loaded_by(self, target: RdbVersion) -> bool {
        let since = self.since();
        match (since.flavour, target.flavour) {
            (Flavour::Redis, Flavour::Valkey) => since.number <= VALKEY_BRANCHED,
            (Flavour::Valkey, Flavour::Redis) => false,
            _ => since.number <= target.number,
        }
    }

    /// The type as the command `TYPE` names it; `"module"` for any module's.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List | Self::ListZiplist | Self::ListQuicklist | Self::ListQuicklist2 => "list",
            Self::Set | Self::SetIntset | Self::SetListpack => "set",
            Self::Zset | Self::Zset2 | Self::ZsetZiplist | Self::ZsetListpack => "zset",
            Self::Stream | Self::Stream2 | Self::Stream3 | Self::Stream4 => "stream",
            Self::Module => "module",
            _ => "hash",
        }
    }

    pub(super) fn layout(self) -> &'static [Step] {
        self.facts().layout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_lead_to_their_encoding_and_back() {
        for flavour in [Flavour::Redis, Flavour::Valkey] {
            for code in 0..=u8::MAX {
                if let Some(encoding) = Encoding::of_code(flavour, code) {
                    assert_eq!(encoding.code(), code);
                }
            }
        }
        assert_eq!(Encoding::of_code(Flavour::Valkey, 24), None);
        assert_eq!(Encoding::of_code(Flavour::Redis, 6), None);
    }

    #[test]
    fn targets_load_what_their_release_knows() {
        let cases = [
            (Encoding::String, [true, true, true, true, true]),
            (Encoding::ListQuicklist2, [false, true, true, true, true]),
            (Encoding::SetListpack, [false, false, true, true, true]),
            (Encoding::HashExpiry, [false, false, false, true, false]),
            (Encoding::HashExpiryValkey, [false, false, false, false, true]),
        ];
        let targets = [9, 10, 11, 12].map(RdbVersion::redis);
        for (encoding, expected) in cases {
            let mut loaded = targets.map(|target| encoding.is_loaded_by(target)).to_vec();
            loaded.push(encoding.is_loaded_by(RdbVersion::valkey(80)));
            assert_eq!(loaded, expected, "{encoding:?}");
        }
    }
}
