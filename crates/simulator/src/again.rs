//! Contributions made again: the states that nodes keep for it, their way to whoever asks, and what comes out.
//!
//! What comes out of a case is computed once and is the same for all who make it, unless machines compute apart; the
//! time that it takes, and the way of what it needs, is everybody's own.

use crate::{
    clock::Micros,
    learner::Learner,
    report::Scored,
    transfers::Purpose,
    world::{Happening, World},
};
use atoll_ledger::{Applied, Case, Conviction, Event, Roots, Scoring, Standing, Work, Worked};
use atoll_node::Input;
use atoll_outer::{
    Contribution, ErrorFeedback, OuterState, OwnState,
    again::{AgainError, Claimed, Material, Recipe, Rows, Training, again},
    attack::Liar,
};
use atoll_protocol::{
    Finding, Hash, PeerId, Round,
    transaction::{AheadFrom, States},
};
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// How often a state is asked for that nobody serves, and how long between.
const STATE_TRIES: u32 = 20;
const RETRY: Micros = Micros::ms(300);

/// What all nodes' audits need, and what came out.
#[derive(Default)]
pub(crate) struct Replays {
    /// Own states by hash, with their owner and round.
    states: BTreeMap<Hash, (u32, Round, Arc<Vec<u8>>)>,
    /// θ and momentum of rounds that are over.
    outers: BTreeMap<Roots, (Round, Arc<OuterState>)>,
    /// Everything that was ever drawn, as it was.
    drawn: BTreeMap<(Round, PeerId), Case>,
    /// Everything that was ever measured, as it was.
    scored: BTreeMap<(Round, PeerId), Scoring>,
    /// What comes out on whose machine; on nobody's where all compute the same.
    found: BTreeMap<(Round, PeerId, Option<u32>), Finding>,
}

/// One that a node is at.
pub(crate) struct Replaying {
    pub(crate) ticket: u64,
    author: PeerId,
    case: Box<Case>,
    tries: u32,
}

/// How a work was to be made. Without its rows it is never drawn.
fn recipe(work: &Work) -> Option<Recipe<'_>> {
    let assigned = work.assigned.as_ref()?;
    Some(Recipe {
        reveal: &work.reveal,
        base: work.base.theta,
        codec: &assigned.terms.codec,
        usual_norm_micro: assigned.terms.usual_norm_micro,
        momentum: assigned.terms.momentum,
        steps: assigned.terms.steps,
        replicas: assigned.share.replicas as usize,
    })
}

/// A learner on the rows of somebody else.
struct Others<'a> {
    learner: Box<dyn Learner>,
    fresh: &'a [u8],
    worked: &'a Worked,
}

impl Training for Others<'_> {
    fn begin(&mut self, moments: Option<&[u8]>) -> Result<(), AgainError> {
        let moments = moments.unwrap_or(self.fresh);
        self.learner.restore(moments).map_err(AgainError::Claim)
    }

    fn walk(&mut self, weights: &[f32], rows: Rows, steps: Range<u32>) -> Result<Vec<f32>, AgainError> {
        let work = match rows {
            Rows::Last => Some(&self.worked.last),
            Rows::Before => self.worked.before.as_ref(),
        };
        let assigned = work.and_then(|work| work.assigned.as_ref());
        let assigned = assigned.ok_or_else(|| AgainError::Here("its rows are not known any more".into()))?;
        let global = assigned.terms.first_step + u64::from(steps.start);
        let stepped = self.learner.steps(weights, &assigned.share, steps, global);
        Ok(stepped.map_err(AgainError::Claim)?.weights)
    }

    fn moments(&self) -> Vec<u8> {
        self.learner.save()
    }

    fn moments_apart(&self, theirs: &[u8]) -> Result<f64, AgainError> {
        self.learner.moments_apart(theirs).map_err(AgainError::Claim)
    }
}

impl World {
    /// Keeps the state of `node` after the contribution just made, whose weights are `local`; both states, to be
    /// revealed.
    pub(crate) fn keep_state(&mut self, node: u32, round: Round, local: &[f32]) -> States {
        let Some(life) = self.peers[node as usize]
            .life
            .as_ref()
            .filter(|_| self.charter.audit.is_on())
        else {
            return States::NONE;
        };
        let (opening, _) = life.stands_on;
        let after = (life.replica.feedback().to_bytes(), life.learner.save());
        let state = OwnState::new(&self.charter, round, after, local).to_bytes();
        let closing = Hash::of_blob(&state);
        if self.liar(node) != Some(Liar::Hide) {
            self.replays.states.insert(closing, (node, round, Arc::new(state)));
        }
        States { opening, closing }
    }

