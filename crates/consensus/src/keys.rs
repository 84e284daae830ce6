//! Our ids in the engine's types and back: a peer is an Ed25519 key, a block is its header's hash.

use atoll_protocol::{Hash, Keypair, PeerId, limits::VALIDATORS_MAX};
use commonware_codec::{Copying, DecodeExt};
use commonware_consensus::simplex::scheme::ed25519::Scheme;
use commonware_cryptography::{blake3::Digest, ed25519};
use commonware_utils::ordered::Set;
use std::collections::BTreeMap;
use thiserror::Error;

/// What every vote's signature begins with, before the genesis hash.
const NAMESPACE: &[u8] = b"atoll-consensus-1";

/// A validator set that cannot decide anything.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ValidatorsError {
    /// Nobody is in it.
    #[error("the validator set is empty")]
    Empty,
    /// More than consensus is made for.
    #[error("{got} validators are named; consensus carries at most {VALIDATORS_MAX}")]
    TooMany {
        /// How many there are.
        got: usize,
    },
    /// The same key twice.
    #[error("validator {0} is named twice")]
    Twice(PeerId),
    /// Not a point of the curve.
    #[error("validator {0} is not an Ed25519 public key")]
    NotAKey(PeerId),
}

/// The validators, in both worlds' types. Both order them by the bytes of the key.
#[derive(Debug, Clone)]
pub(crate) struct Validators {
    pub(crate) set: Set<ed25519::PublicKey>,
    pub(crate) keys: BTreeMap<PeerId, ed25519::PublicKey>,
}

impl Validators {
    pub(crate) fn new(peers: &[PeerId]) -> Result<Self, ValidatorsError> {
        let got = peers.len();
        if got > VALIDATORS_MAX {
            return Err(ValidatorsError::TooMany { got });
        }
        let mut keys = BTreeMap::new();
        for peer in peers {
            let key = ed25519::PublicKey::decode(Copying(&peer.0)).map_err(|_| ValidatorsError::NotAKey(*peer))?;
            if keys.insert(*peer, key).is_some() {
                return Err(ValidatorsError::Twice(*peer));
            }
        }
        if keys.is_empty() {
            return Err(ValidatorsError::Empty);
        }
        let set = Set::from_iter_dedup(keys.values().cloned());
        Ok(Self { set, keys })
    }

    /// How many they are; [`VALIDATORS_MAX`] keeps it small.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.set.len()).unwrap_or(u32::MAX)
    }

    /// Who checks votes and certificates of the run with this genesis hash.
    pub(crate) fn verifier(&self, genesis: &Hash) -> Scheme {
        Scheme::verifier(&namespace(genesis), self.set.clone())
    }

    /// Who signs votes too; none if the key is not a validator's.
    pub(crate) fn signer(&self, genesis: &Hash, keypair: &Keypair) -> Option<Scheme> {
        let key = ed25519::PrivateKey::decode(Copying(&keypair.seed())).ok()?;
        Scheme::signer(&namespace(genesis), self.set.clone(), key)
    }
}

/// Votes of one run say nothing in another.
fn namespace(genesis: &Hash) -> Vec<u8> {
    [NAMESPACE, genesis.as_bytes()].concat()
}

pub(crate) fn peer_of(key: &ed25519::PublicKey) -> PeerId {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(key.as_ref());
    PeerId(bytes)
}

pub(crate) fn digest_of(hash: Hash) -> Digest {
    Digest(hash.0)
}

pub(crate) fn hash_of(digest: &Digest) -> Hash {
    Hash(digest.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use commonware_cryptography::Signer;

    fn peers(n: u8) -> Vec<PeerId> {
        (1..=n).map(|i| Keypair::from_seed(&[i; 32]).peer()).collect()
    }

    #[test]
    fn one_seed_is_one_identity_in_both_worlds() {
        let keypair = Keypair::from_seed(&[7; 32]);
        let key = ed25519::PrivateKey::decode(Copying(&keypair.seed())).expect("32 bytes");
        assert_eq!(peer_of(&key.public_key()), keypair.peer());
        let validators = Validators::new(&[keypair.peer()]).expect("a key");
        assert!(validators.signer(&Hash::ZERO, &keypair).is_some());
        let stranger = Keypair::from_seed(&[8; 32]);
        assert!(validators.signer(&Hash::ZERO, &stranger).is_none());
    }

    #[test]
    fn both_worlds_order_validators_alike() {
        let mut peers = peers(16);
        let validators = Validators::new(&peers).expect("16 keys");
        peers.sort();
        let ordered: Vec<_> = validators.set.iter().map(peer_of).collect();
        assert_eq!(ordered, peers);
        assert_eq!(validators.count(), 16);
    }

    #[test]
    fn impossible_sets_are_refused() {
        let a = peers(1)[0];
        // y = 2 has no x on the curve.
        let off = PeerId(std::array::from_fn(|i| if i == 0 { 2 } else { 0 }));
        for (set, error) in [
            (vec![], ValidatorsError::Empty),
            (vec![a, a], ValidatorsError::Twice(a)),
            (vec![a, off], ValidatorsError::NotAKey(off)),
            (vec![a; 101], ValidatorsError::TooMany { got: 101 }),
        ] {
            assert_eq!(Validators::new(&set).map(|v| v.count()), Err(error));
        }
    }
}
