//! Merged contributions are made again: who is asked, who decides, and what follows.

mod world;

use atoll_ledger::{Case, Event, Phase, Refusal, Standing};
use atoll_protocol::{
    Action, Audit, CheckReason, Finding, Hash, InnerSteps, Nano, Round, charter::Charter, transaction::States,
};
use world::World;

const ALL: [usize; 4] = [0, 1, 2, 3];
/// More than the tolerance, but not by so much that another machine could not pass it.
const NEARLY: u64 = 15_000_000;
const APART: Finding = Finding::Apart {
    billionths: 500_000_000,
};

fn everything(charter: &mut Charter) {
    charter.round.rounds = 40;
    charter.audit = Audit {
        share: Nano::ONE,
        window: 2,
        probation: 3,
        tolerance: Nano(10_000_000),
        ..Audit::NONE
    };
}

fn world() -> World {
    let mut world = World::under(4, everything);
    world.join_all();
    world
}

fn case(world: &World, round: u32, author: usize) -> Option<&Case> {
    world.state.core().audits.cases.get(&(Round(round), world.peer(author)))
}

fn verifier(world: &World, round: u32, author: usize) -> usize {
    world.who(&case(world, round, author).unwrap().verifier)
}

fn standing(world: &World, who: usize) -> Standing {
    world.state.core().peers[&world.peer(who)].standing
}

/// Accused in round 0, judged after round 1.
fn judged(author: usize, finding: Finding) -> (World, usize) {
    let mut world = world();
    world.round(&ALL, 1);
    let accuser = verifier(&world, 0, author);
    world.verdict(accuser, (Round(0), author), finding).unwrap();
    world.round(&ALL, 2);
    (world, accuser)
}

#[test]
fn whom_the_verifier_confirms_is_left_alone() {
    let mut world = world();
    world.round(&ALL, 1);
    for author in ALL {
        let verifier = verifier(&world, 0, author);
        assert_ne!(verifier, author);
        let other = ALL.into_iter().find(|other| *other != verifier).unwrap();
        let refused = world.verdict(other, (Round(0), author), Finding::Same);
        assert!(matches!(refused, Err(Refusal::NotAsked { .. })), "{refused:?}");
        let near = Finding::Apart { billionths: 10_000_000 };
        let finding = [Finding::Same, near][author % 2];
        world.verdict(verifier, (Round(0), author), finding).unwrap();
        assert!(case(&world, 0, author).is_none());
        let again = world.verdict(verifier, (Round(0), author), finding);
        assert!(matches!(again, Err(Refusal::NotAsked { .. })), "{again:?}");
    }
    assert!(ALL.iter().all(|who| standing(&world, *who) == Standing::Active));
}

#[test]
fn who_is_found_guilty_is_out_for_a_while_and_taken_out_of_the_parameters() {
    let (mut world, accuser) = judged(2, APART);
    let jury = case(&world, 0, 2).unwrap().jury.clone();
    assert_eq!(jury.iter().map(|peer| world.who(peer)).collect::<Vec<_>>(), [0, 1, 3]);
    world.verdict(accuser, (Round(0), 2), APART).unwrap();
    assert_eq!(standing(&world, 2), Standing::Active, "one of three is no quorum");
    let second = [0, 1, 3].into_iter().find(|who| *who != accuser).unwrap();
    world.verdict(second, (Round(0), 2), APART).unwrap();
    // it is round 2 now; three rounds of probation
    assert_eq!(standing(&world, 2), Standing::Suspended(Round(6)));
    let conviction = &world.state.core().audits.convictions[&world.peer(2)];
    assert_eq!((conviction.round, conviction.judged), (Round(0), world.peer(2)));
    assert_eq!(conviction.findings.len(), 2);
    assert!(
        case(&world, 1, 2).is_none(),
        "nothing of it needs to be looked at any more"
    );

    let culprit = world.peer(2);
    world.round(&[0, 1, 3], 3);
    let record = world.last_record().clone();
    let taken: Vec<_> = record
        .excisions
        .iter()
        .map(|out| (out.of.round.0, out.since.len()))
        .collect();
    assert_eq!(taken, [(0, 2), (1, 1)], "what it sent since stands on what it made up");
    assert!(record.excisions.iter().all(|out| out.peers == [culprit]));
    assert_eq!(record.excisions[0].since, [(None, InnerSteps(4)); 2]);
    let last = world.state.core().last_merge.clone().unwrap();
    assert_eq!(last.excisions, record.excisions, "who merges late takes it out too");
    let audits = &world.state.core().audits;
    assert!(audits.condemned.is_empty());
    assert_eq!(audits.merges[0].excised, [culprit]);
    world.round(&[0, 1, 3], 4);
    assert!(world.last_record().excisions.is_empty(), "once is enough");

    let early = world.say(2, Action::Join { sequence: 1 });
    assert!(
        matches!(early, Err(Refusal::Suspended { back: Round(6), .. })),
        "{early:?}"
    );
    world.round(&[0, 1, 3], 5);
    world.round(&[0, 1, 3], 6);
    world.say(2, Action::Join { sequence: 1 }).unwrap();
    assert_eq!(standing(&world, 2), Standing::Active);
}

