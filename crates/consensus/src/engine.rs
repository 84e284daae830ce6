//! The wiring: storage, marshal, simplex and our own tasks on one runtime.

use crate::{
    application::Application,
    block::Block,
    delivery::{Delivery, Ended, Finalized, Reports},
    forward,
    handle::StartError,
    keys::Validators,
    ledger::Ledger,
    listen::Listening,
    network::{Ends, Network},
};
use atoll_ledger::State;
use atoll_protocol::{Charter, Height, Keypair};
use commonware_broadcast::buffered;
use commonware_codec::CodecShared;
use commonware_consensus::{
    marshal::{
        self, Start,
        core::Mailbox,
        resolver::p2p as resolver,
        standard::{Inline, Standard},
    },
    simplex::{self, ForwardPolicy, SkipBudget, SkipPolicy, elector::RoundRobin, scheme::ed25519::Scheme},
    types::{Epoch, FixedEpocher, ViewDelta},
};
use commonware_cryptography::{
    Blake3, Digestible,
    certificate::{ConstantProvider, Verifier as _},
    ed25519::PublicKey,
};
use commonware_parallel::Sequential;
use commonware_runtime::{Clock, Handle, Metrics, Spawner, Storage, buffer::paged::CacheRef};
use commonware_storage::{archive::prunable, translator::TwoCap};
use commonware_utils::{Array, NZDuration, NZU16, NZU64, NZUsize};
use rand_core::CryptoRng;
use std::{
    num::{NonZeroU16, NonZeroU64, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

const MAILBOX: NonZeroUsize = NZUsize!(1024);
const BUFFER: NonZeroUsize = NZUsize!(64 * 1024);
const PAGE_BYTES: NonZeroU16 = NZU16!(4096);
const PAGES: NonZeroUsize = NZUsize!(256);
const ITEMS_PER_SECTION: NonZeroU64 = NZU64!(1024);
/// Views behind the last final one whose votes and certificates are kept.
const VIEWS_KEPT: ViewDelta = ViewDelta::new(64);
/// Final blocks that the owner may have before it acknowledges the first.
const UNACKNOWLEDGED_MAX: NonZeroUsize = NZUsize!(16);
/// Proposed blocks kept per validator.
const PROPOSALS_KEPT: usize = 16;
/// Missing final blocks that are fetched at a time.
const REPAIRS_MAX: NonZeroUsize = NZUsize!(32);
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
const FETCH_RETRY: Duration = Duration::from_millis(100);
/// For a proposal's way through the network, after the leader's time.
const CERTIFICATION: Duration = Duration::from_secs(1);

/// What the engine needs of the runtime it lives in: tokio's in a node, a deterministic one in tests.
pub(crate) trait Runtime: Clock + CryptoRng + Metrics + Spawner + Storage {}

impl<E: Clock + CryptoRng + Metrics + Spawner + Storage> Runtime for E {}

/// What the engine is made from.
pub(crate) struct Parts<N> {
    pub(crate) charter: Arc<Charter>,
    pub(crate) keypair: Keypair,
    pub(crate) validators: Validators,
    pub(crate) height: Height,
    pub(crate) leader_timeout: Duration,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) network: N,
    /// What the names of all its storage begin with: nothing in a node, whose folder is its own.
    pub(crate) prefix: String,
    pub(crate) owner: mpsc::Sender<Finalized>,
    /// A validator that has lost its votes has none to give while it listens.
    pub(crate) listening: Option<Listening>,
}

/// The tasks whose end is the end of consensus.
pub(crate) struct Running {
    simplex: Handle<()>,
    delivery: Handle<Ended>,
}

impl Running {
    /// Waits until one of them ends, and says why.
    pub(crate) async fn ended(self) -> Ended {
        tokio::select! {
            ended = self.simplex => Ended::Because(ended.map_or_else(|error| error.to_string(), |()| "the engine ended".into())),
            ended = self.delivery => ended.unwrap_or_else(|error| Ended::Because(error.to_string())),
        }
    }
}

type Marshal = Mailbox<Scheme, Standard<Block>>;
type Automaton<E> = Inline<E, Scheme, Application, Block, FixedEpocher>;
type Archive<E, K, V> = prunable::Archive<TwoCap, E, K, V>;

/// Opens the storage and starts everything. A storage failure panics; so the engine has it.
pub(crate) async fn run<E: Runtime, N: Network>(context: E, parts: Parts<N>) -> Result<Running, StartError> {
    let (channels, peers) = parts.network.open();
    let [votes, certificates, missing, backfill, blocks, (sender, receiver)] = channels;
    let base = Base::<E, N>::new(
        context,
        peers,
        &parts.charter,
        (&parts.keypair, parts.listening.is_none()),
        &parts.validators,
        parts.prefix,
    )?;
    let (reports, reported) = Reports::new();
    let marshal = base.start_marshal(backfill, blocks, reports).await?;
    let acknowledged = marshal
        .get_processed()
        .await
        .map_or(0, |processed| processed.height().get());
    if acknowledged > parts.height.0 {
        return Err(StartError::Behind {
            ours: parts.height,
            acknowledged: Height(acknowledged),
            folder: PathBuf::new(),
        });
    }
    let application = Application::new(parts.ledger.clone(), parts.charter.deadlines.heartbeat);
    let automaton = Inline::new(base.context.child("inline"), application, marshal.clone(), epocher());
    let ledger = parts.ledger.clone();
    let child = base.context.child("forward");
    child.spawn(move |context| forward::send(context, ledger, sender));
    let ledger = parts.ledger.clone();
    let child = base.context.child("receive");
    child.spawn(move |_| forward::receive(ledger, receiver));
    let child = base.context.child("delivery");
    let delivery = Delivery {
        ledger: parts.ledger,
        marshal,
        reports: reported,
        owner: parts.owner,
        listening: parts.listening,
    };
    let delivery = child.spawn(move |clock| delivery.work(clock));
    let simplex = base.start_simplex(automaton, parts.leader_timeout, votes, certificates, missing);
    Ok(Running { simplex, delivery })
}

/// One epoch: the validators of a run do not change.
fn epocher() -> FixedEpocher {
    FixedEpocher::new(NZU64!(1 << 40))
}

/// What every part of the engine needs.
struct Base<E, N: Network> {
    context: E,
    scheme: Scheme,
    local: PublicKey,
    genesis: Block,
    peers: N::Peers,
    prefix: String,
    cache: CacheRef,
}

impl<E: Runtime, N: Network> Base<E, N> {
    fn new(
        context: E,
        peers: N::Peers,
        charter: &Charter,
        (keypair, votes): (&Keypair, bool),
        validators: &Validators,
        prefix: String,
    ) -> Result<Self, StartError> {
        let scheme = match votes {
            true => validators.signer(&charter.genesis(), keypair),
            false => Some(validators.verifier(&charter.genesis())),
        };
        let local = validators.keys.get(&keypair.peer()).cloned();
        let (Some(scheme), Some(local)) = (scheme, local) else {
            return Err(StartError::NotAValidator(keypair.peer()));
        };
        Ok(Self {
            context,
            scheme,
            local,
            genesis: Block::new(State::genesis_block(charter)),
            peers,
            prefix,
            cache: CacheRef::new(PAGE_BYTES, PAGES),
        })
    }

    /// The part that keeps final blocks, fetches missing ones and reports them in order.
    async fn start_marshal(&self, backfill: Ends<N>, blocks: Ends<N>, reports: Reports) -> Result<Marshal, StartError> {
        let resolver = resolver::init(
            self.context.child("backfill"),
            resolver::Config {
                public_key: self.local.clone(),
                peer_provider: self.peers.clone(),
                blocker: self.peers.clone(),
                mailbox_size: MAILBOX,
                fetch_timeout: NZDuration!(FETCH_TIMEOUT),
                fetch_retry_delay: FETCH_RETRY,
                priority_requests: false,
                priority_responses: false,
            },
            backfill,
        );
        let (broadcast, buffer) = buffered::Engine::<_, _, Block, _, _>::new(
            self.context.child("broadcast"),
            buffered::Config {
                public_key: self.local.clone(),
                mailbox_size: MAILBOX,
                deque_size: PROPOSALS_KEPT,
                priority: false,
                codec_config: (),
                peer_provider: self.peers.clone(),
                strategy: Sequential,
            },
        );
        broadcast.start(blocks);
        let certificates = Scheme::certificate_codec_config_unbounded();
        let finalizations = self.archive("finalizations", certificates).await?;
        let finals = self.archive("blocks", ()).await?;
        let config = marshal::Config {
            provider: ConstantProvider::<_, Epoch>::new(self.scheme.clone()),
            epocher: epocher(),
            start: Start::Genesis(self.genesis.clone().digested()),
            partition_prefix: format!("{}marshal", self.prefix),
            mailbox_size: MAILBOX,
            view_retention: VIEWS_KEPT,
            prunable_items_per_section: ITEMS_PER_SECTION,
            page_cache: self.cache.clone(),
            replay_buffer: BUFFER,
            key_write_buffer: BUFFER,
            value_write_buffer: BUFFER,
            block_codec_config: (),
            max_repair: REPAIRS_MAX,
            max_pending_acks: UNACKNOWLEDGED_MAX,
            strategy: Sequential,
        };
        let context = self.context.child("marshal");
        let (actor, mailbox, _) = marshal::core::Actor::init(context, finalizations, finals, config).await;
        actor.start(reports, buffer, resolver);
        Ok(mailbox)
    }

    async fn archive<K: Array, V: CodecShared>(
        &self,
        name: &'static str,
        codec: V::Cfg,
    ) -> Result<Archive<E, K, V>, StartError> {
        let partition = |part: &str| format!("{}{name}-{part}", self.prefix);
        let config = prunable::Config {
            translator: TwoCap,
            metadata_partition: partition("metadata"),
            key_partition: partition("keys"),
            key_page_cache: self.cache.clone(),
            value_partition: partition("values"),
            compression: None,
            codec_config: codec,
            items_per_section: ITEMS_PER_SECTION,
            key_write_buffer: BUFFER,
            value_write_buffer: BUFFER,
            replay_buffer: BUFFER,
        };
        let opened = Archive::init(self.context.child(name), config).await;
        opened.map_err(|error| StartError::Engine(format!("its archive of {name} cannot be opened: {error}")))
    }

    /// The part that agrees.
    fn start_simplex(
        self,
        automaton: Automaton<E>,
        leader_timeout: Duration,
        votes: Ends<N>,
        certificates: Ends<N>,
        missing: Ends<N>,
    ) -> Handle<()> {
        let config = simplex::Config {
            scheme: self.scheme,
            elector: RoundRobin::<Blake3>::default(),
            blocker: self.peers,
            automaton: automaton.clone(),
            relay: automaton.clone(),
            reporter: automaton,
            track_historical_votes: false,
            strategy: Sequential,
            partition: format!("{}simplex", self.prefix),
            mailbox_size: MAILBOX,
            epoch: Epoch::zero(),
            floor: simplex::Floor::Genesis(self.genesis.digest()),
            replay_buffer: BUFFER,
            write_buffer: BUFFER,
            page_cache: self.cache,
            leader_timeout,
            certification_timeout: leader_timeout + CERTIFICATION,
            timeout_retry: leader_timeout + CERTIFICATION,
            view_retention: VIEWS_KEPT,
            skip: SkipPolicy::Enabled {
                timeout: leader_timeout * 2 + CERTIFICATION * 2,
                budget: SkipBudget::Participants,
            },
            fetch_timeout: NZDuration!(FETCH_TIMEOUT),
            fetch_retry_delay: FETCH_RETRY,
            forward: ForwardPolicy::Disabled,
        };
        simplex::Engine::new(self.context.child("simplex"), config).start(votes, certificates, missing)
    }
}
