//! The trainer's thread: what it makes of orders that interrupt it.

use atoll_host::{
    blobs::Blobs,
    folder::Folder,
    found::{Plan, begin, corpus_of},
    replayer::{Replayer, Task, ToDoAgain, ToScore},
    trainer::{Order, Parts, Report, Trainer, Training},
};
use atoll_learner::data::{Dataset, Tokenizer};
use atoll_ledger::{Assigned, Case, Roots, Scoring, Stage, Terms, Work, Worked, assign::Share};
use atoll_node::Input;
use atoll_outer::{OuterState, again::Material, attack::Liar, theta_bytes};
use atoll_protocol::{
    Audit, Charter, Finding, Hash, Keypair, Layout, LossChange, Nano, PeerId, Round, Score,
    charter::{Codec, Member, Overlap},
    transaction::Reveal,
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool, mpsc},
    thread::JoinHandle,
};
use tempfile::TempDir;
use tokio::{
    runtime::{Handle, Runtime},
    sync::{mpsc as channel, oneshot},
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
    outer: OuterState,
    blobs: Blobs,
    dataset: Arc<Dataset>,
    _place: TempDir,
}

fn start(runtime: &Runtime, overlap: Overlap) -> Driven {
    start_under(runtime, overlap, Audit::NONE, None)
}

/// A run with its corpus.
fn start_under(runtime: &Runtime, overlap: Overlap, audit: Audit, liar: Option<Liar>) -> Driven {
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
    plan.audit = audit;
    let founded = begin(plan, &corpus_of(texts), members).unwrap();
    let charter = Arc::new(founded.charter);
    let blob = |hash: &Hash| {
        let found = founded.blobs.iter().find(|(bytes, _)| Hash::of_blob(bytes) == *hash);
        found.map(|(bytes, _)| bytes.clone())
    };
    let tokenizer = Tokenizer::from_bytes(&blob(&charter.model.tokenizer).unwrap()).unwrap();
    let dataset = Dataset::open(&blob(&charter.data.manifest).unwrap(), |hash| blob(hash));
    let dataset = Arc::new(dataset.unwrap());
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
        blobs: blobs.clone(),
        dataset: dataset.clone(),
        tokenizer,
        theta: (outer.clone(), roots),
        liar,
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
        outer,
        blobs,
        dataset,
        _place: place,
    }
}

impl Driven {
    fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    /// How a round is trained.
    fn assigned(&self, round: u32) -> Assigned {
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
        Assigned { share, terms }
    }

    /// Orders a round; `stopped` before its first step.
    fn train(&self, round: u32, stopped: bool) {
        self.train_after(None, round, stopped);
    }

    fn train_after(&self, standing: Option<&Work>, round: u32, stopped: bool) {
        let Assigned { share, terms } = self.assigned(round);
        self.order(Order::Train(Training {
            round: Round(round),
            share,
            terms,
            kib_micros: 0,
            standing: standing.cloned().map(Box::new),
            stop: Arc::new(AtomicBool::new(stopped)),
        }));
    }

    /// A contribution as the ledger has it; nothing is merged in these tests.
    fn work(&self, reveal: &Reveal) -> Work {
        Work {
            reveal: reveal.clone(),
            base: self.theta.1,
            assigned: Some(self.assigned(reveal.trained.0)),
            merged: false,
        }
    }

