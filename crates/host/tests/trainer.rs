//! The trainer's thread: what it makes of orders that interrupt it.

use atoll_host::{
    blobs::Blobs,
    folder::Folder,
    found::{Plan, begin, corpus_of},
    trainer::{Order, Parts, Report, Trainer, Training},
};
use atoll_learner::data::{Dataset, Tokenizer};
use atoll_ledger::{Roots, Terms, assign::Share};
use atoll_outer::{OuterState, theta_bytes};
use atoll_protocol::{
    Charter, Hash, Keypair, Nano, PeerId, Round,
    charter::{Codec, Member, Overlap},
    transaction::Reveal,
};
use bytes::Bytes;
use std::{
    sync::{Arc, atomic::AtomicBool, mpsc},
    thread::JoinHandle,
};
use tempfile::TempDir;
use tokio::{
    runtime::{Handle, Runtime},
    sync::mpsc as channel,
};

/// Steps of a round: so many that an order comes before all are taken ahead.
const STEPS: u32 = 200;

fn key(number: u8) -> PeerId {
    Keypair::from_seed(&[number; 32]).peer()
}

/// A trainer of member 1, and what it was given.
struct Driven {
    orders: mpsc::Sender<Order>,
    reports: channel::UnboundedReceiver<Report>,
    thread: JoinHandle<()>,
    charter: Arc<Charter>,
    theta: (Bytes, Roots),
    _place: TempDir,
}

/// A run with its corpus.
fn start(runtime: &Runtime, overlap: Overlap) -> Driven {
    let texts = (0..20).map(|part| {
        let line = |n: u32| format!("Line {n} of {part} says {}.\n", n * 7919 % 1000);
        (format!("{part:02}.txt"), (0..60).map(line).collect::<String>())
    });
    let mut members: Vec<Member> = [1, 2]
        .map(|number| Member {
            name: format!("m{number}"),
            key: key(number),
        })
        .into();
    members.sort_by_key(|member| member.key);
    let mut plan = Plan {
        vocab_max: 280,
        ..Plan::small("trainer", 4, STEPS)
    };
    (
        plan.model.width,
        plan.model.layers,
        plan.model.head_width,
        plan.model.ffn,
    ) = (32, 1, 8, 64);
    (plan.round.batch, plan.round.sequence, plan.round.held_out) = (1, 16, 1);
    plan.round.overlap = overlap;
    let founded = begin(plan, &corpus_of(texts), members).unwrap();
    let charter = Arc::new(founded.charter);
    let blob = |hash: &Hash| {
        let found = founded.blobs.iter().find(|(bytes, _)| Hash::of_blob(bytes) == *hash);
        found.map(|(bytes, _)| bytes.clone())
    };
    let tokenizer = Tokenizer::from_bytes(&blob(&charter.model.tokenizer).unwrap()).unwrap();
    let dataset = Dataset::open(&blob(&charter.data.manifest).unwrap(), |hash| blob(hash)).unwrap();
    let outer = OuterState::new(atoll_learner::init(&charter.model, charter.seed), &charter.outer);
    let (theta, momentum) = outer.roots();
    let roots = Roots { theta, momentum };
    let bytes = Bytes::from(theta_bytes(&outer.theta));

    let place = tempfile::tempdir().unwrap();
    let folder = Folder::at(place.path());
    let blobs = runtime.block_on(Blobs::open(&folder)).unwrap();
    let parts = Parts {
        charter: charter.clone(),
        me: key(1),
        folder,
        blobs,
        dataset,
        tokenizer,
        theta: (outer, roots),
        liar: None,
    };
    let (told, reports) = channel::unbounded_channel();
    let (orders, queue) = mpsc::channel();
    let handle: Handle = runtime.handle().clone();
    let thread = Trainer::new(parts, handle, told).unwrap().spawn(queue).unwrap();
    Driven {
        orders,
        reports,
        thread,
        charter,
        theta: (bytes, roots),
        _place: place,
    }
}

impl Driven {
    fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    /// Orders a round; `stopped` before its first step.
    fn train(&self, round: u32, stopped: bool) {
        let mut terms = Terms::first(&self.charter);
        terms.first_step = u64::from(round * STEPS);
        // θ does not move in these tests: with another codec a round is trained, not sent again
        terms.codec = match round % 2 {
            0 => Codec::Dense,
            _ => Codec::Int8 { feedback: Nano::ONE },
        };
        let share = Share {
            beacon: Hash([round as u8 + 1; 32]),
            replica: 0,
            replicas: 2,
        };
        self.order(Order::Train(Training {
            round: Round(round),
            share,
            terms,
            kib_micros: 0,
            stop: Arc::new(AtomicBool::new(stopped)),
        }));
    }

    /// Waits for a report of which `found` makes something.
    fn wait<T>(&mut self, found: impl Fn(&Report) -> Option<T>) -> T {
        loop {
            let report = self.reports.blocking_recv().expect("the trainer goes on");
            if let Report::Failed(why) | Report::Skipped(_, why) = &report {
                panic!("{why}");
            }
            if let Some(found) = found(&report) {
                return found;
            }
        }
    }

    /// The contribution to a round, which was trained for it.
    fn contribution(&mut self, round: u32) -> Reveal {
        self.wait(|report| match report {
            Report::Trained(done) if done.trained == Round(round) => Some(done.clone()),
            _ => None,
        })
    }

    /// Waits until two steps were taken ahead.
    fn goes_ahead(&mut self) {
        self.wait(|report| {
            matches!(
                report,
                Report::Step {
                    ahead: true,
                    step: 2,
                    ..
                }
            )
            .then_some(())
        });
    }

    fn ends(self) {
        drop(self.orders);
        self.thread.join().unwrap();
    }
}

#[test]
fn steps_ahead_that_come_to_nothing_leave_the_moments_as_they_were() {
    let runtime = Runtime::new().unwrap();
    let mut plain = start(&runtime, Overlap::None);
    plain.train(0, false);
    plain.contribution(0);
    plain.train(1, false);
    let expected = plain.contribution(1).blob;
    plain.ends();

    type Interruption = fn(&Driven);
    let table: [(&str, Interruption); 2] = [
        ("the round is abandoned", |driven| driven.train(1, true)),
        ("θ is adopted", |driven| {
            driven.order(Order::Adopt(driven.theta.1, driven.theta.0.clone(), None));
        }),
    ];
    for (what, interrupt) in table {
        let mut driven = start(&runtime, Overlap::Steps);
        driven.train(0, false);
        driven.contribution(0);
        driven.goes_ahead();
        interrupt(&driven);
        driven.train(1, false);
        assert_eq!(driven.contribution(1).blob, expected, "{what}");
        driven.ends();
    }
}

#[test]
fn steps_ahead_belong_to_the_next_round() {
    let runtime = Runtime::new().unwrap();
    let mut driven = start(&runtime, Overlap::Steps);
    driven.train(0, false);
    driven.contribution(0);
    driven.goes_ahead();
    driven.train(1, false);
    let ahead = driven.contribution(1).ahead;
    assert!(ahead.is_some_and(|ahead| ahead.steps.0 >= 2), "{ahead:?}");
    driven.ends();
}
