//! Every arm's grid on one seed, then its best setting on more seeds; as many runs at a time as there are
//! cores, each on one thread.

use super::{Book, BookError, RunError, RunResult, Spec, Task, run};
use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use thiserror::Error;

/// One arm of one column.
#[derive(Debug, Clone)]
pub struct Arm {
    /// Its column of the table, such as `N = 4, 100 rounds`.
    pub column: String,
    /// Settings to choose from, all on the first seed.
    pub grid: Vec<Spec>,
    /// Further seeds for the best.
    pub seeds: Vec<u64>,
}

/// Why a campaign did not end.
#[derive(Debug, Error)]
pub enum CampaignError {
    /// A run failed.
    #[error("arm {arm}, seed {seed}: {cause}")]
    Run {
        /// The arm.
        arm: String,
        /// The seed.
        seed: u64,
        /// Why.
        cause: RunError,
    },
    /// Results cannot be written.
    #[error(transparent)]
    Book(#[from] BookError),
    /// Threads cannot be made.
    #[error("cannot start a thread: {0}")]
    Threads(String),
    /// It was told to stop; what is done is on disk.
    #[error("stopped; the same command goes on where it was")]
    Stopped,
}

/// What a campaign tells while it runs.
#[derive(Debug, Clone)]
pub enum Progress {
    /// A run begins.
    Begins(Spec),
    /// A run ended; how many are done, and how many there will be.
    Ends {
        /// What was run.
        spec: Spec,
        /// What it gave.
        result: RunResult,
        /// Runs done.
        done: usize,
        /// Runs in all.
        of: usize,
    },
}

/// Arms to run.
pub struct Campaign {
    /// In the order of the table.
    pub arms: Vec<Arm>,
}

/// An arm's best setting on all its seeds.
#[derive(Debug, Clone)]
pub struct Best {
    /// The setting, on the first seed.
    pub spec: Spec,
    /// A result for each seed, the first seed first.
    pub results: Vec<RunResult>,
}

impl Best {
    /// Mean held-out loss over the seeds.
    pub fn loss(&self) -> f64 {
        mean(self.results.iter().map(|result| result.loss))
    }
}

/// The mean; infinite if any is.
pub(super) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

impl Arm {
    /// Its name.
    pub fn name(&self) -> &str {
        self.grid.first().map_or("", |spec| &spec.arm)
    }

    /// The best of the grid, once all of it is there. Of equals the first.
    fn chosen(&self, book: &Book) -> Option<Spec> {
        let mut best: Option<(f64, &Spec)> = None;
        for spec in &self.grid {
            let loss = book.get(spec)?.loss;
            if best.is_none_or(|(least, _)| loss < least) {
                best = Some((loss, spec));
            }
        }
        best.map(|(_, spec)| spec.clone())
    }

    fn with_seeds<'a>(&'a self, spec: &'a Spec) -> impl Iterator<Item = Spec> + 'a {
        self.seeds.iter().map(|seed| Spec {
            seed: *seed,
            ..spec.clone()
        })
    }

    /// Its best setting with all results, if they are there.
    pub fn best(&self, book: &Book) -> Option<Best> {
        let spec = self.chosen(book)?;
        let first = book.get(&spec)?;
        let more = self.with_seeds(&spec).map(|spec| book.get(&spec));
        let results = std::iter::once(Some(first)).chain(more).collect::<Option<Vec<_>>>()?;
        Some(Best { spec, results })
    }

    fn runs(&self) -> usize {
        self.grid.len() + self.seeds.len()
    }

    /// What is not done yet and can be run now.
    fn open(&self, book: &Book) -> Vec<Spec> {
        let missing = |spec: &Spec| book.get(spec).is_none();
        match self.chosen(book) {
            Some(spec) => self.with_seeds(&spec).filter(missing).collect(),
            None => self.grid.iter().filter(|spec| missing(spec)).cloned().collect(),
        }
    }
}

struct Shared<'a> {
    campaign: &'a Campaign,
    task: &'a Task,
    book: &'a Book,
    stop: &'a (dyn Fn() -> bool + Sync),
    progress: &'a (dyn Fn(Progress) + Sync),
    state: Mutex<Underway>,
    ended: Condvar,
}

