//! Who is answered, and what is learnt from answers that break off.

use super::{Blobs, Others};
use atoll_protocol::{Hash, PeerId};
use iroh::Endpoint;
use iroh_blobs::provider::events::{
    AbortReason, ConnectMode, EventMask, EventSender, ObserveMode, ProviderMessage, RequestMode, RequestUpdate,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Between two looks at blobs whose transfer broke off: whoever breaks off on purpose costs no more.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

impl Blobs {
    /// A gate for the blob protocol: only `members` may connect, nobody may push. From now on they are asked for
    /// what is damaged here. A blob whose transfer to somebody breaks off is looked at: it may be damaged.
    pub fn gate(&self, endpoint: &Endpoint, members: BTreeSet<PeerId>) -> EventSender {
        let mask = EventMask {
            connected: ConnectMode::Intercept,
            get: RequestMode::NotifyLog,
            push: RequestMode::Disabled,
            observe: ObserveMode::None,
            ..EventMask::DEFAULT
        };
        self.mending.ask(Others::new(endpoint, &members));
        let (sender, mut messages) = EventSender::channel(64, mask);
        let (blobs, turn) = (self.clone(), Arc::new(Semaphore::new(1)));
        tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                match message {
                    ProviderMessage::ClientConnected(request) => {
                        let peer = request.endpoint_id.map(|id| PeerId(*id.as_bytes()));
                        let known = peer.is_some_and(|peer| members.contains(&peer));
                        let verdict = if known { Ok(()) } else { Err(AbortReason::Permission) };
                        let _ = request.tx.send(verdict).await; // the peer may be gone
                    }
                    ProviderMessage::GetRequestReceivedNotify(request) => {
                        let hash = Hash(*request.inner.request.hash.as_bytes());
                        let (blobs, turn, mut updates) = (blobs.clone(), turn.clone(), request.rx);
                        tokio::spawn(async move {
                            while let Ok(Some(update)) = updates.recv().await {
                                if let RequestUpdate::Aborted(_) = update {
                                    blobs.doubt(&hash, &turn).await;
                                }
                            }
                        });
                    }
                    _ => {}
                }
            }
        });
        sender
    }

    async fn doubt(&self, hash: &Hash, turn: &Semaphore) {
        let Ok(_turn) = turn.try_acquire() else { return };
        if let Err(error) = self.look(hash).await {
            tracing::debug!("{error}");
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}
