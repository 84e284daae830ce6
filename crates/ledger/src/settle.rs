//! After a block's transactions: does the phase end, and what follows?

use crate::{
    CheckpointState, Ended, Event, KeptOut, LastMerge, Merged, Observed, Peer, Phase, Planned, Roots, RoundState,
    Standing, State, Terms,
    event::{Outcome, RoundRecord},
    terms::median,
};
use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use atoll_protocol::{
    CheckReason, Domain, Hash, InnerSteps, MicroNats, Millis, PeerId, Refused, Robust, Round, Tokens, encode,
    transaction::{Measured, Reveal},
};

impl State {
    /// Moves through as many phases as are complete at `now`. `parent` is the digest of the block
    /// before, from which a new round's beacon is drawn.
    pub(crate) fn settle(&mut self, now: Millis, parent: Hash, events: &mut Vec<Event>) {
        self.core_mut().round.note_delays(now);
        loop {
            let phase = self.round().phase;
            let moved = match phase {
                Phase::Gathering => self.settle_gathering(now, parent, events),
                Phase::Commit | Phase::Check | Phase::Merge if self.outgrown(now) => {
                    self.end(Outcome::Outgrown, now, parent, events);
                    true
                }
                Phase::Commit => self.settle_commit(now, events),
                Phase::Reveal => self.settle_reveal(now, parent, events),
                Phase::Check => self.settle_check(now, parent, events),
                Phase::Merge => self.settle_merge(now, parent, events),
                Phase::Finished => false,
            };
            if !moved {
                return;
            }
        }
    }

    /// Keeps how long peers needed in the round that is over.
    fn record_pace(&mut self, record: &RoundRecord) {
        let quorum = self.charter().quorum(record.roster.len());
        let core = self.core_mut();
        let peers = (core.round.roster.len(), core.round.commits.len());
        let mut held: Vec<Millis> = core.round.checks.values().filter_map(|check| check.held).collect();
        held.sort_unstable();
        core.round.delays.check = held;
        let good = record.merged.len() + record.kept_out.len() >= quorum;
        core.pace.record(&core.round.delays, peers, good);
    }

    /// What the round showed that is closing, for the terms of the next.
    fn observed(&self) -> Observed {
        let round = self.round();
        let unfit = round.judgement.as_ref().map_or(&[][..], |judgement| &judgement.unfit);
        let fit = |entry: &&Planned| !unfit.iter().any(|out| out.replica == entry.replica);
        let merged = || {
            let fit = round.plan.iter().filter(fit);
            fit.filter_map(|entry| round.reveals.get(&entry.peer))
        };
        let measured: Vec<Measured> = merged().map(|revealed| revealed.reveal.measured).collect();
        let median = |of: fn(&Measured) -> u32| median(measured.iter().map(of)).unwrap_or(0);
        Observed {
            residual_milli: median(|measured| measured.residual_milli),
            rank_milli: median(|measured| measured.rank_milli),
            again: 2 * merged()
                .filter(|revealed| revealed.reveal.trained != round.number)
                .count()
                > merged().count(),
            training: Some(round.terms.length(median(|measured| measured.step_micros))).filter(|length| length.0 > 0),
            norm_micro: round.judgement.as_ref().map_or(0, |judgement| judgement.norm_micro),
            ahead_milli: ahead_milli(merged().map(|revealed| &revealed.reveal)),
            transfer: transfer(&round.plan, median(|measured| measured.kib_micros)),
        }
    }

    fn is_barred(&self, peer: &PeerId) -> bool {
        self.core().peers.get(peer).is_some_and(Peer::is_barred)
    }

    /// Notes when a quorum joined or committed, if `there`; says whether the grace after that is over.
    fn grace_over(&mut self, there: bool, now: Millis) -> bool {
        let grace = self.charter().deadlines.grace;
        let at = &mut self.core_mut().round.quorum_at;
        there && now >= at.get_or_insert(now).after(grace)
    }

