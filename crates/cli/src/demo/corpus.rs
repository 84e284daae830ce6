//! The corpus of every command that takes `--data`: what the user names, read with progress, with a word on what was
//! not read; or the project's own sources, packed when it was built.

use crate::{grouped, say, size};
use anyhow::Context as _;
use atoll_host::found::{Beginning, Corpus, Ingest, Plan, Progress, Skipped, TrainProgress, begin_watched, corpus_of};
use atoll_protocol::charter::Member;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::{
    cell::{Cell, OnceCell},
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Written by build.rs: names and texts in turn, each ended by NUL.
static PACKED: &str = include_str!(concat!(env!("OUT_DIR"), "/corpus"));

/// The licence of the packed corpus.
pub(crate) const LICENCE: &str = "MIT OR Apache-2.0";
/// Lines that are printed of what was not read; all of it is in `--json`.
const LINES_MAX: usize = 10;
/// Reading is silent for so long.
const SILENT: Duration = Duration::from_secs(1);
/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Share of what is held out that may stand in what is trained on, in percent, before it is worth a word.
const OVERLAP_PERCENT: f64 = 2.0;

// How `--data` is read. No doc comment: it would stand in the help of every command.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct Reading {
    /// Field of JSON and column of Parquet that holds the text, such as content or meta.text [default: text]
    #[arg(long, value_name = "NAME", requires = "data")]
    field: Option<String>,
    /// Leave out what is broken in --data, lines, rows and files, and count it, instead of refusing it
    #[arg(long, requires = "data")]
    skip_broken: bool,
}

/// Reads the corpus at `path`, or the packed one, and says what is not in it. What this command `writes` is left out.
pub(crate) fn read(path: Option<&Path>, reading: &Reading, writes: &[&Path]) -> anyhow::Result<Corpus> {
    match path {
        Some(path) => named(path, reading, writes, false),
        None => Ok(corpus_of(packed())),
    }
}

/// The same for a text that is measured and not trained on: each copy counts.
pub(crate) fn read_copies(path: &Path, reading: &Reading) -> anyhow::Result<Corpus> {
    named(path, reading, &[], true)
}

fn named(path: &Path, reading: &Reading, writes: &[&Path], keep_copies: bool) -> anyhow::Result<Corpus> {
    let watch = Watch::new(path);
    let leave_out: Vec<PathBuf> = writes.iter().map(|path| path.to_path_buf()).collect();
    let ingest = Ingest {
        field: reading.field.as_deref().unwrap_or("text"),
        skip_broken: reading.skip_broken,
        keep_copies,
        leave_out: &leave_out,
        progress: &|progress: &Progress| watch.look(progress),
        ..Ingest::default()
    };
    let read = ingest.read(path);
    watch.end();
    let corpus = read.with_context(|| format!("cannot use {} as the corpus", path.display()))?;
    lines(&corpus).iter().for_each(|line| complain!("atoll: {line}"));
    Ok(corpus)
}

/// What is not in the corpus, or otherwise: some lines for people.
fn lines(corpus: &Corpus) -> Vec<String> {
    let mut lines = Vec::new();
    for (what, entries) in [("left out", &corpus.skipped), ("changed", &corpus.changed)] {
        let (hidden, named): (Vec<&Skipped>, Vec<&Skipped>) = entries.iter().partition(|entry| entry.path.is_empty());
        lines.extend(named.iter().take(LINES_MAX).map(|entry| format!("{what}: {entry}")));
        if let Some(more) = named.len().checked_sub(LINES_MAX).filter(|more| *more > 0) {
            lines.push(format!("{what}: {} more; --json names all", grouped(more as u64)));
        }
        lines.extend(hidden.iter().map(|entry| format!("{what}: {entry}")));
    }
    lines
}

/// A corpus as commands name it in `--json`: how much was read, and all that was not.
pub(crate) fn to_json(corpus: &Corpus) -> Value {
    let list = |entries: &[Skipped]| {
        let one = |entry: &Skipped| {
            json!({
                "path": entry.path,
                "part": entry.part.name(),
                "count": entry.count,
                "first": entry.first,
                "bytes": entry.bytes,
                "reason": entry.reason,
            })
        };
        entries.iter().map(one).collect::<Vec<_>>()
    };
    json!({
        "files": corpus.sources.len(),
        "documents": corpus.documents.len(),
        "text_bytes": corpus.text_bytes(),
        "skipped": list(&corpus.skipped),
        "changed": list(&corpus.changed),
    })
}

/// Says that part of what is held out is trained on, where that is so.
pub(crate) fn tell_overlap(percent: f64) {
    if percent >= OVERLAP_PERCENT {
        complain!(
            "atoll: {percent:.1} % of what is held out also stands in what is trained on, so that held-out loss says less: take copies out of the corpus"
        );
    }
}

