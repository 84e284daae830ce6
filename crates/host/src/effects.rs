//! Carries out the node machine's effects against the real world.

use crate::{
    blobs::{Blobs, BlobsError, Keep, Size},
    merging::{plan_of, state_of},
    replayer::{Replayer, Task, ToDoAgain, ToScore},
    run::now,
    trainer::{Merger, Order, Trainer, Training},
};
use anyhow::Context as _;
use atoll_consensus::{Handle, SubmitError};
use atoll_learner::data::Dataset;
use atoll_ledger::{Case, Excision, Outcome, Planned, Refusal, Roots, RoundRecord, Scoring, Terms, Work};
use atoll_node::{Effect, Input};
use atoll_outer::{
    Contribution, OuterState, OwnState, again::Material, attack::Liar, blob_bytes_max, theta_from_bytes,
};
use atoll_protocol::{
    Action, Charter, CheckReason, Domain, Finding, Hash, Keypair, Layout, PeerId, Round, Transaction,
    charter::Codec,
    limits::VALUE_MAX,
    transaction::{AheadFrom, Reveal},
};
use bytes::Bytes;
use iroh::Endpoint;
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
    sync::{Semaphore, mpsc as channel, oneshot},
    task::JoinSet,
};

/// For how long everyone is asked for a replica's state before it counts as missing, at the least.
const STATE_WAIT: Duration = Duration::from_secs(60);
/// The most that a state may take, as a multiple of what contributions of its size took of late.
const STATE_SLACK: u64 = 4;
/// How often what everybody should have, a θ or a contribution, is asked for to make something again; and how long
/// between.
const MATERIAL_TRIES: u32 = 5;
const MATERIAL_RETRY: Duration = Duration::from_secs(3);
/// Between two rounds of asking everyone for a blob.
const RETRY: Duration = Duration::from_millis(300);

/// What effects act on.
pub(crate) struct World {
    source: Source,
    keypair: Keypair,
    genesis: Hash,
    consensus: Handle,
    /// How this node lies, if it does.
    liar: Option<Liar>,
    orders: Option<mpsc::Sender<Order>>,
    trainer: JoinHandle<()>,
    dataset: Arc<Dataset>,
    /// Makes contributions of others again, from the first that is drawn on.
    replayer: Option<(mpsc::Sender<Task>, JoinHandle<()>)>,
    inputs: channel::UnboundedSender<Input>,
    /// Ends the training under way.
    stop_training: Arc<AtomicBool>,
    /// Fetches of the current round and timers; they end with the world.
    tasks: JoinSet<()>,
    /// θ is fetched in one task, which a newer one replaces.
    adopting: Option<tokio::task::AbortHandle>,
    /// Blobs of a plan are fetched in one task, which a newer plan or its end replaces.
    merging: Option<tokio::task::AbortHandle>,
    /// Fetches of the round under way; they end with it.
    fetches: Vec<tokio::task::AbortHandle>,
    /// The round under way and the θ that contributions to it are made from.
    round: Round,
    base: Roots,
}

/// Where blobs come from.
#[derive(Clone)]
struct Source {
    charter: Arc<Charter>,
    layout: Arc<Layout>,
    me: PeerId,
    blobs: Blobs,
    endpoint: Endpoint,
    /// One contribution is read at a time.
    checking: Arc<Semaphore>,
}

impl World {
    #[allow(clippy::too_many_arguments)] // each is a part of the world, and they meet only here
    pub(crate) fn new(
        charter: Arc<Charter>,
        keypair: Keypair,
        blobs: Blobs,
        endpoint: Endpoint,
        consensus: Handle,
        trainer: Trainer,
        inputs: channel::UnboundedSender<Input>,
        (round, base): (Round, Roots),
    ) -> anyhow::Result<Self> {
        let (orders, waiting) = mpsc::channel();
        let layout = Arc::new(Layout::of(&charter.model));
        let (genesis, me) = (charter.genesis(), keypair.peer());
        Ok(Self {
            source: Source {
                charter,
                layout,
                me,
                blobs,
                endpoint,
                checking: Arc::new(Semaphore::new(1)),
            },
            keypair,
            genesis,
            consensus,
            liar: trainer.liar(),
            orders: Some(orders),
            dataset: trainer.dataset(),
            trainer: trainer.spawn(waiting).context("cannot start the trainer thread")?,
            replayer: None,
            inputs,
            stop_training: Arc::default(),
            tasks: JoinSet::new(),
            adopting: None,
            merging: None,
            fetches: Vec::new(),
            round,
            base,
        })
    }

