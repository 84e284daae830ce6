//! Starting and stopping: one thread with a runtime of its own, whose failures come back as words.

use crate::{
    damage::{explain, is_lost, lost_marker, mark_lost},
    delivery::{Ended, Finalized},
    engine::{self, Parts},
    keys::Validators,
    ledger::{Ledger, SubmitError},
    listen::{Enough, Listening},
    network::Iroh,
    transport::Transport,
};
use atoll_ledger::State;
use atoll_protocol::{Charter, Height, Keypair, Millis, PeerId, transaction::SignedTransaction};
use commonware_runtime::{Runner as _, tokio as runtime};
use std::{
    any::Any,
    fmt, fs,
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

/// Final blocks that wait for the owner, beside those it has not acknowledged.
const FINALIZED_WAITING_MAX: usize = 16;
const WORKER_THREADS: usize = 2;
/// Whoever has lost its votes listens for as many times what a view waits for its leader, at the least.
const LISTEN_TIMEOUTS: u32 = 10;
/// Between two looks at who is connected.
const LOOK: Duration = Duration::from_secs(1);

/// What consensus starts from.
#[derive(Debug, Clone)]
pub struct Config {
    /// The run's rules.
    pub charter: Arc<Charter>,
    /// This validator's key.
    pub keypair: Keypair,
    /// The engine's storage. It remembers our votes: a validator that loses it only listens until no view is
    /// open in which it may have voted. Only one process may use it; a second one waits for the first to end.
    pub folder: PathBuf,
    /// Whether this validator may have voted in this run before: then its storage must be there.
    pub may_have_voted: bool,
    /// The last state that the owner has on disk; blocks above its height are delivered.
    pub state: State,
    /// How long a view waits for its leader's block: what a crashed leader costs until it is skipped,
    /// and how often views turn while nothing happens. Equal on all validators; see
    /// [`Config::LEADER_TIMEOUT`].
    pub leader_timeout: Duration,
}

impl Config {
    /// A crashed leader costs two seconds; idle views of this length cost next to nothing.
    pub const LEADER_TIMEOUT: Duration = Duration::from_secs(2);
}

/// Why consensus did not start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StartError {
    /// The key is not in the validator set.
    #[error("peer {0} is not a validator of this run")]
    NotAValidator(PeerId),
    /// Transport and configuration do not belong together.
    #[error("the transport was made for another peer or other validators than the configuration names")]
    OtherTransport,
    /// A transport serves one start.
    #[error("the transport was used already; make a new one")]
    Used,
    /// The owner's state is older than what it has acknowledged.
    #[error(
        "our last block on disk is {ours}, but block {acknowledged} was on disk once: the ledger's file was lost or \
         replaced by an older one. Put the newer one back, or `atoll repair {node}` lets the node get the blocks again \
         from the others", node = folder.parent().unwrap_or(folder).display()
    )]
    Behind {
        /// Height of the given state.
        ours: Height,
        /// Height that the engine's storage says was acknowledged.
        acknowledged: Height,
        /// The engine's storage.
        folder: PathBuf,
    },
    /// The engine could not open its storage, or failed in another way.
    #[error("{0}")]
    Engine(String),
}

/// A running consensus. Cheap to clone; when the last clone is dropped, consensus stops.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

struct Inner {
    ledger: Arc<Ledger>,
    transport: Transport,
    stop: watch::Sender<bool>,
    outcome: watch::Receiver<Option<Outcome>>,
    listens: watch::Receiver<bool>,
}

/// None for a stop that was asked for, else what went wrong.
type Outcome = Option<String>;

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:?})", self.0.transport)
    }
}

