//! One transaction: first every check, then the change, so that a refusal changes nothing.

use crate::{
    Checked, Committed, Event, Evidence, Merged, Peer, Phase, Refusal, Revealed, Roots, RoundState, Standing, State,
};
use alloc::{boxed::Box, vec::Vec};
use atoll_protocol::{
    Action, Domain, Hash, InnerSteps, MicroNats, PeerId, RefusedReplica, Round, Signature, Signed, Tokens, Transaction,
    Verified,
    charter::OuterOptimizer,
    limits::{BLOB_BYTES_MAX, RANK_MAX, UNFIT_MAX},
    transaction::{Judgement, Reveal, SignedTransaction, commitment},
};

type Outcome = Result<(), Refusal>;

impl State {
    /// Checks signature, run and membership.
    pub(crate) fn verify(&self, transaction: &SignedTransaction) -> Result<Verified<Transaction>, Refusal> {
        let ours = self.core().genesis;
        if transaction.body.genesis != ours {
            return Err(Refusal::OtherGenesis {
                got: transaction.body.genesis,
                ours,
            });
        }
        if !self.charter().is_member(&transaction.signer) {
            return Err(Refusal::NotAMember(transaction.signer));
        }
        Ok(transaction.clone().verify(Domain::Transaction)?)
    }

    /// Applies one verified transaction; on a refusal nothing has changed.
    pub(crate) fn execute(&mut self, tx: &Verified<Transaction>, events: &mut Vec<Event>) -> Outcome {
        let peer = tx.signer();
        let standing = self.core().peers.get(&peer).map(|known| known.standing);
        let joins = matches!(tx.body().action, Action::Join { .. });
        match standing {
            _ if matches!(tx.body().action, Action::Appeal { .. }) => {} // also of who is out
            Some(Standing::Excluded) => return Err(Refusal::Excluded(peer)),
            Some(Standing::Suspended(back)) if !joins || self.round().number < back => {
                return Err(Refusal::Suspended { peer, back });
            }
            _ => {}
        }
        let signature = tx.as_signed().signature;
        match &tx.body().action {
            Action::Join { sequence } => self.join(peer, *sequence, events),
            Action::Leave { sequence } => self.leave(peer, *sequence, events),
            Action::Commit { round, commitment } => self.commit(peer, *round, *commitment, signature, events),
            Action::Reveal(reveal) => self.reveal(peer, reveal, signature, events),
            Action::Check { round, held, refused } => {
                let checked = Checked {
                    refused: refused.clone(),
                    held: *held,
                };
                self.check(peer, *round, checked, events)
            }
            Action::MergeRoot {
                round,
                theta,
                momentum,
                judgement,
            } => {
                let roots = Roots {
                    theta: *theta,
                    momentum: *momentum,
                };
                self.merge_root(peer, *round, roots, judgement, events)
            }
            Action::Verdict {
                round,
                peer: author,
                finding,
            } => self.verdict(peer, (*round, *author), *finding, events),
            Action::Score {
                round,
                peer: author,
                beacon,
                change,
            } => self.score(peer, (*round, *author), (*beacon, *change), events),
            Action::Appeal { round, reason } => self.appeal(peer, *round, reason, events),
            Action::Checkpoint {
                round,
                manifest,
                held_out,
            } => self.checkpoint(peer, *round, *manifest, *held_out, events),
        }
    }

    fn join(&mut self, peer: PeerId, sequence: u32, events: &mut Vec<Event>) -> Outcome {
        let known = self.core().peers.get(&peer);
        if known.is_some_and(|known| known.standing == Standing::Active) {
            return Err(Refusal::Standing { peer, active: true });
        }
        let expected = known.map_or(0, |known| known.joins);
        if sequence != expected {
            return Err(Refusal::Sequence {
                got: sequence,
                expected,
            });
        }
        let fresh = Peer {
            standing: Standing::Left,
            joins: 0,
            absent: 0,
            merged: 0,
            tokens: Tokens(0),
            proven: 0,
            offences: 0,
            unfounded: 0,
            unserved: 0,
        };
        let entry = self.core_mut().peers.entry(peer).or_insert(fresh);
        entry.standing = Standing::Active;
        entry.joins = entry.joins.saturating_add(1);
        entry.absent = 0;
        events.push(Event::Joined(peer));
        Ok(())
    }

    fn leave(&mut self, peer: PeerId, sequence: u32, events: &mut Vec<Event>) -> Outcome {
        let Some(known) = self
            .core_mut()
            .peers
            .get_mut(&peer)
            .filter(|known| known.standing == Standing::Active)
        else {
            return Err(Refusal::Standing { peer, active: false });
        };
        if sequence != known.joins {
            return Err(Refusal::Sequence {
                got: sequence,
                expected: known.joins,
            });
        }
        known.standing = Standing::Left;
        events.push(Event::Left(peer));
        Ok(())
    }