    /// Whether the round waits for a quorum of its roster that does not come, while so many have joined since
    /// that, with those who did speak, they are a quorum of all members; and the grace after that is over.
    /// Without this a small roster that loses its quorum would hold up everybody for ever. While the roster
    /// is most of the members, too few are outside it for this ever to be.
    fn outgrown(&mut self, now: Millis) -> bool {
        let (round, charter) = (self.round(), self.charter());
        let spoken = match round.phase {
            Phase::Commit => round.commits.len(),
            Phase::Check => round.checks.len(),
            _ => round.roots.len(),
        };
        let outside = self
            .active()
            .iter()
            .filter(|peer| round.replica(peer).is_none())
            .count();
        if outside == 0 || spoken >= charter.quorum(round.roster.len()) {
            return false;
        }
        if outside + spoken < charter.quorum(charter.members.len()) {
            return false;
        }
        let grace = charter.deadlines.grace;
        let at = *self.core_mut().round.outgrown_at.get_or_insert(now);
        now >= at.after(grace)
    }

    fn settle_gathering(&mut self, now: Millis, parent: Hash, events: &mut Vec<Event>) -> bool {
        let (active, members) = (self.active().len(), self.charter().members.len());
        let quorum = self.charter().quorum(members);
        let ready = self.grace_over(active >= quorum, now) || active == members;
        if ready {
            let number = self.round().number;
            let terms = self.round().terms.clone();
            self.open(number, terms, now, parent, events);
        }
        ready
    }

    /// Inner steps of the run.
    fn budget(&self) -> u64 {
        let rules = &self.charter().round;
        u64::from(rules.rounds) * u64::from(rules.inner_steps.0)
    }

    fn open(&mut self, number: Round, mut terms: Terms, now: Millis, parent: Hash, events: &mut Vec<Event>) {
        let roster = self.active();
        let left = self.budget().saturating_sub(terms.first_step);
        terms.steps = terms.steps.min(InnerSteps(u32::try_from(left).unwrap_or(u32::MAX)));
        let mut round = RoundState::gathering(number, now, terms);
        if left == 0 {
            round.phase = Phase::Finished;
            events.push(Event::Finished);
        } else if !roster.is_empty() {
            round.beacon = Hash::of(Domain::Beacon, &encode(&(self.core().genesis, parent, number)));
            round.phase = Phase::Commit;
            round.roster = roster;
            let (beacon, roster, terms) = (round.beacon, round.roster.clone(), round.terms.clone());
            events.push(Event::RoundOpened {
                round: number,
                beacon,
                terms,
                roster,
            });
        }
        self.core_mut().round = round;
    }

    fn settle_commit(&mut self, now: Millis, events: &mut Vec<Event>) -> bool {
        let (round, quorum) = (self.round(), self.charter().quorum(self.round().roster.len()));
        let missing = |peer: &&PeerId| !round.commits.contains_key(*peer) && !self.is_barred(peer);
        let (all, count) = (!round.roster.iter().any(|peer| missing(&peer)), round.commits.len());
        self.grace_over(count >= quorum, now); // notes when the quorum was there
        let over = count >= quorum && self.phase_ends().is_some_and(|end| now >= end);
        let ready = over || all;
        if ready {
            self.core_mut().round.enter(Phase::Reveal, now);
            events.push(Event::RevealOpened(self.round().number));
        }
        ready
    }

    fn settle_reveal(&mut self, now: Millis, parent: Hash, events: &mut Vec<Event>) -> bool {
        let round = self.round();
        let all = round
            .commits
            .keys()
            .all(|peer| round.reveals.contains_key(peer) || self.is_barred(peer));
        let ready = all || self.phase_ends().is_some_and(|end| now >= end);
        if !ready {
            return false;
        }
        let round = self.round();
        if round.reveals.is_empty() {
            self.end(Outcome::NobodyRevealed, now, parent, events);
        } else {
            self.core_mut().round.enter(Phase::Check, now);
            events.push(Event::CheckOpened(self.round().number));
        }
        true
    }