/// Makes what a run begins with, and says what takes long of it.
pub(crate) fn begin(plan: Plan, corpus: &Corpus, members: Vec<Member>) -> anyhow::Result<Beginning> {
    let (began, mut told) = (Instant::now(), Instant::now());
    let spinner = say::spinner();
    let begun = begin_watched(plan, corpus, members, &mut |progress| {
        let doing = match progress {
            TrainProgress::Counting { bytes, of } => {
                let [bytes, of] = [bytes, of].map(|bytes| size(bytes as f64));
                format!("tokenizer: words of {bytes} of {of} are counted")
            }
            TrainProgress::Merging { of } => format!("tokenizer: up to {} tokens are made", grouped(of.into())),
        };
        if spinner.is_hidden() && began.elapsed() >= SILENT && told.elapsed() >= LINE_EVERY {
            told = Instant::now();
            complain!("atoll: {doing}");
        }
        spinner.set_message(doing);
        ControlFlow::Continue(())
    });
    spinner.finish_and_clear();
    begun
}

/// Shows how far reading is: on a terminal as a bar, else as a line now and then.
struct Watch {
    name: String,
    began: Instant,
    told: Cell<Instant>,
    bar: OnceCell<ProgressBar>,
}

impl Watch {
    fn new(path: &Path) -> Self {
        let now = Instant::now();
        Self {
            name: path.display().to_string(),
            began: now,
            told: Cell::new(now),
            bar: OnceCell::new(),
        }
    }

    fn look(&self, progress: &Progress) -> ControlFlow<()> {
        if self.began.elapsed() < SILENT {
            return ControlFlow::Continue(());
        }
        let bar = self.bar.get_or_init(|| {
            let bar = say::bar(progress.bytes_all);
            let style = ProgressStyle::with_template("reading {msg}  {bar:30} {bytes}/{total_bytes}, {eta} left");
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.set_message(self.name.clone());
            bar
        });
        bar.set_length(progress.bytes_all.max(progress.bytes));
        bar.set_position(progress.bytes);
        if bar.is_hidden() && self.told.get().elapsed() >= LINE_EVERY {
            self.told.set(Instant::now());
            let [read, all] = [progress.bytes, progress.bytes_all].map(|bytes| size(bytes as f64));
            complain!(
                "atoll: reading {}: {read} of {all}, {} of {} files",
                self.name,
                grouped(progress.files),
                grouped(progress.files_all)
            );
        }
        ControlFlow::Continue(())
    }

    fn end(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

fn packed() -> impl Iterator<Item = (String, String)> {
    let mut parts = PACKED.split_terminator('\u{0}');
    std::iter::from_fn(move || Some((parts.next()?.to_string(), parts.next()?.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_host::found::Part;

    #[test]
    fn the_packed_corpus_holds_this_very_file() {
        let corpus = read(None, &Reading::default(), &[]).unwrap();
        assert!(
            corpus
                .sources
                .iter()
                .any(|source| source.path == "crates/cli/src/demo/corpus.rs")
        );
        assert!(corpus.text_bytes() > 100_000);
        assert!(corpus.sources.windows(2).all(|pair| pair[0].path < pair[1].path));
    }

    #[test]
    fn ten_lines_and_a_count_and_all_of_it_as_json() {
        let skipped = |at: u64, path: String, part, count| Skipped {
            path,
            part,
            count,
            first: (part == Part::Line).then_some(at),
            bytes: 5,
            reason: "why".into(),
        };
        let mut corpus = Corpus::default();
        for at in 1..=12 {
            corpus.skipped.push(skipped(at, format!("{at}.jsonl"), Part::Line, at));
        }
        corpus.skipped.push(skipped(0, String::new(), Part::Hidden, 3));
        corpus.changed.push(skipped(0, "a.txt".into(), Part::File, 1));
        let lines = lines(&corpus);
        assert_eq!(lines.len(), 13);
        assert_eq!(lines[0], "left out: 1.jsonl, line 1: why");
        assert_eq!(lines[1], "left out: 2.jsonl, 2 lines from line 2: why");
        assert_eq!(lines[10], "left out: 2 more; --json names all");
        assert_eq!(lines[11], "left out: 3 hidden files and folders: why");
        assert_eq!(lines[12], "changed: a.txt: why");
        let json = to_json(&corpus);
        assert_eq!(json["skipped"].as_array().map(Vec::len), Some(13));
        assert_eq!(
            json["skipped"][11],
            json!({ "path": "12.jsonl", "part": "line", "count": 12, "first": 12, "bytes": 5, "reason": "why" })
        );
    }
}