/// Starts consensus on a thread of its own. The receiver gives every final block above
/// `config.state`, in order; each must be written to disk and then acknowledged.
pub async fn start(config: Config, transport: Transport) -> Result<(Handle, mpsc::Receiver<Finalized>), StartError> {
    let peer = config.keypair.peer();
    if config.charter.keys().all(|key| key != peer) {
        return Err(StartError::NotAValidator(peer));
    }
    let fits = transport.me() == peer && config.charter.keys().eq(transport.validators().keys.keys().copied());
    if !fits || config.state.core().genesis != config.charter.genesis() {
        return Err(StartError::OtherTransport);
    }
    let receivers = transport.open().ok_or(StartError::Used)?;
    let ledger = Arc::new(Ledger::new(config.state.clone()));
    let (owner, finalized) = mpsc::channel(FINALIZED_WAITING_MAX);
    let parts = Start {
        charter: config.charter,
        keypair: config.keypair,
        leader_timeout: config.leader_timeout,
        ledger: ledger.clone(),
        network: Iroh::new(transport.clone(), receivers),
        owner,
    };
    let (stop, stopping) = watch::channel(false);
    let (ended, outcome) = watch::channel(None);
    let (ready, started) = oneshot::channel();
    let (tell_listens, listens) = watch::channel(false);
    let thread = Thread {
        folder: config.folder,
        may_have_voted: config.may_have_voted,
        transport: transport.clone(),
        ready: Some(ready),
        stopping,
        listens: tell_listens,
    };
    let of_thread = transport.clone();
    let spawned = std::thread::Builder::new().name("consensus".into()).spawn(move || {
        let outcome = thread.run(&parts);
        of_thread.close();
        ended.send_replace(Some(outcome));
    });
    if let Err(error) = spawned {
        return Err(StartError::Engine(format!("its thread cannot be started: {error}")));
    }
    let handle = Handle(Arc::new(Inner {
        ledger,
        transport,
        stop,
        outcome,
        listens,
    }));
    match started.await {
        Ok(Ok(())) => Ok((handle, finalized)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StartError::Engine(handle.stopped().await.unwrap_or_default())),
    }
}

/// What each of the engines of one start is made from: one that only listens, if it must, and one that votes.
struct Start {
    charter: Arc<Charter>,
    keypair: Keypair,
    leader_timeout: Duration,
    ledger: Arc<Ledger>,
    network: Iroh,
    owner: mpsc::Sender<Finalized>,
}

impl Start {
    fn parts(&self, validators: &Validators, listening: Option<Listening>) -> Parts<Iroh> {
        Parts {
            height: self.ledger.last().height(),
            charter: self.charter.clone(),
            keypair: self.keypair.clone(),
            validators: validators.clone(),
            leader_timeout: self.leader_timeout,
            ledger: self.ledger.clone(),
            network: self.network.clone(),
            prefix: String::new(),
            owner: self.owner.clone(),
            listening,
        }
    }
}

struct Thread {
    folder: PathBuf,
    may_have_voted: bool,
    transport: Transport,
    /// Until whoever started knows how it went.
    ready: Option<oneshot::Sender<Result<(), StartError>>>,
    stopping: watch::Receiver<bool>,
    listens: watch::Sender<bool>,
}

/// How an engine ended.
enum Over {
    /// It has listened enough.
    Heard,
    /// All is over.
    With(Outcome),
}

