//! What a node missed while it was away: contributions that were merged without it, and, where the charter does
//! not keep everything, the parameters between them.
//!
//! θ alone is enough to go on, and comes first. But a folder proves its θ only with everything that the charter
//! keeps, and a blob can be had only from those who hold it. So what was missed is fetched afterwards, one blob at
//! a time, and only while nothing that a round waits for is fetched (docs/adr/0016).

use super::{Source, parts};
use crate::{
    blobs::{BlobsError, Keep, Size},
    keeping::Keeping,
};
use atoll_ledger::{Outcome, Planned, Roots, RoundRecord};
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
    sync::{
        mpsc::{self, error::TryRecvError},
        watch,
    },
    task::JoinSet,
};

/// Before everything that nobody served is asked for again.
const AGAIN: Duration = Duration::from_secs(30);

/// Counts fetches for which a round, an audit or a score waits, each as long as it lives.
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

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Blobs that are not here yet.
    pub(crate) missing: usize,
    /// Blobs that were missing and were fetched.
    pub(crate) fetched: usize,
}

/// The fetching of what was missed.
pub(super) struct Backfill {
    queue: mpsc::UnboundedSender<Kept>,
    /// Of rounds that ended and are not handed over yet: what follows from their end comes first.
    ended: Vec<Kept>,
    /// θ after the newest of them, which this node makes or fetches anyway.
    newest: Vec<Kept>,
    /// The first round of which blobs are kept.
    first: Arc<AtomicU32>,
    progress: watch::Receiver<Progress>,
    /// Bytes of θ, where those that stay between the first kept round and the last are wanted.
    theta: Option<u64>,
    keeping: Keeping,
}

impl Backfill {
    pub(super) fn start(source: Source, tasks: &mut JoinSet<()>) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        let (told, progress) = watch::channel(Progress::default());
        let (first, urgent) = (Arc::default(), source.urgent.subscribe());
        // from genesis on contributions are enough; later θs follow from them
        let keeps_all = source.charter.round.retention == 0;
        let theta = (!keeps_all).then_some(4 * source.layout.parameters as u64);
        let keeping = Keeping::new(source.charter.round.retention);
        let filler = Filler::new(source, told, Arc::clone(&first), urgent);
        tasks.spawn(filler.work(waiting));
        Self {
            queue,
            ended: Vec::new(),
            newest: Vec::new(),
            first,
            progress,
            theta,
            keeping,
        }
    }

    /// How far it is, as that changes.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// A round is over.
    pub(super) fn round_ended(&mut self, record: &RoundRecord) {
        if let Outcome::Closed(roots) = record.outcome {
            self.closed(record.round, roots, record.plan());
        }
    }

    fn closed(&mut self, round: Round, roots: Roots, plan: Vec<Planned>) {
        let contributions = plan.into_iter().map(|planned| Kept {
            round,
            hash: planned.blob,
            size: Size::Exactly(planned.bytes.0),
            keep: Keep::Contribution(round, planned.peer),
            author: Some(planned.peer),
        });
        self.ended.extend(contributions);
        self.ended.append(&mut self.newest);
        let Some(bytes) = self.theta.filter(|_| self.keeping.stays(round.next())) else {
            return;
        };
        let parts = parts(roots).map(|hash| Kept {
            round: round.next(),
            hash,
            size: Size::Exactly(bytes),
            keep: Keep::Theta(round.next()),
            author: None,
        });
        self.newest.extend(parts);
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
    /// Gets it from somebody who has it; who is asked first depends on `turn`.
    async fn fetch(&self, kept: &Kept, turn: usize) -> Result<(), BlobsError>;
}

impl Place for Source {
    async fn keeps(&self, kept: &Kept) -> Result<bool, BlobsError> {
        // it may be here for another round's sake, which lets go of it earlier
        self.blobs.keep(&kept.hash, &kept.keep).await?;
        self.blobs.has(&kept.hash).await
    }

