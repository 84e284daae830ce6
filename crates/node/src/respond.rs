//! What follows from each ledger event and each finished effect.

use crate::{
    Contribution, Effect, Node, Notice, Timer,
    machine::{Activity, Merge, Verdict},
};
use alloc::{boxed::Box, string::String, vec::Vec};
use atoll_ledger::{Event, Outcome, Phase, Roots, RoundRecord, Work, assign::Share};
use atoll_protocol::{
    Action, CheckReason, Finding, Hash, LossChange, Millis, PeerId, RefusedReplica, Round,
    transaction::{Judgement, Reveal, commitment},
};

impl Node {
    pub(crate) fn on_event(&mut self, now: Millis, event: &Event, out: &mut Vec<Effect>) {
        match event {
            Event::RoundEnded(record) => self.on_round_ended(record, out),
            Event::RevealOpened(_) => {
                self.closed_at = self.is_live().then_some(now);
                self.stop_training(out);
            }
            Event::Joined(peer) if *peer == self.me && self.leaving => self.leave(out),
            Event::CheckpointDue(round, _) => self.checkpoint = Some(*round),
            _ => {}
        }
        if !self.is_live() {
            return;
        }
        match event {
            Event::RoundOpened { .. } => {
                self.ensure_joined(out); // it may have been out for a while
                self.follow_theta(out);
                self.train_or_commit(out);
            }
            Event::Finished => self.follow_theta(out),
            Event::RevealOpened(_) => self.reveal(out),
            Event::Revealed(peer, reveal) => self.fetch(now, *peer, reveal, out),
            Event::CheckOpened(_) => {
                self.fetch_revealed(now, out);
                self.open_check(now, out);
            }
            Event::MergeOpened { .. } => self.start_merge(out),
            Event::AuditDrawn { .. } | Event::JuryDrawn { .. } => self.replay(out),
            Event::ScoreDrawn { .. } => self.score(out),
            // Left: an operator's leave from before a restart can become final after it.
            Event::Dormant(peer) | Event::Left(peer) if *peer == self.me => self.ensure_joined(out),
            _ => {}
        }
    }

    fn in_roster(&self) -> bool {
        self.state.round().replica(&self.me).is_some()
    }

    /// Makes θ the ledger's, by merging where only the last round is missing; then writes a checkpoint
    /// that is due.
    pub(crate) fn follow_theta(&mut self, out: &mut Vec<Effect>) {
        let agreed = self.state.core().roots;
        if self.holds != agreed {
            self.catch_up(agreed, out);
            return;
        }
        if matches!(self.activity, Activity::Adopting(other) if other != agreed) {
            self.activity = Activity::Adopting(agreed); // else the other θ would replace this one
            out.push(Effect::Adopt(agreed));
            return;
        }
        let due = self.state.core().checkpoint.as_ref();
        let wanted = due.is_some_and(|due| Some(due.round) == self.checkpoint && due.theta == agreed.theta);
        if wanted && self.is_live() {
            out.extend(self.checkpoint.take().map(Effect::Checkpoint));
        }
    }

    fn catch_up(&mut self, agreed: Roots, out: &mut Vec<Effect>) {
        let merging = matches!(self.merge, Some(Merge::Running(_) | Merge::Late(..)));
        if merging || self.activity == Activity::Adopting(agreed) {
            return; // on the way, or nearer to it soon
        }
        let last = self.state.core().last_merge.as_ref();
        match last.filter(|last| last.base == self.holds && self.spoiled != Some(last.round)) {
            Some(last) => {
                let last = last.clone();
                self.merge = Some(Merge::Late(last.round, agreed));
                out.push(Effect::Merge {
                    round: last.round,
                    plan: last.plan,
                    terms: last.terms,
                    excisions: last.excisions,
                });
            }
            None => {
                self.activity = Activity::Adopting(agreed);
                out.push(Effect::Adopt(agreed));
            }
        }
    }

    /// Trains for the current round, or commits to what a crash left on disk.
    pub(crate) fn train_or_commit(&mut self, out: &mut Vec<Effect>) {
        let round = self.state.round();
        let Some(replica) = round.replica(&self.me) else { return };
        if round.phase != Phase::Commit || round.commits.contains_key(&self.me) {
            return;
        }
        if let Some(mine) = self.mine.as_ref().filter(|mine| mine.round == round.number) {
            out.push(self.commit_to(mine));
            return;
        }
        if self.activity != Activity::Idle || self.holds != self.state.core().roots {
            return; // training already, or θ is on its way
        }
        let (number, replicas) = (round.number, round.roster.len() as u64);
        let share = Share {
            beacon: round.beacon,
            replica: replica as u64,
            replicas,
        };
        let terms = round.terms.clone();
        self.activity = Activity::Training(number);
        out.push(Effect::Train {
            round: number,
            share,
            terms,
            kib_micros: self.travel.kib_micros(),
            standing: self.standing_work(),
        });
    }

