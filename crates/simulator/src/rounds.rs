//! Rounds once more, folded from the statements in the blocks without the ledger's own books: which phase is
//! open, what must be merged, what each peer has earned. The ledger has to come to the same.

use atoll_ledger::{Applied, Event, Outcome, Phase, Planned, Roots, RoundRecord, Standing};
use atoll_protocol::{Action, Charter, Hash, MicroNats, PeerId, Round, Tokens, transaction::Reveal};
use std::collections::{BTreeMap, BTreeSet};

/// A rule in one word, and how it was broken.
type Broken = (&'static str, String);

/// What a peer has earned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Account {
    merged: u32,
    tokens: u64,
    absent: u32,
}

/// The round under way and everything before it.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    number: Round,
    phase: Option<Phase>,
    roster: Vec<PeerId>,
    /// Who committed, and how many before.
    committed: BTreeMap<PeerId, u32>,
    revealed: BTreeMap<PeerId, Reveal>,
    /// Who checked, and which replicas it refuses.
    checks: BTreeMap<PeerId, BTreeSet<u16>>,
    posted: BTreeMap<PeerId, Roots>,
    plan: Vec<Planned>,
    excluded: BTreeSet<PeerId>,
    /// Every blob that was ever merged, and every beacon.
    merged: BTreeSet<Hash>,
    beacons: BTreeSet<Hash>,
    accounts: BTreeMap<PeerId, Account>,
}

impl Rounds {
    /// Follows one final block; what is wrong with it.
    pub(crate) fn follow(&mut self, applied: &Applied, charter: &Charter) -> Vec<Broken> {
        let mut broken = Vec::new();
        for statement in &applied.block().transactions {
            if let Action::Check { refused, .. } = &statement.body.action {
                let refused = refused.iter().map(|entry| entry.replica).collect();
                self.checks.insert(statement.signer, refused);
            }
        }
        let mut ended = false;
        for event in applied.events() {
            ended |= matches!(event, Event::RoundEnded(_));
            self.event(event, charter, &mut broken);
        }
        if ended {
            self.compare(applied, &mut broken);
        }
        broken
    }

    fn event(&mut self, event: &Event, charter: &Charter, broken: &mut Vec<Broken>) {
        match event {
            Event::Joined(peer) => {
                self.accounts.entry(*peer).or_default().absent = 0;
                self.excluded.remove(peer); // it was out for a while only
            }
            Event::Excluded(peer, _) => drop(self.excluded.insert(*peer)),
            Event::Convicted {
                peer,
                standing: Standing::Suspended(_) | Standing::Excluded,
                ..
            } => drop(self.excluded.insert(*peer)),
            Event::RoundOpened {
                round, beacon, roster, ..
            } => {
                if *round != self.number || !self.beacons.insert(*beacon) {
                    broken.push((
                        "rounds",
                        format!("round {round} opens out of turn, or with an old beacon"),
                    ));
                }
                self.phase = Some(Phase::Commit);
                self.roster.clone_from(roster);
            }
            Event::Committed(_, peer) => {
                self.must_be(Phase::Commit, "commits", peer, broken);
                let order = self.committed.len() as u32;
                self.committed.insert(*peer, order);
            }
            Event::RevealOpened(_) => self.phase = Some(Phase::Reveal),
            Event::Revealed(peer, reveal) => {
                self.must_be(Phase::Reveal, "reveals", peer, broken);
                if !self.committed.contains_key(peer) {
                    broken.push((
                        "phase",
                        format!("peer {} reveals what it did not commit to", peer.short()),
                    ));
                }
                self.revealed.insert(*peer, reveal.clone());
            }
            Event::CheckOpened(_) => self.phase = Some(Phase::Check),
            Event::Checked(_, peer) => self.must_be(Phase::Check, "checks", peer, broken),
            Event::MergeOpened { plan, .. } => {
                self.phase = Some(Phase::Merge);
                self.plan = self.due(charter);
                if *plan != self.plan {
                    let (got, due) = (plan.len(), self.plan.len());
                    broken.push((
                        "plan",
                        format!("round {} plans {got} contributions, {due} are due", self.number),
                    ));
                }
            }
            Event::RootPosted(_, peer, roots) => {
                self.must_be(Phase::Merge, "posts a root", peer, broken);
                self.posted.insert(*peer, *roots);
            }
            Event::RoundEnded(record) => self.end(record, charter, broken),
            _ => {}
        }
    }

    fn must_be(&self, phase: Phase, what: &str, peer: &PeerId, broken: &mut Vec<Broken>) {
        if self.phase != Some(phase) || self.roster.binary_search(peer).is_err() {
            let (peer, open) = (peer.short(), self.phase);
            broken.push((
                "phase",
                format!("peer {peer} {what} in round {}, phase {open:?}", self.number),
            ));
        }
    }

