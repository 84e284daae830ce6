//! Contributions of others that are made again or measured here: what that needs is fetched, and threads beside the
//! trainer do it.

use super::{RETRY, Source, World, parts};
use crate::{
    blobs::{Keep, Size},
    merging::state_of,
    replayer::{Replayer, Task, ToDoAgain, ToScore},
};
use anyhow::Context as _;
use atoll_ledger::{Case, Roots, Scoring, Work};
use atoll_node::Input;
use atoll_outer::{OuterState, OwnState, again::Material};
use atoll_protocol::{Finding, Hash, PeerId, Round, transaction::AheadFrom};
use bytes::Bytes;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, oneshot},
    task::AbortHandle,
};

/// For how long everyone is asked for a replica's state before it counts as missing, at the least.
const STATE_WAIT: Duration = Duration::from_secs(60);
/// The most that a state may take, as a multiple of what contributions of its size took of late.
const STATE_SLACK: u64 = 4;
/// How often what everybody should have, a θ or a contribution, is asked for to make something again; and how long
/// between.
const MATERIAL_TRIES: u32 = 5;
const MATERIAL_RETRY: Duration = Duration::from_secs(3);
/// Contributions that are fetched, each with its θ, before it is their turn to be measured.
const SCORES_AHEAD: usize = 2;

/// A thread that looks at contributions of others, and where its tasks go.
type Worker = (mpsc::Sender<Task>, JoinHandle<()>);

/// Who looks at contributions of others, and what is fetched for it.
pub(super) struct Looking {
    /// Makes them again; there from the first that is drawn on.
    replayer: Option<Worker>,
    /// Measures them; so too.
    scorer: Option<Worker>,
    /// Fetches that come to nothing when this round has ended.
    fetches: Vec<(Round, AbortHandle)>,
    /// Turns of those that are fetched ahead of their measuring.
    ahead: Arc<Semaphore>,
    /// Whether the node stops.
    stopping: Arc<AtomicBool>,
}

impl Looking {
    pub(super) fn new() -> Self {
        Self {
            replayer: None,
            scorer: None,
            fetches: Vec::new(),
            ahead: Arc::new(Semaphore::new(SCORES_AHEAD)),
            stopping: Arc::default(),
        }
    }

    /// What the ledger does not wait for any more is not waited for here.
    pub(super) fn round_ended(&mut self, round: Round) {
        self.fetches.retain(|(last, fetch)| {
            let over = *last < round;
            if over {
                fetch.abort();
            }
            !over && !fetch.is_finished()
        });
    }

    /// Nothing more is begun, and what is made again is left.
    pub(super) fn begin_nothing(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The threads, which end once nobody fetches for them.
    pub(super) fn stop(self) -> Vec<JoinHandle<()>> {
        let workers = [self.replayer, self.scorer].into_iter().flatten();
        workers.map(|(_, thread)| thread).collect()
    }
}

impl World {
    fn worker(&self, name: &str) -> anyhow::Result<Worker> {
        let (tasks, waiting) = mpsc::channel();
        let replayer = Replayer {
            charter: self.source.charter.clone(),
            layout: self.source.layout.clone(),
            dataset: self.dataset.clone(),
            inputs: self.inputs.clone(),
            stop: self.looking.stopping.clone(),
        };
        let thread = replayer.spawn(name, waiting);
        Ok((
            tasks,
            thread.with_context(|| format!("cannot start the {name} thread"))?,
        ))
    }

    /// What is fetched for a case of `since` is of no use after so many rounds.
    fn fetching(&mut self, since: Round, rounds: u32, fetch: AbortHandle) {
        let last = Round(since.0.saturating_add(rounds));
        self.looking.fetches.push((last, fetch));
    }

