//! Independent accounts of error feedback: what each node trained, less what was merged, must be in e.
//!
//! Kept in f64 from the ledger's records alone, so that the node's own settling and restoring is checked
//! against them: a contribution that was not merged and not added back, or added back twice, shows here.

use crate::{peer::Made, world::World};
use atoll_outer::{Contribution, nano_f32};
use atoll_protocol::Round;

/// Of sums of some hundred f32.
const TOLERANCE: f64 = 1e-4;

/// One node's account.
#[derive(Debug, Clone, Default)]
pub(crate) struct Book {
    /// e, if the open contribution is merged.
    expected: Vec<f64>,
    /// What the newest contribution carries, while its fate is not in the account.
    open: Option<(Round, Vec<f64>)>,
    /// Contributions that went into the account.
    pub(crate) entries: u64,
}

impl World {
    /// A contribution is on disk: e ← β·e + δ − D(blob).
    pub(crate) fn keep_books(&mut self, node: u32, round: Round, made: &Made) {
        self.close_entry(node);
        let blob = self.blobs.get(made.blob);
        let bytes = self.honest.get(&made.blob).unwrap_or(&blob.bytes).clone();
        let read = Contribution::read(bytes, &self.layout, &made.codec, &blob.base);
        let mut carried = vec![0.0f32; self.layout.parameters];
        let decoded = read.map(|contribution| contribution.decode_into(&mut carried));
        if !matches!(decoded, Ok(Ok(()))) {
            return self.violated(
                "contribution",
                format!("node {node}, round {round}: it cannot be decoded"),
            );
        }
        let beta = f64::from(nano_f32(made.codec.feedback()));
        let book = &mut self.books[node as usize];
        book.expected.resize(carried.len(), 0.0);
        for ((e, delta), carried) in book.expected.iter_mut().zip(&made.delta).zip(&carried) {
            *e = beta * *e + f64::from(*delta) - f64::from(*carried);
        }
        book.open = Some((round, carried.into_iter().map(f64::from).collect()));
        book.entries += 1;
    }

    /// A node goes back to an earlier state: the account begins anew from its error feedback.
    pub(crate) fn begin_book(&mut self, node: u32, values: &[f32]) {
        let book = &mut self.books[node as usize];
        book.expected = values.iter().map(|e| f64::from(*e)).collect();
        book.open = None;
    }

    /// The open contribution is sent again, to another round.
    pub(crate) fn reopen(&mut self, node: u32, round: Round) {
        if let Some((open, _)) = self.books[node as usize].open.as_mut() {
            *open = round;
        }
    }

    /// Puts the open contribution's fate into the account, if its round is over.
    fn close_entry(&mut self, node: u32) {
        let Some(round) = self.books[node as usize].open.as_ref().map(|(round, _)| *round) else {
            return;
        };
        let Some(merged) = self.was_merged(node, round) else {
            return;
        };
        let book = &mut self.books[node as usize];
        let Some((_, carried)) = book.open.take().filter(|_| !merged) else {
            return;
        };
        for (e, carried) in book.expected.iter_mut().zip(carried) {
            *e += carried;
        }
    }

    /// Holds a node's error feedback against its account, if no contribution of it is open.
    pub(crate) fn check_books(&mut self, node: u32, values: &[f32]) {
        let life = self.peers[node as usize].life.as_ref();
        if life.is_some_and(|life| life.replica.pending().is_some() || life.anew.is_some()) {
            return;
        }
        self.close_entry(node);
        let book = &self.books[node as usize];
        if book.open.is_some() || book.entries == 0 {
            return;
        }
        let scale = book.expected.iter().fold(1.0f64, |most, e| most.max(e.abs()));
        let off = |(e, value): &(&f64, &f32)| (*e - f64::from(**value)).abs() > TOLERANCE * scale || !value.is_finite();
        let worst = book.expected.iter().zip(values).enumerate().find(|(_, pair)| off(pair));
        if let Some((at, (e, value))) = worst {
            let text =
                format!("node {node}: element {at} is {value}, but what it trained less what was merged leaves {e}");
            self.violated("error-feedback", text);
        }
    }
}
