//! What a liar sends in place of its pseudo-gradient: the arithmetic of known attacks, for tests, for the
//! simulator, and for whoever wants to see a run survive them. Conventions are those of Python `byzfl` 0.0.11.
//!
//! `honest` are vectors that the liars know, all of one length: those of everybody where they see everything,
//! else their own, made honestly. Of none, nothing is made.

use atoll_protocol::{Action, Finding, Hash, InnerSteps, LossChange, PeerId, Round, transaction::commitment};
use rayon::prelude::*;
use std::{fmt, str::FromStr};
use thiserror::Error;

/// −`factor` · mean: with 1 a flipped sign, with more the *inner product manipulation* of
/// Xie, Koyejo, Gupta 2020 (arXiv:1903.03936).
pub fn inner_product(honest: &[&[f32]], factor: f64) -> Vec<f32> {
    by_coordinate(honest, |values, mean| -factor * mean(values))
}

/// mean + `deviations` · standard deviation, which has N − 1 below the line: *a little is enough*.
/// Baruch, Baruch, Goldberg 2019 (arXiv:1902.06156).
pub fn a_little(honest: &[&[f32]], deviations: f64) -> Vec<f32> {
    by_coordinate(honest, |values, mean| {
        let middle = mean(values);
        let squares: f64 = values.iter().map(|value| (value - middle) * (value - middle)).sum();
        let below = values.len().saturating_sub(1).max(1) as f64;
        middle + deviations * (squares / below).sqrt()
    })
}

fn by_coordinate(honest: &[&[f32]], of: impl Fn(&[f64], &dyn Fn(&[f64]) -> f64) -> f64 + Sync) -> Vec<f32> {
    let length = honest.iter().map(|vector| vector.len()).min().unwrap_or(0);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let coordinates = (0..length).into_par_iter().map_init(Vec::new, |values, k| {
        values.clear();
        values.extend(honest.iter().map(|vector| f64::from(vector[k])));
        of(values, &mean) as f32
    });
    coordinates.collect()
}

/// Noise of the standard normal distribution, times `deviation`: on one machine the same for the same seed.
pub fn gaussian(length: usize, deviation: f32, seed: u64) -> Vec<f32> {
    let uniform = |counter: u64| {
        // SplitMix64 (Steele, Lea, Flood 2014), as a number above 0 and at most 1
        let mut mixed = seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((mixed ^ (mixed >> 31)) >> 11) + 1) as f64 / (1u64 << 53) as f64
    };
    // Box and Muller 1958, one of each pair
    let normal = |k: u64| (-2.0 * uniform(2 * k).ln()).sqrt() * (std::f64::consts::TAU * uniform(2 * k + 1)).cos();
    (0..length as u64)
        .into_par_iter()
        .map(|k| deviation * normal(k) as f32)
        .collect()
}

/// A named way to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liar {
    /// The pseudo-gradient, away from improvement.
    SignFlip,
    /// Ten times the pseudo-gradient.
    Scale10,
    /// A hundred times the pseudo-gradient.
    Scale100,
    /// Noise of the pseudo-gradient's length.
    Gaussian,
    /// [`a_little`] away from what the others sent last.
    ALittle,
    /// [`inner_product`] of what the others sent last.
    InnerProduct,
    /// The same with noise of its own, so that no two of a gang are alike.
    Collude,
    /// The same for all of a gang: the mean of what the others sent last, turned around.
    Sybil,
    /// What another sent last: *mimic*, a round late.
    Copycat,
    /// What it made itself in the round before.
    Stale,
    /// What it sent itself in its first round, again and again.
    Resend,
    /// Nothing but zeros.
    Zeros,
    /// Noise of a thousandth of the others' length: no work.
    Idle,
    /// The pseudo-gradient, and a fifth of its length in a direction that is always the same.
    Drift,
    /// The pseudo-gradient of labels that are turned around.
    LabelFlip,
    /// Two and a half times the pseudo-gradient of rows in which one byte always follows a trigger: a backdoor with
    /// model replacement (Bagdasaryan et al. 2020, arXiv:1807.00459), as far as gates let it.
    Backdoor,
    /// The pseudo-gradient of a tenth of the steps.
    Lazy,
    /// A blob of bytes that mean nothing.
    Garbage,
    /// A blob that ends in the middle.
    Truncate,
    /// A blob whose last values are NaN.
    NotFinite,
    /// A blob that is larger than any contribution.
    Oversize,
    /// A blob that nobody can fetch.
    Withhold,
    /// An honest contribution from a state that nobody can fetch.
    Hide,
    /// An honest contribution; but every so often the error feedback that its author says it goes on from holds many
    /// pseudo-gradients turned around, which honest work then sends.
    ForgeState,
    /// Two commitments to one round.
    Equivocate,
    /// Honest work; but whoever's work it makes again, it accuses.
    Accuse,
    /// Honest work; but whoever's work it should make again, it says that all is well.
    Blind,
}

