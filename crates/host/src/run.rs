//! One node: prepares the world, then carries out the node machine's effects until it is stopped.

use crate::{
    blobs::Blobs,
    contents::{self, shown},
    cost, disk,
    effects::{Progress, World},
    fetch::Fetcher,
    folder::{Folder, FolderError, write_whole_unsynced},
    identity,
    log::Log,
    network::{Addresses, Network, Settings, bind},
    owner, panics,
    prepare::{Preparation, Prepared},
    pulse::{Clock, Sight},
    record::Record,
    repair, report, seal, status,
    trainer::Report,
    waits::{self, Wait, Waits},
};
use anyhow::{Context as _, bail};
use atoll_consensus::{Config, Finalized, Handle};
use atoll_ledger::{Applied, Event, Peer, Phase, RoundRecord, State};
use atoll_node::{Effect, Input, Node};
use atoll_outer::attack::Liar;
use atoll_protocol::{Charter, Keypair, Millis, Round, limits::APPEAL_BYTES_MAX, transaction::may_be_said};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, watch};

/// How often the node looks at itself: what it sent and received, whom it is connected to, what it waits for.
const PULSE: Duration = Duration::from_secs(1);
/// An unchanged status is written again after so long, so that a reader sees that the node lives.
const STATUS_AGE: Millis = Millis(5_000);
/// Rounds that the status tells of.
const LAST_ROUNDS: usize = 10;

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

