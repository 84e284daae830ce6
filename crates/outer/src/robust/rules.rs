//! Robust rules as weights: each is a function of the inner products alone, so whoever has them can compute
//! the weights again. Conventions are those of Python `byzfl` 0.0.11, except that of equals the one with the
//! lowest index is taken (there, whichever a partition leaves first).
//!
//! N contributions x₁ … x_N, of which at most `faulty` (f) are not honest. f64, + − × ÷ and square roots in a
//! fixed order: the same bits on every machine.

use super::Gram;

/// How contributions are weighed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// All alike.
    Mean,
    /// v ← v + mean of (xᵢ − v) clipped to length `radius`, so many times, from `start`.
    /// Karimireddy, He, Jaggi 2021 (arXiv:2012.10333).
    CenteredClipping {
        /// Where v begins.
        start: Start,
        /// The longest that a difference may be.
        radius: Radius,
        /// How often.
        steps: u32,
    },
    /// Smoothed Weiszfeld steps from 0: z ← Σ xᵢ/dᵢ / Σ 1/dᵢ with dᵢ = max(‖xᵢ − z‖, `floor`).
    /// Pillutla, Kakade, Harchaoui 2019 (arXiv:1912.13445).
    GeometricMedian {
        /// ν.
        floor: Radius,
        /// How often.
        steps: u32,
    },
    /// The one with the least mean squared distance to its N − f − 1 nearest others.
    /// Blanchard et al. 2017 (arXiv:1703.02757).
    Krum,
    /// The mean of the N − f best by that score.
    MultiKrum,
    /// The mean of the N − f that lie closest together by their largest distance. Its work grows as the number
    /// of such subsets: for small N. Rousseeuw 1985; El Mhamdi, Guerraoui, Rouault 2018 (arXiv:1802.07927).
    MinimumDiameter,
}

/// Where centered clipping begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At 0.
    Zero,
    /// At [`Rule::GeometricMedian`] of three steps with a floor of a tenth of the median length.
    Median,
}

/// A length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Radius {
    /// As it is.
    Length(f64),
    /// A multiple of the median of ‖xᵢ‖.
    OfNorms(f64),
    /// A multiple of the median of ‖xᵢ − v‖ in this step.
    OfDistances(f64),
}

/// Weights of the contributions; they sum to 1, but for centered clipping from 0. With no contribution, none.
pub fn weights(gram: &Gram, faulty: usize, rule: Rule) -> Vec<f64> {
    let count = gram.size();
    if count == 0 {
        return Vec::new();
    }
    match rule {
        Rule::Mean => vec![1.0 / count as f64; count],
        Rule::CenteredClipping { start, radius, steps } => {
            let begin = match start {
                Start::Zero => vec![0.0; count],
                Start::Median => geometric_median(gram, Radius::OfNorms(0.1), 3),
            };
            centered_clipping(gram, begin, radius, steps)
        }
        Rule::GeometricMedian { floor, steps } => geometric_median(gram, floor, steps),
        Rule::Krum => mean_of(count, &[least(&scores(gram, faulty))]),
        Rule::MultiKrum => {
            let scores = scores(gram, faulty);
            mean_of(count, &smallest(&scores, count.saturating_sub(faulty).max(1)))
        }
        Rule::MinimumDiameter => {
            let size = count.saturating_sub(faulty).max(1);
            mean_of(count, &closest(gram, size))
        }
    }
}

/// Nearest-neighbour mixing: every contribution is replaced by the mean of its N − f nearest, itself one of
/// them. Allouah et al. 2023 (arXiv:2302.01772).
#[derive(Debug, Clone, PartialEq)]
pub struct Mixing {
    nearest: Vec<Vec<usize>>,
}

impl Mixing {
    /// Who is mixed with whom.
    pub fn new(gram: &Gram, faulty: usize) -> Self {
        let count = gram.size();
        let size = count.saturating_sub(faulty).max(1);
        let nearest = (0..count).map(|i| {
            let distances: Vec<f64> = (0..count).map(|j| gram.distance2(i, j)).collect();
            smallest(&distances, size)
        });
        Self {
            nearest: nearest.collect(),
        }
    }

    /// Inner products of the mixed contributions.
    pub fn gram(&self, gram: &Gram) -> Gram {
        let count = gram.size();
        let mean = |of: &[usize], value: &dyn Fn(usize) -> f64| {
            of.iter().map(|k| value(*k)).sum::<f64>() / of.len().max(1) as f64
        };
        // half[i][j] = ⟨mixed i, x_j⟩
        let half: Vec<Vec<f64>> = self
            .nearest
            .iter()
            .map(|of| (0..count).map(|j| mean(of, &|k| gram.at(k, j))).collect())
            .collect();
        let mut mixed = Gram::zero(count);
        for (i, half) in half.iter().enumerate() {
            for (j, of) in self.nearest[..=i].iter().enumerate() {
                mixed.set(i, j, mean(of, &|k| half[k]));
            }
        }
        mixed
    }

    /// Weights of the contributions, given those of the mixed ones.
    pub fn weights(&self, mixed: &[f64]) -> Vec<f64> {
        let mut weights = vec![0.0; self.nearest.len()];
        for (of, weight) in self.nearest.iter().zip(mixed) {
            for k in of {
                weights[*k] += weight / of.len() as f64;
            }
        }
        weights
    }
}

