//! `atoll demo`: several nodes on this machine, from nothing to an audited model.

mod children;
pub(crate) mod corpus;
pub(crate) mod liars;
mod place;
mod setup;
mod view;

use crate::{
    audit, grouped,
    paths::pasted,
    plot,
    signals::{self, Gentle},
    size,
};
use anyhow::{Context as _, bail};
use atoll_host::{
    audit::Report,
    checkpoints::{self, Sampling},
    liars::{Liar, caught, excluded_honest},
    report::nats,
    status::{History, history},
};
use atoll_protocol::layout::Layout;
use children::{Children, Failed, Word};
use serde_json::{Value, json};
use setup::Demo;
use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use view::View;

pub(crate) const PEERS: u32 = 4;
pub(crate) const ROUNDS: u32 = 10;
pub(crate) const INNER_STEPS: u32 = 20;
/// No node trains, and nothing happens on the ledger, for this long: something is wrong.
const SILENCE: Duration = Duration::from_secs(120);

/// Starts several nodes on this machine, each with its own process, key and folder. They train a small
/// model together on their own ledger; then everything they did is audited.
///
/// Ctrl-C ends all of them cleanly, a second one at once; the same command with the same --dir goes on.
#[derive(clap::Args)]
#[command(
    after_help = "Exit status: 0 only if held-out loss fell and the audit passed; 130 after Ctrl-C.\nCtrl-C ends all nodes in order, a second one at once; the same command with the same --dir goes on.\nRounds are counted from 0, here as in checkpoints, status, why and audit.\n\nExamples:\n  atoll demo\n  atoll demo --data shakespeare.txt --dir play\n  atoll demo --peers 4 --rounds 10 --dir d --json | tail -1\n  atoll demo --peers 8 --liars scale-100,zeros --dir liars"
)]
pub(crate) struct Arguments {
    /// How many nodes [default: 4]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=32))]
    peers: Option<u32>,
    /// How many rounds [default: 10]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: Option<u32>,
    /// Inner steps per round [default: 20]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    inner_steps: Option<u32>,
    /// Text file, folder, JSON lines or Parquet, also packed (.gz, .zst); Atoll's own sources if not given
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    reading: corpus::Reading,
    /// The demo's folder: made if it is not there, filled if it is empty, gone on with if it is a demo's
    #[arg(long, default_value = "atoll-demo")]
    dir: PathBuf,
    /// Nodes that lie, the last ones; several with commas between
    #[arg(long, value_delimiter = ',', value_name = "LIAR,…", value_parser = liars::parser())]
    liars: Vec<Liar>,
    /// Contributions are judged and made again although nobody lies: what that costs
    #[arg(long)]
    audits: bool,
    /// Begin from this number: demos with the same seed, corpus and options have the same keys, tokenizer, held-out
    /// text and first parameters, and so the same genesis. Which rows are drawn and what is merged, and so all that
    /// follows, also depends on when blocks are made and what comes in time
    #[arg(long)]
    seed: Option<u64>,
    /// Print only one JSON object, at the end
    #[arg(long)]
    json: bool,
}

/// How the nodes' work ended.
enum Ending {
    Done,
    /// With the status to end with.
    Interrupted(u8),
    /// A node ended by itself.
    Died(usize),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    signals::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(demo(arguments))
}