    async fn fetch(&self, kept: &Kept, turn: usize) -> Result<(), BlobsError> {
        let mut providers: Vec<PeerId> = match kept.author {
            Some(author) => self.providers_after(author),
            None => self.charter.keys().collect(),
        };
        // not everybody asks the same peer first, and nobody always
        let mine = providers.iter().position(|peer| *peer == self.me).unwrap_or_default();
        let others = providers.len() - usize::from(kept.author.is_some());
        providers[..others].rotate_left((mine + turn) % others.max(1));
        let fetched = self.fetcher.fetch(&kept.hash, kept.size, &providers, &kept.keep);
        fetched.await.map(|_| ())
    }
}

struct Filler<P> {
    place: P,
    missing: VecDeque<Kept>,
    fetched: usize,
    /// Attempts that came to nothing, or were cut short.
    turn: usize,
    told: watch::Sender<Progress>,
    first: Arc<AtomicU32>,
    urgent: watch::Receiver<usize>,
}

/// What came of an attempt.
enum Attempt {
    /// It is here, or not kept any more.
    Settled,
    /// Something urgent came between.
    Cut,
    Failed(BlobsError),
}

impl<P: Place> Filler<P> {
    fn new(place: P, told: watch::Sender<Progress>, first: Arc<AtomicU32>, urgent: watch::Receiver<usize>) -> Self {
        Self {
            place,
            missing: VecDeque::new(),
            fetched: 0,
            turn: 0,
            told,
            first,
            urgent,
        }
    }

