//! What a node missed while it was away: contributions that were merged without it, and, where the charter does
//! not keep everything, the parameters between them.
//!
//! θ alone is enough to go on, and comes first. But a folder proves its θ only with everything that the charter
//! keeps, and a blob can be had only from those who hold it. So what was missed is fetched afterwards, one blob at
//! a time, and only while nothing that a round waits for is fetched (docs/adr/0016).

use super::Source;
use crate::blobs::{BlobsError, Keep, Size};
use atoll_ledger::{Outcome, RoundRecord};
use atoll_protocol::{Hash, PeerId, Round};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

/// Before everything that nobody served is asked for again.
const AGAIN: Duration = Duration::from_secs(30);

/// Counts what a round waits for, as long as it lives.
pub(super) struct Urgent(watch::Sender<usize>);

impl Urgent {
    pub(super) fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// A blob that the charter keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    round: Round,
    hash: Hash,
    size: Size,
    keep: Keep,
    /// Whose it is, if somebody's: to be asked last, since it may stall.
    author: Option<PeerId>,
}

/// The fetching of what was missed.
pub(super) struct Backfill {
    queue: mpsc::UnboundedSender<Kept>,
    /// Of rounds that ended and are not handed over yet: what follows from their end comes first.
    ended: Vec<Kept>,
    /// The first round of which blobs are kept.
    first: Arc<AtomicU32>,
    urgent: watch::Sender<usize>,
    missing: watch::Receiver<usize>,
    /// Bytes of θ, where everything between the first kept round and the last is wanted.
    theta: Option<u64>,
}

impl Backfill {
    pub(super) fn start(source: Source, tasks: &mut JoinSet<()>) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        let first = Arc::default();
        let (urgent, count) = watch::channel(0);
        let (told, missing) = watch::channel(0);
        // from genesis on contributions are enough; later θs follow from them
        let keeps_all = source.charter.round.retention == 0;
        let theta = (!keeps_all).then_some(4 * source.layout.parameters as u64);
        let filler = Filler {
            place: source,
            missing: VecDeque::new(),
            told,
            first: Arc::clone(&first),
            urgent: count,
        };
        tasks.spawn(filler.work(waiting));
        Self {
            queue,
            ended: Vec::new(),
            first,
            urgent,
            missing,
            theta,
        }
    }

    /// Something that a round waits for is being fetched until the answer is dropped.
    pub(super) fn urgent(&self) -> Urgent {
        Urgent::new(&self.urgent)
    }

    /// For what gets urgent later.
    pub(super) fn urgency(&self) -> watch::Sender<usize> {
        self.urgent.clone()
    }

    /// How many blobs are missing, as it changes.
    pub(super) fn missing(&self) -> watch::Receiver<usize> {
        self.missing.clone()
    }

    /// A round is over.
    pub(super) fn round_ended(&mut self, record: &RoundRecord) {
        let Outcome::Closed(roots) = record.outcome else { return };
        let round = record.round;
        let contributions = record.plan().into_iter().map(|planned| Kept {
            round,
            hash: planned.blob,
            size: Size::Exactly(planned.bytes.0),
            keep: Keep::Contribution(round, planned.peer),
            author: Some(planned.peer),
        });
        self.ended.extend(contributions);
        let Some(bytes) = self.theta else { return };
        let parts = [Some(roots.theta), roots.momentum.filter(|root| *root != Hash::ZERO)];
        let parts = parts.into_iter().flatten().map(|hash| Kept {
            round: round.next(),
            hash,
            size: Size::Exactly(bytes),
            keep: Keep::Theta(round.next()),
            author: None,
        });
        self.ended.extend(parts);
    }

    /// Blobs of rounds before `first` are not kept.
    pub(super) fn collect(&self, first: Round) {
        self.first.fetch_max(first.0, Ordering::Relaxed);
    }

    /// Whatever follows from the rounds that ended was begun: what is missing may be fetched.
    pub(super) fn fill(&mut self) {
        let first = self.first.load(Ordering::Relaxed);
        for kept in self.ended.drain(..).filter(|kept| kept.round.0 >= first) {
            let _ = self.queue.send(kept); // the filler ends with the world
        }
    }
}

