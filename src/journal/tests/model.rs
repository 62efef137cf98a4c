//! Random histories against a simple model: a list of units and a string of bytes.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// A block of units of such sizes, with so many bytes of echoes behind, in this database.
    Append(Vec<usize>, u64, u32),
    /// Only echoes came.
    Echoes(u64),
    Seen,
    Ping,
    Rename,
    Begin,
    /// As after kill -9, or after a clean end.
    Reopen(bool),
    /// The process was killed within a write of this many bytes.
    Tear(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![8 => 1_usize..200, 1 => 1000_usize..300_000];
    prop_oneof![
        12 => (prop::collection::vec(size, 1..5), 0_u64..50, 0_u32..3)
            .prop_map(|(sizes, echoes, database)| Step::Append(sizes, echoes, database)),
        2 => (1_u64..1000).prop_map(Step::Echoes),
        1 => Just(Step::Seen),
        1 => Just(Step::Ping),
        1 => Just(Step::Rename),
        1 => Just(Step::Begin),
        2 => any::<bool>().prop_map(Step::Reopen),
        1 => (1_usize..60).prop_map(Step::Tear),
    ]
}

/// What must be in the journal.
struct Model {
    stage: Stage,
    position: Position,
    aliases: Vec<(ReplicationId, Offset)>,
    first: Offset,
    first_follower: FollowerOffset,
    /// Where each ends, its bytes, and what it had seen.
    units: Vec<(Offset, Vec<u8>, Arc<Seen>)>,
    bytes: Vec<u8>,
    serial: u64,
}

impl Model {
    async fn new(cache: u64, fsync: Fsync) -> Self {
        let mut stage = Stage::begun(fsync).await;
        stage.config.cache = ByteSize::b(cache);
        stage.reopen(BOOT).unwrap();
        let head = stage.journal().head();
        Self {
            position: head.position,
            first: head.position.offset,
            first_follower: head.follower,
            stage,
            aliases: Vec::new(),
            units: Vec::new(),
            bytes: Vec::new(),
            serial: 0,
        }
    }

    async fn run(&mut self, step: &Step) {
        match step {
            Step::Append(sizes, echoes, database) => {
                self.append(sizes, *echoes, Database(*database)).await;
            }
            Step::Echoes(bytes) => {
                self.position.offset.0 += bytes;
                let (position, seen) = (self.position, self.stage.seen.clone());
                let journal = self.stage.journal();
                journal.append(&mut None, &reached(position, Database(1), &seen)).await.unwrap();
            }
            Step::Seen => {
                self.serial += 1;
                let offset = Offset(self.serial);
                let position = Position { offset, ..self.position };
                self.stage.seen = Arc::new(self.stage.seen.with(&"b".parse().unwrap(), position));
            }
            Step::Ping => {
                self.bytes.extend_from_slice(PING);
                self.stage.journal().ping().await.unwrap();
            }
            Step::Rename => {
                self.aliases.push((self.position.replid, self.position.offset));
                self.position.replid = ReplicationId::random();
                self.stage.journal().rename_history(self.position.replid).await.unwrap();
            }
            Step::Begin => self.begin().await,
            Step::Reopen(closed) => {
                if *closed {
                    self.stage.journal().close().unwrap();
                }
                self.stage.reopen(BOOT).unwrap();
                if !closed {
                    self.go_back();
                }
            }
            Step::Tear(bytes) => self.tear(*bytes),
        }
    }

    /// What came behind the last record without a unit may have to be read again.
    fn go_back(&mut self) {
        let head = self.stage.journal().head();
        let last = self.units.last().map_or(self.first, |(end, ..)| *end);
        let known = self.aliases.last().map_or(last, |(_, to)| last.max(*to));
        assert!(known <= head.position.offset && head.position.offset <= self.position.offset);
        assert_eq!(head.position.replid, self.position.replid);
        self.position = head.position;
    }

    async fn begin(&mut self) {
        let journal = self.stage.journal();
        let offset = Offset(self.position.offset.0 / 2);
        self.position = Position { replid: ReplicationId::random(), offset };
        journal.begin_history(self.position, Database(0)).await.unwrap();
        self.first = offset;
        self.first_follower = journal.head().follower;
        self.aliases.clear();
        self.units.clear();
        self.bytes.clear();
    }

