//! The demo's node processes: started, listened to, and ended whatever happens.

use anyhow::Context as _;
use atoll_host::{
    folder::Folder,
    liars::{Liar, liar_of},
};
use serde_json::Value;
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

/// How long a node may take to end by itself.
const END_WAIT: Duration = Duration::from_secs(30);

/// What a node says.
pub(super) enum Word {
    /// An event.
    Event(usize, Value),
    /// Its process ended.
    Ended(usize),
}

/// Running nodes.
pub(super) struct Children {
    children: Vec<Child>,
}

impl Children {
    /// Starts a node per folder. Their words arrive in the channel.
    pub(super) fn start(nodes: &[Folder], liars: &[Liar]) -> anyhow::Result<(Self, mpsc::UnboundedReceiver<Word>)> {
        let program = std::env::current_exe().context("cannot find the atoll program")?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / nodes.len()).max(1).to_string();
        let (words, heard) = mpsc::unbounded_channel();
        let mut children = Vec::new();
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
                .stderr(Stdio::inherit())
                .kill_on_drop(true);
            // a Ctrl-C reaches only this process, which then ends the nodes in order
            #[cfg(unix)]
            command.process_group(0);
            let mut child = command.spawn().context("cannot start a node")?;
            let out = child.stdout.take().context("a node has no output")?;
            let words = words.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(out).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Ok(event) = serde_json::from_str(&line) {
                        let _ = words.send(Word::Event(index, event)); // nobody listens only at the end
                    }
                }
                let _ = words.send(Word::Ended(index));
            });
            children.push(child);
        }
        Ok((Self { children }, heard))
    }

    /// Ends every node: asks, waits, and kills only what does not end. True if all ended well.
    pub(super) async fn end(mut self) -> bool {
        for child in &mut self.children {
            drop(child.stdin.take());
        }
        let mut well = true;
        for child in &mut self.children {
            match tokio::time::timeout(END_WAIT, child.wait()).await {
                Ok(Ok(status)) => well &= status.success(),
                _ => {
                    let _ = child.kill().await; // it may have ended just now
                    well = false;
                }
            }
        }
        well
    }
}