    /// Fetches what measuring a contribution needs, and hands it to the scorer.
    pub(super) fn score(&mut self, author: PeerId, case: Scoring) -> anyhow::Result<()> {
        if self.looking.scorer.is_none() {
            self.looking.scorer = Some(self.worker("scorer")?);
        }
        let tasks = self.looking.scorer.as_ref().map(|(tasks, _)| tasks.clone());
        let (source, inputs, ahead) = (self.source.clone(), self.inputs.clone(), self.looking.ahead.clone());
        let since = case.since;
        let fetch = self.tasks.spawn(async move {
            let turn = ahead.acquire_owned().await.ok();
            let (round, blob, bytes) = (case.reveal.round, case.reveal.blob, case.reveal.bytes);
            let fetched = insistently(|| async {
                let (providers, keep) = (source.providers(author), Keep::Contribution(round, author));
                let size = Size::Exactly(bytes.0);
                let sent = source.urgently(&blob, size, &providers, &keep);
                Ok((sent.await?, source.theta_of(round, case.base.theta).await?))
            });
            match fetched.await {
                Ok((sent, theta)) => {
                    let task = Task::Score(Box::new(ToScore {
                        author,
                        case,
                        sent,
                        theta,
                        turn,
                    }));
                    tasks.map(|tasks| tasks.send(task));
                }
                Err(error) => {
                    tracing::warn!("a contribution to round {round} cannot be measured here: {error:#}");
                    let _ = inputs.send(Input::Scored {
                        round,
                        peer: author,
                        beacon: case.beacon,
                        change: None,
                    });
                }
            }
        });
        self.fetching(since, self.source.charter.audit.window, fetch);
        Ok(())
    }

    /// Fetches what making a contribution again needs, and hands it to the replayer.
    pub(super) fn replay(&mut self, author: PeerId, case: Case, kib_micros: u32) -> anyhow::Result<()> {
        if self.looking.replayer.is_none() {
            self.looking.replayer = Some(self.worker("replayer")?);
        }
        let tasks = self.looking.replayer.as_ref().map(|(tasks, _)| tasks.clone());
        let (source, inputs, since) = (self.source.clone(), self.inputs.clone(), case.since);
        let fetch = self.tasks.spawn(async move {
            let round = case.worked.last.reveal.round;
            match insistently(|| source.material(author, &case, kib_micros)).await {
                Ok(Some((material, sent))) => {
                    let (closing, asked) = oneshot::channel();
                    let state = case.worked.last.reveal.states.closing;
                    let task = Task::Again(Box::new(ToDoAgain {
                        author,
                        case,
                        material,
                        sent,
                        closing,
                    }));
                    tasks.map(|tasks| tasks.send(task));
                    if let Ok(answer) = asked.await {
                        let _ = answer.send(source.state(author, round, state, kib_micros).await);
                    }
                }
                Ok(None) => {
                    let finding = Finding::Missing;
                    let _ = inputs.send(Input::Replayed {
                        round,
                        peer: author,
                        finding,
                    });
                }
                Err(error) => tracing::warn!("a contribution to round {round} cannot be made again here: {error:#}"),
            }
        });
        // who looked first may be of the jury too, and what it is at then is not begun again
        self.fetching(since, self.source.charter.audit.kept(), fetch);
        Ok(())
    }
}

/// What everybody should have is asked for several times.
async fn insistently<T, F: Future<Output = anyhow::Result<T>>>(fetch: impl Fn() -> F) -> anyhow::Result<T> {
    for _ in 1..MATERIAL_TRIES {
        match fetch().await {
            Ok(fetched) => return Ok(fetched),
            Err(error) => tracing::debug!("what others are to be looked at with: {error:#}"),
        }
        tokio::time::sleep(MATERIAL_RETRY).await;
    }
    fetch().await
}

impl Source {
    /// What making `case` again needs, and what was sent; nothing if its author's state is not to be had.
    async fn material(
        &self,
        author: PeerId,
        case: &Case,
        kib_micros: u32,
    ) -> anyhow::Result<Option<(Material<Bytes>, Bytes)>> {
        let (last, earlier) = (&case.worked.last, case.worked.before.as_ref());
        let opening = match last.reveal.states.opening {
            Hash::ZERO => None,
            opening => match self.state(author, last.reveal.round, opening, kib_micros).await {
                Some(state) => Some(state),
                None => return Ok(None),
            },
        };
        let contribution = |work: &Work| {
            let (blob, size) = (work.reveal.blob, Size::Exactly(work.reveal.bytes.0));
            let (providers, keep) = (self.providers(author), Keep::Contribution(work.reveal.round, author));
            async move { self.urgently(&blob, size, &providers, &keep).await }
        };
        let sent = contribution(last).await?;
        let ahead = last.reveal.ahead.map(|ahead| ahead.from);
        let wanted = earlier.filter(|earlier| ahead.is_some() || !earlier.merged);
        let before = match wanted {
            // what never arrived anywhere only its author has
            Some(earlier) => match contribution(earlier).await {
                Ok(blob) => Some(blob),
                Err(_) => return Ok(None),
            },
            None => None,
        };
        let base = self.outer(last.reveal.round, last.base).await?;
        let from_theta = ahead.is_some_and(|from| from != AheadFrom::Own);
        let before_base = match earlier.filter(|_| from_theta) {
            Some(earlier) => Some(self.outer(last.reveal.round, earlier.base).await?),
            None => None,
        };
        let material = Material {
            opening,
            base,
            before,
            before_base,
        };
        Ok(Some((material, sent)))
    }