    /// Goes on from the state that the ledger knows of, as the real trainer does.
    pub(crate) fn stand_on(&mut self, node: u32) {
        let audited = self.charter.audit.is_on();
        let Some(life) = self.peers[node as usize].life.as_ref().filter(|_| audited) else {
            return;
        };
        let standing = life.standing.clone();
        let known = standing.as_ref().map(|work| (work.reveal.states.closing, !work.merged));
        let expected = known.unwrap_or((Hash::ZERO, false));
        if life.stands_on == expected {
            return;
        }
        let back = standing.as_ref().and_then(|work| self.state_after(work));
        let (feedback, moments, stands_on) = match back {
            Some((feedback, moments)) => (feedback, moments, expected),
            None => (
                ErrorFeedback::new(self.layout.parameters),
                self.fresh.clone(),
                (Hash::ZERO, false),
            ),
        };
        let values = feedback.values().to_vec();
        let Some(life) = self.peers[node as usize].life.as_mut() else {
            return;
        };
        life.ahead = None;
        life.replica.go_back(feedback);
        life.stands_on = stands_on;
        life.anew = Some(values);
        if let Err(error) = life.learner.restore(&moments) {
            self.violated("disk", format!("node {node} cannot go back to its own state: {error}"));
        }
    }

    /// Error feedback and moments after `work`, if its author kept them.
    fn state_after(&self, work: &Work) -> Option<(ErrorFeedback, Vec<u8>)> {
        let (_, _, bytes) = self.replays.states.get(&work.reveal.states.closing)?;
        let state = OwnState::from_bytes(bytes).ok()?;
        let mut feedback = ErrorFeedback::from_bytes(&state.feedback, self.layout.parameters).ok()?;
        if !work.merged {
            feedback.restore(&self.sent(work)?).ok()?;
        }
        Some((feedback, state.moments))
    }

    /// What was sent, or would have been, had it not been spoilt.
    fn sent(&self, work: &Work) -> Option<Contribution> {
        let id = self.blobs.find(&work.reveal.blob)?;
        let bytes = self.honest.get(&id).unwrap_or(&self.blobs.get(id).bytes).clone();
        Contribution::read(bytes, &self.layout, recipe(work)?.codec, &work.base.theta).ok()
    }

    /// θ and momentum after a round, for whoever makes something again from them.
    pub(crate) fn remember_outer(&mut self, roots: Roots, round: Round, state: &Arc<OuterState>) {
        if self.charter.audit.is_on() || self.charter.score.is_on() {
            self.replays
                .outers
                .entry(roots)
                .or_insert_with(|| (round, state.clone()));
        }
    }

    /// θ and momentum with these roots.
    pub(crate) fn outer(&self, roots: &Roots) -> Result<Arc<OuterState>, String> {
        match self.replays.outers.get(roots) {
            Some((_, outer)) => Ok(outer.clone()),
            None if self.first.1 == *roots => Ok(self.first.0.clone()),
            None => Err(format!("θ {} is not kept any more", roots.theta.short())),
        }
    }

    /// Begins to make a contribution again: first what it needs is fetched.
    pub(crate) fn begin_replay(&mut self, node: u32, author: PeerId, case: Box<Case>) {
        let ticket = self.ticket();
        if let Some(life) = self.peers[node as usize].life.as_mut() {
            life.replays.push(Replaying {
                ticket,
                author,
                case,
                tries: 0,
            });
        }
        self.fetch_states(node, ticket);
    }

    /// Asks for the states before and after; what nobody serves in time is missing.
    pub(crate) fn fetch_states(&mut self, node: u32, ticket: u64) {
        let Some((author, states)) = self.replaying(node, ticket).map(|replaying| {
            replaying.tries += 1;
            (replaying.author, replaying.case.worked.last.reveal.states)
        }) else {
            return;
        };
        let wanted = [states.opening, states.closing]
            .into_iter()
            .filter(|hash| *hash != Hash::ZERO);
        let found: Option<Vec<usize>> = wanted
            .map(|hash| self.replays.states.get(&hash).map(|(_, _, bytes)| bytes.len()))
            .collect();
        let author = self.node_of(&author);
        match found.filter(|_| self.reach(node, author)) {
            Some(bytes) => {
                let bytes = bytes.iter().sum::<usize>() as u64;
                self.begin(author, node, bytes, Purpose::States { ticket });
            }
            None if self.tries(node, ticket) < STATE_TRIES => {
                let life = self.peers[node as usize].life.as_ref().map_or(0, |life| life.number);
                let again = Happening::States { node, life, ticket };
                self.queue.push(self.now.after(RETRY), again);
            }
            None => self.replayed(node, ticket, Finding::Missing),
        }
    }