/// Its author may have lost its power: what cannot be looked at is taken out, and it begins afresh.
#[test]
fn what_is_not_served_is_taken_out_and_its_author_stays() {
    for answers in [3, 2] {
        let (mut world, accuser) = judged(2, Finding::Missing);
        let others = [0, 1, 3].into_iter().filter(|who| *who != accuser);
        let jury = [accuser].into_iter().chain(others).take(answers);
        for who in jury.clone() {
            world.verdict(who, (Round(0), 2), Finding::Missing).unwrap();
        }
        let (two, before) = (world.peer(2), world.state.core().audits.clone());
        if answers < 3 {
            assert!(before.condemned.is_empty(), "the third may still find it");
            (3..5).for_each(|theta| world.round(&ALL, theta));
        }
        let audits = &world.state.core().audits;
        assert_eq!(audits.convictions[&two].findings.len(), answers);
        assert_eq!(audits.condemned.first(), Some(&(Round(0), two)), "{audits:?}");
        assert_eq!(standing(&world, 2), Standing::Active);
        let peer = &world.state.core().peers[&two];
        assert_eq!((peer.proven, peer.offences), (0, 0));
        assert!(!audits.works.contains_key(&two), "it must make a fresh start");
    }
}

/// Everything that a verifier passes is looked at once more here; where that was wrong, the first is guilty too.
#[test]
fn who_passes_what_is_wrong_is_guilty_where_another_looks() {
    for (found, expected) in [
        (APART, Standing::Suspended(Round(7))),
        (Finding::Apart { billionths: NEARLY }, Standing::Active),
    ] {
        let mut world = world();
        world.round(&ALL, 1);
        let first = verifier(&world, 0, 2);
        world.verdict(first, (Round(0), 2), Finding::Same).unwrap();
        world.round(&ALL, 2);
        let second = verifier(&world, 0, 2);
        assert!(second != first && second != 2);
        world.verdict(second, (Round(0), 2), found).unwrap();
        world.round(&ALL, 3);
        for who in [0, 1, 3] {
            let _ = world.verdict(who, (Round(0), 2), found); // the third comes too late
        }
        assert_eq!(standing(&world, 2), Standing::Suspended(Round(7)));
        assert_eq!(standing(&world, first), expected);
        assert!(case(&world, 0, 2).is_none());
    }
}

#[test]
fn where_no_quorum_agrees_nobody_is_guilty() {
    let (mut world, accuser) = judged(2, APART);
    let others: Vec<usize> = [0, 1, 3].into_iter().filter(|who| *who != accuser).collect();
    world.verdict(accuser, (Round(0), 2), APART).unwrap();
    world.verdict(others[0], (Round(0), 2), Finding::Same).unwrap();
    // two of three are a quorum here, and the third is silent
    (3..6).for_each(|theta| world.round(&ALL, theta));
    assert!(case(&world, 0, 2).is_none());
    assert!(
        [accuser, 2]
            .into_iter()
            .all(|who| standing(&world, who) == Standing::Active)
    );
    assert!(world.state.core().audits.condemned.is_empty());
    let _ = others[1];
}

