//! Lots: who is looked at, who looks first, who looks once more, and who decides; and what nobody looked at in time.

use super::{Case, UNFOUNDED_MAX, Verdict};
use crate::{Event, Peer, RoundRecord, Standing, State};
use alloc::{collections::BTreeMap, vec::Vec};
use atoll_protocol::{Domain, Finding, Hash, Nano, PeerId, Round, audit::JURY_MIN, encode};
use borsh::BorshSerialize;

impl State {
    /// What waited for too long is over, or is given to another where nobody has looked at all; but what a quorum of
    /// the jury had against it stands, though some of it never answered.
    pub(super) fn lapse(&mut self, round: Round, parent: Hash, events: &mut Vec<Event>) {
        let window = self.charter().audit.window;
        let late = |case: &&Case| round.0 >= case.since.0.saturating_add(window);
        let cases = &self.core().audits.cases;
        let late: Vec<(Round, PeerId)> = (cases.iter().filter(|(_, case)| late(case)))
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            let Some(case) = self.core().audits.cases.get(&key) else {
                continue; // its author was convicted for another
            };
            let findings: Vec<(PeerId, Finding)> = case.findings.iter().map(|(peer, found)| (*peer, *found)).collect();
            let against = findings.iter().filter(|(_, found)| self.charter().audit.fails(*found));
            if !case.jury.is_empty() && against.count() >= self.charter().quorum(case.jury.len()) {
                self.close_case(key, Verdict::Unserved, findings, events);
            } else if let Some(case) = self.core_mut().audits.cases.remove(&key) {
                let (of, peer) = key;
                let verifier = case.verifier;
                events.push(Event::AuditLapsed {
                    round: of,
                    peer,
                    verifier,
                });
                if case.jury.is_empty() && case.accusation.is_none() && case.silent.is_none() {
                    // its silence must not cover the author
                    let silent = Case {
                        silent: Some(verifier),
                        ..case
                    };
                    self.give_to_another(key, silent, (round, parent), events);
                }
            }
        }
    }

    /// Gives a case to somebody who was not asked before, if there is one and its author still takes part.
    fn give_to_another(
        &mut self,
        (of, peer): (Round, PeerId),
        case: Case,
        (round, parent): (Round, Hash),
        events: &mut Vec<Event>,
    ) {
        let active = |known: &Peer| known.standing == Standing::Active;
        if !self.core().peers.get(&peer).is_some_and(active) {
            return;
        }
        let asked = [Some(case.verifier), case.passed, case.silent];
        let fits = |other: &PeerId| *other != peer && !asked.contains(&Some(*other)) && self.is_founded(other);
        let Some(verifier) = self.in_order((parent, of, peer), fits).first().copied() else {
            return;
        };
        let again = Case {
            since: round,
            verifier,
            ..case
        };
        self.core_mut().audits.cases.insert((of, peer), again);
        events.push(Event::AuditDrawn {
            round: of,
            peer,
            verifier,
        });
    }

    pub(crate) fn is_founded(&self, peer: &PeerId) -> bool {
        let known = self.core().peers.get(peer);
        known.is_some_and(|known| known.unfounded < UNFOUNDED_MAX)
    }

    pub(super) fn draw_juries(&mut self, round: Round, parent: Hash, events: &mut Vec<Event>) {
        let accused: Vec<(Round, PeerId)> = (self.core().audits.cases.iter())
            .filter(|(_, case)| case.accusation.is_some() && case.jury.is_empty())
            .map(|(key, _)| *key)
            .collect();
        let size = self.charter().audit.jury as usize;
        for (of, peer) in accused {
            let mut jury = self.in_order((parent, of, peer), |other| *other != peer);
            jury.truncate(size);
            jury.sort_unstable();
            if jury.len() < JURY_MIN as usize {
                continue; // it lapses, unless enough come back
            }
            if let Some(case) = self.core_mut().audits.cases.get_mut(&(of, peer)) {
                (case.jury, case.since) = (jury.clone(), round);
            }
            events.push(Event::JuryDrawn { round: of, peer, jury });
        }
    }

    pub(super) fn draw_verifiers(&mut self, record: &RoundRecord, parent: Hash, events: &mut Vec<Event>) {
        let (round, window) = (record.round, self.charter().audit.window);
        if self.active().len() <= JURY_MIN as usize {
            return; // nobody could be judged
        }
        for entry in &record.merged {
            let peer = entry.peer;
            let worked = self.core().audits.works.get(&peer);
            let Some(worked) = worked.filter(|worked| worked.can_be_done_again(round, window)).cloned() else {
                continue;
            };
            if !self.is_drawn(&peer, round, parent) {
                continue;
            }
            let founded = |other: &PeerId| *other != peer && self.is_founded(other);
            let Some(verifier) = self.in_order((parent, round, peer), founded).first().copied() else {
                continue;
            };
            let case = Case {
                worked,
                since: round,
                verifier,
                passed: None,
                silent: None,
                accusation: None,
                jury: Vec::new(),
                findings: BTreeMap::new(),
            };
            self.core_mut().audits.cases.insert((round, peer), case);
            events.push(Event::AuditDrawn { round, peer, verifier });
        }
    }

    /// Some of what a verifier passed another looks at, drawn after the first has answered: who passes what it never
    /// made again is found out where it covers a liar.
    pub(super) fn draw_seconds(&mut self, round: Round, parent: Hash, events: &mut Vec<Event>) {
        let passed = core::mem::take(&mut self.core_mut().audits.passed);
        for ((of, peer), case) in passed {
            if !self.is_below(self.charter().audit.share, (parent, of, peer), "second") {
                continue;
            }
            let passed = Case {
                passed: Some(case.verifier),
                ..case
            };
            self.give_to_another((of, peer), passed, (round, parent), events);
        }
    }

    fn is_drawn(&self, peer: &PeerId, round: Round, parent: Hash) -> bool {
        let (audit, known) = (&self.charter().audit, self.core().peers.get(peer));
        let Some(known) = known.filter(|known| known.standing == Standing::Active) else {
            return false;
        };
        known.proven <= audit.newcomer
            || self.harmed(peer)
            || self.is_below(audit.share, (parent, round, *peer), "drawn")
    }

    /// True for this share of all lots.
    pub(crate) fn is_below(&self, share: Nano, of: (Hash, Round, PeerId), what: &str) -> bool {
        let ticket = lot(&(self.core().genesis, of, what));
        let below = (u128::from(ticket) * u128::from(Nano::ONE.0)) >> u64::BITS;
        below < u128::from(share.0)
    }

    /// Who takes part and fits, in the order of their lots.
    pub(crate) fn in_order(
        &self,
        (parent, round, peer): (Hash, Round, PeerId),
        fits: impl Fn(&PeerId) -> bool,
    ) -> Vec<PeerId> {
        let genesis = self.core().genesis;
        let mut lots: Vec<(u64, PeerId)> = (self.active().into_iter())
            .filter(|other| fits(other))
            .map(|other| (lot(&(genesis, parent, round, peer, other)), other))
            .collect();
        lots.sort_unstable();
        lots.into_iter().map(|(_, other)| other).collect()
    }
}

fn lot(of: &impl BorshSerialize) -> u64 {
    let hash = Hash::of(Domain::Lottery, &encode(of));
    hash.0
        .iter()
        .take(8)
        .fold(0u64, |word, byte| word << 8 | u64::from(*byte))
}
