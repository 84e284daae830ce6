//! What effects do to the toy world: blobs have made-up hashes, a merge is a hash of base and plan.

use crate::{
    peer::{Fault, Life},
    world::{Fate, Fetching, Happening, Merging, World},
};
use atoll_ledger::{Event, Roots};
use atoll_node::{Contribution, Effect, Input, Notice};
use atoll_protocol::{
    Action, ByteCount, CheckReason, Domain, Hash, InnerSteps, MicroNats, Round, Tokens, Transaction, encode,
};

/// How long until something that nobody serves is tried again.
const RETRY_MS: u64 = 500;

impl World {
    pub(crate) fn perform(&mut self, who: usize, effect: Effect) {
        match effect {
            Effect::Submit(action) => self.submit(who, action),
            Effect::Train { round, .. } => {
                let agreed = self.node(who).state().core().roots;
                assert_eq!(self.peers[who].disk.holds, agreed, "peer {who} trains from another θ");
                let (ticket, ms, life) = (self.ticket(), self.training_ms(who), self.life(who).number);
                self.life(who).training = Some(ticket);
                self.after(
                    ms,
                    Happening::TrainingEnds {
                        who,
                        life,
                        ticket,
                        round,
                    },
                );
            }
            Effect::Abort => self.life(who).training = None,
            Effect::Fetch { peer, reveal } => {
                let (round, blob, owner) = (reveal.round, reveal.blob, peer);
                let (ms, life) = (2 * self.link_ms(who), self.life(who).number);
                let fetch = Fetching { round, owner, blob };
                self.after(ms, Happening::FetchTried { who, life, fetch });
            }
            Effect::Merge { round, plan } => {
                let (base, blobs) = (
                    self.peers[who].disk.holds,
                    plan.iter().map(|entry| entry.blob).collect(),
                );
                let (ticket, ms, life) = (self.ticket(), self.merge_ms(who), self.life(who).number);
                self.life(who).merging = Some(ticket);
                let merge = Merging { round, base, blobs };
                self.after(
                    ms,
                    Happening::MergeEnds {
                        who,
                        life,
                        ticket,
                        merge,
                    },
                );
            }
            Effect::Advance(roots) => {
                assert_eq!(self.life(who).copy.take(), Some(roots), "peer {who} has no such copy");
                self.peers[who].disk.holds = roots;
            }
            Effect::Discard => {
                self.life(who).copy = None;
                self.life(who).merging = None;
            }
            Effect::Restore(round) => self.settle(who, round, Fate::Restored),
            Effect::Adopt(roots) => {
                let (ticket, ms, life) = (self.ticket(), self.merge_ms(who), self.life(who).number);
                self.life(who).adopting = Some(ticket);
                self.after(
                    ms,
                    Happening::AdoptionTried {
                        who,
                        life,
                        ticket,
                        roots,
                    },
                );
            }
            Effect::Checkpoint(round) => {
                let (manifest, held_out) = (self.peers[who].disk.holds.theta, MicroNats(7));
                let ms = self.merge_ms(who);
                let input = Input::Checkpointed {
                    round,
                    manifest,
                    held_out,
                };
                self.feed(who, ms, input);
            }
            Effect::Collect(before) => self.collect(who, before),
            Effect::SetTimer { at, timer } => {
                assert!(at >= self.now, "a timer in the past");
                self.feed(who, at.0 - self.now.0, Input::Timer(timer));
            }
            Effect::Notice(Notice::Broken(text)) => panic!("peer {who}: {text}"),
            Effect::Notice(_) => {}
        }
    }

    /// What the owner does with a block's events: a contribution that was merged is spent.
    pub(crate) fn settle_merged(&mut self, who: usize, events: &[Event]) {
        let me = self.peer(who);
        for event in events {
            let Event::RoundEnded(record) = event else { continue };
            let pending = self.contribution(who).map(|mine| mine.round);
            let merged = record.merged.iter().any(|entry| entry.peer == me);
            if merged && pending == Some(record.round) {
                self.settle(who, record.round, Fate::Spent);
            }
        }
    }

    fn life(&mut self, who: usize) -> &mut Life {
        self.peers[who].life.as_mut().unwrap()
    }

    fn submit(&mut self, who: usize, action: Action) {
        if let Action::Commit { round, commitment } = &action {
            let first = *self.commitments.entry((who, *round)).or_insert(*commitment);
            assert_eq!(first, *commitment, "peer {who} made two commitments in round {round}");
        }
        let genesis = self.chain.state.core().genesis;
        let statement = self.keys[who].sign(Domain::Transaction, Transaction { genesis, action });
        let ms = self.link_ms(who);
        self.after(ms, Happening::Statement(statement));
    }

