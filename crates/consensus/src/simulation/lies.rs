//! What a liar says instead of what the engine told it to.

use super::{
    ballots::{SignedVote, vote_of},
    manner::Wire,
};
use crate::{block::Block, channel::Channel, keys::hash_of};
use atoll_protocol::Hash;
use commonware_codec::{Copying, DecodeExt, Encode};
use commonware_consensus::simplex::{
    scheme::ed25519::Scheme,
    types::{Finalize, Notarize, Proposal, Vote},
};
use commonware_cryptography::{Blake3, Digestible, Hasher as _, blake3::Digest};
use commonware_p2p::{Recipients, Sender as _};
use commonware_runtime::IoBuf;
use commonware_utils::sync::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// How one lies.
#[derive(Clone)]
pub(super) enum Lie {
    /// It does not.
    None,
    /// It votes for a second block that does not exist, too.
    Forge(Arc<Scheme>),
    /// It proposes blocks whose state is wrong, and votes for nothing else.
    Spoil(Arc<Spoiler>),
}

impl Lie {
    /// What leaves for one frame of the engine's.
    pub(super) fn say(&self, channel: Channel, frame: IoBuf, wire: &Wire) -> Vec<IoBuf> {
        match (self, channel) {
            (Self::Forge(scheme), Channel::Votes) => {
                let forged = forge(scheme, vote_of(frame.as_ref()));
                [Some(frame), forged].into_iter().flatten().collect()
            }
            (Self::Spoil(spoiler), Channel::Votes) => spoiler.vote(frame, wire),
            (Self::Spoil(spoiler), Channel::Blocks) => vec![spoiler.block(&frame)],
            _ => vec![frame],
        }
    }
}

/// The same kind of vote for a block that does not exist.
fn forge(scheme: &Scheme, vote: SignedVote) -> Option<IoBuf> {
    let other = |proposal: &Proposal<Digest>| Blake3::hash(&[proposal.payload.as_ref()]);
    match vote {
        Vote::Notarize(vote) => Some(notarize(scheme, &vote.proposal, other(&vote.proposal))),
        Vote::Finalize(vote) => {
            let payload = other(&vote.proposal);
            let proposal = Proposal::new(vote.proposal.round, vote.proposal.parent, payload);
            Finalize::sign(scheme, proposal).map(|vote| frame_of(Vote::Finalize(vote)))
        }
        Vote::Nullify(_) => None,
    }
}

/// A vote for `payload` where the engine voted for another one.
fn notarize(scheme: &Scheme, proposal: &Proposal<Digest>, payload: Digest) -> IoBuf {
    let proposal = Proposal::new(proposal.round, proposal.parent, payload);
    frame_of(Vote::Notarize(Notarize::sign(scheme, proposal).expect("a validator")))
}

fn frame_of(vote: SignedVote) -> IoBuf {
    IoBuf::from(vote.encode())
}

/// Makes a wrong block of every own one.
pub(super) struct Spoiler {
    scheme: Scheme,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// From the right to the wrong block.
    spoiled: BTreeMap<Digest, Digest>,
    /// Votes for blocks that have not left yet.
    waiting: BTreeMap<Digest, (Proposal<Digest>, Wire)>,
}

impl Spoiler {
    pub(super) fn new(scheme: Scheme) -> Arc<Self> {
        let known = Mutex::default();
        Arc::new(Self { scheme, known })
    }

    /// The wrong blocks so far.
    pub(super) fn spoiled(&self) -> Vec<Hash> {
        self.known.lock().spoiled.values().map(hash_of).collect()
    }

    fn block(&self, frame: &IoBuf) -> IoBuf {
        let right = Block::decode(Copying(frame.as_ref())).expect("what the engine sends on the channel of blocks");
        let mut wrong = right.ledger().clone();
        wrong.header.state = Hash([7; 32]);
        let wrong = Block::new(wrong);
        let mut known = self.known.lock();
        known.spoiled.insert(right.digest(), wrong.digest());
        if let Some((proposal, mut votes)) = known.waiting.remove(&right.digest()) {
            votes.send(Recipients::All, notarize(&self.scheme, &proposal, wrong.digest()), true);
        }
        IoBuf::from(wrong.encode())
    }

    fn vote(&self, frame: IoBuf, votes: &Wire) -> Vec<IoBuf> {
        let vote = match vote_of(frame.as_ref()) {
            Vote::Notarize(vote) => vote,
            Vote::Nullify(_) => return vec![frame],
            Vote::Finalize(_) => return Vec::new(),
        };
        let mut known = self.known.lock();
        match known.spoiled.get(&vote.proposal.payload) {
            Some(wrong) => vec![notarize(&self.scheme, &vote.proposal, *wrong)],
            None => {
                let waiting = (vote.proposal.clone(), votes.clone());
                known.waiting.insert(vote.proposal.payload, waiting);
                Vec::new()
            }
        }
    }
}