/// A verdict while its next contribution is being merged: that one stands on the same state.
#[test]
fn what_is_under_way_is_taken_out_too() {
    let (mut world, accuser) = judged(2, APART);
    ALL.iter().for_each(|who| world.commit(*who).unwrap());
    ALL.iter().for_each(|who| world.reveal(*who).unwrap());
    ALL.iter().for_each(|who| world.check(*who, &[]).unwrap());
    assert_eq!(world.state.round().phase, Phase::Merge);
    let second = [0, 1, 3].into_iter().find(|who| *who != accuser).unwrap();
    for who in [accuser, second] {
        world.verdict(who, (Round(0), 2), APART).unwrap();
    }
    for who in [0, 1, 3] {
        let _ = world.root(who, 3); // the last comes too late
    }
    let culprit = world.peer(2);
    assert!(world.last_record().plan().iter().any(|entry| entry.peer == culprit));
    world.round(&[0, 1, 3], 4);
    let taken = world.last_record().excisions.iter().map(|out| out.of.round.0);
    assert_eq!(taken.collect::<Vec<_>>(), [0, 1, 2]);
}

/// What comes to light while it is out is of the same time.
#[test]
fn who_is_out_already_is_not_found_guilty_twice() {
    let (mut world, accuser) = judged(2, APART);
    let other = [0, 1, 3].into_iter().find(|who| *who != accuser).unwrap();
    // the accuser of one is itself accused by a second for what it sent
    let against = verifier(&world, 0, accuser);
    world.verdict(against, (Round(0), accuser), APART).unwrap();
    for who in [0, 1, 3] {
        let _ = world.verdict(who, (Round(0), 2), Finding::Same);
    }
    let _ = other;
    let barred = standing(&world, accuser);
    (3..5).for_each(|theta| {
        let active: Vec<usize> = ALL
            .into_iter()
            .filter(|who| standing(&world, *who) == Standing::Active)
            .collect();
        world.round(&active, theta);
    });
    assert_eq!(world.state.core().peers[&world.peer(accuser)].offences, 1);
    assert_eq!(standing(&world, accuser), barred);
}

#[test]
fn the_second_time_is_for_good() {
    let (mut world, _) = judged(2, APART);
    let guilty = |world: &mut World, round| {
        for who in [0, 1, 3] {
            let _ = world.verdict(who, (Round(round), 2), APART); // the third comes too late
        }
    };
    guilty(&mut world, 0);
    (3..7).for_each(|theta| world.round(&[0, 1, 3], theta));
    world.say(2, Action::Join { sequence: 1 }).unwrap();
    world.round(&[0, 1, 3], 7); // its roster was fixed before
    let again = world.state.round().number;
    world.round(&ALL, 8);
    let accuser = verifier(&world, again.0, 2);
    world.verdict(accuser, (again, 2), Finding::Missing).unwrap();
    world.round(&ALL, 9);
    guilty(&mut world, again.0);
    assert_eq!(standing(&world, 2), Standing::Excluded);
    assert!(matches!(
        world.say(2, Action::Join { sequence: 2 }),
        Err(Refusal::Excluded(_))
    ));
}

#[test]
fn who_accuses_wrongly_is_guilty_unless_it_only_missed_something() {
    for (finding, expected) in [
        (APART, Standing::Suspended(Round(6))),
        (Finding::Missing, Standing::Active),
    ] {
        let (mut world, accuser) = judged(2, finding);
        let honest = [0, 1, 3].into_iter().filter(|who| *who != accuser);
        for who in honest {
            world.verdict(who, (Round(0), 2), Finding::Same).unwrap();
        }
        assert_eq!(standing(&world, 2), Standing::Active);
        assert_eq!(standing(&world, accuser), expected);
        assert!(world.state.core().audits.condemned.is_empty());
        let acquitted = |event: &Event| matches!(event, Event::Acquitted { round: Round(0), .. });
        assert!(world.events.iter().any(acquitted));
        let unfounded = world.state.core().peers[&world.peer(accuser)].unfounded;
        assert_eq!(unfounded, u32::from(finding == Finding::Missing));
    }
}

#[test]
fn what_nobody_looks_at_is_given_to_another_and_lapses_then() {
    let mut world = world();
    (1..=2).for_each(|theta| world.round(&ALL, theta));
    let first = verifier(&world, 0, 0);
    world.round(&ALL, 3);
    assert_ne!(verifier(&world, 0, 0), first, "its silence covers nobody");
    (4..=5).for_each(|theta| world.round(&ALL, theta));
    assert!(case(&world, 0, 0).is_none());
    let lapsed = |event: &&Event| matches!(event, Event::AuditLapsed { round: Round(0), .. });
    assert_eq!(world.events.iter().filter(lapsed).count(), 8);
    assert_eq!(
        world.state.core().audits.cases.len(),
        16,
        "no more than the window holds, twice"
    );
    (6..20).for_each(|theta| world.round(&ALL, theta));
    assert_eq!(world.state.core().audits.merges.len(), 9);
}

