//! Getting a blob from those who have it: who is asked in what order, and who is not waited for.
//!
//! Providers are asked one after another, but nobody is waited for long: who has not answered after a second has the
//! next one beside it, and who did not answer at all is asked last for a while.

use crate::{
    blobs::{Blobs, BlobsError, Keep, Size, native, raw},
    run::now,
};
use atoll_consensus::says_full;
use atoll_protocol::{Hash, Millis, PeerId};
use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use iroh::{Endpoint, EndpointAddr, EndpointId, endpoint::Connection};
use iroh_blobs::get::request::get_verified_size;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long one provider may take to answer and start.
pub(crate) const PROVIDER_WAIT: Duration = Duration::from_secs(10);
/// How long a provider may take before another one is asked beside it.
const NEXT_WAIT: Duration = Duration::from_secs(1);
/// Slowest link for which a fetch is still waited for, in bytes per second.
const SLOWEST: u64 = 16 * 1024;
/// For how long who did not answer is asked last: the first time, and the most after it failed again and again.
const SILENT: Millis = Millis(30_000);
const SILENT_MAX: Millis = Millis(300_000);

/// Who answers, as far as this node has seen.
#[derive(Debug, Default)]
struct Seen {
    /// Who did not: how often in a row, and until when it is asked last.
    silent: BTreeMap<PeerId, (u32, Millis)>,
    /// Who is connected for consensus.
    connected: BTreeSet<PeerId>,
}

impl Seen {
    /// `providers` in the order in which they are asked: the connected ones, then those of whom nothing is known, then
    /// those who did not answer of late. Equal ones stay in the given order.
    fn order(&self, providers: &[PeerId], now: Millis) -> Vec<PeerId> {
        let class = |peer: &PeerId| match self.silent.get(peer) {
            Some((_, until)) if now < *until => 2,
            _ if self.connected.contains(peer) => 0,
            _ => 1,
        };
        let mut ordered = providers.to_vec();
        ordered.sort_by_key(class);
        ordered
    }

    fn silent(&mut self, peer: PeerId, now: Millis) {
        let (times, until) = self.silent.entry(peer).or_default();
        *times = times.saturating_add(1);
        let wait = SILENT.0.saturating_mul(u64::from(*times)).min(SILENT_MAX.0);
        *until = now.after(Millis(wait));
    }

    fn answered(&mut self, peer: &PeerId) {
        self.silent.remove(peer);
    }
}

/// A store, and the endpoint to fill it from. Cheap to clone; clones remember together who answers.
#[derive(Debug, Clone)]
pub struct Fetcher {
    blobs: Blobs,
    endpoint: Endpoint,
    seen: Arc<Mutex<Seen>>,
}

/// A provider that has the blob.
struct Opened {
    peer: PeerId,
    connection: Connection,
    bytes: u64,
}

/// One that does not serve it, and whether it answered at all.
struct Refused {
    peer: PeerId,
    answered: bool,
    error: BlobsError,
}

