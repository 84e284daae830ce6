//! A scenario that is all chance: sizes, rules, lines, disks, clocks, leaders, and a timeline of trouble.
//! What no one thought of is found here first.

use super::{
    Audit, Churn, Clock, Deed, Disk, Event, Hold, Learner, Line, Order, Rules, Scenario, Score, Storm,
    default_virtual_s_max,
};
use crate::random::Random;
use atoll_outer::attack::Liar;

/// What draws are for.
const WILD: u64 = 5;

impl Scenario {
    /// The scenario of chance for this seed.
    pub fn wild(seed: u64) -> Self {
        let mut random = Random::of(seed, &[WILD]);
        let random = &mut random;
        let nodes = random.within(1, 11) as u32;
        let mut scenario = Self {
            name: "wild".into(),
            about: "All chance: sizes, rules, lines, disks, clocks, leaders and a timeline of trouble.".into(),
            nodes,
            rounds: random.within(2, 12) as u32,
            virtual_s_max: default_virtual_s_max(),
            rules: rules(random),
            learner: Learner {
                width: 4,
                noise: 0.05,
                step_ms: range(random, 50, 3_000),
                merge_ms: range(random, 5, 3_000),
                apart: 0.0,
            },
            link: line(random),
            disk: Disk {
                sync_ms: range(random, 0, 60),
                write_kb_s: range(random, 500, 500_000),
            },
            clock: Clock {
                skew_ms: often(random, 900),
            },
            order: Order {
                leader_timeout_ms: random.within(500, 3_000),
                delay_ms: often(random, 2_000),
                omit: share(random, 0.5),
                silent: share(random, 0.3),
            },
            churn: None,
            storm: None,
            events: Vec::new(),
            hold: Hold {
                deadlines_per_round: 2.0,
                loss_share_max: 1e9, // after void rounds a step can be many times too long
                ..Hold::default()
            },
        };
        scenario.trouble(random);
        scenario
    }

    fn trouble(&mut self, random: &mut Random) {
        if random.chance(0.3) {
            self.churn = Some(Churn {
                share: 0.05 + 0.25 * random.unit(),
                stay_s: range(random, 1, 90),
                until_s: random.within(30, 400),
                announced: random.unit(),
            });
        }
        if random.chance(0.5) {
            self.storm = Some(Storm {
                crashes: random.within(1, 5) as u32,
                steps: random.within(10, 800) as u32,
                away_ms: range(random, 1, 60_000),
            });
        }
        for _ in 0..random.below(7) {
            let event = self.event(random);
            self.events.push(event);
        }
        if random.chance(0.4) {
            self.audits(random);
        }
        // as many as may be missing for good
        let liars = self.events.iter().filter(|event| event.deed == Deed::Lie).count() as u32;
        let deaths = random.below(u64::from(((self.nodes - 1) / 3).saturating_sub(liars)) + 1) as u32;
        for node in random.some_of(self.nodes, deaths) {
            self.events
                .push(Event::new(random.below(150) as f64, Deed::Crash, node, None));
        }
    }

    /// Contributions are judged and made again, and some may lie.
    fn audits(&mut self, random: &mut Random) {
        let window = random.within(1, 4) as u32;
        self.rules.retention = if random.chance(0.5) { 0 } else { 5 * window + 2 };
        self.rules.audit = Audit {
            share: random.unit(),
            newcomer: random.below(4) as u32,
            window,
            probation: random.within(1, 8) as u32,
            tolerance: if random.chance(0.5) { 0.0 } else { 0.1 * random.unit() },
        };
        // what two machines come to lies some one and a half times as far apart, and so does what they send
        self.learner.apart = 0.1 * self.rules.audit.tolerance;
        self.rules.score = Score {
            share: if random.chance(0.5) { random.unit() } else { 0.0 },
            scorers: random.within(1, 5) as u32,
            ..Score::default()
        };
        let rules = ["", "mean gates", "geometric-median clip gates", "krum gates"];
        self.rules.robust = rules[random.below(4) as usize].into();
        let most = u64::from((self.nodes - 1) / 3);
        let liars = random.below(most + 1) as u32;
        for node in random.some_of(self.nodes, liars) {
            let liar = Liar::ALL[random.below(Liar::ALL.len() as u64) as usize];
            let (at_s, for_s) = (random.below(60) as f64, 5.0 + 100.0 * random.unit());
            self.events.push(Event {
                liar: Some(liar),
                ..Event::new(at_s, Deed::Lie, node, random.chance(0.5).then_some(for_s))
            });
        }
    }

