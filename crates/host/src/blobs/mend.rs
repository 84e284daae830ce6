//! A blob that is damaged here is fetched again from the others, while the node runs.

use super::{Blobs, BlobsError, native, whole_file};
use crate::fetch::{PROVIDER_WAIT, peer_error, transfer_limit, within};
use atoll_protocol::{Hash, PeerId, limits::BLOB_BYTES_MAX};
use bytes::Bytes;
use iroh::{Endpoint, EndpointAddr, EndpointId};
use iroh_blobs::get::request::{get_blob, get_verified_size};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{Mutex, OnceLock, PoisonError},
};

/// What was found damaged, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mended {
    /// The file.
    pub path: String,
    /// What was wrong with it.
    pub cause: String,
    /// Where what is there now comes from; none while nobody has it.
    pub from: Option<String>,
}

impl Mended {
    /// As an event.
    pub fn event(&self) -> Value {
        let Self { path, cause, from } = self;
        let (event, text) = match from {
            Some(from) => (
                "mended",
                format!("{path} was damaged or missing ({cause}) and was made again from {from}"),
            ),
            None => (
                "damaged",
                format!(
                    "{path} is damaged or missing ({cause}), and nobody who answers has this blob now; it is asked for \
                     again when it is needed"
                ),
            ),
        };
        json!({ "event": event, "path": path, "cause": cause, "from": from, "text": text })
    }
}

/// Who may have what is damaged here.
#[derive(Debug)]
pub(crate) struct Others {
    endpoint: Endpoint,
    members: Vec<EndpointId>,
}

impl Others {
    pub(crate) fn new(endpoint: &Endpoint, members: &BTreeSet<PeerId>) -> Self {
        let ids = members.iter().filter_map(|peer| EndpointId::from_bytes(&peer.0).ok());
        Self {
            members: ids.filter(|id| *id != endpoint.id()).collect(),
            endpoint: endpoint.clone(),
        }
    }

    /// The blob from the first of them who has it, and who that is.
    async fn find(&self, hash: &Hash) -> Option<(Bytes, String)> {
        for member in &self.members {
            match self.from(*member, hash).await {
                Ok(bytes) => return Some((bytes, format!("peer {}", PeerId(*member.as_bytes()).short()))),
                Err(error) => tracing::debug!("blob {}: {error}", hash.short()),
            }
        }
        None
    }

    async fn from(&self, member: EndpointId, hash: &Hash) -> Result<Bytes, BlobsError> {
        let asked = within(PROVIDER_WAIT, async {
            let address = EndpointAddr::new(member);
            let connection = self.endpoint.connect(address, iroh_blobs::ALPN).await;
            let connection = connection.map_err(peer_error)?;
            let (bytes, _) = get_verified_size(&connection, &native(hash))
                .await
                .map_err(peer_error)?;
            Ok((connection, bytes))
        });
        let (connection, bytes) = asked.await?;
        if bytes > BLOB_BYTES_MAX {
            return Err(BlobsError::Size {
                hash: *hash,
                got: bytes,
                allowed: format!("at most {BLOB_BYTES_MAX}"),
            });
        }
        let transfer = async { get_blob(connection, native(hash)).bytes().await.map_err(peer_error) };
        within(transfer_limit(bytes), transfer).await
    }
}

/// What a node knows of the damage in its store.
#[derive(Debug, Default)]
pub(super) struct Mending {
    others: OnceLock<Others>,
    /// One blob at a time.
    turn: tokio::sync::Mutex<()>,
    /// Damaged, and nobody had it.
    lost: Mutex<BTreeSet<Hash>>,
    /// What is not told yet.
    untold: Mutex<Vec<Mended>>,
}

impl Mending {
    /// With what was found when the store was opened.
    pub(super) fn after(found: Option<Mended>) -> Self {
        Self {
            untold: Mutex::new(found.into_iter().collect()),
            ..Self::default()
        }
    }

    pub(super) fn ask(&self, others: Others) {
        let _ = self.others.set(others); // a store has one network
    }

    pub(super) fn has_others(&self) -> bool {
        self.others.get().is_some_and(|others| !others.members.is_empty())
    }

    pub(super) fn is_lost(&self, hash: &Hash) -> bool {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.contains(hash)
    }

    fn tell(&self, mended: Mended) {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        untold.push(mended);
    }
}

impl Blobs {
    /// What was found damaged since this was last asked.
    pub fn mended(&self) -> Vec<Mended> {
        let mut untold = self.mending.untold.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut untold)
    }

    /// Makes a blob again that is in the index and cannot be read: from its own file, if only the hashes beside it
    /// are damaged, or from whoever has it.
    pub(super) async fn mend(&self, hash: &Hash, cause: String) -> Result<Bytes, BlobsError> {
        let _turn = self.mending.turn.lock().await;
        if let Ok(bytes) = self.store.blobs().get_bytes(native(hash)).await {
            return Ok(bytes); // somebody else has mended it meanwhile
        }
        let path = self.folder.blob(hash);
        let there = whole_file(&path, hash).map(|bytes| (Bytes::from(bytes), "its own file".to_string()));
        let found = match (there, self.mending.others.get()) {
            (None, Some(others)) => others.find(hash).await,
            (there, _) => there,
        };
        let path = path.display().to_string();
        let first = self.note_lost(hash, found.is_none());
        let Some((bytes, from)) = found else {
            if first {
                self.mending.tell(Mended {
                    path: path.clone(),
                    cause: cause.clone(),
                    from: None,
                });
            }
            return Err(BlobsError::Damaged { path, cause });
        };
        let added = self.store.blobs().add_bytes(bytes.clone()).temp_tag().await;
        drop(added.map_err(|error| self.failed(error))?); // why it is kept was written when it first came
        self.mending.tell(Mended {
            path,
            cause,
            from: Some(from),
        });
        Ok(bytes)
    }

    /// Whether that is news.
    fn note_lost(&self, hash: &Hash, is_lost: bool) -> bool {
        let mut lost = self.mending.lost.lock().unwrap_or_else(PoisonError::into_inner);
        match is_lost {
            true => lost.insert(*hash),
            false => lost.remove(hash),
        }
    }
}