    fn replaying(&mut self, node: u32, ticket: u64) -> Option<&mut Replaying> {
        let life = self.peers[node as usize].life.as_mut()?;
        life.replays.iter_mut().find(|replaying| replaying.ticket == ticket)
    }

    fn tries(&mut self, node: u32, ticket: u64) -> u32 {
        self.replaying(node, ticket).map_or(0, |replaying| replaying.tries)
    }

    /// Everything is here: it is made again, beside all else.
    pub(crate) fn states_arrived(&mut self, node: u32, ticket: u64) {
        let steps = match self.replaying(node, ticket) {
            Some(replaying) => replaying.case.worked.last.reveal.steps.0,
            None => return,
        };
        let (profile, slow) = (
            &self.peers[node as usize].profile,
            self.peers[node as usize].slow.training,
        );
        let length = profile.step.times(f64::from(steps) * slow);
        let life = self.peers[node as usize].life.as_ref().map_or(0, |life| life.number);
        self.queue
            .push(self.now.after(length), Happening::Again { node, life, ticket });
    }

    /// It is made.
    pub(crate) fn made_again(&mut self, node: u32, ticket: u64) {
        let Some((author, case)) = self
            .replaying(node, ticket)
            .map(|replaying| (replaying.author, replaying.case.clone()))
        else {
            return;
        };
        match self.finding(author, &case, Some(node)) {
            Ok(finding) => self.replayed(node, ticket, finding),
            Err(error) => self.violated(
                "audit",
                format!("node {node} cannot make a contribution again: {error}"),
            ),
        }
    }

    fn replayed(&mut self, node: u32, ticket: u64, finding: Finding) {
        let Some(life) = self.peers[node as usize].life.as_mut() else {
            return;
        };
        let Some(at) = life.replays.iter().position(|replaying| replaying.ticket == ticket) else {
            return;
        };
        let Replaying { author, case, .. } = life.replays.remove(at);
        let round = case.worked.last.reveal.round;
        self.input(
            node,
            Input::Replayed {
                round,
                peer: author,
                finding,
            },
        );
    }

    /// What comes out when a case is made again on this node's machine, or on one that nobody has.
    fn finding(&mut self, author: PeerId, case: &Case, on: Option<u32>) -> Result<Finding, String> {
        let on = on.filter(|_| self.scenario.learner.apart > 0.0);
        let key = (case.worked.last.reveal.round, author, on);
        if let Some(found) = self.replays.found.get(&key) {
            return Ok(*found);
        }
        let found = self.compute(&case.worked, on)?;
        self.replays.found.insert(key, found);
        Ok(found)
    }

    fn compute(&self, worked: &Worked, on: Option<u32>) -> Result<Finding, String> {
        let nothing = Finding::Apart { billionths: u64::MAX };
        let (last, before) = (&worked.last, worked.before.as_ref());
        let unknown = || "its rows are not known any more".to_string();
        let recipe_last = recipe(last).ok_or_else(unknown)?;
        let before_claimed = match before {
            Some(before) => Some((recipe(before).ok_or_else(unknown)?, before.merged)),
            None => None,
        };
        let States { opening, closing } = last.reveal.states;
        let state = |hash: &Hash| self.replays.states.get(hash).map(|(_, _, bytes)| bytes.to_vec());
        let opening = match opening {
            Hash::ZERO => None,
            opening => match state(&opening) {
                Some(state) => Some(state),
                None => return Ok(Finding::Missing),
            },
        };
        let bytes = |work: &Work| {
            let id = self.blobs.find(&work.reveal.blob);
            id.map(|id| self.blobs.get(id).bytes.clone())
        };
        let ahead = last.reveal.ahead.map(|ahead| ahead.from);
        let wanted = before.filter(|before| ahead.is_some() || !before.merged);
        let from_theta = ahead.is_some_and(|from| from != AheadFrom::Own);
        let material = Material {
            opening,
            base: (*self.outer(&last.base)?).clone(),
            before: wanted.and_then(bytes),
            before_base: before
                .filter(|_| from_theta)
                .map(|before| self.outer(&before.base).map(|outer| (*outer).clone()))
                .transpose()?,
        };
        let mut others = Others {
            learner: self.learner_of(on)?,
            fresh: &self.fresh,
            worked,
        };
        let claimed = Claimed {
            last: recipe_last,
            before: before_claimed,
        };
        let again = match again(&mut others, (&self.charter, &self.layout), claimed, material) {
            Ok(again) if again.is(&last.reveal) => return Ok(Finding::Same),
            Ok(again) => again,
            Err(AgainError::Here(error)) => return Err(error),
            Err(AgainError::Claim(_)) => return Ok(nothing),
        };
        let Some(closing) = state(&closing) else {
            return Ok(Finding::Missing);
        };
        let sent = bytes(last)
            .and_then(|bytes| Contribution::read(bytes, &self.layout, recipe_last.codec, &last.base.theta).ok());
        let found = match (sent, OwnState::from_bytes(&closing)) {
            (Some(sent), Ok(closing)) => again.finding(&others, &self.layout, recipe_last, (&sent, &closing)),
            _ => return Ok(nothing),
        };
        Ok(found.unwrap_or(nothing))
    }