impl Thread {
    /// Runs the engine until it stops.
    fn run(mut self, start: &Start) -> Outcome {
        // whom nobody else hears cannot contradict itself
        let others = self.transport.validators().count() - 1;
        if others > 0 && is_lost(&self.folder, self.may_have_voted) {
            if let Err(error) = mark_lost(&self.folder) {
                return self.failed(&format!("{}: {error}", lost_marker(&self.folder).display()));
            }
            self.listens.send_replace(true);
            let listening = self.listening(start.leader_timeout);
            match self.engine(start, Some(listening)) {
                Over::Heard => {}
                Over::With(outcome) => return outcome,
            }
        }
        match fs::remove_file(lost_marker(&self.folder)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return self.failed(&format!("{}: {error}", lost_marker(&self.folder).display()));
            }
            _ => {}
        }
        self.listens.send_replace(false);
        match self.engine(start, None) {
            Over::Heard => Some("the engine that votes ended as one that listens".into()),
            Over::With(outcome) => outcome,
        }
    }

    fn failed(&mut self, text: &str) -> Outcome {
        let why = explain(&self.folder, text);
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Err(StartError::Engine(why.clone()))); // nobody waits any more: nobody needs to know
        }
        Some(why)
    }

    /// Blocks that the others decide end it. Where they can decide nothing without this validator, they are heard
    /// for a while instead, all of them: what they know to be decided they tell.
    fn listening(&self, leader_timeout: Duration) -> Listening {
        let validators = self.transport.validators().count();
        let (others, faulty) = (validators - 1, (validators - 1) / 3);
        let long = leader_timeout * LISTEN_TIMEOUTS;
        let enough: Enough = match faulty {
            0 => Box::pin(all_connected(self.transport.clone(), others as usize, long)),
            _ => Box::pin(pending()),
        };
        Listening::new(now(), long, enough)
    }

    /// Runs one engine. It asserts its invariants: a panic ends it, not us.
    fn engine(&mut self, start: &Start, listening: Option<Listening>) -> Over {
        let config = runtime::Config::new()
            .with_worker_threads(WORKER_THREADS)
            .with_storage_directory(&self.folder);
        let parts = start.parts(self.transport.validators(), listening);
        let (ready, stopping, folder) = (&mut self.ready, &mut self.stopping, &self.folder);
        let run = || {
            runtime::Runner::new(config).start(|context| async move {
                let running = match engine::run(context, parts).await {
                    Ok(running) => running,
                    Err(error) => {
                        let error = in_folder(error, folder);
                        let why = error.to_string();
                        return Over::With(match ready.take().map(|ready| ready.send(Err(error))) {
                            Some(_) => None, // whoever started knows
                            None => Some(why),
                        });
                    }
                };
                if let Some(ready) = ready.take() {
                    let _ = ready.send(Ok(())); // nobody waits any more: nobody needs to know
                }
                tokio::select! {
                    // Also when the last handle is gone.
                    _ = stopping.wait_for(|stop| *stop) => Over::With(None),
                    ended = running.ended() => match ended {
                        Ended::Heard => Over::Heard,
                        Ended::Because(why) => Over::With(Some(why)),
                    },
                }
            })
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(over) => over,
            Err(panic) => {
                let why = panic_text(panic);
                Over::With(self.failed(&why))
            }
        }
    }
}

/// The engine does not know where its storage is.
fn in_folder(error: StartError, folder: &Path) -> StartError {
    match error {
        StartError::Behind { ours, acknowledged, .. } => StartError::Behind {
            ours,
            acknowledged,
            folder: folder.to_path_buf(),
        },
        StartError::Engine(text) => StartError::Engine(explain(folder, &text)),
        error => error,
    }
}

/// Is done when so many `others` were connected for so `long` without a break.
async fn all_connected(transport: Transport, others: usize, long: Duration) {
    let mut heard = Duration::ZERO;
    while heard < long {
        tokio::time::sleep(LOOK).await;
        heard = match transport.connected().len() >= others {
            true => heard + LOOK,
            false => Duration::ZERO,
        };
    }
}

/// The wall clock.
fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn panic_text(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(text) => (*text).into(),
            Err(_) => "a panic without words".into(),
        },
    }
}

impl Handle {
    /// Takes a transaction, forwards it to all validators, and goes on until a final block holds it or
    /// the ledger refuses it. Refused at once if the last final state refuses it.
    pub fn submit(&self, transaction: SignedTransaction) -> Result<(), SubmitError> {
        self.0.ledger.submit(transaction, now())
    }

    /// By how many milliseconds the clocks of other validators are ahead of this machine's, as the blocks that
    /// they proposed in the last minutes say, less the time that those were on their way. Ascending by peer.
    pub fn clocks_ahead(&self) -> Vec<(PeerId, i64)> {
        self.0.ledger.clocks_ahead(now())
    }

    /// How often another validator has ended a connection of ours because one with our key dialed it: another
    /// process runs with this key.
    pub fn replaced(&self) -> u64 {
        self.0.transport.replaced()
    }

    /// Whether this validator only listens, because it has lost what it voted: until the others have decided some
    /// views without it, or where they cannot, until all of them were connected for a while.
    pub fn listens(&self) -> watch::Receiver<bool> {
        self.0.listens.clone()
    }

    /// The validators that we can send to now.
    pub fn connected(&self) -> Vec<PeerId> {
        self.0.transport.connected()
    }

    /// Asks consensus to stop, and waits until its thread has ended. What had gone wrong before, if
    /// anything had.
    pub async fn stop(&self) -> Option<String> {
        self.0.stop.send_replace(true);
        self.stopped().await
    }

    /// Waits until consensus has stopped. None if that was asked for, else why it stopped.
    pub async fn stopped(&self) -> Option<String> {
        let mut outcome = self.0.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().flatten(),
            Err(_) => Some("its thread ended without a word".into()),
        }
    }
}