    /// Every statement about a round is about the current one, by somebody in its roster.
    fn current(&self, peer: PeerId, round: Round) -> Result<&RoundState, Refusal> {
        let current = self.round();
        if round != current.number || matches!(current.phase, Phase::Gathering | Phase::Finished) {
            return Err(Refusal::OtherRound {
                got: round,
                current: current.number,
            });
        }
        match current.replica(&peer) {
            Some(_) => Ok(current),
            None => Err(Refusal::NotInRoster { peer, round }),
        }
    }

    fn commit(
        &mut self,
        peer: PeerId,
        round: Round,
        commitment: Hash,
        signature: Signature,
        events: &mut Vec<Event>,
    ) -> Outcome {
        let current = self.current(peer, round)?;
        match current.commits.get(&peer) {
            Some(first) if first.commitment == commitment => return Err(Refusal::Repeated { peer, kind: "commit" }),
            Some(first) => {
                let action = Action::Commit {
                    round,
                    commitment: first.commitment,
                };
                let second = Action::Commit { round, commitment };
                self.exclude(peer, (action, first.signature), (second, signature), events);
                return Ok(());
            }
            None if current.phase != Phase::Commit => {
                return Err(Refusal::OtherPhase {
                    kind: "commit",
                    phase: current.phase,
                });
            }
            None => {}
        }
        let commits = &mut self.core_mut().round.commits;
        let committed = Committed {
            commitment,
            order: u32::try_from(commits.len()).unwrap_or(u32::MAX), // limits keep it far below
            signature,
        };
        commits.insert(peer, committed);
        events.push(Event::Committed(round, peer));
        Ok(())
    }

    fn reveal(&mut self, peer: PeerId, reveal: &Reveal, signature: Signature, events: &mut Vec<Event>) -> Outcome {
        let current = self.current(peer, reveal.round)?;
        match current.reveals.get(&peer) {
            Some(first) if first.reveal == *reveal => return Err(Refusal::Repeated { peer, kind: "reveal" }),
            Some(first) => {
                let first = (Action::Reveal(first.reveal.clone()), first.signature);
                self.exclude(peer, first, (Action::Reveal(reveal.clone()), signature), events);
                return Ok(());
            }
            None if current.phase != Phase::Reveal => {
                return Err(Refusal::OtherPhase {
                    kind: "reveal",
                    phase: current.phase,
                });
            }
            None => {}
        }
        let opened = commitment(&self.core().genesis, &peer, reveal.round, &reveal.blob);
        if current.commits.get(&peer).map(|committed| committed.commitment) != Some(opened) {
            return Err(Refusal::NotCommitted {
                peer,
                blob: reveal.blob,
            });
        }
        self.check_origin(reveal)?;
        self.check_work(reveal)?;
        if let Some(author) = self.core().sent.get(&reveal.blob).filter(|author| **author != peer) {
            return Err(Refusal::NotItsOwn {
                blob: reveal.blob,
                author: *author,
            });
        }
        self.check_states(&peer, reveal)?;
        self.note_work(peer, reveal);
        let revealed = Revealed {
            reveal: reveal.clone(),
            signature,
        };
        self.core_mut().round.reveals.insert(peer, revealed);
        events.push(Event::Revealed(peer, reveal.clone()));
        Ok(())
    }

    /// What is sent again must be from the θ that there is now.
    fn check_origin(&self, reveal: &Reveal) -> Outcome {
        let last = self.core().last_merge.as_ref();
        let first = last.map_or(Round(0), |merge| merge.round.next());
        match (first..=reveal.round).contains(&reveal.trained) {
            true => Ok(()),
            false => Err(Refusal::Trained {
                got: reveal.trained,
                first,
                last: reveal.round,
            }),
        }
    }

    fn check_work(&self, reveal: &Reveal) -> Outcome {
        let rules = &self.charter().round;
        let per_step = u64::from(rules.batch).saturating_mul(rules.sequence.into());
        let tokens = u64::from(reveal.steps.0).saturating_mul(per_step);
        let steps_max = self.round().terms.steps;
        let ahead = reveal.ahead.map_or(InnerSteps(0), |ahead| ahead.steps);
        let possible =
            (1..=steps_max.0).contains(&reveal.steps.0) && reveal.tokens.0 == tokens && ahead <= reveal.steps;
        if !possible {
            return Err(Refusal::Work {
                steps: reveal.steps,
                tokens: reveal.tokens,
                steps_max,
                tokens_per_step: Tokens(per_step),
            });
        }
        let (got, max) = (reveal.measured.rank_milli, 1000 * RANK_MAX);
        if got > max {
            return Err(Refusal::Rank { got, max });
        }
        match (1..=BLOB_BYTES_MAX).contains(&reveal.bytes.0) {
            true => Ok(()),
            false => Err(Refusal::BlobSize {
                got: reveal.bytes.0,
                max: BLOB_BYTES_MAX,
            }),
        }
    }

