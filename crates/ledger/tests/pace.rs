//! Deadlines that follow what peers need: with honest peers, with liars, and when links change.

mod world;

use atoll_ledger::{Outcome, Phase};
use atoll_protocol::{CheckReason, Millis};
use world::World;

const PEERS: usize = 4;
const LONGEST: u64 = 60_000;

/// What one peer does in a round; times in milliseconds.
#[derive(Clone)]
struct Way {
    /// When it reveals, after commitments closed.
    reveals: u64,
    /// How long its blob travels to anybody; nothing if it serves nobody.
    travels: Option<u64>,
    /// How long it needs to fetch what travels.
    slower: u64,
    /// Refuses what all others sent, as fast as it can.
    refuses_all: bool,
    /// Posts a root of its own.
    other_root: bool,
    /// When it posts a root, after the merge opened; nothing if it fell silent after its reveal.
    merges: Option<u64>,
}

const HONEST: Way = Way {
    reveals: 200,
    travels: Some(4_000),
    slower: 0,
    refuses_all: false,
    other_root: false,
    merges: Some(1_000),
};

/// When a peer checks, which, what it refuses, and how long after commitments closed it held a quorum's.
type Word = (u64, usize, Vec<(usize, CheckReason)>, Option<Millis>);

/// What a round came to.
struct Seen {
    merged: Vec<usize>,
    closed: bool,
    /// How long the check phase took.
    checking: u64,
}

impl World {
    /// Waits until `at`, with a block at every deadline that comes before.
    fn wait_until(&mut self, at: u64) {
        while let Some(Millis(deadline)) = self.state.next_deadline().filter(|deadline| deadline.0 < at) {
            let length = deadline.saturating_sub(self.now).max(1);
            self.wait(length);
        }
        self.now = self.now.max(at.saturating_sub(1));
    }

    fn play(&mut self, ways: &[Way; PEERS], theta: u8) -> Seen {
        let round = self.state.round().number;
        let roster: Vec<usize> = (0..PEERS)
            .filter(|who| self.state.round().replica(&self.peer(*who)).is_some())
            .collect();
        roster.iter().for_each(|who| self.commit(*who).unwrap());
        let opened = self.state.round().since.0;
        let mut order = roster.clone();
        order.sort_by_key(|who| ways[*who].reveals);
        for who in order {
            self.wait_until(opened + ways[who].reveals);
            let _ = self.reveal(who); // it may be too late
        }
        assert_eq!(self.state.round().phase, Phase::Check);
        let began = self.state.round().since.0;
        let mut words = self.words(ways, opened);
        words.sort_by_key(|(at, ..)| *at);
        for (at, who, refused, held) in words {
            self.wait_until(at);
            if self.state.round().phase == Phase::Check && roster.contains(&who) {
                self.check_after(who, &refused, held).unwrap();
            }
        }
        self.wait_until(began + LONGEST + 1);
        if self.state.round().phase == Phase::Merge {
            let began = self.state.round().since.0;
            let mut roots: Vec<_> = roster
                .iter()
                .filter_map(|who| Some((ways[*who].merges?, *who)))
                .collect();
            roots.sort_unstable();
            for (after, who) in roots {
                self.wait_until(began + after);
                let root = if ways[who].other_root { 200 } else { theta };
                if self.state.round().number == round {
                    self.root(who, root).unwrap();
                }
            }
        }
        assert_ne!(self.state.round().number, round, "the round must end");
        let record = self.last_record();
        let merge_opened = self.opened.iter().find(|(of, _)| *of == round);
        Seen {
            merged: (0..PEERS)
                .filter(|who| record.merged.iter().any(|m| m.peer == self.peer(*who)))
                .collect(),
            closed: matches!(record.outcome, Outcome::Closed(_)),
            checking: merge_opened.map_or(LONGEST, |(_, at)| at - began),
        }
    }

    /// When each peer checks, and what it refuses: as `atoll-node` does, at once when it has everything; when
    /// three quarters of the usual time are over, if it has a quorum of blobs; or of the last.
    fn words(&self, ways: &[Way; PEERS], opened: u64) -> Vec<Word> {
        let (began, limits) = (self.state.round().since.0, self.state.limits().unwrap());
        let revealed: Vec<usize> = (0..PEERS)
            .filter(|of| self.state.round().reveals.contains_key(&self.peer(*of)))
            .collect();
        let word = |who: usize| {
            if ways[who].refuses_all {
                let others = revealed.iter().filter(|of| **of != who);
                let refused = others.map(|of| (*of, CheckReason::Malformed)).collect();
                return (began + 1, who, refused, Some(Millis(LONGEST))); // and says that links are slow
            }
            let arrives = |of: usize| match ways[of].travels {
                _ if of == who => Some(opened),
                Some(travels) => Some(opened + ways[of].reveals + travels + ways[who].slower),
                None => None,
            };
            let held = |at: u64| {
                revealed
                    .iter()
                    .filter(|of| arrives(**of).is_some_and(|there| there <= at))
                    .count()
            };
            let part = |end: u64| began + (end - began) / 4 * 3;
            let (usual, last) = (part(limits.usual.0), part(limits.last.0));
            let all = revealed
                .iter()
                .map(|of| arrives(*of))
                .max_by_key(|at| at.unwrap_or(u64::MAX));
            let quorum = self.state.charter().quorum(PEERS);
            let at = match all.flatten() {
                Some(all) if all <= usual => all.max(began + 1),
                _ if held(usual) >= quorum => usual,
                Some(all) if all <= last => all,
                _ => last,
            };
            let missing = revealed
                .iter()
                .filter(|of| arrives(**of).is_none_or(|there| there > at));
            let mut times: Vec<u64> = revealed.iter().filter_map(|of| arrives(*of)).collect();
            times.sort_unstable();
            let quorums = times.get(quorum - 1).filter(|there| **there <= at);
            let held = quorums.map(|there| Millis(there - opened));
            (at, who, missing.map(|of| (*of, CheckReason::Missing)).collect(), held)
        };
        (0..PEERS).filter(|who| ways[*who].merges.is_some()).map(word).collect()
    }
}

