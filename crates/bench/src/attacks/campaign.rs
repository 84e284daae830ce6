//! Which runs there are, and running what is missing: as many at a time as there are cores, each on one thread.

use super::{Book, RunResult, Spec, spec::RunError};
use crate::book::BookError;
use atoll_outer::attack::Liar;
use atoll_simulator::Text;
use std::{
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
};
use thiserror::Error;

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Four liars, two rules, one small network: about a minute.
    Smoke,
    /// Every liar against every rule with a tiny model, and against the default with 1M parameters: hours.
    Table,
}

/// How `atoll found` has contributions judged.
pub const DEFAULT: &str = "geometric-median clip gates";
/// The rules with the default first, and whether audits are on beside them. All have the gates.
pub const RULES: [(&str, bool); 8] = [
    (DEFAULT, true),
    (DEFAULT, false),
    ("mean gates", false),
    ("centered-clipping gates", false),
    ("geometric-median mixing clip gates", false),
    ("krum gates", false),
    ("multi-krum gates", false),
    ("minimum-diameter gates", false),
];

/// Tiny models learn more or less by a percent from one seed to the next: the default rule has these too.
const MORE_SEEDS: [u64; 2] = [2, 3];
/// And its honest runs, against which all others are held, these: with three their mean is known to a percent only.
const HONEST_SEEDS: RangeInclusive<u64> = 4..=24;

/// Runs.
pub struct Campaign {
    /// In order; those of the default rule first.
    pub specs: Vec<Spec>,
}

/// Why a campaign did not end.
#[derive(Debug, Error)]
pub enum CampaignError {
    /// A run failed.
    #[error("{rule}, {liar} x {liars} of {replicas}, seed {seed}: {cause}", rule = spec.rule, liar = spec.liar, liars = spec.liars, replicas = spec.replicas, seed = spec.seed)]
    Run {
        /// Which.
        spec: Box<Spec>,
        /// Why.
        cause: RunError,
    },
    /// Results cannot be written.
    #[error(transparent)]
    Book(#[from] BookError),
    /// Threads cannot be made.
    #[error("cannot start a thread: {0}")]
    Threads(String),
    /// It was told to stop; what is done is on disk.
    #[error("stopped; the same command goes on where it was")]
    Stopped,
}

impl Preset {
    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Table => "table",
        }
    }

    /// Everything that it runs.
    pub fn campaign(self) -> Campaign {
        let tiny = |replicas, rounds| Spec {
            size: "tiny".into(),
            replicas,
            rounds,
            inner_steps: 5,
            rule: String::new(),
            audits: false,
            liar: String::new(),
            liars: 0,
            seed: 1,
        };
        let mut specs = Vec::new();
        match self {
            Self::Smoke => {
                let liars = [Liar::SignFlip, Liar::InnerProduct, Liar::Lazy, Liar::Zeros];
                for rule in [RULES[0], RULES[2]] {
                    specs.extend(against(&tiny(5, 10), rule, &liars, &[1]));
                }
            }
            Self::Table => {
                let large = Spec {
                    size: "1m".into(),
                    inner_steps: 20,
                    ..tiny(8, 40)
                };
                specs.extend(against(&tiny(8, 40), RULES[0], &Liar::ALL, &[1]));
                specs.extend(against(&tiny(16, 40), RULES[0], &Liar::ALL, &[1, 3]));
                specs.extend(against(&large, RULES[0], &Liar::ALL, &[1]));
                for rule in RULES.into_iter().skip(1) {
                    specs.extend(against(&tiny(8, 40), rule, &Liar::ALL, &[1]));
                    specs.extend(against(&tiny(16, 40), rule, &Liar::ALL, &[1, 3]));
                }
                for seed in MORE_SEEDS {
                    let tiny = |replicas| Spec {
                        seed,
                        ..tiny(replicas, 40)
                    };
                    specs.extend(against(&tiny(8), RULES[0], &Liar::ALL, &[1]));
                    specs.extend(against(&tiny(16), RULES[0], &Liar::ALL, &[1, 3]));
                }
                for seed in HONEST_SEEDS {
                    for replicas in [8, 16] {
                        let tiny = Spec {
                            seed,
                            ..tiny(replicas, 40)
                        };
                        specs.extend(against(&tiny, RULES[0], &[], &[]));
                    }
                }
            }
        }
        Campaign { specs }
    }
}

/// The honest run under `rule`, then every liar, so many of them at a time.
fn against(like: &Spec, (rule, audits): (&str, bool), liars: &[Liar], counts: &[u32]) -> Vec<Spec> {
    let honest = Spec {
        rule: rule.into(),
        audits,
        ..like.clone()
    };
    let with = counts.iter().flat_map(|count| {
        liars.iter().map(|liar| Spec {
            liar: liar.name().into(),
            liars: *count,
            ..honest.clone()
        })
    });
    std::iter::once(honest.clone()).chain(with).collect()
}

impl Campaign {
    /// Runs whose results are in `book`.
    pub fn done(&self, book: &Book) -> usize {
        self.specs.iter().filter(|spec| book.get(spec).is_some()).count()
    }

    /// Runs what is missing in `book`, `threads` at a time; `ended` hears of each.
    ///
    /// # Errors
    /// The first that a run or the book gave, or that it was told to stop. What had ended is in the book.
    pub fn run(
        &self,
        text: &Text,
        book: &Book,
        threads: usize,
        stop: &(dyn Fn() -> bool + Sync),
        ended: &(dyn Fn(&Spec, &RunResult) + Sync),
    ) -> Result<(), CampaignError> {
        let pools = (0..threads.max(1)).map(|_| rayon::ThreadPoolBuilder::new().num_threads(1).build());
        let pools = pools.collect::<Result<Vec<_>, _>>();
        let pools = pools.map_err(|error| CampaignError::Threads(error.to_string()))?;
        let missing = self.specs.iter().filter(|spec| book.get(spec).is_none());
        let waiting = Mutex::new(missing.collect::<Vec<_>>().into_iter());
        let failed = Mutex::new(None);
        let first = |error| {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(error);
        };
        let next = || {
            let failed = failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.next().filter(|_| !failed)
        };
        std::thread::scope(|scope| {
            for pool in &pools {
                scope.spawn(|| {
                    while let Some(spec) = next() {
                        match pool.install(|| spec.run(text, stop)) {
                            Ok(Some(result)) => match book.put(spec, result.clone()) {
                                Ok(()) => ended(spec, &result),
                                Err(error) => first(error.into()),
                            },
                            Ok(None) => first(CampaignError::Stopped),
                            Err(cause) => first(CampaignError::Run {
                                spec: Box::new(spec.clone()),
                                cause,
                            }),
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spec_is_sound_and_none_is_run_twice() {
        for preset in [Preset::Smoke, Preset::Table] {
            let campaign = preset.campaign();
            let mut seen: Vec<String> = campaign.specs.iter().map(|spec| format!("{spec:?}")).collect();
            for spec in &campaign.specs {
                spec.check().unwrap_or_else(|error| panic!("{spec:?}: {error}"));
            }
            let all = seen.len();
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), all);
        }
    }
}
