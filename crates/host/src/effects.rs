//! Carries out the node machine's effects against the real world.

mod backfill;
mod looking;

pub(crate) use self::backfill::Progress;
use self::{
    backfill::{Backfill, Urgent},
    looking::Looking,
};
use crate::{
    blobs::{Blobs, BlobsError, Keep, Size, Thinned},
    disk::{self, Change, Room},
    fetch::Fetcher,
    keeping::Keeping,
    merging::plan_of,
    run::now,
    trainer::{Merger, Order, Trainer, Training},
    waits::{Wait, Waiting, Waits},
};
use anyhow::Context as _;
use atoll_consensus::{Handle, SubmitError};
use atoll_learner::data::Dataset;
use atoll_ledger::{Case, Excision, Outcome, Phase, Planned, Refusal, Roots, RoundRecord, State, Terms};
use atoll_node::{Effect, Input};
use atoll_outer::{Contribution, attack::Liar, blob_bytes_max};
use atoll_protocol::{
    Action, Charter, CheckReason, Domain, Hash, Keypair, Layout, PeerId, Round, Transaction, charter::Codec,
    limits::VALUE_MAX, transaction::Reveal,
};
use bytes::Bytes;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc as channel, watch},
    task::JoinSet,
};

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
    looking: Looking,
    backfill: Backfill,
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
    /// Whether nothing is taken from this node, as it was last told.
    barred: bool,
    /// The round under way and the θ that contributions to it are made from.
    round: Round,
    base: Roots,
    keeping: Keeping,
    /// Whether contributions are kept whatever the charter says.
    archive: bool,
    room: Room,
}

/// Where blobs come from.
#[derive(Clone)]
struct Source {
    charter: Arc<Charter>,
    layout: Arc<Layout>,
    me: PeerId,
    blobs: Blobs,
    fetcher: Fetcher,
    waits: Waits,
    /// One contribution is read at a time.
    checking: Arc<Semaphore>,
    /// How many fetches are under way for which something waits: see [`Urgent`].
    urgent: watch::Sender<usize>,
}

impl World {
    #[allow(clippy::too_many_arguments)] // each is a part of the world, and they meet only here
    pub(crate) fn new(
        charter: Arc<Charter>,
        keypair: Keypair,
        blobs: Blobs,
        (fetcher, waits): (Fetcher, Waits),
        consensus: Handle,
        trainer: Trainer,
        inputs: channel::UnboundedSender<Input>,
        (round, base): (Round, Roots),
    ) -> anyhow::Result<Self> {
        let (orders, waiting) = mpsc::channel();
        let layout = Arc::new(Layout::of(&charter.model));
        let (genesis, me) = (charter.genesis(), keypair.peer());
        let source = Source {
            charter,
            layout,
            me,
            blobs,
            fetcher,
            waits,
            checking: Arc::new(Semaphore::new(1)),
            urgent: watch::Sender::new(0),
        };
        let mut tasks = JoinSet::new();
        let (keeping, room) = (Keeping::new(source.charter.round.retention), Room::of(&source.charter));
        Ok(Self {
            backfill: Backfill::start(source.clone(), &mut tasks),
            source,
            keypair,
            genesis,
            consensus,
            liar: trainer.liar(),
            orders: Some(orders),
            dataset: trainer.dataset(),
            trainer: trainer.spawn(waiting).context("cannot start the trainer thread")?,
            looking: Looking::new(),
            inputs,
            stop_training: Arc::default(),
            tasks,
            adopting: None,
            merging: None,
            fetches: Vec::new(),
            barred: false,
            round,
            base,
            keeping,
            archive: false,
            room,
        })
    }

    /// Contributions are kept whatever the charter says.
    pub(crate) fn keep_all(&mut self) {
        self.archive = true;
    }

