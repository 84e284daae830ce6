//! Doing merged contributions again: which are drawn, who decides, and what follows.
//!
//! ```text
//! drawn ─the verifier finds the same─▶ over
//!   │ └──it finds something else─▶ accused ─a jury is drawn─▶ a quorum of it finds so too ─▶ guilty
//!   └─window over─▶ lapsed                                  ├▶ so too, or has nothing to look at ─▶ unserved
//!                                                           ├▶ finds the same ─▶ its accuser is guilty
//!                                                           └▶ does not agree ─▶ acquitted
//! ```
//!
//! What is drawn, and who is to look, follows from the block before the one that closed the round: when a
//! contribution was committed to, nobody knew. One verifier looks first, because that is cheap; a jury of up to
//! all the others decides, because no two of three strangers should be able to throw out a third
//! (docs/adr/0013). Some of what a verifier passes is looked at once more by another; where a jury then finds it
//! wrong, the first is guilty too. Who is guilty stays out for a while, the second time for good, and what was merged of it
//! since then is taken out of θ again. What cannot be looked at is taken out too, but its author may have lost its
//! power, and stays. An accuser whom a jury contradicts is guilty itself, unless it only
//! missed something: whoever is accused could serve the others and not it.

mod draw;

use crate::{Event, LastMerge, Outcome, Planned, Refusal, Roots, RoundRecord, Standing, State, Terms, assign::Share};
use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use atoll_protocol::{
    CheckReason, Finding, Hash, InnerSteps, LossChange, Nano, PeerId, Round,
    transaction::{Reveal, States},
};
use borsh::{BorshDeserialize, BorshSerialize};

/// Void rounds in a row whose rows and terms are remembered, for what is sent again later.
const VOIDS_MAX: usize = 8;
/// Who so often in a row did not serve what it started from, with nothing between that others found right, hides it.
const UNSERVED_MAX: u32 = 4;
/// Who missed what a jury found so often is no verifier any more.
const UNFOUNDED_MAX: u32 = 3;

/// What a contribution was to be made from.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Assigned {
    /// The rows.
    pub share: Share,
    /// How long, and how encoded.
    pub terms: Terms,
}

/// A revealed contribution, as far as doing it again needs.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Work {
    /// What its author said of it.
    pub reveal: Reveal,
    /// The θ that it was made from.
    pub base: Roots,
    /// What it was to be made from. Nothing where too many rounds were void since: it is not drawn then.
    pub assigned: Option<Assigned>,
    /// Whether it was merged. If not, it went back into error feedback before the next.
    pub merged: bool,
}

/// The newest work of a peer, and that before on whose state it stands.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Worked {
    /// The newest.
    pub last: Work,
    /// The one before, unless it made a fresh start.
    pub before: Option<Work>,
}

impl Worked {
    /// At the end of `round`: its rows are known, and what it stands on is not so old that its blobs may be gone before
    /// all have looked who may be asked to.
    fn can_be_done_again(&self, round: Round, window: u32) -> bool {
        let known = |work: &Work| work.assigned.is_some();
        let kept = |work: &Work| work.reveal.round.0.saturating_add(window).saturating_add(1) >= round.0;
        known(&self.last) && self.before.as_ref().is_none_or(|before| known(before) && kept(before))
    }
}

/// A merged contribution that is being done again.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Case {
    /// What is done again.
    pub worked: Worked,
    /// The round at whose end the verifier or the jury was drawn.
    pub since: Round,
    /// Who looks first, or once more.
    pub verifier: PeerId,
    /// Who looked before and passed it.
    pub passed: Option<PeerId>,
    /// Who was asked before and did not answer.
    pub silent: Option<PeerId>,
    /// What it found, if that speaks against it.
    pub accusation: Option<Finding>,
    /// Who decides then, ascending; empty before it is drawn.
    pub jury: Vec<PeerId>,
    /// What they found.
    pub findings: BTreeMap<PeerId, Finding>,
}

impl Case {
    /// Whether `peer` is asked and has not answered.
    pub fn waits_for(&self, peer: &PeerId) -> bool {
        match self.jury.is_empty() {
            true => self.verifier == *peer && self.accusation.is_none(),
            false => self.jury.binary_search(peer).is_ok() && !self.findings.contains_key(peer),
        }
    }
}

/// What a jury found when it found somebody guilty. The statements themselves, signed, are in the blocks.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Conviction {
    /// The contribution's round.
    pub round: Round,
    /// Whose contribution was judged: its own, or one that it had accused or passed.
    pub judged: PeerId,
    /// What each found, where it was made again.
    pub findings: Vec<(PeerId, Finding)>,
    /// What each measured, where it harmed.
    pub scores: Vec<(PeerId, LossChange)>,
}

