//! The outer step: θ^t and Δ become θ^{t+1}.

use crate::{
    real::nano_f32,
    theta::{VectorError, check_finite, check_len, root},
};
use atoll_protocol::{Charter, Hash, InnerSteps, Nano, Round, charter::OuterOptimizer};
use rayon::prelude::*;
use thiserror::Error;

/// Why no step was taken.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum StepError {
    /// A vector of another length, or one with a value that is not finite.
    #[error(transparent)]
    Vector(#[from] VectorError),
    /// Momentum that the optimizer has no use for, or none where it needs one.
    #[error("the outer optimizer {}, but the state {}", has(*.needed), has(!*.needed))]
    Momentum {
        /// Whether the optimizer has momentum.
        needed: bool,
    },
    /// The step leaves the range of f32.
    #[error("element {index} would become θ = {theta}, momentum = {momentum}: lower the outer learning rate")]
    NonFinite {
        /// The first such element.
        index: usize,
        /// Its θ after the step.
        theta: f32,
        /// Its momentum after the step.
        momentum: f32,
    },
}

/// Of older rounds no momentum below 0.99 keeps anything.
const ROUNDS_REMEMBERED: u32 = 2000;

fn has(momentum: bool) -> &'static str {
    match momentum {
        true => "has momentum",
        false => "has no momentum",
    }
}

/// What all peers agree on after a round.
#[derive(Debug, Clone, PartialEq)]
pub struct OuterState {
    /// θ, P elements.
    pub theta: Vec<f32>,
    /// v, P elements, if the outer optimizer has momentum.
    pub momentum: Option<Vec<f32>>,
}

/// The outer optimizer's coefficients in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OuterRule {
    lr: f32,
    /// None where there is no momentum.
    mu: Option<f32>,
    /// Inner steps of the round as a multiple of the charter's.
    length: f32,
}

impl OuterRule {
    /// Those of a round with this outer momentum, if there is any, and so many inner steps.
    pub fn of(charter: &Charter, momentum: Option<Nano>, steps: InnerSteps) -> Self {
        let (OuterOptimizer::Sgd { lr } | OuterOptimizer::Nesterov { lr, .. }) = charter.outer;
        let InnerSteps(usual) = charter.round.inner_steps;
        Self {
            lr: nano_f32(lr),
            mu: momentum.map(nano_f32),
            length: steps.0 as f32 / usual.max(1) as f32,
        }
    }

    /// Inner steps of the round as a multiple of the charter's.
    pub(crate) fn length(self) -> f32 {
        self.length
    }
}

/// v after the rounds before `round` is this times a weighted mean of their pseudo-gradients.
pub(crate) fn weight_of_momentum(outer: &OuterOptimizer, round: Round) -> f64 {
    let known = round.0.saturating_sub(ROUNDS_REMEMBERED)..round.0;
    known.fold(0.0, |weight, round| {
        let mu = outer.momentum_in(Round(round)).map_or(0.0, nano_f32);
        f64::from(mu) * weight + 1.0
    })
}

/// One element's step with momentum. Every operation rounds to f32 on its own; Rust never fuses them.
#[derive(Clone, Copy)]
struct Nesterov {
    lr: f32,
    mu: f32,
    length: f32,
}

impl Nesterov {
    /// θ and v after the step. PyTorch's `SGD(nesterov=True)`: its first step sets v = Δ, which is what
    /// v = 0 gives. v counts as if every round had the charter's H: a pseudo-gradient grows with H, and
    /// a short round must not be carried on by the momentum of long ones.
    fn next(self, theta: f32, v: f32, delta: f32) -> (f32, f32) {
        let v = self.mu * v + delta / self.length;
        (theta - self.lr * (delta + self.length * (self.mu * v)), v)
    }
}

impl OuterState {
    /// The state before the first round: zero momentum if `outer` has momentum.
    pub fn new(theta: Vec<f32>, outer: &OuterOptimizer) -> Self {
        let momentum = match outer {
            OuterOptimizer::Sgd { .. } => None,
            OuterOptimizer::Nesterov { .. } => Some(vec![0.0; theta.len()]),
        };
        Self { theta, momentum }
    }