async fn demo(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    if !arguments.json {
        say!(
            "preparing {}: keys, corpus, tokenizer, shards, charter",
            arguments.dir.display()
        );
    }
    let demo = setup::prepare(arguments).await?;
    let parameters = Layout::of(&demo.charter.model).parameters;
    if !arguments.json {
        introduce(&demo, parameters);
    }
    let rules = &demo.charter.round;
    let mut view = View::new(
        demo.names(),
        rules.rounds.into(),
        rules.inner_steps.0.into(),
        parameters,
        arguments.json,
    );
    let gentle = signals::gentle()?;
    let (children, words) = Children::start(&demo.nodes, demo.names(), &arguments.liars, &view.bar)?;
    let ending = watch(&mut view, &gentle, words).await;
    view.finish();
    let failed = children.end().await;
    let ending = match (gentle.asked(), ending?) {
        (Some(status), Ending::Done) => Ending::Interrupted(status), // while they ended
        (_, ending) => ending,
    };
    drop(gentle);
    match ending {
        Ending::Done if failed.is_empty() => conclude(arguments, &demo, &view, parameters, began),
        Ending::Done => bail!("{}", fault(&demo, &view, &failed, None)),
        Ending::Died(node) => bail!("{}", fault(&demo, &view, &failed, Some(node))),
        Ending::Interrupted(status) => {
            if !failed.is_empty() {
                complain!("atoll: {}", fault(&demo, &view, &failed, None));
            }
            complain!("stopped; `atoll demo --dir {}` goes on from here", pasted(demo.dir()));
            Ok(ExitCode::from(status))
        }
    }
}

/// Which nodes ended otherwise than they should, the `first` of them first, and where more stands.
fn fault(demo: &Demo, view: &View, failed: &[Failed], first: Option<usize>) -> String {
    let logs = |node: usize| {
        demo.nodes
            .get(node)
            .map_or(String::new(), |folder| folder.log().display().to_string())
    };
    let told = |failed: &Failed| {
        let when = match first {
            Some(first) if first == failed.node => "ended before the run was done",
            _ => "did not end cleanly",
        };
        format!(
            "{} {when}: {}; its log is {}",
            view.name(failed.node),
            failed.how,
            logs(failed.node)
        )
    };
    let mut failed: Vec<_> = failed.iter().collect();
    failed.sort_by_key(|failed| Some(failed.node) != first);
    match (first, &failed[..]) {
        (Some(node), []) => format!(
            "{} ended before the run was done; its log is {}",
            view.name(node),
            logs(node)
        ),
        // the others ended because it was asked of them
        (Some(node), [one, ..]) if one.node == node => told(one),
        _ => failed.into_iter().map(told).collect::<Vec<_>>().join("; "),
    }
}

fn introduce(demo: &Demo, parameters: usize) {
    let (model, rules) = (&demo.charter.model, &demo.charter.round);
    let going = if demo.resumed { "going on with" } else { "made" };
    say!("{going} {}: genesis {}", demo.dir().display(), demo.charter.genesis());
    say!(
        "{} nodes, {} parameters ({} layers, width {}, vocabulary {}), {} rounds of {} steps",
        demo.nodes.len(),
        grouped(parameters as u64),
        model.layers,
        model.width,
        model.vocab,
        rules.rounds,
        rules.inner_steps.0
    );
}

/// Listens until every node is done, one ends by itself, or the user interrupts.
async fn watch(view: &mut View, gentle: &Gentle, mut words: mpsc::UnboundedReceiver<Word>) -> anyhow::Result<Ending> {
    let mut progress = tokio::time::Instant::now();
    loop {
        let word = tokio::select! {
            status = gentle.wait() => return Ok(Ending::Interrupted(status)),
            word = tokio::time::timeout_at(progress + SILENCE, words.recv()) => word,
        };
        let word = word.context("the nodes have made no progress for two minutes; their folders hold events.jsonl")?;
        if !matches!(&word, Some(Word::Event(_, event)) if event["event"] == "traffic") {
            progress = tokio::time::Instant::now();
        }
        match word {
            Some(Word::Event(node, event)) => view.see(node, &event),
            Some(Word::Ended(node)) => return Ok(Ending::Died(node)),
            None => bail!("all nodes ended before the run was done"),
        }
        if view.all_done() {
            return Ok(Ending::Done);
        }
    }
}

