//! The two ways of training, run in the namespaces and timed.
//!
//! What is measured of Atoll, on each node: from the beginning of its first step to the moment at which it
//! says that the last round is over. Fetching the corpus is not in it, it is on every disk before; held-out
//! losses, codecs, merging, disk and consensus are. Compute is the time of the inner steps, ahead or not.
//! No step hides the last round's transfer, in a long run one of many: the same up to the moment at which a
//! node has trained its last contribution is measured beside it.

use super::{
    address,
    figures::Link,
    network::{Network, tool},
    options::Options,
    processes::{Line, Processes},
};
use serde_json::Value;
use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const ATOLL_PORT: u16 = 7700;
const RING_PORT: u16 = 7701;
/// For processes to start and meet.
const START: Duration = Duration::from_secs(120);
/// For one round on top of its steps and transfers: the longest its phases may take, twice.
const ROUND_S_MAX: f64 = 110.0;

/// A step of all-reduce.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) compute_s: f64,
    pub(super) wall_s: f64,
}

/// What all-reduce did, by node.
pub(super) struct Trained {
    pub(super) steps: u32,
    pub(super) nodes: Vec<Vec<Step>>,
}

/// What Atoll did; means over the nodes.
pub(super) struct Rounds {
    pub(super) rounds: u32,
    /// Rounds that moved θ.
    pub(super) closed: u32,
    /// Contributions merged in a round.
    pub(super) merged: f64,
    pub(super) codec: String,
    pub(super) wall_s: f64,
    pub(super) compute_s: f64,
    /// Share of the time in steps until the last contribution was made.
    pub(super) before_last: f64,
    /// Compute time of a step.
    pub(super) step_s: f64,
    /// Bytes of a contribution.
    pub(super) blob_bytes: f64,
    /// Bytes that a node sent in a round, headers, consensus and repeats included.
    pub(super) wire_bytes: f64,
}

impl Trained {
    fn mean(&self, of: impl Fn(&Step) -> f64) -> f64 {
        self.nodes.iter().flatten().map(of).sum::<f64>() / self.nodes.len().max(1) as f64
    }

    pub(super) fn wall_s(&self) -> f64 {
        self.mean(|step| step.wall_s)
    }

    pub(super) fn compute_s(&self) -> f64 {
        self.mean(|step| step.compute_s)
    }

    /// Mean time of a step until the first node has done all of its own: those left over have the cores for
    /// themselves. The first steps do not count; programs still start.
    pub(super) fn step_s_while_all_train(&self) -> f64 {
        const STARTING: usize = 2;
        let total = |steps: &Vec<Step>| steps.iter().map(|step| step.wall_s).sum::<f64>();
        let end = self.nodes.iter().map(total).fold(f64::INFINITY, f64::min);
        let (mut sum, mut count) = (0.0, 0);
        for steps in &self.nodes {
            let mut at = 0.0;
            for (number, step) in steps.iter().enumerate() {
                at += step.wall_s;
                if number >= STARTING && at <= end {
                    (sum, count) = (sum + step.wall_s, count + 1);
                }
            }
        }
        sum / f64::from(count.max(1))
    }
}

/// Folders with a common charter, ready to run.
pub(super) struct Bench<'a> {
    network: &'a Network,
    options: &'a Options,
    atoll: PathBuf,
    keys: Vec<String>,
    parameters: u64,
}

impl<'a> Bench<'a> {
    /// Makes a folder for each node with `atoll init` and `atoll found`; the corpus is copied to all.
    pub(super) fn found(network: &'a Network, options: &'a Options) -> Result<Self, String> {
        let own = env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let mut bench = Self {
            network,
            options,
            atoll: own.with_file_name("atoll"), // cargo puts both into one folder
            keys: Vec::new(),
            parameters: 0,
        };
        for node in 0..network.nodes() {
            let made = bench.run(&["init", &bench.folder(node), "--json"])?;
            let key = made["key"].as_str().ok_or("`atoll init --json` names no key")?;
            bench.keys.push(key.to_string());
        }
        let founded = bench.found_run()?;
        let parameters = founded["parameters"].as_u64();
        bench.parameters = parameters.ok_or("`atoll found --json` names no parameters")?;
        let charter = bench.charter();
        for node in 1..network.nodes() {
            let folder = bench.folder(node);
            bench.run(&["init", &folder, "--charter", &charter, "--json"])?;
            copy(
                &Path::new(&bench.folder(0)).join("blobs"),
                &Path::new(&folder).join("blobs"),
            )?;
        }
        Ok(bench)
    }

