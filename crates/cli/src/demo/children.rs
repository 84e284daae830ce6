//! The demo's node processes: started, listened to, and ended whatever happens.

use crate::{
    log,
    signals::{self, OnEnd},
};
use anyhow::Context as _;
use atoll_host::{
    folder::Folder,
    liars::{Liar, liar_of},
};
use indicatif::ProgressBar;
use serde_json::Value;
use std::{
    io::{IsTerminal as _, stderr},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};

/// How long a node may take to end by itself.
const END_WAIT: Duration = Duration::from_secs(30);
/// A wait that is longer is spoken of.
const WAIT_SAID: Duration = Duration::from_secs(3);
/// How often it is looked whether nodes have ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the last words of a node that ended may take to arrive.
const WORDS_WAIT: Duration = Duration::from_secs(2);

/// What a node says.
pub(super) enum Word {
    /// An event.
    Event(usize, Value),
    /// Its process ended.
    Ended(usize),
}

/// Running nodes.
pub(super) struct Children {
    processes: Processes,
    names: Vec<String>,
    last_words: Vec<JoinHandle<String>>,
    _killed: OnEnd,
}

/// How a node ended that did not end well.
pub(super) struct Failed {
    pub(super) node: usize,
    /// In words.
    pub(super) how: String,
}

/// Also the thread that hears signals may end them.
#[derive(Clone, Default)]
struct Processes(Arc<Mutex<Vec<Child>>>);

impl Processes {
    fn lock(&self) -> MutexGuard<'_, Vec<Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills those that have not ended.
    fn kill(&self) {
        for child in self.lock().iter_mut() {
            let _ = child.start_kill(); // it may have ended just now
        }
    }

    /// Which run still.
    fn running(&self) -> Vec<usize> {
        let mut children = self.lock();
        let running = children.iter_mut().enumerate();
        let running = running.filter_map(|(index, child)| matches!(child.try_wait(), Ok(None)).then_some(index));
        running.collect()
    }

    /// The status of one, if it has ended.
    fn status(&self, index: usize) -> Option<ExitStatus> {
        self.lock().get_mut(index)?.try_wait().ok().flatten()
    }
}