    fn standing_work(&self) -> Option<Box<Work>> {
        self.state.followed(&self.me).cloned().map(Box::new)
    }

    /// Makes again what this peer is asked to.
    pub(crate) fn replay(&mut self, out: &mut Vec<Effect>) {
        let cases = &self.state.core().audits.cases;
        self.replaying.retain(|key| cases.contains_key(key));
        for (key, case) in cases {
            if case.waits_for(&self.me) && self.replaying.insert(*key) {
                let (_, author) = key;
                out.push(Effect::Replay {
                    author: *author,
                    case: Box::new(case.clone()),
                    kib_micros: self.travel.kib_micros(),
                });
            }
        }
    }

    pub(crate) fn on_replayed(&mut self, key: (Round, PeerId), finding: Finding, out: &mut Vec<Effect>) {
        self.replaying.remove(&key);
        let case = self.state.core().audits.cases.get(&key);
        if case.is_some_and(|case| case.waits_for(&self.me)) {
            let (round, peer) = key;
            out.push(Effect::Submit(Action::Verdict { round, peer, finding }));
        }
    }

    /// Measures what this peer is asked to.
    pub(crate) fn score(&mut self, out: &mut Vec<Effect>) {
        let cases = &self.state.core().scores.cases;
        let me = self.me;
        let asked = |round: Round, peer: PeerId, beacon: Hash| {
            let case = cases.get(&(round, peer));
            case.is_some_and(|case| case.beacon == beacon && case.waits_for(&me))
        };
        self.scoring
            .retain(|(round, peer, beacon)| asked(*round, *peer, *beacon));
        for ((round, author), case) in cases {
            if case.waits_for(&self.me) && self.scoring.insert((*round, *author, case.beacon)) {
                out.push(Effect::Score(*author, Box::new(case.clone())));
            }
        }
    }

    /// What could not be measured is tried again when somebody is drawn the next time, if it is still asked for.
    pub(crate) fn on_scored(
        &mut self,
        (round, peer, beacon): (Round, PeerId, Hash),
        change: Option<LossChange>,
        out: &mut Vec<Effect>,
    ) {
        if change.is_none() {
            self.scoring.remove(&(round, peer, beacon));
        }
        let case = self.state.core().scores.cases.get(&(round, peer));
        let asked = case.is_some_and(|case| case.waits_for(&self.me) && case.beacon == beacon);
        if let Some(change) = change.filter(|_| asked) {
            out.push(Effect::Submit(Action::Score {
                round,
                peer,
                beacon,
                change,
            }));
        }
    }

    fn commit_to(&self, mine: &Contribution) -> Effect {
        let commitment = commitment(&self.state.core().genesis, &self.me, mine.round, &mine.blob);
        Effect::Submit(Action::Commit {
            round: mine.round,
            commitment,
        })
    }

    pub(crate) fn on_trained(&mut self, contribution: Contribution, out: &mut Vec<Effect>) {
        if self.activity == Activity::Training(contribution.round) {
            self.activity = Activity::Idle;
        }
        let round = self.state.round();
        if contribution.round != round.number {
            self.train_or_commit(out); // what becomes of it is known when θ is next trained from
            return;
        }
        if round.phase == Phase::Commit {
            out.push(self.commit_to(&contribution));
        }
        self.mine = Some(contribution);
    }

    /// What is not trained when commitments close is too late.
    fn stop_training(&mut self, out: &mut Vec<Effect>) {
        if let Activity::Training(_) = self.activity {
            self.activity = Activity::Idle;
            out.push(Effect::Abort);
        }
    }

    /// Reveals what was committed to, if it is still on disk.
    pub(crate) fn reveal(&self, out: &mut Vec<Effect>) {
        let round = self.state.round();
        let pending = round.commits.contains_key(&self.me) && !round.reveals.contains_key(&self.me);
        let mine = self.mine.as_ref().filter(|mine| pending && mine.round == round.number);
        out.extend(mine.map(|mine| Effect::Submit(Action::Reveal(mine.clone()))));
    }

    fn fetch(&mut self, now: Millis, peer: PeerId, reveal: &Reveal, out: &mut Vec<Effect>) {
        let replica = self.state.round().replica(&peer).filter(|_| self.in_roster());
        let Some(verdict) = replica.and_then(|replica| self.verdict_mut(replica)) else {
            return;
        };
        if *verdict == Verdict::Unasked {
            *verdict = Verdict::Asked(now);
            let (reveal, codec) = (reveal.clone(), self.state.round().terms.codec.clone());
            out.push(Effect::Fetch { peer, reveal, codec });
        }
    }