    fn found_run(&self) -> Result<Value, String> {
        let options = self.options;
        let numbers = [options.rounds, options.inner_steps, options.batch, options.sequence].map(|n| n.to_string());
        let names = ["--rounds", "--inner-steps", "--batch", "--sequence"];
        let mut words = vec![
            "found".to_string(),
            self.folder(0),
            "--json".into(),
            "--name".into(),
            "link-test".into(),
        ];
        for (name, number) in names.into_iter().zip(numbers) {
            words.extend([name.to_string(), number]);
        }
        for (name, value) in [("--codec", &options.codec), ("--overlap", &options.overlap)] {
            words.extend([name.to_string(), value.clone()]);
        }
        for (node, key) in self.keys.iter().enumerate() {
            words.extend(["--member".to_string(), format!("node-{}={key}", node + 1)]);
        }
        self.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs `atoll` outside of the namespaces, and reads the JSON that it prints.
    fn run(&self, words: &[&str]) -> Result<Value, String> {
        let printed = tool(&self.atoll.display().to_string(), words)?;
        serde_json::from_str(&printed).map_err(|error| format!("`atoll {}` printed {printed:?}: {error}", words[0]))
    }

    fn folder(&self, node: usize) -> String {
        self.network
            .folder()
            .join(format!("node-{}", node + 1))
            .display()
            .to_string()
    }

    fn charter(&self) -> String {
        format!("{}/charter.toml", self.folder(0))
    }

    /// P.
    pub(super) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Steps of all nodes at once without any exchange.
    pub(super) fn calibrate(&self, steps: u32, slowest_s: f64) -> Result<Trained, String> {
        self.steps("calibration", true, (steps, slowest_s))
            .map(|(trained, _)| trained)
    }

    /// Per-step all-reduce on all nodes; a step that takes longer than `slowest_s` ends the test.
    pub(super) fn all_reduce(&self, steps: u32, slowest_s: f64) -> Result<Trained, String> {
        let (trained, thetas) = self.steps("all-reduce", false, (steps, slowest_s))?;
        match thetas.windows(2).all(|pair| pair[0] == pair[1]) {
            true => Ok(trained),
            false => Err(format!("all-reduce left different parameters on the nodes: {thetas:?}")),
        }
    }

    /// What the steps took, and the root of θ on each node.
    fn steps(
        &self,
        what: &str,
        alone: bool,
        (steps, slowest_s): (u32, f64),
    ) -> Result<(Trained, Vec<Option<String>>), String> {
        let nodes = self.network.nodes();
        let wait = (slowest_s as u64).max(START.as_secs() / 2);
        let processes = Processes::start(self.network, what, &self.atoll, |node| {
            let next = address((node + 1) % nodes, RING_PORT);
            let (charter, listen) = (self.charter(), address(node, RING_PORT));
            let numbers = [node.to_string(), nodes.to_string(), steps.to_string(), wait.to_string()];
            let mut words: Vec<String> = ["bench", "all-reduce", &charter, "--listen", &listen, "--next", &next]
                .map(String::from)
                .to_vec();
            for (name, number) in ["--rank", "--nodes", "--steps", "--wait"].into_iter().zip(numbers) {
                words.extend([name.to_string(), number]);
            }
            words.extend(alone.then(|| "--alone".to_string()));
            words
        })?;
        let deadline = Instant::now() + START + Duration::from_secs_f64(slowest_s * f64::from(steps));
        let mut seen = vec![Vec::new(); nodes];
        let mut thetas: Vec<Option<String>> = vec![None; nodes];
        while thetas.iter().any(Option::is_none) {
            let (line, event) = event(&processes, deadline, what)?;
            match event["event"].as_str() {
                Some("step") => {
                    let step = Step {
                        compute_s: event["compute_s"].as_f64().unwrap_or_default(),
                        wall_s: event["wall_s"].as_f64().unwrap_or_default(),
                    };
                    seen[line.node].push(step);
                    if line.node == 0 && !alone {
                        eprintln!(
                            "{what} step {}: {:.3} s of {:.2} s",
                            event["step"], step.compute_s, step.wall_s
                        );
                    }
                }
                Some("done") => thetas[line.node] = event["theta"].as_str().map(String::from),
                _ => {}
            }
        }
        processes.end()?;
        Ok((Trained { steps, nodes: seen }, thetas))
    }

    /// Real nodes until all of them saw the last round end.
    pub(super) fn atoll(&self, link: &Link) -> Result<Rounds, String> {
        let (network, options) = (self.network, self.options);
        let processes = Processes::start(network, "atoll", &self.atoll, |node| self.node_arguments(node))?;
        let mut nodes = vec![Node::default(); network.nodes()];
        let mut deadline = Instant::now() + START;
        let mut sent_before = None;
        while nodes.iter().any(|node| node.end.is_none()) {
            let (line, event) = event(&processes, deadline, "atoll")?;
            nodes[line.node].see(&event, line.at, options.rounds);
            if line.node == 0 && event["event"] == "round" {
                tell_round(&event);
            }
            if sent_before.is_none() && nodes.iter().all(|node| node.first.is_some()) {
                sent_before = Some(network.sent()?);
                let round_s = link.t_step_s * 4.0 * f64::from(options.inner_steps) + ROUND_S_MAX;
                deadline = Instant::now() + Duration::from_secs_f64(round_s * f64::from(options.rounds));
            }
        }
        let sent = network.sent()? - sent_before.unwrap_or_default();
        processes.end()?;
        Ok(Rounds::of(&nodes, options.rounds, sent))
    }

    fn node_arguments(&self, node: usize) -> Vec<String> {
        let mut words = vec!["node".to_string(), self.folder(node)];
        words.extend(["--json".to_string(), "--stop-with-stdin".into(), "--bind".into()]);
        words.push(address(node, ATOLL_PORT));
        for (other, key) in self.keys.iter().enumerate().filter(|(other, _)| *other != node) {
            words.extend(["--peer".to_string(), format!("{key}={}", address(other, ATOLL_PORT))]);
        }
        words
    }
}

/// The next event, or why there is none.
fn event(processes: &Processes, deadline: Instant, what: &str) -> Result<(Line, Value), String> {
    let mut line = processes
        .next(deadline)
        .map_err(|_| format!("{what} is not done in time; {}", processes.complaint(0)))?;
    match line.event.take() {
        Some(event) => Ok((line, event)),
        None if what == "atoll" => Err(format!(
            "node {} ended early: {}",
            line.node + 1,
            processes.complaint(line.node)
        )),
        None => match processes.complaint(line.node) {
            text if text.is_empty() => Ok((line, Value::Null)), // all-reduce ends by itself
            text => Err(format!("{what} on node {}: {text}", line.node + 1)),
        },
    }
}

fn tell_round(event: &Value) {
    eprintln!(
        "atoll round {} {}: {} of {} merged, {}, train loss {:.3}",
        event["round"],
        event["outcome"].as_str().unwrap_or("?"),
        event["merged"].as_array().map_or(0, Vec::len),
        event["roster"].as_array().map_or(0, Vec::len),
        event["codec"].as_str().unwrap_or("?"),
        event["train_loss"].as_f64().unwrap_or(f64::NAN),
    );
}

/// One node's run, as its events tell it.
#[derive(Debug, Clone, Default)]
struct Node {
    /// When its first step began.
    first: Option<Instant>,
    /// When its last contribution was made, and the compute time until then.
    last_trained: Option<(Instant, f64)>,
    /// When the last round was over.
    end: Option<Instant>,
    compute_s: f64,
    steps: u32,
    closed: u32,
    merged: u32,
    blobs: Vec<f64>,
    codecs: Vec<String>,
}

impl Node {
    fn see(&mut self, event: &Value, at: Instant, rounds: u32) {
        if self.end.is_some() {
            return;
        }
        match event["event"].as_str() {
            Some("step") => {
                let seconds = event["seconds"].as_f64().unwrap_or_default().max(0.0);
                let began = at.checked_sub(Duration::from_secs_f64(seconds)).unwrap_or(at);
                self.first.get_or_insert(began);
                self.compute_s += seconds;
                self.steps += 1;
            }
            Some("trained") => self.last_trained = Some((at, self.compute_s)),
            Some("round") => {
                let merged = event["merged"].as_array().map_or(&[][..], Vec::as_slice);
                self.closed += u32::from(event["outcome"] == "closed");
                self.merged += merged.len() as u32;
                self.blobs
                    .extend(merged.iter().filter_map(|entry| entry["bytes"].as_f64()));
                let codec = event["codec"].as_str().unwrap_or("?").to_string();
                if !self.codecs.contains(&codec) {
                    self.codecs.push(codec);
                }
                if event["round"].as_u64().is_some_and(|round| round + 1 >= rounds.into()) {
                    self.end = Some(at);
                }
            }
            _ => {}
        }
    }

