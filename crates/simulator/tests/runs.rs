//! Whole runs with fixed seeds: every scenario holds, and the same seed and build give the same run.

use atoll_outer::attack::Liar;
use atoll_simulator::{Planted, Report, Scenario, Text, World, finish, run, run_planted};
use std::path::Path;

fn built_in(name: &str) -> Scenario {
    Scenario::from_toml(Scenario::built_in(name).unwrap()).unwrap()
}

fn holds(report: &Report) {
    let (name, seed) = (&report.scenario.name, report.seed);
    assert_eq!(report.violations, [], "atoll sim {name} --seed {seed}");
    assert_eq!(
        report.records.len(),
        report.scenario.rounds as usize,
        "{name}, seed {seed}"
    );
}

#[test]
fn every_scenario_holds_with_fixed_seeds() {
    for name in Scenario::names().filter(|name| !name.ends_with("-1000")) {
        let scenario = built_in(name);
        let seeds = if scenario.nodes > 16 { 3 } else { 12 };
        (1..=seeds).for_each(|seed| holds(&run(&scenario, seed)));
    }
}

/// The large network, but for fewer rounds.
#[test]
fn a_thousand_nodes_hold() {
    let mut scenario = built_in("thousand-1000");
    scenario.rounds = 2;
    scenario.events.clear();
    scenario.hold.loss_share_max = 0.5;
    let report = run(&scenario, 1);
    holds(&report);
    assert_eq!(report.merged_share, 1.0);
}

/// Contributions made again in a thousand honest rounds with churn: nobody is found guilty.
#[test]
fn nobody_honest_is_found_guilty_in_a_thousand_rounds() {
    let report = run(&built_in("honest-1000"), 1);
    holds(&report);
    assert_eq!(report.barred_honest(), [0u32; 0], "{:?}", report.convicted);
    assert_eq!(report.closed(), 1000);
}

/// Without anything made again: who harms is out for what it did to the loss, nobody honest for bad luck.
#[test]
fn who_does_harm_is_put_out_where_nothing_is_made_again() {
    for seed in 1..=3 {
        let report = run(&built_in("harm-8"), seed);
        holds(&report);
        assert_eq!(report.barred_honest(), [0u32; 0]);
        let honest = report.scores.iter().filter(|scored| ![2, 5].contains(&scored.node));
        assert!(honest.clone().count() > 50 && honest.clone().all(|scored| !scored.harmful));
    }
    let mut honest = built_in("harm-8");
    honest.events.clear();
    honest.hold.convicted.clear();
    (honest.rounds, honest.rules.score.share) = (200, 0.5);
    let report = run(&honest, 4);
    holds(&report);
    assert!(report.convicted.is_empty() && report.scores.len() > 600);
    assert!(report.scores.iter().all(|scored| !scored.harmful));
}

/// Every machine computes a little apart from every other: who lies is known all the same, and nobody else is.
#[test]
fn machines_that_compute_apart_are_no_liars() {
    for seed in 1..=3 {
        let report = run(&built_in("other-machines"), seed);
        holds(&report);
        assert_eq!(report.barred_honest(), [0u32; 0], "{:?}", report.convicted);
    }
}

/// Every liar alone among eight: whoever works otherwise than it says is known, and nobody else is barred.
#[test]
fn every_liar_is_known_for_what_it_does() {
    for liar in Liar::ALL {
        let mut scenario = built_in("gang-8");
        scenario.events.truncate(1);
        scenario.events[0].liar = Some(liar);
        scenario.hold.convicted.clear();
        scenario.hold.loss_share_max = 0.1;
        let report = run(&scenario, 5);
        holds(&report);
        assert_eq!(report.barred_honest(), [0u32; 0], "{liar}");
        let caught: Vec<u32> = report.caught().iter().map(|caught| caught.node).collect();
        // who does not verify harms nobody while nobody else lies
        let known = !matches!(liar, Liar::Blind);
        assert_eq!(caught == [2], known, "{liar}: {caught:?}");
    }
}

/// What was found once, made small, and mended: `tests/found/NAME-SEED.toml`.
#[test]
fn what_was_found_stays_mended() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/found");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let seed: u64 = stem.rsplit('-').next().unwrap().parse().unwrap();
        let scenario = Scenario::from_toml(&std::fs::read_to_string(&path).unwrap()).unwrap();
        holds(&run(&scenario, seed));
        count += 1;
    }
    assert!(count > 0);
}

/// A fixed set of networks of chance; other and more with `ATOLL_WILD=2000`.
#[test]
fn networks_of_chance_hold() {
    let wanted = std::env::var("ATOLL_WILD")
        .ok()
        .and_then(|wanted| wanted.parse::<u64>().ok());
    let first = wanted.map_or(0, |_| std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() << 16);
    for seed in first..first + wanted.unwrap_or(300) {
        holds(&run(&Scenario::wild(seed), seed));
    }
}

#[test]
fn the_same_seed_gives_the_same_run_on_any_number_of_threads() {
    for name in ["crash-storm", "slow-links", "late-joiners"] {
        let scenario = built_in(name);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(&scenario, 9).trace_hash)
        };
        let hashes = [on(1), on(2), on(7), run(&scenario, 9).trace_hash];
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{name}: {hashes:?}");
        assert_ne!(run(&scenario, 10).trace_hash, hashes[0], "{name}");
    }
}

#[test]
fn a_bug_that_is_put_in_on_purpose_is_found() {
    let planted = Planted { skip_restore: true };
    let found = (0..20).find_map(|seed| {
        run_planted(&Scenario::wild(seed), seed, planted)
            .violations
            .into_iter()
            .next()
    });
    assert_eq!(found.map(|violation| violation.rule), Some("error-feedback"));
}

/// The real learner in place of the toy: it learns, and everything holds.
#[test]
fn the_real_learner_learns_in_a_small_network() {
    let mut scenario = built_in("calm");
    scenario.rounds = 6;
    scenario.rules.inner_steps = 10;
    scenario.hold.loss_share_max = 0.9;
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let world = World::new(&scenario, 1, Box::new(Text::read(&text).unwrap())).unwrap();
    let report = finish(world, Planted::default(), |_| {});
    holds(&report);
    assert!(report.losses.1 < report.losses.0 - 0.5, "{:?}", report.losses);
    let again = World::new(&scenario, 1, Box::new(Text::read(&text).unwrap())).unwrap();
    assert_eq!(finish(again, Planted::default(), |_| {}).trace_hash, report.trace_hash);
}

/// What cannot hold is said, and a scenario that fails can be made smaller: on lines that carry nothing no
/// round closes.
#[test]
fn what_does_not_hold_is_named() {
    let mut scenario = built_in("slow-links");
    scenario.link.up_kbit = [1, 2];
    let report = run(&scenario, 1);
    assert_eq!(report.violations[0].rule, "hold", "{:?}", report.violations);
    scenario.hold.deadlines_per_round = 1.0;
    scenario.rules.deadlines_ms = [2_000, 2_000, 2_000, 2_000, 60_000];
    scenario.link.latency_ms = [50_000, 60_000];
    let report = run(&scenario, 1);
    assert_eq!(report.violations[0].rule, "stuck", "{:?}", report.violations);
}