#[test]
fn what_cannot_be_taken_out_in_time_holds_nothing_up() {
    let (mut world, _) = judged(2, APART);
    for who in [0, 1, 3] {
        let _ = world.verdict(who, (Round(0), 2), APART); // the third comes too late
    }
    assert!(!world.state.core().audits.condemned.is_empty());
    for _ in 0..9 {
        let round = world.state.round().number;
        [0, 1, 3].iter().for_each(|who| world.commit(*who).unwrap());
        if world.state.round().phase == Phase::Commit {
            world.wait(world::GRACE);
        }
        [0, 1, 3].iter().for_each(|who| world.reveal(*who).unwrap());
        [0, 1, 3].iter().for_each(|who| world.check(*who, &[]).unwrap());
        for who in [0, 1, 3] {
            let _ = world.root(who, 50 + who as u8); // the second may void it
        }
        assert_ne!(world.state.round().number, round);
    }
    let audits = &world.state.core().audits;
    assert!(audits.condemned.is_empty() && audits.merges.is_empty());
}

#[test]
fn a_share_is_drawn_and_all_of_a_newcomer() {
    let mut world = World::under(4, |charter| {
        everything(charter);
        charter.round.rounds = 100;
        charter.audit.share = Nano(125_000_000);
        charter.audit.newcomer = 2;
    });
    world.join_all();
    (0..100).for_each(|theta| world.round(&ALL, theta));
    let drawn = |rounds: std::ops::Range<u32>| {
        // nobody answers, so each is drawn again
        let of = |event: &Event| match event {
            Event::AuditDrawn { round, peer, .. } if rounds.contains(&round.0) => Some((*round, *peer)),
            _ => None,
        };
        let drawn: std::collections::BTreeSet<_> = world.events.iter().filter_map(of).collect();
        drawn.len()
    };
    assert_eq!(drawn(0..2), 8);
    let later = drawn(2..100);
    assert!(
        (25..=73).contains(&later),
        "{later} of 392: an eighth is 49, four deviations are 26"
    );
}

#[test]
fn with_fewer_than_four_nobody_is_judged() {
    let mut world = World::under(3, everything);
    world.join_all();
    world.round(&[0, 1, 2], 1);
    assert!(world.state.core().audits.cases.is_empty());
}

#[test]
fn a_state_follows_on_the_last_or_on_nothing() {
    let mut world = world();
    world.round(&ALL, 1);
    ALL.iter().for_each(|who| world.commit(*who).unwrap());
    let states = |opening, closing| States { opening, closing };
    let (last, new) = (world.closing[0], Hash([3; 32]));
    for (states, right) in [
        (states(Hash([4; 32]), new), false),
        (states(last, Hash::ZERO), false),
        (States::NONE, false),
        (states(Hash::ZERO, new), true),
    ] {
        let reveal = atoll_protocol::transaction::Reveal {
            states,
            ..world.reveal_of(0)
        };
        let said = world.reveal_this(0, reveal);
        assert_eq!(said.is_ok(), right, "{states:?}");
        assert!(right || matches!(said, Err(Refusal::States { expected, .. }) if expected == last));
    }
    assert!(world.state.core().audits.works[&world.peer(0)].before.is_none());
    world.reveal(1).unwrap();
    assert!(world.state.core().audits.works[&world.peer(1)].before.is_some());
}

#[test]
fn without_audits_no_state_is_named_and_nothing_kept() {
    let mut world = World::new(4);
    world.join_all();
    ALL.iter().for_each(|who| world.commit(*who).unwrap());
    let mut reveal = world.reveal_of(0);
    reveal.states.closing = Hash([1; 32]);
    assert!(matches!(world.reveal_this(0, reveal), Err(Refusal::States { .. })));
    world.reveal(0).unwrap();
    assert_eq!(world.state.core().audits, Default::default());
}