impl Fetcher {
    /// Nothing is known of anybody yet.
    pub fn new(blobs: Blobs, endpoint: Endpoint) -> Self {
        Self {
            blobs,
            endpoint,
            seen: Arc::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes who is connected: these are asked first.
    pub fn connected(&self, peers: impl IntoIterator<Item = PeerId>) {
        self.seen().connected = peers.into_iter().collect();
    }

    /// Reads `hash`, fetching it first from one of `providers`, the first of whom is asked first where they are
    /// alike, and keeps it.
    ///
    /// # Errors
    /// [`BlobsError::NotServed`] where none of them has it, [`BlobsError::Size`] where it is not of a size that is
    /// allowed, and what the store says.
    pub async fn fetch(&self, hash: &Hash, size: Size, providers: &[PeerId], keep: &Keep) -> Result<Bytes, BlobsError> {
        self.blobs.keep(hash, keep).await?;
        if !self.blobs.is_complete(hash).await? {
            self.blobs.may_fetch().await;
            self.obtain(hash, size, providers).await?;
        }
        let bytes = match self.blobs.read(hash).await {
            // who is away now may have it later
            Err(error @ BlobsError::Damaged { .. }) if self.blobs.has_others() => {
                return Err(BlobsError::NotServed {
                    hash: *hash,
                    tried: providers.len(),
                    last: error.to_string(),
                });
            }
            read => read?,
        };
        size.check(hash, bytes.len() as u64)?;
        Ok(bytes)
    }

    async fn obtain(&self, hash: &Hash, size: Size, providers: &[PeerId]) -> Result<(), BlobsError> {
        let me = self.endpoint.id();
        let others: Vec<PeerId> = providers
            .iter()
            .filter(|peer| peer.0 != *me.as_bytes())
            .copied()
            .collect();
        let mut next = self.seen().order(&others, now()).into_iter();
        let (mut asked, mut tried) = (FuturesUnordered::new(), 0);
        let mut last = "no peer to ask".to_string();
        loop {
            if asked.is_empty() {
                let Some(peer) = next.next() else { break };
                asked.push(self.open(hash, peer));
                tried += 1;
            }
            let opened = tokio::select! {
                Some(opened) = asked.next() => opened,
                () = tokio::time::sleep(NEXT_WAIT), if next.len() > 0 => {
                    asked.extend(next.next().map(|peer| self.open(hash, peer)));
                    tried += 1;
                    continue;
                }
            };
            let fetched = match opened {
                Ok(opened) => {
                    size.check(hash, opened.bytes)?; // verified: no other provider has another size
                    let peer = opened.peer;
                    let taken = self.transfer(hash, opened).await;
                    if taken.is_ok() {
                        self.seen().answered(&peer); // whoever only promises has not answered
                    }
                    taken
                }
                Err(refused) => Err(refused),
            };
            match fetched {
                Ok(()) => return Ok(()),
                // this disk refuses, whoever serves it
                Err(Refused {
                    error: error @ BlobsError::Store { .. },
                    ..
                }) => return Err(error),
                Err(Refused { peer, answered, error }) => {
                    last = error.to_string();
                    if !answered {
                        self.seen().silent(peer, now());
                    }
                }
            }
        }
        Err(BlobsError::NotServed {
            hash: *hash,
            tried,
            last,
        })
    }

    /// Asks for the size first: nothing larger than allowed is ever stored.
    async fn open(&self, hash: &Hash, peer: PeerId) -> Result<Opened, Refused> {
        let refused = |answered, error| Refused { peer, answered, error };
        let Ok(id) = EndpointId::from_bytes(&peer.0) else {
            return Err(refused(
                false,
                BlobsError::Peer(format!("{peer} is no key that can be dialed")),
            ));
        };
        let dial = async {
            let connected = self.endpoint.connect(EndpointAddr::new(id), iroh_blobs::ALPN).await;
            connected.map_err(peer_error)
        };
        let connection = within(PROVIDER_WAIT, dial)
            .await
            .map_err(|error| refused(false, error))?;
        let hash = native(hash);
        let ask = get_verified_size(&connection, &hash);
        match tokio::time::timeout(PROVIDER_WAIT, ask).await {
            Ok(Ok((bytes, _))) => Ok(Opened {
                peer,
                connection,
                bytes,
            }),
            Ok(Err(error)) => Err(refused(true, peer_error(error))), // it has not got it
            Err(_) => {
                let words = format!("no answer within {} s", PROVIDER_WAIT.as_secs());
                Err(refused(false, BlobsError::Peer(words)))
            }
        }
    }

    async fn transfer(&self, hash: &Hash, opened: Opened) -> Result<(), Refused> {
        let Opened {
            peer,
            connection,
            bytes,
        } = opened;
        let transfer = async {
            let fetched = self.blobs.store().remote().fetch(connection, raw(hash)).await;
            fetched.map(drop).map_err(|error| {
                let text = format!("{error:#}");
                match says_full(&text) {
                    true => self.blobs.failed(text),
                    false => BlobsError::Peer(text),
                }
            })
        };
        within(transfer_limit(bytes), transfer).await.map_err(|error| Refused {
            peer,
            answered: false,
            error,
        })
    }
}

/// How long a transfer of so many bytes may take.
pub(crate) fn transfer_limit(bytes: u64) -> Duration {
    PROVIDER_WAIT + Duration::from_secs(bytes / SLOWEST)
}

pub(crate) fn peer_error(error: impl std::fmt::Display) -> BlobsError {
    BlobsError::Peer(error.to_string())
}

pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, BlobsError>>,
) -> Result<T, BlobsError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(BlobsError::Peer(format!("no answer within {} s", limit.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(numbers: &[u8]) -> Vec<PeerId> {
        numbers.iter().map(|number| PeerId([*number; 32])).collect()
    }

    #[test]
    fn who_answers_is_asked_before_who_does_not() {
        let mut seen = Seen::default();
        let [one, two, three] = [1, 2, 3].map(|number| PeerId([number; 32]));
        let order = |seen: &Seen, now| seen.order(&[one, two, three], Millis(now));
        assert_eq!(order(&seen, 0), peers(&[1, 2, 3]), "as given");
        seen.connected = [three].into();
        assert_eq!(order(&seen, 0), peers(&[3, 1, 2]));
        seen.silent(one, Millis(0));
        assert_eq!(order(&seen, 0), peers(&[3, 2, 1]));
        seen.silent(three, Millis(0));
        assert_eq!(order(&seen, 0), peers(&[2, 1, 3]), "connected, but it serves nothing");
        assert_eq!(order(&seen, SILENT.0), peers(&[3, 1, 2]), "forgotten after a while");
        seen.silent(one, Millis(0));
        assert_eq!(
            order(&seen, SILENT.0),
            peers(&[3, 2, 1]),
            "later where it happened again"
        );
        seen.answered(&one);
        assert_eq!(order(&seen, 0), peers(&[1, 2, 3]));
        (0..u32::MAX.ilog2()).for_each(|_| seen.silent(one, Millis(0)));
        assert_eq!(order(&seen, SILENT_MAX.0)[1], one, "and never for longer than that");
    }
}