/// What a jury came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A quorum made it again, and something else came out.
    Guilty,
    /// A quorum did not find it right, but some of it could not look.
    Unserved,
    /// A quorum made it again, and it is right: its accuser is guilty, unless it only missed something.
    Refuted,
    /// No quorum for either.
    Open,
}

/// A round whose θ did not move.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Voided {
    round: Round,
    beacon: Hash,
    roster: Vec<PeerId>,
    terms: Terms,
}

/// A merge whose contributions may still be taken out.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Closed {
    /// Its round.
    pub round: Round,
    /// Roots before it.
    pub base: Roots,
    /// How it was trained, encoded and merged.
    pub terms: Terms,
    /// What was judged and merged, ascending by peer.
    pub plan: Vec<Planned>,
    /// Whose contributions were taken out since.
    pub excised: Vec<PeerId>,
}

/// Contributions that are taken out of θ again.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Excision {
    /// The merge that they are in.
    pub of: Closed,
    /// Whose, ascending.
    pub peers: Vec<PeerId>,
    /// Outer momentum and inner steps of the rounds after it, up to the one with whose merge it is done.
    pub since: Vec<(Option<Nano>, InnerSteps)>,
}

/// What the ledger keeps for audits; empty where the charter wants none.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Audits {
    /// The newest work of every peer.
    pub works: BTreeMap<PeerId, Worked>,
    /// What is being done again, by round and author.
    pub cases: BTreeMap<(Round, PeerId), Case>,
    /// The last merges, oldest first.
    pub merges: Vec<Closed>,
    /// What a verifier passed in the round under way, and nobody looked at before.
    pub(crate) passed: BTreeMap<(Round, PeerId), Case>,
    /// What is to be taken out with the next merge.
    pub condemned: Vec<(Round, PeerId)>,
    /// Of everyone ever found guilty, the last time.
    pub convictions: BTreeMap<PeerId, Conviction>,
    voids: Vec<Voided>,
}

/// What contributions may still be looked at with: the rest of the past is kept for audits of folders only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfUse {
    /// States of replicas.
    pub states: BTreeSet<Hash>,
    /// θs and momenta.
    pub thetas: BTreeSet<Hash>,
}

impl OfUse {
    fn roots(&mut self, roots: Roots) {
        self.thetas.insert(roots.theta);
        self.thetas.extend(roots.momentum);
    }

    fn worked(&mut self, worked: &Worked) {
        let States { opening, closing } = worked.last.reveal.states;
        self.states.extend([opening, closing]);
        for work in [Some(&worked.last), worked.before.as_ref()].into_iter().flatten() {
            self.roots(work.base);
        }
    }
}

impl State {
    /// What may still be asked for, or started from.
    pub fn of_use(&self) -> OfUse {
        let (mut of_use, core) = (OfUse::default(), self.core());
        of_use.thetas.insert(self.charter().model.theta);
        of_use.roots(core.roots);
        if let Some(last) = &core.last_merge {
            of_use.roots(last.base);
        }
        let audits = &core.audits;
        let cases = audits.cases.values().chain(audits.passed.values());
        let open = cases.map(|case| &case.worked);
        audits
            .works
            .values()
            .chain(open)
            .for_each(|worked| of_use.worked(worked));
        core.scores.cases.values().for_each(|case| of_use.roots(case.base));
        of_use
    }

    /// The work of `peer` on which what it trains for the round under way may stand. What is older than a window may
    /// stand on blobs that are gone when it is judged: then it starts afresh.
    pub fn followed(&self, peer: &PeerId) -> Option<&Work> {
        let last = self.core().audits.works.get(peer).map(|worked| &worked.last);
        last.filter(|last| self.is_followed(last, self.round().number))
    }

    fn is_followed(&self, last: &Work, trained: Round) -> bool {
        last.reveal.round.0.saturating_add(self.charter().audit.window) >= trained.0
    }

    /// What is taken out of θ with the merge of the round under way.
    pub(crate) fn excisions(&self) -> Vec<Excision> {
        let audits = &self.core().audits;
        let now = &self.round().terms;
        let mut excisions = Vec::new();
        for (index, of) in audits.merges.iter().enumerate() {
            let in_plan = |peer: &PeerId| of.plan.binary_search_by_key(peer, |entry| entry.peer).is_ok();
            let condemned = audits.condemned.iter();
            let condemned = condemned.filter(|(round, peer)| *round == of.round && in_plan(peer));
            let mut peers: Vec<PeerId> = condemned.map(|(_, peer)| *peer).collect();
            peers.sort_unstable();
            if peers.is_empty() {
                continue;
            }
            let later = audits.merges[index + 1..]
                .iter()
                .map(|closed| &closed.terms)
                .chain([now]);
            excisions.push(Excision {
                of: of.clone(),
                peers,
                since: later.map(|terms| (terms.momentum, terms.steps)).collect(),
            });
        }
        excisions
    }

