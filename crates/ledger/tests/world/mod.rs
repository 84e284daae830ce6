//! The round machine in its own language: a script of statements, and what the ledger made of each.
#![allow(dead_code, clippy::unwrap_used)] // no test uses all of it

use atoll_ledger::{Event, Phase, Refusal, State};
use atoll_protocol::{
    Action, ByteCount, CheckReason, Domain, Finding, Hash, InnerSteps, Keypair, MicroNats, Millis, PeerId,
    RefusedReplica, Round, Tokens, Transaction,
    charter::Charter,
    tiny_charter,
    transaction::{Judgement, Measured, Reveal, SignedTransaction, States, commitment},
};
use std::sync::Arc;

pub(crate) const GRACE: u64 = 2_000;

/// The rules of a small network.
pub(crate) fn charter(keys: &[Keypair]) -> Charter {
    let members = keys.iter().zip("abcdefgh".chars());
    let mut charter = tiny_charter(members.map(|(key, name)| (name.into(), key.peer())));
    charter.model.theta = Hash([9; 32]);
    charter.round.checkpoint_every = 2;
    charter
}

/// A network of one ledger: statements go in, blocks are applied, events come out.
pub(crate) struct World {
    pub(crate) keys: Vec<Keypair>,
    pub(crate) state: State,
    pub(crate) now: u64,
    pub(crate) events: Vec<Event>,
    /// When each round's merge opened.
    pub(crate) opened: Vec<(Round, u64)>,
    /// The closing state that each named last.
    pub(crate) closing: Vec<Hash>,
}

impl World {
    pub(crate) fn new(n: usize) -> Self {
        Self::under(n, |_| ())
    }

    /// A network under a changed charter.
    pub(crate) fn under(n: usize, change: impl FnOnce(&mut Charter)) -> Self {
        let mut keys: Vec<Keypair> = (0..n as u8).map(|i| Keypair::from_seed(&[i + 1; 32])).collect();
        keys.sort_by_key(Keypair::peer);
        let mut charter = charter(&keys);
        change(&mut charter);
        charter.validate().unwrap();
        Self {
            keys,
            state: State::genesis(Arc::new(charter)),
            now: 1_000,
            events: vec![],
            opened: vec![],
            closing: vec![Hash::ZERO; n],
        }
    }

    pub(crate) fn peer(&self, who: usize) -> PeerId {
        self.keys[who].peer()
    }

    pub(crate) fn blob(who: usize) -> Hash {
        Hash([who as u8 + 100; 32])
    }

    pub(crate) fn sign(&self, who: usize, action: Action) -> SignedTransaction {
        let genesis = self.state.core().genesis;
        self.keys[who].sign(Domain::Transaction, Transaction { genesis, action })
    }

    /// One block with one statement at the current time.
    pub(crate) fn say(&mut self, who: usize, action: Action) -> Result<(), Refusal> {
        let transaction = self.sign(who, action);
        self.state.admissible(&transaction)?;
        self.now += 1;
        let (block, drafted) = self.state.draft(Millis(self.now), [transaction]).into_parts();
        let (next, events) = self.state.apply(&block).unwrap();
        assert_eq!(next, *drafted, "who drafts and who checks come to the same state");
        self.state = next;
        self.note(events);
        Ok(())
    }

    pub(crate) fn wait(&mut self, length: u64) {
        self.now += length;
        let (block, _) = self.state.draft(Millis(self.now), []).into_parts();
        let (next, events) = self.state.apply(&block).unwrap();
        self.state = next;
        self.note(events);
    }

    fn note(&mut self, events: Vec<Event>) {
        for event in &events {
            if let Event::MergeOpened { round, .. } = event {
                self.opened.push((*round, self.state.time().0));
            }
        }
        self.events.extend(events);
    }

    pub(crate) fn join_all(&mut self) {
        (0..self.keys.len()).for_each(|who| self.say(who, Action::Join { sequence: 0 }).unwrap());
    }

    pub(crate) fn commit(&mut self, who: usize) -> Result<(), Refusal> {
        let (round, peer, genesis) = (self.state.round().number, self.peer(who), self.state.core().genesis);
        self.say(
            who,
            Action::Commit {
                round,
                commitment: commitment(&genesis, &peer, round, &Self::blob(who)),
            },
        )
    }

