//! Final blocks on their way to the owner: in order of height, at least once, each acknowledged.

use crate::{block::Block, keys::hash_of, ledger::Ledger, listen::Listening};
use atoll_protocol::{Block as LedgerBlock, Height};
use commonware_actor::Feedback;
use commonware_codec::Encode;
use commonware_consensus::{
    Heightable, Reporter, Viewable,
    marshal::{Update, core::Mailbox, standard::Standard},
    simplex::scheme::ed25519::Scheme,
};
use commonware_cryptography::{Digested, Digestible};
use commonware_runtime::Clock;
use commonware_utils::{Acknowledgement, acknowledgement::Exact};
use std::{future::pending, sync::Arc, time::Duration};
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

pub(crate) type Delivered = (Digested<Block>, Exact);

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

/// Between two looks whether the owner has written everything.
const LOOK: Duration = Duration::from_millis(20);

/// Why delivery has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Enough was heard to vote again, and the owner has written every block.
    Heard,
    /// Something else ended.
    Because(String),
}

/// Final blocks from the engine to the owner.
pub(crate) struct Delivery {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) marshal: Mailbox<Scheme, Standard<Block>>,
    pub(crate) reports: mpsc::UnboundedReceiver<Delivered>,
    pub(crate) owner: mpsc::Sender<Finalized>,
    /// What this validator waits for before it votes; none if it votes.
    pub(crate) listening: Option<Listening>,
}

impl Delivery {
    /// Applies and hands on final blocks until something ends; says what.
    pub(crate) async fn work(mut self, clock: impl Clock) -> Ended {
        loop {
            let enough = async {
                match &mut self.listening {
                    Some(listening) => listening.enough().await,
                    None => pending().await,
                }
            };
            // in order: a seed then repeats a simulation exactly
            let next = tokio::select! {
                biased;
                next = self.reports.recv() => next,
                () = enough => return self.settled(clock).await,
            };
            let Some((block, acknowledgement)) = next else {
                return Ended::Because("the engine delivers no more final blocks".into());
            };
            match self.hand_on(block, acknowledgement).await {
                Err(why) => return Ended::Because(why),
                Ok(true) => return self.settled(clock).await,
                Ok(false) => {}
            }
        }
    }

    /// Hands a block on. Whether enough was heard with it.
    async fn hand_on(&mut self, block: Digested<Block>, acknowledgement: Exact) -> Result<bool, String> {
        let (digest, height) = (block.digest(), block.height());
        if Height(height.get()) <= self.ledger.last().height() {
            acknowledgement.acknowledge();
            return Ok(false);
        }
        let block = block.inner().ledger().clone();
        let time = block.header.time;
        self.ledger.finalize(hash_of(&digest), &block).map_err(|error| {
            format!(
                "final block {height} ({}) is refused by the ledger: {error}. Either this node's files are damaged or \
                 more than a third of the validators run other code",
                hash_of(&digest).short()
            )
        })?;
        let certificate = self.marshal.get_finalization(height).await;
        let certificate = certificate.filter(|finalization| finalization.proposal.payload == digest);
        let view = certificate.as_ref().map(|finalization| finalization.view().get());
        let finalized = Finalized {
            block,
            certificate: certificate.map(|finalization| finalization.encode().to_vec()),
            acknowledgement,
        };
        if self.owner.send(finalized).await.is_err() {
            return Err("nobody takes final blocks any more: their receiver was dropped".into());
        }
        let heard = self.listening.as_mut().map(|listening| listening.hear(time, view));
        Ok(heard == Some(true))
    }

    /// What was handed on is written: the engine may end, and another begin from there.
    async fn settled(self, clock: impl Clock) -> Ended {
        let last = self.ledger.last().height().0;
        while self
            .marshal
            .get_processed()
            .await
            .is_none_or(|processed| processed.height().get() < last)
        {
            clock.sleep(LOOK).await;
        }
        Ended::Heard
    }
}
