//! Training ahead: where it starts from, and where it comes back to.

use atoll_outer::{
    Contribution, ErrorFeedback, Input, Merging, OuterRule, OuterState, Replica, TakenBack, encode,
    replica::{merged, take_back},
    robust::judge::Candidate,
};
use atoll_protocol::{
    Charter, Hash, InnerSteps, Layout, Nano, PeerId, Round, Tokens,
    charter::{Codec, OuterOptimizer},
    robust::Weighing,
    tiny_charter,
    transaction::AheadFrom,
};

const REPLICAS: u8 = 4;

fn charter(outer: &OuterOptimizer) -> Charter {
    Charter {
        outer: outer.clone(),
        ..tiny_charter((0..REPLICAS).map(|i| (format!("r{i}"), PeerId([i; 32]))))
    }
}

fn replica(outer: OuterOptimizer) -> Replica {
    let charter = charter(&outer);
    let layout = Layout::of(&charter.model);
    let theta = (0..layout.parameters).map(|i| (i % 97) as f32 / 64.0).collect();
    let state = OuterState::new(theta, &charter.outer);
    let roots = state.roots();
    let feedback = ErrorFeedback::new(layout.parameters);
    Replica::new(charter.into(), layout.into(), (state, roots), feedback, None)
}

fn layout(replica: &Replica) -> Layout {
    let layout = Layout::of(&tiny_charter([]).model);
    assert_eq!(layout.parameters, replica.theta().len());
    layout
}

/// w of a replica whose round moves every element by as much, the more the longer it is.
fn local(replica: &Replica, steps: InnerSteps) -> Vec<f32> {
    let moved = |(i, theta): (usize, &f32)| theta - (i % 5) as f32 * steps.0 as f32 / 256.0;
    replica.theta().iter().enumerate().map(moved).collect()
}

fn contribution(replica: &mut Replica, local: &[f32]) -> Contribution {
    let (layout, base) = (layout(replica), replica.roots().0);
    let blob = replica.contribute(local, &Codec::Dense, None).unwrap().blob;
    Contribution::read(blob, &layout, &Codec::Dense, &base).unwrap()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn where_all_do_the_same_in_every_round_what_is_expected_comes() {
    let lr = Nano(700_000_000);
    let nesterov = |warmup| OuterOptimizer::Nesterov {
        lr,
        momentum: Nano(800_000_000),
        warmup,
    };
    for outer in [OuterOptimizer::Sgd { lr }, nesterov(0), nesterov(3)] {
        let mut replica = replica(outer.clone());
        for round in 0..8 {
            let (round, steps) = (Round(round), InnerSteps(if round < 5 { 4 } else { 2 }));
            let rule = OuterRule::of(&charter(&outer), outer.momentum_in(round), steps);
            let local = local(&replica, steps);
            let contribution = contribution(&mut replica, &local);
            let of = (round, rule, REPLICAS.into());
            let ahead = replica.go_ahead(AheadFrom::Eager, &local, &contribution, of).unwrap();
            let all: Vec<_> = (0..REPLICAS)
                .map(|i| Input {
                    peer: PeerId([i; 32]),
                    tokens: Tokens(1),
                    candidate: Candidate {
                        replica: i.into(),
                        order: i.into(),
                    },
                    contribution: &contribution,
                })
                .collect();
            let merged = replica.merged(&all, None, rule).unwrap().state;
            let off = apart(ahead.start(), &merged.theta);
            assert!(off < 1e-5, "{outer:?}, round {round}: {off}");
            assert!(apart(&merged.theta, replica.theta()) > 1e-3);
            let roots = merged.roots();
            replica.put_beside(merged, roots);
            replica.advance(roots).unwrap();
        }
    }
}

/// The contributions of a round that has the number `round`, each of its own direction; those of `who` alone.
fn contributions(layout: &Layout, round: u8, who: &[u8]) -> Vec<(u8, Contribution)> {
    let of = |i: &u8| {
        let value = |at: usize| ((at * (3 + usize::from(*i)) + usize::from(round)) % 17) as f32 / 64.0 - 0.125;
        let values: Vec<f32> = (0..layout.parameters).map(value).collect();
        let blob = encode(&values, &Codec::Dense, layout, &Hash::ZERO).unwrap();
        (
            *i,
            Contribution::read(blob, layout, &Codec::Dense, &Hash::ZERO).unwrap(),
        )
    };
    who.iter().map(of).collect()
}

fn inputs(contributions: &[(u8, Contribution)]) -> Vec<Input<'_>> {
    let mut inputs = Vec::new();
    for (i, contribution) in contributions {
        let (replica, order) = (u16::from(*i), u32::from(*i));
        inputs.push(Input {
            peer: PeerId([*i; 32]),
            tokens: Tokens(1),
            candidate: Candidate { replica, order },
            contribution,
        });
    }
    inputs
}