    pub(crate) fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(order); // a dead trainer has said why in its last report
        }
    }

    pub(crate) async fn carry_out(&mut self, effect: Effect) -> anyhow::Result<()> {
        while self.tasks.try_join_next().is_some() {}
        match effect {
            Effect::Submit(action) => {
                // "I hold these" must survive a power failure: a quorum's word is all that a plan stands on
                if let Action::Check { .. } = action {
                    self.source.blobs.sync().await?;
                }
                self.submit(action);
            }
            Effect::Train {
                round,
                share,
                terms,
                kib_micros,
                standing,
            } => {
                self.stop_training = Arc::default();
                self.order(Order::Train(Training {
                    round,
                    share,
                    terms,
                    kib_micros,
                    standing,
                    stop: self.stop_training.clone(),
                }));
            }
            Effect::Abort => self.stop_training.store(true, Ordering::Relaxed),
            Effect::Fetch { peer, reveal, codec } => self.fetch(peer, reveal, codec),
            Effect::Merge {
                round,
                plan,
                terms,
                excisions,
            } => self.merge(round, plan, terms, excisions),
            Effect::Replay {
                author,
                case,
                kib_micros,
            } => self.replay(author, *case, kib_micros)?,
            Effect::Score(author, case) => self.score(author, *case)?,
            Effect::Advance(roots) => self.order(Order::Advance(roots)),
            Effect::Discard => {
                self.stop_merging();
                self.order(Order::Discard);
            }
            Effect::Restore(round) => self.order(Order::Restore(round)),
            Effect::Adopt(roots) => self.adopt(roots),
            Effect::Checkpoint(round) => self.order(Order::Checkpoint(round)),
            Effect::Collect(round) => self.source.blobs.collect(round).await?,
            Effect::SetTimer { at, timer } => {
                let (wait, inputs) = (Duration::from_millis(at.0.saturating_sub(now().0)), self.inputs.clone());
                self.tasks.spawn(async move {
                    tokio::time::sleep(wait).await;
                    let _ = inputs.send(Input::Timer(timer));
                });
            }
            Effect::Notice(_) => {}
        }
        Ok(())
    }

    /// A round is over: its fetches end, and its contribution is settled if it was merged.
    pub(crate) async fn round_ended(&mut self, record: &RoundRecord) -> anyhow::Result<()> {
        self.fetches.drain(..).for_each(|fetch| fetch.abort());
        self.round = record.round.next();
        if let Outcome::Closed(roots) = record.outcome {
            self.base = roots;
        }
        if record.merged.iter().any(|entry| entry.peer == self.source.me) {
            self.order(Order::Settle(record.round));
        }
        if self.source.charter.audit.is_on() {
            let kept = self.source.charter.audit.retention();
            let first = Round(record.round.0.saturating_sub(kept));
            self.source.blobs.collect_states(first).await?;
        }
        self.keep_base().await
    }

    /// However many rounds are void: the θ that everyone stands on is never collected. Also done at every
    /// start, since a crash may have come before the last time was on disk.
    pub(crate) async fn keep_base(&self) -> anyhow::Result<()> {
        for root in [Some(self.base.theta), self.base.momentum].into_iter().flatten() {
            self.source.blobs.keep(&root, &Keep::Theta(self.round)).await?;
        }
        Ok(())
    }

    fn submit(&mut self, action: Action) {
        let (genesis, me) = (self.genesis, self.source.me);
        let said = match self.liar {
            Some(liar) => liar.says(action, &genesis, &me),
            None => vec![action],
        };
        for action in said {
            let kind = action.kind();
            let signed = self.keypair.sign(Domain::Transaction, Transaction { genesis, action });
            match self.consensus.submit(signed) {
                Ok(()) => {}
                // a quorum may do without the slowest, whose word comes when the round is over
                Err(error @ SubmitError::Refused(Refusal::OtherRound { .. } | Refusal::OtherPhase { .. })) => {
                    tracing::debug!("the {kind} comes late: {error}");
                }
                Err(error) => tracing::warn!("the {kind} was not taken: {error}"),
            }
        }
    }

    fn fetch(&mut self, peer: PeerId, reveal: Reveal, codec: Codec) {
        let (source, inputs) = (self.source.clone(), self.inputs.clone());
        let base = self.base.theta;
        let fetch = self.tasks.spawn(async move {
            let round = reveal.round;
            let verdict = source.check(peer, &reveal, &codec, base).await;
            let _ = inputs.send(Input::Fetched { round, peer, verdict });
        });
        self.fetches.push(fetch);
    }

    fn merge(&mut self, round: Round, plan: Vec<Planned>, terms: Terms, excisions: Vec<Excision>) {
        let (source, inputs) = (self.source.clone(), self.inputs.clone());
        let Some(orders) = self.orders.clone() else { return };
        self.stop_merging();
        let task = self.tasks.spawn(async move {
            let fetched = async {
                let mut taken_out = Vec::with_capacity(excisions.len());
                for excision in excisions {
                    let blobs = source.plan_blobs(excision.of.round, &plan_of(&excision)).await?;
                    taken_out.push((excision, blobs));
                }
                Ok::<_, BlobsError>((source.plan_blobs(round, &plan).await?, taken_out))
            };
            match fetched.await {
                Ok((blobs, excisions)) => {
                    let _ = orders.send(Order::Merge(Merger {
                        round,
                        plan,
                        blobs,
                        terms,
                        excisions,
                    }));
                }
                Err(error) => {
                    let _ = inputs.send(Input::MergeFailed {
                        round,
                        reason: error.to_string(),
                    });
                }
            }
        });
        self.merging = Some(task);
    }

    /// Where contributions of others are made again and measured; made when the first is drawn.
    fn replayer(&mut self) -> anyhow::Result<mpsc::Sender<Task>> {
        if let Some((tasks, _)) = &self.replayer {
            return Ok(tasks.clone());
        }
        let (tasks, waiting) = mpsc::channel();
        let replayer = Replayer {
            charter: self.source.charter.clone(),
            layout: self.source.layout.clone(),
            dataset: self.dataset.clone(),
            inputs: self.inputs.clone(),
        };
        let thread = replayer.spawn(waiting).context("cannot start the replayer thread")?;
        self.replayer = Some((tasks.clone(), thread));
        Ok(tasks)
    }

    /// Fetches what measuring a contribution needs, and hands it to the replayer.
    fn score(&mut self, author: PeerId, case: Scoring) -> anyhow::Result<()> {
        let (tasks, source) = (self.replayer()?, self.source.clone());
        self.tasks.spawn(async move {
            let (round, blob, bytes) = (case.reveal.round, case.reveal.blob, case.reveal.bytes);
            let fetched = insistently(|| async {
                let (providers, keep) = (source.providers(author), Keep::Contribution(round, author));
                let size = Size::Exactly(bytes.0);
                let sent = source
                    .blobs
                    .fetch(&source.endpoint, &blob, size, &providers, &keep)
                    .await?;
                let theta = source.theta_of(round, case.base.theta).await?;
                Ok((sent, theta))
            });
            match fetched.await {
                Ok((sent, theta)) => {
                    let _ = tasks.send(Task::Score(Box::new(ToScore {
                        author,
                        case,
                        sent,
                        theta,
                    })));
                }
                Err(error) => tracing::warn!("a contribution to round {round} cannot be measured here: {error:#}"),
            }
        });
        Ok(())
    }

    /// Fetches what making a contribution again needs, and hands it to the replayer.
    fn replay(&mut self, author: PeerId, case: Case, kib_micros: u32) -> anyhow::Result<()> {
        let tasks = self.replayer()?;
        let (source, inputs) = (self.source.clone(), self.inputs.clone());
        self.tasks.spawn(async move {
            let round = case.worked.last.reveal.round;
            match insistently(|| source.material(author, &case, kib_micros)).await {
                Ok(Some((material, sent))) => {
                    let (closing, asked) = oneshot::channel();
                    let state = case.worked.last.reveal.states.closing;
                    let _ = tasks.send(Task::Again(Box::new(ToDoAgain {
                        author,
                        case,
                        material,
                        sent,
                        closing,
                    })));
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
        Ok(())
    }

    fn stop_merging(&mut self) {
        if let Some(task) = self.merging.take() {
            task.abort();
        }
    }

    fn adopt(&mut self, roots: Roots) {
        if let Some(earlier) = self.adopting.take() {
            earlier.abort();
        }
        let Some(orders) = self.orders.clone() else { return };
        let (source, keep) = (self.source.clone(), Keep::Theta(self.round));
        let handle = self.tasks.spawn(async move {
            let (theta, momentum) = source.theta(roots, &keep).await;
            let _ = orders.send(Order::Adopt(roots, theta, momentum));
        });
        self.adopting = Some(handle);
    }

    /// Ends every task and the trainer, which saves what it has.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        self.stop_training.store(true, Ordering::Relaxed);
        self.tasks.shutdown().await;
        self.orders = None;
        let trainer = self.trainer;
        let replayer = self.replayer.map(|(_, thread)| thread);
        let joined = tokio::task::spawn_blocking(move || {
            let replayed = replayer.map_or(Ok(()), JoinHandle::join);
            trainer.join().and(replayed)
        });
        let joined = joined.await?;
        joined.map_err(|_| anyhow::anyhow!("the trainer thread panicked; its last messages say where"))
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
    /// Everyone, `last` at the end: a quorum has what is to be merged, and its author may stall.
    fn providers_after(&self, last: PeerId) -> Vec<PeerId> {
        self.charter.keys().filter(|key| *key != last).chain([last]).collect()
    }

    /// Who might have a blob of `peer`'s: the peer first, then everyone.
    fn providers(&self, first: PeerId) -> Vec<PeerId> {
        std::iter::once(first)
            .chain(self.charter.keys().filter(|key| *key != first))
            .collect()
    }

    /// Fetches a revealed blob and reads it: may it be merged?
    async fn check(&self, peer: PeerId, reveal: &Reveal, codec: &Codec, base: Hash) -> Result<(), CheckReason> {
        let bytes_max = blob_bytes_max(&self.layout, codec);
        if reveal.bytes.0 > bytes_max {
            return Err(CheckReason::WrongSize);
        }
        let size = Size::Exactly(reveal.bytes.0);
        let keep = Keep::Contribution(reveal.round, peer);
        let providers = self.providers(peer);
        let bytes = loop {
            match self
                .blobs
                .fetch(&self.endpoint, &reveal.blob, size, &providers, &keep)
                .await
            {
                Ok(bytes) => break bytes,
                Err(BlobsError::Size { .. }) => return Err(CheckReason::WrongSize),
                // the machine's own timer decides when a blob counts as missing
                Err(error) => {
                    tracing::debug!("contribution of {}: {error}", self.charter.name_of(&peer));
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        // one at a time, and not where consensus runs
        let Ok(turn) = self.checking.clone().acquire_owned().await else {
            return Err(CheckReason::Missing); // the node stops
        };
        let (source, codec) = (self.clone(), codec.clone());
        let read = tokio::task::spawn_blocking(move || {
            let read = source.read(bytes, (peer, &codec, base));
            drop(turn);
            read
        });
        read.await.unwrap_or(Err(CheckReason::Malformed))
    }

    fn read(&self, bytes: Bytes, (peer, codec, base): (PeerId, &Codec, Hash)) -> Result<(), CheckReason> {
        let read = Contribution::read(bytes, &self.layout, codec, &base).map_err(|error| {
            tracing::warn!("contribution of {} is refused: {error}", self.charter.name_of(&peer));
            error.reason()
        })?;
        match read.largest() <= VALUE_MAX {
            true => Ok(()),
            false => Err(CheckReason::BadValue),
        }
    }

    async fn plan_blobs(&self, round: Round, plan: &[Planned]) -> Result<Vec<Bytes>, BlobsError> {
        let mut blobs = Vec::with_capacity(plan.len());
        for entry in plan {
            let keep = Keep::Contribution(round, entry.peer);
            let (size, providers) = (Size::Exactly(entry.bytes.0), self.providers_after(entry.peer));
            blobs.push(
                self.blobs
                    .fetch(&self.endpoint, &entry.blob, size, &providers, &keep)
                    .await?,
            );
        }
        Ok(blobs)
    }

    /// θ and momentum with these roots, from whoever has them; asks until somebody does.
    async fn theta(&self, roots: Roots, keep: &Keep) -> (Bytes, Option<Bytes>) {
        let theta = self.insist(roots.theta, keep).await;
        match roots.momentum.filter(|root| *root != Hash::ZERO) {
            Some(root) => (theta, Some(self.insist(root, keep).await)),
            None => (theta, None),
        }
    }

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
            async move { self.blobs.fetch(&self.endpoint, &blob, size, &providers, &keep).await }
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
        loop {
            let fetched = self
                .blobs
                .fetch(&self.endpoint, &state, Size::AtMost(most), &providers, &keep)
                .await;
            match fetched {
                Ok(bytes) => return Some(bytes),
                Err(error) => tracing::debug!("state of {}: {error}", self.charter.name_of(&author)),
            }
            if begun.elapsed() >= usual.max(STATE_WAIT) {
                return None;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// θ alone of a round that is over.
    async fn theta_of(&self, round: Round, theta: Hash) -> anyhow::Result<Vec<f32>> {
        let size = Size::Exactly(4 * self.layout.parameters as u64);
        let (providers, keep) = (self.charter.keys().collect::<Vec<PeerId>>(), Keep::Theta(round));
        let bytes = self
            .blobs
            .fetch(&self.endpoint, &theta, size, &providers, &keep)
            .await?;
        Ok(theta_from_bytes(&bytes, self.layout.parameters)?)
    }

    /// θ and momentum of a round that is over.
    async fn outer(&self, round: Round, roots: Roots) -> anyhow::Result<OuterState> {
        let size = Size::Exactly(4 * self.layout.parameters as u64);
        let providers: Vec<PeerId> = self.charter.keys().collect();
        let mut fetched = Vec::new();
        for root in [Some(roots.theta), roots.momentum.filter(|root| *root != Hash::ZERO)]
            .into_iter()
            .flatten()
        {
            let keep = Keep::Theta(round);
            fetched.push(self.blobs.fetch(&self.endpoint, &root, size, &providers, &keep).await?);
        }
        let theta = fetched.first().context("θ has a root")?;
        state_of(&self.charter, &self.layout, theta, fetched.get(1).map(|bytes| &**bytes))
    }

    async fn insist(&self, hash: Hash, keep: &Keep) -> Bytes {
        let size = Size::Exactly(4 * self.layout.parameters as u64);
        let providers: Vec<PeerId> = self.charter.keys().collect();
        loop {
            match self.blobs.fetch(&self.endpoint, &hash, size, &providers, keep).await {
                Ok(bytes) => return bytes,
                Err(error) => {
                    tracing::warn!("waiting for parameters {}: {error}", hash.short());
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}