    /// A replica's own state, from its author or whoever fetched it before; nothing if nobody serves it although
    /// there was time for it. On a slow link that is long: what was fetched stays, and the next try goes on from
    /// there; by then the ledger may have given it up.
    async fn state(&self, author: PeerId, round: Round, state: Hash, kib_micros: u32) -> Option<Bytes> {
        let most = OwnState::bytes_max(&self.layout);
        let (providers, keep) = (self.providers(author), Keep::State(round));
        let usual = Duration::from_micros(
            (most / 1024)
                .saturating_mul(kib_micros.into())
                .saturating_mul(STATE_SLACK),
        );
        let begun = Instant::now();
        let name = self.charter.name_of(&author);
        let waiting = self.waits_for(format!("the state of {name} in round {round}"), vec![name]);
        let size = Size::AtMost(most);
        let mut fetched = self.urgently(&state, size, &providers, &keep).await;
        loop {
            match fetched {
                Ok(bytes) => return Some(bytes),
                Err(error) => waiting.heard(error),
            }
            if begun.elapsed() >= usual.max(STATE_WAIT) {
                return None;
            }
            tokio::time::sleep(RETRY).await;
            fetched = self.fetcher.fetch(&state, size, &providers, &keep).await;
        }
    }

    /// θ alone of a round that is over.
    async fn theta_of(&self, round: Round, theta: Hash) -> anyhow::Result<Bytes> {
        let size = Size::Exactly(4 * self.layout.parameters as u64);
        let (providers, keep) = (self.charter.keys().collect::<Vec<PeerId>>(), Keep::Theta(round));
        Ok(self.urgently(&theta, size, &providers, &keep).await?)
    }

    /// θ and momentum of a round that is over.
    async fn outer(&self, round: Round, roots: Roots) -> anyhow::Result<OuterState> {
        let size = Size::Exactly(4 * self.layout.parameters as u64);
        let providers: Vec<PeerId> = self.charter.keys().collect();
        let mut fetched = Vec::new();
        for root in parts(roots) {
            let keep = Keep::Theta(round);
            fetched.push(self.urgently(&root, size, &providers, &keep).await?);
        }
        let theta = fetched.first().context("θ has a root")?;
        state_of(&self.charter, &self.layout, theta, fetched.get(1).map(|bytes| &**bytes))
    }
}
