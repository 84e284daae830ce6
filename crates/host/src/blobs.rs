//! Content-addressed blobs: iroh-blobs' store on disk, fetched with verified streaming.
//!
//! Nothing is kept inside the store's database: every blob is a plain file under `blobs/data`, named by
//! its BLAKE3 hash, so that an audit can read it without the store.

use crate::folder::Folder;
use atoll_protocol::{Hash, PeerId, Round};
use bytes::Bytes;
use futures::StreamExt as _;
use iroh_blobs::{
    BlobFormat, HashAndFormat,
    api::Store,
    provider::events::{AbortReason, ConnectMode, EventMask, EventSender, ObserveMode, ProviderMessage, RequestMode},
    store::{
        GcConfig,
        fs::{
            FsStore,
            options::{InlineOptions, Options},
        },
    },
};
use std::{collections::BTreeSet, time::Duration};
use thiserror::Error;

/// How often blobs that nothing names are collected.
const COLLECT_EVERY: Duration = Duration::from_secs(60);

/// Why a blob is not here.
#[derive(Debug, Error)]
pub enum BlobsError {
    /// The store refuses.
    #[error("the blob store cannot be written: {0}. If the disk is full, free some space and start again")]
    Store(String),
    /// It was here and cannot be read any more.
    #[error(
        "blob {hash} on this disk is missing or damaged ({cause}); stop the node, move its blobs folder away \
         and start again: the others have what is in it"
    )]
    Damaged {
        /// The blob.
        hash: Hash,
        /// What the store said.
        cause: String,
    },
    /// A peer or the link to it failed.
    #[error("{0}")]
    Peer(String),
    /// Nobody served it.
    #[error("blob {} was not served by any of {tried} peers; last: {last}", hash.short())]
    NotServed {
        /// The blob.
        hash: Hash,
        /// How many peers were asked.
        tried: usize,
        /// What the last one said.
        last: String,
    },
    /// It is larger or smaller than allowed.
    #[error("blob {} has {got} bytes; {allowed} are allowed", hash.short())]
    Size {
        /// The blob.
        hash: Hash,
        /// Its verified size.
        got: u64,
        /// What is allowed.
        allowed: String,
    },
}

fn store_error(error: impl std::fmt::Display) -> BlobsError {
    BlobsError::Store(error.to_string())
}

/// Which sizes a fetch accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// This one.
    Exactly(u64),
    /// Up to this.
    AtMost(u64),
}

impl Size {
    fn allows(self, bytes: u64) -> bool {
        match self {
            Self::Exactly(size) => bytes == size,
            Self::AtMost(size) => bytes <= size,
        }
    }

    /// Refuses a blob of another size.
    pub(crate) fn check(self, hash: &Hash, got: u64) -> Result<(), BlobsError> {
        match self.allows(got) {
            true => Ok(()),
            false => Err(BlobsError::Size {
                hash: *hash,
                got,
                allowed: self.to_string(),
            }),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(size) => write!(f, "exactly {size}"),
            Self::AtMost(size) => write!(f, "at most {size}"),
        }
    }
}

/// Why a blob is kept. Blobs that no reason names are collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// Corpus, tokenizer: as long as the run.
    Run(&'static str),
    /// θ at the start of a round.
    Theta(Round),
    /// Inner products and weights of a round's contributions.
    Matrix(Round),
    /// A contribution to a round.
    Contribution(Round, PeerId),
    /// A replica's state before or after a round.
    State(Round),
    /// This node's state after its newest contribution, however long ago that was.
    OwnState,
    /// This node's newest contribution. Until the next one it stays, however many rounds are collected: it
    /// may have to be added back after a crash.
    Own,
}

impl Keep {
    fn tag(&self, hash: &Hash) -> String {
        match self {
            Self::Run(what) => format!("run/{what}/{hash}"),
            Self::Theta(round) => format!("theta/{:010}/{hash}", round.0),
            Self::Matrix(round) => format!("matrix/{:010}/{hash}", round.0),
            Self::Contribution(round, peer) => format!("contribution/{:010}/{peer}", round.0),
            Self::State(round) => format!("state/{:010}/{hash}", round.0),
            Self::OwnState => "own-state".to_string(),
            Self::Own => "own".to_string(),
        }
    }
}

/// The store of one node.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: FsStore,
}

pub(crate) fn native(hash: &Hash) -> iroh_blobs::Hash {
    iroh_blobs::Hash::from_bytes(hash.0)
}

impl Blobs {
    /// Opens the store in `folder`, or makes it.
    pub async fn open(folder: &Folder) -> Result<Self, BlobsError> {
        Self::open_collecting(folder, Some(COLLECT_EVERY)).await
    }

    /// Opens the store for a short while: nothing is collected.
    pub async fn open_briefly(folder: &Folder) -> Result<Self, BlobsError> {
        Self::open_collecting(folder, None).await
    }

    async fn open_collecting(folder: &Folder, interval: Option<Duration>) -> Result<Self, BlobsError> {
        let root = folder.blobs();
        let mut options = Options::new(&root);
        options.inline = InlineOptions::NO_INLINE;
        options.gc = interval.map(|interval| GcConfig {
            interval,
            add_protected: None,
        });
        let store = FsStore::load_with_opts(root.join("blobs.db"), options)
            .await
            .map_err(store_error)?;
        Ok(Self { store })
    }

