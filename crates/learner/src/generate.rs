//! Text from a model: temperature, top-k and top-p over the next-token logits.
//!
//! Each new token runs the model over the whole window again; a key-value cache is for a server.

use crate::{LearnError, Learner};
use std::ops::ControlFlow;

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// New tokens at most.
    pub max_tokens: usize,
    /// 0 takes the likeliest token; more flattens the choice.
    pub temperature: f32,
    /// Only the k likeliest tokens; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability; 1 is all.
    pub top_p: f32,
    /// The same seed gives the same text.
    pub seed: u64,
    /// A token that ends the text; it is not part of it.
    pub stop: Option<u32>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 128,
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            seed: 0,
            stop: None,
        }
    }
}

impl GenerateOptions {
    fn check(&self) -> Result<(), LearnError> {
        let refuse = |name, value: f32, allowed| {
            Err(LearnError::Option {
                name,
                value: value.to_string(),
                allowed,
            })
        };
        if !(0.0..=100.0).contains(&self.temperature) {
            return refuse("temperature", self.temperature, "from 0 to 100 is allowed");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "more than 0 and at most 1 is allowed");
        }
        Ok(())
    }
}

/// Up to `max_tokens` new tokens after `prompt`, each also handed to `each` as soon as it is known;
/// `each` may end it. Of a prompt longer than the context only the end is seen.
pub fn generate(
    learner: &mut dyn Learner,
    prompt: &[u32],
    options: &GenerateOptions,
    mut each: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>, LearnError> {
    options.check()?;
    let context = learner.context() as usize;
    let mut tokens = prompt.to_vec();
    let mut state = options.seed;
    for _ in 0..options.max_tokens {
        let window = &tokens[tokens.len().saturating_sub(context)..];
        let logits = learner.next_logits(window)?;
        let token = choose(&logits, options, uniform(&mut state));
        if Some(token) == options.stop {
            break;
        }
        tokens.push(token);
        if each(token).is_break() {
            break;
        }
    }
    Ok(tokens.split_off(prompt.len()))
}

/// A number in [0, 1) (SplitMix64).
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// The token that `point` in [0, 1) falls on.
fn choose(logits: &[f32], options: &GenerateOptions, point: f64) -> u32 {
    let mut ranked: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let Some((likeliest, greatest)) = ranked.first().copied() else {
        return 0;
    };
    if options.temperature == 0.0 {
        return likeliest;
    }
    if options.top_k > 0 {
        ranked.truncate(options.top_k);
    }
    let temperature = f64::from(options.temperature);
    let weight = |logit: f32| (f64::from(logit - greatest) / temperature).exp();
    let total: f64 = ranked.iter().map(|(_, logit)| weight(*logit)).sum();
    let limit = total * f64::from(options.top_p);
    let mut reached = 0.0;
    let kept = ranked.iter().take_while(|(_, logit)| {
        let starts_inside = reached < limit;
        reached += weight(*logit);
        starts_inside
    });
    let kept: Vec<(u32, f64)> = kept.map(|(token, logit)| (*token, weight(*logit))).collect();
    let mut left = point * kept.iter().map(|(_, weight)| weight).sum::<f64>();
    for (token, weight) in &kept {
        left -= weight;
        if left < 0.0 {
            return *token;
        }
    }
    kept.last().map_or(likeliest, |(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_narrow_the_choice() {
        let logits = [0.0, 2.0, 1.0, -1.0];
        let free = GenerateOptions {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            ..Default::default()
        };
        let seen = |options: &GenerateOptions| -> Vec<u32> {
            let points = (0..1000).map(|i| f64::from(i) / 1000.0);
            let mut tokens: Vec<u32> = points.map(|point| choose(&logits, options, point)).collect();
            tokens.sort();
            tokens.dedup();
            tokens
        };
        let with = |change: fn(&mut GenerateOptions)| {
            let mut options = free.clone();
            change(&mut options);
            options
        };
        assert_eq!(seen(&free), [0, 1, 2, 3]);
        assert_eq!(seen(&with(|o| o.temperature = 0.0)), [1]);
        assert_eq!(seen(&with(|o| o.top_k = 2)), [1, 2]);
        assert_eq!(seen(&with(|o| o.top_p = 0.6)), [1], "p(1) = 0.64");
        assert_eq!(seen(&with(|o| o.top_p = 0.7)), [1, 2]);
    }

    #[test]
    fn impossible_options_are_refused() {
        for (temperature, top_p) in [(-1.0, 0.5), (f32::NAN, 0.5), (1.0, 0.0), (1.0, 1.5), (1.0, f32::NAN)] {
            let options = GenerateOptions {
                temperature,
                top_p,
                ..Default::default()
            };
            assert!(options.check().is_err(), "temperature {temperature}, top_p {top_p}");
        }
    }
}
