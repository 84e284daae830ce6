//! One node: prepares the world, then carries out the node machine's effects until it is stopped.

use crate::{
    blobs::{Blobs, Keep, Size},
    cost, disk,
    effects::{Progress, World},
    folder::{Folder, FolderError},
    identity,
    log::Log,
    merging::state_of,
    network::{Addresses, Network, Settings, bind},
    panics,
    private::Private,
    record::Record,
    repair, report, seal, status,
    trainer::{Order, Parts, Report, Trainer},
};
use anyhow::{Context as _, bail};
use atoll_consensus::{Config, Finalized, Handle};
use atoll_learner::data::{Dataset, Manifest, Tokenizer};
use atoll_ledger::{Applied, Event, Peer, Phase, Roots, RoundRecord, State};
use atoll_node::{Effect, Input, Node};
use atoll_outer::{OuterState, attack::Liar};
use atoll_protocol::{
    Charter, Hash, Keypair, Layout, Millis, PeerId, Round,
    limits::{APPEAL_BYTES_MAX, BLOB_BYTES_MAX},
    transaction::may_be_said,
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, watch};

/// How often the bytes sent and received are reported.
const TRAFFIC_EVERY: Duration = Duration::from_secs(1);
/// How long to wait before asking everyone again for a blob that the run cannot do without.
const RETRY: Duration = Duration::from_millis(500);

/// The wall clock, for the machine and timers.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(since.as_millis() as u64)
}

/// What the ledger on disk says at start.
struct Past {
    state: State,
    /// How the round of each contribution ended, by round.
    records: BTreeMap<Round, RoundRecord>,
}

fn replay(record: &Record, charter: &Arc<Charter>) -> anyhow::Result<Past> {
    let mut records = BTreeMap::new();
    let state = record.replay(charter, |_, events| {
        for event in events {
            if let Event::RoundEnded(record) = event {
                records.insert(record.round, *record);
            }
        }
        ControlFlow::Continue(())
    })?;
    let state = state.context("the replay was stopped")?;
    Ok(Past { state, records })
}

/// Reads key and charter and checks that they fit each other.
pub fn open(folder: &Folder) -> anyhow::Result<(Keypair, Arc<Charter>)> {
    folder.expect_node()?;
    let keypair = identity::read(&folder.key())?;
    let charter = crate::charter_file::read(&folder.charter())?;
    if !charter.keys().any(|key| key == keypair.peer()) {
        bail!(
            "the key in {} is {}, which the charter {} does not name as a member; use the key that was made for this run",
            folder.key().display(),
            keypair.peer(),
            folder.charter().display(),
        );
    }
    Ok((keypair, Arc::new(charter)))
}

/// What a node does beside its work.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// How it lies, if it does.
    pub liar: Option<Liar>,
    /// What its operator says against the last verdict on it.
    pub appeal: Option<String>,
    /// Whether it keeps all contributions, however few the charter asks for.
    pub archive: bool,
}