/// Where blobs are and come from.
trait Place {
    /// Has it kept, and says whether it is here.
    async fn keeps(&self, kept: &Kept) -> Result<bool, BlobsError>;
    /// Gets it from somebody who has it.
    async fn fetch(&self, kept: &Kept) -> Result<(), BlobsError>;
}

impl Place for Source {
    async fn keeps(&self, kept: &Kept) -> Result<bool, BlobsError> {
        // it may be here for another round's sake, which lets go of it earlier
        self.blobs.keep(&kept.hash, &kept.keep).await?;
        self.blobs.has(&kept.hash).await
    }

    async fn fetch(&self, kept: &Kept) -> Result<(), BlobsError> {
        let mut providers: Vec<PeerId> = match kept.author {
            Some(author) => self.providers_after(author),
            None => self.charter.keys().collect(),
        };
        // not everybody asks the same peer first
        let mine = providers.iter().position(|peer| *peer == self.me).unwrap_or_default();
        let others = providers.len() - usize::from(kept.author.is_some());
        providers[..others].rotate_left(mine.min(others));
        let fetched = self
            .blobs
            .fetch(&self.endpoint, &kept.hash, kept.size, &providers, &kept.keep);
        fetched.await.map(|_| ())
    }
}

struct Filler<P> {
    place: P,
    missing: VecDeque<Kept>,
    told: watch::Sender<usize>,
    first: Arc<AtomicU32>,
    urgent: watch::Receiver<usize>,
}

impl<P: Place> Filler<P> {
    async fn work(mut self, mut waiting: mpsc::UnboundedReceiver<Kept>) {
        let mut failed = 0; // in a row
        loop {
            if self.missing.is_empty() {
                let Some(kept) = waiting.recv().await else { return };
                self.note(kept).await;
            }
            while let Ok(kept) = waiting.try_recv() {
                self.note(kept).await;
            }
            self.tell();
            if self.urgent.wait_for(|count| *count == 0).await.is_err() {
                return; // the world ends
            }
            let Some(kept) = self.missing.pop_front() else { continue };
            match self.try_to_get(&kept).await {
                None => self.missing.push_front(kept), // it goes on where it was
                Some(true) => failed = 0,
                Some(false) => {
                    self.missing.push_back(kept);
                    failed += 1;
                }
            }
            self.tell();
            if failed > 0 && failed >= self.missing.len() {
                tracing::warn!(
                    "nobody who is there has {} blobs that this node missed; they are asked for again in {} s",
                    self.missing.len(),
                    AGAIN.as_secs()
                );
                tokio::time::sleep(AGAIN).await;
                failed = 0;
            }
        }
    }

    /// Takes in what is kept and not here.
    async fn note(&mut self, kept: Kept) {
        if self.is_wanted(&kept) && !matches!(self.place.keeps(&kept).await, Ok(true)) {
            self.missing.push_back(kept);
        }
    }

    fn is_wanted(&self, kept: &Kept) -> bool {
        kept.round.0 >= self.first.load(Ordering::Relaxed)
    }

    fn tell(&self) {
        let missing = self.missing.len();
        self.told
            .send_if_modified(|told| std::mem::replace(told, missing) != missing);
    }