#[derive(Default)]
struct Underway {
    running: Vec<Spec>,
    failed: Option<CampaignError>,
}

impl Campaign {
    /// Runs what is missing in `book`, `threads` at a time.
    ///
    /// # Errors
    /// The first that a run or the book gave, or that it was told to stop. What had ended is in the book.
    pub fn run(
        &self,
        task: &Task,
        book: &Book,
        threads: usize,
        stop: &(dyn Fn() -> bool + Sync),
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), CampaignError> {
        let shared = Shared {
            campaign: self,
            task,
            book,
            stop,
            progress,
            state: Mutex::default(),
            ended: Condvar::new(),
        };
        let pools = (0..threads.max(1)).map(|_| rayon::ThreadPoolBuilder::new().num_threads(1).build());
        let pools = pools.collect::<Result<Vec<_>, _>>();
        let pools = pools.map_err(|error| CampaignError::Threads(error.to_string()))?;
        std::thread::scope(|scope| {
            for pool in &pools {
                let shared = &shared;
                scope.spawn(move || shared.work(pool));
            }
        });
        let failed = shared.lock().failed.take();
        failed.map_or(Ok(()), Err)
    }

    /// Runs in all.
    pub fn runs(&self) -> usize {
        self.arms.iter().map(Arm::runs).sum()
    }

    /// Runs whose results are in `book`.
    pub fn done(&self, book: &Book) -> usize {
        let done = |arm: &Arm| {
            let there = |spec: &Spec| book.get(spec).is_some();
            let grid = arm.grid.iter().filter(|spec| there(spec)).count();
            let chosen = arm.chosen(book);
            grid + chosen.map_or(0, |spec| arm.with_seeds(&spec).filter(|spec| there(spec)).count())
        };
        self.arms.iter().map(done).sum()
    }
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, Underway> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, pool: &rayon::ThreadPool) {
        while let Some(spec) = self.next() {
            (self.progress)(Progress::Begins(spec.clone()));
            let began = Instant::now();
            let done = pool.install(|| run(&spec, self.task, self.stop));
            let kept = match done {
                Ok(mut result) => {
                    result.wall_s = began.elapsed().as_secs_f64();
                    self.book.put(&spec, result).map_err(CampaignError::from)
                }
                Err(RunError::Stopped) => Err(CampaignError::Stopped),
                Err(cause) => Err(CampaignError::Run {
                    arm: spec.arm.clone(),
                    seed: spec.seed,
                    cause,
                }),
            };
            self.ends(spec, kept);
        }
    }

    fn ends(&self, spec: Spec, kept: Result<(), CampaignError>) {
        let mut state = self.lock();
        state.running.retain(|running| *running != spec);
        if let Err(error) = kept {
            state.failed.get_or_insert(error);
        }
        drop(state);
        self.ended.notify_all();
        if let Some(result) = self.book.get(&spec) {
            let (done, of) = (self.campaign.done(self.book), self.campaign.runs());
            (self.progress)(Progress::Ends { spec, result, done, of });
        }
    }

    /// The next run that is missing; waits where it depends on runs under way.
    fn next(&self) -> Option<Spec> {
        let mut state = self.lock();
        loop {
            if (self.stop)() {
                state.failed.get_or_insert(CampaignError::Stopped);
            }
            if state.failed.is_some() {
                return None;
            }
            let open: Vec<Spec> = self.campaign.arms.iter().flat_map(|arm| arm.open(self.book)).collect();
            if let Some(spec) = open.iter().find(|spec| !state.running.contains(spec)) {
                state.running.push(spec.clone());
                return Some(spec.clone());
            }
            if state.running.is_empty() {
                return None;
            }
            let wait = self.ended.wait_timeout(state, Duration::from_secs(1));
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
