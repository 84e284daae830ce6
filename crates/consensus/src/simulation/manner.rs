//! How a validator speaks: to whom, until which frame, and whether it lies. Its votes are recorded here.

use super::{
    ballots::{Ballots, vote_of},
    lies::Lie,
};
use crate::{channel::Channel, keys::peer_of};
use commonware_actor::{Feedback, Unreliable};
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{CheckedSender, LimitedSender, Recipients, Sender as _, simulated};
use commonware_runtime::{IoBuf, IoBufs, deterministic::Context};
use commonware_utils::sync::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};
use tokio::sync::Notify;

pub(super) type Wire = simulated::Sender<PublicKey, Context>;

/// What holds for all that one life sends.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) me: PublicKey,
    pub(super) ballots: Ballots,
    pub(super) fuse: Arc<Fuse>,
    /// Who hears it; everyone if none is named.
    pub(super) audience: Option<Vec<PublicKey>>,
    pub(super) lie: Lie,
}

impl Manner {
    fn narrow(&self, recipients: Recipients<PublicKey>) -> Recipients<PublicKey> {
        let Some(audience) = &self.audience else {
            return recipients;
        };
        let heard = |key: &PublicKey| audience.contains(key);
        Recipients::Some(match recipients {
            Recipients::All => audience.clone(),
            Recipients::Some(keys) => keys.into_iter().filter(heard).collect(),
            Recipients::One(key) => [key].into_iter().filter(heard).collect(),
        })
    }

    fn record(&self, channel: Channel, frame: &IoBuf) {
        if matches!(channel, Channel::Votes) {
            self.ballots.record(peer_of(&self.me), &vote_of(frame.as_ref()));
        }
    }
}

/// Ends a life between two frames: what is sent after the last one never leaves.
pub(super) struct Fuse {
    sent: AtomicUsize,
    frames_max: usize,
    last: Mutex<Option<Channel>>,
    blown: Notify,
}

impl Fuse {
    pub(super) fn after(frames_max: usize) -> Arc<Self> {
        Arc::new(Self {
            sent: AtomicUsize::new(0),
            frames_max,
            last: Mutex::new(None),
            blown: Notify::new(),
        })
    }

    pub(super) fn never() -> Arc<Self> {
        Self::after(usize::MAX)
    }

    pub(super) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits for the last frame; where it went.
    pub(super) async fn blown(self: Arc<Self>) -> Option<Channel> {
        self.blown.notified().await;
        *self.last.lock()
    }

    fn passes(&self, channel: Channel) -> bool {
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        if number == self.frames_max {
            *self.last.lock() = Some(channel);
            self.blown.notify_one();
        }
        number <= self.frames_max
    }
}

/// Sends as the simulation does, in the validator's manner.
#[derive(Clone)]
pub(super) struct Sender {
    wire: Wire,
    channel: Channel,
    manner: Manner,
}

impl Sender {
    pub(super) fn new(wire: Wire, channel: Channel, manner: Manner) -> Self {
        Self { wire, channel, manner }
    }
}

pub(super) struct Checked<'a> {
    inner: <Wire as LimitedSender>::Checked<'a>,
    /// For what is said besides.
    beside: Wire,
    channel: Channel,
    manner: &'a Manner,
}

impl LimitedSender for Sender {
    type PublicKey = PublicKey;
    type Checked<'a> = Checked<'a>;

    fn check(&mut self, recipients: Recipients<PublicKey>) -> Result<Checked<'_>, SystemTime> {
        Ok(Checked {
            beside: self.wire.clone(),
            inner: self.wire.check(self.manner.narrow(recipients))?,
            channel: self.channel,
            manner: &self.manner,
        })
    }
}

impl CheckedSender for Checked<'_> {
    type PublicKey = PublicKey;

    fn recipients(&self) -> Vec<PublicKey> {
        self.inner.recipients()
    }

    fn send(mut self, message: impl Into<IoBufs> + Send, priority: bool) -> Unreliable<Feedback> {
        if !self.manner.fuse.passes(self.channel) {
            return Unreliable::rejected();
        }
        let frame = message.into().coalesce();
        let mut said = self.manner.lie.say(self.channel, frame, &self.beside).into_iter();
        let Some(first) = said.next() else {
            return Unreliable::rejected();
        };
        let to = Recipients::Some(self.inner.recipients());
        for frame in said {
            self.manner.record(self.channel, &frame);
            self.beside.send(to.clone(), frame, priority);
        }
        self.manner.record(self.channel, &first);
        self.inner.send(first, priority)
    }
}
