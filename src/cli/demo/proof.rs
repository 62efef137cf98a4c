//! What the demo claims, and whether the numbers bear it out.

use std::time::Duration;

use crate::observe::text::{number, table};

/// Length of the PING that Redis puts into its stream, in bytes: `*1\r\n$4\r\nPING\r\n`.
const PING_LENGTH: u64 = 14;
/// How often it does that: `repl-ping-replica-period`, whose default is 10 s.
const PING_PERIOD: Duration = Duration::from_secs(10);

/// What was counted on one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Units that the demo wrote into this Redis.
    pub written: u64,
    /// Local units that this side's sidecar saw meanwhile.
    pub local_units: u64,
    /// Units that the other side applied meanwhile.
    pub applied_there: u64,
    /// Tags still in this side's write-off set.
    pub pending: u64,
    /// Keys that this Redis holds, but for the checkpoint.
    pub keys: u64,
    /// How much this Redis's stream grew while nobody wrote, in bytes.
    pub grown: u64,
}

/// Everything that was counted.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The names and numbers of both sides.
    pub sides: [(String, Counted); 2],
    /// How long nobody wrote while `grown` was measured.
    pub still_for: Duration,
    /// Keys and libraries that `verify` compared, and how many of them differ.
    pub verified: (u64, u64),
}

/// One claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// In words.
    pub claim: &'static str,
    /// The numbers.
    pub numbers: String,
    /// Whether they bear it out.
    pub holds: bool,
}

/// Units that came back to the side they are from: local units beyond those that were written.
pub fn looped(counted: &Counted) -> i128 {
    i128::from(counted.local_units) - i128::from(counted.written)
}

/// Whether a stream that grew so much in this time held nothing but PINGs.
fn is_still(grown: u64, time: Duration) -> bool {
    let pings = time.as_secs() / PING_PERIOD.as_secs() + 1;
    grown.is_multiple_of(PING_LENGTH) && grown / PING_LENGTH <= pings
}

/// The claims.
pub fn claims(evidence: &Evidence) -> Vec<Claim> {
    let [(name_a, a), (name_b, b)] = &evidence.sides;
    let both = |of: &dyn Fn(&Counted) -> String| format!("{name_a} {}, {name_b} {}", of(a), of(b));
    let (compared, differ) = evidence.verified;
    vec![
        Claim {
            claim: "every write was applied on the other side, once",
            numbers: both(&|c| format!("{} of {}", number(c.applied_there), number(c.written))),
            holds: [a, b].iter().all(|c| c.applied_there == c.written),
        },
        Claim {
            claim: "no write came back: looped 0",
            numbers: both(&|c| looped(c).to_string()),
            holds: [a, b].iter().all(|c| looped(c) == 0),
        },
        Claim {
            claim: "every batch was written off",
            numbers: both(&|c| format!("{} in flight", number(c.pending))),
            holds: [a, b].iter().all(|c| c.pending == 0),
        },
        Claim {
            claim: "both Redis hold as many keys",
            numbers: both(&|c| number(c.keys)),
            holds: a.keys == b.keys && a.keys > 0,
        },
        Claim {
            claim: "verify: every key, value and TTL is equal",
            numbers: format!("{} compared, {} differ", number(compared), number(differ)),
            holds: differ == 0 && compared > 0,
        },
        Claim {
            claim: "both Redis stand still (but for PINGs)",
            numbers: both(&|c| format!("+{} bytes", number(c.grown))),
            holds: [a, b].iter().all(|c| is_still(c.grown, evidence.still_for)),
        },
    ]
}

/// The claims as a table.
pub fn show(claims: &[Claim]) -> String {
    let row = |claim: &Claim| {
        let verdict = if claim.holds { "yes" } else { "NO" };
        vec![verdict.to_owned(), claim.claim.to_owned(), claim.numbers.clone()]
    };
    table(&["", "proven", "numbers"], &claims.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Evidence {
        let side = Counted {
            written: 100,
            local_units: 100,
            applied_there: 100,
            pending: 0,
            keys: 7,
            grown: 14,
        };
        Evidence {
            sides: [("a".to_owned(), side), ("b".to_owned(), side)],
            still_for: Duration::from_secs(2),
            verified: (7, 0),
        }
    }

    #[test]
    fn good_numbers_prove_everything() {
        let claims = claims(&good());
        assert!(claims.iter().all(|claim| claim.holds), "{}", show(&claims));
        assert!(show(&claims).contains("a 100 of 100, b 100 of 100"));
    }

    #[test]
    fn each_bad_number_refutes_one_claim() {
        let spoil: [fn(&mut Evidence); 8] = [
            |e| e.sides[1].1.applied_there = 99,
            |e| e.sides[0].1.local_units = 101,
            |e| e.sides[0].1.local_units = 99,
            |e| e.sides[1].1.pending = 1,
            |e| e.sides[0].1.keys = 8,
            |e| e.verified.1 = 1,
            |e| e.sides[0].1.grown = 15,
            |e| e.sides[0].1.grown = 14 * 5,
        ];
        for spoil in spoil {
            let mut evidence = good();
            spoil(&mut evidence);
            let refuted = claims(&evidence).into_iter().filter(|claim| !claim.holds).count();
            assert_eq!(refuted, 1, "{evidence:?}");
        }
    }
}
