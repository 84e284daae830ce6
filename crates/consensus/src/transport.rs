//! Frames between validators over iroh: who is connected, who is blocked, what waits where.
//!
//! Every validator dials every other and sends on the connection it dialed; what it reads comes on
//! connections that the others dialed. QUIC has proven the other side's key before a byte is read.

mod inbound;
mod outbound;

use crate::{
    channel::{CHANNELS, Channel},
    keys::{Validators, ValidatorsError},
};
use atoll_protocol::PeerId;
use bytes::Bytes;
use commonware_utils::sync::Mutex;
use iroh::{
    Endpoint,
    endpoint::{Connection, ConnectionError},
    protocol::{AcceptError, ProtocolHandler},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

/// The protocol's name on the endpoint.
pub const ALPN: &[u8] = b"atoll/consensus/1";

/// Why a connection ends; the numbers are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Close {
    /// This node stops.
    Stopping = 0,
    /// The other side is not in the validator set.
    NotAValidator = 1,
    /// The other side broke the framing rules or consensus' own.
    Violation = 2,
    /// The other side has dialed again.
    Replaced = 3,
}

impl Close {
    fn apply(self, connection: &Connection) {
        let reason: &[u8] = match self {
            Self::Stopping => b"stopping",
            Self::NotAValidator => b"not a validator",
            Self::Violation => b"broke the protocol",
            Self::Replaced => b"dialed again",
        };
        connection.close((self as u32).into(), reason);
    }

    /// Whether the other side gave this reason.
    fn ended(self, connection: &Connection) -> bool {
        let number = (self as u32).into();
        matches!(connection.close_reason(), Some(ConnectionError::ApplicationClosed(close)) if close.error_code == number)
    }
}

pub(crate) type Frame = (PeerId, Bytes);
pub(crate) type Receivers = [(Channel, mpsc::Receiver<Frame>); CHANNELS];

/// The validators' connections. Cheap to clone; hand one to the router under [`ALPN`], one to
/// [`start`](crate::start). It dials by key alone: the endpoint's address lookup must know the rest.
#[derive(Clone)]
pub struct Transport(Arc<Shared>);

struct Shared {
    endpoint: Endpoint,
    runtime: Handle,
    me: PeerId,
    validators: Validators,
    frame_bytes_max: [usize; CHANNELS],
    /// One per channel, as are the caps above.
    inbound: Vec<mpsc::Sender<Frame>>,
    /// Until consensus starts.
    receivers: Mutex<Option<Receivers>>,
    /// Per peer that we can send to, one queue per channel.
    links: watch::Sender<BTreeMap<PeerId, outbound::Link>>,
    /// The one connection that each peer may have dialed.
    accepted: Mutex<BTreeMap<PeerId, Connection>>,
    blocked: watch::Sender<BTreeSet<PeerId>>,
    closing: watch::Sender<bool>,
    /// Connections that the other side ended because our key dialed it again.
    replaced: AtomicU64,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport({} of {})", self.0.me.short(), self.0.validators.count())
    }
}

impl Transport {
    /// A transport for validator `me` on `endpoint`, whose secret key must be the validator's. Call it
    /// within the tokio runtime that the endpoint lives in: connections are served there. Nothing is
    /// dialed before consensus starts.
    pub fn new(endpoint: Endpoint, me: PeerId, validators: Vec<PeerId>) -> Result<Self, ValidatorsError> {
        let validators = Validators::new(&validators)?;
        let frame_bytes_max = Channel::ALL.map(|channel| channel.frame_bytes_max(&validators));
        let mut inbound = Vec::new();
        let receivers = Channel::ALL.map(|channel| {
            let (sender, receiver) = mpsc::channel(channel.frames_waiting_max());
            inbound.push(sender);
            (channel, receiver)
        });
        Ok(Self(Arc::new(Shared {
            endpoint,
            runtime: Handle::current(),
            me,
            validators,
            frame_bytes_max,
            inbound,
            receivers: Mutex::new(Some(receivers)),
            links: watch::Sender::default(),
            accepted: Mutex::default(),
            blocked: watch::Sender::default(),
            closing: watch::Sender::new(false),
            replaced: AtomicU64::new(0),
        })))
    }

    /// The validators that frames can be sent to now.
    pub(crate) fn connected(&self) -> Vec<PeerId> {
        self.0.links.borrow().keys().copied().collect()
    }

    pub(crate) fn replaced(&self) -> u64 {
        self.0.replaced.load(Ordering::Relaxed)
    }

    pub(crate) fn me(&self) -> PeerId {
        self.0.me
    }

    pub(crate) fn validators(&self) -> &Validators {
        &self.0.validators
    }

    /// Starts to dial, and gives out what arrives. Only the first call gets it.
    pub(crate) fn open(&self) -> Option<Receivers> {
        let receivers = self.0.receivers.lock().take()?;
        for peer in self.0.validators.keys.keys().filter(|peer| **peer != self.0.me) {
            self.0.runtime.spawn(outbound::keep_dialing(self.0.clone(), *peer));
        }
        Some(receivers)
    }

    /// Puts a frame in the queue to `peer`; false if the peer is not connected or the queue is full.
    pub(crate) fn send(&self, channel: Channel, peer: &PeerId, frame: Bytes) -> bool {
        match self.0.links.borrow().get(peer) {
            Some(link) => link.send(channel, frame),
            None => false,
        }
    }

    /// Disconnects `peer` and keeps it out while this transport lives.
    pub(crate) fn block(&self, peer: PeerId) {
        self.0.block(peer);
    }

    /// Everyone who is kept out, now and whenever it changes.
    pub(crate) fn blocked(&self) -> watch::Receiver<BTreeSet<PeerId>> {
        self.0.blocked.subscribe()
    }

    /// Ends every connection and task. The endpoint stays the owner's.
    pub(crate) fn close(&self) {
        self.0.closing.send_replace(true);
        for connection in self.0.accepted.lock().values() {
            Close::Stopping.apply(connection);
        }
    }
}

impl Shared {
    fn block(&self, peer: PeerId) {
        tracing::warn!(peer = %peer.short(), "a validator broke the protocol and is disconnected for good");
        self.blocked.send_if_modified(|blocked| blocked.insert(peer));
        if let Some(connection) = self.accepted.lock().get(&peer) {
            Close::Violation.apply(connection);
        }
    }

    fn is_welcome(&self, peer: &PeerId) -> bool {
        *peer != self.me && self.validators.keys.contains_key(peer) && !self.blocked.borrow().contains(peer)
    }

    async fn closing(&self) {
        let mut closing = self.closing.subscribe();
        // The sender lives in `self`: this cannot fail.
        let _ = closing.wait_for(|closing| *closing).await;
    }
}

impl ProtocolHandler for Transport {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        inbound::serve(&self.0, connection).await;
        Ok(())
    }

    async fn shutdown(&self) {
        self.close();
    }
}