fn world() -> World {
    let mut world = World::under(PEERS, |charter| {
        charter.deadlines.deviations = 8;
        charter.deadlines.check = Millis(LONGEST);
        charter.deadlines.merge = Millis(LONGEST);
        charter.deadlines.reveal = Millis(20_000);
        charter.round.rounds = 60;
    });
    world.join_all();
    world
}

/// Some rounds of honest peers, then `ways` for as many rounds as are asked for.
fn after_honest_rounds(ways: [Way; PEERS], rounds: u8) -> Vec<Seen> {
    let mut world = world();
    let honest = [HONEST, HONEST, HONEST, HONEST];
    for theta in 0..5 {
        let seen = world.play(&honest, theta);
        assert_eq!((seen.closed, seen.merged.len()), (true, PEERS), "round {theta}");
    }
    (5..5 + rounds).map(|theta| world.play(&ways, theta)).collect()
}

#[test]
fn a_peer_that_falls_silent_is_not_waited_for_as_long_as_the_charter_allows() {
    let silent = Way { merges: None, ..HONEST };
    for seen in after_honest_rounds([silent, HONEST, HONEST, HONEST], 3) {
        assert!(seen.closed && seen.merged.len() == PEERS);
        // twice what a quorum needs, and what clocks may be apart
        assert!(seen.checking < 2 * 4_200 + 2_000, "{} ms", seen.checking);
    }
}

#[test]
fn who_refuses_everything_or_posts_another_root_does_not_void_rounds_of_a_slow_peer() {
    let liar = Way {
        refuses_all: true,
        other_root: true,
        merges: Some(900),
        ..HONEST
    };
    let slow = Way {
        slower: 20_000,
        merges: Some(30_000),
        ..HONEST
    };
    for at in 0..PEERS {
        let mut ways = [HONEST, HONEST, HONEST, HONEST];
        ways[at] = liar.clone();
        ways[(at + 1) % PEERS] = slow.clone();
        for (round, seen) in after_honest_rounds(ways, 12).into_iter().enumerate() {
            assert!(seen.closed, "liar {at}, round {round}");
            let honest = seen.merged.iter().filter(|who| **who != at).count();
            assert_eq!(honest, 3, "liar {at}, round {round}");
        }
    }
}

#[test]
fn a_withheld_blob_delays_and_does_nothing_else() {
    let withholds = Way {
        travels: None,
        ..HONEST
    };
    for (round, seen) in after_honest_rounds([HONEST, HONEST, withholds, HONEST], 20)
        .into_iter()
        .enumerate()
    {
        assert!(seen.closed, "round {round}");
        assert_eq!(seen.merged, [0, 1, 3], "round {round}");
        assert!(seen.checking < 10_000, "round {round}: {} ms", seen.checking);
    }
}

#[test]
fn who_serves_as_slowly_as_it_may_does_not_stretch_rounds() {
    let mut world = world();
    let mut slow = HONEST;
    for round in 0..50 {
        let seen = world.play(&[HONEST, slow.clone(), HONEST, HONEST], round);
        assert!(seen.closed && seen.merged.len() >= 3, "round {round}");
        if round > 4 {
            assert!(seen.checking < 10_000, "round {round}: {} ms", seen.checking);
        }
        // a little slower as long as it is waited for
        let waited = seen.merged.len() == PEERS;
        slow.travels = slow
            .travels
            .map(|travels| if waited { travels + travels / 10 } else { 4_000 });
    }
}

#[test]
fn revealing_late_gains_nothing() {
    for reveals in [2_000, 6_000, 19_000] {
        let late = Way {
            reveals,
            travels: Some(0),
            ..HONEST
        };
        for (round, seen) in after_honest_rounds([late, HONEST, HONEST, HONEST], 16)
            .into_iter()
            .enumerate()
        {
            assert!(seen.closed, "{reveals} ms, round {round}");
            assert!(
                seen.merged.ends_with(&[1, 2, 3]),
                "{reveals} ms, round {round}: {:?}",
                seen.merged
            );
        }
    }
}

#[test]
fn when_links_get_slower_no_round_is_void_and_limits_follow() {
    let slower = Way {
        travels: Some(25_000),
        ..HONEST
    };
    let ways = [slower.clone(), slower.clone(), slower.clone(), slower];
    for (round, seen) in after_honest_rounds(ways, 10).into_iter().enumerate() {
        assert_eq!((seen.closed, seen.merged.len()), (true, PEERS), "round {round}");
        assert!((24_000..30_000).contains(&seen.checking), "{} ms", seen.checking);
    }
}
