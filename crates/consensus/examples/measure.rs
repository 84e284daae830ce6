//! Measures four validators in one process: latency, what idling costs, and what a dead one costs.
//!
//! `cargo run --release -p atoll-consensus --example measure` (Linux; two minutes)

#[path = "../tests/support/mod.rs"]
mod support;

use atoll_protocol::{Action, Charter};
use iroh::address_lookup::memory::MemoryLookup;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use support::{Disk, Node, charter, keypairs, sign};

/// Seconds of processor time that this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields
        .skip(11)
        .take(2)
        .filter_map(|text| text.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

struct Measured {
    charter: Arc<Charter>,
    nodes: Vec<Node>,
    turns: Vec<u32>,
}

impl Measured {
    /// One transaction of node `i`; milliseconds until that node has it in a final block.
    async fn once(&mut self, i: usize) -> f64 {
        let turn = self.turns[i];
        self.turns[i] += 1;
        let action = match turn % 2 {
            0 => Action::Join { sequence: turn / 2 },
            _ => Action::Leave { sequence: turn / 2 + 1 },
        };
        let node = &self.nodes[i];
        let since = Instant::now();
        node.submit_and_wait(sign(&self.charter, &node.keypair, action)).await;
        since.elapsed().as_secs_f64() * 1e3
    }

    async fn for_a_while(&mut self, length: Duration) -> Vec<f64> {
        let (since, mut latencies) = (Instant::now(), Vec::new());
        while since.elapsed() < length {
            let i = latencies.len() % self.nodes.len();
            latencies.push(self.once(i).await);
        }
        latencies
    }
}

fn report(what: &str, mut latencies: Vec<f64>) {
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "{what}: {} transactions, p50 {:.1} ms, p90 {:.1} ms, max {:.1} ms",
        latencies.len(),
        at(0.5),
        at(0.9),
        at(1.0)
    );
}

#[tokio::main]
async fn main() {
    let keypairs = keypairs(4);
    let charter = charter(&keypairs);
    let (lookup, folder) = (MemoryLookup::new(), tempfile::tempdir().expect("a folder"));
    let mut nodes = Vec::new();
    for keypair in &keypairs {
        let disk = Disk::empty(&charter);
        nodes.push(Node::start(&charter, keypair, &lookup, folder.path(), disk).await);
    }
    let mut measured = Measured {
        charter,
        nodes,
        turns: vec![0; 4],
    };
    let first = measured.once(0).await;
    println!("first transaction: {first:.0} ms");
    report(
        "one after the other",
        measured.for_a_while(Duration::from_secs(10)).await,
    );

    let (cpu, since) = (cpu_seconds(), Instant::now());
    tokio::time::sleep(Duration::from_secs(40)).await;
    let cores = (cpu_seconds() - cpu) / since.elapsed().as_secs_f64();
    println!("idle: {:.2} % of a core per node", cores / 4.0 * 100.0);

    let mut latencies = Vec::new();
    for i in 0..12 {
        tokio::time::sleep(Duration::from_millis(1_700)).await;
        latencies.push(measured.once(i % 4).await);
    }
    report("now and then", latencies);

    if let Some(dead) = measured.nodes.pop() {
        dead.stop().await;
    }
    let what = "first 15 s with one of four dead";
    report(what, measured.for_a_while(Duration::from_secs(15)).await);
    report("next 15 s", measured.for_a_while(Duration::from_secs(15)).await);
    let mut latencies = Vec::new();
    for i in 0..12 {
        tokio::time::sleep(Duration::from_millis(1_700)).await;
        latencies.push(measured.once(i % 3).await);
    }
    report("now and then", latencies);
    for node in measured.nodes {
        node.stop().await;
    }
}
