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
    /// Tokens that end the text; they are not part of it.
    pub stop: Vec<u32>,
    /// A token before everything that the model sees.
    pub begin: Option<u32>,
    /// Which tokens may come, by id; those behind the end of the list may not. Empty is all: a model
    /// may have rows for tokens that its tokenizer does not have.
    pub drawable: Vec<bool>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 128,
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            seed: 0,
            stop: Vec::new(),
            begin: None,
            drawable: Vec::new(),
        }
    }
}

impl GenerateOptions {
    /// Tokens of a prompt that a model sees at once.
    pub fn prompt_max(&self, context: u32) -> usize {
        context as usize - usize::from(self.begin.is_some() && context > 1)
    }

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
///
/// # Errors
/// For options that cannot be, an empty prompt without a token to begin with, and
/// [`LearnError::Broken`] for a model that gives NaN or an infinite score.
pub fn generate(
    learner: &mut dyn Learner,
    prompt: &[u32],
    options: &GenerateOptions,
    mut each: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>, LearnError> {
    options.check()?;
    let seen_max = options.prompt_max(learner.context());
    let mut tokens = prompt.to_vec();
    let mut state = options.seed;
    for _ in 0..options.max_tokens {
        let seen = &tokens[tokens.len().saturating_sub(seen_max)..];
        let window: Vec<u32> = options.begin.iter().chain(seen).copied().collect();
        let logits = learner.next_logits(&window)?;
        let token = choose(&logits, options, uniform(&mut state))?;
        if options.stop.contains(&token) {
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
fn choose(logits: &[f32], options: &GenerateOptions, point: f64) -> Result<u32, LearnError> {
    let broken = |value: f32| LearnError::Broken {
        what: "the score of the next token",
        value: f64::from(value),
    };
    let mut ranked: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    if !options.drawable.is_empty() {
        ranked.retain(|(token, _)| options.drawable.get(*token as usize) == Some(&true));
    }
    // −∞ is a token that cannot come
    if let Some((_, bad)) = ranked
        .iter()
        .find(|(_, logit)| logit.is_nan() || *logit == f32::INFINITY)
    {
        return Err(broken(*bad));
    }
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let Some((likeliest, greatest)) = ranked.first().copied().filter(|(_, logit)| logit.is_finite()) else {
        return Err(broken(f32::NEG_INFINITY));
    };
    if options.temperature == 0.0 {
        return Ok(likeliest);
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
            return Ok(*token);
        }
    }
    Ok(kept.last().map_or(likeliest, |(token, _)| *token))
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
            let mut tokens: Vec<u32> = points.map(|point| choose(&logits, options, point).unwrap()).collect();
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
    fn only_tokens_that_exist_are_drawn() {
        let options = GenerateOptions {
            drawable: vec![true, false, true],
            top_k: 0,
            top_p: 1.0,
            temperature: 1.0,
            ..Default::default()
        };
        let logits = [0.0, 50.0, 0.0, 90.0];
        for point in [0.0, 0.3, 0.6, 0.999] {
            let token = choose(&logits, &options, point).unwrap();
            assert!([0, 2].contains(&token), "{token}");
        }
    }

    #[test]
    fn scores_that_are_no_numbers_are_an_error() {
        let drawn = |logits: &[f32], temperature| {
            let options = GenerateOptions {
                temperature,
                drawable: vec![true; 3],
                ..Default::default()
            };
            choose(logits, &options, 0.5)
        };
        for temperature in [0.0, 1.0] {
            for bad in [
                [f32::NAN; 3],
                [0.0, f32::NAN, 1.0],
                [0.0, f32::INFINITY, 1.0],
                [f32::NEG_INFINITY; 3],
            ] {
                let error = drawn(&bad, temperature).expect_err(&format!("{bad:?}")).to_string();
                assert!(error.contains("as the score of the next token"), "{error}");
            }
            assert_eq!(drawn(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY], temperature), Ok(1));
            assert_eq!(
                drawn(&[0.0, 9.0, 0.0, f32::NAN], 0.0),
                Ok(1),
                "padding is not looked at"
            );
        }
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