    fn wall_s(&self) -> f64 {
        match (self.first, self.end) {
            (Some(first), Some(end)) => end.saturating_duration_since(first).as_secs_f64(),
            _ => 0.0,
        }
    }

    fn before_last(&self) -> f64 {
        match (self.first, self.last_trained) {
            (Some(first), Some((at, compute_s))) => {
                compute_s / at.saturating_duration_since(first).as_secs_f64().max(1e-9)
            }
            _ => 0.0,
        }
    }
}

impl Rounds {
    fn of(nodes: &[Node], rounds: u32, sent: f64) -> Self {
        let mean = |of: &dyn Fn(&Node) -> f64| nodes.iter().map(of).sum::<f64>() / nodes.len().max(1) as f64;
        let (compute_s, steps) = (mean(&|node| node.compute_s), mean(&|node| node.steps.into()));
        let first = nodes.first().cloned().unwrap_or_default(); // rounds are the same for all
        Self {
            rounds,
            closed: first.closed,
            merged: f64::from(first.merged) / f64::from(rounds.max(1)),
            codec: first.codecs.join("+"),
            wall_s: mean(&Node::wall_s),
            compute_s,
            before_last: mean(&Node::before_last),
            step_s: compute_s / steps.max(1.0),
            blob_bytes: first.blobs.iter().sum::<f64>() / first.blobs.len().max(1) as f64,
            wire_bytes: sent / f64::from(rounds.max(1)),
        }
    }
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |error| format!("cannot copy {} to {}: {error}", from.display(), to.display());
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match from.is_dir() {
            true => copy(&from, &to)?,
            false => fs::copy(&from, &to).map(drop).map_err(failed)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn steps_that_have_the_cores_for_themselves_do_not_count() {
        let step = |wall_s| Step {
            compute_s: wall_s,
            wall_s,
        };
        let fast = vec![step(9.0), step(9.0), step(1.0), step(1.0)];
        let slow = vec![step(9.0), step(9.0), step(2.0), step(0.5)];
        let trained = Trained {
            steps: 4,
            nodes: vec![fast, slow],
        };
        assert_eq!(trained.step_s_while_all_train(), 4.0 / 3.0);
    }

    #[test]
    fn events_and_what_is_made_of_them() {
        let begin = Instant::now();
        let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
        let round = |number: u32, outcome: &str| {
            json!({ "event": "round", "round": number, "outcome": outcome, "codec": "int4",
                "merged": [{ "bytes": 100 }, { "bytes": 200 }] })
        };
        let mut node = Node::default();
        let events = [
            (1.0, json!({ "event": "started" })),
            (6.0, json!({ "event": "step", "seconds": 1.0 })),
            (7.0, round(0, "closed")),
            (8.0, json!({ "event": "step", "ahead": true, "seconds": 0.5 })),
            (8.0, json!({ "event": "trained" })),
            (10.0, round(1, "void: nobody revealed in time")),
            (11.0, json!({ "event": "step", "seconds": 0.5 })), // after the end
        ];
        for (seconds, event) in &events {
            node.see(event, at(*seconds), 2);
        }
        let rounds = Rounds::of(&[node.clone(), node], 2, 1000.0);
        assert!((rounds.wall_s - 5.0).abs() < 1e-6, "{}", rounds.wall_s);
        assert_eq!((rounds.compute_s, rounds.step_s), (1.5, 0.75));
        assert!((rounds.before_last - 0.5).abs() < 1e-6, "{}", rounds.before_last);
        assert_eq!((rounds.closed, rounds.merged), (1, 2.0));
        assert_eq!((rounds.blob_bytes, rounds.wire_bytes), (150.0, 500.0));
        assert_eq!(rounds.codec, "int4");
    }
}