    /// Whether nothing is left to do for it; nothing if something urgent came between.
    async fn try_to_get(&mut self, kept: &Kept) -> Option<bool> {
        if !self.is_wanted(kept) || matches!(self.place.keeps(kept).await, Ok(true)) {
            return Some(true);
        }
        let fetched = tokio::select! {
            fetched = self.place.fetch(kept) => fetched,
            _ = self.urgent.wait_for(|count| *count > 0) => return None,
        };
        if let Err(error) = &fetched {
            tracing::debug!("missed in round {}: {error}", kept.round);
        }
        Some(fetched.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, sync::Mutex};

    /// Blobs by their round alone.
    #[derive(Default)]
    struct World {
        here: Mutex<BTreeSet<u32>>,
        served: Mutex<BTreeSet<u32>>,
        asked: Mutex<Vec<u32>>,
        /// Whoever is asked answers after so long.
        slow: Duration,
    }

    impl Place for Arc<World> {
        async fn keeps(&self, kept: &Kept) -> Result<bool, BlobsError> {
            Ok(self.here.lock().unwrap().contains(&kept.round.0))
        }

        async fn fetch(&self, kept: &Kept) -> Result<(), BlobsError> {
            self.asked.lock().unwrap().push(kept.round.0);
            tokio::time::sleep(self.slow).await;
            match self.served.lock().unwrap().contains(&kept.round.0) {
                true => {
                    self.here.lock().unwrap().insert(kept.round.0);
                    Ok(())
                }
                false => Err(BlobsError::Peer("has it not".into())),
            }
        }
    }

    struct Test {
        world: Arc<World>,
        queue: mpsc::UnboundedSender<Kept>,
        first: Arc<AtomicU32>,
        urgent: watch::Sender<usize>,
        missing: watch::Receiver<usize>,
    }

    fn start(world: World) -> Test {
        let (queue, waiting) = mpsc::unbounded_channel();
        let (urgent, count) = watch::channel(0);
        let (told, missing) = watch::channel(0);
        let (world, first) = (Arc::new(world), Arc::default());
        let filler = Filler {
            place: Arc::clone(&world),
            missing: VecDeque::new(),
            told,
            first: Arc::clone(&first),
            urgent: count,
        };
        tokio::spawn(filler.work(waiting));
        Test {
            world,
            queue,
            first,
            urgent,
            missing,
        }
    }

    impl Test {
        fn ended(&self, round: u32) {
            let hash = Hash::of_blob(&round.to_le_bytes());
            let kept = Kept {
                round: Round(round),
                hash,
                size: Size::Exactly(1),
                keep: Keep::Theta(Round(round)),
                author: None,
            };
            self.queue.send(kept).unwrap();
        }

        async fn misses(&mut self, wanted: usize) {
            self.missing.wait_for(|missing| *missing == wanted).await.unwrap();
        }

        fn serves(&self, rounds: impl IntoIterator<Item = u32>) {
            self.world.served.lock().unwrap().extend(rounds);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_serves_is_asked_for_again_however_quickly_rounds_end() {
        let mut test = start(World::default());
        test.ended(0);
        test.misses(1).await;
        for round in 1..20 {
            test.world.here.lock().unwrap().insert(round);
            test.ended(round);
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        let asked = test.world.asked.lock().unwrap().len();
        assert!((3..=4).contains(&asked), "asked {asked} times in 95 seconds");
        test.serves([0]);
        test.misses(0).await;
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_is_missing_is_asked_for_in_one_go_and_the_rest_goes_on() {
        let mut test = start(World::default());
        test.serves([1, 3]);
        (0..5).for_each(|round| test.ended(round));
        test.misses(3).await;
        let began = tokio::time::Instant::now();
        test.serves(0..5);
        test.misses(0).await;
        assert_eq!(began.elapsed(), AGAIN, "one wait for the three that were left");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_round_waits_for_comes_first() {
        let mut test = start(World {
            slow: Duration::from_secs(10),
            ..World::default()
        });
        test.serves(0..2);
        (0..2).for_each(|round| test.ended(round));
        test.misses(2).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let urgent = Urgent::new(&test.urgent); // in the middle of a fetch
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(*test.missing.borrow(), 2);
        assert_eq!(*test.world.asked.lock().unwrap(), [0]);
        drop(urgent);
        test.misses(0).await;
        assert_eq!(*test.world.asked.lock().unwrap(), [0, 0, 1], "the first goes on first");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_kept_any_more_is_not_asked_for() {
        let mut test = start(World::default());
        (0..4).for_each(|round| test.ended(round));
        test.misses(4).await;
        test.first.store(3, Ordering::Relaxed);
        test.misses(1).await;
        test.ended(2);
        test.serves([3]);
        test.misses(0).await;
        assert!(!test.world.here.lock().unwrap().contains(&2));
    }
}
