//! What a training step promises: the loss falls, bits repeat, nonsense is refused.

mod common;

use atoll_learner::{Batch, GenerateOptions, LearnError, Learner, generate};
use atoll_protocol::{Layout, charter::InnerOptimizer};
use common::{batch, inner_optimizers, learner, learner_with, theta, tiny};
use std::ops::ControlFlow;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_tiny_task_is_learned() {
    for inner in inner_optimizers() {
        learns_a_tiny_task(&inner);
    }
}

fn learns_a_tiny_task(inner: &InnerOptimizer) {
    let model = tiny(true);
    let mut learner = learner_with(&model, &atoll_learner::init(&model, 1), inner);
    let first = learner.train_step(&batch(), 1e-2).unwrap();
    assert!(
        (first.loss - f64::from(257).ln()).abs() < 0.1,
        "θ⁰ knows nothing: {}",
        first.loss
    );
    let mut last = first;
    for _ in 0..100 {
        last = learner.train_step(&batch(), 1e-2).unwrap();
    }
    assert!(last.loss < 0.5, "{}", last.loss);
    let (nats, tokens) = learner.evaluate(&batch()).unwrap();
    assert_eq!(tokens, 32);
    assert!(nats / 32.0 < 0.5, "evaluation agrees with training: {nats}");

    let options = GenerateOptions {
        max_tokens: 12,
        temperature: 0.0,
        ..Default::default()
    };
    let prompt = &batch().tokens()[..5].to_vec();
    let mut heard = Vec::new();
    let told = generate(&mut learner, prompt, &options, |token| {
        heard.push(token);
        ControlFlow::Continue(())
    });
    let told = told.unwrap();
    assert_eq!(told, batch().tokens()[5..17], "it repeats what it learned");
    assert_eq!(told, heard);
}

#[test]
fn the_same_calls_give_the_same_bits() {
    let run = |inner| {
        let model = tiny(false);
        let mut learner = learner_with(&model, &theta(&model), inner);
        for _ in 0..5 {
            learner.train_step(&batch(), 3e-3).unwrap();
        }
        (bits(&learner.read()), learner.save())
    };
    let [adamw, muon] = &inner_optimizers();
    assert_eq!(run(adamw), run(adamw));
    assert_eq!(run(muon), run(muon));
    assert_ne!(run(adamw), run(muon));
}

#[test]
fn a_restored_learner_goes_on_with_the_same_bits() {
    let model = tiny(true);
    for inner in &inner_optimizers() {
        let mut straight = learner_with(&model, &theta(&model), inner);
        for _ in 0..3 {
            straight.train_step(&batch(), 3e-3).unwrap();
        }
        let mut resumed = learner_with(&model, &straight.read(), inner);
        resumed.restore(&straight.save()).unwrap();
        for learner in [&mut straight, &mut resumed] {
            learner.train_step(&batch(), 3e-3).unwrap();
        }
        assert_eq!(bits(&straight.read()), bits(&resumed.read()));
        resumed.reset_optimizer();
        assert_eq!(resumed.save(), learner_with(&model, &theta(&model), inner).save());
    }
}

#[test]
fn evaluating_changes_nothing_and_writing_is_seen() {
    let model = tiny(true);
    let mut learner = learner(&model, &theta(&model));
    let before = learner.evaluate(&batch()).unwrap();
    assert_eq!(bits(&learner.read()), bits(&theta(&model)));
    learner.write(&atoll_learner::init(&model, 1)).unwrap();
    assert_ne!(learner.evaluate(&batch()).unwrap(), before);
    learner.write(&theta(&model)).unwrap();
    assert_eq!(learner.evaluate(&batch()).unwrap(), before);
}

