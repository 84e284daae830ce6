//! One life of one validator: the wiring, an owner that writes final blocks, a member that submits.

use super::{
    cast::Cast,
    disk::{Content, Disk},
    network::Member,
    statements,
};
use crate::{
    application::now,
    delivery::{Ended, Finalized},
    engine::{self, Parts},
    handle::Config,
    ledger::Ledger,
    listen::Listening,
};
use atoll_protocol::Keypair;
use commonware_runtime::{Clock, Spawner as _, Supervisor as _, deterministic::Context};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// What a write takes; a crash may come before and after each.
const WRITE: Duration = Duration::from_millis(3);
/// As in a node.
const WAITING_MAX: usize = 16;

/// What a life starts from.
pub(super) struct Life {
    pub(super) cast: Arc<Cast>,
    pub(super) who: usize,
    /// Its storage's name.
    pub(super) prefix: String,
    pub(super) disk: Arc<Disk>,
    /// Whether it submits anything.
    pub(super) works: bool,
    /// Whether it has lost its votes, and what it does then.
    pub(super) lost: Loss,
}

/// What became of a validator's votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// They are in its storage.
    None,
    /// They are lost, and it listens first.
    Listens,
    /// They are lost, and it does not care.
    Votes,
}

/// For how far the clocks of validators may lie apart, and how long who listens does so at the least.
const MARGIN: Duration = Duration::from_secs(2);

impl Life {
    /// Lives until it is aborted; everything else that ends consensus is a failure.
    pub(super) async fn live(self, context: Context, network: Member) {
        let keypair = self.cast.keypairs[self.who].clone();
        let state = self.disk.read().state.clone();
        let ledger = Arc::new(Ledger::new(state.clone()));
        let (owner, finalized) = mpsc::channel(WAITING_MAX);
        let parts = Parts {
            charter: self.cast.charter.clone(),
            keypair: keypair.clone(),
            validators: self.cast.validators.clone(),
            height: state.height(),
            leader_timeout: Config::LEADER_TIMEOUT,
            ledger: ledger.clone(),
            network,
            prefix: self.prefix,
            owner,
            listening: (self.lost == Loss::Listens)
                .then(|| Listening::new(now(&context), MARGIN, Box::pin(std::future::pending()))),
        };
        let disk = self.disk.clone();
        context.child("owner").spawn(move |clock| own(clock, finalized, disk));
        if self.works {
            let disk = self.disk.clone();
            context
                .child("member")
                .spawn(move |clock| work(clock, keypair, ledger, disk));
        }
        let running = engine::run(context.child("wiring"), parts).await.expect("starts");
        match running.ended().await {
            Ended::Heard => self.disk.change(|content| content.heard = true), // it is started anew, to vote
            Ended::Because(why) => panic!("validator {} ended: {why}", self.who),
        }
    }
}

/// Writes, then acknowledges.
async fn own(clock: Context, mut finalized: mpsc::Receiver<Finalized>, disk: Arc<Disk>) {
    while let Some(next) = finalized.recv().await {
        disk.change(|content| content.received.push(next.block.header.height));
        clock.sleep(WRITE).await;
        disk.change(|content| content.write(&next.block, next.certificate.as_deref()));
        clock.sleep(WRITE).await;
        next.acknowledge();
    }
}

/// Says what comes next whenever the state on disk has moved.
async fn work(clock: Context, keypair: Keypair, ledger: Arc<Ledger>, disk: Arc<Disk>) {
    let say_next = |content: &Content| {
        if let Some(statement) = statements::next(&content.state, &keypair) {
            // Refused if a later block is final already: its write brings us here again.
            let _ = ledger.submit(statement, now(&clock));
        }
        false
    };
    disk.watch(say_next).await;
}
