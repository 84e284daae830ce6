//! A failing scenario made smaller: what can be left out without the failure is left out (delta debugging,
//! Zeller and Hildebrandt 2002, on events; then nodes, rounds and kinds of trouble).

use crate::scenario::Scenario;

/// A scenario that fails, and what it cost to get there.
#[derive(Debug, Clone, PartialEq)]
pub struct Shrunk {
    /// The smallest that was found.
    pub scenario: Scenario,
    /// Runs that were tried.
    pub tries: u32,
}

/// Makes `scenario`, which is settled and fails, smaller. `fails` says whether a scenario fails in the same
/// way. It is asked at most `tries_max` times.
pub fn shrink(scenario: &Scenario, tries_max: u32, fails: impl FnMut(&Scenario) -> bool) -> Shrunk {
    let mut search = Search {
        best: scenario.clone(),
        tries: 0,
        tries_max,
        fails,
    };
    loop {
        let before = search.best.clone();
        search.fewer_events();
        search.fewer_rounds();
        search.fewer_nodes();
        search.less_trouble();
        if search.best == before || search.tries >= tries_max {
            return Shrunk {
                scenario: search.best,
                tries: search.tries,
            };
        }
    }
}

struct Search<F> {
    best: Scenario,
    tries: u32,
    tries_max: u32,
    fails: F,
}

impl<F: FnMut(&Scenario) -> bool> Search<F> {
    /// Takes `smaller` if it is valid and still fails.
    fn accept(&mut self, smaller: Scenario) -> bool {
        if self.tries >= self.tries_max || smaller == self.best || smaller.check().is_err() {
            return false;
        }
        self.tries += 1;
        let fails = (self.fails)(&smaller);
        if fails {
            self.best = smaller;
        }
        fails
    }

    /// Leaves out events: halves first, then smaller and smaller pieces.
    fn fewer_events(&mut self) {
        let mut piece = self.best.events.len().div_ceil(2);
        while piece > 0 {
            let mut from = 0;
            while from < self.best.events.len() {
                let mut smaller = self.best.clone();
                let to = (from + piece).min(smaller.events.len());
                smaller.events.drain(from..to);
                if !self.accept(smaller) {
                    from += piece;
                }
            }
            piece /= 2;
        }
        for index in 0..self.best.events.len() {
            let mut place = 0;
            while self
                .best
                .events
                .get(index)
                .is_some_and(|event| event.who.len() > 1 && place < event.who.len())
            {
                let mut smaller = self.best.clone();
                smaller.events[index].who.remove(place);
                if !self.accept(smaller) {
                    place += 1;
                }
            }
        }
    }

    fn fewer_rounds(&mut self) {
        let (mut low, mut high) = (1, self.best.rounds);
        while low < high {
            let middle = low + (high - low) / 2;
            let smaller = Scenario {
                rounds: middle,
                ..self.best.clone()
            };
            match self.accept(smaller) {
                true => high = middle,
                false => low = middle + 1,
            }
        }
    }

    /// Takes away the last nodes, with everything that happens to them.
    fn fewer_nodes(&mut self) {
        for nodes in 1..self.best.nodes {
            let mut smaller = self.best.clone();
            smaller.nodes = nodes;
            smaller
                .events
                .iter_mut()
                .for_each(|event| event.who.retain(|who| *who < nodes));
            smaller.events.retain(|event| !event.who.is_empty());
            smaller.hold.excluded.retain(|who| *who < nodes);
            if self.accept(smaller) {
                return;
            }
        }
    }

    /// Good lines, exact clocks, patient leaders.
    fn less_trouble(&mut self) {
        type Mend = fn(&mut Scenario);
        let mends: [Mend; 8] = [
            |scenario| scenario.link.loss = 0.0,
            |scenario| scenario.link.duplicate = 0.0,
            |scenario| scenario.link.jitter_ms = 0,
            |scenario| scenario.clock.skew_ms = 0,
            |scenario| scenario.order.omit = 0.0,
            |scenario| scenario.order.silent = 0.0,
            |scenario| scenario.order.delay_ms = 0,
            |scenario| scenario.disk = crate::scenario::Disk::default(),
        ];
        for mend in mends {
            let mut smaller = self.best.clone();
            mend(&mut smaller);
            self.accept(smaller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::{Planted, run_planted},
        scenario::{Deed, Event},
    };

    fn scenario() -> Scenario {
        let text = "name = \"s\"\nabout = \"\"\nnodes = 6\nrounds = 9\n[link]\nloss = 0.1\n[clock]\nskew_ms = 200\n";
        let mut scenario = Scenario::from_toml(text).unwrap();
        let crash = |node: u32| Event::new(f64::from(node) * 3.0, Deed::Crash, node % 6, Some(5.0));
        scenario.events = (0..12).map(crash).collect();
        scenario
    }

    #[test]
    fn what_does_not_matter_is_left_out() {
        let fails = |scenario: &Scenario| {
            let crashes = scenario
                .events
                .iter()
                .filter(|event| event.who == [1] && event.deed == Deed::Crash);
            crashes.count() >= 2 && scenario.rounds >= 4
        };
        let shrunk = shrink(&scenario(), 1_000, fails);
        let Scenario {
            nodes,
            rounds,
            events,
            link,
            clock,
            ..
        } = shrunk.scenario;
        assert_eq!(
            (nodes, rounds, events.len(), link.loss, clock.skew_ms),
            (2, 4, 2, 0.0, 0)
        );
    }

    #[test]
    fn it_stops_when_it_may_try_no_more() {
        let mut asked = 0;
        let shrunk = shrink(&scenario(), 5, |_| {
            asked += 1;
            true
        });
        assert_eq!((shrunk.tries, asked), (5, 5));
    }

    /// The bug that is put in on purpose, found and made small.
    #[test]
    fn a_real_failure_keeps_failing() {
        let rule = |scenario: &Scenario| {
            let report = run_planted(scenario, 3, Planted { skip_restore: true });
            report.violations.first().map(|violation| violation.rule)
        };
        let mut whole = scenario();
        whole.events.push(Event::in_round(Deed::Unserved, 2, 3));
        assert_eq!(rule(&whole), Some("error-feedback"));
        let shrunk = shrink(&whole, 200, |smaller| rule(smaller) == Some("error-feedback"));
        assert!(shrunk.scenario.events.len() <= 2, "{:?}", shrunk.scenario.events);
        assert_eq!(rule(&shrunk.scenario), Some("error-feedback"));
    }
}
