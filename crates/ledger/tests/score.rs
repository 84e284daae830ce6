//! What contributions do to the loss: who is asked, who decides, and what follows. And what the guilty may say.

mod world;

use atoll_ledger::{Event, Refusal, Scoring, Stage, Standing, Tally};
use atoll_protocol::{Action, Audit, Hash, LossChange, Nano, Round, Score, charter::Charter, limits::APPEAL_BYTES_MAX};
use world::World;

const ALL: [usize; 5] = [0, 1, 2, 3, 4];
const GOOD: LossChange = LossChange {
    own: -2_000,
    random: -1_000,
};
const HARM: LossChange = LossChange {
    own: -2_000,
    random: 5_001,
};

fn everything(charter: &mut Charter) {
    charter.round.rounds = 60;
    charter.audit = Audit {
        window: 2,
        probation: 3,
        ..Audit::NONE
    };
    charter.score = Score {
        share: Nano::ONE,
        ..Score::NONE
    };
}

fn world() -> World {
    let mut world = World::under(5, everything);
    world.join_all();
    world
}

fn case(world: &World, round: u32, author: usize) -> Option<&Scoring> {
    world.state.core().scores.cases.get(&(Round(round), world.peer(author)))
}

fn asked(world: &World, round: u32, author: usize) -> Vec<usize> {
    let case = case(world, round, author).unwrap();
    case.asked
        .iter()
        .filter(|peer| case.waits_for(peer))
        .map(|peer| world.who(peer))
        .collect()
}

fn said(world: &World, (round, author): (u32, usize), change: LossChange) -> Action {
    Action::Score {
        round: Round(round),
        peer: world.peer(author),
        beacon: case(world, round, author).map_or(Hash::ZERO, |case| case.beacon),
        change,
    }
}

fn score(world: &mut World, who: usize, of: (u32, usize), change: LossChange) -> Result<(), Refusal> {
    let said = said(world, of, change);
    world.say(who, said)
}

/// Everyone who is asked says the same.
fn all_say(world: &mut World, of: (u32, usize), change: LossChange) {
    for who in asked(world, of.0, of.1) {
        score(world, who, of, change).unwrap();
    }
}

fn scored(world: &World, author: usize) -> Vec<(Round, LossChange, usize, bool)> {
    let author = world.peer(author);
    let of_author = |event: &Event| match event {
        Event::Scored(scored) if scored.peer == author => {
            Some((scored.round, scored.change, scored.by, scored.harmful))
        }
        _ => None,
    };
    world.events.iter().filter_map(of_author).collect()
}

fn standing(world: &World, who: usize) -> Standing {
    world.state.core().peers[&world.peer(who)].standing
}

fn tally(world: &World, who: usize) -> Tally {
    let tallies = &world.state.core().scores.tallies;
    tallies.get(&world.peer(who)).cloned().unwrap_or_default()
}

/// Harm in `round`, on everybody's word: suspected first, taken out when a jury says so too.
fn harm(world: &mut World, round: u32, author: usize, theta: u8) {
    all_say(world, (round, author), HARM);
    assert_eq!(case(world, round, author).unwrap().stage, Stage::Suspected);
    let who: Vec<usize> = ALL
        .into_iter()
        .filter(|w| standing(world, *w) == Standing::Active)
        .collect();
    world.round(&who, theta);
    assert_eq!(case(world, round, author).unwrap().stage, Stage::Jury);
    all_say(world, (round, author), HARM);
    assert!(case(world, round, author).is_none());
}