    /// One step along −Δ:
    ///
    /// - SGD: θ ← θ − lr · Δ
    /// - Nesterov: v ← μ · v + Δ / r; θ ← θ − lr · (Δ + r · μ · v), r being the round's H as a multiple of
    ///   the charter's
    ///
    /// The number of peers needs no correction: Δ is their mean.
    /// Δ points away from improvement. This is the only place where the outer learning rate is applied.
    /// DiLoCo, Algorithm 1 (arXiv:2311.08105).
    ///
    /// Takes Δ, because its memory becomes θ: beside the result and this state nothing of their size is held.
    ///
    /// # Errors
    /// Where lengths or momentum do not fit, or a value is or would become NaN or infinite.
    pub fn step(&self, rule: OuterRule, delta: Vec<f32>) -> Result<Self, StepError> {
        check_len("delta", delta.len(), self.theta.len())?;
        check_finite("delta", &delta)?;
        let OuterRule { lr, mu, length } = rule;
        let mut theta = delta;
        let places = theta.par_iter_mut().zip(&self.theta);
        let momentum = match (mu, &self.momentum) {
            (None, None) => {
                places.for_each(|(place, theta)| *place = theta - lr * *place);
                None
            }
            (Some(mu), Some(v)) => {
                check_len("momentum", v.len(), self.theta.len())?;
                let (rule, mut v) = (Nesterov { lr, mu, length }, v.clone());
                places
                    .zip(&mut v)
                    .for_each(|((place, theta), v)| (*place, *v) = rule.next(*theta, *v, *place));
                Some(v)
            }
            (None, Some(_)) => return Err(StepError::Momentum { needed: false }),
            (Some(_), None) => return Err(StepError::Momentum { needed: true }),
        };
        let next = Self { theta, momentum };
        match next.first_not_finite() {
            Some(error) => Err(error),
            None => Ok(next),
        }
    }

    /// Takes `surplus` out of the pseudo-gradient of an earlier round, whose rule is the first of `rules`; the
    /// others are those of the steps taken since, in order. A step is linear in what it is given, so θ and v
    /// become, up to rounding, what they would be had that round merged Δ − surplus:
    ///
    /// - a ← lr (1 + μ), b ← 1 / r in that round; then b ← μ b, a ← a + lr r μ b in each since
    /// - θ ← θ + a · surplus; v ← v − b · surplus
    ///
    /// # Errors
    /// Where lengths or momentum do not fit, there is no rule, or a value is or would become NaN or infinite.
    pub fn take_back(&self, rules: &[OuterRule], surplus: Vec<f32>) -> Result<Self, StepError> {
        check_len("surplus", surplus.len(), self.theta.len())?;
        check_finite("surplus", &surplus)?;
        let needed = rules.first().is_some_and(|rule| rule.mu.is_some());
        if needed != self.momentum.is_some() {
            return Err(StepError::Momentum { needed });
        }
        let (a, b) = response(rules);
        let mut momentum = self.momentum.clone();
        if let Some(v) = &mut momentum {
            check_len("momentum", v.len(), surplus.len())?;
            let places = v.par_iter_mut().zip(&surplus);
            places.for_each(|(v, surplus)| *v -= b * surplus);
        }
        let mut theta = surplus;
        let places = theta.par_iter_mut().zip(&self.theta);
        places.for_each(|(place, theta)| *place = theta + a * *place);
        let next = Self { theta, momentum };
        match next.first_not_finite() {
            Some(error) => Err(error),
            None => Ok(next),
        }
    }

    fn first_not_finite(&self) -> Option<StepError> {
        let v = |index: usize| self.momentum.as_ref().map_or(0.0, |v| v[index]);
        let bad = |index: &usize| !(self.theta[*index].is_finite() && v(*index).is_finite());
        let index = (0..self.theta.len()).into_par_iter().find_first(bad)?;
        Some(StepError::NonFinite {
            index,
            theta: self.theta[index],
            momentum: v(index),
        })
    }

    /// The roots of θ and of the momentum, as the ledger records them.
    pub fn roots(&self) -> (Hash, Option<Hash>) {
        (root(&self.theta), self.momentum.as_deref().map(root))
    }
}

