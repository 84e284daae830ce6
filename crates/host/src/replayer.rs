//! The thread that makes contributions of others again, beside the trainer: one at a time, with a learner of its
//! own, which is made when the first is drawn.

use crate::{
    again::{Others, claimed, recipe},
    inner::Inner,
};
use anyhow::bail;
use atoll_learner::data::Dataset;
use atoll_ledger::Case;
use atoll_node::Input;
use atoll_outer::{
    Contribution, OwnState,
    again::{AgainError, Material, again},
};
use atoll_protocol::{Charter, Finding, Layout, PeerId};
use bytes::Bytes;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread::JoinHandle,
};
use tokio::sync::{mpsc as channel, oneshot};

/// One contribution to make again.
pub struct Task {
    /// Whose.
    pub author: PeerId,
    /// As the ledger has it.
    pub case: Case,
    /// What it was made from.
    pub material: Material<Bytes>,
    /// What was sent.
    pub sent: Bytes,
    /// Asks for the state that its author goes on from, which is needed only where something else came out.
    pub closing: oneshot::Sender<oneshot::Sender<Option<Bytes>>>,
}

/// What the thread works with.
pub struct Replayer {
    /// The rules.
    pub charter: Arc<Charter>,
    /// The model's.
    pub layout: Arc<Layout>,
    /// The corpus.
    pub dataset: Arc<Dataset>,
    /// Where findings go.
    pub inputs: channel::UnboundedSender<Input>,
}

impl Replayer {
    /// Runs until the tasks end.
    pub fn spawn(self, tasks: mpsc::Receiver<Task>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("replayer".into()).spawn(move || {
            let mut inner = None;
            for task in tasks {
                let (round, peer) = {
                    let reveal = &task.case.worked.last.reveal;
                    (reveal.round, task.author)
                };
                match self.carry_out(&mut inner, task) {
                    Ok(finding) => {
                        let _ = self.inputs.send(Input::Replayed { round, peer, finding });
                    }
                    Err(error) => tracing::warn!("a contribution to round {round} could not be made again: {error:#}"),
                }
            }
        })
    }

    /// A panic over what a stranger claims must not be the end of all audits here.
    fn carry_out(&self, inner: &mut Option<Inner>, task: Task) -> anyhow::Result<Finding> {
        let mut made = match inner.take() {
            Some(inner) => inner,
            None => Inner::new(self.charter.clone(), self.dataset.clone())?,
        };
        let work = || {
            let finding = self.finding(&mut made, task);
            (finding, made)
        };
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok((finding, made)) => {
                *inner = Some(made);
                finding
            }
            Err(_) => bail!("the program failed over it; its last messages say where"),
        }
    }

    fn finding(&self, inner: &mut Inner, task: Task) -> anyhow::Result<Finding> {
        let Task {
            case,
            material,
            sent,
            closing,
            ..
        } = task;
        let work = &case.worked.last;
        let nothing = Finding::Apart { billionths: u64::MAX };
        let mut others = Others {
            inner,
            worked: &case.worked,
        };
        let rules = (&self.charter, &self.layout);
        let again = match again(&mut others, rules, claimed(&case.worked)?, material) {
            Ok(again) if again.is(&work.reveal) => return Ok(Finding::Same),
            Ok(again) => again,
            Err(error @ AgainError::Here(_)) => return Err(error.into()),
            Err(AgainError::Claim(error)) => {
                tracing::info!("what a contribution claims cannot be: {error}");
                return Ok(nothing);
            }
        };
        let (answer, asked) = oneshot::channel();
        let _ = closing.send(answer); // nobody fetches while the node stops
        let Some(closing) = asked.blocking_recv().ok().flatten() else {
            return Ok(Finding::Missing);
        };
        let recipe = recipe(work)?;
        let read = Contribution::read(sent, &self.layout, recipe.codec, &recipe.base).ok();
        let closing = OwnState::from_bytes(&closing).ok();
        let found = match (read, closing) {
            (Some(sent), Some(closing)) => again.finding(&others, &self.layout, recipe, (&sent, &closing)),
            _ => return Ok(nothing),
        };
        Ok(found.unwrap_or(nothing)) // its own state cannot be read: that is its author's to answer for
    }
}