#[test]
fn nonsense_is_refused() {
    let model = tiny(true);
    let mut learner = learner(&model, &theta(&model));
    let (before, state) = (bits(&learner.read()), learner.save());
    let outside = Batch::new(vec![257; 4], 3).unwrap();
    let long = Batch::new(vec![1; 18], 17).unwrap();
    assert!(matches!(
        learner.train_step(&outside, 1e-3),
        Err(LearnError::Token { token: 257, vocab: 257 })
    ));
    assert!(matches!(
        learner.evaluate(&long),
        Err(LearnError::Length { got: 17, context: 16 })
    ));
    assert!(matches!(learner.logits(&[]), Err(LearnError::Length { got: 0, .. })));
    assert!(matches!(
        learner.write(&[0.0; 3]),
        Err(LearnError::ThetaLength { got: 3, .. })
    ));
    assert!(matches!(
        learner.train_step(&batch(), f32::NAN),
        Err(LearnError::Option { .. })
    ));
    let mut bad = theta(&model);
    bad[5] = f32::NAN;
    assert!(matches!(learner.write(&bad), Err(LearnError::NotFinite { .. })));
    assert_eq!((bits(&learner.read()), learner.save()), (before, state));
}

#[test]
fn what_is_not_finite_is_an_error_and_changes_nothing() {
    let model = tiny(true);
    let norm = Layout::of(&model).tensors.pop().unwrap().range();
    let weights: Vec<f32> = theta(&model).iter().map(|value| value * 1e30).collect();
    let mut gains = theta(&model);
    gains[norm].fill(3e38);
    for inner in &inner_optimizers() {
        refuses(inner, "gradient norm", &weights);
        refuses(inner, "loss", &gains);
    }
}

fn refuses(inner: &InnerOptimizer, what: &str, theta: &[f32]) {
    let mut learner = learner_with(&tiny(true), theta, inner);
    let state = learner.save();
    let error = learner.train_step(&batch(), 1e-3).unwrap_err();
    let LearnError::NotFinite {
        what: found, step: 0, ..
    } = error
    else {
        panic!("{what}: {error}");
    };
    assert_eq!(found, what);
    assert_eq!((bits(&learner.read()), learner.save()), (bits(theta), state));
    assert_eq!(learner.evaluate(&batch()).is_err(), what == "loss");
}

#[test]
fn a_model_without_numbers_is_an_error_wherever_it_is_used() {
    let model = tiny(true);
    let norm = Layout::of(&model).tensors.pop().unwrap().range();
    let mut gains = theta(&model);
    gains[norm].fill(3e38);
    let mut learner = learner(&model, &gains);
    let error = generate(&mut learner, &[65, 66], &GenerateOptions::default(), |_| {
        ControlFlow::Continue(())
    });
    assert!(matches!(error, Err(LearnError::Broken { .. })), "{error:?}");
    let tokenizer = atoll_learner::data::Tokenizer::bytes().unwrap();
    let error = atoll_learner::evaluate_text(&mut learner, &tokenizer, "An atoll is a ring of islands.");
    assert!(
        matches!(error, Err(atoll_learner::EvalError::Broken { from: 1, to: 16, .. })),
        "{error:?}"
    );
}

#[test]
fn generation_stops_at_every_end_and_begins_as_told() {
    let model = tiny(true);
    let mut learner = learner(&model, &theta(&model));
    let options = GenerateOptions {
        temperature: 0.0,
        max_tokens: 5,
        ..Default::default()
    };
    let mut told = |options: &GenerateOptions, prompt: &[u32]| {
        generate(&mut learner, prompt, options, |_| ControlFlow::Continue(())).unwrap()
    };
    let free = told(&options, &[7]);
    assert_eq!(free.len(), 5);
    for at in 0..5 {
        let first = free.iter().position(|token| *token == free[at]).unwrap();
        let stop = vec![300, free[at]];
        assert_eq!(
            told(
                &GenerateOptions {
                    stop,
                    ..options.clone()
                },
                &[7]
            ),
            free[..first]
        );
    }
    let begin = Some(7);
    assert_eq!(
        told(
            &GenerateOptions {
                begin,
                ..options.clone()
            },
            &[]
        ),
        free
    );
    let none = GenerateOptions {
        max_tokens: 0,
        ..options.clone()
    };
    assert_eq!(told(&none, &[7]), [0; 0]);
    let mut drawable = vec![true; 257];
    drawable[free[0] as usize] = false;
    assert_ne!(told(&GenerateOptions { drawable, ..options }, &[7])[0], free[0]);
}