    /// What comes out when `last` is made again, `before` being the one before.
    fn again(&self, runtime: &Runtime, last: Work, before: Option<Work>) -> Finding {
        let read = |hash: &Hash| runtime.block_on(self.blobs.read(hash)).unwrap();
        let opening = Some(last.reveal.states.opening).filter(|opening| *opening != Hash::ZERO);
        let (told, mut inputs) = channel::unbounded_channel();
        let replayer = self.replayer(told);
        let (tasks, waiting) = mpsc::channel();
        let thread = replayer.spawn("replayer", waiting).unwrap();
        let worked = Worked {
            last: last.clone(),
            before: before.clone(),
        };
        let (closing, asked) = oneshot::channel();
        let task = ToDoAgain {
            author: key(1),
            case: Case {
                worked: worked.clone(),
                since: Round(0),
                verifier: key(2),
                passed: None,
                silent: None,
                accusation: None,
                jury: Vec::new(),
                findings: BTreeMap::new(),
            },
            material: Material {
                opening: opening.map(|opening| read(&opening)),
                base: self.outer.clone(),
                before: before.map(|work| read(&work.reveal.blob)),
                before_base: Some(self.outer.clone()),
            },
            sent: read(&last.reveal.blob),
            closing,
        };
        tasks.send(Task::Again(Box::new(task))).unwrap();
        drop(tasks);
        if let Ok(answer) = asked.blocking_recv() {
            let state = runtime.block_on(self.blobs.read(&last.reveal.states.closing));
            answer.send(state.ok()).unwrap();
        }
        let finding = inputs.blocking_recv();
        thread.join().unwrap();
        match finding {
            Some(Input::Replayed { finding, .. }) => finding,
            other => panic!("{other:?}"),
        }
    }

    /// What a contribution in the place of `work` does to the loss.
    fn score(&self, work: &Work, sent: Bytes) -> LossChange {
        let (told, mut inputs) = channel::unbounded_channel();
        let replayer = self.replayer(told);
        let (tasks, waiting) = mpsc::channel();
        let thread = replayer.spawn("replayer", waiting).unwrap();
        let task = ToScore {
            author: key(1),
            case: Scoring {
                reveal: work.reveal.clone(),
                base: work.base,
                share: work.assigned.clone().unwrap().share,
                codec: work.assigned.clone().unwrap().terms.codec,
                beacon: Hash([9; 32]),
                since: Round(0),
                stage: Stage::First,
                asked: vec![key(2)],
                scores: BTreeMap::new(),
            },
            sent,
            theta: theta_bytes(&self.outer.theta).into(),
            turn: None,
        };
        tasks.send(Task::Score(Box::new(task))).unwrap();
        drop(tasks);
        let scored = inputs.blocking_recv();
        thread.join().unwrap();
        match scored {
            Some(Input::Scored {
                change: Some(change), ..
            }) => change,
            other => panic!("{other:?}"),
        }
    }