    async fn append(&mut self, sizes: &[usize], echoes: u64, database: Database) {
        let start = self.position.offset;
        for size in sizes {
            self.serial += 1;
            let text: Vec<u8> =
                format!("{}:{size}|", self.serial).bytes().cycle().take(*size).collect();
            self.position.offset.0 += *size as u64;
            let seen = self.stage.seen.clone();
            self.stage.builder.unit(database, &text, self.position.offset, &seen);
            self.units.push((self.position.offset, text, seen));
        }
        self.position.offset.0 += echoes;
        let block = self.stage.builder.take(self.position.replid, start, self.position.offset);
        self.bytes.extend_from_slice(&block.payload);
        let (mut block, seen) = (Some(block), self.stage.seen.clone());
        let journal = self.stage.journal();
        journal.append(&mut block, &reached(self.position, database, &seen)).await.unwrap();
        assert!(block.is_none());
    }

    /// Puts the beginning of a record at the end, as a write that was cut short leaves it.
    fn tear(&mut self, bytes: usize) {
        self.stage.journal = None;
        let path = self.stage.segments().pop().unwrap();
        let mut whole = bytes::BytesMut::new();
        let record = record::Record::Rename(ReplicationId::random());
        record::put_frame(&mut whole, |out| record.put(out)).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let bytes = bytes.min(whole.len() - 1);
        file.write_all_at(&whole[..bytes], file.metadata().unwrap().len()).unwrap();
        self.stage.open(BOOT).unwrap();
        self.go_back();
    }

    async fn check(&self, places: &[prop::sample::Index]) {
        let journal = self.stage.journal();
        let head = journal.head();
        assert_eq!(head.position, self.position);
        assert_eq!(head.follower.0, self.first_follower.0 + self.bytes.len() as u64);
        for place in places {
            let span = self.position.offset.0 - self.first.0 + 1;
            let offset = Offset(self.first.0 + place.index(usize::try_from(span).unwrap()) as u64);
            self.check_units(offset).await;
            let skip = place.index(self.bytes.len() + 1);
            let from = FollowerOffset(self.first_follower.0 + skip as u64);
            assert!(bytes(journal, from).await.unwrap() == self.bytes[skip..]);
        }
        self.check_units(self.first).await;
    }

    async fn check_units(&self, offset: Offset) {
        let alias = self.aliases.iter().find(|(_, to)| offset <= *to);
        let replid = alias.map_or(self.position.replid, |(replid, _)| *replid);
        let mut reader = self.stage.journal().read_from(Position { replid, offset }).unwrap();
        let mut expected = self.units.iter().filter(|(end, ..)| *end > offset);
        let (mut at, mut moment) = (offset, Timestamp(0));
        while let Read::Block(block) = reader.read().await.unwrap() {
            for (index, unit) in block.units.iter().enumerate().filter(|(_, u)| u.end > at) {
                let (end, text, seen) = expected.next().unwrap();
                assert_eq!(unit.end, *end);
                assert!(block.payload[unit.from..unit.to] == text[..]);
                assert_eq!(block.seen[unit.seen], *seen);
                assert!(block.timestamp(index) > moment);
                moment = block.timestamp(index);
            }
            at = block.end;
        }
        assert_eq!(expected.count(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_was_appended_is_read_back_from_any_place(
        steps in prop::collection::vec(step(), 1..60),
        places in prop::collection::vec(any::<prop::sample::Index>(), 3),
        cache in prop_oneof![Just(0), Just(2000), Just(1 << 20)],
        always in prop::bool::weighted(0.2),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fsync = if always { Fsync::Always } else { Fsync::No };
            let mut model = Model::new(cache, fsync).await;
            for (index, step) in steps.iter().enumerate() {
                model.run(step).await;
                if index % 8 == 7 {
                    model.check(&places).await;
                }
            }
            model.check(&places).await;
            model.run(&Step::Reopen(false)).await;
            model.check(&places).await;
        });
    }
}
