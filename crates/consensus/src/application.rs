//! What the engine asks of the ledger: a block to propose, a verdict on somebody else's.

use crate::{
    block::Block,
    chain::Place,
    keys::{hash_of, peer_of},
    ledger::Ledger,
};
use atoll_ledger::State;
use atoll_protocol::{Hash, Height, Millis, limits::CLOCK_SKEW_MS_MAX};
use commonware_consensus::{
    Heightable,
    marshal::ancestry::Ancestry,
    simplex::{scheme::ed25519::Scheme, types::Context},
};
use commonware_cryptography::{Digested, Digestible, blake3::Digest, ed25519::PublicKey};
use commonware_runtime::Clock;
use futures::StreamExt;
use std::{
    collections::BTreeSet,
    future::pending,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

/// How long a certified block may wait for its finality before an empty one is put on top of it: what
/// it holds is not proposed again, so without a child it would wait for the heartbeat.
const FINALIZE: Millis = Millis(300);

/// The ledger as the engine sees it.
#[derive(Clone)]
pub(crate) struct Application {
    ledger: Arc<Ledger>,
    heartbeat: Millis,
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now(clock: &impl Clock) -> Millis {
    let since = clock.current().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Sleeps until `at`, in pieces, so that no clock overflows however far away it is.
pub(crate) async fn sleep_until(clock: &impl Clock, at: Millis) {
    const PIECE: u64 = 60 * 60 * 1000;
    loop {
        match at.0.saturating_sub(now(clock).0) {
            0 => return,
            left => clock.sleep(Duration::from_millis(left.min(PIECE))).await,
        }
    }
}

impl Application {
    pub(crate) fn new(ledger: Arc<Ledger>, heartbeat: Millis) -> Self {
        Self { ledger, heartbeat }
    }

    /// The state after the first block of `ancestry`, and the transactions in it and its ancestors
    /// that are not final. None if nothing can follow that block.
    async fn state_after(&self, ancestry: &mut impl Ancestry<Block>) -> Option<(State, BTreeSet<Hash>)> {
        let mut missing = Vec::new();
        let (mut state, mut transactions) = loop {
            let block = ancestry.next().await?;
            let (digest, height) = (hash_of(&block.digest()), Height(block.height().get()));
            match self.ledger.place(digest, height) {
                Place::Known(state, transactions) => break (*state, transactions),
                Place::Past => return None,
                Place::Unknown => missing.push(block),
            }
        };
        while let Some(block) = missing.pop() {
            let block = block.inner().ledger();
            match state.apply(block) {
                Ok((next, _)) => state = next,
                Err(error) => {
                    tracing::error!(height = %block.header.height, %error, "a certified block is refused by the ledger");
                    return None;
                }
            }
            transactions.extend(block.transactions.iter().map(crate::mempool::id_of));
            self.ledger.remember(block, state.clone());
        }
        Some((state, transactions))
    }

    /// When a block is due although no transaction waits.
    fn due(&self, parent: &State) -> Millis {
        let heartbeat = parent.time().after(self.heartbeat);
        parent
            .next_deadline()
            .map_or(heartbeat, |deadline| deadline.min(heartbeat))
    }
}

impl<E: Clock> commonware_consensus::Application<E> for Application {
    type SigningScheme = Scheme;
    type Context = Context<Digest, PublicKey>;
    type Block = Block;
    type Input = ();

    /// Waits for something to put in a block. While nothing comes, the view runs out and the next
    /// leader waits in its turn: that costs two small messages per validator, and a leader that has
    /// crashed is noticed although nothing happens.
    async fn propose(
        &mut self,
        (clock, _): (E, Self::Context),
        mut ancestry: impl Ancestry<Block>,
        (): (),
    ) -> Option<Digested<Block>> {
        let Some((parent, skip)) = self.state_after(&mut ancestry).await else {
            return pending().await;
        };
        let finalize = now(&clock).after(FINALIZE);
        loop {
            let arrived = self.ledger.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let candidates = self.ledger.candidates(&skip);
            // asked again each time: finality usually comes within milliseconds
            let due = match parent.height() > self.ledger.last().height() {
                true => self.due(&parent).min(finalize),
                false => self.due(&parent),
            };
            let now = now(&clock);
            if now >= due || !candidates.is_empty() {
                let drafted = parent.draft(now.max(parent.time().after(Millis(1))), candidates);
                let (block, state) = drafted.into_parts();
                if now >= due || !block.transactions.is_empty() {
                    self.ledger.remember(&block, Arc::unwrap_or_clone(state));
                    return Some(Block::new(block).digested());
                }
            }
            // In order: a seed then repeats a simulation exactly.
            tokio::select! {
                biased;
                () = arrived => {}
                () = sleep_until(&clock, due) => {}
            }
        }
    }

    async fn verify(&mut self, (clock, context): (E, Self::Context), mut ancestry: impl Ancestry<Block>) -> bool {
        let Some(block) = ancestry.next().await else {
            return false;
        };
        let block = block.inner().ledger();
        let leader = peer_of(&context.leader);
        self.ledger.note_clock(leader, block.header.time, now(&clock));
        // A clock may be set right, so a block from the future is not refused but waited for; the
        // engine drops this when the view has run out.
        sleep_until(&clock, Millis(block.header.time.0.saturating_sub(CLOCK_SKEW_MS_MAX))).await;
        let Some((parent, _)) = self.state_after(&mut ancestry).await else {
            return pending().await;
        };
        match parent.apply(block) {
            Ok((state, _)) => {
                self.ledger.remember(block, state);
                true
            }
            Err(error) => {
                tracing::warn!(height = %block.header.height, %error, "a proposed block is refused");
                false
            }
        }
    }
}
