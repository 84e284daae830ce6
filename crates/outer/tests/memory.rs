//! What merging takes: at most three times θ beside θ, momentum and the blobs that are there, however many there are. Linux only, where a
//! process can read the largest size it had. Each merge runs in a process of its own, since memory that was
//! given back may still be counted.
#![cfg(target_os = "linux")]

mod common;

use atoll_outer::{
    Contribution, Input, Merging, OuterRule, OuterState, encode, merge, replica::merged, robust::judge::Candidate,
};
use atoll_protocol::{
    InnerSteps, Layout, Nano, PeerId, Robust, Tokens,
    charter::{Codec, OuterOptimizer},
    layout::Role,
    robust::Weighing,
    tiny_charter,
};
use common::{base, layout_of, values};
use std::{env, fs, path::PathBuf, process::Command};

const PEERS: u8 = 16;
/// Name of the variable that tells a process which codec to measure.
const CODEC: &str = "ATOLL_MEMORY_TEST_CODEC";
/// Name of the variable that says whether contributions are judged, and the outer step taken too.
const JUDGED: &str = "ATOLL_MEMORY_TEST_JUDGED";

fn layout() -> Layout {
    layout_of(&[(Role::Embedding, 2048, 1024), (Role::Matrix, 3072, 2048)])
}

fn codec(name: &str) -> Codec {
    let feedback = Nano::ONE;
    match name {
        "sparse" => Codec::Sparse { k: 64, feedback },
        "low rank" => Codec::LowRank { rank: 32, feedback },
        _ => Codec::Int4 { feedback },
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("memory {name}.blob"))
}

/// A line of /proc/self/status, in bytes.
fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find(|line| line.starts_with(key)).expect(key);
    let kilobytes = line.split_whitespace().nth(1).expect("a number");
    1024 * kilobytes.parse::<u64>().expect("a number")
}

#[test]
fn merging_sixteen_contributions_takes_less_than_three_times_theta() {
    let layout = layout();
    let input = values(layout.parameters, 1);
    for name in ["sparse", "int4", "low rank"] {
        let blob = encode(&input, &codec(name), &layout, &base()).expect("finite");
        fs::write(path(name), blob).expect("a file that can be written");
        for judged in ["", "judged"] {
            let mut this = Command::new(env::current_exe().expect("a path"));
            let this = this.args(["--ignored", "--exact", "merge_and_measure", "--nocapture"]);
            let output = this.env(CODEC, name).env(JUDGED, judged).output().expect("a process");
            print!("{}", String::from_utf8_lossy(&output.stdout));
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {errors}");
        }
    }
}

fn nesterov() -> OuterOptimizer {
    OuterOptimizer::Nesterov {
        lr: Nano::ONE,
        momentum: Nano(800_000_000),
        warmup: 0,
    }
}

/// θ after judging by every gate and rule, and an outer step.
fn judged(layout: &Layout, before: &OuterState, contributions: &[Contribution]) -> Vec<f32> {
    let mut charter = tiny_charter([]);
    charter.outer = nesterov();
    let robust = Robust {
        rule: Weighing::GeometricMedian,
        mixing: true,
        clip: true,
        norm_max: Nano(3 * Nano::ONE.0),
        cosine_max: Nano::ONE,
    };
    let candidate = |replica: u16| Candidate {
        replica,
        order: replica.into(),
    };
    let inputs = (0u8..).zip(contributions).map(|(i, contribution)| Input {
        peer: PeerId([i; 32]),
        tokens: Tokens(1),
        candidate: candidate(i.into()),
        contribution,
    });
    let merging = Merging {
        layout,
        robust: &robust,
        usual_norm_micro: None,
        rule: OuterRule::of(&charter, Some(Nano(800_000_000)), InnerSteps(4)),
    };
    let merged = merged(before, &inputs.collect::<Vec<_>>(), merging).expect("inputs");
    assert!(merged.matrix.is_some());
    merged.state.theta
}

#[test]
#[ignore = "a part of the test above"]
fn merge_and_measure() {
    let Ok(name) = env::var(CODEC) else { return };
    let (layout, codec) = (layout(), codec(&name));
    let contributions: Vec<Contribution> = (0..PEERS)
        .map(|_| {
            let blob = fs::read(path(&name)).expect("written by the test above");
            Contribution::read(blob, &layout, &codec, &base()).expect("own blob")
        })
        .collect();
    let inputs: Vec<_> = (0..)
        .zip(&contributions)
        .map(|(i, c)| (PeerId([i; 32]), Tokens(1), c))
        .collect();
    let theta = OuterState {
        theta: values(layout.parameters, 2),
        momentum: Some(values(layout.parameters, 3)),
    };
    let before = status("VmRSS:");
    let judge = env::var(JUDGED).is_ok_and(|word| !word.is_empty());
    let result = match judge {
        true => judged(&layout, &theta, &contributions),
        false => merge(&layout, &inputs).expect("inputs"),
    };
    let (taken, theta) = (status("VmHWM:").saturating_sub(before), 4 * result.len() as u64);
    let (mib, ratio) = (taken >> 20, taken as f64 / theta as f64);
    let how = if judge { "judging, merging" } else { "merging" };
    println!("{name}: {how} {PEERS} took {mib} MiB, {ratio:.2} times θ");
    assert!(
        taken >= theta / 2,
        "the measurement sees {taken} bytes, less than the result's"
    );
    assert!(taken <= 3 * theta);
}
