//! Content-addressed blobs: iroh-blobs' store on disk, fetched with verified streaming.
//!
//! Nothing is kept inside the store's database: every blob is a plain file under `blobs/data`, named by
//! its BLAKE3 hash, so that an audit can read it without the store, and the store's index can be made again from
//! the files. What is damaged is fetched again.

mod gate;
mod index;
mod mend;

pub(crate) use self::index::{damage as index_damage, fits_its_name, named};
pub use self::mend::Mended;
use self::mend::Mending;
use self::{index::whole_file, mend::Others};
use crate::folder::Folder;
use atoll_consensus::says_full;
use atoll_protocol::{Hash, PeerId, Round};
use bytes::Bytes;
use futures::StreamExt as _;
use iroh_blobs::{
    BlobFormat, HashAndFormat,
    api::Store,
    store::{GcConfig, fs::FsStore},
};
use std::{sync::Arc, time::Duration};
use thiserror::Error;
use tokio::sync::watch;

/// How often blobs that nothing names are collected.
const COLLECT_EVERY: Duration = Duration::from_secs(60);

/// Why a blob is not here.
#[derive(Debug, Error)]
pub enum BlobsError {
    /// The store refuses.
    #[error("the blob store in {folder} cannot be used: {cause}{hint}", hint = hint(cause))]
    Store {
        /// Its folder.
        folder: String,
        /// What it said.
        cause: String,
    },
    /// It was here, cannot be read any more, and nobody else has it.
    #[error(
        "{path} is damaged or missing ({cause}), and nobody who answers has this blob; `atoll repair` says what is lost"
    )]
    Damaged {
        /// The file.
        path: String,
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

fn hint(cause: &str) -> &'static str {
    match says_full(cause) {
        true => ". The disk is full: free some space and start again; what was written before is intact",
        false => ". `atoll repair` looks for damage",
    }
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
    /// A file that was found when the index, which knew why, was lost: as long as the run.
    Recovered,
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
            Self::Recovered => format!("recovered/{hash}"),
            Self::Own => "own".to_string(),
        }
    }
}

/// The store of one node.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: FsStore,
    folder: Folder,
    mending: Arc<Mending>,
    /// Whether there is room for what is fetched.
    may_fetch: watch::Sender<bool>,
}

pub(crate) fn native(hash: &Hash) -> iroh_blobs::Hash {
    iroh_blobs::Hash::from_bytes(hash.0)
}

pub(crate) fn raw(hash: &Hash) -> HashAndFormat {
    HashAndFormat {
        hash: native(hash),
        format: BlobFormat::Raw,
    }
}

impl Blobs {
    /// Opens the store in `folder`, or makes it. An index that is damaged or missing is made again.
    pub async fn open(folder: &Folder) -> Result<Self, BlobsError> {
        Self::open_collecting(folder, Some(COLLECT_EVERY)).await
    }

    /// Opens the store for a short while: nothing is collected.
    pub async fn open_briefly(folder: &Folder) -> Result<Self, BlobsError> {
        Self::open_collecting(folder, None).await
    }

    async fn open_collecting(folder: &Folder, interval: Option<Duration>) -> Result<Self, BlobsError> {
        let collect = interval.map(|interval| GcConfig {
            interval,
            add_protected: None,
        });
        let (store, again) = index::open(folder, collect).await?;
        Ok(Self {
            store,
            folder: folder.clone(),
            mending: Arc::new(Mending::after(again)),
            may_fetch: watch::Sender::new(true),
        })
    }