    /// The states that a reveal names must follow on those that its author named last.
    pub(crate) fn check_states(&self, peer: &PeerId, reveal: &Reveal) -> Result<(), Refusal> {
        let States { opening, closing } = reveal.states;
        let worked = self.core().audits.works.get(peer);
        let right = match worked.map(|worked| &worked.last.reveal) {
            _ if !self.charter().audit.is_on() => reveal.states == States::NONE,
            _ if closing == Hash::ZERO => false,
            Some(last) if last.trained == reveal.trained => {
                let again = Reveal {
                    round: reveal.round,
                    ..last.clone()
                };
                again == *reveal
            }
            // what nobody knows how to make again is no contribution, unless more was forgotten than is its fault
            _ if self.assigned(peer, reveal.trained).is_none() && self.core().audits.voids.len() < VOIDS_MAX => false,
            _ => {
                let followed = worked.filter(|worked| self.is_followed(&worked.last, reveal.trained));
                opening == Hash::ZERO || followed.is_some_and(|worked| worked.last.reveal.states.closing == opening)
            }
        };
        match right {
            true => Ok(()),
            false => Err(Refusal::States {
                peer: *peer,
                expected: worked.map_or(Hash::ZERO, |worked| worked.last.reveal.states.closing),
            }),
        }
    }

    /// Notes what was revealed as its author's newest work.
    pub(crate) fn note_work(&mut self, peer: PeerId, reveal: &Reveal) {
        if !self.charter().audit.is_on() {
            return;
        }
        let base = self.core().roots;
        let assigned = self.assigned(&peer, reveal.trained);
        let works = &mut self.core_mut().audits.works;
        match works.get_mut(&peer) {
            Some(worked) if worked.last.reveal.trained == reveal.trained => worked.last.reveal = reveal.clone(),
            earlier => {
                let before = earlier.map(|worked| worked.last.clone());
                let last = Work {
                    reveal: reveal.clone(),
                    base,
                    assigned,
                    merged: false,
                };
                let before = before.filter(|_| reveal.states.opening != Hash::ZERO);
                works.insert(peer, Worked { last, before });
            }
        }
    }

    pub(crate) fn assigned(&self, peer: &PeerId, trained: Round) -> Option<Assigned> {
        let round = self.round();
        let (beacon, roster, terms) = match trained == round.number {
            true => (round.beacon, &round.roster, &round.terms),
            false => {
                let mut voids = self.core().audits.voids.iter();
                let void = voids.find(|void| void.round == trained)?;
                (void.beacon, &void.roster, &void.terms)
            }
        };
        let replica = roster.binary_search(peer).ok()?;
        Some(Assigned {
            share: Share {
                beacon,
                replica: replica as u64,
                replicas: roster.len() as u64,
            },
            terms: terms.clone(),
        })
    }

    /// Takes up what somebody found.
    pub(crate) fn verdict(
        &mut self,
        speaker: PeerId,
        (round, peer): (Round, PeerId),
        finding: Finding,
        events: &mut Vec<Event>,
    ) -> Result<(), Refusal> {
        let fails = self.charter().audit.fails(finding);
        let key = (round, peer);
        let case = self.core().audits.cases.get(&key);
        if !case.is_some_and(|case| case.waits_for(&speaker)) {
            return Err(Refusal::NotAsked { speaker, round, peer });
        }
        let Some(case) = self.core_mut().audits.cases.get_mut(&key) else {
            return Ok(());
        };
        if case.jury.is_empty() {
            if fails {
                case.accusation = Some(finding);
            } else {
                self.found_right(&speaker, &peer);
                let case = self.core_mut().audits.cases.remove(&key);
                if let Some(case) = case.filter(|case| case.passed.is_none()) {
                    self.core_mut().audits.passed.insert(key, case);
                }
            }
            events.push(Event::Verified {
                round,
                peer,
                verifier: speaker,
                finding,
            });
            return Ok(());
        }
        case.findings.insert(speaker, finding);
        let jury = case.jury.len();
        let findings: Vec<(PeerId, Finding)> = case.findings.iter().map(|(peer, found)| (*peer, *found)).collect();
        let audit = &self.charter().audit;
        let against = findings.iter().filter(|(_, found)| audit.fails(*found)).count();
        let missing = findings.iter().filter(|(_, found)| *found == Finding::Missing).count();
        let needed = self.charter().quorum(jury);
        let verdict = if against - missing >= needed {
            Verdict::Guilty
        } else if findings.len() - against >= needed {
            Verdict::Refuted
        } else if findings.len() < jury {
            return Ok(());
        } else if against >= needed {
            Verdict::Unserved
        } else {
            Verdict::Open
        };
        self.close_case(key, verdict, findings, events);
        Ok(())
    }