/// Applies every block; `height` is where it is. Nothing if `stop` turns true meanwhile.
fn replay(
    record: &Record,
    charter: &Arc<Charter>,
    (height, stop): (&AtomicU64, &AtomicBool),
) -> anyhow::Result<Option<Past>> {
    let mut records = BTreeMap::new();
    let state = record.replay(charter, |state, events| {
        height.store(state.height().0, Ordering::Relaxed);
        for event in events {
            if let Event::RoundEnded(record) = event {
                records.insert(record.round, *record);
            }
        }
        match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    Ok(state.map(|state| Past { state, records }))
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
    mut stop: watch::Receiver<bool>,
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
    owner::check(&folder, &charter, keypair.peer())?;
    let bound = bind(&keypair, &settings).await?;
    let record = Record::open(&folder.ledger(), &charter)?;
    let may_have_voted = repair::has_run(&folder, record.height()?);
    if may_have_voted && !owner::has_votes(&folder)? {
        let (votes, marker) = (folder.consensus(), atoll_consensus::lost_marker(&folder.consensus()));
        atoll_consensus::mark_lost(&votes).map_err(FolderError::io("mark", &marker))?;
    }
    seal::remove(&folder)?;
    let mut log = Log::open(&folder.log(), tell)?;
    let waits = Waits::default();
    let Some((record, past)) = read_ledger(record, &charter, (&waits, &mut log), &mut stop).await? else {
        return Ok(()); // stopped meanwhile; nothing was begun
    };
    owner::claim(&folder, &charter, keypair.peer())?;
    contents::sweep(&folder)?;
    settings.write(&folder.settings())?;
    let blobs = Blobs::open(&folder).await?;
    let (network, transport) = Network::start(bound, keypair.peer(), &charter, &blobs)?;
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
    let last_rounds = past.records.values().rev().take(LAST_ROUNDS).rev();
    let node = Running {
        folder: folder.clone(),
        last_rounds: last_rounds
            .map(|record| report::round_record(&charter, record))
            .collect(),
        keypair,
        charter,
        record,
        fetcher: Fetcher::new(blobs.clone(), network.endpoint().clone()),
        blobs,
        network,
        consensus,
        log,
        waits,
        manner,
        began: now(),
        done: false,
        progress: Progress::default(),
        clock: Clock::default(),
        replaced: 0,
        skipped: None,
        written: (Millis(0), Value::Null),
        listens: false,
    };
    let mut log = node.live(past, finals, stop).await?; // a node that ended badly leaves no seal
    Blobs::sweep(&folder).await?;
    let mut told = now();
    let sealed = seal::write(&folder, &mut |done, of| {
        if now() >= told.after(waits::TOLD_AFTER) {
            told = now();
            let text = format!(
                "hashing this folder's files for the seal: {} of {} MB; a second Ctrl-C ends the node without one",
                done >> 20,
                of >> 20
            );
            log.say(&json!({ "event": "sealing", "done": done, "of": of, "text": text }));
        }
        ControlFlow::Continue(())
    })?;
    for (path, why) in sealed.left_out {
        let text = format!("the seal leaves out {}, which {why}", shown(&path));
        log.say(&json!({ "event": "left_out", "path": shown(&path), "text": text }));
    }
    Ok(())
}

/// Applies every block of the ledger, which takes a while after a long run. Nothing if it was stopped meanwhile.
async fn read_ledger(
    record: Record,
    charter: &Arc<Charter>,
    (waits, log): (&Waits, &mut Log<impl FnMut(&Value)>),
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<Option<(Record, Past)>> {
    let (height, charter) = (Arc::new(AtomicU64::new(0)), charter.clone());
    let waiting = waits.begin(
        now(),
        Wait {
            what: "this node's own ledger to be read".into(),
            from: Vec::new(),
            heard: None,
            remedy: "Every block is checked again at each start; Ctrl-C stops it".into(),
        },
    );
    let (seen, asked) = (height.clone(), Arc::new(AtomicBool::new(false)));
    let stopping = asked.clone();
    let mut reading = tokio::task::spawn_blocking(move || {
        let past = replay(&record, &charter, (&seen, &stopping))?;
        anyhow::Ok(past.map(|past| (record, past)))
    });
    let mut pulse = tokio::time::interval(PULSE);
    loop {
        tokio::select! {
            read = &mut reading => return read.context("the ledger cannot be read")?,
            _ = stop.wait_for(|stop| *stop), if !asked.load(Ordering::Relaxed) => asked.store(true, Ordering::Relaxed),
            _ = pulse.tick() => {
                waiting.heard(format!("block {}", height.load(Ordering::Relaxed)));
                waits.events(now()).iter().for_each(|event| log.tell(event));
            }
        }
    }
}

/// Replaces the status file; it is of no use after a crash, so nothing waits for the disk.
fn write_status(folder: &Folder, status: &Value) -> Result<(), FolderError> {
    write_whole_unsynced(&folder.status(), status.to_string().as_bytes())
}

struct Running<T> {
    folder: Folder,
    keypair: Keypair,
    charter: Arc<Charter>,
    record: Record,
    blobs: Blobs,
    fetcher: Fetcher,
    network: Network,
    consensus: Handle,
    log: Log<T>,
    waits: Waits,
    manner: Manner,
    /// When it was started.
    began: Millis,
    /// Whether it was told that the run is done.
    done: bool,
    /// What was last said of the fetching of what it missed.
    progress: Progress,
    /// What was last said of the clock.
    clock: Clock,
    /// How often others had ended connections because this node's key dialed again, when that was last told.
    replaced: u64,
    /// Why the last round that this node was to train for was not trained.
    skipped: Option<String>,
    /// The last rounds that ended, for the status.
    last_rounds: VecDeque<Value>,
    /// When the status was last written, and what.
    written: (Millis, Value),
    /// Whether it was told that this node only listens.
    listens: bool,
}

impl<T: FnMut(&Value)> Running<T> {
    async fn live(
        mut self,
        past: Past,
        finals: mpsc::Receiver<Finalized>,
        stop: watch::Receiver<bool>,
    ) -> anyhow::Result<Log<T>> {
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
        outcome.map(|()| self.log)
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
            prepared = self.prepare(&state, &records, reports_in) => prepared?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let Prepared {
            mut node,
            trainer,
            orders,
        } = prepared;
        let agreed = (node.state().round().number, node.state().core().roots);
        let mut world = World::new(
            self.charter.clone(),
            self.keypair.clone(),
            self.blobs.clone(),
            (self.fetcher.clone(), self.waits.clone()),
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
        orders.into_iter().for_each(|order| world.order(order));
        let outcome = self.serve(&mut node, &mut world, (finals, reports, inputs), stop).await;
        outcome.and(world.finish().await) // the trainer has ended before the folder is sealed
    }

    /// Gets everything that training needs; the node looks at itself meanwhile.
    async fn prepare(
        &mut self,
        state: &State,
        records: &BTreeMap<Round, RoundRecord>,
        reports: mpsc::UnboundedSender<Report>,
    ) -> anyhow::Result<Prepared> {
        let me = self.keypair.peer();
        let others = self.charter.keys().filter(|peer| *peer != me);
        let preparation = Preparation {
            charter: self.charter.clone(),
            me,
            folder: self.folder.clone(),
            blobs: self.blobs.clone(),
            fetcher: self.fetcher.clone(),
            waits: self.waits.clone(),
            others: others.map(|peer| self.network.describe(&self.charter, &peer)).collect(),
            liar: self.manner.liar,
        };
        let prepared = preparation.run(state.clone(), records, reports);
        tokio::pin!(prepared);
        let mut pulse = tokio::time::interval(PULSE);
        loop {
            tokio::select! {
                prepared = &mut prepared => return prepared,
                _ = pulse.tick() => self.pulse(state, false)?,
            }
        }
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
        let mut pulse = tokio::time::interval(PULSE);
        let mut progress = world.progress();
        loop {
            self.carry_out(world, &mut effects).await?;
            if node.is_live() {
                world.fill_gaps();
            }
            let input = tokio::select! {
                stopped = stop.wait_for(|stop| *stop) => { let _ = stopped; return Ok(()); }
                died = self.consensus.stopped() => return Err(self.consensus_ended(died)),
                _ = pulse.tick() => {
                    self.pulse(node.state(), node.is_live())?;
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
        self.look(state, node.is_live())?;
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

    /// Looks at itself, and says what is new.
    fn pulse(&mut self, state: &State, live: bool) -> anyhow::Result<()> {
        let (sent, received) = self.network.traffic();
        let connected = self.consensus.connected().len();
        self.log
            .tell(&json!({ "event": "traffic", "sent": sent, "received": received, "connected": connected }));
        let replaced = self.consensus.replaced();
        if replaced > self.replaced {
            self.replaced = replaced;
            let text = "another process runs with this node's key, and the others hear now the one, now the other: stop one \
                        of the two; what both sign may put the peer out for good";
            self.log
                .tell(&json!({ "event": "twin", "times": replaced, "text": text }));
        }
        self.look(state, live)
    }

    /// Notes what is waited for and how the clock stands, and writes the status.
    fn look(&mut self, state: &State, live: bool) -> anyhow::Result<()> {
        let (connected, clocks) = (self.consensus.connected(), self.consensus.clocks_ahead());
        self.fetcher.connected(connected.iter().copied());
        let (network, charter) = (&self.network, &self.charter);
        let sight = Sight {
            state,
            me: self.keypair.peer(),
            now: now(),
            began: self.began,
            live,
            connected: &connected,
            clocks: &clocks,
            describe: &|peer| network.describe(charter, peer),
        };
        sight.look(&self.waits);
        let clock = sight.clock();
        let mut status = status::describe(charter, state);
        let live = sight.describe_live(&self.waits, &clock);
        status::add(&mut status, live);
        status["last_rounds"] = self.last_rounds.iter().cloned().collect();
        status["skipped"] = json!(self.skipped);
        status["listens_only"] = json!(self.listens);
        if clock.about != self.clock.about {
            let text = clock.text.clone().unwrap_or_else(|| "the clocks agree again".into());
            self.log
                .tell(&json!({ "event": "clock", "ahead_ms": clock.ahead_ms, "text": text }));
        }
        self.clock = clock;
        self.waits.events(now()).iter().for_each(|event| self.log.tell(event));
        self.write_status(status)
    }

    fn write_status(&mut self, status: Value) -> anyhow::Result<()> {
        let at = now();
        let (written, before) = &self.written;
        if at < written.after(STATUS_AGE) && status::is_same(before, &status) {
            return Ok(());
        }
        write_status(&self.folder, &status)?;
        self.written = (at, status);
        Ok(())
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
                self.last_rounds.push_back(report::round_record(&self.charter, record));
                if self.last_rounds.len() > LAST_ROUNDS {
                    self.last_rounds.pop_front();
                }
                world.round_ended(record, applied.state()).await?;
            }
        }
        Ok(())
    }

    fn on_report(&mut self, report: Report) -> anyhow::Result<Option<Input>> {
        if let Some(value) = report::training(&report) {
            self.log.tell(&value);
        }
        match &report {
            Report::Skipped(_, text) => self.skipped = Some(text.clone()),
            Report::Trained(_) => self.skipped = None,
            _ => {}
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
}
