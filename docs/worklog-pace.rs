//! The round machine in its own language: a script of statements, and what the ledger made of each.

use atoll_ledger::{BlockError, Event, Outcome, Phase, Refusal, Standing, State};
use atoll_protocol::{
    Action, ByteCount, CheckReason, Domain, Hash, InnerSteps, Keypair, MicroNats, Millis, PeerId, Refused,
    RefusedReplica, Round, Tokens, Transaction,
    charter::Charter,
    tiny_charter,
    transaction::{Measured, Reveal, SignedTransaction, commitment},
};
use proptest::prelude::*;
use std::sync::Arc;

const GRACE: u64 = 2_000;
const CHECK: u64 = 10_000;

fn charter(keys: &[Keypair]) -> Charter {
    let members = keys.iter().zip("abcdefgh".chars());
    let mut charter = tiny_charter(members.map(|(key, name)| (name.into(), key.peer())));
    charter.model.theta = Hash([9; 32]);
    charter.round.checkpoint_every = 2; charter.deadlines.deviations = std::env::var("DEV").map_or(8,|d|d.parse().unwrap()); charter.round.rounds = 60; charter.deadlines.check = Millis(60_000); charter.deadlines.merge = Millis(20_000);
    charter
}

/// A network of one ledger: statements go in, blocks are applied, events come out.
struct World {
    keys: Vec<Keypair>,
    state: State,
    now: u64,
    events: Vec<Event>,
}

impl World {
    fn new(n: usize) -> Self {
        let mut keys: Vec<Keypair> = (0..n as u8).map(|i| Keypair::from_seed(&[i + 1; 32])).collect();
        keys.sort_by_key(Keypair::peer);
        let charter = charter(&keys);
        charter.validate().unwrap();
        Self {
            keys,
            state: State::genesis(Arc::new(charter)),
            now: 1_000,
            events: vec![],
        }
    }

    fn peer(&self, who: usize) -> PeerId {
        self.keys[who].peer()
    }

    fn blob(who: usize) -> Hash {
        Hash([who as u8 + 100; 32])
    }

    fn sign(&self, who: usize, action: Action) -> SignedTransaction {
        let genesis = self.state.core().genesis;
        self.keys[who].sign(Domain::Transaction, Transaction { genesis, action })
    }

    /// One block with one statement at the current time.
    fn say(&mut self, who: usize, action: Action) -> Result<(), Refusal> {
        let transaction = self.sign(who, action);
        self.state.admissible(&transaction)?;
        self.now += 1;
        let (block, drafted) = self.state.draft(Millis(self.now), [transaction]).into_parts();
        let (next, events) = self.state.apply(&block).unwrap();
        assert_eq!(next, *drafted, "who drafts and who checks come to the same state");
        self.state = next;
        self.events.extend(events);
        Ok(())
    }

    fn wait(&mut self, length: u64) {
        self.now += length;
        let (block, _) = self.state.draft(Millis(self.now), []).into_parts();
        let (next, events) = self.state.apply(&block).unwrap();
        self.state = next;
        self.events.extend(events);
    }

    fn join_all(&mut self) {
        (0..self.keys.len()).for_each(|who| self.say(who, Action::Join { sequence: 0 }).unwrap());
    }

    fn commit(&mut self, who: usize) -> Result<(), Refusal> {
        let (round, peer, genesis) = (self.state.round().number, self.peer(who), self.state.core().genesis);
        self.say(
            who,
            Action::Commit {
                round,
                commitment: commitment(&genesis, &peer, round, &Self::blob(who)),
            },
        )
    }

    fn reveal_of(&self, who: usize) -> Reveal {
        Reveal {
            round: self.state.round().number,
            blob: Self::blob(who),
            bytes: ByteCount(100),
            steps: InnerSteps(4),
            tokens: Tokens(64),
            train_loss: MicroNats(2_000_000 + who as u64),
            held_out: MicroNats(3_000_000),
            ahead: None,
            measured: Measured::default(),
        }
    }

