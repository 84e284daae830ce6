//! Which arms there are, and what each preset runs.
//!
//! Within a column all arms read the same tokens in the same order. Grids are small, over learning rates, on
//! the first seed: three for what everybody is measured against, two for the others; with other numbers of
//! replicas nothing is tuned, and one seed shows the direction. Our outer optimizer was chosen
//! by hand, on runs like those of the main column and shorter ones; others have their papers' settings, and two
//! arms show them with ours: `atoll dense` is DiLoCo with our outer optimizer.

use super::{
    campaign::{Arm, Campaign},
    spec::{Method, Spec, model},
};

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// A tiny model and the main arms: under a minute.
    Smoke,
    /// All arms at 1M parameters: hours.
    Table,
    /// The main arms at 10M parameters: a day.
    Large,
}

/// A method with its fixed settings; the grid is over learning rates.
struct Setting {
    name: &'static str,
    method: Method,
    inner: &'static str,
    /// Multiples of the column's base rate.
    rates: &'static [f64],
    outer: (f64, f64, u32),
    codec: &'static str,
    feedback: f64,
    overlap: &'static str,
    rho: f64,
    robust: &'static str,
    /// H as a multiple of the column's.
    longer: u32,
}

/// Where the ledger knows the links, transfers take at most a fifth of a round of 30 steps.
const HIDDEN: &str = "auto-6";
/// What is best of its grid in every arm of the main column that has half of the base rate in it.
const BEST: [f64; 1] = [0.5];
/// How `atoll found` has contributions judged.
const FOUNDED: &str = "geometric-median clip gates";
/// DiLoCoX's ranks, at most an eighth of the model's width: at more, matrices of this size are no smaller than
/// in four bits a value. (The paper's own 64 is a 32nd of the width of its smallest model.)
const EIGHTH: &str = "effective-rank";

const DILOCO: (f64, f64, u32) = (0.7, 0.9, 0);
const PLAIN: (f64, f64, u32) = (1.0, 0.0, 0);
const OURS: (f64, f64, u32) = (1.0, 0.8, 10);

const ALL_REDUCE: Setting = Setting {
    name: "all-reduce",
    method: Method::AllReduce,
    inner: "adamw",
    rates: &[0.25, 0.5, 1.0],
    outer: PLAIN,
    codec: "dense",
    feedback: 0.0,
    overlap: "none",
    rho: 0.0,
    robust: "",
    longer: 1,
};

const fn outer_loop(
    name: &'static str,
    outer: (f64, f64, u32),
    codec: &'static str,
    feedback: f64,
    overlap: &'static str,
) -> Setting {
    Setting {
        name,
        method: Method::OuterLoop,
        rates: &[0.5, 1.0],
        outer,
        codec,
        feedback,
        overlap,
        ..ALL_REDUCE
    }
}

const fn muon(name: &'static str, of: Setting) -> Setting {
    Setting {
        name,
        inner: "muon",
        ..of
    }
}

/// What everybody compares with.
const OTHERS: [Setting; 9] = [
    ALL_REDUCE,
    Setting {
        name: "cocktail-sgd",
        method: Method::Cocktail,
        rates: &[0.5, 1.0, 2.0],
        ..ALL_REDUCE
    },
    outer_loop("diloco", DILOCO, "dense", 0.0, "none"),
    Setting {
        longer: 5,
        ..outer_loop("open-diloco", DILOCO, "fp16", 0.0, "none")
    },
    outer_loop("diloco-x", (0.35, 0.9, 0), EIGHTH, 1.0, "round"),
    outer_loop("diloco-x, our outer optimizer", OURS, EIGHTH, 1.0, "round"),
    outer_loop("diloco-x, no overlap", DILOCO, EIGHTH, 1.0, "none"),
    outer_loop("diloco-x, no compression", (0.35, 0.9, 0), "dense", 0.0, "round"),
    muon("all-reduce, muon", ALL_REDUCE),
];

/// Fixed settings of ours, and what chooses among them.
const OURS_FIXED: [Setting; 8] = [
    outer_loop("atoll dense", OURS, "dense", 0.0, "none"),
    outer_loop("atoll int8", OURS, "int8", 1.0, "none"),
    outer_loop("atoll int4", OURS, "int4", 1.0, "none"),
    outer_loop("atoll sparse-512", OURS, "sparse-512", 1.0, "none"),
    outer_loop("atoll sparse-256", OURS, "sparse-256", 1.0, "none"),
    outer_loop("atoll sparse-128", OURS, "sparse-128", 1.0, "none"),
    outer_loop("atoll sparse-64", OURS, "sparse-64", 1.0, "none"),
    outer_loop("atoll lowrank-16", OURS, "lowrank-16", 1.0, "none"),
];

const OURS_AUTO: [Setting; 9] = [
    outer_loop("atoll auto", OURS, "auto", 1.0, "none"),
    Setting {
        rho: 100.0,
        ..outer_loop("atoll auto, links of ρ = 100", OURS, "auto", 1.0, "none")
    },
    Setting {
        rho: 357.0,
        ..outer_loop("atoll auto, links of ρ = 357", OURS, "auto", 1.0, "none")
    },
    outer_loop("atoll auto, steps", OURS, "auto", 1.0, "steps-5"),
    outer_loop("atoll auto, eager", PLAIN, "auto", 1.0, "eager"),
    Setting {
        rho: 100.0,
        ..outer_loop("atoll auto, steps, links of ρ = 100", OURS, "auto", 1.0, HIDDEN)
    },
    Setting {
        rho: 357.0,
        ..outer_loop("atoll auto, steps, links of ρ = 357", OURS, "auto", 1.0, HIDDEN)
    },
    Setting {
        rho: 100.0,
        robust: FOUNDED,
        rates: &BEST,
        ..outer_loop("atoll as founded, links of ρ = 100", OURS, "auto", 1.0, HIDDEN)
    },
    muon("atoll dense, muon", outer_loop("", OURS, "dense", 0.0, "none")),
];

