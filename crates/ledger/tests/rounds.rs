//! Rounds by script: what the ledger makes of each statement.

mod world;

use atoll_ledger::{BlockError, Event, Outcome, Phase, Refusal, Standing};
use atoll_protocol::{
    Action, ByteCount, CheckReason, Domain, Hash, InnerSteps, Keypair, MicroNats, Millis, Refused, RefusedReplica,
    Round, Tokens, Transaction,
    transaction::{Judgement, Reveal, commitment},
};
use proptest::prelude::*;
use world::{GRACE, World};

const CHECK: u64 = 10_000;

#[test]
fn four_peers_close_three_rounds() {
    let mut w = World::new(4);
    w.join_all();
    assert_eq!(w.state.round().phase, Phase::Commit);
    for round in 0..3u8 {
        let base = w.state.core().roots;
        assert_eq!(w.state.round().number, Round(round.into()));
        w.round(&[0, 1, 2, 3], round + 10);
        assert_eq!(w.last_record().merged.len(), 4);
        assert_eq!(w.state.core().roots.theta, Hash([round + 10; 32]));
        let last = w.state.core().last_merge.clone().unwrap();
        assert_eq!((last.round, last.base), (Round(round.into()), base));
        assert_eq!(last.plan, w.last_record().merged);
    }
    assert_eq!(w.state.round().phase, Phase::Finished);
    assert_eq!(w.last_record().train_loss, MicroNats(2_000_001));
    let due: Vec<_> = w
        .events
        .iter()
        .filter(|event| matches!(event, Event::CheckpointDue(..)))
        .collect();
    assert_eq!(due.len(), 2, "after rounds 1 and 2");
    assert!(
        w.state
            .core()
            .peers
            .values()
            .all(|peer| peer.merged == 3 && peer.tokens == Tokens(192))
    );
}

#[test]
fn one_peer_alone() {
    let mut w = World::new(1);
    w.join_all();
    w.round(&[0], 5);
    assert!(matches!(w.last_record().outcome, Outcome::Closed(_)));
}

#[test]
fn a_quorum_goes_on_without_a_dead_peer_and_drops_it_later() {
    let mut w = World::new(4);
    w.join_all();
    w.round(&[0, 1, 2], 1);
    assert_eq!(w.last_record().absent, [w.peer(3)]);
    w.round(&[0, 1, 2], 2);
    let gone = w.peer(3);
    assert_eq!(w.state.core().peers[&gone].standing, Standing::Dormant);
    assert_eq!(w.state.round().roster.len(), 3);
    assert!(matches!(w.commit(3), Err(Refusal::NotInRoster { .. })));
    w.say(3, Action::Join { sequence: 1 }).unwrap();
    w.round(&[0, 1, 2], 3);
}

#[test]
fn nothing_moves_below_a_quorum() {
    let mut w = World::new(4);
    w.say(0, Action::Join { sequence: 0 }).unwrap();
    w.wait(1_000_000);
    assert_eq!(w.state.round().phase, Phase::Gathering);
    w.say(1, Action::Join { sequence: 0 }).unwrap();
    w.say(2, Action::Join { sequence: 0 }).unwrap();
    assert_eq!(w.state.next_deadline(), Some(Millis(w.now + GRACE)));
    w.wait(GRACE);
    assert_eq!(
        (w.state.round().phase, w.state.round().roster.len()),
        (Phase::Commit, 3)
    );
    w.commit(0).unwrap();
    w.wait(1_000_000);
    assert_eq!(w.state.round().phase, Phase::Commit);
}

