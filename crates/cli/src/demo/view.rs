//! What the demo shows while it runs: a line per round, and a bar for the round under way.

use crate::{grouped, say::is_drawable, size};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::io::stdout;

/// A fold over the nodes' events.
pub(super) struct View {
    names: Vec<String>,
    rounds: u64,
    inner_steps: u64,
    /// f32 bytes that one peer would send in a round of per-step ring all-reduce.
    all_reduce: f64,
    pub(super) bar: ProgressBar,
    lines: bool,
    round: u64,
    steps: Vec<u64>,
    speeds: Vec<f64>,
    pub(super) sent: Vec<u64>,
    sent_before: u64,
    pub(super) up: Vec<bool>,
    pub(super) done: Vec<bool>,
    /// Mean training loss of every step, over the nodes.
    losses: Vec<(f64, u32)>,
    last_round: Option<u64>,
}

impl View {
    pub(super) fn new(names: Vec<String>, rounds: u64, inner_steps: u64, parameters: usize, quiet: bool) -> Self {
        let nodes = names.len();
        let bar = match quiet || !is_drawable(&stdout()) {
            true => ProgressBar::hidden(),
            false => ProgressBar::with_draw_target(Some(inner_steps), ProgressDrawTarget::stdout()),
        };
        let style = ProgressStyle::with_template("round {prefix:>4} {bar:30} {pos}/{len} steps  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let n = nodes as f64;
        Self {
            names,
            rounds,
            inner_steps,
            all_reduce: inner_steps as f64 * 2.0 * (n - 1.0) / n * 4.0 * parameters as f64,
            bar,
            lines: !quiet,
            round: 0,
            steps: vec![0; nodes],
            speeds: vec![0.0; nodes],
            sent: vec![0; nodes],
            sent_before: 0,
            up: vec![false; nodes],
            done: vec![false; nodes],
            losses: Vec::new(),
            last_round: None,
        }
    }

    fn say(&self, line: &str) {
        if self.lines {
            match self.bar.is_hidden() {
                true => say!("{line}"),
                false => self.bar.println(line),
            }
        }
    }

    /// A node's name.
    pub(super) fn name(&self, node: usize) -> &str {
        self.names.get(node).map_or("?", String::as_str)
    }

    /// Takes one event of one node into the picture.
    pub(super) fn see(&mut self, node: usize, event: &Value) {
        match event["event"].as_str().unwrap_or_default() {
            "started" => {
                self.up[node] = true;
                let listens = event["listens"][0].as_str().unwrap_or("?");
                self.say(&format!(
                    "{} is up on {listens}, ledger at block {}",
                    event["peer"].as_str().unwrap_or("?"),
                    event["height"]
                ));
            }
            "step" => self.see_step(node, event),
            "round" => self.see_round(event),
            "traffic" => self.sent[node] = event["sent"].as_u64().unwrap_or(0),
            "done" => self.done[node] = true,
            // a round's own waits are for its lines
            "waiting" if event["what"].as_str().is_some_and(|what| what.contains("round ")) => {}
            "diverged" | "merge_failed" | "broken" | "skipped" | "waiting" | "clock" | "twin" | "damaged"
            | "mended" | "disk_short" | "disk_enough" => {
                self.say(&format!(
                    "{}: {}",
                    self.name(node),
                    event["text"].as_str().unwrap_or("?")
                ));
            }
            "excluded" | "dormant" => {
                let (what, peer) = (
                    event["event"].as_str().unwrap_or("?"),
                    event["peer"].as_str().unwrap_or("?"),
                );
                if node == 0 {
                    self.say(&format!("{peer} is {what}"));
                }
            }
            _ => {}
        }
    }

    fn see_step(&mut self, node: usize, event: &Value) {
        let (round, step) = (
            event["round"].as_u64().unwrap_or(0),
            event["step"].as_u64().unwrap_or(0),
        );
        if round > self.round {
            self.round = round;
            self.steps.fill(0);
        }
        if round == self.round {
            self.steps[node] = step; // others may still be in the round before
        }
        self.speeds[node] = event["tokens_per_second"].as_f64().unwrap_or(0.0);
        let loss = event["loss"].as_f64().unwrap_or(f64::NAN);
        let place = (round * self.inner_steps + step.saturating_sub(1)) as usize;
        if self.losses.len() <= place && place < (self.rounds * self.inner_steps) as usize {
            self.losses.resize(place + 1, (0.0, 0));
        }
        if let Some((sum, count)) = self.losses.get_mut(place) {
            (*sum, *count) = (*sum + loss, *count + 1);
        }
        let slowest = self.steps.iter().copied().min().unwrap_or(0);
        self.bar.set_prefix(self.round.to_string());
        self.bar.set_position(slowest);
        let up = self.up.iter().filter(|up| **up).count();
        self.bar.set_message(format!(
            "loss {loss:.3}  {} tok/s  {up} of {} nodes",
            grouped(self.speed() as u64),
            self.names.len()
        ));
    }

    fn speed(&self) -> f64 {
        self.speeds.iter().sum()
    }

    /// Rounds reach every node; the first to tell is believed here, the audit compares them all.
    fn see_round(&mut self, event: &Value) {
        let round = event["round"].as_u64().unwrap_or(0);
        if self.last_round.is_some_and(|last| last >= round) {
            return;
        }
        if self.last_round.is_none() {
            self.say("round   train  held-out before   tok/s   sent by all   all-reduce would send  merged");
        }
        self.last_round = Some(round);
        let sent: u64 = self.sent.iter().sum();
        let merged = event["merged"].as_array().map_or(0, Vec::len);
        self.say(&format!(
            "{round:>5}  {:>6.3}  {:>15.3}  {:>6}  {:>12}  {:>21}  {merged} of {}{}",
            event["train_loss"].as_f64().unwrap_or(f64::NAN),
            event["held_out_before"].as_f64().unwrap_or(f64::NAN),
            grouped(self.speed() as u64),
            size(sent.saturating_sub(self.sent_before) as f64),
            size(self.all_reduce * self.names.len() as f64),
            event["roster"].as_array().map_or(0, Vec::len),
            match event["outcome"].as_str() {
                Some("closed") | None => String::new(),
                Some(other) => format!("  {other}"),
            }
        ));
        self.sent_before = sent;
    }

    /// Training loss by step, as far as this session saw it.
    pub(super) fn curve(&self) -> Vec<f64> {
        self.losses
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(sum, count)| sum / f64::from(*count))
            .collect()
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    pub(super) fn all_done(&self) -> bool {
        self.done.iter().all(|done| *done)
    }
}
