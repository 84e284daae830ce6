//! What a node missed while it was away: contributions that were merged without it.
//!
//! θ alone is enough to go on, and comes first. But a folder proves its θ from genesis only with every
//! contribution that the charter keeps, and others can ask only those for a blob who have it. So they are
//! fetched afterwards, one at a time, and only while no round waits for a blob.

use super::Source;
use atoll_ledger::{Outcome, Planned, RoundRecord};
use atoll_protocol::Round;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

/// Before what nobody served is asked for again.
const AGAIN: Duration = Duration::from_secs(30);

/// Counts what a round waits for, as long as it lives.
pub(super) struct Urgent(watch::Sender<usize>);

impl Urgent {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// The fetching of what was missed.
pub(super) struct Backfill {
    queue: mpsc::UnboundedSender<(Round, Planned)>,
    /// Rounds that ended and are not handed over yet: what follows from their end comes first.
    ended: Vec<RoundRecord>,
    /// What was never tried.
    untried: Arc<AtomicUsize>,
    /// The first round of which blobs are kept.
    first: Arc<AtomicU32>,
    urgent: watch::Sender<usize>,
}

impl Backfill {
    pub(super) fn start(source: Source, tasks: &mut JoinSet<()>) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        let (untried, first) = (Arc::default(), Arc::default());
        let (urgent, count) = watch::channel(0);
        let filler = Filler {
            source,
            untried: Arc::clone(&untried),
            first: Arc::clone(&first),
            urgent: count,
        };
        tasks.spawn(filler.work(waiting));
        Self {
            queue,
            ended: Vec::new(),
            untried,
            first,
            urgent,
        }
    }

    /// Something that a round waits for is being fetched until the answer is dropped.
    pub(super) fn urgent(&self) -> Urgent {
        Urgent::new(&self.urgent)
    }

    /// A round is over.
    pub(super) fn round_ended(&mut self, record: &RoundRecord) {
        if let Outcome::Closed(_) = record.outcome {
            self.ended.push(record.clone());
        }
    }

    /// Blobs of rounds before `first` are not kept.
    pub(super) fn collect(&self, first: Round) {
        self.first.fetch_max(first.0, Ordering::Relaxed);
    }

    /// Whatever follows from the rounds that ended was begun: what is missing may be fetched.
    pub(super) fn fill(&mut self) {
        for record in self.ended.drain(..) {
            for planned in record.plan() {
                self.untried.fetch_add(1, Ordering::Relaxed);
                let _ = self.queue.send((record.round, planned)); // the filler ends with the world
            }
        }
    }

    /// Whether everything that was missed was asked for, from everyone.
    pub(super) fn is_tried(&self) -> bool {
        self.ended.is_empty() && self.untried.load(Ordering::Relaxed) == 0
    }
}

struct Filler {
    source: Source,
    untried: Arc<AtomicUsize>,
    first: Arc<AtomicU32>,
    urgent: watch::Receiver<usize>,
}

impl Filler {
    async fn work(mut self, mut waiting: mpsc::UnboundedReceiver<(Round, Planned)>) {
        let mut later: VecDeque<(Round, Planned)> = VecDeque::new();
        loop {
            let missing = tokio::select! {
                biased;
                next = waiting.recv() => {
                    let Some((round, planned)) = next else { return };
                    let missing = self.is_missing(round, &planned).await;
                    self.untried.fetch_sub(1, Ordering::Relaxed);
                    missing.then_some((round, planned))
                }
                () = tokio::time::sleep(AGAIN), if !later.is_empty() => {
                    let Some((round, planned)) = later.pop_front() else { continue };
                    self.is_missing(round, &planned).await.then_some((round, planned))
                }
            };
            later.extend(missing);
        }
    }

    /// Fetches a contribution that is kept and not here. Whether it is still missing.
    async fn is_missing(&mut self, round: Round, planned: &Planned) -> bool {
        let blobs = &self.source.blobs;
        if round.0 < self.first.load(Ordering::Relaxed) || matches!(blobs.has(&planned.blob).await, Ok(true)) {
            return false;
        }
        if self.urgent.wait_for(|count| *count == 0).await.is_err() {
            return true; // the world ends
        }
        let author = self.source.charter.name_of(&planned.peer);
        match self.source.planned_blob(round, planned).await {
            Ok(_) => {
                tracing::info!("the contribution of {author} to round {round}, which this node missed, is here");
                false
            }
            Err(error) => {
                tracing::warn!("the contribution of {author} to round {round}, which this node missed: {error}");
                true
            }
        }
    }
}