    /// The verdict on a replica's contribution, for every replica of the round.
    fn verdict_mut(&mut self, replica: usize) -> Option<&mut Verdict> {
        if self.verdicts.is_empty() {
            self.verdicts.resize(self.state.round().roster.len(), Verdict::Unasked);
        }
        self.verdicts.get_mut(replica)
    }

    pub(crate) fn fetch_revealed(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let revealed: Vec<(PeerId, Reveal)> = self
            .state
            .round()
            .reveals
            .iter()
            .map(|(peer, entry)| (*peer, entry.reveal.clone()))
            .collect();
        revealed
            .iter()
            .for_each(|(peer, reveal)| self.fetch(now, *peer, reveal, out));
    }

    pub(crate) fn on_fetched(
        &mut self,
        now: Millis,
        (round, peer): (Round, PeerId),
        verdict: Result<(), CheckReason>,
        out: &mut Vec<Effect>,
    ) {
        if round != self.state.round().number {
            return;
        }
        let replica = self.state.round().replica(&peer);
        if let Some(known) = replica.and_then(|replica| self.verdicts.get_mut(replica)) {
            let revealed = self.state.round().reveals.get(&peer).filter(|_| peer != self.me);
            // what was sent to a void round before was here before
            let revealed = revealed.filter(|revealed| revealed.reveal.trained == round);
            if let (Verdict::Asked(since), Ok(()), Some(revealed)) = (*known, verdict, revealed) {
                self.travel.arrived(since, now, revealed.reveal.bytes);
            }
            self.known += usize::from(!matches!(known, Verdict::Known(_)));
            *known = Verdict::Known(verdict);
        }
        if self.held.is_none() && self.holds_quorum() {
            self.held = self.closed_at.map(|closed| Millis(now.0.saturating_sub(closed.0)));
        }
        self.submit_check(false, out);
    }

    /// Judges now if everything is there, else when three quarters of the usual time are over.
    pub(crate) fn open_check(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let round = self.state.round().number;
        if let Some((usual, last)) = self.check_waits() {
            let timer = if usual == last {
                Timer::LastCheck(round)
            } else {
                Timer::Check(round)
            };
            let at = now.after(usual);
            out.push(Effect::SetTimer { at, timer });
        }
        self.submit_check(false, out);
    }

    /// How long after the check phase opened what is missing is given up: usually, and at the latest.
    fn check_waits(&self) -> Option<(Millis, Millis)> {
        let (since, limits) = (self.state.round().since, self.state.limits()?);
        let wait = |end: Millis| Millis(end.0.saturating_sub(since.0) / 4 * 3);
        Some((wait(limits.usual), wait(limits.last)))
    }

    /// The usual time is over, or the last. Before the last, what is missing to a quorum may still come.
    pub(crate) fn on_check_timer(&mut self, now: Millis, round: Round, last: bool, out: &mut Vec<Effect>) {
        let ours = self.state.round();
        if round != ours.number {
            return;
        }
        if last || self.holds_quorum() {
            return self.submit_check(true, out);
        }
        if let Some((usual, last)) = self.check_waits() {
            let at = now.after(Millis(last.0.saturating_sub(usual.0)));
            let timer = Timer::LastCheck(round);
            out.push(Effect::SetTimer { at, timer });
        }
    }

    /// Whether well-formed contributions of a quorum are here.
    fn holds_quorum(&self) -> bool {
        let quorum = self.state.charter().quorum(self.state.round().roster.len());
        let held = |verdict: &&Verdict| matches!(verdict, Verdict::Known(Ok(())));
        self.verdicts.iter().filter(held).count() >= quorum
    }

    /// Submits the verdicts once all are known, or at `deadline`, when the unknown count as missing.
    fn submit_check(&mut self, deadline: bool, out: &mut Vec<Effect>) {
        let round = self.state.round();
        let open = round.phase == Phase::Check && !round.checks.contains_key(&self.me) && self.in_roster();
        if !open || !(deadline || self.known >= round.reveals.len()) {
            return;
        }
        let mut refused = Vec::new();
        for peer in round.reveals.keys() {
            let Some(replica) = round.replica(peer) else { continue };
            let reason = match self.verdicts.get(replica) {
                Some(Verdict::Known(Ok(()))) => continue,
                Some(Verdict::Known(Err(reason))) => *reason,
                _ if deadline => CheckReason::Missing,
                _ => return,
            };
            let replica = u16::try_from(replica).unwrap_or(u16::MAX); // limits keep it far below
            refused.push(RefusedReplica { replica, reason });
        }
        let (round, held) = (round.number, self.held);
        out.push(Effect::Submit(Action::Check { round, held, refused }));
    }