/// Runs the node in `folder` until `stop` turns true. `tell` gets every event as a JSON object.
pub async fn run(
    folder: Folder,
    addresses: Addresses,
    manner: Manner,
    stop: watch::Receiver<bool>,
    tell: impl FnMut(&Value),
) -> anyhow::Result<()> {
    panics::hush();
    let (keypair, charter) = open(&folder)?;
    let _lock = folder.lock()?;
    if let Some(reason) = manner.appeal.as_ref().filter(|reason| !may_be_said(reason)) {
        let bytes = reason.len();
        bail!(
            "an appeal of {bytes} bytes; 1 to {APPEAL_BYTES_MAX} are allowed, in one line without control characters"
        );
    }
    // whatever can be refused is refused before anything is touched
    let settings = Settings::with(&folder.settings(), &addresses, &charter)?;
    Private::read(&folder.trainer(), charter.genesis())?;
    let endpoint = bind(&keypair, &settings).await?;
    let record = Record::open(&folder.ledger(), &charter)?;
    let past = replay(&record, &charter)?;
    let may_have_voted = repair::has_run(&folder, past.state.height());
    seal::remove(&folder)?;
    settings.write(&folder.settings())?;
    let blobs = Blobs::open(&folder).await?;
    let (network, transport) = Network::start(endpoint, keypair.peer(), &charter, &blobs)?;
    let config = Config {
        charter: charter.clone(),
        keypair: keypair.clone(),
        folder: folder.consensus(),
        state: past.state.clone(),
        may_have_voted,
        leader_timeout: Config::LEADER_TIMEOUT,
    };
    let started = atoll_consensus::start(config, transport).await;
    let (consensus, finals) = started.inspect_err(|error| repair::note(&folder, error))?;
    repair::forget(&folder)?;
    let log = Log::open(&folder.log(), tell)?;
    let node = Running {
        folder: folder.clone(),
        keypair,
        charter,
        record,
        blobs,
        network,
        consensus,
        log,
        manner,
        done: false,
        progress: Progress::default(),
        listens: false,
    };
    node.live(past, finals, stop).await?; // a node that ended badly leaves no seal
    Blobs::sweep(&folder).await?;
    Ok(seal::write(&folder)?)
}

/// Replaces the status file; it is of no use after a crash, so nothing waits for the disk.
fn write_status(folder: &Folder, status: &Value) -> Result<(), FolderError> {
    let path = folder.status();
    let temporary = path.with_extension("new");
    let written = fs::write(&temporary, status.to_string()).and_then(|()| fs::rename(&temporary, &path));
    written.map_err(FolderError::io("write", &path))
}

struct Running<T> {
    folder: Folder,
    keypair: Keypair,
    charter: Arc<Charter>,
    record: Record,
    blobs: Blobs,
    network: Network,
    consensus: Handle,
    log: Log<T>,
    manner: Manner,
    /// Whether it was told that the run is done.
    done: bool,
    /// What was last said of the fetching of what it missed.
    progress: Progress,
    /// Whether it was told that this node only listens.
    listens: bool,
}

impl<T: FnMut(&Value)> Running<T> {
    async fn live(
        mut self,
        past: Past,
        finals: mpsc::Receiver<Finalized>,
        stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        self.log.tell(&json!({
            "event": "started",
            "peer": self.charter.name_of(&self.keypair.peer()),
            "key": self.keypair.peer().to_string(),
            "genesis": self.charter.genesis().to_string(),
            "height": past.state.height().0,
            "listens": self.network.listens(),
        }));
        if past.state.height().0 == 0 {
            let text = cost::sentence(&self.charter, None, self.folder.path());
            let cost = cost::of(&self.charter).to_json(None, disk::free(self.folder.path()));
            self.log.tell(&json!({ "event": "cost", "cost": cost, "text": text }));
        }
        let outcome = self.work(past, finals, stop).await;
        let (sent, received) = self.network.traffic();
        self.log
            .tell(&json!({ "event": "stopped", "sent": sent, "received": received }));
        self.consensus.stop().await;
        self.network.shutdown().await; // and with it the blob store, which is a protocol of the router
        outcome
    }