    fn settle_check(&mut self, now: Millis, parent: Hash, events: &mut Vec<Event>) -> bool {
        let (round, quorum) = (self.round(), self.charter().quorum(self.round().roster.len()));
        // who committed and did not reveal is likely gone: nobody waits for its word
        let all = round
            .reveals
            .keys()
            .all(|peer| round.checks.contains_key(peer) || self.is_barred(peer));
        let late = self.phase_ends().is_some_and(|end| now >= end);
        if round.checks.len() < quorum || !(all || late) {
            return false;
        }
        let plan = self.plan(quorum);
        if plan.is_empty() {
            self.end(Outcome::NothingAccepted, now, parent, events);
            return true;
        }
        let (refused, excisions) = (self.refused(&plan), self.excisions());
        let round = &mut self.core_mut().round;
        round.plan.clone_from(&plan);
        round.excisions = excisions;
        round.enter(Phase::Merge, now);
        events.push(Event::MergeOpened {
            round: round.number,
            plan,
            refused,
        });
        true
    }

    /// Contributions that a quorum holds, ascending by peer.
    pub(crate) fn plan(&self, quorum: usize) -> Vec<Planned> {
        let round = self.round();
        let refusals = round.refusals();
        let held = |peer: &PeerId| {
            let refused = round.replica(peer).map_or(0, |place| refusals[place]);
            round.checks.len() - refused >= quorum
        };
        let fit = |peer: &PeerId| held(peer) && !self.is_barred(peer);
        let planned = |(peer, revealed): (&PeerId, &crate::Revealed)| Planned {
            peer: *peer,
            blob: revealed.reveal.blob,
            bytes: revealed.reveal.bytes,
            tokens: revealed.reveal.tokens,
            replica: round
                .replica(peer)
                .and_then(|place| u16::try_from(place).ok())
                .unwrap_or(u16::MAX),
            order: round.commits.get(peer).map_or(u32::MAX, |committed| committed.order),
        };
        round
            .reveals
            .iter()
            .filter(|(peer, _)| fit(peer))
            .map(planned)
            .collect()
    }

    /// Revealed but not planned, each with the reason that most peers gave (the first of equals).
    fn refused(&self, plan: &[Planned]) -> Vec<Refused> {
        let planned = |peer: &PeerId| plan.binary_search_by_key(peer, |entry| entry.peer).is_ok();
        let reason = |peer: &PeerId| {
            let mut votes: BTreeMap<CheckReason, usize> = BTreeMap::new();
            let place = self.round().replica(peer);
            let all = self.round().checks.values().flat_map(|check| &check.refused);
            let of_peer = all.filter(|refused| Some(usize::from(refused.replica)) == place);
            of_peer.for_each(|refused| *votes.entry(refused.reason).or_default() += 1);
            let most = votes.values().max().copied();
            let first = votes.into_iter().find(|(_, n)| Some(*n) == most);
            first.map_or(CheckReason::Missing, |(reason, _)| reason)
        };
        let out = self.round().reveals.keys().filter(|peer| !planned(peer));
        out.map(|peer| Refused {
            peer: *peer,
            reason: reason(peer),
        })
        .collect()
    }

    fn settle_merge(&mut self, now: Millis, parent: Hash, events: &mut Vec<Event>) -> bool {
        let (round, charter) = (self.round(), self.charter());
        let needed = charter.decisive(round.roster.len());
        if let Some(Merged { roots, judgement }) = round.agreed(needed) {
            self.core_mut().round.judgement = Some(judgement);
            self.end(Outcome::Closed(roots), now, parent, events);
            return true;
        }
        let silent = |peer: &&PeerId| !round.roots.contains_key(*peer) && !self.is_barred(peer);
        let silent = round.roster.iter().filter(|peer| silent(peer)).count();
        let hopeless = !round.roots.is_empty() && round.most_equal_roots() + silent < needed;
        let late =
            self.phase_ends().is_some_and(|end| now >= end) && round.roots.len() >= charter.quorum(round.roster.len());
        if hopeless || late {
            self.end(Outcome::RootsSplit, now, parent, events);
        }
        hopeless || late
    }

