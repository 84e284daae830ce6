//! Replicas that train H steps each and merge: the outer loop as nodes run it, without a network.

use super::{
    RunError,
    clock::transfer,
    spec::{Caught, Point, RunResult, Spec, peer},
    task::{Rows, Task},
};
use atoll_learner::{BurnLearner, DeviceChoice, Learner as _, init, learning_rate};
use atoll_ledger::{Ended, Observed, Terms};
use atoll_outer::{
    Ahead, Contribution, ErrorFeedback, Input, Merging, OuterRule, OuterState, Replica, attack::View, replica,
    robust::judge::Candidate,
};
use atoll_protocol::{
    ByteCount, Charter, Hash, InnerSteps, Layout, MicroNats, Millis, PeerId, Round, Tokens,
    charter::{Codec, Overlap},
    transaction::{AheadFrom, Measured, Reveal, States},
};
use std::{collections::BTreeMap, sync::Arc};

/// Evaluations on the way.
pub(super) const POINTS: u64 = 25;

/// One replica and its learner.
struct Trainee {
    replica: Replica,
    learner: BurnLearner,
    ahead: Option<Taken>,
}

/// Steps that were taken ahead of the next round.
struct Taken {
    from: Ahead,
    /// Loss before each.
    losses: Vec<f64>,
    /// Where they led.
    local: Vec<f32>,
    /// The optimizer's moments before them.
    moments: Vec<u8>,
}

struct Loop<'a> {
    spec: &'a Spec,
    task: &'a Task,
    charter: Arc<Charter>,
    layout: Arc<Layout>,
    trainees: Vec<Trainee>,
    stop: &'a (dyn Fn() -> bool + Sync),
    losses: Vec<f64>,
    /// What each liar sent in its first round.
    first: BTreeMap<usize, Vec<f32>>,
    /// What each liar made in the round before.
    last: BTreeMap<usize, Vec<f32>>,
    caught: Vec<Caught>,
    honest_kept_out: u32,
}

pub(super) fn run(spec: &Spec, task: &Task, stop: &(dyn Fn() -> bool + Sync)) -> Result<RunResult, RunError> {
    task.check(spec.sequence)?;
    let charter = Arc::new(spec.charter(task.vocab())?);
    let layout = Arc::new(Layout::of(&charter.model));
    let mut this = Loop {
        spec,
        task,
        trainees: trainees(&charter, &layout)?,
        charter,
        layout,
        stop,
        losses: Vec::new(),
        first: BTreeMap::new(),
        last: BTreeMap::new(),
        caught: vec![Caught::default(); spec.liars.len()],
        honest_kept_out: 0,
    };
    this.rounds()
}

fn trainees(charter: &Arc<Charter>, layout: &Arc<Layout>) -> Result<Vec<Trainee>, RunError> {
    let theta = init(&charter.model, charter.seed);
    let trainee = |_| {
        let state = OuterState::new(theta.clone(), &charter.outer);
        let roots = state.roots();
        let feedback = ErrorFeedback::new(layout.parameters);
        Ok(Trainee {
            replica: Replica::new(charter.clone(), layout.clone(), (state, roots), feedback, None),
            learner: BurnLearner::new(&charter.model, &charter.inner, DeviceChoice::Cpu)?,
            ahead: None,
        })
    };
    charter.members.iter().map(trainee).collect()
}

fn median(mut values: Vec<u32>) -> u32 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