    /// The store itself, for the protocol handler.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Adds `bytes` under their hash and keeps them for `keep`.
    pub async fn add(&self, bytes: impl Into<Bytes>, keep: &Keep) -> Result<Hash, BlobsError> {
        let bytes = bytes.into();
        let hash = Hash::of_blob(&bytes);
        let added = self
            .store
            .blobs()
            .add_bytes(bytes)
            .temp_tag()
            .await
            .map_err(store_error)?;
        debug_assert_eq!(added.hash().as_bytes(), hash.as_bytes());
        self.keep(&hash, keep).await?;
        Ok(hash)
    }

    /// Adds `bytes` and returns when they and the reason to keep them survive a crash. The store answers
    /// [`Self::add`] before its index is on disk.
    pub async fn add_durably(&self, bytes: impl Into<Bytes>, keep: &Keep) -> Result<Hash, BlobsError> {
        let hash = self.add(bytes, keep).await?;
        self.sync().await?;
        Ok(hash)
    }

    /// Returns when everything that was added or fetched, and why it is kept, survives a crash.
    pub async fn sync(&self) -> Result<(), BlobsError> {
        self.store.sync_db().await.map_err(store_error)
    }

    /// Keeps `hash`, which need not be here yet.
    pub async fn keep(&self, hash: &Hash, keep: &Keep) -> Result<(), BlobsError> {
        let content = HashAndFormat {
            hash: native(hash),
            format: BlobFormat::Raw,
        };
        self.store
            .tags()
            .set(keep.tag(hash), content)
            .await
            .map_err(store_error)
    }

    /// Whether all of `hash` is here.
    pub async fn has(&self, hash: &Hash) -> Result<bool, BlobsError> {
        self.store.blobs().has(native(hash)).await.map_err(store_error)
    }

    /// The bytes of a blob that is here.
    pub async fn read(&self, hash: &Hash) -> Result<Bytes, BlobsError> {
        let read = self.store.blobs().get_bytes(native(hash)).await;
        read.map_err(|error| BlobsError::Damaged {
            hash: *hash,
            cause: error.to_string(),
        })
    }

    /// Lets go of what belongs to rounds before `first`; the store collects it later.
    pub async fn collect(&self, first: Round) -> Result<(), BlobsError> {
        for kind in ["theta", "contribution", "matrix"] {
            let (from, to) = (format!("{kind}/"), format!("{kind}/{:010}", first.0));
            self.store.tags().delete_range(from..to).await.map_err(store_error)?;
        }
        Ok(())
    }

    /// Lets go of replicas' states of rounds before `first`.
    pub async fn collect_states(&self, first: Round) -> Result<(), BlobsError> {
        let (from, to) = ("state/".to_string(), format!("state/{:010}", first.0));
        self.store.tags().delete_range(from..to).await.map_err(store_error)?;
        Ok(())
    }

    /// How many tags there are under `prefix`.
    pub async fn kept(&self, prefix: &str) -> Result<usize, BlobsError> {
        let tags = self.store.tags().list_prefix(prefix).await.map_err(store_error)?;
        Ok(tags.count().await)
    }

    /// Writes everything out and closes the store. A running node's store is closed with its network.
    pub async fn shutdown(&self) -> Result<(), BlobsError> {
        self.store.shutdown().await.map_err(store_error)
    }
}

/// A gate for the blob protocol: only `members` may connect, nobody may push.
pub fn gate(members: BTreeSet<PeerId>) -> EventSender {
    let mask = EventMask {
        connected: ConnectMode::Intercept,
        push: RequestMode::Disabled,
        observe: ObserveMode::None,
        ..EventMask::DEFAULT
    };
    let (sender, mut messages) = EventSender::channel(64, mask);
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            if let ProviderMessage::ClientConnected(request) = message {
                let peer = request.endpoint_id.map(|id| PeerId(*id.as_bytes()));
                let known = peer.is_some_and(|peer| members.contains(&peer));
                let verdict = if known { Ok(()) } else { Err(AbortReason::Permission) };
                let _ = request.tx.send(verdict).await; // the peer may be gone
            }
        }
    });
    sender
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test(flavor = "multi_thread")]
    async fn old_rounds_are_collected_and_the_rest_stays() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::at(temporary.path());
        let blobs = Blobs::open_collecting(&folder, Some(Duration::from_millis(50)))
            .await
            .unwrap();
        let mut hashes = Vec::new();
        for round in 0..4u32 {
            let bytes = |kind: u8| vec![kind + round as u8; 30_000];
            hashes.push(blobs.add(bytes(0), &Keep::Theta(Round(round))).await.unwrap());
            hashes.push(
                blobs
                    .add(bytes(100), &Keep::Contribution(Round(round), PeerId([1; 32])))
                    .await
                    .unwrap(),
            );
        }
        let corpus = blobs.add(vec![9; 30_000], &Keep::Run("shard")).await.unwrap();
        let own = blobs
            .add(vec![8; 30_000], &Keep::Contribution(Round(1), PeerId([2; 32])))
            .await
            .unwrap();
        blobs.keep(&own, &Keep::Own).await.unwrap();
        blobs.collect(Round(2)).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while hashes[..4].iter().any(|hash| folder.blob(hash).exists()) {
            assert!(Instant::now() < deadline, "old blobs are still there after a minute");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for hash in hashes[4..].iter().chain([&corpus, &own]) {
            assert_eq!(Hash::of_blob(&blobs.read(hash).await.unwrap()), *hash);
            assert_eq!(Hash::of_blob(&std::fs::read(folder.blob(hash)).unwrap()), *hash);
        }
        blobs.shutdown().await.unwrap();
    }
}
