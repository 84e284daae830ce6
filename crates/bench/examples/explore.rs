//! Runs the specs on standard input, a line of JSON each: `explore TEXT RESULTS.jsonl < specs.jsonl`.

use atoll_bench::convergence::{Campaign, Progress, Spec, Task, campaign::Arm, open};
use std::{io::Read as _, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [text, results] = &arguments[..] else {
        return Err("explore TEXT RESULTS.jsonl < specs.jsonl".into());
    };
    let mut specs = String::new();
    std::io::stdin().read_to_string(&mut specs)?;
    let arms: Result<Vec<Arm>, serde_json::Error> = specs
        .lines()
        .map(|line| {
            let spec: Spec = serde_json::from_str(line)?;
            Ok(Arm {
                column: String::new(),
                grid: vec![spec],
                seeds: vec![],
            })
        })
        .collect();
    let task = Task::of(&atoll_learner::data::ingest(Path::new(text))?)?;
    let book = open(Path::new(results), &task)?;
    let threads = std::thread::available_parallelism()?.get();
    let report = |progress: Progress| {
        if let Progress::Ends { spec, result, done, of } = progress {
            println!(
                "{done}/{of} {} {} x{} lr {} outer {}/{}/{} {} β{} {} seed {}: loss {:.4} train {:.4} encoded {} residual {:.2} {:?} {:.0} s",
                spec.arm,
                spec.rounds,
                spec.inner_steps,
                spec.lr,
                spec.outer_lr,
                spec.outer_momentum,
                spec.outer_warmup,
                spec.codec,
                spec.feedback,
                spec.overlap,
                spec.seed,
                result.loss,
                result.train_loss,
                result.encoded,
                result.residual,
                result.codecs,
                result.wall_s,
            );
        }
    };
    let campaign = Campaign { arms: arms? };
    Ok(campaign.run(&task, &book, threads, &|| false, &report)?)
}