    pub(crate) fn start_merge(&mut self, out: &mut Vec<Effect>) {
        let round = self.state.round();
        let number = round.number;
        let started = matches!(self.merge, Some(Merge::Running(at) | Merge::Done(at, _)) if at == number);
        let adopting = matches!(self.activity, Activity::Adopting(_));
        if started || adopting || self.holds != self.state.core().roots {
            return;
        }
        let (plan, terms, excisions) = (round.plan.clone(), round.terms.clone(), round.excisions.clone());
        self.merge = Some(Merge::Running(number));
        out.push(Effect::Merge {
            round: number,
            plan,
            terms,
            excisions,
        });
    }

    pub(crate) fn on_merged(&mut self, round: Round, roots: Roots, judgement: Judgement, out: &mut Vec<Effect>) {
        match self.merge {
            Some(Merge::Running(at)) if at == round => {
                self.merge = Some(Merge::Done(round, roots));
                self.post_root(round, roots, judgement, out);
            }
            Some(Merge::Late(at, agreed)) if at == round => {
                self.take_result(round, roots, agreed, out);
                self.continue_after_theta(out);
            }
            _ => {} // void, and discarded when it became so
        }
    }

    fn post_root(&self, round: Round, roots: Roots, judgement: Judgement, out: &mut Vec<Effect>) {
        if self.in_roster() && !self.state.round().roots.contains_key(&self.me) {
            out.push(Effect::Submit(Action::MergeRoot {
                round,
                theta: roots.theta,
                momentum: roots.momentum,
                judgement,
            }));
        }
    }

    pub(crate) fn on_merge_failed(&mut self, now: Millis, round: Round, reason: String, out: &mut Vec<Effect>) {
        out.push(Effect::Notice(Notice::MergeFailed { round, reason }));
        match self.merge {
            Some(Merge::Running(at)) if at == round => {
                self.merge = None;
                self.resume_later(now, out); // the quorum may need this peer: try again, but not at once
            }
            Some(Merge::Late(at, _)) if at == round => {
                self.merge = None;
                self.spoiled = Some(round);
                self.continue_after_theta(out);
            }
            _ => {}
        }
    }

    /// Compares the merged copy with what was agreed: takes it, or says so and drops it.
    fn take_result(&mut self, round: Round, ours: Roots, agreed: Roots, out: &mut Vec<Effect>) {
        self.merge = None;
        if ours == agreed {
            self.holds = agreed;
            out.push(Effect::Advance(agreed));
            return;
        }
        self.spoiled = Some(round);
        out.push(Effect::Notice(Notice::Diverged { round, ours, agreed }));
        out.push(Effect::Discard);
    }

    fn on_round_ended(&mut self, record: &RoundRecord, out: &mut Vec<Effect>) {
        self.verdicts.clear();
        self.known = 0;
        (self.closed_at, self.held) = (None, None);
        let quorum = self.state.charter().quorum(record.roster.len());
        self.travel.round_over(quorum.saturating_sub(1));
        if let Some(mine) = self.mine.take_if(|mine| mine.round == record.round) {
            let merged = record.merged.iter().any(|entry| entry.peer == self.me);
            let moved = matches!(record.outcome, Outcome::Closed(_));
            if !merged && moved {
                out.push(Effect::Restore(mine.round));
            }
        }
        self.stop_training(out);
        match record.outcome {
            Outcome::Closed(agreed) => self.on_closed(agreed, out),
            _ => self.on_void(out),
        }
        self.collect(record.round, out);
    }

    fn on_closed(&mut self, agreed: Roots, out: &mut Vec<Effect>) {
        match self.merge {
            Some(Merge::Done(round, ours)) => self.take_result(round, ours, agreed, out),
            Some(Merge::Running(round)) => self.merge = Some(Merge::Late(round, agreed)),
            Some(Merge::Late(..)) | None => {}
        }
    }

    fn on_void(&mut self, out: &mut Vec<Effect>) {
        if let Some(Merge::Running(_) | Merge::Done(..)) = self.merge {
            self.merge = None;
            out.push(Effect::Discard);
        }
    }

    pub(crate) fn collect(&self, ended: Round, out: &mut Vec<Effect>) {
        let retention = self.state.charter().round.retention;
        if retention > 0 && ended.0 >= retention {
            out.push(Effect::Collect(Round(ended.0 + 1 - retention)));
        }
    }

    pub(crate) fn on_adopted(&mut self, roots: Roots, out: &mut Vec<Effect>) {
        self.holds = roots;
        if self.activity == Activity::Adopting(roots) {
            self.activity = Activity::Idle;
        }
        self.continue_after_theta(out);
    }

    /// θ may be right now: catch up with what waited for it.
    fn continue_after_theta(&mut self, out: &mut Vec<Effect>) {
        self.follow_theta(out);
        self.train_or_commit(out);
        if self.state.round().phase == Phase::Merge && self.in_roster() {
            self.start_merge(out);
        }
    }
}