/// Two of four leave, one of the two left falls silent, the others come back: they are not held up.
#[test]
fn a_small_roster_that_falls_silent_is_outgrown() {
    for phase in [Phase::Commit, Phase::Check, Phase::Merge] {
        let mut w = World::new(4);
        w.join_all();
        (2..4).for_each(|who| w.say(who, Action::Leave { sequence: 1 }).unwrap());
        w.round(&[0, 1, 2], 1);
        assert_eq!(w.state.round().roster.len(), 2);
        w.commit(0).unwrap();
        if phase != Phase::Commit {
            w.commit(1).unwrap();
            (0..2).for_each(|who| w.reveal(who).unwrap());
            w.check(0, &[]).unwrap();
        }
        if phase == Phase::Merge {
            w.check(1, &[]).unwrap();
            w.root(0, 2).unwrap();
        }
        assert_eq!(w.state.round().phase, phase);
        w.wait(100_000);
        assert_eq!(w.state.round().phase, phase, "two of four are no quorum");
        w.say(2, Action::Join { sequence: 1 }).unwrap();
        assert_eq!(
            w.state.next_deadline(),
            None,
            "one outside and one that spoke are no quorum"
        );
        w.say(3, Action::Join { sequence: 1 }).unwrap();
        assert_eq!(w.state.next_deadline(), Some(Millis(w.now + GRACE)));
        w.wait(GRACE - 1);
        assert_eq!(w.state.round().phase, phase, "there is a grace");
        w.wait(1);
        assert_eq!(w.last_record().outcome, Outcome::Outgrown);
        assert_eq!((w.state.round().number, w.state.round().roster.len()), (Round(2), 4));
    }
}

#[test]
fn a_commit_without_reveal_is_recorded_and_holds_nobody_up() {
    let mut w = World::new(4);
    w.join_all();
    (0..4).for_each(|who| w.commit(who).unwrap());
    (0..3).for_each(|who| w.reveal(who).unwrap());
    assert_eq!(w.state.round().phase, Phase::Reveal);
    w.wait(5_000);
    assert_eq!(w.state.round().phase, Phase::Check);
    (0..3).for_each(|who| w.check(who, &[]).unwrap());
    w.wait(CHECK);
    (0..3).for_each(|who| w.root(who, 1).unwrap());
    assert_eq!(w.last_record().withheld, [w.peer(3)]);
    assert_eq!(w.last_record().merged.len(), 3);
}

#[test]
fn two_reveals_are_equivocation_with_both_signatures() {
    let mut w = World::new(4);
    w.join_all();
    (0..4).for_each(|who| w.commit(who).unwrap());
    w.reveal(0).unwrap();
    let same = w.reveal_of(0);
    assert!(matches!(w.say(0, Action::Reveal(same)), Err(Refusal::Repeated { .. })));
    let other = Reveal {
        blob: Hash([1; 32]),
        ..w.reveal_of(0)
    };
    w.say(0, Action::Reveal(other)).unwrap();
    let culprit = w.peer(0);
    let evidence = w.state.core().evidence[&culprit].clone();
    for signed in [evidence.first, evidence.second] {
        assert_eq!(signed.signer, culprit);
        signed.verify(Domain::Transaction).unwrap();
    }
    assert!(matches!(
        w.say(0, Action::Leave { sequence: 1 }),
        Err(Refusal::Excluded(_))
    ));
    (1..4).for_each(|who| w.reveal(who).unwrap());
    (1..4).for_each(|who| w.check(who, &[]).unwrap());
    assert!(w.state.round().plan.iter().all(|entry| entry.peer != culprit));
    (1..4).for_each(|who| w.root(who, 1).unwrap());
    assert!(!w.state.round().roster.contains(&culprit));
}

#[test]
fn two_commits_are_equivocation_too() {
    let mut w = World::new(4);
    w.join_all();
    w.commit(2).unwrap();
    w.say(
        2,
        Action::Commit {
            round: Round(0),
            commitment: Hash::ZERO,
        },
    )
    .unwrap();
    let culprit = w.peer(2);
    assert_eq!(w.state.core().peers[&culprit].standing, Standing::Excluded);
}

