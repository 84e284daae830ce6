//! The node machine in small networks: what each trouble leads to, and what it costs.

use atoll_ledger::{Outcome, Standing};
use atoll_protocol::{CheckReason, Round, charter::Codec};
use atoll_simulator::{Deed, Event, Report, Scenario, run};

/// A network on good lines.
fn network(nodes: u32, rounds: u32) -> Scenario {
    let text = format!(
        "name = \"test\"\nabout = \"\"\nnodes = {nodes}\nrounds = {rounds}\n[rules]\ncheckpoint_every = 2\n\
         [link]\nlatency_ms = [1, 50]\n[learner]\nstep_ms = [300, 700]\n"
    );
    Scenario::from_toml(&text).unwrap()
}

fn with(mut scenario: Scenario, events: impl IntoIterator<Item = Event>) -> Scenario {
    scenario.events.extend(events);
    scenario
}

/// Runs to the end, where everything must hold.
fn well(scenario: &Scenario, seed: u64) -> Report {
    let report = run(scenario, seed);
    assert_eq!(
        report.violations,
        [],
        "{}, seed {seed}: {:?}",
        scenario.name,
        scenario.events
    );
    report
}

fn cut(node: u32, step: u32, effects: u32, away_ms: u64) -> Event {
    Event {
        step: Some(step),
        effects: Some(effects),
        ..Event::new(0.0, Deed::Cut, node, Some(away_ms as f64 / 1e3))
    }
}

fn dies(node: u32, step: u32) -> Event {
    Event {
        for_s: None,
        ..cut(node, step, 0, 0)
    }
}

#[test]
fn everybody_finishes_all_rounds_with_equal_roots() {
    for nodes in 1..=4 {
        let report = well(&network(nodes, 3), 1);
        assert!(
            report
                .records
                .iter()
                .all(|record| record.merged.len() == nodes as usize),
            "{nodes} nodes"
        );
        assert_eq!((report.closed(), report.checkpoints), (3, 2), "{nodes} nodes");
        assert!(
            (0..nodes).all(|node| report.wanted(node, "adopt") == 0),
            "{nodes} nodes"
        );
    }
}

/// Runs once for every step of node 0's machine, until a crash comes too late to happen.
fn crash_at_every_step(nodes: u32, effects: u32, away_ms: u64) -> u32 {
    for step in 0.. {
        let report = well(&with(network(nodes, 2), [cut(0, step, effects, away_ms)]), 1);
        if report.off.is_empty() {
            return step;
        }
        assert_eq!(report.records.len(), 2);
        if away_ms < 100 {
            let withheld = report.records.iter().any(|record| !record.withheld.is_empty());
            assert!(!withheld, "what it committed to is on its disk, step {step}");
        }
        if nodes == 4 {
            assert_eq!(report.closed(), 2, "the others close it, step {step}");
        }
    }
    0
}

#[test]
fn one_of_four_crashes_at_any_step_and_comes_back() {
    for effects in [0, 1, 2, u32::MAX] {
        for away_ms in [10, 3_000, 30_000] {
            assert!(crash_at_every_step(4, effects, away_ms) > 30);
        }
    }
}

#[test]
fn one_of_four_dies_at_any_step_and_the_others_go_on() {
    for step in 0.. {
        let report = well(&with(network(4, 4), [dies(0, step)]), 1);
        assert_eq!(report.closed(), 4, "step {step}");
        if report.off.is_empty() {
            assert!(step > 30);
            return;
        }
    }
}

#[test]
fn what_is_said_too_early_or_too_late_is_not_taken() {
    let hasty = well(&with(network(4, 3), [Event::in_round(Deed::Hasty, 1, 1)]), 1);
    assert!(hasty.records.iter().all(|record| record.merged.len() == 4));
    let tardy = well(&with(network(4, 4), [Event::in_round(Deed::Tardy, 1, 1)]), 1);
    assert_eq!(tardy.records[1].absent.len(), 1);
    assert_eq!(tardy.records[3].merged.len(), 4);
}

#[test]
fn one_alone_crashes_at_any_step_and_goes_on() {
    for effects in [0, 1, 2, u32::MAX] {
        assert!(crash_at_every_step(1, effects, 2_000) > 12);
    }
}