#[test]
fn three_measure_and_their_median_counts() {
    let mut world = world();
    world.round(&ALL, 1);
    for author in ALL {
        let asked = asked(&world, 0, author);
        assert!(asked.len() == 3 && !asked.contains(&author), "{asked:?}");
        let case = case(&world, 0, author).unwrap();
        let ((own, step), (random, _)) = (case.own_rows(), case.random_rows());
        assert_eq!((own.beacon, own.replicas), (case.share.beacon, 5));
        assert!(step < 4 && random.beacon == case.beacon && random.beacon != own.beacon);
    }
    let three = asked(&world, 0, 2);
    let other = ALL.into_iter().find(|who| *who != 2 && !three.contains(who)).unwrap();
    for who in [2, other] {
        let refused = score(&mut world, who, (0, 2), GOOD);
        assert!(matches!(refused, Err(Refusal::NotAsked { .. })), "{refused:?}");
    }
    // one of three sees harm: that is not the median
    for (who, change) in three.iter().zip([HARM, GOOD, LossChange { own: -9, random: -9 }]) {
        score(&mut world, *who, (0, 2), change).unwrap();
    }
    let again = score(&mut world, three[0], (0, 2), GOOD);
    assert!(matches!(again, Err(Refusal::NotAsked { .. })), "{again:?}");
    let median = LossChange {
        own: -2_000,
        random: -9,
    };
    assert_eq!(scored(&world, 2), [(Round(0), median, 3, false)]);
    let seen = tally(&world, 2);
    assert_eq!((seen.count, seen.ahead_nano, seen.random_nano), (1, -1_991_000, -9_000));
    assert!(world.state.core().audits.condemned.is_empty());
}

#[test]
fn what_harms_is_taken_out_and_its_author_is_watched() {
    let mut world = world();
    world.round(&ALL, 1);
    harm(&mut world, 0, 2, 2);
    let two = world.peer(2);
    assert_eq!(world.state.core().audits.condemned, [(Round(0), two)]);
    assert_eq!(standing(&world, 2), Standing::Active, "once may be bad luck");
    assert!(tally(&world, 2).is_watched() && !tally(&world, 1).is_watched());
    let watched = Event::Watched { peer: two, on: true };
    assert!(world.events.contains(&watched));
    world.round(&ALL, 3);
    let taken: Vec<_> = world.last_record().excisions.iter().map(|out| out.of.round).collect();
    assert_eq!(taken, [Round(0)], "only what harmed");
    // the next is none: no longer watched
    all_say(&mut world, (1, 2), GOOD);
    assert!(!tally(&world, 2).is_watched());
    assert!(world.events.contains(&Event::Watched { peer: two, on: false }));
}

#[test]
fn who_harms_time_after_time_is_out_and_may_object() {
    let mut world = world();
    world.round(&ALL, 1);
    let early = world.say(
        2,
        Action::Appeal {
            round: Round(0),
            reason: "no".into(),
        },
    );
    assert!(matches!(early, Err(Refusal::NoVerdict { .. })), "{early:?}");
    for round in 0..4 {
        assert_eq!(standing(&world, 2), Standing::Active);
        harm(&mut world, round, 2, round as u8 + 2);
    }
    let back = Round(world.state.round().number.0 + 4);
    assert_eq!(standing(&world, 2), Standing::Suspended(back));
    let two = world.peer(2);
    let conviction = &world.state.core().audits.convictions[&two];
    assert_eq!((conviction.round, conviction.judged), (Round(3), two));
    assert!(conviction.findings.is_empty() && conviction.scores.len() == 4);
    assert!(conviction.scores.iter().all(|(_, change)| *change == HARM));
    assert_eq!(tally(&world, 2), Tally::default(), "it begins anew");

    let appeal = |round: u32, reason: &str| Action::Appeal {
        round: Round(round),
        reason: reason.into(),
    };
    for (action, who) in [(appeal(2, "no"), 2), (appeal(3, "no"), 1)] {
        let refused = world.say(who, action);
        assert!(matches!(refused, Err(Refusal::NoVerdict { .. })), "{refused:?}");
    }
    let escapes = "\u{1b}[2J".to_string(); // what is said is printed on terminals
    for reason in [
        String::new(),
        "x".repeat(APPEAL_BYTES_MAX + 1),
        escapes,
        "one\nnode-4 is out".into(),
    ] {
        let refused = world.say(2, appeal(3, &reason));
        assert!(matches!(refused, Err(Refusal::Reason { .. })), "{refused:?}");
    }
    world.say(2, appeal(3, "my rows are in another language")).unwrap();
    let said = &world.state.core().appeals[&two];
    assert_eq!(
        (said.round, said.judged, &said.reason[..]),
        (Round(3), two, "my rows are in another language")
    );
    let again = world.say(2, appeal(3, "and another thing"));
    assert!(matches!(again, Err(Refusal::NoVerdict { .. })), "{again:?}");
    let other = world.say(2, Action::Leave { sequence: 1 });
    assert!(
        matches!(other, Err(Refusal::Suspended { .. })),
        "nothing else is taken of it: {other:?}"
    );
}