#[test]
fn what_a_quorum_does_not_hold_is_not_merged() {
    let mut w = World::new(4);
    w.join_all();
    (0..4).for_each(|who| w.commit(who).unwrap());
    (0..4).for_each(|who| w.reveal(who).unwrap());
    w.check(0, &[(3, CheckReason::Missing)]).unwrap();
    w.check(1, &[(2, CheckReason::Missing), (3, CheckReason::Malformed)])
        .unwrap();
    w.check(2, &[(3, CheckReason::Malformed)]).unwrap();
    w.check(3, &[]).unwrap();
    assert_eq!(w.state.round().plan.len(), 3);
    (0..3).for_each(|who| w.root(who, 1).unwrap());
    assert_eq!(
        w.last_record().refused,
        [Refused {
            peer: w.peer(3),
            reason: CheckReason::Malformed
        }]
    );
}

#[test]
fn when_nothing_is_accepted_theta_stays() {
    let mut w = World::new(4);
    w.join_all();
    (0..4).for_each(|who| w.commit(who).unwrap());
    (0..4).for_each(|who| w.reveal(who).unwrap());
    let all = [0, 1, 2, 3].map(|who| (who, CheckReason::BadValue));
    (0..4).for_each(|who| w.check(who, &all).unwrap());
    assert_eq!(w.last_record().outcome, Outcome::NothingAccepted);
    assert_eq!(
        (w.state.core().roots.theta, w.state.round().number),
        (Hash([9; 32]), Round(1))
    );
}

#[test]
fn split_roots_void_the_round() {
    let mut w = World::new(4);
    w.join_all();
    (0..4).for_each(|who| w.commit(who).unwrap());
    (0..4).for_each(|who| w.reveal(who).unwrap());
    (0..4).for_each(|who| w.check(who, &[]).unwrap());
    (0..4).for_each(|who| w.root(who, who as u8 / 2).unwrap());
    assert_eq!(w.last_record().outcome, Outcome::RootsSplit);
    assert_eq!(w.state.core().roots.theta, Hash([9; 32]));
}

#[test]
fn what_was_sent_to_a_void_round_is_its_authors_to_send_again() {
    let mut w = World::new(4);
    w.join_all();
    (0..4).for_each(|who| w.commit(who).unwrap());
    (0..4).for_each(|who| w.reveal(who).unwrap());
    (0..4).for_each(|who| w.check(who, &[]).unwrap());
    (0..4).for_each(|who| w.root(who, who as u8 / 2).unwrap());
    assert_eq!(w.state.round().number, Round(1));
    assert_eq!(w.state.core().sent.len(), 4);

    // 3 commits to 0's blob, before 0 does
    let (round, genesis) = (Round(1), w.state.core().genesis);
    let blob = World::blob(0);
    let commitment = commitment(&genesis, &w.peer(3), round, &blob);
    w.say(3, Action::Commit { round, commitment }).unwrap();
    (0..3).for_each(|who| w.commit(who).unwrap());
    let stolen = Reveal { blob, ..w.reveal_of(3) };
    let (refused, author) = (w.say(3, Action::Reveal(stolen)), w.peer(0));
    assert!(matches!(refused, Err(Refusal::NotItsOwn { author: of, .. }) if of == author));
    (0..3).for_each(|who| w.reveal(who).unwrap());
    w.wait(6_000);
    (0..3).for_each(|who| w.check(who, &[]).unwrap());
    (0..3).for_each(|who| w.root(who, 7).unwrap());
    assert_eq!(w.last_record().merged.len(), 3);
    assert!(w.state.core().sent.is_empty(), "θ moved: nothing can be sent again");
}

#[test]
fn one_peer_with_another_root_does_not_hold_up_the_rest() {
    let mut w = World::new(4);
    w.join_all();
    (0..4).for_each(|who| w.commit(who).unwrap());
    (0..4).for_each(|who| w.reveal(who).unwrap());
    (0..4).for_each(|who| w.check(who, &[]).unwrap());
    w.root(3, 99).unwrap();
    (0..3).for_each(|who| w.root(who, 1).unwrap());
    assert_eq!(w.state.core().roots.theta, Hash([1; 32]));
}