#[test]
fn all_crash_at_the_same_step_and_go_on() {
    for step in 0..60 {
        well(&with(network(4, 2), (0..4).map(|node| cut(node, step, 0, 5_000))), 3);
    }
}

#[test]
fn another_root_is_noticed_and_given_up() {
    let report = well(&with(network(4, 3), [Event::in_round(Deed::OtherRoot, 2, 0)]), 1);
    assert_eq!((report.wanted(2, "diverged"), report.wanted(2, "adopt")), (1, 1));
    assert_eq!(report.wanted(1, "diverged"), 0);
    assert_eq!(report.records[1].merged.len(), 4);
}

#[test]
fn a_contribution_that_nobody_can_use_is_refused_and_restored() {
    for (deed, reason) in [
        (Deed::Unserved, CheckReason::Missing),
        (Deed::Malformed, CheckReason::Malformed),
    ] {
        let report = well(&with(network(4, 3), [Event::in_round(deed, 3, 1)]), 1);
        let refused = &report.records[1].refused;
        assert_eq!(refused.iter().map(|entry| entry.reason).collect::<Vec<_>>(), [reason]);
        assert_eq!(report.records[1].merged.len(), 3);
        assert_eq!(report.wanted(3, "restore"), 1);
        assert_eq!(report.records[2].merged.len(), 4);
    }
}

#[test]
fn a_merge_that_fails_is_tried_again() {
    let fails = (1..4).map(|node| Event::in_round(Deed::MergeFails, node, 0));
    let report = well(&with(network(4, 2), fails), 1);
    assert_eq!(report.closed(), 2);
    assert_eq!((report.wanted(1, "merge-failed"), report.wanted(1, "merge")), (2, 4));
}

#[test]
fn a_slow_node_is_stopped_and_takes_part_when_it_can() {
    let slow = Event {
        factor: Some(60.0),
        ..Event::new(0.0, Deed::SlowTraining, 1, Some(4.5))
    };
    let report = well(&with(network(4, 4), [slow]), 1);
    assert_eq!((report.records[0].absent.len(), report.wanted(1, "abort")), (1, 1));
    assert_eq!(report.records[1].merged.len(), 4);
}

#[test]
fn training_that_ends_as_commitments_close_is_restored() {
    let mut slow = network(4, 2);
    slow.learner.step_ms = [300, 1_300];
    let restored = (0..60).map(|seed| well(&slow, seed));
    let restored: u32 = restored
        .map(|report| (0..4).map(|node| report.wanted(node, "restore")).sum::<u32>())
        .sum();
    assert!(restored > 0);
}

#[test]
fn a_slow_merge_is_not_called_another_root() {
    let mut slow = network(4, 5);
    slow.learner.merge_ms = [20, 30_000];
    for seed in 0..10 {
        let report = well(&slow, seed);
        assert_eq!(
            (0..4).map(|node| report.wanted(node, "diverged")).sum::<u32>(),
            0,
            "seed {seed}"
        );
    }
}

#[test]
fn who_was_away_for_long_takes_part_again() {
    let away = Event::new(6.0, Deed::Crash, 3, Some(25.0));
    let report = well(&with(network(4, 14), [away]), 1);
    let peer = &report.standings[&3];
    assert_eq!((peer.standing, peer.joins), (Standing::Active, 2));
    assert_eq!(report.records[13].merged.len(), 4);
    let missed = report.records.iter().filter(|record| record.merged.len() == 3).count();
    assert!((2..10).contains(&missed), "{missed}");
}

#[test]
fn who_leaves_is_gone_and_who_comes_back_joins_again() {
    let leave = Event::new(5.0, Deed::Leave, 0, Some(20.0));
    let report = well(&with(network(4, 14), [leave]), 1);
    assert!(
        report.records.iter().any(|record| record.roster.len() == 3),
        "it was not waited for"
    );
    assert_eq!(
        (report.standings[&0].standing, report.standings[&0].joins),
        (Standing::Active, 2)
    );
    assert_eq!(report.records[13].merged.len(), 4);
    let gone = Event::new(5.0, Deed::Leave, 0, None);
    let report = well(&with(network(4, 6), [gone]), 1);
    assert_eq!(report.standings[&0].standing, Standing::Left);
}

