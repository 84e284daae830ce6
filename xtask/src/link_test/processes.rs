//! One process in each namespace, and the JSON lines that they print.

use super::network::Network;
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// How long processes may take to end once they were asked to.
const ENDING: Duration = Duration::from_secs(30);

/// Something that a process printed, or that its output ended.
pub(super) struct Line {
    pub(super) node: usize,
    pub(super) at: Instant,
    pub(super) event: Option<Value>,
}

/// A process for each node; all are killed when this is dropped.
pub(super) struct Processes {
    children: Vec<Child>,
    errors: Vec<PathBuf>,
    lines: mpsc::Receiver<Line>,
}

impl Processes {
    /// Starts `program` with the arguments of each node in its namespace.
    pub(super) fn start(
        network: &Network,
        what: &str,
        program: &Path,
        arguments: impl Fn(usize) -> Vec<String>,
    ) -> Result<Self, String> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / network.nodes()).max(1).to_string();
        let (told, lines) = mpsc::channel();
        let mut processes = Self {
            children: Vec::new(),
            errors: Vec::new(),
            lines,
        };
        for node in 0..network.nodes() {
            let errors = network.folder().join(format!("{what}-{}.stderr", node + 1));
            let file = create(&errors)?;
            let log = create(&errors.with_extension("events"))?;
            let mut child = Command::new("ip")
                .args(["netns", "exec", &network.namespace(node)])
                .arg(program)
                .args(arguments(node))
                .env("RAYON_NUM_THREADS", &threads) // nodes share the cores; none shall take them all at times
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(file)
                .spawn()
                .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
            if let Some(output) = child.stdout.take() {
                let told = told.clone();
                thread::spawn(move || read(node, output, log, &told));
            }
            processes.children.push(child);
            processes.errors.push(errors);
        }
        Ok(processes)
    }

    /// The next line of any process, before `deadline`.
    pub(super) fn next(&self, deadline: Instant) -> Result<Line, mpsc::RecvTimeoutError> {
        self.lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
    }

    /// What a process complained of last.
    pub(super) fn complaint(&self, node: usize) -> String {
        let text = self.errors.get(node).and_then(|path| fs::read_to_string(path).ok());
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Asks all to end, by the end of their input, and waits for it.
    pub(super) fn end(mut self) -> Result<(), String> {
        self.children.iter_mut().for_each(|child| drop(child.stdin.take()));
        let deadline = Instant::now() + ENDING;
        for node in 0..self.children.len() {
            loop {
                match self.children[node].try_wait() {
                    Ok(Some(status)) if status.success() => break,
                    Ok(Some(status)) => {
                        return Err(format!(
                            "node {} ended with {status}: {}",
                            node + 1,
                            self.complaint(node)
                        ));
                    }
                    Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(20)),
                    Ok(None) => return Err(format!("node {} did not end in {ENDING:?} and was killed", node + 1)),
                    Err(error) => return Err(format!("cannot wait for node {}: {error}", node + 1)),
                }
            }
        }
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill(); // it may have ended
            let _ = child.wait();
        }
    }
}

fn create(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Tells every line, and writes it down with the seconds since the start, for people who look for lost time.
fn read(node: usize, output: ChildStdout, mut log: File, told: &mpsc::Sender<Line>) {
    let began = Instant::now();
    let line = |event| Line {
        node,
        at: Instant::now(),
        event,
    };
    for text in BufReader::new(output).lines().map_while(Result::ok) {
        let _ = writeln!(log, "{:.3} {text}", began.elapsed().as_secs_f64()); // the figures do not need it
        let Ok(event) = serde_json::from_str(&text) else {
            continue;
        };
        if told.send(line(Some(event))).is_err() {
            return;
        }
    }
    let _ = told.send(line(None)); // nobody waits for it any more
}