#[test]
fn impossible_work_is_refused_with_its_numbers() {
    let mut w = World::new(1);
    w.join_all();
    w.commit(0).unwrap();
    let honest = w.reveal_of(0);
    for (change, text) in [
        (
            Reveal {
                tokens: Tokens(65),
                ..honest.clone()
            },
            "4 steps with 65 tokens",
        ),
        (
            Reveal {
                steps: InnerSteps(5),
                tokens: Tokens(80),
                ..honest.clone()
            },
            "5 steps with 80 tokens",
        ),
        (
            Reveal {
                bytes: ByteCount(0),
                ..honest.clone()
            },
            "a blob of 0 bytes",
        ),
        (
            Reveal {
                round: Round(7),
                ..honest.clone()
            },
            "round 7 is not open; current is 0",
        ),
        (
            Reveal {
                blob: Hash::ZERO,
                ..honest
            },
            "not what peer",
        ),
    ] {
        let refusal = w.say(0, Action::Reveal(change)).unwrap_err().to_string();
        assert!(refusal.contains(text), "{refusal}");
    }
}

#[test]
fn strangers_forgers_and_other_runs_are_refused() {
    let w = World::new(2);
    let stranger = Keypair::from_seed(&[77; 32]);
    let genesis = w.state.core().genesis;
    let join = Transaction {
        genesis,
        action: Action::Join { sequence: 0 },
    };
    let refused = w.state.admissible(&stranger.sign(Domain::Transaction, join.clone()));
    assert_eq!(refused, Err(Refusal::NotAMember(stranger.peer())));
    let mut forged = stranger.sign(Domain::Transaction, join.clone());
    forged.signer = w.peer(0);
    assert!(matches!(w.state.admissible(&forged), Err(Refusal::Signature(_))));
    let other = Transaction {
        genesis: Hash::ZERO,
        ..join
    };
    assert!(matches!(
        w.state.admissible(&w.keys[0].sign(Domain::Transaction, other)),
        Err(Refusal::OtherGenesis { .. })
    ));
}

#[test]
fn a_block_that_does_not_fit_is_refused() {
    let w = World::new(2);
    let drafted = w.state.draft(Millis(5_000), [w.sign(0, Action::Join { sequence: 0 })]);
    let (good, _) = drafted.into_parts();
    let refused = |change: &dyn Fn(&mut atoll_protocol::Block)| {
        let mut block = good.clone();
        change(&mut block);
        w.state.apply(&block).unwrap_err()
    };
    assert!(matches!(
        refused(&|b| b.header.parent = Hash::ZERO),
        BlockError::Parent { .. }
    ));
    assert!(matches!(
        refused(&|b| b.header.height.0 += 1),
        BlockError::Height { .. }
    ));
    assert!(matches!(
        refused(&|b| b.header.time = Millis(0)),
        BlockError::Time { .. }
    ));
    assert!(matches!(
        refused(&|b| b.header.state = Hash::ZERO),
        BlockError::Root { what: "state", .. }
    ));
    assert!(matches!(
        refused(&|b| b.header.validators = Hash::ZERO),
        BlockError::Root { what: "validators", .. }
    ));
    assert!(matches!(
        refused(&|b| b.transactions.clear()),
        BlockError::Root {
            what: "transactions",
            ..
        }
    ));
    let repeated = refused(&|b| {
        b.transactions.push(b.transactions[0].clone());
        b.header.transactions = atoll_protocol::Block::transactions_root(&b.transactions);
    });
    assert!(
        matches!(
            repeated,
            BlockError::Transaction {
                index: 1,
                kind: "join",
                ..
            }
        ),
        "{repeated}"
    );
}