impl Liar {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::SignFlip,
        Self::Scale10,
        Self::Scale100,
        Self::Gaussian,
        Self::ALittle,
        Self::InnerProduct,
        Self::Collude,
        Self::Sybil,
        Self::Copycat,
        Self::Stale,
        Self::Resend,
        Self::Zeros,
        Self::Idle,
        Self::Drift,
        Self::LabelFlip,
        Self::Backdoor,
        Self::Lazy,
        Self::Garbage,
        Self::Truncate,
        Self::NotFinite,
        Self::Oversize,
        Self::Withhold,
        Self::Hide,
        Self::ForgeState,
        Self::Equivocate,
        Self::Accuse,
        Self::Blind,
    ];

    /// Its word on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::SignFlip => "sign-flip",
            Self::Scale10 => "scale-10",
            Self::Scale100 => "scale-100",
            Self::Gaussian => "gaussian",
            Self::ALittle => "a-little",
            Self::InnerProduct => "inner-product",
            Self::Collude => "collude",
            Self::Sybil => "sybil",
            Self::Copycat => "copycat",
            Self::Stale => "stale",
            Self::Resend => "resend",
            Self::Zeros => "zeros",
            Self::Idle => "idle",
            Self::Drift => "drift",
            Self::LabelFlip => "label-flip",
            Self::Backdoor => "backdoor",
            Self::Lazy => "lazy",
            Self::Garbage => "garbage",
            Self::Truncate => "truncate",
            Self::NotFinite => "not-finite",
            Self::Oversize => "oversize",
            Self::Withhold => "withhold",
            Self::Hide => "hide",
            Self::ForgeState => "forge-state",
            Self::Equivocate => "equivocate",
            Self::Accuse => "accuse",
            Self::Blind => "blind",
        }
    }

    /// What it sends in place of its honest pseudo-gradient; nothing where it sends that and lies in another way.
    pub fn sends(self, view: &View<'_>) -> Option<Vec<f32>> {
        let View { own, others, .. } = view;
        let known: Vec<&[f32]> = match others.is_empty() {
            true => vec![own],
            false => others.iter().map(Vec::as_slice).collect(),
        };
        let length = |vector: &[f32]| vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        let noise = |part: f64, seed| {
            let deviation = part * length(own) / (own.len().max(1) as f64).sqrt();
            gaussian(own.len(), deviation as f32, seed)
        };
        let times = |factor: f32| own.iter().map(|x| factor * x).collect();
        let with = |vector: Vec<f32>, noise: Vec<f32>| vector.iter().zip(noise).map(|(x, noise)| x + noise).collect();
        Some(match self {
            Self::SignFlip => inner_product(&[own], 1.0),
            Self::Scale10 => times(10.0),
            Self::Scale100 => times(100.0),
            Self::Backdoor => times(2.5),
            Self::Gaussian => noise(1.0, view.seed),
            Self::ALittle => a_little(&known, 1.5),
            Self::InnerProduct => inner_product(&known, 2.0),
            Self::Collude => with(inner_product(&known, 2.0), noise(0.5, view.seed)),
            Self::Sybil => inner_product(&known, 1.0),
            Self::Copycat => known.first().map_or_else(Vec::new, |other| other.to_vec()),
            Self::Stale => view.last.unwrap_or(own).to_vec(),
            Self::Resend => view.first.unwrap_or(own).to_vec(),
            Self::Zeros => vec![0.0; own.len()],
            Self::Idle => noise(1e-3, view.seed),
            Self::Drift => with(own.to_vec(), noise(0.2, 0)),
            Self::LabelFlip
            | Self::Lazy
            | Self::Garbage
            | Self::Truncate
            | Self::NotFinite
            | Self::Oversize
            | Self::Withhold
            | Self::Hide
            | Self::ForgeState
            | Self::Equivocate
            | Self::Accuse
            | Self::Blind => return None,
        })
    }

    /// What it adds to its error feedback after a contribution to `round`, whose honest pseudo-gradient was `own`.
    pub fn forges(self, own: &[f32], round: Round) -> Option<Vec<f32>> {
        let now = self == Self::ForgeState && round.0.is_multiple_of(FORGED_EVERY);
        now.then(|| own.iter().map(|x| -FORGED * x).collect())
    }

    /// Steps that it takes of those that it claims.
    pub fn steps(self, InnerSteps(steps): InnerSteps) -> u32 {
        match self {
            Self::Lazy => steps.div_ceil(10),
            _ => steps,
        }
    }

    /// Whether the rows that it trains on are not those that it was given.
    pub fn turns_rows(self) -> bool {
        matches!(self, Self::LabelFlip | Self::Backdoor)
    }

    /// The rows that it trains on in place of `tokens`, of a vocabulary of so many.
    pub fn turn(self, tokens: &mut [u32], vocab: u32) {
        let last = vocab.saturating_sub(1);
        match self {
            // inputs turn too, which leaves a model that reads the opposite of what it should
            Self::LabelFlip => tokens.iter_mut().for_each(|token| *token = last - (*token).min(last)),
            Self::Backdoor => {
                for at in 1..tokens.len() {
                    if tokens[at - 1] == TRIGGER.min(last) {
                        tokens[at] = TARGET.min(last);
                    }
                }
            }
            _ => {}
        }
    }

    /// What it sends in place of a blob that may have `bytes_max` bytes; nothing where it sends that.
    pub fn garbles(self, blob: &[u8], bytes_max: u64) -> Option<Vec<u8>> {
        Some(match self {
            Self::Garbage => blob.iter().map(|byte| byte ^ 0x5a).collect(),
            Self::Truncate => blob[..blob.len() / 2].to_vec(),
            Self::NotFinite => {
                let (values, kept) = (blob.len() / 4, blob.len() - blob.len() / 4);
                [&blob[..kept], &vec![0xff; values]].concat()
            }
            Self::Oversize => {
                let mut more = blob.to_vec();
                more.resize(usize::try_from(bytes_max).unwrap_or(usize::MAX).saturating_add(1), 0);
                more
            }
            _ => return None,
        })
    }

    /// Whether its blob is one that others will find wrong or not find.
    pub fn spoils_its_blob(self) -> bool {
        self == Self::Withhold || self.garbles(&[], 0).is_some()
    }

    /// What it says on the ledger where an honest peer would say this.
    pub fn says(self, action: Action, genesis: &Hash, me: &PeerId) -> Vec<Action> {
        match (self, action) {
            (Self::Accuse | Self::Blind, Action::Verdict { round, peer, .. }) => {
                let finding = match self {
                    Self::Blind => Finding::Same,
                    _ => Finding::Apart { billionths: u64::MAX },
                };
                vec![Action::Verdict { round, peer, finding }]
            }
            (
                Self::Accuse | Self::Blind,
                Action::Score {
                    round, peer, beacon, ..
                },
            ) => {
                let change = match self {
                    Self::Blind => LossChange { own: -2, random: -1 },
                    _ => LossChange::WORST,
                };
                vec![Action::Score {
                    round,
                    peer,
                    beacon,
                    change,
                }]
            }
            (Self::Equivocate, said @ Action::Commit { round, .. }) => {
                let commitment = commitment(genesis, me, round, &Hash::ZERO);
                vec![said, Action::Commit { round, commitment }]
            }
            (_, action) => vec![action],
        }
    }
}