/// By what θ and v have moved since, for each unit of the first rule's pseudo-gradient: −a and b.
fn response(rules: &[OuterRule]) -> (f32, f32) {
    let (mut a, mut b) = (0.0f64, 0.0f64);
    for (round, rule) in rules.iter().enumerate() {
        let (lr, mu, length) = (
            f64::from(rule.lr),
            f64::from(rule.mu.unwrap_or(0.0)),
            f64::from(rule.length),
        );
        if round == 0 {
            a = lr;
            b = 1.0 / length;
        } else {
            b *= mu;
        }
        a += lr * length * mu * b;
    }
    (a as f32, b as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_protocol::tiny_charter;

    const SGD: OuterOptimizer = OuterOptimizer::Sgd { lr: Nano::ONE };
    const NESTEROV: OuterOptimizer = OuterOptimizer::Nesterov {
        lr: Nano(500_000_000),
        momentum: Nano(500_000_000),
        warmup: 0,
    };

    /// The rule of a round with `steps` inner steps where the charter's rounds have 8.
    fn rule_of(outer: &OuterOptimizer, steps: u32) -> OuterRule {
        let mut charter = tiny_charter([]);
        (charter.outer, charter.round.inner_steps) = (outer.clone(), InnerSteps(8));
        OuterRule::of(&charter, outer.momentum_in(Round(0)), InnerSteps(steps))
    }

    fn rule(outer: &OuterOptimizer) -> OuterRule {
        rule_of(outer, 8)
    }

    #[test]
    fn sgd_with_rate_1_averages() {
        let state = OuterState::new(vec![3.0, 5.0], &SGD);
        let next = state.step(rule(&SGD), vec![1.0, -1.0]).expect("finite");
        assert_eq!((next.theta, next.momentum), (vec![2.0, 6.0], None));
    }

    #[test]
    fn nesterov_looks_ahead() {
        let mut state = OuterState::new(vec![8.0], &NESTEROV);
        // v = 2, step = 0.5 · (2 + 1); then v = 0.5 · 2 + 2 = 3, step = 0.5 · (2 + 1.5).
        for theta in [6.5, 4.75] {
            state = state.step(rule(&NESTEROV), vec![2.0]).expect("finite");
            assert_eq!(state.theta, [theta]);
        }
        assert_eq!(state.momentum, Some(vec![3.0]));
    }

    #[test]
    fn a_shorter_round_moves_as_far_a_step() {
        // 16 inner steps of 1 each, as two rounds of 8 or as four of 4: the same velocity per step.
        let moved = |steps: u32| {
            let mut state = OuterState::new(vec![0.0], &NESTEROV);
            let rule = rule_of(&NESTEROV, steps);
            for _ in 0..400 {
                state = state.step(rule, vec![steps as f32]).expect("finite");
            }
            f64::from(state.theta[0]) / f64::from(steps)
        };
        assert!(
            (moved(8) - moved(4)).abs() < 1e-3 * moved(8).abs(),
            "{} {}",
            moved(8),
            moved(4)
        );
    }

    #[test]
    fn what_is_taken_back_was_never_there() {
        let rounds = [(8, 3.0), (4, -1.0), (8, 0.5), (2, 0.25)];
        for outer in [SGD, NESTEROV] {
            for last in 1..=rounds.len() {
                let rules: Vec<OuterRule> = rounds[..last]
                    .iter()
                    .map(|(steps, _)| rule_of(&outer, *steps))
                    .collect();
                let run = |first: f32| {
                    let mut state = OuterState::new(vec![8.0, -2.0], &outer);
                    for (rule, (_, delta)) in rules.iter().zip(rounds) {
                        let delta = if delta == 3.0 { first } else { delta };
                        state = state.step(*rule, vec![delta, delta]).expect("finite");
                    }
                    state
                };
                let (with, without) = (run(3.0), run(1.0));
                let with = with.take_back(&rules, vec![2.0, 2.0]).expect("finite");
                let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6);
                assert!(apart(&with.theta, &without.theta), "{with:?} {without:?}");
                if let (Some(a), Some(b)) = (&with.momentum, &without.momentum) {
                    assert!(apart(a, b), "{with:?} {without:?}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_taken_back_is_refused() {
        let state = OuterState::new(vec![f32::MAX, 1.0], &NESTEROV);
        let rules = [rule(&NESTEROV)];
        assert!(state.take_back(&rules, vec![f32::MAX, 0.0]).is_err());
        assert!(state.take_back(&rules, vec![f32::NAN, 0.0]).is_err());
        assert!(state.take_back(&rules, vec![0.0]).is_err());
        assert!(state.take_back(&[], vec![0.0, 0.0]).is_err());
        assert!(state.take_back(&[rule(&SGD)], vec![0.0, 0.0]).is_err());
        assert!(state.take_back(&rules, vec![0.0, 0.0]).is_ok());
    }

    #[test]
    fn a_step_that_cannot_be_is_refused() {
        let extreme = || vec![0.0, f32::MAX];
        for (outer, delta) in [
            (SGD, vec![0.0]),
            (SGD, vec![1.0, f32::NAN]),
            (SGD, vec![1.0, f32::MIN]),
            (NESTEROV, vec![1.0, f32::MIN]),
            (NESTEROV, vec![1.0, f32::INFINITY]),
        ] {
            let state = OuterState::new(extreme(), &outer);
            assert!(state.step(rule(&outer), delta.clone()).is_err(), "{delta:?}");
        }
        let text = |result: Result<OuterState, StepError>| result.map(drop).map_err(|error| error.to_string());
        let state = OuterState::new(extreme(), &SGD);
        assert_eq!(
            text(state.step(rule(&NESTEROV), vec![0.0, 0.0])),
            Err("the outer optimizer has momentum, but the state has no momentum".into())
        );
        assert_eq!(
            text(state.step(rule(&SGD), vec![0.0, f32::MIN])),
            Err("element 1 would become θ = inf, momentum = 0: lower the outer learning rate".into())
        );
    }

    #[test]
    fn roots_are_those_of_the_blobs() {
        let state = OuterState::new(vec![1.5], &NESTEROV);
        assert_eq!(state.roots(), (root(&[1.5]), Some(root(&[0.0]))));
        assert_eq!(OuterState::new(vec![1.5], &SGD).roots(), (root(&[1.5]), None));
    }
}
