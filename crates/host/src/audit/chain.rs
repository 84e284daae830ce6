//! Blocks: genesis, every transition and signature, every certificate.

use super::{FolderReport, Out};
use crate::{
    folder::{Folder, FolderError, open_file},
    record::{self, RecordError, StoredBlock},
    report::{reason, sentence},
};
use atoll_consensus::verify_certificate;
use atoll_ledger::{Event, RoundRecord, Scored, Standing, State};
use atoll_protocol::{Action, Charter, Hash, Height, PeerId, Round, encode};
use std::{
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Blocks at the end that may be without a certificate: as many as consensus hands out unacknowledged.
const UNPROVEN_MAX: u64 = 16;

/// What the blocks say that is to be checked against blobs and checkpoints.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Ended rounds, in order.
    pub(super) rounds: Vec<RoundRecord>,
    /// Recorded checkpoints: round and hash of the file list.
    pub(super) checkpoints: Vec<(Round, Hash)>,
    /// θ after the last block.
    pub(super) theta: Option<Hash>,
}

/// Checks the ledger's file; gives what could be read, up to the first fault.
pub(super) fn check(
    folder: &Folder,
    (charter, owner): (&Arc<Charter>, Option<PeerId>),
    report: &mut FolderReport,
) -> Option<History> {
    let path = folder.ledger();
    if let Err(error) = open_file(&path) {
        let missing = matches!(&error, FolderError::Io { cause, .. } if cause.kind() == ErrorKind::NotFound);
        let what = if missing {
            "is missing".into()
        } else {
            error.to_string()
        };
        report.problem(path.display(), what);
        return None;
    }
    // redb asserts what it believes of its own pages; a changed byte may break that belief
    let read = catch_unwind(AssertUnwindSafe(|| {
        let bound = record::genesis_of(&path)?;
        if bound.as_deref() != Some(charter.genesis().as_bytes()) {
            return Err(RecordError::OtherRun(path.clone()));
        }
        read_blocks(folder, (charter, owner), report)
    }));
    match read {
        Ok(Ok(history)) => Some(history),
        Ok(Err(error)) => {
            report.problem(path.display(), error);
            None
        }
        Err(_) => {
            report.problem(path.display(), "its pages are damaged");
            None
        }
    }
}

fn read_blocks(
    folder: &Folder,
    (charter, owner): (&Arc<Charter>, Option<PeerId>),
    report: &mut FolderReport,
) -> Result<History, RecordError> {
    let mut history = History::default();
    let mut state = State::genesis(charter.clone());
    let validators = state.validators();
    report.tip = Some(state.tip());
    let place = |height: Height| format!("{}: block {height}", folder.ledger().display());
    record::read(&folder.ledger(), |StoredBlock { block, certificate }| {
        let height = block.header.height;
        let (next, events) = state
            .apply(&block)
            .map_err(|cause| RecordError::Refused { height, cause })?;
        if let Some(certificate) = certificate {
            match verify_certificate(&charter.genesis(), &validators, &block.digest(), &certificate) {
                Ok(_) => {
                    report.certificates += 1;
                    report.proven = height;
                }
                Err(error) => report.problem(place(height), format!("its finality certificate is refused: {error}")),
            }
        }
        report.transactions += block.transactions.len() as u64;
        let said = block.transactions.iter().filter(|said| Some(said.signer) == owner);
        report.merged.extend(said.filter_map(|said| match said.body.action {
            Action::MergeRoot { round, .. } => Some(round),
            _ => None,
        }));
        report.block_bytes += encode(&block).len() as u64;
        report.height = height;
        state = next;
        report.tip = Some(state.tip());
        report.digests.push(state.tip());
        let round = state.round().number;
        report
            .outs
            .extend(events.iter().flat_map(|event| outs(charter, round, event)));
        events.into_iter().for_each(|event| history.note(event));
        Ok(())
    })?;
    let unproven = report.height.0 - report.proven.0;
    if unproven > 0 {
        let (first, last) = (report.proven.0 + 1, report.height);
        let what =
            format!("blocks {first} to {last} have no finality certificate after them: nothing proves them final");
        // a node that was stopped may have a few blocks whose proof is in a block that it never got
        match unproven > UNPROVEN_MAX || report.proven.0 == 0 {
            true => report.problem(folder.ledger().display(), what),
            false => report.notes.push(what),
        }
    }
    let theta = state.core().roots.theta;
    report.theta = Some(theta);
    history.theta = Some(theta);
    Ok(history)
}

/// What an event says of contributions that did not count, and of peers that were put out.
fn outs(charter: &Charter, round: Round, event: &Event) -> Vec<Out> {
    let out = |round, peer: &PeerId, what, reason| Out {
        round,
        peer: charter.name_of(peer),
        what,
        reason,
    };
    match event {
        Event::Excluded(peer, _) => {
            let reason = "it signed two different statements about one round".to_string();
            vec![out(round, peer, "excluded", reason)]
        }
        Event::Convicted {
            peer,
            standing,
            conviction,
        } => {
            let what = match standing {
                Standing::Suspended(_) => "suspended",
                Standing::Excluded => "excluded",
                _ => "unserved",
            };
            vec![out(round, peer, what, sentence(charter, peer, conviction))]
        }
        Event::Scored(scored) if scored.harmful => {
            let Scored {
                round: of, by, change, ..
            } = scored;
            let why = format!("its contribution to round {of} does harm, as {by} measured: {change}");
            vec![out(round, &scored.peer, "harmful", why)]
        }
        Event::Watched { peer, on: true } => {
            let why = "for what its contributions do to the loss, all of them are looked at from now on";
            vec![out(round, peer, "watched", why.into())]
        }
        Event::Appealed { peer, reason, .. } => {
            vec![out(round, peer, "objects", format!("in its own words: {reason}"))]
        }
        Event::RoundEnded(record) => {
            let refused = record.refused.iter();
            let refused = refused.map(|entry| out(record.round, &entry.peer, "refused", entry.reason.to_string()));
            let kept = record.kept_out.iter().map(|entry| {
                let why = reason(charter, record, &entry.reason);
                out(record.round, &entry.planned.peer, "kept out", why)
            });
            let taken = record.excisions.iter().flat_map(|excision| {
                let of = excision.of.round;
                let peers = excision.peers.iter();
                peers.map(move |peer| (of, peer))
            });
            let taken = taken.map(|(of, peer)| {
                let why = format!("what it sent to round {of} stands on what a jury found wrong");
                out(record.round, peer, "taken out", why)
            });
            refused.chain(kept).chain(taken).collect()
        }
        _ => Vec::new(),
    }
}

impl History {
    fn note(&mut self, event: Event) {
        match event {
            Event::RoundEnded(record) => self.rounds.push(*record),
            Event::CheckpointRecorded { round, manifest, .. } => self.checkpoints.push((round, manifest)),
            _ => {}
        }
    }
}