    fn end(&mut self, outcome: Outcome, now: Millis, parent: Hash, events: &mut Vec<Event>) {
        let record = self.record(outcome, now);
        self.record_pace(&record);
        let ended = match outcome {
            Outcome::Closed(_) => Ended::Moved(self.observed()),
            Outcome::NothingAccepted => Ended::Late,
            Outcome::NobodyRevealed | Outcome::RootsSplit | Outcome::Outgrown => Ended::Void,
        };
        let next = self.round().terms.next(self.charter(), record.round, &ended);
        self.credit(&record, events);
        let number = record.round;
        let merge = matches!(outcome, Outcome::Closed(_)).then(|| LastMerge {
            round: number,
            base: self.core().roots,
            terms: record.terms.clone(),
            plan: self.round().plan.clone(),
            excisions: record.excisions.clone(),
        });
        self.note_sent(merge.is_some());
        self.audits_due(&record, merge.as_ref(), parent, events);
        let core = self.core_mut();
        core.history = Hash::of(Domain::History, &encode(&(core.history, &record)));
        if let Outcome::Closed(roots) = outcome {
            core.last_merge = merge;
            core.roots = roots;
        }
        events.push(Event::RoundEnded(Box::new(record)));
        self.checkpoint_due(number, next.first_step >= self.budget(), events);
        self.open(number.next(), next, now, parent, events);
    }

    fn record(&self, outcome: Outcome, now: Millis) -> RoundRecord {
        let round = self.round();
        let (plan, excisions) = match outcome {
            Outcome::Closed(_) => (round.plan.as_slice(), round.excisions.clone()),
            _ => (&[][..], Vec::new()),
        };
        let judgement = round.judgement.as_ref();
        let reason = |planned: &Planned| {
            let unfit = judgement.map_or(&[][..], |judgement| &judgement.unfit);
            unfit
                .iter()
                .find(|entry| entry.replica == planned.replica)
                .map(|entry| entry.reason)
        };
        let (mut merged, mut kept_out) = (Vec::new(), Vec::new());
        for planned in plan {
            let planned = planned.clone();
            match reason(&planned) {
                Some(reason) => kept_out.push(KeptOut { planned, reason }),
                None => merged.push(planned),
            }
        }
        let without = |from: &[PeerId], has: &dyn Fn(&PeerId) -> bool| -> Vec<PeerId> {
            from.iter().filter(|peer| !has(peer)).copied().collect()
        };
        let committed: Vec<PeerId> = round.commits.keys().copied().collect();
        let reveals = || {
            merged
                .iter()
                .filter_map(|entry| round.reveals.get(&entry.peer))
                .map(|entry| &entry.reveal)
        };
        let loss = |of: fn(&Reveal) -> MicroNats| trimmed_mean(reveals().map(of));
        RoundRecord {
            round: round.number,
            outcome,
            closed_at: now,
            terms: round.terms.clone(),
            roster: round.roster.clone(),
            absent: without(&round.roster, &|peer| round.commits.contains_key(peer)),
            withheld: without(&committed, &|peer| round.reveals.contains_key(peer)),
            refused: self.refused(&round.plan),
            train_loss: loss(|reveal| reveal.train_loss),
            held_out: loss(|reveal| reveal.held_out),
            merged,
            kept_out,
            excisions,
            matrix: judgement.map_or(Hash::ZERO, |judgement| judgement.matrix),
            norm_micro: judgement.map_or(0, |judgement| judgement.norm_micro),
        }
    }

    /// What was revealed to a void round is its authors' to send again. What was sent to earlier ones and not to
    /// this is forgotten, so that there is never more than a roster's.
    fn note_sent(&mut self, moved: bool) {
        let core = self.core_mut();
        let earlier = core::mem::take(&mut core.sent);
        if moved {
            return;
        }
        for (peer, revealed) in &core.round.reveals {
            let blob = revealed.reveal.blob;
            core.sent.insert(blob, earlier.get(&blob).copied().unwrap_or(*peer));
        }
        if core.round.reveals.is_empty() {
            core.sent = earlier;
        }
    }