    pub(crate) fn reveal_of(&self, who: usize) -> Reveal {
        Reveal {
            round: self.state.round().number,
            trained: self.state.round().number,
            blob: Self::blob(who),
            bytes: ByteCount(100),
            steps: InnerSteps(4),
            tokens: Tokens(64),
            train_loss: MicroNats(2_000_000 + who as u64),
            held_out: MicroNats(3_000_000),
            ahead: None,
            measured: Measured::default(),
            states: self.states(who),
        }
    }

    fn states(&self, who: usize) -> States {
        if !self.state.charter().audit.is_on() {
            return States::NONE;
        }
        let round = self.state.round().number;
        let known = self.state.followed(&self.peer(who)).is_some();
        States {
            opening: if known { self.closing[who] } else { Hash::ZERO },
            closing: Hash::of_blob(format!("{who} {round}").as_bytes()),
        }
    }

    pub(crate) fn reveal(&mut self, who: usize) -> Result<(), Refusal> {
        let reveal = self.reveal_of(who);
        self.reveal_this(who, reveal)
    }

    pub(crate) fn reveal_this(&mut self, who: usize, reveal: Reveal) -> Result<(), Refusal> {
        let closing = reveal.states.closing;
        self.say(who, Action::Reveal(reveal))?;
        self.closing[who] = closing;
        Ok(())
    }

    pub(crate) fn verdict(
        &mut self,
        speaker: usize,
        (round, author): (Round, usize),
        finding: Finding,
    ) -> Result<(), Refusal> {
        let peer = self.peer(author);
        self.say(speaker, Action::Verdict { round, peer, finding })
    }

    pub(crate) fn who(&self, peer: &PeerId) -> usize {
        self.keys.iter().position(|key| key.peer() == *peer).unwrap()
    }

    pub(crate) fn check(&mut self, who: usize, refuse: &[(usize, CheckReason)]) -> Result<(), Refusal> {
        self.check_after(who, refuse, None)
    }

    /// Of a peer that says when it held a quorum's contributions.
    pub(crate) fn check_after(
        &mut self,
        who: usize,
        refuse: &[(usize, CheckReason)],
        held: Option<Millis>,
    ) -> Result<(), Refusal> {
        let place = |of: &usize| self.state.round().replica(&self.peer(*of)).unwrap() as u16;
        let mut refused: Vec<_> = refuse
            .iter()
            .map(|(of, reason)| RefusedReplica {
                replica: place(of),
                reason: *reason,
            })
            .collect();
        refused.sort_by_key(|entry| entry.replica);
        let round = self.state.round().number;
        self.say(who, Action::Check { round, held, refused })
    }

    pub(crate) fn root(&mut self, who: usize, theta: u8) -> Result<(), Refusal> {
        self.judged_root(who, theta, Judgement::NONE)
    }

    pub(crate) fn judged_root(&mut self, who: usize, theta: u8, judgement: Judgement) -> Result<(), Refusal> {
        let round = self.state.round().number;
        self.say(
            who,
            Action::MergeRoot {
                round,
                theta: Hash([theta; 32]),
                momentum: None,
                judgement,
            },
        )
    }

    /// A whole round in which `who` take part.
    pub(crate) fn round(&mut self, who: &[usize], theta: u8) {
        who.iter().for_each(|w| self.commit(*w).unwrap());
        if self.state.round().phase == Phase::Commit {
            self.wait(GRACE);
        }
        who.iter().for_each(|w| self.reveal(*w).unwrap());
        who.iter().for_each(|w| self.check(*w, &[]).unwrap());
        let number = self.state.round().number;
        for w in who {
            if self.state.round().number == number {
                self.root(*w, theta).unwrap();
            }
        }
    }

    pub(crate) fn last_record(&self) -> &atoll_ledger::RoundRecord {
        let record = |event: &_| matches!(event, Event::RoundEnded(_));
        match self.events.iter().rev().find(|event| record(event)) {
            Some(Event::RoundEnded(record)) => record,
            _ => panic!("no round has ended"),
        }
    }
}