#[test]
fn a_check_that_names_what_was_not_revealed_is_refused() {
    let mut w = World::new(4);
    w.join_all();
    (0..4).for_each(|who| w.commit(who).unwrap());
    (0..3).for_each(|who| w.reveal(who).unwrap());
    w.wait(5_000);
    let round = w.state.round().number;
    let entry = |replica| RefusedReplica {
        replica,
        reason: CheckReason::Missing,
    };
    let lists = [
        vec![entry(3)],
        vec![entry(4)],
        vec![entry(u16::MAX)],
        vec![entry(1), entry(0)],
        vec![entry(0); 2],
    ];
    for refused in lists {
        let check = Action::Check {
            round,
            held: None,
            refused,
        };
        assert!(
            matches!(w.say(0, check.clone()), Err(Refusal::CheckList(_))),
            "{check:?}"
        );
    }
    w.check(0, &[(1, CheckReason::Malformed)]).unwrap();
}

#[test]
fn checkpoints_are_recorded_by_a_quorum() {
    let mut w = World::new(4);
    w.join_all();
    w.round(&[0, 1, 2, 3], 1);
    let say = |manifest| Action::Checkpoint {
        round: Round(1),
        manifest,
        held_out: MicroNats(7),
    };
    assert_eq!(w.say(0, say(Hash::ZERO)), Err(Refusal::NoCheckpointDue(Round(1))));
    w.round(&[0, 1, 2, 3], 2);
    w.say(3, say(Hash([66; 32]))).unwrap();
    (0..3).for_each(|who| w.say(who, say(Hash::ZERO)).unwrap());
    let recorded = w.state.core().checkpoint.as_ref().unwrap();
    assert_eq!((recorded.recorded, recorded.theta), (Some(Hash::ZERO), Hash([2; 32])));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Any script of statements: the ledger never panics, who drafts and who applies agree, a merge
    /// holds only what was revealed, and replaying the blocks gives the same root.
    #[test]
    fn any_script_replays_to_the_same_root(script in prop::collection::vec((0usize..4, 0u8..9, any::<u8>()), 1..60)) {
        let mut w = World::new(4);
        let first = w.state.clone();
        w.join_all();
        let mut blocks = vec![];
        for (who, what, arg) in script {
            let transaction = match what {
                0 => { let (genesis, peer, round) = (w.state.core().genesis, w.peer(who), w.state.round().number);
                       Some(Action::Commit { round, commitment: commitment(&genesis, &peer, round, &World::blob(who)) }) }
                1 => Some(Action::Reveal(w.reveal_of(who))),
                2 => Some(Action::Check { round: w.state.round().number, held: None, refused: vec![] }),
                3 => Some(Action::MergeRoot { round: w.state.round().number, theta: Hash([arg % 2; 32]), momentum: None, judgement: Judgement::NONE }),
                4 => Some(Action::Leave { sequence: 1 }),
                5 => Some(Action::Join { sequence: u32::from(arg % 3) }),
                6 => Some(Action::Reveal(Reveal { blob: Hash([arg; 32]), ..w.reveal_of(who) })),
                _ => None,
            };
            w.now += u64::from(arg) * 100;
            let drafted = w.state.draft(Millis(w.now), transaction.map(|action| w.sign(who, action)));
            let (block, drafted) = drafted.into_parts();
            let (next, _) = w.state.apply(&block).unwrap();
            prop_assert_eq!(&next, &*drafted);
            let round = next.round();
            prop_assert!(round.plan.iter().all(|entry| round.reveals[&entry.peer].reveal.blob == entry.blob));
            w.state = next;
            blocks.push(block);
        }
        let mut again = first;
        let mut join = World::new(4);
        join.join_all();
        again.clone_from(&join.state);
        for block in &blocks {
            again = again.apply(block).unwrap().0;
        }
        prop_assert_eq!(again.root(), w.state.root());
    }
}