impl Children {
    /// Starts a node per folder. Their words arrive in the channel, and their complaints go out beside `bar`.
    pub(super) fn start(
        nodes: &[Folder],
        names: Vec<String>,
        liars: &[Liar],
        bar: &ProgressBar,
    ) -> anyhow::Result<(Self, mpsc::UnboundedReceiver<Word>)> {
        let program = std::env::current_exe().context("cannot find the atoll program")?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / nodes.len()).max(1).to_string();
        let (words, heard) = mpsc::unbounded_channel();
        let processes = Processes::default();
        let for_signals = processes.clone();
        let killed = signals::on_end(move || for_signals.kill());
        let mut last_words = Vec::new();
        for (index, folder) in nodes.iter().enumerate() {
            let mut command = Command::new(&program);
            command
                .arg("node")
                .arg(folder.path())
                .args(["--json", "--stop-with-stdin"]);
            if let Some(liar) = liar_of(index, nodes.len(), liars) {
                command.args(["--liar", liar.name()]);
            }
            command.env("RAYON_NUM_THREADS", &threads);
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true);
            // a Ctrl-C reaches only this process, which then ends the nodes in order
            #[cfg(unix)]
            command.process_group(0);
            let name = names.get(index).cloned().unwrap_or_default();
            let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
            let out = child.stdout.take().context("a node has no output")?;
            let errors = child.stderr.take().context("a node has no output")?;
            processes.lock().push(child);
            tokio::spawn(listen(out, (index, name.clone()), words.clone(), bar.clone()));
            last_words.push(tokio::spawn(pass_on(errors, name, bar.clone())));
        }
        let children = Self {
            processes,
            names,
            last_words,
            _killed: killed,
        };
        Ok((children, heard))
    }

    /// Ends every node: asks, waits, and kills only what does not end. Gives those that did not end well.
    pub(super) async fn end(mut self) -> Vec<Failed> {
        for child in self.processes.lock().iter_mut() {
            drop(child.stdin.take());
        }
        let began = Instant::now();
        let mut said = false;
        let mut killed = false;
        loop {
            let running = self.processes.running();
            if running.is_empty() {
                break;
            }
            let names = || {
                running
                    .iter()
                    .map(|at| self.names[*at].as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            // where somebody waits
            if stderr().is_terminal() && began.elapsed() > WAIT_SAID && !std::mem::replace(&mut said, true) {
                complain!("waiting for {} to end; a second Ctrl-C kills what still runs", names());
            }
            if began.elapsed() > END_WAIT && !std::mem::replace(&mut killed, true) {
                complain!("{} did not end in {} s and is killed", names(), END_WAIT.as_secs());
                self.processes.kill();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let mut failed = Vec::new();
        for (node, words) in std::mem::take(&mut self.last_words).into_iter().enumerate() {
            let status = self.processes.status(node);
            if status.is_some_and(|status| status.success()) {
                continue;
            }
            // a grandchild could hold the pipe open
            let words = tokio::time::timeout(WORDS_WAIT, words).await.ok().and_then(Result::ok);
            let status = status.map_or("nobody knows how".into(), |status| status.to_string());
            failed.push(Failed {
                node,
                how: match words.filter(|words| !words.is_empty()) {
                    Some(words) => format!("{words} ({status})"),
                    None => status,
                },
            });
        }
        failed
    }
}

/// Takes a node's events.
async fn listen(
    out: impl AsyncRead + Unpin,
    (index, name): (usize, String),
    words: mpsc::UnboundedSender<Word>,
    bar: ProgressBar,
) {
    let mut lines = BufReader::new(out).lines();
    loop {
        let line = match lines.next_line().await {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(error) => {
                bar.suspend(|| complain!("{name}: its output cannot be read: {error}"));
                break;
            }
        };
        match serde_json::from_str(&line) {
            Ok(event) => {
                let _ = words.send(Word::Event(index, event)); // nobody listens only at the end
            }
            Err(_) => bar.suspend(|| complain!("{name}: {line}")),
        }
    }
    let _ = words.send(Word::Ended(index));
}

/// Passes on what a node complains of, with its name in front. Gives its last words.
async fn pass_on(errors: impl AsyncRead + Unpin, name: String, bar: ProgressBar) -> String {
    let mut last = String::new();
    let mut lines = BufReader::new(errors);
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line).await, Ok(1..)) {
        let text = String::from_utf8_lossy(&line).trim_end().to_string();
        line.clear();
        bar.suspend(|| complain!("{}", log::of(&name, &text)));
        if let Some(words) = last_words(&text) {
            last = words.to_string();
        }
    }
    last
}

/// The line without what is around it, if it may be why a node ended.
fn last_words(line: &str) -> Option<&str> {
    let words = line.strip_prefix("atoll: ").unwrap_or(line).trim();
    let about_panics = words.starts_with("note: ");
    (!words.is_empty() && !about_panics).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_node() {
        for (line, words) in [
            (
                "atoll: consensus stopped: no reason given",
                Some("consensus stopped: no reason given"),
            ),
            (
                "thread 'main' panicked at x.rs:1:2:",
                Some("thread 'main' panicked at x.rs:1:2:"),
            ),
            ("note: run with `RUST_BACKTRACE=1`", None),
            ("   ", None),
        ] {
            assert_eq!(last_words(line), words, "{line}");
        }
    }

    #[tokio::test]
    async fn what_a_node_complains_of_is_passed_on_to_the_last_word() {
        let said = b"2026-12-01T00:00:00Z  WARN atoll_host: slow\natoll: the disk is \xff full\n\nnote: nothing\n";
        let last = pass_on(&said[..], "node-1".into(), ProgressBar::hidden()).await;
        assert_eq!(last, "the disk is \u{fffd} full");
    }
}
