//! What a seed makes of a scenario: the nodes' places, and every event with its time and its nodes.

use super::{Deed, Event, Profile, Range, Scenario};
use crate::{clock::Micros, random::Random};

/// What draws are for.
const PROFILE: u64 = 1;
const SHARE: u64 = 2;
const CHURN: u64 = 3;
const STORM: u64 = 4;

impl Scenario {
    /// The same scenario with everything drawn that it leaves to chance but the profiles.
    pub fn settled(&self, seed: u64) -> Self {
        let mut settled = self.clone();
        for (number, event) in settled.events.iter_mut().enumerate() {
            if let Some(share) = event.share.take() {
                let count = (f64::from(self.nodes) * share).round() as u32;
                event.who = Random::of(seed, &[SHARE, number as u64]).some_of(self.nodes, count);
            }
        }
        settled.events.retain(|event| !event.who.is_empty());
        (0..self.nodes).for_each(|node| {
            settled.events.extend(self.churn_of(node, seed));
            settled.events.extend(self.storm_of(node, seed));
        });
        settled.hold.excluded.sort_unstable();
        settled.hold.excluded.dedup();
        settled.hold.convicted.sort_unstable();
        settled.hold.convicted.dedup();
        settled.churn = None;
        settled.storm = None;
        settled
    }

    /// A node that comes and goes: away for `share` of the time, on average.
    fn churn_of(&self, node: u32, seed: u64) -> Vec<Event> {
        let Some(churn) = self.churn.as_ref().filter(|churn| churn.share > 0.0) else {
            return Vec::new();
        };
        let mut random = Random::of(seed, &[CHURN, node.into()]);
        let (mut events, until) = (Vec::new(), churn.until_s as f64);
        let mut at = 0.0;
        loop {
            let away = drawn(&mut random, churn.stay_s) as f64;
            let here = away * (1.0 - churn.share) / churn.share * (0.5 + random.unit());
            at += here;
            if at + away > until {
                return events;
            }
            let announced = random.chance(churn.announced);
            let deed = if announced { Deed::Leave } else { Deed::Crash };
            events.push(Event::new(rounded(at), deed, node, Some(away)));
            at += away;
        }
    }

    fn storm_of(&self, node: u32, seed: u64) -> Vec<Event> {
        let Some(storm) = &self.storm else {
            return Vec::new();
        };
        let mut random = Random::of(seed, &[STORM, node.into()]);
        let crashes = random.within(0, storm.crashes.into());
        let cut = |_| {
            let away = drawn(&mut random, storm.away_ms) as f64 / 1e3;
            Event {
                step: Some(random.below(storm.steps.into()) as u32),
                effects: Some(random.below(5) as u32),
                ..Event::new(0.0, Deed::Cut, node, Some(away))
            }
        };
        (0..crashes).map(cut).collect()
    }

    /// Where node `node` stands in the world.
    pub fn profile(&self, node: u32, seed: u64) -> Profile {
        let mut random = Random::of(seed, &[PROFILE, node.into()]);
        let mut ms = |range| Micros::ms(drawn(&mut random, range));
        let (latency, sync) = (ms(self.link.latency_ms), ms(self.disk.sync_ms));
        let (step, merge) = (ms(self.learner.step_ms), ms(self.learner.merge_ms));
        let skew = self.clock.skew_ms;
        Profile {
            latency,
            up: drawn(&mut random, self.link.up_kbit) * 125,
            down: drawn(&mut random, self.link.down_kbit) * 125,
            sync,
            write: drawn(&mut random, self.disk.write_kb_s) * 1_000,
            skew_ms: random.within(0, 2 * skew) as i64 - skew as i64,
            step,
            merge,
        }
    }
}

fn drawn(random: &mut Random, [low, high]: Range) -> u64 {
    random.within(low, high)
}

/// To a millisecond, so that a written scenario reads well.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

impl Event {
    /// Something that happens to one node.
    pub fn new(at_s: f64, deed: Deed, node: u32, for_s: Option<f64>) -> Self {
        Self {
            at_s,
            deed,
            who: vec![node],
            share: None,
            for_s,
            factor: None,
            round: None,
            step: None,
            effects: None,
            liar: None,
        }
    }

    /// A fault of one node in one round.
    pub fn in_round(deed: Deed, node: u32, round: u32) -> Self {
        Self {
            round: Some(round),
            ..Self::new(0.0, deed, node, None)
        }
    }

    /// When.
    pub(crate) fn at(&self) -> Micros {
        Micros((self.at_s * 1e6) as u64)
    }

    /// For how long, if not for good.
    pub(crate) fn length(&self) -> Option<Micros> {
        self.for_s.map(|seconds| Micros((seconds * 1e6) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Churn;

    #[test]
    fn churn_keeps_its_share_and_nobody_leaves_twice() {
        let text = "name = \"x\"\nabout = \"\"\nnodes = 50\nrounds = 3\n";
        let mut scenario = Scenario::from_toml(text).unwrap();
        scenario.churn = Some(Churn {
            share: 0.2,
            stay_s: [10, 60],
            until_s: 10_000,
            announced: 0.5,
        });
        let settled = scenario.settled(5);
        let away: f64 = settled.events.iter().filter_map(|event| event.for_s).sum();
        let share = away / (50.0 * 10_000.0);
        assert!((0.17..0.23).contains(&share), "{share}");
        for node in 0..50 {
            let mut end = 0.0;
            for event in settled.events.iter().filter(|event| event.who == [node]) {
                assert!(event.at_s >= end - 0.001);
                end = event.at_s + event.for_s.unwrap();
            }
        }
        assert_ne!(settled, scenario.settled(6));
        assert_eq!(settled.settled(6), settled, "nothing is left to chance");
    }
}