    fn reveal(&mut self, who: usize) -> Result<(), Refusal> {
        let reveal = self.reveal_of(who);
        self.say(who, Action::Reveal(reveal))
    }

    fn check(&mut self, who: usize, refuse: &[(usize, CheckReason)]) -> Result<(), Refusal> {
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
        self.say(who, Action::Check { round, refused })
    }

    fn root(&mut self, who: usize, theta: u8) -> Result<(), Refusal> {
        let round = self.state.round().number;
        self.say(
            who,
            Action::MergeRoot {
                round,
                theta: Hash([theta; 32]),
                momentum: None,
            },
        )
    }

    /// A whole round in which `who` take part.
    fn round(&mut self, who: &[usize], theta: u8) {
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

    fn last_record(&self) -> &atoll_ledger::RoundRecord {
        let record = |event: &_| matches!(event, Event::RoundEnded(_));
        match self.events.iter().rev().find(|event| record(event)) {
            Some(Event::RoundEnded(record)) => record,
            _ => panic!("no round has ended"),
        }
    }
}


impl World {
    fn at(&mut self, t: u64) { let now=self.now; if t>now { self.now=t-1; } }
    /// merge phase: (who, theta, delay after phase start)
    fn until_merge(&mut self) {
        for w in 0..4 { self.commit(w).unwrap(); }
        for w in 0..4 { self.reveal(w).unwrap(); }
        for w in 0..4 { self.check(w,&[]).unwrap(); }
        assert_eq!(self.state.round().phase, Phase::Merge);
    }
}
#[test]
fn x_merge_livelock() {
    for liar in [false,true] {
    let mut w = World::new(4);
    w.join_all();
    for r in 0..14u8 {
        w.until_merge();
        let since=w.state.round().since.0; let number=w.state.round().number;
        let ends=w.state.phase_ends().unwrap().0-since;
        for (who,delay) in [(3usize,4_900u64),(0,5_000),(1,5_000),(2,8_000)] {
            if let Some(d)=w.state.next_deadline() { if d.0<since+delay && d.0>w.now { let x=d.0-w.now; w.wait(x);} }
            if w.state.round().number!=number {break;}
            w.at(since+delay);
            let theta = if who==3 && liar && r>=4 {200} else {r+10};
            let _=w.root(who,theta);
        }
        if w.state.round().number==number { w.wait(30_000); }
        println!("liar {liar} round {r} limit {ends} outcome {:?}", w.last_record().outcome);
    } }
}
#[test]
fn x_check_liar() {
    let mut w = World::new(4);
    w.join_all();
    for r in 0..12u8 {
        for p in 0..4 { w.commit(p).unwrap(); }
        for p in 0..4 { w.reveal(p).unwrap(); }
        let since=w.state.round().since.0; let number=w.state.round().number;
        let limit=w.state.phase_ends().unwrap().0-since;
        let mut t=vec![(3usize,4_900u64),(0,5_000),(1,5_000),(2,8_000)];
        t.sort_by_key(|x|x.1);
        for (who,delay) in t {
            if let Some(d)=w.state.next_deadline() { if d.0<since+delay && d.0>w.now { let x=d.0-w.now; w.wait(x);} }
            if w.state.round().number!=number || w.state.round().phase!=Phase::Check {break;}
            w.at(since+delay);
            let all:Vec<_>=(0..3).map(|p|(p,CheckReason::Malformed)).collect();
            let _=w.check(who, if who==3 && r>=4 {&all[..]} else {&[]});
        }
        if w.state.round().phase==Phase::Check && w.state.round().number==number { w.wait(60_000); }
        if w.state.round().phase==Phase::Merge { for p in 0..4 { let _=w.root(p,r+10);} }
        println!("CHK round {r} check limit {limit} merged {:?}, liar is {}", w.last_record().merged.iter().map(|m|m.peer.short()).collect::<Vec<_>>(), w.peer(3).short());
    }
}
/// all honest, equal links: blobs need `transfer`; nodes judge at 3/4 of the limit as `open_check` does
#[test]
fn x_check_timer() {
  for transfer in [4_000u64, 10_000,20_000] {
    let mut w = World::new(4);
    w.join_all();
    for r in 0..10u8 {
        for p in 0..4 { w.commit(p).unwrap(); }
        for p in 0..4 { w.reveal(p).unwrap(); }
        let since=w.state.round().since.0;
        let limit=w.state.phase_ends().unwrap().0-since;
        let wait=limit/4*3;
        for p in 0..4usize {
            let need=transfer+100*p as u64;
            let latency=500;
            let others:Vec<_>=(0..4).filter(|q|*q!=p).map(|q|(q,CheckReason::Missing)).collect();
            if wait < need { w.at(since+wait+latency); w.check(p,&others).unwrap(); }
            else { w.at(since+need+latency); w.check(p,&[]).unwrap(); }
        }
        if w.state.round().phase==Phase::Merge { for p in 0..4 { let _=w.root(p,r+10);} }
        println!("transfer {transfer} round {r} check limit {limit} judged missing after {wait}: {:?}", w.last_record().outcome);
    } }
}

#[test]
fn x_one_withholder() {
    // peer 3 reveals a blob that it serves to nobody: every honest check says Missing for it alone
    let mut w = World::new(4);
    w.join_all();
    for r in 0..8u8 {
        for p in 0..4 { w.commit(p).unwrap(); }
        for p in 0..4 { w.reveal(p).unwrap(); }
        let since=w.state.round().since.0;
        let limit=w.state.phase_ends().unwrap().0-since;
        w.at(since+limit/4*3);
        for p in 0..3usize { w.check(p, if r>=4 {&[(3,CheckReason::Missing)]} else {&[]}).unwrap(); }
        let _=w.check(3,&[]);
        if w.state.round().phase==Phase::Merge { for p in 0..4 { let _=w.root(p,r+10);} }
        println!("WH round {r} limit {limit} transfer known {:?} merged {}", w.state.core().pace.check.last(), w.last_record().merged.len());
    }
}
#[test]
fn x_ahead_more_than_steps() {
    let mut w = World::new(4);
    w.join_all();
    for p in 0..4 { w.commit(p).unwrap(); }
    let mut reveal=w.reveal_of(0);
    reveal.steps=InnerSteps(3); reveal.tokens=Tokens(48);
    reveal.ahead=Some(atoll_protocol::transaction::Ahead{from:atoll_protocol::transaction::AheadFrom::Own,steps:InnerSteps(4)});
    println!("AH {:?}", w.say(0,Action::Reveal(reveal)));
}

#[test]
fn x_late_reveal() {
    // blobs travel 3 s from their reveal on; peer 3 reveals just before the limit, but promptly in every 4th round
    let mut w = World::new(4);
    w.join_all();
    for r in 0..16u8 {
        for p in 0..4 { w.commit(p).unwrap(); }
        let opened=w.state.round().since.0;
        let rl=w.state.phase_ends().unwrap().0-opened;
        for p in 0..3 { w.reveal(p).unwrap(); }
        if r%4!=3 { w.at(opened+rl-100); }
        w.reveal(3).unwrap();
        let (since,travel)=(w.state.round().since.0,3_000);
        let limit=w.state.phase_ends().unwrap().0-since;
        let wait=limit/4*3;
        let own=opened+3+travel; let last=since+ if r%4!=3 {100} else {travel}; // the liar's blob is small or fast
        let need=own.max(last).saturating_sub(since);
        for p in 0..4usize {
            let others:Vec<_>=(0..4).filter(|q|*q!=p).map(|q|(q,CheckReason::Missing)).collect();
            if wait < need { w.at(since+wait+300); w.check(p,&others).unwrap(); } else { w.at(since+need+300); w.check(p,&[]).unwrap(); }
        }
        if w.state.round().phase==Phase::Merge { for p in 0..4 { let _=w.root(p,r+10);} }
        println!("LR round {r} reveal limit {rl} check limit {limit}, needed {need}: {}", if w.last_record().merged.is_empty() {"VOID"} else {"closed"});
    }
}
