//! `atoll found`.

use crate::{demo::corpus, grouped};
use anyhow::Context as _;
use atoll_host::{
    cost, disk,
    folder::Folder,
    found::{self, Plan},
    identity,
};
use atoll_protocol::{
    Audit, Layout, Nano, PeerId, Robust,
    charter::{Codec, Compression, Member, Overlap},
};
use serde_json::json;
use std::{path::PathBuf, process::ExitCode};

/// Founds a run: trains a tokenizer, cuts the corpus into shards, draws θ⁰ and writes the charter.
///
/// The folder must be one that `atoll init` made; its node serves the corpus to the others.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  atoll found my-node --data texts/ --member me=6f…c2 --member ada=91…0b\n  atoll found my-node --data corpus.parquet --member me=6f…c2 --rounds 200 --inner-steps 100\n  atoll found my-node --data texts/ --member me=6f…c2 --member ada=91…0b --audit 0.125     among strangers"
)]
pub(crate) struct FoundArguments {
    /// The founder's folder
    dir: PathBuf,
    /// A member as NAME=KEY; the founder's own key must be among them
    #[arg(long = "member", value_parser = member, required = true)]
    members: Vec<Member>,
    /// Text file, folder, JSON lines or Parquet, also packed (.gz, .zst); Atoll's own sources if not given
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    reading: corpus::Reading,
    /// Licence of the corpus, for the manifest
    #[arg(long)]
    licence: Option<String>,
    /// The run's name
    #[arg(long, default_value = "run")]
    name: String,
    /// Rounds
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Inner steps per round
    #[arg(long, default_value_t = 30)]
    inner_steps: u32,
    /// Sequences of one step of one replica
    #[arg(long)]
    batch: Option<u32>,
    /// Tokens of a sequence; at most 128, the model's context
    #[arg(long)]
    sequence: Option<u32>,
    /// How contributions travel: auto, dense, int8, int4, sparse-K or lowrank-R
    #[arg(long, value_parser = compression)]
    codec: Option<Compression>,
    /// What a node does meanwhile: auto, steps, eager, round or none
    #[arg(long, value_parser = overlap)]
    overlap: Option<Overlap>,
    /// How contributions are judged: a rule's name, with mixing, clip and gates [default: geometric-median clip gates]
    #[arg(long)]
    robust: Option<Robust>,
    /// Share of the contributions that others make again, such as 0.125, and all of a newcomer's first five. Each
    /// moves 12 to 16 bytes a parameter: for links that carry that within a round or two
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    audit: f64,
    /// Share of the contributions of which three others each measure what they do to the loss, which takes them about
    /// a step of training and moves nothing; 0 for none
    #[arg(long, default_value_t = 0.125, value_parser = share)]
    score: f64,
    /// How far apart machines may train the same, as a share: see `atoll calibrate`
    #[arg(long, default_value_t = 0.05, value_parser = share)]
    tolerance: f64,
    /// Rounds of which every node keeps contributions; 0 for all. What is older can be audited only where a node was
    /// started with `--archive`
    #[arg(long, value_name = "ROUNDS", default_value_t = 100)]
    retention: u32,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Contributions of a newcomer that are all made again.
const NEWCOMER: u32 = 5;

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share from 0 to 1 is needed".into())
}

fn member(text: &str) -> Result<Member, String> {
    let (name, key) = text.split_once('=').ok_or("NAME=KEY is needed")?;
    let key: PeerId = key.parse().map_err(|error| format!("{error}"))?;
    Ok(Member { name: name.into(), key })
}

pub(crate) fn compression(text: &str) -> Result<Compression, String> {
    // What top-k leaves is old by the time it is sent, and fades; the others leave little.
    let (all, most) = (Nano::ONE, Nano(950_000_000));
    let number = |text: &str| text.parse().map_err(|_| format!("{text}: a whole number is needed"));
    Ok(Compression::Fixed(match text.split_once('-') {
        None if text == "auto" => return Ok(Compression::Auto { feedback: all }),
        None if text == "dense" => Codec::Dense,
        None if text == "int8" => Codec::Int8 { feedback: all },
        None if text == "int4" => Codec::Int4 { feedback: all },
        Some(("sparse", k)) => Codec::Sparse {
            k: number(k)?,
            feedback: most,
        },
        Some(("lowrank", rank)) => Codec::LowRank {
            rank: number(rank)?,
            feedback: all,
        },
        _ => return Err("auto, dense, int8, int4, sparse-K or lowrank-R is allowed".into()),
    }))
}