    fn check(&mut self, peer: PeerId, round: Round, checked: Checked, events: &mut Vec<Event>) -> Outcome {
        let refused = &checked.refused;
        let current = self.current(peer, round)?;
        if current.checks.contains_key(&peer) {
            return Err(Refusal::Repeated { peer, kind: "check" });
        }
        if current.phase != Phase::Check {
            return Err(Refusal::OtherPhase {
                kind: "check",
                phase: current.phase,
            });
        }
        if !refused.windows(2).all(|pair| pair[0].replica < pair[1].replica) {
            return Err(Refusal::CheckList("list must ascend by replica, without repeats"));
        }
        let revealed = |entry: &RefusedReplica| {
            let peer = current.roster.get(usize::from(entry.replica));
            peer.is_some_and(|peer| current.reveals.contains_key(peer))
        };
        if !refused.iter().all(revealed) {
            return Err(Refusal::CheckList("list may name revealed contributions only"));
        }
        self.core_mut().round.checks.insert(peer, checked);
        events.push(Event::Checked(round, peer));
        Ok(())
    }

    fn merge_root(
        &mut self,
        peer: PeerId,
        round: Round,
        roots: Roots,
        judgement: &Judgement,
        events: &mut Vec<Event>,
    ) -> Outcome {
        let current = self.current(peer, round)?;
        if current.roots.contains_key(&peer) {
            return Err(Refusal::Repeated {
                peer,
                kind: "merge root",
            });
        }
        if current.phase != Phase::Merge {
            return Err(Refusal::OtherPhase {
                kind: "merge root",
                phase: current.phase,
            });
        }
        let needs = matches!(self.charter().outer, OuterOptimizer::Nesterov { .. });
        if roots.momentum.is_some() != needs {
            return Err(Refusal::Momentum {
                given: roots.momentum.is_some(),
            });
        }
        check_judgement(current, judgement)?;
        let judgement = judgement.clone();
        self.core_mut().round.roots.insert(peer, Merged { roots, judgement });
        events.push(Event::RootPosted(round, peer, roots));
        Ok(())
    }

    fn checkpoint(
        &mut self,
        peer: PeerId,
        round: Round,
        manifest: Hash,
        held_out: MicroNats,
        events: &mut Vec<Event>,
    ) -> Outcome {
        let quorum = self.charter().decisive(self.active().len());
        let Some(due) = self.core_mut().checkpoint.as_mut().filter(|due| due.round == round) else {
            return Err(Refusal::NoCheckpointDue(round));
        };
        if due.statements.contains_key(&peer) {
            return Err(Refusal::Repeated {
                peer,
                kind: "checkpoint",
            });
        }
        due.statements.insert(peer, (manifest, held_out));
        let same: Vec<u64> = due
            .statements
            .values()
            .filter(|(hash, _)| *hash == manifest)
            .map(|(_, loss)| loss.0)
            .collect();
        if due.recorded.is_none() && same.len() >= quorum {
            due.recorded = Some(manifest);
            let sum = same.iter().fold(0u64, |sum, loss| sum.saturating_add(*loss));
            let held_out = MicroNats(sum / same.len() as u64);
            events.push(Event::CheckpointRecorded {
                round,
                manifest,
                held_out,
            });
        }
        Ok(())
    }

    /// Records two different statements about one round, both with their signatures.
    fn exclude(
        &mut self,
        peer: PeerId,
        first: (Action, Signature),
        second: (Action, Signature),
        events: &mut Vec<Event>,
    ) {
        let genesis = self.core().genesis;
        let signed = |(action, signature): (Action, Signature)| Signed {
            body: Transaction { genesis, action },
            signer: peer,
            signature,
        };
        let evidence = Evidence {
            first: signed(first),
            second: signed(second),
        };
        if let Some(known) = self.core_mut().peers.get_mut(&peer) {
            known.standing = Standing::Excluded;
        }
        self.core_mut().evidence.insert(peer, evidence.clone());
        events.push(Event::Excluded(peer, Box::new(evidence)));
    }
}

/// What is kept out is planned, named once, in order, and not all there is.
fn check_judgement(round: &RoundState, judgement: &Judgement) -> Outcome {
    let unfit = &judgement.unfit;
    if !unfit.windows(2).all(|pair| pair[0].replica < pair[1].replica) {
        return Err(Refusal::Unfit("must ascend by replica, without repeats"));
    }
    let planned = |replica: u16| round.plan.iter().any(|entry| entry.replica == replica);
    if !unfit.iter().all(|entry| planned(entry.replica)) {
        return Err(Refusal::Unfit("may name planned contributions only"));
    }
    match unfit.len() < round.plan.len() && unfit.len() <= UNFIT_MAX {
        true => Ok(()),
        false => Err(Refusal::Unfit(
            "must leave at least one contribution, and name no more than a merge may keep out",
        )),
    }
}