    /// Counts contributions and absences.
    fn credit(&mut self, record: &RoundRecord, events: &mut Vec<Event>) {
        let absent_max = self.charter().round.absent_max;
        for entry in &record.merged {
            if let Some(peer) = self.core_mut().peers.get_mut(&entry.peer) {
                peer.merged = peer.merged.saturating_add(1);
                peer.proven = peer.proven.saturating_add(1);
                peer.tokens = Tokens(peer.tokens.0.saturating_add(entry.tokens.0));
            }
        }
        for id in &record.roster {
            let Some(peer) = self.core_mut().peers.get_mut(id) else {
                continue;
            };
            let missed = record.absent.contains(id) || record.withheld.contains(id);
            peer.absent = if missed { peer.absent.saturating_add(1) } else { 0 };
            if peer.absent >= absent_max && peer.standing == Standing::Active {
                peer.standing = Standing::Dormant;
                events.push(Event::Dormant(*id));
            }
        }
    }

    fn checkpoint_due(&mut self, ended: Round, last: bool, events: &mut Vec<Event>) {
        let rules = &self.charter().round;
        let count = u64::from(ended.0) + 1;
        let due = count % u64::from(rules.checkpoint_every) == 0 || last;
        if due {
            let roots: Roots = self.core().roots;
            self.core_mut().checkpoint = Some(CheckpointState {
                round: ended,
                theta: roots.theta,
                statements: BTreeMap::new(),
                recorded: None,
            });
            events.push(Event::CheckpointDue(ended, roots));
        }
    }
}

/// The share of their steps, in thousandths, that the median peer took before it knew its θ.
fn ahead_milli<'a>(reveals: impl Iterator<Item = &'a Reveal>) -> u32 {
    let shares = reveals.map(|reveal| {
        let ahead = reveal.ahead.map_or(0, |ahead| u64::from(ahead.steps.0));
        u32::try_from(1000 * ahead / u64::from(reveal.steps.0.max(1))).unwrap_or(u32::MAX)
    });
    median(shares).unwrap_or(0)
}

/// How long a peer needs to fetch the others' contributions, where a KiB takes it so many microseconds. Nothing
/// where that is not known.
fn transfer(plan: &[Planned], kib_micros: u32) -> Option<Millis> {
    let bytes: u128 = plan.iter().map(|entry| u128::from(entry.bytes.0)).sum();
    let count = plan.len().max(1) as u128;
    let others = bytes * (count - 1) / count;
    let millis = others * u128::from(kib_micros) / 1024 / 1000;
    (kib_micros > 0).then(|| Millis(u64::try_from(millis).unwrap_or(u64::MAX)))
}

/// The mean without as many of the highest and of the lowest as may be wrong; 0 of nothing.
fn trimmed_mean(losses: impl Iterator<Item = MicroNats>) -> MicroNats {
    let mut losses: Vec<u64> = losses.map(|loss| loss.0).collect();
    losses.sort_unstable();
    let wrong = Robust::faulty(losses.len());
    let kept = losses.get(wrong..losses.len() - wrong).unwrap_or_default();
    let sum: u128 = kept.iter().map(|loss| u128::from(*loss)).sum();
    MicroNats(u64::try_from(sum / kept.len().max(1) as u128).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_liar_does_not_move_a_loss_far() {
        let table: [(&[u64], u64); 6] = [
            (&[], 0),
            (&[3], 3),
            (&[1, 2, 6], 3),
            (&[u64::MAX, 2, 4, 3], 3),
            (&[5, 0, 4, 3, u64::MAX], 4),
            (&[u64::MAX; 3], u64::MAX),
        ];
        for (losses, expected) in table {
            assert_eq!(
                trimmed_mean(losses.iter().copied().map(MicroNats)).0,
                expected,
                "{losses:?}"
            );
        }
    }
}