fn conclude(
    arguments: &Arguments,
    demo: &Demo,
    view: &View,
    parameters: usize,
    began: Instant,
) -> anyhow::Result<ExitCode> {
    let first = demo.nodes.first().context("the demo has no node")?;
    let history = history(first)?;
    let report = audit::checked(demo.dir());
    let checkpoint = checkpoints::find(first.path())?;
    let mut result = figures(&history, &report, parameters);
    result["checkpoint"] = json!(checkpoint.display().to_string());
    result["corpus"] = demo.corpus.clone();
    result["wall_seconds"] = json!(began.elapsed().as_secs_f64());
    result["caught"] = json!(caught(&history, &arguments.liars));
    result["excluded_honest"] = json!(excluded_honest(&history, &arguments.liars));
    result["socket_bytes_sent"] = json!(view.sent.iter().sum::<u64>());
    // a loss that is no number did not fall
    let losses = (result["loss_end"].as_f64(), result["loss_start"].as_f64());
    let fell = matches!(losses, (Some(end), Some(start)) if end < start);
    match arguments.json {
        true => say!("{result}"),
        false => tell(arguments, demo, view, (&result, &report))?,
    }
    if !fell {
        complain!("atoll: the held-out loss did not fall");
    }
    Ok(if fell && report.ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The run in numbers, all from the ledger.
fn figures(history: &History, report: &Report, parameters: usize) -> Value {
    let (charter, peers) = (&history.charter, history.charter.members.len());
    let merged: Vec<u64> = history
        .rounds
        .iter()
        .flat_map(|round| &round.merged)
        .map(|entry| entry.bytes.0)
        .collect();
    let others = peers.saturating_sub(1) as u64;
    let blob = merged.iter().sum::<u64>() as f64 / merged.len().max(1) as f64;
    let n = peers as f64;
    let all_reduce = f64::from(charter.round.inner_steps.0) * 2.0 * (n - 1.0) / n * 4.0 * parameters as f64;
    json!({
        "loss_start": history.rounds.first().map(|round| nats(round.held_out)),
        "loss_end": history.checkpoints.last().map(|(_, loss)| nats(*loss)),
        "rounds": history.rounds.len(),
        "peers": peers,
        "parameters": parameters,
        "bytes_per_peer_per_round": blob * others as f64,
        "dense_bytes": 4 * parameters as u64 * others,
        "all_reduce_bytes": all_reduce,
        "theta_root": history.state.core().roots.theta.to_string(),
        "genesis": charter.genesis().to_string(),
        "blocks": history.blocks.0,
        "block_bytes": history.blocks.1,
        "audit_ok": report.ok(),
    })
}

fn tell(arguments: &Arguments, demo: &Demo, view: &View, (result, report): (&Value, &Report)) -> anyhow::Result<()> {
    let number = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
    let curve = plot::curve(&view.curve());
    if !curve.is_empty() {
        say!("\ntraining loss by step, nats per token, mean over the nodes\n{curve}");
    }
    let sampling = Sampling {
        max_tokens: 120,
        temperature: 0.7,
        top_k: 40,
        top_p: 0.95,
        seed: 1,
    };
    let mut opened = checkpoints::open(demo.dir())?;
    let written = opened.generate("/// ", &sampling, |_| {})?;
    say!(
        "the model writes:\n\n/// {}\n",
        crate::say::harmless(written.text.trim_end())
    );
    audit::print(report);
    liars::tell(&arguments.liars, demo.dir(), result);
    let dir = pasted(demo.dir());
    say!(
        "\nheld-out loss {:.4} → {:.4} nats per token in {:.0} s",
        number("loss_start"),
        number("loss_end"),
        number("wall_seconds")
    );
    say!(
        "a peer sends {} a round; dense f32 would be {}, per-step all-reduce {}",
        size(number("bytes_per_peer_per_round")),
        size(number("dense_bytes")),
        size(number("all_reduce_bytes"))
    );
    say!("checkpoint  {}", result["checkpoint"].as_str().unwrap_or("-"));
    say!("try next    atoll generate {dir} --prompt \"pub fn \"");
    Ok(())
}
