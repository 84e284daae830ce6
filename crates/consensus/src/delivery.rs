//! Final blocks on their way to the owner: in order of height, at least once, each acknowledged.

use crate::{block::Block, keys::hash_of, ledger::Ledger};
use atoll_protocol::{Block as LedgerBlock, Height};
use commonware_actor::Feedback;
use commonware_codec::Encode;
use commonware_consensus::{
    Heightable, Reporter,
    marshal::{Update, core::Mailbox, standard::Standard},
    simplex::scheme::ed25519::Scheme,
};
use commonware_cryptography::{Digested, Digestible};
use commonware_utils::{Acknowledgement, acknowledgement::Exact};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A block that can never be undone.
#[derive(Debug)]
pub struct Finalized {
    /// The block.
    pub block: LedgerBlock,
    /// The proof for [`verify_certificate`](crate::verify_certificate), if the engine has one for this
    /// very block; one that was finalized through a descendant may have none.
    pub certificate: Option<Vec<u8>>,
    acknowledgement: Exact,
}

impl Finalized {
    /// Says that the block is on disk. Until then it comes again after every restart, and only a few
    /// more come after it. Dropping a block without this stops consensus.
    pub fn acknowledge(self) {
        self.acknowledgement.acknowledge();
    }
}

type Delivered = (Digested<Block>, Exact);

/// Takes final blocks from the engine. The engine waits for acknowledgements, so few are on their way.
#[derive(Clone)]
pub(crate) struct Reports(mpsc::UnboundedSender<Delivered>);

impl Reports {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Delivered>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }
}

impl Reporter for Reports {
    type Activity = Update<Block>;

    fn report(&mut self, update: Update<Block>) -> Feedback {
        match update {
            Update::Tip(..) => Feedback::Ok,
            Update::Block(block, acknowledgement) => match self.0.send((block, acknowledgement)) {
                Ok(()) => Feedback::Ok,
                Err(_) => Feedback::Closed,
            },
        }
    }
}

/// Applies and hands on final blocks until something ends; says what.
pub(crate) async fn deliver(
    ledger: Arc<Ledger>,
    marshal: Mailbox<Scheme, Standard<Block>>,
    mut reports: mpsc::UnboundedReceiver<Delivered>,
    owner: mpsc::Sender<Finalized>,
) -> String {
    while let Some((block, acknowledgement)) = reports.recv().await {
        let (digest, height) = (block.digest(), block.height());
        if Height(height.get()) <= ledger.last().height() {
            acknowledgement.acknowledge();
            continue;
        }
        let block = block.inner().ledger().clone();
        if let Err(error) = ledger.finalize(hash_of(&digest), &block) {
            return format!(
                "final block {height} ({}) is refused by the ledger: {error}. Either this node's files are damaged \
                 or more than a third of the validators run other code",
                hash_of(&digest).short()
            );
        }
        let certificate = marshal.get_finalization(height).await;
        let certificate = certificate.filter(|finalization| finalization.proposal.payload == digest);
        let finalized = Finalized {
            block,
            certificate: certificate.map(|finalization| finalization.encode().to_vec()),
            acknowledgement,
        };
        if owner.send(finalized).await.is_err() {
            return "nobody takes final blocks any more: their receiver was dropped".into();
        }
    }
    "the engine delivers no more final blocks".into()
}