    /// Looks at what is free on the disk: without room nothing is trained or fetched.
    pub(crate) fn look_at_disk(&mut self) -> Option<Change> {
        let change = self.room.look(disk::free(self.source.blobs.place()));
        self.source.blobs.allow_fetching(!self.room.is_short());
        change
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
            // said when it became short; the round goes on without this node
            Effect::Train { .. } if self.room.is_short() => {}
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
            Effect::Collect(_) if self.archive => {}
            Effect::Collect(round) => {
                let first = self.keeping.first(round);
                self.backfill.collect(first);
                self.source.blobs.collect(first).await?;
            }
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

    /// A round is over: its fetches end, and its contribution is settled if it was merged. Of θs and states those
    /// stay that `state`, after it, may still ask for.
    pub(crate) async fn round_ended(&mut self, record: &RoundRecord, state: &State) -> anyhow::Result<()> {
        self.fetches.drain(..).for_each(|fetch| fetch.abort());
        self.looking.round_ended(record.round);
        self.backfill.round_ended(record);
        self.round = record.round.next();
        if let Outcome::Closed(roots) = record.outcome {
            self.base = roots;
        }
        if record.merged.iter().any(|entry| entry.peer == self.source.me) {
            self.order(Order::Settle(record.round));
        }
        // when the run is over nothing is drawn any more, and nobody is late for a round
        let over = state.round().phase == Phase::Finished;
        let recent = match over {
            true => Round(u32::MAX),
            false => Keeping::recent(record.round),
        };
        let (of_use, keeping, blobs) = (state.of_use(), self.keeping, &self.source.blobs);
        let is_open = |hash: &Hash| {
            let mut cases = state.core().audits.cases.values();
            let states = |case: &Case| case.worked.last.reveal.states;
            cases.any(|case| [states(case).opening, states(case).closing].contains(hash))
        };
        let in_use = |_, hash: &Hash| {
            if over {
                is_open(hash)
            } else {
                of_use.states.contains(hash)
            }
        };
        blobs.thin(Thinned::States, recent, in_use).await?;
        let stays = |round, hash: &Hash| keeping.stays(round) || of_use.thetas.contains(hash);
        blobs.thin(Thinned::Thetas, recent, stays).await?;
        self.keep_base().await
    }

    /// What ended while this node was away; said once, at start.
    pub(crate) fn ended_before(&mut self, records: impl IntoIterator<Item = RoundRecord>) {
        records
            .into_iter()
            .for_each(|record| self.backfill.round_ended(&record));
    }

    /// Lets what this node missed be fetched, after everything that is more urgent was begun.
    pub(crate) fn fill_gaps(&mut self) {
        self.backfill.fill();
    }

    /// How far the fetching of what this node missed is, as that changes.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.backfill.progress()
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
                Ok(()) => self.barred = false,
                // it was told of the verdict; until it may join again nothing is taken from it
                Err(SubmitError::Refused(refusal @ (Refusal::Suspended { .. } | Refusal::Excluded(_)))) => {
                    if !std::mem::replace(&mut self.barred, true) {
                        tracing::info!("the {kind} was not taken, nor will others be: {refusal}");
                    }
                }
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
        self.looking.begin_nothing();
        self.tasks.shutdown().await;
        self.orders = None;
        let (trainer, lookers) = (self.trainer, self.looking.stop());
        let joined = tokio::task::spawn_blocking(move || {
            let looked = lookers.into_iter().map(JoinHandle::join).fold(Ok(()), Result::and);
            trainer.join().and(looked)
        });
        let joined = joined.await?;
        joined.map_err(|_| anyhow::anyhow!("the trainer thread panicked; its last messages say where"))
    }
}

/// The addresses of θ and of its momentum, which is no blob before the first outer step.
fn parts(roots: Roots) -> impl Iterator<Item = Hash> {
    let momentum = roots.momentum.filter(|root| *root != Hash::ZERO);
    std::iter::once(roots.theta).chain(momentum)
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
        let name = self.charter.name_of(&peer);
        let what = format!("the contribution of {name} to round {}", reveal.round);
        let waiting = self.waits_for(what, vec![name]);
        let mut fetched = self.urgently(&reveal.blob, size, &providers, &keep).await;
        let bytes = loop {
            match fetched {
                Ok(bytes) => break bytes,
                Err(BlobsError::Size { .. }) => return Err(CheckReason::WrongSize),
                // the machine's own timer decides when a blob counts as missing
                Err(error) => {
                    waiting.heard(error);
                    tokio::time::sleep(RETRY).await;
                    // whoever withholds its own does not keep back everything else
                    fetched = self.fetcher.fetch(&reveal.blob, size, &providers, &keep).await;
                }
            }
        };
        drop(waiting);
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
            let name = self.charter.name_of(&entry.peer);
            let _waiting = self.waits_for(format!("what {name} sent to round {round}, to merge it"), Vec::new());
            let keep = Keep::Contribution(round, entry.peer);
            let (size, providers) = (Size::Exactly(entry.bytes.0), self.providers_after(entry.peer));
            blobs.push(self.urgently(&entry.blob, size, &providers, &keep).await?);
        }
        Ok(blobs)
    }

    /// Fetches something that is waited for.
    async fn urgently(&self, hash: &Hash, size: Size, providers: &[PeerId], keep: &Keep) -> Result<Bytes, BlobsError> {
        let _urgent = Urgent::new(&self.urgent);
        self.fetcher.fetch(hash, size, providers, keep).await
    }

    /// Says that something is waited for, until what is given is dropped.
    fn waits_for(&self, what: String, from: Vec<String>) -> Waiting {
        let remedy = "It is asked for again until somebody serves it: see that the other members' nodes run".into();
        let wait = Wait {
            what,
            from,
            heard: None,
            remedy,
        };
        self.waits.begin(now(), wait)
    }

    /// θ and momentum with these roots, from whoever has them; asks until somebody does.
    async fn theta(&self, roots: Roots, keep: &Keep) -> (Bytes, Option<Bytes>) {
        let theta = self.insist(roots.theta, keep).await;
        match roots.momentum.filter(|root| *root != Hash::ZERO) {
            Some(root) => (theta, Some(self.insist(root, keep).await)),
            None => (theta, None),
        }
    }

    async fn insist(&self, hash: Hash, keep: &Keep) -> Bytes {
        let size = Size::Exactly(4 * self.layout.parameters as u64);
        let providers: Vec<PeerId> = self.charter.keys().collect();
        let waiting = self.waits_for(format!("the agreed parameters ({})", hash.short()), Vec::new());
        loop {
            match self.urgently(&hash, size, &providers, keep).await {
                Ok(bytes) => return bytes,
                Err(error) => {
                    waiting.heard(error);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}