    /// Notes what is drawn, and holds every conviction against what comes out here.
    pub(crate) fn check_audits(&mut self, applied: &Applied) {
        let cases = &applied.state().core().audits.cases;
        for event in applied.events() {
            match event {
                Event::AuditDrawn { round, peer, .. } => {
                    if let Some(case) = cases.get(&(*round, *peer)) {
                        self.replays.drawn.insert((*round, *peer), case.clone());
                    }
                }
                // the last time it was drawn counts: the jury's
                Event::ScoreDrawn { round, peer, .. } => {
                    if let Some(case) = applied.state().core().scores.cases.get(&(*round, *peer)) {
                        self.replays.scored.insert((*round, *peer), case.clone());
                    }
                }
                Event::Scored(scored) => self.scores.push(Scored {
                    node: self.node_of(&scored.peer),
                    round: scored.round,
                    change: scored.change,
                    harmful: scored.harmful,
                }),
                Event::Convicted {
                    peer,
                    standing,
                    conviction,
                } => self.check_conviction(*peer, *standing, conviction),
                Event::RoundEnded(record) => {
                    let kept = self.charter.audit.retention();
                    let old = |round: &Round| round.0.saturating_add(kept) < record.round.0;
                    self.replays.states.retain(|_, (_, round, _)| !old(round));
                    self.replays.outers.retain(|_, (round, _)| !old(round));
                }
                _ => {}
            }
        }
    }

    /// Who is out for harm must have harmed.
    fn check_harm(&mut self, node: u32, of: (Round, PeerId)) {
        let (_, judged) = of;
        let case = self.replays.scored.get(&of).cloned();
        let change = case.map(|case| self.loss_change(judged, &case));
        match change {
            Some(Ok(change)) if self.charter.score.is_harm(change) => {}
            other => self.violated(
                "evidence",
                format!("node {node} is out for harm, but it comes to {other:?}"),
            ),
        }
    }

    fn check_conviction(&mut self, peer: PeerId, standing: Standing, conviction: &Conviction) {
        let node = self.node_of(&peer);
        let of = (conviction.round, conviction.judged);
        let (now, (round, judged)) = (self.order.tip().round().number, of);
        if !matches!(standing, Standing::Suspended(_) | Standing::Excluded) {
            // what it started from was not to be had: it may have been away
            let why = format!("nobody served what its contribution to round {round} was made from");
            let trace = &self.trace;
            let was_away = trace.off.iter().chain(&trace.apart).any(|(of, ..)| *of == node);
            if !was_away && !self.ever_lied(node) {
                let text = format!("node {node} was there all the time and serves its states, but: {why}");
                self.violated("honest-unserved", text);
            }
            self.unserved.entry(node).or_insert((now, why));
            return;
        }
        let why = match peer == judged {
            true => format!("made again, its contribution to round {round} is another"),
            false => format!(
                "a jury found otherwise about the contribution of node {} to round {round}",
                self.node_of(&judged)
            ),
        };
        let why = match conviction.scores.is_empty() {
            true => why,
            false => format!("its contribution to round {round} raises the loss, as others did before"),
        };
        self.convicted.entry(node).or_insert((now, why));
        if !self.ever_lied(node) {
            self.violated(
                "honest-convicted",
                format!("node {node} is {standing:?} and never lied: {conviction:?}"),
            );
        }
        if !conviction.scores.is_empty() {
            return self.check_harm(node, of);
        }
        let missing = conviction
            .findings
            .iter()
            .filter(|(_, found)| *found == Finding::Missing);
        if peer == judged && 2 * missing.count() > conviction.findings.len() {
            return; // it hid what it started from, time after time
        }
        let (case, liar) = (self.replays.drawn.get(&of).cloned(), self.liar(node));
        let found = case.map(|case| self.finding(judged, &case, None));
        let holds = match found {
            Some(Ok(finding)) if peer == judged => self.charter.audit.fails(finding),
            // it accused what is right, or passed what is wrong
            Some(Ok(finding)) => self.charter.audit.fails(finding) == (liar == Some(Liar::Blind)),
            _ => false,
        };
        if !holds {
            let text = format!("node {node} is {standing:?} for round {round}, but what comes out is {found:?}");
            self.violated("evidence", text);
        }
    }
}
