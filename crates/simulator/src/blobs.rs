//! Contributions' blobs: what they are, and who holds them.

use atoll_outer::Contribution;
use atoll_protocol::{CheckReason, Hash, Round};
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// A blob's number.
pub(crate) type BlobId = u32;

/// One contribution.
pub(crate) struct Blob {
    pub(crate) hash: Hash,
    pub(crate) owner: u32,
    pub(crate) round: Round,
    pub(crate) bytes: Vec<u8>,
    /// Root of the θ that it was made from.
    pub(crate) base: Hash,
    /// What reading it in full gave, against that θ.
    pub(crate) read: Result<Contribution, CheckReason>,
    holders: Vec<u64>,
}

/// All of them. A blob that nobody keeps any more stays: it is small here.
#[derive(Default)]
pub(crate) struct Blobs {
    all: Vec<Blob>,
    by_hash: HashMap<Hash, BlobId, BuildHasherDefault<First8>>,
}

/// Takes the first eight bytes of what is a hash already.
#[derive(Default)]
struct First8(u64);

impl Hasher for First8 {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
    fn write_usize(&mut self, _: usize) {} // the array's length
}

impl Blobs {
    /// Adds a blob that `owner` of `nodes` has made, or finds the one that is there.
    pub(crate) fn add(&mut self, nodes: u32, blob: impl FnOnce() -> Blob, hash: Hash) -> BlobId {
        if let Some(id) = self.by_hash.get(&hash) {
            return *id;
        }
        let id = self.all.len() as BlobId;
        let mut blob = blob();
        blob.holders = vec![0; nodes.div_ceil(64) as usize];
        self.all.push(blob);
        self.by_hash.insert(hash, id);
        id
    }

    /// How many there are: the number that the next one gets.
    pub(crate) fn count(&self) -> BlobId {
        self.all.len() as BlobId
    }

    pub(crate) fn find(&self, hash: &Hash) -> Option<BlobId> {
        self.by_hash.get(hash).copied()
    }

    pub(crate) fn get(&self, id: BlobId) -> &Blob {
        &self.all[id as usize]
    }

    pub(crate) fn is_held(&self, id: BlobId, node: u32) -> bool {
        self.all[id as usize].holders[(node / 64) as usize] >> (node % 64) & 1 == 1
    }

    pub(crate) fn hold(&mut self, id: BlobId, node: u32, holds: bool) {
        let word = &mut self.all[id as usize].holders[(node / 64) as usize];
        let bit = 1 << (node % 64);
        if holds {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }

    /// Blobs made for rounds from `first` on, newest first.
    pub(crate) fn since(&self, first: Round) -> impl Iterator<Item = BlobId> + '_ {
        let blobs = self.all.iter().enumerate().rev();
        blobs
            .take_while(move |(_, blob)| blob.round >= first)
            .map(|(id, _)| id as BlobId)
    }

    /// How many of the blobs of rounds from `first` on `node` holds.
    pub(crate) fn count_held(&self, node: u32, first: Round) -> usize {
        self.since(first).filter(|id| self.is_held(*id, node)).count()
    }
}

impl Blob {
    pub(crate) fn new(
        (owner, round): (u32, Round),
        bytes: Vec<u8>,
        base: Hash,
        read: impl FnOnce(Vec<u8>) -> Result<Contribution, CheckReason>,
    ) -> Self {
        Self {
            hash: Hash::of_blob(&bytes),
            owner,
            round,
            base,
            read: read(bytes.clone()),
            bytes,
            holders: Vec::new(),
        }
    }
}
