//! The tiny models that tests and the golden script share.
#![allow(unreachable_pub)] // shared with an example, where nothing outside can reach it

use atoll_learner::{
    Batch, BurnLearner, DeviceChoice, Learner,
    data::{Corpus, Document, Tokenizer},
    init,
};
use atoll_protocol::{
    Hash, InnerSteps, Layout, Nano,
    charter::{InnerOptimizer, Matrices, Model},
    layout::Role,
};

/// Grouped queries, and a vocabulary for the byte tokenizer.
pub fn tiny(tied: bool) -> Model {
    Model {
        vocab: 257,
        width: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_width: 4,
        ffn: 24,
        context: 16,
        rope_theta: 10_000,
        norm_eps: Nano(10_000),
        tied,
        theta: Hash::ZERO,
        tokenizer: Hash::ZERO,
    }
}

/// θ⁰ with weights ten times as large and gains that differ, so that logits are far from uniform.
pub fn theta(model: &Model) -> Vec<f32> {
    let mut theta = init(model, 7);
    for tensor in Layout::of(model).tensors {
        for (index, value) in theta[tensor.range()].iter_mut().enumerate() {
            *value = match tensor.role {
                Role::Vector => 0.5 + 0.25 * (index % 7) as f32,
                Role::Embedding | Role::Matrix => *value * 10.0,
            };
        }
    }
    theta
}

#[allow(dead_code)]
pub fn inner() -> InnerOptimizer {
    InnerOptimizer {
        lr: Nano(10_000_000),
        lr_min_ratio: Nano(100_000_000),
        warmup: InnerSteps(2),
        weight_decay: Nano(100_000_000),
        beta1: Nano(900_000_000),
        beta2: Nano(950_000_000),
        eps: Nano(10),
        clip: Nano::ONE,
        matrices: Matrices::AdamW,
    }
}

/// [`inner`], or Muon for its matrices.
#[allow(dead_code)]
pub fn inner_optimizers() -> [InnerOptimizer; 2] {
    let matrices = Matrices::Muon {
        momentum: Nano(950_000_000),
    };
    [inner(), InnerOptimizer { matrices, ..inner() }]
}

#[allow(dead_code)]
pub fn learner(model: &Model, theta: &[f32]) -> BurnLearner {
    learner_with(model, theta, &inner())
}

#[allow(dead_code)]
pub fn learner_with(model: &Model, theta: &[f32], inner: &InnerOptimizer) -> BurnLearner {
    let mut learner = BurnLearner::new(model, inner, DeviceChoice::Cpu).unwrap();
    learner.write(theta).unwrap();
    learner
}

/// Two rows of a pattern that can be learned.
#[allow(dead_code)]
pub fn batch() -> Batch {
    Batch::new((0..34).map(|i| i * i % 31).collect(), 16).unwrap()
}

/// A tokenizer trained on a few sentences, and a model for its vocabulary.
#[allow(dead_code)]
pub fn trained() -> (Model, Tokenizer) {
    let text = "An atoll is a ring of islands. The islands together make the ring. What a small island is, an atoll \
                is of islands: together. Ein Ring, ein Atoll.\n";
    let document = Document {
        source: 0,
        text: text.repeat(3),
    };
    let corpus = Corpus {
        documents: vec![document],
        ..Corpus::default()
    };
    let tokenizer = Tokenizer::train(&corpus, 300).unwrap();
    let mut model = tiny(true);
    model.vocab = tokenizer.vocab();
    (model, tokenizer)
}