    /// What a quorum has and nobody excluded sent, ascending.
    fn due(&self, charter: &Charter) -> Vec<Planned> {
        let quorum = charter.quorum(self.roster.len());
        let accepted = |peer: &PeerId| {
            let place = self.roster.binary_search(peer).unwrap_or(usize::MAX);
            let refuses = |refused: &&BTreeSet<u16>| refused.iter().any(|at| usize::from(*at) == place);
            self.checks.len() - self.checks.values().filter(refuses).count()
        };
        let fit = |peer: &PeerId| accepted(peer) >= quorum && !self.excluded.contains(peer);
        let revealed = self.revealed.iter().filter(|(peer, _)| fit(peer));
        revealed
            .map(|(peer, reveal)| Planned {
                peer: *peer,
                blob: reveal.blob,
                bytes: reveal.bytes,
                tokens: reveal.tokens,
                replica: self.roster.binary_search(peer).map_or(u16::MAX, |place| place as u16),
                order: self.committed.get(peer).copied().unwrap_or(u32::MAX),
            })
            .collect()
    }

    fn end(&mut self, record: &RoundRecord, charter: &Charter, broken: &mut Vec<Broken>) {
        let round = record.round;
        let mut expect = |rule, holds: bool, text: String| {
            if !holds {
                broken.push((rule, format!("round {round} {text}")));
            }
        };
        expect(
            "rounds",
            round == self.number,
            format!("ends where {} was open", self.number),
        );
        let plan = match record.outcome {
            Outcome::Closed(_) => std::mem::take(&mut self.plan),
            _ => Vec::new(),
        };
        let judged = record.plan();
        expect(
            "merged-once",
            judged == plan,
            format!("records {} as judged, not {}", judged.len(), plan.len()),
        );
        let plan = &record.merged;
        let anew = plan.iter().all(|entry| !self.merged.contains(&entry.blob));
        expect("merged-once", anew, "merges a blob that was merged before".into());
        self.merged.extend(plan.iter().map(|entry| entry.blob));
        if let Outcome::Closed(roots) = record.outcome {
            let equal = self.posted.values().filter(|other| **other == roots).count();
            let (needed, n) = (charter.decisive(record.roster.len()), record.roster.len());
            let text = format!("closed with {equal} equal roots of {n}; {needed} are needed");
            expect("quorum", equal >= needed, text);
        }
        let absent: Vec<PeerId> = self
            .roster
            .iter()
            .filter(|peer| !self.committed.contains_key(peer))
            .copied()
            .collect();
        let withheld = self.committed.keys().filter(|peer| !self.revealed.contains_key(peer));
        let withheld: Vec<PeerId> = withheld.copied().collect();
        expect(
            "accounts",
            record.absent == absent,
            format!("names {} absent, not {}", record.absent.len(), absent.len()),
        );
        expect(
            "accounts",
            record.withheld == withheld,
            "names others as having withheld".into(),
        );
        expect(
            "accounts",
            record.train_loss == self.loss(plan),
            "has another loss".into(),
        );
        self.credit(plan, &absent, &withheld);
        let (committed, revealed, posted) = (&mut self.committed, &mut self.revealed, &mut self.posted);
        committed.clear();
        revealed.clear();
        posted.clear();
        self.checks.clear();
        self.plan.clear();
        self.number = round.next();
        self.phase = None;
    }

    /// Without as many of the lowest and of the highest as a liar could have a hand in.
    fn loss(&self, plan: &[Planned]) -> MicroNats {
        let reveals = plan.iter().filter_map(|entry| self.revealed.get(&entry.peer));
        let mut losses: Vec<u64> = reveals.map(|reveal| reveal.train_loss.0).collect();
        losses.sort_unstable();
        let out = match losses.len() {
            0..4 => 0,
            count => ((count - 1) / 4).max(1),
        };
        let kept = &losses[out..losses.len() - out];
        MicroNats(kept.iter().sum::<u64>() / kept.len().max(1) as u64)
    }

    fn credit(&mut self, plan: &[Planned], absent: &[PeerId], withheld: &[PeerId]) {
        for Planned {
            peer,
            tokens: Tokens(tokens),
            ..
        } in plan
        {
            let account = self.accounts.entry(*peer).or_default();
            account.merged += 1;
            account.tokens += tokens;
        }
        for peer in &self.roster {
            let account = self.accounts.entry(*peer).or_default();
            let missed = absent.contains(peer) || withheld.contains(peer);
            account.absent = if missed { account.absent + 1 } else { 0 };
        }
    }

    /// After a block that ended a round: the ledger's books against these.
    fn compare(&self, applied: &Applied, broken: &mut Vec<Broken>) {
        for (peer, known) in &applied.state().core().peers {
            let theirs = Account {
                merged: known.merged,
                tokens: known.tokens.0,
                absent: known.absent,
            };
            let ours = self.accounts.get(peer).copied().unwrap_or_default();
            if theirs != ours {
                let text = format!(
                    "peer {} has {theirs:?} where its statements give {ours:?}",
                    peer.short()
                );
                broken.push(("accounts", text));
            }
        }
    }
}
