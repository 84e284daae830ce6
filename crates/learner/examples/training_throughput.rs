//! Tokens per second of training on this machine, with AdamW, then with Muon for matrices:
//! `cargo run --release --example training_throughput [steps]`.
//! Set `RAYON_NUM_THREADS=1` for one thread.

use atoll_learner::{Batch, BurnLearner, DeviceChoice, Learner, init, theta_hash};
use atoll_protocol::{
    Hash, InnerSteps, Nano,
    charter::{InnerOptimizer, Matrices, Model},
};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let steps: usize = std::env::args().nth(1).map_or(Ok(20), |text| text.parse())?;
    let momentum = Nano(950_000_000);
    for matrices in [Matrices::AdamW, Matrices::Muon { momentum }] {
        println!("{matrices:?}");
        measure(steps, matrices)?;
    }
    Ok(())
}

fn measure(steps: usize, matrices: Matrices) -> Result<(), Box<dyn std::error::Error>> {
    let model = Model {
        vocab: 1024,
        width: 128,
        layers: 4,
        heads: 4,
        kv_heads: 4,
        head_width: 32,
        ffn: 344,
        context: 128,
        rope_theta: 10_000,
        norm_eps: Nano(10_000),
        tied: true,
        theta: Hash::ZERO,
        tokenizer: Hash::ZERO,
    };
    let inner = InnerOptimizer {
        lr: Nano(3_000_000),
        lr_min_ratio: Nano(100_000_000),
        warmup: InnerSteps(2),
        weight_decay: Nano(100_000_000),
        beta1: Nano(900_000_000),
        beta2: Nano(950_000_000),
        eps: Nano(10),
        clip: Nano::ONE,
        matrices,
    };
    let mut learner = BurnLearner::new(&model, &inner, DeviceChoice::Cpu)?;
    learner.write(&init(&model, 1))?;
    let tokens = (0..8 * 129u32).map(|i| i * i % 1021).collect();
    let batch = Batch::new(tokens, 128)?;
    let mut times: Vec<f64> = Vec::new();
    for step in 0..steps {
        let start = Instant::now();
        let report = learner.train_step(&batch, 3e-3)?;
        times.push(start.elapsed().as_secs_f64());
        if step % 10 == 0 || step + 1 == steps {
            println!("step {step}: loss {:.6}, norm {:.4}", report.loss, report.gradient_norm);
        }
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!(
        "{} parameters: {:.0} tokens/s, {:.1} ms a step (median of {steps})",
        learner.parameters(),
        batch.targets() as f64 / median,
        median * 1e3,
    );
    println!("θ is {}", theta_hash(&learner.read()));
    Ok(())
}