/// Which arms a column has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arms {
    All,
    /// What the short run compares.
    Main,
    /// What other numbers of replicas compare: the gap, and the paper's method.
    Few,
}

const FEW: [&str; 4] = ["all-reduce", "diloco-x", "atoll dense", "atoll auto, steps"];

/// Muon takes five times as long here, and has its place in the main column.
const MAIN: [&str; 7] = [
    "all-reduce",
    "cocktail-sgd",
    "diloco",
    "diloco-x",
    "atoll int4",
    "atoll sparse-64",
    "atoll auto, steps",
];

/// A column: everything that its arms have in common.
struct Column {
    size: &'static str,
    replicas: u32,
    rounds: u32,
    inner_steps: u32,
    batch: u32,
    sequence: u32,
    lr: f64,
    /// Whether rates are tuned; else all arms have the one that is best in the main column.
    tuned: bool,
    seeds: u64,
}

impl Column {
    fn name(&self) -> String {
        let Self {
            size,
            replicas,
            rounds,
            inner_steps,
            ..
        } = self;
        format!("{size} parameters, N = {replicas}, {rounds} rounds of {inner_steps} steps")
    }

    fn width(&self) -> u32 {
        model(self.size, 257, self.sequence).map_or(0, |model| model.width)
    }

    fn arm(&self, method: &Setting) -> Arm {
        let spec = |rate: &f64| Spec {
            arm: method.name.into(),
            size: self.size.into(),
            method: method.method,
            replicas: self.replicas,
            rounds: self.rounds.div_ceil(method.longer),
            inner_steps: self.inner_steps * method.longer,
            batch: self.batch,
            sequence: self.sequence,
            seed: 1,
            inner: method.inner.into(),
            lr: rate * self.lr,
            outer_lr: method.outer.0,
            outer_momentum: method.outer.1,
            outer_warmup: method.outer.2,
            codec: match method.codec {
                EIGHTH => format!("{EIGHTH}-{}", self.width() / 8),
                codec => codec.into(),
            },
            feedback: method.feedback,
            overlap: method.overlap.into(),
            rho: method.rho,
            robust: method.robust.into(),
            liars: Vec::new(),
        };
        let rates = if self.tuned { method.rates } else { &BEST };
        Arm {
            column: self.name(),
            grid: rates.iter().map(spec).collect(),
            seeds: (2..=self.seeds).collect(),
        }
    }

    fn arms<'a>(&'a self, which: Arms) -> impl Iterator<Item = Arm> + 'a {
        let all = OTHERS.iter().chain(&OURS_FIXED).chain(&OURS_AUTO);
        let wanted = move |method: &&Setting| match which {
            Arms::All => true,
            Arms::Main => MAIN.contains(&method.name),
            Arms::Few => FEW.contains(&method.name),
        };
        all.filter(wanted).map(|method| self.arm(method))
    }
}

const TABLE: Column = Column {
    size: "1m",
    replicas: 4,
    rounds: 100,
    inner_steps: 30,
    batch: 1,
    sequence: 128,
    lr: 0.003,
    tuned: true,
    seeds: 3,
};

impl Preset {
    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Table => "table",
            Self::Large => "large",
        }
    }

    /// The column whose plot is drawn.
    pub fn main_column(self) -> String {
        self.columns()
            .first()
            .map_or(String::new(), |(column, _)| column.name())
    }

    /// Columns and their arms.
    fn columns(self) -> Vec<(Column, Arms)> {
        match self {
            Self::Smoke => vec![(
                Column {
                    size: "tiny",
                    rounds: 20,
                    inner_steps: 10,
                    sequence: 32,
                    seeds: 1,
                    ..TABLE
                },
                Arms::Main,
            )],
            Self::Table => vec![
                (TABLE, Arms::All),
                (Column { rounds: 32, ..TABLE }, Arms::Main),
                (
                    Column {
                        replicas: 2,
                        batch: 2,
                        tuned: false,
                        seeds: 1,
                        ..TABLE
                    },
                    Arms::Few,
                ),
                (
                    Column {
                        replicas: 8,
                        rounds: 50,
                        tuned: false,
                        seeds: 1,
                        ..TABLE
                    },
                    Arms::Few,
                ),
            ],
            Self::Large => vec![(
                Column {
                    size: "10m",
                    lr: 0.002,
                    ..TABLE
                },
                Arms::Main,
            )],
        }
    }

    /// Everything that it runs.
    pub fn campaign(self) -> Campaign {
        let columns = self.columns();
        let arms = columns.iter().flat_map(|(column, which)| column.arms(*which));
        Campaign { arms: arms.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spec_is_sound_and_none_is_run_twice() {
        for preset in [Preset::Smoke, Preset::Table, Preset::Large] {
            let campaign = preset.campaign();
            let mut seen: Vec<&Spec> = Vec::new();
            for arm in &campaign.arms {
                for spec in &arm.grid {
                    spec.charter(257)
                        .unwrap_or_else(|error| panic!("{}: {error}", spec.arm));
                    spec.ahead().unwrap();
                    assert!(!seen.contains(&spec), "{spec:?}");
                    seen.push(spec);
                }
            }
            let first = preset.main_column();
            assert!(campaign.arms.iter().any(|arm| arm.column == first));
        }
        assert!(MAIN.iter().chain(&FEW).all(|name| {
            let all = OTHERS.iter().chain(&OURS_FIXED).chain(&OURS_AUTO);
            all.filter(|method| method.name == *name).count() == 1
        }));
    }
}
