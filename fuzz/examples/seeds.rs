//! Writes the seed corpora: one valid input of every kind.

use atoll_fuzz::{BASE, charter, codecs, keys, run, signed};
use atoll_outer::{
    ErrorFeedback, OwnState,
    robust::{Gram, judge::Matrix},
};
use atoll_protocol::{Action, Finding, LossChange, Nano, Round, charter::Codec, encode};
use std::{fs, io, path::Path};

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

/// What is said when others' contributions are looked at, and against it.
fn said_of_others() -> [Action; 3] {
    let (round, peer) = (Round(1), keys()[1].peer());
    [
        Action::Verdict {
            round,
            peer,
            finding: Finding::Apart { billionths: 7 },
        },
        Action::Score {
            round,
            peer,
            beacon: BASE,
            change: LossChange { own: -7, random: 5 },
        },
        Action::Appeal {
            round,
            reason: "no".into(),
        },
    ]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    write("charter", "valid", &encode(&charter()))?;
    for (_, block) in run() {
        let kind = block.transactions[0].body.action.kind().replace(' ', "_");
        write("block", &kind, &encode(&block))?;
        write("transaction", &kind, &encode(&block.transactions[0]))?;
    }
    for action in said_of_others() {
        let kind = action.kind();
        write("transaction", kind, &encode(&signed(0, action)))?;
    }
    for (codec, layout) in codecs() {
        let name = match codec {
            Codec::Dense => "dense",
            Codec::Int8 { .. } => "int8",
            Codec::Int4 { .. } => "int4",
            Codec::Sparse { .. } => "sparse",
            Codec::LowRank { .. } => "low_rank",
        };
        let values: Vec<f32> = (0..layout.parameters).map(|i| (i % 17) as f32 / 64.0 - 0.125).collect();
        let mut feedback = ErrorFeedback::new(layout.parameters);
        let encoded = feedback.contribute(values, &codec, (&layout, &BASE), None)?;
        write("contribution", name, &encoded.blob)?;
        write("feedback", name, &feedback.to_bytes())?;
        let (sum, moments) = (feedback.to_bytes(), vec![7; 24]);
        let state = OwnState::new(&charter(), Round(1), (sum, moments), &vec![0.5; layout.parameters]);
        write("own_state", name, &state.to_bytes())?;
    }
    let matrix = Matrix {
        replicas: vec![0, 2],
        gram: Gram::from_lower(2, vec![1.0, -0.5, 2.0]).ok_or("finite values")?,
        weights: vec![Nano::ONE, Nano(500_000_000)],
    };
    write("matrix", "two", &matrix.to_bytes())?;
    Ok(())
}
