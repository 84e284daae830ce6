//! Transactions between validators: own ones go out until they are in a block, others' come in.

use crate::{
    application::{now, sleep_until},
    keys::peer_of,
    ledger::Ledger,
};
use atoll_protocol::Millis;
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{Receiver, Recipients, Sender};
use commonware_runtime::Clock;
use std::sync::Arc;

/// How often the mempool is held against the last final state.
const SWEEP: Millis = Millis(2_000);

/// Sends own transactions to every connected validator, at once and again, and drops those that the
/// last final state refuses. Sleeps while nothing waits.
pub(crate) async fn send(clock: impl Clock, ledger: Arc<Ledger>, mut sender: impl Sender<PublicKey = PublicKey>) {
    let mut swept_at = now(&clock);
    loop {
        let time = now(&clock);
        if time >= swept_at.after(SWEEP) {
            swept_at = time;
            ledger.sweep();
        }
        let (due, next) = ledger.take_due(time);
        for frame in due {
            sender.send(Recipients::All, frame, false);
        }
        let sweep_at = ledger.is_waiting().then(|| swept_at.after(SWEEP));
        let wake_at = next.into_iter().chain(sweep_at).min();
        // In order: a seed then repeats a simulation exactly.
        tokio::select! {
            biased;
            () = ledger.changed.notified() => {}
            () = sleep_until(&clock, wake_at.unwrap_or(Millis(u64::MAX))) => {}
        }
    }
}

/// Takes what other validators send.
pub(crate) async fn receive(ledger: Arc<Ledger>, mut receiver: impl Receiver<PublicKey = PublicKey>) {
    while let Ok((from, frame)) = receiver.recv().await {
        ledger.forwarded(peer_of(&from), frame.as_ref());
    }
}