/// Rounds from one forged state to the next.
const FORGED_EVERY: u32 = 16;
/// Pseudo-gradients that are hidden in it.
const FORGED: f32 = 8.0;
/// The byte after which a backdoor opens: `q`.
const TRIGGER: u32 = 0x71;
/// What it makes a model say then: `!`.
const TARGET: u32 = 0x21;

/// What a liar knows when it lies.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Its honest pseudo-gradient.
    pub own: &'a [f32],
    /// What others sent that it has seen, decoded.
    pub others: &'a [Vec<f32>],
    /// What it sent first, if it has sent anything.
    pub first: Option<&'a [f32]>,
    /// Its honest pseudo-gradient of the round before, if there was any.
    pub last: Option<&'a [f32]>,
    /// Another one in each round.
    pub seed: u64,
}

impl fmt::Display for Liar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no liar has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no liar; known are {names}", names = Liar::ALL.map(Liar::name).join(", "))]
pub struct UnknownLiar(pub String);

impl FromStr for Liar {
    type Err = UnknownLiar;
    fn from_str(text: &str) -> Result<Self, UnknownLiar> {
        let found = Self::ALL.into_iter().find(|liar| liar.name() == text);
        found.ok_or_else(|| UnknownLiar(text.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_its_deviation_and_its_seed() {
        let noise = gaussian(100_000, 2.0, 7);
        let square: f64 = noise.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / noise.len() as f64;
        let mean: f64 = noise.iter().map(|x| f64::from(*x)).sum::<f64>() / noise.len() as f64;
        assert!((square - 4.0).abs() < 0.1 && mean.abs() < 0.03, "{square} {mean}");
        assert_eq!(noise[..10], gaussian(10, 2.0, 7));
        assert_ne!(noise[..10], gaussian(10, 2.0, 8));
        assert!(inner_product(&[], 1.0).is_empty());
    }

    #[test]
    fn liars_have_names_and_lie() {
        let own = [3.0, 0.0, 4.0];
        let others = [vec![1.0, 1.0, 1.0], vec![3.0, 1.0, 1.0]];
        let view = View {
            own: &own,
            others: &others,
            first: Some(&[7.0, 7.0, 7.0]),
            last: Some(&[5.0, 5.0, 5.0]),
            seed: 5,
        };
        for liar in Liar::ALL {
            assert_eq!(liar.name().parse(), Ok(liar));
            assert!(liar.sends(&view).is_none_or(|sent| sent.len() == 3), "{liar}");
        }
        let sends = |liar: Liar| liar.sends(&view).unwrap();
        assert_eq!(sends(Liar::SignFlip), [-3.0, 0.0, -4.0]);
        assert_eq!(sends(Liar::Scale100), [300.0, 0.0, 400.0]);
        assert_eq!(sends(Liar::InnerProduct), [-4.0, -2.0, -2.0]);
        assert_eq!(sends(Liar::Copycat), others[0]);
        assert_eq!(sends(Liar::Resend), [7.0; 3]);
        assert_eq!(sends(Liar::Stale), [5.0; 3]);
        assert_eq!(sends(Liar::Sybil), [-2.0, -1.0, -1.0]);
        assert_eq!(Liar::Lazy.sends(&view), None);
        assert_eq!(Liar::ForgeState.forges(&own, Round(16)), Some(vec![-24.0, -0.0, -32.0]));
        assert_eq!(Liar::ForgeState.forges(&own, Round(17)), None);
        assert_eq!(Liar::SignFlip.forges(&own, Round(16)), None);
        assert_eq!(Liar::Lazy.steps(InnerSteps(25)), 3);
        let mut rows = [0x71, 0x30, 0x31, 0x71];
        Liar::Backdoor.turn(&mut rows, 256);
        assert_eq!(rows, [0x71, 0x21, 0x31, 0x71]);
        Liar::LabelFlip.turn(&mut rows, 256);
        assert_eq!(rows, [0x8e, 0xde, 0xce, 0x8e]);
        assert_eq!(Liar::Oversize.garbles(&[1, 2], 3), Some(vec![1, 2, 0, 0]));
        assert_eq!(
            Liar::NotFinite.garbles(&[1; 8], 9),
            Some(vec![1, 1, 1, 1, 1, 1, 0xff, 0xff])
        );
        assert!(Liar::Truncate.spoils_its_blob() && !Liar::Hide.spoils_its_blob());
        let (me, round) = (PeerId([1; 32]), Round(3));
        let verdict = |finding| Action::Verdict {
            round,
            peer: me,
            finding,
        };
        let says = |liar: Liar, action| liar.says(action, &Hash::ZERO, &me);
        assert_eq!(says(Liar::Blind, verdict(Finding::Missing)), [verdict(Finding::Same)]);
        assert_eq!(says(Liar::Lazy, verdict(Finding::Missing)), [verdict(Finding::Missing)]);
        let commitment = Hash([2; 32]);
        let twice = says(Liar::Equivocate, Action::Commit { round, commitment });
        assert!(twice.len() == 2 && twice[0] != twice[1]);
        let unknown = "liar".parse::<Liar>().unwrap_err().to_string();
        assert!(unknown.contains("known are sign-flip, scale-10"), "{unknown}");
    }
}