/// Two of five cannot take out what an honest peer sent, though they are two of the first three. The jury begins anew.
#[test]
fn a_quorum_of_the_jury_decides() {
    for (fourth, harmful) in [(GOOD, false), (HARM, true)] {
        let mut world = world();
        world.round(&ALL, 1);
        for (who, change) in asked(&world, 0, 2).into_iter().zip([HARM, GOOD, HARM]) {
            score(&mut world, who, (0, 2), change).unwrap();
        }
        assert_eq!(case(&world, 0, 2).unwrap().stage, Stage::Suspected);
        let first = case(&world, 0, 2).unwrap().beacon;
        world.round(&ALL, 2);
        assert_ne!(case(&world, 0, 2).unwrap().beacon, first, "other rows");
        let jury = asked(&world, 0, 2);
        assert_eq!(jury.len(), 4);
        for (who, change) in jury.into_iter().zip([HARM, GOOD, HARM, fourth]) {
            score(&mut world, who, (0, 2), change).unwrap();
        }
        assert_eq!(scored(&world, 2), [(Round(0), HARM, 4, harmful)]);
        assert_eq!(!world.state.core().audits.condemned.is_empty(), harmful);
        assert_eq!(tally(&world, 2).harmful, u32::from(harmful));
    }
}

#[test]
fn who_is_silent_holds_nothing_up() {
    let mut world = world();
    world.round(&ALL, 1);
    let (one, two) = (asked(&world, 0, 1), asked(&world, 0, 2));
    score(&mut world, one[0], (0, 1), GOOD).unwrap();
    score(&mut world, two[0], (0, 2), HARM).unwrap();
    (2..4).for_each(|theta| world.round(&ALL, theta));
    assert_eq!(
        scored(&world, 1),
        [(Round(0), GOOD, 1, false)],
        "what was said by then counts"
    );
    assert_eq!(scored(&world, 3), [], "nothing was said");
    assert!(case(&world, 0, 3).is_none());
    let jury = case(&world, 0, 2).unwrap();
    assert_eq!((jury.stage, jury.asked.len()), (Stage::Jury, 4));
    (4..6).for_each(|theta| world.round(&ALL, theta));
    assert!(
        case(&world, 0, 2).is_none() && scored(&world, 2).is_empty(),
        "nobody of the jury said anything"
    );
}

/// Over many rounds contributions must help most where their author was to train.
#[test]
fn who_does_not_help_is_watched() {
    let table = [
        (GOOD, false),
        (
            LossChange {
                own: -1_000,
                random: -1_000,
            },
            true,
        ), // a copy, or noise that happens to help
        (
            LossChange {
                own: -1_001,
                random: -1_000,
            },
            false,
        ),
        (LossChange { own: -5, random: 3 }, false), // late in a run the honest are so
        (LossChange { own: 7, random: 3 }, true),
    ];
    for (change, expected) in table {
        let mut world = world();
        for round in 0..20u8 {
            world.round(&ALL, round + 1);
            assert!(!tally(&world, 2).is_watched(), "too early to say after {round}");
            all_say(&mut world, (round.into(), 2), change);
        }
        assert_eq!(tally(&world, 2).is_watched(), expected, "{change}");
        assert_eq!(standing(&world, 2), Standing::Active);
    }
}

#[test]
fn where_nothing_is_measured_nothing_is_kept() {
    let mut world = World::under(5, |charter| {
        everything(charter);
        charter.score = Score::NONE;
    });
    world.join_all();
    world.round(&ALL, 1);
    let core = world.state.core();
    assert!(core.scores.cases.is_empty() && core.audits.merges.is_empty());
    let refused = score(&mut world, 0, (0, 2), GOOD);
    assert!(matches!(refused, Err(Refusal::NotAsked { .. })), "{refused:?}");
}

