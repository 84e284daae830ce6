//! Starting and stopping: one thread with a runtime of its own, whose failures come back as words.

use crate::{
    delivery::Finalized,
    engine::{self, Parts},
    ledger::{Ledger, SubmitError},
    network::Iroh,
    transport::Transport,
};
use atoll_ledger::State;
use atoll_protocol::{Charter, Height, Keypair, Millis, PeerId, transaction::SignedTransaction};
use commonware_runtime::{Runner as _, tokio as runtime};
use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

/// Final blocks that wait for the owner, beside those it has not acknowledged.
const FINALIZED_WAITING_MAX: usize = 16;
const WORKER_THREADS: usize = 2;

/// What consensus starts from.
#[derive(Debug, Clone)]
pub struct Config {
    /// The run's rules.
    pub charter: Arc<Charter>,
    /// This validator's key.
    pub keypair: Keypair,
    /// The engine's storage. It remembers our votes: a validator that loses it must not vote again in
    /// the same run. Only one process may use it; a second one waits for the first to end.
    pub folder: PathBuf,
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
        "our last block on disk is {ours}, but block {acknowledged} was acknowledged once: the ledger file was lost or \
         replaced by an older one; restore it, or fetch the missing blocks from another node before starting"
    )]
    Behind {
        /// Height of the given state.
        ours: Height,
        /// Height that the engine's storage says was acknowledged.
        acknowledged: Height,
    },
    /// The engine could not open its storage, or failed in another way.
    #[error("consensus stopped: {0}")]
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
    let parts = Parts {
        height: config.state.height(),
        charter: config.charter,
        keypair: config.keypair,
        validators: transport.validators().clone(),
        leader_timeout: config.leader_timeout,
        ledger: ledger.clone(),
        network: Iroh {
            transport: transport.clone(),
            receivers,
        },
        prefix: String::new(),
        owner,
    };
    let (stop, stopping) = watch::channel(false);
    let (ended, outcome) = watch::channel(None);
    let (ready, started) = oneshot::channel();
    let thread = Thread {
        folder: config.folder,
        ready,
        stopping,
    };
    let of_thread = transport.clone();
    let spawned = std::thread::Builder::new().name("consensus".into()).spawn(move || {
        let outcome = thread.run(parts);
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
    }));
    match started.await {
        Ok(Ok(())) => Ok((handle, finalized)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StartError::Engine(handle.stopped().await.unwrap_or_default())),
    }
}

struct Thread {
    folder: PathBuf,
    ready: oneshot::Sender<Result<(), StartError>>,
    stopping: watch::Receiver<bool>,
}

impl Thread {
    /// Runs the engine until it stops. The engine asserts its invariants: a panic ends it, not us.
    fn run(self, parts: Parts<Iroh>) -> Outcome {
        let config = runtime::Config::new()
            .with_worker_threads(WORKER_THREADS)
            .with_storage_directory(self.folder);
        let (ready, mut stopping) = (self.ready, self.stopping);
        let run = || {
            runtime::Runner::new(config).start(|context| async move {
                let running = match engine::run(context, parts).await {
                    Ok(running) => running,
                    Err(error) => {
                        // Nobody waits any more: nobody needs to know.
                        let _ = ready.send(Err(error));
                        return None;
                    }
                };
                let _ = ready.send(Ok(()));
                tokio::select! {
                    // Also when the last handle is gone.
                    _ = stopping.wait_for(|stop| *stop) => None,
                    why = running.ended() => Some(why),
                }
            })
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Some(panic_text(panic)))
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
