//! The simulated network in the wiring's words, and how a test cuts and heals it.

use super::{
    cast::Cast,
    manner::{Manner, Sender},
};
use crate::{
    channel::{CHANNELS, Channel},
    network::{Ends, Network as Wired},
};
use commonware_actor::Feedback;
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{
    BlockedSubscription, Blocker, Message, PeerSetSubscription, Provider, Receiver as P2pReceiver, TrackedPeers,
    simulated::{self, Link, SplitTarget},
};
use commonware_runtime::{Quota, Supervisor as _, deterministic::Context};
use commonware_utils::{NZU32, NZUsize};
use std::{fmt, num::NonZeroUsize};

/// More than anyone sends: queues bound a node's channels, not rates.
const RATE: Quota = Quota::per_second(NZU32!(2_000));

type Simulated = (simulated::Sender<PublicKey, Context>, simulated::Receiver<PublicKey>);

/// All links of a run.
pub(super) struct Network {
    oracle: simulated::Oracle<PublicKey, Context>,
    keys: Vec<PublicKey>,
    link: Link,
}

impl Network {
    /// Everyone linked with everyone.
    pub(super) async fn start(context: Context, cast: &Cast, link: Link) -> Self {
        let keys: Vec<PublicKey> = cast.validators.set.iter().cloned().collect();
        let frame_bytes_max = Channel::ALL.map(|channel| channel.frame_bytes_max(&cast.validators));
        let config = simulated::Config {
            max_size: frame_bytes_max
                .into_iter()
                .max()
                .and_then(|max| u32::try_from(max).ok())
                .expect("fits"),
            max_peers_per_set: NonZeroUsize::new(keys.len()).expect("somebody"),
            disconnect_on_block: true,
            tracked_peer_sets: NZUsize!(1),
        };
        let (network, oracle) = simulated::Network::new_with_peers(context, config, keys.clone()).await;
        network.start();
        let network = Self { oracle, keys, link };
        let all: Vec<usize> = (0..network.keys.len()).collect();
        for (i, one) in all.iter().enumerate() {
            network.heal(&[*one], &all[i + 1..]).await;
        }
        network
    }

    /// Links each of `one` side with each of the `other`, both ways.
    pub(super) async fn heal(&self, one: &[usize], other: &[usize]) {
        for (from, to) in pairs(one, other) {
            let (from, to) = (self.keys[from].clone(), self.keys[to].clone());
            self.oracle
                .add_link(from, to, self.link.clone())
                .await
                .expect("not linked");
        }
    }

    /// Takes these links away.
    pub(super) async fn cut(&self, one: &[usize], other: &[usize]) {
        for (from, to) in pairs(one, other) {
            let (from, to) = (self.keys[from].clone(), self.keys[to].clone());
            self.oracle.remove_link(from, to).await.expect("linked");
        }
    }

    /// Who keeps whom out.
    pub(super) async fn blocked(&self) -> Vec<(usize, usize)> {
        let place = |key: &PublicKey| self.keys.iter().position(|known| known == key).expect("known");
        let blocked = self.oracle.blocked().await.expect("the network runs");
        blocked.iter().map(|(by, who)| (place(by), place(who))).collect()
    }

    /// The ends for one life of `who`. What was sent to it before is gone.
    pub(super) async fn enter(&self, who: usize, manner: Manner) -> Member {
        let ends = self.register(who).await;
        self.member(who, ends, manner, false)
    }

    /// Two sets of ends with one key: both hear everything, each speaks to its own audience.
    pub(super) async fn enter_twice(&self, context: &Context, who: usize, manners: [Manner; 2]) -> [Member; 2] {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for (sender, receiver) in self.register(who).await {
            let (one, other) = receiver.split_with(context.child("split"), |_| SplitTarget::Both);
            first.push((sender.clone(), one));
            second.push((sender, other));
        }
        let [one, other] = manners;
        [
            self.member(who, first, one, true),
            self.member(who, second, other, true),
        ]
    }

    async fn register(&self, who: usize) -> Vec<Simulated> {
        let control = self.oracle.control(self.keys[who].clone());
        let mut ends = Vec::new();
        for channel in Channel::ALL {
            ends.push(control.register(channel as u64, RATE).await.expect("the network runs"));
        }
        ends
    }

    fn member(&self, who: usize, ends: Vec<Simulated>, manner: Manner, deaf: bool) -> Member {
        let peers = Peers {
            manager: self.oracle.manager(),
            control: self.oracle.control(self.keys[who].clone()),
            deaf,
        };
        Member { ends, manner, peers }
    }

    /// These validators' keys.
    pub(super) fn keys(&self, who: &[usize]) -> Vec<PublicKey> {
        who.iter().map(|who| self.keys[*who].clone()).collect()
    }
}

fn pairs(one: &[usize], other: &[usize]) -> Vec<(usize, usize)> {
    let there = one.iter().flat_map(|a| other.iter().map(|b| (*a, *b)));
    there.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

/// A validator's place in the network.
pub(super) struct Member {
    ends: Vec<Simulated>,
    manner: Manner,
    peers: Peers,
}

impl Wired for Member {
    type Sender = Sender;
    type Receiver = Receiver;
    type Peers = Peers;

    fn open(self) -> ([Ends<Self>; CHANNELS], Peers) {
        let wrap = |((inner, frames), channel)| {
            let sender = Sender::new(inner, channel, self.manner.clone());
            (sender, Receiver { frames, channel })
        };
        let ends: Vec<Ends<Self>> = self.ends.into_iter().zip(Channel::ALL).map(wrap).collect();
        let ends = ends
            .try_into()
            .unwrap_or_else(|_| panic!("one pair of ends per channel"));
        (ends, self.peers)
    }
}

/// Hears as the simulation does, with a node's queues.
#[derive(Debug)]
pub(super) struct Receiver {
    frames: simulated::Receiver<PublicKey>,
    channel: Channel,
}

impl P2pReceiver for Receiver {
    type Error = simulated::Error;
    type PublicKey = PublicKey;

    async fn recv(&mut self) -> Result<Message<PublicKey>, simulated::Error> {
        self.frames.recv().await
    }

    fn capacity(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.channel.frames_waiting_max()).expect("some wait")
    }
}

/// The validator set and the blocker.
#[derive(Clone)]
pub(super) struct Peers {
    manager: simulated::Manager<PublicKey, Context>,
    control: simulated::Control<PublicKey, Context>,
    /// A liar blocks nobody.
    deaf: bool,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.manager.fmt(f)
    }
}

impl Provider for Peers {
    type PublicKey = PublicKey;

    async fn peer_set(&mut self, id: u64) -> Option<TrackedPeers<PublicKey>> {
        self.manager.peer_set(id).await
    }

    async fn subscribe(&mut self) -> PeerSetSubscription<PublicKey> {
        self.manager.subscribe().await
    }
}

impl Blocker for Peers {
    type PublicKey = PublicKey;

    fn block(&mut self, peer: PublicKey) -> Feedback {
        match self.deaf {
            true => Feedback::Ok,
            false => self.control.block(peer),
        }
    }

    fn blocked(&mut self) -> BlockedSubscription<PublicKey> {
        self.control.blocked()
    }
}