#[test]
fn who_leaves_before_its_join_is_final_does_not_take_part() {
    let leave = Event::new(0.55, Deed::Leave, 2, None);
    let report = well(&with(network(4, 3), [leave]), 1);
    assert_eq!(report.standings[&2].standing, Standing::Left);
    assert_eq!(report.records[2].roster.len(), 3);
}

#[test]
fn who_commits_twice_is_excluded_and_the_others_go_on() {
    let mut scenario = with(network(4, 4), [Event::in_round(Deed::Equivocate, 2, 1)]);
    scenario.hold.excluded = vec![2];
    let report = well(&scenario, 1);
    assert_eq!(report.standings[&2].standing, Standing::Excluded);
    assert!(
        report
            .records
            .iter()
            .all(|record| matches!(record.outcome, Outcome::Closed(_)))
    );
    assert_eq!(report.records[3].roster.len(), 3);
    assert_eq!(report.records[3].round, Round(3));
}

/// On lines over which contributions travel for about a round's training.
fn on_slow_lines(overlap: &str) -> Report {
    let mut scenario = network(4, 6);
    scenario.learner.width = 16;
    scenario.rules.inner_steps = 8;
    scenario.rules.overlap = overlap.into();
    (scenario.link.up_kbit, scenario.link.down_kbit) = ([10, 12], [10_000, 10_000]);
    well(&scenario, 3)
}

#[test]
fn steps_taken_ahead_shorten_rounds_and_still_learn() {
    let waiting = on_slow_lines("none");
    for overlap in ["steps", "eager", "round", "auto"] {
        let ahead = on_slow_lines(overlap);
        let [with, without] = [&ahead, &waiting].map(|report| report.virtual_time.0 as f64);
        assert!(with < 0.9 * without, "{overlap}: {with} and {without} µs");
        let [with, without] = [&ahead, &waiting].map(|report| report.losses.1 / report.losses.0);
        // a whole round's delay at a full outer rate costs much, and is known to
        let most = if overlap == "round" { 0.5 } else { 2.0 * without + 0.05 };
        assert!(with < most, "{overlap}: loss falls to {with}, waiting to {without}");
    }
}

#[test]
fn the_ledger_chooses_codecs_by_what_links_carry() {
    let codecs = |up_kbit: u64| {
        let mut scenario = network(4, 60);
        scenario.learner.width = 16;
        scenario.rules.codec = "auto".into();
        scenario.rules.inner_steps = 20;
        scenario.rules.deadlines_ms[2] = 20_000;
        scenario.link.up_kbit = [up_kbit, up_kbit];
        let report = well(&scenario, 1);
        report
            .records
            .iter()
            .map(|record| record.terms.codec.clone())
            .collect::<Vec<_>>()
    };
    let int4 = |codec: &Codec| matches!(codec, Codec::Int4 { .. });
    // links are known once contributions have travelled and the next ones tell of it
    assert!(codecs(100_000)[2..].iter().all(int4), "a fast link loses nothing");
    let slow = codecs(8);
    let kept = |codec: &Codec| match codec {
        Codec::Sparse { k, .. } => *k,
        _ => 4096,
    };
    assert!(kept(&slow[30]) <= 512, "{slow:?}");
    assert!(
        kept(&slow[59]) > kept(&slow[30]),
        "the end delivers what waited: {slow:?}"
    );
}

#[test]
fn phases_end_by_what_peers_need() {
    // A peer that serves its blob to nobody would hold up a check for most of its deadline.
    let length = |deviations: u32| {
        let mut scenario = network(5, 12);
        scenario.rules.deviations = deviations;
        scenario.rules.deadlines_ms = [5_000, 60_000, 60_000, 60_000, 60_000];
        scenario.hold.deadlines_per_round = 2.0;
        let hidden = Event::in_round(Deed::Unserved, 2, 8);
        well(&with(scenario, [hidden]), 1).virtual_time.0
    };
    let (fixed, adaptive) = (length(0), length(8));
    assert!(adaptive + 30_000_000 < fixed, "{adaptive} and {fixed} µs");
}