/// The median; of an even number the mean of the two in the middle; of none 0.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), middle.checked_sub(1).and_then(|at| values.get(at))) {
        (Some(upper), Some(lower)) if values.len().is_multiple_of(2) => (lower + upper) / 2.0,
        (Some(upper), _) => *upper,
        (None, _) => 0.0,
    }
}

/// ‖xᵢ‖.
pub(crate) fn norms(gram: &Gram) -> Vec<f64> {
    (0..gram.size()).map(|i| gram.at(i, i).max(0.0).sqrt()).collect()
}

fn mean_of(count: usize, chosen: &[usize]) -> Vec<f64> {
    let mut weights = vec![0.0; count];
    for i in chosen {
        weights[*i] = 1.0 / chosen.len() as f64;
    }
    weights
}

fn least(values: &[f64]) -> usize {
    let smallest = values.iter().enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b));
    smallest.map_or(0, |(at, _)| at)
}

/// Indices of the `size` smallest, ascending; of equals the first.
fn smallest(values: &[f64], size: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b])); // stable
    order.truncate(size);
    order.sort_unstable();
    order
}

/// Krum's scores.
fn scores(gram: &Gram, faulty: usize) -> Vec<f64> {
    let count = gram.size();
    let near = count.saturating_sub(faulty + 1).max(1);
    let score = |i: usize| {
        let others = (0..count).filter(|j| *j != i);
        let mut distances: Vec<f64> = others.map(|j| gram.distance2(i, j)).collect();
        distances.sort_by(f64::total_cmp);
        distances.truncate(near);
        distances.iter().sum::<f64>() / near as f64
    };
    (0..count).map(score).collect()
}

/// ‖xᵢ − z‖ for all i, z being Σ aⱼ xⱼ.
fn distances_to(gram: &Gram, a: &[f64]) -> Vec<f64> {
    let product = |i: usize| a.iter().enumerate().map(|(j, a)| a * gram.at(i, j)).sum::<f64>();
    let products: Vec<f64> = (0..gram.size()).map(product).collect();
    let own: f64 = products.iter().zip(a).map(|(product, a)| product * a).sum();
    let squared = products
        .iter()
        .enumerate()
        .map(|(i, product)| gram.at(i, i) - 2.0 * product + own);
    squared.map(|squared| squared.max(0.0).sqrt()).collect()
}

impl Radius {
    fn among(self, gram: &Gram, distances: &[f64]) -> f64 {
        match self {
            Self::Length(length) => length,
            Self::OfNorms(times) => times * median(norms(gram)),
            Self::OfDistances(times) => times * median(distances.to_vec()),
        }
    }
}

/// No distance counts as less: where all are the same, the sum of their inverses must not overflow.
const DISTANCE_MIN: f64 = 1e-150;

fn geometric_median(gram: &Gram, floor: Radius, steps: u32) -> Vec<f64> {
    let mut z = vec![0.0; gram.size()];
    for _ in 0..steps {
        let distances = distances_to(gram, &z);
        let floor = floor.among(gram, &distances).max(DISTANCE_MIN);
        let inverse: Vec<f64> = distances.iter().map(|distance| 1.0 / distance.max(floor)).collect();
        let sum: f64 = inverse.iter().sum();
        z = inverse.iter().map(|inverse| inverse / sum).collect();
    }
    z
}

fn centered_clipping(gram: &Gram, begin: Vec<f64>, radius: Radius, steps: u32) -> Vec<f64> {
    let mut v = begin;
    let count = gram.size() as f64;
    for _ in 0..steps {
        let distances = distances_to(gram, &v);
        let radius = radius.among(gram, &distances);
        let factor = |distance: &f64| if *distance > radius { radius / distance } else { 1.0 };
        let factors: Vec<f64> = distances.iter().map(factor).collect();
        let kept = 1.0 - factors.iter().sum::<f64>() / count;
        for (v, factor) in v.iter_mut().zip(&factors) {
            *v = *v * kept + factor / count;
        }
    }
    v
}

/// The `size` contributions with the least diameter; of equals the first in lexicographic order.
fn closest(gram: &Gram, size: usize) -> Vec<usize> {
    let mut search = Search {
        gram,
        size,
        chosen: Vec::new(),
        best: (f64::INFINITY, (0..size).collect()),
    };
    search.from(0, 0.0);
    search.best.1
}

/// Subsets in lexicographic order; what is already as wide as the best is not followed.
struct Search<'a> {
    gram: &'a Gram,
    size: usize,
    chosen: Vec<usize>,
    best: (f64, Vec<usize>),
}

impl Search<'_> {
    fn from(&mut self, first: usize, diameter: f64) {
        if diameter >= self.best.0 {
            return;
        }
        let missing = self.size - self.chosen.len();
        if missing == 0 {
            self.best = (diameter, self.chosen.clone());
            return;
        }
        for next in first..=self.gram.size() - missing {
            let distances = self.chosen.iter().map(|i| self.gram.distance2(*i, next));
            let wider = distances.fold(diameter, f64::max);
            self.chosen.push(next);
            self.from(next + 1, wider);
            self.chosen.pop();
        }
    }
}