#[test]
fn who_is_taken_out_of_a_round_was_never_in_it() {
    let outer = OuterOptimizer::Nesterov {
        lr: Nano(700_000_000),
        momentum: Nano(800_000_000),
        warmup: 0,
    };
    let mut charter = charter(&outer);
    charter.robust.rule = Weighing::GeometricMedian;
    charter.robust.clip = true;
    let layout = Layout::of(&charter.model);
    let rule = |steps| OuterRule::of(&charter, outer.momentum_in(Round(0)), InnerSteps(steps));
    let merging = |steps| Merging {
        layout: &layout,
        robust: &charter.robust,
        usual_norm_micro: None,
        rule: rule(steps),
    };
    let all: Vec<u8> = (0..5).collect();
    let run = |first: &[u8]| {
        let mut state = OuterState::new(vec![0.5; layout.parameters], &outer);
        for (round, steps) in [4, 2, 4].into_iter().enumerate() {
            let who = if round == 0 { first } else { &all };
            let sent = contributions(&layout, round as u8, who);
            state = merged(&state, &inputs(&sent), merging(steps)).unwrap().state;
        }
        state
    };
    let (with, sent) = (run(&all), contributions(&layout, 0, &all));
    for culprits in [&[1u8][..], &[0, 4]] {
        let peers: Vec<PeerId> = culprits.iter().map(|i| PeerId([*i; 32])).collect();
        let left: Vec<u8> = all.iter().filter(|i| !culprits.contains(i)).copied().collect();
        let taken = TakenBack {
            inputs: &inputs(&sent),
            peers: &peers,
            merging: merging(4),
            since: &[rule(2), rule(4)],
        };
        let (back, without) = (take_back(&with, taken).unwrap(), run(&left));
        assert!(apart(&back.theta, &without.theta) < 1e-5);
        assert!(apart(&back.momentum.unwrap(), &without.momentum.unwrap()) < 1e-5);
        assert!(apart(&with.theta, &without.theta) > 1e-3, "it makes a difference");
    }
}

#[test]
fn what_was_done_ahead_is_added_to_the_theta_that_came() {
    let outer = OuterOptimizer::Sgd { lr: Nano::ONE };
    let rule = OuterRule::of(&charter(&outer), None, InnerSteps(4));
    let mut replica = replica(outer);
    let local = local(&replica, InnerSteps(4));
    let contribution = contribution(&mut replica, &local);
    let of = (Round(0), rule, REPLICAS.into());
    let theta = replica.theta().to_vec();
    for (from, start) in [(AheadFrom::Own, &local), (AheadFrom::Theta, &theta)] {
        let ahead = replica.go_ahead(from, &local, &contribution, of).unwrap();
        assert_eq!(ahead.start(), start);
        let further: Vec<f32> = start.iter().map(|w| w + 0.25).collect();
        let begin = replica.come_back(&ahead, &further).unwrap();
        assert!(apart(&begin, &theta.iter().map(|theta| theta + 0.25).collect::<Vec<_>>()) < 1e-6);
        assert!(replica.come_back(&ahead, &further[1..]).is_err());
        assert!(replica.come_back(&ahead, &vec![f32::NAN; further.len()]).is_err());
    }
}