    /// The contribution goes to disk first, then the machine hears of it. Training is not reproducible:
    /// the blob depends on the ticket, so that a second training would be a second contribution.
    pub(crate) fn training_ends(&mut self, who: usize, ticket: u64, round: Round) {
        if self.life(who).training.take_if(|current| *current == ticket).is_none() {
            return;
        }
        let blob = Hash::of_blob(&encode(&(self.peer(who), round, ticket)));
        let mine = Contribution {
            round,
            blob,
            bytes: ByteCount(100),
            steps: InnerSteps(4),
            tokens: Tokens(64),
            train_loss: MicroNats(2_000_000),
            held_out: MicroNats(3_000_000),
        };
        assert_eq!(self.contribution(who), None, "peer {who} has an unsettled contribution");
        let before = self.fates.insert((who, round), (blob, Fate::Pending));
        assert_eq!(before, None, "peer {who} trained twice for round {round}");
        self.holders.entry(blob).or_default().insert(who);
        self.peers[who].disk.mine = Some(mine.clone());
        let ms = self.link_ms(who);
        self.feed(who, ms, Input::Trained(mine));
    }

    /// After a crash: a contribution to a round that is over is settled by the round's record.
    pub(crate) fn settle_old(&mut self, who: usize, current: Round) {
        let Some(old) = self
            .contribution(who)
            .map(|mine| mine.round)
            .filter(|round| *round < current)
        else {
            return;
        };
        let me = self.peer(who);
        let record = self.chain.records.iter().find(|record| record.round == old).unwrap();
        let merged = record.merged.iter().any(|entry| entry.peer == me);
        self.settle(who, old, if merged { Fate::Spent } else { Fate::Restored });
    }

    fn settle(&mut self, who: usize, round: Round, fate: Fate) {
        let mine = self.peers[who].disk.mine.take();
        assert_eq!(mine.map(|mine| mine.round), Some(round), "peer {who} settles {fate:?}");
        let entry = self.fates.get_mut(&(who, round)).unwrap();
        assert_eq!(entry.1, Fate::Pending, "peer {who}, round {round}: settled twice");
        entry.1 = fate;
    }

    /// Whether `who` holds the blob or can get it from somebody who lives.
    fn obtain(&mut self, who: usize, owner: Option<usize>, blob: Hash) -> bool {
        let hidden = owner.is_some_and(|owner| {
            let unserved =
                |fault: &Fault| matches!(fault, Fault::Unserved(round) if self.fates.get(&(owner, *round)).is_some_and(|fate| fate.0 == blob));
            owner != who && self.peers[owner].faults.iter().any(unserved)
        });
        let holders = self.holders.get(&blob).cloned().unwrap_or_default();
        let here = holders.contains(&who);
        let there = holders.iter().any(|holder| self.peers[*holder].life.is_some());
        if here || there && !hidden {
            self.holders.entry(blob).or_default().insert(who);
            return true;
        }
        false
    }

    pub(crate) fn try_fetch(&mut self, who: usize, fetch: Fetching) {
        if self.node(who).state().round().number != fetch.round {
            return;
        }
        let (owner, peer, round) = (self.who(&fetch.owner), fetch.owner, fetch.round);
        if !self.obtain(who, Some(owner), fetch.blob) {
            let life = self.life(who).number;
            self.after(RETRY_MS, Happening::FetchTried { who, life, fetch });
            return;
        }
        let malformed = self.peers[owner].faults.contains(&Fault::Malformed(round));
        let verdict = match malformed {
            true => Err(CheckReason::Malformed),
            false => Ok(()),
        };
        self.feed(who, 0, Input::Fetched { round, peer, verdict });
    }

    pub(crate) fn merge_ends(&mut self, who: usize, ticket: u64, merge: &Merging) {
        let round = merge.round;
        let missing = merge
            .blobs
            .iter()
            .filter(|blob| !self.obtain(who, None, **blob))
            .count();
        if missing > 0 || self.fails_once(who, round) {
            let reason = format!("{missing} blobs are missing");
            return self.feed(who, 0, Input::MergeFailed { round, reason });
        }
        let mut theta = Hash::of_blob(&encode(&(merge.base, &merge.blobs)));
        if self.peers[who].faults.contains(&Fault::OtherRoot(round)) {
            theta.0[0] ^= 1;
        }
        let roots = Roots { theta, momentum: None };
        let life = self.life(who);
        if life.merging == Some(ticket) {
            life.copy = Some(roots);
        }
        let ms = self.link_ms(who);
        self.feed(who, ms, Input::Merged { round, roots });
    }

    fn fails_once(&mut self, who: usize, at: Round) -> bool {
        let left = |fault: &mut Fault| match fault {
            Fault::MergeFails(round, left) if *round == at && *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        };
        self.peers[who].faults.iter_mut().any(left)
    }

    pub(crate) fn try_adoption(&mut self, who: usize, ticket: u64, roots: Roots) {
        if self.life(who).adopting != Some(ticket) {
            return; // another θ is wanted by now
        }
        let served = self
            .peers
            .iter()
            .any(|peer| peer.life.is_some() && peer.disk.holds == roots);
        if served {
            self.peers[who].disk.holds = roots;
            self.feed(who, 0, Input::Adopted(roots));
        } else {
            let life = self.life(who).number;
            self.after(
                RETRY_MS,
                Happening::AdoptionTried {
                    who,
                    life,
                    ticket,
                    roots,
                },
            );
        }
    }

    fn collect(&mut self, who: usize, before: Round) {
        for ((_, round), (blob, _)) in &self.fates {
            if *round < before {
                self.holders.entry(*blob).or_default().remove(&who);
            }
        }
    }
}