    async fn work(
        &mut self,
        past: Past,
        finals: mpsc::Receiver<Finalized>,
        mut stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let (reports_in, reports) = mpsc::unbounded_channel();
        let (inputs_in, inputs) = mpsc::unbounded_channel();
        let Past { state, records } = past;
        let prepared = tokio::select! {
            prepared = self.prepare(state, &records, reports_in) => prepared?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let (mut node, trainer, first_orders) = prepared;
        let agreed = (node.state().round().number, node.state().core().roots);
        let mut world = World::new(
            self.charter.clone(),
            self.keypair.clone(),
            self.blobs.clone(),
            self.network.endpoint().clone(),
            self.consensus.clone(),
            trainer,
            inputs_in,
            agreed,
        )?;
        world.keep_base().await?;
        world.ended_before(records.into_values());
        if self.manner.archive {
            world.keep_all();
        }
        first_orders.into_iter().for_each(|order| world.order(order));
        let outcome = self.serve(&mut node, &mut world, (finals, reports, inputs), stop).await;
        outcome.and(world.finish().await) // the trainer has ended before the folder is sealed
    }

    /// Carries out effects and feeds their outcomes back until `stop` turns true.
    async fn serve(
        &mut self,
        node: &mut Node,
        world: &mut World,
        (mut finals, mut reports, mut inputs): (
            mpsc::Receiver<Finalized>,
            mpsc::UnboundedReceiver<Report>,
            mpsc::UnboundedReceiver<Input>,
        ),
        mut stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let mut effects = Vec::new();
        node.start(now(), &mut effects);
        if let Some(reason) = self.manner.appeal.take() {
            node.step(now(), Input::Appeal(reason), &mut effects);
        }
        self.after_step(node)?;
        let mut traffic = tokio::time::interval(TRAFFIC_EVERY);
        let mut progress = world.progress();
        loop {
            self.carry_out(world, &mut effects).await?;
            if node.is_live() {
                world.fill_gaps();
            }
            let input = tokio::select! {
                stopped = stop.wait_for(|stop| *stop) => { let _ = stopped; return Ok(()); }
                died = self.consensus.stopped() => return Err(self.consensus_ended(died)),
                _ = traffic.tick() => {
                    self.report_traffic();
                    self.report_storage(world);
                    self.report_progress(*progress.borrow_and_update());
                    continue
                }
                Ok(()) = progress.changed() => {
                    let now = *progress.borrow_and_update();
                    // its beginning and its end at once, what is between once a second
                    if now.missing == 0 || self.progress.missing == 0 {
                        self.report_progress(now);
                    }
                    continue
                }
                Some(input) = inputs.recv() => input,
                report = reports.recv() => match report.map(|report| self.on_report(report)).transpose()? {
                    Some(Some(input)) => input,
                    Some(None) => continue,
                    None => bail!("the trainer thread ended; its last messages say why"),
                },
                last = finals.recv() => match last {
                    Some(last) => match self.on_final(node, last)? {
                        Some(applied) => {
                            self.tell_events(&applied, world).await?;
                            Input::Final(applied)
                        }
                        None => continue,
                    },
                    None => return Err(self.consensus_ended(self.consensus.stopped().await)),
                },
            };
            let moved = matches!(input, Input::Final(_));
            node.step(now(), input, &mut effects);
            if moved {
                self.after_step(node)?;
            }
        }
    }

    /// Writes down where the run stands, and says once when it is done.
    fn after_step(&mut self, node: &Node) -> anyhow::Result<()> {
        let (state, me) = (node.state(), self.keypair.peer());
        write_status(&self.folder, &status::describe(&self.charter, state))?;
        let checkpoint = state.core().checkpoint.as_ref();
        let barred = state.core().peers.get(&me).is_some_and(Peer::is_barred); // nothing is taken from it
        let stated =
            checkpoint.is_some_and(|due| due.recorded.is_some() && (barred || due.statements.contains_key(&me)));
        if !self.done && stated && state.round().phase == Phase::Finished {
            self.done = true;
            self.log
                .tell(&json!({ "event": "done", "theta": state.core().roots.theta.to_string() }));
        }
        Ok(())
    }

    async fn carry_out(&mut self, world: &mut World, effects: &mut Vec<Effect>) -> anyhow::Result<()> {
        for effect in effects.drain(..) {
            if let Effect::Notice(notice) = &effect {
                self.log.tell(&report::notice(notice));
                if let atoll_node::Notice::Broken(text) = notice {
                    bail!("{text}");
                }
            }
            world.carry_out(effect).await?;
        }
        Ok(())
    }

    /// Says how many blobs that this node missed were fetched, and how many are still to be.
    fn report_progress(&mut self, now: Progress) {
        if now != self.progress {
            self.log
                .tell(&json!({ "event": "backfill", "missing": now.missing, "fetched": now.fetched }));
            self.progress = now;
        }
    }

    /// Why consensus ended, which is noted for `atoll repair` if it is damage.
    fn consensus_ended(&self, why: Option<String>) -> anyhow::Error {
        let why = why.unwrap_or_else(|| "no reason given".into());
        repair::note_stop(&self.folder, &why);
        anyhow::anyhow!("consensus stopped: {why}")
    }

    /// Says what was found damaged, whether there is room on the disk, and whether this node only listens.
    fn report_storage(&mut self, world: &mut World) {
        let listens = *self.consensus.listens().borrow();
        let told = self.blobs.mended().into_iter().map(|mended| mended.event());
        let told = told.chain(world.look_at_disk().map(|change| change.event()));
        let told = told.chain((listens != self.listens).then(|| repair::listening(listens)));
        let told: Vec<Value> = told.collect();
        told.iter().for_each(|event| self.log.tell(event));
        self.listens = listens;
    }

    fn report_traffic(&mut self) {
        let (sent, received) = self.network.traffic();
        let connected = self.consensus.connected().len();
        self.log
            .tell(&json!({ "event": "traffic", "sent": sent, "received": received, "connected": connected }));
    }

    /// Checks the block and writes it to disk before anyone acts on it. None for one that is there already.
    fn on_final(&mut self, node: &Node, last: Finalized) -> anyhow::Result<Option<Arc<Applied>>> {
        let state = node.state();
        let height = last.block.header.height;
        if height <= state.height() {
            last.acknowledge();
            return Ok(None);
        }
        let applied = state.advance(last.block.clone());
        let applied = applied.with_context(|| format!("final block {height} does not apply"))?;
        self.record.append(&last.block, last.certificate.as_deref())?;
        last.acknowledge();
        Ok(Some(Arc::new(applied)))
    }

    /// What a block changed, for people, and for what the world keeps of rounds.
    async fn tell_events(&mut self, applied: &Applied, world: &mut World) -> anyhow::Result<()> {
        for event in applied.events() {
            if let Some(value) = report::ledger_event(&self.charter, event) {
                self.log.tell(&value);
            }
            if let Event::RoundEnded(record) = event {
                world.round_ended(record, applied.state()).await?;
            }
        }
        Ok(())
    }

    fn on_report(&mut self, report: Report) -> anyhow::Result<Option<Input>> {
        if let Some(value) = report::training(&report) {
            self.log.tell(&value);
        }
        Ok(Some(match report {
            Report::HeldOut(..) | Report::Step { .. } | Report::Skipped(..) => return Ok(None),
            Report::Trained(done) => Input::Trained(done),
            Report::Merged(round, roots, judgement) => Input::Merged {
                round,
                roots,
                judgement,
            },
            Report::MergeFailed(round, reason) => Input::MergeFailed { round, reason },
            Report::Adopted(roots) => Input::Adopted(roots),
            Report::Checkpointed(round, manifest, held_out) => Input::Checkpointed {
                round,
                manifest,
                held_out,
            },
            Report::Failed(text) => bail!("the trainer stopped: {text}"),
        }))
    }

    /// Gets everything that training needs, from disk or from the other members.
    async fn prepare(
        &mut self,
        state: State,
        records: &BTreeMap<Round, RoundRecord>,
        reports: mpsc::UnboundedSender<Report>,
    ) -> anyhow::Result<(Node, Trainer, Vec<Order>)> {
        let me = self.keypair.peer();
        let tokenizer = Tokenizer::from_bytes(&self.need(&self.charter.model.tokenizer, "tokenizer").await?)?;
        let dataset = self.dataset().await?;
        let theta = self.theta(&state).await?;
        let holds = theta.1;
        let parts = Parts {
            charter: self.charter.clone(),
            me,
            folder: self.folder.clone(),
            blobs: self.blobs.clone(),
            dataset: Arc::new(dataset),
            tokenizer,
            theta,
            liar: self.manner.liar,
        };
        let trainer = Trainer::new(parts, tokio::runtime::Handle::current(), reports)?;
        let pending = trainer.pending().cloned();
        let current = state.round().number;
        let mut first_orders = Vec::new();
        let mine = pending.clone().filter(|done| done.round == current);
        let node = Node::new(me, Arc::new(state), holds, mine);
        if let Some(done) = pending.filter(|done| done.round < current) {
            // its round ended while this node was away
            let record = records.get(&done.round);
            let merged = record.is_some_and(|record| record.merged.iter().any(|entry| entry.peer == me));
            if merged {
                first_orders.push(Order::Settle(done.round)); // else it is sent again or added back when training begins
            }
        }
        Ok((node, trainer, first_orders))
    }

    /// A blob of the run, from disk or from any member; asks until somebody has it.
    async fn need(&self, hash: &Hash, what: &'static str) -> anyhow::Result<Bytes> {
        let members: Vec<PeerId> = self.charter.keys().collect();
        let endpoint = self.network.endpoint();
        loop {
            let fetched = self
                .blobs
                .fetch(endpoint, hash, Size::AtMost(BLOB_BYTES_MAX), &members, &Keep::Run(what))
                .await;
            match fetched {
                Ok(bytes) => return Ok(bytes),
                Err(error @ crate::blobs::BlobsError::NotServed { .. }) => {
                    tracing::info!("waiting for the {what}: {error}");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error).with_context(|| format!("cannot get the {what}")),
            }
        }
    }

    async fn dataset(&self) -> anyhow::Result<Dataset> {
        let manifest = self.need(&self.charter.data.manifest, "manifest").await?;
        let mut shards = BTreeMap::new();
        for shard in Manifest::from_bytes(&manifest)?.shards() {
            shards.insert(shard.blake3, self.need(&shard.blake3, "shard").await?);
        }
        Ok(Dataset::open(&manifest, |hash| shards.remove(hash).map(Vec::from))?)
    }

    /// The newest θ that is here: the ledger's, the one before its last merge, or the initial one.
    async fn theta(&self, state: &State) -> anyhow::Result<(OuterState, Roots)> {
        let (charter, layout) = (&self.charter, Layout::of(&self.charter.model));
        let first = State::genesis(charter.clone()).core().roots;
        let core = state.core();
        let before = core.last_merge.as_ref().map(|last| last.base);
        for roots in [Some(core.roots), before]
            .into_iter()
            .flatten()
            .filter(|roots| *roots != first)
        {
            if let Some(stored) = self.stored(&layout, roots).await? {
                return Ok((stored, roots));
            }
        }
        let initial = self.initial_theta().await?;
        Ok((state_of(charter, &layout, &initial, None)?, first))
    }

    /// θ and momentum with these roots, if both are on this disk.
    async fn stored(&self, layout: &Layout, roots: Roots) -> anyhow::Result<Option<OuterState>> {
        let Some(theta) = self.blobs.look(&roots.theta).await? else {
            return Ok(None);
        };
        let momentum = match roots.momentum {
            Some(root) => match self.blobs.look(&root).await? {
                Some(momentum) => Some(momentum),
                None => return Ok(None),
            },
            None => None,
        };
        Ok(Some(state_of(&self.charter, layout, &theta, momentum.as_deref())?))
    }

    /// θ⁰: computed if the charter's is the one that its seed gives, else a blob of the run.
    async fn initial_theta(&self) -> anyhow::Result<Bytes> {
        let model = &self.charter.model;
        if let Some(theta) = self.blobs.look(&model.theta).await? {
            return Ok(theta);
        }
        let theta = atoll_learner::init(model, self.charter.seed);
        let bytes = Bytes::from(atoll_outer::theta_bytes(&theta));
        if Hash::of_blob(&bytes) == model.theta {
            self.blobs.add(bytes.clone(), &Keep::Theta(Round(0))).await?;
            return Ok(bytes);
        }
        self.need(&model.theta, "initial parameters").await
    }
}