fn overlap(text: &str) -> Result<Overlap, String> {
    Ok(match text {
        "auto" => Overlap::Auto,
        "steps" => Overlap::Steps,
        "eager" => Overlap::Eager,
        "round" => Overlap::Round,
        "none" => Overlap::None,
        _ => return Err("auto, steps, eager, round or none is allowed".into()),
    })
}

/// The plan of a small run with what the user wants otherwise.
fn plan(arguments: &FoundArguments) -> Plan {
    let mut plan = Plan::small(&arguments.name, arguments.rounds, arguments.inner_steps);
    plan.licence.clone_from(&arguments.licence);
    plan.round.batch = arguments.batch.unwrap_or(plan.round.batch);
    plan.round.sequence = arguments.sequence.unwrap_or(plan.round.sequence);
    plan.round.overlap = arguments.overlap.unwrap_or(plan.round.overlap);
    plan.robust = arguments.robust.clone().unwrap_or(plan.robust);
    plan.round.retention = arguments.retention;
    if arguments.audit > 0.0 {
        plan.audit = Audit {
            share: Nano((arguments.audit * 1e9) as u64),
            newcomer: NEWCOMER,
            tolerance: Nano((arguments.tolerance * 1e9) as u64),
            ..Audit::NONE
        };
    }
    plan.score.share = Nano((arguments.score * 1e9) as u64);
    if let Some(compression) = &arguments.codec {
        plan.compression = compression.clone();
    }
    plan
}

pub(crate) fn found(arguments: &FoundArguments) -> anyhow::Result<ExitCode> {
    let folder = Folder::at(&arguments.dir);
    let keypair = identity::read(&folder.key()).context("`atoll init` makes the folder")?;
    if !arguments.members.iter().any(|member| member.key == keypair.peer()) {
        anyhow::bail!("the folder's own key {} is not among the members", keypair.peer());
    }
    if folder.charter().exists() {
        anyhow::bail!(
            "{} exists; a folder is for one run, and it was left as it is",
            folder.charter().display()
        );
    }
    let corpus = corpus::read(arguments.data.as_deref(), &arguments.reading, &[&arguments.dir])?;
    let beginning = corpus::begin(plan(arguments), &corpus, arguments.members.clone())?;
    let (charter, tokens) = (beginning.charter, beginning.train_tokens);
    let (held_out, overlap) = (beginning.held_out_tokens, beginning.overlap.percent());
    corpus::tell_overlap(overlap);
    let blobs = Some(beginning.blobs.iter().map(|(bytes, _)| bytes.len() as u64).sum());
    tokio::runtime::Runtime::new()?.block_on(found::install_blobs(&folder, beginning.blobs))?;
    found::install_charter(&folder, &charter)?;
    let path = folder.charter().display().to_string();
    match arguments.json {
        true => say!(
            "{}",
            json!({
                "charter": path,
                "genesis": charter.genesis().to_string(),
                "train_tokens": tokens,
                "held_out_tokens": held_out,
                "held_out_also_trained_percent": overlap,
                "corpus": corpus::to_json(&corpus),
                "parameters": Layout::of(&charter.model).parameters,
                "cost": cost::of(&charter).to_json(blobs, disk::free(folder.path())),
            })
        ),
        false => say!(
            "{path}\nGenesis {}, {} tokens to train on, of {}. Send this file to every member; each runs\n  atoll init FOLDER --charter charter.toml\n  atoll node FOLDER --bind ADDRESS:PORT --peer KEY=ADDRESS:PORT …\n{}",
            charter.genesis(),
            grouped(tokens),
            texts(corpus.documents.len() as u64),
            cost::sentence(&charter, blobs, folder.path())
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn texts(count: u64) -> String {
    match count {
        1 => "one text".into(),
        count => format!("{} texts", grouped(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_by_name() {
        let sparse = Codec::Sparse {
            k: 64,
            feedback: Nano(950_000_000),
        };
        assert_eq!(compression("sparse-64"), Ok(Compression::Fixed(sparse)));
        assert_eq!(compression("auto"), Ok(Compression::Auto { feedback: Nano::ONE }));
        for wrong in ["zip", "sparse", "sparse-x", "int4-2", "dense-1"] {
            assert!(compression(wrong).is_err(), "{wrong}");
        }
        assert!(overlap("eager").is_ok() && overlap("late").is_err());
    }
}
