//! Threads that make contributions of others again, and measure what they do, beside the trainer: one at a time, with
//! a learner of its own, which is made when the first is drawn. One does the former, one the latter, since the former
//! waits for what others serve.

use crate::{
    again::{Others, claimed, recipe},
    inner::Inner,
};
use anyhow::{Context as _, bail};
use atoll_learner::{LearnError, Learner as _, data::Dataset};
use atoll_ledger::{Case, Scoring};
use atoll_node::Input;
use atoll_outer::{
    Contribution, OwnState, ScoreRows,
    again::{AgainError, Material, again},
    loss_change, theta_from_bytes,
};
use atoll_protocol::{Charter, Finding, Layout, LossChange, PeerId};
use bytes::Bytes;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc as channel, oneshot};

/// What there is to do with a contribution of somebody else.
pub enum Task {
    /// To make it again.
    Again(Box<ToDoAgain>),
    /// To measure what it does.
    Score(Box<ToScore>),
}

impl Task {
    /// What is said where it fails: who is to measure may be asked once more.
    fn failed(&self) -> Option<Input> {
        match self {
            Self::Again(_) => None,
            Self::Score(task) => Some(Input::Scored {
                round: task.case.reveal.round,
                peer: task.author,
                beacon: task.case.beacon,
                change: None,
            }),
        }
    }
}

/// One contribution to measure.
pub struct ToScore {
    /// Whose.
    pub author: PeerId,
    /// As the ledger has it.
    pub case: Scoring,
    /// What was sent.
    pub sent: Bytes,
    /// The blob of the θ that it was made from.
    pub theta: Bytes,
    /// Held until it is measured: so few are fetched ahead.
    pub turn: Option<OwnedSemaphorePermit>,
}

/// One contribution to make again.
pub struct ToDoAgain {
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
    /// Whether the node stops: what waits is not begun then.
    pub stop: Arc<AtomicBool>,
}

impl Replayer {
    /// Runs until the tasks end.
    pub fn spawn(self, name: &str, tasks: mpsc::Receiver<Task>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name(name.into()).spawn(move || {
            let mut inner = None;
            for task in tasks {
                if self.stop.load(Ordering::Relaxed) {
                    return; // what waits is of no use any more
                }
                let failed = task.failed();
                let input = match self.carry_out(&mut inner, task) {
                    Ok(input) => Some(input),
                    // left in the middle, as it should be
                    Err(error) if self.stop.load(Ordering::Relaxed) => {
                        tracing::debug!("a contribution is not looked at to the end: {error:#}");
                        failed
                    }
                    Err(error) => {
                        tracing::warn!("a contribution could not be looked at: {error:#}");
                        failed
                    }
                };
                if let Some(input) = input {
                    let _ = self.inputs.send(input); // nobody hears while the node stops
                }
            }
        })
    }

    /// A panic over what a stranger claims must not be the end of all audits here.
    fn carry_out(&self, inner: &mut Option<Inner>, task: Task) -> anyhow::Result<Input> {
        let taken = inner.take();
        let work = || -> anyhow::Result<_> {
            let mut made = match taken {
                Some(inner) => inner,
                None => Inner::new(self.charter.clone(), self.dataset.clone())?,
            };
            let input = match task {
                Task::Again(task) => self.again(&mut made, *task),
                Task::Score(task) => self.score(&mut made, *task),
            };
            Ok((input, made))
        };
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(done) => {
                let (input, made) = done?;
                *inner = Some(made);
                input
            }
            Err(_) => bail!("the program failed over it; its last messages say where"),
        }
    }

    fn score(&self, inner: &mut Inner, task: ToScore) -> anyhow::Result<Input> {
        let ToScore {
            author,
            case,
            sent,
            theta,
            turn,
        } = task;
        let (round, codec) = (case.reveal.round, &case.codec);
        let measured = || -> anyhow::Result<LossChange> {
            let theta = theta_from_bytes(&theta, self.layout.parameters)?;
            let contribution = Contribution::read(sent, &self.layout, codec, &case.base.theta)?;
            loss_change(&theta, &contribution, |weights, rows| {
                let (share, step) = match rows {
                    ScoreRows::Own => case.own_rows(),
                    ScoreRows::Random => case.random_rows(),
                };
                inner.learner.write(weights)?;
                match inner.loss(&share, step) {
                    Ok(loss) => Ok(Some(loss)),
                    Err(error) => match error.downcast::<LearnError>() {
                        Ok(LearnError::NotFinite { .. }) => Ok(None),
                        Ok(error) => Err(error.into()),
                        Err(error) => Err(error),
                    },
                }
            })
        };
        let change = measured().inspect_err(|error| {
            tracing::warn!("what came in round {round} cannot be measured here: {error:#}");
        });
        drop(turn);
        Ok(Input::Scored {
            round,
            peer: author,
            beacon: case.beacon,
            change: change.ok(),
        })
    }

    fn again(&self, inner: &mut Inner, task: ToDoAgain) -> anyhow::Result<Input> {
        let (round, peer) = (task.case.worked.last.reveal.round, task.author);
        let finding = self.finding(inner, task);
        let finding = finding.with_context(|| format!("making again what came in round {round}"))?;
        Ok(Input::Replayed { round, peer, finding })
    }

    fn finding(&self, inner: &mut Inner, task: ToDoAgain) -> anyhow::Result<Finding> {
        let ToDoAgain {
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
            stop: &self.stop,
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
        let Some(closing) = asked.blocking_recv().context("nobody waits for it any more")? else {
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
