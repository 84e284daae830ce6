//! A failed run for people: what was violated, the smallest scenario that was found to do the same, and how
//! to see it again.

use crate::{
    invariants::Violation,
    report::{Planted, Report, run_planted},
    scenario::Scenario,
    shrink::shrink,
};

/// Steps of machines that shrinking may cost, altogether.
const STEPS_MAX: u64 = 20_000_000;
const TRIES_MIN: u64 = 8;
const TRIES_MAX: u64 = 400;

/// A failure.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What was violated first.
    pub violation: Violation,
    /// The seed, of the whole and of the small scenario.
    pub seed: u64,
    /// The smallest scenario that violates the same rule.
    pub scenario: Scenario,
    /// Runs that it took to find it.
    pub tries: u32,
}

impl Failure {
    /// Makes a failed run of the toy smaller. Nothing if the run is well.
    pub fn of(report: &Report, planted: Planted) -> Option<Self> {
        let violation = report.violations.first()?.clone();
        let (rule, seed) = (violation.rule, report.seed);
        let fails = |smaller: &Scenario| {
            let again = run_planted(smaller, seed, planted);
            again.violations.first().is_some_and(|violation| violation.rule == rule)
        };
        let tries = (STEPS_MAX / report.steps.max(1)).clamp(TRIES_MIN, TRIES_MAX);
        let shrunk = shrink(&report.scenario, tries as u32, fails);
        Some(Self {
            violation,
            seed,
            scenario: shrunk.scenario,
            tries: shrunk.tries,
        })
    }

    /// What is told of it; `file` is the scenario that was run.
    pub fn text(&self, file: &str) -> String {
        let Self {
            violation,
            seed,
            scenario,
            tries,
        } = self;
        let small = scenario.to_toml().unwrap_or_default();
        format!(
            "violated after {}: {}\n  {}\nagain: atoll sim {file} --seed {seed}\n\nsmallest that does the same ({tries} tries), \
             to be saved and run with the same seed:\n\n{small}",
            violation.at, violation.rule, violation.text
        )
    }
}