    fn event(&self, random: &mut Random) -> Event {
        let at_s = random.below(200) as f64;
        let node = random.below(self.nodes.into()) as u32;
        let for_s = 0.5 + 60.0 * random.unit();
        let round = random.below(self.rounds.into()) as u32;
        let some = |random: &mut Random| {
            let count = random.within(1, self.nodes.into()) as u32;
            random.some_of(self.nodes, count)
        };
        let kind = random.below(11);
        let slow = [Deed::SlowTraining, Deed::SlowLink, Deed::SlowDisk];
        let of_a_round = [
            Deed::Unserved,
            Deed::Malformed,
            Deed::OtherRoot,
            Deed::MergeFails,
            Deed::Hasty,
            Deed::Tardy,
        ];
        match kind {
            0..=2 => Event {
                who: some(random),
                ..Event::new(at_s, Deed::Crash, node, Some(for_s))
            },
            3 | 4 => Event {
                who: some(random),
                ..Event::new(at_s, Deed::Partition, node, Some(for_s))
            },
            5 => Event::new(at_s, Deed::Leave, node, Some(for_s + 10.0)),
            6 => Event::new(at_s, Deed::Late, node, None),
            7 | 8 => Event {
                factor: Some(1.0 + 40.0 * random.unit()),
                ..Event::new(at_s, slow[random.below(3) as usize], node, Some(for_s))
            },
            _ => match of_a_round[random.below(6) as usize] {
                // More liars than a third can close a round; so it is meant.
                Deed::OtherRoot | Deed::Hasty if node >= (self.nodes - 1) / 3 => {
                    Event::in_round(Deed::MergeFails, node, round)
                }
                deed => Event::in_round(deed, node, round),
            },
        }
    }
}

fn rules(random: &mut Random) -> Rules {
    let mut one_of = |words: &[&str]| words[random.below(words.len() as u64) as usize].to_string();
    let codec = one_of(&["int4", "sparse", "dense", "int8", "auto"]);
    let overlap = one_of(&["none", "steps", "eager", "round", "auto"]);
    let outer = one_of(&["sgd", "nesterov"]);
    Rules {
        inner_steps: random.within(1, 6) as u32,
        codec,
        overlap,
        outer,
        outer_warmup: often(random, 5) as u32,
        retention: random.within(0, 4) as u32,
        checkpoint_every: random.within(1, 6) as u32,
        absent_max: random.within(1, 4) as u32,
        deadlines_ms: [
            random.within(2_000, 6_000),
            random.within(2_000, 10_000),
            random.within(2_000, 20_000),
            random.within(2_000, 20_000),
            random.within(5_000, 60_000),
        ],
        deviations: often(random, 12) as u32,
        ..Rules::default()
    }
}

fn line(random: &mut Random) -> Line {
    Line {
        latency_ms: range(random, 1, 400),
        jitter_ms: often(random, 500),
        up_kbit: range(random, 50, 100_000),
        down_kbit: range(random, 50, 500_000),
        loss: share(random, 0.2),
        duplicate: share(random, 0.3),
    }
}

fn range(random: &mut Random, low: u64, high: u64) -> [u64; 2] {
    let (a, b) = (random.within(low, high), random.within(low, high));
    [a.min(b), a.max(b)]
}

/// Nothing half of the time, else up to `most`.
fn often(random: &mut Random, most: u64) -> u64 {
    if random.chance(0.5) { random.below(most + 1) } else { 0 }
}

fn share(random: &mut Random, most: f64) -> f64 {
    if random.chance(0.5) { most * random.unit() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_gives_a_valid_scenario_and_all_kinds_of_trouble_come() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let scenario = Scenario::wild(seed);
            assert_eq!(scenario.check(), Ok(()), "seed {seed}");
            assert_eq!(scenario, Scenario::wild(seed));
            kinds.extend(scenario.settled(seed).events.iter().map(|event| event.deed));
        }
        assert_eq!(kinds.len(), 15, "{kinds:?}");
    }
}