    /// A verifier that finds something right is one again, and so is an author that served it.
    fn found_right(&mut self, verifier: &PeerId, author: &PeerId) {
        let peers = &mut self.core_mut().peers;
        if let Some(known) = peers.get_mut(verifier) {
            known.unfounded = known.unfounded.saturating_sub(1);
        }
        if let Some(known) = peers.get_mut(author) {
            known.unserved = 0;
        }
    }

    fn close_case(
        &mut self,
        key: (Round, PeerId),
        verdict: Verdict,
        findings: Vec<(PeerId, Finding)>,
        events: &mut Vec<Event>,
    ) {
        let Some(case) = self.core_mut().audits.cases.remove(&key) else {
            return;
        };
        let (round, judged) = key;
        let conviction = Conviction {
            round,
            judged,
            findings,
            scores: Vec::new(),
        };
        if matches!(verdict, Verdict::Guilty | Verdict::Unserved) {
            let clearly = |(_, found): &&(PeerId, Finding)| self.charter().audit.fails_clearly(*found);
            let clear = conviction.findings.iter().filter(clearly).count();
            let needed = self.charter().quorum(case.jury.len());
            if let Some(blind) = case.passed.filter(|_| verdict == Verdict::Guilty && clear >= needed) {
                self.convict(blind, verdict, conviction.clone(), events);
            }
            self.convict(judged, verdict, conviction, events);
            self.condemn(judged, round);
            return;
        }
        events.push(Event::Acquitted { round, peer: judged });
        if verdict != Verdict::Refuted {
            return; // who of them lies nobody can tell
        }
        if case
            .accusation
            .is_some_and(|found| self.charter().audit.fails_clearly(found))
        {
            self.convict(case.verifier, Verdict::Guilty, conviction, events);
        } else if let Some(accuser) = self.core_mut().peers.get_mut(&case.verifier) {
            accuser.unfounded = accuser.unfounded.saturating_add(1);
        }
    }

    /// The guilty are out for a while, the second time for good. Who did not serve what it started from may have
    /// lost its power and stays in, as a newcomer; but not time after time. Both must make a fresh start: nobody can vouch for their states.
    pub(crate) fn convict(&mut self, peer: PeerId, verdict: Verdict, conviction: Conviction, events: &mut Vec<Event>) {
        let back = self.charter().audit.back(self.round().number);
        let Some(known) = self.core_mut().peers.get_mut(&peer) else {
            return;
        };
        if known.standing == Standing::Excluded {
            return;
        }
        known.proven = 0;
        known.unserved = match verdict {
            Verdict::Unserved => known.unserved.saturating_add(1),
            _ => 0,
        };
        // what comes to light while it is out is of the same time
        let again = !known.is_barred() && (verdict == Verdict::Guilty || known.unserved >= UNSERVED_MAX);
        if again {
            known.unserved = 0;
            known.offences = known.offences.saturating_add(1);
            known.standing = match known.offences {
                0 | 1 => Standing::Suspended(back),
                _ => Standing::Excluded,
            };
        }
        let standing = known.standing;
        let audits = &mut self.core_mut().audits;
        audits.convictions.insert(peer, conviction.clone());
        audits.cases.retain(|(_, of), _| *of != peer);
        audits.passed.retain(|(_, of), _| *of != peer);
        audits.works.remove(&peer);
        if again {
            self.drop_scores(peer, events);
        }
        events.push(Event::Convicted {
            peer,
            standing,
            conviction: Box::new(conviction),
        });
    }

    /// What `peer` sent to this round is taken out of θ, if it is still remembered.
    pub(crate) fn take_out(&mut self, round: Round, peer: PeerId) {
        let merges = &self.core().audits.merges;
        let with = merges
            .iter()
            .any(|closed| closed.round == round && !closed.excised.contains(&peer));
        let condemned = &mut self.core_mut().audits.condemned;
        if with && !condemned.contains(&(round, peer)) {
            condemned.push((round, peer));
        }
    }