    /// The folder that it is in.
    pub(crate) fn place(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Whether anything that is not here may be fetched. Until then fetching waits.
    pub(crate) fn allow_fetching(&self, allowed: bool) {
        self.may_fetch
            .send_if_modified(|may| std::mem::replace(may, allowed) != allowed);
    }

    /// Waits until anything that is not here may be fetched.
    pub(crate) async fn may_fetch(&self) {
        let _ = self.may_fetch.subscribe().wait_for(|may| *may).await; // its sender is ours
    }

    /// Whether somebody may have what is damaged here.
    pub(crate) fn has_others(&self) -> bool {
        self.mending.has_others()
    }

    /// Collects at once what nothing names. Nobody else may have the store open.
    pub async fn sweep(folder: &Folder) -> Result<(), BlobsError> {
        index::sweep(folder).await
    }

    pub(crate) fn failed(&self, error: impl std::fmt::Display) -> BlobsError {
        index::failed(&self.folder, error)
    }

    /// The store itself, for the protocol handler.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Adds `bytes` under their hash and keeps them for `keep`.
    pub async fn add(&self, bytes: impl Into<Bytes>, keep: &Keep) -> Result<Hash, BlobsError> {
        let bytes = bytes.into();
        let hash = Hash::of_blob(&bytes);
        let added = self.store.blobs().add_bytes(bytes).temp_tag().await;
        let added = added.map_err(|error| self.failed(error))?;
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
        self.store.sync_db().await.map_err(|error| self.failed(error))
    }

    /// Keeps `hash`, which need not be here yet.
    pub async fn keep(&self, hash: &Hash, keep: &Keep) -> Result<(), BlobsError> {
        let set = self.store.tags().set(keep.tag(hash), raw(hash)).await;
        set.map_err(|error| self.failed(error))
    }

    /// Whether all of `hash` is here and can be read.
    pub async fn has(&self, hash: &Hash) -> Result<bool, BlobsError> {
        Ok(!self.mending.is_lost(hash) && self.is_complete(hash).await?)
    }

    /// Whether the index says that all of `hash` is here.
    pub(crate) async fn is_complete(&self, hash: &Hash) -> Result<bool, BlobsError> {
        let has = self.store.blobs().has(native(hash)).await;
        has.map_err(|error| self.failed(error))
    }

    /// The bytes of a blob that is here. If it is damaged, it is fetched again from whoever has it.
    pub async fn read(&self, hash: &Hash) -> Result<Bytes, BlobsError> {
        match self.store.blobs().get_bytes(native(hash)).await {
            Ok(bytes) => Ok(bytes),
            Err(error) => self.mend(hash, error.to_string()).await,
        }
    }

    /// The bytes of a blob if it is here; none also if it is damaged and nobody has it now, which is told by
    /// [`Self::mended`].
    pub async fn look(&self, hash: &Hash) -> Result<Option<Bytes>, BlobsError> {
        match self.is_complete(hash).await? {
            false => Ok(None),
            true => match self.read(hash).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(BlobsError::Damaged { .. }) => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    /// Lets go of the contributions of rounds before `first`, and of θs before it; the store collects them later.
    pub async fn collect(&self, first: Round) -> Result<(), BlobsError> {
        for kind in ["theta", "contribution", "matrix"] {
            let (from, to) = (format!("{kind}/"), format!("{kind}/{:010}", first.0));
            let deleted = self.store.tags().delete_range(from..to).await;
            deleted.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Of θs, or replicas' states, of rounds before `first`, only those stay for which `stays` is true.
    pub(crate) async fn thin(
        &self,
        kind: Thinned,
        first: Round,
        stays: impl Fn(Round, &Hash) -> bool,
    ) -> Result<(), BlobsError> {
        let (from, to) = (format!("{}/", kind.word()), format!("{}/{:010}", kind.word(), first.0));
        let mut tags = self
            .store
            .tags()
            .list_range(from..to)
            .await
            .map_err(|error| self.failed(error))?;
        let mut gone = Vec::new();
        while let Some(tag) = tags.next().await {
            let tag = tag.map_err(|error| self.failed(error))?;
            let round = std::str::from_utf8(tag.name.as_ref())
                .ok()
                .and_then(|name| name.split('/').nth(1)?.parse().ok());
            let stays = round.is_some_and(|round| stays(Round(round), &Hash(*tag.hash.as_bytes())));
            if !stays {
                gone.push(tag.name);
            }
        }
        for name in gone {
            let deleted = self.store.tags().delete(name).await;
            deleted.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// How many tags there are under `prefix`.
    pub async fn kept(&self, prefix: &str) -> Result<usize, BlobsError> {
        let tags = self.store.tags().list_prefix(prefix).await;
        Ok(tags.map_err(|error| self.failed(error))?.count().await)
    }

    /// Writes everything out and closes the store. A running node's store is closed with its network.
    pub async fn shutdown(&self) -> Result<(), BlobsError> {
        self.store.shutdown().await.map_err(|error| self.failed(error))
    }
}

/// What is let go one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thinned {
    /// θ and momentum.
    Thetas,
    /// States of replicas.
    States,
}

impl Thinned {
    fn word(self) -> &'static str {
        match self {
            Self::Thetas => "theta",
            Self::States => "state",
        }
    }
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
