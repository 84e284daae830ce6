//! The transport in the engine's words: senders, receivers, the peer set and the blocker.

use crate::{
    channel::{CHANNELS, Channel},
    keys::peer_of,
    transport::{Frame, Receivers, Transport},
};
use atoll_protocol::PeerId;
use bytes::Bytes;
use commonware_actor::{Feedback, Unreliable};
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{
    BlockedSubscription, Blocker, CheckedSender, LimitedSender, Message, PeerSetSubscription, PeerSetUpdate, Provider,
    Receiver as P2pReceiver, Recipients, Sender as P2pSender, TrackedPeers,
};
use commonware_runtime::{IoBuf, IoBufs};
use commonware_utils::{
    channel::{mpsc, ring},
    ordered::Set,
    sync::Mutex,
};
use std::{num::NonZeroUsize, sync::Arc, time::SystemTime};

/// How the engine reaches the other validators: over iroh in a node, simulated in tests.
pub(crate) trait Network: Sized {
    type Sender: P2pSender<PublicKey = PublicKey>;
    type Receiver: P2pReceiver<PublicKey = PublicKey>;
    type Peers: Provider<PublicKey = PublicKey> + Blocker<PublicKey = PublicKey>;

    /// The ends of every channel, in the order of [`Channel::ALL`], and who is there.
    fn open(self) -> ([Ends<Self>; CHANNELS], Self::Peers);
}

/// A channel's two ends.
pub(crate) type Ends<N> = (<N as Network>::Sender, <N as Network>::Receiver);

/// What arrives on a channel. One engine reads it at a time, and another when that has ended.
type Frames = Arc<tokio::sync::Mutex<mpsc::Receiver<Frame>>>;

/// The network of a node.
#[derive(Clone)]
pub(crate) struct Iroh {
    transport: Transport,
    receivers: [(Channel, Frames); CHANNELS],
}

impl Iroh {
    pub(crate) fn new(transport: Transport, receivers: Receivers) -> Self {
        let shared = |(channel, frames)| (channel, Arc::new(tokio::sync::Mutex::new(frames)));
        Self {
            transport,
            receivers: receivers.map(shared),
        }
    }
}

impl Network for Iroh {
    type Sender = Sender;
    type Receiver = Receiver;
    type Peers = Peers;

    fn open(self) -> ([Ends<Self>; CHANNELS], Peers) {
        let transport = self.transport;
        let ends = self
            .receivers
            .map(|(channel, frames)| ends(&transport, channel, frames));
        (ends, Peers::new(transport))
    }
}

/// One channel, to send on. There is no rate limit: queues are bounded, and full queues drop.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    transport: Transport,
    channel: Channel,
}

/// One channel, to read from.
#[derive(Debug)]
pub(crate) struct Receiver {
    transport: Transport,
    channel: Channel,
    frames: Frames,
}

/// A message's recipients, those that are connected.
pub(crate) struct Addressed<'a> {
    sender: &'a Sender,
    to: Vec<PeerId>,
}

fn ends(transport: &Transport, channel: Channel, frames: Frames) -> (Sender, Receiver) {
    let sender = Sender {
        transport: transport.clone(),
        channel,
    };
    let receiver = Receiver {
        transport: transport.clone(),
        channel,
        frames,
    };
    (sender, receiver)
}

impl LimitedSender for Sender {
    type PublicKey = PublicKey;
    type Checked<'a> = Addressed<'a>;

    fn check(&mut self, recipients: Recipients<PublicKey>) -> Result<Addressed<'_>, SystemTime> {
        let connected = self.transport.connected();
        let mut to: Vec<PeerId> = match recipients {
            Recipients::All => connected.clone(),
            Recipients::Some(keys) => keys.iter().map(peer_of).collect(),
            Recipients::One(key) => vec![peer_of(&key)],
        };
        to.retain(|peer| connected.binary_search(peer).is_ok());
        Ok(Addressed { sender: self, to })
    }
}

impl CheckedSender for Addressed<'_> {
    type PublicKey = PublicKey;

    fn recipients(&self) -> Vec<PublicKey> {
        let keys = &self.sender.transport.validators().keys;
        self.to.iter().filter_map(|peer| keys.get(peer).cloned()).collect()
    }

    fn send(self, message: impl Into<IoBufs> + Send, _priority: bool) -> Unreliable<Feedback> {
        let frame = Bytes::from(message.into().coalesce());
        let Sender { transport, channel } = self.sender;
        let sent = self
            .to
            .iter()
            .filter(|peer| transport.send(*channel, peer, frame.clone()));
        match sent.count() {
            0 => Unreliable::rejected(),
            _ => Unreliable::new(Feedback::Ok),
        }
    }
}

impl P2pReceiver for Receiver {
    type Error = std::io::Error;
    type PublicKey = PublicKey;

    async fn recv(&mut self) -> Result<Message<PublicKey>, std::io::Error> {
        loop {
            let Some((peer, frame)) = self.frames.lock().await.recv().await else {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            };
            if let Some(key) = self.transport.validators().keys.get(&peer) {
                return Ok((key.clone(), IoBuf::from(frame)));
            }
        }
    }

    fn capacity(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.channel.frames_waiting_max()).unwrap_or(NonZeroUsize::MIN)
    }
}

/// The validator set, which does not change within a run, and the blocker.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    transport: Transport,
    /// Kept so that the engine's subscriptions stay open.
    subscriptions: Arc<Mutex<Vec<mpsc::UnboundedSender<PeerSetUpdate<PublicKey>>>>>,
    blocked: Arc<Mutex<Vec<ring::Sender<Set<PublicKey>>>>>,
}

impl Peers {
    fn new(transport: Transport) -> Self {
        Self {
            transport,
            subscriptions: Arc::default(),
            blocked: Arc::default(),
        }
    }

    fn tracked(&self) -> TrackedPeers<PublicKey> {
        TrackedPeers::primary(self.transport.validators().set.clone())
    }

    fn blocked_keys(&self) -> Set<PublicKey> {
        let keys = &self.transport.validators().keys;
        let blocked = self.transport.blocked();
        let blocked = blocked.borrow();
        Set::from_iter_dedup(blocked.iter().filter_map(|peer| keys.get(peer).cloned()))
    }
}

impl Provider for Peers {
    type PublicKey = PublicKey;

    async fn peer_set(&mut self, _id: u64) -> Option<TrackedPeers<PublicKey>> {
        Some(self.tracked())
    }

    async fn subscribe(&mut self) -> PeerSetSubscription<PublicKey> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let tracked = self.tracked();
        // The receiver is in our hands: this cannot fail.
        let _ = sender.send(PeerSetUpdate {
            index: 0,
            latest: tracked.clone(),
            all: tracked,
        });
        self.subscriptions.lock().push(sender);
        receiver
    }
}

impl Blocker for Peers {
    type PublicKey = PublicKey;

    fn block(&mut self, peer: PublicKey) -> Feedback {
        self.transport.block(peer_of(&peer));
        let keys = self.blocked_keys();
        self.blocked
            .lock()
            .retain(|subscriber| subscriber.send_lossy(keys.clone()));
        Feedback::Ok
    }

    fn blocked(&mut self) -> BlockedSubscription<PublicKey> {
        let (sender, receiver) = ring::channel(NonZeroUsize::MIN);
        sender.send_lossy(self.blocked_keys());
        self.blocked.lock().push(sender);
        receiver
    }
}