    async fn work(mut self, mut waiting: mpsc::UnboundedReceiver<Kept>) {
        let (mut failed, mut said) = (0, 0); // in a row; in the last warning
        loop {
            let next = match self.missing.is_empty() {
                true => waiting.recv().await,
                false => None,
            };
            if self.missing.is_empty() && next.is_none() {
                return; // the world ends
            }
            // what is fetched at this moment is not missed
            if self.urgent.wait_for(|count| *count == 0).await.is_err() {
                return;
            }
            if let Some(kept) = next {
                self.note(kept).await;
            }
            loop {
                match waiting.try_recv() {
                    Ok(kept) => self.note(kept).await,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.tell();
            let Some(kept) = self.missing.pop_front() else { continue };
            match self.attempt(&kept).await {
                Attempt::Settled => failed = 0,
                Attempt::Cut => {
                    self.missing.push_front(kept); // what came of it stays, and it goes on from there
                    self.turn += 1;
                }
                Attempt::Failed(error) => {
                    self.missing.push_back(kept);
                    self.turn += 1;
                    failed += 1;
                    let missing = self.missing.len();
                    if failed < missing {
                        continue;
                    }
                    if missing != said {
                        let wait = AGAIN.as_secs();
                        tracing::warn!(
                            "{missing} blobs that this node missed are not to be had: {error}; they are asked for again every {wait} s"
                        );
                        said = missing;
                    }
                    tokio::time::sleep(AGAIN).await;
                    failed = 0;
                }
            }
            self.tell();
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
        let now = Progress {
            missing: self.missing.len(),
            fetched: self.fetched,
        };
        self.told.send_if_modified(|told| std::mem::replace(told, now) != now);
    }

    async fn attempt(&mut self, kept: &Kept) -> Attempt {
        if !self.is_wanted(kept) {
            return Attempt::Settled;
        }
        let fetched = tokio::select! {
            fetched = self.place.fetch(kept, self.turn) => fetched,
            Ok(_) = self.urgent.wait_for(|count| *count > 0) => return Attempt::Cut,
        };
        match fetched {
            Ok(()) => {
                self.fetched += 1;
                Attempt::Settled
            }
            Err(error) => Attempt::Failed(error),
        }
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
        /// One of two never answers.
        stalls: bool,
    }

    impl Place for Arc<World> {
        async fn keeps(&self, kept: &Kept) -> Result<bool, BlobsError> {
            Ok(self.here.lock().unwrap().contains(&kept.round.0))
        }

        async fn fetch(&self, kept: &Kept, turn: usize) -> Result<(), BlobsError> {
            self.asked.lock().unwrap().push(kept.round.0);
            if self.stalls && turn.is_multiple_of(2) {
                std::future::pending::<()>().await;
            }
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
        progress: watch::Receiver<Progress>,
    }

    fn start(world: World) -> Test {
        let (queue, waiting) = mpsc::unbounded_channel();
        let (urgent, count) = watch::channel(0);
        let (told, progress) = watch::channel(Progress::default());
        let (world, first) = (Arc::new(world), Arc::default());
        let filler = Filler::new(Arc::clone(&world), told, Arc::clone(&first), count);
        tokio::spawn(filler.work(waiting));
        Test {
            world,
            queue,
            first,
            urgent,
            progress,
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
            self.progress.wait_for(|now| now.missing == wanted).await.unwrap();
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
        assert_eq!(test.progress.borrow().missing, 2);
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

    #[tokio::test(start_paused = true)]
    async fn one_that_never_answers_keeps_nobody_else_from_being_asked() {
        let mut test = start(World {
            stalls: true,
            ..World::default()
        });
        test.serves(0..3);
        (0..3).for_each(|round| test.ended(round));
        test.misses(3).await;
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let _urgent = Urgent::new(&test.urgent);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        test.misses(0).await;
        assert_eq!(test.progress.borrow().fetched, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_fetched_for_a_round_is_not_missed() {
        let mut test = start(World::default());
        let urgent = Urgent::new(&test.urgent);
        test.ended(0);
        tokio::time::sleep(Duration::from_secs(5)).await;
        test.world.here.lock().unwrap().insert(0);
        drop(urgent);
        test.serves([1]);
        test.ended(1);
        test.progress.wait_for(|now| now.fetched == 1).await.unwrap();
        assert_eq!(*test.world.asked.lock().unwrap(), [1]);
    }

    #[test]
    fn where_not_everything_is_kept_the_parameters_between_are_wanted_but_the_newest() {
        let (queue, mut waiting) = mpsc::unbounded_channel();
        let (_, progress) = watch::channel(Progress::default());
        let mut backfill = Backfill {
            queue,
            ended: Vec::new(),
            newest: Vec::new(),
            first: Arc::default(),
            progress,
            theta: Some(400),
            keeping: Keeping::new(2),
        };
        let roots = |round: u8| Roots {
            theta: Hash([round; 32]),
            momentum: Some(Hash([100 + round; 32])),
        };
        let mut handed = |backfill: &mut Backfill| {
            backfill.fill();
            std::iter::from_fn(|| waiting.try_recv().ok()).collect::<Vec<Kept>>()
        };
        backfill.closed(Round(0), roots(0), Vec::new());
        assert_eq!(handed(&mut backfill), []);
        backfill.closed(Round(1), roots(1), Vec::new());
        let wanted: Vec<_> = handed(&mut backfill)
            .into_iter()
            .map(|kept| (kept.round, kept.hash, kept.size, kept.keep))
            .collect();
        let of_round_0 = |hash| (Round(1), hash, Size::Exactly(400), Keep::Theta(Round(1)));
        assert_eq!(wanted, [of_round_0(Hash([0; 32])), of_round_0(Hash([100; 32]))]);

        backfill.collect(Round(3));
        backfill.closed(Round(2), roots(2), Vec::new());
        assert_eq!(
            handed(&mut backfill),
            [],
            "θ after round 1 is that of round 2, which is not kept"
        );
        backfill.keeping = Keeping::new(16); // every other θ stays
        (3..9).for_each(|round| backfill.closed(Round(round.into()), roots(round), Vec::new()));
        let rounds: Vec<Round> = handed(&mut backfill).iter().map(|kept| kept.round).collect();
        assert_eq!(
            rounds,
            [3, 3, 4, 4, 6, 6, 8, 8].map(Round),
            "the first was wanted before"
        );
        backfill.theta = None;
        backfill.newest.clear();
        backfill.closed(Round(9), roots(9), Vec::new());
        backfill.closed(Round(10), roots(10), Vec::new());
        assert_eq!(handed(&mut backfill), []);
    }
}