impl Loop<'_> {
    fn rounds(&mut self) -> Result<RunResult, RunError> {
        let total = self.spec.steps();
        let mut terms = Terms::first(&self.charter);
        let mut done = RunResult {
            parameters: self.layout.parameters as u64,
            ..RunResult::default()
        };
        let (mut codecs, mut residuals) = (BTreeMap::<Codec, u32>::new(), 0.0);
        let mut next_point = 0;
        for number in 0.. {
            let left = total - terms.first_step;
            if left == 0 {
                break;
            }
            terms.steps = terms.steps.min(InnerSteps(u32::try_from(left).unwrap_or(u32::MAX)));
            if terms.first_step * POINTS >= next_point * total {
                done.curve.push(self.point(terms.first_step, done.encoded)?);
                next_point += 1;
            }
            let (bytes, observed) = self.round(Round(number), &terms, left)?;
            done.encoded += bytes;
            done.syncs += 1;
            *codecs.entry(terms.codec.clone()).or_default() += 1;
            residuals += f64::from(observed.residual_milli) / 1e3;
            terms = terms.next(&self.charter, Round(number), &Ended::Moved(observed));
        }
        let last = self.point(total, done.encoded)?;
        done.curve.push(last);
        done.loss = last.loss;
        done.tokens = total * u64::from(self.spec.batch) * u64::from(self.spec.sequence);
        done.codecs = codecs
            .iter()
            .map(|(codec, rounds)| (codec.to_string(), *rounds))
            .collect();
        done.residual = residuals / done.syncs.max(1) as f64;
        done.train_loss = tail_mean(&self.losses);
        done.caught.clone_from(&self.caught);
        done.honest_kept_out = self.honest_kept_out;
        Ok(done)
    }

    fn held_out(&mut self) -> Result<f64, RunError> {
        let Some(first) = self.trainees.first_mut() else {
            return Ok(f64::INFINITY);
        };
        first.learner.write(first.replica.theta())?;
        Ok(self.task.held_out(&mut first.learner, self.spec.sequence)?)
    }

    fn point(&mut self, step: u64, encoded: u64) -> Result<Point, RunError> {
        let loss = self.held_out()?;
        Ok(Point { step, encoded, loss })
    }

    /// All replicas train, contribute and merge. Bytes of a contribution (the mean), and what was observed.
    fn round(&mut self, round: Round, terms: &Terms, left: u64) -> Result<(u64, Observed), RunError> {
        let base = self
            .trainees
            .first()
            .map_or(Hash::ZERO, |first| first.replica.roots().0);
        let (mut contributions, mut measured) = (Vec::new(), Vec::<Measured>::new());
        let mut losses = vec![0.0; terms.steps.0 as usize];
        let locals = (0..self.trainees.len()).map(|who| self.inner_steps(who, terms, &mut losses));
        let locals = locals.collect::<Result<Vec<_>, _>>()?;
        let lies = self.lies(round, &locals)?;
        for (who, local) in locals.iter().enumerate() {
            let sent = match &lies[who] {
                Some(lie) => lie.clone(),
                None => self.on_the_wire(who, local.clone()),
            };
            let trainee = &mut self.trainees[who];
            let usual = terms.usual_norm_micro.filter(|_| lies[who].is_none()); // a liar keeps to no length
            let encoded = trainee.replica.contribute(&sent, &terms.codec, usual)?;
            measured.push(encoded.measured);
            let contribution = Contribution::read(encoded.blob, &self.layout, &terms.codec, &base)?;
            trainee
                .replica
                .set_pending(reveal(round, &contribution, terms), terms.codec.clone());
            let after = left.saturating_sub(terms.steps.0.into());
            self.go_ahead(who, local, &contribution, (round, terms), after)?;
            contributions.push((peer(who as u32), contribution));
        }
        self.losses
            .extend(losses.iter().map(|loss| loss / self.trainees.len() as f64));
        let norm_micro = self.merge(round, terms, &contributions)?;
        let bytes: usize = contributions.iter().map(|(_, c)| c.bytes().len()).sum();
        let observed = Observed {
            residual_milli: median(measured.iter().map(|m| m.residual_milli).collect()),
            rank_milli: median(measured.iter().map(|m| m.rank_milli).collect()),
            again: false,
            training: None,
            transfer: None,
            ahead_milli: self.ahead_milli(round, terms)?,
            norm_micro,
        };
        let mean = (bytes / contributions.len().max(1)) as u64;
        let observed = self.with_link(observed, terms, mean);
        Ok((if self.spec.codec == "fp16" { mean / 2 } else { mean }, observed))
    }

    /// The share of the round's steps, in thousandths, that were taken before it opened.
    fn ahead_milli(&self, round: Round, terms: &Terms) -> Result<u32, RunError> {
        let ahead = self.spec.ahead()?.min(terms.steps.0);
        Ok(match round {
            Round(0) => 0,
            _ => 1000 * ahead / terms.steps.0.max(1),
        })
    }

    /// What the liars pretend that training led to. They know what the honest ones send.
    fn lies(&mut self, round: Round, locals: &[Vec<f32>]) -> Result<Vec<Option<Vec<f32>>>, RunError> {
        let mut lies = vec![None; locals.len()];
        if self.spec.liars.is_empty() {
            return Ok(lies);
        }
        let honest = locals.len().saturating_sub(self.spec.liars.len());
        let Some(theta) = self.trainees.first().map(|first| first.replica.theta().to_vec()) else {
            return Ok(lies);
        };
        let away = |local: &Vec<f32>| theta.iter().zip(local).map(|(theta, w)| theta - w).collect();
        let others: Vec<Vec<f32>> = locals[..honest].iter().map(away).collect();
        for (who, lie) in lies.iter_mut().enumerate().skip(honest) {
            let Some(liar) = self.spec.liar(who)? else { continue };
            let own: Vec<f32> = away(&locals[who]);
            let view = View {
                own: &own,
                others: &others,
                first: self.first.get(&who).map(Vec::as_slice),
                last: self.last.get(&who).map(Vec::as_slice),
                seed: u64::from(round.0) << 8 | who as u64,
            };
            let sent = liar.sends(&view);
            self.last.insert(who, own);
            let Some(sent) = sent else { continue };
            self.first.entry(who).or_insert_with(|| sent.clone());
            *lie = Some(theta.iter().zip(&sent).map(|(theta, sent)| theta - sent).collect());
        }
        Ok(lies)
    }

    /// What a ledger would see of links with the spec's ρ; a step takes a second.
    fn with_link(&self, observed: Observed, terms: &Terms, bytes: u64) -> Observed {
        if self.spec.rho <= 0.0 {
            return observed;
        }
        let seconds = transfer(self.spec, self.layout.parameters as u64, bytes);
        Observed {
            training: Some(Millis(u64::from(terms.steps.0) * 1000)),
            transfer: Some(Millis((seconds * 1000.0) as u64)),
            ..observed
        }
    }

    /// The rest of the round's H steps; w. `losses` gets the loss before each step.
    fn inner_steps(&mut self, who: usize, terms: &Terms, losses: &mut [f64]) -> Result<Vec<f32>, RunError> {
        let trainee = &mut self.trainees[who];
        let (begin, early) = match trainee.ahead.take() {
            Some(taken) if taken.losses.len() <= terms.steps.0 as usize => {
                (trainee.replica.come_back(&taken.from, &taken.local)?, taken.losses)
            }
            // more steps than the round has fit into no contribution to it, and leave no trace
            Some(taken) => {
                trainee.learner.restore(&taken.moments)?;
                (trainee.replica.theta().to_vec(), Vec::new())
            }
            None => (trainee.replica.theta().to_vec(), Vec::new()),
        };
        trainee.learner.write(&begin)?;
        for (step, sum) in losses.iter_mut().enumerate() {
            *sum += match early.get(step) {
                Some(loss) => *loss,
                None => self.step(who, terms.first_step + step as u64)?,
            };
        }
        Ok(self.trainees[who].learner.read())
    }

    fn step(&mut self, who: usize, step: u64) -> Result<f64, RunError> {
        if (self.stop)() {
            return Err(RunError::Stopped);
        }
        let batch = self.task.batch(Rows {
            seed: self.spec.seed,
            step,
            replica: who as u32,
            replicas: self.spec.replicas,
            batch: self.spec.batch,
            sequence: self.spec.sequence,
        })?;
        let rate = learning_rate(&self.charter.inner, step, self.spec.steps());
        Ok(self.trainees[who].learner.train_step(&batch, rate)?.loss)
    }

    /// The steps that a replica takes while its contribution travels, if there is a round left to take them for.
    fn go_ahead(
        &mut self,
        who: usize,
        local: &[f32],
        contribution: &Contribution,
        (round, terms): (Round, &Terms),
        left: u64,
    ) -> Result<(), RunError> {
        let steps = u64::from(self.spec.ahead()?).min(left).min(terms.steps.0.into());
        if steps == 0 {
            return Ok(());
        }
        let from = match self.charter.round.overlap {
            Overlap::Eager => AheadFrom::Eager,
            Overlap::Round => AheadFrom::Theta,
            _ => AheadFrom::Own,
        };
        let trainee = &mut self.trainees[who];
        let rule = OuterRule::of(&self.charter, terms.momentum, terms.steps);
        let of = (round, rule, self.spec.replicas as usize);
        let from = trainee.replica.go_ahead(from, local, contribution, of)?;
        let moments = trainee.learner.save();
        trainee.learner.write(from.start())?;
        let first = terms.first_step + u64::from(terms.steps.0);
        let losses = (0..steps).map(|step| self.step(who, first + step));
        let losses = losses.collect::<Result<_, _>>()?;
        let trainee = &mut self.trainees[who];
        let local = trainee.learner.read();
        trainee.ahead = Some(Taken {
            from,
            losses,
            local,
            moments,
        });
        Ok(())
    }

    /// w as the others see it, where the wire is not a codec of ours: OpenDiLoCo sends δ in fp16.
    fn on_the_wire(&self, who: usize, mut local: Vec<f32>) -> Vec<f32> {
        if self.spec.codec == "fp16" {
            let theta = self.trainees[who].replica.theta();
            for (w, theta) in local.iter_mut().zip(theta) {
                *w = theta - super::baselines::through_fp16(theta - *w);
            }
        }
        local
    }

    /// Judges and merges. The median length, where it is looked at.
    fn merge(
        &mut self,
        round: Round,
        terms: &Terms,
        contributions: &[(PeerId, Contribution)],
    ) -> Result<u64, RunError> {
        let inputs = contributions.iter().zip(0..).map(|((peer, contribution), i)| Input {
            peer: *peer,
            tokens: Tokens(1),
            candidate: Candidate {
                replica: i,
                order: i.into(),
            },
            contribution,
        });
        let Some(first) = self.trainees.first() else {
            return Ok(0);
        };
        let outer = first.replica.outer();
        let merging = Merging {
            layout: &self.layout,
            robust: &self.charter.robust,
            usual_norm_micro: terms.usual_norm_micro,
            rule: OuterRule::of(&self.charter, terms.momentum, terms.steps),
        };
        let merged = replica::merged(outer, &inputs.collect::<Vec<_>>(), merging)?;
        let (state, judgement) = (merged.state, merged.judgement);
        let roots = state.roots();
        let out = |who: usize| judgement.unfit.iter().any(|unfit| usize::from(unfit.replica) == who);
        for (who, trainee) in self.trainees.iter_mut().enumerate() {
            trainee.replica.put_beside(state.clone(), roots);
            trainee.replica.advance(roots)?;
            match contributions.get(who).filter(|_| out(who)) {
                Some((_, contribution)) => {
                    trainee.replica.restore(round, Some(contribution.bytes().to_vec()))?;
                }
                None => {
                    trainee.replica.settle(round);
                }
            }
        }
        self.note(round, (0..self.trainees.len()).filter(|who| out(*who)));
        Ok(judgement.norm_micro)
    }

    fn note(&mut self, round: Round, out: impl Iterator<Item = usize>) {
        let honest = self.trainees.len().saturating_sub(self.caught.len());
        for who in out {
            match who.checked_sub(honest).and_then(|at| self.caught.get_mut(at)) {
                Some(caught) => {
                    caught.first.get_or_insert(round.0);
                    caught.rounds += 1;
                }
                None => self.honest_kept_out += 1,
            }
        }
    }
}

fn reveal(round: Round, contribution: &Contribution, terms: &Terms) -> Reveal {
    Reveal {
        round,
        trained: round,
        blob: Hash::ZERO,
        bytes: ByteCount(contribution.bytes().len() as u64),
        steps: terms.steps,
        ahead: None,
        tokens: Tokens(1),
        train_loss: MicroNats(0),
        held_out: MicroNats(0),
        measured: Measured::default(),
        states: States::NONE,
    }
}

/// Mean of the last tenth.
pub(super) fn tail_mean(losses: &[f64]) -> f64 {
    let tail = &losses[losses.len() - losses.len().div_ceil(10)..];
    tail.iter().sum::<f64>() / tail.len().max(1) as f64
}