    /// Everything of `peer` that was merged in `from` or later stands on a state that nobody can vouch for.
    pub(crate) fn condemn(&mut self, peer: PeerId, from: Round) {
        let audits = &self.core().audits;
        let merges = audits.merges.iter().filter(|closed| closed.round >= from);
        let with = merges.filter(|closed| {
            closed.plan.binary_search_by_key(&peer, |entry| entry.peer).is_ok() && !closed.excised.contains(&peer)
        });
        let mut rounds: Vec<(Round, PeerId)> = with.map(|closed| (closed.round, peer)).collect();
        // what it sent to the round under way may be merged yet
        let under_way = (self.round().number, peer);
        if self.round().reveals.contains_key(&peer) && !rounds.contains(&under_way) {
            rounds.push(under_way);
        }
        let condemned = &mut self.core_mut().audits.condemned;
        rounds.retain(|entry| !condemned.contains(entry));
        condemned.extend(rounds);
    }

    /// After a round: what was merged is noted, what waited for too long lapses, juries and verifiers are drawn.
    /// `merge` is what moved θ, if it did; `parent` the digest of the block before the one that ended the round.
    pub(crate) fn audits_due(
        &mut self,
        record: &RoundRecord,
        merge: Option<&LastMerge>,
        parent: Hash,
        events: &mut Vec<Event>,
    ) {
        let (audits, scores) = (self.charter().audit.is_on(), self.charter().score.is_on());
        if !audits && !scores {
            return;
        }
        match merge {
            Some(merge) => self.note_merge(record, merge),
            None => self.note_void(record),
        }
        self.forget(record.round);
        if audits {
            self.draw_juries(record.round, parent, events);
            self.lapse(record.round, parent, events);
            self.draw_seconds(record.round, parent, events);
            if let Outcome::Closed(_) = record.outcome {
                self.draw_verifiers(record, parent, events);
            }
        }
        if scores {
            self.scores_due(record, parent, events);
        }
        if merge.is_some() {
            self.core_mut().audits.voids.clear(); // who sent to them again is drawn by now
        }
    }

    fn note_merge(&mut self, record: &RoundRecord, merge: &LastMerge) {
        let unreadable = self.unreadable();
        let audits = &mut self.core_mut().audits;
        for entry in &record.merged {
            if let Some(worked) = audits.works.get_mut(&entry.peer) {
                worked.last.merged = true;
            }
        }
        audits.works.retain(|peer, _| !unreadable.contains(peer)); // nobody could follow it
        for excision in &merge.excisions {
            let round = excision.of.round;
            audits
                .condemned
                .retain(|(of, peer)| *of != round || !excision.peers.contains(peer));
            if let Some(closed) = audits.merges.iter_mut().find(|closed| closed.round == round) {
                closed.excised.extend(&excision.peers);
            }
        }
        audits.merges.push(Closed {
            round: merge.round,
            base: merge.base,
            terms: merge.terms.clone(),
            plan: merge.plan.clone(),
            excised: Vec::new(),
        });
    }

    /// Whose contributions to the round under way more peers found no contribution than may lie. That no peer serves
    /// one is no such finding: it may come yet.
    fn unreadable(&self) -> Vec<PeerId> {
        let round = self.round();
        let liars = round.roster.len().saturating_sub(1) / 3;
        let says = |place: usize| {
            let checks = round.checks.values().flat_map(|check| &check.refused);
            let of_it = checks.filter(|refused| usize::from(refused.replica) == place);
            of_it.filter(|refused| refused.reason != CheckReason::Missing).count()
        };
        let bad = round
            .roster
            .iter()
            .enumerate()
            .filter(|(place, _)| says(*place) > liars);
        bad.map(|(_, peer)| *peer).collect()
    }

    /// What is too old is not taken out any more, also while no round closes: its blobs may be gone, and a merge
    /// that waits for them would never end.
    fn forget(&mut self, round: Round) {
        let kept = self.charter().audit.kept();
        let audits = &mut self.core_mut().audits;
        audits
            .merges
            .retain(|closed| closed.round.0.saturating_add(kept) > round.0);
        let merges = &audits.merges;
        audits
            .condemned
            .retain(|(of, _)| merges.iter().any(|closed| closed.round == *of));
    }

    fn note_void(&mut self, record: &RoundRecord) {
        let beacon = self.round().beacon;
        let voids = &mut self.core_mut().audits.voids;
        voids.push(Voided {
            round: record.round,
            beacon,
            roster: record.roster.clone(),
            terms: record.terms.clone(),
        });
        let surplus = voids.len().saturating_sub(VOIDS_MAX);
        voids.drain(..surplus);
    }
}