    fn replayer(&self, inputs: channel::UnboundedSender<Input>) -> Replayer {
        Replayer {
            charter: self.charter.clone(),
            layout: Arc::new(Layout::of(&self.charter.model)),
            dataset: self.dataset.clone(),
            inputs,
            stop: Arc::default(),
        }
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

fn everything() -> Audit {
    Audit {
        share: Nano::ONE,
        ..Audit::NONE
    }
}

/// Two rounds of a trainer, the second with steps ahead where the charter has it so.
fn two_rounds(runtime: &Runtime, overlap: Overlap, liar: Option<Liar>) -> (Driven, Work, Work) {
    let mut driven = start_under(runtime, overlap, everything(), liar);
    driven.train(0, false);
    let first = driven.contribution(0);
    let first = driven.work(&first);
    if overlap != Overlap::None {
        driven.goes_ahead();
    }
    driven.train_after(Some(&first), 1, false);
    let second = driven.contribution(1);
    assert_eq!(second.states.opening, first.reveal.states.closing);
    assert_eq!(second.ahead.is_some(), overlap != Overlap::None);
    let second = driven.work(&second);
    (driven, first, second)
}

#[test]
fn what_is_made_again_is_the_same_to_the_bit() {
    let runtime = Runtime::new().unwrap();
    for overlap in [Overlap::None, Overlap::Steps, Overlap::Eager, Overlap::Round] {
        let (driven, first, second) = two_rounds(&runtime, overlap, None);
        assert_eq!(
            driven.again(&runtime, first.clone(), None),
            Finding::Same,
            "{overlap:?}"
        );
        assert_eq!(
            driven.again(&runtime, second.clone(), Some(first.clone())),
            Finding::Same,
            "{overlap:?}"
        );
        // whoever says that the first was merged has another error feedback
        let merged = Work { merged: true, ..first };
        let other = driven.again(&runtime, second, Some(merged));
        assert!(
            matches!(other, Finding::Apart { billionths } if billionths > 10_000_000),
            "{other:?}"
        );
        driven.ends();
    }
}

#[test]
fn who_lies_about_its_work_is_far_from_what_comes_out() {
    let runtime = Runtime::new().unwrap();
    for liar in [
        Liar::SignFlip,
        Liar::Lazy,
        Liar::LabelFlip,
        Liar::Gaussian,
        Liar::Resend,
    ] {
        let (driven, first, second) = two_rounds(&runtime, Overlap::None, Some(liar));
        let found = driven.again(&runtime, second, Some(first));
        assert!(
            matches!(found, Finding::Apart { billionths } if billionths > 50_000_000),
            "{liar:?}: {found:?}"
        );
        driven.ends();
    }
}

/// What is trained on turned rows raises the loss on the others'; what is honest lowers it, and most on its own rows.
/// (A flipped sign would not do here: from θ⁰ a long way lowers the loss in either direction.)
#[test]
fn what_helps_and_what_harms_can_be_told_apart() {
    let runtime = Runtime::new().unwrap();
    let [honest, turned] = [None, Some(Liar::LabelFlip)].map(|liar| {
        let mut driven = start_under(&runtime, Overlap::None, Audit::NONE, liar);
        driven.train(0, false);
        let first = driven.contribution(0);
        let blob = runtime.block_on(driven.blobs.read(&first.blob)).unwrap();
        let change = driven.score(&driven.work(&first), blob);
        driven.ends();
        change
    });
    assert!(honest.own < honest.random && honest.random < -5_000, "{honest}");
    assert!(turned.own > 5_000 && turned.random > 5_000, "{turned}");
    assert!(Score::NONE.is_harm(turned) && !Score::NONE.is_harm(honest));
}

#[test]
fn a_state_that_is_not_the_one_named_is_seen() {
    let runtime = Runtime::new().unwrap();
    let (driven, first, mut second) = two_rounds(&runtime, Overlap::None, None);
    let closing = second.reveal.states.closing;
    second.reveal.states.closing = first.reveal.states.closing;
    let other = driven.again(&runtime, second.clone(), Some(first.clone()));
    assert!(
        matches!(other, Finding::Apart { billionths } if billionths > 50_000_000),
        "{other:?}"
    );
    second.reveal.states.closing = Hash([7; 32]); // nobody has that
    assert_eq!(
        driven.again(&runtime, second.clone(), Some(first.clone())),
        Finding::Missing
    );
    second.reveal.states.closing = closing;
    second.reveal.ahead = Some(atoll_protocol::transaction::Ahead {
        from: atoll_protocol::transaction::AheadFrom::Own,
        steps: atoll_protocol::InnerSteps(3),
    });
    let impossible = driven.again(&runtime, second, Some(first));
    assert_eq!(impossible, Finding::Apart { billionths: u64::MAX });
    driven.ends();
}

#[test]
fn what_was_never_revealed_is_dropped() {
    let runtime = Runtime::new().unwrap();
    let mut driven = start_under(&runtime, Overlap::None, everything(), None);
    driven.train(0, false);
    let first = driven.contribution(0);
    let first = driven.work(&first);
    driven.train_after(Some(&first), 1, false);
    let late = driven.contribution(1); // the ledger never hears of it
    driven.train_after(Some(&first), 2, false);
    let next = driven.contribution(2);
    assert_eq!(next.states.opening, first.reveal.states.closing);
    assert_ne!(late.states.closing, next.states.closing);
    let next = driven.work(&next);
    assert_eq!(driven.again(&runtime, next, Some(first)), Finding::Same);
    driven.ends();
}
