//! Random faults under load, from a seed: `./dev test faults --seed N --rounds N`.
//!
//! A round has two fresh sites. Writers that know exactly what was acknowledged write at both, and
//! a schedule of faults runs meanwhile. Then all is healed, both sites must become equal, and hold
//! what was acknowledged, once and in order. See docs/faults.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests stand outside #[test] functions, and a panic is how a test fails"
)]

mod arena;
mod lanes;
mod ledger;
mod options;
mod report;
mod schedule;
#[expect(dead_code, reason = "shared with the integration tests, which use more of it")]
mod support;
mod writers;

use arena::Arena;
use options::Options;
use report::Report;
use schedule::Schedule;

#[test]
fn both_sites_hold_what_was_acknowledged() {
    let options = Options::from_environment();
    println!("faults: {}", options.command(options.first, options.rounds));
    let mut report = Report::default();
    for round in options.first..options.first + options.rounds {
        let schedule = Schedule::draw(options.seed, round, options.kind);
        let repeat = options.command(round, 1);
        let outcome = Arena::start(&schedule, repeat, options.strict).run(&schedule);
        println!("{}", outcome.line(round, &schedule));
        report.add(&schedule, &outcome);
    }
    println!("{report}");
}