#[test]
fn what_is_sent_again_after_a_void_round_is_the_same_work() {
    let mut world = world();
    world.round(&ALL, 1);
    ALL.iter().for_each(|who| world.commit(*who).unwrap());
    let sent = world.reveal_of(0);
    ALL.iter().for_each(|who| world.reveal(*who).unwrap());
    ALL.iter().for_each(|who| world.check(*who, &[]).unwrap());
    (0..3).for_each(|who| world.root(who, 10 + who as u8).unwrap());
    assert_eq!(world.state.round().number, Round(2), "the roots differ");
    ALL.iter().for_each(|who| world.commit(*who).unwrap());
    let again = atoll_protocol::transaction::Reveal {
        round: Round(2),
        ..sent.clone()
    };
    let mut other = again.clone();
    other.states.closing = Hash([9; 32]);
    assert!(world.reveal_this(0, other).is_err());
    world.reveal_this(0, again).unwrap();
    let worked = world.state.core().audits.works[&world.peer(0)].clone();
    assert_eq!(worked.last.reveal.round, Round(2));
    let assigned = worked.last.assigned.unwrap();
    let void = world.events.iter().find_map(|event| match event {
        Event::RoundOpened {
            round: Round(1),
            beacon,
            ..
        } => Some(*beacon),
        _ => None,
    });
    assert_eq!(
        Some(assigned.share.beacon),
        void,
        "the rows are those of the void round"
    );
    assert_eq!(worked.before.unwrap().reveal.trained, Round(0));
}

/// What nobody can read, or is older than what must be kept, nobody could follow: its author goes on from nothing.
#[test]
fn whose_work_cannot_be_followed_starts_afresh() {
    let standing_on = |world: &World, who: usize, opening: Hash| {
        let mut reveal = world.reveal_of(who);
        reveal.states.opening = opening;
        reveal
    };
    let malformed = |world: &mut World| {
        ALL.iter().for_each(|who| world.commit(*who).unwrap());
        ALL.iter().for_each(|who| world.reveal(*who).unwrap());
        ALL.iter()
            .for_each(|who| world.check(*who, &[(2, CheckReason::Malformed)]).unwrap());
        let number = world.state.round().number;
        for who in ALL {
            if world.state.round().number == number {
                world.root(who, 2).unwrap();
            }
        }
    };
    let one_says_so = |world: &mut World| {
        ALL.iter().for_each(|who| world.commit(*who).unwrap());
        ALL.iter().for_each(|who| world.reveal(*who).unwrap());
        world.check(0, &[]).unwrap();
        world.check(1, &[(2, CheckReason::Malformed)]).unwrap();
        world.check(2, &[]).unwrap();
        world.wait(100_000); // the fourth is late, and three less one are no quorum
        let number = world.state.round().number;
        for who in ALL {
            if world.state.round().number == number {
                world.root(who, 2).unwrap();
            }
        }
        assert_eq!(world.last_record().refused.len(), 1);
    };
    let away = |world: &mut World| (2..5).for_each(|theta| world.round(&[0, 1, 3], theta));
    let missing: fn(&mut World) = |world| world.round(&[0, 1, 3], 2);
    type Happens<'a> = &'a dyn Fn(&mut World);
    let table: [(Happens<'_>, bool); 4] = [
        (&malformed, true),
        (&one_says_so, false),
        (&away, true),
        (&missing, false),
    ];
    for (index, (happens, afresh)) in table.into_iter().enumerate() {
        let mut world = world();
        world.round(&ALL, 1);
        let before = world.closing[2];
        happens(&mut world);
        let two = world.peer(2);
        if standing(&world, 2) != Standing::Active {
            world.say(2, Action::Join { sequence: 1 }).unwrap();
            world.round(&[0, 1, 3], 9);
        }
        assert_eq!(world.state.followed(&two).is_none(), afresh, "{index}");
        ALL.iter().for_each(|who| world.commit(*who).unwrap());
        let last = if index < 2 { world.closing[2] } else { before };
        let follows = standing_on(&world, 2, last);
        let said = world.reveal_this(2, follows);
        assert_eq!(said.is_err(), afresh, "{index}: {said:?}");
        if afresh {
            let afresh = standing_on(&world, 2, Hash::ZERO);
            world.reveal_this(2, afresh).unwrap();
        }
    }
}