/// What was signed about the first rows is no word about the jury's, whoever puts it into a block.
#[test]
fn a_first_statement_is_none_of_the_jury() {
    let mut world = world();
    world.round(&ALL, 1);
    let first = asked(&world, 0, 2);
    let statements: Vec<_> = first.iter().map(|who| (*who, said(&world, (0, 2), HARM))).collect();
    all_say(&mut world, (0, 2), HARM);
    world.round(&ALL, 2);
    assert_eq!(case(&world, 0, 2).unwrap().stage, Stage::Jury);
    for (who, statement) in statements {
        let refused = world.say(who, statement);
        assert!(matches!(refused, Err(Refusal::NotAsked { .. })), "{refused:?}");
    }
    all_say(&mut world, (0, 2), GOOD);
    assert_eq!(scored(&world, 2), [(Round(0), GOOD, 4, false)]);
}

/// Who answers in the last moment does not keep a jury away.
#[test]
fn a_late_word_saves_nothing() {
    for window in [1, 2, 4] {
        let mut world = World::under(5, |charter| {
            everything(charter);
            charter.audit.window = window;
        });
        world.join_all();
        world.round(&ALL, 1);
        let three = asked(&world, 0, 2);
        for who in &three[..2] {
            score(&mut world, *who, (0, 2), HARM).unwrap();
        }
        (1..window).for_each(|round| world.round(&ALL, round as u8 + 1));
        score(&mut world, three[2], (0, 2), GOOD).unwrap();
        world.round(&ALL, 9);
        assert_eq!(case(&world, 0, 2).unwrap().stage, Stage::Jury, "window {window}");
    }
}

/// What a void round left over is sent again, and measured like everything else.
#[test]
fn what_is_sent_again_is_measured() {
    let mut world = world();
    ALL.iter().for_each(|who| world.commit(*who).unwrap());
    let trained = world.state.round().number;
    world.wait(1_000_000); // nobody reveals
    assert_eq!(world.state.round().number, Round(1));
    ALL.iter().for_each(|who| world.commit(*who).unwrap());
    for who in ALL {
        let mut reveal = world.reveal_of(who);
        reveal.trained = if who == 4 { reveal.round } else { trained };
        world.reveal_this(who, reveal).unwrap();
    }
    ALL.iter().for_each(|who| world.check(*who, &[]).unwrap());
    for who in ALL {
        if world.state.round().number == Round(1) {
            world.root(who, 1).unwrap();
        }
    }
    let shares: Vec<Hash> = ALL
        .iter()
        .map(|who| case(&world, 1, *who).unwrap().share.beacon)
        .collect();
    assert!(
        shares[..4]
            .iter()
            .all(|beacon| *beacon == shares[0] && *beacon != shares[4])
    );
}

/// Where everybody harms nobody lies: what harms is taken out, and everybody stays.
#[test]
fn where_everybody_harms_nobody_is_out() {
    let mut world = world();
    for round in 0..9u8 {
        world.round(&ALL, round + 1);
        for author in ALL {
            all_say(&mut world, (round.into(), author), HARM);
        }
        if let Some(before) = round.checked_sub(1) {
            for author in ALL {
                all_say(&mut world, (before.into(), author), HARM);
            }
        }
    }
    assert!(ALL.iter().all(|who| standing(&world, *who) == Standing::Active));
    assert!(ALL.iter().all(|who| tally(&world, *who).harmful == 4));
    // all recover, some sooner than others: what is no harm puts out nobody
    for round in 9..16u8 {
        world.round(&ALL, round + 1);
        for author in ALL {
            if author != 2 || round > 12 {
                all_say(&mut world, (round.into(), author), GOOD);
            }
            if case(&world, 8, author).is_some() {
                all_say(&mut world, (8, author), GOOD);
            }
        }
    }
    assert!(ALL.iter().all(|who| standing(&world, *who) == Standing::Active));
}

/// One lie about a peer is soon forgotten, and one in its favour too.
#[test]
fn one_wild_figure_does_not_fill_an_average() {
    for (wild, usual, watched) in [
        (
            LossChange {
                own: i32::MAX,
                random: -1,
            },
            GOOD,
            false,
        ),
        (
            LossChange {
                own: i32::MIN,
                random: i32::MIN,
            },
            LossChange {
                own: 4_000,
                random: 4_000,
            },
            true,
        ),
    ] {
        let mut world = world();
        for round in 0..40u8 {
            world.round(&ALL, round + 1);
            all_say(&mut world, (round.into(), 2), if round == 3 { wild } else { usual });
        }
        assert_eq!(tally(&world, 2).is_watched(), watched, "{wild}");
    }
}
