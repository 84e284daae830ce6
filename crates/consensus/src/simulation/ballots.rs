//! Every vote that left a validator, over all its lives: who has contradicted itself?

use atoll_protocol::PeerId;
use commonware_codec::{Copying, DecodeExt, Encode};
use commonware_consensus::{
    Viewable,
    simplex::{
        scheme::ed25519::Scheme,
        types::{Proposal, Vote},
    },
};
use commonware_cryptography::blake3::Digest;
use commonware_utils::sync::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(super) type SignedVote = Vote<Scheme, Digest>;

/// What one validator has said of one view.
#[derive(Debug, Default)]
struct Ballot {
    notarized: BTreeSet<Vec<u8>>,
    finalized: BTreeSet<Vec<u8>>,
    nullified: bool,
}

impl Ballot {
    /// The engine's rule: one proposal a view, and nobody gives up a view that it helped to finalize.
    fn contradicts_itself(&self) -> bool {
        let proposals: BTreeSet<_> = self.notarized.union(&self.finalized).collect();
        proposals.len() > 1 || (self.nullified && !self.finalized.is_empty())
    }
}

/// The votes of all validators. It stands outside of every runtime, so no crash loses it.
#[derive(Debug, Clone, Default)]
pub(super) struct Ballots(Arc<Mutex<BTreeMap<PeerId, BTreeMap<u64, Ballot>>>>);

impl Ballots {
    pub(super) fn record(&self, peer: PeerId, vote: &SignedVote) {
        let bytes = |proposal: &Proposal<Digest>| proposal.encode().to_vec();
        let mut all = self.0.lock();
        let ballot = all.entry(peer).or_default().entry(vote.view().get()).or_default();
        match vote {
            Vote::Notarize(vote) => drop(ballot.notarized.insert(bytes(&vote.proposal))),
            Vote::Finalize(vote) => drop(ballot.finalized.insert(bytes(&vote.proposal))),
            Vote::Nullify(_) => ballot.nullified = true,
        }
    }

    /// Views in which `peer` has voted.
    pub(super) fn views(&self, peer: &PeerId) -> usize {
        self.0.lock().get(peer).map_or(0, BTreeMap::len)
    }

    /// Views in which `peer` has said two things.
    pub(super) fn contradictions(&self, peer: &PeerId) -> Vec<u64> {
        let all = self.0.lock();
        let ballots = all.get(peer).into_iter().flatten();
        ballots
            .filter(|(_, ballot)| ballot.contradicts_itself())
            .map(|(view, _)| *view)
            .collect()
    }
}

pub(super) fn vote_of(frame: &[u8]) -> SignedVote {
    SignedVote::decode(Copying(frame)).expect("what the engine sends on the channel of votes")
}
